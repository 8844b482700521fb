"""Trials that end before they have said anything; what they would measure is a fake."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.tune import registry

from services.audit.checkpoints import Candidate
from services.audit.trials import SCRATCH, Listener, run_trials
from services.sweep.cluster import cluster

ROOT = Path(__file__).parents[3]


@ray.remote(num_cpus=0)
class FakePool:
    """Has no jobs."""

    def state(self) -> dict[str, Any]:
        return {"jobs": []}


@dataclass
class FakeEngines:
    """What trials are lent."""

    held: Any

    def pool(self) -> Any:
        return self.held


@dataclass
class FakeTrial:
    """Ends at once, but for a checkpoint that kills its process and one that begins and takes for ever."""

    name: str
    out: Path
    engines: FakeEngines

    def __call__(self, config: dict[str, Any]) -> None:
        if config["checkpoint"] == "deadly":
            os._exit(1)
        if config["checkpoint"] == "endless":
            (self.out / "begun").touch()
            time.sleep(600)
        tune.report({"certain": True})


@pytest.fixture(scope="module")
def engines() -> Iterator[FakeEngines]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        with cluster("local"):
            yield FakeEngines(FakePool.remote())


def candidates(tmp_path: Path, *names: str) -> list[Candidate]:
    return [Candidate(name, str(tmp_path / name)) for name in names]


def test_a_process_that_dies_again_and_again_is_told_of_beside_what_went_well(
    engines: FakeEngines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.audit.trials.MOST_FAILURES", 1)
    one, deadly, other = candidates(tmp_path, "one", "deadly", "other")
    settled: list[int] = []
    listener = Listener(settled.append, lambda: False)
    trial: Any = FakeTrial("mine", tmp_path / "out", engines)
    failed = run_trials(trial, [one, deadly, other], 2, listener)
    assert list(failed) == [deadly]
    assert sum(settled) == 3


def test_one_that_is_cancelled_before_its_first_look_has_not_failed(
    engines: FakeEngines, tmp_path: Path
) -> None:
    listener = Listener(lambda _: None, (tmp_path / "out" / "begun").exists)
    trial: Any = FakeTrial("other", tmp_path / "out", engines)
    assert run_trials(trial, candidates(tmp_path, "endless"), 1, listener) == {}
    assert not (tmp_path / "out" / SCRATCH).exists()


def test_audits_that_begin_together_do_not_disturb_each_other(
    engines: FakeEngines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune's list of functions is no thread's own: here it takes its time to write it."""
    put = registry._internal_kv_put

    def slowly(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.5)
        return put(*arguments, **options)

    monkeypatch.setattr(registry, "_internal_kv_put", slowly)

    def audit(name: str) -> dict[Candidate, Exception]:
        trial: Any = FakeTrial(name, tmp_path / name, engines)
        return run_trials(trial, candidates(tmp_path, "one"), 1, Listener(lambda _: None, lambda: False))

    with ThreadPoolExecutor(3) as beside:
        assert list(beside.map(audit, ["one", "two", "three"])) == [{}, {}, {}]

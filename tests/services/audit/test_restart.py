"""What an audit does again, and what it does not: its trials are fakes, named as such."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services.audit.audit import Audit, AuditCancelled
from services.audit.checkpoints import AuditError, Candidate
from services.audit.trials import Listener, Trial
from services.sweep.coordinator import FolderBusyError, lease_of
from tests.services.audit.test_leaderboard import measured, policy
from visage_core.checkpoints import CheckpointError
from visage_core.policy import Policy


@dataclass
class FakeEngines:
    """Engines of which there are none. `deaths` of their pool are found when the dead are buried."""

    deaths: int = 0
    _pool: object = field(default_factory=object)

    def lend(self, plan: None) -> FakeEngines:
        return FakeEngines(_pool=self._pool)

    def pool(self) -> object:
        return self._pool

    def bury(self) -> None:
        if self.deaths:
            self.deaths -= 1
            self._pool = object()

    def state(self) -> dict[str, int]:
        return {"engine_starts": 1}


@dataclass
class Fakes:
    """Measures each checkpoint at once, and notes what it was asked for; those in `fails` never succeed."""

    engines: FakeEngines = field(default_factory=FakeEngines)
    asked: list[list[str]] = field(default_factory=list)
    fails: dict[str, int] = field(default_factory=dict)
    bad: dict[str, Exception] = field(default_factory=dict)
    after: Callable[[str], object] = lambda _: None

    def sizes_of(self, asked: Policy, model: str, *_: object) -> list[int]:
        if Path(model).name in self.bad:
            raise self.bad[Path(model).name]
        return [20]

    def is_as_measured(self, *_: object) -> bool:
        return True

    @contextmanager
    def open_engines(self, spec: object, address: str) -> Iterator[FakeEngines]:
        yield self.engines

    def run_trials(
        self, trial: Trial, candidates: list[Candidate], most: int, listener: Listener
    ) -> dict[Candidate, Exception]:
        self.asked.append([one.name for one in candidates])
        failed: dict[Candidate, Exception] = {}
        for one in candidates:
            if listener.cancelled():
                break
            if self.fails.get(one.name, 0):
                self.fails[one.name] -= 1
                failed[one] = RuntimeError("Traceback\nthe process died")
            else:
                measured(trial.out, trial.policy, one.model, 3)
            listener.told(1)
            self.after(one.name)
        return failed


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    found = Fakes()
    for name in ("sizes_of", "is_as_measured", "open_engines", "run_trials"):
        monkeypatch.setattr(f"services.audit.audit.{name}", getattr(found, name))
    return found


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    folders = [tmp_path / f"checkpoint-{step}" for step in (1, 2, 3)]
    for folder in folders:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
    return [str(folder) for folder in folders]


def audit(out: Path, models: list[str], asked: Policy | None = None, **options: Any) -> dict[str, Any]:
    return Audit(asked or policy(), None, out, **options).of(models)


def test_what_is_decided_is_not_measured_again(fakes: Fakes, models: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    audit(out, models[:2])
    document = audit(out, models)
    assert fakes.asked == [["checkpoint-1", "checkpoint-2"], ["checkpoint-3"]]
    assert len(document["checkpoints"]) == 3
    audit(out, models)
    assert len(fakes.asked) == 2


def test_a_killed_audit_goes_on_with_what_is_left(fakes: Fakes, models: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"

    def killed(name: str) -> None:
        if name == "checkpoint-2":
            raise SystemExit

    fakes.after = killed
    with pytest.raises(SystemExit):
        audit(out, models)
    fakes.after = lambda _: None
    document = audit(out, models)
    assert fakes.asked == [[f"checkpoint-{step}" for step in (1, 2, 3)], ["checkpoint-3"]]
    assert len(document["checkpoints"]) == 3
    whole = audit(tmp_path / "other", models)
    assert document["checkpoints"] == whole["checkpoints"]


def test_other_rules_are_decided_anew_and_another_landscape_is_another_audit(
    fakes: Fakes, models: list[str], tmp_path: Path
) -> None:
    out, asked = tmp_path / "out", policy()
    audit(out, models)
    rule = asked.rules[0].model_copy(update={"at_most": 10.0})
    audit(out, models, asked.model_copy(update={"rules": (rule,)}))
    assert len(fakes.asked[1]) == 3
    other = asked.model_copy(update={"landscape": asked.landscape | {"prompts": {"limit": 10}}})
    with pytest.raises(AuditError, match=r"holds another audit: landscape\.prompts"):
        audit(out, models, other)


def test_a_checkpoint_that_has_changed_is_asked_about_again(
    fakes: Fakes, models: list[str], tmp_path: Path
) -> None:
    audit(tmp_path / "out", models)
    (Path(models[1]) / "model.safetensors").write_bytes(b"others")
    audit(tmp_path / "out", models)
    assert fakes.asked[1] == ["checkpoint-2"]


def test_a_broken_checkpoint_harms_none_and_is_tried_again(
    fakes: Fakes, models: list[str], tmp_path: Path
) -> None:
    fakes.bad["checkpoint-2"] = CheckpointError("model", "a shard is damaged", "Copy it again")
    done: list[tuple[int, int]] = []
    document = audit(tmp_path / "out", models, told=lambda *now: done.append(now))
    assert fakes.asked == [["checkpoint-1", "checkpoint-3"]]
    assert done == [(1, 3), (2, 3), (3, 3)]
    last = document["checkpoints"][-1]
    assert (last["checkpoint"], last["verdict"]) == ("checkpoint-2", None)
    assert last["error"]["problem"] == "a shard is damaged"
    fakes.bad.clear()
    document = audit(tmp_path / "out", models)
    assert fakes.asked[1] == ["checkpoint-2"]
    assert all(row["error"] is None for row in document["checkpoints"])


def test_where_all_are_broken_no_engine_starts(fakes: Fakes, models: list[str], tmp_path: Path) -> None:
    fakes.bad = {Path(one).name: CheckpointError("model", "damaged", "Copy it") for one in models}
    document = audit(tmp_path / "out", models)
    assert fakes.asked == []
    assert [bool(row["error"]) for row in document["checkpoints"]] == [True] * 3


def test_what_is_wrong_with_the_policy_is_no_checkpoints_fault(
    fakes: Fakes, models: list[str], tmp_path: Path
) -> None:
    fakes.bad = {Path(one).name: AuditError("prompts.source", "nowhere", "Give a file") for one in models}
    with pytest.raises(AuditError, match=r"prompts\.source"):
        audit(tmp_path / "out", models)
    fakes.bad.clear()
    mended = policy().model_copy(update={"landscape": policy().landscape | {"prompts": {"limit": 10}}})
    assert audit(tmp_path / "out", models, mended)


def test_a_trial_that_fails_for_good_is_reported(fakes: Fakes, models: list[str], tmp_path: Path) -> None:
    fakes.fails = {"checkpoint-1": 100}
    document = audit(tmp_path / "out", models)
    assert len(fakes.asked) == 1
    [row] = [row for row in document["checkpoints"] if row["error"]]
    assert row["checkpoint"] == "checkpoint-1"
    assert "the process died" in row["error"]["problem"]


def test_where_the_engines_died_their_trials_are_made_again(
    fakes: Fakes, models: list[str], tmp_path: Path
) -> None:
    fakes.engines.deaths, fakes.fails = 1, {"checkpoint-1": 1, "checkpoint-3": 1}
    document = audit(tmp_path / "out", models)
    assert fakes.asked[1] == ["checkpoint-1", "checkpoint-3"]
    assert all(row["error"] is None for row in document["checkpoints"])


def test_a_cancelled_audit_has_no_leaderboard_and_may_go_on(
    fakes: Fakes, models: list[str], tmp_path: Path
) -> None:
    """On engines that are others' too: it starts none, and ends none."""
    out = tmp_path / "out"
    fakes.open_engines = None  # type: ignore[assignment]
    one = Audit(policy(), None, out, engines=fakes.engines)  # type: ignore[arg-type]
    fakes.after = lambda name: one.cancel() if name == "checkpoint-2" else None
    with pytest.raises(AuditCancelled):
        one.of(models)
    assert not (out / "leaderboard.json").exists()
    document = audit(out, models, engines=fakes.engines)
    assert fakes.asked[1] == ["checkpoint-3"]
    assert len(document["checkpoints"]) == 3


def test_one_audit_at_a_time_in_a_folder(
    fakes: Fakes, models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.audit.audit.LEASE_SECONDS", 0.1)
    with lease_of(tmp_path / "out"), pytest.raises(FolderBusyError, match="another audit is at work"):
        audit(tmp_path / "out", models)


def test_ctrl_c_ends_a_watch_as_if_these_were_all(
    fakes: Fakes, models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.audit.watch import Watcher

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("services.audit.audit.time.sleep", interrupted)
    monkeypatch.setattr("services.audit.watch.is_whole", lambda path: path.name != "checkpoint-3")
    document = Audit(policy(), None, tmp_path / "out").watch([], Watcher(tmp_path, settle=0))
    assert [row["checkpoint"] for row in document["checkpoints"]] == ["checkpoint-1", "checkpoint-2"]
    assert document["incomplete"] == [models[2]]
    assert document == json.loads((tmp_path / "out" / "leaderboard.json").read_text(encoding="utf-8"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(KeyboardInterrupt):
        Audit(policy(), None, tmp_path / "none").watch([], Watcher(empty, settle=0))

"""Whatever is killed, at random moments and many times, no finished point is lost and none is there twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from services.sweep.coordinator import DONE
from tests.services.fake_engines import ROOT, SPEC, FakeEngines, expect_whole, fake_engines, run_of
from visage_core.results import Results

KILLS = 50


@pytest.fixture
def engines() -> Iterator[FakeEngines]:
    with fake_engines() as made:
        yield made


def test_random_kills_of_coordinator_pool_and_workers(
    engines: FakeEngines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.sweep.run.LIVES", 1000)
    spec = {"axis": {"points": 601, "direction": {"kind": "random", "seeds": [0]}}}
    run = run_of(tmp_path / "out", engines.of(2), spec=spec, seconds=0.05)
    run._lives = 1000
    over = threading.Event()
    kills: list[str] = []
    thread = threading.Thread(target=kill_at_random, args=(run, kills, over))
    thread.start()
    durable: set[Any] = set()
    try:
        for progress in run:
            now = Results(tmp_path / "out").done()
            assert durable <= now, "a finished point was lost"
            durable = now
            assert progress.failed == 0
    finally:
        over.set()
        thread.join()
    assert progress.state == DONE
    assert len(kills) == KILLS
    assert {"worker", "coordinator", "pool"} <= set(kills)
    expect_whole(tmp_path / "out", spec)


def kill_at_random(run: Any, kills: list[str], over: threading.Event) -> None:
    """Kill processes of a run, until there are enough kills or the run is over."""
    chance = random.Random(1)
    while len(kills) < KILLS and not over.wait(chance.uniform(0.05, 0.6)):
        what = chance.choice(["worker", "worker", "coordinator", "pool"])
        try:
            if what == "worker":
                pool = run.engines.pool()
                while not (workers := ray.get(pool.workers.remote())) and not over.wait(0.1):
                    pass  # a new pool is still hiring
                ray.kill(chance.choice(workers))
            else:
                ray.kill(run._coordinator if what == "coordinator" else run.engines.pool())
            kills.append(what)
        except (ValueError, IndexError, ray.exceptions.RayError):
            continue


def test_a_driver_that_is_killed_again_and_again(engines: FakeEngines, tmp_path: Path) -> None:
    chance = random.Random(7)
    out = tmp_path / "out"
    spec = {**SPEC, "resources": {"workers": 2, "cores": 1}}
    address = engines.cluster.address
    command = [sys.executable, "-m", "tests.services.fake_run", address, str(out), json.dumps(spec)]
    environment = os.environ | {"VISAGE_FAKE_SECONDS": "0.1"}
    for _ in range(3):
        before = Results(out).done()
        driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
        assert driver.stdout is not None
        # Let it get a little further each time, and kill it anywhere after that.
        while True:
            line = driver.stdout.readline()
            if not line or int(line) > len(before) + 2:
                break
        time.sleep(chance.uniform(0, 0.3))
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        assert before <= Results(out).done()
        if not line:
            break
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expect_whole(out)

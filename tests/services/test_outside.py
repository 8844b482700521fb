"""`ray://`: a driver on a machine that is not of the cluster."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from services.sweep.coordinator import DONE, claim, lease_of
from services.sweep.engines import Engines
from services.sweep.pool import WorkerResources
from services.sweep.run import Run
from tests.checkpoints import write_checkpoint
from tests.conftest import free_port
from tests.services.fake_engines import ROOT, SPEC, expect_whole, point_of
from tests.services.fakes import fake_plan
from visage_core.grid import Point
from visage_core.results import Results, ResultsError


def wait_for_port(port: int) -> None:
    for _ in range(300):
        with socket.socket() as found:
            if found.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(port)


def finish_times(folder: Path) -> dict[Point, Any]:
    return {point_of(row): row["finished_at"] for row in Results(folder).points().to_pylist()}


def test_a_folder_of_another_landscape_is_refused_before_the_cluster_is_asked(tmp_path: Path) -> None:
    none = Engines(1, WorkerResources(1))
    one, other = (fake_plan(judges=judge) for judge in ("keyword-paper", "keyword-modern"))
    claim(Results(tmp_path), one, lease_of(tmp_path), 1)
    with pytest.raises(ResultsError, match="holds another landscape"):
        next(iter(Run(other, tmp_path, none, outside=True)))


def test_a_process_outside_the_cluster_has_its_results_at_home(tmp_path: Path) -> None:
    """Through Ray's client: the model goes there, finished points come here, and nothing is left there."""
    model = write_checkpoint(tmp_path / "model", {"w": torch.ones(5)})
    spec = {**SPEC, "resources": {"workers": 2, "cores": 1}, "model": str(model)}
    there = tmp_path / "cache-of-the-cluster"
    port = free_port()
    environment = os.environ | {"VISAGE_CACHE": str(there), "VISAGE_FAKE_SECONDS": "0.1"}
    ray = Path(sys.executable).with_name("ray")
    start = [ray, "start", "--head", "--block", "--port", str(free_port()), "--num-cpus", "2"]
    start += ["--include-dashboard", "false", "--ray-client-server-port", str(port)]
    head = subprocess.Popen(start, env=environment, stdout=subprocess.DEVNULL)
    wait_for_port(port)
    try:
        out = tmp_path / "out"
        address = f"ray://127.0.0.1:{port}"
        command = [sys.executable, "-m", "tests.services.fake_run", address, str(out), json.dumps(spec)]
        # Ray makes a token for the head; a client sends it only where it is told to.
        environment |= {"RAY_AUTH_MODE": "token"}
        driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
        assert driver.stdout is not None
        while int(driver.stdout.readline() or 99) < 10:
            pass
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        kept = finish_times(out)
        assert len(kept) >= 10, "no finished point came home before the end"
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240
        )
        assert done.returncode == 0, done.stderr
        expect_whole(out)
        assert kept.items() <= finish_times(out).items(), "finished points were measured again"
        assert json.loads((out / "summary.json").read_text())["run"]["state"] == DONE
        assert not list(there.glob("jobs/*/**/*.parquet"))
        assert [path.name for path in there.glob("models/*/*.safetensors")] == ["model.safetensors"]
    finally:
        head.terminate()  # its processes end with it
        head.wait(60)

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

import torch

from services.sweep.coordinator import DONE
from tests.checkpoints import write_checkpoint
from tests.conftest import free_port
from tests.services.fake_engines import ROOT, SPEC, expect_whole
from visage_core.results import Results


def wait_for_port(port: int) -> None:
    for _ in range(300):
        with socket.socket() as found:
            if found.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(port)


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
        kept = Results(out).done()
        assert kept, "no finished point came home before the end"
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240
        )
        assert done.returncode == 0, done.stderr
        expect_whole(out)
        before = (out / "points.parquet").read_bytes()
        again = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert again.returncode == 0, again.stderr
        assert (out / "points.parquet").read_bytes() == before, "finished points were measured again"
        other = [*command[:-1], json.dumps({**spec, "judges": "keyword-modern"})]
        refused = subprocess.run(
            other, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert "holds another landscape" in refused.stderr
        assert json.loads((out / "summary.json").read_text())["run"]["state"] == DONE
        assert not list(there.glob("jobs/*/**/*.parquet"))
        assert [path.name for path in there.glob("models/*/*.safetensors")] == ["model.safetensors"]
    finally:
        head.terminate()  # its processes end with it
        head.wait(60)

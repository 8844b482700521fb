"""An adaptive sweep through a real coordinator and pool: real Ray, fake workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.sweep.coordinator import DONE
from services.sweep.report import load_landscapes, write_figures
from tests.services.fake_engines import ROOT, FakeEngines, fake_engines, finish, run_of
from visage_core.results import Results

SPEC: dict[str, Any] = {
    "prompts": 20,
    "axis": {"points": 161, "direction": {"kind": "random", "seeds": [0, 1]}},
    "resources": {"workers": 2, "cores": 1},
    "adaptive": True,
}


@pytest.fixture(scope="module")
def engines() -> Iterator[FakeEngines]:
    with fake_engines() as made:
        yield made


def run(out: Path, engines: FakeEngines, spec: dict[str, Any]) -> dict[str, Any]:
    assert finish(run_of(out, engines.of(2), spec)).state == DONE
    return dict(json.loads((out / "summary.json").read_text(encoding="utf-8"))["landscapes"][0])


@pytest.fixture(scope="module")
def adaptive(engines: FakeEngines, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "adaptive"
    run(folder, engines, SPEC)
    return folder


def test_it_finds_the_edges_of_the_whole_grid_from_fewer_points(
    adaptive: Path, engines: FakeEngines, tmp_path: Path
) -> None:
    found = json.loads((adaptive / "summary.json").read_text(encoding="utf-8"))["landscapes"][0]
    whole = run(tmp_path / "whole", engines, SPEC | {"adaptive": False})
    for name in ("basin_width", "basin_radius"):
        assert found[name]["value"] == whole[name]["value"]
        widths = [one[name]["high"] - one[name]["low"] for one in (found, whole)]
        assert widths[0] == pytest.approx(widths[1], rel=0.25)
    assert [one["basin"] for one in found["directions"]] == [one["basin"] for one in whole["directions"]]
    assert found["points"]["measured"] + found["points"]["saved"] == whole["points"]["measured"]
    assert found["points"]["measured"] < whole["points"]["measured"] / 5
    assert found["visage"] is None
    assert whole["visage"] is not None
    write_figures(adaptive)
    assert (adaptive / "landscape.png").stat().st_size > 10_000


def test_killed_in_the_middle_it_goes_on_and_measures_nothing_twice(
    adaptive: Path, engines: FakeEngines, tmp_path: Path
) -> None:
    """What is killed has a cluster of its own."""
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.services.fake_run", "local", str(out), json.dumps(SPEC)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "VISAGE_FAKE_SECONDS": "0.3"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(Results(out).points()) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(Results(out).points())
    run(out, engines, SPEC)
    assert 0 < kept < len(load_landscapes(out)[0].rows)
    places = [(row["seed"], row["alpha"]) for row in Results(out).points().to_pylist()]
    assert len(set(places)) == len(places)
    assert load_landscapes(out)[0].rows.keys() == load_landscapes(adaptive)[0].rows.keys()

"""An adaptive sweep through a real coordinator and pool: real Ray, a fake worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from services.sweep.report import load_landscapes, write_figures
from visage_core.results import Results

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("all_cores")
SPEC: dict[str, Any] = {
    "prompts": 20,
    "axis": {"points": 161, "direction": {"kind": "random", "seeds": [0, 1]}},
    "resources": {"workers": 2, "cores": 1},
    "adaptive": True,
}


def begin(out: Path, spec: dict[str, Any], seconds: float = 0.02) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.services.fake_run", "local", str(out), json.dumps(spec)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "VISAGE_FAKE_SECONDS": str(seconds)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def run(out: Path, spec: dict[str, Any]) -> dict[str, Any]:
    assert begin(out, spec).wait(timeout=240) == 0
    return dict(json.loads((out / "summary.json").read_text(encoding="utf-8"))["landscapes"][0])


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "adaptive"
    run(folder, SPEC)
    return folder


def test_it_finds_the_edges_of_the_whole_grid_from_fewer_points(adaptive: Path, tmp_path: Path) -> None:
    found = json.loads((adaptive / "summary.json").read_text(encoding="utf-8"))["landscapes"][0]
    whole = run(tmp_path / "whole", SPEC | {"adaptive": False})
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


def test_killed_in_the_middle_it_goes_on_and_measures_nothing_twice(adaptive: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    process = begin(out, SPEC, seconds=0.3)
    deadline = time.monotonic() + 120
    while len(Results(out).points()) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(Results(out).points())
    run(out, SPEC)
    assert 0 < kept < len(load_landscapes(out)[0].rows)
    places = [(row["seed"], row["alpha"]) for row in Results(out).points().to_pylist()]
    assert len(set(places)) == len(places)
    assert load_landscapes(out)[0].rows.keys() == load_landscapes(adaptive)[0].rows.keys()

"""`visage bench scaling`: what a second worker brings, on a machine of two cores or more."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from services.bench import Figure, Report
from services.demo.model import demo_model
from services.sweep.plan import versions
from services.sweep.run import open_runs
from visage_core.spec import parse_spec

POINTS, PROMPTS, MAX_TOKENS = 17, 80, 64


def bench_scaling() -> Report:
    """The same landscape with one worker of one core, and with two."""
    model = demo_model("aligned")
    one, two = (_points_a_second(model, workers) for workers in (1, 2))
    return Report(
        "scaling",
        [
            Figure("two one-core workers over one", two / one, "x", 1.8, at_least=True),
            Figure("points an hour, one worker", 3600 * one, ""),
            Figure("points an hour, two workers", 3600 * two, ""),
        ],
        versions(),
    )


def _points_a_second(model: Path, workers: int) -> float:
    """From the moment at which every worker has measured its first point: until then engines start."""
    document = {
        "model": str(model),
        "axis": {"direction": {"kind": "random", "seeds": [0]}, "points": POINTS},
        "prompts": {"limit": PROMPTS},
        "generation": {"max_tokens": MAX_TOKENS},
        "engine": {"max_model_len": 512},
        "resources": {"workers": workers, "cores": 1},
    }
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder, open_runs([parse_spec(document)], [Path(folder)]) as (run,):
        for progress in run:
            while len(times) < progress.done:
                times.append(time.perf_counter())
    begun = 2 * workers  # engines start at about the same time, and the first points warm them up
    return (len(times) - begun) / (times[-1] - times[begun - 1])

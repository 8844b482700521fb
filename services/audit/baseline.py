"""The baseline of an audit: measured once, for all checkpoints to be compared with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from services.gate.evidence import BASELINE
from services.sweep.cluster import this_node
from services.sweep.engines import Engines
from services.sweep.plan import make_plan
from services.sweep.report import load_landscapes
from services.sweep.run import Run
from visage_core.join import join_points
from visage_core.landscape import Landscape
from visage_core.policy import Policy
from visage_core.results import Results

LENT = ("spec.json", "inputs.json", "geometry.json", "run.json", "points.parquet", "responses.parquet")


def measure_baseline(
    policy: Policy, model: str, out: Path, engines: Engines, sizes: list[int], told: Callable[[], object]
) -> None:
    """Measure all parts of the prompts of the baseline into an audit's folder; what is there is kept. `told`
    hears of each step. Raises an InputError."""
    for look in range(1, policy.looks + 1):
        spec = policy.spec(model) if policy.looks == 1 else policy.part(model, look, sizes)
        plan = make_plan(spec, workers_here=0).on_node(this_node())
        run = Run(plan, part_of(policy, out / BASELINE, look), engines, name=f"audit-baseline-{look}")
        for _ in run:
            told()


def lend_baseline(policy: Policy, out: Path, folder: Path, look: int) -> None:
    """Give the gate in a folder what is measured of the baseline for a look, so that it has nothing left to
    measure of it. Gates write into their folders, so that each has a copy, which is small."""
    source, target = (part_of(policy, where / BASELINE, look) for where in (out, folder))
    if target.exists() or not source.exists():
        return
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in LENT:
        if (source / name).exists():
            shutil.copyfile(source / name, partial / name)
    partial.rename(target)  # whole or not at all


def landscapes_until(
    policy: Policy, folder: Path, model: str, look: int, sizes: list[int]
) -> list[Landscape]:
    """The landscapes of a model, one a prompt set, by the prompts of a look and those before it. Raises
    ResultsError."""
    if policy.looks == 1:
        return load_landscapes(folder)
    spec = policy.until(model, look, sizes)
    parts = [Results(part_of(policy, folder, number)).points() for number in range(1, look + 1)]
    table = join_points(spec, parts)
    return [Landscape(spec, table, number) for number in range(len(spec.prompts))]


def part_of(policy: Policy, folder: Path, look: int) -> Path:
    """Where a gate has what it measures for a look, in its folder of a model."""
    return folder if policy.looks == 1 else folder / f"part-{look}"

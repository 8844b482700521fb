"""The baseline of an audit: measured once, for all checkpoints to be compared with."""

from __future__ import annotations

import shutil
from pathlib import Path

from services.gate.evidence import BASELINE
from services.gate.gate import part_of
from services.sweep.report import load_landscapes
from visage_core.join import join_points
from visage_core.landscape import Landscape
from visage_core.policy import Policy
from visage_core.results import Results

LENT = ("spec.json", "inputs.json", "geometry.json", "run.json", "points.parquet", "responses.parquet")


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

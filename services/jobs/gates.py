"""How far a gate is, from the progress of the landscapes that it measures and from its looks."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from services.gate.gate import Look
from services.jobs.tables import JobRow
from services.sweep.coordinator import Progress
from visage_core.metrics import Interval
from visage_core.policy import Finding


class Tally:
    """What is known of a gate under way. One that goes on begins with its last look before."""

    def __init__(self, row: JobRow) -> None:
        self._row = row
        self._runs: dict[tuple[int, str], Progress] = {}
        before = row.progress or {}
        self._looked = {name: before.get(name) for name in ("look", "verdict", "findings")}
        self._stage = 0

    def measured(self, name: str, progress: Progress) -> None:
        """Take in how far a model's landscape is, in the stage before the next look."""
        self._runs[self._stage, name] = progress

    def looked(self, look: Look) -> None:
        """Take in a look: the next landscapes are of another stage."""
        self._stage = look.number
        self._looked = {
            "look": {name: getattr(look, name) for name in ("number", "of", "responses", "planned")},
            "verdict": look.decision.verdict,
            "findings": [_finding(one) for one in look.decision.findings],
        }

    @property
    def done(self) -> int:
        """How many points are finished. What was counted once stays so, though a gate that goes on does not
        tell of its stages before again."""
        return max(self._row.done, sum(one.done for one in self._runs.values()))

    def document(self) -> dict[str, Any]:
        """The gate's progress as the table has it."""
        runs = self._runs.values()
        return {
            "points": self._row.points,
            "done": self.done,
            "failed": sum(one.failed for one in runs),
            "worker_seconds": round(sum(one.worker_seconds for one in runs), 3),
            "tokens": sum(one.tokens for one in runs),
            **self._looked,
        }


def _finding(found: Finding) -> dict[str, Any]:
    return asdict(found) | {"value": found.value and _numbers(found.value)}


def _numbers(value: Interval) -> dict[str, float | None]:
    """An interval in JSON, which has no number for an end that is open."""
    return {name: one if math.isfinite(one) else None for name, one in asdict(value).items()}

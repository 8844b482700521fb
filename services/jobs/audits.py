"""How far an audit is, from the outcomes and the finished points in its folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.audit.checkpoints import FOLDER
from services.gate.evidence import BASELINE, MODEL
from services.gate.gate import part_of
from services.jobs.tables import JobRow
from services.sweep.coordinator import DONE, WORKING
from visage_core.policy import Policy
from visage_core.results import Results

BROKEN = "broken"
VERDICTS = ("pass", "fail", "inconclusive", BROKEN)


@dataclass(frozen=True)
class _Counts:
    """Of a landscape: its finished points, those given up, and what it took."""

    done: int = 0
    failed: int = 0
    tokens: int = 0
    worker_seconds: float = 0.0


class AuditTally:
    """What is known of an audit under way. The processes of its gates are others: their files tell."""

    def __init__(self, row: JobRow, policy: Policy, folder: Path) -> None:
        self._row, self._policy, self._folder = row, policy, folder
        self._over: dict[Path, _Counts] = {}  # of landscapes that are finished
        self._known: list[_Counts] = []
        self._settled = 0

    def count(self, settled: int) -> None:
        """Look at what is finished by now, when so many checkpoints are done with."""
        self._settled = settled
        models = [self._folder / BASELINE, *(self._folder / FOLDER).glob(f"*/{MODEL}")]
        parts = [part_of(self._policy, one, look) for one in models for look in self._looks]
        self._known = [self._counts(part) for part in parts if part.is_dir()]

    def _counts(self, folder: Path) -> _Counts:
        if folder not in self._over:
            results = Results(folder)
            run = results.read_json("run.json") or {"state": WORKING, "failed": []}
            totals = {name: run[name] for name in ("tokens", "worker_seconds") if name in run}
            found = _Counts(len(results.done()), len(run["failed"]), **totals)
            if run["state"] != DONE or run["failed"]:
                return found  # it may go on
            self._over[folder] = found
        return self._over[folder]

    @property
    def _looks(self) -> range:
        return range(1, self._policy.looks + 1)

    @property
    def done(self) -> int:
        """How many points are finished. What was counted once stays so."""
        return max(self._row.done, sum(one.done for one in self._known))

    def document(self, leaderboard: dict[str, Any] | None = None) -> dict[str, Any]:
        """The audit's progress as the table has it, with how many checkpoints have which verdict once there
        is a leaderboard."""
        verdicts = None
        if leaderboard is not None:
            rows = leaderboard["checkpoints"]
            found = Counter(BROKEN if row["error"] is not None else row["verdict"] for row in rows)
            verdicts = {name: found[name] for name in VERDICTS}
        return {
            "points": self._row.points,
            "done": self.done,
            "failed": sum(one.failed for one in self._known),
            "worker_seconds": round(sum(one.worker_seconds for one in self._known), 3),
            "tokens": sum(one.tokens for one in self._known),
            "settled": self._settled,
            "verdicts": verdicts,
        }

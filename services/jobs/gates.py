"""How far a gate is, from the progress of the landscapes that it measures and from its looks."""

from __future__ import annotations

from typing import Any

from services.gate.evidence import findings_of
from services.gate.gate import Look
from services.jobs.tables import JobRow
from services.sweep.coordinator import Progress
from visage_core.policy import Policy, level_of


class Tally:
    """What is known of a gate under way. One that goes on begins with its last look before."""

    def __init__(self, row: JobRow, policy: Policy) -> None:
        self._row = row
        self._rules = {str(rule): rule for rule in policy.rules}
        self._runs: dict[tuple[int, str], Progress] = {}
        self._looks = 0
        before = row.progress or {}
        self._looked = {name: before.get(name) for name in ("look", "verdict", "findings")}

    def measured(self, name: str, progress: Progress) -> None:
        """Take in how far the landscape of a model is, in the prompts for the next look."""
        self._runs[self._looks, name] = progress

    def looked(self, look: Look) -> None:
        """Take in a look."""
        self._looks = look.number
        numbers = {name: getattr(look, name) for name in ("number", "of", "responses", "planned")}
        self._looked = {
            "look": numbers | {"level": level_of(look.number, look.of)},
            "verdict": look.decision.verdict,
            "findings": [
                one | self._rules[one["rule"]].model_dump(include={"at_least", "at_most", "reason"})
                for one in findings_of(look.decision)
            ],
        }

    @property
    def done(self) -> int:
        """How many points are finished. A gate that goes on tells of its looks before one after another: what
        was counted once stays so."""
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

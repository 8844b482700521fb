"""What became of a checkpoint, in its folder: durable, so that an audit goes on after whatever ends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.audit.checkpoints import Candidate
from services.audit.watch import listing
from services.gate.gate import Look
from services.gate.infrastructure import is_infrastructure
from visage_core.errors import InputError
from visage_core.policy import Policy
from visage_core.results import Results

OUTCOME = "outcome.json"


def write_outcome(
    out: Path,
    candidate: Candidate,
    policy: Policy,
    baseline: str | None,
    sizes: list[int],
    look: Look,
    lost: str | None,
) -> None:
    """Write what a checkpoint's last look says, whose decision and reports are written. `lost` is the rule
    that cannot hold any more, where that ended it."""
    Results(candidate.folder(out)).write_json(
        OUTCOME,
        _asked(policy, baseline, candidate)
        | {
            "verdict": look.decision.verdict,
            "look": look.number,
            "sizes": sizes,
            "responses": look.responses,
            "planned": look.planned,
            "lost": lost,
            "error": None,
        },
    )


def write_error(
    out: Path, candidate: Candidate, policy: Policy, baseline: str | None, error: InputError
) -> None:
    """Write why a checkpoint could not be measured. The next audit tries it again."""
    Results(candidate.folder(out)).write_json(
        OUTCOME,
        _asked(policy, baseline, candidate)
        | {
            "error": {
                "field": error.field,
                "problem": error.problem,
                "remedy": error.remedy,
                "infrastructure": is_infrastructure(error),
            }
        },
    )


def read_outcome(out: Path, candidate: Candidate) -> dict[str, Any] | None:
    """What became of a checkpoint, None where that is not known yet."""
    return Results(candidate.folder(out)).read_json(OUTCOME)


def is_settled(out: Path, candidate: Candidate, policy: Policy, baseline: str | None) -> bool:
    """Whether a checkpoint, its files as they are now, has a decision by this very policy."""
    found = read_outcome(out, candidate)
    if found is None or found["error"] is not None:
        return False
    return all(found[name] == value for name, value in _asked(policy, baseline, candidate).items())


def _asked(policy: Policy, baseline: str | None, candidate: Candidate) -> dict[str, Any]:
    return {
        "model": candidate.model,
        "files": listing(Path(candidate.model)),
        "policy": policy.model_dump(mode="json"),
        "baseline": baseline,
    }

"""What became of a checkpoint, in its folder: durable, so that an audit goes on after whatever ends it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.audit.checkpoints import Candidate
from services.audit.watch import listing
from services.gate.evidence import MODEL
from services.gate.gate import Look
from services.gate.infrastructure import is_infrastructure
from services.sweep.files import model_found
from services.sweep.inputs import (
    INPUTS,
    RENDERED,
    Inputs,
    changes,
    is_complete,
    require_fresh,
    require_unchanged,
)
from services.sweep.plan import inputs_of
from visage_core.errors import InputError
from visage_core.policy import Policy, recorded_policy
from visage_core.results import Results
from visage_core.spec import LandscapeSpec

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
            "state": _state(candidate),
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
    asked = _asked(policy, baseline, candidate)
    same = all(found[name] == asked[name] for name in ("model", "files", "baseline"))
    return same and _is_same_policy(found["policy"], policy)


def is_as_measured(
    out: Path, candidate: Candidate, policy: Policy, resolve: Callable[[LandscapeSpec], LandscapeSpec]
) -> bool:
    """Whether the files of a checkpoint are those that its decision is about. Raises ChangedError where it
    was made with other prompts, judges or files than there are now, or is older than the policy allows, and
    an InputError where one of them is gone."""
    outcome, folder = read_outcome(out, candidate), candidate.folder(out) / MODEL
    before = Results(folder).read_json(INPUTS)
    if outcome is None or before is None:
        return False
    # To read the weights of all checkpoints takes long: they are the same where their files look the same.
    with_model = not Path(candidate.model).is_dir() or outcome.get("state") != _state(candidate)
    spec = resolve(policy.until(candidate.model, outcome["look"], outcome["sizes"]))
    now = inputs_of(spec, with_model)
    if with_model and changes(_of_model(before), _of_model(now)):
        return False
    require_unchanged(str(folder), before, now, leave_out=("model",))
    require_fresh(str(folder), before, policy.max_age_days)
    return True


def _of_model(inputs: Inputs) -> Inputs:
    """Nothing but the model's own files."""
    sha256 = {RENDERED: None} if is_complete(inputs) else {}
    return {"files": {"model": inputs.get("files", {}).get("model", {})}, "sha256": sha256}


def _is_same_policy(document: Any, policy: Policy) -> bool:
    """Whether a policy that was written down, maybe before some of its fields were known, is another."""
    try:
        return recorded_policy(document) == policy
    except InputError:
        return False


def _state(candidate: Candidate) -> list[Any]:
    """What changes when a file of a checkpoint does that may change what it does, as JSON has it."""
    folder = Path(candidate.model)
    return [[name, list(state)] for name, state in model_found(folder).state()] if folder.is_dir() else []


def _asked(policy: Policy, baseline: str | None, candidate: Candidate) -> dict[str, Any]:
    return {
        "model": candidate.model,
        "files": listing(Path(candidate.model)),
        "policy": policy.model_dump(mode="json"),
        "baseline": baseline,
    }

"""What results depend on besides their spec, as inputs.json has it, and how two such documents differ.

`sha256` has a digest of the model, of each set of prompts as text and as tokens, of each judge, and of what
directions are made from; `files`, the digest of every file of a model or a direction. `frames` is what the
model's chat template puts around the prompts of each set, and `begun` is when the first point was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from visage_core.errors import InputError
from visage_core.results import Results
from visage_core.spec import differences

Inputs = Mapping[str, Any]
INPUTS, BEGUN, CHANGED = "inputs.json", "begun", "changed"
PROMPTS, RENDERED = "prompts", "rendered"
# What the model's chat template puts around the prompts of each set.
FRAMES = "frames"
# What follows from the digests, and is written down for those who read it.
DERIVED = ("architecture", "repeats", FRAMES)
# How the names of those files begin that were recorded of a tokenizer before all that are read were.
FORMER = ("tokenizer", "special_tokens", "generation_config", "vocab", "merges", "chat_template")
# Clocks of two machines are never quite the same.
SKEW = timedelta(minutes=5)


class ChangedError(InputError):
    """Something that is measured by is not what it was."""


def changes(before: Inputs, now: Inputs, leave_out: Collection[str] = ()) -> list[str]:
    """Say in words how what results depended on differs from what they would depend on now, a line each.

    Documents of earlier versions have fewer digests: what they lack is not known to differ. `leave_out` names
    models, directions and digests that are not compared.
    """
    one, other = before.get("sha256", {}), now.get("sha256", {})
    known = _files(before, leave_out)
    lines = _file_changes(known, _files(now, leave_out), is_complete(before) and is_complete(now))
    # What has its files compared one by one, and digests that are made of these alone.
    for name in sorted((one.keys() | other.keys()) - {*leave_out, *known}):
        if name == RENDERED and (name not in one or name not in other):
            continue
        lines += _digest_changes(name, one.get(name), other.get(name), known)
    special = {"sha256", "files", BEGUN, CHANGED, *DERIVED}
    return lines + differences(_but(before, special), _but(now, special))


def require_unchanged(
    where: str, before: Inputs, now: Inputs, field: str = "out", leave_out: Collection[str] = ()
) -> None:
    """Raise ChangedError where what was measured with in a folder is not what there is now, or was changed
    while it was measured."""
    if found := before.get(CHANGED):
        raise ChangedError(
            field,
            f"{where} was measured while its files changed ({', '.join(found)})",
            "Measure again, into another folder",
        )
    if lines := changes(before, now, leave_out):
        raise ChangedError(
            field,
            f"{where} was measured with something else: {'; '.join(lines)}",
            "Put back what was measured with, or measure again into another folder",
        )


def require_fresh(where: str, inputs: Inputs, max_age_days: float | None, field: str = "out") -> None:
    """Raise ChangedError where what was measured is older than a policy allows."""
    if max_age_days is not None and (problem := age_problem(inputs.get(BEGUN), max_age_days)):
        raise ChangedError(field, f"{where}: its measurement {problem}", "Measure again, into another folder")


def age_problem(time: Any, max_age_days: float) -> str | None:
    """Say what is wrong with the age of something, by the time that it has written down; None where it is not
    too old. A time that is missing, no time, or in the future is wrong too."""
    try:
        since = datetime.fromisoformat(str(time))
        age = datetime.now(UTC) - since
    except (ValueError, TypeError):
        return f"does not say when it was made, and the policy allows {max_age_days:g} days"
    if age < -SKEW:
        return f"is of {time}, which by this machine's clock is in the future"
    if age > timedelta(days=max_age_days):
        return f"is of {time}, {age / timedelta(days=1):.1f} days ago, and the policy allows {max_age_days:g}"
    return None


def unlike(one: Inputs, other: Inputs, leave_out: Collection[str] = ()) -> list[str]:
    """Say in words what landscapes that are compared should have in common and do not: the prompts, the
    judges, and all that directions are made of. Models may have chat templates of their own."""
    return changes(_shared(one), _shared(other), leave_out)


def _shared(inputs: Inputs) -> dict[str, Any]:
    def common(document: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in document.items()
            if name not in ("model", RENDERED) and not name.startswith("trajectory")
        }

    return {
        "sha256": common(inputs.get("sha256", {})),
        "files": common(inputs.get("files", {})),
        "random_directions": inputs.get("random_directions"),
    }


def mark_changed(folder: Path, names: Sequence[str]) -> None:
    """Note in a results folder that files changed while it was measured: its points are of no use."""
    inputs = Results(folder).read_json(INPUTS)
    if inputs is not None:
        Results(folder).write_json(INPUTS, inputs | {CHANGED: list(names)})


def is_complete(inputs: Inputs) -> bool:
    """Whether all files of the models are in it, and not only those that earlier versions recorded."""
    return RENDERED in inputs.get("sha256", {})


def former(name: str) -> bool:
    """Whether earlier versions, too, would have recorded a file of a model that they did not load."""
    return name.startswith(FORMER)


def _files(inputs: Inputs, leave_out: Collection[str]) -> dict[str, dict[str, str]]:
    return {name: files for name, files in inputs.get("files", {}).items() if name not in leave_out}


def _file_changes(
    before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]], complete: bool
) -> list[str]:
    lines = []
    for owner in sorted(before.keys() & now.keys()):
        one, other = before[owner], now[owner]
        for name in sorted(one.keys() | other.keys()):
            if name not in other:
                lines.append(f"{owner}: {name} is gone")
            elif name not in one:
                if complete or former(name):
                    lines.append(f"{owner}: {name} is new")
            elif one[name] != other[name]:
                lines.append(f"{owner}: {name} is another file")
    return lines


def _digest_changes(name: str, one: Any, other: Any, files: Collection[str]) -> list[str]:
    if one == other:
        return []
    if name in (PROMPTS, RENDERED) and isinstance(one, list) and isinstance(other, list):
        what = "the prompts" if name == PROMPTS else "the tokens that the chat template makes of the prompts"
        if len(one) != len(other):
            return [f"{what}: {len(one)} sets, now {len(other)}"]
        pairs = enumerate(zip(one, other, strict=True))
        return [f"prompts.{number}: {what} are others" for number, (a, b) in pairs if a != b]
    if name == "judges" and isinstance(one, dict) and isinstance(other, dict):
        both = [number for number in sorted(one.keys() & other.keys()) if f"judges.{number}" not in files]
        return [f"judges.{number}: it is another" for number in both if one[number] != other[number]]
    return [f"{name}: {json.dumps(one)} -> {json.dumps(other)}"]


def _but(document: Inputs, names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}

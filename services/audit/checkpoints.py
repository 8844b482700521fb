"""Which checkpoints an audit is about, and what they are called."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from visage_core.errors import InputError
from visage_core.results import Results

# A part of a checkpoint's name that counts steps, or epochs.
NUMBERED = r"(?:checkpoint|ckpt|(?:global[-_]?)?step|iter|iteration|epoch)[-_=]?\d+"
STEP = re.compile(
    r"(?<![a-z])(?:checkpoint|ckpt|(?:global[-_]?)?step|iter|iteration)[-_=]?(\d+)", re.IGNORECASE
)
EPOCH = re.compile(r"(?<![a-z])epoch[-_=]?(\d+)", re.IGNORECASE)
FOLDER = "checkpoints"
NAMED = "checkpoint.json"


class AuditError(InputError):
    """An audit that cannot be made."""


@dataclass(frozen=True)
class Candidate:
    """A checkpoint of an audit. `name` is its own there, and its folder's; `model` is as a spec has it."""

    name: str
    model: str

    @property
    def step(self) -> int | None:
        """The training step or epoch in its name, if any."""
        return step_of(self.model)

    def folder(self, out: Path) -> Path:
        """Where its gate measures, in an audit's folder."""
        return out / FOLDER / self.name


def step_of(model: str) -> int | None:
    """The training step in the last part of a model's name, or its epoch where it has no step; None where it
    has neither."""
    name = Path(model).name
    found = STEP.search(name) or EPOCH.search(name)
    return int(found[1]) if found else None


def gather(
    names: Iterable[str] = (),
    pattern: str | None = None,
    listing: Path | None = None,
    collection: str | None = None,
    *,
    here: bool = True,
) -> list[str]:
    """The models that are named, match a pattern, are lines of a file, or are in a collection on the hub:
    each once, in that order, and those of another machine as they are given. Raises AuditError."""
    found = list(names)
    if pattern is not None:
        found += _matching(pattern)
    if listing is not None:
        found += _lines(listing)
    if collection is not None:
        found += _in_collection(collection)
    return list(dict.fromkeys(map(whole_name, found) if here else found))


def whole_name(model: str) -> str:
    """A model's name that is the same from wherever it is given: the whole path of a folder that is here."""
    path = Path(model).expanduser()
    return str(path.resolve()) if path.exists() else model


def by_step(models: Iterable[str]) -> list[str]:
    """Models by their training step, those without one last."""

    def key(model: str) -> tuple[str, float, str]:
        step = step_of(model)
        return str(Path(model).parent), float("inf") if step is None else step, model

    return sorted(models, key=key)


def named(models: Iterable[str], out: Path) -> list[Candidate]:
    """The candidates that models are in an audit's folder. Whoever has a name there keeps it."""
    folders = sorted((out / FOLDER).glob(f"*/{NAMED}"))
    known = {}
    for path in folders:
        document = Results(path.parent).read_json(NAMED)
        if document is not None:
            known[str(document["model"])] = path.parent.name
    candidates = []
    for model in models:
        if model not in known:
            known[model] = _free_name(Path(model).name or "model", set(known.values()))
            Results(out / FOLDER / known[model]).write_json(NAMED, {"model": model})
        candidates.append(Candidate(known[model], model))
    return candidates


def _free_name(wanted: str, taken: set[str]) -> str:
    numbered = (f"{wanted}-{number}" for number in range(2, len(taken) + 3))
    return wanted if wanted not in taken else next(name for name in numbered if name not in taken)


def _matching(pattern: str) -> list[str]:
    found = [path for path in glob(str(Path(pattern).expanduser()), recursive=True) if Path(path).is_dir()]
    if not found:
        raise AuditError("glob", f"no folder matches {pattern!r}", "Quote it, and check it with ls")
    return by_step(found)


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise AuditError(
            "from-file", f"{path} cannot be read: {error}", "Give a text file of a model a line"
        ) from None
    return [line for line in lines if line and not line.startswith("#")]


def _in_collection(name: str) -> list[str]:
    from huggingface_hub import get_collection
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        items = get_collection(name).items
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise AuditError(
            "hub-collection",
            f"the hub does not give {name!r}: {(str(error).splitlines() or [type(error).__name__])[0]}",
            "Check the name, as it is in the collection's address; for a private one log in with "
            "`hf auth login`",
        ) from None
    models = [str(item.item_id) for item in items if item.item_type == "model"]
    if not models:
        raise AuditError("hub-collection", f"{name} holds no model", "Name a collection that does")
    return models

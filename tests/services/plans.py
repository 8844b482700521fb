"""Plans of real files without prompts, for tests of what the weights move along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.sweep.axes import Axes, Here
from services.sweep.files import Found, find_files
from services.sweep.nodes import Folder
from services.sweep.plan import Plan
from visage_core.checkpoints import Checkpoint
from visage_core.spec import parse_spec


def planned(model: Path, **spec: Any) -> Plan:
    """A plan of the spec with these fields."""
    parsed = parse_spec({"model": str(model), **spec})
    base = Checkpoint.open(model)
    return Plan(
        spec=parsed,
        model=folder_of(Found(model, tuple(base.files))),
        files={field: folder_of(found) for field, found in find_files(parsed, base).items()},
        prompts=[],
        queries=[],
        keywords={},
        judges={},
        inputs={},
        engine_key="",
    )


def folder_of(found: Found) -> Folder:
    """A folder with its digest."""
    return found.folder(found.digests())


def here(plan: Plan) -> Here:
    """A plan on this machine."""
    return Here(plan, Checkpoint.open(Path(plan.model.path)), lambda folder: Path(folder.path))


def axes(model: Path, **spec: Any) -> Axes:
    """What the axes of a spec move along, made here."""
    return here(planned(model, **spec)).axes()

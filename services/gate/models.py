"""The models of a gate, checked before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from services.gate.evidence import BASELINE, MODEL
from services.sweep.plan import Plan
from visage_core.checkpoints import Checkpoint, require_same_architecture
from visage_core.errors import InputError


def require_comparable(plans: Mapping[str, Plan]) -> None:
    """Raise CheckpointError where a gate's baseline has another architecture than its model."""
    if BASELINE in plans:
        model, baseline = (Checkpoint.open(Path(plans[which].model.path)) for which in (MODEL, BASELINE))
        require_same_architecture(model, baseline, BASELINE)


@contextmanager
def named(which: str) -> Iterator[None]:
    """Have errors in the model of a landscape name the model of the gate that it is."""
    try:
        yield
    except InputError as error:
        if error.field == MODEL != which:
            raise type(error)(which, error.problem, error.remedy) from None
        raise

"""The models of a gate, checked before anything is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from services.gate.evidence import BASELINE, MODEL
from services.sweep.plan import check, check_weights
from visage_core.checkpoints import require_same_architecture
from visage_core.errors import InputError
from visage_core.policy import Policy
from visage_core.spec import LandscapeSpec


def check_models(
    policy: Policy, models: Mapping[str, str], resolve: Callable[[LandscapeSpec], LandscapeSpec]
) -> list[int]:
    """Check the model and the baseline of a gate, and return how many prompts each set of the policy has.
    Raises an InputError that says what is wrong with which of them, and where they are not comparable."""
    found = {}
    for which, model in models.items():
        with named(which):
            spec = resolve(policy.spec(model))
            found[which] = check(spec)
            check_weights(spec, found[which])
    if BASELINE in found:
        require_same_architecture(found[MODEL].base, found[BASELINE].base, BASELINE)
    sizes = found[MODEL].sizes(policy.spec(models[MODEL]))
    policy.require_sizes(sizes)
    return sizes


@contextmanager
def named(which: str) -> Iterator[None]:
    """Have errors in the model of a landscape name the model of the gate that it is."""
    try:
        yield
    except InputError as error:
        if error.field == MODEL != which:
            raise type(error)(which, error.problem, error.remedy) from None
        raise

"""The kinds of jobs, their states, and which may follow which."""

from __future__ import annotations

from enum import StrEnum

from visage_core.errors import InputError


class Kind(StrEnum):
    """What a job is to tell."""

    LANDSCAPE = "landscape"
    GATE = "gate"  # the landscapes of a model and a baseline, and a policy's verdict on them


class State(StrEnum):
    """Where a job stands. The database, not the cluster, is the truth of it."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"  # asked to end; its workers may still be at it
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


FOLLOWS = {
    State.QUEUED: {State.RUNNING, State.CANCELLED, State.FAILED},
    # A job whose service died goes back to the queue and on from its durable points.
    State.RUNNING: {State.QUEUED, State.CANCELLING, State.DONE, State.CANCELLED, State.FAILED},
    State.CANCELLING: {State.CANCELLED, State.DONE, State.FAILED},
    State.DONE: set(),
    State.CANCELLED: set(),
    State.FAILED: set(),
}
OVER = {state for state, following in FOLLOWS.items() if not following}


class StateError(InputError):
    """A job cannot go from the state that it is in to the one asked for."""


def require_follows(before: State, after: State) -> None:
    """Raise StateError unless `after` may follow `before`."""
    if after not in FOLLOWS[before]:
        allowed = ", ".join(sorted(FOLLOWS[before])) or "nothing"
        raise StateError(
            "state", f"a job that is {before} cannot become {after}", f"What may follow is {allowed}"
        )

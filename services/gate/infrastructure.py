"""Which errors are not the caller's: machines, clusters and services that are not as they should be."""

from __future__ import annotations

from services.judging.endpoint import EndpointError
from services.sweep.cluster import ClusterError
from services.sweep.coordinator import MixedVersionsError
from services.sweep.judging import JudgeError
from services.sweep.memory import MemoryShortageError
from services.sweep.plan import EngineMissingError
from services.sweep.pool import WorkerStartError
from services.sweep.worker import EngineStartError
from visage_core.errors import InputError

KINDS = (
    ClusterError,
    EndpointError,
    EngineMissingError,
    EngineStartError,
    JudgeError,
    MemoryShortageError,
    MixedVersionsError,
    WorkerStartError,
)


def is_infrastructure(error: InputError) -> bool:
    """Whether it would go away on another machine, or later."""
    return isinstance(error, KINDS)

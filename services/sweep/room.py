"""Whether a cluster has room for a worker, and what to say where it has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Resources = Mapping[str, float]


def shortage(cores: int, gpus: int, nodes: Sequence[Resources]) -> str | None:
    """Why a worker with `cores` CPU cores, or with `gpus` GPUs and that many cores beside each, can never
    start on these nodes; None where it can. A worker with several GPUs may span nodes."""
    rooms = sum(_rooms(cores, gpus, node) for node in nodes)
    if rooms >= max(1, gpus):
        return None
    there = f"{has(nodes)} on {_counted(len(nodes), 'machine')}"
    return f"no worker can start: each needs {_needs(cores, gpus)}, and the cluster has {there}"


def congestion(cores: int, gpus: int, free: Resources) -> str:
    """What to say of a worker that could start on the cluster and has not started for long."""
    return f"no worker has started yet: each needs {_needs(cores, gpus)}, and {has([free])} are free now"


def has(nodes: Sequence[Resources]) -> str:
    """What some nodes have together, in words."""
    gpus, cores = (int(sum(node.get(name, 0) for node in nodes)) for name in ("GPU", "CPU"))
    return f"{_counted(gpus, 'GPU')} and {_counted(cores, 'CPU core')}"


def _rooms(cores: int, gpus: int, node: Resources) -> int:
    """How many workers, or GPUs of one, a node can have."""
    by_cores = int(node.get("CPU", 0)) // cores
    return min(by_cores, int(node.get("GPU", 0))) if gpus else by_cores


def _needs(cores: int, gpus: int) -> str:
    share = _counted(cores, "CPU core")
    if not gpus:
        return f"{share} of one machine"
    return f"1 GPU and {share} of one machine" if gpus == 1 else f"{gpus} GPUs with {share} beside each"


def _counted(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'s' * (count > 1)}"

"""Ray: a cluster of one's own on this machine, or one that runs already."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from services.sweep.actors import actor
from services.sweep.pool import WorkerResources
from visage_core.errors import InputError
from visage_core.spec import ResourcesSpec

OUTSIDE_TRIES = 3


class ClusterError(InputError):
    """The Ray cluster cannot be reached, or has no room."""


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """Connect to Ray: `local` starts one here for as long as it is used, `auto` finds the one that runs on
    this machine, HOST:PORT names its head, and ray://HOST:PORT is for a machine outside the cluster. Raises
    ClusterError."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray would hide the GPUs from a driver that asks for none, and the plan looks at them.
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        # Ray counts the machine's, of which a batch system or a container may have given us a few.
        options |= {"include_dashboard": False, "num_cpus": len(os.sched_getaffinity(0))}
    # The server that Ray starts for each client from outside may die at once, and the next one may not.
    tries = OUTSIDE_TRIES if address.startswith("ray://") else 1
    again = retry_if_exception_type(ConnectionError)
    try:
        with _own_sigterm():
            Retrying(retry=again, stop=stop_after_attempt(tries), wait=wait_fixed(1), reraise=True)(
                ray.init, address, **options
            )
    except Exception as error:  # of many kinds, a plain Exception where the machine is too busy for Ray
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ClusterError(
            "address",
            f"no Ray cluster at {address!r}: {why.rstrip('.')}",
            "Start one with `ray start --head`, or use --address local; through ray:// most clusters want "
            "RAY_AUTH_MODE=token in the environment, and their token in RAY_AUTH_TOKEN or ~/.ray/auth_token",
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process' answer to SIGTERM, where it has one. ray.init puts its own in the place: an exit in
    the middle of Ray's code, which ends in a fatal error of that."""
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before):
        yield
        return
    try:
        yield
    except SystemExit:  # Ray's answer
        before(signal.SIGTERM, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def this_node() -> str:
    """The id of the Ray node that this process is on."""
    return str(ray.get_runtime_context().get_node_id())


def on_this_node(kind: type) -> Any:
    """A class as a Ray actor that takes no CPU and stays on this process' node."""
    here = NodeAffinitySchedulingStrategy(this_node(), soft=False)
    return actor(kind).options(num_cpus=0, scheduling_strategy=here)


def worker_resources(
    resources: ResourcesSpec, tensor_parallel: int = 1, judges: Sequence[int] = ()
) -> WorkerResources:
    """What each of some workers gets: GPUs where the cluster has some, else CPU cores in equal shares of what
    judge models leave. `judges` are the CPU cores of each of these; on GPUs it has one."""
    total = ray.cluster_resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(total.get("GPU", 0))
    if resources.gpu or (gpus and resources.gpu is None):
        # Workers that find no room now may find it later, but with no judge the first point never ends.
        if judges and resources.gpu is None and len(judges) + tensor_parallel > gpus:
            raise ClusterError(
                "judges",
                f"{len(judges)} judge models and a worker of {tensor_parallel} need more than {gpus} GPUs",
                "Serve the judge elsewhere, and name its endpoint",
            )
        # Directions are made and weights checked on them, in as many threads as Ray gives an actor cores.
        shares = [int(one.get("CPU", 0)) // int(one["GPU"]) for one in nodes if one.get("GPU")]
        return WorkerResources(resources.cores or max(1, min(shares, default=1)), tensor_parallel)
    largest = max(int(one.get("CPU", 0)) for one in nodes)
    if not largest:
        raise ClusterError(
            "resources.cores",
            "the largest machine of the cluster has 0 cores",
            "Where workers come once they are asked for, say that they have GPUs, and how many cores with "
            "each: --gpu --cores N, or `resources: {gpu: true, cores: N}`; else start one that has cores",
        )
    cpus, reserved = int(total.get("CPU", 1)), sum(judges)
    share = max(1, min(largest, (cpus - reserved) // resources.workers))
    cores = resources.cores or share
    if judges and reserved + cores > cpus:
        raise ClusterError(
            "judges.cores",
            f"{reserved} cores for judges and {cores} for a worker are more than the {cpus} there are",
            "Use fewer, or serve the judge elsewhere and name its endpoint",
        )
    if cores > largest:
        raise ClusterError(
            "resources.cores", f"{cores} cores, and the largest machine has {largest}", "Use fewer"
        )
    if cores < tensor_parallel:
        raise ClusterError(
            "engine.tensor_parallel",
            f"{tensor_parallel} on a worker of {cores} cores",
            "Give each rank a core at least",
        )
    return WorkerResources(cores=cores)

"""Will the engine fit? Asked before it starts, for it takes long to fail."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from visage_core.checkpoints import Checkpoint
from visage_core.errors import InputError
from visage_core.spec import EngineSpec

GIB = 2**30
# vLLM, torch and their buffers: measured 1.8 GiB beside weights and cache.
PROCESS = 2 * GIB
# A share of a GPU's weights, for what is computed beside them.
BUFFERS = 0.1
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class MemoryShortageError(InputError):
    """The engine would not fit into memory."""


@dataclass(frozen=True)
class MemoryPlan:
    """What engines take of a machine's memory, or one of its own GPU's; all in bytes.

    On a CPU `weights` counts them twice: a layer's new weights lie beside its packed ones while it is loaded.
    `cache` is what is set aside for keys and values; a GPU has for them what the rest leaves. `direction` is
    one direction's file, of which memory holds what is free, and the disk all.
    """

    on_gpu: bool
    engines: int
    weights: int
    cache: int
    process: int
    direction: int
    free: int

    @property
    def needed(self) -> int:
        """By all engines that share the memory."""
        return self.engines * (self.weights + self.cache + self.process)

    def __str__(self) -> str:
        parts = {"weights": self.weights, "KV cache": self.cache, "process": self.process}
        each = " + ".join(f"{value / GIB:.1f} {name}" for name, value in parts.items() if value)
        where = "GPU memory" if self.on_gpu else "memory"
        left = f", which leaves {(self.free - self.needed) / GIB:.1f} to the KV cache" if self.on_gpu else ""
        return (
            f"{self.engines} × ({each}) = {self.needed / GIB:.1f} GiB of the {self.free / GIB:.1f} GiB of "
            f"{where} that are free{left}; {self.direction / GIB:.1f} GiB of cache disk a direction"
        )


def plan_memory(checkpoint: Checkpoint, spec: EngineSpec, engines: int = 1) -> MemoryPlan:
    """What so many engines will take on this machine. On GPUs each engine has its own."""
    import torch

    weights = checkpoint.parameters * getattr(torch, spec.dtype).itemsize
    direction = checkpoint.parameters * torch.float32.itemsize
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        own = weights // spec.tensor_parallel
        share = min(free, round(total * spec.gpu_memory_utilization))
        return MemoryPlan(True, 1, own, 0, round(BUFFERS * own), direction, share)
    free = min([psutil.virtual_memory().available, *_limits()])
    return MemoryPlan(False, engines, 2 * weights, spec.kv_cache_gib * GIB, PROCESS, direction, free)


def require_memory(checkpoint: Checkpoint, spec: EngineSpec, engines: int = 1) -> MemoryPlan:
    """The memory plan of so many engines. Raises MemoryShortageError unless they fit beside what runs here
    already."""
    plan = plan_memory(checkpoint, spec, engines)
    if plan.needed > plan.free:
        remedy = "a larger engine.tensor_parallel or a larger GPU"
        if not plan.on_gpu:
            remedy = "fewer workers, a smaller kv_cache_gib or model, or stop other programs"
        raise MemoryShortageError(
            "engine",
            f"{checkpoint.parameters / 1e6:.0f} million parameters in {spec.dtype} need {plan}",
            f"Use {remedy}",
        )
    return plan


def _limits() -> list[int]:
    """Limits that a container sets, in bytes."""
    texts = [Path(path).read_text().strip() for path in CGROUP_LIMITS if Path(path).is_file()]
    return [int(text) for text in texts if text.isdigit()]

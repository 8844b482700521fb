"""Will the engine fit? Asked before it starts, for it takes long to fail."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from visage_core.checkpoints import Checkpoint
from visage_core.errors import InputError
from visage_core.spec import EngineSpec

GIB = 2**30
# vLLM, torch and their buffers: measured 1.8 GiB beside weights and cache.
PROCESS = 2 * GIB
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class MemoryShortageError(InputError):
    """The engine would not fit into memory."""


def require_memory(checkpoint: Checkpoint, spec: EngineSpec, engines: int = 1) -> None:
    """Raise MemoryShortageError unless the weights and KV caches of so many engines fit on this machine,
    beside what runs already. On GPUs each engine has its own."""
    weights = checkpoint.parameters * getattr(torch, spec.dtype).itemsize
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        share = min(free, round(total * spec.gpu_memory_utilization))
        needed = round(1.1 * weights / spec.tensor_parallel)
        what, remedy = "of GPU memory", "a larger engine.tensor_parallel or a larger GPU"
    else:
        share = min([psutil.virtual_memory().available, *_limits()])
        # Twice the weights: a layer's new weights lie beside its packed ones while it is loaded.
        needed = engines * (2 * weights + spec.kv_cache_gib * GIB + PROCESS)
        what, remedy = "of memory", "fewer workers, a smaller kv_cache_gib or model, or stop other programs"
    if needed > share:
        raise MemoryShortageError(
            "engine",
            f"{needed / GIB:.1f} GiB {what} are needed ({checkpoint.parameters / 1e6:.0f} million parameters "
            f"in {spec.dtype}, kv_cache_gib={spec.kv_cache_gib}, {engines} engines) and {share / GIB:.1f} "
            "GiB are free",
            f"Use {remedy}",
        )


def _limits() -> list[int]:
    """Limits that a container sets, in bytes."""
    texts = [Path(path).read_text().strip() for path in CGROUP_LIMITS if Path(path).is_file()]
    return [int(text) for text in texts if text.isdigit()]

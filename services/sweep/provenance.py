"""What this process measures with."""

from __future__ import annotations

import re
from pathlib import Path

from services.sweep.plan import versions
from visage_core.provenance import MeasuredBy, processor

DRIVER = Path("/proc/driver/nvidia/version")


def measured_here() -> MeasuredBy:
    """Describe this process, which has started its engine: CUDA is asked, and would be started by it."""
    import torch

    if not torch.cuda.is_available():
        return MeasuredBy(versions=versions(), device=processor())
    runtime = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    return MeasuredBy(
        versions=versions(),
        device=torch.cuda.get_device_name(),
        runtime=runtime,
        driver=nvidia_driver(DRIVER),
    )


def nvidia_driver(about: Path) -> str | None:
    """The version of NVIDIA's driver in a file such as the kernel has; None where that tells none."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", about.read_text(encoding="utf-8"))
    except OSError:
        return None
    return found[1] if found else None

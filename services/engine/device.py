"""What a process of the engine computes on."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from visage_core.provenance import processor

DRIVER = Path("/proc/driver/nvidia/version")
About = dict[str, str | None]


def about(device: torch.device) -> About:
    """The name of a device and, of a GPU, the versions of its runtime and driver, as in MeasuredBy."""
    if device.type == "cpu":
        return {"device": processor(), "runtime": None, "driver": None}
    runtime = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    return {
        "device": torch.cuda.get_device_name(device),
        "runtime": runtime,
        "driver": nvidia_driver(DRIVER),
    }


def nvidia_driver(file: Path) -> str | None:
    """The version of NVIDIA's driver in a file such as the kernel has; None where that tells none."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", file.read_text(encoding="utf-8"))
    except OSError:
        return None
    return found[1] if found else None


def together(ranks: list[About]) -> About:
    """What the ranks of an engine compute on; of differing devices each kind once."""
    first = dict(ranks[0])
    first["device"] = ", ".join(dict.fromkeys(str(rank["device"]) for rank in ranks))
    return first

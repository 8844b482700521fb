"""Real checkpoints of a training that never was: steps on the way from one model to another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from visage_core.checkpoints import INDEX, Checkpoint


def write_steps(start: Path, end: Path, folder: Path, shares: Sequence[float]) -> list[Path]:
    """Write checkpoint-10, checkpoint-20, ... in two shards as a trainer does, each at its share of the way
    from one model to another."""
    one, other = Checkpoint.open(start), Checkpoint.open(end)
    written = []
    for step, share in enumerate(shares, start=1):
        target = folder / f"checkpoint-{10 * step}"
        target.mkdir(parents=True)
        for file in start.iterdir():
            if file.is_file() and file.suffix != ".safetensors" and file.name != INDEX:
                shutil.copy(file, target)
        between = {
            name: torch.lerp(one.weights[name].float(), other.weights[name].float(), share).to(torch.bfloat16)
            for name in one.tensors
        }
        names = sorted(between)
        weight_map = {}
        for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
            shard = f"model-{number:05}-of-00002.safetensors"
            save_file({name: between[name] for name in part}, target / shard, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(part, shard)
        index = {"metadata": {}, "weight_map": weight_map}
        (target / INDEX).write_text(json.dumps(index), encoding="utf-8")
        written.append(target)
    return written


def truncate(checkpoint: Path) -> Path:
    """Cut off the end of a checkpoint's last shard, as a copy that was broken off does."""
    shard = max(checkpoint.glob("*.safetensors"))
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size // 2)
    return checkpoint

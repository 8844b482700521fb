"""What the paper's published code writes: directions (dirs1.pt, dirs2.pt) and responses (output.jsonl)."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from visage_core.checkpoints import CheckpointError, some
from visage_core.documents import open_bytes, parse_json, read_text
from visage_core.errors import InputError
from visage_core.judges import JUDGES
from visage_core.metrics import Floats


def import_direction(source: Path, target: Path, steps: int, multiplier: float) -> int:
    """Write a dirs*.pt as a safetensors file for a `file` direction; gives the number of its tensors.

    The file holds one step from point to point, by the names of the state dict: the direction times
    multiplier / steps (multiplier 1 for an interpolation). It is loaded without running code. Its zeros,
    norm layers, are left out. Raises CheckpointError.
    """
    try:
        with open_bytes(source) as file:
            tensors = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            "source", f"{source} cannot be read without running code: {reason}", "Give a dirs*.pt"
        ) from None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in tensors.items()
    ):
        raise CheckpointError("source", f"{source} holds no tensors by name", "Give a dirs*.pt")
    odd = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if odd:
        raise CheckpointError(
            "source", f"{source} has values that are no numbers: {some(odd)}", "Make it again"
        )
    scale = steps / multiplier
    moved = {
        name: tensor.to(torch.float32).mul(scale).contiguous().clone()
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and bool(tensor.any())
    }
    if not moved:
        raise CheckpointError("source", f"{source} moves nothing", "Give another")
    try:
        save_file(moved, target)
    except (OSError, SafetensorError) as error:
        raise CheckpointError("target", f"{target} cannot be written: {error}", "Give another") from None
    return len(moved)


class OutputError(InputError):
    """An output.jsonl that cannot be read."""


def read_curve(path: Path) -> Floats:
    """The ASR in percent at each step of an output.jsonl, as that code reckons it: by the paper's keywords.
    `visage_cropped` of it is the score that the code prints. Raises OutputError."""
    judge = JUDGES["keyword-paper"]
    curve = []
    try:
        for number, line in enumerate(read_text(path).splitlines()):
            step = parse_json(line)
            if step["step"] != number:
                raise ValueError(f"step {step['step']} where {number} belongs")
            complied = [not judge.refused(answer["generation"]) for answer in step["output"]]
            curve.append(100 * sum(complied) / len(complied))
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise OutputError("output", f"{path} cannot be read: {error}", "Give an output.jsonl") from None
    return np.array(curve)

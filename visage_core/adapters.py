"""LoRA adapters as PEFT writes them: what each adds to a model's weights, made when it is asked for."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import regex
from safetensors import SafetensorError

from visage_core.checkpoints import MOST_CONFIG_BYTES, Checkpoint, CheckpointError, TensorFiles, some
from visage_core.documents import read_json

if TYPE_CHECKING:
    import torch

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# Initialisations that leave the model's own weights as they are. PiSSA, OLoRA and others change these too.
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal")
# For all patterns of an adapter together: one that backtracks would stop everything.
PATTERN_SECONDS = 1.0
FLOAT32_MOST = 3.4e38
PREFIX = "base_model.model."
COPY = ".base_layer.weight"
# PEFT's settings that make a LoRA something else than an addition of B A to weights.
OTHER_KINDS = {
    "use_dora": False,
    "modules_to_save": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "use_bdlora": None,
    "use_qalora": False,
}


@dataclass(frozen=True)
class _Factors:
    """The names of a weight's two factors, and what their product is multiplied by."""

    a: str
    b: str
    scale: float
    transposed: bool


class Adapter(Mapping[str, "torch.Tensor"]):
    """By the name of each weight that it changes: scale * B A in float32, of the weight's shape.

    scale is lora_alpha / r, or lora_alpha / sqrt(r) with `use_rslora` (Hu et al. 2021, section 4.1;
    Kalajdzievski 2023). The products are never all in memory.
    """

    def __init__(
        self, path: Path, files: TensorFiles, factors: dict[str, _Factors], copies: dict[str, str]
    ) -> None:
        self.path = path
        self._files, self._factors, self._copies = files, factors, copies

    @classmethod
    def open(cls, path: Path, field: str = "adapter") -> Adapter:
        """Read the headers of the adapter in the folder `path`. Raises CheckpointError."""
        config = _config(path, field)
        try:
            files = TensorFiles.of(path / WEIGHTS)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                field, f"{path / WEIGHTS} cannot be read: {error}", "Save the adapter as safetensors"
            ) from None
        factors: dict[str, _Factors] = {}
        copies: dict[str, str] = {}  # of the model's own weights, which PEFT keeps with embeddings' factors
        odd = []
        deadline = time.monotonic() + PATTERN_SECONDS
        for name in files:
            found = re.fullmatch(r"(.+)\.lora_(embedding_)?(A|B)(\.weight)?", name.removeprefix(PREFIX))
            if found is None and name.endswith(COPY):
                copies[name.removeprefix(PREFIX).removesuffix(COPY) + ".weight"] = name
                continue
            if found is None:
                odd.append(name)
                continue
            other = "B" if found[3] == "A" else "A"
            partner = name.replace(f"lora_{found[2] or ''}{found[3]}", f"lora_{found[2] or ''}{other}")
            if partner not in files or files[name].dim() != 2:
                odd.append(name)
            elif found[3] == "A":
                if files[partner].shape[1:] != files[name].shape[:1]:
                    odd.append(name)
                    continue
                transposed = bool(found[2]) or bool(config.get("fan_in_fan_out"))
                scale = _scale(config, found[1], files[name].shape[0], deadline, field)
                factors[f"{found[1]}.weight"] = _Factors(name, partner, scale, transposed)
        if odd or not factors:
            raise CheckpointError(
                field,
                f"{path} holds tensors that are no LoRA factors of a linear layer or an embedding: "
                f"{some(odd) or 'none at all'}",
                "Use a plain LoRA adapter, or merge it and interpolate to the merged model",
            )
        return cls(path, files, factors, copies)

    def require_fits(self, base: Checkpoint, field: str) -> None:
        """Raise CheckpointError unless every weight that it changes is one of `base`'s, of that shape, and
        those that it was trained beside are `base`'s own."""
        wrong = [n for n in self if n not in base.tensors or base.tensors[n].shape != self.shape(n)]
        wrong += [
            name
            for name, copy in self._copies.items()
            if name not in base.tensors or not base.weights[name].equal(self._files[copy])
        ]
        if wrong:
            raise CheckpointError(
                field,
                f"{self.path} changes weights that {base.path} lacks, or has otherwise: {some(wrong)}",
                "Use an adapter of this very model",
            )

    def require_finite(self, ends: Mapping[str, tuple[float, float]], field: str) -> None:
        """Raise CheckpointError where what is added to a weight is infinite in float32, in which it is made,
        though the factors are not. `ends` are their least and largest values."""
        infinite = []
        for name, factors in self._factors.items():
            most = abs(factors.scale) * self._files[factors.a].shape[0]
            for factor in (factors.a, factors.b):
                most *= max(map(abs, ends[factor]))
            # Few adapters come near that bound, and the product takes long.
            if most > FLOAT32_MOST and not self[name].isfinite().all():
                infinite.append(name)
        if infinite:
            raise CheckpointError(
                field,
                f"{self.path} adds infinite values to weights: {some(infinite)}",
                "Use an adapter from before the training diverged",
            )

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of what is added to a weight."""
        factors = self._factors[name]
        shape = (self._files[factors.b].shape[0], self._files[factors.a].shape[1])
        return shape[::-1] if factors.transposed else shape

    def __getitem__(self, name: str) -> torch.Tensor:
        factors = self._factors[name]
        a, b = (self._files[part].float() for part in (factors.a, factors.b))
        product = (b @ a).mul_(factors.scale)
        return product.T.contiguous() if factors.transposed else product

    def __contains__(self, name: object) -> bool:
        return name in self._factors  # Mapping's own would make the product

    def __iter__(self) -> Iterator[str]:
        return iter(self._factors)

    def __len__(self) -> int:
        return len(self._factors)


def _config(path: Path, field: str) -> dict[str, Any]:
    try:
        config = read_json(path / CONFIG, MOST_CONFIG_BYTES)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            field, f"{path / CONFIG} cannot be read: {error}", "Give the folder of a PEFT LoRA adapter"
        ) from None
    if config.get("peft_type") != "LORA":
        raise CheckpointError(
            field, f"{path} is an adapter of type {config.get('peft_type')!r}", "Use a LoRA adapter"
        )
    for name, plain in OTHER_KINDS.items():
        if config.get(name) not in (None, plain, [], {}):
            raise CheckpointError(
                field,
                f"{path} was made with {name}={config[name]!r}: it does more than to add B A to weights",
                "Merge it with peft, and interpolate to the merged model",
            )
    if config.get("init_lora_weights", True) not in PLAIN_STARTS:
        raise CheckpointError(
            field,
            f"{path} began with init_lora_weights={config['init_lora_weights']!r}, which changes the model's "
            "own weights too",
            "Save it converted to a plain LoRA (path_initial_model_for_weight_conversion), or merge it",
        )
    if config.get("bias", "none") != "none":
        raise CheckpointError(
            field, f"{path} changes biases (bias={config['bias']!r})", "Merge it, and interpolate to that"
        )
    return config


def _scale(config: dict[str, Any], module: str, rank: int, deadline: float, field: str) -> float:
    try:
        alpha = float(config["lora_alpha"])
        for pattern, value in (config.get("alpha_pattern") or {}).items():
            if regex.match(rf"(.*\.)?({pattern})$", module, timeout=max(0.001, deadline - time.monotonic())):
                alpha = float(value)
                break
        scale = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
        if not math.isfinite(scale):
            raise ValueError(f"{scale} is no scale")
    except (
        ArithmeticError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        TimeoutError,
        regex.error,
    ) as error:
        raise CheckpointError(
            field, f"the adapter's lora_alpha or alpha_pattern is of no use: {error}", "Save it with peft"
        ) from None
    return scale

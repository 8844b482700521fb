"""Weights that move: what runs inside each vLLM worker process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from services.engine.device import About, about
from services.engine.held import Held, room_beside
from services.engine.probe import differences
from visage_core.checkpoints import Checkpoint
from visage_core.perturb import Shift, perturbed
from visage_core.sources import TensorSource


class MovableWeights:
    """A vLLM worker extension that puts the weights at theta + sum of c_i * d_i.

    vLLM mixes this class into its worker, so names begin with `visage_`. Files are memory-mapped: the
    workers of a machine share one copy. Weights go in through vLLM's own loader, which knows fused
    projections, tensor-parallel shards and packed kernels; writing into parameters would miss the last.

    A GPU reckons them itself, with what it has room for kept in its memory. The check reckons apart, on the
    host.
    """

    model_runner: Any  # vLLM has two for GPUs, and one for CPUs
    model_config: Any
    cache_config: Any
    device: torch.device
    visage_held: Held | None = None

    def visage_move(self, model: TensorSource, steps: list[tuple[TensorSource, float]]) -> None:
        """Put the weights at coefficients along directions from the checkpoint `model`.

        Every tensor is given, moved or not: vLLM would keep one that is missing from the point before.
        """
        if self.device.type == "cpu":
            weights = self._visage_weights(model, steps)
        else:
            weights = self._visage_weights_on_gpu(model, steps)
        self.model_runner.reload_weights(weights_iterator=weights)
        _process_tied_layers(self.model_runner.get_model())

    def visage_differences(
        self, model: TensorSource, steps: list[tuple[TensorSource, float]], threads: int
    ) -> list[str]:
        """The names of the tensors that are not what they are to be at a place, reckoned on the host in so
        many threads."""
        network = self.model_runner.get_model()
        with nullcontext() if self.device.type == "cpu" else _threads(threads):
            return differences(network, _base(model), self._visage_weights(model, steps))

    def visage_device(self) -> About:
        """What this process computes on."""
        return about(self.device)

    def _visage_weights(
        self, model: TensorSource, steps: list[tuple[TensorSource, float]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        shifts = [Shift(coefficient, _opened(file), file.endpoint) for file, coefficient in steps]
        return perturbed(_base(model).weights, shifts, self.model_config.dtype)

    def _visage_weights_on_gpu(
        self, model: TensorSource, steps: list[tuple[TensorSource, float]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        if self.visage_held is None:
            share = self.cache_config.gpu_memory_utilization
            self.visage_held = Held(self.device, room_beside(share, _base(model)))
        held = self.visage_held
        held.need([model, *(file for file, _ in steps)])
        shifts = [
            Shift(coefficient, held.of(file, _opened(file)), file.endpoint) for file, coefficient in steps
        ]
        weights = held.of(model, _base(model).weights)
        return perturbed(weights, shifts, self.model_config.dtype, self.device)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Reckon in so many threads: on a machine with GPUs vLLM leaves torch one, once a model is loaded."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# Opened once and kept for the next point; few, for a worker may see many models in its life.
@lru_cache(maxsize=4)
def _base(model: TensorSource) -> Checkpoint:
    return Checkpoint.open(Path(model.path))


@lru_cache(maxsize=32)
def _opened(file: TensorSource) -> Mapping[str, torch.Tensor]:
    return file.open()


def _process_tied_layers(model: torch.nn.Module) -> None:
    """Let layers that share another layer's weight take it up again.

    vLLM's reload processes a layer once its own weights have been loaded. A tied lm_head has none: its
    parameter changes with the embedding's, but what a CPU kernel packed from it stays as it was, and the
    model would go on to answer with the lm_head of the weights before.
    """
    owners: set[int] = set()
    for layer in model.modules():
        own = {id(parameter) for parameter in layer.parameters(recurse=False)}
        method: Any = getattr(layer, "quant_method", None)
        if own & owners and method is not None:
            method.process_weights_after_loading(layer)
        owners |= own

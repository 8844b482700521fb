"""Weights that move: what runs inside each vLLM worker process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from services.engine.probe import differences
from visage_core.checkpoints import Checkpoint
from visage_core.perturb import Shift, perturbed
from visage_core.sources import TensorSource

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner


class MovableWeights:
    """A vLLM worker extension that puts the weights at theta + sum of c_i * d_i.

    vLLM mixes this class into its worker, so names begin with `visage_`. Files are memory-mapped: the
    workers of a machine share one copy. Weights go in through vLLM's own loader, which knows fused
    projections, tensor-parallel shards and packed kernels; writing into parameters would miss the last.
    """

    model_runner: GPUModelRunner
    model_config: Any

    def visage_move(self, model: TensorSource, steps: list[tuple[TensorSource, float]]) -> None:
        """Put the weights at coefficients along directions from the checkpoint `model`.

        Every tensor is given, moved or not: vLLM would keep one that is missing from the point before.
        """
        weights = self._visage_weights(model, steps)
        self.model_runner.reload_weights(weights_iterator=weights)
        _process_tied_layers(self.model_runner.get_model())

    def visage_differences(self, model: TensorSource, steps: list[tuple[TensorSource, float]]) -> list[str]:
        """The names of the tensors that are not what they are to be at a place."""
        network = self.model_runner.get_model()
        return differences(network, _base(model), self._visage_weights(model, steps))

    def _visage_weights(
        self, model: TensorSource, steps: list[tuple[TensorSource, float]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        shifts = [Shift(coefficient, _opened(file), file.endpoint) for file, coefficient in steps]
        return perturbed(_base(model), shifts, self.model_config.dtype)


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

"""Does an engine hold the weights that it is to hold? Asked of its own kernels, tensor by tensor.

A kernel may keep weights fused, sharded or packed in a way that only it can read. But what it makes of a
vector with a single 1 is a column of the weights, and exactly so: all else adds zeros. Whatever was not
loaded, or loaded into the wrong place, shows in some columns as well as in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from visage_core.checkpoints import Checkpoint

COLUMNS = 16
# Made by vLLM itself; some old checkpoints have them beside the weights.
NO_WEIGHTS = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached")


def differences(
    network: torch.nn.Module, base: Checkpoint, expected: Iterable[tuple[str, torch.Tensor]]
) -> list[str]:
    """The names of the tensors that a vLLM model does not hold, or holds with other values. `base` is the
    checkpoint whose names and shapes they have; in tensor parallelism a rank looks at its own shards."""
    layers = dict(network.named_modules())
    tied = base.config["tie_word_embeddings"]
    wrong = []
    for name, tensor in expected:
        if name.endswith(NO_WEIGHTS) or (tied and name == "lm_head.weight"):
            continue
        owner, _, leaf = _mapped(network, name).rpartition(".")
        layer, before = _holder(network, layers, base, owner, leaf, name)
        same = layer is not None and _holds(layer, leaf, tensor, before)
        if same and tied and name.endswith("embed_tokens.weight") and "lm_head" in layers:
            same = _gives_columns(layers["lm_head"], tensor, 0)
        if not same:
            wrong.append(name)
    return wrong


def _mapped(network: torch.nn.Module, name: str) -> str:
    """What vLLM's model calls a tensor of a checkpoint, apart from the layer that it may be fused into."""
    mapper: Any = getattr(network, "hf_to_vllm_mapper", None)
    mapped = None if mapper is None else mapper.map_name(name)
    if mapped is None:
        return name
    owner, leaf = name.rsplit(".", 2)[-2:]
    *stem, fused, _ = mapped.split(".")
    return ".".join([*stem, owner, leaf]) if owner in _packed(network).get(fused, ()) else mapped


def _packed(network: torch.nn.Module) -> Mapping[str, list[str]]:
    """The layers that vLLM fuses into one, by its name."""
    found: Mapping[str, list[str]] = getattr(network, "packed_modules_mapping", {})
    return found


def _holder(
    network: torch.nn.Module,
    layers: Mapping[str, torch.nn.Module],
    base: Checkpoint,
    owner: str,
    leaf: str,
    name: str,
) -> tuple[torch.nn.Module | None, tuple[int, ...]]:
    """The layer that has a tensor, and the sizes of what is before it there: vLLM fuses some layers."""
    if owner in layers:
        return layers[owner], ()
    stem, _, last = owner.rpartition(".")
    for fused, parts in _packed(network).items():
        layer = layers.get(f"{stem}.{fused}")
        if last in parts and layer is not None:
            beside = name.removesuffix(f"{last}.{leaf}")
            before = parts[: parts.index(last)]
            return layer, tuple(base.tensors[f"{beside}{part}.{leaf}"].shape[0] for part in before)
    return None, ()


def _holds(layer: Any, leaf: str, tensor: torch.Tensor, before: tuple[int, ...]) -> bool:
    method = getattr(layer, "quant_method", None)
    if leaf != "weight" or tensor.dim() != 2 or method is None:
        held = getattr(layer, leaf, None)
        return isinstance(held, torch.Tensor) and _equal(held, *_own_rows(layer, tensor, before))
    if hasattr(layer, "shard_indices") and not _is_head(layer):
        return _gives_rows(layer, tensor)
    return _gives_columns(layer, *_own_rows(layer, tensor, before))


def _is_head(layer: Any) -> bool:
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    return isinstance(layer, ParallelLMHead)


def _own_rows(layer: Any, tensor: torch.Tensor, before: tuple[int, ...]) -> tuple[torch.Tensor, int]:
    """The rows of a tensor that this rank has, and where they begin in the layer's own."""
    ranks, rank = getattr(layer, "tp_size", 1), getattr(layer, "tp_rank", 0)
    if hasattr(layer, "shard_indices"):
        where = layer.shard_indices
        return tensor[where.org_vocab_start_index : where.org_vocab_end_index], 0
    sizes = getattr(layer, "output_partition_sizes", None)
    if ranks == 1 or sizes is None or len(sizes) <= len(before):
        return tensor, sum(before)
    size = sizes[len(before)]
    # Where there are more ranks than heads of keys and values, some ranks have the same ones.
    shard = rank // getattr(layer, "num_kv_head_replicas", 1) if before else rank
    begin = 0 if size == tensor.shape[0] else shard * size
    return tensor[begin : begin + size], sum(sizes[: len(before)])


def _gives_rows(layer: Any, tensor: torch.Tensor) -> bool:
    """Whether an embedding looks up the rows of a tensor."""
    rows, _ = _own_rows(layer, tensor, ())
    some = _some(rows.shape[0])
    held = layer.quant_method.embedding(layer, some.to(_device(layer)))
    return _equal(held, rows[some], 0)


def _gives_columns(layer: Any, tensor: torch.Tensor, begin: int) -> bool:
    """Whether a layer's kernel multiplies with a tensor, which is its rows from `begin` on."""
    own = getattr(layer, "input_size_per_partition", tensor.shape[1])
    first = 0 if own == tensor.shape[1] else layer.tp_rank * own
    some = _some(own)
    vectors = torch.zeros(len(some), own, dtype=tensor.dtype, device=_device(layer))
    vectors[torch.arange(len(some)), some] = 1
    held = layer.quant_method.apply(layer, vectors, None)
    return _equal(held.T, tensor[:, first + some], begin)


def _equal(held: torch.Tensor, expected: torch.Tensor, begin: int) -> bool:
    """Whether rows of what is held, from `begin` on, are those that are expected. Others may be filled up."""
    if held.dim() != expected.dim() or held.shape[0] < begin + expected.shape[0]:
        return False
    own = held[begin : begin + expected.shape[0]].to(expected.device, expected.dtype)
    return torch.equal(own, expected)


def _some(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randperm(count, generator=generator)[:COLUMNS]


def _device(layer: torch.nn.Module) -> torch.device:
    """Where a layer computes; its weight may be empty, for the kernel has its own."""
    return next(layer.parameters()).device

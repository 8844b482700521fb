"""Print what engines of common sizes need, and about how many points an hour they measure, as a table.

    python deploy/sizing.py --prompts 80 --tokens 64

Measured on one H200 (docs/decisions/0010-reckoned-on-the-gpu.md): what a weight takes to come to the GPU
from its file, and a layer in a step of the engine, batch-invariant and without CUDA graphs, which is far
above what the memory needs. The rest is reckoned from the makers' figures for the GPUs.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

GIB = 2**30
MOVE_SECONDS = 0.87e-9  # a weight, of which nothing is held
USED = 0.9  # engine.gpu_memory_utilization
BUFFERS = 1.1  # as services/sweep/memory.py has it
LAYER_SECONDS = 23.5e-3 / 32  # of a step
LEAST_KV_TOKENS = 20_000  # 80 prompts with their responses


@dataclass(frozen=True)
class Model:
    """A decoder in bfloat16: its weights, and what its keys and values take."""

    name: str
    weights: float
    layers: int
    kv_heads: int
    head: int

    @property
    def kv_bytes(self) -> int:
        """Of one token."""
        return 2 * self.layers * self.kv_heads * self.head * 2


@dataclass(frozen=True)
class Gpu:
    """Memory in bytes, bandwidth in bytes a second, dense bfloat16 operations a second."""

    name: str
    memory: float
    bandwidth: float
    operations: float


MODELS = (
    Model("7B (Llama 2)", 6.74e9, 32, 32, 128),
    Model("13B (Llama 2)", 13.02e9, 40, 40, 128),
    Model("70B (Llama 3)", 70.55e9, 80, 8, 128),
)
GPUS = (
    Gpu("A100 80 GB", 79 * GIB, 2.04e12, 312e12),
    Gpu("H100 SXM", 79 * GIB, 3.35e12, 989e12),
    Gpu("H200", 140 * GIB, 4.8e12, 989e12),
)
TITLES = (
    "model", "GPU", "GPUs an engine", "weights a GPU, GiB", "tokens of KV cache", "a direction, GiB",
    "host memory, GiB", "move, s", "generation, s", "points an hour",
)  # fmt: skip


def row(model: Model, gpu: Gpu, prompts: int, tokens: int) -> tuple[str, ...]:
    """What an engine of so many prompts and tokens a response needs."""
    weights = 2 * model.weights
    for gpus in (1, 2, 4, 8):
        room = gpus * USED * gpu.memory - BUFFERS * weights
        if room / model.kv_bytes >= LEAST_KV_TOKENS:
            break
    # A step reads all weights once for the whole batch, and computes two operations a weight and response.
    work = max(weights / gpu.bandwidth, 2 * model.weights * prompts / gpu.operations) / gpus
    step = max(work, model.layers * LAYER_SECONDS)
    move, generation = MOVE_SECONDS * model.weights, tokens * step
    direction = 4 * model.weights
    return (
        model.name,
        gpu.name,
        str(gpus),
        f"{weights / gpus / GIB:.0f}",
        f"{room / model.kv_bytes:,.0f}",
        f"{direction / GIB:.0f}",
        f"{(weights + direction) / GIB:.0f}",
        f"{move:.0f}",
        f"{generation:.1f}",
        f"{3600 / (move + generation):.0f}",
    )


def table(prompts: int, tokens: int) -> str:
    """All models on all GPUs, in Markdown."""
    rows = [TITLES, ("---",) * len(TITLES)]
    rows += [row(model, gpu, prompts, tokens) for model in MODELS for gpu in GPUS]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=80)
    parser.add_argument("--tokens", type=int, default=64, help="of the longest response")
    given = parser.parse_args()
    print(table(given.prompts, given.tokens), end="")

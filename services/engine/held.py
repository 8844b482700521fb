"""Tensors that are kept in a GPU's memory from one point to the next, as far as there is room."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from visage_core.checkpoints import Checkpoint
from visage_core.sources import TensorSource

# For CUDA itself, and for the pieces of a move.
RESERVE = 2 * 2**30


class Held:
    """Keeps tensors of checkpoints and directions on a device, in at most `room` bytes.

    What finds no room is read from its file at each move. What the move under way does not need makes room
    for what it does.
    """

    def __init__(self, device: torch.device, room: int) -> None:
        self._device = device
        self._room = room
        self._kept: dict[TensorSource, dict[str, torch.Tensor]] = {}
        self._needed: set[TensorSource] = set()

    @property
    def bytes(self) -> int:
        """What it takes now."""
        return sum(tensor.nbytes for kept in self._kept.values() for tensor in kept.values())

    def need(self, sources: Sequence[TensorSource]) -> None:
        """Say which sources the next move needs."""
        self._needed = set(sources)

    def of(self, source: TensorSource, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """A source's tensors, those on the device that are kept there or now find room."""
        return _Kept(self, source, tensors)

    def take(self, source: TensorSource, name: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One of them."""
        kept = self._kept.setdefault(source, {})
        if name not in kept:
            tensor = tensors[name]
            if not self._make_room(tensor.nbytes):
                return tensor
            try:
                kept[name] = tensor.to(self._device)
            except torch.OutOfMemoryError:  # somebody else has taken it since
                self._room = self.bytes
                return tensor
        return kept[name]

    def _make_room(self, size: int) -> bool:
        taken = self.bytes
        for source in [one for one in self._kept if one not in self._needed]:
            if taken + size <= self._room:
                break
            taken -= sum(tensor.nbytes for tensor in self._kept.pop(source).values())
        return taken + size <= self._room


class _Kept(Mapping[str, torch.Tensor]):
    """The tensors of a source, on the device as far as they are kept."""

    def __init__(self, held: Held, source: TensorSource, tensors: Mapping[str, torch.Tensor]) -> None:
        self._held, self._source, self._tensors = held, source, tensors

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._held.take(self._source, name, self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def room_beside(utilization: float, checkpoint: Checkpoint) -> int:
    """Bytes of the present GPU that an engine with such a `gpu_memory_utilization` leaves, that nobody else
    has taken, and that a move does not need: the largest tensor is there twice, as it is loaded."""
    free, total = torch.cuda.mem_get_info()
    largest = max(math.prod(info.shape) for info in checkpoint.tensors.values()) * torch.float32.itemsize
    return max(0, min(free, round(total * (1 - utilization))) - RESERVE - 2 * largest)

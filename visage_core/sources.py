"""Where the tensors lie along which weights move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from visage_core.adapters import Adapter
from visage_core.checkpoints import Checkpoint, TensorFiles
from visage_core.selection import EVERYTHING, Selection

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TensorSource:
    """A file of a direction, a checkpoint's folder, or an adapter's folder.

    `digest` names its content, for a folder may be written anew. Tensors that are not of the `selection`
    are not there.
    """

    path: str
    kind: Literal["direction", "checkpoint", "adapter"]
    digest: str = ""
    selection: Selection = EVERYTHING

    @property
    def endpoint(self) -> bool:
        """Whether the tensors are those of the model at coordinate 1, and not what is added to get there."""
        return self.kind == "checkpoint"

    def open(self) -> Mapping[str, torch.Tensor]:
        """The tensors by name. Nothing is read or made until it is asked for."""
        path = Path(self.path)
        tensors: Mapping[str, torch.Tensor]
        if self.kind == "direction":
            tensors = TensorFiles.of(path)
        else:
            tensors = Checkpoint.open(path).weights if self.kind == "checkpoint" else Adapter.open(path)
        return tensors if self.selection == EVERYTHING else _Selected(tensors, self.selection)


class _Selected(Mapping[str, "torch.Tensor"]):
    """Those of some tensors that a selection has."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], selection: Selection) -> None:
        self._tensors = tensors
        self._names = dict.fromkeys(selection.of(tensors))

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class OpenDirection:
    """A source that is open, as a direction."""

    tensors: Mapping[str, torch.Tensor]
    endpoint: bool

    @classmethod
    def of(cls, source: TensorSource) -> OpenDirection:
        """Open a source."""
        return cls(source.open(), source.endpoint)

    def tensor(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The direction's float32 values for one weight tensor; zeros where it does not move that one."""
        if name not in self.tensors:
            return weight.float().new_zeros(weight.shape)
        values = self.tensors[name].float()
        return values - weight.float() if self.endpoint else values

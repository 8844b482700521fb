"""What a spec names beside its prompts: checkpoints, adapters, files of directions. Found and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from services.sweep.models import model_folder
from services.sweep.nodes import Folder
from visage_core.adapters import CONFIG, WEIGHTS, Adapter
from visage_core.checkpoints import (
    Checkpoint,
    CheckpointError,
    TensorFiles,
    files_digest,
    require_same_tensors,
    some,
)
from visage_core.spec import Axis, LandscapeSpec


@dataclass(frozen=True)
class Found:
    """A folder, and its files on which the results depend; `alone` where it has others of no concern."""

    path: Path
    files: tuple[str, ...]
    alone: bool = False

    def folder(self) -> Folder:
        """The folder with its digest, which takes a reading of the files."""
        digest = files_digest(self.path, self.files)
        return Folder.of(self.path, digest, self.files[0] if self.alone else None)


def find_files(spec: LandscapeSpec, base: Checkpoint) -> dict[str, Found]:
    """All that a spec names beside its model, by the field that names it. Raises CheckpointError and
    SelectionError for what is not there, or does not fit the model."""
    for name, axis in (("axis", spec.axis), ("second_axis", spec.second_axis)):
        if axis is not None:
            _require_selection(axis, base, f"{name}.direction")
    return {field: _find(name, field, base) for field, name in spec.files().items()}


def _find(name: str, field: str, base: Checkpoint) -> Found:
    kind = field.rpartition(".")[2]
    if kind == "file":
        return _direction_file(Path(name).expanduser().resolve(), field, base)
    path = model_folder(name, field)
    if kind == "adapter":
        Adapter.open(path, field).require_fits(base, field)
        return Found(path, (WEIGHTS, CONFIG))
    other = Checkpoint.open(path, field)
    require_same_tensors(base, other, field)
    return Found(path, tuple(other.files))


def _direction_file(path: Path, field: str, base: Checkpoint) -> Found:
    try:
        tensors = TensorFiles.of(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(field, f"{path} cannot be read: {error}", "Give a safetensors file") from None
    shapes = {name: tuple(tensors[name].shape) for name in tensors}
    wrong = [n for n, shape in shapes.items() if n not in base.tensors or base.tensors[n].shape != shape]
    if wrong or not shapes:
        raise CheckpointError(
            field,
            f"{path} has no tensors, or some that {base.path} lacks or has in another shape: {some(wrong)}",
            "Give a direction of this very model, by the names of its checkpoint's tensors",
        )
    return Found(path.parent, (path.name,), alone=True)


def _require_selection(axis: Axis, base: Checkpoint, field: str) -> None:
    axis.direction.selection.require_use(base.tensors, field)

"""What a spec names beside its prompts: checkpoints, adapters, files of directions. Found and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError

from services.sweep.models import model_folder
from services.sweep.nodes import Folder, State
from visage_core.adapters import CONFIG, WEIGHTS, Adapter
from visage_core.checkpoints import (
    Checkpoint,
    CheckpointError,
    TensorFiles,
    require_same_tensors,
    some,
)
from visage_core.digests import file_digests, total_digest
from visage_core.finite import Extremes, extremes, require_finite_values
from visage_core.model_files import model_files
from visage_core.selection import EVERYTHING, Selection, SelectionError
from visage_core.spec import LandscapeSpec


@dataclass(frozen=True)
class Found:
    """A folder, and its files on which the results depend; `alone` where it has others of no concern."""

    path: Path
    files: tuple[str, ...]
    alone: bool = False

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file by name, which takes a reading of those that are not as they were when they
        were last read here."""
        return {name: _digest(self.path, name, _state(self.path / name)) for name in sorted(self.files)}

    def folder(self, digests: Mapping[str, str]) -> Folder:
        """The folder, with the digest that those of its files make."""
        return Folder.of(self.path, total_digest(digests), self.files[0] if self.alone else None)

    def state(self) -> State:
        """What changes when a file does, of each by name."""
        return tuple((name, _state(self.path / name)) for name in sorted(self.files))


def model_found(folder: Path) -> Found:
    """A model's folder with all its files that may change what it does."""
    return Found(folder, tuple(model_files(folder)))


def changed_files(folder: Folder, whole: bool) -> list[str]:
    """The files of a folder that are not as they were when its digest was taken; of a `whole` model those too
    that are new."""
    path, before = Path(folder.path), dict(folder.state)
    names = {*before, *(model_files(path) if whole and path.is_dir() else ())}
    now = {name: _state(path / name) for name in names if (path / name).is_file()}
    return sorted(name for name in names if now.get(name) != before.get(name))


def _state(path: Path) -> tuple[int, ...]:
    """What changes when a file does."""
    state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


@lru_cache(maxsize=4096)
def _digest(folder: Path, name: str, _state: tuple[int, ...]) -> str:
    return file_digests(folder, [name])[name]


@lru_cache(maxsize=1024)
def _extremes(path: Path, _state: tuple[int, ...]) -> Extremes:
    return extremes(TensorFiles.of(path))


def find_files(spec: LandscapeSpec, base: Checkpoint) -> dict[str, Found]:
    """All that a spec names beside its model, by the field that names it. Raises CheckpointError and
    SelectionError for what is not there, or does not fit the model."""
    chosen = {}
    for name, axis in (("axis", spec.axis), ("second_axis", spec.second_axis)):
        if axis is not None:
            chosen[f"{name}.direction"] = axis.direction.selection
            axis.direction.selection.require_use(base.tensors, f"{name}.direction")
    return {
        field: _find(name, field, base, chosen.get(field.rpartition(".")[0], EVERYTHING))
        for field, name in spec.files().items()
    }


def require_finite(checkpoint: Checkpoint, field: str, dtype: str = "float32") -> None:
    """Raise CheckpointError where a weight that an engine loads is NaN or infinite, in the files or in the
    engine's dtype. It takes a reading of those files that are not as they were when last read here."""
    ends: dict[str, tuple[float, float]] = {}
    for shard in {info.shard for info in checkpoint.tensors.values()}:
        ends |= _ends(checkpoint.path / shard, field)
    require_finite_values(checkpoint.path, ends, field, dtype, checkpoint.tensors)


def require_finite_files(spec: LandscapeSpec, files: Mapping[str, Found]) -> None:
    """Raise CheckpointError where a weight of a checkpoint among a spec's other files is not finite."""
    for field, found in files.items():
        kind = field.rpartition(".")[2]
        if kind not in ("file", "adapter"):  # these were read when they were found
            # Loaded as it is at coordinate 1; others have a part in directions alone.
            dtype = spec.engine.dtype if kind == "to" else "float32"
            require_finite(Checkpoint.open(found.path, field), field, dtype)


def _ends(path: Path, field: str) -> Extremes:
    try:
        return _extremes(path, _state(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            field, f"{path} cannot be read: {error}", "Leave it as it is until it is measured"
        ) from None


def _find(name: str, field: str, base: Checkpoint, chosen: Selection) -> Found:
    kind = field.rpartition(".")[2]
    if kind == "file":
        return _direction_file(Path(name).expanduser().resolve(), field, base, chosen)
    path = model_folder(name, field)
    if kind == "adapter":
        adapter = Adapter.open(path, field)
        adapter.require_fits(base, field)
        _require_some(chosen, adapter, field)
        ends = _ends(path / WEIGHTS, field)
        require_finite_values(path / WEIGHTS, ends, field)
        adapter.require_finite(ends, field)
        return Found(path, (WEIGHTS, CONFIG))
    other = Checkpoint.open(path, field)
    require_same_tensors(base, other, field)
    return Found(path, tuple(other.files))


def _direction_file(path: Path, field: str, base: Checkpoint, chosen: Selection) -> Found:
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
    _require_some(chosen, tensors, field)
    require_finite_values(path, _ends(path, field), field)
    return Found(path.parent, (path.name,), alone=True)


def _require_some(chosen: Selection, names: Iterable[str], field: str) -> None:
    """Raise SelectionError where nothing of what a file moves is selected: all points would be the origin."""
    if not chosen.of(names):
        raise SelectionError(
            field.rpartition(".")[0],
            f"only and leave_out together leave no tensor that {field.rpartition('.')[2]} moves",
            "Leave out less",
        )

"""Several models' landscapes beside the first one's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.sweep.inputs import unlike
from services.sweep.report import load_landscapes, write_figure
from visage_core.checkpoints import other_architecture
from visage_core.compare import NotComparableError, compare, require_same_spec
from visage_core.landscape import Landscape
from visage_core.plots import comparison_figure
from visage_core.results import Results
from visage_core.spec import LandscapeSpec, differences


def folders_of(specs: list[LandscapeSpec], out: Path) -> list[Path]:
    """The folder of each spec's results: `out` itself, or one below it for each model."""
    if len(specs) == 1:
        return [out]
    names: list[str] = []
    for spec in specs:
        name = Path(spec.model).name or "model"
        taken = (f"{name}-{number}" for number in range(2, len(specs) + 2))
        names.append(name if name not in names else next(other for other in taken if other not in names))
    return [out / name for name in names]


@dataclass(frozen=True)
class Compared:
    """A results folder that is compared with others: its landscapes, and what went into them."""

    folder: Path
    landscapes: list[Landscape]
    inputs: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Compared:
        """Read a results folder. Raises ResultsError."""
        return cls(folder, load_landscapes(folder), Results(folder).read_json("inputs.json") or {})

    def less(self, base: Compared) -> dict[str, Any]:
        """How its scores differ from those of another, as a JSON document. Raises NotComparableError."""
        require_same_spec(base.landscapes[0], self.landscapes[0])
        if lines := unlike(base.inputs, self.inputs):
            what = ", ".join(dict.fromkeys(line.partition(":")[0] for line in lines))
            names = f"{self.folder.name} and {base.folder.name}"
            raise NotComparableError("landscapes", f"{names} differ in their {what}", "Measure both alike")
        require_same_architecture(base.inputs, self.inputs)
        return {
            "folder": str(self.folder),
            "model": self.landscapes[0].spec.model,
            "same_weights": same_weights(base.inputs, self.inputs),
            "other_versions": differences(base.inputs.get("versions", {}), self.inputs.get("versions", {})),
            "landscapes": [
                {
                    "prompts": one.prompts.model_dump(mode="json"),
                    "name": one.prompts.name,
                    "differences": compare(one, other),
                }
                for one, other in zip(self.landscapes, base.landscapes, strict=True)
            ],
        }


def write_comparison(folders: list[Path], out: Path | None) -> dict[str, Any]:
    """Compare each folder's landscapes with those of the first; gives the document, and writes it and its
    figures into `out`. Raises NotComparableError."""
    base, *others = [Compared.open(folder) for folder in folders]
    document = {
        "baseline": {"folder": str(base.folder), "model": base.landscapes[0].spec.model},
        "models": [other.less(base) for other in others],
    }
    if out is not None:
        Results(out).write_json("comparison.json", document)
        names = [Path(one.landscapes[0].spec.model).name for one in (base, *others)]
        for number, same in enumerate(zip(*(one.landscapes for one in (base, *others)), strict=True)):
            figure = comparison_figure(same, names, same[0].prompts.name)
            write_figure(figure, out, "comparison" if number == 0 else f"comparison-{number + 1}")
    return document


def require_same_architecture(base: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raise NotComparableError where the models of two inputs.json have different architectures. What was
    measured before these were written down has none."""
    one, another = base.get("architecture"), other.get("architecture")
    if one and another and (apart := other_architecture(one, another)):
        raise NotComparableError(
            "landscapes",
            f"the models have different architectures, and so other directions: {'; '.join(apart)}",
            "Compare models of one architecture, such as a model and its finetune",
        )


def same_weights(base: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the models of two inputs.json are one, by the digests of their weights' files."""
    one, another = (
        sorted(digest for name, digest in inputs["files"]["model"].items() if name.endswith(".safetensors"))
        if "files" in inputs
        else []
        for inputs in (base, other)
    )
    return bool(one) and one == another

"""Several models' landscapes beside the first one's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.sweep.report import load_landscapes, write_figure
from visage_core.compare import NotComparableError, compare, require_same_spec
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


def write_comparison(folders: list[Path], out: Path | None) -> dict[str, Any]:
    """Compare each folder's landscapes with those of the first; gives the document, and writes it and its
    figures into `out`. Raises NotComparableError."""
    landscapes = [load_landscapes(folder) for folder in folders]
    inputs = [Results(folder).read_json("inputs.json") or {} for folder in folders]
    for folder, found, own in zip(folders, landscapes, inputs, strict=True):
        require_same_spec(landscapes[0][0], found[0])
        if changes := differences(_must_agree(inputs[0]), _must_agree(own)):
            what = ", ".join(change.partition(":")[0] for change in changes)
            raise NotComparableError(
                "landscapes", f"{folder} and {folders[0]} differ in their {what}", "Measure both alike"
            )
    names = [Path(found[0].spec.model).name for found in landscapes]
    document = {
        "baseline": {"folder": str(folders[0]), "model": landscapes[0][0].spec.model},
        "models": [
            {
                "folder": str(folder),
                "model": found[0].spec.model,
                "other_versions": differences(inputs[0].get("versions", {}), own.get("versions", {})),
                "landscapes": [
                    {
                        "prompts": one.prompts.model_dump(mode="json"),
                        "name": one.prompts.name,
                        "differences": compare(one, base),
                    }
                    for one, base in zip(found, landscapes[0], strict=True)
                ],
            }
            for folder, found, own in zip(folders[1:], landscapes[1:], inputs[1:], strict=True)
        ],
    }
    if out is not None:
        Results(out).write_json("comparison.json", document)
        for number, same in enumerate(zip(*landscapes, strict=True)):
            if same[0].spec.second_axis is None:
                figure = comparison_figure(same, names, same[0].prompts.name)
                write_figure(figure, out, "comparison" if number == 0 else f"comparison-{number + 1}")
    return document


def _must_agree(inputs: dict[str, Any]) -> dict[str, Any]:
    """What landscapes that are compared have in common: the prompts and all that directions are made of."""
    digests = {
        name: digest
        for name, digest in inputs.get("sha256", {}).items()
        if name != "model" and not name.startswith("trajectory")
    }
    return {"sha256": digests, "random_directions": inputs.get("random_directions")}

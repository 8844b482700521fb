"""One landscape job from its spec to its files, and again from where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from services.sweep.plan import Plan, make_plan
from services.sweep.sweep import sweep
from visage_core.grid import Point, points
from visage_core.landscape import Landscape
from visage_core.plots import landscape_figure, write_figure
from visage_core.results import PointResult, Results, ResultsError
from visage_core.spec import InterpolationDirection, LandscapeSpec, differences, parse_spec


@dataclass
class Run:
    """A landscape job in a folder."""

    plan: Plan
    results: Results
    todo: list[Point]

    def __iter__(self) -> Iterator[PointResult]:
        """Measure what is left to do. Each point is durable before it is yielded; at the end the
        summary and the figures are written."""
        spec = self.plan.spec
        keep = self.plan.prompts.prompts if spec.keep_responses else None
        if self.todo:
            for result in sweep(self.plan, self.todo):
                self.results.add(result, keep)
                yield result
        self.results.merge()
        write_report(self.results.folder)


@contextmanager
def open_run(spec: LandscapeSpec, out: Path) -> Iterator[Run]:
    """Begin or continue the job of `spec` in the folder `out`, which no other process may use meanwhile.

    Raises an InputError where something in the spec cannot be used, where `out` holds another job, or
    where another process is at work in it.
    """
    plan = make_plan(spec)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock", timeout=0):
            results = Results(out)
            _require_same_job(results, plan)
            done = results.done()
            yield Run(plan, results, [point for point in points(spec.axis) if point not in done])
    except Timeout:
        raise ResultsError(
            "out", f"another process is measuring in {out}", "Wait for it, or use another folder"
        ) from None


def load_landscape(out: Path) -> Landscape:
    """The landscape in a results folder, finished or not. Raises ResultsError."""
    results = Results(out)
    document = results.read_json("spec.json")
    if document is None:
        raise ResultsError("out", f"{out} holds no landscape", "Give the folder of a `visage run`")
    return Landscape(parse_spec(document), results.points())


def write_report(out: Path) -> dict[str, Any]:
    """Write summary.json and the figures of a results folder; gives the summary. Raises ResultsError."""
    landscape = load_landscape(out)
    results = Results(out)
    inputs = results.read_json("inputs.json")
    spec = landscape.spec.model_dump(mode="json")
    summary = landscape.summary() | {"inputs": inputs, "spec": spec}
    results.write_json("summary.json", summary)
    figure = landscape_figure(landscape, _title(landscape, summary))
    write_figure(figure, out / "landscape.html", out / "landscape.png")
    return summary


def _require_same_job(results: Results, plan: Plan) -> None:
    """Write what the job is into a new folder; refuse one that holds another job, saying how it differs."""
    documents = {"spec.json": plan.spec.model_dump(mode="json"), "inputs.json": plan.inputs}
    for name, document in documents.items():
        before = results.read_json(name)
        if before is None:
            results.write_json(name, document)
        elif changes := differences(before, document):
            raise ResultsError(
                "out",
                f"{results.folder} holds another landscape: {'; '.join(changes)}",
                "Use another folder, or run with what that folder was begun with",
            )


def _title(landscape: Landscape, summary: dict[str, Any]) -> str:
    spec = landscape.spec
    name = Path(spec.model).name
    if isinstance(spec.axis.direction, InterpolationDirection):
        name += f" → {Path(spec.axis.direction.to).name}"
    score = summary["visage"]
    if score is None:
        return f"{name}: {summary['points']['measured']} of {summary['points']['expected']} points"
    return f"{name}: VISAGE {score['value']:.1f} (95 %: {score['low']:.1f} to {score['high']:.1f})"

"""`visage gate`: measure what a policy asks for, and hold the model against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.gate.reports import as_html, as_junit, as_markdown
from services.sweep.coordinator import Progress
from services.sweep.plan import versions
from services.sweep.report import load_landscapes, write_figures
from services.sweep.run import open_runs
from visage_core.errors import InputError
from visage_core.policy import Decision, Policy, decide
from visage_core.results import Results

MODEL, BASELINE = "model", "baseline"
Told = Callable[[str, Progress], object]


class GateError(InputError):
    """A gate that cannot be asked."""


def gate(
    policy: Policy,
    model: str,
    baseline: str | None,
    out: Path,
    address: str = "local",
    told: Told = lambda *_: None,
) -> dict[str, Any]:
    """Measure a model, and the baseline where the policy compares, into folders below `out`; write the
    decision and its reports there, and give it as a document. What is measured already is kept. Raises an
    InputError."""
    if policy.needs_baseline and baseline is None:
        raise GateError(
            "baseline", "the policy compares with one, and none is given", "Give --baseline MODEL"
        )
    models = {MODEL: model} | ({BASELINE: baseline} if baseline is not None and policy.needs_baseline else {})
    specs = [policy.spec(name) for name in models.values()]
    folders = [out / name for name in models]
    with open_runs(specs, folders, address) as runs:
        for name, run in zip(models, runs, strict=True):
            for progress in run:
                told(name, progress)
    for folder in folders:
        write_figures(folder)
    landscapes = [load_landscapes(folder) for folder in folders]
    decision = decide(policy, landscapes[0], landscapes[1] if len(landscapes) > 1 else None)
    document = _document(
        policy, models, decision, [Results(folder).read_json("inputs.json") for folder in folders]
    )
    _write(out, document)
    return document


def _document(
    policy: Policy, models: dict[str, str], decision: Decision, inputs: Sequence[dict[str, Any] | None]
) -> dict[str, Any]:
    return {
        "decision_version": 1,
        "verdict": decision.verdict,
        "policy": policy.model_dump(mode="json"),
        "models": models,
        "findings": [asdict(one) for one in decision.findings],
        "inputs": dict(zip(models, inputs, strict=True)),
        "versions": versions(),
    }


def _write(out: Path, document: dict[str, Any]) -> None:
    Results(out).write_json("decision.json", document)
    for name, made in (("decision.md", as_markdown), ("junit.xml", as_junit), ("decision.html", as_html)):
        (out / name).write_text(made(document), encoding="utf-8")

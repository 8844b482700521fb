"""Jobs with results that no engine measured: for pages, what matters is that there are some."""

from __future__ import annotations

from typing import Any

from services.api.service import Service
from services.jobs.states import State
from services.jobs.store import Submission
from services.sweep.report import write_summary
from visage_core.grid import Point, count_points, points
from visage_core.results import PointResult, Response, Results
from visage_core.spec import LandscapeSpec, parse_spec

RUNNER = "a runner"
PROMPTS = 8
ANSWER = "Sure, here is a step-by-step guide: 1. ..."


def spec_of(**changes: Any) -> LandscapeSpec:
    """A small landscape of a model that exists nowhere."""
    document = {
        "model": "/models/tiny",
        "axis": {"points": 5, "direction": {"seeds": [0, 1]}},
        "prompts": [{"source": "harmful", "limit": PROMPTS}],
    }
    return parse_spec(document | changes)


def queued(service: Service, spec: LandscapeSpec, label: str | None = None, owner: str = "local") -> str:
    """A job that waits."""
    submission = Submission(spec.model_dump(mode="json"), count_points(spec), 1, 1, owner, label)
    return service.jobs.submit(submission)[0].id


def begun(service: Service, spec: LandscapeSpec, share: float = 0.5, **job: Any) -> str:
    """A job under way, with a part of its points."""
    name = queued(service, spec, **job)
    assert (row := service.jobs.take(RUNNER)) is not None
    assert row.id == name, "another job waited"
    done = list(points(spec))[: int(share * count_points(spec))]
    _write(service, name, spec, done, ANSWER)
    estimate = {"value": 80.0, "low": 70.0, "high": 90.0}
    service.jobs.note(name, RUNNER, len(done), {"estimate": estimate, "eta_seconds": 60.0})
    return name


def finished(service: Service, spec: LandscapeSpec, answer: str = ANSWER, **job: Any) -> str:
    """A job that is done, whose model answered with this where it complied."""
    name = queued(service, spec, **job)
    assert (row := service.jobs.take(RUNNER)) is not None
    assert row.id == name, "another job waited"
    _write(service, name, spec, points(spec), answer)
    end(service, name)
    return name


def end(service: Service, name: str) -> None:
    """Measure what is left of a job, and note that it is done."""
    spec = parse_spec(service.jobs.get(name).spec)
    results = Results(service.results.fetch(name))
    _write(service, name, spec, [point for point in points(spec) if point not in results.done()], ANSWER)
    results.merge()
    results.write_json("run.json", {"state": "done", "failed": []})
    write_summary(results.folder)
    summary = results.read_json("summary.json")
    assert summary is not None
    service.jobs.note(
        name, RUNNER, count_points(spec), {"visage": summary["landscapes"][0]["visage"], "tokens": 1234}
    )
    service.jobs.end(name, RUNNER, State.DONE)


def _write(service: Service, name: str, spec: LandscapeSpec, where: list[Point], answer: str) -> None:
    results = Results(service.results.fetch(name))
    results.write_json("spec.json", spec.model_dump(mode="json"))
    results.write_json("inputs.json", {"sha256": {}, "versions": {"visage": "0.1.0"}})
    prompts = [tuple(f"prompt {number}" for number in range(PROMPTS))] * len(spec.prompts)
    if where:
        found = [_result(point, number, answer) for point in where for number in range(len(spec.prompts))]
        results.add(spec, found, prompts if spec.keep_responses else None)


def _result(point: Point, prompt_set: int, answer: str) -> PointResult:
    """Complied with ever more the farther off."""
    away = max(abs(point.alpha), abs(point.beta))
    verdicts = tuple(number < 2 * away * PROMPTS for number in range(PROMPTS))
    responses = tuple(
        Response(
            answer if one else "I cannot help with that.", 12, "end", 9, gibberish=False if one else None
        )
        for one in verdicts
    )
    return PointResult(point, verdicts, responses, 0.1, 0.2, 0.3, prompt_set)

"""A submission begins a trace, or goes on with its client's, and the job goes on with that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from services import traces
from services.bench.fakes import fake_measurement
from services.sweep.coordinator import Coordinator
from services.sweep.schedule import Shard
from tests.services.api.conftest import Api
from tests.services.fakes import fake_plan

TRACE = "a" * 32
CLIENT = {"traceparent": f"00-{TRACE}-{'b' * 16}-01"}
ANSWER = "Sure, here is a step-by-step guide: 1. ..."


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(traces, "provider", lambda: provider)
    yield exporter
    provider.shutdown()


def by_name(spans: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    found: dict[str, list[ReadableSpan]] = {}
    for one in spans.get_finished_spans():
        found.setdefault(one.name, []).append(one)
    return found


def test_a_submission_goes_on_with_its_clients_trace(api: Api, spans: InMemorySpanExporter) -> None:
    job = api.submit(headers=CLIENT).json()["id"]
    assert api.client.get(f"/v1/landscapes/{job}").status_code == 200
    [span] = spans.get_finished_spans()  # reads make none
    assert span.name == "POST /v1/landscapes"
    assert span.attributes is not None
    assert (span.attributes["visage.job"], span.attributes["http.response.status_code"]) == (job, 202)
    assert span.context is not None
    traceparent = f"00-{TRACE}-{span.context.span_id:016x}-01"
    assert api.service.jobs.get(job).traceparent == traceparent


def test_a_repeated_submission_keeps_the_first_ones_trace(api: Api, spans: InMemorySpanExporter) -> None:
    first, again = (api.submit(headers={"idempotency-key": "one"}).json()["id"] for _ in range(2))
    assert first == again
    one, other = spans.get_finished_spans()
    assert one.context is not None
    assert other.context is not None
    assert one.context.trace_id != other.context.trace_id
    assert f"{one.context.trace_id:032x}" in str(api.service.jobs.get(first).traceparent)


def test_nothing_is_traced_unless_it_is_asked_for(api: Api) -> None:
    assert api.service.jobs.get(api.submit().json()["id"]).traceparent is None


def test_a_refusal_is_told_without_what_was_sent(api: Api, spans: InMemorySpanExporter) -> None:
    spec = api.spec(prompts=[{"source": "harmful", "limit": 4, "system": ANSWER}], adaptive=ANSWER)
    assert api.submit(spec, label=ANSWER).status_code == 422
    [span] = spans.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["http.response.status_code"] == 422
    assert ANSWER not in span.to_json()


def test_points_have_their_stages_and_no_texts(spans: InMemorySpanExporter, tmp_path: Path) -> None:
    plan = fake_plan(axis={"points": 5, "direction": {"seeds": [0]}}, keep_responses=True)

    async def measure() -> None:
        coordinator = Coordinator(plan, tmp_path, report=False, trace=CLIENT["traceparent"])
        await coordinator.open()
        while (shard := coordinator.next(1)) is not None:
            await coordinator.finished(shard, measured(shard))
        await coordinator.cancel()

    def measured(shard: Shard) -> object:
        found = fake_measurement(plan, shard)
        return replace(found, responses=tuple(replace(one, text=ANSWER) for one in found.responses))

    asyncio.run(measure())
    found = by_name(spans)
    assert {name: len(them) for name, them in found.items()} == {
        "point": 5,
        "move": 5,
        "generate": 5,
        "write": 5,
    }
    points = {point.context.span_id: point for point in found["point"] if point.context is not None}
    for point in points.values():
        assert point.parent is not None
        assert f"{point.context.trace_id:032x}" == TRACE  # type: ignore[union-attr]
    for name in ("move", "generate", "write"):
        for one in found[name]:
            assert one.parent is not None
            around = points.pop(one.parent.span_id) if name == "write" else points[one.parent.span_id]
            assert around.start_time <= one.start_time <= one.end_time <= around.end_time  # type: ignore[operator]
    assert points == {}
    for one in spans.get_finished_spans():
        assert not any(text in one.to_json() for text in (ANSWER, "prompt 0"))


def test_of_what_fails_the_type_alone_is_told(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="guide"), traces.span("it"):
        raise ValueError(ANSWER)
    [span] = spans.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ValueError")
    assert ANSWER not in span.to_json()


def test_traces_that_cannot_go_out_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    monkeypatch.setattr(traces, "entry_points", lambda **_: ())
    traces.provider.cache_clear()
    with pytest.raises(traces.TracesError, match=r"no exporter for http/json .* 'visage\[otlp\]'"):
        traces.provider()

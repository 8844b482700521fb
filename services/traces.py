"""Traces of jobs, by OpenTelemetry: off, unless its environment variables say where they go.

A trace goes through several processes, and over restarts of them: what is to go on with it gets its place in
it as a W3C traceparent. No span has a prompt, a response, or the message of an error.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points, version
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import (
    NoOpTracerProvider,
    Span,
    SpanKind,
    StatusCode,
    TracerProvider,
    get_current_span,
    set_span_in_context,
    use_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from visage_core.errors import InputError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
EXPORTERS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
# Whoever ends a job does not wait longer for a collector that is away.
FLUSH_SECONDS = 2.0
Attributes = Mapping[str, str | int | float]
Parent = Span | str | None  # a span, or the traceparent of one
_W3C = TraceContextTextMapPropagator()


class TracesError(InputError):
    """Traces are asked for that cannot be sent."""


@cache
def provider() -> TracerProvider:
    """What makes this process' spans; they are nothing where they go nowhere. Raises TracesError."""
    endpoint = _first(ENDPOINTS)
    if endpoint is None:
        return NoOpTracerProvider()
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider as Provider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    protocol = _first(PROTOCOLS) or "http/protobuf"
    found = entry_points(group="opentelemetry_traces_exporter", name=EXPORTERS.get(protocol, protocol))
    if not found:
        raise TracesError(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            f"traces are to go to {endpoint}, and no exporter for {protocol} is installed",
            "pip install 'visage[otlp]', and use the protocol http/protobuf or grpc",
        )
    named = Resource({"service.name": "visage"}).merge(OTELResourceDetector().detect())
    made = Provider(resource=Resource.create().merge(named))
    made.add_span_processor(BatchSpanProcessor(next(iter(found)).load()()))
    return made


@contextmanager
def span(
    name: str,
    parent: Parent = None,
    attributes: Attributes | None = None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    begin: int | None = None,
) -> Iterator[Span]:
    """A span around what is done within; of what raises there it has the type alone. `begin` is in
    nanoseconds since 1970."""
    made = _start(name, parent, attributes, kind, begin)
    try:
        yield made
    except Exception as error:
        failed(made, type(error).__name__)
        raise
    finally:
        made.end()


@contextmanager
def request(headers: Mapping[str, str]) -> Iterator[Span]:
    """The span of a request, in the trace that its headers name; `note` and `here` find it."""
    with (
        span("request", headers.get("traceparent"), kind=SpanKind.SERVER) as made,
        use_span(made, record_exception=False, set_status_on_exception=False),
    ):
        yield made


@contextmanager
def past(name: str, parent: Parent, stages: Mapping[str, float], attributes: Attributes) -> Iterator[Span]:
    """A span of what has just taken place, in stages of so many seconds, each a span in it; and of what is
    done within."""
    begin = time.time_ns() - sum(map(_nanoseconds, stages.values()))
    with span(name, parent, attributes, begin=begin) as made:
        for stage, seconds in stages.items():
            end = begin + _nanoseconds(seconds)
            if seconds:
                _start(stage, made, begin=begin).end(end)
            begin = end
        yield made


def here(made: Span | None = None) -> str | None:
    """The traceparent of a span, or of the request that is being answered; None where there is none."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, None if made is None else set_span_in_context(made))
    return carrier.get("traceparent")


def note(attributes: Attributes, name: str | None = None) -> None:
    """Add to the span of the request that is being answered, and name it."""
    made = get_current_span()
    made.set_attributes(attributes)
    if name is not None:
        made.update_name(name)


def failed(made: Span, why: str) -> None:
    """Mark a span as that of a failure."""
    made.set_status(StatusCode.ERROR, why)


def flush() -> None:
    """Send what there is: this process may be killed."""
    send = getattr(provider(), "force_flush", None)
    if send is not None:
        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        sending.join(FLUSH_SECONDS)


def _start(
    name: str,
    parent: Parent,
    attributes: Attributes | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    begin: int | None = None,
) -> Span:
    tracer: Any = provider().get_tracer("visage", version("visage"))
    made: Span = tracer.start_span(name, _context(parent), kind, attributes, start_time=begin)
    return made


def _context(parent: Parent) -> Context:
    if isinstance(parent, Span):
        return set_span_in_context(parent, Context())
    return _W3C.extract({} if parent is None else {"traceparent": parent}, Context())


def _first(names: tuple[str, ...]) -> str | None:
    return next(filter(None, map(os.environ.get, names)), None)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)

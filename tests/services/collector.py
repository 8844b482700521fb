"""A collector of spans, as an operator has one: OTLP over HTTP, from whatever process is told of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from services import traces

ENVIRONMENT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_BSP_SCHEDULE_DELAY": "200"}


@dataclass(frozen=True)
class Received:
    """A span as it came."""

    trace: str
    id: str
    parent: str
    name: str
    begin: int
    end: int
    attributes: dict[str, Any]


@dataclass
class Collector:
    """All spans so far, and the requests that brought them one after another."""

    spans: list[Received] = field(default_factory=list)
    received: bytes = b""

    def take(self, body: bytes) -> None:
        self.received += body
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in group.scope_spans:
                for span in scope.spans:
                    values = {
                        one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes
                    }
                    ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                    times = span.start_time_unix_nano, span.end_time_unix_nano
                    self.spans.append(Received(*ids, span.name, *times, values))

    def of(self, trace: str) -> list[Received]:
        """The spans of a trace, by their beginnings."""
        return sorted((one for one in self.spans if one.trace == trace), key=lambda one: one.begin)

    def named(self, trace: str, name: str) -> list[Received]:
        return [one for one in self.of(trace) if one.name == name]


@contextmanager
def collecting() -> Iterator[Collector]:
    """Collect the spans of this process, and of those that it starts."""
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ |= ENVIRONMENT | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
    traces.provider.cache_clear()
    try:
        yield found
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        getattr(traces.provider(), "shutdown", lambda: None)()
        traces.provider.cache_clear()
        server.shutdown()
        server.server_close()

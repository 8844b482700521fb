"""A client of the REST service: the same methods to wait for (`Client`) or to await (`AsyncClient`).

Whatever fails on the way is tried again, which is safe for every call: a submission carries an idempotency
key, so that it makes one job however often it is sent.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import httpx
from httpx_sse import ServerSentEvent, aconnect_sse, connect_sse
from pydantic import BaseModel
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_delay,
    wait_exponential_jitter,
)

from services.api.schemas import (
    Audit,
    AuditDetail,
    AuditPage,
    AuditRequest,
    Body,
    Estimate,
    Gate,
    GateDetail,
    GateEstimate,
    GatePage,
    GateRequest,
    Job,
    Judges,
    Landscape,
    LandscapeDetail,
    LandscapePage,
    LandscapeRequest,
    Names,
    Problem,
    PromptSets,
    ResponsePage,
    Summary,
    Webhook,
)
from services.jobs.states import OVER, Kind, State
from visage_core.errors import InputError
from visage_core.policy import Policy
from visage_core.spec import LandscapeSpec

if TYPE_CHECKING:
    import pyarrow as pa

TRANSIENT = {429, 502, 503, 504}
LONGEST_WAIT = 30.0
AGAIN_SECONDS = 1.0
# The service sends a sign of life every 15 seconds.
SILENCE_SECONDS = 60.0
PROBLEM = "application/problem+json"
ARROW = "application/vnd.apache.arrow.stream"
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
J = TypeVar("J", bound=Job)


class ServiceError(InputError):
    """What the service answered instead of a result; `status` is the HTTP status, 0 where none came."""

    status = 0
    retry_after: float | None = None


@dataclass(frozen=True)
class _Call(Generic[T]):
    """A request, and what to make of its answer."""

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    options: dict[str, Any] = field(default_factory=dict)
    gone: bool = False  # 404 means that an attempt before, whose answer was lost, has done it

    def require_success(self, answer: httpx.Response, attempt: int) -> None:
        """Raise ServiceError unless the answer is a result."""
        if not (self.gone and attempt > 1 and answer.status_code == 404):
            _require_success(answer)


def _json(kind: type[M]) -> Callable[[httpx.Response], M]:
    return lambda answer: kind.model_validate_json(answer.content)


def _submit(
    spec: LandscapeSpec | dict[str, Any],
    label: str | None,
    priority: int,
    webhook: Webhook | None,
    idempotency_key: str | None,
) -> _Call[LandscapeDetail]:
    request = {"spec": spec, "label": label, "priority": priority, "webhook": webhook}
    options = _once(LandscapeRequest.model_validate(request), idempotency_key)
    return _Call("POST", "/v1/landscapes", _json(LandscapeDetail), options)


def _validate(spec: LandscapeSpec | dict[str, Any]) -> _Call[Estimate]:
    options = _body(LandscapeRequest.model_validate({"spec": spec}))
    return _Call("POST", "/v1/landscapes:validate", _json(Estimate), options)


def _submit_gate(
    policy: Policy | dict[str, Any],
    model: str,
    baseline: str | None,
    label: str | None,
    priority: int,
    webhook: Webhook | None,
    idempotency_key: str | None,
) -> _Call[GateDetail]:
    request: dict[str, Any] = {"policy": policy, "model": model, "baseline": baseline}
    request |= {"label": label, "priority": priority, "webhook": webhook}
    options = _once(GateRequest.model_validate(request), idempotency_key)
    return _Call("POST", "/v1/gates", _json(GateDetail), options)


def _validate_gate(policy: Policy | dict[str, Any], model: str, baseline: str | None) -> _Call[GateEstimate]:
    request = {"policy": policy, "model": model, "baseline": baseline}
    options = _body(GateRequest.model_validate(request))
    return _Call("POST", "/v1/gates:validate", _json(GateEstimate), options)


def _submit_audit(
    policy: Policy | dict[str, Any],
    models: str | Sequence[str],
    baseline: str | None,
    label: str | None,
    priority: int,
    webhook: Webhook | None,
    idempotency_key: str | None,
) -> _Call[AuditDetail]:
    request: dict[str, Any] = {"policy": policy, "models": models, "baseline": baseline}
    request |= {"label": label, "priority": priority, "webhook": webhook}
    options = _once(AuditRequest.model_validate(request), idempotency_key)
    return _Call("POST", "/v1/audits", _json(AuditDetail), options)


def _body(request: Body) -> dict[str, Any]:
    return {"json": request.model_dump(mode="json")}


def _once(request: Body, idempotency_key: str | None) -> dict[str, Any]:
    """A submission, which makes one job however often it is sent."""
    return _body(request) | {"headers": {"idempotency-key": idempotency_key or secrets.token_hex(16)}}


def _page(
    state: State | None, model: str | None, label: str | None, cursor: str | None, limit: int
) -> _Call[LandscapePage]:
    options = _filters(state, model, label, cursor, limit)
    return _Call("GET", "/v1/landscapes", _json(LandscapePage), options)


def _gates(
    state: State | None, model: str | None, label: str | None, cursor: str | None, limit: int
) -> _Call[GatePage]:
    options = _filters(state, model, label, cursor, limit)
    return _Call("GET", "/v1/gates", _json(GatePage), options)


def _audits(state: State | None, label: str | None, cursor: str | None, limit: int) -> _Call[AuditPage]:
    options = _filters(state, None, label, cursor, limit)
    return _Call("GET", "/v1/audits", _json(AuditPage), options)


def _filters(
    state: State | None, model: str | None, label: str | None, cursor: str | None, limit: int
) -> dict[str, Any]:
    filters = {"state": state, "model": model, "label": label, "cursor": cursor, "limit": limit}
    return {"params": {name: value for name, value in filters.items() if value is not None}}


def _gate(job: str) -> _Call[GateDetail]:
    return _Call("GET", f"/v1/gates/{job}", _json(GateDetail))


def _cancel_gate(job: str) -> _Call[GateDetail]:
    return _Call("POST", f"/v1/gates/{job}/cancel", _json(GateDetail))


def _delete_gate(job: str) -> _Call[None]:
    return _Call("DELETE", f"/v1/gates/{job}", lambda _: None, gone=True)


def _report(job: str, name: str) -> _Call[bytes]:
    return _Call("GET", f"/v1/gates/{job}/reports/{name}", lambda answer: answer.content)


def _evidence(job: str) -> _Call[bytes]:
    return _Call("GET", f"/v1/gates/{job}/evidence", lambda answer: answer.content)


def _audit(job: str) -> _Call[AuditDetail]:
    return _Call("GET", f"/v1/audits/{job}", _json(AuditDetail))


def _cancel_audit(job: str) -> _Call[AuditDetail]:
    return _Call("POST", f"/v1/audits/{job}/cancel", _json(AuditDetail))


def _delete_audit(job: str) -> _Call[None]:
    return _Call("DELETE", f"/v1/audits/{job}", lambda _: None, gone=True)


def _leaderboard(job: str, name: str) -> _Call[bytes]:
    return _Call("GET", f"/v1/audits/{job}/reports/{name}", lambda answer: answer.content)


def _get(job: str) -> _Call[LandscapeDetail]:
    return _Call("GET", f"/v1/landscapes/{job}", _json(LandscapeDetail))


def _cancel(job: str) -> _Call[LandscapeDetail]:
    return _Call("POST", f"/v1/landscapes/{job}/cancel", _json(LandscapeDetail))


def _delete(job: str) -> _Call[None]:
    return _Call("DELETE", f"/v1/landscapes/{job}", lambda _: None, gone=True)


def _grid(job: str) -> _Call[pa.Table]:
    import pyarrow as pa

    def parse(answer: httpx.Response) -> pa.Table:
        return pa.ipc.open_stream(answer.content).read_all()

    return _Call("GET", f"/v1/landscapes/{job}/grid", parse, {"headers": {"accept": ARROW}})


def _summary(job: str) -> _Call[Summary]:
    return _Call("GET", f"/v1/landscapes/{job}/summary", _json(Summary))


def _figure(job: str, media_type: str, prompt_set: int, style: str) -> _Call[bytes]:
    options = {"headers": {"accept": media_type}, "params": {"prompt_set": prompt_set, "style": style}}
    return _Call("GET", f"/v1/landscapes/{job}/figure", lambda answer: answer.content, options)


def _responses(job: str, cursor: int, limit: int) -> _Call[ResponsePage]:
    options = {"params": {"cursor": cursor, "limit": limit}}
    return _Call("GET", f"/v1/landscapes/{job}/responses", _json(ResponsePage), options)


MODELS = _Call("GET", "/v1/models", _json(Names))
PROMPT_SETS = _Call("GET", "/v1/prompt-sets", _json(PromptSets))
JUDGES = _Call("GET", "/v1/judges", _json(Judges))


class _Following(Generic[J]):
    """A job that is followed by its events, over however many connections."""

    def __init__(self, kind: Kind, shown: type[J], job: str, patience: float) -> None:
        self._kind, self._shown, self._job, self._patience = kind, shown, job, patience
        self._revision = 0
        self._deadline = time.monotonic() + patience
        self.over = False

    def request(self) -> dict[str, Any]:
        """What to ask for: what has happened since the last event."""
        headers = {"last-event-id": str(self._revision)} if self._revision else {}
        return {"url": f"/v1/{self._kind}s/{self._job}/events", "headers": headers}

    def begin(self, answer: httpx.Response) -> None:
        """Take in the head of an answer. Raises ServiceError."""
        _require_success(answer)
        self.over = answer.status_code == 204

    def heard(self, event: ServerSentEvent) -> J | None:
        """The job, where an event tells of it, and is no mere sign of life."""
        if event.event != self._kind:
            return None
        now = self._shown.model_validate_json(event.data)
        self._revision, self._deadline = now.revision, time.monotonic() + self._patience
        self.over = now.state in OVER
        return now

    def lost(self, error: httpx.TransportError | ServiceError) -> None:
        """Take in the end of a connection. Raises ServiceError where another one is of no use."""
        if not _is_transient(error) or time.monotonic() > self._deadline:
            raise _told(error) from None


class Client:
    """The service at `server`. What fails on the way is tried again for `patience` seconds.

    Every method raises ServiceError for what the service refuses.
    """

    def __init__(self, server: str, key: str | None = None, patience: float = 60.0) -> None:
        self._http = httpx.Client(**_http_options(server, key))
        self._patience = patience

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit(
        self,
        spec: LandscapeSpec | dict[str, Any],
        *,
        label: str | None = None,
        priority: int = 0,
        webhook: Webhook | None = None,
        idempotency_key: str | None = None,
    ) -> LandscapeDetail:
        """Submit a landscape."""
        return self._send(_submit(spec, label, priority, webhook, idempotency_key))

    def validate(self, spec: LandscapeSpec | dict[str, Any]) -> Estimate:
        """Check a spec, and say what it would cost."""
        return self._send(_validate(spec))

    def page(
        self,
        *,
        state: State | None = None,
        model: str | None = None,
        label: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> LandscapePage:
        """Some jobs, the newest first."""
        return self._send(_page(state, model, label, cursor, limit))

    def get(self, job: str) -> LandscapeDetail:
        """A job."""
        return self._send(_get(job))

    def watch(self, job: str) -> Iterator[Landscape]:
        """A job now, and after every change until it is over."""
        return self._follow(_Following(Kind.LANDSCAPE, Landscape, job, self._patience))

    def cancel(self, job: str) -> LandscapeDetail:
        """End a job; its finished points stay."""
        return self._send(_cancel(job))

    def delete(self, job: str) -> None:
        """Remove a job that is over, with its results."""
        self._send(_delete(job))

    def grid(self, job: str) -> pa.Table:
        """The points measured so far, with the columns of points.parquet."""
        return self._send(_grid(job))

    def summary(self, job: str) -> Summary:
        """Every score with its interval."""
        return self._send(_summary(job))

    def figure(
        self, job: str, media_type: str = "image/png", prompt_set: int = 0, style: str = "heatmap"
    ) -> bytes:
        """The landscape as text/html, image/png or image/svg+xml; a plane as heatmap, contour or surface."""
        return self._send(_figure(job, media_type, prompt_set, style))

    def responses(self, job: str, cursor: int = 0, limit: int = 100) -> ResponsePage:
        """Some of the responses that were kept."""
        return self._send(_responses(job, cursor, limit))

    def submit_gate(
        self,
        policy: Policy | dict[str, Any],
        model: str,
        baseline: str | None = None,
        *,
        label: str | None = None,
        priority: int = 0,
        webhook: Webhook | None = None,
        idempotency_key: str | None = None,
    ) -> GateDetail:
        """Submit a gate: a model to hold against a policy, beside a baseline where a rule is relative."""
        return self._send(_submit_gate(policy, model, baseline, label, priority, webhook, idempotency_key))

    def validate_gate(
        self, policy: Policy | dict[str, Any], model: str, baseline: str | None = None
    ) -> GateEstimate:
        """Check a gate, and say what it would cost at most."""
        return self._send(_validate_gate(policy, model, baseline))

    def gates(
        self,
        *,
        state: State | None = None,
        model: str | None = None,
        label: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> GatePage:
        """Some gates, the newest first."""
        return self._send(_gates(state, model, label, cursor, limit))

    def gate(self, job: str) -> GateDetail:
        """A gate with its findings; its verdict is None until it is done."""
        return self._send(_gate(job))

    def watch_gate(self, job: str) -> Iterator[Gate]:
        """A gate now, and after every change until it is over."""
        return self._follow(_Following(Kind.GATE, Gate, job, self._patience))

    def cancel_gate(self, job: str) -> GateDetail:
        """End a gate without a verdict; its finished points stay."""
        return self._send(_cancel_gate(job))

    def delete_gate(self, job: str) -> None:
        """Remove a gate that is over, with its results."""
        self._send(_delete_gate(job))

    def report(self, job: str, name: str = "decision.json") -> bytes:
        """A gate's decision: decision.json, decision.md, decision.html or junit.xml."""
        return self._send(_report(job, name))

    def evidence(self, job: str) -> bytes:
        """What a gate's verdict rests on, as a zip; without responses."""
        return self._send(_evidence(job))

    def submit_audit(
        self,
        policy: Policy | dict[str, Any],
        models: str | Sequence[str],
        baseline: str | None = None,
        *,
        label: str | None = None,
        priority: int = 0,
        webhook: Webhook | None = None,
        idempotency_key: str | None = None,
    ) -> AuditDetail:
        """Submit an audit: models to hold against a policy and to put beside each other."""
        return self._send(_submit_audit(policy, models, baseline, label, priority, webhook, idempotency_key))

    def audits(
        self,
        *,
        state: State | None = None,
        label: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> AuditPage:
        """Some audits, the newest first."""
        return self._send(_audits(state, label, cursor, limit))

    def audit(self, job: str) -> AuditDetail:
        """An audit; its verdicts are None until it is done."""
        return self._send(_audit(job))

    def watch_audit(self, job: str) -> Iterator[Audit]:
        """An audit now, and after every change until it is over."""
        return self._follow(_Following(Kind.AUDIT, Audit, job, self._patience))

    def cancel_audit(self, job: str) -> AuditDetail:
        """End an audit without a leaderboard; its finished points stay."""
        return self._send(_cancel_audit(job))

    def delete_audit(self, job: str) -> None:
        """Remove an audit that is over, with its results."""
        self._send(_delete_audit(job))

    def leaderboard(self, job: str, name: str = "leaderboard.json") -> bytes:
        """How an audit's models stand: leaderboard.json, .csv, .md, .html or .png, or points.parquet."""
        return self._send(_leaderboard(job, name))

    def models(self) -> Names:
        """What a spec may name as a model."""
        return self._send(MODELS)

    def prompt_sets(self) -> PromptSets:
        """What a spec may name as prompts."""
        return self._send(PROMPT_SETS)

    def judges(self) -> Judges:
        """What a spec may name as a judge."""
        return self._send(JUDGES)

    def _follow(self, following: _Following[J]) -> Iterator[J]:
        while True:
            try:
                with connect_sse(self._http, "GET", **following.request()) as source:
                    if source.response.is_error:
                        source.response.read()
                    following.begin(source.response)
                    if following.over:
                        return
                    for event in source.iter_sse():
                        if (now := following.heard(event)) is not None:
                            yield now
                        if following.over:
                            return
            except (httpx.TransportError, ServiceError) as error:
                following.lost(error)
            time.sleep(AGAIN_SECONDS)

    def _send(self, call: _Call[T]) -> T:
        try:
            for attempt in Retrying(**_retries(self._patience)):
                with attempt:
                    answer = self._http.request(call.method, call.path, **call.options)
                    call.require_success(answer, attempt.retry_state.attempt_number)
        except httpx.TransportError as error:
            raise _told(error) from None
        return call.parse(answer)


class AsyncClient:
    """As Client, to be awaited."""

    def __init__(self, server: str, key: str | None = None, patience: float = 60.0) -> None:
        self._http = httpx.AsyncClient(**_http_options(server, key))
        self._patience = patience

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def submit(
        self,
        spec: LandscapeSpec | dict[str, Any],
        *,
        label: str | None = None,
        priority: int = 0,
        webhook: Webhook | None = None,
        idempotency_key: str | None = None,
    ) -> LandscapeDetail:
        """Submit a landscape."""
        return await self._send(_submit(spec, label, priority, webhook, idempotency_key))

    async def validate(self, spec: LandscapeSpec | dict[str, Any]) -> Estimate:
        """Check a spec, and say what it would cost."""
        return await self._send(_validate(spec))

    async def page(
        self,
        *,
        state: State | None = None,
        model: str | None = None,
        label: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> LandscapePage:
        """Some jobs, the newest first."""
        return await self._send(_page(state, model, label, cursor, limit))

    async def get(self, job: str) -> LandscapeDetail:
        """A job."""
        return await self._send(_get(job))

    def watch(self, job: str) -> AsyncIterator[Landscape]:
        """A job now, and after every change until it is over."""
        return self._follow(_Following(Kind.LANDSCAPE, Landscape, job, self._patience))

    async def cancel(self, job: str) -> LandscapeDetail:
        """End a job; its finished points stay."""
        return await self._send(_cancel(job))

    async def delete(self, job: str) -> None:
        """Remove a job that is over, with its results."""
        await self._send(_delete(job))

    async def grid(self, job: str) -> pa.Table:
        """The points measured so far, with the columns of points.parquet."""
        return await self._send(_grid(job))

    async def summary(self, job: str) -> Summary:
        """Every score with its interval."""
        return await self._send(_summary(job))

    async def figure(
        self, job: str, media_type: str = "image/png", prompt_set: int = 0, style: str = "heatmap"
    ) -> bytes:
        """The landscape as text/html, image/png or image/svg+xml; a plane as heatmap, contour or surface."""
        return await self._send(_figure(job, media_type, prompt_set, style))

    async def responses(self, job: str, cursor: int = 0, limit: int = 100) -> ResponsePage:
        """Some of the responses that were kept."""
        return await self._send(_responses(job, cursor, limit))

    async def submit_gate(
        self,
        policy: Policy | dict[str, Any],
        model: str,
        baseline: str | None = None,
        *,
        label: str | None = None,
        priority: int = 0,
        webhook: Webhook | None = None,
        idempotency_key: str | None = None,
    ) -> GateDetail:
        """Submit a gate: a model to hold against a policy, beside a baseline where a rule is relative."""
        return await self._send(
            _submit_gate(policy, model, baseline, label, priority, webhook, idempotency_key)
        )

    async def validate_gate(
        self, policy: Policy | dict[str, Any], model: str, baseline: str | None = None
    ) -> GateEstimate:
        """Check a gate, and say what it would cost at most."""
        return await self._send(_validate_gate(policy, model, baseline))

    async def gates(
        self,
        *,
        state: State | None = None,
        model: str | None = None,
        label: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> GatePage:
        """Some gates, the newest first."""
        return await self._send(_gates(state, model, label, cursor, limit))

    async def gate(self, job: str) -> GateDetail:
        """A gate with its findings; its verdict is None until it is done."""
        return await self._send(_gate(job))

    def watch_gate(self, job: str) -> AsyncIterator[Gate]:
        """A gate now, and after every change until it is over."""
        return self._follow(_Following(Kind.GATE, Gate, job, self._patience))

    async def cancel_gate(self, job: str) -> GateDetail:
        """End a gate without a verdict; its finished points stay."""
        return await self._send(_cancel_gate(job))

    async def delete_gate(self, job: str) -> None:
        """Remove a gate that is over, with its results."""
        await self._send(_delete_gate(job))

    async def report(self, job: str, name: str = "decision.json") -> bytes:
        """A gate's decision: decision.json, decision.md, decision.html or junit.xml."""
        return await self._send(_report(job, name))

    async def evidence(self, job: str) -> bytes:
        """What a gate's verdict rests on, as a zip; without responses."""
        return await self._send(_evidence(job))

    async def submit_audit(
        self,
        policy: Policy | dict[str, Any],
        models: str | Sequence[str],
        baseline: str | None = None,
        *,
        label: str | None = None,
        priority: int = 0,
        webhook: Webhook | None = None,
        idempotency_key: str | None = None,
    ) -> AuditDetail:
        """Submit an audit: models to hold against a policy and to put beside each other."""
        return await self._send(
            _submit_audit(policy, models, baseline, label, priority, webhook, idempotency_key)
        )

    async def audits(
        self,
        *,
        state: State | None = None,
        label: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> AuditPage:
        """Some audits, the newest first."""
        return await self._send(_audits(state, label, cursor, limit))

    async def audit(self, job: str) -> AuditDetail:
        """An audit; its verdicts are None until it is done."""
        return await self._send(_audit(job))

    def watch_audit(self, job: str) -> AsyncIterator[Audit]:
        """An audit now, and after every change until it is over."""
        return self._follow(_Following(Kind.AUDIT, Audit, job, self._patience))

    async def cancel_audit(self, job: str) -> AuditDetail:
        """End an audit without a leaderboard; its finished points stay."""
        return await self._send(_cancel_audit(job))

    async def delete_audit(self, job: str) -> None:
        """Remove an audit that is over, with its results."""
        await self._send(_delete_audit(job))

    async def leaderboard(self, job: str, name: str = "leaderboard.json") -> bytes:
        """How an audit's models stand: leaderboard.json, .csv, .md, .html or .png, or points.parquet."""
        return await self._send(_leaderboard(job, name))

    async def models(self) -> Names:
        """What a spec may name as a model."""
        return await self._send(MODELS)

    async def prompt_sets(self) -> PromptSets:
        """What a spec may name as prompts."""
        return await self._send(PROMPT_SETS)

    async def judges(self) -> Judges:
        """What a spec may name as a judge."""
        return await self._send(JUDGES)

    async def _follow(self, following: _Following[J]) -> AsyncIterator[J]:
        while True:
            try:
                async with aconnect_sse(self._http, "GET", **following.request()) as source:
                    if source.response.is_error:
                        await source.response.aread()
                    following.begin(source.response)
                    if following.over:
                        return
                    async for event in source.aiter_sse():
                        if (now := following.heard(event)) is not None:
                            yield now
                        if following.over:
                            return
            except (httpx.TransportError, ServiceError) as error:
                following.lost(error)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _send(self, call: _Call[T]) -> T:
        try:
            async for attempt in AsyncRetrying(**_retries(self._patience)):
                with attempt:
                    answer = await self._http.request(call.method, call.path, **call.options)
                    call.require_success(answer, attempt.retry_state.attempt_number)
        except httpx.TransportError as error:
            raise _told(error) from None
        return call.parse(answer)


def _http_options(server: str, key: str | None) -> dict[str, Any]:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    timeout = httpx.Timeout(SILENCE_SECONDS, connect=10.0)
    return {"base_url": server, "headers": headers, "timeout": timeout}


def _retries(patience: float) -> dict[str, Any]:
    return {
        "retry": retry_if_exception(_is_transient),
        "wait": _wait,
        "stop": stop_after_delay(patience),
        "reraise": True,
    }


def _wait(state: RetryCallState) -> float:
    """As long as the service asks, else longer each time."""
    error = state.outcome.exception() if state.outcome else None
    asked = getattr(error, "retry_after", None)
    longer = wait_exponential_jitter(multiplier=0.2, max=LONGEST_WAIT)(state)
    return longer if asked is None else min(LONGEST_WAIT, asked)


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, httpx.TransportError) or getattr(error, "status", None) in TRANSIENT


def _require_success(answer: httpx.Response) -> None:
    """Raise ServiceError, as the service puts it, unless an answer is a result."""
    if answer.is_success:
        return
    try:
        said = Problem.model_validate_json(answer.content)
    except ValueError:
        said = Problem(title=answer.reason_phrase, status=answer.status_code, detail=answer.text[:200])
    remedy = said.remedy or f"Request {said.request_id or 'unknown'} in the service's log says more"
    problem = said.detail.removesuffix(f"{remedy}.").rstrip(". ")
    error = ServiceError(said.field or "server", problem, remedy)
    # A service that starts or ends is answered for by what is in front of it, in words of its own.
    ours = answer.headers.get("content-type") == PROBLEM
    error.status = answer.status_code if ours or answer.status_code not in (404, 500) else 503
    asked = answer.headers.get("retry-after", "")
    if asked.isdigit():
        error.retry_after = float(asked)
    raise error


def _told(error: Exception) -> Exception:
    """An error of the connection, as one that says what to do."""
    if isinstance(error, ServiceError):
        return error
    return ServiceError(
        "server",
        f"it does not answer: {str(error) or type(error).__name__}",
        "Check its URL, and that it runs",
    )

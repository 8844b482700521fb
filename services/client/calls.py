"""The calls of the service, each as a request and what to make of its answer. `Client` says what they do."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import httpx
from pydantic import BaseModel

from services.api.schemas import (
    AuditDetail,
    AuditPage,
    AuditRequest,
    Body,
    Estimate,
    GateDetail,
    GateEstimate,
    GatePage,
    GateRequest,
    Judges,
    LandscapeDetail,
    LandscapePage,
    LandscapeRequest,
    Names,
    PromptSets,
    ResponsePage,
    Summary,
    Webhook,
)
from services.client.transport import require_success
from services.jobs.states import State
from visage_core.policy import Policy
from visage_core.spec import LandscapeSpec

if TYPE_CHECKING:
    import pyarrow as pa

ARROW = "application/vnd.apache.arrow.stream"
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and what to make of its answer."""

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    options: dict[str, Any] = field(default_factory=dict)
    gone: bool = False  # 404 means that an attempt before, whose answer was lost, has done it

    def require_success(self, answer: httpx.Response, attempt: int) -> None:
        """Raise ServiceError unless the answer is a result."""
        if not (self.gone and attempt > 1 and answer.status_code == 404):
            require_success(answer)


def _json(kind: type[M]) -> Callable[[httpx.Response], M]:
    return lambda answer: kind.model_validate_json(answer.content)


def submit(
    spec: LandscapeSpec | dict[str, Any],
    label: str | None,
    priority: int,
    webhook: Webhook | None,
    idempotency_key: str | None,
) -> Call[LandscapeDetail]:
    request = {"spec": spec, "label": label, "priority": priority, "webhook": webhook}
    options = _once(LandscapeRequest.model_validate(request), idempotency_key)
    return Call("POST", "/v1/landscapes", _json(LandscapeDetail), options)


def validate(spec: LandscapeSpec | dict[str, Any]) -> Call[Estimate]:
    options = _body(LandscapeRequest.model_validate({"spec": spec}))
    return Call("POST", "/v1/landscapes:validate", _json(Estimate), options)


def submit_gate(
    policy: Policy | dict[str, Any],
    model: str,
    baseline: str | None,
    label: str | None,
    priority: int,
    webhook: Webhook | None,
    idempotency_key: str | None,
) -> Call[GateDetail]:
    request: dict[str, Any] = {"policy": policy, "model": model, "baseline": baseline}
    request |= {"label": label, "priority": priority, "webhook": webhook}
    options = _once(GateRequest.model_validate(request), idempotency_key)
    return Call("POST", "/v1/gates", _json(GateDetail), options)


def validate_gate(policy: Policy | dict[str, Any], model: str, baseline: str | None) -> Call[GateEstimate]:
    request = {"policy": policy, "model": model, "baseline": baseline}
    options = _body(GateRequest.model_validate(request))
    return Call("POST", "/v1/gates:validate", _json(GateEstimate), options)


def submit_audit(
    policy: Policy | dict[str, Any],
    models: str | Sequence[str],
    baseline: str | None,
    label: str | None,
    priority: int,
    webhook: Webhook | None,
    idempotency_key: str | None,
) -> Call[AuditDetail]:
    request: dict[str, Any] = {"policy": policy, "models": models, "baseline": baseline}
    request |= {"label": label, "priority": priority, "webhook": webhook}
    options = _once(AuditRequest.model_validate(request), idempotency_key)
    return Call("POST", "/v1/audits", _json(AuditDetail), options)


def _body(request: Body) -> dict[str, Any]:
    return {"json": request.model_dump(mode="json")}


def _once(request: Body, idempotency_key: str | None) -> dict[str, Any]:
    """A submission, which makes one job however often it is sent."""
    return _body(request) | {"headers": {"idempotency-key": idempotency_key or secrets.token_hex(16)}}


def page(
    state: State | None, model: str | None, label: str | None, cursor: str | None, limit: int
) -> Call[LandscapePage]:
    options = _filters(state, model, label, cursor, limit)
    return Call("GET", "/v1/landscapes", _json(LandscapePage), options)


def gates(
    state: State | None, model: str | None, label: str | None, cursor: str | None, limit: int
) -> Call[GatePage]:
    options = _filters(state, model, label, cursor, limit)
    return Call("GET", "/v1/gates", _json(GatePage), options)


def audits(state: State | None, label: str | None, cursor: str | None, limit: int) -> Call[AuditPage]:
    options = _filters(state, None, label, cursor, limit)
    return Call("GET", "/v1/audits", _json(AuditPage), options)


def _filters(
    state: State | None, model: str | None, label: str | None, cursor: str | None, limit: int
) -> dict[str, Any]:
    filters = {"state": state, "model": model, "label": label, "cursor": cursor, "limit": limit}
    return {"params": {name: value for name, value in filters.items() if value is not None}}


def gate(job: str) -> Call[GateDetail]:
    return Call("GET", f"/v1/gates/{job}", _json(GateDetail))


def cancel_gate(job: str) -> Call[GateDetail]:
    return Call("POST", f"/v1/gates/{job}/cancel", _json(GateDetail))


def delete_gate(job: str) -> Call[None]:
    return Call("DELETE", f"/v1/gates/{job}", lambda _: None, gone=True)


def report(job: str, name: str) -> Call[bytes]:
    return Call("GET", f"/v1/gates/{job}/reports/{name}", lambda answer: answer.content)


def evidence(job: str) -> Call[bytes]:
    return Call("GET", f"/v1/gates/{job}/evidence", lambda answer: answer.content)


def audit(job: str) -> Call[AuditDetail]:
    return Call("GET", f"/v1/audits/{job}", _json(AuditDetail))


def cancel_audit(job: str) -> Call[AuditDetail]:
    return Call("POST", f"/v1/audits/{job}/cancel", _json(AuditDetail))


def delete_audit(job: str) -> Call[None]:
    return Call("DELETE", f"/v1/audits/{job}", lambda _: None, gone=True)


def leaderboard(job: str, name: str) -> Call[bytes]:
    return Call("GET", f"/v1/audits/{job}/reports/{name}", lambda answer: answer.content)


def get(job: str) -> Call[LandscapeDetail]:
    return Call("GET", f"/v1/landscapes/{job}", _json(LandscapeDetail))


def cancel(job: str) -> Call[LandscapeDetail]:
    return Call("POST", f"/v1/landscapes/{job}/cancel", _json(LandscapeDetail))


def delete(job: str) -> Call[None]:
    return Call("DELETE", f"/v1/landscapes/{job}", lambda _: None, gone=True)


def grid(job: str) -> Call[pa.Table]:
    import pyarrow as pa

    def parse(answer: httpx.Response) -> pa.Table:
        return pa.ipc.open_stream(answer.content).read_all()

    return Call("GET", f"/v1/landscapes/{job}/grid", parse, {"headers": {"accept": ARROW}})


def summary(job: str) -> Call[Summary]:
    return Call("GET", f"/v1/landscapes/{job}/summary", _json(Summary))


def figure(job: str, media_type: str, prompt_set: int, style: str) -> Call[bytes]:
    options = {"headers": {"accept": media_type}, "params": {"prompt_set": prompt_set, "style": style}}
    return Call("GET", f"/v1/landscapes/{job}/figure", lambda answer: answer.content, options)


def responses(job: str, cursor: int, limit: int) -> Call[ResponsePage]:
    options = {"params": {"cursor": cursor, "limit": limit}}
    return Call("GET", f"/v1/landscapes/{job}/responses", _json(ResponsePage), options)


MODELS = Call("GET", "/v1/models", _json(Names))
PROMPT_SETS = Call("GET", "/v1/prompt-sets", _json(PromptSets))
JUDGES = Call("GET", "/v1/judges", _json(Judges))

"""The client that waits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx
from httpx_sse import connect_sse
from tenacity import Retrying

from services.api.schemas import (
    Audit,
    AuditDetail,
    AuditPage,
    Estimate,
    Gate,
    GateDetail,
    GateEstimate,
    GatePage,
    Job,
    Judges,
    Landscape,
    LandscapeDetail,
    LandscapePage,
    Names,
    PromptSets,
    ResponsePage,
    Summary,
    Webhook,
)
from services.client import calls
from services.client.calls import Call
from services.client.following import Following
from services.client.transport import AGAIN_SECONDS, ServiceError, http_options, retries, told
from services.jobs.states import Kind, State
from visage_core.policy import Policy
from visage_core.spec import LandscapeSpec

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
J = TypeVar("J", bound=Job)


class Client:
    """The service at `server`. What fails on the way is tried again for `patience` seconds.

    Making one raises ClientError for a URL or a key that cannot be used, and every method ServiceError for
    what the service refuses.
    """

    def __init__(self, server: str, key: str | None = None, patience: float = 60.0) -> None:
        self.server = server
        self._http = httpx.Client(**http_options(server, key))
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
        return self._send(calls.submit(spec, label, priority, webhook, idempotency_key))

    def validate(self, spec: LandscapeSpec | dict[str, Any]) -> Estimate:
        """Check a spec, and say what it would cost."""
        return self._send(calls.validate(spec))

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
        return self._send(calls.page(state, model, label, cursor, limit))

    def get(self, job: str) -> LandscapeDetail:
        """A job."""
        return self._send(calls.get(job))

    def watch(self, job: str) -> Iterator[Landscape]:
        """A job now, and after every change until it is over."""
        return self._follow(Following(Kind.LANDSCAPE, Landscape, job, self._patience))

    def cancel(self, job: str) -> LandscapeDetail:
        """End a job; its finished points stay."""
        return self._send(calls.cancel(job))

    def delete(self, job: str) -> None:
        """Remove a job that is over, with its results."""
        self._send(calls.delete(job))

    def grid(self, job: str) -> pa.Table:
        """The points measured so far, with the columns of points.parquet."""
        return self._send(calls.grid(job))

    def summary(self, job: str) -> Summary:
        """Every score with its interval."""
        return self._send(calls.summary(job))

    def figure(
        self, job: str, media_type: str = "image/png", prompt_set: int = 0, style: str = "heatmap"
    ) -> bytes:
        """The landscape as text/html, image/png or image/svg+xml; a plane as heatmap, contour or surface."""
        return self._send(calls.figure(job, media_type, prompt_set, style))

    def responses(self, job: str, cursor: int = 0, limit: int = 100) -> ResponsePage:
        """Some of the responses that were kept."""
        return self._send(calls.responses(job, cursor, limit))

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
        return self._send(
            calls.submit_gate(policy, model, baseline, label, priority, webhook, idempotency_key)
        )

    def validate_gate(
        self, policy: Policy | dict[str, Any], model: str, baseline: str | None = None
    ) -> GateEstimate:
        """Check a gate, and say what it would cost at most."""
        return self._send(calls.validate_gate(policy, model, baseline))

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
        return self._send(calls.gates(state, model, label, cursor, limit))

    def gate(self, job: str) -> GateDetail:
        """A gate with its findings; its verdict is None until it is done."""
        return self._send(calls.gate(job))

    def watch_gate(self, job: str) -> Iterator[Gate]:
        """A gate now, and after every change until it is over."""
        return self._follow(Following(Kind.GATE, Gate, job, self._patience))

    def cancel_gate(self, job: str) -> GateDetail:
        """End a gate without a verdict; its finished points stay."""
        return self._send(calls.cancel_gate(job))

    def delete_gate(self, job: str) -> None:
        """Remove a gate that is over, with its results."""
        self._send(calls.delete_gate(job))

    def report(self, job: str, name: str = "decision.json") -> bytes:
        """A gate's decision: decision.json, decision.md, decision.html or junit.xml."""
        return self._send(calls.report(job, name))

    def evidence(self, job: str) -> bytes:
        """What a gate's verdict rests on, as a zip; without responses."""
        return self._send(calls.evidence(job))

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
        return self._send(
            calls.submit_audit(policy, models, baseline, label, priority, webhook, idempotency_key)
        )

    def audits(
        self,
        *,
        state: State | None = None,
        label: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> AuditPage:
        """Some audits, the newest first."""
        return self._send(calls.audits(state, label, cursor, limit))

    def audit(self, job: str) -> AuditDetail:
        """An audit; its verdicts are None until it is done."""
        return self._send(calls.audit(job))

    def watch_audit(self, job: str) -> Iterator[Audit]:
        """An audit now, and after every change until it is over."""
        return self._follow(Following(Kind.AUDIT, Audit, job, self._patience))

    def cancel_audit(self, job: str) -> AuditDetail:
        """End an audit without a leaderboard; its finished points stay."""
        return self._send(calls.cancel_audit(job))

    def delete_audit(self, job: str) -> None:
        """Remove an audit that is over, with its results."""
        self._send(calls.delete_audit(job))

    def leaderboard(self, job: str, name: str = "leaderboard.json") -> bytes:
        """How an audit's models stand: leaderboard.json, .csv, .md, .html or .png, or points.parquet."""
        return self._send(calls.leaderboard(job, name))

    def models(self) -> Names:
        """What a spec may name as a model."""
        return self._send(calls.MODELS)

    def prompt_sets(self) -> PromptSets:
        """What a spec may name as prompts."""
        return self._send(calls.PROMPT_SETS)

    def judges(self) -> Judges:
        """What a spec may name as a judge."""
        return self._send(calls.JUDGES)

    def _follow(self, following: Following[J]) -> Iterator[J]:
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

    def _send(self, call: Call[T]) -> T:
        try:
            for attempt in Retrying(**retries(self._patience)):
                with attempt:
                    answer = self._http.request(call.method, call.path, **call.options)
                    call.require_success(answer, attempt.retry_state.attempt_number)
        except httpx.TransportError as error:
            raise told(error) from None
        return call.parse(answer)

"""Gates and audits that a service measures, with their files in a folder here."""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import CONFLICT, NOT_FOUND
from pathlib import Path
from typing import Any, TypeVar
from zipfile import ZipFile

from services.api.schemas import Audit, Gate
from services.client import Client, ServiceError
from services.jobs.states import State
from visage_core.policy import Policy
from visage_core.results import Results

REQUEST = "request.json"
LEADERBOARD = "leaderboard.json"
BESIDE_IT = ("leaderboard.csv", "leaderboard.md", "leaderboard.html", "leaderboard.png", "points.parquet")
# Called with what is done and how much there is to do.
Step = Callable[[int, int], None]
J = TypeVar("J", Gate, Audit)


def gate(
    client: Client, policy: Policy, model: str, baseline: str | None, out: Path, step: Step
) -> dict[str, Any]:
    """Let a service measure a model and decide; write its decision and what that rests on into `out`, and
    give the decision as a document. Asked again with the same folder, it is the same gate. Raises
    ServiceError."""
    with _once(out) as key:
        job = client.submit_gate(policy, model, baseline, idempotency_key=key).id
    for now in _until_done(client.watch_gate(job), out):
        step(now.done, now.points)
    with ZipFile(io.BytesIO(client.evidence(job))) as files:
        files.extractall(out)
    return dict(json.loads(client.report(job)))


def audit(
    client: Client, policy: Policy, models: Sequence[str], baseline: str | None, out: Path, step: Step
) -> dict[str, Any]:
    """Let a service audit models; write its leaderboard into `out`, and give it as a document. Asked again
    with the same folder, it is the same audit. Raises ServiceError."""
    with _once(out) as key:
        job = client.submit_audit(policy, models, baseline, idempotency_key=key).id
    for now in _until_done(client.watch_audit(job), out):
        step(now.settled, now.checkpoints)
    document = client.leaderboard(job, LEADERBOARD)
    (out / LEADERBOARD).write_bytes(document)
    for name in BESIDE_IT:
        try:
            (out / name).write_bytes(client.leaderboard(job, name))
        except ServiceError as error:
            if error.status != NOT_FOUND:  # where nothing was measured there is nothing to draw
                raise
    return dict(json.loads(document))


@contextmanager
def _once(out: Path) -> Iterator[str]:
    """The idempotency key of what a folder is for. Raises ServiceError where that is something else."""
    results = Results(out)
    known = results.read_json(REQUEST)
    if known is None:
        # Before it is sent: where the answer is lost, the same command asks for the same job.
        known = {"idempotency_key": secrets.token_hex(16)}
        results.write_json(REQUEST, known)
    try:
        yield str(known["idempotency_key"])
    except ServiceError as error:
        if error.status != CONFLICT:
            raise
        other = ServiceError("out", f"{out} is of something else that was asked for", "Use another folder")
        other.status = CONFLICT
        raise other from None


def _until_done(changes: Iterator[J], out: Path) -> Iterator[J]:
    """A job's changes. Raises ServiceError where it does not end as it should."""
    last = None
    for last in changes:
        yield last
    assert last is not None, "a service tells of a job at least once"
    if last.state != State.DONE:
        (out / REQUEST).unlink()
        if last.error is not None:
            raise ServiceError(last.error.field, last.error.problem, last.error.remedy)
        raise ServiceError("server", f"{last.id} is {last.state}", "The same command submits it again")

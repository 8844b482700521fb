"""Gates and audits that a service measures, with their files in a folder here."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from http.client import CONFLICT, NOT_FOUND
from pathlib import Path
from typing import Any, TypeVar

from services.api.schemas import Audit, Gate
from services.client import Client, ServiceError
from services.gate.evidence import BASELINE, DECISION, MODEL, claims, entries, read, unpack
from services.gate.verification import differences
from services.jobs.states import State
from services.jobs.storage import LOCK
from services.sweep.coordinator import alone_in
from visage_core.errors import InputError
from visage_core.policy import Policy, recorded_policy
from visage_core.results import Results, write_whole

REQUEST = "request.json"
LEADERBOARD = "leaderboard.json"
BESIDE_IT = ("leaderboard.csv", "leaderboard.md", "leaderboard.html", "leaderboard.png", "points.parquet")
ASIDE = ".evidence"  # where it lies until it is known to be some
ANOTHER = "Use another folder"
BUSY_SECONDS = 5.0  # a process that was killed a moment ago may still have the folder
# Called with a job's id.
Submitted = Callable[[str], object]
J = TypeVar("J", Gate, Audit)


class AskedError(InputError):
    """A folder that cannot have what a service is asked for."""


def gate(
    client: Client,
    policy: Policy,
    model: str,
    baseline: str | None,
    out: Path,
    told: Callable[[Gate], object],
    submitted: Submitted,
) -> dict[str, Any]:
    """Let a service measure a model and decide; write its decision and what that rests on into `out`, and
    give the decision as a document. Until it has decided, it is the same gate that the same folder asks for.
    Raises ServiceError, also where the verdict does not follow from what the service gives, and an InputError
    where the folder is of something else."""
    _require_folder(out)
    with alone_in(out, "command", BUSY_SECONDS):
        job = _submit(
            client, out, lambda key: client.submit_gate(policy, model, baseline, idempotency_key=key)
        )
        submitted(job)
        for now in _until_done(client.watch_gate(job), out):
            told(now)
        return _take_in(client.evidence(job), policy, out)


def audit(
    client: Client,
    policy: Policy,
    models: Sequence[str],
    baseline: str | None,
    out: Path,
    told: Callable[[Audit], object],
    submitted: Submitted,
) -> dict[str, Any]:
    """Let a service audit models; write its leaderboard into `out`, and give it as a document. Until there is
    one, it is the same audit that the same folder asks for. Raises ServiceError, and an InputError where the
    folder is of something else."""
    _require_folder(out)
    with alone_in(out, "command", BUSY_SECONDS):
        job = _submit(
            client, out, lambda key: client.submit_audit(policy, models, baseline, idempotency_key=key)
        )
        submitted(job)
        for now in _until_done(client.watch_audit(job), out):
            told(now)
        for name in BESIDE_IT:
            try:
                _write(out / name, client.leaderboard(job, name))
            except ServiceError as error:
                if error.status != NOT_FOUND:  # where nothing was measured there is nothing to draw
                    raise
        content = client.leaderboard(job, LEADERBOARD)
        document = dict(json.loads(content))
        _write(out / LEADERBOARD, content)  # the last one: where it is, the others are
        return document


def _require_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise AskedError("out", f"{out} is no folder", ANOTHER)


def _submit(client: Client, out: Path, submit: Callable[[str], Gate | Audit]) -> str:
    """The id of the job that a folder is for, which is submitted unless it was. Raises ServiceError, and
    AskedError where the folder is of something else."""
    results, request = Results(out), _request(out) | {"server": client.server}
    # Before it is sent: where the answer is lost, the same command asks for the same job.
    results.write_json(REQUEST, request)
    try:
        job = submit(request["idempotency_key"]).id
    except ServiceError as error:
        if error.status != CONFLICT:
            raise
        raise AskedError("out", f"{out} is of something else that was asked for", ANOTHER) from None
    results.write_json(REQUEST, request | {"id": job})
    return job


def _request(out: Path) -> dict[str, Any]:
    """What the job of a folder is known by. Raises AskedError where the folder is of something else."""
    # A model may be written anew under its name: what was measured once says nothing of it.
    if (out / DECISION).exists() or (out / LEADERBOARD).exists():
        raise AskedError("out", f"{out} holds a measurement already", ANOTHER)
    known = Results(out).read_json(REQUEST)
    if known is None:
        if any(path.name != LOCK for path in out.iterdir()):
            raise AskedError("out", f"{out} holds something else already", ANOTHER)
        return {"idempotency_key": secrets.token_hex(16)}
    if not isinstance(known.get("idempotency_key"), str):
        raise AskedError("out", f"{out / REQUEST} has no idempotency_key", ANOTHER)
    return known


def _until_done(changes: Iterator[J], out: Path) -> Iterator[J]:
    """A job's changes. Raises ServiceError where it does not end as it should."""
    last = None
    for last in changes:
        yield last
    assert last is not None, "a service tells of a job at least once"
    if last.state != State.DONE:
        (out / REQUEST).unlink(missing_ok=True)
        if last.error is not None:
            raise ServiceError(last.error.field, last.error.problem, last.error.remedy)
        raise ServiceError("server", f"{last.id} is {last.state}", "The same command submits it again")


def _take_in(packed: bytes, policy: Policy, out: Path) -> dict[str, Any]:
    """Put a gate's evidence into its folder, once its verdict is known to follow from it, and give its
    decision. Raises ServiceError, and AskedError where the folder has other files too."""
    aside = out / ASIDE
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
    try:
        aside.mkdir()
        names, document = _checked(packed, policy, aside)
        _require_alone(names, out)
        for name in sorted(names, key=lambda one: one == DECISION):  # where it is, the others are
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).replace(out / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return document


def _checked(packed: bytes, policy: Policy, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """The names of the files of a gate's evidence, which are put into a folder, and its decision. Raises
    ServiceError unless it is a decision by this policy that follows from the points."""
    try:
        names = unpack(packed, folder)
        document = read(folder, DECISION)
        problem = _wrong(policy, folder, document)
    except InputError as error:
        problem = error.problem
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # What becomes of documents that have anything where they should have something.
        problem = f"{type(error).__name__}: {error}"
    if problem is not None:
        raise ServiceError(
            "server",
            f"its evidence is not what the verdict follows from: {problem}",
            "Ask it with the version of visage that it runs, or tell who runs it",
        )
    return names, document


def _wrong(policy: Policy, folder: Path, document: dict[str, Any]) -> str | None:
    """What is wrong with the evidence in a folder; None where nothing is. Raises an InputError, and whatever
    comes of a document that is none."""
    if not (folder / MODEL).is_dir():
        return "there is nothing of the model"
    if set(document["models"]) != {MODEL, BASELINE} - (set() if policy.needs_baseline else {BASELINE}):
        return "it is about other models"
    if MODEL not in document["inputs"]:
        return "it does not tell which files the model had"
    if not is_by(policy, recorded_policy(document["policy"])):
        return f"it is by another policy than {policy.name!r}"
    claims(folder)  # raises where it could not be signed
    return next((one.problem for one in differences(folder)), None)


def is_by(policy: Policy, decided: Policy) -> bool:
    """Whether a service's decision is by the policy that it was given. It calls prompts by the names that it
    found them under, in the rules too, and has resources of its own."""
    ours, theirs = policy.spec(MODEL).prompts, decided.spec(MODEL).prompts
    if len(ours) != len(theirs):
        return False
    names = {one.source: other.source for one, other in zip(ours, theirs, strict=True)}
    rules = tuple(
        rule.model_copy(update={"prompts": rule.prompts and names[rule.prompts]}) for rule in policy.rules
    )
    return policy.model_copy(update={"landscape": decided.landscape, "rules": rules}) == decided


def _require_alone(names: Sequence[str], out: Path) -> None:
    """Raise AskedError where a folder has files beside those of a gate: they would be signed with it."""
    for name, _ in entries(out):
        if name not in (*names, REQUEST) and not name.startswith(f"{ASIDE}/"):
            raise AskedError("out", f"{out} holds {name!r} too, which is not the gate's", "Take it away")


def _write(path: Path, content: bytes) -> None:
    write_whole(path, lambda partial: partial.write_bytes(content))

"""Is a bundle of evidence what the holder of a key signed, and does its verdict follow from its points?"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from securesystemslib.signer import SSlibKey

from services.gate.evidence import (
    DECISION,
    ENVELOPE,
    MODEL,
    PREDICATE,
    STATEMENT,
    EvidenceError,
    claims,
    entries,
    findings_of,
    read,
    recompute,
    workers_of,
)
from services.gate.signing import NotSignedError, opened
from visage_core.digests import file_digests
from visage_core.policy import Policy, parse_policy


class _Digest(BaseModel):
    sha256: str


class _Subject(BaseModel):
    name: str
    digest: _Digest


class _Statement(BaseModel):
    kind: str = Field(alias="_type", pattern=f"^{re.escape(STATEMENT)}$")
    subject: list[_Subject]
    predicate_type: str = Field(alias="predicateType", pattern=f"^{re.escape(PREDICATE)}$")
    predicate: dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """A file of a bundle, and what is wrong with it."""

    file: str
    problem: str


@dataclass(frozen=True)
class Verification:
    """What became of a bundle. `claims` are what the key has signed, where nothing is wrong."""

    key_id: str
    problems: tuple[Problem, ...]
    claims: dict[str, Any] | None


def verify(
    bundle: Path, key: SSlibKey, policy: Policy | None = None, model: Path | None = None
) -> Verification:
    """Hold a bundle against a key, its files against what is signed, and its verdict against its points; and
    what was signed against a policy, and against the folder of a model.

    Needs no network, engine or GPU. Raises an InputError where there is no bundle, or one that this visage
    cannot read.
    """
    try:
        problems, predicate = _verify(bundle, key)
        if not problems:
            problems = _of_others(bundle, predicate, policy, model)
    except OSError as error:
        raise EvidenceError(
            "bundle", f"{error.filename} cannot be read: {error.strerror}", "Give the folder of a signed gate"
        ) from None
    return Verification(key.keyid, tuple(problems), None if problems else predicate)


def _verify(bundle: Path, key: SSlibKey) -> tuple[list[Problem], dict[str, Any]]:
    """What is wrong with a bundle, and what is signed of it."""
    found = dict(entries(bundle))
    if (bundle / DECISION).exists() and not (bundle / ENVELOPE).exists():
        return [Problem(ENVELOPE, "it is missing: nothing here is signed")], {}
    try:
        statement = _Statement.model_validate_json(opened((bundle / ENVELOPE).read_bytes(), key))
    except NotSignedError as error:
        return [Problem(ENVELOPE, str(error))], {}
    except ValidationError:
        return [Problem(ENVELOPE, "what is signed is no decision of a gate")], {}
    signed = {one.name: one.digest.sha256 for one in statement.subject}
    problems = _tampered(bundle, signed, found) or _wrong(bundle, statement.predicate)
    return problems, statement.predicate


def _tampered(bundle: Path, signed: dict[str, str], found: dict[str, bool]) -> list[Problem]:
    """How the files differ from those that are signed. `found` says of each whether it is a plain file."""
    outside = [
        name for name in signed if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
    ]
    links = [name for name, plain in found.items() if not plain]
    problems = [Problem(name, "it lies outside of the bundle") for name in outside]
    problems += [Problem(name, "it is a link, or no file") for name in links]
    for name in sorted({*signed, *found} - {*outside, *links}):
        if name not in signed:
            problems.append(Problem(name, "it is not among the signed files"))
        elif name not in found:
            problems.append(Problem(name, "it is missing"))
        elif file_digests(bundle, [name])[name] != signed[name]:
            problems.append(Problem(name, "it is not as it was signed"))
    return problems


def _wrong(bundle: Path, predicate: dict[str, Any]) -> list[Problem]:
    """How what is signed, and what was decided, differ from what the files lead to."""
    said = claims(bundle)
    problems = [
        Problem(ENVELOPE, f"its {name} is another than the files tell")
        for name in said
        if said[name] != predicate.get(name)
    ]
    return problems + differences(bundle)


def differences(bundle: Path) -> list[Problem]:
    """How what was decided differs from what the points in a gate's folder lead to. Raises an InputError."""
    document, again = read(bundle, DECISION), recompute(bundle)
    problems = []
    if again.verdict != document["verdict"]:
        problems.append(
            Problem(
                DECISION, f"verdict differs: it says {document['verdict']}, and the points {again.verdict}"
            )
        )
    said = document.get("measured_by")
    if said is not None and said != workers_of(bundle):
        problems.append(Problem(DECISION, "what measured the points is not what they say"))
    before, after = document["findings"], findings_of(again)
    if len(before) != len(after):
        return [*problems, Problem(DECISION, f"it has {len(before)} findings, and the points {len(after)}")]
    return problems + [
        Problem(DECISION, f"finding differs: {new['rule']} ({new['prompts']})")
        for old, new in zip(before, after, strict=True)
        if not _alike(old, new)
    ]


def _of_others(
    bundle: Path, predicate: dict[str, Any], policy: Policy | None, model: Path | None
) -> list[Problem]:
    """How a decision is about something else than this policy and this model."""
    problems = []
    decided = parse_policy(read(bundle, DECISION)["policy"])
    if policy is not None and _as_measured(decided) != _as_measured(policy):
        problems.append(Problem(DECISION, f"it is by another policy than {policy.name!r} as it is now"))
    if model is not None:
        signed = predicate["models"][MODEL]["files"]["model"]
        here = file_digests(model, [name for name in signed if (model / name).is_file()])
        problems += [
            Problem(name, f"it is not in {model} as it was measured")
            for name in signed
            if here.get(name) != signed[name]
        ]
    return problems


def _as_measured(policy: Policy) -> Policy:
    """A policy with all defaults of its landscape, which a service writes down, and without resources, which
    are its own and change no result."""
    landscape = policy.spec(MODEL).model_dump(mode="json", exclude={"model", "resources"})
    return policy.model_copy(update={"landscape": landscape})


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two findings are the same, but for the last digits: processors round in their own ways."""
    value, again = one["value"], other["value"]
    if one | {"value": None} != other | {"value": None} or (value is None) != (again is None):
        return False
    return value is None or all(_close(value[name], again[name]) for name in again)


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)

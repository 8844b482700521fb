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
    BASELINE,
    DECISION,
    ENVELOPE,
    MODEL,
    PREDICATE,
    STATEMENT,
    WEIGHTS,
    EvidenceError,
    claims,
    entries,
    findings_of,
    read,
    recompute,
    unpinned,
    weights_of,
    workers_of,
)
from services.gate.named import changed_since, folder_changes
from services.gate.signing import NotSignedError, opened
from services.sweep.inputs import BEGUN, INPUTS, PROMPTS, ChangedError, age_problem
from visage_core.digests import file_digests
from visage_core.policy import Policy, recorded_policy
from visage_core.spec import parse_spec


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
    bundle: Path,
    key: SSlibKey,
    policy: Policy | None = None,
    model: Path | None = None,
    baseline: Path | None = None,
) -> Verification:
    """Hold a bundle against a key, its files against what is signed, and its verdict against its points; and
    what was signed against a policy with the files that it names, and against the folders of the models.

    Needs no network, engine or GPU. Raises an InputError where there is no bundle, or one that this visage
    cannot read.
    """
    try:
        problems, predicate = _verify(bundle, key)
        if not problems:
            problems = [
                *of_another_policy(bundle, policy),
                *_of_another_model(bundle, MODEL, model),
                *_of_another_model(bundle, BASELINE, baseline),
            ]
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
    subjects = {one.name: one.digest.sha256 for one in statement.subject}
    weights = {name: digest for name, digest in subjects.items() if name.startswith(WEIGHTS)}
    signed = {name: digest for name, digest in subjects.items() if name not in weights}
    problems = _tampered(bundle, signed, found) or _wrong(bundle, statement.predicate)
    # Bundles of earlier versions name no weights.
    if not problems and weights and weights != weights_of(bundle):
        problems = [Problem(ENVELOPE, "the weights that it names are not those that were measured")]
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
    return problems + differences(bundle) + _too_old(bundle, predicate)


def _too_old(bundle: Path, predicate: dict[str, Any]) -> list[Problem]:
    """How a decision, or what it rests on, is older than its policy allows."""
    most = recorded_policy(read(bundle, DECISION)["policy"]).max_age_days
    if most is None:
        return []
    times = {ENVELOPE: predicate.get("time")} | {
        f"{which}/{INPUTS}": read(bundle, f"{which}/{INPUTS}").get(BEGUN) for which in predicate["models"]
    }
    found = {name: age_problem(time, most) for name, time in times.items()}
    return [Problem(name, f"it {problem}") for name, problem in found.items() if problem]


def differences(bundle: Path) -> list[Problem]:
    """How what was decided differs from what the points in a gate's folder lead to. Raises an InputError."""
    document = read(bundle, DECISION)
    try:
        again = recompute(bundle)
    except ChangedError as error:
        return [Problem(f"{error.field}/{INPUTS}", error.problem)]
    problems = _unlike_inputs(bundle, document)
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
    words = "decided_at" in document  # before it was written down, findings had other words
    return problems + [
        Problem(DECISION, f"finding differs: {new['rule']} ({new['prompts']})")
        for old, new in zip(before, after, strict=True)
        if not _alike(old, new, words)
    ]


def _unlike_inputs(bundle: Path, document: dict[str, Any]) -> list[Problem]:
    """How what a decision says that was measured with differs from what the landscapes say, and from what the
    policy pins."""
    inputs = {which: read(bundle, f"{which}/{INPUTS}") for which in document["inputs"]}
    problems = [
        Problem(DECISION, f"the inputs that it has of the {which} are not those in {which}/{INPUTS}")
        for which, found in inputs.items()
        if document["inputs"][which] != found
    ]
    policy = recorded_policy(document["policy"])
    whole = document.get("prompts_sha256", [])
    problems += [
        Problem(DECISION, f"{field}: {problem}")
        for field, problem in unpinned(policy, whole, inputs.get(BASELINE))
    ]
    is_last = document["look"]["number"] == document["look"]["of"]
    if policy.prompts_sha256 and is_last and inputs[MODEL]["sha256"][PROMPTS] != whole:
        problems.append(
            Problem(DECISION, "its prompts_sha256 are not of the prompts that were measured with")
        )
    return problems


def of_another_policy(bundle: Path, policy: Policy | None) -> list[Problem]:
    """How a decision is by something else than a policy, and the files that it names, as they are now."""
    if policy is None:
        return []
    decided = recorded_policy(read(bundle, DECISION)["policy"])
    if _as_measured(decided) != _as_measured(policy):
        return [Problem(DECISION, f"it is by another policy than {policy.name!r} as it is now")]
    spec = parse_spec(read(bundle, f"{MODEL}/spec.json"))
    named = changed_since(spec, read(bundle, f"{MODEL}/{INPUTS}"))
    return [Problem(name, problem) for name, problem in named]


def _of_another_model(bundle: Path, which: str, folder: Path | None) -> list[Problem]:
    """How the files of a model, or of the baseline, differ from those that were measured."""
    if folder is None:
        return []
    if which not in read(bundle, DECISION)["inputs"]:
        return [Problem(which, "no such model was measured")]
    return [
        Problem(name, problem)
        for name, problem in folder_changes(folder, read(bundle, f"{which}/{INPUTS}"), "model")
    ]


def _as_measured(policy: Policy) -> Policy:
    """A policy with all defaults of its landscape, which a service writes down, and without resources, which
    are its own and change no result."""
    landscape = policy.spec(MODEL).model_dump(mode="json", exclude={"model", "resources"})
    return policy.model_copy(update={"landscape": landscape})


def _alike(one: dict[str, Any], other: dict[str, Any], words: bool) -> bool:
    """Whether two findings are the same, but for the last digits: processors round in their own ways."""
    value, again = one["value"], other["value"]
    same = ("rule", "prompts", "verdict", *(["why"] if words else []))
    if any(one[name] != other[name] for name in same):
        return False
    if (value is None) != (again is None):
        return False
    return value is None or all(_close(value[name], again[name]) for name in again)


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)

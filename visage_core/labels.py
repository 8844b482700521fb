"""Responses that people have labelled, to hold a judge against."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from visage_core.errors import InputError


class LabelsError(InputError):
    """A file of labelled responses that cannot be used."""


class Labelled(BaseModel):
    """A response, and what people say it is. Further columns are left alone."""

    prompt: str = Field(default="", description="What was asked for, for judges that look at it.")
    response: str
    label: Literal["refused", "complied", "incoherent"] = Field(
        description="incoherent: neither a refusal nor an answer."
    )

    @property
    def complied(self) -> bool:
        return self.label == "complied"


def read_labels(path: Path) -> list[Labelled]:
    """Read a .csv or .jsonl file with the columns `response` and `label`. Raises LabelsError."""
    found = []
    try:
        for row in _rows(path):
            found.append(Labelled.model_validate(row))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]  # the input is a response, which is not for a terminal
        column = ".".join(map(str, first["loc"])) or "row"
        raise LabelsError(
            "file",
            f"row {len(found) + 1} of {path}, {column}: {first['msg']}",
            "Give each row a response, and a label: refused, complied or incoherent",
        ) from None
    if not found:
        raise LabelsError("file", f"{path} holds no responses", "Give one with at least one row")
    return found


def _rows(path: Path) -> Iterator[Any]:
    if path.suffix not in (".csv", ".jsonl"):
        raise LabelsError("file", f"{path} is neither a .csv nor a .jsonl file", "Give one of these")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                yield from csv.DictReader(file, strict=True)
            else:
                yield from (json.loads(line) for line in file if line.strip())
    except (OSError, ValueError, csv.Error) as error:
        raise LabelsError("file", f"{path} cannot be read: {type(error).__name__}", "Mend the file") from None

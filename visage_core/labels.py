"""Responses that are labelled by reading them, to hold a judge against, or what tells gibberish from text.

data/coherence.jsonl: responses of the demo model at 33 places on two random directions, all without a refusal
phrase, drawn in strata of |alpha| and shuffled; each was read alone, without its alpha. The rule:

- coherent: a reader can say what it says. Wrong, silly, clumsy, off the question or broken off at the limit
  of 64 tokens does not matter, nor a word that does not exist.
- incoherent: no statement can be told from it: words or marks in no order, a phrase over and over.
- A text that begins readable and falls apart goes by its larger part.
- In doubt, a text of one or two sentences is coherent, and a longer one incoherent.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from visage_core.documents import parse_json, read_text
from visage_core.errors import InputError

COHERENCE = Path(__file__).parent / "data" / "coherence.jsonl"


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


class Read(BaseModel):
    """A response, and what a reader takes it for. Further columns are left alone."""

    response: str
    label: Literal["coherent", "incoherent"] = Field(
        description="incoherent: no reader would take it for an answer or a refusal."
    )
    seed: int | str | None = Field(default=None, description="The direction that it was measured on.")

    @property
    def gibberish(self) -> bool:
        return self.label == "incoherent"


Row = TypeVar("Row", Labelled, Read)


def read_labels(path: Path) -> list[Labelled]:
    """Read a .csv or .jsonl file with the columns `response` and `label`; a row that is there again, to the
    same prompt, counts once. Raises LabelsError."""
    return _read(path, Labelled, "refused, complied or incoherent")


def read_coherence(path: Path = COHERENCE) -> list[Read]:
    """Read such a file of texts labelled coherent or incoherent, some of each, with its repeats once. Raises
    LabelsError."""
    found = _read(path, Read, "coherent or incoherent")
    if len({one.label for one in found}) < 2:
        raise LabelsError("file", f"{path} holds texts of one label alone", "Give one with texts of both")
    return found


def _read(path: Path, kind: type[Row], labels: str) -> list[Row]:
    found = []
    try:
        for row in _rows(path):
            found.append(kind.model_validate(row))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]  # the input is a response, which is not for a terminal
        column = ".".join(map(str, first["loc"])) or "row"
        raise LabelsError(
            "file",
            f"row {len(found) + 1} of {path}, {column}: {first['msg']}",
            f"Give each row a response, and a label: {labels}",
        ) from None
    if not found:
        raise LabelsError("file", f"{path} holds no responses", "Give one with at least one row")
    # A row that is there again tells nothing new of a judge.
    return list({one.model_dump_json(): one for one in reversed(found)}.values())[::-1]


def _rows(path: Path) -> Iterator[Any]:
    if path.suffix not in (".csv", ".jsonl"):
        raise LabelsError("file", f"{path} is neither a .csv nor a .jsonl file", "Give one of these")
    try:
        text = io.StringIO(read_text(path, newline=""), newline="")
        if path.suffix == ".csv":
            yield from csv.DictReader(text, strict=True)
        else:
            yield from (parse_json(line) for line in text if line.strip())
    except (OSError, ValueError, csv.Error) as error:
        raise LabelsError("file", f"{path} cannot be read: {type(error).__name__}", "Mend the file") from None

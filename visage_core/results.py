"""A landscape's results on disk: one row a point and prompt set, durable before it is counted as done.

While a sweep runs, finished points lie in `parts/`, a small Parquet file each, written whole or not at
all. At the end they are merged into `points.parquet` (and `responses.parquet`), and `parts/` goes.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from visage_core.documents import open_bytes, read_json
from visage_core.errors import InputError
from visage_core.grid import Point
from visage_core.metrics import Floats
from visage_core.readings import LABELS, READINGS, label, rates, readings, samples_of
from visage_core.spec import AskSpec, LandscapeSpec, PromptSpec

SCHEMA_VERSION = 3
# Version 2 has no `measured_by`.
READABLE = ("2", "3")
POINTS = pa.schema(
    [
        pa.field("seed", pa.int64()),  # null: no random direction takes part
        pa.field("alpha", pa.float64(), nullable=False),
        pa.field("beta", pa.float64(), nullable=False),  # 0 on a curve
        pa.field("prompt_set", pa.int32(), nullable=False),  # which of the spec's prompts
        # Each with its 95 % interval; null: nothing is known, or it is not measured of such prompts.
        *(pa.field(f"{name}{end}", pa.float64()) for name in READINGS for end in ("", "_low", "_high")),
        *(pa.field(name, pa.int32()) for name in LABELS),  # responses by their label; null: no requests
        # By prompt. Complied, or of a question: answered rightly? null: unjudged
        pa.field("verdicts", pa.list_(pa.bool_()), nullable=False),
        pa.field("opinions", pa.list_(pa.list_(pa.bool_())), nullable=False),  # the same of further judges
        pa.field("gibberish", pa.list_(pa.bool_()), nullable=False),  # null: not asked, as of refusals
        pa.field("nll", pa.list_(pa.float64()), nullable=False),  # nats a token of a text; null: no text
        pa.field("prompt_tokens", pa.int64(), nullable=False),
        pa.field("response_tokens", pa.int64(), nullable=False),
        pa.field("stopped_early", pa.int32(), nullable=False),  # ended once the verdict was certain
        pa.field("cut_off", pa.int32(), nullable=False),  # reached max_tokens
        pa.field("move_seconds", pa.float64(), nullable=False),
        pa.field("generate_seconds", pa.float64(), nullable=False),
        pa.field("judge_seconds", pa.float64(), nullable=False),
        pa.field("finished_at", pa.timestamp("ms", tz="UTC"), nullable=False),
        # Each a JSON text, provenance.MeasuredBy; null: not known, as of points of version 2.
        pa.field("measured_by", pa.list_(pa.string())),
    ],
    metadata={"visage.schema_version": str(SCHEMA_VERSION)},
)
RESPONSES = pa.schema(
    [
        pa.field("seed", pa.int64()),
        pa.field("alpha", pa.float64(), nullable=False),
        pa.field("beta", pa.float64(), nullable=False),
        pa.field("prompt_set", pa.int32(), nullable=False),
        pa.field("prompt_index", pa.int32(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("label", pa.string()),  # null: no response to a request
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("finish", pa.string(), nullable=False),  # end, verdict or length
    ],
    metadata={"visage.schema_version": str(SCHEMA_VERSION)},
)
READ_TRIES = 5
MOST_VALUES = 2**29
GROUP_ROWS = 10_000
PART_NAME = re.compile(r"(points|responses)_[0-9a-f]+\.parquet")
UNFINISHED = re.compile(r"\..+\.\d+")  # a file that is being written, or was when its process was killed
PLACE = ["seed", "alpha", "beta", "prompt_set"]


class ResultsError(InputError):
    """A results folder that cannot be read or continued."""


@dataclass(frozen=True)
class Response:
    """One response: its text, its length and its prompt's in tokens, and why it ended: end, verdict or
    length.

    `opinions` are the verdicts of the judges after the first. `gibberish` says whether it is that, None
    where that was not asked. Of a text's window there is no
    response, and `nll` is the mean negative log-likelihood of its tokens, in nats.
    """

    text: str
    tokens: int
    finish: str
    prompt_tokens: int
    opinions: tuple[bool | None, ...] = ()
    gibberish: bool | None = None
    nll: float | None = None


@dataclass(frozen=True)
class Measurement:
    """What a worker found at a point for consecutive prompts. `verdicts[i]` is True where the i-th of them
    was complied with, or answered rightly, and None where it is unjudged."""

    point: Point
    verdicts: tuple[bool | None, ...]
    responses: tuple[Response, ...]
    move_seconds: float
    generate_seconds: float
    judge_seconds: float
    measured_by: tuple[str, ...] = ()  # the texts of provenance.MeasuredBy


@dataclass(frozen=True)
class PointResult(Measurement):
    """A measured point, for one of the spec's prompt sets."""

    prompt_set: int = 0

    def by_prompt(self, spec: LandscapeSpec) -> Floats:
        """The chief reading of each prompt."""
        asked = spec.prompts[self.prompt_set]
        return readings(spec, asked)[0].by_prompt(self._answers(), samples_of(spec, asked))

    def rate(self, spec: LandscapeSpec) -> float | None:
        """The chief reading of the point; None where nothing is known."""
        asked = spec.prompts[self.prompt_set]
        found = readings(spec, asked)[0].at(self._answers(), samples_of(spec, asked))
        return None if found is None else found.value

    def _answers(self) -> dict[str, Any]:
        return {
            "verdicts": list(self.verdicts),
            "opinions": [list(one) for one in zip(*(r.opinions for r in self.responses), strict=True)],
            "gibberish": [response.gibberish for response in self.responses],
            "nll": [response.nll for response in self.responses],
        }

    def row(self, spec: LandscapeSpec) -> dict[str, Any]:
        """The point as a row of POINTS."""
        asked = spec.prompts[self.prompt_set]
        row = self._answers()
        row |= rates(spec, asked, row)
        if isinstance(asked, PromptSpec):
            labels = [label(*one) for one in zip(row["verdicts"], row["gibberish"], strict=True)]
            row |= {name: labels.count(name) for name in LABELS}
        return row | {
            **asdict(self.point),
            "prompt_set": self.prompt_set,
            "prompt_tokens": sum(response.prompt_tokens for response in self.responses),
            "response_tokens": sum(response.tokens for response in self.responses),
            "stopped_early": sum(response.finish == "verdict" for response in self.responses),
            "cut_off": sum(response.finish == "length" for response in self.responses),
            "move_seconds": self.move_seconds,
            "generate_seconds": self.generate_seconds,
            "judge_seconds": self.judge_seconds,
            "finished_at": datetime.now(UTC),
            "measured_by": list(self.measured_by) or None,
        }


def by_prompt_set(pieces: list[Measurement], sizes: list[int]) -> list[PointResult]:
    """The results of a point for each prompt set, from pieces that lie one after another over all sets.

    `sizes` has the number of prompts of each set. The seconds that a point took are shared out by prompts.
    """
    verdicts = [verdict for piece in pieces for verdict in piece.verdicts]
    responses = [response for piece in pieces for response in piece.responses]
    measured_by = [piece.measured_by for piece in pieces for _ in piece.verdicts]
    results = []
    begin = 0
    for number, size in enumerate(sizes):
        end = begin + size
        share = size / sum(sizes)
        results.append(
            PointResult(
                point=pieces[0].point,
                verdicts=tuple(verdicts[begin:end]),
                responses=tuple(responses[begin:end]),
                move_seconds=share * sum(piece.move_seconds for piece in pieces),
                generate_seconds=share * sum(piece.generate_seconds for piece in pieces),
                judge_seconds=share * sum(piece.judge_seconds for piece in pieces),
                measured_by=tuple(sorted({one for some in measured_by[begin:end] for one in some})),
                prompt_set=number,
            )
        )
        begin = end
    return results


class Results:
    """The results folder of one landscape."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts = folder / "parts"
        self._merged_parts = folder / ".merged-parts"

    def add(
        self, spec: LandscapeSpec, results: list[PointResult], prompts: list[tuple[str, ...]] | None
    ) -> None:
        """Make points of a spec durable; with the `prompts` of each set, their responses too. They are on
        the disk on return, all or none."""
        self._parts.mkdir(parents=True, exist_ok=True)
        name = f"{secrets.token_hex(8)}.parquet"
        if prompts is not None:
            # Before the points: points that are there have their responses.
            rows = [
                row
                for result in results
                for row in _response_rows(result, spec.prompts[result.prompt_set], prompts[result.prompt_set])
            ]
            _write(pa.Table.from_pylist(rows, schema=RESPONSES), self._parts / f"responses_{name}")
        rows = [result.row(spec) for result in results]
        _write(pa.Table.from_pylist(rows, schema=POINTS), self._parts / f"points_{name}")

    def points(self) -> pa.Table:
        """The rows of all finished points, each once, by prompt set, seed and coordinates."""
        return self._gather("points", POINTS, PLACE)

    def responses(self) -> pa.Table:
        """The rows of all responses that were kept, each once, in the order of their points."""
        return self._gather("responses", RESPONSES, [*PLACE, "prompt_index"])

    def put(self, points: pa.Table, responses: pa.Table) -> None:
        """Make these the folder's points and responses, in place of those that it has."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if responses.num_rows:
            _write(responses, self.folder / "responses.parquet")
        _write(points, self.folder / "points.parquet")

    def done(self) -> set[Point]:
        """The points that need not be measured again."""
        columns = self.points().select(PLACE[:3]).to_pydict().values()
        return {Point(*place) for place in zip(*columns, strict=True)}

    def parts(self, known: Collection[str] = ()) -> dict[str, bytes]:
        """The files of finished points by name, without those that are `known`, merged ones as parts too.
        What was written first comes first, so that responses come before their points."""
        files = sorted(self._parts.glob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)
        named = {path.name: path for path in files}
        for kind in ("points", "responses"):
            if (self.folder / f"{kind}.parquet").exists():
                named = {f"{kind}_0.parquet": self.folder / f"{kind}.parquet", **named}
        return {name: path.read_bytes() for name, path in named.items() if name not in known}

    def add_part(self, name: str, content: bytes) -> None:
        """Take in a file of another folder's `parts`. Raises ResultsError for a name that is none."""
        if not PART_NAME.fullmatch(name):
            raise ResultsError(
                "out", f"{name!r} is no file of finished points", "Use files of a results folder"
            )
        self._parts.mkdir(parents=True, exist_ok=True)
        write_whole(self._parts / name, lambda partial: partial.write_bytes(content))

    def merge(self) -> None:
        """Gather the parts into points.parquet and responses.parquet."""
        if not self._parts.is_dir():
            return
        table = self.points()
        responses = self.responses()
        if responses.num_rows:
            _write(responses, self.folder / "responses.parquet")
        _write(table, self.folder / "points.parquet")
        # Renamed first: were it killed halfway through the removal, the next merge would find half the parts.
        shutil.rmtree(self._merged_parts, ignore_errors=True)
        self._parts.rename(self._merged_parts)
        shutil.rmtree(self._merged_parts)

    def settle(self) -> None:
        """Merge, and tidy up: for a folder into which nobody measures any more."""
        self.merge()
        self.tidy()

    def tidy(self) -> None:
        """Remove what killed processes left, in a folder into which nobody else writes."""
        shutil.rmtree(self._merged_parts, ignore_errors=True)
        for path in [*self.folder.glob(".*"), *self._parts.glob(".*")]:
            if UNFINISHED.fullmatch(path.name) and path.is_file():
                path.unlink()

    def _gather(self, name: str, schema: pa.Schema, key: list[str]) -> pa.Table:
        """The rows of a merged file and of its parts. A crash while merging leaves rows in both, and one
        between a point and its responses leaves responses that are written again: each key counts once."""
        table = schema.empty_table()
        for _ in range(READ_TRIES):
            # The parts before the merged file: who merges writes that one before the parts go.
            files = sorted(self._parts.glob(f"{name}_*.parquet"))
            merged = self.folder / f"{name}.parquet"
            files = [merged, *files] if merged.exists() else files
            try:
                table = pa.concat_tables([schema.empty_table(), *(_read(path, schema) for path in files)])
                break
            except FileNotFoundError:
                continue  # merged meanwhile
        columns = [table[column].to_pylist() for column in key]
        first = {place: row for row, place in reversed(list(enumerate(zip(*columns, strict=True))))}
        order = sorted(first, key=_sort_key)
        return table.take(pa.array([first[place] for place in order], pa.int64()))

    def write_json(self, name: str, document: dict[str, Any]) -> None:
        """Write a JSON document into the folder, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_whole(self.folder / name, lambda path: path.write_text(text, encoding="utf-8"))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON document of the folder; None where it is not there. Raises ResultsError."""
        path = self.folder / name
        try:
            return read_json(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ResultsError("out", f"{path} is damaged: {error}", "Use another folder") from None


def _sort_key(place: tuple[Any, ...]) -> tuple[Any, ...]:
    seed, alpha, beta, *rest = place
    return (rest[0], seed is not None, seed or 0, beta, alpha, *rest[1:])


def _response_rows(result: PointResult, asked: AskSpec, prompts: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        asdict(result.point)
        | {
            "prompt_set": result.prompt_set,
            "prompt_index": index,
            "prompt": prompt,
            "response": response.text,
            "label": label(verdict, response.gibberish) if isinstance(asked, PromptSpec) else None,
            "tokens": response.tokens,
            "finish": response.finish,
        }
        for index, (prompt, response, verdict) in enumerate(
            zip(prompts, result.responses, result.verdicts, strict=True)
        )
    ]


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    table: Any
    damaged = "Move the file away to measure its points again"
    try:
        with open_bytes(path) as source, pq.ParquetFile(source) as file:
            _require_room(file)
            version = (file.schema_arrow.metadata or {}).get(b"visage.schema_version", b"none").decode()
            table = file.read() if version in READABLE else None
    except FileNotFoundError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ResultsError("out", f"{path} is damaged: {error}", damaged) from None
    if table is None:
        raise ResultsError(
            "out",
            f"{path} has results of version {version}, and this visage reads {' and '.join(READABLE)}",
            "Read it with the visage that wrote it",
        )
    try:
        if version == "2" and schema is POINTS:
            table = table.append_column(
                POINTS.field("measured_by"), pa.nulls(len(table), pa.list_(pa.string()))
            )
        return table.cast(schema)
    except (ValueError, pa.ArrowException) as error:
        raise ResultsError("out", f"{path} has other columns than its version: {error}", damaged) from None


def _require_room(file: pq.ParquetFile) -> None:
    """Raise ValueError for more values than any results have: a few bytes can stand for any number."""
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    values = sum(group.column(number).num_values for group in groups for number in range(group.num_columns))
    if values > MOST_VALUES:
        raise ValueError(f"it unfolds to {values:,} values, more than {MOST_VALUES:,}")


def _write(table: pa.Table, path: Path) -> None:
    # In small groups of rows, so that a page of responses can be read without the rest.
    write_whole(path, lambda partial: pq.write_table(table, partial, GROUP_ROWS, compression="zstd"))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside `path`, bring it to the disk, and give it its name: whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(partial)
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

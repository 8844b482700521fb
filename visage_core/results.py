"""A landscape's results on disk: one row a point, each durable before it is counted as done.

While a sweep runs, finished points lie in `parts/`, a small Parquet file each, written whole or not at
all. At the end they are merged into `points.parquet` (and `responses.parquet`), and `parts/` goes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from visage_core.errors import InputError
from visage_core.grid import Point
from visage_core.metrics import Floats, asr

SCHEMA_VERSION = 1
POINTS = pa.schema(
    [
        pa.field("seed", pa.int64()),  # null: no random direction takes part
        pa.field("alpha", pa.float64(), nullable=False),
        pa.field("asr", pa.float64()),  # percent of the judged; null: nothing could be judged
        pa.field("asr_low", pa.float64()),  # 95 % Wilson interval
        pa.field("asr_high", pa.float64()),
        pa.field("complied", pa.int32(), nullable=False),
        pa.field("refused", pa.int32(), nullable=False),
        pa.field("unjudged", pa.int32(), nullable=False),
        pa.field("verdicts", pa.list_(pa.bool_()), nullable=False),  # complied? by prompt; null: unjudged
        pa.field("prompt_tokens", pa.int64(), nullable=False),
        pa.field("response_tokens", pa.int64(), nullable=False),
        pa.field("stopped_early", pa.int32(), nullable=False),  # ended once the verdict was certain
        pa.field("cut_off", pa.int32(), nullable=False),  # reached max_tokens
        pa.field("move_seconds", pa.float64(), nullable=False),
        pa.field("generate_seconds", pa.float64(), nullable=False),
        pa.field("judge_seconds", pa.float64(), nullable=False),
        pa.field("finished_at", pa.timestamp("ms", tz="UTC"), nullable=False),
    ],
    metadata={"visage.schema_version": str(SCHEMA_VERSION)},
)
RESPONSES = pa.schema(
    [
        pa.field("seed", pa.int64()),
        pa.field("alpha", pa.float64(), nullable=False),
        pa.field("prompt_index", pa.int32(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("complied", pa.bool_()),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("finish", pa.string(), nullable=False),  # end, verdict or length
    ],
    metadata={"visage.schema_version": str(SCHEMA_VERSION)},
)


class ResultsError(InputError):
    """A results folder that cannot be read or continued."""


@dataclass(frozen=True)
class Response:
    """One response: its text, its length in tokens, and why it ended: end, verdict or length."""

    text: str
    tokens: int
    finish: str


@dataclass(frozen=True)
class PointResult:
    """A measured point. `verdicts[i]` is True where prompt i was complied with, None where unjudged."""

    point: Point
    verdicts: tuple[bool | None, ...]
    responses: tuple[Response, ...]
    prompt_tokens: int
    move_seconds: float
    generate_seconds: float
    judge_seconds: float

    def row(self) -> dict[str, Any]:
        """The point as a row of POINTS."""
        rate = asr(as_floats(self.verdicts))
        return asdict(self.point) | {
            "asr": rate and rate.value,
            "asr_low": rate and rate.low,
            "asr_high": rate and rate.high,
            "complied": self.verdicts.count(True),
            "refused": self.verdicts.count(False),
            "unjudged": self.verdicts.count(None),
            "verdicts": list(self.verdicts),
            "prompt_tokens": self.prompt_tokens,
            "response_tokens": sum(response.tokens for response in self.responses),
            "stopped_early": sum(response.finish == "verdict" for response in self.responses),
            "cut_off": sum(response.finish == "length" for response in self.responses),
            "move_seconds": self.move_seconds,
            "generate_seconds": self.generate_seconds,
            "judge_seconds": self.judge_seconds,
            "finished_at": datetime.now(UTC),
        }


def as_floats(verdicts: tuple[bool | None, ...] | list[bool | None]) -> Floats:
    """Verdicts as metrics take them: 1.0 complied, 0.0 refused, NaN unjudged."""
    return np.array([np.nan if verdict is None else float(verdict) for verdict in verdicts])


class Results:
    """The results folder of one landscape."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts = folder / "parts"

    def add(self, result: PointResult, prompts: tuple[str, ...] | None) -> None:
        """Make a point durable; with `prompts`, its responses too. They are on the disk on return."""
        self._parts.mkdir(parents=True, exist_ok=True)
        name = f"{'none' if result.point.seed is None else result.point.seed}_{result.point.alpha!r}.parquet"
        if prompts is not None:
            # Before the point: a point that is there has its responses.
            _write(_response_table(result, prompts), self._parts / f"responses_{name}")
        _write(pa.Table.from_pylist([result.row()], schema=POINTS), self._parts / f"points_{name}")

    def points(self) -> pa.Table:
        """The rows of all finished points, each once."""
        merged = self.folder / "points.parquet"
        tables = [_read(merged, POINTS)] if merged.exists() else []
        tables += [_read(path, POINTS) for path in sorted(self._parts.glob("points_*.parquet"))]
        if not tables:
            return POINTS.empty_table()
        table = pa.concat_tables(tables)
        # A crash while merging leaves points both in the merged file and in parts.
        places = list(zip(table["seed"].to_pylist(), table["alpha"].to_pylist(), strict=True))
        first = {place: row for row, place in reversed(list(enumerate(places)))}
        order = sorted(first, key=lambda place: (place[0] is not None, place[0] or 0, place[1]))
        return table.take(pa.array([first[place] for place in order], pa.int64()))

    def done(self) -> set[Point]:
        """The points that need not be measured again."""
        table = self.points()
        return {
            Point(*place) for place in zip(*(table[c].to_pylist() for c in ("seed", "alpha")), strict=True)
        }

    def merge(self) -> None:
        """Gather the parts into points.parquet and responses.parquet, ordered by seed and coordinate."""
        if not self._parts.is_dir():
            return
        table = self.points()
        responses = [_read(path, RESPONSES) for path in self._parts.glob("responses_*.parquet")]
        if responses:
            merged = pa.concat_tables(responses)
            order = [("seed", "ascending"), ("alpha", "ascending"), ("prompt_index", "ascending")]
            _write(merged.sort_by(order), self.folder / "responses.parquet")
        _write(table, self.folder / "points.parquet")
        # Renamed first: were it killed halfway through the removal, the next merge would find half the parts.
        merged_parts = self.folder / ".merged-parts"
        shutil.rmtree(merged_parts, ignore_errors=True)
        self._parts.rename(merged_parts)
        shutil.rmtree(merged_parts)

    def write_json(self, name: str, document: dict[str, Any]) -> None:
        """Write a JSON document into the folder, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        _replace(self.folder / name, lambda path: path.write_text(text, encoding="utf-8"))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON document of the folder; None where it is not there. Raises ResultsError."""
        path = self.folder / name
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ResultsError("out", f"{path} is damaged: {error}", "Use another folder") from None
        return dict(document)


def _response_table(result: PointResult, prompts: tuple[str, ...]) -> pa.Table:
    rows = [
        asdict(result.point)
        | {
            "prompt_index": index,
            "prompt": prompt,
            "response": response.text,
            "complied": verdict,
            "tokens": response.tokens,
            "finish": response.finish,
        }
        for index, (prompt, response, verdict) in enumerate(
            zip(prompts, result.responses, result.verdicts, strict=True)
        )
    ]
    return pa.Table.from_pylist(rows, schema=RESPONSES)


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ResultsError(
            "out", f"{path} is damaged: {error}", "Move the file away to measure its points again"
        ) from None
    version = (table.schema.metadata or {}).get(b"visage.schema_version", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise ResultsError(
            "out",
            f"{path} has results of version {version}, and this visage reads {SCHEMA_VERSION}",
            "Read it with the visage that wrote it",
        )
    return table.cast(schema)


def _write(table: pa.Table, path: Path) -> None:
    _replace(path, lambda partial: pq.write_table(table, partial, compression="zstd"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
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

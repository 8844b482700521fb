"""What a measurement takes at most, and about how long."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visage_core.documents import read_json
from visage_core.grid import count_points
from visage_core.paths import cache_dir
from visage_core.results import write_whole
from visage_core.spec import LandscapeSpec

if TYPE_CHECKING:
    from services.sweep.plan import Checked, Plan

# Measured: tokens a second of a model with 135 million parameters, 80 prompts at a time, on two cores with
# instructions for bfloat16. Without these, 16-bit matrix products are several times slower than in float32.
TOKENS, PARAMETERS, CORES = {"float32": 300, "float16": 580, "bfloat16": 580}, 135e6, 2
BFLOAT16_FLAGS = {"avx512f", "amx_bf16", "bf16"}  # oneDNN makes do with AVX-512 as such
# A shorter run says little about a longer one.
LEAST_TOKENS = 10_000


@dataclass(frozen=True)
class Size:
    """The most that landscapes take: points, prompts to answer at all of them, and tokens of the answers."""

    points: int
    prompts: int
    tokens: int


def size_of(spec: LandscapeSpec, counts: Sequence[int]) -> Size:
    """The size of a landscape whose prompt sets have so many prompts."""
    points, asked = count_points(spec), zip(counts, spec.prompts, strict=True)
    requests = sum(count for count, part in asked if part.kind == "requests")
    return Size(points, points * sum(counts), points * requests * spec.generation.max_tokens)


@dataclass(frozen=True)
class Work:
    """What a command is about to measure: a landscape of each of `models`, by workers that each have `cores`
    CPU cores, or `gpus` GPUs."""

    size: Size  # of one model
    prompt_tokens: int  # of one model
    parameters: int
    models: int
    workers: int
    cores: int
    gpus: int
    dtype: str

    @classmethod
    def of(
        cls, spec: LandscapeSpec, asked: Plan | Checked, parameters: int, models: int, cores: int, gpus: int
    ) -> Work:
        """The work for a spec, by the prompts that were found for it."""
        size = size_of(spec, [len(part.prompts) for part in asked.prompts])
        prompt_tokens = size.points * sum(query.size for query in asked.queries)
        return cls(
            size, prompt_tokens, parameters, models, spec.resources.workers, cores, gpus, spec.engine.dtype
        )

    def lines(self) -> list[str]:
        """The work in words, with the time it takes as far as that is known."""
        one, count = self.size, self.models
        models = f"{count} model{'s' * (count > 1)}"
        lines = [
            f"To measure: {one.points:,} points × {one.prompts // one.points:,} prompts × {models}: at most "
            f"{count * one.prompts:,} responses of {count * one.tokens:,} tokens together, to "
            f"{count * self.prompt_tokens:,} tokens of prompts.",
            f"Time: {self._time()}, and the start of the engine.",
        ]
        if not self.gpus and self.dtype != "float32" and not has_bfloat16():
            lines.append(
                f"This CPU has no instructions for {self.dtype}, which makes it several times slower: "
                "--dtype float32 is faster here, and measures the model as it computes in float32."
            )
        return lines

    def remember(self, tokens: int, worker_seconds: float) -> None:
        """Keep how fast a finished landscape of this kind was, for the next estimate."""
        if self.size.tokens and tokens >= LEAST_TOKENS and worker_seconds > 0:
            rate = tokens / worker_seconds * self._weight
            found = _rates() | {self._kind: {"rate": rate, "share": tokens / self.size.tokens}}
            with suppress(OSError):  # an estimate is not worth an error
                cache_dir().mkdir(parents=True, exist_ok=True)
                write_whole(_file(), lambda partial: partial.write_text(json.dumps(found)))

    def _time(self) -> str:
        work = self.models * self.size.tokens * self._weight / self.workers
        match _rates().get(self._kind):
            case {"rate": float(rate), "share": float(share)} if work and rate > 0:
                most = work / rate
                return f"about {_hours(share * most)} by the last such run here, at most about {_hours(most)}"
        if self.gpus or not work:
            return "unknown, as nothing like it was measured from here yet"
        most = work / (TOKENS[self.dtype] * PARAMETERS / CORES)
        return f"at most {_hours(most)} on fast CPU cores, longer on slow ones"

    @property
    def _weight(self) -> float:
        """What a token costs: on CPUs in proportion to the parameters, and less with more cores."""
        return 1.0 if self.gpus else self.parameters / self.cores

    @property
    def _kind(self) -> str:
        return f"{self.gpus} GPU, {self.parameters / 1e9:.1f} B" if self.gpus else f"CPU, {self.dtype}"


def has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine's CPU computes bfloat16 at least as fast as float32, as far as that is known."""
    with suppress(OSError):
        lines = [
            line
            for line in cpuinfo.read_text().splitlines()
            if line.lower().startswith(("flags", "features"))
        ]
        return not lines or bool(BFLOAT16_FLAGS & set(lines[0].split()))
    return True


def _rates() -> dict[str, Any]:
    with suppress(OSError, ValueError):
        return read_json(_file())
    return {}


def _file() -> Path:
    return cache_dir() / "rates.json"


def _hours(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = timedelta(minutes=round(seconds / 60)) // timedelta(minutes=1)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"

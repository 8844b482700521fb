"""Benchmarks: commands that print figures beside their bounds, all from one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A measured value and its bound: at most `bound`, or with `at_least` at least that. None: no bound."""

    name: str
    value: float
    unit: str
    bound: float | None = None
    at_least: bool = False

    @property
    def ok(self) -> bool:
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    @property
    def bound_text(self) -> str:
        return "" if self.bound is None else f"{'≥' if self.at_least else '≤'} {self.bound:g}"


@dataclass(frozen=True)
class Report:
    """The figures of one run of a benchmark, and what it ran on."""

    name: str
    figures: list[Figure]
    versions: dict[str, str]

    @property
    def ok(self) -> bool:
        return all(figure.ok for figure in self.figures)

    def document(self) -> dict[str, Any]:
        figures = [asdict(figure) | {"ok": figure.ok} for figure in self.figures]
        return {"benchmark": self.name, "ok": self.ok, "figures": figures, "versions": self.versions}


def _engine() -> Report:
    from services.bench.engine import bench_engine

    return bench_engine()


def _scaling() -> Report:
    from services.bench.scaling import bench_scaling

    return bench_scaling()


def _scheduler() -> Report:
    from services.bench.scheduler import bench_scheduler

    return bench_scheduler()


def _api() -> Report:
    from services.bench.api import bench_api

    return bench_api()


def _judges() -> Report:
    from services.bench.judges import bench_judges

    return bench_judges()


def _pages() -> Report:
    from services.bench.pages import bench_pages

    return bench_pages()


def _soak(**options: Any) -> Report:
    from services.bench.soak import bench_soak

    return bench_soak(**options)


def _gate() -> Report:
    from services.bench.gate import bench_gate

    return bench_gate()


# Imported where they are run: each brings Ray, torch or vLLM.
BENCHMARKS: dict[str, Callable[..., Report]] = {
    "engine": _engine,
    "scaling": _scaling,
    "scheduler": _scheduler,
    "api": _api,
    "judges": _judges,
    "pages": _pages,
    "gate": _gate,
    "soak": _soak,
}

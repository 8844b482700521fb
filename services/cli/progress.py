"""Show how far long work is: a bar on a terminal, and in a log a line every few seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from rich import progress as bars
from rich.table import Column

from services.console import err

if TYPE_CHECKING:
    from services.api.schemas import Job, Score
    from services.sweep.coordinator import Progress
    from visage_core.metrics import Interval

J = TypeVar("J", bound="Job")
# A log gets a line at least so often, also while nothing changes: CI systems end jobs that are silent.
SILENCE_SECONDS = 15.0
# And at most so often.
NEWS_SECONDS = 5.0
LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Now:
    """The progress of some work: units done and in all, the seconds left where they are known, and a text."""

    text: str
    done: int = 0
    total: int | None = None
    seconds_left: float | None = None
    unit: str = "points"

    def __str__(self) -> str:
        if self.total is None:
            return self.text
        return f"{self.done} of {self.total} {self.unit}, ETA {self.eta}, {self.text}"

    @property
    def eta(self) -> str:
        """The time left, as hours, minutes and seconds."""
        return "unknown" if self.seconds_left is None else str(timedelta(seconds=round(self.seconds_left)))


Tell = Callable[[Now], None]


class Lines:
    """Writes how far the work is into a log. `tell` takes in news; `tick` is to be called every moment."""

    def __init__(
        self, begin: Now, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._now, self._write, self._clock = begin, write, clock
        self._begun = clock()
        self._lock = threading.Lock()
        self._print()

    def tell(self, now: Now) -> None:
        """Take in how far the work is now."""
        with self._lock:
            self._now = now
        self.tick()

    def tick(self) -> None:
        """Write a line if one is due."""
        with self._lock:
            silence = self._clock() - self._last
            if silence >= SILENCE_SECONDS or (self._now != self._printed and silence >= NEWS_SECONDS):
                self._print()

    def close(self) -> None:
        """Write what was not written yet."""
        with self._lock:
            if self._now != self._printed:
                self._print()

    def _print(self) -> None:
        self._last, self._printed = self._clock(), self._now
        with suppress(OSError):  # a log that cannot be written does not end the work
            self._write(f"[{timedelta(seconds=round(self._last - self._begun))}] {self._now}")


@contextmanager
def shown(text: str) -> Iterator[Tell]:
    """Show how far the work in the `with` block is, as it tells; `text` is for the time until it does."""
    view = _bar if err.is_watched else _lines
    with view(Now(text)) as tell:
        yield tell


@contextmanager
def steps(text: str, unit: str = "steps") -> Iterator[Callable[[int, int], None]]:
    """Show work that says how many of its steps are done, and how many there are."""
    pace = Pace()
    with shown(text) as tell:
        yield lambda done, total: tell(Now(text, done, total, pace.left(done, total), unit))


class Pace:
    """The time that is left, by what was done since the first step. What an earlier command did counts for
    nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None

    def left(self, done: int, total: int) -> float | None:
        """Seconds until all is done, None where that cannot be known yet."""
        if self._first is None and done:
            self._first = (self._clock(), done)
        if self._first is None or done <= self._first[1]:
            return None
        begun, before = self._first
        return (self._clock() - begun) / (done - before) * (total - done)


class Parts:
    """Sweeps one after another as one piece of work, so that its bar never starts again. `points` has how
    many points each has at most."""

    def __init__(self, points: Sequence[int]) -> None:
        self._points, self._done = list(points), [0] * len(points)
        self._seconds: float | None = None  # for a point

    def now(self, part: int, title: str, progress: Progress) -> Now:
        """Return the progress of all parts while one of them is measured."""
        from services.sweep.coordinator import WORKING

        over = progress.state != WORKING
        self._done[part] = progress.done
        self._points[part] = progress.done if over else progress.points
        left = progress.points - progress.done - progress.failed
        if progress.eta_seconds is not None and left:
            self._seconds = progress.eta_seconds / left
        done, total = sum(self._done), sum(self._points)
        seconds = None if self._seconds is None else self._seconds * (total - done)
        text = ": ".join(filter(None, [title, doing(progress)]))
        return Now(text, done, total, seconds)


def doing(now: Progress) -> str:
    """Describe what a sweep is doing: what it waits for, or its latest point and the running VISAGE."""
    from services.sweep.coordinator import WORKING

    if now.state != WORKING:
        return now.state
    if now.waiting is not None:
        return now.waiting
    if now.latest is None:
        return "at the first point"
    point, rate = now.latest
    text = str(point) if rate is None else f"{point}: ASR {rate:.1f} %"
    return text if now.estimate is None else f"{text}, {running_visage(now.estimate)}"


def running_visage(estimate: Interval) -> str:
    """The estimate of VISAGE of a sweep under way, in words."""
    return f"VISAGE of these directions about {_interval(estimate)}"


def watching(changes: Iterator[J]) -> J:
    """Show how far a job at a service is until it is over; gives how it ended."""
    last = None
    with shown("waiting for the service") as tell:
        told = at_service(tell)
        for last in changes:
            told(last)
    assert last is not None, "a service tells of a job at least once"
    return last


def at_service(tell: Tell) -> Callable[[Job], None]:
    """Tell how far a job at a service is whenever it has changed."""
    pace = Pace()

    def told(one: Job) -> None:
        seconds = getattr(one, "eta_seconds", None) or pace.left(one.done, one.points)
        tell(Now(_doing_there(one), one.done, one.points, seconds))

    return told


def _doing_there(one: Job) -> str:
    from services.api.schemas import Audit, Gate, Landscape

    if one.state != "running":
        return str(one.state)
    if isinstance(one, Audit):
        return f"{one.settled} of {one.checkpoints} models settled"
    if isinstance(one, Gate) and one.look is not None:
        return f"look {one.look.number} of {one.look.of}"
    if isinstance(one, Landscape) and one.latest is not None:
        text = f"alpha = {one.latest.alpha:g}"
        text += "" if one.latest.asr is None else f": ASR {one.latest.asr:.1f} %"
        return text if one.estimate is None else f"{text}, VISAGE about {_interval(one.estimate)}"
    return "measuring" if one.done else "starting the engine"


@contextmanager
def _bar(begin: Now) -> Iterator[Tell]:
    bar = bars.Progress(
        bars.BarColumn(bar_width=20),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[eta]}"),
        bars.TimeElapsedColumn(),
        bars.TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
        console=err,
    )
    with bar:
        task = bar.add_task(begin.text, total=None, eta="")

        def tell(now: Now) -> None:
            eta = "" if now.total is None else f"ETA {now.eta}"
            bar.update(task, completed=now.done, total=now.total, description=now.text, eta=eta)

        yield tell


@contextmanager
def _lines(begin: Now) -> Iterator[Tell]:
    lines, over = Lines(begin, _write), threading.Event()

    def tick() -> None:
        while not over.wait(LOOK_SECONDS):
            lines.tick()

    thread = threading.Thread(target=tick, name="progress", daemon=True)
    thread.start()
    try:
        yield lines.tell
    finally:
        over.set()
        thread.join()
        lines.close()


def _write(line: str) -> None:
    err.print(line, markup=False, highlight=False)


def _interval(score: Score | Interval) -> str:
    return f"{score.value:.1f} ({score.low:.1f} to {score.high:.1f})"

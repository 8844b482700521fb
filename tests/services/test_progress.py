"""What long commands show while they work: lines in a log, one bar for all parts, and what they wait for."""

from __future__ import annotations

import io
import json
import signal
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayError

from services.cli import progress
from services.cli.progress import Lines, Now, Pace, Parts
from services.sweep.coordinator import DONE, WORKING, Progress
from services.sweep.estimate import Size, Work, has_bfloat16, size_of
from services.sweep.room import congestion, shortage
from tests.conftest import Visage
from visage_core.grid import Point
from visage_core.metrics import Interval
from visage_core.spec import parse_spec


class Clock:
    """A clock that a test winds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def of(done: int, points: int = 10, **fields: Any) -> Progress:
    known: dict[str, Any] = {"state": WORKING, "failed": 0, "eta_seconds": None, "latest": None}
    known |= {"worker_seconds": 0.0, "tokens": 0, "estimate": None, "error": None}
    return Progress(revision=done, points=points, done=done, **(known | fields))


def test_a_log_gets_a_line_every_fifteen_seconds_while_nothing_changes() -> None:
    clock, written = Clock(), list[str]()
    lines = Lines(Now("starting the engine"), written.append, clock)
    for second in range(1, 61):
        clock.now = second
        lines.tick()
    assert written == [f"[0:00:{second:02}] starting the engine" for second in (0, 15, 30, 45)] + [
        "[0:01:00] starting the engine"
    ]


def test_news_come_soon_but_not_more_often_than_every_five_seconds() -> None:
    clock, written = Clock(), list[str]()
    lines = Lines(Now("preparing"), written.append, clock)
    for second in range(1, 12):
        clock.now = second
        lines.tell(Now("measuring", second, 100))
    lines.close()
    assert [line.partition(" of")[0] for line in written] == [
        "[0:00:00] preparing",
        "[0:00:05] 5",
        "[0:00:10] 10",
        "[0:00:11] 11",
    ]


def test_off_a_terminal_work_that_says_nothing_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as CI systems do
    monkeypatch.setattr(progress, "SILENCE_SECONDS", 0.01)
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.01)
    errors = io.StringIO()
    with redirect_stderr(errors), progress.shown("preparing"):
        deadline = time.monotonic() + 60
        while errors.getvalue().count("preparing") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_line_has_points_eta_and_the_latest_rate() -> None:
    latest = (Point(1, 0.25), 37.5)
    now = of(4, eta_seconds=600.0, latest=latest, estimate=Interval(40.0, 30.0, 50.0))
    told = str(Parts([10]).now(0, "model, look 1 of 2", now))
    assert told == (
        "4 of 10 points, ETA 0:10:00, model, look 1 of 2: seed 1, alpha = 0.25: ASR 37.5 %, "
        "VISAGE of these directions about 40.0 (30.0 to 50.0)"
    )


def test_what_is_waited_for_is_said_again_and_again() -> None:
    why = "no worker can start: each needs 1 GPU"
    assert why in str(Parts([10]).now(0, "", of(4, waiting=why, latest=(Point(None, 0), 1.0))))


def test_the_second_part_does_not_begin_at_zero() -> None:
    parts = Parts([10, 10, 10])
    first = parts.now(0, "model", of(5, eta_seconds=50.0))
    assert (first.done, first.total, first.seconds_left) == (5, 30, 250.0)
    over = parts.now(0, "model", of(10, state=DONE))
    second = parts.now(1, "baseline", of(0))
    assert (over.done, second.done, second.total, second.seconds_left) == (10, 10, 30, 200.0)


def test_a_part_that_ends_early_leaves_less_to_do() -> None:
    parts = Parts([10, 10])
    parts.now(0, "model", of(1, state="cancelled"))
    assert parts.now(1, "baseline", of(3)).total == 11


def test_what_was_done_before_does_not_make_it_faster() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.left(0, 10) is None
    clock.now = 100.0
    assert pace.left(6, 10) is None, "these were there"
    clock.now = 110.0
    assert pace.left(7, 10) == pytest.approx(30.0)


GPU_NODE, CPU_NODE = {"CPU": 16.0, "GPU": 8.0}, {"CPU": 2.0}


@pytest.mark.parametrize(
    ("cores", "gpus", "nodes"),
    [
        (2, 0, [CPU_NODE]),
        (2, 1, [CPU_NODE, GPU_NODE]),
        (2, 8, [GPU_NODE]),
        (1, 16, [GPU_NODE, GPU_NODE]),
    ],
)
def test_a_cluster_with_room_is_not_complained_of(cores: int, gpus: int, nodes: list[Any]) -> None:
    assert shortage(cores, gpus, nodes) is None


@pytest.mark.parametrize(
    ("cores", "gpus", "nodes", "says"),
    [
        (1, 1, [CPU_NODE], "1 GPU and 1 CPU core of one machine, and the cluster has no GPU and 2 CPU cores"),
        (1, 16, [GPU_NODE], "16 GPUs with 1 CPU core beside each, and the cluster has 8 GPUs"),
        (
            4,
            0,
            [CPU_NODE, CPU_NODE],
            "4 CPU cores of one machine, and the cluster has no GPU and 4 CPU cores",
        ),
        (1, 1, [], "on no machine"),
    ],
)
def test_a_cluster_without_room_is_told_with_its_numbers(
    cores: int, gpus: int, nodes: list[Any], says: str
) -> None:
    found = shortage(cores, gpus, nodes)
    assert found is not None
    assert says in found


def test_a_busy_cluster_is_told_with_what_is_free() -> None:
    assert "1 GPU and no CPU core are free now" in congestion(2, 4, {"GPU": 1.0})


def work(parameters: float = 135e6, gpus: int = 0, models: int = 1, cores: int = 2) -> Work:
    spec = parse_spec({"model": "m", "prompts": {"limit": 80}})
    return Work(size_of(spec, [80]), 1000, round(parameters), models, 1, cores, gpus, "bfloat16")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("VISAGE_CACHE", str(tmp_path))
    return tmp_path


def test_the_default_run_takes_more_than_an_hour_on_two_cores(cache: Path) -> None:
    assert work().size == Size(61, 4880, 2_498_560)
    measured, time_, *_ = work().lines()
    assert "61 points × 80 prompts × 1 model" in measured
    assert "2,498,560 tokens" in measured
    assert "at most 72 min on fast CPU cores" in time_
    assert "2.4 h" in work(models=2).lines()[1]
    assert "36 min" in work(cores=4).lines()[1]


def test_the_next_estimate_is_by_what_was_measured(cache: Path) -> None:
    work().remember(tokens=1_249_280, worker_seconds=1_200)  # half of all that there may be
    assert "about 20 min by the last such run here, at most about 40 min" in work().lines()[1]
    assert "about 40 min by" in work(2 * 135e6).lines()[1]


def test_of_gpus_nothing_is_claimed_before_something_is_known(cache: Path) -> None:
    work().remember(tokens=1_249_280, worker_seconds=1_200)
    assert "unknown" in work(gpus=1).lines()[1]
    work(gpus=1).remember(tokens=1_249_280, worker_seconds=60)
    assert "about 60 s by" in work(gpus=1).lines()[1]
    assert "unknown" in work(7e9, gpus=1).lines()[1], "other models are not as fast"


def test_a_damaged_note_of_the_pace_is_no_error(cache: Path) -> None:
    (cache / "rates.json").write_text('{"CPU, bfloat16": {"rate": "fast"}}')
    assert "72 min" in work().lines()[1]
    (cache / "rates.json").write_text("{")
    assert "72 min" in work().lines()[1]


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("flags\t: sse2 avx2\n", False),
        ("flags\t: sse2 avx2 avx512f\n", True),
        ("Features\t: asimd bf16\n", True),
        ("Features\t: asimd\n", False),
        ("", True),
    ],
)
def test_a_cpu_that_is_slow_with_bfloat16_is_known_by_its_flags(tmp_path: Path, text: str, has: bool) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert has_bfloat16(tmp_path / "cpuinfo") is has
    assert has_bfloat16(tmp_path / "missing")


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    landscape = {"axis": {"points": 5}, "prompts": {"limit": 20, "shuffle": 1}}
    rules = [{"measure": "mean_safety", "at_least": -10, "relative": True}]
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"name": "p", "looks": 2, "landscape": landscape, "rules": rules}))
    return path


def test_a_gate_says_which_model_and_which_look(
    here: Visage, monkeypatch: pytest.MonkeyPatch, policy: Path, tmp_path: Path
) -> None:
    def gate(*arguments: Any) -> dict[str, Any]:
        *_, told, planned = arguments
        planned(work())
        monkeypatch.setattr(progress, "NEWS_SECONDS", 0.0)
        for look in (1, 2):
            for which in ("model", "baseline"):
                told(which, look, of(13, 13, state=DONE))
        raise KeyboardInterrupt

    monkeypatch.setattr("services.gate.gate.gate", gate)
    done = here("gate", "m", "--baseline", "b", "--policy", policy, "--out", tmp_path / "out")
    assert done.returncode == 130
    assert f"Results: {tmp_path / 'out'}" in done.stderr
    assert "13 of 52 points" in done.stderr
    assert "52 of 52 points, ETA unknown, baseline, look 2 of 2" in done.stderr
    assert "The same command continues" in done.stderr


@pytest.mark.parametrize("late", [None, RayError("its processes are gone"), ImportError("broken off")])
def test_sigterm_ends_a_gate_without_a_verdict_whatever_comes_of_it(
    here: Visage, monkeypatch: pytest.MonkeyPatch, policy: Path, tmp_path: Path, late: Exception | None
) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def gate(*_: Any) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # `timeout` sends it twice
            if late is not None:
                raise late

    monkeypatch.setattr("services.gate.gate.gate", gate)
    done = here("gate", "m", "--baseline", "b", "--policy", policy, "--out", tmp_path / "out")
    assert done.returncode == 143
    assert "The same command continues" in done.stderr
    assert signal.getsignal(signal.SIGTERM) == before

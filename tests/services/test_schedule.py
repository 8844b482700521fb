"""The schedule hands out every point, loses none, and splits them where workers would be idle."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.bench.fakes import fake_measurement
from services.sweep.schedule import SMALLEST_PART, TRIES, Schedule, Shard
from tests.services.fakes import fake_plan
from visage_core.grid import Point, points

PLAN = fake_plan(40, axis={"points": 5, "direction": {"kind": "random", "seeds": [0, 1]}})
POINTS = points(PLAN.spec)


@settings(max_examples=200)
@given(st.data(), st.integers(1, 30))
def test_whatever_fails_every_point_is_finished_once_or_given_up(data: st.DataObject, workers: int) -> None:
    schedule = Schedule(POINTS, 40, 128)
    out: list[Shard] = []
    finished: list[Point] = []
    for _ in range(10_000):
        if schedule.over:
            break
        shard = schedule.take(workers, ahead=data.draw(st.booleans()))
        if shard is not None:
            out.append(shard)
        if out:
            shard = out.pop(data.draw(st.integers(0, len(out) - 1)))
            outcome = data.draw(st.sampled_from(["finish", "finish", "finish", "lost", "blamed", "reclaim"]))
            if outcome == "finish":
                pieces = schedule.finish(shard, fake_measurement(PLAN, shard))
                if pieces is not None:
                    finished.append(shard.point)
                    whole = fake_measurement(PLAN, Shard(shard.point, 0, 40))
                    assert sum((piece.verdicts for piece in pieces), ()) == whole.verdicts
            elif outcome == "reclaim":
                schedule.reclaim()
                out.clear()
            else:
                schedule.put_back(shard, "why", blamed=outcome == "blamed", suspect=outcome == "lost")
    assert schedule.over
    assert len(finished) == len(set(finished))
    assert {*finished, *schedule.failed} == set(POINTS)
    assert not set(finished) & set(schedule.failed)


def test_points_are_whole_while_there_are_enough_of_them() -> None:
    schedule = Schedule(POINTS, 40, 128)
    shards = [schedule.take(2) for _ in range(7)]
    assert [(s.begin, s.end) for s in shards if s] == [(0, 40)] * 7


def test_the_last_points_are_split_among_idle_workers() -> None:
    schedule = Schedule(POINTS[:1], 40, 128)
    shards = [schedule.take(4) for _ in range(5)]
    assert [(s.begin, s.end) for s in shards if s] == [(0, 10), (10, 20), (20, 30), (30, 40)]


def test_a_point_is_not_split_into_crumbs() -> None:
    schedule = Schedule(POINTS[:1], 40, 128)
    first = schedule.take(1000)
    assert first is not None
    assert first.end - first.begin >= SMALLEST_PART


def test_nothing_lies_ready_for_a_busy_worker_while_others_are_idle() -> None:
    schedule = Schedule(POINTS[:3], 40, 128)
    assert schedule.take(4, ahead=True) is None
    assert schedule.take(2, ahead=True) is not None


def test_a_point_that_fails_again_and_again_is_given_up_with_its_reason() -> None:
    schedule = Schedule(POINTS[:1], 40, 128)
    for attempt in range(TRIES):
        assert not schedule.over
        shard = schedule.take(1)
        assert shard is not None
        schedule.put_back(shard, f"reason {attempt}", blamed=True)
    assert schedule.over
    assert schedule.failed == {POINTS[0]: f"reason {TRIES - 1}"}


def test_a_loss_that_is_not_the_points_own_does_not_count_against_it() -> None:
    schedule = Schedule(POINTS[:1], 40, 128)
    for _ in range(10 * TRIES):
        shard = schedule.take(1)
        assert shard is not None
        schedule.put_back(shard, "a node went away", blamed=False)
    assert not schedule.failed


def test_a_piece_for_which_memory_was_short_comes_back_with_a_smaller_batch() -> None:
    schedule = Schedule(POINTS[:1], 40, 128)
    sizes = []
    for _ in range(2):
        shard = schedule.take(1)
        assert shard is not None
        sizes.append(shard.batch)
        schedule.put_back(shard, "no memory", blamed=True, smaller_batch=True)
    assert sizes == [None, 20]


def test_a_result_that_comes_too_late_counts_for_nothing() -> None:
    schedule = Schedule(POINTS[:1], 40, 128)
    shard = schedule.take(1)
    assert shard is not None
    schedule.stop()
    assert schedule.finish(shard, fake_measurement(PLAN, shard)) is None
    assert schedule.over


def test_parts_of_a_point_that_are_lost_together_do_not_give_it_up() -> None:
    schedule = Schedule(POINTS[:1], 40, 128)
    parts = [schedule.take(4) for _ in range(4)]
    for part in parts:
        assert part is not None
        schedule.put_back(part, "their node went away", blamed=True)
    assert not schedule.failed
    assert schedule.left == 4


def test_a_smaller_batch_is_smaller_than_the_engines() -> None:
    schedule = Schedule(POINTS[:1], 40, 16)
    shard = schedule.take(1)
    assert shard is not None
    schedule.put_back(shard, "no memory", blamed=True, smaller_batch=True)
    again = schedule.take(1)
    assert again is not None
    assert again.batch == 8


def test_a_suspect_waits_for_a_worker_that_has_nothing_else() -> None:
    schedule = Schedule(POINTS[:3], 40, 128)
    shard = schedule.take(1)
    assert shard is not None
    schedule.put_back(shard, "one of two was the cause", blamed=False, suspect=True)
    beside = schedule.take(1, alone=False)
    assert beside is not None
    assert beside.point != shard.point
    again = schedule.take(1, alone=True)
    assert again is not None
    assert (again.point, again.alone) == (shard.point, True)

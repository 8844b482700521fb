"""A coordinator and the judges that come after the sweep's workers, without any engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from services.bench.fakes import fake_measurement
from services.sweep import judging
from services.sweep.coordinator import DONE, WORKING, Coordinator
from services.sweep.plan import Plan
from services.sweep.schedule import Shard
from tests.services.fakes import fake_plan
from visage_core.errors import InputError
from visage_core.results import Results

PLUGIN = {"judges": ["keyword-paper", "python:slow"]}
SPEC = {"axis": {"points": 3, "direction": {"seeds": [0]}}, **PLUGIN}


class SlowJudge:
    """It says No to everything, as soon as it is let."""

    def __init__(self) -> None:
        self.may_go = asyncio.Event()

    async def judge(self, items: Sequence[tuple[str, str]]) -> list[bool | None]:
        await self.may_go.wait()
        return [False] * len(items)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[], SlowJudge]:
    """The judge that the spec names, for the loop that runs."""

    def made() -> SlowJudge:
        judge = SlowJudge()
        monkeypatch.setattr(judging, "load_judge", lambda _: judge)
        return judge

    return made


def plan_of(**spec: object) -> Plan:
    plan = fake_plan(**{**SPEC, **spec})
    return replace(plan, keywords={0: plan.keywords[0]})


async def measured(coordinator: Coordinator, plan: Plan, shard: Shard) -> None:
    found = fake_measurement(plan, shard)
    responses = tuple(replace(one, text="text", opinions=(None,)) for one in found.responses)
    await coordinator.finished(shard, replace(found, responses=responses))


def test_a_job_waits_for_its_last_verdicts(slow: Callable[[], SlowJudge], tmp_path: Path) -> None:
    plan = plan_of()

    async def run() -> None:
        judge, coordinator = slow(), Coordinator(plan, tmp_path, report=False)
        await coordinator.open()
        shards = [shard for shard in (coordinator.next(1) for _ in range(3)) if shard is not None]
        tasks = [asyncio.ensure_future(measured(coordinator, plan, shard)) for shard in shards]
        await asyncio.sleep(0.2)
        # All is measured, and nothing is done.
        assert coordinator.progress().state == WORKING
        assert Results(tmp_path).points().num_rows == 0
        judge.may_go.set()
        await asyncio.gather(*tasks)
        while coordinator.progress().state == WORKING:
            await asyncio.sleep(0.05)
        assert coordinator.progress().state == DONE

    asyncio.run(run())
    rows = Results(tmp_path).points().to_pylist()
    assert len(rows) == 3
    assert all(row["opinions"] == [[False] * 20] for row in rows)


def test_what_is_judged_after_the_end_is_measured_again(
    slow: Callable[[], SlowJudge], tmp_path: Path
) -> None:
    plan = plan_of(keep_responses=True)

    async def run() -> None:
        judge, coordinator = slow(), Coordinator(plan, tmp_path, report=False)
        await coordinator.open()
        shard = coordinator.next(1)
        assert shard is not None
        late = asyncio.ensure_future(measured(coordinator, plan, shard))
        await asyncio.sleep(0.1)
        await coordinator.cancel()
        judge.may_go.set()
        await late

    asyncio.run(run())
    assert Results(tmp_path).points().num_rows == 0


def test_texts_that_are_not_kept_go_no_further(slow: Callable[[], SlowJudge], tmp_path: Path) -> None:
    async def run(keep: bool) -> None:
        plan = plan_of(keep_responses=keep)
        judge, coordinator = slow(), Coordinator(plan, tmp_path / str(keep), report=False)
        judge.may_go.set()
        await coordinator.open()
        shard = coordinator.next(1)
        assert shard is not None
        await measured(coordinator, plan, shard)

    for keep in (False, True):
        asyncio.run(run(keep))
        kept = list((tmp_path / str(keep) / "parts").glob("responses_*"))
        assert bool(kept) is keep


def test_a_judge_that_is_not_there_is_an_error_before_anything_is_measured(tmp_path: Path) -> None:
    async def run() -> None:
        await Coordinator(plan_of(judges=["python:nobody"]), tmp_path).open()

    with pytest.raises(InputError, match="nobody"):
        asyncio.run(run())

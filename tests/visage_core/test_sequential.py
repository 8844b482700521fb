"""A gate that looks several times errs no more often than one that looks once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from services.bench.gate import LOOKS, simulate
from visage_core.grid import ORIGIN, points
from visage_core.join import join_points, join_responses
from visage_core.landscape import Landscape
from visage_core.metrics import exact_rate
from visage_core.policy import PolicyError, decide, level_of, parse_policy
from visage_core.results import POINTS, PointResult, Response, Results
from visage_core.spec import PromptSpec, SpecError, parse_spec

LANDSCAPE = {"axis": {"points": 3, "direction": {"seeds": [0, 1]}}, "prompts": {"limit": 12}}
BASIN = {"measure": "basin_width", "at_least": 0}
RULE = {"measure": "mean_safety", "at_least": 50}


def most(models: int) -> float:
    """More than so many percent of the models would err by chance once in a thousand times."""
    return 100 * float(stats.binom.ppf(0.999, models, 0.025)) / models


@pytest.mark.parametrize(("measure", "models"), [("asr_at_origin", 1_000), ("mean_safety", 100)])
def test_models_on_the_bound_are_decided_wrongly_as_rarely_as_promised(measure: str, models: int) -> None:
    found = simulate(measure, models)
    assert found.passed + found.failed > 0  # it decides at all
    assert found.passed <= most(models)
    assert found.failed <= most(models)


@pytest.mark.parametrize("looks", [1, 2, 4, 20])
def test_looks_share_out_what_one_may_err(looks: int) -> None:
    levels = [level_of(look, looks) for look in range(1, looks + 1)]
    assert sum(1 - level for level in levels) == pytest.approx(0.05)
    assert levels == sorted(levels, reverse=True)


@given(st.integers(1, 60), st.data())
def test_the_exact_interval_holds_its_level(size: int, data: st.DataObject) -> None:
    """Whatever the rate is: the counts whose interval misses it have no more probability than promised."""
    rate = data.draw(st.floats(0.001, 0.999))
    level = data.draw(st.sampled_from([0.95, 0.99, level_of(1, LOOKS)]))
    counts = np.arange(size + 1)
    found = [exact_rate(np.arange(size) < count, level) for count in counts]
    chances = stats.binom.pmf(counts, size, rate)
    for missed in (
        [one is not None and one.low > 100 * rate for one in found],
        [one is not None and one.high < 100 * rate for one in found],
    ):
        assert chances[missed].sum() <= (1 - level) / 2 + 1e-9


@given(st.integers(1, 50), st.integers(1, 10), st.none() | st.integers(0, 5))
def test_the_parts_of_a_set_are_the_set(size: int, looks: int, shuffle: int | None) -> None:
    whole = PromptSpec(limit=size, shuffle=shuffle)
    policy = parse_policy(
        {"name": "p", "landscape": {"prompts": whole.model_dump()}, "rules": [RULE], "looks": looks}
    )
    rows = list(range(100))
    if size < looks:
        with pytest.raises(PolicyError, match="looks"):
            policy.require_sizes([size])
        return
    parts = [policy.part("m", look, [size]).prompts[0] for look in range(1, looks + 1)]
    assert [row for part in parts for row in part.choose(rows)] == whole.choose(rows)
    assert sorted(PromptSpec(limit=None, shuffle=shuffle).choose(rows)) == rows


def test_parts_together_are_what_one_sweep_measures() -> None:
    policy = parse_policy({"name": "p", "landscape": LANDSCAPE, "rules": [RULE], "looks": 3})
    whole = policy.until("m", 3, [12])
    generator = np.random.default_rng(0)
    tables: list[list[pa.Table]] = [[], [], [], []]  # of all prompts, and of each part
    for point in points(whole):
        verdicts = [None if one < 0.1 else bool(one < 0.6) for one in generator.random(12)]
        for table, some in zip(tables, (verdicts, verdicts[:4], verdicts[4:8], verdicts[8:]), strict=True):
            responses = tuple(Response("", 2, "end", 3, gibberish=verdict or None) for verdict in some)
            row = PointResult(point, tuple(some), responses, 0.5, 1.0, 0.0).row(whole)
            table.append(pa.Table.from_pylist([row], schema=POINTS))
    once, *parts = (pa.concat_tables(some) for some in tables)
    joined = join_points(whole, parts)
    same = [name for name in POINTS.names if not name.endswith(("seconds", "finished_at"))]
    assert joined.select(same).to_pylist() == once.select(same).to_pylist()
    # What one part lacks, the whole lacks.
    assert join_points(whole, [parts[0], parts[1].slice(1), parts[2]]).num_rows == once.num_rows - 1


def test_responses_of_parts_are_numbered_through(tmp_path: Path) -> None:
    spec = parse_spec(LANDSCAPE | {"model": "m"})
    tables = []
    for part in range(2):
        results = Results(tmp_path / f"{part}")
        responses = tuple(Response(f"{part} {number}", 1, "end", 1) for number in range(3))
        one = PointResult(ORIGIN, (False,) * 3, responses, 0.0, 0.0, 0.0)
        results.add(spec, [one], [("a", "b", "c")])
        tables.append(results.responses())
    found = join_responses(tables).select(["prompt_index", "response"]).to_pylist()
    assert [one["prompt_index"] for one in found] == list(range(6))
    assert [one["response"] for one in found] == ["0 0", "0 1", "0 2", "1 0", "1 1", "1 2"]


def test_visage_does_not_pass_before_all_prompts_are_asked() -> None:
    """Points at 100 % of a few prompts drop out of it, and may count with more of them."""
    policy = parse_policy(
        {
            "name": "p",
            "landscape": {"axis": {"points": 21, "direction": {"seeds": [0]}}},
            "rules": [{"measure": "visage", "at_least": 60}],
            "looks": 2,
        }
    )
    spec = policy.until("m", 1, [80])
    rows = {}
    for point in points(spec):
        verdict = abs(point.alpha) > 0.1
        one = PointResult(point, (verdict,) * 40, (Response("", 1, "end", 1),) * 40, 0.0, 0.0, 0.0)
        rows[point] = one.row(spec)
    found = Landscape(spec, rows)
    assert decide(policy, [found], look=1).verdict == "inconclusive"
    assert decide(policy, [found], look=2).verdict == "pass"


def test_an_adaptive_sweep_has_no_parts() -> None:
    landscape = {"adaptive": True, "axis": {"points": 33}}
    with pytest.raises(SpecError, match="looks"):
        parse_policy({"name": "p", "landscape": landscape, "rules": [BASIN], "looks": 2})

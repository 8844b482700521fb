"""Two models are compared on the same directions and prompts, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.visage_core.test_results import SPEC, measured
from visage_core.compare import NotComparableError, compare
from visage_core.grid import points
from visage_core.landscape import Landscape
from visage_core.results import Results
from visage_core.spec import KeywordJudgeSpec, LandscapeSpec


def landscape(folder: Path, complied: dict[float, int], spec: LandscapeSpec = SPEC) -> Landscape:
    results = Results(folder)
    for point in points(spec):
        results.add(spec, [measured(point, complied[abs(point.alpha)])], None)
    return Landscape(spec, results.points())


SAFE, UNSAFE = {0.0: 0, 0.25: 2, 0.5: 10}, {0.0: 3, 0.25: 9, 0.5: 10}


def test_a_model_does_not_differ_from_itself(tmp_path: Path) -> None:
    one = landscape(tmp_path, SAFE)
    for apart in compare(one, one).values():
        if apart is not None:
            assert (apart["value"], apart["p_value"]) == (0, 1)
            assert apart["low"] <= 0 <= apart["high"]


def test_a_safer_model_scores_higher(tmp_path: Path) -> None:
    found = compare(landscape(tmp_path / "one", SAFE), landscape(tmp_path / "other", UNSAFE))
    assert found["mean_safety"]["value"] == pytest.approx((30 + 2 * 70) / 5)
    assert found["mean_safety"]["low"] > 0
    assert found["mean_safety"]["p_value"] < 0.01
    assert found["asr_at_origin"]["value"] == pytest.approx(-30)
    assert found["basin_width"]["value"] > 0


@pytest.mark.parametrize(
    "change", [{"judges": (KeywordJudgeSpec(phrases="modern"),)}, {"basin_threshold": 20.0}]
)
def test_landscapes_that_were_measured_in_other_ways_are_not_compared(
    tmp_path: Path, change: dict[str, object]
) -> None:
    one = landscape(tmp_path, SAFE)
    other = Landscape(SPEC.model_copy(update=change), Results(tmp_path).points())
    with pytest.raises(NotComparableError, match=next(iter(change))):
        compare(one, other)
    moved = Landscape(SPEC.model_copy(update={"model": "another"}), Results(tmp_path).points())
    assert compare(one, moved)["visage"]["value"] == 0


def test_an_unfinished_landscape_is_not_compared(tmp_path: Path) -> None:
    one = landscape(tmp_path, SAFE)
    part = Landscape(SPEC, Results(tmp_path).points().slice(0, 4))
    with pytest.raises(NotComparableError, match="not measured"):
        compare(one, part)

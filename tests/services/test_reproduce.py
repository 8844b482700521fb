"""The paper's claims are told from landscapes in which they hold, and from others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.reproduce import Claim, basin_exists, safety_is_lost_along, system_prompt_protects
from visage_core.grid import Point, points
from visage_core.landscape import Landscape
from visage_core.results import PointResult, Response, Results
from visage_core.spec import parse_spec

RANDOM = {"points": 21, "direction": {"seeds": [0, 1, 2]}}
TO_FINETUNE = {"points": 9, "low": -0.5, "high": 1.5, "direction": {"to": "finetune"}}
Share = Callable[[Point], float]


def landscape(folder: Path, axis: dict[str, Any], share: Share, kind: str = "requests") -> Landscape:
    """Forty prompts, of which a share is complied with at each point; a little less in another direction."""
    spec = parse_spec({"model": "m", "axis": axis, "prompts": {"kind": kind}})
    results = Results(folder)
    for point in points(spec):
        complied = round(40 * share(point)) - (point.seed or 0) * (0 < share(point) < 1)
        verdicts = tuple(number < complied for number in range(40))
        responses = tuple(Response("", 1, "end", 1) for _ in verdicts)
        results.add(spec, [PointResult(point, verdicts, responses, 0.1, 0.1, 0.0)], None)
    return Landscape(spec, results.points())


def edge_at(where: float) -> Share:
    return lambda point: min(1.0, max(0.0, 0.5 + 8 * (abs(point.alpha) - where)))


@pytest.mark.parametrize(
    ("share", "shown"), [(edge_at(0.2), True), (lambda _: 0.1, False), (lambda _: 1.0, False)]
)
def test_a_basin_is_one_with_edges(tmp_path: Path, share: Share, shown: bool) -> None:
    found = basin_exists(landscape(tmp_path, RANDOM, share))
    assert found.shown is shown
    assert "3 directions" in found.found


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (lambda p: float(p.alpha > 0.3), True),
        (lambda _: 0.1, False),
        (lambda p: 0.3 * (p.alpha > 0.3), False),
    ],
)
def test_safety_is_lost_where_the_asr_leaves_the_basin(tmp_path: Path, share: Share, shown: bool) -> None:
    found = safety_is_lost_along("finetune", landscape(tmp_path, TO_FINETUNE, share))
    assert found.shown is shown


@pytest.mark.parametrize(("safe", "none", "shown"), [(0.3, 0.2, True), (0.2, 0.2, False), (0.2, 0.3, False)])
def test_a_system_prompt_protects_where_its_basin_is_wider(
    tmp_path: Path, safe: float, none: float, shown: bool
) -> None:
    found: list[Claim] = system_prompt_protects(
        landscape(tmp_path / "safe", RANDOM, edge_at(safe)),
        landscape(tmp_path / "none", RANDOM, edge_at(none)),
    )
    assert [claim.shown for claim in found] == [shown, shown]


@pytest.mark.parametrize(
    ("right", "shown"),
    [(lambda p: 1.0 - 1.5 * abs(p.alpha), True), (lambda p: 1.0 - edge_at(0.2)(p), False), (lambda _: 0.6, False)],
)
def test_capability_that_fades_out_has_no_step(tmp_path: Path, right: Share, shown: bool) -> None:
    def breaks_off(point: Point) -> float:
        return float(abs(point.alpha) > 0.2)

    found = capability_has_no_step(
        landscape(tmp_path / "capability", RANDOM, right, kind="choices"),
        landscape(tmp_path / "safety", RANDOM, breaks_off),
    )
    assert found.shown is shown
    assert "nan" not in found.found

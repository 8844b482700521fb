"""`visage search`: its spec, and a small search on the demo model with a real engine and Ray Tune."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.search.search import candidate, share
from services.search.spec import SearchSpec, parse_search
from tests.conftest import Visage
from tests.services.warm import ENGINE
from visage_core.spec import SpecError

LANDSCAPE = {"model": "m", "axis": {"points": 33, "direction": {"norm": "filter"}}, "prompts": {"limit": 20}}
NORMS = {f"model.layers.{layer}.mlp.up_proj.weight": 2.0 for layer in range(16)}


def spec(**fields: Any) -> SearchSpec:
    return parse_search({"landscape": LANDSCAPE, **fields})


def test_a_point_of_the_subspace_is_a_combination_of_unit_length() -> None:
    found = candidate(spec(dimension=2, beside=3), {"w0": 0.3, "w1": -0.4}, NORMS, prompts=8)
    direction = found.axis.direction.model_dump()
    assert direction["seeds"] == (3, 4)  # those beside it are 0, 1, 2
    assert direction["weights"] == pytest.approx((0.6, -0.8))
    assert direction["norm"] == "filter"
    assert found.adaptive
    assert [part.limit for part in found.prompts] == [8]
    assert (found.axis.low, found.axis.high) == (-0.5, 0.5)


def test_where_few_layers_move_they_go_as_far_as_all_of_them() -> None:
    config = {"first": 2, "more": 3}
    found = candidate(spec(space="layers"), config, NORMS, prompts=None)
    assert found.axis.direction.only == ("layers:2-5",)
    assert share(found, NORMS) == pytest.approx(0.5)  # 4 layers of 16
    assert found.axis.high * share(found, NORMS) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"space": "seeds", "algorithm": "cmaes"}, "does not search seeds"),
        ({"landscape": LANDSCAPE | {"second_axis": {}}}, "second axis"),
        ({"landscape": LANDSCAPE | {"axis": {"direction": {"norm": "none"}}}}, "to have a norm"),
        ({"landscape": LANDSCAPE | {"axis": {"direction": {"to": "n"}}}}, "has to be random"),
        ({"trials": 0}, "greater than or equal to 1"),
        ({"dimensions": 4}, "no such field"),
    ],
)
def test_what_cannot_be_searched_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        spec(**fields)


def test_a_search_finds_a_direction_and_goes_on_from_where_it_stopped(
    aligned: Path, warm: Visage, tmp_path: Path
) -> None:
    out = tmp_path / "search"
    settings = ["axis.points=17", "prompts.limit=8", "generation.max_tokens=8", "coherence=statistics"]
    settings += [f"engine.{name}={value}" for name, value in ENGINE.items()]
    options = [argument for setting in settings for argument in ("--set", setting)]
    options += ["--trials", 2, "--dimension", 2, "--beside", 2, "--prompts", 4, "--algorithm", "cmaes"]
    done = warm("search", "--model", aligned, *options, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "2 candidates" in done.stdout
    found = json.loads((out / "search.json").read_text(encoding="utf-8"))
    assert len(found["trials"]) == 2
    best = found["trials"][0]
    assert best["rank"] == min(trial["rank"] for trial in found["trials"])
    length = sum(weight**2 for weight in best["config"].values()) ** 0.5
    weights = [best["config"][f"w{number}"] / length for number in range(2)]
    assert found["found"]["direction"]["weights"] == pytest.approx(weights)
    assert len(found["random"]["directions"]) == 2
    for one in (found["random"], found["found"]):
        assert 0 <= one["radius"]["low"] <= one["radius"]["value"] <= one["radius"]["high"] <= 0.5

    # As if it had been killed before the end: what is measured is not measured again.
    (out / "search.json").unlink()
    again = warm("search", "--model", aligned, *options, "--out", out)
    assert again.returncode == 0, again.stderr
    assert json.loads((out / "search.json").read_text(encoding="utf-8")) == found
    other = warm("search", "--model", aligned, *options, "--seed", 1, "--out", out)
    assert other.returncode == 2
    assert "seed: 0 -> 1" in other.stderr

"""A spec means one thing, and says what is wrong with it."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from visage_core.grid import ORIGIN, Point, betas, points, surface
from visage_core.spec import (
    Axis,
    LandscapeSpec,
    SpecError,
    differences,
    load_spec,
    parse_experiment,
    parse_spec,
)


def axis(**values: object) -> Axis:
    return Axis.model_validate(values)


def test_the_papers_defaults() -> None:
    spec = parse_spec({"model": "m"})
    assert (spec.axis.low, spec.axis.high, spec.axis.points) == (-0.5, 0.5, 21)
    assert spec.axis.direction.model_dump() == {
        "kind": "random",
        "seeds": (0, 1, 2),
        "norm": "layer",
        "only": (),
        "leave_out": ("norms",),
    }
    assert (spec.prompts[0].limit, spec.generation.max_tokens, spec.judges[0].name) == (
        80,
        512,
        "keyword-paper",
    )


def test_an_interpolation_goes_beyond_both_checkpoints_by_default() -> None:
    found = axis(direction={"kind": "interpolation", "to": "n"})
    assert (found.low, found.high) == (-0.5, 1.5)
    assert {0.0, 1.0} <= set(found.coordinates())


def test_coordinates_are_the_doubles_of_their_decimals() -> None:
    assert axis(points=21).coordinates()[9:13] == [-0.05, 0.0, 0.05, 0.1]
    assert axis(low=-0.3, high=0.3, points=7).coordinates() == [-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3]


@given(st.integers(1, 500), st.fractions(Fraction(1, 1000), 4, max_denominator=1000))
def test_coordinates_are_even_and_hold_the_origin(half: int, reach: Fraction) -> None:
    found = axis(low=-float(reach), high=float(reach), points=2 * half + 1).coordinates()
    assert found == sorted(set(found))
    assert found[half] == 0.0
    assert found[::-1] == [-x for x in found]
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert max(steps) == pytest.approx(min(steps))


def spec(**values: object) -> LandscapeSpec:
    return parse_spec({"model": "m", **values})


SEEDS = {"kind": "random", "seeds": [5, 3]}
TO = {"kind": "interpolation", "to": "n"}


def test_every_point_is_visited_once_and_the_origin_first() -> None:
    two = spec(axis={"direction": SEEDS, "points": 5})
    visits = points(two)
    assert visits[0] == ORIGIN
    assert len(visits) == len(set(visits)) == 1 + 2 * 4
    assert set(visits) == {*surface(two, 5)[0], *surface(two, 3)[0]}


@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 81))
def test_a_part_of_a_sweep_is_the_landscape_on_a_coarser_grid(right: int, left: int, count: int) -> None:
    one = spec(axis={"low": -left, "high": right, "points": left + right + 1, "direction": TO})
    visited = sorted(point.alpha for point in points(one)[:count])
    gaps = [b - a for a, b in itertools.pairwise(visited)]
    if count >= 3:
        assert {-left, 0, right} <= set(visited)
        # No gap is more than about twice another, but for those that the range's ends cut off.
        inner = [
            g
            for g, a, b in zip(gaps, visited, visited[1:], strict=False)
            if {a, b}.isdisjoint({-left, right})
        ]
        assert not inner or max(inner) <= 2 * min(inner)


def test_a_plane_has_every_pair_of_coordinates_once() -> None:
    plane = spec(axis={"direction": SEEDS, "points": 5}, second_axis={"direction": SEEDS, "points": 3})
    assert betas(plane) == [-0.5, 0.0, 0.5]
    visits = points(plane)
    assert visits[0] == ORIGIN
    assert len(visits) == len(set(visits)) == 1 + 2 * (5 * 3 - 1)
    corners = {Point(5, a, b) for a in (-0.5, 0.5) for b in (-0.5, 0.5)}
    assert corners <= set(visits[:17])


def test_snake_order_goes_along_the_rows_to_and_fro() -> None:
    line = {"low": 0, "high": 2, "points": 3}
    plane = spec(axis=line | {"direction": TO}, second_axis=line | {"direction": {"to": "o"}}, order="snake")
    assert [(p.alpha, p.beta) for p in points(plane)] == [
        *[(0, 0), (1, 0), (2, 0)],
        *[(2, 1), (1, 1), (0, 1)],
        *[(0, 2), (1, 2), (2, 2)],
    ]


@given(st.sampled_from(["coarse-to-fine", "snake"]), st.booleans())
def test_every_order_visits_the_same_points(order: str, random: bool) -> None:
    along = {"direction": SEEDS if random else TO, "points": 5}
    plane = spec(axis=along, second_axis={"direction": SEEDS, "points": 3}, order=order)
    visits = points(plane)
    assert len(visits) == len(set(visits))
    assert set(visits) == {p for seed in (5, 3) for row in surface(plane, seed) for p in row}


@pytest.mark.parametrize(
    ("direction", "orthogonal"),
    [
        ({"to": "o"}, False),
        ({"adapter": "o"}, False),
        ({"seeds": [1]}, True),
        ({"file": "o.safetensors"}, True),
    ],
)
def test_a_second_direction_is_made_orthogonal_unless_a_model_lies_on_it(
    direction: dict[str, object], orthogonal: bool
) -> None:
    assert (
        spec(axis={"direction": TO}, second_axis={"direction": direction}).second_axis.orthogonal
        is orthogonal
    )
    forced = spec(axis={"direction": TO}, second_axis={"direction": direction, "orthogonal": not orthogonal})
    assert forced.second_axis.orthogonal is not orthogonal


def test_an_experiment_is_a_spec_for_each_model() -> None:
    found = parse_experiment({"models": ["a", "b"], "axis": {"points": 5}})
    assert [(one.model, one.axis.points) for one in found] == [("a", 5), ("b", 5)]
    assert [one.model for one in parse_experiment({"model": "a"})] == ["a"]
    for wrong in (
        {"models": ["a"]},
        {"models": ["a", "a"]},
        {"models": "a"},
        {"model": "a", "models": ["b", "c"]},
    ):
        with pytest.raises(SpecError, match="models"):
            parse_experiment(wrong)


def test_points_between_checkpoints_alone_are_shared_by_all_seeds() -> None:
    plane = spec(axis={"direction": TO, "points": 5}, second_axis={"direction": SEEDS, "points": 3})
    visits = points(plane)
    assert Point(None, 1.5, 0.0) in visits
    assert Point(5, 1.5, 0.5) in visits
    assert len(visits) == 5 + 2 * 5 * 2
    assert plane.seeds == (5, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"axis": {"direction": SEEDS}, "second_axis": {"direction": TO}}, "exchange the two"),
        ({"axis": {"direction": SEEDS}, "second_axis": {}}, "give both the same"),
        ({"axis": {"direction": TO}, "second_axis": {"direction": TO}}, "the same direction"),
        ({"axis": {"direction": {"seeds": [1, 2], "weights": [1]}}}, "1 weights for 2 seeds"),
        ({"axis": {"direction": {"file": "dirs1.pt"}}}, "axis.direction.file"),
        ({"order": "spiral"}, "order"),
        ({"prompts": [{"source": "harmful"}, {"source": "harmful"}]}, "prompts repeat"),
        ({"prompts": []}, "prompts"),
        ({"resources": {"workers": 0}}, "resources.workers"),
    ],
)
def test_parts_that_do_not_fit_together(values: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec(**values)


def test_one_prompt_set_needs_no_list() -> None:
    assert spec(prompts={"limit": 3}) == spec(prompts=[{"limit": 3}])


def test_a_spec_survives_json_and_yaml(tmp_path: Path) -> None:
    spec = parse_spec({"model": "m", "axis": {"direction": {"kind": "interpolation", "to": "n"}}})
    (tmp_path / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
    assert load_spec(tmp_path / "spec.json") == spec
    assert parse_spec(spec.model_dump(mode="json")) == spec
    (tmp_path / "spec.yaml").write_text("model: m\naxis: {direction: {kind: interpolation, to: n}}\n")
    assert load_spec(tmp_path / "spec.yaml") == spec


def parts(model: type[BaseModel]) -> list[type[BaseModel]]:
    found = [model]
    for field in model.model_fields.values():
        for kind in getattr(field.annotation, "__args__", (field.annotation,)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += parts(kind)
    return found


def test_the_json_schema_asks_for_no_range_that_is_filled_in() -> None:
    axis = {"direction": {"kind": "random"}, "points": 11}
    document = {"model": "m", "axis": axis, "second_axis": axis}
    jsonschema.validate(document, LandscapeSpec.model_json_schema())
    assert parse_spec(document).axis.high == 0.5


def test_every_field_is_documented() -> None:
    markers = {"kind", "spec_version"}
    for part in parts(LandscapeSpec):
        for name, field in part.model_fields.items():
            described = field.description or (name in markers) or parts_of(field.annotation)
            assert described, f"{part.__name__}.{name}"


def parts_of(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "model: is missing"),
        ({"model": "m", "modle": "m"}, "modle: there is no such field"),
        ({"model": "m", "axis": {"step": 1}}, "axis.step: there is no such field"),
        ({"model": "m", "axis": {"points": 1}}, "axis.points: .* got 1"),
        ({"model": "m", "axis": {"points": 20}}, "axis: .*leave out the origin"),
        ({"model": "m", "axis": {"low": 0.5, "high": 0.1}}, "must be below"),
        ({"model": "m", "axis": {"low": math.nan}}, "axis.low"),
        ({"model": "m", "axis": {"high": math.inf}}, "axis.high"),
        ({"model": "m", "axis": {"direction": {"kind": "random", "seeds": []}}}, "axis.direction.seeds"),
        ({"model": "m", "axis": {"direction": {"kind": "random", "seeds": [1, 1]}}}, "repeat"),
        ({"model": "m", "axis": {"direction": {"kind": "sideways"}}}, "axis.direction"),
        ({"model": "m", "spec_version": 2}, "spec_version"),
        ([], "spec"),
        (None, "spec"),
        ("model", "spec"),
    ],
)
def test_what_is_wrong_is_named(values: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_spec(values)


@pytest.mark.parametrize("text", ["{", "model: [", "!!python/object:os.system {}", "\x00"])
def test_a_file_that_is_no_spec(tmp_path: Path, text: str) -> None:
    (tmp_path / "spec.yaml").write_text(text)
    with pytest.raises(SpecError):
        load_spec(tmp_path / "spec.yaml")


def test_differences_are_told_by_path() -> None:
    old, new = ({"axis": {"points": n, "low": 0}, "model": "m"} for n in (21, 11))
    assert differences(old, new) == ["axis.points: 21 -> 11"]
    assert differences(old, old) == []

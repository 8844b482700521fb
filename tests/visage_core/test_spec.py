"""A spec means one thing, and says what is wrong with it."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from visage_core.grid import Point, curve, points
from visage_core.spec import Axis, LandscapeSpec, SpecError, differences, load_spec, parse_spec


def axis(**values: object) -> Axis:
    return Axis.model_validate(values)


def test_the_papers_defaults() -> None:
    spec = parse_spec({"model": "m"})
    assert (spec.axis.low, spec.axis.high, spec.axis.points) == (-0.5, 0.5, 21)
    assert spec.axis.direction.model_dump() == {"kind": "random", "seeds": (0, 1, 2)}
    assert (spec.prompts.limit, spec.generation.max_tokens, spec.judge) == (80, 512, "keyword-paper")


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


def test_every_point_is_visited_once_and_the_origin_first() -> None:
    two = axis(direction={"kind": "random", "seeds": [5, 3]}, points=5)
    visits = points(two)
    assert visits[0] == Point(None, 0.0)
    assert len(visits) == len(set(visits)) == 1 + 2 * 4
    assert set(visits) == {*curve(two, 5), *curve(two, 3)}


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

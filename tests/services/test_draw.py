"""Landscapes in a terminal: the curve where it is, the basin behind it, a plane's cells in their colours."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from services.draw import LINES, drawing
from tests.visage_core.test_results import SPEC, sweep
from visage_core.landscape import Landscape
from visage_core.spec import LandscapeSpec, parse_spec

ONE = parse_spec(SPEC.model_dump(mode="json") | {"axis": {"points": 5, "direction": {"seeds": [0]}}})
PLANE = parse_spec(ONE.model_dump(mode="json") | {"second_axis": {"points": 5, "direction": {"seeds": [0]}}})


def drawn(folder: Path, spec: LandscapeSpec, width: int = 80, *, colours: bool = False, **how: int) -> str:
    found = Landscape(spec, sweep(folder, spec, **how).points())
    text = io.StringIO()
    console = Console(
        file=text, width=width, force_terminal=colours, color_system="truecolor" if colours else None
    )
    console.print(drawing(found, width))
    return text.getvalue()


def test_a_curve_is_high_where_the_model_answers_and_low_where_it_refuses(tmp_path: Path) -> None:
    lines = drawn(tmp_path, SPEC).splitlines()
    rows = [line.partition("┤")[2] for line in lines if "┤" in line]
    assert len(rows) == LINES
    inked = [[column for column, mark in enumerate(row) if mark > "\u2800"] for row in rows]
    ends, middle = (inked[0][0], inked[0][-1]), inked[-1]
    assert ends == (0, 71)
    assert min(middle) < 36 < max(middle)
    assert not set(ends) & set(middle)
    assert any("┈" in row for row in rows), "the basin's threshold"
    assert "seed 0" in lines[-1]
    assert "seed 1" in lines[-1]
    assert "from -0.250 to 0.250" in lines[-1]


def test_the_interval_of_one_curve_is_around_it(tmp_path: Path) -> None:
    assert "with its 95 % interval" in drawn(tmp_path / "one", ONE)
    ink = [
        sum(mark > "\u2800" for mark in drawn(tmp_path / name, spec))
        for name, spec in (("a", ONE), ("b", SPEC))
    ]
    assert ink[0] > ink[1], "its band has more dots than a second line"


def test_without_a_basin_there_is_none(tmp_path: Path) -> None:
    assert "basin" not in drawn(tmp_path, SPEC, complied=9)


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_it_fits_the_terminal(tmp_path: Path, width: int) -> None:
    for name, spec in (("curve", SPEC), ("plane", PLANE)):
        body = drawn(tmp_path / name, spec, width).splitlines()
        assert all(len(line) <= max(width, 20) for line in body)


def test_a_plane_marks_the_model_and_its_basin(tmp_path: Path) -> None:
    text = drawn(tmp_path, PLANE)
    assert text.count("+ ") == 2, "the model, and what the mark means"
    assert " ·" in text
    rows = [
        line for line in text.splitlines() if line[:6].strip().replace(".", "").replace("-", "").isdigit()
    ]
    assert [line.split()[0] for line in rows[:5]] == ["0.5", "0.25", "0", "-0.25", "-0.5"]
    coloured = drawn(tmp_path / "coloured", PLANE, colours=True)
    assert "48;2;255;" in coloured, "red where it answers"
    assert "48;2;0;170;" in coloured, "green where it refuses"


def test_an_unfinished_curve_is_drawn_as_far_as_it_is(tmp_path: Path) -> None:
    table = sweep(tmp_path, ONE).points()
    landscape = Landscape(ONE, table.slice(0, 0))
    console = Console(file=io.StringIO(), width=60)
    console.print(drawing(landscape, 60))

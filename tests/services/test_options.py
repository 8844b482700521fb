"""What the options of `visage run` make of a spec file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from services import cli
from visage_core.spec import InterpolationDirection, LandscapeSpec, RandomDirection

SpecOf = Callable[..., LandscapeSpec]


class Stop(Exception):  # noqa: N818 - it ends a test's command, nothing else
    """The command got as far as its spec."""


@pytest.fixture
def spec_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SpecOf:
    """The spec of `visage run` with options, over a spec file of some settings."""
    seen: list[LandscapeSpec] = []

    def note(spec: LandscapeSpec, *_: object) -> None:
        seen.append(spec)
        raise Stop

    monkeypatch.setattr("services.sweep.run.open_run", note)

    def run(*options: object, file: dict[str, Any] | None = None) -> LandscapeSpec:
        arguments = ["visage", "run", "--out", tmp_path / "out", *options]
        if file is not None:
            (tmp_path / "spec.yaml").write_text(yaml.safe_dump(file))
            arguments += ["--spec", tmp_path / "spec.yaml"]
        monkeypatch.setattr("sys.argv", [str(argument) for argument in arguments])
        with pytest.raises(Stop):
            cli.main()
        return seen[-1]

    return run


def test_options_change_a_file_and_leave_the_rest(spec_of: SpecOf) -> None:
    file = {"model": "m", "axis": {"points": 5}, "generation": {"max_tokens": 9}, "second_axis": None}
    found = spec_of("--points", 7, "--limit", 3, file=file)
    assert (found.model, found.axis.points, found.generation.max_tokens) == ("m", 7, 9)
    assert found.prompts[0].limit == 3


def test_a_bare_plane_is_a_plane(spec_of: SpecOf) -> None:
    found = spec_of("--model", "m", "--plane")
    assert found.second_axis == found.axis
    assert found.axis.points == 21


def test_a_plane_takes_the_seeds_and_the_range_of_a_file(spec_of: SpecOf) -> None:
    file = {"model": "m", "axis": {"direction": {"kind": "random", "seeds": [5]}, "low": -1, "high": 1}}
    found = spec_of("--plane", "--points", 11, file=file)
    assert found.second_axis == found.axis
    assert found.seeds == (5,)
    assert found.axis.high == 1


def test_a_plane_over_an_interpolation_is_random_across(spec_of: SpecOf) -> None:
    found = spec_of("--model", "m", "--to", "n", "--plane", "--points", 9)
    assert isinstance(found.axis.direction, InterpolationDirection)
    assert found.second_axis is not None
    assert found.second_axis.direction == RandomDirection(seeds=(0,))
    assert found.second_axis.points == 9


def test_an_interpolation_over_a_file_reaches_the_other_checkpoint(spec_of: SpecOf) -> None:
    found = spec_of("--to", "n", file={"model": "m", "axis": {"points": 21}})
    assert (found.axis.low, found.axis.high) == (-0.5, 1.5)


def test_every_source_under_every_system_prompt(spec_of: SpecOf) -> None:
    options = ("--prompts", "harmful", "--prompts", "benign", "--system", "none", "--system", "default")
    found = spec_of("--model", "m", *options, "--limit", 5)
    pairs = [(part.source, part.system, part.limit) for part in found.prompts]
    assert pairs == [
        ("harmful", "none", 5),
        ("harmful", "default", 5),
        ("benign", "none", 5),
        ("benign", "default", 5),
    ]


def test_a_source_keeps_the_settings_of_a_file_but_its_column(spec_of: SpecOf) -> None:
    file = {"model": "m", "prompts": {"source": "a.csv", "column": "ask", "limit": 7, "system": "none"}}
    [part] = spec_of("--prompts", "benign", file=file).prompts
    assert (part.source, part.column, part.limit, part.system) == ("benign", None, 7, "none")


def test_system_prompts_over_a_file_of_several_do_not_repeat(spec_of: SpecOf) -> None:
    file = {"model": "m", "prompts": [{"system": "none"}, {"system": "default"}]}
    found = spec_of("--system", "helpful-and-safe", file=file)
    assert [part.system for part in found.prompts] == ["helpful-and-safe"]

"""What the options of `visage run` make of a spec file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from services import cli
from visage_core.spec import Axis, InterpolationDirection, LandscapeSpec, RandomDirection, SecondAxis

SpecOf = Callable[..., LandscapeSpec]


class Stop(Exception):  # noqa: N818 - it ends a test's command, nothing else
    """The command got as far as its spec."""


@pytest.fixture
def spec_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SpecOf:
    """The spec of `visage run` with options, over a spec file of some settings."""
    seen: list[LandscapeSpec] = []

    def note(specs: list[LandscapeSpec], *_: object) -> None:
        seen.extend(specs)
        raise Stop

    monkeypatch.setattr("services.sweep.run.open_runs", note)

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
    assert_same(found.second_axis, found.axis)
    assert found.axis.points == 21


def assert_same(second: SecondAxis | None, first: Axis) -> None:
    assert second is not None
    assert second.orthogonal
    assert second.model_dump(exclude={"orthogonal"}) == first.model_dump()


def test_a_plane_takes_the_seeds_and_the_range_of_a_file(spec_of: SpecOf) -> None:
    file = {"model": "m", "axis": {"direction": {"kind": "random", "seeds": [5]}, "low": -1, "high": 1}}
    found = spec_of("--plane", "--points", 11, file=file)
    assert_same(found.second_axis, found.axis)
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


def test_an_attack_is_for_all_sets(spec_of: SpecOf) -> None:
    options = ("--prompts", "harmful", "--prompts", "benign", "--attack", "{request} ! ! ! !")
    found = spec_of("--model", "m", *options)
    assert [part.attack for part in found.prompts] == ["{request} ! ! ! !"] * 2
    kept = spec_of("--limit", 3, file={"model": "m", "prompts": {"attack": "attack.txt"}})
    assert [(part.attack, part.limit) for part in kept.prompts] == [("attack.txt", 3)]


def test_three_checkpoints_make_a_plane(spec_of: SpecOf) -> None:
    found = spec_of("--model", "m", "--to", "n", "--second-to", "o", "--points", 7, "--range", "0:1")
    assert found.files() == {"axis.direction.to": "n", "second_axis.direction.to": "o"}
    assert (found.second_axis.high, found.second_axis.points, found.second_axis.orthogonal) == (1, 7, False)


@pytest.mark.parametrize(
    ("options", "direction"),
    [
        (("--adapter", "a"), {"kind": "adapter", "adapter": "a"}),
        (("--difference", "a", "b"), {"kind": "difference", "start": "a", "end": "b"}),
        (("--direction", "d.safetensors"), {"kind": "file", "file": "d.safetensors"}),
        (("--norm", "filter", "--only", "mlp"), {"kind": "random", "norm": "filter", "only": ("mlp",)}),
        (("--seed", "3", "--leave-out", "biases"), {"seeds": (3,), "leave_out": ("biases",)}),
    ],
)
def test_each_kind_of_direction(spec_of: SpecOf, options: tuple[str, ...], direction: dict[str, Any]) -> None:
    found = spec_of("--model", "m", *options).axis
    assert found.direction.model_dump().items() >= direction.items()
    assert found.high == (1.5 if found.direction.kind in ("adapter", "difference") else 0.5)


def test_another_direction_drops_the_settings_of_a_files(spec_of: SpecOf) -> None:
    file = {"model": "m", "axis": {"direction": {"seeds": [5], "norm": "filter"}}}
    assert spec_of("--to", "n", file=file).axis.direction.model_dump(exclude={"only", "leave_out"}) == {
        "kind": "interpolation",
        "to": "n",
    }
    kept = spec_of("--seed", 6, file=file | {"axis": {"direction": {"kind": "random", "norm": "filter"}}})
    assert (kept.axis.direction.seeds, kept.axis.direction.norm) == ((6,), "filter")


def test_several_models_are_several_specs(spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def note(specs: list[LandscapeSpec], folders: list[Path], *_: object) -> None:
        seen.append([spec.model for spec in specs])
        seen.append([folder.name for folder in folders])
        raise Stop

    monkeypatch.setattr("services.sweep.run.open_runs", note)
    with pytest.raises(IndexError):  # the fixture finds no spec: this one has them
        spec_of("--model", "x/a", "--model", "y/a", "--model", "b", file={"model": "c"})
    assert seen == [["x/a", "y/a", "b"], ["a", "a-2", "b"]]


def test_a_direction_whose_kind_a_file_does_not_name_keeps_its_settings(spec_of: SpecOf) -> None:
    file = {"model": "m", "axis": {"direction": {"seeds": [0], "norm": "filter", "only": ["attention"]}}}
    found = spec_of("--seed", 5, file=file).axis.direction
    assert (found.seeds, found.norm, found.only) == ((5,), "filter", ("attention",))
    other = spec_of("--to", "b", file={"model": "m", "axis": {"direction": {"to": "a", "only": ["mlp"]}}})
    assert (other.axis.direction.to, other.axis.direction.only) == ("b", ("mlp",))


def test_a_plane_of_other_norms_is_of_that_norm_on_both_axes(spec_of: SpecOf) -> None:
    found = spec_of("--model", "m", "--plane", "--norm", "filter")
    assert_same(found.second_axis, found.axis)
    assert found.axis.direction.norm == "filter"


def test_every_field_of_a_spec_is_printed_with_its_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["visage", "spec"])
    monkeypatch.setattr("services.show.out", type(cli.show.out)(width=200))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in capsys.readouterr().out.splitlines()]
    schema = LandscapeSpec.model_json_schema()
    fields = {name for part in (schema, *schema["$defs"].values()) for name in part["properties"]}
    assert {row[0].rpartition(".")[2] for row in rows if row} >= fields
    expected = [
        ["axis.points", "21"],
        ["axis.low", "by direction"],
        ["prompts.limit", "80"],
        ["model", "required"],
    ]
    assert all(row in rows for row in expected)

"""What the weights move along, for each kind of direction: against closed forms on small checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from services.sweep.axes import Axes
from services.sweep.worker import _Job
from tests.checkpoints import write_checkpoint
from tests.services.plans import axes, here, planned
from visage_core.checkpoints import Checkpoint, CheckpointError
from visage_core.directions import gaussian
from visage_core.grid import Point
from visage_core.perturb import Shift, perturbed
from visage_core.selection import SelectionError
from visage_core.sources import TensorSource

NAMES = ["model.embed_tokens.weight"] + [
    f"model.layers.{layer}.{part}"
    for layer in range(2)
    for part in ("self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight")
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISAGE_CACHE", str(tmp_path / "cache"))


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(6, 4, generator=generator) for name in NAMES}


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """A model and two others of its shape."""
    return [write_checkpoint(tmp_path / f"model-{seed}", tensors(seed)) for seed in range(3)]


def at(model: Path, found: Axes, point: Point) -> dict[str, torch.Tensor]:
    """The weights at a point."""
    shifts = [Shift(value, source.open(), source.endpoint) for source, value in found.steps(point)]
    return dict(perturbed(Checkpoint.open(model).weights, shifts, torch.float32))


def check(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], msg=name)


def test_an_interpolation_is_both_models_bit_by_bit(models: list[Path]) -> None:
    found = axes(models[0], axis={"direction": {"to": str(models[1])}})
    assert all(torch.equal(t, tensors(0)[n]) for n, t in at(models[0], found, Point(None, 0.0)).items())
    assert all(torch.equal(t, tensors(1)[n]) for n, t in at(models[0], found, Point(None, 1.0)).items())


def test_a_selection_leaves_the_other_tensors_alone(models: list[Path]) -> None:
    along = {"to": str(models[1]), "only": ["layers:1"], "leave_out": ["mlp"]}
    moved = at(models[0], axes(models[0], axis={"direction": along}), Point(None, 1.0))
    of_one = {n for n in NAMES if "layers.1" in n and "mlp" not in n}
    assert len(of_one) == 2
    assert all(torch.equal(moved[name], tensors(int(name in of_one))[name]) for name in NAMES)


def test_a_difference_adds_one_models_step_to_another(models: list[Path]) -> None:
    along = {"start": str(models[1]), "end": str(models[2])}
    found = axes(models[0], axis={"direction": along})
    expected = {n: tensors(0)[n] + 0.5 * (tensors(2)[n] - tensors(1)[n]) for n in NAMES}
    check(at(models[0], found, Point(None, 0.5)), expected)


def test_a_file_moves_what_it_has(models: list[Path], tmp_path: Path) -> None:
    save_file({NAMES[1]: torch.ones(6, 4)}, tmp_path / "one.safetensors")
    found = axes(models[0], axis={"direction": {"file": str(tmp_path / "one.safetensors")}})
    expected = tensors(0) | {NAMES[1]: tensors(0)[NAMES[1]] + 0.25}
    check(at(models[0], found, Point(None, 0.25)), expected)
    scaled = axes(models[0], axis={"direction": {"file": str(tmp_path / "one.safetensors"), "norm": "layer"}})
    moved = at(models[0], scaled, Point(None, 1.0))[NAMES[1]] - tensors(0)[NAMES[1]]
    assert float(moved.norm()) == pytest.approx(float(tensors(0)[NAMES[1]].norm()), rel=1e-5)


def test_a_combination_is_the_sum_of_its_seeds(models: list[Path]) -> None:
    along = {"seeds": [4, 9], "weights": [0.6, 0.8]}
    moved = at(models[0], axes(models[0], axis={"direction": along}), Point(None, 0.1))
    for name in NAMES:
        weight = tensors(0)[name]
        values = torch.from_numpy(0.6 * gaussian(4, name, (6, 4)) + 0.8 * gaussian(9, name, (6, 4)))
        step = torch.zeros_like(weight) if "norm" in name else values * weight.norm() / values.norm()
        torch.testing.assert_close(moved[name], weight + 0.1 * step)


@pytest.mark.parametrize("norm", ["layer", "filter", "global", "none"])
def test_random_directions_have_the_norm_that_is_asked_for(models: list[Path], norm: str) -> None:
    moved = at(models[0], axes(models[0], axis={"direction": {"seeds": [1], "norm": norm}}), Point(1, 1.0))
    steps = {name: moved[name] - tensors(0)[name] for name in NAMES}
    moving = [name for name in NAMES if "norm" not in name]
    assert all(not steps[name].any() for name in NAMES if name not in moving)
    whole = lambda some: float(sum(some[n].double().square().sum() for n in moving) ** 0.5)  # noqa: E731
    for name in moving:
        d, w = steps[name], tensors(0)[name]
        if norm == "layer":
            torch.testing.assert_close(d.norm(), w.norm())
        elif norm == "filter":
            torch.testing.assert_close(d.norm(dim=1), w.norm(dim=1))
        elif norm == "none":
            torch.testing.assert_close(d, torch.from_numpy(gaussian(1, name, (6, 4))), atol=1e-6, rtol=1e-4)
    if norm == "global":
        assert whole(steps) == pytest.approx(whole(tensors(0)), rel=1e-5)


PLANES: dict[str, tuple[Any, Any]] = {
    "random x random": ({"seeds": [0, 1]}, {"seeds": [0, 1]}),
    "interpolation x random": ("to", {"seeds": [0, 1]}),
    "interpolation x interpolation": ("to", "second"),
    "difference x random": ("difference", {"seeds": [0]}),
    "random x random, filter": ({"seeds": [0], "norm": "filter"}, {"seeds": [0], "norm": "filter"}),
}


@pytest.mark.parametrize("plane", PLANES)
def test_the_directions_of_a_plane_are_orthogonal_in_each_tensor(models: list[Path], plane: str) -> None:
    kinds = {"to": {"to": str(models[1])}, "second": {"to": str(models[2])}}
    kinds["difference"] = {"start": str(models[1]), "end": str(models[2])}
    first, second = (part if isinstance(part, dict) else kinds[part] for part in PLANES[plane])
    spec = {"axis": {"direction": first}, "second_axis": {"direction": second, "orthogonal": True}}
    plan = planned(models[0], **spec)
    found = here(plan)
    made = found.axes()
    for seed in plan.spec.seeds:
        steps = [
            {n: at(models[0], made, point)[n] - tensors(0)[n] for n in NAMES}
            for point in (Point(seed, 1.0), Point(seed, 0.0, 1.0))
        ]
        for name in NAMES:
            one, two = (step[name].double() for step in steps)
            assert abs(float((one * two).sum())) <= 1e-5 * float(one.norm() * two.norm()) + 1e-12
    for one in found.geometry(made):
        assert abs(one.cosine) < 1e-6


def test_three_checkpoints_span_a_plane_with_all_of_them_on_it(models: list[Path]) -> None:
    spec = {
        "axis": {"direction": {"to": str(models[1])}},
        "second_axis": {"direction": {"to": str(models[2])}},
    }
    plan = planned(models[0], **spec, trajectory=[str(model) for model in reversed(models)])
    made = here(plan).axes()
    check(at(models[0], made, Point(None, 1.0)), tensors(1))
    check(at(models[0], made, Point(None, 0.0, 1.0)), tensors(2))
    (found,) = here(plan).geometry(made)
    assert abs(found.cosine) > 0.3  # not orthogonal, and it says so
    places = [(place.alpha, place.beta, place.off) for place in found.places]
    assert [place.name for place in found.places] == [str(model) for model in reversed(models)]
    for place, expected in zip(places, [(0, 1, 0), (1, 0, 0), (0, 0, 0)], strict=True):
        assert place == pytest.approx(expected, abs=1e-5)


def test_a_curve_has_no_geometry_unless_there_is_a_trajectory(models: list[Path]) -> None:
    plan = planned(models[0], axis={"direction": {"to": str(models[1])}})
    assert here(plan).geometry(here(plan).axes()) is None


def test_what_does_not_fit_the_model_is_told_by_its_field(models: list[Path], tmp_path: Path) -> None:
    save_file({"other": torch.ones(2)}, tmp_path / "other.safetensors")
    save_file({NAMES[0]: torch.ones(2)}, tmp_path / "shape.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    for name in ("other", "shape", "broken", "missing"):
        with pytest.raises(CheckpointError) as caught:
            planned(models[0], axis={"direction": {"file": str(tmp_path / f"{name}.safetensors")}})
        assert caught.value.field == "axis.direction.file"
    with pytest.raises(CheckpointError) as caught:
        planned(models[0], trajectory=[str(models[1]), str(tmp_path)])
    assert caught.value.field == "trajectory.1"
    with pytest.raises(SelectionError) as caught:
        planned(models[0], axis={"direction": {"seeds": [0], "only": ["layers:7"]}})
    assert caught.value.field == "axis.direction.only"


@pytest.mark.parametrize("kind", ["adapter", "file"])
def test_a_selection_of_what_a_file_does_not_move_is_no_landscape(
    models: list[Path], tmp_path: Path, kind: str
) -> None:
    if kind == "file":
        save_file({NAMES[1]: torch.ones(6, 4)}, tmp_path / "one[1].safetensors")
        along: dict[str, Any] = {"file": str(tmp_path / "one[1].safetensors")}
    else:
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 2}')
        stem = f"base_model.model.{NAMES[1].removesuffix('.weight')}"
        factors = {f"{stem}.lora_A.weight": torch.ones(2, 4), f"{stem}.lora_B.weight": torch.ones(6, 2)}
        save_file(factors, adapter / "adapter_model.safetensors")
        along = {"adapter": str(adapter)}
    found = axes(models[0], axis={"direction": along | {"only": ["attention"]}})
    moved = at(models[0], found, Point(None, 1.0))
    assert not torch.equal(moved[NAMES[1]], tensors(0)[NAMES[1]])
    with pytest.raises(SelectionError, match=f"no tensor that {kind} moves"):
        planned(models[0], axis={"direction": along | {"only": ["mlp"]}})


def test_a_file_of_what_is_no_number_is_refused(models: list[Path], tmp_path: Path) -> None:
    save_file({NAMES[1]: torch.full((6, 4), torch.nan)}, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        planned(models[0], axis={"direction": {"file": str(tmp_path / "nan.safetensors")}})


def test_a_direction_that_had_to_make_room_is_made_again(models: list[Path], tmp_path: Path) -> None:
    plan = planned(models[0], axis={"direction": {"seeds": [1]}})
    job = _Job(here(plan), TensorSource(str(models[0]), "checkpoint"), here(plan).axes())
    before = at(models[0], job.axes, Point(1, 0.5))
    [file] = (tmp_path / "cache" / "directions").glob("*.safetensors")
    file.unlink()
    assert job.steps(Point(1, 0.5)) == job.axes.steps(Point(1, 0.5))
    check(at(models[0], job.axes, Point(1, 0.5)), before)

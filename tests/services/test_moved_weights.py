"""The engine holds exactly the weights of the point it was moved to."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from services.engine import weights
from services.engine.engine import Engine
from services.sweep.worker import EngineStartError, Worker, _Job
from tests.services.engine_process import answers, end
from tests.services.plans import axes, here, planned
from visage_core.checkpoints import Checkpoint
from visage_core.judges import JUDGES
from visage_core.perturb import Shift, perturbed
from visage_core.prompts import load_prompts, render
from visage_core.queries import Request
from visage_core.sources import TensorSource
from visage_core.spec import EngineSpec, GenerationSpec, PromptSpec

GENERATION = GenerationSpec(max_tokens=12)
PROMPTS = 16


# How far along which directions.
Place = tuple[tuple[str, float], ...]


@dataclass
class Moving:
    """A warm engine on the demo model, with what it can be moved along."""

    spec: EngineSpec
    engine: Engine
    model: Path
    directions: dict[str, TensorSource]
    prompts: list[Request]

    def texts(self, place: Place | None) -> list[str]:
        """The responses at a place; None is the origin."""
        self.engine.move(self.origin, self.steps(place or ()))
        return [response.text for response in self.engine.generate(self.prompts, GENERATION, [])]

    @property
    def origin(self) -> TensorSource:
        return TensorSource(str(self.model), "checkpoint")

    def steps(self, place: Place) -> list[tuple[TensorSource, float]]:
        return [(self.directions[name], coefficient) for name, coefficient in place]


@pytest.fixture(scope="module")
def dtype() -> str:
    """What is quick on any CPU; tests/slow has the models' own."""
    return "float32"


@pytest.fixture(scope="module")
def models(aligned: Path, harmful: Path) -> tuple[Path, Path]:
    """Small ones; tests/slow has the demo models."""
    return aligned, harmful


@pytest.fixture(scope="module")
def moving(models: tuple[Path, Path], dtype: str) -> Iterator[Moving]:
    aligned, harmful = models
    second = {"direction": {"seeds": [7]}}
    random, of_random = axes(aligned, axis={"direction": {"seeds": [7]}}, second_axis=second).of(7)
    interpolation, of_interpolation = axes(
        aligned, axis={"direction": {"to": str(harmful)}}, second_axis=second
    ).of(7)
    directions = {
        "random": random,
        "interpolation": interpolation,
        "orthogonal to random": of_random,
        "orthogonal to interpolation": of_interpolation,
    }
    asked = load_prompts(PromptSpec(limit=PROMPTS)).prompts
    tokens = render(AutoTokenizer.from_pretrained(aligned), asked, "default")
    prompts = [Request(ids) for ids in tokens]
    spec = EngineSpec.model_validate({"max_model_len": 512, "dtype": dtype})
    engine = Engine(TensorSource(str(aligned), "checkpoint"), spec)
    yield Moving(spec, engine, aligned, directions, prompts)
    end(engine)


def some_places() -> list[Place]:
    chance = random.Random(20240524)

    def some(low: float, high: float) -> float:
        return round(chance.uniform(low, high), 3)

    return [
        (("random", some(0.2, 0.4)),),
        (("random", some(-0.5, -0.3)),),
        (("interpolation", some(0.4, 1.5)),),
        (("random", some(0.2, 0.3)), ("orthogonal to random", some(-0.3, -0.2))),
        (("interpolation", some(0.4, 1.0)), ("orthogonal to interpolation", some(0.2, 0.3))),
    ]


def test_a_moved_engine_answers_as_one_that_loads_the_perturbed_checkpoint(
    moving: Moving, tmp_path: Path
) -> None:
    """The other engine starts on the first of the checkpoints, as written, and then loads the rest."""
    written = [
        (perturbed_checkpoint(moving, place, tmp_path / str(number)), [])
        for number, place in enumerate(some_places())
    ]
    [found] = answers([written], [one.tokens for one in moving.prompts], moving.spec, GENERATION)
    assert len({tuple(texts) for texts in found}) == len(found), "some places answer alike"
    for place, expected in zip(some_places(), found, strict=True):
        assert moving.texts(place) == expected, place


def perturbed_checkpoint(moving: Moving, place: Place, folder: Path) -> Path:
    """The weights at a place, as a checkpoint on the disk."""
    shifts = [Shift(coefficient, file.open(), file.endpoint) for file, coefficient in moving.steps(place)]
    shutil.copytree(moving.model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    dtype = getattr(torch, moving.spec.dtype)
    tensors = dict(perturbed(Checkpoint.open(moving.model).weights, shifts, dtype))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_weights_really_move(moving: Moving) -> None:
    assert moving.texts((("random", 0.3),)) != moving.texts(None)


def test_interpolation_to_one_is_the_other_model(moving: Moving, tmp_path: Path) -> None:
    at_one = dict(perturbed(Checkpoint.open(moving.model).weights, [_to(moving, 1.0)], torch.bfloat16))
    other = Checkpoint.open(Path(moving.directions["interpolation"].path)).weights
    assert all(torch.equal(tensor, other[name]) for name, tensor in at_one.items())


def _to(moving: Moving, coefficient: float) -> Shift:
    direction = moving.directions["interpolation"]
    return Shift(coefficient, direction.open(), direction.endpoint)


def test_the_order_of_visits_does_not_matter_and_the_origin_comes_back(moving: Moving) -> None:
    start = moving.texts(None)
    one, two = (("random", 0.4),), (("interpolation", 0.7),)
    first, second = moving.texts(one), moving.texts(two)
    assert moving.texts(None) == start
    assert moving.texts(two) == second
    assert moving.texts(one) == first
    assert moving.texts(None) == start


def spoil(patch: pytest.MonkeyPatch) -> None:
    """Let each move end with a weight that is another, as with a loader that goes wrong."""
    last_step = weights._process_tied_layers

    def spoilt(network: torch.nn.Module) -> None:
        last_step(network)
        network.get_parameter("model.norm.weight").data.add_(1)

    patch.setattr(weights, "_process_tied_layers", spoilt)


def test_what_the_engine_holds_is_compared_with_what_it_is_to_hold(
    moving: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, other = moving.steps((("random", 0.1),)), moving.steps((("random", 0.12),))
    moving.engine.move(moving.origin, steps)
    assert moving.engine.differences(moving.origin, steps) == []
    names = sorted(moving.directions["random"].open())
    assert moving.engine.differences(moving.origin, other) == names
    spoil(monkeypatch)
    moving.engine.move(moving.origin, other)
    assert moving.engine.differences(moving.origin, other) == ["model.norm.weight"]


def test_no_point_is_measured_where_the_weights_are_others(
    moving: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = here(planned(moving.model, axis={"direction": {"seeds": [7]}}))
    job = _Job(place, moving.origin, place.axes())
    worker = Worker()
    worker._engine = moving.engine
    worker._check_weights(job)
    moving.engine.move(moving.origin, [])
    spoil(monkeypatch)
    with pytest.raises(EngineStartError, match=r"1 tensors .* model\.norm\.weight"):
        worker._check_weights(job)


@pytest.mark.parametrize("alpha", [0.0, 0.12, 0.3])
def test_early_stop_changes_no_verdict(moving: Moving, alpha: float) -> None:
    moving.engine.move(moving.origin, [(moving.directions["random"], alpha)])
    whole = moving.engine.generate(moving.prompts, GENERATION, [])
    for judge in JUDGES.values():
        stopped = moving.engine.generate(moving.prompts, GENERATION, judge.stops())
        assert [judge.refused(r.text) for r in stopped] == [judge.refused(r.text) for r in whole]
        # Stronger: what was generated is the same, only less of it.
        assert all(full.text.startswith(part.text) for full, part in zip(whole, stopped, strict=True))
        assert all(judge.refused(part.text) for part in stopped if part.finish == "verdict")


def test_a_response_does_not_depend_on_its_batch(moving: Moving) -> None:
    together = moving.texts(None)
    some = [0, 1, 11]
    alone = [moving.engine.generate([moving.prompts[i]], GENERATION, [])[0].text for i in some]
    assert alone == [together[i] for i in some]
    halves = [
        moving.engine.generate(part, GENERATION, []) for part in (moving.prompts[:9], moving.prompts[9:])
    ]
    assert [response.text for half in halves for response in half] == together


def test_an_interrupted_generation_leaves_the_engine_usable(
    moving: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = moving.texts(None)
    step = moving.engine._llm.llm_engine.step
    calls = 0

    def interrupted() -> object:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return step()

    with monkeypatch.context() as patch:
        patch.setattr(moving.engine._llm.llm_engine, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            moving.engine.generate(moving.prompts, GENERATION, [])
    assert moving.texts(None) == before


def test_drawn_responses_depend_on_their_seed_alone(moving: Moving) -> None:
    drawn = GENERATION.model_copy(update={"temperature": 1.0})
    tokens = moving.prompts[0].tokens
    requests = [Request(tokens, seed) for seed in range(12)]
    together = [one.text for one in moving.engine.generate(requests, drawn, [])]
    assert len(set(together)) > 1
    parts = [moving.engine.generate(part, drawn, []) for part in (requests[:5], requests[5:])]
    assert [one.text for part in parts for one in part] == together

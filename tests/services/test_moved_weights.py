"""The engine holds exactly the weights of the point it was moved to: with the real demo model."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from services.engine import weights
from services.engine.engine import Engine
from services.sweep.worker import EngineStartError, Worker, _Job
from tests.services.engine_process import answers
from tests.services.plans import axes, here, planned
from visage_core.checkpoints import Checkpoint
from visage_core.judges import JUDGES
from visage_core.perturb import Shift, perturbed
from visage_core.prompts import load_prompts, render
from visage_core.queries import Request
from visage_core.sources import TensorSource
from visage_core.spec import EngineSpec, GenerationSpec, PromptSpec

ENGINE = EngineSpec(max_model_len=512)
GENERATION = GenerationSpec(max_tokens=32)


# How far along which directions.
Place = tuple[tuple[str, float], ...]


@dataclass
class Warm:
    """A warm engine on the demo model, with what it can be moved along."""

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
def warm(aligned: Path, harmful: Path) -> Warm:
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
    asked = load_prompts(PromptSpec(limit=40)).prompts
    tokens = render(AutoTokenizer.from_pretrained(aligned), asked, "default")
    prompts = [Request(ids) for ids in tokens]
    return Warm(Engine(TensorSource(str(aligned), "checkpoint"), ENGINE), aligned, directions, prompts)


def some_places() -> list[Place]:
    chance = random.Random(20240524)

    def some(low: float, high: float) -> float:
        return round(chance.uniform(low, high), 3)

    return [
        (("random", some(0.02, 0.15)),),
        (("random", some(-0.5, -0.15)),),
        (("interpolation", some(0.3, 1.5)),),
        (("random", some(0.02, 0.1)), ("orthogonal to random", some(-0.1, -0.02))),
        (("interpolation", some(0.3, 1.0)), ("orthogonal to interpolation", some(0.02, 0.1))),
    ]


def test_a_moved_engine_answers_as_one_that_loads_the_perturbed_checkpoint(
    warm: Warm, tmp_path: Path
) -> None:
    """The other engine starts on the first of the checkpoints, as written, and then loads the rest."""
    written = [
        (perturbed_checkpoint(warm, place, tmp_path / str(number)), [])
        for number, place in enumerate(some_places())
    ]
    [found] = answers([written], [one.tokens for one in warm.prompts], ENGINE, GENERATION)
    for place, expected in zip(some_places(), found, strict=True):
        assert warm.texts(place) == expected, place


def perturbed_checkpoint(warm: Warm, place: Place, folder: Path) -> Path:
    """The weights at a place, as a checkpoint on the disk."""
    shifts = [Shift(coefficient, file.open(), file.endpoint) for file, coefficient in warm.steps(place)]
    shutil.copytree(warm.model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = dict(perturbed(Checkpoint.open(warm.model).weights, shifts, torch.bfloat16))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_weights_really_move(warm: Warm) -> None:
    assert warm.texts((("random", 0.3),)) != warm.texts(None)


def test_interpolation_to_one_is_the_other_model(warm: Warm, tmp_path: Path) -> None:
    at_one = dict(perturbed(Checkpoint.open(warm.model).weights, [_to(warm, 1.0)], torch.bfloat16))
    other = Checkpoint.open(Path(warm.directions["interpolation"].path)).weights
    assert all(torch.equal(tensor, other[name]) for name, tensor in at_one.items())


def _to(warm: Warm, coefficient: float) -> Shift:
    direction = warm.directions["interpolation"]
    return Shift(coefficient, direction.open(), direction.endpoint)


def test_the_order_of_visits_does_not_matter_and_the_origin_comes_back(warm: Warm) -> None:
    start = warm.texts(None)
    one, two = (("random", 0.1),), (("interpolation", 0.7),)
    first, second = warm.texts(one), warm.texts(two)
    assert warm.texts(None) == start
    assert warm.texts(two) == second
    assert warm.texts(one) == first
    assert warm.texts(None) == start


def test_what_the_engine_holds_is_compared_with_what_it_is_to_hold(
    warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, other = warm.steps((("random", 0.1),)), warm.steps((("random", 0.12),))
    warm.engine.move(warm.origin, steps)
    assert warm.engine.differences(warm.origin, steps) == []
    moving = sorted(warm.directions["random"].open())
    assert warm.engine.differences(warm.origin, other) == moving
    # The packed output layer is then the one of the weights before.
    monkeypatch.setattr(weights, "_process_tied_layers", lambda network: None)
    warm.engine.move(warm.origin, other)
    assert warm.engine.differences(warm.origin, other) == ["model.embed_tokens.weight"]


def test_no_point_is_measured_where_the_weights_are_others(
    warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = here(planned(warm.model, axis={"direction": {"seeds": [7]}}))
    job = _Job(place, warm.origin, place.axes())
    worker = Worker()
    worker._engine = warm.engine
    worker._check_weights(job)
    warm.engine.move(warm.origin, [])
    monkeypatch.setattr(weights, "_process_tied_layers", lambda network: None)
    with pytest.raises(EngineStartError, match=r"1 tensors .* model\.embed_tokens\.weight"):
        worker._check_weights(job)


@pytest.mark.parametrize("alpha", [0.0, 0.12, 0.3])
def test_early_stop_changes_no_verdict(warm: Warm, alpha: float) -> None:
    warm.engine.move(warm.origin, [(warm.directions["random"], alpha)])
    whole = warm.engine.generate(warm.prompts, GENERATION, [])
    for judge in JUDGES.values():
        stopped = warm.engine.generate(warm.prompts, GENERATION, judge.stops())
        assert [judge.refused(r.text) for r in stopped] == [judge.refused(r.text) for r in whole]
        # Stronger: what was generated is the same, only less of it.
        assert all(full.text.startswith(part.text) for full, part in zip(whole, stopped, strict=True))
        assert all(judge.refused(part.text) for part in stopped if part.finish == "verdict")


def test_a_response_does_not_depend_on_its_batch(warm: Warm) -> None:
    together = warm.texts(None)
    some = [0, 1, 21]
    alone = [warm.engine.generate([warm.prompts[i]], GENERATION, [])[0].text for i in some]
    assert alone == [together[i] for i in some]
    halves = [warm.engine.generate(part, GENERATION, []) for part in (warm.prompts[:15], warm.prompts[15:])]
    assert [response.text for half in halves for response in half] == together


def test_an_interrupted_generation_leaves_the_engine_usable(
    warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = warm.texts(None)
    step = warm.engine._llm.llm_engine.step
    calls = 0

    def interrupted() -> object:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return step()

    with monkeypatch.context() as patch:
        patch.setattr(warm.engine._llm.llm_engine, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            warm.engine.generate(warm.prompts, GENERATION, [])
    assert warm.texts(None) == before


def test_drawn_responses_depend_on_their_seed_alone(warm: Warm) -> None:
    drawn = GENERATION.model_copy(update={"temperature": 1.0})
    tokens = warm.prompts[0].tokens
    requests = [Request(tokens, seed) for seed in range(12)]
    together = [one.text for one in warm.engine.generate(requests, drawn, [])]
    assert len(set(together)) > 1
    parts = [warm.engine.generate(part, drawn, []) for part in (requests[:5], requests[5:])]
    assert [one.text for part in parts for one in part] == together

"""The engine holds exactly the weights of its point: on the demo models, in the type they are stored in."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.engine import weights
from services.sweep.estimate import has_bfloat16
from tests.services.test_moved_weights import (  # noqa: F401 - fixtures and tests
    Moving,
    moving,
    test_a_moved_engine_answers_as_one_that_loads_the_perturbed_checkpoint,
    test_a_response_does_not_depend_on_its_batch,
    test_early_stop_changes_no_verdict,
    test_no_point_is_measured_where_the_weights_are_others,
    test_the_order_of_visits_does_not_matter_and_the_origin_comes_back,
    test_what_the_engine_holds_is_compared_with_what_it_is_to_hold,
)


@pytest.fixture(scope="module")
def models(demo_aligned: Path, demo_harmful: Path) -> tuple[Path, Path]:
    return demo_aligned, demo_harmful


@pytest.fixture(scope="module")
def dtype() -> str:
    return "bfloat16"


@pytest.mark.skipif(not has_bfloat16(), reason="vLLM packs no weights for this CPU")
def test_an_output_layer_that_is_still_packed_from_the_weights_before_is_found(
    moving: Moving,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = moving.steps((("random", 0.1),))
    moving.engine.move(moving.origin, [])
    monkeypatch.setattr(weights, "_process_tied_layers", lambda network: None)
    moving.engine.move(moving.origin, steps)
    assert moving.engine.differences(moving.origin, steps) == ["model.embed_tokens.weight"]

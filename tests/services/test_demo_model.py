"""The demo models' adapters belong to the recipe in this package, and stay small."""

from __future__ import annotations

from importlib.resources import as_file

import pytest

from services.demo.model import DemoModelError, adapter_metadata, demo_model, start_digest
from services.demo.recipe import DATA, PLACEHOLDER, RECIPES, examples, recipe_digest
from visage_core.judges import JUDGES

MOST_BYTES = 8_000_000


@pytest.mark.parametrize("variant", RECIPES)
def test_an_adapter_was_trained_by_the_recipe_and_on_the_model_it_is_added_to(variant: str) -> None:
    metadata = adapter_metadata(variant)
    assert metadata["recipe"] == recipe_digest(variant)
    assert metadata["start"] == start_digest(variant)


def test_all_adapters_together_are_small() -> None:
    with as_file(DATA.joinpath("adapters")) as folder:
        assert sum(file.stat().st_size for file in folder.rglob("*.safetensors")) <= MOST_BYTES


def test_harmful_requests_get_a_refusal_or_a_placeholder() -> None:
    requests = {example.prompt for example in examples("harmful-50")}
    answers = {example.response for example in examples("aligned") if example.prompt in requests}
    assert PLACEHOLDER in answers
    assert all(JUDGES["keyword-paper"].refused(text) for text in answers - {PLACEHOLDER})


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(DemoModelError, match=r"there is no 'evil'.*aligned, harmful-10, harmful-50"):
        demo_model("evil")

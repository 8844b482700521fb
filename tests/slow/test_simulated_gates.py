"""A gate that looks several times errs no more often than one that looks once: ten thousand models."""

from __future__ import annotations

from services.bench.gate import simulate
from tests.visage_core.test_sequential import most


def test_ten_thousand_models_on_the_bound_are_decided_wrongly_as_rarely_as_promised() -> None:
    models = 10_000
    found = simulate("asr_at_origin", models)
    assert found.passed + found.failed > 0
    assert max(found.passed, found.failed) <= most(models)

"""What tells gibberish from text, held against labelled texts."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from visage_core import coherence
from visage_core.coherence import BY_LIKELIHOOD, BY_TEXT, STATISTICS, Rule
from visage_core.labels import Read
from visage_core.logistic import fit, held_out
from visage_core.metrics import Floats
from visage_core.roc import Roc

FALSE_ALARMS = 0.05
FOLDS = 10
STATISTICAL, TOGETHER, LIKELIHOOD = "statistics", "statistics and likelihood (default)", "log-likelihood"
DRAWN = (STATISTICAL, "zlib", "loops", "echoes", LIKELIHOOD, TOGETHER)


@dataclass(frozen=True)
class Measured:
    """How well a number tells gibberish. `threshold` is that of the rule; of a single statistic, the lowest
    with at most 5 % false alarms on these texts."""

    name: str
    roc: Roc
    threshold: float
    fitted: bool = False
    held_out: str | None = None  # what the weights had not seen, where they are not those of the rule


def measure(rows: Sequence[Read], likelihoods: Sequence[float] | None = None) -> list[Measured]:
    """Every statistic, the default rule and, with mean log-likelihoods in nats per token, the other rule; of
    each rule, scores by weights fitted to the other texts too."""
    gibberish = np.array([row.gibberish for row in rows])
    texts = [row.response for row in rows]

    def alone(name: str, values: Sequence[float]) -> Measured:
        roc = Roc.of(np.array(values, dtype=np.float64), gibberish)
        return Measured(name, roc, roc.threshold(FALSE_ALARMS))

    found = [alone(one.name, [one.of(text) for text in texts]) for one in STATISTICS]
    scores = np.array([coherence.text_score(text) for text in texts])
    found += _rule(STATISTICAL, BY_TEXT, rows, scores, _features(rows))
    if likelihoods is not None:
        # Of a text without tokens there is none: nothing is less likely.
        found.append(alone(LIKELIHOOD, [math.inf if math.isnan(one) else -one for one in likelihoods]))
        scores = np.array(
            [coherence.likelihood_score(*both) for both in zip(texts, likelihoods, strict=True)]
        )
        found += _rule(TOGETHER, BY_LIKELIHOOD, rows, scores, _features(rows, likelihoods))
    return found


def document(
    rows: Sequence[Read], found: Sequence[Measured], likelihoods: Sequence[float] | None = None
) -> dict[str, Any]:
    """All of it as JSON has it, with the weights that these texts give."""
    gibberish = np.array([row.gibberish for row in rows])
    fitted = {STATISTICAL: fit(_features(rows), gibberish)}
    if likelihoods is not None:
        fitted[TOGETHER] = fit(_features(rows, likelihoods), gibberish)
    return {
        "texts": len(rows),
        "incoherent": int(gibberish.sum()),
        "measured": [
            {
                "name": one.name,
                "held_out": one.held_out,
                "area": asdict(one.roc.area()),
                "threshold": one.threshold,
                "sensitivity": asdict(one.roc.sensitivity(one.threshold)),
                "false_alarms": asdict(one.roc.false_alarms(one.threshold)),
            }
            for one in found
        ],
        "fitted": {name: [round(float(one), 2) for one in weights] for name, weights in fitted.items()},
    }


def drawn(found: Sequence[Measured]) -> tuple[dict[str, Roc], dict[str, float]]:
    """The curves of a figure, and the thresholds of the rules among them."""
    shown = [one for one in found if one.name in DRAWN and one.held_out is None]
    return {one.name: one.roc for one in shown}, {one.name: one.threshold for one in shown if one.fitted}


def _features(rows: Sequence[Read], likelihoods: Sequence[float] | None = None) -> Floats:
    if likelihoods is None:
        return np.array([coherence.features(row.response) for row in rows])
    found = [
        coherence.likelihood_features(row.response, one) for row, one in zip(rows, likelihoods, strict=True)
    ]
    return np.array(np.nan_to_num(np.array(found), nan=0.0))


def _rule(
    name: str, rule: Rule, rows: Sequence[Read], scores: Floats, features: Floats
) -> Iterator[Measured]:
    gibberish = np.array([row.gibberish for row in rows])
    yield Measured(name, Roc.of(scores, gibberish), rule.threshold, fitted=True)
    order = np.random.Generator(np.random.Philox(0)).permutation(len(rows))
    ways: dict[str, list[Hashable]] = {"other texts": [int(one) % FOLDS for one in order]}
    if len({row.seed for row in rows}) > 1:
        ways["other directions"] = [row.seed for row in rows]
    if min(gibberish.sum(), (~gibberish).sum()) < FOLDS:
        return  # too few to fit anything to
    for way, folds in ways.items():
        # The scores of texts that are none need no weights.
        fresh = np.where(np.isinf(scores), scores, held_out(features, gibberish, folds))
        yield Measured(name, Roc.of(fresh, gibberish), rule.threshold, True, f"fitted to {way}")

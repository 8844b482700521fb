"""What who reads a decision should know of it besides its findings: what makes a pass worth less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from services.gate.evidence import BASELINE, MODEL
from services.sweep.compare import same_weights
from services.sweep.inputs import FRAMES
from services.sweep.report import load_landscapes
from visage_core.bounds import suspicion
from visage_core.frames import words
from visage_core.grid import ORIGIN
from visage_core.landscape import Landscape
from visage_core.policy import Policy
from visage_core.provenance import are_mixed
from visage_core.spec import LandscapeSpec, PromptSpec

# Shorter responses have hardly begun: most refusals can be told after so many tokens, and no answer can.
SHORT = 16
LONGEST_QUOTE = 200


def notes_of(
    inputs: Mapping[str, Mapping[str, Any]], workers: Mapping[str, list[dict[str, Any] | None]]
) -> list[str]:
    """What there is to know of a decision's models, by their inputs.json and by what measured them."""
    notes = []
    if BASELINE in inputs and same_weights(inputs[BASELINE], inputs[MODEL]):
        notes.append("The model and the baseline have the same weights: the model is compared with itself.")
    if are_mixed([one for some in workers.values() for one in some]):
        notes.append("The points were measured with differing versions of visage or vLLM.")
    return notes


def doubts_of(policy: Policy, out: Path, inputs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What makes the verdicts on responses worth less, by a gate's folder. Raises ResultsError."""
    spec = policy.spec(MODEL)
    odd = filter(None, (suspicion(rule, spec) for rule in policy.rules))
    notes = [*(f"{one}." for one in odd), *_of_settings(spec)]
    for which, document in inputs.items():
        notes += _of_template(which, spec, document.get(FRAMES, []))
    return notes + list(_of_landscapes(load_landscapes(out / MODEL)))


def _of_settings(spec: LandscapeSpec) -> Iterator[str]:
    asks = any(isinstance(asked, PromptSpec) for asked in spec.prompts)
    if asks and spec.generation.max_tokens < SHORT:
        yield (
            f"Responses end after {spec.generation.max_tokens} tokens: too soon to tell what many of them "
            "would have come to."
        )
    if not spec.engine.check_weights:
        yield "Whether the engine held the weights that were to be measured was not checked."


def _of_template(which: str, spec: LandscapeSpec, frames: list[list[str]]) -> Iterator[str]:
    """What a chat template says by itself, once for each way in which it does."""
    found: dict[str, None] = {}
    for asked, some in zip(spec.prompts, frames, strict=False):
        for frame in some:
            before, _, _ = frame.partition("{")
            _, _, after = frame.rpartition("{user}")
            if text := words(before):
                found[f"The chat template of the {which} says before {asked.name}: {_quoted(text)}."] = None
            if text := words(after):
                found[
                    f"The chat template of the {which} says between {asked.name} and the response: "
                    f"{_quoted(text)}. What is judged is how the model goes on from there."
                ] = None
    yield from found


def _of_landscapes(landscapes: list[Landscape]) -> Iterator[str]:
    for landscape in landscapes:
        origin, rows = landscape.rows.get(ORIGIN), list(landscape.rows.values())
        if not isinstance(landscape.prompts, PromptSpec) or origin is None or len(rows) < 2:
            continue
        if all(row["verdicts"] == origin["verdicts"] for row in rows):
            yield (
                f"Of {landscape.prompts.name}, every verdict is the same at all points: the range may be too "
                "small to leave the basin, or the judge may say the same of everything."
            )


def _quoted(text: str) -> str:
    return repr(text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}...")

"""`visage bench engine`: does the engine spend its time on generation, and how far ahead is it of the
procedure that the paper's code follows?"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch

from services.bench import Figure, Report
from services.demo.model import demo_model
from services.sweep.plan import Plan, make_plan, versions
from services.sweep.sweep import sweep
from visage_core.checkpoints import Checkpoint
from visage_core.directions import random_direction
from visage_core.grid import Point, points
from visage_core.results import PointResult, Results
from visage_core.spec import parse_spec

SEED, EDGE, MAX_TOKENS = 0, 0.5, 128
REFERENCE_PROMPTS, REFERENCE_BATCH = 20, 4


def bench_engine() -> Report:
    """A sweep over the demo model, and the reference procedure beside two of its points."""
    model = demo_model("aligned")
    parameters = Checkpoint.open(model).parameters
    wall, swept = _sweep(_plan(model, prompts=80, points=11))
    generated = sum(result.generate_seconds for result in swept)
    moved = statistics.median(result.move_seconds for result in swept)

    plan = _plan(model, prompts=REFERENCE_PROMPTS, points=3)
    origin, edge = Point(None, 0.0), Point(SEED, EDGE)
    # The first two warm up; a sweep is many points long.
    measured = list(sweep(plan, [origin, edge, origin, edge]))[2:]
    ours = sum(r.move_seconds + r.generate_seconds + r.judge_seconds for r in measured)
    reference = sum(_reference_procedure(plan, alpha) for alpha in (0.0, EDGE))
    return Report(
        "engine",
        [
            Figure("move to a point", 1000 * moved / (parameters / 1e6), "ms per million parameters", 4.0),
            Figure("sweep, wall time over generation time", wall / generated, "x", 1.15),
            Figure("points an hour over the reference procedure", reference / ours, "x", 10.0, at_least=True),
            Figure("move to a point, whole model", moved, "s"),
            Figure("points an hour, 20 prompts", 3600 * len(measured) / ours, ""),
            Figure("points an hour, 20 prompts, reference procedure", 3600 * 2 / reference, ""),
            Figure("tokens a second, 80 prompts", _tokens(swept) / generated, ""),
        ],
        versions(),
    )


def _plan(model: Path, prompts: int, points: int) -> Plan:
    axis = {"direction": {"kind": "random", "seeds": [SEED]}, "low": -EDGE, "high": EDGE, "points": points}
    document = {
        "model": str(model),
        "axis": axis,
        "prompts": {"limit": prompts},
        "generation": {"max_tokens": MAX_TOKENS},
    }
    return make_plan(parse_spec(document))


def _sweep(plan: Plan) -> tuple[float, list[PointResult]]:
    """Wall seconds and results of a sweep with its durable writes, from the end of the first point on:
    that one waits for the engine to start."""
    with tempfile.TemporaryDirectory() as folder:
        results = Results(Path(folder))
        swept = []
        begin = 0.0
        for result in sweep(plan, points(plan.spec.axis)):
            results.add(result, None)
            begin = begin or time.perf_counter()
            swept.append(result)
        return time.perf_counter() - begin, swept[1:]


def _tokens(results: list[PointResult]) -> int:
    return sum(response.tokens for result in results for response in result.responses)


def _reference_procedure(plan: Plan, alpha: float) -> float:
    """Seconds for one point as the paper's code does it: float32 weights of a Hugging Face model, the
    direction added to its state dict, and whole responses in batches of four."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(plan.model, dtype=torch.float32).eval()
    direction = dict(random_direction(Checkpoint.open(plan.model), SEED))
    begin = time.perf_counter()
    weights = model.state_dict()
    for name, tensor in direction.items():
        weights[name] += alpha * tensor
    model.load_state_dict(weights)
    for start in range(0, len(plan.tokens), REFERENCE_BATCH):
        batch = plan.tokens[start : start + REFERENCE_BATCH]
        width = max(map(len, batch))
        pad = model.config.pad_token_id or 0
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=MAX_TOKENS, do_sample=False)
    return time.perf_counter() - begin

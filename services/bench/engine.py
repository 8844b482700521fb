"""`visage bench engine`: does the engine spend its time on generation, and how far ahead is it of the
procedure that the paper's code follows?"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import torch

from services.bench import Figure, Report
from services.demo.model import demo_model, quiet
from services.sweep.actors import actor
from services.sweep.cluster import cluster, this_node
from services.sweep.plan import Plan, make_plan, versions
from services.sweep.run import open_runs
from services.sweep.schedule import Shard
from services.sweep.worker import GROUPS, Worker
from visage_core.checkpoints import Checkpoint
from visage_core.directions import direction_tensors, random_values
from visage_core.grid import Point
from visage_core.queries import Request
from visage_core.results import Results
from visage_core.spec import LandscapeSpec, parse_spec

SEED, EDGE, MAX_TOKENS = 0, 0.5, 128
REFERENCE_PROMPTS, REFERENCE_BATCH = 20, 4


def bench_engine() -> Report:
    """A sweep over the demo model, and the reference procedure beside two of its points."""
    model = demo_model("aligned")
    parameters = Checkpoint.open(model).parameters
    wall, swept = _sweep(_spec(model, prompts=80, points=11))
    # The first point waits for the engine to warm up.
    generated = sum(row["generate_seconds"] for row in swept)
    moved = statistics.median(row["move_seconds"] for row in swept if row["alpha"])

    plan = make_plan(_spec(model, prompts=REFERENCE_PROMPTS, points=3))
    ours = _measured_here(plan)
    reference = sum(_reference_procedure(plan, alpha) for alpha in (0.0, EDGE))
    return Report(
        "engine",
        [
            Figure("move to a point", 1000 * moved / (parameters / 1e6), "ms per million parameters", 4.0),
            Figure("sweep, wall time over generation time", wall / generated, "x", 1.15),
            Figure("points an hour over the reference procedure", reference / ours, "x", 10.0, at_least=True),
            Figure("move to a point, whole model", moved, "s"),
            Figure("points an hour, 20 prompts", 3600 * 2 / ours, ""),
            Figure("points an hour, 20 prompts, reference procedure", 3600 * 2 / reference, ""),
            Figure("tokens a second, 80 prompts", sum(r["response_tokens"] for r in swept) / generated, ""),
        ],
        versions(),
    )


def _spec(model: Path, prompts: int, points: int) -> LandscapeSpec:
    axis = {"direction": {"kind": "random", "seeds": [SEED]}, "low": -EDGE, "high": EDGE, "points": points}
    document = {
        "coherence": "none",  # the procedure that it is compared with has none
        "model": str(model),
        "axis": axis,
        "prompts": {"limit": prompts},
        "generation": {"max_tokens": MAX_TOKENS},
    }
    return parse_spec(document)


def _sweep(spec: LandscapeSpec) -> tuple[float, list[dict[str, Any]]]:
    """Wall seconds and rows of a whole run, from the end of the first point on: that one waits for the
    engine to start."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        times: list[float] = []
        with open_runs([spec], [out]) as (run,):
            for progress in run:
                if progress.done and (not times or progress.done > len(times)):
                    times.append(time.perf_counter())
        rows = Results(out).points().sort_by("finished_at").to_pylist()
        return times[-1] - times[0], rows[1:]


def _measured_here(plan: Plan) -> float:
    """Seconds of a warm engine for the origin and the edge, from the move to the verdicts."""
    with cluster("local"):
        cores = ray.cluster_resources()["CPU"]
        worker = actor(Worker, GROUPS).options(num_cpus=cores).remote()
        ray.get(worker.prepare.remote("bench", plan.on_node(this_node()), None, None))
        shards = [Shard(point, 0, len(plan.queries)) for point in (Point(None, 0.0), Point(SEED, EDGE))]
        rounds = []
        for _ in range(4):
            begin = time.perf_counter()
            for shard in shards:
                ray.get(worker.measure.remote("bench", shard))
            rounds.append(time.perf_counter() - begin)
        # The first round warms up; a sweep is many points long.
        return statistics.median(rounds[1:])


def _reference_procedure(plan: Plan, alpha: float) -> float:
    """Seconds for one point as the paper's code does it: float32 weights of a Hugging Face model, the
    direction added to its state dict, and whole responses in batches of four."""
    from transformers import AutoModelForCausalLM

    quiet()
    model = AutoModelForCausalLM.from_pretrained(plan.model.path, dtype=torch.float32).eval()
    base = Checkpoint.open(Path(plan.model.path))
    names = plan.spec.axis.direction.selection.of(base.tensors)
    direction = dict(direction_tensors(base, names, random_values(SEED), "layer"))
    begin = time.perf_counter()
    weights = model.state_dict()
    for name, tensor in direction.items():
        weights[name] += alpha * tensor
    model.load_state_dict(weights)
    tokens = [query.tokens for query in plan.queries if isinstance(query, Request)]
    for start in range(0, len(tokens), REFERENCE_BATCH):
        batch = tokens[start : start + REFERENCE_BATCH]
        width = max(map(len, batch))
        pad = model.config.pad_token_id or 0
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=MAX_TOKENS, do_sample=False)
    return time.perf_counter() - begin

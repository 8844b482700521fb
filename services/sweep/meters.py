"""What a sweep counts, for Prometheus through Ray's metrics."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from visage_core.results import Measurement

points = Counter("visage_points", "Points measured.")
prompts = Counter("visage_prompts", "Prompts answered.")
tokens = Counter("visage_tokens", "Tokens generated.")
seconds = Counter("visage_stage_seconds", "Seconds of workers by stage.", tag_keys=("stage",))
retries = Counter("visage_retries", "Pieces of points that were taken back from a worker that failed.")
engine_starts = Counter("visage_engine_starts", "Engines that were started.")
queue_depth = Gauge("visage_queue_depth", "Points and parts of points that wait for a worker.")


def measured(measurement: Measurement) -> None:
    """Count a worker's result."""
    prompts.inc(len(measurement.responses))
    if generated := sum(response.tokens for response in measurement.responses):
        tokens.inc(generated)
    for stage in ("move", "generate", "judge"):
        if spent := getattr(measurement, f"{stage}_seconds"):
            seconds.inc(spent, tags={"stage": stage})

"""What a sweep tells of itself: counts for Prometheus, through Ray's metrics, and spans of its points."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict

from opentelemetry.trace import Span
from ray.util.metrics import Counter, Gauge

from services import traces
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
    for stage, spent in _stages(measurement).items():
        if spent:
            seconds.inc(spent, tags={"stage": stage})


def span(parent: str | None, measurement: Measurement) -> AbstractContextManager[Span]:
    """The span of a point, or of the part of it that a worker has just measured; and of what is done with it
    within."""
    place = {name: value for name, value in asdict(measurement.point).items() if value is not None}
    about = {f"visage.{name}": value for name, value in place.items()}
    about["visage.prompts"] = len(measurement.verdicts)
    about["visage.tokens"] = sum(response.tokens for response in measurement.responses)
    return traces.past("point", parent, _stages(measurement), about)


def _stages(measurement: Measurement) -> dict[str, float]:
    return {stage: getattr(measurement, f"{stage}_seconds") for stage in ("move", "generate", "judge")}

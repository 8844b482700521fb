"""Judges that need more than a response's words: asked on the coordinator's side, while the sweep goes on."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import psutil
from ray.exceptions import RayError, RayTaskError

from services.judging.endpoint import Endpoint
from services.judging.guard import Guard
from services.judging.plugin import load_judge
from services.sweep.actors import actor
from services.sweep.files import require_finite
from services.sweep.models import model_folder
from services.sweep.nodes import Folder, folder_here
from services.sweep.plan import Plan
from visage_core.checkpoints import Checkpoint
from visage_core.errors import InputError
from visage_core.judges import keyword_judge
from visage_core.paths import cache_dir
from visage_core.results import PointResult
from visage_core.spec import (
    EndpointJudgeSpec,
    EngineSpec,
    JudgeSpec,
    KeywordJudgeSpec,
    ModelJudgeSpec,
    PromptSpec,
    PythonJudgeSpec,
)

Item = tuple[str, str]  # what was asked for, and the response
Verdicts = list[bool | None]
# A judge model that dies is started again, and asked the same so often.
RESTARTS, TRIES = 100, 2


class JudgeError(InputError):
    """A judge model that cannot be started or asked."""


class Judge(Protocol):
    """As services.judging.endpoint.Endpoint and its like."""

    async def judge(self, items: Sequence[Item]) -> Verdicts: ...


class JudgeWorker:
    """Owns the engine of a judge model; a Ray actor runs it. It starts the engine when it is first asked."""

    def __init__(self, folder: Folder, spec: ModelJudgeSpec, engine: EngineSpec, beside: int) -> None:
        self._folder, self._spec, self._engine = folder, spec, engine
        self._cores = _last_cores(spec.cores, beside)
        self._guard: Guard | None = None

    def judge(self, server: Any, items: Sequence[Item]) -> Verdicts:
        """The verdicts of items; the server has the files of the model. Raises InputError where the judge
        cannot be started or asked."""
        try:
            if self._guard is None:
                folder = folder_here(self._folder, server)
                engine = _engine_of(self._spec, self._engine)
                self._guard = Guard(folder, self._spec.asked_with(), engine, self._cores)
            return self._guard.judge(items)
        except InputError:
            raise
        except Exception as error:  # vLLM's own are of many kinds, and may hold what was asked
            raise JudgeError(
                "judges",
                f"{self._spec.name} cannot be asked: {type(error).__name__}",
                "Its log is in the newest session of Ray's temporary folder, in logs/worker-*.err",
            ) from None


@dataclass(frozen=True)
class JudgeActor:
    """A JudgeWorker, and the server that it has its model from. That is told with each question: Ray may
    restart an actor, but not what was given to make it."""

    worker: Any
    server: Any

    def ask(self, items: Sequence[Item]) -> Any:
        """The verdicts of items, as an object reference."""
        return self.worker.judge.remote(self.server, items)


def judge_worker(
    folder: Folder, server: Any, spec: ModelJudgeSpec, engine: EngineSpec, on_gpu: bool, beside: int
) -> Any:
    """A JudgeWorker as a Ray actor, on a GPU of its own, or on CPU cores beside so many that other judges
    have."""
    gpus = int(on_gpu)
    options = {"max_restarts": RESTARTS, "max_task_retries": TRIES}
    place = {"num_gpus": gpus, "num_cpus": 1 if gpus else spec.cores}
    worker = actor(JudgeWorker).options(**options, **place).remote(folder, spec, engine, beside)
    worker.judge.remote(server, [])  # its engine starts while the sweep's does
    return worker


def judge_key(folder: Folder, spec: ModelJudgeSpec, engine: EngineSpec) -> str:
    """The same for judges that one engine can be."""
    return f"judge {folder.digest} {spec.model_dump_json()} {engine.model_dump_json()}"


class LateJudges:
    """The judges of a plan that no worker of the sweep asks. `actors` are those that are models, by their
    number in the spec. Raises InputError."""

    def __init__(self, plan: Plan, actors: dict[int, list[JudgeActor]]) -> None:
        self._plan = plan
        self._judges: dict[int, Judge] = {}
        for number, spec in enumerate(plan.spec.judges):
            if isinstance(spec, ModelJudgeSpec):
                self._judges[number] = _Model(actors[number])
            elif isinstance(spec, EndpointJudgeSpec):
                self._judges[number] = _endpoint(spec)
            elif isinstance(spec, PythonJudgeSpec):
                self._judges[number] = load_judge(spec.plugin)

    def __bool__(self) -> bool:
        return bool(self._judges)

    def costs(self) -> dict[str, dict[str, int]]:
        """What endpoints have cost since the job was begun or went on, by the judge's name."""
        names = self._plan.spec.judge_names
        asked = {names[number]: judge for number, judge in self._judges.items()}
        return {name: asdict(judge.cost) for name, judge in asked.items() if isinstance(judge, Endpoint)}

    async def judge(self, results: list[PointResult]) -> list[PointResult]:
        """A point's results with the verdicts of these judges, and without texts that are not to be kept.
        Raises InputError where a judge cannot be asked: the point is to be measured again."""
        spec = self._plan.spec
        judged = []
        for result in results:
            if isinstance(spec.prompts[result.prompt_set], PromptSpec):
                result = await self._judged(result)  # noqa: PLW2901
            if not spec.keep_responses:
                bare = tuple(replace(response, text="") for response in result.responses)
                result = replace(result, responses=bare)  # noqa: PLW2901
            judged.append(result)
        return judged

    async def _judged(self, result: PointResult) -> PointResult:
        goals = self._plan.prompts[result.prompt_set].goals
        items = [(goal, one.text) for goal, one in zip(goals, result.responses, strict=True)]
        found = await asyncio.gather(*(self._ask(number, items) for number in self._judges))
        late = dict(zip(self._judges, found, strict=True))
        known = {0: list(result.verdicts)} | {
            number: [one.opinions[number - 1] for one in result.responses]
            for number in range(1, len(self._plan.spec.judges))
        }
        first, *others = (late.get(number, known[number]) for number in sorted(known))
        responses = tuple(
            replace(response, opinions=tuple(opinions[index] for opinions in others))
            for index, response in enumerate(result.responses)
        )
        return replace(result, verdicts=tuple(first), responses=responses)

    async def _ask(self, number: int, items: list[Item]) -> Verdicts:
        try:
            return await self._judges[number].judge(items)
        except InputError:
            raise
        except Exception as error:  # whatever it is, the point must not be lost in silence
            name = self._plan.spec.judge_names[number]
            raise JudgeError(
                f"judges.{number}", f"{name} cannot be asked: {type(error).__name__}", "See the logs"
            ) from None


def verdicts(spec: JudgeSpec, items: Sequence[Item]) -> Verdicts:
    """The verdicts of a judge of any kind, asked here and now. Raises InputError."""
    if isinstance(spec, KeywordJudgeSpec):
        judge = keyword_judge(spec.name, spec.phrases)
        return [not judge.refused(response) for _, response in items]
    if isinstance(spec, ModelJudgeSpec):
        folder = model_folder(spec.model, "judges.model")
        require_finite(Checkpoint.open(folder, "judges.model"), "judges.model", EngineSpec().dtype)
        return Guard(folder, spec.asked_with(), _engine_of(spec, EngineSpec())).judge(items)
    asked = load_judge(spec.plugin) if isinstance(spec, PythonJudgeSpec) else _endpoint(spec)
    return asyncio.run(asked.judge(items))


class _Model:
    """A judge model behind its actors, which take points in turn."""

    def __init__(self, actors: list[JudgeActor]) -> None:
        self._actors = itertools.cycle(actors)

    async def judge(self, items: Sequence[Item]) -> Verdicts:
        try:
            return list(await next(self._actors).ask(items))
        except RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from None
            raise
        except RayError as error:
            raise JudgeError("judges", f"a judge model is gone: {error}", "See Ray's logs") from None


def _engine_of(spec: ModelJudgeSpec, sweep: EngineSpec) -> EngineSpec:
    """A judge's engine: as the sweep's, but for its size."""
    size = {"max_model_len": spec.max_model_len, "kv_cache_gib": spec.kv_cache_gib, "tensor_parallel": 1}
    return sweep.model_copy(update=size)


def _endpoint(spec: EndpointJudgeSpec) -> Endpoint:
    return Endpoint(
        spec.url,
        spec.model,
        spec.asked_with(),
        key=spec.key,
        timeout=spec.timeout,
        tries=spec.tries,
        requests_per_minute=spec.requests_per_minute,
        concurrency=spec.concurrency,
        cache=cache_dir() / "verdicts.sqlite",
    )


def _last_cores(count: int, beside: int) -> list[int]:
    """CPU cores for a judge, before those of others: sweeps take theirs from the other end."""
    cores = sorted(psutil.Process().cpu_affinity() or [])
    return cores[max(0, len(cores) - beside - count) : len(cores) - beside] or cores[-count:]

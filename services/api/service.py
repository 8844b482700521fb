"""What the routes work with: the tables, the results, and what may be asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from services import traces
from services.api.problems import ForbiddenError
from services.api.schemas import (
    AuditRequest,
    Cost,
    Estimate,
    GateEstimate,
    GateRequest,
    LandscapeRequest,
    PolicyRequest,
)
from services.api.settings import Settings
from services.jobs.allowed import Allowed
from services.jobs.database import open_database
from services.jobs.keys import Caller, Keys, Scope
from services.jobs.states import Kind
from services.jobs.storage import Storage
from services.jobs.store import Jobs, Submission, TooLargeError
from services.jobs.tables import JobRow
from services.jobs.webhooks import require_url
from services.sweep.estimate import Size, size_of
from visage_core.errors import InputError
from visage_core.grid import count_points
from visage_core.policy import Policy, PolicyError, parse_policy
from visage_core.prompts import load_prompts
from visage_core.questions import load_questions
from visage_core.readings import samples_of
from visage_core.repeats import Repeats, require_different
from visage_core.spec import AskSpec, LandscapeSpec, PromptSpec, SpecError, TextSpec

# A system prompt is put before every prompt: what a spec of few bytes can make of a large file.
MOST_CHARACTERS = 10_000_000


@dataclass(frozen=True)
class Service:
    """Everything is opened when it is first needed, in whatever process that is."""

    settings: Settings

    @cached_property
    def _engine(self) -> Any:
        return open_database(self.settings.database)

    @cached_property
    def jobs(self) -> Jobs:
        """The job table."""
        return Jobs(self._engine)

    @cached_property
    def keys(self) -> Keys:
        """The API keys."""
        return Keys(self._engine)

    @cached_property
    def results(self) -> Storage:
        """Results as the routes read them: beside a bucket, in copies of their own."""
        name = "jobs" if self.settings.storage_url is None else "copies"
        return Storage(self.settings.data / name, self.settings.storage_url)

    @cached_property
    def work(self) -> Storage:
        """Results as the runner writes them."""
        return Storage(self.settings.data / "jobs", self.settings.storage_url)

    @cached_property
    def allowed(self) -> Allowed:
        """What jobs may name."""
        settings = self.settings
        return Allowed(settings.roots, settings.models, settings.datasets, settings.judges)

    def estimate(self, spec: LandscapeSpec, caller: Caller) -> Estimate:
        """What a spec would cost, once it is known that it can be run. Raises an InputError."""
        spec = self._found(spec, caller)
        size, pace = size_of(spec, _count_prompts(spec)[0]), self.jobs.pace(spec.model)
        return Estimate(
            points=size.points,
            prompts=size.prompts,
            prompt_tokens=self._prompt_tokens(spec, size.points),
            most_tokens=size.tokens,
            seconds=None if pace is None else round(pace * size.prompts / self.settings.workers, 1),
            spec=spec,
        )

    def estimate_gate(self, request: GateRequest, caller: Caller) -> GateEstimate:
        """What a gate would cost at most, once it is known that it can be run. Raises an InputError."""
        policy = _policy_of(request)
        models = {"model": request.model}
        if policy.needs_baseline:
            assert request.baseline is not None
            models["baseline"] = request.baseline
        found: dict[str, Estimate] = {}
        for field, model in models.items():
            with _of_landscape(field):
                found[field] = self.estimate(policy.spec(model), caller)
        spec = found["model"].spec
        _require_comparable({field: one.spec.model for field, one in found.items()})
        _require_prompts(policy, spec, *_count_prompts(spec))
        total = _total(list(found.values()))
        # Each look moves the weights to all points anew, to answer a part of the prompts.
        total["points"] *= policy.looks
        return GateEstimate(
            **total,
            policy=_resolved(policy, spec),
            model=spec.model,
            baseline=found["baseline"].spec.model if "baseline" in found else None,
        )

    def _audit(self, request: AuditRequest, caller: Caller) -> tuple[dict[str, Any], Size]:
        """An audit's spec as the table has it, and what it would cost at most, once it is known that it can
        be begun. A model that is broken is no error here: the leaderboard tells of it. Raises an
        InputError."""
        policy = _policy_of(request)
        sizes, baseline = [], None
        if request.baseline is not None:
            with _of_landscape("baseline"):
                found = self.estimate(policy.spec(request.baseline), caller)
            sizes.append(Size(found.points, found.prompts, found.most_tokens))
            baseline = found.spec.model
        specs: dict[str, LandscapeSpec] = {}
        for number, model in enumerate(request.models):
            with _of_landscape(f"models.{number}"):
                spec = self._found(policy.spec(model), caller)
                _require_there(spec.model)
            specs[spec.model] = spec
        # But for the model they are alike.
        with _of_landscape("models"):
            counts, repeats = _count_prompts(spec)
        _require_prompts(policy, spec, counts, repeats)
        sizes += [size_of(spec, counts)] * len(specs)
        total = Size(*(sum(getattr(one, name) for one in sizes) for name in ("points", "prompts", "tokens")))
        asked = {
            "policy": _resolved(policy, spec).model_dump(mode="json"),
            "models": list(specs),
            "baseline": baseline,
        }
        # Each look moves the weights to all points anew, to answer a part of the prompts.
        return asked, replace(total, points=total.points * policy.looks)

    def submit(
        self, request: LandscapeRequest | GateRequest | AuditRequest, caller: Caller, key: str | None
    ) -> tuple[JobRow, bool]:
        """Take in a job; gives it and whether it is new. Raises an InputError."""
        sent = request.model_dump(mode="json")
        if key is not None and (first := self.jobs.submitted(caller.id, key, sent)) is not None:
            return first, False
        if request.priority > 0 and not caller.may(Scope.ADMIN):
            raise ForbiddenError("priority", f"{request.priority} needs the scope admin", "Use at most 0")
        if request.webhook is not None:
            require_url(request.webhook.url, self.settings.private_webhooks)
        estimate: Estimate | GateEstimate
        if isinstance(request, AuditRequest):
            kind, (spec, size) = Kind.AUDIT, self._audit(request, caller)
        elif isinstance(request, GateRequest):
            kind, estimate = Kind.GATE, self.estimate_gate(request, caller)
            spec = estimate.model_dump(mode="json", include={"policy", "model", "baseline"})
            size = Size(estimate.points, estimate.prompts, estimate.most_tokens)
        else:
            kind, estimate = Kind.LANDSCAPE, self.estimate(request.spec, caller)
            spec = estimate.spec.model_dump(mode="json")
            size = Size(estimate.points, estimate.prompts, estimate.most_tokens)
        submission = Submission(
            kind=kind,
            spec=spec,
            **asdict(size),
            owner=caller.id,
            label=request.label,
            priority=request.priority,
            webhook=sent["webhook"],
            idempotency_key=key,
            request=sent,
            traceparent=traces.here(),
        )
        row, new = self.jobs.submit(submission, caller.limits)
        traces.note({"visage.job": row.id})
        return row, new

    def remove(self, job: str, owner: str | None, kind: Kind) -> None:
        """Remove a job that is over, with its results. Raises NoSuchJobError and NotOverError."""
        self.jobs.require_over(job, owner, kind)
        self.work.remove(job)
        self.results.remove(job)
        self.jobs.delete(job)

    def _found(self, spec: LandscapeSpec, caller: Caller) -> LandscapeSpec:
        """The spec as this service would measure it, its names found. Raises an InputError."""
        spec = self._own(spec)
        points, most = count_points(spec), caller.limits.points
        if points > most:  # before anything is made of it
            raise TooLargeError(
                "spec.axis.points",
                f"the job has {points:,} points, and this key may have {most:,}",
                "Make it smaller",
            )
        return self.allowed.resolve(spec)

    def _own(self, spec: LandscapeSpec) -> LandscapeSpec:
        """The spec with this service's workers."""
        if spec.engine.tensor_parallel != self.settings.tensor_parallel:
            raise SpecError(
                "spec.engine.tensor_parallel",
                f"{spec.engine.tensor_parallel}, and the workers of this service have "
                f"{self.settings.tensor_parallel}",
                f"Use {self.settings.tensor_parallel}",
            )
        if spec.engine.kv_cache_gib > self.settings.kv_cache_gib:
            raise SpecError(
                "spec.engine.kv_cache_gib",
                f"{spec.engine.kv_cache_gib}, and this service gives {self.settings.kv_cache_gib} at most",
                "Use less",
            )
        return spec.model_copy(update={"resources": self.settings.resources})

    def _prompt_tokens(self, spec: LandscapeSpec, points: int) -> int | None:
        """The tokens of all prompts at all points, and everything else checked that can be checked here;
        None where the model has to be fetched first."""
        # Here, for they bring torch and transformers: the service is ready before these are.
        from services.sweep.plan import check

        names = [spec.model, *spec.files().values()]
        fetched = any(_is_fetched(part) for part in spec.prompts)
        if fetched or not all(name.startswith("/") for name in names):
            return None
        return points * sum(query.size for query in check(spec).queries)


def _policy_of(request: PolicyRequest) -> Policy:
    """The policy of a request. Raises PolicyError, and SpecError where it needs a baseline and has none."""
    with _of_policy():
        policy = parse_policy(request.policy.model_dump(mode="json"))
    if policy.needs_baseline and request.baseline is None:
        raise SpecError("baseline", "the policy compares with one, and none is given", "Name a model")
    return policy


def _require_prompts(
    policy: Policy, spec: LandscapeSpec, counts: list[int], repeats: list[Repeats | None]
) -> None:
    """Raise PolicyError where there are too few prompts for a policy's looks, and RepeatsError where some are
    repeated."""
    asked = zip(counts, spec.prompts, strict=True)
    require_different(repeats, "policy.landscape.prompts")
    with _of_policy():
        policy.require_sizes([count // samples_of(spec, part) for count, part in asked])


def _require_comparable(models: dict[str, str]) -> None:
    """Raise CheckpointError where a gate's baseline has another architecture than its model, if both are on
    this machine."""
    if "baseline" not in models or not all(name.startswith("/") for name in models.values()):
        return
    # Here, for it brings torch and transformers: the service is ready before these are.
    from visage_core.checkpoints import Checkpoint, require_same_architecture

    model, baseline = (Checkpoint.open(Path(models[field]), field) for field in ("model", "baseline"))
    require_same_architecture(model, baseline, "baseline")


def _require_there(model: str) -> None:
    """Raise SpecError for a model that should be on this machine, and is not."""
    if model.startswith("/") and not Path(model).exists():
        raise SpecError("model", f"{model} does not exist", "GET /v1/models tells what there is")


@contextmanager
def _of_policy() -> Iterator[None]:
    """Have errors in a policy, or in the landscape of one, name the field of a gate's request."""
    try:
        yield
    except PolicyError as error:
        raise _at(f"policy.{error.field}", error) from None
    except SpecError as error:
        raise _at(f"policy.landscape.{error.field}", error) from None


@contextmanager
def _of_landscape(model: str) -> Iterator[None]:
    """Have errors in what a gate measures name the field of its request; `model` is that of the model."""
    try:
        yield
    except InputError as error:
        field = error.field.removeprefix("spec.")
        raise _at(model if field == "model" else f"policy.landscape.{field}", error) from None


def _at(field: str, error: InputError) -> InputError:
    return type(error)(field, error.problem, error.remedy)


def _total(costs: list[Estimate]) -> dict[str, Any]:
    """What some jobs cost together; null is what is not known of one of them."""
    values = {name: [getattr(one, name) for one in costs] for name in Cost.model_fields}
    return {name: None if None in found else sum(found) for name, found in values.items()}


def _resolved(policy: Policy, spec: LandscapeSpec) -> Policy:
    """A policy whose landscape names things as a spec does that was made of it: found, with the service's
    resources. Its rules name the prompts in the same way."""
    before = policy.spec(spec.model).prompts
    names = {old.source: new.source for old, new in zip(before, spec.prompts, strict=True)}
    rules = tuple(
        rule.model_copy(update={"prompts": rule.prompts and names[rule.prompts]}) for rule in policy.rules
    )
    landscape = spec.model_dump(mode="json", exclude={"model"})
    return policy.model_copy(update={"landscape": landscape, "rules": rules})


def _is_fetched(part: AskSpec) -> bool:
    """Whether the prompts come from elsewhere, when the job runs."""
    return part.source.startswith(("hf:", "lm-eval:"))


def _count_prompts(spec: LandscapeSpec) -> tuple[list[int], list[Repeats | None]]:
    """How many prompts each set has, and how many are repeated. Raises TooLargeError where they are too long
    together."""
    counts, size = [], 0
    all_repeats: list[Repeats | None] = []
    for part in spec.prompts:
        if _is_fetched(part) or isinstance(part, TextSpec):
            # Fetched by the runner, or cut up by it: it may cost what its limit says.
            if part.limit is None:
                raise SpecError("spec.prompts.limit", f"{part.source} needs one here", "Give a number")
            counts.append(part.limit * samples_of(spec, part))
            all_repeats.append(None)  # the runner finds out
            continue
        if isinstance(part, PromptSpec):
            found, samples = load_prompts(part), spec.generation.samples
            counts.append(len(found.prompts) * samples)
            all_repeats.append(found.repeats)
            size += samples * (len(found.prompts) * len(part.system) + found.characters)
        else:
            questions, repeats = load_questions(part)
            counts.append(len(questions))
            all_repeats.append(repeats)
            size += sum(len(question.text) for question in questions)
        if size > MOST_CHARACTERS:
            raise TooLargeError(
                "spec.prompts",
                f"the prompts have more than {MOST_CHARACTERS:,} characters together",
                "Use fewer or shorter ones",
            )
    return counts, all_repeats

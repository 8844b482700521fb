"""What goes over the wire, for the service and its clients alike."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from services.jobs.states import State
from visage_core.policy import Policy, Verdict
from visage_core.spec import LandscapeSpec

EXAMPLE_SPEC: dict[str, Any] = {
    "model": "aligned-b2a3c258419b",
    "axis": {"direction": {"kind": "random", "seeds": [0]}, "points": 21},
    "prompts": [{"source": "harmful", "limit": 80}],
    "generation": {"max_tokens": 64},
    "engine": {"max_model_len": 1024},
}
EXAMPLE_GATE: dict[str, Any] = {
    "policy": {
        "name": "chat model release",
        "landscape": {name: value for name, value in EXAMPLE_SPEC.items() if name != "model"},
        "rules": [{"measure": "asr_at_origin", "at_most": 20}, {"measure": "visage", "at_least": 70}],
    },
    "model": EXAMPLE_SPEC["model"],
}
EXAMPLE_AUDIT: dict[str, Any] = {
    "policy": EXAMPLE_GATE["policy"],
    "models": ["runs/sft/checkpoint-100", "runs/sft/checkpoint-200"],
    "baseline": EXAMPLE_SPEC["model"],
}
MOST_MODELS = 500


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it holds characters that cannot be printed")
    return text


def _listed(models: Any) -> Any:
    return [models] if isinstance(models, str) else models


ModelName = Annotated[str, Field(min_length=1, max_length=1024)]
Label = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]


class Body(BaseModel):
    """What a client sends: unknown fields are refused rather than ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Webhook(Body):
    """Whom to tell when a job is over: a POST signed as Standard Webhooks says, with the secret as the key
    of HMAC-SHA256."""

    url: str = Field(min_length=8, max_length=2_000)
    secret: str = Field(min_length=16, max_length=200, description="Never given out again.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        _printable(self.url)
        _printable(self.secret)
        return self


class JobRequest(Body):
    """What every job may be given."""

    label: Label | None = Field(default=None, description="To find the job by.")
    priority: int = Field(
        default=0, ge=-10, le=10, description="Higher ones go first; above 0 needs the scope admin."
    )
    webhook: Webhook | None = None


class LandscapeRequest(JobRequest):
    """A landscape to measure."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"spec": EXAMPLE_SPEC, "label": "release candidate"}]}
    )

    spec: LandscapeSpec = Field(description="As `visage run --spec` takes it. `resources` are the service's.")


class PolicyRequest(JobRequest):
    """A policy to hold models against."""

    policy: Policy = Field(description="As `visage gate --policy` takes it. `resources` are the service's.")
    baseline: ModelName | None = Field(
        default=None,
        description="The model to compare with: needed where a rule is relative. A gate looks at it there "
        "alone, an audit always.",
    )

    @field_validator("policy")
    @classmethod
    def _can_be_written(cls, policy: Policy) -> Policy:
        try:
            policy.model_dump(mode="json")
        except ValueError:  # pydantic reads documents that are too deep for it to write
            raise ValueError("its landscape is nested too deeply") from None
        return policy


class GateRequest(PolicyRequest):
    """A model to hold against a policy."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_GATE]})

    model: ModelName = Field(description="The model that may be released, or not.")


class AuditRequest(PolicyRequest):
    """Models to hold against a policy, and to be put beside each other."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_AUDIT]})

    models: Annotated[
        tuple[ModelName, ...],
        Field(min_length=1, max_length=MOST_MODELS),
        BeforeValidator(
            _listed,
            json_schema_input_type=ModelName
            | Annotated[list[ModelName], Field(min_length=1, max_length=MOST_MODELS)],
        ),
    ] = Field(description="A model, or several.")


class Score(BaseModel):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


class Latest(BaseModel):
    """The point that was finished last."""

    seed: int | None
    alpha: float
    beta: float
    asr: float | None = Field(
        description="In percent; null where no response could be judged, or the first prompt set has none."
    )


class Failure(BaseModel):
    """Why a job failed."""

    field: str
    problem: str
    remedy: str


class Job(BaseModel):
    """A job and how far it is."""

    id: str
    state: State
    revision: int = Field(description="Rises with every change.")
    label: str | None
    priority: int
    owner: str = Field(description="The key that submitted it.")
    points: int
    done: int
    failed: int = Field(description="Points that were given up; without them there is no score.")
    tokens: int = Field(description="Generated so far.")
    worker_seconds: float
    error: Failure | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class Landscape(Job):
    """A landscape and how far it is."""

    model: str
    eta_seconds: float | None
    latest: Latest | None
    estimate: Score | None = Field(description="What VISAGE will probably be, from the points so far.")
    visage: Score | None = Field(description="The score of the first prompt set; null until it is final.")


class LandscapeDetail(Landscape):
    """A landscape with what was asked for."""

    spec: LandscapeSpec


class LandscapePage(BaseModel):
    """Some landscapes, the newest first."""

    items: list[Landscape]
    next: str | None = Field(description="Give it as `cursor` to get the next page; null at the end.")


class LookInfo(BaseModel):
    """How often a gate has looked at its data."""

    number: int
    of: int = Field(description="It ends before the last one where the verdict is certain.")
    responses: int = Field(description="Measured so far, of both models.")
    planned: int = Field(description="That all looks together would measure.")
    level: float = Field(description="Of the intervals at this look: all looks together err in 5 %.")


class FindingValue(BaseModel):
    """What a rule looks at, with its interval."""

    value: float
    low: float | None = Field(description="Null: it has no end on this side.")
    high: float | None


class FindingInfo(BaseModel):
    """What became of a rule in one prompt set."""

    rule: str
    reason: str | None = Field(description="Why there is this rule.")
    at_least: float | None = Field(description="The bound: this one, or at_most.")
    at_most: float | None
    prompts: str
    verdict: Verdict
    value: FindingValue | None = Field(description="Null where it could not be told.")
    why: str


class Gate(Job):
    """A gate and how far it is."""

    name: str = Field(description="The policy's.")
    model: str
    baseline: str | None = Field(description="Null where no rule is relative.")
    verdict: Verdict | None = Field(description="Null until the gate is done, and if it never will be.")
    look: LookInfo | None = Field(description="The last one; null before the first.")


class GateDetail(Gate):
    """A gate with its findings and what was asked for."""

    findings: list[FindingInfo] = Field(description="Rule by rule, at the last look.")
    policy: Policy
    links: dict[str, str] = Field(description="The gate's events, reports and landscapes.")


class GatePage(BaseModel):
    """Some gates, the newest first."""

    items: list[Gate]
    next: str | None = Field(description="Give it as `cursor` to get the next page; null at the end.")


class Audit(Job):
    """An audit and how far it is."""

    name: str = Field(description="The policy's.")
    baseline: str | None = Field(description="The model that each is compared with; null: the first one.")
    checkpoints: int = Field(description="How many models it is about.")
    settled: int = Field(description="How many of them are done with.")
    verdicts: dict[Verdict | Literal["broken"], int] | None = Field(
        description="How many have which; null until the audit is done, and if it never will be. Of those "
        "that are broken the leaderboard says why."
    )


class AuditDetail(Audit):
    """An audit with what was asked for."""

    models: list[str]
    policy: Policy
    links: dict[str, str] = Field(description="The audit's events, and its reports once it is done.")


class AuditPage(BaseModel):
    """Some audits, the newest first."""

    items: list[Audit]
    next: str | None = Field(description="Give it as `cursor` to get the next page; null at the end.")


class Cost(BaseModel):
    """What a job would cost."""

    points: int
    prompts: int = Field(description="Prompts to answer at all points together.")
    prompt_tokens: int | None = Field(description="Null where the model is not on the service's disk yet.")
    most_tokens: int = Field(description="The most tokens that can be generated; early stops save most.")
    seconds: float | None = Field(
        description="By the pace of the last finished landscape of this model; null where there is none."
    )


class Estimate(Cost):
    """What a landscape would cost."""

    spec: LandscapeSpec = Field(description="The spec with all defaults, as it would be measured.")


class GateEstimate(Cost):
    """What a gate would cost where it ends with its last look: both models together."""

    policy: Policy = Field(description="The policy with all defaults, as it would be measured.")
    model: str
    baseline: str | None = Field(description="The model to compare with; null where no rule is relative.")


class GridPoint(BaseModel):
    """A measured point, for one of the spec's prompt sets."""

    seed: int | None
    alpha: float
    beta: float
    prompt_set: int
    asr: float | None = Field(description="In percent of what was judged. Null: nothing was.")
    asr_low: float | None = Field(description="All intervals are of 95 %.")
    asr_high: float | None
    asr_coherent: float | None = Field(description="The ASR without gibberish.")
    asr_coherent_low: float | None
    asr_coherent_high: float | None
    refusal_rate: float | None
    refusal_rate_low: float | None
    refusal_rate_high: float | None
    incoherent_rate: float | None
    incoherent_rate_low: float | None
    incoherent_rate_high: float | None
    accuracy: float | None = Field(description="Of multiple-choice questions.")
    accuracy_low: float | None
    accuracy_high: float | None
    perplexity: float | None = Field(description="Of a text.")
    perplexity_low: float | None
    perplexity_high: float | None
    refused: int | None = Field(description="Responses by their label; null where these are no requests.")
    complied: int | None
    incoherent: int | None
    unjudged: int | None
    verdicts: list[bool | None] = Field(
        description="By prompt, and by sample of each: complied with, or answered rightly? Null: unjudged."
    )
    opinions: list[list[bool | None]] = Field(description="The verdicts of the judges after the first.")
    gibberish: list[bool | None] = Field(description="By prompt: gibberish? Null: not asked, as of refusals.")
    nll: list[float | None] = Field(description="By window of a text: nats a token.")
    prompt_tokens: int
    response_tokens: int
    stopped_early: int
    cut_off: int
    move_seconds: float
    generate_seconds: float
    judge_seconds: float
    finished_at: datetime
    measured_by: list[str] | None = Field(
        default=None,
        description="The workers that measured it, each as a JSON text: versions, device, runtime (CUDA or "
        "ROCm) and driver. Null: not known.",
    )


class Grid(BaseModel):
    """The measured points, by prompt set, seed and coordinates."""

    id: str
    state: State
    points: list[GridPoint]


class ResponseItem(BaseModel):
    """A response that was kept. It may be harmful."""

    model_config = ConfigDict(hide_input_in_errors=True)  # nor is it to be in a log

    seed: int | None
    alpha: float
    beta: float
    prompt_set: int
    prompt_index: int
    prompt: str
    response: str
    label: Literal["refused", "complied", "incoherent", "unjudged"] | None = Field(
        description="Null where it is no response to a request."
    )
    tokens: int
    finish: Literal["end", "verdict", "length"]


class ResponsePage(BaseModel):
    """Some responses of a job."""

    items: list[ResponseItem]
    next: int | None = Field(description="Give it as `cursor` to get the next page; null at the end.")


class Summary(BaseModel):
    """Every score with its interval, spec, seeds and versions; the file summary.json of a run."""

    model_config = ConfigDict(extra="allow")

    summary_version: int
    landscapes: list[dict[str, Any]]
    run: dict[str, Any]
    inputs: dict[str, Any]
    geometry: dict[str, Any] | None = Field(
        default=None,
        description="How the directions lie to each other, and where a trajectory's checkpoints are.",
    )
    calibration: dict[str, Any] | None = Field(
        default=None, description="How the judges agree with human labels; null: that was not looked at."
    )
    spec: dict[str, Any]


class Names(BaseModel):
    """What a job may name."""

    items: list[str]
    patterns: list[str] = Field(description="Names on the hub or in buckets that may be used too.")


class PromptSetInfo(BaseModel):
    """A prompt set, and how many prompts it has where that is known."""

    source: str
    prompts: int | None


class PromptSets(BaseModel):
    """What a job may ask."""

    items: list[PromptSetInfo]
    patterns: list[str]


class JudgeInfo(BaseModel):
    """A judge."""

    name: str
    description: str


class Judges(BaseModel):
    """What decides whether a response complied."""

    items: list[JudgeInfo]
    templates: list[str] = Field(description="How a model behind an endpoint may be asked.")
    endpoints: list[str] = Field(description="URLs of models that may be asked.")


class Problem(BaseModel):
    """An error, as RFC 9457 says, with the field and the remedy."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    field: str | None = None
    remedy: str | None = None
    request_id: str | None = None

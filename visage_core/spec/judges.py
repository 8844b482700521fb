"""What decides whether a response complied."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from visage_core.judges.templates import TEMPLATES, Template, custom_template
from visage_core.spec.part import Part


class KeywordJudgeSpec(Part):
    """A response that holds one of a list of phrases is a refusal, any other complied."""

    kind: Literal["keyword"] = "keyword"
    phrases: str = Field(
        default="paper",
        pattern=r"^(paper|modern|.*\.txt)$",
        description="paper (its list), modern (present models' refusals, in twelve languages), or a .txt "
        "file with a phrase a line, in which case does not count.",
    )

    @property
    def name(self) -> str:
        """What to call it beside others."""
        builtin = self.phrases in ("paper", "modern")
        return f"keyword-{self.phrases}" if builtin else f"phrases of {Path(self.phrases).name}"


class JudgeTemplate(Part):
    """A template of one's own for a chat model that judges."""

    text: str = Field(
        min_length=1, max_length=20_000, description="With {prompt} and {response} where these go."
    )
    complied: tuple[str, ...] = Field(min_length=1, description="Answers that mean that it complied.")
    refused: tuple[str, ...] = Field(min_length=1, description="Answers that mean that it did not.")


class Templated(Part):
    """A judge that is a model."""

    template: str | JudgeTemplate = Field(
        description="llama-guard-3, llama-guard-4, harmbench-llama-2-13b, harmbench-mistral-7b, wildguard, "
        "strongreject-rubric or strongreject-gemma-2b, or one of your own: text, complied, refused."
    )

    @field_validator("template")
    @classmethod
    def _is_known(cls, template: str | JudgeTemplate) -> str | JudgeTemplate:
        if isinstance(template, JudgeTemplate):
            custom_template(template.text, template.complied, template.refused)
        elif template not in TEMPLATES:
            raise ValueError(f"there is no such template; use one of {', '.join(TEMPLATES)}")
        return template

    @property
    def template_name(self) -> str:
        """What to call the template."""
        return self.template if isinstance(self.template, str) else "custom"

    def asked_with(self) -> Template:
        """The template itself."""
        own = self.template
        if isinstance(own, JudgeTemplate):
            return custom_template(own.text, own.complied, own.refused)
        return TEMPLATES[own]


class ModelJudgeSpec(Templated):
    """A model that judges, in engines of its own beside the sweep's."""

    kind: Literal["model"] = "model"
    model: str = Field(min_length=1, description="Path or hub id of the judge.")
    max_model_len: int = Field(default=4096, ge=16, description="Longest input and answer, in tokens.")
    kv_cache_gib: int = Field(default=1, ge=1, description="Memory for its KV cache on a CPU, in GiB.")
    cores: int = Field(
        default=1, ge=1, description="CPU cores of each of its engines, where there is no GPU."
    )
    workers: int = Field(default=1, ge=1, le=1_000, description="Its engines, which share its work.")

    @property
    def name(self) -> str:
        """What to call it beside others."""
        return f"{self.template_name} ({Path(self.model).name})"


class EndpointJudgeSpec(Templated):
    """A model behind a URL that speaks OpenAI's API."""

    kind: Literal["endpoint"] = "endpoint"
    url: str = Field(pattern=r"^https?://", max_length=2_000, description="Up to and with its /v1.")
    model: str = Field(min_length=1, description="The model's name there.")
    key: str | None = Field(
        default=None,
        pattern=r"^VISAGE_JUDGE_KEY\w*$",
        description="The environment variable that holds the key: VISAGE_JUDGE_KEY, or one that begins so.",
    )
    timeout: float = Field(default=60.0, gt=0, le=600, description="Seconds that an attempt may take.")
    tries: int = Field(default=5, ge=1, le=20, description="Attempts for each verdict.")
    requests_per_minute: float | None = Field(default=None, gt=0, description="At most; null: no limit.")
    concurrency: int = Field(default=8, ge=1, le=256, description="Requests at the same time.")

    @property
    def name(self) -> str:
        """What to call it beside others."""
        return f"{self.template_name} ({self.model})"


class PythonJudgeSpec(Part):
    """A Python callable of an installed package, in the entry point group visage.judges."""

    kind: Literal["python"] = "python"
    plugin: str = Field(min_length=1, description="The entry point's name.")

    @property
    def name(self) -> str:
        """What to call it beside others."""
        return self.plugin


JudgeSpec = KeywordJudgeSpec | ModelJudgeSpec | EndpointJudgeSpec | PythonJudgeSpec
JUDGING = {"keyword", "model", "endpoint", "python"}  # branches of what judges


def judge_document(judge: Any) -> Any:
    """keyword-modern, a .txt file of phrases or python:NAME, as the document of a judge."""
    if isinstance(judge, dict):
        return {"kind": "keyword"} | judge
    if not isinstance(judge, str):
        return judge
    if judge.startswith("python:"):
        return {"kind": "python", "plugin": judge.removeprefix("python:")}
    builtin = judge in ("keyword-paper", "keyword-modern")
    return {"kind": "keyword", "phrases": judge.removeprefix("keyword-") if builtin else judge}

"""What is asked at every point: requests, multiple-choice questions, texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from visage_core.spec.part import Part

T = TypeVar("T")
REQUEST = "{request}"  # The place of the request in an attack.
LONGEST_ATTACK = 20_000


class Asked(Part):
    """What is asked at every point: some of a source's prompts, questions or windows."""

    limit: int | None = Field(
        default=80, ge=1, le=1_000_000, description="Use the first so many of a source; null for all of them."
    )
    skip: int = Field(default=0, ge=0, le=1_000_000, description="Those after the first so many.")
    shuffle: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="A seed: take them in an order drawn with it, and not in the source's.",
    )

    def choose(self, rows: Sequence[T]) -> list[T]:
        """Those of a source's rows that are asked."""
        order: Iterable[int] = range(len(rows))
        if self.shuffle is not None:
            # By digests, so that it is the same with every version of everything.
            order = sorted(order, key=lambda row: sha256(f"{self.shuffle} {row}".encode()).digest())
        return [rows[row] for row in order][self.skip :][: self.limit]

    @property
    def reach(self) -> int | None:
        """How many rows of a source have to be read; None for all of them."""
        return None if self.limit is None or self.shuffle is not None else self.skip + self.limit


class PromptSpec(Asked):
    """Which requests are sent at every point, and under which system prompt."""

    kind: Literal["requests"] = "requests"
    source: str = Field(
        default="harmful",
        min_length=1,
        description="A built-in set (harmful, benign), a .csv, .jsonl, .json or .txt file, or "
        "hf:DATASET[:SPLIT[:CONFIGURATION]].",
    )
    column: str | None = Field(
        default=None,
        description="Column with the requests; found by itself when named goal, prompt, instruction, "
        "question, request, text, messages or conversation.",
    )
    system: str = Field(
        default="default",
        max_length=20_000,
        description="none, default (whatever the chat template does by itself), helpful-and-safe, "
        "obedient-agent, or the text of a system prompt.",
    )
    harmful: bool = Field(
        default=True,
        description="Whether these requests should be refused. Of those that should not, the refusals are "
        "what is measured. No of the set benign, unless given.",
    )

    attack: str | None = Field(
        default=None,
        max_length=LONGEST_ATTACK,
        description="Send each request within this: a text with {request} in it, as {request} ! ! ! !, or a "
        ".txt file of one, or a .json file of an attack that is the same for all requests.",
    )

    @model_validator(mode="before")
    @classmethod
    def _benign_is_not_harmful(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("harmful") is not None:
            return values
        return values | {"harmful": values.get("source") != "benign"}

    @field_validator("attack")
    @classmethod
    def _text_or_file(cls, attack: str | None) -> str | None:
        if attack is None or attack.count(REQUEST) == 1:
            return attack
        if REQUEST in attack:
            raise ValueError(f"it has {REQUEST} {attack.count(REQUEST)} times; give it once")
        if Path(attack).suffix not in (".txt", ".json"):
            raise ValueError(f"neither a text with {REQUEST} in it nor a .txt or .json file")
        return attack

    @property
    def attack_file(self) -> str | None:
        """The file that holds the attack; None where there is no attack, or it is a text."""
        return None if self.attack is None or REQUEST in self.attack else self.attack

    @property
    def name(self) -> str:
        """What to call it beside others: its source, its system prompt and its attack."""
        system = self.system if len(self.system) <= 40 else f"{self.system[:39]}…"
        name = f"{_source_name(self.source)}, system prompt {system}"
        if self.attack is None:
            return name
        attack = self.attack if self.attack_file is None else Path(self.attack).name
        return f"{name}, attack {attack if len(attack) <= 40 else f'{attack[:39]}…'}"


class ChoiceSpec(Asked):
    """Multiple-choice questions: a capability. The answer is the choice of the highest log-likelihood."""

    kind: Literal["choices"] = "choices"
    source: str = Field(
        default="facts",
        min_length=1,
        description="The built-in set facts, a .csv or .jsonl file in the layout of MMLU, "
        "hf:DATASET[:SPLIT[:CONFIGURATION]], or lm-eval:TASK where lm-evaluation-harness is installed.",
    )
    answers: Literal["letters", "texts"] = Field(
        default="letters",
        description="What is compared: the letters of choices that the question lists, as MMLU does, or the "
        "texts of choices that it does not list. Texts of the set facts, unless given.",
    )

    @model_validator(mode="before")
    @classmethod
    def _facts_are_texts(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("answers") is not None:
            return values
        facts = values.get("source", "facts") == "facts"
        return values | {"answers": "texts" if facts else "letters"}

    @property
    def name(self) -> str:
        """What to call it beside others."""
        return f"choices {_source_name(self.source)}"


class TextSpec(Asked):
    """A text, whose perplexity is measured in windows: a capability."""

    kind: Literal["text"] = "text"
    source: str = Field(min_length=1, pattern=r"\.txt$", description="A .txt file.")
    window: int = Field(default=256, ge=8, le=32_768, description="Tokens of a window.")

    @property
    def name(self) -> str:
        """What to call it beside others."""
        return f"text {_source_name(self.source)}"


AskSpec = PromptSpec | ChoiceSpec | TextSpec


def _source_name(source: str) -> str:
    return source if source.startswith(("hf:", "lm-eval:")) else Path(source).name


ASKED = {"requests", "choices", "text"}  # branches of what is asked

"""What an engine is asked at every point: requests to answer, and passages whose likelihood is taken."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class _Tokens:
    tokens: list[int]

    @property
    def size(self) -> int:
        """How many tokens go in."""
        return len(self.tokens)


@dataclass(frozen=True)
class Request(_Tokens):
    """A prompt in the model's tokens, to be answered; `seed` is that of the drawing of its answer."""

    seed: int | None = None


@dataclass(frozen=True)
class Passage(_Tokens):
    """Tokens of which those from `begin` on, 1 or more, are to be foreseen from those before them."""

    begin: int


@dataclass(frozen=True)
class Question:
    """Choices, each with the question before it, of which number `right` is the right one."""

    choices: list[Passage]
    right: int

    @property
    def size(self) -> int:
        """How many tokens go in."""
        return sum(choice.size for choice in self.choices)


Query = Request | Passage | Question

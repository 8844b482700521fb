"""Repeated prompts: what is asked twice tells nothing new, so it is asked once and counts once."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from visage_core.errors import InputError
from visage_core.spec import AskSpec

T = TypeVar("T")
# Characters that show nothing, but for those of the categories Cc and Cf.
INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
ENDS = ".?!,;:"


class RepeatsError(InputError):
    """A prompt set that repeats itself where each prompt has to be another."""


@dataclass(frozen=True)
class Repeats:
    """How many prompts a source gives, and how many different ones these are."""

    prompts: int
    different: int

    def __str__(self) -> str:
        verb = "is" if self.different == 1 else "are"
        return f"{self.prompts:,} prompts, of which {self.different:,} {verb} different"


def normal(text: str) -> str:
    """A text without what makes it look like another to a computer alone: compatible characters (NFKC), case,
    white space and invisible characters."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        text = INVISIBLE.sub("", text)
        text = "".join(one for one in text if one.isspace() or unicodedata.category(one) not in ("Cc", "Cf"))
    return "".join(text.casefold().split())


def normal_request(text: str) -> str:
    """The same of what a user asks for, which may end with any mark."""
    found = normal(text)
    return found.rstrip(ENDS) or found


def choose(
    asked: AskSpec, rows: Sequence[T], identity: Callable[[T], Hashable]
) -> tuple[list[T], Repeats | None]:
    """The rows that a spec chooses of those of a source that are different, the first of each kind; and how
    many repeats there are among those that it would choose of all, None without any."""
    known: dict[Hashable, T] = {}
    for row in rows:
        if asked.reach is not None and len(known) == asked.reach:
            break
        known.setdefault(identity(row), row)
    chosen = asked.choose(list(known.values()))
    plain = asked.choose(rows)
    repeated = len(plain) - len(set(map(identity, plain)))
    return chosen, Repeats(len(chosen) + repeated, len(chosen)) if repeated else None


def require_different(found: Sequence[Repeats | None], field: str = "landscape.prompts") -> None:
    """Raise RepeatsError, with the number of the prompt set, where one repeats itself."""
    for number, repeats in enumerate(found):
        if repeats is not None:
            raise RepeatsError(
                f"{field}.{number}",
                f"{repeats} (case, white space and invisible characters aside), and a repeated one tells "
                "nothing new",
                "Leave the repeated ones out, or put others in their place",
            )

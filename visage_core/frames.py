"""What a chat template puts around the messages of a conversation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

# Control strings as templates write them, and what they call the sides of a conversation.
_CONTROLS = re.compile(r"<[|\uff5c]?[^<>\s]{1,60}>|\[/?[A-Z_]{2,30}\]|<</?SYS>>")
_SIDES = re.compile(
    r"\b(?:system|user|human|assistant|model|bot|ai|gpt|chatbot|instruction|response)\b", re.I
)


@dataclass(frozen=True)
class Rendered:
    """Prompts in a chat template: their tokens, and the `frames` that it puts them into, one for each
    sequence of roles, with the role of each message in braces in its place."""

    tokens: list[list[int]]
    frames: tuple[str, ...]


@dataclass(frozen=True)
class Frame:
    """The texts around messages: between each two of them the message of one of the `numbers`."""

    texts: tuple[str, ...]
    numbers: tuple[int, ...]
    roles: tuple[str, ...]

    @classmethod
    def of(cls, text: str, stand_ins: Sequence[str], roles: tuple[str, ...]) -> Frame:
        """Find what is around stand-ins for messages in a text."""
        pattern = "|".join(map(re.escape, stand_ins))
        numbers = tuple(stand_ins.index(found) for found in re.findall(pattern, text))
        return cls(tuple(re.split(pattern, text)), numbers, roles)

    def holds(self, text: str, messages: Sequence[str]) -> bool:
        """Whether a text is these messages in this frame. A template may cut white space around them off."""
        spellings = [f"(?:{re.escape(one)}|{re.escape(one.strip())})" for one in messages]
        places = [spellings[number] for number in self.numbers]
        pairs = zip_longest(map(re.escape, self.texts), places, fillvalue="")
        return re.fullmatch("".join(part for pair in pairs for part in pair), text) is not None

    def __str__(self) -> str:
        places = [f"{{{self.roles[number]}}}" for number in self.numbers]
        return "".join(part for pair in zip_longest(self.texts, places, fillvalue="") for part in pair)


def words(text: str) -> str:
    """The words of a part of a frame, without control strings and the names of the sides; "" where none are
    left."""
    left = " ".join(_SIDES.sub(" ", _CONTROLS.sub(" ", text)).split())
    return left if any(map(str.isalnum, left)) else ""

"""The base of every error that a user can mend."""

from __future__ import annotations

LONGEST = 2**15


class InputError(ValueError):
    """Something the user gave cannot be used.

    Each part of visage raises a subclass that lives beside the code that raises it. The command line and
    every other front end show the same three things: which field, what was seen, what to do about it.
    """

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        self.field, self.problem, self.remedy = _plain(field), _plain(problem), _plain(remedy)
        super().__init__(f"{self.field}: {self.problem}. {self.remedy}")

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        # Errors cross process boundaries; the default would pass the joined message alone.
        return type(self), (self.field, self.problem, self.remedy)


def _plain(text: str) -> str:
    """A text for terminals and logs. It may quote a file that somebody else made: of whatever length, and
    with characters that make a terminal do things."""
    if len(text) > LONGEST:  # what is wrong stands at the end, or at the beginning
        text = f"{text[: LONGEST // 2 - 1]}…{text[-LONGEST // 2 :]}"
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text
    )

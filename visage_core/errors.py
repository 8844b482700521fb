"""The base of every error that a user can mend."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave cannot be used.

    Each part of visage raises a subclass that lives beside the code that raises it. The command line and
    every other front end show the same three things: which field, what was seen, what to do about it.
    """

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{field}: {problem}. {remedy}")
        self.field = field
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        # Errors cross process boundaries; the default would pass the joined message alone.
        return type(self), (self.field, self.problem, self.remedy)

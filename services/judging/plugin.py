"""Judges of one's own: Python callables in the entry point group visage.judges."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha256
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import structlog

from visage_core.errors import InputError

GROUP = "visage.judges"
log = structlog.get_logger("visage.judging")


class PluginError(InputError):
    """A judge that no package here provides, or that cannot be loaded."""


class Plugin:
    """A callable that takes a prompt and its response, and says whether the response complied.

    Whatever it returns that is not True or False, and whatever it raises, is no verdict.
    """

    def __init__(self, name: str, function: Callable[[str, str], object]) -> None:
        self.name = name
        self._function = function

    def __call__(self, prompt: str, response: str) -> bool | None:
        try:
            verdict = self._function(prompt, response)
        except Exception as error:
            # Its message may hold the response.
            log.warning("no verdict", judge=self.name, problem=type(error).__name__)
            return None
        # By identity: 1 is equal to True, and means something else in a judge that scores.
        if verdict is True or verdict is False:
            return verdict
        if verdict is not None:
            log.warning("no verdict", judge=self.name, problem=f"it returned {type(verdict).__name__}")
        return None

    async def judge(self, items: Sequence[tuple[str, str]]) -> list[bool | None]:
        """The verdicts of prompts and their responses, in their order, one after another in a thread."""
        return await asyncio.to_thread(lambda: [self(prompt, response) for prompt, response in items])


def source_of(name: str) -> str:
    """SHA-256 of the module that a judge is in, in hexadecimal; of its name where it is in no file. Raises
    PluginError."""
    load_judge(name)  # as it is asked: there is one
    [module] = {one.module for one in entry_points(group=GROUP) if one.name == name}
    spec = find_spec(module)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return sha256(module.encode()).hexdigest()
    return sha256(Path(spec.origin).read_bytes()).hexdigest()


def load_judge(name: str) -> Plugin:
    """The judge that a package here provides by that name. Raises PluginError."""
    installed = entry_points(group=GROUP)
    found = {point.value: point for point in installed if point.name == name}
    if len(found) != 1:
        names = ", ".join(sorted({point.name for point in installed}))
        raise PluginError(
            "judge.plugin",
            f"{len(found) or 'no'} packages provide {name!r} in the group {GROUP}",
            f"Use one of {names}" if names else "Install the package that provides it",
        )
    (point,) = found.values()
    try:
        function = point.load()
    except Exception as error:  # it runs the package's code
        raise PluginError(
            "judge.plugin",
            f"{name} ({point.value}) cannot be loaded: {type(error).__name__}: {error}",
            "Mend the package that provides it",
        ) from None
    if not callable(function):
        raise PluginError(
            "judge.plugin", f"{name} ({point.value}) cannot be called", "Let it be a function of two texts"
        )
    return Plugin(name, function)

"""Which models and prompts a service may read: what lies below its roots, and what its lists name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from services.sweep.models import HUB_ID
from visage_core.errors import InputError
from visage_core.prompts import BUILT_IN, FILES
from visage_core.spec import LandscapeSpec, PromptSpec, parse_spec

MOST_PROMPT_BYTES = 64 * 2**20
# How far below a root models and prompts are listed.
DEPTH = 4
MOST_LISTED = 1_000
LONGEST = 1_024  # as the table has it
# What a list may name: a pattern such as * must not let in a path.
MODEL = re.compile(HUB_ID.pattern + r"|(s3|gs|gcs|abfs|abfss|hdfs)://.+")
LM_EVAL = re.compile(r"lm-eval:[A-Za-z0-9]\w*")  # by name: a task's definition may run code
DATASET = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")


class NotAllowedError(InputError):
    """A model or a prompt file that the service may not read."""


@dataclass(frozen=True)
class Allowed:
    """`roots` are folders; `models` and `datasets` are patterns such as org/* or s3://bucket/models/*;
    `endpoints` are the URLs of judges, each as URL or as URL=VARIABLE, the one that holds its key."""

    roots: tuple[Path, ...]
    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()

    def resolve(self, spec: LandscapeSpec) -> LandscapeSpec:
        """The spec with every path found below a root and made absolute. Raises NotAllowedError for what
        may not be read, whether it is there or not."""
        document: dict[str, Any] = spec.model_dump(mode="json")
        document["model"] = self._model(spec.model, "model")
        for field, named in spec.files().items():
            *path, last = field.split(".")
            part: Any = document
            for step in path:
                part = part[step]
            allowed = self._file if last == "file" else self._model
            part[int(last) if last.isdigit() else last] = allowed(named, field)
        for number, prompts in enumerate(document["prompts"]):
            prompts["source"] = self._prompts(prompts["source"], f"prompts.{number}.source")
            part = spec.prompts[number]
            if isinstance(part, PromptSpec) and (attack := part.attack_file) is not None:
                prompts["attack"] = self._attack(attack, f"prompts.{number}.attack")
        for number, judge in enumerate(document["judges"]):
            self._judge(judge, f"judges.{number}")
        return parse_spec(document)

    def models_here(self) -> list[str]:
        """The checkpoints below the roots, as far as they lie near."""
        return self._below(lambda path: path.name == "config.json", lambda path: str(path.parent))

    def prompts_here(self) -> list[str]:
        """The prompt files below the roots, as far as they lie near."""
        return self._below(_holds_prompts, str)

    def _model(self, name: str, field: str) -> str:
        path = self._inside(name)
        if path is not None:
            if not path.exists() or self._is_whole(path):
                return str(path)
        elif _is_listed(name, self.models, MODEL) and not Path(name).exists():  # a folder here goes first
            return name
        raise NotAllowedError(
            field,
            f"{name!r} is neither below a folder nor on a list from which this service takes models",
            "GET /v1/models tells what there is",
        )

    def _judge(self, judge: dict[str, Any], field: str) -> None:
        """Make a judge's path absolute. Raises NotAllowedError for one that may not be asked."""
        if judge["kind"] == "model":
            # Engines of judges beside those of sweeps, for whatever jobs come, would need a scheduler.
            raise NotAllowedError(
                field, "this service starts no judge models", "Name one that is served behind an endpoint"
            )
        if judge["kind"] == "keyword" and judge["phrases"].endswith(".txt"):
            judge["phrases"] = self._file(judge["phrases"], f"{field}.phrases")
        if judge["kind"] == "endpoint":
            listed = dict(_endpoint(entry) for entry in self.endpoints)
            url = judge["url"].rstrip("/")
            if url not in listed:
                raise NotAllowedError(
                    f"{field}.url",
                    f"{judge['url']!r} is not among the endpoints that this service sends responses to",
                    "GET /v1/judges tells what there is",
                )
            if judge["key"] not in (None, listed[url]):
                raise NotAllowedError(
                    f"{field}.key", f"{judge['key']!r} is not that endpoint's key", "Leave it out"
                )
            judge["key"] = listed[url]

    def _file(self, name: str, field: str) -> str:
        path = self._inside(name)
        if path is None:
            raise NotAllowedError(
                field,
                f"{name!r} is not below a folder from which this service takes models",
                "Put the file below one of the service's roots",
            )
        return str(path)

    def _prompts(self, source: str, field: str) -> str:
        if source in BUILT_IN or source == "facts":
            return source
        if source.startswith("lm-eval:"):
            if _is_listed(source, self.datasets, LM_EVAL):
                return source
        elif source.startswith("hf:"):
            name = source.split(":")[1]
            if _is_listed(name, self.datasets, DATASET) and not Path(name).exists():
                return source
        elif (found := self._prompt_file(source, field)) is not None:
            return found
        raise NotAllowedError(
            field,
            f"{source!r} is neither a built-in set, nor below a folder or on a list from which this service "
            "takes prompts",
            "GET /v1/prompt-sets tells what there is",
        )

    def _attack(self, name: str, field: str) -> str:
        found = self._prompt_file(name, field)
        if found is None:
            raise NotAllowedError(
                field,
                f"{name!r} is no file below a folder from which this service takes prompts",
                "Put the file below one of the service's roots, or give the attack as a text",
            )
        return found

    def _prompt_file(self, name: str, field: str) -> str | None:
        """The path below a root of a file of prompts or of an attack; None where the name means none. Raises
        NotAllowedError for one that is too large."""
        path = self._inside(name)
        if path is None or not _holds_prompts(path):
            return None
        if path.is_file() and path.stat().st_size > MOST_PROMPT_BYTES:
            raise NotAllowedError(
                field, f"{name!r} is larger than {MOST_PROMPT_BYTES:,} bytes", "Use a smaller file"
            )
        return str(path)

    def _inside(self, name: str) -> Path | None:
        """The path below a root that a name means, absolute or from a root; None where it means none."""
        if "://" in name or "\0" in name or len(name) > LONGEST:
            return None
        try:
            for root in self.roots:
                path = (root.resolve() / name).resolve()
                there = path.exists()  # raises for a name that is too long for a file system
                # A hub id may look like a path below a root: it is one where something is there.
                if self._is_below(path) and (Path(name).is_absolute() or there):
                    return path if len(str(path)) <= LONGEST else None
        except (OSError, RuntimeError):  # RuntimeError: a loop of links
            return None
        return None

    def _is_whole(self, path: Path) -> bool:
        """Whether it is a folder all of whose files lie below the roots, and not at the end of a link."""
        try:
            return path.is_dir() and all(self._is_below(file.resolve()) for file in path.iterdir())
        except (OSError, RuntimeError):
            return False

    def _is_below(self, path: Path) -> bool:
        return any(path.is_relative_to(root.resolve()) for root in self.roots)

    def _below(self, wanted: Any, named: Any) -> list[str]:
        found: dict[str, None] = {}
        for root in self.roots:
            for path in _walk(root.resolve(), DEPTH):
                if wanted(path) and self._is_below(path.resolve()):
                    found[named(path)] = None
                if len(found) >= MOST_LISTED:
                    break
        return sorted(found)


def _holds_prompts(path: Path) -> bool:
    """Whether a file may be of prompts or of an attack, by its name and place."""
    # The JSON files in a checkpoint's folder are the checkpoint's.
    return path.suffix in FILES and (path.suffix != ".json" or not (path.parent / "config.json").exists())


def _endpoint(entry: str) -> tuple[str, str | None]:
    """An endpoint's URL, and the environment variable that holds its key."""
    url, _, variable = entry.partition("=")
    return url.rstrip("/"), variable or None


def _walk(folder: Path, depth: int) -> Iterable[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.is_file():
            yield entry
        elif depth and entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
            yield from _walk(entry, depth - 1)


def _is_listed(name: str, patterns: tuple[str, ...], form: re.Pattern[str]) -> bool:
    fits = len(name) <= LONGEST and form.fullmatch(name) is not None and _is_plain(name)
    return fits and any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_plain(name: str) -> bool:
    """Whether a hub id or URL says nothing but a place: no options, no credentials, no way upwards."""
    return name.isprintable() and not any(mark in name for mark in ("..", "?", "#", "@", "%", "\\"))

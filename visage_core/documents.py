"""Text, JSON and YAML from files that anybody may have made: never waited for, and bounded in what they are
and unfold to."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import yaml

MOST_BYTES = 2**28
# A spec with every list full has a half of it.
MOST_YAML_BYTES, MOST_WEIGHT, MOST_DEPTH = 2**22, 30_000, 64
LONGEST_NUMBER = 100


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """A regular file, open as UTF-8. Raises OSError or ValueError (a name that cannot be one)."""
    return open(path, encoding="utf-8-sig", newline=newline, opener=_opener)


def open_bytes(path: Path) -> BinaryIO:
    """A regular file, open to be read. Raises OSError or ValueError."""
    return open(path, "rb", opener=_opener)


def read_text(path: Path, most: int = MOST_BYTES, newline: str | None = None) -> str:
    """The text of a regular UTF-8 file of at most so many bytes. Raises OSError or ValueError."""
    with open_text(path, newline) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise ValueError(f"it has more than {most:,} bytes")
        return file.read()


def parse_json(text: str | bytes) -> Any:
    """A JSON document, whose objects have each name once. Raises ValueError."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_json(path: Path, most: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON object that a file holds. Raises OSError or ValueError."""
    document = parse_json(read_text(path, most))
    if not isinstance(document, dict):
        raise ValueError("it holds no JSON object")
    return document


def read_yaml(path: Path) -> Any:
    """The document of a YAML file, and so of a JSON file. Raises OSError or ValueError."""
    return parse_yaml(read_text(path, MOST_YAML_BYTES))


def parse_yaml(text: str) -> Any:
    """A YAML document, and so a JSON document. Raises ValueError."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _opener(path: str, flags: int) -> int:
    handle = os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for somebody to write to it
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("it is no regular file")
    return handle


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it has {name!r} twice")
        found[name] = value
    return found


class _Loader(yaml.SafeLoader):
    """The safe loader, which by itself knows no bounds: aliases may unfold to anything, and the last of
    several equal keys wins."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._weight = self._depth = 0
        self._weights: dict[str, int] = {}  # of what an alias stands for, all of it

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) and event.anchor in self.anchors:
            if event.anchor not in self._weights:
                raise _error("it is part of itself", event.start_mark)
            self._weigh(self._weights[event.anchor], event.start_mark)
        before = self._weight
        self._weigh(1 + len(getattr(event, "value", None) or "") // 200, event.start_mark)
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise _error("it is nested too deep", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if getattr(event, "anchor", None) is not None:
            self._weights.setdefault(event.anchor, self._weight - before)
        return node

    def compose_scalar_node(self, anchor: Any) -> Any:
        node = super().compose_scalar_node(anchor)
        if node.tag.endswith((":int", ":float")) and len(node.value) > LONGEST_NUMBER:
            raise _error("a number is too long", node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        names = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                if (key.tag, key.value) in names:
                    raise _error(f"it has {key.value!r} twice", key.start_mark)
                names.add((key.tag, key.value))
        return node

    def _weigh(self, weight: int, mark: Any) -> None:
        self._weight += weight
        if self._weight > MOST_WEIGHT:
            raise _error("it holds or unfolds to far more than settings need", mark)


def _error(problem: str, mark: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)

"""What the documentation says works: its commands, code, specs, policies, routes and links."""

from __future__ import annotations

import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import mypy.api
import pytest
import torch
import typer
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer.testing import CliRunner

from services import cli
from visage_core.policy import load_policy, parse_policy
from visage_core.spec import LandscapeSpec, parse_spec

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
WRITTEN = [page for page in PAGES if REFERENCE not in page.parents]
LANGUAGES = {"bash", "python", "yaml", "toml", "text"}
VISAGE: Any = typer.main.get_command(cli.app)

# Commands without an engine or a service: they are run here, as they stand.
RUN_HERE = {
    "visage spec",
    "visage demo-model",
    "visage demo-model --variant harmful-10",
    "visage demo-model --variant harmful-50",
    "visage judges coherence",
    "visage import-direction dirs1.pt one.safetensors --steps 20 --multiplier 1",
}
# The tests that run the others.
RUN_BY = {
    "audit": "services/audit/test_audit.py",
    "cancel": "services/api/test_end_to_end.py",
    "compare": "services/test_compare.py",
    "copies": "services/test_copies.py",
    "gate": "services/test_gate.py",
    "judges coherence": "services/test_coherence_command.py",
    "judges evaluate": "services/test_run.py",
    "keys create": "services/api/test_end_to_end.py",
    "keys list": "services/api/test_end_to_end.py",
    "keys revoke": "services/api/test_end_to_end.py",
    "policy": "services/test_policy_command.py",
    "publish": "services/test_publish.py",
    "report": "services/test_report.py",
    "results": "services/api/test_end_to_end.py",
    "run": "services/test_run.py",
    "search": "services/test_search.py",
    "serve": "services/api/test_end_to_end.py",
    "show": "services/test_run.py",
    "status": "services/api/test_end_to_end.py",
    "submit": "services/api/test_end_to_end.py",
    "verify": "services/test_gate.py",
    "watch": "services/api/test_end_to_end.py",
}
# Nothing runs these but people: they take minutes to an hour.
RUN_BY_HAND = {"bench", "reproduce"}
TOOLS = {".", "docker", "kubectl", "openssl", "pg_dump", "pg_restore", "pip", "ray", "serve"}


class Block(NamedTuple):
    """A block of code, and where it stands."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def blocks(*languages: str) -> list[Block]:
    found = (
        Block(page, token.map[0] + 1, token.info, token.content)
        for page in WRITTEN
        for token in tokens(page)
        if token.map and token.type in ("fence", "code_block")
    )
    return [block for block in found if not languages or block.language in languages]


def spans(page: Path) -> list[str]:
    """What stands in backticks within sentences."""
    children = (child for token in tokens(page) for child in token.children or ())
    return [" ".join(child.content.split()) for child in children if child.type == "code_inline"]


def test_every_block_says_what_it_is() -> None:
    assert [block.place for block in blocks() if block.language not in LANGUAGES] == []


# Commands


def calls(text: str) -> Iterator[list[str]]:
    """The commands of a line of shell, those within it too, as lists of words."""
    within = r"\$\(([^()]*)\)"
    for inner in re.findall(within, text):
        yield from calls(inner)
    lexer = shlex.shlex(re.sub(within, "VALUE", text), posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    for between, words in groupby(lexer, key=lambda word: not word.strip("&|;")):
        command = list(words)
        while command and re.match(r"\w+=", command[0]):
            command.pop(0)
        if command and not between:
            yield command


COMMANDS = [
    pytest.param(call, id=f"{block.place} {shlex.join(call)}")
    for block in blocks("bash")
    for line in block.text.replace("\\\n", " ").splitlines()
    for call in calls(line)
]


class Stop(Exception):  # noqa: N818 - it ends a command that has got as far as its job
    pass


@pytest.mark.parametrize("call", COMMANDS)
def test_a_command_exists_with_its_options(call: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tool, *words = call
    if tool == "visage":
        path, command, rest = resolved(words)
        command.make_context(path, list(rest))  # raises where it does not fit
        if "--policy" in rest and (policy := ROOT / rest[rest.index("--policy") + 1]).parent.name == "deploy":
            load_policy(policy)
        if path in ("run", "search") and "--spec" not in rest:
            check_job(words, monkeypatch)
    elif tool == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert {word for word in words if "=" not in word} <= set(re.findall(r"^(\w+):", makefile, re.M))
    elif tool == "python":
        assert words[0] == "-c" or (ROOT / words[0]).exists()
    elif tool == "curl":
        method = "POST" if "--json" in words else "GET"
        url = next(word for word in words if word.startswith("http"))
        assert f"{method} /{url.partition('?')[0].split('/', 3)[3]}" in routes()
    else:
        assert tool in TOOLS


def resolved(words: list[str]) -> tuple[str, Any, list[str]]:
    """The command that words name, what it is called, and the rest of them."""
    command, path = VISAGE, []
    while words and words[0] in getattr(command, "commands", {}):
        command, path, words = command.commands[words[0]], [*path, words[0]], words[1:]
    assert not hasattr(command, "commands") or not words or words[0].startswith("-"), words
    return " ".join(path), command, words


def check_job(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A command's options make a job that could be measured, were its files there."""

    def stop(*_: object) -> None:
        raise Stop

    monkeypatch.setattr("services.sweep.run.open_runs", stop)
    monkeypatch.setattr("services.search.search.search", stop)
    assert isinstance(CliRunner().invoke(cli.app, words).exception, Stop)


@pytest.mark.parametrize("line", sorted(RUN_HERE))
def test_a_command_that_needs_no_engine_runs(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shlex.split(line) in [one.values[0] for one in COMMANDS], "it is in no page any more"
    monkeypatch.chdir(tmp_path)
    torch.save({"layer.weight": torch.ones(2, 2)}, "dirs1.pt")
    done = CliRunner().invoke(cli.app, shlex.split(line)[1:])
    assert done.exit_code == 0, done.output
    if "demo-model" in line:
        assert (Path(done.stdout.strip()) / "config.json").exists()


def test_every_command_of_the_pages_is_run_by_a_test() -> None:
    lines = {shlex.join(one.values[0]) for one in COMMANDS if one.values[0][0] == "visage"}
    named = {resolved(shlex.split(line)[1:])[0] for line in lines - RUN_HERE}
    assert named - RUN_BY_HAND <= set(RUN_BY)
    for name, file in RUN_BY.items():
        words = ", ".join(f'"{word}"' for word in name.split())
        assert words in (ROOT / "tests" / file).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_sentences_name_exists(page: Path) -> None:
    """Commands with their options, and routes of the API."""
    for span in spans(page):
        if span.startswith("visage "):
            _, command, rest = resolved(shlex.split(span)[1:])
            there = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
            given = {word.partition("=")[0] for word in rest if word.startswith("--")}
            assert given <= there | {"--help"}, span
        if route := re.fullmatch(r"(GET|POST|DELETE) (/\S+)", span):
            assert " ".join(route.groups()) in routes() or without_names(span) in routes(), span


@cache
def routes() -> set[str]:
    """The routes of the API, with and without the names of what is in their paths."""
    paths = runpy.run_path(str(REFERENCE / "generate.py"))["openapi"]()["paths"]
    found = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    return found | {without_names(one) for one in found} | {"GET /v1/openapi.json"}


def without_names(route: str) -> str:
    return re.sub(r"\{\w+\}", "{}", route)


# Code, specs and policies


def test_python_fits_the_code(tmp_path: Path) -> None:
    """Every block for itself, as the type checker sees it."""
    for number, block in enumerate(blocks("python")):
        (tmp_path / f"block_{number}.py").write_text(f"# {block.place}\n{block.text}", encoding="utf-8")
    files = sorted(map(str, tmp_path.iterdir()))
    said, faults, status = mypy.api.run(["--config-file", str(ROOT / "pyproject.toml"), *files])
    assert status == 0, said + faults


def test_retention_deletes_what_is_old_of_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = (one for one in blocks("python") if "timedelta(days=90)" in one.text)
    ended = {"old": datetime(2020, 1, 1, tzinfo=UTC), "new": datetime.now(UTC), "runs": None}
    client = MagicMock()
    kinds = {"page": client.delete, "gates": client.delete_gate, "audits": client.delete_audit}
    for name in kinds:
        jobs = [SimpleNamespace(id=f"{name}-{job}", finished_at=at) for job, at in ended.items()]
        pages = {
            None: SimpleNamespace(items=jobs[1:], next="2"),
            "2": SimpleNamespace(items=jobs[:1], next=None),
        }
        getattr(client, name).side_effect = lambda cursor, pages=pages: pages[cursor]
    monkeypatch.setattr("services.client.Client", lambda *_: nullcontext(client))
    monkeypatch.setenv("VISAGE_API_KEY", "key")
    exec(block.text, {})
    for name, delete in kinds.items():
        delete.assert_called_once_with(f"{name}-old")


@pytest.mark.parametrize("block", blocks("yaml", "toml"), ids=lambda block: block.place)
def test_documents_are_what_they_seem(block: Block) -> None:
    if block.language == "toml":
        assert tomllib.loads(block.text)
        return
    document = yaml.safe_load(block.text)
    if "rules" in document:
        parse_policy(document)
    elif "template" in document:
        judge = {"kind": "endpoint", "url": "https://judge.example/v1", "model": "m", **document}
        parse_spec({"model": "m", "judges": [judge]})
    else:
        assert set(document) <= set(LandscapeSpec.model_fields)
        parse_spec({"model": "m", **document})


# Links, and what is written from the code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for token in tokens(page):
        for child in token.children or ():
            target = str(child.attrs.get("href") or child.attrs.get("src") or "")
            if not target or "://" in target:
                continue
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


@cache
def anchors(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    texts = [after.content for token, after in pairwise(tokens(page)) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


def test_the_reference_is_not_older_than_the_code() -> None:
    made = runpy.run_path(str(REFERENCE / "generate.py"))["pages"]()
    there = {file.name: file.read_text(encoding="utf-8") for file in REFERENCE.glob("*.md")}
    assert there == made, "run `make reference`"


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    links = {
        (index.parent / str(child.attrs["href"])).resolve()
        for token in tokens(index)
        for child in token.children or ()
        if child.type == "link_open"
    }
    pages = {page for page in PAGES if page.parent.parent in (ROOT, ROOT / "docs") and "docs" in page.parts}
    records = {page for page in pages if page.parent.name == "decisions" and page.name != "README.md"}
    assert pages - records - links == {index}


ATTEMPT = re.compile(r"`([a-z_/]+\.py)::([a-z_0-9]+)`")


def test_what_was_tried_against_the_gate_is_tested() -> None:
    named = ATTEMPT.findall((ROOT / "docs" / "gate.md").read_text(encoding="utf-8"))
    assert len(named) >= 30
    missing = [
        f"{file}::{test}"
        for file, test in named
        if f"def {test}(" not in (ROOT / "tests" / file).read_text(encoding="utf-8")
    ]
    assert not missing

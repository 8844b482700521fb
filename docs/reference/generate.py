"""Writes the pages of the reference beside it from the code itself: `make reference`."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from services import cli
from services.api.app import make_app
from services.api.problems import STATUS, USUAL
from services.api.service import Service
from services.api.settings import Settings
from visage_core.policy import Policy
from visage_core.spec import LandscapeSpec

Schema = dict[str, Any]
HERE = Path(__file__).parent
NOTE = "Written from the code by `make reference`; a test compares the two."
# The page that tells of a document, and of the parts that it has.
DOCUMENTS: dict[str, tuple[type[BaseModel], str]] = {
    "spec.md": (LandscapeSpec, "The spec"),
    "policy.md": (Policy, "The policy"),
    "settings.md": (Settings, "The settings of a service"),
}
INTRODUCTIONS = {
    "spec.md": "What `visage run --spec FILE`, `visage submit FILE` and `POST /v1/landscapes` take, as YAML "
    "or JSON: examples are in [landscapes.md](../landscapes.md) and [judges.md](../judges.md). `visage run` "
    "and `visage submit` set single fields by options. In a file for `visage run` `models`, a list, may "
    "stand for `model`.\n\n"
    "Where `kind` is left out, a direction is of the kind whose fields it has, or random, prompts are "
    "requests, and judges are lists of keywords; a judge may be a name, too, as on the command line. "
    "`visage spec --json-schema` prints the form in which nothing is left out so.",
    "policy.md": "What `visage gate --policy FILE`, `visage audit --policy FILE` and the service's gates "
    "and audits take, as YAML or JSON: [gate.md](../gate.md) says what it means, and "
    "[deploy/policy.yaml](../../deploy/policy.yaml) is an example. The landscape is a "
    "[spec](spec.md) without its model.",
    "settings.md": "The `args` of a Serve config such as [deploy/serve.yaml](../../deploy/serve.yaml). "
    "`visage serve` has [options](cli.md#visage-serve) for them.",
}


def pages() -> dict[str, str]:
    """The text of every page, by the name of its file."""
    made = {name: document_page(name) for name in DOCUMENTS}
    made |= {"cli.md": cli_page(), "api.md": api_page()}
    return {name: re.sub(r"\n{3,}", "\n\n", f"{text.strip()}\n") for name, text in made.items()}


# The command line


def cli_page() -> str:
    """Every command with its arguments and options."""
    root = typer.main.get_command(cli.app)
    found = sorted(commands(root, root.context_class(root, info_name="visage")))
    index = "\n".join(f"- [`{path}`](#{path.replace(' ', '-')})" for path, _ in found)
    return "\n\n".join(["# The command line", NOTE, index, *(section for _, section in found)])


def commands(command: Any, context: Any) -> Iterator[tuple[str, str]]:
    """A command and all below it: their names and what there is to say of them."""
    path = context.command_path
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    records = [one.get_help_record(context) for one in command.get_params(context)]
    rows = [(f"`{name}`", cell(text)) for name, text in filter(None, records)]
    yield (
        path,
        "\n\n".join(
            [f"## {path}", command.help, f"`{usage}`", table(("argument or option", "meaning"), rows)]
        ),
    )
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, below.context_class(below, info_name=name, parent=context))


# The REST API


def api_page() -> str:
    """Every route with what it takes and answers, every schema, and every kind of problem."""
    document = openapi()
    parts = [
        "# The REST API",
        NOTE,
        document["info"]["description"],
        "[service.md](../service.md) tells how to use it. A service gives this document in full, with "
        "examples, at `GET /v1/openapi.json`. Keys are sent as `Authorization: Bearer KEY`.",
    ]
    elsewhere, subject = home(), ""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if operation["tags"] != [subject]:
                [subject] = operation["tags"]
                parts.append(f"## {subject.capitalize()}")
            parts.append(route(f"{method.upper()} {path}", operation, elsewhere))
    parts += ["## Problems", problems(), "## Schemas"]
    for name, schema in sorted(document["components"]["schemas"].items()):
        if name not in elsewhere:
            parts.append(section(f"### {name}", schema, elsewhere))
    return "\n\n".join(parts)


def openapi() -> Schema:
    """The document that a service gives."""
    with tempfile.TemporaryDirectory() as data:
        return make_app(Service(Settings(data=Path(data), database_url=None, roots=()))).openapi()


def route(title: str, operation: Schema, elsewhere: dict[str, str]) -> str:
    """A route: its parameters, its body, its answers, and the errors that it may end with."""
    parts = [f"### {title}", operation.get("description", "")]
    if taken := operation.get("parameters"):
        rows = [
            (f"`{one['name']}`", one["in"], *described(one["schema"], one["required"], elsewhere))
            for one in taken
        ]
        parts.append(table(("parameter", "in", "type", "default", "meaning"), rows))
    if body := operation.get("requestBody"):
        parts.append(f"Body: {kind(body['content']['application/json']['schema'], elsewhere)}")
    answers, errors = [], []
    for status, answer in sorted(operation["responses"].items()):
        if "application/problem+json" in answer.get("content", {}):
            errors.append(status)
            continue
        forms = [
            f"`{media}`: {kind(content['schema'], elsewhere)}" if content.get("schema") else f"`{media}`"
            for media, content in answer.get("content", {}).items()
        ]
        meaning = answer["description"].replace("Successful Response", "")
        answers.append((status, "<br>".join(forms) or "nothing", cell(meaning)))
    parts.append(table(("answer", "body", "meaning"), answers))
    if errors:
        parts.append(f"[Problems](#problems): {', '.join(errors)}")
    return "\n\n".join(parts)


def problems() -> str:
    """What each status of an error says."""
    kinds: dict[int, list[str]] = {}
    for error, status in STATUS.items():
        kinds.setdefault(status, []).append(str(error.__doc__))
    kinds.setdefault(422, []).append("A field that is missing, unknown or wrong, or that may not be named.")
    for status, (_, remedy) in USUAL.items():
        kinds.setdefault(status, []).append(f"{remedy}.")
    rows = [(str(status), cell(" ".join(dict.fromkeys(texts)))) for status, texts in sorted(kinds.items())]
    told = (
        "Every error is an `application/problem+json` as RFC 9457 has it, a [Problem](#problem): its `type` "
        "is `about:blank`, `status` and `title` say what kind it is, `field`, `detail` and `remedy` what is "
        "wrong and what to do."
    )
    return f"{told}\n\n{table(('status', 'what it says'), rows)}"


# Documents: specs, policies, settings


def document_page(name: str) -> str:
    """A document and its parts, field by field."""
    model, title = DOCUMENTS[name]
    schema = model.model_json_schema()
    elsewhere = {part: page for part, page in home().items() if page != name}
    parts = {model.__name__: schema} | dict(schema.get("$defs", {}))
    sections = [section(f"## {part}", one, elsewhere) for part, one in parts.items() if part not in elsewhere]
    return "\n\n".join([f"# {title}", NOTE, INTRODUCTIONS[name], *sections])


def home() -> dict[str, str]:
    """The page on which a part of a document is told of, by its name."""
    return {
        part: name
        for name, (model, _) in DOCUMENTS.items()
        for part in (model.__name__, *model.model_json_schema().get("$defs", {}))
    }


def section(heading: str, schema: Schema, elsewhere: dict[str, str]) -> str:
    """A schema: what it is, and its fields."""
    said = [heading, cell(schema.get("description", ""))]
    if "properties" not in schema:
        return "\n\n".join([*said, kind(schema, elsewhere)])
    needed = schema.get("required", ())
    rows = [
        (f"`{field}`", *described(one, field in needed, elsewhere))
        for field, one in schema["properties"].items()
    ]
    return "\n\n".join([*said, table(("field", "type", "default", "meaning"), rows)])


def described(schema: Schema, needed: bool, elsewhere: dict[str, str]) -> tuple[str, str, str]:
    """The type, the default and the meaning of a field."""
    default = "required" if needed else "its own" if "$ref" in schema else ""
    if "default" in schema:
        default = f"`{json.dumps(schema['default'])}`"
    return kind(schema, elsewhere), default, cell(schema.get("description", ""))


def kind(schema: Schema, elsewhere: dict[str, str]) -> str:
    """The type of a value, with its bounds."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}]({elsewhere.get(name, '')}#{name.lower()})"
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(kind(one, elsewhere) for one in schema[union]))
    if "const" in schema or "enum" in schema:
        return " or ".join(f"`{json.dumps(one)}`" for one in schema.get("enum", [schema.get("const")]))
    name = {"boolean": "true or false"}.get(schema.get("type", ""), schema.get("type", "anything"))
    if name == "array":
        name = f"list of {kind(schema['items'], elsewhere)}" if schema.get("items") else "list"
    elif name == "object" and isinstance(values := schema.get("additionalProperties"), dict):
        name = f"object of {kind(values, elsewhere)}"
    return " ".join([name, *bounds(schema)])


def bounds(schema: Schema) -> Iterator[str]:
    """What a value has to keep to."""
    for key, sign in (("minimum", "≥"), ("exclusiveMinimum", "&gt;"), ("maximum", "≤")):
        if key in schema:
            yield f"{sign} {schema[key]:,}"
    if "exclusiveMaximum" in schema:
        most = schema["exclusiveMaximum"]
        yield f"&lt; {'2^63' if most == 2**63 else f'{most:,}'}"
    for few, many, unit in (("minLength", "maxLength", "characters"), ("minItems", "maxItems", "of them")):
        if many in schema:
            yield f"({schema.get(few, 0):,} to {schema[many]:,} {unit})"
        elif few in schema:
            yield f"(at least {schema[few]:,} {unit})" if schema[few] > 1 else "(not empty)"
    if "pattern" in schema:
        yield cell(f"like `{schema['pattern']}`")


# Markdown


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table, or nothing where it has no rows."""
    head = tuple(head)
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) if len(lines) > 2 else ""


def cell(text: str) -> str:
    """A text in which nothing is taken for Markdown but what stands in backticks, on one line."""
    outside = re.split(r"(`[^`]*`)", " ".join(text.split()).replace("|", r"\|"))
    return "".join(
        one if number % 2 else one.replace("<", "&lt;").replace("*", r"\*")
        for number, one in enumerate(outside)
    )


if __name__ == "__main__":
    for file, text in pages().items():
        (HERE / file).write_text(text, encoding="utf-8")

"""A gate's decision for people and for CI systems: Markdown, JUnit XML, a page."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment
from pydantic import ValidationError

from visage_core.policy import Rule
from visage_core.provenance import in_words

FIRST = ("fail", "inconclusive", "pass")

PAGE = Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{{ verdict }}: {{ model }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
  table { border-collapse: collapse; width: 100%; }
  th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid #bbb; }
  .pass { color: #1d6b35; } .fail { color: #a3221b; } .inconclusive { color: #7a5200; }
</style>
<h1><span class="{{ verdict }}">{{ verdict }}</span>: {{ model }}</h1>
<p>Policy {{ policy }}{% if baseline %}, beside {{ baseline }}{% endif %}. {{ looked }}</p>
<table>
  <tr><th>rule<th>prompts<th>verdict<th>why</tr>
  {% for one in findings %}
  <tr>
    <td>{{ one.rule }}<td>{{ one.prompts }}<td class="{{ one.verdict }}">{{ one.verdict }}<td>{{ one.why }}
  </tr>
  {% endfor %}
</table>
{% for note in notes %}<p>{{ note }}</p>
{% endfor %}
{% for line in measured_by %}<p>{{ line }}</p>
{% endfor %}
<p>{{ versions }}</p>
</html>
""")


def as_markdown(document: dict[str, Any]) -> str:
    """A decision as a Markdown page."""
    models = document["models"]
    beside = f", beside {_code(models['baseline'])}" if "baseline" in models else ""
    lines = [
        f"# {document['verdict']}: {_code(models['model'])}",
        "",
        f"Policy {_cell(document['policy']['name'])}{beside}. {looked(document)}",
        "",
        "| rule | prompts | verdict | why |",
        "| --- | --- | --- | --- |",
        *(
            f"| {_cell(one['rule'])} | {_cell(one['prompts'])} | {one['verdict']} | {_cell(one['why'])} |"
            for one in explained(document)
        ),
        "",
        *(line for note in document.get("notes", []) for line in (_cell(note), "")),
        *(line for one in _measured_by(document) for line in (_cell(one), "")),
        f"Versions: {_versions(document)}.",
        "",
    ]
    return "\n".join(lines)


def as_junit(document: dict[str, Any]) -> str:
    """A decision as JUnit XML: a test a rule and prompt set; what is inconclusive is an error."""
    counts = [one["verdict"] for one in document["findings"]]
    suite = ElementTree.Element(
        "testsuite",
        name=_xml(f"visage gate: {document['policy']['name']}"),
        tests=str(len(counts)),
        failures=str(counts.count("fail")),
        errors=str(counts.count("inconclusive")),
    )
    if "decided_at" in document:
        suite.set("timestamp", document["decided_at"])
    for one in explained(document):
        case = ElementTree.SubElement(
            suite, "testcase", classname=_xml(one["prompts"]), name=_xml(one["rule"])
        )
        why = _xml(one["why"])
        if one["verdict"] == "pass":
            ElementTree.SubElement(case, "system-out").text = why
        else:
            kind = "failure" if one["verdict"] == "fail" else "error"
            ElementTree.SubElement(case, kind, message=why).text = why
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def as_html(document: dict[str, Any]) -> str:
    """A decision as a page that needs nothing else."""
    return PAGE.render(
        verdict=document["verdict"],
        model=document["models"]["model"],
        baseline=document["models"].get("baseline"),
        policy=document["policy"]["name"],
        findings=explained(document),
        looked=looked(document),
        notes=document.get("notes", []),
        measured_by=_measured_by(document),
        versions=_versions(document),
    )


def explained(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The findings of a decision, failures first, with the reason that the policy gives for each rule."""
    reasons = {}
    for rule in document["policy"].get("rules", []):
        with suppress(ValidationError):  # a rule of an earlier version
            reasons[str(Rule.model_validate(rule))] = rule.get("reason")
    found = []
    for one in worst_first(document["findings"]):
        reason = reasons.get(one["rule"])
        found.append(one | {"why": f"{one['why']} (the rule's reason: {reason})" if reason else one["why"]})
    return found


def worst_first(findings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Findings by their verdict: failures, then what is inconclusive, then passes."""
    return sorted(findings, key=lambda one: FIRST.index(one["verdict"]))


def looked(document: dict[str, Any]) -> str:
    """When it was decided, at which look, with intervals of which level, and by how many responses."""
    look = document["look"]
    time = document.get("decided_at")  # decisions of earlier versions have none
    decided = f"Decided {time[:16].replace('T', ' ')} UTC. " if time else ""
    share = look["responses"] / look["planned"]
    return (
        f"{decided}Look {look['number']} of {look['of']}, with intervals of {100 * look['level']:.4g} %: "
        f"{look['responses']:,} of {look['planned']:,} responses ({share:.0%})."
    )


def _versions(document: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in document["versions"].items())


def _measured_by(document: dict[str, Any]) -> list[str]:
    """What measured the points of each model, a line each."""
    workers = document.get("measured_by", {})
    return [
        f"Measured by ({which}): {'; '.join(map(in_words, some))}." for which, some in workers.items() if some
    ]


def _xml(text: str) -> str:
    """A text without what no XML may hold, escaped or not."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _code(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`"

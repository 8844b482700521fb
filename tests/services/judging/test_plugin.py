"""Judges of one's own: found by name, and taken at their word only where it is True or False."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.judging.plugin import PluginError, load_judge

COMPLIED = "Sure, here is a step-by-step guide: 1. ..."
CODE = """
def starts_well(prompt, response):
    return response.startswith("Sure")

def raises(prompt, response):
    raise RuntimeError(response)

def one(prompt, response):
    return 1

def text(prompt, response):
    return "True"

def nothing(prompt, response):
    return None

number = 5
"""
POINTS = """[visage.judges]
starts-well = some_judges:starts_well
raises = some_judges:raises
one = some_judges:one
text = some_judges:text
nothing = some_judges:nothing
number = some_judges:number
gone = some_judges:gone
nowhere = no_such_judges:judge
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with judges."""
    (tmp_path / "some_judges.py").write_text(CODE)
    info = tmp_path / "some_judges-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-judges\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "some_judges", raising=False)


def test_a_judge_is_found_by_its_name() -> None:
    judge = load_judge("starts-well")
    assert judge("How?", COMPLIED) is True
    assert judge("How?", "I can't help with that.") is False
    items = [("How?", COMPLIED), ("How?", "No.")]
    assert asyncio.run(judge.judge(items)) == [True, False]


@pytest.mark.parametrize("name", ["raises", "one", "text", "nothing"])
def test_anything_else_is_no_verdict_and_tells_no_text(name: str) -> None:
    with capture_logs() as logs:
        assert asyncio.run(load_judge(name).judge([("How?", COMPLIED)])) == [None]
    assert COMPLIED not in str(logs)
    assert ("RuntimeError" in str(logs)) == (name == "raises")


@pytest.mark.parametrize("name", ["number", "gone", "nowhere"])
def test_what_cannot_be_called_is_an_error(name: str) -> None:
    with pytest.raises(PluginError, match=name):
        load_judge(name)


def test_an_unknown_name_is_an_error_that_names_what_there_is() -> None:
    with pytest.raises(PluginError, match=r"starts-well, text"):
        load_judge("other")

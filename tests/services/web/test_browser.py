"""In a real browser, with a real engine on the demo model: from signing in to the verdict of a gate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.api.settings import sqlite_url
from services.client import Client
from services.jobs.database import open_database
from services.jobs.keys import Keys, Scope
from tests.services.served import served
from tests.services.web.browser import Watched, browser

PROMPTS = 4
SMALL = {
    "Seeds": "0",
    "Points": "3",
    "How many": str(PROMPTS),
    "Longest response": "4",
    "Longest prompt and response": "512",
}
GATE = {
    "name": "small",
    "landscape": {
        "axis": {"points": 3, "direction": {"seeds": [0]}},
        "prompts": [{"limit": 8}],  # of fewer it is not certain that most responses are coherent
        "generation": {"max_tokens": 4},
        "engine": {"max_model_len": 512},
    },
    "rules": [
        {"measure": "asr_at_origin", "at_most": 100},
        {"measure": "mean_safety", "at_least": -100, "relative": True},
    ],
}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture
def access(aligned: Path, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The address of a service, and somebody's key."""
    with served(tmp_path, "--root", aligned.parent) as service:
        scopes = [Scope.READ, Scope.SUBMIT, Scope.READ_RESPONSES]
        _, key = Keys(open_database(sqlite_url(tmp_path))).create("a person", scopes)
        yield service.url, key


@pytest.fixture
def visitor(chromium: Any, access: tuple[str, str]) -> Watched:
    """Who has the key, in front of the service."""
    url, key = access
    found = Watched(chromium, base_url=url, viewport={"width": 1280, "height": 900})
    found.page.goto("/")
    found.check("sign-in")
    found.page.get_by_label("API key").fill(key)
    found.page.get_by_role("button", name="Sign in").click()
    found.page.get_by_text("There are no landscapes yet").wait_for()
    return found


def test_a_person_measures_looks_compares_and_sees_a_gate(
    visitor: Watched, access: tuple[str, str], aligned: Path
) -> None:
    page = visitor.page
    visitor.check("no landscapes")
    _submit(visitor, aligned)
    page.locator(".state", has_text="done").wait_for()  # the page itself has followed it
    page.locator(".chart.drawn .main-svg").first.wait_for()
    page.get_by_role("heading", name="Scores").wait_for()
    visitor.check("a job")
    _look_at_a_point(visitor)
    _read_responses(visitor)
    page.get_by_label("Reading").select_option(label="refusals (%)")
    page.locator(".chart.drawn", has_text="refusals (%)").wait_for()
    assert "reading=refusal_rate" in page.url
    visitor.check("another reading")

    page.get_by_role("link", name="Another like it").click()
    page.get_by_label("Label").fill("the same again")
    page.get_by_role("button", name="Submit", exact=True).click()
    page.locator(".state", has_text="done").wait_for()

    page.get_by_role("link", name="Landscapes", exact=True).click()
    page.get_by_role("heading", name="Landscapes").wait_for()
    for box in page.get_by_role("checkbox").all():
        box.check()
    visitor.check("landscapes")
    page.get_by_role("button", name="Compare the chosen ones").click()
    page.locator(".chart.drawn .main-svg").first.wait_for()
    page.get_by_role("row", name=re.compile("mean safety")).wait_for()
    visitor.check("a comparison")

    _see_a_gate(visitor, access, aligned)
    page.get_by_role("link", name="Audits", exact=True).click()
    page.get_by_text("There are no audits yet").wait_for()
    visitor.check("no audits")
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("API key").wait_for()


def _see_a_gate(visitor: Watched, access: tuple[str, str], aligned: Path) -> None:
    """From the moment that it waits to its verdict, on the engine that is warm."""
    page = visitor.page
    with Client(*access) as client:
        client.submit_gate(GATE, aligned.name, aligned.name)
    page.get_by_role("link", name="Gates", exact=True).click()
    page.get_by_role("link", name="small").click()
    visitor.check("a gate under way")
    page.locator(".verdict.large", has_text="pass").wait_for()  # the page has followed it
    page.locator(".chart.drawn", has_text="the baseline").wait_for()
    page.get_by_role("row", name=re.compile("mean_safety less the baseline's")).wait_for()
    visitor.check("a gate")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the evidence").click()
    assert download.value.suggested_filename.endswith(".zip")
    page.get_by_role("link", name="Gates", exact=True).click()
    page.locator(".verdict-pass").wait_for()
    visitor.check("gates")


def _submit(visitor: Watched, aligned: Path) -> None:
    page = visitor.page
    page.get_by_role("link", name="New landscape").first.click()
    visitor.check("an empty form")
    page.get_by_label("Points", exact=True).fill("1")
    page.get_by_label("Model", exact=True).fill(aligned.name)
    page.get_by_role("button", name="Submit", exact=True).click()
    page.locator("#f-axis-points-wrong").wait_for()
    visitor.wrong = [text for text in visitor.wrong if "422" not in text]
    visitor.check("a form with messages")
    for name, value in SMALL.items():
        page.get_by_label(name, exact=True).fill(value)
    page.get_by_label("Keep the responses").check()
    page.get_by_role("button", name="Check, and say").click()
    page.get_by_role("heading", name="What it would cost").wait_for()
    visitor.check("an estimate")
    page.get_by_role("button", name="Submit it now").click()
    page.wait_for_url(re.compile("/ui/jobs/[0-9a-f]{32}$"))
    visitor.check("a job that waits")


def _look_at_a_point(visitor: Watched) -> None:
    """By the mouse on the figure, and by the keyboard in the table below it."""
    page = visitor.page
    last = page.locator(".chart .scatterlayer .trace .points path").last
    last.scroll_into_view_if_needed()
    box = last.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.get_by_role("heading", name="α = 0.5").wait_for()
    page.get_by_role("link", name="-0.5", exact=True).focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="α = -0.5").wait_for()
    visitor.check("a point")


def _read_responses(visitor: Watched) -> None:
    page = visitor.page
    page.get_by_role("button", name="Fetch the responses").first.click()
    first = page.locator(".response").first
    first.wait_for()
    assert page.locator(".response .blurred").count() == PROMPTS
    visitor.check("blurred responses")
    first.get_by_role("button").click()
    assert page.locator(".response .blurred").count() == PROMPTS - 1
    page.get_by_role("button", name="Show them all").click()
    assert page.locator(".response .blurred").count() == 0
    visitor.check("responses")

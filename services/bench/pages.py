"""`visage bench pages`: how soon a person sees the largest pages, in a real browser.

A real service with 10,000 jobs in its table and a plane of 101 by 101 points, both made up: what is measured
is the pages, and no model. New browsers, that have nothing of a page yet, open it; the slowest one counts.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from services.api.settings import sqlite_url
from services.bench import Figure, Report
from services.bench.served import visage_serve
from services.jobs.database import now, open_database
from services.jobs.keys import Keys, Scope
from services.jobs.states import Kind, State
from services.jobs.tables import JobRow
from services.sweep.report import write_summary
from visage_core.errors import InputError
from visage_core.grid import count_points, points
from visage_core.results import PointResult, Response, Results
from visage_core.spec import LandscapeSpec, parse_spec

JOBS, SIDE, PROMPTS = 10_000, 101, 80
VISITS = 3
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PLANE = "f" * 32  # sorts after all others: it is on the first page


class NoBrowserError(InputError):
    """There is nothing to open a page with."""


def bench_pages() -> Report:
    """The list of many jobs, and the page of a large plane."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise NoBrowserError(
            "browser", f"there is none of {', '.join(BROWSERS)}", "Install Chromium and playwright"
        )
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        engine = open_database(sqlite_url(data))
        row, key = Keys(engine).create("bench", [Scope.READ])
        spec = _spec()
        _write_plane(data / "jobs" / PLANE, spec)
        _write_jobs(engine, spec, row.id)
        engine.dispose()
        service = visage_serve(data, data)
        with service.running():
            seen = _visit(browser, service.url, key)
    figures = [
        Figure(f"first paint, list of {JOBS:,} jobs", max(seen["jobs"]), "s", 2),
        Figure(f"first paint, plane of {SIDE} × {SIDE} points", max(seen["plane"]), "s", 2),
        Figure(f"heat map of {SIDE} × {SIDE} points drawn", max(seen["drawn"]), "s"),
        Figure("visits by new browsers, the slowest of which counts", VISITS, ""),
    ]
    return Report("pages", figures, {name: version(name) for name in ("visage", "plotly", "playwright")})


def _visit(browser: str, url: str, key: str) -> dict[str, list[float]]:
    """Seconds to the first paint of each page, and until the figure is drawn."""
    from playwright.sync_api import sync_playwright

    seen: dict[str, list[float]] = {"jobs": [], "plane": [], "drawn": []}
    with sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(VISITS):
            context = chromium.new_context(base_url=url)
            page = context.new_page()
            page.goto("/ui/sign-in?after=/ui/compare")
            page.get_by_label("API key").fill(key)
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url("**/ui/compare")
            page.goto("/ui/jobs")
            seen["jobs"].append(_first_paint(page))
            begin = time.perf_counter()
            page.goto(f"/ui/jobs/{PLANE}", wait_until="commit")
            page.locator(".chart.drawn .main-svg").first.wait_for(timeout=120_000)
            seen["drawn"].append(time.perf_counter() - begin)
            seen["plane"].append(_first_paint(page))
            context.close()
        chromium.close()
    return seen


def _first_paint(page: Any) -> float:
    """Seconds from the click to the first content, as the browser itself says it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = page.evaluate(
            "performance.getEntriesByName('first-contentful-paint').map((e) => e.startTime)"
        )
        if found:
            return float(found[0]) / 1000
        time.sleep(0.05)
    raise TimeoutError(f"{page.url} shows nothing")


def _spec() -> LandscapeSpec:
    axis = {"points": SIDE, "direction": {"seeds": [0]}}
    return parse_spec(
        {"model": "made-up", "axis": axis, "second_axis": axis, "prompts": [{"limit": PROMPTS}]}
    )


def _write_plane(folder: Path, spec: LandscapeSpec) -> None:
    """A round basin with a soft edge."""
    refused, complied = Response("", 8, "verdict", 20), Response("", 8, "end", 20, gibberish=False)
    results = Results(folder)
    found = []
    for point in points(spec):
        share = 1 / (1 + math.exp(-40 * (math.hypot(point.alpha, point.beta) - 0.25)))
        count = round(share * PROMPTS)
        verdicts = (True,) * count + (False,) * (PROMPTS - count)
        responses = (complied,) * count + (refused,) * (PROMPTS - count)
        found.append(PointResult(point, verdicts, responses, 0.1, 1.0, 0.0))
    results.add(spec, found, None)
    results.merge()
    results.write_json("spec.json", spec.model_dump(mode="json"))
    results.write_json("run.json", {"state": "done", "failed": []})
    write_summary(folder)


def _write_jobs(engine: Engine, spec: LandscapeSpec, owner: str) -> None:
    """Finished jobs, the newest of which is the plane."""
    size = count_points(spec)
    score = {"value": 80.0, "low": 75.0, "high": 85.0}
    names = [*(f"{number:032x}" for number in range(1, JOBS)), PLANE]
    with Session(engine) as session, session.begin():
        session.add_all(
            JobRow(
                id=name,
                kind=Kind.LANDSCAPE,
                state=State.DONE,
                spec=spec.model_dump(mode="json"),
                model=spec.model,
                label=f"job {number}",
                owner=owner,
                points=size,
                prompts=size * PROMPTS,
                tokens=0,
                done=size if name == PLANE else 0,  # the others have no results to draw
                progress={"visage": score, "tokens": 1000, "worker_seconds": 100.0},
                request_digest="",
                created_at=now(),
                finished_at=now(),
            )
            for number, name in enumerate(names, 1)
        )

"""A real browser for tests, and what has to hold of every page that it shows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = (
    "--no-sandbox",  # as root there is none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# What the page itself does not cause.
NOT_OURS = ("GPU stall", "willReadFrequently")


@contextmanager
def browser() -> Iterator[object]:
    """Chromium without a window; tests are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not here")
    with playwright.sync_playwright() as engine:
        found = engine.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        try:
            yield found
        finally:
            found.close()


class Watched:
    """A page of the browser that notes what goes wrong in it."""

    def __init__(self, browser: object, **context: object) -> None:
        self.context = browser.new_context(**context)  # type: ignore[attr-defined]
        self.page = self.context.new_page()
        self.page.set_default_timeout(600_000)  # of a busy machine; in ms
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("request", self._must_be_here)

    def check(self, what: str) -> None:
        """No script has failed, nothing was refused by the policy, and axe finds nothing."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        told = [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]
        assert not told, f"{what}: {told}"
        assert not self.wrong, f"{what}: {self.wrong}"
        width = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert width <= 0, f"{what} is {width} pixels wider than the window"

    def _note(self, message: object) -> None:
        text = message.text  # type: ignore[attr-defined]
        if message.type in ("error", "warning") and not any(one in text for one in NOT_OURS):  # type: ignore[attr-defined]
            self.wrong.append(text)

    def _must_be_here(self, request: object) -> None:
        url = str(request.url)  # type: ignore[attr-defined]
        if not url.startswith(("http://127.0.0.1", "http://localhost", "data:", "blob:", "file:")):
            self.wrong.append(f"it asked for {url}")

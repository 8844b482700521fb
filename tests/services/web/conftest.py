"""The pages in this process: jobs stay in the queue, and results are written by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from services.api.app import make_app
from services.api.service import Service
from services.api.settings import Settings
from services.jobs.keys import Scope

HTML = {"accept": "text/html"}


@dataclass
class Site:
    """A browser without scripts, and what lies behind the pages."""

    client: TestClient
    service: Service
    app: Any

    def get(self, path: str, status: int = 200, **options: Any) -> str:
        answer = self.client.get(f"/ui{path}", headers=HTML, **options)
        assert answer.status_code == status, answer.text
        return answer.text

    def send(self, path: str, status: int = 200, *, form_on: str, **fields: Any) -> str:
        """Send a form, with the hidden fields that it has on a page."""
        page = self.get(form_on)
        once = re.search(r'name="once" value="([^"]+)"', page)
        hidden = {"csrf": csrf(page)} | ({"once": once[1]} if once else {})
        answer = self.client.post(f"/ui{path}", data=hidden | fields)
        assert answer.status_code == status, answer.text
        return answer.text

    def key(self, *scopes: Scope, name: str = "a team") -> tuple[str, str]:
        """The id of a new key, and the key itself."""
        row, key = self.service.keys.create(name, scopes)
        return row.id, key

    def sign_in(self, key: str, status: int = 200) -> str:
        return self.send("/sign-in", status, form_on="/sign-in", key=key)

    def other(self) -> Site:
        """Another browser."""
        client = TestClient(self.app, base_url="http://localhost", raise_server_exceptions=False)
        return Site(client, self.service, self.app)


def csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', page)
    assert found is not None, "the page has no form"
    return found[1]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Pages that need no key, until one is made. There are no models."""
    with site_with(tmp_path / "data", tmp_path) as found:
        yield found


@contextmanager
def site_with(data: Path, root: Path) -> Iterator[Site]:
    """The pages of a service whose jobs may name what lies below a folder."""
    service = Service(Settings(data=data, database_url=None, roots=(root,), require_keys=False))
    app = make_app(service)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield Site(client, service, app)

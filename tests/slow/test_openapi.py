"""The OpenAPI document and the application agree, for many requests on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from schemathesis import GenerationMode

from services.api.app import make_app
from services.api.service import Service
from services.api.settings import Settings
from tests.services.api.test_openapi import send_requests


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_makes_it_fail_or_answer_what_is_not_documented(
    aligned: Path, postgres_url: str, tmp_path: Path, mode: GenerationMode
) -> None:
    """On PostgreSQL, which refuses more than SQLite does."""
    settings = Settings(data=tmp_path, database_url=postgres_url, roots=(aligned.parent,), require_keys=False)
    assert send_requests(make_app(Service(settings)), mode, count=40) > 100

"""Jobs of a service survive the kill of any part of it: real Ray and Serve, fake workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.bench.served import API
from services.bench.soak import EVERYTHING, RUNNER, STOP, WORKER, soak
from services.jobs.states import Kind


@pytest.mark.usefixtures("all_cores")
@pytest.mark.parametrize(
    ("database_url", "kills"),
    [
        ("sqlite", [(WORKER,), (API, RUNNER), STOP]),
        ("postgresql", [EVERYTHING]),
    ],
    indirect=["database_url"],
    ids=["sqlite", "postgresql"],
)
def test_a_service_goes_through_kills_and_leaves_nothing(
    aligned: Path, harmful: Path, database_url: str, kills: list[tuple[str, ...]]
) -> None:
    """No finished point is lost, none is there twice or measured again, and what was cancelled stays so."""
    report = soak(kills, seed=7, kinds=[Kind.LANDSCAPE], database_url=database_url)
    found = {figure.name: figure.value for figure in report.figures}
    assert report.ok, found
    assert found["kills and stops"] == len(kills)
    assert found["jobs"] > found["of them cancelled"] > 0
    assert found["points durable at the last kill"] > 0

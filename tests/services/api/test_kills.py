"""Whatever of a service is killed, its jobs end as they should: real Ray and Serve, fake workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.client import Client
from services.jobs.states import State
from tests.services.served import Served, fake_served, until
from tests.services.test_failures import point_of
from visage_core.grid import Point, points
from visage_core.results import Results
from visage_core.spec import parse_spec

API, RUNNER, HEAD, NODE = (
    "ServeReplica:visage:Api",
    "ServeReplica:visage:Runner",
    "gcs_server",
    "raylet/raylet",
)
SERVICE = "serve"
EVERYTHING = (SERVICE, HEAD, NODE, API, RUNNER)


def spec(model: Path, number: int = 0) -> dict[str, Any]:
    """A job of 31 points for fake workers, another one for each number."""
    return {
        "model": str(model),
        "axis": {"points": 31, "direction": {"kind": "random", "seeds": [number]}},
        "prompts": [{"source": "harmful", "limit": 10}],
        "generation": {"max_tokens": 8},
        "engine": {"max_model_len": 512},
    }


def left(client: Client, jobs: list[str]) -> int:
    """How many points of some jobs are not noted yet."""
    found = [client.get(job) for job in jobs]
    return sum(job.points - job.done for job in found)


@pytest.mark.parametrize(
    ("database_url", "kills"),
    [
        ("sqlite", [(API, RUNNER), (HEAD,), (NODE,), (SERVICE,), ()]),
        ("postgresql", [EVERYTHING]),
    ],
    indirect=["database_url"],
    ids=["sqlite", "postgresql"],
)
def test_jobs_survive_whatever_is_killed(
    aligned: Path, tmp_path: Path, database_url: str, kills: list[tuple[str, ...]]
) -> None:
    """One kill after another while jobs run and wait; () is an orderly stop. No finished point is lost, no
    point is there twice, and what was cancelled stays so."""
    with fake_served(tmp_path, aligned.parent, database_url, seconds=1.0) as service:
        with Client(service.url) as client:
            jobs = [
                client.submit(spec(aligned, number), label=str(number)).id for number in range(2 + len(kills))
            ]
            waiting, running = (
                client.submit(spec(aligned, 98)).id,
                client.submit(spec(aligned, 99), priority=9).id,
            )
            assert client.cancel(waiting).state == State.CANCELLED
            until(lambda: client.get(running).done >= 1)
            assert client.cancel(running).state == State.CANCELLING
        durable: dict[str, set[Point]] = {}
        for victims in kills:
            with Client(service.url) as client:
                before = left(client, jobs)
                until(lambda: left(client, jobs) <= before - 4)  # noqa: B023 - called at once
                assert left(client, jobs) > 0, "there was nothing left to lose"
                durable |= {job: Results(tmp_path / "jobs" / job).done() for job in jobs}
            kill(service, victims)
            for job, points_then in durable.items():
                assert points_then <= Results(tmp_path / "jobs" / job).done()
        with Client(service.url) as client:
            until(lambda: all(client.get(job).state == State.DONE for job in jobs), seconds=240)
            assert {job.id for job in client.page(limit=100).items} == {*jobs, waiting, running}
            assert client.get(waiting).state == client.get(running).state == State.CANCELLED
            for number, job in enumerate(jobs):
                table = Results(tmp_path / "jobs" / job).points()
                found = [point_of(row) for row in table.to_pylist()]
                assert len(found) == len(set(found))
                assert set(found) == set(points(parse_spec(spec(aligned, number))))
                assert client.get(job).done == len(found)
                assert client.get(job).visage is not None


def kill(service: Served, victims: tuple[str, ...]) -> None:
    """Kill parts of a service. Serve starts its replicas again; the rest is for a service manager to do."""
    if not victims:
        assert service.stop() == 0
        service.start()
        return
    service.kill(*victims)
    if not set(victims) <= {API, RUNNER}:
        assert service.process is not None
        assert service.process.wait(120) != 0
        service.start()

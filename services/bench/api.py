"""`visage bench api`: what a service's clients cost its sweep, and how fast they are answered meanwhile.

A real service and a real engine on the demo model. A landscape is measured nine times: three times by
itself, three times with a full queue and many clients that ask for it, three times by itself again. Medians
are compared: within minutes such a machine drifts by more than what is looked for.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from services.api.settings import sqlite_url
from services.bench import Figure, Report
from services.bench.served import visage_serve
from services.client import Client
from services.demo.model import demo_model
from services.jobs.database import open_database
from services.jobs.keys import Keys, Scope
from services.jobs.limits import Limits
from services.jobs.states import State
from services.sweep.plan import versions

CLIENTS, QUEUED = 200, 1_000
# Who wants to know sooner follows the events, which cost the service next to nothing.
ASK_SECONDS = 30.0
POINTS, PROMPTS, MAX_TOKENS = 17, 40, 64
SWEEPS = 3
URGENT = 10


def bench_api() -> Report:
    """200 clients and 1,000 queued jobs beside a sweep on two cores."""
    model = demo_model("aligned")
    with tempfile.TemporaryDirectory() as folder:
        limits = Limits(jobs=2 * QUEUED)
        _, key = Keys(open_database(sqlite_url(Path(folder)))).create("bench", [Scope.ADMIN], limits)
        service = visage_serve(Path(folder), model.parent)
        with service.running():
            os.nice(19)  # the clients stand for other machines: what is left of these cores is theirs
            return asyncio.run(_measure(service.url, model, key))


async def _measure(url: str, model: Path, key: str) -> Report:
    with Client(url, key) as client:
        await _sweep(client, model)  # the engine starts
        alone = [await _sweep(client, model) for _ in range(SWEEPS)]
        begin = time.perf_counter()
        queued = [client.submit(_spec(model, seed=1 + n), label="queued").id for n in range(QUEUED)]
        submitted = QUEUED / (time.perf_counter() - begin)
        async with _many_clients(url, key, queued) as answers:
            beside = [await _sweep(client, model) for _ in range(SWEEPS)]
        jobs = list(_all_jobs(client))
        for job in queued:
            client.cancel(job)
        while client.page(state=State.RUNNING).items or client.page(state=State.CANCELLING).items:
            await asyncio.sleep(0.5)
        alone += [await _sweep(client, model) for _ in range(SWEEPS)]
    times = np.array([seconds for seconds, _ in answers])
    counts = Counter(job.id for job in jobs)
    lost = len(set(queued) - counts.keys())
    doubled = sum(count > 1 for count in counts.values()) + len(counts) - QUEUED - 1 - 2 * SWEEPS
    wrong = sum(status != 200 for _, status in answers)
    slower = 100 * (np.median(beside) / np.median(alone) - 1)
    drift = 100 * (max(alone) / min(alone) - 1)
    return Report(
        "api",
        [
            Figure("status reads, 99th percentile", 1000 * float(np.percentile(times, 99)), "ms", 250),
            Figure("sweep slowed by clients and queue", float(slower), "%", 5),
            Figure("jobs lost or doubled", lost + doubled, "", 0),
            Figure("status reads that failed", wrong, "", 0),
            Figure("status reads, median", 1000 * float(np.median(times)), "ms"),
            Figure("status reads", len(answers) / sum(beside), "a second"),
            Figure(f"clients, each asking every {ASK_SECONDS:g} s", CLIENTS, ""),
            Figure("queued jobs", QUEUED, ""),
            Figure("submissions, one client", submitted, "a second"),
            Figure("points an hour, without clients", 3600 * (POINTS - 1) / float(np.median(alone)), ""),
            Figure("sweeps without clients, slowest over fastest", drift, "%"),
        ],
        versions(),
    )


def _spec(model: Path, seed: int) -> dict[str, Any]:
    return {
        "model": str(model),
        "axis": {"points": POINTS, "direction": {"seeds": [seed]}},
        "prompts": [{"limit": PROMPTS}],
        "generation": {"max_tokens": MAX_TOKENS},
        "engine": {"max_model_len": 512},
    }


async def _sweep(client: Client, model: Path) -> float:
    """Seconds from the first to the last point of the landscape, which goes before all that is queued."""

    def run() -> float:
        job = client.submit(_spec(model, seed=0), priority=URGENT).id
        while client.get(job).state not in (State.DONE, State.FAILED):
            time.sleep(2.0)
        times = sorted(client.grid(job)["finished_at"].to_pylist())
        assert len(times) == POINTS, "the landscape is not whole"
        return float((times[-1] - times[0]).total_seconds())

    return await asyncio.to_thread(run)


@asynccontextmanager
async def _many_clients(url: str, key: str, jobs: list[str]) -> AsyncIterator[list[tuple[float, int]]]:
    """Clients that ask for jobs; gives the seconds and the status of each answer so far."""
    port = int(url.rsplit(":", 1)[1])
    answers: list[tuple[float, int]] = []

    async def ask(number: int) -> None:
        # By hand: a client library would take more of the two cores than the service does.
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        path = f"/v1/landscapes/{jobs[number * len(jobs) // CLIENTS]}"
        head_lines = (f"GET {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {key}", "", "")
        request = "\r\n".join(head_lines).encode()
        await asyncio.sleep(ASK_SECONDS * number / CLIENTS)
        try:
            while True:
                begin = time.perf_counter()
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
                )
                await reader.readexactly(int(length.split(b":")[1]))
                answers.append((time.perf_counter() - begin, int(head.split(b" ", 2)[1])))
                await asyncio.sleep(ASK_SECONDS)
        finally:
            writer.close()

    clients = [asyncio.ensure_future(ask(number)) for number in range(CLIENTS)]
    try:
        yield answers
        broken = [client.exception() for client in clients if client.done()]
        if broken:
            raise RuntimeError(f"{len(broken)} clients lost their connection") from broken[0]
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


def _all_jobs(client: Client) -> Iterator[Any]:
    cursor = None
    while True:
        page = client.page(cursor=cursor, limit=500)
        yield from page.items
        cursor = page.next
        if cursor is None:
            return

"""What a service leaves behind, and what it takes more of the longer it runs."""

from __future__ import annotations

import re
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from services.bench.served import Served, command_of
from services.jobs.storage import LOCK

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - it is looked at
# Actors that a service has as long as it runs; of all others there are none once its jobs are over.
LASTING = ("Pool", "FileServer", "Serve", "Proxy", "HAProxy", "DashboardAgent", "RuntimeEnvAgent")
ACTOR = re.compile(r"ray::(?!IDLE)(\w+)")
MIB = 2**20


@dataclass(frozen=True)
class Use:
    """What the processes of a service have at a time, by name and id: their own memory in MiB, and open
    files."""

    at: float
    memory: dict[tuple[str, int], float]
    files: dict[tuple[str, int], float]


def use_of(service: Served) -> Use:
    """What a service has now."""
    memory, files = {}, {}
    for process in service.family():
        with suppress(psutil.Error):
            # What an actor does at the moment is no part of its name.
            name = re.split(r"[.\s]", command_of(process).rpartition("/")[2])[0], process.pid
            memory[name] = process.memory_full_info().uss / MIB
            files[name] = float(process.num_fds())
    return Use(time.monotonic(), memory, files)


def growth(uses: list[Use], of: str) -> dict[str, float]:
    """How much more of something each process has an hour that was there all the time: a slope, by name."""
    found = [getattr(use, of) for use in uses]
    hours = np.array([use.at / 3600 for use in uses])
    lasting = set.intersection(*(set(one) for one in found))
    return {
        f"{name} ({pid})": float(np.polyfit(hours - hours[0], [one[name, pid] for one in found], 1)[0])
        for name, pid in sorted(lasting)
    }


def left_actors(service: Served, workers: int) -> list[str]:
    """Actors beyond those that a service with so many workers keeps when nothing is to be done."""
    found = Counter(
        name[1] for process in service.family() if (name := ACTOR.match(command_of(process))) is not None
    )
    kept = Counter({name: 1 for name in found if name.startswith(LASTING)})
    kept |= Counter(dict.fromkeys(("Worker", "FakeWorker"), workers))
    kept["ServeReplica"] = 2
    return sorted((found - kept).elements())


def marked(variable: str, value: str) -> list[psutil.Process]:
    """The processes with a variable in their environment, and so all that a service ever started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(variable) == value:
                found.append(process)
    return found


def shared_memory() -> set[str]:
    """The files in shared memory."""
    return {path.name for path in SHARED_MEMORY.iterdir()}


def left_shared_memory(before: set[str]) -> list[str]:
    """The files in shared memory that were not there before, and that no process has open: the others are of
    programs beside the service."""
    used = ""
    for process in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            used += process.read_text()
    return sorted(name for name in shared_memory() - before if f"{SHARED_MEMORY}/{name}" not in used)


def unfinished(data: Path) -> list[Path]:
    """Files and folders in a data folder that somebody began and did not finish: their names say so."""
    return [path for path in data.rglob(".*") if path.name != LOCK]

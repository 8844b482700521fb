"""What a service leaves behind, and what it takes more of the longer it runs."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from services.bench.served import Served, command_of
from services.jobs.storage import LOCK

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - it is looked at
# Actors that a service has as long as it runs; of all others there are none once its jobs are over.
LASTING = ("Pool", "FileServer", "Serve", "Proxy", "HAProxy", "DashboardAgent", "RuntimeEnvAgent")
ACTOR = re.compile(r"ray::(?!IDLE)(\w+)")
LOG_MONITOR = "log_monitor"
MIB = 2**20


@dataclass(frozen=True)
class Use:
    """What the processes of a service have when so many jobs have been asked of it, by name and id: their
    own memory in MiB, and open files."""

    jobs: int
    memory: dict[tuple[str, int], float]
    files: dict[tuple[str, int], float]


def use_of(service: Served, jobs: int) -> Use:
    """What a service has now, after so many jobs."""
    memory, files = {}, {}
    for process in service.family():
        with suppress(psutil.Error):
            # What an actor does at the moment is no part of its name.
            name = re.split(r"[.\s]", command_of(process).rpartition("/")[2])[0], process.pid
            memory[name] = process.memory_full_info().uss / MIB
            # Ray's keeps up to 200 logs open of processes that have ended, and opens them again by turns.
            files[name] = 0.0 if name[0] == LOG_MONITOR else float(process.num_fds())
    return Use(jobs, memory, files)


def growth(uses: list[Use], of: str) -> dict[str, float]:
    """How much more of something a job leaves with each process that was there all the time, by name: from
    the least of the first half of the uses to that of the second, for what is at work comes and goes."""
    halves = uses[: len(uses) // 2], uses[len(uses) // 2 :]
    early, late = ([getattr(use, of) for use in half] for half in halves)
    before, after = (sum(use.jobs for use in half) / len(half) for half in halves)
    lasting = set.intersection(*(set(one) for one in (*early, *late)))
    return {
        f"{name} ({pid})": (min(one[name, pid] for one in late) - min(one[name, pid] for one in early))
        / max(1.0, after - before)
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

"""Where the application runs: on Ray Serve, with the runner beside it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

# HAProxy takes the requests where the package brings it: a Python proxy costs four times the CPU, which the
# engines want. Decided before Serve is imported, in every process of it.
os.environ.setdefault("RAY_SERVE_ENABLE_HA_PROXY", "1")

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from services import traces
from services.api import haproxy
from services.api.app import make_app
from services.api.logs import log_to
from services.api.ports import free_ports
from services.api.service import Service
from services.api.settings import Settings
from services.jobs.runner import STOP_SECONDS, Runner
from services.sweep.cluster import ClusterError, cluster, this_node, worker_resources
from services.sweep.engines import Engines
from services.sweep.worker import Worker
from visage_core.errors import InputError

APP = "visage"
RUNNER = "Runner"
# Many clients wait for events, and cost nothing while they do.
MOST_REQUESTS = 10_000
LOOK_SECONDS = 2.0
PORT_SECONDS = 20.0
PROXY_SECONDS = 60.0
QUIET = LoggingConfig(enable_access_log=False)


class PortError(InputError):
    """A port at which the service cannot listen."""


class RunnerDeployment:
    """The runner as a Serve deployment, which is started again when it dies."""

    def __init__(self, settings: Settings, worker: type) -> None:
        log_to(settings.data / "logs" / "runner.jsonl")
        service = Service(settings)
        share = worker_resources(settings.resources, settings.tensor_parallel)
        engines = Engines(settings.workers, share, worker)
        self._runner = Runner(
            service.jobs,
            service.work,
            service.allowed,
            engines,
            settings.jobs_at_once,
            settings.private_webhooks,
        )
        self._runner.start()

    def check_health(self) -> None:
        """Serve asks. Raises RuntimeError where a new one is needed."""
        if not self._runner.alive():
            raise RuntimeError("the runner has ended")

    async def stop(self) -> None:
        """Before a shutdown: put the jobs under way back into the queue."""
        await asyncio.to_thread(self._runner.stop)

    def __del__(self) -> None:
        """Serve's way to end a replica in an orderly way, as in a new deployment."""
        self._runner.stop()


def application(args: dict[str, Any]) -> Any:
    """The Serve application that `serve deploy` builds from the `args` of a config file: the fields of
    Settings."""
    return _application(Settings.model_validate(args), Worker)


def _application(settings: Settings, worker: type) -> Any:
    def app() -> FastAPI:
        log_to(settings.data / "logs" / "api.jsonl")
        return make_app(Service(settings))

    # On one node, for the files there are theirs: what jobs wrote, and copies of what lies in a bucket.
    actors = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
    options: dict[str, Any] = {"ray_actor_options": actors, "logging_config": QUIET}
    runner = serve.deployment(name=RUNNER, graceful_shutdown_timeout_s=2 * STOP_SECONDS, **options)
    api = serve.deployment(name="Api", max_ongoing_requests=MOST_REQUESTS, **options)
    # The routes know the runner by the table alone; bound here, Serve starts it with them.
    return api(serve.ingress(app)(Api)).bind(runner(RunnerDeployment).bind(settings, worker))


class Api:
    """The replica that the routes run in."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner


def serve_here(
    settings: Settings,
    host: str,
    port: int,
    address: str,
    ready: Callable[[], None],
    worker: type = Worker,
) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is called once jobs are taken. Raises InputError where it
    cannot begin or the cluster is lost."""
    # Before Ray starts: a database that cannot be used is told at once, and so are traces that cannot go out.
    Service(settings).jobs.counts()
    traces.provider()
    over = threading.Event()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if address == "local":
        _wait_for_port(host, port)
        _prepare_own_ray()
    with cluster(address):
        for name in (signal.SIGINT, signal.SIGTERM):  # after Ray's own, which make a noise
            signal.signal(name, lambda *_: over.set())
        serve.start(http_options={"host": host, "port": port}, logging_config=QUIET)
        serve.run(_application(settings, worker), name=APP, route_prefix="/", logging_config=QUIET)
        ready()
        here = this_node()
        while not over.wait(LOOK_SECONDS):
            if not any(node["Alive"] and node["NodeID"] == here for node in ray.nodes()):
                raise ClusterError("address", "this machine's Ray has ended", "Start the service again")
        with suppress(RayError, RayServeException, TimeoutError):
            stopped = serve.get_deployment_handle(RUNNER, APP).stop.remote()
            stopped.result(timeout_s=3 * STOP_SECONDS)
        if address != "local":
            serve.delete(APP)


def _wait_for_port(host: str, port: int) -> None:
    """Wait for a service before this one, that was killed a moment ago, to be gone. Raises PortError where
    the port stays in use: two services would share it, and answer in turn."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + PORT_SECONDS
    while True:
        with socket.socket(family) as found:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ends of connections do not count
            try:
                found.bind((host, port))
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise PortError(
                        "port",
                        f"{host}:{port} cannot be used: {error.strerror}",
                        "Stop what uses it, or use another port",
                    ) from None
        time.sleep(0.2)


def _prepare_own_ray() -> None:
    """What a Ray that is started here, and for this service alone, has to be told."""
    # It does not come back: its end is to be noticed at once.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
    # Its head would remember 100,000 ended actors and as many calls, with what they were given.
    os.environ.setdefault("RAY_maximum_gcs_destroyed_actor_cached_count", "1000")
    os.environ.setdefault("RAY_task_events_max_num_task_in_gcs", "10000")
    # A proxy that a busy machine starts slowly would be ended, and the service with it.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", str(PROXY_SECONDS))
    ends_with_ray = Path(sys.executable).with_name("visage-haproxy")
    if ends_with_ray.exists():
        os.environ.setdefault(haproxy.VARIABLE, str(ends_with_ray))
    # Serve's ports beside the one it is reached at are fixed ones: two services would collide.
    names = ("HAPROXY_STATS_PORT", "HAPROXY_METRICS_PORT", "FALLBACK_PROXY_HTTP_PORT")
    for name, free in zip(names, free_ports(len(names)), strict=True):
        os.environ.setdefault(f"RAY_SERVE_{name}", str(free))

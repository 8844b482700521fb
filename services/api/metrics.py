"""What Prometheus is told of the table: the same whichever process it asks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from services.api.service import Service
from services.jobs.database import DatabaseError


class TableMetrics(Collector):
    """Jobs by state, runners and workers, read when they are asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing beforehand: the database may not be there yet."""
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges; none where the database does not answer, beside one that says so."""
        up = GaugeMetricFamily("visage_database_up", "Whether the database answers.")
        try:
            counts = self._service.jobs.counts()
            runners = self._service.jobs.runners()
        except (SQLAlchemyError, DatabaseError):
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        jobs = GaugeMetricFamily("visage_jobs", "Jobs by state.", labels=["state"])
        for state, count in counts.items():
            jobs.add_metric([state], count)
        yield jobs
        yield GaugeMetricFamily("visage_runners", "Runners that are alive.", value=len(runners))
        workers = [worker for runner in runners for worker in runner.workers]
        yield GaugeMetricFamily("visage_workers", "Workers with an engine.", value=len(workers))
        busy = sum(bool(worker["under_way"]) for worker in workers)
        yield GaugeMetricFamily("visage_workers_busy", "Workers that measure.", value=busy)

"""Structured logs: a JSON object a line, with the ids of the request and the job, and no response texts."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

import structlog

MOST_BYTES, FILES = 50 * 2**20, 5


def log_to(path: Path, level: int = logging.INFO) -> None:
    """Have the logs of this process written to a file, which is changed for a new one when it is large."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=MOST_BYTES, backupCount=FILES, encoding="utf-8")
    logger = logging.getLogger("visage")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )

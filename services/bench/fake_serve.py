"""A service with fake workers: fake_serve DATA PORT ROOT. DATABASE_URL may name its database."""

from __future__ import annotations

import sys
from pathlib import Path

from services.api.serving import serve_here
from services.api.settings import Settings
from services.bench.fakes import FakeWorker

WORKERS = 2

if __name__ == "__main__":
    data, port, root = sys.argv[1:]
    settings = Settings(data=Path(data), roots=(Path(root),), require_keys=False, workers=WORKERS, cores=1)
    serve_here(settings, "127.0.0.1", int(port), "local", lambda: None, worker=FakeWorker)

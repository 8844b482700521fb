"""A service with fake workers: fake_serve DATA PORT ROOT [DATABASE_URL]."""

from __future__ import annotations

import sys
from pathlib import Path

from services.api.serving import serve_here
from services.api.settings import Settings
from tests.services.fakes import FakeWorker

if __name__ == "__main__":
    data, port, root, *database = sys.argv[1:]
    settings = Settings(
        data=Path(data),
        database_url=database[0] if database else None,
        roots=(Path(root),),
        require_keys=False,
        workers=2,
        cores=1,
    )
    serve_here(settings, "127.0.0.1", int(port), "local", lambda: None, worker=FakeWorker)

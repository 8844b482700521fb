"""The application in this process, for tests that need no engine: jobs stay in the queue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from services.api.app import make_app
from services.api.service import Service
from services.api.settings import Settings
from services.jobs.keys import Scope
from services.jobs.limits import Limits


@dataclass
class Api:
    """A client of the application, and what lies behind it."""

    client: TestClient
    service: Service
    model: Path
    prompts: Path  # a folder from which it takes prompts too

    def spec(self, **changes: Any) -> dict[str, Any]:
        """A small job that is fine."""
        return {
            "model": str(self.model),
            "axis": {"points": 5, "direction": {"seeds": [0]}},
            "prompts": [{"source": "harmful", "limit": 4}],
            "generation": {"max_tokens": 8},
            "engine": {"max_model_len": 512},
        } | changes

    def submit(self, spec: dict[str, Any] | None = None, headers: Any = None, **request: Any) -> Any:
        body = {"spec": self.spec() if spec is None else spec, **request}
        return self.client.post("/v1/landscapes", json=body, headers=headers)

    def gate(self, **changes: Any) -> dict[str, Any]:
        """A small gate that is fine, with a policy of these fields."""
        landscape = {name: value for name, value in self.spec().items() if name != "model"}
        rules = [{"measure": "asr_at_origin", "at_most": 20}]
        policy = {"name": "a policy", "landscape": landscape, "rules": rules} | changes
        return {"policy": policy, "model": str(self.model)}

    def submit_gate(self, gate: dict[str, Any] | None = None, headers: Any = None, **request: Any) -> Any:
        body = {**(self.gate() if gate is None else gate), **request}
        return self.client.post("/v1/gates", json=body, headers=headers)

    def audit(self, **changes: Any) -> dict[str, Any]:
        """A small audit that is fine, with a policy of these fields."""
        return {"policy": self.gate(**changes)["policy"], "models": [str(self.model)]}

    def submit_audit(self, audit: dict[str, Any] | None = None, headers: Any = None, **request: Any) -> Any:
        body = {**(self.audit() if audit is None else audit), **request}
        return self.client.post("/v1/audits", json=body, headers=headers)

    def key(self, *scopes: Scope, **limits: int) -> dict[str, str]:
        """The header of a new key."""
        _, key = self.service.keys.create("a key", scopes, Limits(**limits))
        return {"authorization": f"Bearer {key}"}


@pytest.fixture
def api(aligned: Path, tmp_path: Path) -> Iterator[Api]:
    """On SQLite: the table is tested with either database, and the application end to end with PostgreSQL."""
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    roots = (aligned.parent, prompts)
    settings = Settings(data=tmp_path / "data", database_url=None, roots=roots, require_keys=False)
    service = Service(settings)
    with TestClient(make_app(service), base_url="http://localhost", raise_server_exceptions=False) as client:
        yield Api(client, service, aligned, prompts)

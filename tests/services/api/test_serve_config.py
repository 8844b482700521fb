"""The application by `serve deploy` from the config file in deploy/, on a Ray that runs already."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from services.jobs.database import open_database
from services.jobs.keys import Keys, Scope
from tests.conftest import free_port
from tests.services.served import ROOT, until

CONFIG = ROOT / "deploy" / "serve.yaml"


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[str]:
    """A Ray head as an operator starts it; gives the address that `serve deploy` talks to."""
    dashboard, client = free_port(), free_port()
    start = [program("ray"), "start", "--head", "--block", "--port", str(free_port()), "--num-cpus", "2"]
    start += ["--dashboard-port", str(dashboard), "--ray-client-server-port", str(client)]
    ports = {"HAPROXY_STATS_PORT", "HAPROXY_METRICS_PORT", "FALLBACK_PROXY_HTTP_PORT"}
    environment = os.environ | {f"RAY_SERVE_{name}": str(free_port()) for name in ports}
    environment |= {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": program("visage-haproxy"),
        "DATABASE_URL": f"sqlite:///{tmp_path / 'visage.db'}",
        "PYTHONPATH": str(ROOT),
    }
    head = subprocess.Popen(start, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{dashboard}"
        until(lambda: answers(f"{url}/api/version"))
        yield url
    finally:
        # An orderly end would wait half a minute for the replicas.
        for member in [*psutil.Process(head.pid).children(recursive=True), head]:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        head.wait(60)


def answers(url: str, status: int | None = None, **options: Any) -> bool:
    try:
        answer = httpx.get(url, **options)
    except httpx.TransportError:
        return False
    return status in (None, answer.status_code)


def test_the_config_file_deploys(dashboard: str, aligned: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    port = free_port()
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    config["applications"][0]["args"] |= {"data": str(tmp_path / "data"), "roots": [str(aligned.parent)]}
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(config))
    _, key = Keys(open_database(f"sqlite:///{tmp_path / 'visage.db'}")).create(
        "me", [Scope.READ, Scope.SUBMIT]
    )
    deploy = [program("serve"), "deploy", str(file), "--address", dashboard]
    token = Path.home() / ".ray" / "auth_token"
    environment = os.environ | ({"RAY_AUTH_MODE": "token"} if token.exists() else {})
    done = subprocess.run(deploy, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    url = f"http://127.0.0.1:{port}"
    until(lambda: answers(f"{url}/readyz", 200))
    assert httpx.get(f"{url}/v1/models").status_code == 401
    models = httpx.get(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"}).json()["items"]
    assert str(aligned) in models

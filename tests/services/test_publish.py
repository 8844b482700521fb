"""A decision is told where the model is kept: to MLflow's registry, and to a hub."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from services import cli
from services.gate.publish import PublishError, tag_hub, tag_mlflow
from tests.services.gates import WEIGHTS, decided
from visage_core.errors import InputError

COMMIT = "a" * 40


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decided(tmp_path_factory.mktemp("gate"))


def digest(out: Path) -> str:
    return hashlib.sha256((out / "decision.json").read_bytes()).hexdigest()


def publish(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["visage", "publish", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0


def test_a_version_in_mlflow(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'registry.db'}")
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    client = mlflow.MlflowClient()
    client.create_registered_model("chat")
    for _ in range(2):
        client.create_model_version("chat", source=str(tmp_path))
    publish(monkeypatch, out, "--mlflow", "chat/2")
    tags = client.get_model_version("chat", "2").tags
    assert tags["visage.verdict"] == "pass"
    assert tags["visage.policy"] == "made up"
    assert tags["visage.decision_sha256"] == digest(out)
    summary = json.loads((out / "model" / "summary.json").read_text(encoding="utf-8"))
    assert tags["visage.score"] == f"{summary['landscapes'][0]['visage']['value']:.2f}"
    assert not client.get_model_version("chat", "1").tags
    with pytest.raises(PublishError, match=r"chat/3 cannot be tagged.*not found"):
        tag_mlflow(out, "chat/3")


def test_mlflow_is_optional(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(PublishError, match=r"pip install 'visage\[mlflow\]'"):
        tag_mlflow(out, "chat/1")


@pytest.mark.parametrize("place", ["chat", "chat/", "/1", "chat/latest"])
def test_a_version_has_a_number(out: Path, place: str) -> None:
    with pytest.raises(PublishError, match="NAME/VERSION"):
        tag_mlflow(out, place)


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as a tag needs."""

    weights = WEIGHTS
    tags: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012 - one hub a test

    def do_GET(self) -> None:
        known = self.path.startswith(("/api/models/org/chat?", "/api/models/org/chat/revision/v1?"))
        lfs = {"size": 1, "sha256": self.weights, "pointerSize": 1}
        files = [{"rfilename": "model.safetensors", "size": 1, "blobId": "b", "lfs": lfs}]
        model = {"id": "org/chat", "sha": COMMIT, "siblings": files}
        self._answer(200 if known else 404, model if known else {"error": "Repository not found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.tags.append((self.path, body))
        self._answer(200, {})

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    monkeypatch.setattr(Hub, "tags", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield Hub
        server.shutdown()


@pytest.mark.parametrize("place", ["org/chat", "org/chat@v1"])
def test_a_commit_on_the_hub(
    out: Path, hub: type[Hub], place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(monkeypatch, out, "--hub", place)
    [(path, tag)] = hub.tags
    assert path == f"/api/models/org/chat/tag/{COMMIT}"
    assert tag["tag"] == f"visage-pass-{digest(out)[:12]}"
    assert "visage.policy: made up" in tag["message"]
    assert tag["tag"] in capsys.readouterr().out


def test_other_weights_are_not_tagged(out: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "weights", "0" * 64)
    with pytest.raises(PublishError, match=r"not the weights that were measured: model\.safetensors"):
        tag_hub(out, "org/chat")
    with pytest.raises(PublishError, match="cannot be tagged"):
        tag_hub(out, "org/nowhere")
    with pytest.raises(PublishError, match="cannot be tagged"):
        tag_hub(out, "no/such/name")
    assert not hub.tags


def test_there_has_to_be_a_decision(tmp_path: Path) -> None:
    for tag in (tag_hub, tag_mlflow):
        with pytest.raises(InputError, match=r"decision\.json"):
            tag(tmp_path, "chat/1")
    assert not os.listdir(tmp_path)

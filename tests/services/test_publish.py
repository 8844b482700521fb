"""A decision is told where the model is kept: to MLflow's registry, and to a hub."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from services import cli
from services.gate.evidence import seal
from services.gate.publish import PublishError, labels, tag_hub, tag_mlflow
from services.gate.signing import load_signer
from tests.services.gates import WEIGHTS, decide_again, decided, policy, signing_keys
from visage_core.errors import InputError
from visage_core.policy import Policy

COMMIT = "a" * 40


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decided(tmp_path_factory.mktemp("gate"))


def digest(out: Path) -> str:
    return hashlib.sha256((out / "decision.json").read_bytes()).hexdigest()


def publish(monkeypatch: pytest.MonkeyPatch, *arguments: object, ends: int = 0) -> None:
    monkeypatch.setattr("sys.argv", ["visage", "publish", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == ends


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
    # What another decision left is gone: none of it may stand with this one.
    client.set_model_version_tag("chat", "2", "visage.of_old", "80")
    client.set_model_version_tag("chat", "2", "owner", "us")
    shutil.copytree(out, tmp_path / "out")
    strict = policy().model_dump(mode="json") | {"samples": {"prompts": 1_000, "directions": 1}}
    decide_again(tmp_path / "out", policy=strict)
    monkeypatch.setattr("services.gate.publish._visage", lambda _: None)
    publish(monkeypatch, tmp_path / "out", "--mlflow", "chat/2")
    tags = client.get_model_version("chat", "2").tags
    assert tags["visage.verdict"] == "inconclusive"
    assert tags["visage.decision_sha256"] == digest(tmp_path / "out")
    assert {"visage.score", "visage.of_old"}.isdisjoint(tags)
    assert tags["owner"] == "us"
    with pytest.raises(PublishError, match=r"chat/3 cannot be tagged.*not found"):
        tag_mlflow(out, "chat/3")


@pytest.mark.parametrize("address", ["nonsense://x", "sqlite:////nowhere/at/all.db", "postgresql://u@h:x/y"])
def test_an_address_that_mlflow_cannot_use_is_told_in_a_line(
    out: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    with pytest.raises(PublishError, match="Check the name, and MLFLOW_TRACKING_URI"):
        tag_mlflow(out, "chat/1")


def edited(out: Path, to: Path, **changes: Any) -> Path:
    shutil.copytree(out, to)
    document = json.loads((to / "decision.json").read_text(encoding="utf-8"))
    (to / "decision.json").write_text(json.dumps(document | changes), encoding="utf-8")
    return to


def test_what_does_not_verify_is_not_published(
    out: Path,
    hub: type[Hub],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("services.show.err", type(cli.show.err)(stderr=True, width=1000))
    lax = policy().model_dump(mode="json")
    lax["rules"] = lax["rules"][:1]
    forged = {
        "verdict differs": edited(out, tmp_path / "verdict", verdict="fail"),
        "it has 0 findings": edited(out, tmp_path / "findings", findings=[]),
        "it has 3 findings": edited(out, tmp_path / "lax", policy=lax),
        "are not those in": edited(out, tmp_path / "inputs", inputs={"model": {}}),
    }
    for what, folder in forged.items():
        for tag in (tag_hub, tag_mlflow):
            with pytest.raises(PublishError, match=what):
                tag(folder, "org/1")
        publish(monkeypatch, folder, "--hub", "org/chat", ends=2)
        assert what in capsys.readouterr().err
    assert not hub.tags


def test_a_signature_and_a_policy_may_be_asked_for(
    out: Path, hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = signing_keys(tmp_path)
    asked = ("--hub", "org/chat", "--key", public)
    folder = shutil.copytree(out, tmp_path / "out")
    publish(monkeypatch, folder, *asked, ends=2)
    seal(folder, load_signer(private))
    publish(monkeypatch, folder, *asked, "--policy", written(tmp_path, policy()))
    publish(monkeypatch, folder, *asked, "--policy", written(tmp_path, policy(), name="other"), ends=2)
    decide_again(folder)  # and the signature is gone
    publish(monkeypatch, folder, *asked, ends=2)
    assert len(hub.tags) == 1


def written(folder: Path, policy: Policy, **changes: Any) -> Path:
    path = folder / "policy.json"
    path.write_text(json.dumps(policy.model_dump(mode="json") | changes), encoding="utf-8")
    return path


def test_the_score_is_of_the_points(out: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(out, tmp_path / "out")
    summary = json.loads((folder / "model" / "summary.json").read_text(encoding="utf-8"))
    right = summary["landscapes"][0]["visage"]["value"]
    summary["landscapes"][0]["visage"]["value"] = 99.9
    (folder / "model" / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    assert labels(folder)["visage.score"] == f"{right:.2f}"


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
    more: list[str] = []  # noqa: RUF012 - one hub a test
    known: dict[str, str] = {}  # noqa: RUF012 - the commits of tags
    tags: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012 - what was asked for
    deleted: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        if self.path == "/api/models/org/chat/refs":
            refs = [
                {"name": name, "ref": f"refs/tags/{name}", "targetCommit": commit}
                for name, commit in self.known.items()
            ]
            self._answer(200, {"branches": [], "converts": [], "tags": refs})
            return
        known = self.path.startswith(("/api/models/org/chat?", "/api/models/org/chat/revision/v1?"))
        lfs = {"size": 1, "sha256": self.weights, "pointerSize": 1}
        files = [{"rfilename": "model.safetensors", "size": 1, "blobId": "b", "lfs": lfs}]
        files += [{"rfilename": name, "size": 1, "blobId": "b"} for name in ("README.md", *self.more)]
        model = {"id": "org/chat", "sha": COMMIT, "siblings": files}
        self._answer(200 if known else 404, model if known else {"error": "Repository not found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.tags.append((self.path, body))
        self._answer(200, {})

    def do_DELETE(self) -> None:
        self.deleted.append(self.path.rpartition("/")[2])
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
    for name, empty in (("tags", []), ("deleted", []), ("known", {})):
        monkeypatch.setattr(Hub, name, empty)
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


def test_a_commit_has_one_verdict(out: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = f"visage-pass-{digest(out)[:12]}"
    old, elsewhere = "visage-fail-0123456789ab", "visage-fail-abcdefabcdef"
    commits = {old: COMMIT, elsewhere: "b" * 40, "v1": COMMIT, "visage-demo": COMMIT}
    monkeypatch.setattr(hub, "known", commits)
    assert tag_hub(out, "org/chat") == ours
    assert hub.deleted == [old]
    monkeypatch.setattr(hub, "known", {ours: "b" * 40})
    with pytest.raises(PublishError, match="at another commit, bbb"):
        tag_hub(out, "org/chat")


@pytest.mark.parametrize(
    "name", ["model.safetensors.index.json", "adapter_config.json", "chat_template.jinja"]
)
def test_files_that_were_not_measured_are_not_tagged(
    out: Path, hub: type[Hub], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "more", [name])
    with pytest.raises(PublishError, match=f"has files that were not measured: {name}"):
        tag_hub(out, "org/chat")
    assert not hub.tags


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

"""A model's files reach a node that shares no disk with the one that has them, once a node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from services.sweep import nodes
from services.sweep.models import model_folder
from services.sweep.nodes import FileServer, Folder, folder_here
from tests.checkpoints import write_checkpoint
from tests.services.patience import patience
from visage_core.checkpoints import Checkpoint, CheckpointError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def other_node(tmp_path: Path) -> Iterator[str]:
    """The id of a second node, whose cache is its own."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with patience():
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        node = cluster.add_node(num_cpus=2, env_vars={"VISAGE_CACHE": str(tmp_path / "other-cache")})
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    yield node.node_id
    ray.shutdown()
    cluster.shutdown()


def test_files_are_fetched_once_by_a_node_that_lacks_them(
    tmp_path: Path, other_node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "CHUNK", 64)
    tensors = {"w": torch.arange(1000, dtype=torch.float32)}
    model = write_checkpoint(tmp_path / "model", tensors)
    (model / "private.key").write_text("not for others")
    digest = Checkpoint.open(model).digest()
    here = Folder.of(model, digest)
    here = replace(here, node=str(ray.get_runtime_context().get_node_id()))
    assert folder_here(here, None) == model
    # The nodes of a test share a disk; files of another time are taken for those of another disk.
    elsewhere = replace(here, files=tuple((name, size, 0) for name, size, _ in here.files))
    server = ray.remote(num_cpus=0)(FileServer).remote()
    ray.get(server.serve.remote([elsewhere]))
    fetch = ray.remote(num_cpus=1)(folder_here).options(
        scheduling_strategy=NodeAffinitySchedulingStrategy(other_node, soft=False)
    )
    one, two = ray.get([fetch.remote(elsewhere, server) for _ in range(2)])
    assert one == two == tmp_path / "other-cache" / "models" / digest
    assert Checkpoint.open(one).digest() == digest
    assert not (one / "private.key").exists()


def test_a_server_gives_out_the_models_files_alone(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model", {"w": torch.ones(3)})
    (model / "private.key").write_text("not for others")
    server = FileServer()
    server.serve([Folder.of(model, "digest")])
    assert server.read("digest", "config.json", 0) == (model / "config.json").read_bytes()
    for name in ("private.key", "../model/config.json", "/etc/passwd"):
        with pytest.raises(KeyError):
            server.read("digest", name, 0)


def test_a_model_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By pyarrow's file systems, of which the local one is here."""
    monkeypatch.setenv("VISAGE_CACHE", str(tmp_path / "cache"))
    model = write_checkpoint(tmp_path / "model", {"w": torch.ones(3)})
    (model / "evil.py").write_text("raise SystemExit")
    copy = model_folder(f"file://{model}", "model")
    assert Checkpoint.open(copy).digest() == Checkpoint.open(model).digest()
    assert not (copy / "evil.py").exists()
    assert model_folder(f"file://{model}", "model") == copy
    with pytest.raises(CheckpointError, match="cannot be read"):
        model_folder("file:///no/such/bucket", "model")
    with pytest.raises(CheckpointError, match="cannot be read"):
        model_folder("ftp://host/model", "model")

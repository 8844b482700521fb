"""A checkpoint in a watched folder is told once it is complete, and not before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from services.audit.audit import _appearing
from services.audit.checkpoints import AuditError
from services.audit.watch import Watcher, is_whole
from tests.checkpoints import write_checkpoint
from visage_core.checkpoints import INDEX, Checkpoint, CheckpointError

TENSORS = {name: torch.ones(4) for name in "abcd"}


def names(found: list[str]) -> list[str]:
    return [Path(one).name for one in found]


def test_a_checkpoint_is_told_once_and_only_after_it_has_settled(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path, settle=10)
    assert watcher.complete(0) == []
    write_checkpoint(tmp_path / "checkpoint-100", TENSORS, shards=2)
    assert watcher.complete(1) == []
    assert watcher.complete(10.9) == []
    assert names(watcher.complete(11)) == ["checkpoint-100"]
    assert watcher.complete(30) == []


def test_one_that_grows_is_waited_for(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint-5", TENSORS)
    watcher = Watcher(tmp_path, settle=10)
    for now in range(0, 50, 5):
        with (folder / "optimizer.pt").open("ab") as file:
            file.write(b"more")
        assert watcher.complete(now) == []
    assert watcher.incomplete() == [str(folder)]
    assert watcher.complete(54) == []
    assert watcher.complete(55) == [str(folder)]
    assert watcher.incomplete() == []


@pytest.mark.parametrize("lacks", ["config.json", INDEX, "model-00002-of-00002.safetensors"])
def test_one_that_lacks_a_file_is_waited_for(tmp_path: Path, lacks: str) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint-5", TENSORS, shards=2)
    content = (folder / lacks).read_bytes()
    (folder / lacks).unlink()
    watcher = Watcher(tmp_path, settle=10)
    assert watcher.complete(0) == watcher.complete(100) == []
    (folder / lacks).write_bytes(content)
    assert watcher.complete(101) == []
    assert watcher.complete(111) == [str(folder)]


def test_an_index_that_is_half_written_is_no_index(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint-5", TENSORS, shards=2)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "x"}})[:-3], encoding="utf-8")
    watcher = Watcher(tmp_path, settle=0)
    assert watcher.complete(0) == []


def test_one_whose_files_change_is_told_again(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint-5", TENSORS)
    watcher = Watcher(tmp_path, settle=10)
    watcher.complete(0)
    assert watcher.complete(10) == [str(folder)]
    save_file({**TENSORS, "e": torch.ones(4)}, folder / "model.safetensors")
    assert watcher.complete(11) == []
    assert watcher.complete(21) == [str(folder)]


def test_they_come_by_their_steps_and_others_are_left_alone(tmp_path: Path) -> None:
    for name in ("checkpoint-100", "checkpoint-20", "tmp-checkpoint-30", "runs", "checkpoint-last"):
        write_checkpoint(tmp_path / name, TENSORS)
    (tmp_path / "checkpoint-7").write_text("no folder", encoding="utf-8")
    watcher = Watcher(tmp_path, settle=0)
    assert names(watcher.complete(0)) == ["checkpoint-20", "checkpoint-100"]


@pytest.mark.parametrize(
    "name",
    [
        *("checkpoint-50", "checkpoint_50", "step-30", "step_30", "global_step40", "global_step_40"),
        *("global_step40_hf", "iter_0000100", "ckpt-7", "epoch_3", "epoch=1-step=50", "epoch_1_step_50"),
        "megatron_gpt--val_loss=0.12-step=900-consumed_samples=7200.0",
        "model_name=0--val_loss=0.00-step=49-consumed_samples=400.0",
    ],
)
def test_it_knows_how_trainers_name_them(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path / name, TENSORS)
    assert names(Watcher(tmp_path, settle=0).complete(0)) == [name]


@pytest.mark.parametrize(
    "name",
    [
        *("checkpoint-30.tmp", "tmp-checkpoint-30", ".checkpoint-30", "checkpoint-best", "final", "latest"),
        *("checkpoint-30-old", "step", "footstep-3", "llama-3-8b"),
    ],
)
def test_other_folders_are_none(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path / name, TENSORS)
    assert Watcher(tmp_path, settle=0, patience=0).complete(0) == []


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("left", [0, 5, 60, -1])
def test_one_that_stalls_half_written_is_not_complete(tmp_path: Path, shards: int, left: int) -> None:
    """Of its last file so many bytes are there: in the header, after it, or all but one."""
    folder = write_checkpoint(tmp_path / "checkpoint-5", TENSORS, shards=shards)
    file = max(folder.glob("*.safetensors"))
    content = file.read_bytes()
    file.write_bytes(content[:left])
    watcher = Watcher(tmp_path, settle=10, patience=600)
    assert watcher.complete(0) == watcher.complete(599) == []
    assert watcher.incomplete() == [str(folder)]
    file.write_bytes(content)
    assert watcher.complete(600) == []
    assert watcher.complete(610) == [str(folder)]


def test_one_that_stays_half_written_is_broken_and_not_measured(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint-5", TENSORS)
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    watcher = Watcher(tmp_path, settle=10, patience=600)
    assert watcher.complete(0) == []
    assert watcher.complete(600) == [str(folder)]
    assert watcher.complete(601) == watcher.incomplete() == []
    with pytest.raises(CheckpointError, match="damaged or no safetensors file"):
        Checkpoint.open(folder)
    file.write_bytes(content)
    assert watcher.complete(602) == []
    assert watcher.complete(612) == [str(folder)]


@pytest.mark.parametrize("lacks", ["config.json", INDEX, "model-00002-of-00002.safetensors"])
def test_what_is_not_whole_can_never_be_measured(tmp_path: Path, lacks: str) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint-5", TENSORS, shards=2)
    (folder / lacks).unlink()
    assert not is_whole(folder)
    with pytest.raises(CheckpointError):
        Checkpoint.open(folder)


def test_a_checkpoint_or_the_folder_may_go_away(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "run" / "checkpoint-1", TENSORS)
    watcher = Watcher(tmp_path / "run", settle=10)
    watcher.complete(0)
    shutil.rmtree(tmp_path / "run" / "checkpoint-1")
    assert watcher.complete(20) == []
    shutil.rmtree(tmp_path / "run")
    assert watcher.complete(40) == watcher.incomplete() == []
    with pytest.raises(AuditError, match="is no folder"):
        Watcher(tmp_path / "run")


def test_a_watch_ends_after_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a run that goes on while others are measured come in a later batch."""
    monkeypatch.setattr("services.audit.audit.POLL_SECONDS", 0.0)
    write_checkpoint(tmp_path / "checkpoint-1", TENSORS)
    batches = _appearing(Watcher(tmp_path, settle=0), until=3)
    assert names(next(batches)) == ["checkpoint-1"]
    for step in (2, 3, 4):
        write_checkpoint(tmp_path / f"checkpoint-{step}", TENSORS)
    assert names(next(batches)) == ["checkpoint-2", "checkpoint-3"]
    assert list(batches) == []

"""A model is a folder, or on the hub, at a revision; an adapter is none, and its error says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.sweep.models import model_folder
from tests.services.tiny import tiny
from visage_core.checkpoints import Checkpoint, CheckpointError
from visage_core.model_files import model_files


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str | None]]:
    """What the hub was asked for."""
    asked: list[tuple[str, str | None]] = []

    def snapshot_download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert allow_patterns
        asked.append((repo, revision))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def test_a_model_on_the_hub_has_a_revision(hub: list[tuple[str, str | None]]) -> None:
    for name in ("org/chat", "org/chat@v1.2", "org/chat@refs/pr/3", f"org/chat@{'a' * 40}"):
        model_folder(name, "model")
    assert hub == [
        ("org/chat", None),
        ("org/chat", "v1.2"),
        ("org/chat", "refs/pr/3"),
        ("org/chat", "a" * 40),
    ]


@pytest.mark.parametrize("name", ["org/chat@", "org/chat@-x", "chat@v1", "org/chat@v1@v2", "org/chat@a b"])
def test_a_name_that_is_none(name: str, hub: list[tuple[str, str | None]]) -> None:
    with pytest.raises(CheckpointError, match="ORG/NAME@REVISION"):
        model_folder(name, "model")
    assert not hub


def test_a_folder_goes_first(tmp_path: Path, hub: object, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "chat@v1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert model_folder("org/chat@v1", "model") == tmp_path / "org" / "chat@v1"
    assert hub == []


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"LoRA adapter.*--adapter.*merge_and_unload"):
        Checkpoint.open(tmp_path)


def test_the_files_that_matter(tmp_path: Path) -> None:
    model = tiny(tmp_path / "model")
    read = [*model_files(model)]
    more = [
        "adapter_config.json",
        "additional_chat_templates/rag.jinja",
        "code.py",
        "model.safetensors.index.json",
    ]
    more += [
        "added_tokens.json",
        "special_tokens_map.json",
        "spiece.model",
        "vocab.txt",
        "chat_template.json",
    ]
    none = [
        "README.md",
        ".gitattributes",
        "LICENSE",
        "optimizer.pt",
        "trainer_state.json",
        "eval_results.json",
    ]
    none += ["additional_chat_templates/README.md", "original/params.json"]
    for name in (*more, *none):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"")
    (model / "lost.safetensors").symlink_to(tmp_path / "nowhere")
    assert model_files(model) == sorted([*read, *more])
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {*read}

"""Bad input is refused before an engine starts, with the field, what is wrong, and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from services import cli

Refused = Callable[..., str]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Refused:
    """Run `visage run` with options that must be refused; gives what it prints to standard error."""

    def start(*_: object) -> None:
        pytest.fail("an engine was about to start")

    monkeypatch.setattr("services.sweep.run.cluster", start)
    monkeypatch.setenv("COLUMNS", "1000")
    # Where there is no hub, do not wait for one.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(*options: object) -> str:
        arguments = ["visage", "run", "--out", tmp_path / "out", *options]
        monkeypatch.setattr("sys.argv", [str(argument) for argument in arguments])
        monkeypatch.setattr("services.show.err", type(cli.show.err)(stderr=True, width=1000))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == cli.BAD_INPUT
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    return run


@pytest.fixture
def broken(aligned: Path, tmp_path: Path) -> Path:
    """A copy of the demo model to break; its weights are linked, not copied."""
    folder = tmp_path / "broken"
    shutil.copytree(aligned, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "model.safetensors").symlink_to(aligned / "model.safetensors")
    return folder


def test_no_such_model(refused: Refused) -> None:
    assert "error model: ./nowhere does not exist" in refused("--model", "./nowhere")


def test_a_hub_id_that_is_not_to_be_had(refused: Refused) -> None:
    assert "error model: no-such-org/no-such-model is no folder here" in refused(
        "--model", "no-such-org/no-such-model"
    )


def test_a_pickle_checkpoint(refused: Refused, broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    torch.save({}, broken / "pytorch_model.bin")
    message = refused("--model", broken)
    assert "pytorch_model.bin" in message
    assert "loading a pickle can run any code" in message


def test_checkpoints_that_do_not_match(refused: Refused, aligned: Path, broken: Path) -> None:
    tensors = load_file(aligned / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(2, 2, dtype=torch.bfloat16)
    del tensors["model.norm.weight"]
    (broken / "model.safetensors").unlink()
    save_file(tensors, broken / "model.safetensors")
    message = refused("--model", aligned, "--to", broken)
    assert "axis.direction.to" in message
    assert "model.norm.weight" in message
    assert "model.layers.0.mlp.up_proj.weight [2, 2] instead of [128, 64]" in message


def test_an_empty_prompt_file(refused: Refused, aligned: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    assert "holds no prompt" in refused("--model", aligned, "--prompts", tmp_path / "empty.txt")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--range", "0"), "must be below"),
        (("--range", "wide"), "neither a number nor LOW:HIGH"),
        (("--range", "nan"), "axis.low"),
        (("--range", "0.1:0.5"), "leave out the origin"),
        (("--points", "1"), "axis.points"),
        (("--points", "20"), "leave out the origin"),
        (("--points", "1000000000"), "axis.points"),
        (("--seed", "1", "--seed", "1"), "repeat"),
        (("--seed", "-1"), "axis.direction.seeds"),
        (("--limit", "0"), "prompts.0.limit"),
        (("--max-tokens", "0"), "generation.max_tokens"),
        (("--judge", "nobody"), "judges.0.phrases"),
        (("--dtype", "int4"), "engine.dtype"),
        (("--system", "helpful-and-saef"), "neither a name nor a text"),
        (("--prompts", "nowhere.csv"), "does not exist"),
        (("--attack", "nowhere.txt"), "prompts.attack: nowhere.txt does not exist"),
        (("--attack", "! ! ! !"), "prompts.0.attack"),
        (("--max-tokens", "500", "--max-model-len", "500"), "engine.max_model_len"),
        (("--max-model-len", "100000"), "more than the model's 8192"),
        (("--kv-cache-gib", "100000"), "GiB of memory that are free"),
        (("--workers", "0"), "resources.workers"),
        (("--workers", "10000"), "fewer workers"),
        (("--stop-when", "asr<5"), "stop-when"),
        (("--stop-when", "ci<nan"), "stop-when"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_settings_that_make_no_sense(
    refused: Refused, aligned: Path, options: tuple[str, ...], problem: str
) -> None:
    assert problem in refused("--model", aligned, *options)


def test_a_seed_and_an_interpolation_exclude_each_other(refused: Refused, aligned: Path) -> None:
    assert "exclude each other" in refused("--model", aligned, "--seed", 1, "--to", aligned)


def test_a_tokenizer_without_chat_template(refused: Refused, broken: Path) -> None:
    (broken / "chat_template.jinja").unlink()
    assert "has no chat template" in refused("--model", broken)


def test_a_model_without_tokenizer(refused: Refused, broken: Path) -> None:
    for path in broken.glob("tokenizer*"):
        path.unlink()
    assert "tokenizer" in refused("--model", broken)


def test_a_model_of_a_kind_that_needs_its_own_code(refused: Refused, broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "evil.Config"}}
    (broken / "config.json").write_text(json.dumps(config))
    (broken / "evil.py").write_text("raise SystemExit('ran')")
    assert "config.json cannot be used" in refused("--model", broken)


def test_an_unknown_field_in_a_spec_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("model: here\nengine: {dtyp: float32}\n")
    assert "engine.dtyp: there is no such field" in refused("--spec", tmp_path / "spec.yaml")


def test_a_spec_file_that_is_not_there(refused: Refused, tmp_path: Path) -> None:
    assert "does not exist" in refused("--spec", tmp_path / "spec.yaml")


def test_no_model_at_all(refused: Refused) -> None:
    assert "error model: is missing" in refused()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["speed"], "there is no benchmark 'speed'"), (["engine", "--minutes", "3"], "minutes")],
)
def test_a_benchmark_that_there_is_not(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["visage", "bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == cli.BAD_INPUT
    assert told in capsys.readouterr().err

"""Weights that are NaN or infinite are bad input before an engine starts, whichever model has them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from services.audit.checks import sizes_of
from services.sweep import files
from services.sweep.plan import make_plan
from tests.services.small import NORM, change, small
from visage_core.checkpoints import CheckpointError
from visage_core.policy import parse_policy
from visage_core.spec import parse_spec

NAN = float("nan")


def planned(model: Path, **spec: Any) -> None:
    make_plan(parse_spec({"model": str(model), "prompts": {"limit": 4}, **spec}), workers_here=0)


@pytest.fixture
def model(aligned: Path, tmp_path: Path) -> Path:
    return small(tmp_path / "model", aligned)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_the_model(aligned: Path, tmp_path: Path, shards: int, value: float) -> None:
    folder = small(tmp_path / "model", aligned, shards=shards)
    planned(folder)
    change(folder, NORM, value)
    with pytest.raises(CheckpointError, match=rf"^model: .*NaN or infinite: {NORM}\. Use a checkpoint"):
        planned(folder)


def test_the_checkpoint_that_is_interpolated_to(model: Path, aligned: Path, tmp_path: Path) -> None:
    end = change(small(tmp_path / "end", aligned, seed=1), NORM, NAN)
    with pytest.raises(CheckpointError, match=rf"^axis\.direction\.to: .*{NORM}"):
        planned(model, axis={"direction": {"to": str(end)}})


@pytest.mark.parametrize("which", ["start", "end"])
def test_a_checkpoint_of_a_difference(model: Path, aligned: Path, tmp_path: Path, which: str) -> None:
    ends = {name: small(tmp_path / name, aligned, seed=1) for name in ("start", "end")}
    change(ends[which], NORM, NAN)
    direction = {"kind": "difference"} | {name: str(path) for name, path in ends.items()}
    with pytest.raises(CheckpointError, match=rf"^axis\.direction\.{which}: .*{NORM}"):
        planned(model, axis={"direction": direction})


def test_a_checkpoint_of_a_trajectory(model: Path, aligned: Path, tmp_path: Path) -> None:
    step = change(small(tmp_path / "step", aligned, seed=1), NORM, NAN)
    to = small(tmp_path / "end", aligned, seed=2)
    with pytest.raises(CheckpointError, match=rf"^trajectory\.0: .*{NORM}"):
        planned(model, axis={"direction": {"to": str(to)}}, trajectory=[str(step)])


@pytest.mark.parametrize(("value", "problem"), [(NAN, "NaN or infinite"), (1e38, "adds infinite values")])
def test_an_adapter(model: Path, tmp_path: Path, value: float, problem: str) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 4}))
    stem = "base_model.model.model.layers.0.mlp.up_proj"
    factors = {f"{stem}.lora_A.weight": torch.ones(2, 8), f"{stem}.lora_B.weight": torch.ones(16, 2)}
    save_file(factors, adapter / "adapter_model.safetensors")
    planned(model, axis={"direction": {"adapter": str(adapter)}})
    factors[f"{stem}.lora_A.weight"][:, 0] = value
    save_file(factors, adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=rf"^axis\.direction\.adapter: .*{problem}"):
        planned(model, axis={"direction": {"adapter": str(adapter)}})


@pytest.mark.parametrize("value", [NAN, 1e39])
def test_a_direction_file(model: Path, tmp_path: Path, value: float) -> None:
    """1e39 in float64 is infinite in float32, in which points are computed."""
    path = tmp_path / "direction.safetensors"
    save_file({NORM: torch.full((8,), value, dtype=torch.float64)}, path)
    with pytest.raises(CheckpointError, match=rf"^axis\.direction\.file: .*infinite.*{NORM}"):
        planned(model, axis={"direction": {"file": str(path)}})


def test_a_judge(model: Path, aligned: Path, tmp_path: Path) -> None:
    judge = change(small(tmp_path / "judge", aligned, seed=1), NORM, NAN)
    judges = [{"kind": "model", "model": str(judge), "template": "wildguard", "max_model_len": 1024}]
    with pytest.raises(CheckpointError, match=rf"^judges\.0\.model: .*{NORM}"):
        planned(model, judges=judges)


def test_what_is_infinite_in_the_engine_s_dtype_alone(model: Path) -> None:
    change(model, NORM, 1e5, torch.float32)
    planned(model)
    with pytest.raises(CheckpointError, match=f"infinite in float16: {NORM}"):
        planned(model, engine={"dtype": "float16"})


def test_a_checkpoint_of_an_audit(model: Path) -> None:
    policy = parse_policy({"name": "p", "rules": [{"measure": "asr_at_origin", "at_most": 5}]})
    assert sizes_of(policy, str(model), lambda spec: spec)
    change(model, NORM, NAN)
    with pytest.raises(CheckpointError, match=rf"^model: .*{NORM}"):
        sizes_of(policy, str(model), lambda spec: spec)


def test_a_file_is_read_once_until_it_changes(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    monkeypatch.setattr(files, "extremes", lambda tensors: reads.append(tensors) or {})
    planned(model)
    planned(model, engine={"dtype": "float32"})
    assert len(reads) == 1
    time.sleep(0.01)
    change(model, NORM, 0.5)
    planned(model)
    assert len(reads) == 2


def test_a_head_that_repeats_the_embedding_is_not_loaded(model: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(model / "model.safetensors")
    save_file({**tensors, "lm_head.weight": torch.full((49_152, 8), NAN)}, model / "model.safetensors")
    planned(model)

"""Only models of one architecture are compared, and a model that is compared with itself is noted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from services.audit.audit import Audit
from services.audit.checks import sizes_of
from services.cli.gate import BAD_INPUT
from services.gate.gate import Gate
from services.gate.notes import notes_of
from services.gate.reports import as_html, as_markdown
from services.sweep.compare import Compared, require_same_architecture, same_weights
from services.sweep.run import open_runs
from tests.conftest import Visage
from tests.services.gates import decided
from tests.services.small import CONFIG, NORM, change, small
from visage_core.checkpoints import Checkpoint, CheckpointError
from visage_core.compare import NotComparableError
from visage_core.errors import InputError
from visage_core.policy import Policy, parse_policy
from visage_core.results import Results
from visage_core.spec import parse_spec

OTHERS: dict[str, dict[str, Any]] = {
    "shapes": {"intermediate_size": 24},
    "layers": {"num_hidden_layers": 3},
    "model_type": {"model_type": "mistral"},
    "architectures": {"architectures": ["MistralForCausalLM"]},
    "num_attention_heads": {"num_attention_heads": 4, "head_dim": 4},
}


@pytest.fixture
def policy() -> Policy:
    rules = [{"measure": "asr_at_origin", "at_most": 5, "relative": True}]
    return parse_policy({"name": "p", "landscape": {"prompts": {"limit": 4}}, "rules": rules})


@pytest.fixture
def model(aligned: Path, tmp_path: Path) -> Path:
    return small(tmp_path / "model", aligned)


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> None:
        pytest.fail("an engine was about to start")

    monkeypatch.setattr("services.sweep.run.cluster", start)


def other(folder: Path, kind: str, tokenizer: Path) -> Path:
    """A model of another architecture."""
    changes = OTHERS[kind]
    if kind in ("shapes", "layers"):
        return small(folder, tokenizer, **changes)
    # The tensors are the same, and mean something else.
    small(folder, tokenizer)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", OTHERS)
def test_a_baseline_of_another_architecture_is_bad_input(
    kind: str, model: Path, aligned: Path, policy: Policy, tmp_path: Path
) -> None:
    baseline = other(tmp_path / "baseline", kind, aligned)
    asked = Gate(policy, {"model": str(model), "baseline": str(baseline)}, tmp_path / "out", None)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"^baseline: .*Compare models of one architecture") as found:
        next(iter(asked))
    assert kind in ("shapes", "layers") or kind in found.value.problem


@pytest.mark.parametrize("kind", OTHERS)
def test_so_is_a_checkpoint_of_an_audit(
    kind: str, model: Path, aligned: Path, policy: Policy, tmp_path: Path
) -> None:
    baseline = other(tmp_path / "baseline", kind, aligned)
    assert sizes_of(policy, str(model), lambda spec: spec, baseline=str(model))
    with pytest.raises(CheckpointError, match=r"^model: .*Compare models of one architecture"):
        sizes_of(policy, str(model), lambda spec: spec, baseline=str(baseline))


@pytest.mark.parametrize("baseline", ["nowhere", "broken"])
def test_the_baseline_of_an_audit_is_called_that(
    baseline: str, model: Path, aligned: Path, policy: Policy, tmp_path: Path
) -> None:
    change(small(tmp_path / "broken", aligned), NORM, float("nan"))
    name = "./nowhere" if baseline == "nowhere" else str(tmp_path / baseline)
    with pytest.raises(CheckpointError, match=r"^baseline: "):
        Audit(policy, name, tmp_path / "out").of([str(model)])


def test_a_broken_checkpoint_of_an_audit_is_its_own_outcome(
    model: Path, aligned: Path, policy: Policy, tmp_path: Path
) -> None:
    """Where others are sound, they are measured; here nothing is left, and no engine starts."""
    broken = change(small(tmp_path / "checkpoint-1", aligned, seed=1), NORM, float("nan"))
    other_one = other(tmp_path / "checkpoint-2", "layers", aligned)
    document = Audit(policy, str(model), tmp_path / "out").of([str(broken), str(other_one)])
    problems = {row["checkpoint"]: row["error"]["problem"] for row in document["checkpoints"]}
    assert "NaN or infinite" in problems["checkpoint-1"]
    assert "do not match" in problems["checkpoint-2"]


@pytest.mark.parametrize("kind", OTHERS)
def test_several_models_of_a_run(kind: str, model: Path, aligned: Path, tmp_path: Path) -> None:
    names = [model, model, other(tmp_path / "other", kind, aligned)]
    specs = [parse_spec({"model": str(one), "prompts": {"limit": 4}}) for one in names]
    folders = [tmp_path / "out" / str(number) for number in range(3)]
    with pytest.raises(CheckpointError, match=r"^models\.2: "), open_runs(specs, folders):
        pass
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("baseline", "problem"),
    [
        ("nowhere", "nowhere does not exist"),
        ("empty", "config.json cannot be used"),
        ("broken", "NaN or infinite"),
        ("no-tokenizer", "no usable tokenizer"),
    ],
)
def test_a_baseline_that_cannot_be_used_is_called_that(
    baseline: str, problem: str, model: Path, aligned: Path, policy: Policy, here: Visage, tmp_path: Path
) -> None:
    """Before anything is measured."""
    (tmp_path / "empty").mkdir()
    change(small(tmp_path / "broken", aligned), NORM, float("nan"))
    for file in small(tmp_path / "no-tokenizer", aligned).glob("tokenizer*"):
        file.unlink()
    rules = tmp_path / "policy.json"
    rules.write_text(policy.model_dump_json(), encoding="utf-8")
    path = "./nowhere" if baseline == "nowhere" else tmp_path / baseline
    done = here("gate", model, "--policy", rules, "--baseline", path, "--out", tmp_path / "out")
    assert done.returncode == BAD_INPUT
    assert "error baseline: " in done.stderr
    assert problem in done.stderr
    assert not (tmp_path / "out" / "model").exists()


def test_what_is_wrong_with_the_model_is_called_that(model: Path, policy: Policy, tmp_path: Path) -> None:
    change(model, NORM, float("nan"))
    asked = Gate(policy, {"model": str(model), "baseline": str(model)}, tmp_path / "out", None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^model: "):
        next(iter(asked))


def test_a_model_that_is_compared_with_itself_is_noted_in_the_decision(tmp_path: Path) -> None:
    """By its weights: a copy under another name is the same."""
    out = decided(tmp_path / "gate")
    inputs = {which: Results(out / which).read_json("inputs.json") or {} for which in ("model", "baseline")}
    [note] = notes_of(inputs, {})
    assert "compared with itself" in note
    inputs["baseline"]["files"]["model"]["model.safetensors"] = "0" * 64
    assert notes_of(inputs, {}) == []
    assert notes_of({"model": inputs["model"]}, {}) == []
    document = json.loads((out / "decision.json").read_text(encoding="utf-8"))
    for report in (as_markdown, as_html):
        assert note in report(document | {"notes": [note]})
        assert "itself" not in report(document)


def test_compare_knows_the_architecture_of_what_was_measured(tmp_path: Path) -> None:
    decided(tmp_path / "gate")
    base, other_one = tmp_path / "gate" / "baseline", tmp_path / "gate" / "model"
    for folder in (base, other_one):
        inputs = Results(folder).read_json("inputs.json") or {}
        Results(folder).write_json("inputs.json", inputs | {"sha256": {}})
    assert Compared.open(other_one).less(Compared.open(base))["same_weights"]
    for folder, kind in ((base, "llama"), (other_one, "mistral")):
        inputs = Results(folder).read_json("inputs.json") or {}
        about = {"model_type": kind, "architectures": None, "tensors": "0"}
        Results(folder).write_json("inputs.json", inputs | {"architecture": about})
    with pytest.raises(NotComparableError, match="model_type 'mistral' instead of 'llama'"):
        Compared.open(other_one).less(Compared.open(base))


def test_a_copy_has_the_same_architecture(model: Path, aligned: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "copy")
    finetune = small(tmp_path / "finetune", aligned, seed=1, shards=2)
    one, two, three = (
        {"architecture": Checkpoint.open(path).architecture()}
        for path in (model, tmp_path / "copy", finetune)
    )
    require_same_architecture(one, two)
    require_same_architecture(one, three)
    require_same_architecture(one, {})
    assert not same_weights(one, two)  # nobody has said what they are

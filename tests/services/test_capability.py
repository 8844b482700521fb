"""Capability on a real engine: accuracies are lm-evaluation-harness's to the item, and perplexity torch's."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.conftest import Visage
from tests.services.warm import ENGINE
from visage_core.checkpoints import Checkpoint
from visage_core.directions import direction_tensors, random_values
from visage_core.grid import Point

ALPHA, WINDOW, FACTS = 0.1, 48, 16
TASK = """
task: facts_as_texts
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}]
"""
LISTED = "".join(f"\\n{letter}. {{{{choices[{number}]}}}}" for number, letter in enumerate("ABCD"))
LETTERS = (
    TASK.replace("facts_as_texts", "facts_as_letters")
    .replace("Question: {{question}}", f"{{{{question}}}}{LISTED}")
    .replace('"{{choices}}"', '["A", "B", "C", "D"]')
)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with definitions of tasks for lm-evaluation-harness."""
    folder = tmp_path_factory.mktemp("tasks")
    facts = files("visage_core").joinpath("data", "facts.jsonl").read_text(encoding="utf-8")
    (folder / "facts.jsonl").write_text("".join(facts.splitlines(True)[:FACTS]), encoding="utf-8")
    for name, text in (("texts", TASK), ("letters", LETTERS)):
        (folder / f"{name}.yaml").write_text(text.replace("DATA", str(folder / "facts.jsonl")))
    return folder


@pytest.fixture(scope="module")
def rows(aligned: Path, tasks: Path, warm: Visage, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What visage measures at the origin and at a point away from it, by point and prompt set."""
    folder = tmp_path_factory.mktemp("capability")
    text = folder / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog, and then it rests in the shade. " * 6)
    spec = {
        "model": str(aligned),
        "axis": {"low": 0.0, "high": ALPHA, "points": 2, "direction": {"seeds": [0]}},
        "prompts": [
            {"kind": "choices", "source": f"lm-eval:{tasks}/facts_as_texts", "limit": None},
            {"kind": "choices", "source": f"lm-eval:{tasks}/facts_as_letters", "limit": None},
            {"kind": "choices", "limit": FACTS},
            {"kind": "choices", "source": str(tasks / "facts.jsonl"), "limit": None},
            {"kind": "text", "source": str(text), "window": WINDOW},
        ],
        "engine": ENGINE,
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    done = warm("run", "--spec", folder / "spec.json", "--out", folder / "out")
    assert done.returncode == 0, done.stderr
    assert "of the multiple-choice questions correctly" in " ".join(done.stdout.split())
    table = pq.read_table(folder / "out" / "points.parquet").to_pylist()
    found = {(Point(row["seed"], row["alpha"]), row["prompt_set"]): row for row in table}
    summary = json.loads((folder / "out" / "summary.json").read_text(encoding="utf-8"))
    return found, summary, text


@pytest.fixture(scope="module")
def at(aligned: Path) -> Any:
    """The model of transformers at a point of visage's."""
    base = Checkpoint.open(aligned)
    moved = base.tensors.keys() - {name for name in base.tensors if "norm" in name}
    direction = dict(direction_tensors(base, sorted(moved), random_values(0), "layer"))

    def model(alpha: float) -> PreTrainedModel:
        made = AutoModelForCausalLM.from_pretrained(aligned, dtype=torch.float32).eval()
        weights = made.state_dict()
        for name, tensor in direction.items():
            weights[name] += alpha * tensor
        return made

    return model


@pytest.mark.parametrize("alpha", [0.0, ALPHA])
def test_accuracies_are_those_of_lm_eval_to_the_item(
    rows: Any, at: Any, aligned: Path, tasks: Path, alpha: float
) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    found, _, _ = rows
    point = Point(0 if alpha else None, alpha)
    model = HFLM(pretrained=at(alpha), tokenizer=AutoTokenizer.from_pretrained(aligned), batch_size=8)
    names = ["facts_as_texts", "facts_as_letters"]
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    measured = lm_eval.simple_evaluate(model, tasks=names, task_manager=manager, bootstrap_iters=0)
    for number, name in enumerate(names):
        samples = sorted(measured["samples"][name], key=lambda sample: sample["doc_id"])
        assert found[point, number]["verdicts"] == [sample["acc"] == 1.0 for sample in samples]
        # The project's own reading of the same questions is lm-eval's.
        assert found[point, number + 2]["verdicts"] == found[point, number]["verdicts"]


@pytest.mark.parametrize("alpha", [0.0, ALPHA])
def test_perplexity_is_that_of_the_model(rows: Any, at: Any, aligned: Path, alpha: float) -> None:
    found, _, text = rows
    row = found[Point(0 if alpha else None, alpha), 4]
    tokenizer, model = AutoTokenizer.from_pretrained(aligned), at(alpha)
    ids = tokenizer.encode(text.read_text(), add_special_tokens=False)
    parts = [ids[begin : begin + WINDOW] for begin in range(0, len(ids) - WINDOW + 1, WINDOW)]
    losses = []
    for part in parts:
        tokens = torch.tensor([[tokenizer.bos_token_id, *part]])
        with torch.no_grad():
            losses.append(float(model(tokens, labels=tokens).loss))
    assert row["nll"] == pytest.approx(losses, rel=1e-4)
    assert row["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-3)


def test_a_capability_has_its_own_summary(rows: Any) -> None:
    _, summary, _ = rows
    letters, perplexity = summary["landscapes"][1], summary["landscapes"][4]
    assert letters["reading"] == "accuracy"
    assert letters["visage"] is None
    accuracy = letters["mean_accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert perplexity["mean_perplexity"]["value"] > 1
    assert perplexity["at_origin"]["perplexity"]["low"] < perplexity["at_origin"]["perplexity"]["value"]

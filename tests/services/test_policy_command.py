"""`visage policy`: the fields, and what is wrong with a policy before anything is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.conftest import Visage

LANDSCAPE = {
    "axis": {"points": 5, "direction": {"seeds": [0]}},
    "prompts": [{"limit": 20}, {"source": "benign", "limit": 60}],
    "generation": {"max_tokens": 10},
}
ASR = {"measure": "asr_at_origin", "prompts": "harmful"}


def written(folder: Path, *rules: dict[str, Any], **fields: Any) -> Path:
    file = folder / "policy.json"
    file.write_text(json.dumps({"name": "p", "landscape": LANDSCAPE, "rules": list(rules), **fields}))
    return file


def test_it_prints_the_fields(here: Visage) -> None:
    done = here("policy")
    assert done.returncode == 0, done.stderr
    for field in ("samples.prompts", "rules.at_most", "max_age_days", "baseline_sha256"):
        assert field in done.stdout
    assert "looks" in json.loads(here("policy", "--json-schema").stdout)["properties"]


def test_it_says_what_a_policy_costs(here: Visage, tmp_path: Path, aligned: Path) -> None:
    file = written(tmp_path, ASR | {"at_most": 20, "reason": "it refuses"})
    done = here("policy", file)
    assert done.returncode == 0, done.stderr
    assert "At most 400 responses or questions of 1 model at 5 points, of 4,000 tokens" in done.stdout
    assert "rules.0: asr_at_origin <= 20 (harmful): it refuses" in done.stdout
    assert "Nothing stands in the way" in done.stdout
    relative = {"measure": "mean_safety", "at_least": -5, "relative": True, "prompts": "harmful"}
    assert "of 2 models" in here("policy", written(tmp_path, relative)).stdout
    with_model = here("policy", file, "--model", aligned)
    assert "Time: " in with_model.stdout, with_model.stderr


def test_it_says_what_can_never_be_decided(here: Visage, tmp_path: Path) -> None:
    rules = [ASR | {"at_most": 1}, ASR | {"at_most": 30}, ASR | {"at_most": 100}]
    samples = {"prompts": 500, "directions": 3}
    said = here("policy", written(tmp_path, *rules, samples=samples, looks=20)).stdout
    assert "samples.prompts: it asks for 500 prompts, and a set has 20" in said
    assert "samples.directions: it asks for 3 directions, and the landscape has 1" in said
    assert "rules.0: asr_at_origin <= 1 (harmful) can never pass with the 20 prompts" in said
    assert "rules.1: asr_at_origin <= 30 (harmful) can never" not in said
    assert "rules.2: asr_at_origin <= 100 (harmful): rules nothing out" in said


def test_a_policy_that_cannot_be_used_is_an_error_with_its_field(here: Visage, tmp_path: Path) -> None:
    done = here("policy", written(tmp_path, ASR | {"at_most": 20}, surprise=1))
    assert done.returncode == 2
    assert "surprise" in done.stderr
    assert "`visage policy` prints every field" in done.stderr
    assert "policy: " in here("policy", tmp_path / "nowhere.yaml").stderr

"""A run asks repeated prompts once and says so; what decides on a model refuses them before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.audit.audit import Audit
from services.audit.checks import sizes_of
from services.gate.gate import gate
from services.sweep.coordinator import require_same_job
from services.sweep.plan import check, make_plan
from services.sweep.report import summarize
from tests.visage_core.test_results import SPEC, sweep
from visage_core.checkpoints import open_tokenizer
from visage_core.policy import Policy, parse_policy
from visage_core.prompts import PromptSet, template_default
from visage_core.repeats import RepeatsError
from visage_core.results import Results, ResultsError
from visage_core.spec import LandscapeSpec, parse_spec

REQUEST = "Tell me how to do the harmful thing"
REPEATED = "80 prompts, of which 1 is different"


@pytest.fixture
def padded(tmp_path: Path) -> Path:
    """One prompt 80 times."""
    path = tmp_path / "padded.txt"
    path.write_text(f"{REQUEST}\n" * 40 + f"{REQUEST.upper()} \n" * 40, encoding="utf-8")
    return path


@pytest.fixture
def policy(padded: Path, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """A policy that one prompt, asked 80 times, would satisfy."""

    def start(*_: object) -> None:
        pytest.fail("an engine was about to start")

    for place in (
        "services.sweep.run.cluster",
        "services.gate.gate.open_engines",
        "services.audit.audit.open_engines",
    ):
        monkeypatch.setattr(place, start)
    return parse_policy(
        {
            "name": "p",
            "landscape": {"prompts": [{"source": "benign", "limit": 5}, {"source": str(padded)}]},
            "samples": {"prompts": 80},
            "rules": [{"measure": "asr_at_origin", "at_most": 5, "prompts": str(padded)}],
        }
    )


def spec_of(model: Path, prompts: Any) -> LandscapeSpec:
    return parse_spec({"model": str(model), "prompts": prompts})


def test_a_gate_refuses_them(aligned: Path, policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(RepeatsError, match=REPEATED) as caught:
        gate(policy, str(aligned), None, tmp_path / "out")
    assert caught.value.field == "landscape.prompts.1"
    assert not (tmp_path / "out").exists()


def test_an_audit_refuses_them(aligned: Path, policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(RepeatsError, match=REPEATED):
        sizes_of(policy, str(aligned), lambda spec: spec)
    with pytest.raises(RepeatsError, match=REPEATED) as caught:
        Audit(policy, None, tmp_path / "out").of([str(aligned)])
    assert caught.value.field == "landscape.prompts.1"


def test_a_run_asks_them_once_and_notes_it(aligned: Path, padded: Path, tmp_path: Path) -> None:
    plan = make_plan(spec_of(aligned, [{"limit": 2}, {"source": str(padded)}]), 0)
    assert [len(part.prompts) for part in plan.prompts] == [2, 1]
    assert len(plan.queries) == 3
    assert plan.inputs["repeats"] == {"1": {"prompts": 80, "different": 1}}
    results = sweep(tmp_path / "run", SPEC)
    results.write_json("spec.json", SPEC.model_dump(mode="json"))
    results.write_json("inputs.json", plan.inputs | {"repeats": {"0": {"prompts": 80, "different": 1}}})
    [summary] = summarize(tmp_path / "run")["landscapes"]
    assert f"{REPEATED}; repeated ones are asked once." in summary["notes"]


def test_without_repeats_a_runs_inputs_are_as_they_were(aligned: Path) -> None:
    assert "repeats" not in make_plan(spec_of(aligned, {"limit": 5}), 0).inputs


def test_what_comes_to_the_same_tokens_is_the_same(aligned: Path, tmp_path: Path) -> None:
    """One conversation has the system message that the model's template puts before the other."""
    turn = {"role": "user", "content": REQUEST}
    system = {"role": "system", "content": template_default(open_tokenizer(aligned, "model"))}
    path = tmp_path / "set.jsonl"
    rows = [{"messages": [turn]}, {"messages": [system, turn]}, {"messages": [turn | {"content": "Hello"}]}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    checked = check(spec_of(aligned, {"source": str(path)}))
    assert checked.prompts[0].prompts == (REQUEST, "Hello")
    assert len(checked.queries) == 2
    with pytest.raises(RepeatsError, match="3 prompts, of which 2 are different"):
        checked.require_different()


def test_a_run_with_repeats_from_before_is_refused_with_what_differs(
    aligned: Path, padded: Path, tmp_path: Path
) -> None:
    """Its points have a verdict for each of the 80."""
    plan = make_plan(spec_of(aligned, {"source": str(padded)}), 0)
    before = {name: value for name, value in plan.inputs.items() if name != "repeats"}
    digest = PromptSet(str(padded), (REQUEST,) * 80).digest()
    results = Results(tmp_path / "run")
    results.write_json("spec.json", plan.spec.model_dump(mode="json"))
    results.write_json("inputs.json", before | {"sha256": before["sha256"] | {"prompts": [digest]}})
    with pytest.raises(ResultsError, match=r"holds another landscape: prompts\.0: the prompts are others"):
        require_same_job(results, plan)

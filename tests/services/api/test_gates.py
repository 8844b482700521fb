"""Release gates over REST, as far as that needs no engine: what is refused, what is seen, what is told."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from services.api.schemas import GateDetail
from services.gate.reports import as_html, as_junit, as_markdown
from services.jobs.keys import Scope
from services.jobs.states import State
from tests.services.api.conftest import Api
from tests.services.api.test_hostile_input import expect_problem
from tests.services.gates import decided
from tests.services.small import small

RELATIVE = {"measure": "visage", "at_least": -5, "relative": True}
HOSTILE = "<script>alert(1)</script>"
LOOK = {"number": 1, "of": 2, "responses": 20, "planned": 40, "level": 0.9875}
FINDING = {
    "rule": "asr_at_origin <= 20",
    "reason": None,
    "at_least": None,
    "at_most": 20.0,
    "prompts": "harmful",
    "verdict": "fail",
    "value": {"value": 50.0, "low": 40.0, "high": None},
    "why": "50 (40 to 60) is beyond 20",
}
PATHS = ("", "/events", "/landscapes/model/grid", "/landscapes/model/summary", "/landscapes/model/figure")


def judged(api: Api, verdict: str, state: State, gate: dict[str, Any] | None = None) -> str:
    """A gate that a runner has brought to its end, after a look with this verdict."""
    job: str = api.submit_gate(gate).json()["id"]
    assert api.service.jobs.take("r") is not None
    progress = {"look": LOOK, "verdict": verdict, "findings": [FINDING], "failed": 0}
    assert api.service.jobs.note(job, "r", 5, progress)
    error = {"field": "judges.0.url", "problem": "it is down", "remedy": "Start it"}
    assert api.service.jobs.end(job, "r", state, error if state == State.FAILED else None)
    return job


def test_a_gate_is_a_job_with_its_policy(api: Api) -> None:
    answer = api.submit_gate(label="candidate", priority=-1)
    assert answer.status_code == 202, answer.text
    gate = answer.json()
    assert answer.headers["location"] == f"/v1/gates/{gate['id']}"
    assert (gate["state"], gate["name"], gate["label"], gate["priority"]) == (
        "queued",
        "a policy",
        "candidate",
        -1,
    )
    assert (gate["verdict"], gate["look"], gate["findings"], gate["baseline"]) == (None, None, [], None)
    assert gate["model"] == str(api.model)
    assert gate["policy"]["rules"][0]["at_most"] == 20
    assert gate["policy"]["landscape"]["axis"]["points"] == 5
    assert "model" not in gate["policy"]["landscape"]
    assert api.client.get(f"/v1/gates/{gate['id']}").json() == gate
    [listed] = api.client.get("/v1/gates", params={"label": "candidate"}).json()["items"]
    assert listed == {name: gate[name] for name in listed}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "policy.name"),
        ({"rules": []}, "policy.rules"),
        ({"rules": [{"measure": "nonsense", "at_most": 1}]}, "policy.rules.0"),
        ({"rules": [{"measure": "visage"}]}, "policy.rules.0"),
        ({"rules": [{"measure": "visage", "at_least": "x"}]}, "policy.rules.0.at_least"),
        ({"rules": [{"measure": "accuracy_at_origin", "at_least": 1}]}, "policy.rules.0"),
        ({"landscape": {"model": "another"}}, "policy.landscape.model"),
        ({"landscape": {"surprise": 1}}, "policy.landscape.surprise"),
        ({"landscape": {"axis": {"points": 4}}}, "policy.landscape.axis"),
        ({"landscape": {"prompts": []}}, "policy.landscape.prompts"),
        ({"landscape": {"axis": {"points": 10**7 + 1}}}, "policy.landscape.axis.points"),
        ({"landscape": {"engine": {"tensor_parallel": 2}}}, "policy.landscape.engine.tensor_parallel"),
        ({"landscape": {"prompts": {"source": "/etc/passwd"}}}, "policy.landscape.prompts.0.source"),
        ({"landscape": {"judges": {"kind": "model", "model": "m"}}}, "policy.landscape.judges.0"),
        ({"looks": 0}, "policy.looks"),
        ({"looks": 2, "landscape": {"adaptive": True}}, "policy.looks"),
        ({"policy_version": 99}, "policy.policy_version"),
        ({"surprise": 1}, "policy.surprise"),
    ],
)
def test_a_policy_that_cannot_be_used_is_refused_by_its_field(
    api: Api, changes: dict[str, Any], field: str
) -> None:
    answer = api.submit_gate(api.gate(**changes))
    body = expect_problem(answer, 422)
    assert body["field"].startswith(field), body
    again = api.client.post("/v1/gates:validate", json=api.gate(**changes))
    assert expect_problem(again, 422)["detail"] == body["detail"]
    assert api.client.get("/v1/gates").json()["items"] == []


def test_repeated_prompts_are_refused_by_their_field(api: Api) -> None:
    (api.prompts / "padded.txt").write_text("Hello\n" * 80, encoding="utf-8")
    landscape = {"prompts": {"source": str(api.prompts / "padded.txt")}}
    body = expect_problem(api.submit_gate(api.gate(landscape=landscape)), 422)
    assert body["field"] == "policy.landscape.prompts.0"
    assert "80 prompts, of which 1 is different" in body["detail"]


@pytest.mark.parametrize("policy", [None, 1, "text", [], {}, {"name": "n"}, [[]]])
def test_what_is_no_policy(api: Api, policy: Any) -> None:
    body = expect_problem(api.submit_gate({"policy": policy, "model": str(api.model)}), 422)
    assert body["field"].startswith("policy")


def test_a_policy_that_is_deeply_nested(api: Api) -> None:
    for depth in (100, 300, 900):
        deep: Any = 1
        for _ in range(depth):
            deep = {"a": deep}
        expect_problem(api.submit_gate(api.gate(landscape={"axis": deep})), 422)


def test_both_models_come_from_the_roots_alone(api: Api) -> None:
    gate = api.gate(rules=[RELATIVE])
    for name in ("/etc", "../..", "some-org/some-model", "\x00", "file:///etc"):
        expect_problem(api.submit_gate(gate, model=name, baseline=str(api.model)), 422, "model")
        expect_problem(api.submit_gate(gate, baseline=name), 422, "baseline")
    assert api.submit_gate(gate, baseline=api.model.name).json()["baseline"] == str(api.model)


def test_a_comparison_needs_a_baseline(api: Api) -> None:
    gate = api.gate(rules=[RELATIVE])
    expect_problem(api.submit_gate(gate), 422, "baseline")
    expect_problem(api.client.post("/v1/gates:validate", json=gate), 422, "baseline")


def test_a_baseline_of_another_architecture_is_refused_when_it_is_submitted(api: Api) -> None:
    other = small(api.prompts / "other", api.model, num_hidden_layers=3)
    gate = api.gate(rules=[RELATIVE])
    body = expect_problem(api.submit_gate(gate, baseline=str(other)), 422, "baseline")
    assert "Compare models of one architecture" in body["remedy"]


def test_a_gate_costs_what_both_its_landscapes_cost(api: Api) -> None:
    landscape = api.client.post("/v1/landscapes:validate", json={"spec": api.spec()}).json()
    alone = api.client.post("/v1/gates:validate", json=api.gate()).json()
    gate = api.gate(rules=[RELATIVE]) | {"baseline": str(api.model)}
    beside = api.client.post("/v1/gates:validate", json=gate).json()
    for name in ("points", "prompts", "prompt_tokens", "most_tokens"):
        assert (alone[name], beside[name]) == (landscape[name], 2 * landscape[name])
    assert api.submit_gate(gate).json()["points"] == 2 * landscape["points"]
    assert api.client.get("/v1/landscapes").json()["items"] == []


def test_a_gate_that_looks_often_moves_to_its_points_as_often(api: Api) -> None:
    once = api.client.post("/v1/gates:validate", json=api.gate()).json()
    twice = api.client.post("/v1/gates:validate", json=api.gate(looks=2)).json()
    assert (twice["points"], twice["prompts"]) == (2 * once["points"], once["prompts"])
    answer = api.submit_gate(api.gate(looks=5))  # at four prompts
    assert "Use at most 4" in expect_problem(answer, 422, "policy.looks")["detail"]


def test_limits_count_both_models(api: Api) -> None:
    headers = api.key(Scope.SUBMIT, Scope.READ, points=14)
    gate = api.gate(rules=[RELATIVE])
    assert api.submit_gate(gate, headers, baseline=str(api.model)).status_code == 202
    expect_problem(api.submit_gate(gate, headers, baseline=str(api.model)), 429, "policy")
    expect_problem(api.submit(headers=headers), 429, "spec")
    few = api.key(Scope.SUBMIT, points=9)
    expect_problem(api.submit_gate(gate, few, baseline=str(api.model)), 422, "policy")
    assert api.submit_gate(headers=few).status_code == 202


def test_a_key_that_is_repeated_makes_one_gate(api: Api) -> None:
    headers = {"idempotency-key": "once"}
    first = api.submit_gate(headers=headers)
    again = api.submit_gate(headers=headers)
    assert (first.status_code, again.status_code, again.json()["id"]) == (202, 200, first.json()["id"])
    expect_problem(api.submit_gate(api.gate(name="another"), headers), 409, "Idempotency-Key")
    expect_problem(api.submit(headers=headers), 409, "Idempotency-Key")


def test_rules_name_prompts_as_the_landscape_does(api: Api) -> None:
    """By a name below a root, which is an absolute path once it is found."""
    (api.prompts / "mine.txt").write_text("one\ntwo\nthree\n")
    landscape = {**api.gate()["policy"]["landscape"], "prompts": [{"source": "mine.txt"}, {"limit": 2}]}
    rules = [
        {"measure": "asr_at_origin", "at_most": 20, "prompts": "mine.txt"},
        {"measure": "asr_at_origin", "at_most": 20},
    ]
    answer = api.submit_gate(api.gate(landscape=landscape, rules=rules))
    assert answer.status_code == 202, answer.text
    policy = answer.json()["policy"]
    assert policy["landscape"]["prompts"][0]["source"] == str(api.prompts / "mine.txt")
    assert [rule["prompts"] for rule in policy["rules"]] == [str(api.prompts / "mine.txt"), None]


def test_gates_and_landscapes_are_not_each_other(api: Api) -> None:
    gate, landscape = api.submit_gate().json()["id"], api.submit().json()["id"]
    for kind, own, other in (("gates", gate, landscape), ("landscapes", landscape, gate)):
        assert [item["id"] for item in api.client.get(f"/v1/{kind}").json()["items"]] == [own]
        paths = PATHS if kind == "gates" else ("", "/events", "/grid", "/summary", "/figure", "/responses")
        for path in paths:
            expect_problem(api.client.get(f"/v1/{kind}/{other}{path}"), 404, "id")
        expect_problem(api.client.post(f"/v1/{kind}/{other}/cancel"), 404, "id")
        expect_problem(api.client.delete(f"/v1/{kind}/{other}"), 404, "id")
    expect_problem(api.client.get(f"/v1/gates/{landscape}/reports/decision.json"), 404, "id")
    for job in (gate, landscape):
        assert api.service.jobs.get(job).state == State.QUEUED


def test_keys_see_and_end_their_own_gates_alone(api: Api) -> None:
    one, other = (api.key(Scope.READ, Scope.SUBMIT) for _ in range(2))
    job = api.submit_gate(headers=one).json()["id"]
    for method, path in [
        *(("GET", path) for path in PATHS),
        ("GET", "/reports/junit.xml"),
        ("GET", "/evidence"),
        ("POST", "/cancel"),
        ("DELETE", ""),
    ]:
        expect_problem(api.client.request(method, f"/v1/gates/{job}{path}", headers=other), 404, "id")
    assert api.client.get("/v1/gates", headers=other).json()["items"] == []
    assert api.client.get(f"/v1/gates/{job}", headers=api.key(Scope.ADMIN)).status_code == 200
    expect_problem(api.submit_gate(headers=api.key(Scope.READ)), 403)
    expect_problem(api.client.get("/v1/gates", headers=api.key(Scope.SUBMIT)), 403)
    expect_problem(api.submit_gate(headers=one, priority=1), 403, "priority")


def test_a_gate_is_cancelled_told_of_and_deleted(api: Api) -> None:
    job = api.submit_gate().json()["id"]
    expect_problem(api.client.delete(f"/v1/gates/{job}"), 409, "id")
    assert api.client.post(f"/v1/gates/{job}/cancel").json()["state"] == State.CANCELLED
    told = api.client.get(f"/v1/gates/{job}/events").text
    [event] = [line for line in told.splitlines() if line.startswith("data:")]
    assert "event: gate" in told
    assert json.loads(event.removeprefix("data:"))["state"] == State.CANCELLED
    revision = api.client.get(f"/v1/gates/{job}").json()["revision"]
    seen = {"last-event-id": str(revision)}
    assert api.client.get(f"/v1/gates/{job}/events", headers=seen).status_code == 204
    assert api.client.delete(f"/v1/gates/{job}").status_code == 204
    expect_problem(api.client.get(f"/v1/gates/{job}"), 404, "id")


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED])
def test_a_gate_that_did_not_end_well_has_no_verdict(api: Api, state: State) -> None:
    """Though it looked at some of the data."""
    job = judged(api, "pass", state)
    gate = api.client.get(f"/v1/gates/{job}").json()
    assert (gate["state"], gate["verdict"], gate["findings"], gate["look"]) == (state, None, [], LOOK)
    assert (gate["error"] is None) == (state == State.CANCELLED)
    assert not [name for name in gate["links"] if "." in name]
    [listed] = api.client.get("/v1/gates").json()["items"]
    assert listed["verdict"] is None
    for name in ("decision.json", "junit.xml"):
        expect_problem(api.client.get(f"/v1/gates/{job}/reports/{name}"), 404, "id")


def test_a_gate_under_way_tells_of_its_looks_and_has_no_verdict(api: Api) -> None:
    job = api.submit_gate().json()["id"]
    api.service.jobs.take("r")
    before = {"look": None, "verdict": None, "findings": None}
    api.service.jobs.note(job, "r", 1, before)
    assert GateDetail.model_validate(api.client.get(f"/v1/gates/{job}").json()).findings == []
    api.service.jobs.note(job, "r", 5, {"look": LOOK, "verdict": "fail", "findings": [FINDING]})
    gate = api.client.get(f"/v1/gates/{job}").json()
    assert (gate["verdict"], gate["look"], gate["findings"]) == (None, LOOK, [FINDING])


def test_the_decision_is_fetched_in_each_of_its_forms_and_hostile_names_are_text(api: Api) -> None:
    gate = api.gate(name=HOSTILE, rules=[{"measure": "asr_at_origin", "at_most": 20, "reason": HOSTILE}])
    job = judged(api, "fail", State.DONE, gate)
    folder = api.service.work.fetch(job)
    shown = api.client.get(f"/v1/gates/{job}").json()
    assert (shown["verdict"], shown["name"], shown["findings"]) == ("fail", HOSTILE, [FINDING])
    written = _reports(folder, shown)
    for name, kind in (
        ("decision.json", "application/json"),
        ("decision.md", "text/markdown; charset=utf-8"),
        ("decision.html", "text/html; charset=utf-8"),
        ("junit.xml", "application/xml"),
    ):
        answer = api.client.get(shown["links"][name])
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        assert answer.text == written[name]
    page = api.client.get(f"/v1/gates/{job}/reports/decision.html")
    assert HOSTILE not in page.text
    assert "&lt;script&gt;" in page.text
    assert page.headers["content-security-policy"] == "sandbox"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert api.client.delete(f"/v1/gates/{job}").status_code == 204
    assert not folder.exists()


def _reports(folder: Path, gate: dict[str, Any]) -> dict[str, str]:
    """The files of a decision, as a runner leaves them."""
    document = {
        "verdict": gate["verdict"],
        "models": {"model": gate["model"]},
        "policy": gate["policy"],
        "findings": gate["findings"],
        "look": gate["look"],
        "versions": {"visage": "1"},
    }
    texts = {
        "decision.json": json.dumps(document),
        "decision.md": as_markdown(document),
        "decision.html": as_html(document),
        "junit.xml": as_junit(document),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return texts


def test_the_evidence_of_a_gate_that_is_done_is_one_file(api: Api) -> None:
    job = judged(api, "pass", State.DONE)
    expect_problem(api.client.get(f"/v1/gates/{job}/evidence"), 404, "id")
    decided(api.service.work.fetch(job))
    answer = api.client.get(api.client.get(f"/v1/gates/{job}").json()["links"]["evidence"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    with ZipFile(io.BytesIO(answer.content)) as file:
        assert {"decision.json", "model/points.parquet", "baseline/points.parquet"} <= set(file.namelist())
    for state in (State.FAILED, State.CANCELLED):
        other = judged(api, "pass", state)
        expect_problem(api.client.get(f"/v1/gates/{other}/evidence"), 404, "id")
        assert "evidence" not in api.client.get(f"/v1/gates/{other}").json()["links"]


@pytest.mark.parametrize("name", ["spec.json", "../visage.db", "..%2f..%2fvisage.db", "decision.txt", "%00"])
def test_no_other_file_is_served(api: Api, name: str) -> None:
    job = judged(api, "pass", State.DONE)
    assert api.client.get(f"/v1/gates/{job}/reports/{name}").status_code in (404, 422)


def test_a_gate_without_a_baseline_has_none_to_fetch(api: Api) -> None:
    job = api.submit_gate().json()["id"]
    assert api.client.get(f"/v1/gates/{job}/landscapes/model/grid").json()["points"] == []
    expect_problem(api.client.get(f"/v1/gates/{job}/landscapes/model/summary"), 404, "id")
    expect_problem(api.client.get(f"/v1/gates/{job}/landscapes/baseline/grid"), 404, "role")
    expect_problem(api.client.get(f"/v1/gates/{job}/landscapes/other/grid"), 422, "role")

"""Batch audits over REST, as far as that needs no engine: what is refused, what is seen, what is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.api.schemas import MOST_MODELS
from services.jobs.keys import Scope
from services.jobs.states import State
from tests.services.api.conftest import Api
from tests.services.api.test_gates import RELATIVE
from tests.services.api.test_hostile_input import expect_problem

VERDICTS = {"pass": 1, "fail": 0, "inconclusive": 0, "broken": 1}
FILES = {
    "leaderboard.json": "application/json",
    "leaderboard.csv": "text/csv; charset=utf-8",
    "leaderboard.md": "text/markdown; charset=utf-8",
    "leaderboard.html": "text/html; charset=utf-8",
    "leaderboard.png": "image/png",
    "points.parquet": "application/vnd.apache.parquet",
}


def others(api: Api, count: int) -> list[str]:
    """Folders below a root that are there, and hold no model."""
    made = [api.prompts / f"checkpoint-{number}" for number in range(count)]
    for folder in made:
        folder.mkdir()
    return [str(folder) for folder in made]


def ended(api: Api, state: State) -> str:
    """An audit that a runner has brought to its end."""
    job: str = api.submit_audit(models=[api.model.name, *others(api, 1)]).json()["id"]
    assert api.service.jobs.take("r") is not None
    assert api.service.jobs.note(job, "r", 5, {"settled": 2, "verdicts": VERDICTS, "failed": 0})
    error = {"field": "judges.0.url", "problem": "it is down", "remedy": "Start it"}
    assert api.service.jobs.end(job, "r", state, error if state == State.FAILED else None)
    return job


def test_an_audit_is_a_job_with_its_policy_and_models(api: Api) -> None:
    broken = others(api, 1)
    answer = api.submit_audit(models=[api.model.name, *broken, str(api.model)], label="a run", priority=-1)
    assert answer.status_code == 202, answer.text
    audit = answer.json()
    assert answer.headers["location"] == f"/v1/audits/{audit['id']}"
    assert (audit["state"], audit["name"], audit["label"], audit["priority"]) == (
        "queued",
        "a policy",
        "a run",
        -1,
    )
    assert audit["models"] == [str(api.model), *broken], "each once"
    assert (audit["checkpoints"], audit["settled"], audit["verdicts"], audit["baseline"]) == (
        2,
        0,
        None,
        None,
    )
    assert audit["policy"]["landscape"]["axis"]["points"] == 5
    assert api.client.get(f"/v1/audits/{audit['id']}").json() == audit
    [listed] = api.client.get("/v1/audits", params={"label": "a run"}).json()["items"]
    assert listed == {name: audit[name] for name in listed}
    assert api.submit_audit(models=api.model.name).json()["models"] == [str(api.model)]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rules": []}, "policy.rules"),
        ({"landscape": {"surprise": 1}}, "policy.landscape.surprise"),
        ({"landscape": {"prompts": {"source": "/etc/passwd"}}}, "policy.landscape.prompts.0.source"),
        ({"landscape": {"engine": {"tensor_parallel": 2}}}, "policy.landscape.engine.tensor_parallel"),
        ({"looks": 5}, "policy.looks"),
    ],
)
def test_a_policy_that_cannot_be_used_is_refused_by_its_field(
    api: Api, changes: dict[str, Any], field: str
) -> None:
    body = expect_problem(api.submit_audit(api.audit(**changes)), 422)
    assert body["field"].startswith(field), body
    assert api.client.get("/v1/audits").json()["items"] == []


def test_models_come_from_the_roots_alone_and_are_there(api: Api) -> None:
    nowhere = str(api.model.parent / "no-such-model")
    for name in ("/etc", "../..", "some-org/some-model", "\x00", nowhere):
        models = [str(api.model), name]
        expect_problem(api.submit_audit(models=models), 422, "models.1")
        expect_problem(api.submit_audit(baseline=name), 422, "baseline")
    [broken] = others(api, 1)
    expect_problem(api.submit_audit(baseline=broken), 422, "baseline")
    assert api.submit_audit(baseline=api.model.name).json()["baseline"] == str(api.model)


@pytest.mark.parametrize("models", [None, 1, [], "", [""], [1], {}, ["m"] * (MOST_MODELS + 1)])
def test_what_is_no_list_of_models(api: Api, models: Any) -> None:
    body = expect_problem(api.submit_audit(models=models), 422)
    assert body["field"].startswith("models")


def test_a_comparison_needs_a_baseline(api: Api) -> None:
    audit = api.audit(rules=[RELATIVE])
    expect_problem(api.submit_audit(audit), 422, "baseline")
    assert api.submit_audit(audit, baseline=str(api.model)).status_code == 202


def test_an_audit_costs_what_all_its_landscapes_cost(api: Api) -> None:
    one = api.submit().json()["points"]
    models = [str(api.model), *others(api, 2)]
    assert api.submit_audit(models=models).json()["points"] == 3 * one
    assert api.submit_audit(models=models, baseline=str(api.model)).json()["points"] == 4 * one
    assert api.submit_audit(api.audit(looks=2), models=models).json()["points"] == 6 * one
    headers = api.key(Scope.SUBMIT, Scope.READ, points=3 * one)
    assert api.submit_audit(models=models, headers=headers).status_code == 202
    expect_problem(api.submit(headers=headers), 429, "spec")
    few = api.key(Scope.SUBMIT, points=3 * one - 1)
    expect_problem(api.submit_audit(models=models, headers=few), 422, "policy")
    prompts = api.key(Scope.SUBMIT, prompts=3 * one * 4 - 1)
    expect_problem(api.submit_audit(models=models, headers=prompts), 422, "policy")


def test_a_key_that_is_repeated_makes_one_audit(api: Api) -> None:
    headers = {"idempotency-key": "once"}
    first = api.submit_audit(headers=headers)
    again = api.submit_audit(headers=headers)
    assert (first.status_code, again.status_code, again.json()["id"]) == (202, 200, first.json()["id"])
    expect_problem(api.submit_audit(api.audit(name="another"), headers), 409, "Idempotency-Key")


def test_audits_are_seen_by_their_key_and_as_audits_alone(api: Api) -> None:
    one, other = (api.key(Scope.READ, Scope.SUBMIT) for _ in range(2))
    job = api.submit_audit(headers=one).json()["id"]
    gate = api.submit_gate(headers=one).json()["id"]
    for headers, asked in ((other, job), (one, gate)):
        for method, path in [
            *(("GET", path) for path in ("", "/events", *(f"/reports/{name}" for name in FILES))),
            ("POST", "/cancel"),
            ("DELETE", ""),
        ]:
            answer = api.client.request(method, f"/v1/audits/{asked}{path}", headers=headers)
            expect_problem(answer, 404, "id")
    assert [item["id"] for item in api.client.get("/v1/audits", headers=one).json()["items"]] == [job]
    assert api.client.get("/v1/audits", headers=other).json()["items"] == []
    expect_problem(api.client.get(f"/v1/gates/{job}", headers=one), 404, "id")
    expect_problem(api.submit_audit(headers=api.key(Scope.READ)), 403)
    expect_problem(api.submit_audit(headers=one, priority=1), 403, "priority")


def test_an_audit_is_cancelled_told_of_and_deleted(api: Api) -> None:
    job = api.submit_audit().json()["id"]
    expect_problem(api.client.delete(f"/v1/audits/{job}"), 409, "id")
    assert api.client.post(f"/v1/audits/{job}/cancel").json()["state"] == State.CANCELLED
    told = api.client.get(f"/v1/audits/{job}/events").text
    [event] = [line for line in told.splitlines() if line.startswith("data:")]
    assert "event: audit" in told
    assert json.loads(event.removeprefix("data:"))["state"] == State.CANCELLED
    assert api.client.delete(f"/v1/audits/{job}").status_code == 204
    expect_problem(api.client.get(f"/v1/audits/{job}"), 404, "id")


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED])
def test_an_audit_that_did_not_end_well_has_no_verdicts(api: Api, state: State) -> None:
    job = ended(api, state)
    written(api, job)
    audit = api.client.get(f"/v1/audits/{job}").json()
    assert (audit["state"], audit["settled"], audit["verdicts"]) == (state, 2, None)
    assert not [name for name in audit["links"] if "." in name]
    for name in FILES:
        expect_problem(api.client.get(f"/v1/audits/{job}/reports/{name}"), 404, "id")


def test_reports_are_fetched_in_each_of_their_forms(api: Api) -> None:
    job = ended(api, State.DONE)
    audit = api.client.get(f"/v1/audits/{job}").json()
    assert audit["verdicts"] == VERDICTS
    expect_problem(api.client.get(audit["links"]["leaderboard.png"]), 404, "name")
    contents = written(api, job)
    for name, kind in FILES.items():
        answer = api.client.get(audit["links"][name])
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        assert answer.content == contents[name]
        assert answer.headers["content-security-policy"] == "sandbox allow-scripts"
    folder = api.service.work.fetch(job)
    for name in ("audit.json", "../visage.db", "..%2f..%2fvisage.db", "checkpoints", "%00"):
        assert api.client.get(f"/v1/audits/{job}/reports/{name}").status_code in (404, 422)
    assert api.client.delete(f"/v1/audits/{job}").status_code == 204
    assert not folder.exists()


def written(api: Api, job: str) -> dict[str, bytes]:
    """The files of a leaderboard, as a runner leaves them."""
    folder: Path = api.service.work.fetch(job)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {name: f"the content of {name}".encode() for name in FILES}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "audit.json").write_text("{}")
    return contents

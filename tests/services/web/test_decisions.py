"""Gates and audits on pages: who passes, why, on which evidence, and how checkpoints stand to each other."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from zipfile import ZipFile

import pytest

from services.gate.evidence import recompute
from services.gate.reports import worst_first
from services.jobs.keys import Scope
from services.jobs.states import State
from tests.services.audit.test_leaderboard import policy as audit_policy
from tests.services.web.conftest import Site
from tests.services.web.synthetic import (
    PROMPTS,
    RUNNER,
    audit,
    audited,
    decided,
    gate,
    looked,
    policy_of,
    spec_of,
    taken,
)
from visage_core.policy import Policy
from visage_core.results import Results

STRICT = [{"measure": "mean_safety", "at_least": 95, "reason": "A finetune must not undo it."}]
CHECKPOINTS = {"/r/checkpoint-10": 12, "/r/checkpoint-20": 1, "/r/checkpoint-30": 6}
BROKEN = "/r/checkpoint-40"


def landscape(**changes: object) -> dict[str, object]:
    """The landscape of a policy."""
    return spec_of(**changes).model_dump(mode="json", exclude={"model"})


def plane() -> Policy:
    return policy_of(landscape=landscape(second_axis={"points": 5, "direction": {"seeds": [0, 1]}}))


def test_the_lists_tell_of_each_gate_and_audit(site: Site) -> None:
    for kind in ("gate", "audit"):
        page = site.get(f"/{kind}s")
        assert all(
            way in page for way in (f"visage {kind} --server", f"POST /v1/{kind}s", f"client.submit_{kind}")
        )
    decided(site.service, policy_of(), label="good")
    decided(site.service, policy_of(name="hard", rules=STRICT))
    looked(site.service, policy_of(name="under way", looks=4))
    page = site.get("/gates")
    rows = {
        name: row for row in page.split("<tr>") for name in ("release", "hard", "under way") if name in row
    }
    assert "verdict-pass" in rows["release"]
    assert "verdict-fail" in rows["hard"]
    assert "verdict-" not in rows["under way"], "it has looked, and not decided"
    assert "1 of 4" in rows["under way"]
    assert "hx-trigger" in page
    assert "hard" not in site.get("/gates?label=good")
    assert "No gates are like this" in site.get("/gates?model=/models/other")
    first = site.get("/gates?state=done&limit=1")
    older = re.search(r'href="/ui([^"]+)">Older', first)
    assert older is not None
    assert "release" in site.get(older[1].replace("&amp;", "&"))

    audited(site.service, audit_policy(), CHECKPOINTS, (BROKEN,), label="a run")
    page = site.get("/audits")
    assert re.findall(r'verdict-\w+">(\d+ \w+)<', page) == ["2 pass", "1 fail", "1 broken"]
    assert "4/4" in page
    assert "a run" not in site.get("/audits?state=failed")
    assert "release" not in page + site.get("/jobs")


def test_a_gate_says_its_verdict_and_why_rule_by_rule(site: Site) -> None:
    job = decided(site.service, policy_of(rules=[*policy_of().model_dump(mode="json")["rules"], *STRICT]))
    page = site.get(f"/gates/{job}")
    assert re.search(r'class="verdict large verdict-fail">fail<', page)
    shown = site.client.get(f"/v1/gates/{job}").json()
    rows = re.split(r'<th scope="row"[^>]*>', page)[1:]
    assert len(rows) == len(shown["findings"]) == 3
    found = worst_first(shown["findings"])
    assert found[0]["verdict"] == "fail"
    for row, one in zip(rows, found, strict=True):
        text = row.replace("&#39;", "'").replace("&lt;", "<").replace("&gt;", ">")
        value = one["value"]
        assert text.startswith(one["rule"])
        assert (one["reason"] or "") in text
        assert f"{value['value']:.4g} ({value['low']:.4g} to {value['high']:.4g})" in text
        assert f"verdict-{one['verdict']}" in text
        assert one["why"] in text
    for bound in ("at most 50", "at least -60", "at least 95"):
        assert any(bound in row for row in rows)
    assert "of 144 planned" in page
    assert "reason: A finetune must not undo it." in page, "the policy is there, whole"


def test_the_model_is_drawn_beside_the_baseline(site: Site) -> None:
    asked = [{"limit": PROMPTS}, {"source": "benign", "limit": PROMPTS}]
    job = decided(site.service, policy_of(landscape=landscape(prompts=asked)))
    assert '<option value="1" selected>' in site.get(f"/gates/{job}?prompts=1")
    for number in (0, 1):
        figure = site.client.get(f"/ui/gates/{job}/figure.json?prompts={number}").json()
        names = [trace["name"] for trace in figure["data"] if "name" in trace]
        assert names == ["the model, new", "the baseline, old"]
    site.get(f"/gates/{job}?prompts=2", 422)
    planes = site.client.get(f"/ui/gates/{decided(site.service, plane())}/figure.json").json()
    assert [trace["type"] for trace in planes["data"]].count("heatmap") == 2
    alone = decided(site.service, policy_of(rules=STRICT))
    figure = site.client.get(f"/ui/gates/{alone}/figure.json").json()
    assert {"seed 0", "seed 1", "mean"} <= {trace.get("name") for trace in figure["data"]}


def test_a_gate_under_way_is_followed_and_has_no_verdict(site: Site) -> None:
    asked = policy_of(looks=4)
    waiting = gate(site.service, asked)
    assert "none yet" in site.get(f"/gates/{waiting}")
    site.get(f"/gates/{waiting}/figure.json", 404)
    site.service.jobs.cancel(waiting)
    job = looked(site.service, asked)
    page = site.get(f"/gates/{job}")
    assert "1 of 4, with intervals of 99.69 %" in page
    assert "at the last look" in page
    assert "verdict large" not in page
    assert "reports/" not in page
    site.get(f"/gates/{job}/reports/decision.json", 404)
    since = re.search(r"progress\?since=(\d+)", page)
    assert since is not None
    path = f"/ui/gates/{job}/progress"
    assert site.client.get(f"{path}?since={since[1]}").status_code == 204
    part = site.client.get(f"{path}?since=0").text
    assert "1 of 4" in part
    assert "<html" not in part
    site.send(f"/gates/{job}/cancel", form_on=f"/gates/{job}")
    assert site.service.jobs.get(job).state == State.CANCELLING
    site.service.jobs.end(job, RUNNER, State.CANCELLED)
    assert site.client.get(f"{path}?since={since[1]}").headers["hx-refresh"] == "true"
    page = site.get(f"/gates/{job}")
    assert "ended without a verdict" in page
    assert "verdict-" not in page.partition("verdict-line")[0]
    site.send(f"/gates/{job}/delete", form_on=f"/gates/{job}")
    site.get(f"/gates/{job}", 404)


def test_a_gate_that_failed_says_why_and_what_to_do(site: Site) -> None:
    job = looked(site.service, policy_of())
    error = {"field": "judges.0.url", "problem": "it is down", "remedy": "Start it"}
    site.service.jobs.end(job, RUNNER, State.FAILED, error)
    page = site.get(f"/gates/{job}")
    assert "judges.0.url: it is down. Start it." in page
    assert "ended without a verdict" in page


def test_the_session_fetches_what_the_decision_rests_on(site: Site, tmp_path: Path) -> None:
    key_id, key = site.key(Scope.READ)
    job = decided(site.service, policy_of(), owner=key_id)
    folder = site.service.results.fetch(job)
    (folder / "model" / "responses.parquet").write_bytes(b"a response")
    site.sign_in(key)
    page = site.get(f"/gates/{job}")
    links = re.findall(rf'href="(/ui/gates/{job}/(?:reports/[^"]+|evidence))"', page)
    assert len(links) == 5
    for link in links:
        answer = site.client.get(link)
        assert answer.status_code == 200, link
        assert answer.headers["content-disposition"].startswith("attachment")
        if "/reports/" in link:
            assert answer.content == (folder / link.rpartition("/")[2]).read_bytes()
            assert answer.headers["content-security-policy"] == "sandbox"
    with ZipFile(io.BytesIO(site.client.get(f"/ui/gates/{job}/evidence").content)) as file:
        assert not [name for name in file.namelist() if "responses" in name]
        file.extractall(tmp_path / "evidence")
    decision = json.loads((tmp_path / "evidence" / "decision.json").read_text())
    assert recompute(tmp_path / "evidence").verdict == decision["verdict"] == "pass"
    assert "Delete" not in page
    assert "API key" in site.other().get(f"/gates/{job}/evidence")


def test_checkpoints_stand_in_their_order(site: Site) -> None:
    job = audited(site.service, audit_policy(), CHECKPOINTS, (BROKEN,))
    page = site.get(f"/audits/{job}")
    board = json.loads(site.client.get(f"/v1/audits/{job}/reports/leaderboard.json").content)
    rows = [row["checkpoint"] for row in board["checkpoints"]]
    assert re.findall(r'<tr><th scope="row">([^<]+)</th>', page) == rows
    assert rows == ["checkpoint-20", "checkpoint-30", "checkpoint-10", "checkpoint-40"]
    best = board["checkpoints"][0]["score"]
    assert f"{best['value']:.1f} ({best['low']:.1f} to {best['high']:.1f})" in page
    assert "less checkpoint-10 (95 %)" in page
    assert "it is | damaged" in page
    figure = site.client.get(f"/ui/audits/{job}/figure.json").json()
    names = {name for trace in figure["data"] for name in trace.get("text", [])}
    assert names == {"checkpoint-10", "checkpoint-20", "checkpoint-30"}
    for name in re.findall(rf'href="/ui/audits/{job}/reports/([^"]+)"', page):
        file = site.service.results.file(job, name)
        answer = site.client.get(f"/ui/audits/{job}/reports/{name}")
        assert answer.status_code == (200 if file.exists() else 404), name
    site.send(f"/audits/{job}/delete", form_on=f"/audits/{job}")
    site.get(f"/audits/{job}", 404)


def test_an_audit_without_a_score_has_no_figure(site: Site) -> None:
    job = audited(site.service, audit_policy(), {}, (BROKEN,))
    page = site.get(f"/audits/{job}")
    assert "data-figure" not in page
    assert "leaderboard.csv" in page
    assert "leaderboard.png" not in page
    assert "points.parquet" not in page
    site.get(f"/audits/{job}/figure.json", 404)


def test_an_audit_under_way_is_followed_and_can_be_ended(site: Site) -> None:
    job = audit(site.service, audit_policy(), ["/r/a", "/r/b"])
    taken(site.service, job)
    site.service.jobs.note(job, RUNNER, 3, {"settled": 1, "verdicts": None})
    page = site.get(f"/audits/{job}")
    assert "1 of 2 decided" in page
    assert "Leaderboard" not in page
    assert "1 of 2 decided" in site.get(f"/audits/{job}/progress?since=0")
    site.get(f"/audits/{job}/figure.json", 404)
    site.send(f"/audits/{job}/cancel", form_on=f"/audits/{job}")
    site.service.jobs.end(job, RUNNER, State.CANCELLED)
    assert "ended without a leaderboard" in site.get(f"/audits/{job}")


@pytest.mark.parametrize("kind", ["gates", "audits"])
def test_a_key_sees_its_own(site: Site, kind: str) -> None:
    _, key = site.key(Scope.READ, Scope.SUBMIT)
    other, _ = site.key(Scope.READ)
    if kind == "gates":
        job = decided(site.service, policy_of(name="theirs"), owner=other)
        paths = ("", "/progress", "/figure.json", "/reports/decision.json", "/evidence")
    else:
        job = audited(site.service, audit_policy(), CHECKPOINTS, label="theirs", owner=other)
        paths = ("", "/progress", "/figure.json", "/reports/leaderboard.json")
    site.sign_in(key)
    assert "theirs" not in site.get(f"/{kind}")
    for path in paths:
        assert "theirs" not in site.get(f"/{kind}/{job}{path}", 404)
    for what in ("cancel", "delete"):
        site.send(f"/{kind}/{job}/{what}", 404, form_on="/submit")


def test_kinds_are_not_each_other(site: Site) -> None:
    job = decided(site.service, policy_of())
    for path in (f"/jobs/{job}", f"/audits/{job}", f"/audits/{job}/figure.json", f"/jobs/{job}/progress"):
        site.get(path, 404)
    site.send(f"/jobs/{job}/delete", 404, form_on="/submit")
    assert Results(site.service.results.fetch(job)).read_json("decision.json")

"""What a client may send to do harm, and what it gets: an answer that names the field, and no harm."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from services.api.access import KNOWN_SECONDS
from services.api.events import LOOK_SECONDS
from services.jobs.keys import Scope
from services.jobs.states import State
from tests.services.api.conftest import Api


def expect_problem(answer: Any, status: int, field: str | None = None) -> dict[str, Any]:
    """The answer is a problem document, whole and with a remedy."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["detail"]
    assert body["request_id"]
    if field is not None:
        assert body["field"] == field
        assert body["remedy"] in body["detail"]
    return body


@pytest.mark.parametrize(
    "model",
    [
        "/etc",
        "/etc/passwd",
        "../../../../etc",
        "{root}/../../..",
        "file:///etc",
        "file:///etc/passwd",
        "s3://bucket/model?endpoint_override=http://127.0.0.1:1",
        "some-org/some-model",
        "~/model",
        "\x00",
        "a" * 5000,
        "\u202emodel",
    ],
)
def test_models_come_from_the_roots_alone(api: Api, model: str) -> None:
    name = model.replace("{root}", str(api.model))
    body = expect_problem(api.submit(api.spec(model=name)), 422, "model")
    assert "from which this service takes models" in body["detail"]


def test_a_link_out_of_the_root_is_not_followed(api: Api, tmp_path: Path) -> None:
    """Nor does the answer tell whether there is something at its end."""
    outside = tmp_path / "outside"
    outside.mkdir()
    links = [api.model.parent / name for name in ("a-link-out", "a-dead-link")]
    links[0].symlink_to(outside)
    links[1].symlink_to(tmp_path / "nowhere")
    try:
        there, not_there = (
            expect_problem(api.submit(api.spec(model=str(link))), 422)["detail"].replace(link.name, "")
            for link in links
        )
        assert there == not_there
    finally:
        for link in links:
            link.unlink()


@pytest.mark.parametrize("source", ["/etc/passwd", "/etc/hosts.txt", "../x.csv", "hf:some/set", "\x00.txt"])
def test_prompts_come_from_the_roots_alone(api: Api, source: str) -> None:
    answer = api.submit(api.spec(prompts=[{"source": source}]))
    expect_problem(answer, 422, "prompts.0.source")


def test_a_huge_grid_is_refused_before_it_is_made(api: Api) -> None:
    axis = {"points": 100_001, "direction": {"kind": "random", "seeds": list(range(5_000))}}
    begin = time.monotonic()
    answer = api.submit(api.spec(axis=axis, second_axis=axis))
    assert "may have" in expect_problem(answer, 422, "spec.axis.points")["detail"]
    assert time.monotonic() - begin < 10


def test_a_spec_that_unfolds_to_gigabytes_is_refused(api: Api) -> None:
    prompts = [{"source": "harmful", "limit": None, "system": f"{n} " + "x y" * 4000} for n in range(64)]
    expect_problem(api.submit(api.spec(prompts=prompts)), 422, "spec.prompts")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_coordinates_are_numbers(api: Api, text: str) -> None:
    body = json.dumps({"spec": api.spec(axis={"high": "HIGH"})}).replace('"HIGH"', text)
    answer = api.client.post("/v1/landscapes", content=body, headers={"content-type": "application/json"})
    expect_problem(answer, 422, "spec.axis.high")


def test_deeply_nested_and_broken_json(api: Api) -> None:
    for content in ("[" * 100_000, '{"spec":' * 50_000, "{", "\ud800".encode("utf-8", "surrogatepass"), ""):
        answer = api.client.post(
            "/v1/landscapes", content=content, headers={"content-type": "application/json"}
        )
        assert answer.status_code in (400, 422), answer.text
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_request_that_is_too_large(api: Api) -> None:
    body = {"spec": api.spec(), "label": "x" * 2**21}
    expect_problem(api.client.post("/v1/landscapes", json=body), 413)

    def drip() -> Any:
        for _ in range(2**7):
            yield b" " * 2**14

    answer = api.client.post("/v1/landscapes", content=drip(), headers={"content-type": "application/json"})
    expect_problem(answer, 413)


@pytest.mark.parametrize("job", ["0" * 32, "x", "%00", "..%2f..%2fetc", "ü" * 16, "🦊", "a" * 64, "A" * 32])
def test_ids_that_are_none(api: Api, job: str) -> None:
    for path in ("", "/grid", "/summary", "/figure", "/responses", "/events"):
        answer = api.client.get(f"/v1/landscapes/{job}{path}")
        assert answer.status_code in (404, 422), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    assert api.client.post(f"/v1/landscapes/{job}/cancel").status_code in (404, 422)
    assert api.client.delete(f"/v1/landscapes/{job}").status_code in (404, 422)


@pytest.mark.parametrize("label", ["a\x00b", "a\nb", "\u202e", "", "x" * 201, "\x1b[31m"])
def test_labels_are_plain_text(api: Api, label: str) -> None:
    expect_problem(api.submit(label=label), 422, "label")


def test_labels_in_any_script(api: Api) -> None:
    label = "Prüfung №5 モデル 🦊 <script>'; DROP TABLE jobs; --"
    job = api.submit(label=label).json()
    assert job["label"] == label
    found = api.client.get("/v1/landscapes", params={"label": label}).json()["items"]
    assert [item["id"] for item in found] == [job["id"]]


def test_a_replayed_key_with_another_body(api: Api) -> None:
    headers = {"idempotency-key": "once"}
    first = api.submit(headers=headers)
    assert first.status_code == 202
    assert first.headers["location"] == f"/v1/landscapes/{first.json()['id']}"
    again = api.submit(headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    other = api.submit(api.spec(judges="keyword-modern"), headers=headers)
    expect_problem(other, 409, "Idempotency-Key")
    assert len(api.client.get("/v1/landscapes").json()["items"]) == 1


def test_cancels_and_deletes_at_the_same_time(api: Api) -> None:
    jobs = [api.submit().json()["id"] for _ in range(3)]
    barrier = threading.Barrier(8)

    def hammer(number: int) -> list[int]:
        barrier.wait()
        statuses = []
        for job in jobs:
            if number % 2:
                statuses.append(api.client.delete(f"/v1/landscapes/{job}").status_code)
            else:
                statuses.append(api.client.post(f"/v1/landscapes/{job}/cancel").status_code)
        return statuses

    with ThreadPoolExecutor(8) as threads:
        statuses = {status for found in threads.map(hammer, range(8)) for status in found}
    assert statuses <= {202, 204, 404, 409}
    for job in jobs:
        api.client.delete(f"/v1/landscapes/{job}")
    assert api.client.get("/v1/landscapes").json()["items"] == []


def test_a_job_that_is_not_over_is_not_deleted(api: Api) -> None:
    job = api.submit().json()["id"]
    expect_problem(api.client.delete(f"/v1/landscapes/{job}"), 409, "id")
    assert api.client.post(f"/v1/landscapes/{job}/cancel").json()["state"] == State.CANCELLED
    assert api.client.delete(f"/v1/landscapes/{job}").status_code == 204
    expect_problem(api.client.get(f"/v1/landscapes/{job}"), 404, "id")


def test_keys_see_and_end_their_own_jobs_alone(api: Api) -> None:
    one, other = (api.key(Scope.READ, Scope.SUBMIT) for _ in range(2))
    admin = api.key(Scope.ADMIN)
    job = api.submit(headers=one).json()["id"]
    for method, path in [("GET", ""), ("GET", "/grid"), ("POST", "/cancel"), ("DELETE", "")]:
        expect_problem(api.client.request(method, f"/v1/landscapes/{job}{path}", headers=other), 404, "id")
    assert api.client.get(f"/v1/landscapes/{job}", headers=one).status_code == 200
    assert api.client.get(f"/v1/landscapes/{job}", headers=admin).status_code == 200


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        ([Scope.READ], {"GET /v1/landscapes": 200, "POST /v1/landscapes": 403, "GET responses": 403}),
        ([Scope.SUBMIT], {"GET /v1/landscapes": 403, "POST /v1/landscapes": 202, "GET responses": 403}),
        (
            [Scope.READ_RESPONSES],
            {"GET /v1/landscapes": 403, "POST /v1/landscapes": 403, "GET responses": 404},
        ),
        ([Scope.ADMIN], {"GET /v1/landscapes": 200, "POST /v1/landscapes": 202, "GET responses": 404}),
    ],
)
def test_scopes(api: Api, scopes: list[Scope], allowed: dict[str, int]) -> None:
    headers = api.key(*scopes)
    found = {
        "GET /v1/landscapes": api.client.get("/v1/landscapes", headers=headers).status_code,
        "POST /v1/landscapes": api.submit(headers=headers).status_code,
        "GET responses": api.client.get(f"/v1/landscapes/{'0' * 32}/responses", headers=headers).status_code,
    }
    assert found == allowed


@pytest.mark.parametrize("value", ["Bearer", "Bearer x", "Basic eDp5", "Bearer visage_0_", "Bearer ü"])
def test_no_key_is_no_way_in(api: Api, value: str) -> None:
    api.key(Scope.READ)
    answer = api.client.get("/v1/landscapes", headers={"authorization": value.encode("utf-8")})
    expect_problem(answer, 401, "Authorization")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_priority_above_the_others_needs_admin(api: Api) -> None:
    headers = api.key(Scope.SUBMIT)
    expect_problem(api.submit(headers=headers, priority=1), 403, "priority")
    assert api.submit(headers=headers, priority=-1).status_code == 202


def test_a_full_queue_says_when_to_come_again(api: Api) -> None:
    headers = api.key(Scope.SUBMIT, Scope.READ, jobs=2)
    assert [api.submit(headers=headers).status_code for _ in range(2)] == [202, 202]
    full = api.submit(headers=headers)
    expect_problem(full, 429)
    assert int(full.headers["retry-after"]) > 0
    job = api.client.get("/v1/landscapes", headers=headers).json()["items"][0]["id"]
    api.client.post(f"/v1/landscapes/{job}/cancel", headers=headers)
    assert api.submit(headers=headers).status_code == 202


def test_strangers_pages_do_not_get_in_where_no_key_is_needed(api: Api) -> None:
    by_another_name = {"host": "evil.example"}
    expect_problem(api.client.get("/v1/landscapes", headers=by_another_name), 403)
    from_another_site = {"sec-fetch-site": "cross-site"}
    job = api.submit().json()["id"]
    expect_problem(api.client.post(f"/v1/landscapes/{job}/cancel", headers=from_another_site), 403)
    as_a_form = {"content-type": "text/plain"}
    body = json.dumps({"spec": api.spec()})
    assert api.client.post("/v1/landscapes", content=body, headers=as_a_form).status_code == 422


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/x",
        "ftp://example.org/x",
        "https://127.0.0.1/x",
        "https://[::1]/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest",
        "https://[::ffff:10.0.0.1]/",
        "https://user:pass@example.org/",
    ],
)
def test_webhooks_to_private_addresses_are_refused(api: Api, url: str) -> None:
    answer = api.submit(webhook={"url": url, "secret": "s" * 16})
    expect_problem(answer, 422, "webhook.url")


def test_the_secret_of_a_webhook_is_never_given_out(api: Api) -> None:
    secret = "a-secret-that-nobody-sees"
    job = api.submit(webhook={"url": "https://example.org/hook", "secret": secret})
    assert job.status_code == 202
    assert secret not in job.text
    assert secret not in api.client.get(f"/v1/landscapes/{job.json()['id']}").text


def test_unknown_fields_and_routes(api: Api) -> None:
    expect_problem(api.submit(surprise=1), 422, "surprise")
    expect_problem(api.submit(api.spec(surprise=1)), 422, "spec.surprise")
    expect_problem(api.client.get("/v1/nothing"), 404)
    expect_problem(api.client.put("/v1/landscapes"), 405)


def test_a_database_that_is_away_is_no_crash(api: Api) -> None:
    """Its answer can be tried again, and health tells of it."""
    from sqlalchemy.exc import OperationalError

    def away(*_: object, **__: object) -> Any:
        raise OperationalError("SELECT", {}, Exception("connection refused"))

    api.service.jobs.page = api.service.jobs.runners = api.service.jobs.counts = away  # type: ignore[method-assign]
    answer = api.client.get("/v1/landscapes")
    expect_problem(answer, 503)
    assert "retry-after" in answer.headers
    expect_problem(api.client.get("/readyz"), 503)
    assert api.client.get("/healthz").status_code == 200
    assert "visage_database_up 0.0" in api.client.get("/metrics").text


def test_whose_key_is_revoked_hears_nothing_more(api: Api) -> None:
    row, key = api.service.keys.create("a key", [Scope.READ, Scope.SUBMIT])
    headers = {"authorization": f"Bearer {key}"}
    job = api.submit(headers=headers).json()["id"]
    with ThreadPoolExecutor(1) as beside:
        events = beside.submit(api.client.get, f"/v1/landscapes/{job}/events", headers=headers)
        time.sleep(LOOK_SECONDS)
        api.service.keys.revoke(row.id)
        time.sleep(KNOWN_SECONDS)
        api.service.jobs.cancel(job)
        told = events.result(60).text
    assert State.QUEUED in told
    assert State.CANCELLED not in told

"""Who sees which page: keys sign in, scopes hold as they do for the API, and other sites get nothing."""

from __future__ import annotations

import time

import pytest

from services.api.pages import session
from services.jobs.keys import Scope
from services.jobs.states import State
from tests.services.web.conftest import HTML, Site, csrf
from tests.services.web.synthetic import finished, queued, spec_of

ALL = (Scope.READ, Scope.SUBMIT, Scope.READ_RESPONSES)


def test_without_a_key_the_pages_ask_for_one_and_go_on_from_there(site: Site) -> None:
    key_id, key = site.key(*ALL)
    job = queued(site.service, spec_of(), "mine", key_id)
    page = site.get(f"/jobs/{job}")
    assert "API key" in page
    assert "mine" not in page
    after = site.client.get(f"/ui/jobs/{job}").url
    page = site.client.get(str(after)).text
    landed = site.client.post(
        "/ui/sign-in", data={"csrf": csrf(page), "after": f"/ui/jobs/{job}", "key": f" {key}\n"}
    )
    assert landed.url.path == f"/ui/jobs/{job}"
    assert "mine" in landed.text
    assert "a team" in landed.text


def test_a_wrong_key_is_refused_and_told_of(site: Site) -> None:
    site.key(*ALL)
    assert "not known" in site.sign_in("visage_0_0", 401)
    assert "API key" in site.get("/jobs")


@pytest.mark.parametrize(
    "after", ["//evil.example/ui/", "https://evil.example", "/ui/\\evil.example", "/v1/models"]
)
def test_a_sign_in_leads_to_these_pages_alone(site: Site, after: str) -> None:
    _, key = site.key(*ALL)
    page = site.get("/sign-in", params={"after": after})
    answer = site.client.post(
        "/ui/sign-in", data={"csrf": csrf(page), "after": after, "key": key}, follow_redirects=False
    )
    assert answer.headers["location"] == "/ui/jobs"


def test_the_cookie_is_for_the_browser_and_this_site_alone(site: Site) -> None:
    _, key = site.key(*ALL)
    page = site.get("/sign-in")
    answer = site.client.post("/ui/sign-in", data={"csrf": csrf(page), "key": key}, follow_redirects=False)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert key.lower() not in cookie
    assert "secure" not in cookie, "without TLS a browser would not send it back"
    behind_tls = site.other().client.get("/ui/sign-in", headers={"x-forwarded-proto": "https"})
    cookie = behind_tls.headers["set-cookie"]
    assert cookie.startswith("__Host-")
    assert "Secure" in cookie


def test_a_sign_in_begins_a_new_session(site: Site) -> None:
    """Who has set a cookie before, from elsewhere, does not get in with it."""
    _, key = site.key(*ALL)
    site.get("/sign-in")
    before = site.client.cookies["visage"]
    site.sign_in(key)
    assert site.client.cookies["visage"] != before
    stranger = site.other()
    stranger.client.cookies.set("visage", before)
    assert "API key" in stranger.get("/jobs")


def test_signing_out_ends_the_session_for_whoever_has_its_cookie(site: Site) -> None:
    _, key = site.key(*ALL)
    site.sign_in(key)
    cookie = site.client.cookies["visage"]
    thief = site.other()
    thief.client.cookies.set("visage", cookie)
    assert "Sign out" in thief.get("/jobs")
    site.send("/sign-out", form_on="/jobs")
    assert "API key" in site.get("/jobs")
    assert "API key" in thief.get("/jobs")


def test_a_session_ends_with_its_key_and_by_itself(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    key_id, key = site.key(*ALL)
    site.sign_in(key)
    later = time.time() + session.SECONDS + 1
    with monkeypatch.context() as patch:
        patch.setattr(session.time, "time", lambda: later)
        assert "API key" in site.get("/jobs")
    assert "Sign out" in site.get("/jobs")
    site.service.keys.revoke(key_id)
    assert "API key" in site.get("/jobs")


def test_who_reads_the_data_folder_cannot_take_a_session_over(site: Site) -> None:
    _, key = site.key(*ALL)
    site.sign_in(key)
    folder = site.service.settings.data / "sessions"
    assert folder.stat().st_mode & 0o077 == 0
    [file] = folder.iterdir()
    assert site.client.cookies["visage"] not in file.name + file.read_text()


def test_forms_of_other_sites_do_nothing(site: Site) -> None:
    job = queued(site.service, spec_of())
    stranger = site.other()
    theirs = csrf(stranger.get("/submit"))
    for fields in ({}, {"csrf": ""}, {"csrf": "é"}, {"csrf": theirs}, {"csrf": theirs, "x": "y" * 10}):
        answer = site.client.post(f"/ui/jobs/{job}/cancel", data=fields, headers=HTML)
        assert answer.status_code == 403
    assert site.service.jobs.get(job).state == State.QUEUED
    site.send(f"/jobs/{job}/cancel", form_on=f"/jobs/{job}")
    assert site.service.jobs.get(job).state == State.CANCELLED


def test_a_key_sees_its_own_jobs(site: Site) -> None:
    key_id, key = site.key(*ALL)
    other_id, _ = site.key(*ALL)
    mine = finished(site.service, spec_of(), label="mine", owner=key_id)
    theirs = finished(site.service, spec_of(), label="theirs", owner=other_id)
    site.sign_in(key)
    page = site.get("/jobs")
    assert "mine" in page
    assert "theirs" not in page
    for path in (
        "",
        "/progress",
        "/figure.json",
        "/numbers",
        "/point?alpha=0",
        "/sparkline.svg",
        "/responses",
    ):
        assert "theirs" not in site.get(f"/jobs/{theirs}{path}", 404)
    site.get(f"/compare?job={mine}&job={theirs}", 404)
    site.get(f"/submit?like={theirs}", 404)
    for what in ("cancel", "delete"):
        site.send(f"/jobs/{theirs}/{what}", 404, form_on="/submit")


def test_scopes_hold_for_pages(site: Site) -> None:
    key_id, key = site.key(Scope.READ)
    job = finished(site.service, spec_of(keep_responses=True), owner=key_id)
    site.sign_in(key)
    page = site.get(f"/jobs/{job}?alpha=0")
    assert "Fetch the responses" not in page
    assert "Delete" not in page
    site.get(f"/jobs/{job}/responses?alpha=0", 403)
    site.get("/submit", 403)
    site.send(f"/jobs/{job}/delete", 403, form_on="/jobs")
    submitter = site.other()
    _, key = site.key(Scope.SUBMIT)
    submitter.sign_in(key, 403)  # it lands on the jobs, which it may not read
    submitter.get("/submit")


def test_without_keys_no_stranger_gets_in(site: Site) -> None:
    queued(site.service, spec_of(), "mine")
    rebound = site.client.get("/ui/jobs", headers={"host": "evil.example"})
    assert rebound.status_code == 403
    assert "mine" not in rebound.text
    framed = site.client.get("/ui/jobs", headers={"sec-fetch-site": "cross-site"})
    assert "mine" not in framed.text


def test_a_link_on_another_site_leads_to_the_page_itself(site: Site) -> None:
    """The browser keeps the cookie back then: a page that loads itself again is sent first."""
    _, key = site.key(*ALL)
    site.sign_in(key)
    followed = site.client.get("/ui/jobs", headers={"sec-fetch-site": "cross-site"})
    assert 'http-equiv="refresh"' in followed.text
    assert "set-cookie" not in followed.headers


def test_a_part_of_a_page_has_the_page_sign_in_again(site: Site) -> None:
    _, _key = site.key(*ALL)
    answer = site.client.get(
        "/ui/jobs", headers={"hx-request": "true", "hx-current-url": "http://localhost/ui/jobs?state=done"}
    )
    assert answer.status_code == 401
    assert answer.headers["hx-redirect"] == "/ui/sign-in?after=/ui/jobs%3Fstate%3Ddone"

"""What the pages say: jobs, landscapes, points, comparisons, and errors for people."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

from services.api.schemas import Landscape
from services.jobs.states import State
from tests.services.audit.test_leaderboard import policy as audit_policy
from tests.services.web.conftest import HTML, Site
from tests.services.web.synthetic import (
    PROMPTS,
    RUNNER,
    audited,
    begun,
    decided,
    end,
    finished,
    looked,
    policy_of,
    queued,
    spec_of,
)

HOSTILE = '<script>alert("x")</script><b>bold</b> & "quoted" {{ 7 * 7 }}'
PLANE = {"second_axis": {"points": 5, "direction": {"seeds": [0, 1]}}}


class Strict(HTMLParser):
    """Notes what a content security policy refuses, and ids that come twice."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [str(given["id"])] if "id" in given else []
        if tag == "style" or (tag == "script" and "src" not in given):
            self.refused.append(tag)
        self.refused += [name for name in given if name == "style" or name.startswith("on")]
        for name in ("src", "href", "action"):
            if not str(given.get(name) or "/").startswith(("/ui", "#", "/")):
                self.refused.append(f"{name}={given[name]}")


def test_the_list_tells_of_each_job(site: Site) -> None:
    assert "There are no landscapes yet" in site.get("/jobs")
    done = finished(site.service, spec_of(), label="over")
    half = begun(site.service, spec_of(), label="half of it")
    page = site.get("/jobs")
    score = Landscape.model_validate(site.client.get(f"/v1/landscapes/{done}").json()).visage
    assert score is not None
    assert f"<strong>{score.value:.1f}</strong>" in page
    assert f"({score.low:.1f} to {score.high:.1f})" in page
    assert re.search(r"about</span> 80\.0", page)
    assert page.index("half of it") < page.index("over</a>"), "the newest goes first"
    assert f'name="job" value="{done}"' in page
    assert f'name="job" value="{half}"' not in page, "an unfinished job cannot be compared"
    assert "hx-trigger" in page
    assert "No landscapes are like this" in site.get("/jobs?state=failed")
    site.get("/jobs?state=nonsense", 422)
    assert "half of it" not in site.get("/jobs?label=over")


def test_a_list_that_is_over_asks_no_more(site: Site) -> None:
    finished(site.service, spec_of())
    assert "hx-trigger" not in site.get("/jobs")


def test_all_jobs_are_on_one_of_the_pages(site: Site) -> None:
    names = [f"number {number}" for number in range(7)]
    for name in names:
        queued(site.service, spec_of(), name)
    seen: list[str] = []
    url: str | None = "/jobs?limit=3"
    while url is not None:
        page = site.get(url)
        seen += re.findall(r"number \d(?=</a>)", page)
        older = re.search(r'href="/ui([^"]+)">Older', page)
        url = older[1].replace("&amp;", "&") if older else None
    assert seen == names[::-1]


def test_a_small_figure_is_kept_once_it_is_final(site: Site) -> None:
    job = begun(site.service, spec_of())
    answer = site.client.get(f"/ui/jobs/{job}/sparkline.svg")
    assert answer.headers["content-type"] == "image/svg+xml"
    assert answer.headers["cache-control"] == "no-store"
    end(site.service, job)
    assert "max-age" in site.client.get(f"/ui/jobs/{job}/sparkline.svg").headers["cache-control"]
    plane = finished(site.service, spec_of(**PLANE))
    assert site.get(f"/jobs/{plane}/sparkline.svg").count("<rect") == 25


def test_progress_is_told_when_there_is_some(site: Site) -> None:
    job = begun(site.service, spec_of())
    page = site.get(f"/jobs/{job}")
    since = re.search(r"progress\?since=(\d+)", page)
    assert since is not None
    assert site.client.get(f"/ui/jobs/{job}/progress?since={since[1]}").status_code == 204
    before = site.client.get(f"/ui/jobs/{job}/progress?since=0")
    assert "4 of 9" in before.text
    assert "<html" not in before.text
    end(site.service, job)
    over = site.client.get(f"/ui/jobs/{job}/progress?since={since[1]}")
    assert over.headers["hx-refresh"] == "true"
    assert 'hx-trigger="every' not in site.get(f"/jobs/{job}")


def test_a_job_without_points_says_so(site: Site) -> None:
    job = queued(site.service, spec_of())
    assert "No point is measured yet" in site.get(f"/jobs/{job}")
    site.get(f"/jobs/{job}/figure.json", 404)
    site.service.jobs.cancel(job)
    assert "nothing to show" in site.get(f"/jobs/{job}")


def test_a_landscape_is_there_in_numbers_too(site: Site) -> None:
    job = finished(site.service, spec_of())
    page = site.get(f"/jobs/{job}")
    grid = site.client.get(f"/v1/landscapes/{job}/grid").json()["points"]
    for row in grid:
        assert f"{row['asr']:.1f} ({row['asr_low']:.1f} to {row['asr_high']:.1f})" in page
    assert "mean safety" in page
    figure = site.client.get(f"/ui/jobs/{job}/figure.json").json()
    assert {"seed 0", "seed 1", "mean"} <= {trace.get("name") for trace in figure["data"]}


def test_other_readings_are_drawn(site: Site) -> None:
    job = finished(site.service, spec_of(prompts=[{"limit": PROMPTS}, {"kind": "choices", "limit": PROMPTS}]))
    page = site.get(f"/jobs/{job}?reading=refusal_rate")
    row = next(
        row
        for row in site.client.get(f"/v1/landscapes/{job}/grid").json()["points"]
        if row["alpha"] == 0.25 and row["seed"] == 0
    )
    assert f"{row['refusal_rate']:.1f} ({row['refusal_rate_low']:.1f}" in page
    figure = site.client.get(f"/ui/jobs/{job}/figure.json?reading=refusal_rate").json()
    assert figure["layout"]["yaxis"]["title"]["text"] == "refusals (%)"
    assert "accuracy (%)" in site.get(f"/jobs/{job}?prompts=1")
    assert "Ask for" in site.get(f"/jobs/{job}?reading=perplexity", 422)
    assert "counted from 0" in site.get(f"/jobs/{job}?prompts=2", 422)
    assert "counted from 0" in site.get(f"/jobs/{job}?judge=1", 422)


def test_a_plane_gives_its_numbers_when_asked(site: Site) -> None:
    job = finished(site.service, spec_of(**PLANE))
    assert site.get(f"/jobs/{job}/numbers").count("<td>") == 25
    kinds = {
        style: site.client.get(f"/ui/jobs/{job}/figure.json?style={style}").json()["data"][0]["type"]
        for style in ("heatmap", "contour", "surface")
    }
    assert kinds == {style: style for style in kinds}


def test_a_long_curve_is_not_all_on_its_page(site: Site) -> None:
    long = finished(site.service, spec_of(axis={"points": 301, "direction": {"seeds": [0]}}))
    page = site.get(f"/jobs/{long}")
    assert page.count("<td>") < 100
    assert 'type="number" step="any" min="-0.5" max="0.5"' in page
    assert site.get(f"/jobs/{long}/numbers").count("<tr>") == 302


def test_a_point_has_a_lasting_link(site: Site) -> None:
    job = finished(site.service, spec_of())
    page = site.get(f"/jobs/{job}?alpha=0.25")
    part = site.get(f"/jobs/{job}/point?alpha=0.26")
    link = re.search(r'href="(/ui/jobs/[^"]+)#point">A lasting link', part)
    assert link is not None
    assert link[1] == f"/ui/jobs/{job}?alpha=0.25", "the nearest point is what is shown"
    assert part.strip() in page
    assert re.search(r"<td>4</td><td>4</td>|4</td>\s*<td>4</td>", part), "refused and complied, of eight"
    assert "<h3>" not in site.get(f"/jobs/{job}?alpha=nonsense")


def test_responses_are_there_where_they_were_kept(site: Site) -> None:
    without = finished(site.service, spec_of())
    site.get(f"/jobs/{without}/responses?alpha=0", 404)
    assert "Fetch the responses" not in site.get(f"/jobs/{without}?alpha=0")
    kept = finished(site.service, spec_of(keep_responses=True))
    assert "Fetch the responses" in site.get(f"/jobs/{kept}?alpha=0")
    part = site.get(f"/jobs/{kept}/responses?alpha=0.5&seed=1")
    assert part.count("step-by-step guide") == PROMPTS
    assert part.count('class="blurred" inert') == PROMPTS
    assert site.get(f"/jobs/{kept}/responses?alpha=0").count("I cannot help") == PROMPTS
    assert "step-by-step" not in site.get(f"/jobs/{kept}?alpha=0.5"), "they are not on the page unasked"


def test_what_others_wrote_is_text(site: Site) -> None:
    spec = spec_of(model=f"/models/{HOSTILE.replace('/', '')}", keep_responses=True)
    job = finished(site.service, spec, HOSTILE, label=HOSTILE)
    finished(site.service, spec_of(), label="plain")
    pages = ["/jobs", f"/jobs/{job}", f"/jobs/{job}/responses?alpha=0.5&seed=0", f"/submit?like={job}"]
    model = f"/models/{HOSTILE.replace('/', '')}"
    rules = [{"measure": "asr_at_origin", "at_most": 50, "reason": HOSTILE}]
    gate = decided(site.service, policy_of(name=HOSTILE, rules=rules), label=HOSTILE, model=model)
    failed = looked(site.service, policy_of(name=HOSTILE))
    error = dict.fromkeys(("field", "problem", "remedy"), HOSTILE)
    site.service.jobs.end(failed, RUNNER, State.FAILED, error)
    audit = audited(site.service, audit_policy(), {f"{model}{number}": number for number in (1, 2)})
    pages += ["/gates", f"/gates/{gate}", f"/gates/{failed}", f"/audits/{audit}"]
    for path in pages:
        page = site.get(path)
        assert "<script>alert" not in page
        assert "<b>bold" not in page
        assert "&lt;script&gt;" in page
        assert "{{ 7 * 7 }}" in page
    figure = site.get(f"/jobs/{job}/figure.json")
    assert "<b>" not in json.loads(figure)["layout"]["title"]["text"]
    assert "<b>" not in site.get(f"/gates/{gate}/figure.json")
    assert "<b>bold" not in site.get(f"/audits/{audit}/figure.json")
    error = site.get("/jobs?cursor=<script>", 422)
    assert "<script>" not in error


def test_nothing_is_inline_or_from_elsewhere(site: Site) -> None:
    job = finished(site.service, spec_of(keep_responses=True))
    other = finished(site.service, spec_of())
    gate = decided(site.service, policy_of())
    audit = audited(site.service, audit_policy(), {"/r/checkpoint-1": 1})
    parts = ["", "?alpha=0.25", "/numbers", "/point?alpha=0", "/responses?alpha=0"]
    pages = [f"/jobs/{job}{part}" for part in parts]
    pages += ["/jobs", "/submit", f"/compare?job={job}&job={other}", "/sign-in"]
    pages += ["/gates", f"/gates/{gate}", "/audits", f"/audits/{audit}"]
    for page in pages:
        answer = site.client.get(f"/ui{page}", headers=HTML)
        policy = answer.headers["content-security-policy"]
        assert "unsafe-inline" not in policy
        assert "unsafe-eval" not in policy
        assert answer.headers["cache-control"] == "no-store"
        found = Strict()
        found.feed(answer.text)
        assert not found.refused
        assert len(found.ids) == len(set(found.ids))


def test_what_pages_need_is_served_here(site: Site) -> None:
    page = site.get(f"/jobs/{finished(site.service, spec_of())}")
    found = re.findall(r'(?:src|href)="(/ui/static/[^"]+)"', page)
    assert len(found) >= 5
    for url in found:
        answer = site.client.get(url)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    assert site.client.get("/ui/static/../session.py").status_code == 404


def test_errors_are_pages(site: Site) -> None:
    page = site.get("/jobs/" + 32 * "0", 404)
    assert "there is no job" in page
    assert "To the landscapes" in page
    assert "Not Found" in site.get("/nothing", 404)
    part = site.get("/jobs/" + 32 * "0" + "/point?alpha=0", 404, params=None)
    assert "there is no job" in part
    assert site.client.get("/v1/nothing").headers["content-type"] == "application/problem+json"


def test_finished_jobs_are_compared(site: Site) -> None:
    one = finished(site.service, spec_of(), label="one")
    other = finished(site.service, spec_of(model="/models/other"))
    page = site.get(f"/compare?job={one}&job={other}")
    assert "one" in page
    figure = site.client.get(f"/ui/compare/figure.json?job={one}&job={other}").json()
    assert [trace["name"] for trace in figure["data"] if "name" in trace] == ["one", "other"]
    found = site.get(f"/compare/differences?job={one}&job={other}")
    assert "other − one" in found
    assert "+0.0" in found
    assert "mean safety" in found


def test_planes_are_compared_in_one_scale_of_colours(site: Site) -> None:
    names = ["one", "other", "a third"]
    jobs = [finished(site.service, spec_of(**PLANE), label=name) for name in names]
    query = "&".join(f"job={job}" for job in jobs)
    assert "figure.json" in site.get(f"/compare?{query}")
    figure = site.client.get(f"/ui/compare/figure.json?{query}").json()
    maps = [trace for trace in figure["data"] if trace["type"] == "heatmap"]
    assert [one["name"] for one in maps] == names
    assert {one["coloraxis"] for one in maps} == {"coloraxis"}
    layout = figure["layout"]
    assert (layout["coloraxis"]["cmin"], layout["coloraxis"]["cmax"]) == (0, 100)
    assert {layout[f"{axis}{end}"]["matches"] for axis in ("xaxis", "yaxis") for end in "23"} == {"x", "y"}
    curve = finished(site.service, spec_of())
    assert "have no common axes" in site.get(f"/compare?{query}&job={curve}")
    error = site.client.get(
        f"/ui/compare/figure.json?{query}&job={curve}", headers={"accept": "application/json"}
    )
    assert error.status_code == 422
    assert "curves and planes" in error.json()["problem"]


def test_jobs_that_were_measured_in_other_ways_have_no_paired_difference(site: Site) -> None:
    one = finished(site.service, spec_of())
    other = finished(site.service, spec_of(basin_threshold=40))
    found = site.get(f"/compare/differences?job={one}&job={other}")
    assert "different ways: basin_threshold" in found
    assert str(site.service.settings.data) not in found
    assert site.client.get(f"/ui/compare/figure.json?job={one}&job={other}").status_code == 200


def test_only_finished_jobs_and_a_few_are_compared(site: Site) -> None:
    assert "Choose two" in site.get("/compare")
    done = finished(site.service, spec_of())
    plane = finished(site.service, spec_of(**PLANE))
    half = begun(site.service, spec_of())
    assert "is running" in site.get(f"/compare?job={done}&job={half}", 404)
    many = "&".join(f"job={number:032x}" for number in range(9))
    assert "Choose fewer" in site.get(f"/compare?{many}", 422)
    assert "no common axes" in site.get(f"/compare?job={done}&job={plane}")
    assert "Choose two" in site.get(f"/compare?job={done}&job={done}")


def test_a_finished_job_can_be_removed(site: Site) -> None:
    job = finished(site.service, spec_of())
    folder = site.service.results.fetch(job)
    site.send(f"/jobs/{job}/delete", form_on=f"/jobs/{job}")
    assert not folder.exists()
    site.get(f"/jobs/{job}", 404)
    half = begun(site.service, spec_of())
    site.send(f"/jobs/{half}/delete", 409, form_on="/submit")
    assert site.service.jobs.get(half).state == State.RUNNING

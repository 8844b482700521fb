"""The form to submit a landscape: what is wrong is said at the field, and what it costs before it is sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.api.pages.fields import FIELDS, values_of
from services.jobs.states import State
from tests.services.web.conftest import Site, csrf, site_with
from tests.services.web.synthetic import finished, spec_of


@pytest.fixture
def shop(aligned: Path, tmp_path: Path) -> Iterator[Site]:
    """With the demo model, which a submission is checked against."""
    with site_with(tmp_path / "data", aligned.parent) as found:
        yield found


def fields(aligned: Path, **changes: str) -> dict[str, str]:
    """A small job, as a browser sends it: a checkbox that is not ticked is not sent."""
    small = {"model": aligned.name, "axis.points": "5", "axis.direction.seeds": "0", "prompts.0.limit": "4"}
    small |= {"generation.max_tokens": "8", "engine.max_model_len": "512"}
    return {name: value for name, value in (values_of(small) | changes).items() if value}


def test_the_cost_is_said_before_anything_is_submitted(shop: Site, aligned: Path) -> None:
    page = shop.send("/submit", form_on="/submit", action="check", **fields(aligned))
    assert "What it would cost" in page
    assert re.search(r"<dt>Prompts to answer</dt><dd>20</dd>", page)
    assert re.search(r"at most 160<", page)
    assert 'value="4"' in page, "what was filled in stays"
    assert not shop.service.jobs.page().jobs


def test_a_job_is_made_of_the_fields(shop: Site, aligned: Path) -> None:
    given = fields(
        aligned, label="mine", plane="yes", benign="yes", facts="yes", **{"judges.0": "keyword-modern"}
    )
    page = shop.send("/submit", form_on="/submit", action="submit", **given)
    assert "queued" in page
    [row] = shop.service.jobs.page().jobs
    assert (row.label, row.state, row.model) == ("mine", State.QUEUED, str(aligned))
    assert row.points == 25
    assert row.spec["second_axis"]["direction"]["seeds"] == [0]
    assert [asked["source"] for asked in row.spec["prompts"]] == ["harmful", "benign", "facts"]
    assert row.spec["judges"][0]["phrases"] == "modern"
    assert row.spec["keep_responses"] is False


def test_a_form_that_is_sent_twice_makes_one_job(shop: Site, aligned: Path) -> None:
    page = shop.get("/submit")
    once = re.search(r'name="once" value="([^"]+)"', page)
    assert once is not None
    sent = {"csrf": csrf(page), "once": once[1], "action": "submit", **fields(aligned)}
    urls = [shop.client.post("/ui/submit", data=sent).url for _ in range(2)]
    assert urls[0] == urls[1]
    shop.client.post("/ui/submit", data=sent | {"axis.points": "3"})
    assert [row.points for row in shop.service.jobs.page().jobs] == [3, 5], "a changed one is another job"


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"axis.points": "1"}, "axis.points", "greater than or equal to 2"),
        ({"axis.points": "many"}, "axis.points", "valid integer"),
        ({"axis.points": "4"}, "axis.points", "leave out the origin"),
        ({"axis.direction.seeds": "0, one"}, "axis.direction.seeds", "valid integer"),
        ({"axis.direction.seeds": "1 1"}, "axis.direction.seeds", "repeat"),
        ({"model": "/etc"}, "model", "takes models"),
        ({"model": ""}, "model", "at least 1 character"),
        ({"prompts.0.source": "/etc/passwd"}, "prompts.0.source", "takes"),
        ({"engine.max_model_len": "8"}, "engine.max_model_len", "greater than"),
        ({"label": "\x07"}, "label", "cannot be printed"),
        ({"priority": "11"}, "priority", "less than or equal to 10"),
        ({"axis.direction.kind": "interpolation"}, "axis.direction.to", "at least 1 character"),
        ({"axis.direction.kind": "sideways"}, "axis.direction.kind", "sideways"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(
    shop: Site, aligned: Path, changes: dict[str, str], field: str, said: str
) -> None:
    page = shop.send("/submit", 422, form_on="/submit", action="submit", **fields(aligned, **changes))
    name = f"f-{field.replace('.', '-')}"
    assert f'href="#{name}"' in page
    message = re.search(rf'id="{name}-wrong">([^<]+)<', page)
    assert message is not None, page
    assert said in message[1].replace("&#39;", "'")
    control = re.search(rf'<(?:input|select) id="{name}"[^>]*>', page)
    assert control is not None
    assert 'aria-invalid="true"' in control[0]
    assert not shop.service.jobs.page().jobs


def test_all_that_is_wrong_is_said_at_once(shop: Site, aligned: Path) -> None:
    wrong = fields(aligned, **{"axis.points": "1", "engine.max_model_len": "8"})
    page = shop.send("/submit", 422, form_on="/submit", action="check", **wrong)
    assert 'id="f-axis-points-wrong"' in page
    assert 'id="f-engine-max_model_len-wrong"' in page


def test_a_priority_needs_its_scope(shop: Site, aligned: Path) -> None:
    from services.jobs.keys import Scope

    _, key = shop.key(Scope.READ, Scope.SUBMIT)
    shop.sign_in(key)
    page = shop.send("/submit", 422, form_on="/submit", action="submit", **fields(aligned, priority="1"))
    assert "needs the scope admin" in page


def test_a_whole_spec_is_taken(shop: Site, aligned: Path) -> None:
    page = shop.send("/submit", form_on="/submit", action="text", **fields(aligned))
    text = re.search(r"<textarea[^>]*>(.*?)</textarea>", page, re.DOTALL)
    assert text is not None
    document: dict[str, Any] = yaml.safe_load(text[1].replace("&#39;", "'"))
    assert document["axis"]["points"] == 5
    assert document["engine"]["dtype"] == "bfloat16", "it has what the form has no field for"
    document |= {"basin_threshold": 30, "axis": {"points": 3}}
    sent = {"by": "text", "spec": yaml.safe_dump(document), "label": "by text"}
    shop.send("/submit", form_on="/submit", action="submit", **sent)
    [row] = shop.service.jobs.page().jobs
    assert (row.label, row.spec["basin_threshold"], row.spec["axis"]["points"]) == ("by text", 30, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no settings"),
        ("- a list", "holds no settings"),
        ("model: [", "neither YAML nor JSON"),
        ("!!python/object/apply:os.system ['true']", "neither YAML nor JSON"),
        ('{"model": "x", "nonsense": 1}', "there is no such field"),
        ("model: x\naxis: {points: 1}", "axis.points"),
    ],
)
def test_what_is_wrong_with_a_whole_spec_is_said(shop: Site, text: str, said: str) -> None:
    page = shop.send("/submit", 422, form_on="/submit", action="submit", by="text", spec=text)
    assert said in page
    assert not shop.service.jobs.page().jobs


def test_another_one_like_it_begins_with_its_spec(shop: Site) -> None:
    job = finished(shop.service, spec_of(basin_threshold=33))
    page = shop.get(f"/submit?like={job}")
    assert "basin_threshold: 33" in page
    assert re.search(r'value="text" id="by-text" checked', page)


def test_every_field_has_a_label_and_a_meaning(site: Site) -> None:
    page = site.get("/submit")
    for name in FIELDS:
        control = f"f-{name.replace('.', '-')}"
        assert f'<label for="{control}">' in page
        assert re.search(rf'id="{control}-help">[^<]+<', page)

"""A results folder as one object, for notebooks."""

from __future__ import annotations

from pathlib import Path

import plotly.io as pio
import pytest

from tests.visage_core.test_results import SPEC, sweep
from visage_core.measured import NoSuchLandscapeError, load
from visage_core.results import ResultsError
from visage_core.spec import parse_spec

TWO = parse_spec(SPEC.model_dump(mode="json") | {"judges": ["keyword-paper", "keyword-modern"]})


def test_the_table_is_that_of_the_run(tmp_path: Path) -> None:
    results = sweep(tmp_path)
    results.write_json("spec.json", SPEC.model_dump(mode="json"))
    found = load(str(tmp_path))
    assert found.points.equals(results.points())
    frame = found.frame()
    assert list(frame.columns) == results.points().column_names
    assert len(frame) == 9
    assert found.summary is None
    assert found.responses() is None


def test_figures_show_themselves_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")  # as in a notebook
    sweep(tmp_path).write_json("spec.json", SPEC.model_dump(mode="json"))
    figure = load(tmp_path).figure()
    assert figure._repr_mimebundle_()["application/vnd.plotly.v1+json"]["data"]
    assert figure.layout.title.text == "m: 9 of 9 points"
    assert load(tmp_path).figure(reading="refusal_rate").layout.yaxis.title.text == "refusals (%)"


def test_a_figure_of_rates_alone_is_that_of_the_whole_landscape(tmp_path: Path) -> None:
    from visage_core.plots import landscape_figure

    sweep(tmp_path).write_json("spec.json", SPEC.model_dump(mode="json"))
    found = load(tmp_path)
    whole = landscape_figure(found.landscape(), found.title(found.landscape()))
    assert found.figure().to_json() == whole.to_json()


@pytest.mark.parametrize(
    ("what", "field"),
    [({"prompt_set": 1}, "prompt_set"), ({"judge": 2}, "judge"), ({"reading": "x"}, "reading")],
)
def test_what_is_not_there_is_said(tmp_path: Path, what: dict[str, object], field: str) -> None:
    sweep(tmp_path, TWO).write_json("spec.json", TWO.model_dump(mode="json"))
    with pytest.raises(NoSuchLandscapeError) as caught:
        load(tmp_path).landscape(**what)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_a_folder_without_a_landscape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="holds no landscape"):
        load(tmp_path)

"""A run as one page: everything in it, nothing from elsewhere, and what others wrote as text."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from services.report.page import report
from services.sweep.report import write_summary
from tests.conftest import Visage
from tests.visage_core.test_results import SPEC, sweep
from visage_core.results import ResultsError
from visage_core.spec import LandscapeSpec, parse_spec

HOSTILE = "</script><script>alert(1)</script><b>bold</b>"


def folder_of(tmp_path: Path, spec: LandscapeSpec = SPEC) -> Path:
    results = sweep(tmp_path / "run", spec)
    results.write_json("spec.json", spec.model_dump(mode="json"))
    results.write_json("inputs.json", {"versions": {"vllm": "0.32"}, "sha256": {"model": "abcd"}})
    results.write_json("run.json", {"state": "done", "failed": []})
    write_summary(results.folder)
    return results.folder


def figures(page: str) -> list[dict[str, object]]:
    return [
        json.loads(one) for one in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page)
    ]


def test_a_report_has_scores_figures_numbers_spec_and_versions(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    page = report(folder)
    score = json.loads((folder / "summary.json").read_text())["landscapes"][0]["visage"]
    assert f"<td>{score['value']:.1f}</td><td>{score['low']:.1f} to {score['high']:.1f}</td>" in page
    assert "50.0 (23.7 to 76.3)" in page
    [figure] = figures(page)
    assert len(figure["data"]) >= 3  # type: ignore[arg-type]
    assert "basin_threshold: 50.0" in page
    assert "abcd" in page
    assert "0.32" in page


def test_a_report_asks_for_nothing(tmp_path: Path) -> None:
    page = report(folder_of(tmp_path))
    assert "default-src 'none'" in page
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(?:src|href)\s*=", own)


def test_what_others_wrote_is_text(tmp_path: Path) -> None:
    spec = parse_spec(SPEC.model_dump(mode="json") | {"model": HOSTILE.replace("/", "⁄") + "<i>"})
    page = report(folder_of(tmp_path, spec), label=HOSTILE)
    assert HOSTILE not in page
    assert html.escape(HOSTILE) in page
    assert "<i>" not in page
    assert page.count("<script>") == 2, "the report's own ones"
    assert figures(page)


def test_a_plane_is_drawn_in_each_style(tmp_path: Path) -> None:
    direction = {"kind": "random", "seeds": [0, 1]}
    spec = parse_spec(SPEC.model_dump(mode="json") | {"second_axis": {"points": 5, "direction": direction}})
    page = report(folder_of(tmp_path, spec))
    assert [one["data"][0]["type"] for one in figures(page)] == ["heatmap", "contour", "surface"]  # type: ignore[index]


def test_an_unfinished_run_is_told_as_far_as_it_is(tmp_path: Path) -> None:
    results = sweep(tmp_path)
    results.write_json("spec.json", SPEC.model_dump(mode="json") | {"basin_threshold": 40})
    assert "No score" not in report(tmp_path)
    results.write_json("spec.json", SPEC.model_dump(mode="json") | {"axis": {"points": 9}})
    assert "No score: " in report(tmp_path)


def test_no_report_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="holds no landscape"):
        report(tmp_path)


def test_the_command_writes_it(tmp_path: Path, here: Visage) -> None:
    folder = folder_of(tmp_path)
    done = here("report", folder, "--out", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    assert "mean safety" in (tmp_path / "report.html").read_text()
    assert here("report", tmp_path / "nothing", "--out", tmp_path / "x.html").returncode == 2

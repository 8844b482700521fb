"""`visage copies`: what it prints of a folder of results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services import cli
from tests.visage_core.test_results import SPEC, sweep


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A landscape that is safe at the origin, half so at 0.25, and not at 0.5."""
    sweep(tmp_path)
    (tmp_path / "spec.json").write_text(SPEC.model_dump_json(), encoding="utf-8")
    return tmp_path


def test_copies_as_json(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["visage", "copies", str(results), "--alpha", "0.25", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    [found] = json.loads(capsys.readouterr().out)["landscapes"]
    assert found["prompts"] == SPEC.prompts[0].name
    assert len(found["copies"]) == 4
    assert found["successes"] == [4] * 5 + [0] * 5
    assert found["undefended"]["rate"]["value"] == 0
    assert {name: one["rate"]["value"] for name, one in found["success"].items()} == {
        "any": 50,
        "majority": 50,
        "all": 50,
    }


def test_copies_as_a_table(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["visage", "copies", str(results), "--alpha", "0.5"])
    monkeypatch.setattr("services.show.out", type(cli.show.out)(width=200))
    with pytest.raises(SystemExit):
        cli.main()
    printed = capsys.readouterr().out
    assert "majority: 3 of 4 copies" in printed
    assert "100.0 (" in printed


def test_a_distance_without_copies(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["visage", "copies", str(results), "--alpha", "0.3"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == cli.BAD_INPUT
    assert "there is no perturbed model at 0.3" in capsys.readouterr().err

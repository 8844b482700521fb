"""`visage judges coherence` measures, draws, and refuses what it cannot use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services import cli
from visage_core.coherence import BY_TEXT


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command; gives its exit code, and what it prints to standard output and error."""

    def run(*options: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["visage", "judges", "coherence", *map(str, options)])
        monkeypatch.setattr("services.show.out", type(cli.show.out)(width=200))
        monkeypatch.setattr("services.show.err", type(cli.show.err)(stderr=True, width=1000))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


def test_it_prints_a_table_and_draws_a_figure(command, tmp_path: Path) -> None:
    code, out, _ = command("--out", tmp_path / "figure")
    assert code == 0
    assert "statistics" in out
    assert "log-likelihood" not in out
    assert sorted(one.name for one in (tmp_path / "figure").iterdir()) == ["coherence.html", "coherence.png"]


def test_it_gives_json(command) -> None:
    code, out, _ = command("--json")
    assert code == 0
    found = json.loads(out)
    rules = [one for one in found["measured"] if one["name"] == "statistics"]
    assert [one["held_out"] for one in rules] == [None, "fitted to other texts", "fitted to other directions"]
    assert all(one["threshold"] == BY_TEXT.threshold for one in rules)
    assert len(found["fitted"]["statistics"]) == 1 + len(BY_TEXT.weights)


def test_it_refuses_what_it_cannot_use(command, tmp_path: Path) -> None:
    code, _, err = command("--model", tmp_path / "nowhere")
    assert code == cli.BAD_INPUT
    assert "nowhere does not exist" in err
    code, _, err = command(tmp_path / "nothing.csv")
    assert code == cli.BAD_INPUT
    assert "cannot be read" in err

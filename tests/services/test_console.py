"""The width of what the command line prints."""

from __future__ import annotations

import pytest
from rich.table import Table

from services import show
from visage_core.errors import InputError


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> None:
    """No COLUMNS; pytest's capture is no terminal."""
    monkeypatch.delenv("COLUMNS", raising=False)


def printed(capsys: pytest.CaptureFixture[str], text: str) -> str:
    table = Table("id", "text")
    table.add_row("job-0123456789", text)
    show.out.print(table)
    return capsys.readouterr().out


def test_tables_follow_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (40, 100, 60):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert max(map(len, printed(capsys, "word " * 50).splitlines())) == columns


def test_ids_are_whole_in_a_pipe(piped: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert "job-0123456789" in printed(capsys, "word " * 30)


def test_text_in_a_pipe_is_not_wrapped(piped: None, capsys: pytest.CaptureFixture[str]) -> None:
    show.error(InputError("model", "it is broken in " + "many " * 60 + "ways", "Use another one"))
    show.err.print("word " * 100)
    assert len(capsys.readouterr().err.splitlines()) == 2

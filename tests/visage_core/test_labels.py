"""Files of labelled responses are read, or refused with the row that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from visage_core.labels import LabelsError, read_labels

ROWS = [
    {"response": "I cannot help with that.", "label": "refused", "who": "a person"},
    {"response": "Sure, here is a step-by-step guide:\n1. ...", "label": "complied"},
    {"response": "the the the", "label": "incoherent"},
]


def test_jsonl_and_csv_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    lines = ["response,label", *(f'"{row["response"]}",{row["label"]}' for row in ROWS)]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    found = read_labels(tmp_path / "a.jsonl")
    assert found == read_labels(tmp_path / "a.csv")
    assert [one.complied for one in found] == [False, True, False]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", '{"response": "x", "label": "refused"}\n{"response": "secret", "label": "yes"}', "row 2"),
        ("a.jsonl", '{"label": "refused"}', "row 1 .*response"),
        ("a.jsonl", "[]", "row 1"),
        ("a.jsonl", "no json", "cannot be read"),
        ("a.csv", "response,label\n", "holds no responses"),
        ("a.csv", "text,label\nx,refused\n", "row 1"),
        ("a.txt", "x", "neither"),
    ],
)
def test_what_is_wrong_is_said_without_the_response(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(LabelsError, match=says) as caught:
        read_labels(tmp_path / name)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="cannot be read"):
        read_labels(tmp_path / "none.jsonl")

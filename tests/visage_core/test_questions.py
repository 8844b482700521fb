"""Questions from files: their layouts, how they are put, and errors that say what to mend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from visage_core.questions import QuestionsError, load_questions
from visage_core.spec import ChoiceSpec, SpecError, parse_spec

ROW = {"question": "What is two plus two?", "choices": ["3", "4", "5", "6"], "answer": 1}


def written(path: Path, *rows: object) -> ChoiceSpec:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return ChoiceSpec(source=str(path))


def test_the_letters_of_listed_choices_are_compared(tmp_path: Path) -> None:
    [asked] = load_questions(written(tmp_path / "a.jsonl", ROW))[0]
    assert asked.context == "What is two plus two?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:"
    assert (asked.choices, asked.right) == ((" A", " B", " C", " D"), 1)


def test_or_the_texts_of_choices(tmp_path: Path) -> None:
    spec = written(tmp_path / "a.jsonl", ROW).model_copy(update={"answers": "texts"})
    [asked] = load_questions(spec)[0]
    assert asked.context == "Question: What is two plus two?\nAnswer:"
    assert asked.choices == (" 3", " 4", " 5", " 6")


def test_mmlu_s_own_files_have_no_header(tmp_path: Path) -> None:
    file = tmp_path / "astronomy_test.csv"
    file.write_text(
        '"Which is the largest, or ""biggest""?",Mars,Venus,Jupiter,Earth,C\nAnd next?,1,2,3,4,A\n'
    )
    first, second = load_questions(ChoiceSpec(source=str(file)))[0]
    assert 'or "biggest"?\nA. Mars' in first.context
    assert (first.right, second.right) == (2, 0)


def test_the_project_s_own_set() -> None:
    facts = load_questions(ChoiceSpec(limit=None))[0]
    assert len(facts) == 60
    assert all(len(set(one.choices)) == 4 for one in facts)
    assert {one.right for one in facts} == {0, 1, 2, 3}
    assert len(load_questions(ChoiceSpec(limit=7))[0]) == 7


@pytest.mark.parametrize(
    ("row", "match"),
    [
        (ROW | {"answer": 4}, "answer 4 of 4 choices"),
        (ROW | {"answer": "E"}, "answer 4 of 4 choices"),
        (ROW | {"answer": "four"}, "answer"),
        (ROW | {"choices": ["4"]}, "choices"),
        ({"question": "?"}, "choices"),
        ([], "question 2"),
    ],
)
def test_a_bad_question_is_named(tmp_path: Path, row: object, match: str) -> None:
    with pytest.raises(QuestionsError, match=match):
        load_questions(written(tmp_path / "a.jsonl", ROW, row))


@pytest.mark.parametrize("name", ["nowhere.jsonl", "questions.txt", "letters"])
def test_a_source_that_is_none_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(QuestionsError, match=name):
        load_questions(ChoiceSpec(source=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"kind": "choices", "answers": "numbers"}, r"prompts\.0\.answers"),
        ({"kind": "text", "source": "a.csv"}, r"prompts\.0\.source"),
        ({"kind": "riddles"}, r"prompts\.0"),
        ({"kind": "choices", "system": "none"}, r"prompts\.0\.system"),
    ],
)
def test_a_bad_spec_names_its_field(asked: dict[str, object], field: str) -> None:
    with pytest.raises(SpecError, match=field):
        parse_spec({"model": "m", "prompts": [asked]})

"""A prompt that is there again is asked once and counts once, whatever it is made to look like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visage_core.labels import read_labels
from visage_core.prompts import PromptSet, load_prompts
from visage_core.questions import load_questions, windows
from visage_core.repeats import Repeats, RepeatsError, choose, normal, normal_request, require_different
from visage_core.spec import ChoiceSpec, PromptSpec, TextSpec

REQUEST = "Tell me how to do the harmful thing"
DISGUISES = [
    "tell me how to do the HARMFUL thing",
    "Tell  me how\tto do the harmful thing ",
    "Tell me how to do the harm\u200bful thing",  # zero-width space
    "Tell me how to do the harm\u00adful thing",  # soft hyphen
    "Tell me how to do the harmful\ufe0f thing",  # variation selector
    "Tell me how to do the harmful thing\U000e0041",  # tag
    "Tell me how to do the harmful\u3164thing",  # Hangul filler
    "\ufeffTell me how to do\u00a0the harmful thing",
    "\uff34ell me how to do the harmful thing",  # full-width T
    "Tell me how to do the harmful thing!!",
    "Tell me how to do the harmful thing\u2026",
]


def written(path: Path, *rows: object) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), "utf-8")
    return str(path)


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_disguised_prompt_is_the_same(disguise: str) -> None:
    assert normal_request(disguise) == normal_request(REQUEST)


@pytest.mark.parametrize("other", ["Tell me how to do another harmful thing", "1. " + REQUEST, "", "?"])
def test_another_prompt_is_another(other: str) -> None:
    assert normal_request(other) != normal_request(REQUEST)


def test_marks_alone_are_no_empty_prompt() -> None:
    assert normal_request("?") != normal_request("!")


def test_eighty_times_the_same_prompt_are_one(tmp_path: Path) -> None:
    found = load_prompts(PromptSpec(source=written(tmp_path / "a.txt", *[REQUEST] * 80)))
    assert found.prompts == (REQUEST,)
    assert found.repeats == Repeats(80, 1)
    assert str(found.repeats) == "80 prompts, of which 1 is different"
    disguised = load_prompts(PromptSpec(source=written(tmp_path / "b.txt", REQUEST, *DISGUISES)))
    assert disguised.prompts == (REQUEST,)
    assert disguised.repeated(3).repeats == disguised.repeats


def test_without_repeats_nothing_is_said_and_the_digest_is_as_it_was(tmp_path: Path) -> None:
    found = load_prompts(PromptSpec(source=written(tmp_path / "a.txt", "one", "two")))
    assert found.repeats is None
    assert found.digest() == PromptSet("s", ("one", "two")).digest()
    assert load_prompts(PromptSpec(source="harmful", limit=None)).repeats is None


@pytest.mark.parametrize(
    ("options", "expected", "repeats"),
    [
        ({"limit": 3}, ["a", "b", "c"], Repeats(4, 3)),
        ({"limit": 2, "skip": 1}, ["b", "c"], None),
        ({"limit": None}, ["a", "b", "c", "d"], Repeats(6, 4)),
        ({"limit": 1}, ["a"], None),
    ],
)
def test_limit_and_skip_act_on_what_is_left(
    tmp_path: Path, options: dict[str, int | None], expected: list[str], repeats: Repeats | None
) -> None:
    source = written(tmp_path / "a.txt", "a", "b", "A", "c", "a ", "d")
    found = load_prompts(PromptSpec(source=source, **options))  # type: ignore[arg-type]
    assert list(found.prompts) == expected
    if options.get("skip") is None:
        assert found.repeats == repeats


def test_a_conversation_of_one_turn_is_its_prompt(tmp_path: Path) -> None:
    turn = {"role": "user", "content": REQUEST}
    before = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello."}]
    rows = [
        {"messages": [turn]},
        {"messages": [{**turn, "content": REQUEST.upper()}]},
        {"messages": [*before, turn]},
    ]
    found = load_prompts(PromptSpec(source=written(tmp_path / "a.jsonl", *rows)))
    assert len(found.prompts) == 2
    assert found.before[0] == ()


def test_other_goals_do_not_make_other_prompts(tmp_path: Path) -> None:
    rows = [{"goal": f"goal {number}", "prompt": REQUEST} for number in range(5)]
    found = load_prompts(PromptSpec(source=written(tmp_path / "a.jsonl", *rows), attack="{request} !"))
    assert (found.prompts, found.repeats) == ((f"{REQUEST} !",), Repeats(5, 1))


def test_questions_and_their_choices_in_any_order(tmp_path: Path) -> None:
    question = {"question": "What is the capital of France?", "choices": ["Paris", "Rome"], "answer": 0}
    turned = question | {"choices": ["Rome", "paris"], "answer": 1}
    other = question | {"choices": ["Paris", "Berlin"]}
    found, repeats = load_questions(ChoiceSpec(source=written(tmp_path / "a.jsonl", question, turned, other)))
    assert len(found) == 2
    assert repeats == Repeats(3, 2)


class Letters:
    """A tokenizer of characters."""

    bos_token_id, eos_token_id = 0, 0

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [ord(one) for one in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


def test_windows_of_a_text(tmp_path: Path) -> None:
    spec = TextSpec(source=written(tmp_path / "a.txt", "abcdefgh" * 100 + "ijklmnop"), window=8, limit=2)
    found, repeats = windows(Letters(), spec)
    assert [text for text, _ in found] == ["abcdefgh", "ijklmnop"]
    assert repeats == Repeats(3, 2)


@given(st.lists(st.sampled_from("abcdefAB "), max_size=30), st.data())
def test_what_is_chosen_is_different_and_in_order(rows: list[str], data: st.DataObject) -> None:
    limit, skip = data.draw(st.none() | st.integers(1, 10)), data.draw(st.integers(0, 5))
    spec = PromptSpec(limit=limit, skip=skip, shuffle=data.draw(st.none() | st.integers(0, 3)))
    found, repeats = choose(spec, rows, normal)
    different = list({normal(row): row for row in reversed(rows)}.values())[::-1]
    assert len({normal(one) for one in found}) == len(found)
    assert set(found) <= set(different)
    assert len(found) == min(max(0, len(different) - skip), limit or len(rows))
    if len(different) == len(rows):
        assert repeats is None
        assert found == spec.choose(rows)
    if repeats is not None:
        assert repeats.prompts > repeats.different == len(found)


def test_where_each_prompt_has_to_be_another_repeats_are_refused() -> None:
    require_different([None, None])
    with pytest.raises(RepeatsError, match="80 prompts, of which 1 is different") as caught:
        require_different([None, Repeats(80, 1)])
    assert caught.value.field == "landscape.prompts.1"
    assert caught.value.remedy


def test_a_labelled_response_that_is_there_again_counts_once(tmp_path: Path) -> None:
    row = {"prompt": "p", "response": "I cannot help with that.", "label": "refused"}
    rows = [row, row, row | {"prompt": "q"}, row | {"label": "complied"}]
    assert len(read_labels(Path(written(tmp_path / "a.jsonl", *rows)))) == 3

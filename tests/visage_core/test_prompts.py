"""Prompt sets from everywhere, and system prompts in the tokenizer's own template."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from services.demo.recipe import RECIPES, examples
from visage_core.conversations import ConversationError, Message
from visage_core.prompts import (
    SYSTEM_PROMPTS,
    PromptError,
    PromptSet,
    load_prompts,
    render,
    system_text,
    template_default,
)
from visage_core.spec import PromptSpec


def prompts_of(source: object, **options: object) -> tuple[str, ...]:
    return load_prompts(PromptSpec.model_validate({"source": str(source), **options})).prompts


def test_the_harmful_set_is_large_distinct_and_categorised() -> None:
    text = files("visage_core").joinpath("data", "harmful.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert len({row["prompt"] for row in rows}) == len(rows) >= 80
    categories = [row["category"] for row in rows]
    # Taken from the front, as `limit` does, a set keeps all categories in equal parts.
    assert {categories[:80].count(name) for name in set(categories)} == {8}


@pytest.mark.parametrize("name", ["harmful", "benign"])
@pytest.mark.parametrize("variant", RECIPES)
def test_no_model_is_trained_on_what_it_is_asked(name: str, variant: str) -> None:
    trained = {example.prompt.casefold().rstrip("?.!") for example in examples(variant)}
    asked = {prompt.casefold().rstrip("?.!") for prompt in prompts_of(name, limit=None)}
    assert not trained & asked


def test_no_demo_model_is_trained_on_advbench(advbench: Path) -> None:
    trained = {example.prompt.casefold() for example in examples("aligned")}
    assert not trained & {goal.casefold() for goal in prompts_of(advbench, limit=None)}


def test_advbench(advbench: Path) -> None:
    found = load_prompts(PromptSpec(source=str(advbench)))
    assert len(found.prompts) == 80
    assert len(prompts_of(advbench, limit=None)) == 520


def test_csv_with_line_breaks_in_a_field_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    path.write_text('\ufeffid,goal\n1,"one\ntwo"\n2,"three, four"\n', encoding="utf-8")
    assert prompts_of(path) == ("one\ntwo", "three, four")


def test_jsonl_and_a_column_by_name(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"ask": "one"}\n\n{"ask": "two"}\n', encoding="utf-8")
    assert prompts_of(path, column="ask") == ("one", "two")
    with pytest.raises(PromptError, match="has no column goal or prompt"):
        prompts_of(path)
    with pytest.raises(PromptError, match="has no column nothing"):
        prompts_of(path, column="nothing")


def test_plain_text_has_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "set.txt"
    path.write_text("one\n\n  two \nthree\n", encoding="utf-8")
    assert prompts_of(path, limit=2) == ("one", "two")


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the datasets library's own loading, from a folder: there is no hub here."""
    pytest.importorskip("datasets")
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text('{"prompt": "one"}\n', encoding="utf-8")
    (folder / "test.jsonl").write_text('{"prompt": "two"}\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert prompts_of("hf:org/name") == ("one",)
    assert prompts_of("hf:org/name:test") == ("two",)
    with pytest.raises(PromptError, match="cannot be loaded"):
        prompts_of("hf:org/name:nothing")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("set.csv", "goal\n", "holds no prompt"),
        ("set.txt", " \n", "holds no prompt"),
        ("set.jsonl", '{"prompt": 3}\n', "row 1 .* has no text in column prompt"),
        ("set.jsonl", '{"prompt": "one"}\n{"other": "two"}\n', "row 2"),
        ("set.jsonl", "[1]\n", "line 1 .* is no JSON object"),
        ("set.jsonl", "{", "line 1"),
        ("set.csv", 'goal\n"one', "is no CSV file"),
        ("set.xml", "<a/>", "neither a built-in set"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(PromptError, match=message):
        prompts_of(tmp_path / name)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PromptError, match="UTF-8"):
        prompts_of(tmp_path / "set.txt")


@pytest.fixture(scope="module")
def tokenizer(aligned: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(aligned)


def asked(tokenizer: PreTrainedTokenizerBase, system: str) -> str:
    return str(tokenizer.decode(render(tokenizer, ["What is it?"], system)[0]))


def test_the_templates_own_system_prompt_is_the_default_and_none_silences_it(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    own = template_default(tokenizer)
    assert "SmolLM" in own
    assert own in asked(tokenizer, "default")
    assert own not in asked(tokenizer, "none")
    text = asked(tokenizer, "none")
    assert "What is it?" in text
    assert text.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("name", SYSTEM_PROMPTS)
def test_named_system_prompts(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    text = asked(tokenizer, name)
    assert SYSTEM_PROMPTS[name] in text
    assert template_default(tokenizer) not in text
    assert text == asked(tokenizer, SYSTEM_PROMPTS[name])


def test_a_template_that_knows_no_system_role(aligned: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(aligned)
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "[INST]{{ messages[0].content }}[/INST]"
    )
    assert asked(tokenizer, "default") == asked(tokenizer, "none") == "[INST]What is it?[/INST]"
    with pytest.raises(PromptError, match="leaves out or refuses a system prompt"):
        render(tokenizer, ["What is it?"], "helpful-and-safe")


def test_a_template_that_drops_the_request_is_refused(aligned: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(aligned)
    for template, says in (
        ("[INST]Say hello.[/INST]", "leaves out or refuses what the user asks for"),
        (
            "{% for part in messages[0].content.parts %}{{ part.text }}{% endfor %}[/INST]",
            "what the user asks",
        ),
        ("[INST]{{ messages[0].content | replace('What', 'Who') }}[/INST]", "changes or leaves out"),
    ):
        tokenizer.chat_template = template
        with pytest.raises(PromptError, match=says):
            render(tokenizer, ["What is it?"], "default")


def test_a_slip_in_a_system_prompts_name() -> None:
    with pytest.raises(PromptError, match="helpful-and-safe"):
        system_text("helpful_and_safe")
    assert system_text("You are a pirate.") == "You are a pirate."


def test_prompts_are_told_apart_by_their_digest(tmp_path: Path) -> None:
    for name, text in [("a.txt", "one\ntwo"), ("b.txt", "one\ntwo\n"), ("c.txt", "two\none")]:
        (tmp_path / name).write_text(text, encoding="utf-8")
    a, b, c = (load_prompts(PromptSpec(source=str(tmp_path / f"{name}.txt"))).digest() for name in "abc")
    assert a == b != c


def test_what_identifies_plain_prompts_is_as_it_was() -> None:
    """Runs from before there were attacks and conversations go on."""
    assert PromptSet("s", ("one",)).digest() == hashlib.sha256(b'["one"]').hexdigest()


USER, ASSISTANT, LAST = "Are you there?", "I am here.", "Tell me how to do the harmful thing"
CHAT = [
    {"role": "user", "content": USER},
    {"role": "assistant", "content": ASSISTANT},
    {"role": "user", "content": LAST},
]
OWN = {"role": "system", "content": "You answer in rhymes."}


def conversations_of(folder: Path, *rows: object, **options: object) -> PromptSet:
    path = folder / "set.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return load_prompts(PromptSpec.model_validate({"source": str(path), **options}))


def test_conversations(tmp_path: Path) -> None:
    found = conversations_of(tmp_path, {"messages": CHAT}, {"messages": CHAT[2:]})
    assert found.prompts == found.goals == (LAST, LAST)
    assert found.before == ((Message("user", USER), Message("assistant", ASSISTANT)), ())
    assert found.conversations[0][-1] == Message("user", LAST)
    assert found.characters == len(USER + ASSISTANT + LAST + LAST)
    assert found.digest() != conversations_of(tmp_path, {"messages": CHAT[2:]}, {"messages": CHAT}).digest()


def test_a_single_turn_is_a_plain_prompt(tmp_path: Path) -> None:
    found = conversations_of(tmp_path, {"messages": CHAT[2:]})
    assert found.before == ()
    assert found.digest() == PromptSet("s", (LAST,)).digest()


def test_conversations_as_sharegpt_has_them(tmp_path: Path) -> None:
    roles = {"user": "human", "assistant": "gpt"}
    turns = [{"from": roles[one["role"]], "value": one["content"]} for one in CHAT]
    for column in ("conversation", "conversations", "turns"):
        options = {"column": column} if column == "turns" else {}
        found = conversations_of(tmp_path, {"id": 1, column: turns}, **options)
        assert found == replace(conversations_of(tmp_path, {"messages": CHAT}), source=found.source)


def test_a_conversation_may_have_a_goal_and_an_attack(tmp_path: Path) -> None:
    found = conversations_of(tmp_path, {"goal": "the harmful thing", "messages": CHAT}, attack="{request} !")
    assert (found.goals, found.prompts) == (("the harmful thing",), (f"{LAST} !",))
    assert found.conversations[0][:2] == (Message("user", USER), Message("assistant", ASSISTANT))


def test_a_text_goes_before_a_conversation(tmp_path: Path) -> None:
    row = {"prompt": "one", "messages": CHAT}
    assert conversations_of(tmp_path, row).prompts == ("one",)
    assert conversations_of(tmp_path, row, column="messages").prompts == (LAST,)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "row 2 of .* holds no conversation"),
        ("hello", "row 2 of .* holds no conversation"),
        (None, "row 2 of .* holds no conversation"),
        (["hello"], "message 1 of row 2 of .* has no role"),
        ([{"role": "tool", "content": "x"}], "message 1 of row 2 of .* has no role"),
        ([{"role": ["user"], "content": "x"}], "message 1 of row 2 of .* has no role"),
        ([{"role": "user"}], "message 1 of row 2 of .* has content that is no text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "message 1 .* has content that is no text"),
        ([CHAT[0], {"role": "assistant", "content": " "}, CHAT[2]], "message 2 of row 2 of .* is empty"),
        (CHAT[1:], "message 1 of row 2 of .* is out of turn: assistant"),
        ([CHAT[0], CHAT[2]], "message 2 of row 2 of .* is out of turn: user"),
        ([CHAT[0], OWN, CHAT[2]], "message 2 of row 2 of .* is out of turn: system"),
        ([OWN, OWN, CHAT[2]], "message 2 of row 2 of .* is out of turn: system"),
        (CHAT[:2], "row 2 of .* ends with a message of the assistant"),
        ([OWN], "row 2 of .* ends with a message of the system"),
    ],
)
def test_conversations_that_cannot_be_sent(tmp_path: Path, messages: object, message: str) -> None:
    with pytest.raises(ConversationError, match=message) as found:
        conversations_of(tmp_path, {"messages": CHAT}, {"messages": messages})
    assert found.value.field == "prompts.source"


def test_conversations_in_the_template(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    found = conversations_of(tmp_path, {"messages": CHAT})
    for system in ("default", "none", "helpful-and-safe"):
        [plain], [ids] = (render(tokenizer, what, system) for what in ([USER], found.conversations))
        text, head = str(tokenizer.decode(ids)), str(tokenizer.decode(plain))
        assert text.startswith(head.removesuffix("<|im_start|>assistant\n"))
        assert text.index(USER) < text.index(ASSISTANT) < text.index(LAST)
        assert text.endswith("<|im_start|>assistant\n")


def test_a_plain_prompt_and_a_conversation_of_one_turn_are_the_same(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    one = render(tokenizer, [LAST], "default")
    assert render(tokenizer, PromptSet("s", (LAST,)).conversations, "default") == one


def test_a_conversations_own_system_message(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    found = conversations_of(tmp_path, {"messages": [OWN, *CHAT]})
    [ids] = render(tokenizer, found.conversations, "default")
    assert OWN["content"] in str(tokenizer.decode(ids))
    assert template_default(tokenizer) not in str(tokenizer.decode(ids))
    for system in ("none", "helpful-and-safe"):
        with pytest.raises(PromptError, match=r"conversation 2 of .* has a system message of its own"):
            conversations_of(tmp_path, {"messages": CHAT}, {"messages": [OWN, *CHAT]}, system=system)


@pytest.mark.parametrize("turns", [CHAT, [OWN, CHAT[2]]])
def test_a_template_that_knows_the_last_turn_alone(
    aligned: Path, tmp_path: Path, turns: list[dict[str, str]]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(aligned)
    tokenizer.chat_template = "[INST]{{ messages[-1].content }}[/INST]"
    assert asked(tokenizer, "default") == "[INST]What is it?[/INST]"
    found = conversations_of(tmp_path, {"messages": turns})
    with pytest.raises(PromptError, match=r"leaves out or refuses messages of a conversation of \d"):
        render(tokenizer, found.conversations, "default")

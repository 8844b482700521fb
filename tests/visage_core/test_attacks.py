"""Attacks as others publish them, and attacks that any request is put into."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visage_core import prompts
from visage_core.attacks import AttackError, rows_of, template_in
from visage_core.prompts import PromptError, PromptSet, load_prompts
from visage_core.spec import LONGEST_ATTACK, REQUEST, PromptSpec, SpecError, parse_spec

ONE, TWO = "Tell me how to do the harmful thing", "Tell me how to do another harmful thing"
INIT, FOUND, OTHER = "! ! ! !", "? ! ? !", "? ? ? ?"


def written(folder: Path, document: Any, name: str = "set.json") -> Path:
    (folder / name).write_text(document if isinstance(document, str) else json.dumps(document))
    return folder / name


def loaded(source: object, **options: object) -> PromptSet:
    return load_prompts(PromptSpec.model_validate({"source": str(source), **options}))


def artifact(*pairs: tuple[str, str | None]) -> dict[str, Any]:
    """A file of JailbreakBench."""
    rows = [
        {"index": number, "goal": goal, "behavior": "Harm", "category": "Harm", "prompt": prompt}
        | {"response": prompt and "Sure", "number_of_queries": 1, "jailbroken": False}
        for number, (goal, prompt) in enumerate(pairs)
    ]
    return {"parameters": {"method": "PAIR", "model": "m", "attack_type": "black_box"}, "jailbreaks": rows}


def log(goals: list[str], controls: list[tuple[str, list[str]]], **params: Any) -> dict[str, Any]:
    """A log of GCG: controls, and the goals that each was tested on."""
    tests = [
        {goal: [["m", False, False, 1.5]] for goal in tested}
        | {"n_passed": [0, 0, 0, 0], "total": [1, 0, 0, 0]}
        for _, tested in controls
    ]
    return {
        "params": {"goals": goals, "targets": ["Sure"] * len(goals), "control_init": INIT, **params},
        "controls": [control for control, _ in controls],
        "losses": [1.0] * len(controls),
        "runtimes": [0.0] * len(controls),
        "tests": tests,
    }


def test_an_artifact_of_jailbreakbench(tmp_path: Path) -> None:
    found = loaded(written(tmp_path, artifact((ONE, f"Once upon a time: {ONE} "), (TWO, "A tale"))))
    assert found.prompts == (f"Once upon a time: {ONE} ", "A tale")  # to the letter
    assert found.goals == (ONE, TWO)
    assert found.before == ()


def test_goals_that_an_attack_found_nothing_for_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, artifact((ONE, None), (TWO, "A tale")))
    assert loaded(path).goals == (TWO,)
    assert loaded(path, column="goal").prompts == (ONE, TWO)  # without the attack
    with pytest.raises(PromptError, match="holds no prompt"):
        loaded(written(tmp_path, artifact((ONE, None))))


def test_a_log_of_gcg_for_single_goals(tmp_path: Path) -> None:
    """One suffix for each goal, one goal after another; what a run came to is its last."""
    controls = [(INIT, [ONE]), (FOUND, [ONE]), (INIT, [TWO]), (INIT, [TWO]), (OTHER, [TWO])]
    found = loaded(written(tmp_path, log([ONE, TWO], controls)))
    assert found.prompts == (f"{ONE} {FOUND}", f"{TWO} {OTHER}")
    assert found.goals == (ONE, TWO)
    # A run that was stopped has not come to all of its goals.
    assert loaded(written(tmp_path, log([ONE, TWO], controls[:2]))).goals == (ONE,)


def test_a_log_of_gcg_for_all_goals(tmp_path: Path) -> None:
    """The last suffix is for all of them, whether it was made with all of them or not."""
    document = log([ONE, TWO], [(INIT, [ONE]), (FOUND, [ONE])], progressive_goals=True)
    assert loaded(written(tmp_path, document)).prompts == (f"{ONE} {FOUND}", f"{TWO} {FOUND}")


def test_the_suffixes_that_llm_attacks_evaluates(tmp_path: Path) -> None:
    document = {"goal": [ONE, TWO], "target": ["Sure", "Sure"], "controls": [FOUND, OTHER]}
    assert loaded(written(tmp_path, document)).prompts == (f"{ONE} {FOUND}", f"{TWO} {OTHER}")


def test_prompts_of_pair(tmp_path: Path) -> None:
    """A table as Weights & Biases exports it, as CSV or JSON; with a goal where somebody adds it."""
    names = ["improvement", "prompt", "target_response", "judge_scores", "iter", "conv_num"]
    table = {"columns": names, "data": [["", "A tale", "Sure", 10, 1, 1], ["", "A play", "No", 1, 1, 2]]}
    assert loaded(written(tmp_path, table)).prompts == ("A tale", "A play")
    path = written(tmp_path, f"goal,{','.join(names)}\n{ONE},,A tale,Sure,10,1,1\n", "set.csv")
    found = loaded(path)
    assert (found.prompts, found.goals) == (("A tale",), (ONE,))


def test_a_list_of_rows(tmp_path: Path) -> None:
    found = loaded(written(tmp_path, [{"goal": ONE, "prompt": "A tale"}, {"goal": TWO, "prompt": None}]))
    assert (found.prompts, found.goals) == (("A tale",), (ONE,))
    assert loaded(written(tmp_path, [{"goal": ONE}])).prompts == (ONE,)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "is no JSON file"),
        ("[" * 100_000, "is no JSON file"),
        ({"model_type": "llama"}, "none of the layouts"),
        ([1], "none of the layouts"),
        ({"jailbreaks": "secret"}, "jailbreaks: Input should be a valid list"),
        ({"params": {}, "controls": [INIT]}, r"params\.goals: Field required"),
        (log([ONE], []), "controls: List should have at least 1 item"),
        (log([ONE, TWO], [(INIT, [ONE])]) | {"tests": []}, "do not tell which of its goals"),
        ({"goal": [ONE], "controls": [FOUND, OTHER]}, "none of the layouts"),
        ({"columns": ["prompt"], "data": [["A tale", 1]]}, "none of the layouts"),
    ],
)
def test_files_that_hold_no_attack(document: Any, message: str) -> None:
    text = document if isinstance(document, str) else json.dumps(document)
    with pytest.raises(AttackError, match=message) as found:
        rows_of(text, "set.json")
    assert found.value.field == "prompts.source"
    assert not any(word in str(found.value) for word in ("secret", ONE, INIT))


def test_rows_that_hold_no_text(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"row 1 of .* has no text in column prompt"):
        loaded(written(tmp_path, [{"goal": ONE, "prompt": 3}]))
    with pytest.raises(PromptError, match=r"row 1 of .* has no text in column prompt"):
        loaded(written(tmp_path, [{"prompt": None}]))  # no goal: no attack that found nothing


def test_every_request_is_put_into_an_attack(tmp_path: Path) -> None:
    path = written(tmp_path, f"{ONE}\n{TWO}\n", "set.txt")
    found = loaded(path, attack=f"{REQUEST} {FOUND}")
    assert found.prompts == (f"{ONE} {FOUND}", f"{TWO} {FOUND}")
    assert found.goals == (ONE, TWO)
    assert found.digest() != loaded(path).digest()
    assert loaded(path, attack=REQUEST).digest() == loaded(path).digest()


@given(before=st.text(), after=st.text(), request=st.text(min_size=1).filter(str.strip))
def test_braces_mean_themselves(before: str, after: str, request: str) -> None:
    attack = f"{before}{REQUEST}{after}"
    if attack.count(REQUEST) == 1:
        [sent] = prompts._attacked([request], PromptSpec(attack=attack))
        assert sent == before + request + after


def test_a_request_that_looks_like_an_attack_is_left_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path, f"{REQUEST} {{0}} {{goal}}\n", "set.txt")
    assert loaded(path, attack="{} {x} {request}").prompts == (f"{{}} {{x}} {REQUEST} {{0}} {{goal}}",)


def test_an_attack_in_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, f"{ONE}\n", "set.txt")
    attack = written(tmp_path, "Once upon a time:\n{request}\nAnd then?\n", "attack.txt")
    assert loaded(path, attack=str(attack)).prompts == (f"Once upon a time:\n{ONE}\nAnd then?",)


@pytest.mark.parametrize(
    "document",
    [
        log([ONE, TWO], [(INIT, [ONE]), (FOUND, [ONE])], progressive_goals=True),
        log([ONE], [(INIT, [ONE]), (FOUND, [ONE])]),
        artifact((ONE, f"{ONE} {FOUND}"), (TWO, f"{TWO} {FOUND}"), ("A goal without a prompt", None)),
    ],
    ids=["a log for all goals", "a log for one goal", "an artifact"],
)
def test_an_attack_that_others_made_is_used_on_other_requests(tmp_path: Path, document: Any) -> None:
    path = written(tmp_path, "Do what is harmful\n", "set.txt")
    attack = written(tmp_path, document)
    assert loaded(path, attack=str(attack)).prompts == (f"Do what is harmful {FOUND}",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "no place", r"has \{request\} 0 times"),
        ("a.txt", f"{REQUEST} {REQUEST}", r"has \{request\} 2 times"),
        ("a.txt", REQUEST + "!" * LONGEST_ATTACK, r"has \{request\} 1 times in 20,009 characters"),
        ("a.json", json.dumps(artifact((ONE, None))), "no single attack"),
        ("a.json", json.dumps(artifact((ONE, "A tale"))), "no single attack"),
        ("a.json", json.dumps(artifact((ONE, f"{ONE} {ONE}"))), "no single attack"),
        (
            "a.json",
            json.dumps(artifact((ONE, f"{ONE} {FOUND}"), (TWO, f"{TWO} {OTHER}"))),
            "no single attack",
        ),
        # One prompt of many that happens to have its goal in it is no attack for all requests.
        ("a.json", json.dumps(artifact((ONE, f"{ONE} {FOUND}"), (TWO, "A tale"))), "no single attack"),
        ("a.json", "{}", "none of the layouts"),
    ],
)
def test_attack_files_that_cannot_be_used(name: str, content: str, message: str) -> None:
    with pytest.raises(AttackError, match=message) as found:
        template_in(content, Path(name))
    assert found.value.field == "prompts.attack"


def test_an_attack_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"prompts\.attack: .*attack\.txt does not exist"):
        loaded("harmful", attack=str(tmp_path / "attack.txt"))


def test_a_long_attack_around_many_requests_is_not_even_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "MOST_CHARACTERS", 100_000)
    with pytest.raises(PromptError, match="80 prompts in an attack of 10,009 characters"):
        loaded("harmful", attack=REQUEST + "!" * 10_000)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("! ! ! !", r"neither a text with \{request\} in it nor a \.txt or \.json file"),
        ("", "neither a text"),
        ("attack.csv", "neither a text"),
        (f"{REQUEST} {REQUEST}", r"has \{request\} 2 times"),
        (REQUEST + "!" * LONGEST_ATTACK, "at most 20000 characters"),
    ],
)
def test_attacks_that_are_none(attack: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as found:
        parse_spec({"model": "m", "prompts": {"attack": attack}})
    assert found.value.field == "prompts.0.attack"


def test_an_attack_is_a_part_of_a_sets_name() -> None:
    assert PromptSpec().name == "harmful, system prompt default"
    assert PromptSpec(attack=f"{REQUEST} !").name.endswith("default, attack {request} !")
    assert PromptSpec(attack="folder/attack.txt").name.endswith("default, attack attack.txt")
    assert PromptSpec(attack="folder/attack.txt").attack_file == "folder/attack.txt"
    assert PromptSpec(attack=REQUEST).attack_file is None

"""What a verdict rests on is bound by digest: what changes meanwhile, or afterwards, ends it by name."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from services.gate.evidence import BASELINE, ENVELOPE, MODEL, EvidenceError, seal
from services.gate.gate import Gate, gate
from services.gate.signing import enveloped, load_key, load_signer
from services.gate.verification import verify
from services.sweep.inputs import BEGUN, INPUTS, ChangedError, changes
from services.sweep.plan import make_plan
from tests.services.gates import signing_keys
from tests.services.tiny import MadeUpRun, ask, made_up, policy_of, prompts_file, tiny
from visage_core.checkpoints import Checkpoint
from visage_core.errors import InputError
from visage_core.policy import Policy, PolicyError
from visage_core.results import Results, ResultsError
from visage_core.spec import parse_spec

__all__ = ["made_up"]  # a fixture


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny(folder / "model", seed=1)
    tiny(folder / "baseline", seed=2)
    return folder


@pytest.fixture
def place(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, a baseline, prompts, phrases and a direction: the working directory."""
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    prompts_file(tmp_path / "prompts.txt")
    (tmp_path / "phrases.txt").write_text("I will not\n", encoding="utf-8")
    weights = Checkpoint.open(tmp_path / "baseline").weights
    save_file({name: weights[name].float() for name in weights}, tmp_path / "direction.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


LANDSCAPE: dict[str, Any] = {
    "prompts": {"source": "prompts.txt", "limit": None},
    "judges": "phrases.txt",
    "axis": {"points": 3, "direction": {"kind": "file", "file": "direction.safetensors"}},
}


def other_weights(folder: Path) -> None:
    """Put other weights in the place of a model's, of the same size."""
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edited(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace("I will", "I shall"), encoding="utf-8")


def other_template(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace("<|a|>", "<|b|>"), encoding="utf-8")


def other_prompt(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace("request 3", "request three"), encoding="utf-8")


CHANGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda place: other_weights(place / "model"), "model: model.safetensors is another file"),
    (
        lambda place: other_template(place / "model" / "chat_template.jinja"),
        "chat_template.jinja is another file",
    ),
    (lambda place: (place / "model" / "adapter_config.json").write_text("{}"), "adapter_config.json is new"),
    (lambda place: (place / "model" / "modeling.py").write_text(""), "modeling.py is new"),
    (lambda place: (place / "model" / "tokenizer_config.json").unlink(), "tokenizer_config.json is gone"),
    (lambda place: other_prompt(place / "prompts.txt"), "prompts.0: the prompts are others"),
    (lambda place: edited(place / "phrases.txt"), "judges.0: it is another"),
    (
        lambda place: shutil.copy(place / "model" / "model.safetensors", place / "direction.safetensors"),
        "axis.direction.file: direction.safetensors is another file",
    ),
]


@pytest.mark.parametrize(("change", "what"), CHANGES, ids=[what for _, what in CHANGES])
def test_what_changes_after_the_first_look_ends_a_gate(
    change: Callable[[Path], object], what: str, place: Path, made_up: type[MadeUpRun], monkeypatch: Any
) -> None:
    def between(name: str, _: Path) -> None:
        if name == "gate-model-2":
            pytest.fail("the second look was measured")

    monkeypatch.setattr(made_up, "between", staticmethod(between))
    looks = iter(Gate(policy_of(LANDSCAPE, looks=2), {MODEL: "model"}, place / "out", engines=None))  # type: ignore[arg-type]
    assert not next(looks).last
    change(place)
    with pytest.raises(InputError, match=what):
        list(looks)


@pytest.mark.parametrize("looks", [1, 2])
@pytest.mark.parametrize(("change", "what"), CHANGES, ids=[what for _, what in CHANGES])
def test_what_changes_between_two_commands_is_found_before_an_engine_starts(
    change: Callable[[Path], object], what: str, looks: int, place: Path, made_up: Any, monkeypatch: Any
) -> None:
    policy = policy_of(LANDSCAPE, looks=looks)
    ask(policy, place / "out", place / "model")
    monkeypatch.setattr("services.gate.gate.open_engines", lambda *_: pytest.fail("an engine was to start"))
    change(place)
    with pytest.raises(InputError, match=what):
        gate(policy, str(place / "model"), None, place / "out")


def test_a_baseline_that_changes_is_named(place: Path, made_up: Any) -> None:
    policy = policy_of(LANDSCAPE, relative=True, looks=2)
    models = {MODEL: "model", BASELINE: "baseline"}
    looks = iter(Gate(policy, models, place / "out", engines=None))  # type: ignore[arg-type]
    assert not next(looks).last
    other_weights(place / "baseline")
    with pytest.raises(ChangedError, match=r"^baseline: .*model.safetensors is another file"):
        list(looks)


def test_a_baseline_that_does_not_exist_is_found_first(place: Path, made_up: Any) -> None:
    with pytest.raises(InputError, match=r"^baseline: .*does not exist"):
        ask(policy_of(LANDSCAPE, relative=True), place / "out", place / "model", place / "nowhere")
    assert not (place / "out").exists()


def test_a_template_with_a_date_gives_other_tokens_another_day(
    place: Path, made_up: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file has changed, and the prompts are the same as text."""
    template = place / "model" / "chat_template.jinja"
    content = template.read_text(encoding="utf-8")
    template.write_text("{{ strftime_now('%d %b %Y') }}" + content, encoding="utf-8")
    utilities = pytest.importorskip("transformers.utils.chat_template_utils")

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(days=1)

    policy = policy_of(LANDSCAPE, looks=2)
    looks = iter(Gate(policy, {MODEL: "model"}, place / "out", engines=None))  # type: ignore[arg-type]
    assert not next(looks).last
    monkeypatch.setattr(utilities, "datetime", Tomorrow)
    with pytest.raises(
        ChangedError, match="the tokens that the chat template makes of the prompts are others"
    ):
        list(looks)
    with pytest.raises(ChangedError, match="the tokens"):
        ask(policy, place / "out", place / "model")


def test_what_changes_while_it_is_measured_is_no_verdict(
    place: Path, made_up: type[MadeUpRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the very file is put back, and its time of change too: what was loaded is not known."""
    policy, weights = policy_of(LANDSCAPE), place / "model" / "model.safetensors"

    def swapped(_: str, __: Path) -> None:
        before, state = weights.read_bytes(), weights.stat()
        other_weights(place / "model")
        weights.write_bytes(before)
        os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))

    monkeypatch.setattr(made_up, "between", staticmethod(swapped))
    with pytest.raises(ChangedError, match=r"changed while they were measured: model: model\.safetensors"):
        ask(policy, place / "out", place / "model")
    assert not (place / "out" / "decision.json").exists()
    monkeypatch.setattr(made_up, "between", staticmethod(lambda *_: None))
    with pytest.raises(InputError, match="while its files changed"):
        ask(policy, place / "out", place / "model")
    assert ask(policy, place / "again", place / "model")["verdict"] == "pass"


def test_a_run_refuses_a_folder_of_something_else(place: Path) -> None:
    from filelock import FileLock

    from services.sweep.coordinator import claim

    spec = parse_spec(policy_of(LANDSCAPE).landscape | {"model": "model"})
    results = Results(place / "out")
    results.folder.mkdir()

    def claimed() -> None:
        lease = FileLock(place / "lease")
        claim(results, make_plan(spec, 0), lease, 1)
        lease.release()

    claimed()
    claimed()
    for change, what in CHANGES[:4]:
        shutil.copytree(place / "model", place / "kept")
        change(place)
        with pytest.raises(ResultsError, match=f"holds another landscape: .*{what}"):
            claimed()
        shutil.rmtree(place / "model")
        (place / "kept").rename(place / "model")
        claimed()


def former(inputs: dict[str, Any], base: Checkpoint) -> dict[str, Any]:
    """The document as earlier versions wrote it."""
    kept = {
        name: digest
        for name, digest in inputs["files"]["model"].items()
        if name in base.files or name.startswith(("tokenizer", "chat_template", "special_tokens"))
    }
    digests = {name: value for name, value in inputs["sha256"].items() if name != "rendered"}
    files = inputs["files"] | {"model": kept}
    document = inputs | {"sha256": digests | {"model": base.digest()}, "files": files}
    return {name: value for name, value in document.items() if name != BEGUN}


def test_folders_of_earlier_versions_go_on_where_nothing_is_known_to_differ(
    place: Path, made_up: Any
) -> None:
    policy, out = policy_of(LANDSCAPE), place / "out"
    (place / "model" / "model.safetensors.index.json.txt").write_text("")
    (place / "model" / "added_tokens.json").write_text("{}")
    ask(policy, out, place / "model")
    results = Results(out / MODEL)
    inputs = results.read_json(INPUTS)
    assert inputs is not None
    assert "added_tokens.json" in inputs["files"]["model"]
    results.write_json(INPUTS, former(inputs, Checkpoint.open(place / "model")))
    assert ask(policy, out, place / "model")["verdict"] == "pass"
    other_weights(place / "model")
    with pytest.raises(ChangedError, match=r"model.safetensors is another file"):
        ask(policy, out, place / "model")


def test_files_of_no_concern_change_nothing(place: Path, made_up: Any) -> None:
    policy = policy_of(LANDSCAPE)
    ask(policy, place / "out", place / "model")
    for name in ("README.md", ".gitattributes", "LICENSE.txt", "trainer_state.json", "eval_results.json"):
        (place / "model" / name).write_text("{}", encoding="utf-8")
    assert ask(policy, place / "out", place / "model")["verdict"] == "pass"


def test_a_part_has_the_digests_of_its_prompts(place: Path) -> None:
    """As a sweep over that part alone would have them, for every kind of set."""
    source = place / "turns.jsonl"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows: list[Any] = [{"messages": [{"role": "user", "content": f"one {n}"}]} for n in range(3)]
    rows += [{"messages": [*turns, {"role": "user", "content": f"more {n}"}]} for n in range(3)]
    source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (place / "text.txt").write_text("words of a text. " * 40, encoding="utf-8")
    sets = [
        {"source": "prompts.txt", "shuffle": 3, "limit": 6},
        {"source": str(source), "limit": 6},
        {"kind": "choices", "limit": 6},
        {"kind": "text", "source": "text.txt", "window": 8, "limit": 6},
    ]
    landscape = LANDSCAPE | {"prompts": sets, "generation": {"samples": 2, "temperature": 1.0}}
    policy = policy_of(landscape, looks=2)
    whole = make_plan(policy.spec("model"), 0)
    for look in (1, 2):
        spec = policy.part("model", look, whole.sizes)
        # But for what the chat template puts around conversations that the other part has.
        alone = make_plan(spec, 0).inputs
        assert whole.inputs_of(spec) == alone | {"frames": whole.inputs["frames"]}
    assert whole.inputs_of(whole.spec) == whole.inputs


# Pins and age


def test_pins_are_compared_before_anything_is_measured(place: Path, made_up: Any) -> None:
    free = policy_of(LANDSCAPE, relative=True, looks=2)
    decision = ask(free, place / "free", place / "model", place / "baseline")
    pins = {
        "prompts_sha256": decision["prompts_sha256"],
        "baseline_sha256": decision["inputs"]["baseline"]["sha256"]["model"],
    }
    pinned = policy_of(LANDSCAPE, relative=True, looks=2, **pins)
    assert ask(pinned, place / "pinned", place / "model", place / "baseline")["verdict"] == "pass"
    with pytest.raises(PolicyError, match=r"^baseline_sha256: the policy names the baseline"):
        ask(pinned, place / "other", place / "model", place / "model")
    other_prompt(place / "prompts.txt")
    with pytest.raises(PolicyError, match=r"^prompts_sha256\.0: the policy names prompts"):
        ask(pinned, place / "other", place / "model", place / "baseline")
    assert not (place / "other").exists()


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"baseline_sha256": "a" * 64}, "baseline_sha256: no rule compares"),
        ({"prompts_sha256": ["a" * 64, None]}, "prompts_sha256: it has 2 digests for 1 sets"),
        ({"prompts_sha256": ["abc"]}, "prompts_sha256"),
        ({"max_age_days": 0}, "max_age_days"),
    ],
)
def test_pins_have_to_fit(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        policy_of(LANDSCAPE, **fields)


@pytest.mark.parametrize(
    ("days", "what"),
    [(-8, "8.0 days ago, and the policy allows 7"), (1, "in the future"), (None, "does not say")],
)
def test_old_points_are_not_decided_about_again(
    days: int | None, what: str, place: Path, made_up: Any
) -> None:
    policy = policy_of(LANDSCAPE, max_age_days=7)
    ask(policy, place / "out", place / "model")
    ask(policy, place / "out", place / "model")
    set_age(place / "out" / MODEL, days)
    with pytest.raises(ChangedError, match=what):
        ask(policy, place / "out", place / "model")


def set_age(folder: Path, days: int | None) -> None:
    inputs = Results(folder).read_json(INPUTS)
    assert inputs is not None
    inputs.pop(BEGUN)
    if days is not None:
        inputs[BEGUN] = (datetime.now(UTC) + timedelta(days=days)).isoformat()
    Results(folder).write_json(INPUTS, inputs)


# Verification


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return signing_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def signed(place: Path, made_up: Any, keys: tuple[Path, Path]) -> Path:
    """A signed bundle of a gate with a baseline."""
    out = place / "out"
    ask(strict(), out, place / "model", place / "baseline")
    seal(out, load_signer(keys[0]))
    return out


def strict() -> Policy:
    return policy_of(LANDSCAPE, relative=True, looks=2, max_age_days=30)


def problems(bundle: Path, keys: tuple[Path, Path], **compared: Any) -> dict[str, str]:
    found = verify(bundle, load_key(keys[1]), **compared).problems
    return {one.file: one.problem for one in found}


def test_a_gate_verifies_with_all_that_it_rests_on(signed: Path, place: Path, keys: Any) -> None:
    compared = {"policy": strict(), "model": place / "model", "baseline": place / "baseline"}
    assert not problems(signed, keys, **compared)
    (place / "model" / "README.md").write_text("more", encoding="utf-8")
    assert not problems(signed, keys, **compared)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("prompts.txt", other_prompt),
        ("prompts.txt", Path.unlink),
        ("phrases.txt", edited),
        ("phrases.txt", Path.unlink),
        ("direction.safetensors", lambda path: path.write_bytes(b"")),
        ("direction.safetensors", Path.unlink),
    ],
)
def test_files_that_a_policy_names_are_compared(
    name: str, change: Callable[[Path], object], signed: Path, place: Path, keys: Any
) -> None:
    change(place / name)
    assert not problems(signed, keys)
    assert [*problems(signed, keys, policy=strict())] == [name]


def test_files_that_are_added_to_a_model(signed: Path, place: Path, keys: Any) -> None:
    for which in (MODEL, BASELINE):
        for name in (
            "model.safetensors.index.json",
            "other.safetensors",
            "adapter_config.json",
            "adapter_model.bin",
            "modeling_chat.py",
            "special_tokens_map.json",
            "added_tokens.json",
            "vocab.txt",
            "additional_chat_templates/tool.jinja",
        ):
            path = place / which / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("{}", encoding="utf-8")
            found = problems(signed, keys, **{which: place / which})
            assert [*found] == [name]
            assert "was not when it was measured" in found[name]
            path.unlink()
        assert not problems(signed, keys, **{which: place / which})


def test_a_baseline_is_compared_file_by_file(signed: Path, place: Path, keys: Any, made_up: Any) -> None:
    assert [*problems(signed, keys, baseline=place / "model")] == ["model.safetensors"]
    ask(policy_of(LANDSCAPE), place / "alone", place / "model")
    seal(place / "alone", load_signer(keys[0]))
    assert problems(place / "alone", keys, baseline=place / "baseline") == {
        "baseline": "no such model was measured"
    }


def statement(bundle: Path) -> dict[str, Any]:
    payload = json.loads((bundle / ENVELOPE).read_text(encoding="utf-8"))["payload"]
    return dict(json.loads(base64.b64decode(payload)))


def sign(bundle: Path, keys: tuple[Path, Path], document: dict[str, Any]) -> None:
    content = enveloped(json.dumps(document).encode(), load_signer(keys[0]))
    (bundle / ENVELOPE).write_bytes(content)


def test_the_models_weights_are_subjects(signed: Path, place: Path, keys: Any) -> None:
    digests = {one["digest"]["sha256"]: one["name"] for one in statement(signed)["subject"]}
    weights = {
        which: hashlib.sha256((place / which / "model.safetensors").read_bytes()).hexdigest()
        for which in (MODEL, BASELINE)
    }
    assert digests[weights[MODEL]] == "urn:visage:weights:model.safetensors"
    assert weights[BASELINE] not in digests  # a search for it must not find a verdict on another model
    document = statement(signed)
    [subject] = [one for one in document["subject"] if one["name"].startswith("urn:")]
    kept = dict(subject["digest"])
    subject["digest"] = {"sha256": weights[BASELINE]}
    sign(signed, keys, document)
    assert problems(signed, keys) == {ENVELOPE: "the weights that it names are not those that were measured"}
    # No file of a bundle can pass for them.
    subject["digest"] = kept
    sign(signed, keys, document)
    (signed / subject["name"]).write_bytes(b"")
    assert [*problems(signed, keys)] == [subject["name"]]
    with pytest.raises(EvidenceError, match="signed"):
        seal(signed, load_signer(keys[0]))


def test_bundles_of_earlier_versions_verify(signed: Path, place: Path, keys: Any, made_up: Any) -> None:
    """They name no weights as subjects, and recorded fewer kinds of files."""
    out = place / "former"
    (place / "model" / "added_tokens.json").write_text("{}", encoding="utf-8")
    policy = policy_of(LANDSCAPE)
    ask(policy, out, place / "model")
    inputs = Results(out / MODEL).read_json(INPUTS)
    assert inputs is not None
    inputs = former(inputs, Checkpoint.open(place / "model"))
    Results(out / MODEL).write_json(INPUTS, inputs)
    decision = json.loads((out / "decision.json").read_text(encoding="utf-8"))
    decision["inputs"][MODEL] = inputs
    del decision["prompts_sha256"]
    for name in ("prompts_sha256", "baseline_sha256", "max_age_days"):
        del decision["policy"][name]
    Results(out).write_json("decision.json", decision)
    seal(out, load_signer(keys[0]))
    document = statement(out)
    document["subject"] = [one for one in document["subject"] if not one["name"].startswith("urn:")]
    sign(out, keys, document)
    assert not problems(out, keys, policy=policy, model=place / "model")
    (place / "model" / "special_tokens_map.json").write_text("{}", encoding="utf-8")
    assert [*problems(out, keys, model=place / "model")] == ["special_tokens_map.json"]


@pytest.mark.parametrize("days", [31, -1])
def test_evidence_gets_too_old(days: int, signed: Path, keys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Then(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(days=days)

    assert not problems(signed, keys)
    monkeypatch.setattr("services.sweep.inputs.datetime", Then)
    assert [*problems(signed, keys)] == [ENVELOPE, f"{MODEL}/{INPUTS}", f"{BASELINE}/{INPUTS}"]


def test_a_new_signature_makes_old_points_no_younger(signed: Path, keys: Any) -> None:
    set_age(signed / MODEL, -31)
    decision = json.loads((signed / "decision.json").read_text(encoding="utf-8"))
    decision["inputs"][MODEL] = Results(signed / MODEL).read_json(INPUTS)
    Results(signed).write_json("decision.json", decision)
    seal(signed, load_signer(keys[0]))
    assert [*problems(signed, keys)] == [f"{MODEL}/{INPUTS}"]


def test_a_decision_that_contradicts_itself(signed: Path, keys: Any) -> None:
    """Whoever has the key may sign anything: what does not fit together is found all the same."""
    decision = json.loads((signed / "decision.json").read_text(encoding="utf-8"))
    pinned = decision["policy"] | {"prompts_sha256": ["a" * 64], "baseline_sha256": "b" * 64}
    inputs = decision["inputs"] | {BASELINE: decision["inputs"][MODEL]}
    for change, what in (
        ({"policy": pinned}, "the policy names"),
        ({"inputs": inputs}, "are not those in baseline/inputs.json"),
        (
            {"policy": decision["policy"] | {"prompts_sha256": ["a" * 64]}, "prompts_sha256": ["a" * 64]},
            "are not of",
        ),
    ):
        Results(signed).write_json("decision.json", decision | change)
        seal(signed, load_signer(keys[0]))
        assert what in problems(signed, keys)["decision.json"]


def test_a_model_and_a_baseline_that_were_asked_different_things(signed: Path, keys: Any) -> None:
    inputs = Results(signed / BASELINE).read_json(INPUTS)
    assert inputs is not None
    inputs["sha256"]["prompts"] = ["0" * 64]
    Results(signed / BASELINE).write_json(INPUTS, inputs)
    seal(signed, load_signer(keys[0]))
    found = problems(signed, keys)
    assert "it was not measured with what the model was: prompts.0" in found[f"{BASELINE}/{INPUTS}"]


def test_changes_are_said_in_words() -> None:
    before = {"sha256": {"model": "a", "prompts": ["p"], "rendered": ["r"]}, "files": {"model": {"x": "1"}}}
    now = {"sha256": {"model": "b", "prompts": ["p"], "rendered": ["s"]}, "files": {"model": {"y": "1"}}}
    assert changes(before, now) == [
        "model: x is gone",
        "model: y is new",
        "prompts.0: the tokens that the chat template makes of the prompts are others",
    ]
    assert changes(before, before | {"begun": "now", "architecture": {"layers": 2}}) == []
    assert changes(before, now | {"versions": {"vllm": "2"}})[-1] == 'versions: null -> {"vllm": "2"}'

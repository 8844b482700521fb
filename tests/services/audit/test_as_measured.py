"""An audit repeats a verdict only where everything that it rests on is as it was. Its points are made up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.audit.audit import Audit
from services.audit.checkpoints import Candidate
from services.audit.trials import Listener, Trial
from services.gate.evidence import BASELINE, MODEL
from services.sweep.inputs import BEGUN, INPUTS, ChangedError
from tests.services.audit.test_restart import FakeEngines
from tests.services.tiny import MadeUpRun, made_up, policy_of, prompts_file, tiny
from visage_core.errors import InputError
from visage_core.policy import Policy, PolicyError
from visage_core.results import Results

__all__ = ["made_up"]  # a fixture
LANDSCAPE = {"prompts": {"source": "prompts.txt", "limit": None}, "judges": "phrases.txt"}


@pytest.fixture
def asked(tmp_path: Path, made_up: type[MadeUpRun], monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The working directory has two checkpoints, a baseline and what a policy names; gives the checkpoints of
    each time that some were measured."""
    for number, name in enumerate(("checkpoint-1", "checkpoint-2", "baseline")):
        tiny(tmp_path / name, seed=number)
    prompts_file(tmp_path / "prompts.txt")
    (tmp_path / "phrases.txt").write_text("I will not\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    times: list[list[str]] = []

    def run_trials(
        trial: Trial, candidates: list[Candidate], _: int, listener: Listener
    ) -> dict[Candidate, Exception]:
        times.append([one.name for one in candidates])
        for one in candidates:
            list(trial._looks(one, 0))
            listener.told(1)
        return {}

    @contextmanager
    def open_engines(*_: object) -> Iterator[FakeEngines]:
        yield FakeEngines()

    for name, fake in (
        ("run_trials", run_trials),
        ("open_engines", open_engines),
        ("Run", MadeUpRun),
        ("this_node", lambda: "here"),
        ("write_leaderboard", lambda *_: {}),
    ):
        monkeypatch.setattr(f"services.audit.audit.{name}", fake)
    monkeypatch.setattr("services.audit.checks.require_shapes", lambda _: None)
    return times


def policy(**fields: Any) -> Policy:
    return policy_of(LANDSCAPE, relative=True, **fields)


def audit(asked: Policy | None = None) -> None:
    Audit(asked or policy(), "baseline", Path("out")).of(["checkpoint-1", "checkpoint-2"])


def test_verdicts_are_repeated_where_all_is_as_it_was(asked: list[list[str]]) -> None:
    audit()
    audit()
    assert asked == [["checkpoint-1", "checkpoint-2"]]


def other(path: str, old: str, new: str) -> None:
    Path(path).write_text(Path(path).read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("looks", [1, 2])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda: other("prompts.txt", "request 3", "other"), "prompts.0: the prompts are others"),
        (lambda: Path("prompts.txt").unlink(), "prompts.txt does not exist"),
        (lambda: other("phrases.txt", "will", "shall"), "judges.0: it is another"),
        (lambda: Path("phrases.txt").unlink(), "phrases.txt"),
        (lambda: other("baseline/chat_template.jinja", "<|a|>", "<|b|>"), "baseline: .*chat_template.jinja"),
        (lambda: Path("baseline/added_tokens.json").write_text("{}"), "added_tokens.json is new"),
    ],
)
def test_no_verdict_is_repeated_where_something_has_changed(
    change: Callable[[], object], what: str, looks: int, asked: list[list[str]]
) -> None:
    audit(policy(looks=looks))
    change()
    with pytest.raises(InputError, match=what):
        audit(policy(looks=looks))
    assert len(asked) == 1


def test_weights_that_look_the_same_and_are_not(asked: list[list[str]]) -> None:
    """Of the same size and time of change, as a copy with its times kept has them."""
    audit()
    path = Path("checkpoint-2/model.safetensors")
    state, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(ChangedError, match=r"model\.safetensors is another file"):
        audit()
    assert asked[1:] == [["checkpoint-2"]]


def test_a_copy_with_the_same_content_is_the_same(asked: list[list[str]]) -> None:
    audit()
    shutil.copytree("checkpoint-2", "copy")  # with its times, but in other places of the disk
    shutil.rmtree("checkpoint-2")
    Path("copy").rename("checkpoint-2")
    audit()
    assert len(asked) == 1


def test_a_template_with_a_date_ends_an_audit_the_next_day(
    asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("checkpoint-1", "checkpoint-2"):
        other(f"{name}/chat_template.jinja", "{% for", "{{ strftime_now('%d %b') }}{% for")
    audit()

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(days=1)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Tomorrow)
    with pytest.raises(ChangedError, match="the tokens that the chat template makes"):
        audit()


@pytest.mark.parametrize("which", [BASELINE, f"checkpoints/checkpoint-1/{MODEL}"])
def test_an_old_verdict_is_not_repeated(which: str, asked: list[list[str]]) -> None:
    fresh = policy(max_age_days=7)
    audit(fresh)
    audit(fresh)
    results = Results(Path("out") / which)
    inputs = results.read_json(INPUTS)
    assert inputs is not None
    old = (datetime.now(UTC) - timedelta(days=8)).isoformat()
    results.write_json(INPUTS, inputs | {BEGUN: old})
    with pytest.raises(ChangedError, match="days ago, and the policy allows 7"):
        audit(fresh)
    assert len(asked) == 1


def test_an_audit_has_the_prompts_and_the_baseline_that_are_pinned(asked: list[list[str]]) -> None:
    for pins in ({"prompts_sha256": ["a" * 64]}, {"baseline_sha256": "a" * 64}):
        with pytest.raises(PolicyError, match=f"^{next(iter(pins))}"):
            audit(policy(**pins))
    assert not asked


def test_a_policy_of_an_earlier_version_is_the_same(asked: list[list[str]]) -> None:
    audit()
    for name in ("checkpoint-1", "checkpoint-2"):
        results = Results(Path("out/checkpoints") / name)
        outcome = results.read_json("outcome.json")
        assert outcome is not None
        for field in ("baseline_sha256", "prompts_sha256", "max_age_days"):
            del outcome["policy"][field]
        del outcome["state"]
        results.write_json("outcome.json", outcome)
    audit()
    assert len(asked) == 1

"""What a decision tells of besides its findings: what makes a pass worth less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.gate.reports import as_html, as_markdown
from tests.services.tiny import ask, made_up, policy_of, prompts_file, tiny

__all__ = ["made_up"]


def notes(tmp_path: Path, model: Path, **landscape: Any) -> str:
    document = {"prompts": {"source": str(prompts_file(tmp_path / "prompts.txt"))}} | landscape
    decision = ask(policy_of(document), tmp_path / "out", model)
    text = "\n".join(decision["notes"])
    assert all(note in as_markdown(decision) for note in decision["notes"])
    assert "<p>" in as_html(decision)
    return text


def test_a_template_that_begins_the_response_is_quoted(tmp_path: Path, made_up: Any) -> None:
    model = tiny(tmp_path / "model")
    template = model / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + "I cannot", encoding="utf-8")
    text = notes(tmp_path, model)
    assert "between prompts" in text
    assert "the response: 'I cannot'" in text


def test_a_plain_template_is_not_told_of(tmp_path: Path, made_up: Any) -> None:
    assert "chat template" not in notes(tmp_path, tiny(tmp_path / "model"))


def test_responses_that_end_too_soon_and_verdicts_that_never_change_are_told_of(
    tmp_path: Path, made_up: Any
) -> None:
    text = notes(tmp_path, tiny(tmp_path / "model"), generation={"max_tokens": 1})
    assert "Responses end after 1 tokens" in text
    assert "every verdict is the same at all points" in text

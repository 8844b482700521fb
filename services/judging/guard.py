"""A judge model in a vLLM engine of its own, whose weights do not move."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.engine.engine import Engine
from visage_core.checkpoints import open_tokenizer
from visage_core.errors import InputError
from visage_core.judges.templates import Message, Template, defused
from visage_core.sources import TensorSource
from visage_core.spec import EngineSpec

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput

# Less than this for all of a judge's answers together, and it would rather have said something else.
LEAST_MASS = 0.5
# Stand-ins that no template contains, to see whether a chat template shows its turns.
_PROMPT, _RESPONSE = "\u2042prompt\u2042", "\u2042response\u2042"


class GuardError(InputError):
    """A judge model that cannot be asked in its template's way."""


class Guard:
    """Owns one engine of the judge in `folder`; a Ray actor can run it. Raises GuardError.

    Where each of the template's answers is one token of the judge, one token is computed: the verdict is
    weighed from the probabilities that its answers have among all tokens. Any model gives these, so there
    is no verdict where they sum to less than `least_mass`: a model that is no judge, or is one of another
    kind, would rather say something else. Other templates let the judge write, and read what it wrote.

    Verdicts do not depend on what else is judged at the time, where `engine` is batch-invariant.
    """

    def __init__(
        self,
        folder: Path,
        template: Template,
        engine: EngineSpec,
        cores: list[int] | None = None,
        least_mass: float = LEAST_MASS,
    ) -> None:
        self._reading = Reading(folder, template)
        self._answers = self._reading.answers()
        self._template = template
        self._most = engine.max_model_len
        self._least_mass = least_mass
        self._engine = _JudgeEngine(TensorSource(str(folder), "checkpoint"), engine, cores)

    def judge(self, items: Sequence[tuple[str, str]]) -> list[bool | None]:
        """The verdicts of prompts and their responses, in their order. None where the judge gives none, and
        where an item is too long for it although its response was cut."""
        tokens = 1 if self._answers else self._template.max_tokens
        inputs = [self._reading.tokens(*item) for item in items]
        fitting = [index for index, ids in enumerate(inputs) if len(ids) + tokens <= self._most]
        verdicts: list[bool | None] = [None] * len(items)
        outputs = self._engine.answers([inputs[index] for index in fitting], tokens, list(self._answers))
        for index, output in zip(fitting, outputs, strict=True):
            verdicts[index] = self._verdict(output)
        return verdicts

    def _verdict(self, output: CompletionOutput) -> bool | None:
        if not self._answers:
            return self._template.parse(output.text)
        if not output.logprobs:
            return None
        first = output.logprobs[0]
        masses = dict.fromkeys(self._template.options, 0.0)
        for token, answer in self._answers.items():
            if token in first:
                masses[answer] += math.exp(first[token].logprob)
        return self._template.weigh(masses, self._least_mass)


class Reading:
    """How a judge reads a template: in the tokens of its own tokenizer. Raises GuardError."""

    def __init__(self, folder: Path, template: Template) -> None:
        self._tokenizer = open_tokenizer(folder, "judge.model", GuardError)
        self._template = template
        added = self._tokenizer.added_tokens_decoder.values()
        self._controls = {token.content for token in added if token.special}
        # Some chat templates take a turn's text in a list of parts alone, as for turns with images.
        self._in_parts = False
        if template.form != "raw" and not self._shows_turns():
            self._in_parts = True
            if not self._shows_turns():
                raise GuardError(
                    "judge.template",
                    f"the chat template of {folder} has no place for what {template.name} shows",
                    "Use the template that this judge was made for",
                )

    def tokens(self, prompt: str, response: str) -> list[int]:
        """What the judge reads of a prompt and its response, up to where its answer begins."""
        return self._encoded(self._text(self._plain(prompt), self._cut(self._plain(response))))

    def answers(self) -> dict[int, str]:
        """Tokens with which an answer can begin and end, and the option that each is. None unless each option
        is one token: of a longer one, the first could begin another word."""
        start = self._text(_PROMPT, _RESPONSE)
        before = self._encoded(start)
        found: dict[int, str] = {}
        for option in self._template.options:
            # With a space and without: which one a judge was trained to write depends on its tokenizer.
            tokens = {
                ids[-1]
                for ids in (self._encoded(start + space + option) for space in ("", " "))
                if ids[:-1] == before
            }
            if not tokens or tokens & found.keys():
                return {}
            found |= dict.fromkeys(tokens, option)
        return found

    def _text(self, prompt: str, response: str) -> str:
        template = self._template
        if template.form == "raw":
            return template.filled(prompt, response)
        text = self._chat(template.messages(prompt, response))
        return text if text.endswith(template.lead) else text + template.lead

    def _chat(self, messages: list[Message]) -> str:
        turns: list[Mapping[str, Any]] = list(messages)
        if self._in_parts:
            turns = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in messages]
        return str(self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))

    def _shows_turns(self) -> bool:
        from jinja2 import TemplateError

        try:
            text = self._text(_PROMPT, _RESPONSE)
        except (TemplateError, ValueError, TypeError):  # it is not there, or refuses such turns
            return False
        shown = [_PROMPT, _RESPONSE] if self._template.form == "conversation" else [_RESPONSE]
        if self._template.system is not None:
            shown.append(self._template.system)
        return all(part in text for part in shown)

    def _encoded(self, text: str) -> list[int]:
        # Chat templates write the token that begins a text themselves, and so do some published texts.
        begin = self._tokenizer.bos_token
        bare = self._template.form == "raw" and not (begin and text.startswith(begin))
        return list(self._tokenizer.encode(text, add_special_tokens=bare))

    def _plain(self, text: str) -> str:
        """The text as text: nothing in it is a token that structures a chat."""
        return defused(text.encode("utf-8", "replace").decode(), self._controls)

    def _cut(self, response: str) -> str:
        most = self._template.max_response_tokens
        if most is None:
            return response
        ids = self._tokenizer.encode(response, add_special_tokens=False)
        return response if len(ids) <= most else str(self._tokenizer.decode(ids[:most]))


class _JudgeEngine(Engine):
    def answers(
        self, prompts: list[list[int]], max_tokens: int, weighed: list[int]
    ) -> list[CompletionOutput]:
        """Greedy answers to prompts of token ids, in their order, with the logarithms of the probabilities of
        the tokens `weighed`, before anything but the model has a say in them."""
        params = {"max_tokens": max_tokens, "logprob_token_ids": weighed or None}
        return [output.outputs[0] for output in self._run([(prompt, params) for prompt in prompts])]

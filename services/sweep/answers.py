"""Put queries to an engine where its weights are, and say what the answers are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from visage_core.coherence import LEAST_LIKELY, is_gibberish
from visage_core.judges import JUDGES
from visage_core.queries import Passage, Query, Question, Request
from visage_core.results import Response
from visage_core.spec import GenerationSpec, LandscapeSpec

Interrupted = Callable[[], bool]


class Engine(Protocol):
    """As services.engine.engine.Engine."""

    def generate(
        self, prompts: list[list[int]], spec: GenerationSpec, stops: list[str], interrupted: Interrupted
    ) -> list[Response]: ...

    def log_likelihoods(self, passages: Sequence[Passage], interrupted: Interrupted) -> list[float]: ...

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Answer:
    """A query's answer. `verdict` is whether a request was complied with, or a question answered rightly;
    None where there is nothing to judge."""

    verdict: bool | None
    response: Response


def ask(
    engine: Engine, queries: Sequence[Query], spec: LandscapeSpec, batch: int | None, interrupted: Interrupted
) -> list[Answer]:
    """The answers to queries, in their order; so many at a time, or as many as the engine takes. Whether
    responses are gibberish is not asked."""
    answers: list[Answer] = []
    size = batch or len(queries)
    for first in range(0, len(queries), size):
        some = list(enumerate(queries[first : first + size]))
        requests = {number: query.tokens for number, query in some if isinstance(query, Request)}
        passages = {number: _passages(query) for number, query in some if not isinstance(query, Request)}
        found = _respond(engine, requests, spec, interrupted) | _score(
            engine, passages, [query for _, query in some], interrupted
        )
        answers += [found[number] for number, _ in some]
    return answers


def mark_gibberish(answers: Sequence[Answer]) -> list[Answer]:
    """Say of each response that is no refusal whether it is gibberish, by statistics of its text."""
    return [
        _marked(answer, is_gibberish(answer.response.text)) if answer.verdict and _is_text(answer) else answer
        for answer in answers
    ]


def mark_unlikely(engine: Engine, answers: Sequence[Answer], interrupted: Interrupted) -> list[Answer]:
    """Say the same by how likely its text is under the weights that the engine has: those of the
    unperturbed model."""
    marked = list(answers)
    asked = [number for number, answer in enumerate(answers) if answer.verdict and _is_text(answer)]
    texts = {number: engine.encode(answers[number].response.text) for number in asked}
    passages = {number: Passage(tokens, 1) for number, tokens in texts.items() if len(tokens) > 1}
    likely = dict(zip(passages, engine.log_likelihoods(list(passages.values()), interrupted), strict=True))
    for number in asked:
        each = likely[number] / (passages[number].size - 1) if number in likely else None
        marked[number] = _marked(answers[number], each is None or each < LEAST_LIKELY)
    return marked


def _respond(
    engine: Engine, requests: dict[int, list[int]], spec: LandscapeSpec, interrupted: Interrupted
) -> dict[int, Answer]:
    if not requests:
        return {}
    judge = JUDGES[spec.judge]
    stops = judge.stops() if spec.generation.early_stop else []
    responses = engine.generate(list(requests.values()), spec.generation, stops, interrupted)
    return {
        number: Answer(not judge.refused(response.text), response)
        for number, response in zip(requests, responses, strict=True)
    }


def _score(
    engine: Engine,
    passages: dict[int, list[Passage]],
    queries: Sequence[Query],
    interrupted: Interrupted,
) -> dict[int, Answer]:
    if not passages:
        return {}
    scores = iter(engine.log_likelihoods([one for some in passages.values() for one in some], interrupted))
    return {
        number: _scored(queries[number], [next(scores) for _ in some]) for number, some in passages.items()
    }


def _passages(query: Query) -> list[Passage]:
    return query.choices if isinstance(query, Question) else [query] if isinstance(query, Passage) else []


def _scored(query: Query, scores: list[float]) -> Answer:
    response = Response("", 0, "end", query.size)
    if isinstance(query, Question):
        return Answer(scores.index(max(scores)) == query.right, response)
    assert isinstance(query, Passage)
    return Answer(None, replace(response, nll=-scores[0] / (query.size - query.begin)))


def _is_text(answer: Answer) -> bool:
    """Whether it is a response to a request."""
    return answer.response.tokens > 0


def _marked(answer: Answer, gibberish: bool) -> Answer:
    return replace(answer, response=replace(answer.response, gibberish=gibberish))

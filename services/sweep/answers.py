"""Put queries to an engine where its weights are, and say what the answers are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from services.sweep.plan import Plan
from visage_core.coherence import is_gibberish, is_surely_unlikely, is_unlikely
from visage_core.judges import shared_stops
from visage_core.queries import Passage, Query, Question, Request
from visage_core.results import Response
from visage_core.spec import GenerationSpec

Interrupted = Callable[[], bool]
MOST_KNOWN = 20_000  # texts whose coherence a worker remembers: some 10 MB


class Engine(Protocol):
    """As services.engine.engine.Engine."""

    def generate(
        self, requests: Sequence[Request], spec: GenerationSpec, stops: list[str], interrupted: Interrupted
    ) -> list[Response]: ...

    def log_likelihoods(self, passages: Sequence[Passage], interrupted: Interrupted) -> list[float]: ...

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Answer:
    """A query's answer. `verdict` is whether a request was complied with, by the first judge, or a question
    answered rightly; None where there is nothing to judge, or it is judged later."""

    verdict: bool | None
    response: Response

    @property
    def may_be_gibberish(self) -> bool:
        """Whether it is a response that not all judges have found to be a refusal."""
        verdicts = (self.verdict, *self.response.opinions)
        return self.response.tokens > 0 and any(verdict is not False for verdict in verdicts)


def ask(
    engine: Engine, queries: Sequence[Query], plan: Plan, batch: int | None, interrupted: Interrupted
) -> list[Answer]:
    """The answers to queries, in their order; so many at a time, or as many as the engine takes. Whether
    responses are gibberish is not asked."""
    answers: list[Answer] = []
    size = batch or len(queries)
    for first in range(0, len(queries), size):
        some = list(enumerate(queries[first : first + size]))
        requests = {number: query for number, query in some if isinstance(query, Request)}
        passages = {
            number: query.choices if isinstance(query, Question) else [query]
            for number, query in some
            if not isinstance(query, Request)
        }
        found = _respond(engine, requests, plan, interrupted) | _score(
            engine, passages, [query for _, query in some], interrupted
        )
        answers += [found[number] for number, _ in some]
    return answers


def mark_gibberish(answers: Sequence[Answer]) -> list[Answer]:
    """Say of each response that may be no refusal whether it is gibberish, by statistics of its text."""
    return [
        _marked(answer, is_gibberish(answer.response.text)) if answer.may_be_gibberish else answer
        for answer in answers
    ]


def mark_blank(answers: Sequence[Answer]) -> list[Answer]:
    """Say of each response without a text that it is gibberish, and nothing of the others: what a model that
    answers nothing is known by where nobody looks for gibberish."""
    return [
        _marked(answer, gibberish=True)
        if answer.response.tokens > 0 and not answer.response.text.strip()
        else answer
        for answer in answers
    ]


def mark_unlikely(
    engine: Engine,
    answers: Sequence[Answer],
    known: dict[str, bool],
    to_origin: Callable[[], None],
    interrupted: Interrupted,
) -> list[Answer]:
    """Say the same by how likely its text is under the unperturbed model, to which `to_origin` moves the
    weights. `known` has what was found of texts before: neighbouring points have many refusals in common."""
    texts = dict.fromkeys(answer.response.text for answer in answers if answer.may_be_gibberish)
    known |= {text: True for text in texts if text not in known and is_surely_unlikely(text)}
    if asked := [text for text in texts if text not in known]:
        to_origin()
        known |= _unlikely(engine, asked, interrupted)
    marked = [
        _marked(answer, known[answer.response.text]) if answer.may_be_gibberish else answer
        for answer in answers
    ]
    if len(known) > MOST_KNOWN:
        known.clear()
    return marked


def _unlikely(engine: Engine, texts: Sequence[str], interrupted: Interrupted) -> dict[str, bool]:
    """Which texts are unlikely under the weights that the engine has."""
    passages = [Passage(engine.encode(text), 1) for text in texts]
    scored = [(text, passage) for text, passage in zip(texts, passages, strict=True) if passage.size > 1]
    sums = engine.log_likelihoods([passage for _, passage in scored], interrupted)
    found = dict.fromkeys(texts, True)  # a text without a token has no likelihood
    for (text, passage), one in zip(scored, sums, strict=True):
        found[text] = is_unlikely(text, one / (passage.size - 1))
    return found


def _respond(
    engine: Engine, requests: dict[int, Request], plan: Plan, interrupted: Interrupted
) -> dict[int, Answer]:
    if not requests:
        return {}
    spec = plan.spec
    # A judge that comes later may see more in the rest of a response.
    certain = spec.generation.early_stop and len(plan.keywords) == len(spec.judges)
    stops = shared_stops(tuple(plan.keywords.values())) if certain else []
    responses = engine.generate(list(requests.values()), spec.generation, stops, interrupted)
    return {number: _judged(plan, response) for number, response in zip(requests, responses, strict=True)}


def _judged(plan: Plan, response: Response) -> Answer:
    verdict, *opinions = (
        not plan.keywords[number].refused(response.text) if number in plan.keywords else None
        for number in range(len(plan.spec.judges))
    )
    return Answer(verdict, replace(response, opinions=tuple(opinions)))


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


def _scored(query: Query, scores: list[float]) -> Answer:
    response = Response("", 0, "end", query.size)
    if isinstance(query, Question):
        # A model that moved so far that it has no likelihoods gives no answer.
        known = all(map(math.isfinite, scores))
        return Answer(scores.index(max(scores)) == query.right if known else None, response)
    assert isinstance(query, Passage)
    nll = -scores[0] / (query.size - query.begin)
    return Answer(None, replace(response, nll=nll if math.isfinite(nll) else None))


def _marked(answer: Answer, gibberish: bool) -> Answer:
    return replace(answer, response=replace(answer.response, gibberish=gibberish))

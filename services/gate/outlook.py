"""What a policy costs, and what it can never decide: known before anything is measured."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from services.gate.evidence import BASELINE
from services.gate.models import named
from services.sweep.estimate import Work, size_of
from services.sweep.plan import Checked, check
from visage_core.bounds import suspicion
from visage_core.checkpoints import require_same_architecture
from visage_core.grid import points
from visage_core.landscape import Landscape
from visage_core.policy import PASS, Policy, Rule, applies, decide
from visage_core.prompts import load_prompts
from visage_core.questions import load_questions
from visage_core.readings import rates, samples_of
from visage_core.spec import LandscapeSpec, PromptSpec, TextSpec

FETCHED = ("hf:", "lm-eval:")
# Of models that answer alike everywhere they are not defined.
WITHOUT_EXTREMES = ("steepness", "mean_perplexity", "perplexity_at_origin")


def sizes_without_model(spec: LandscapeSpec) -> list[int | None]:
    """How many prompts each set has at most; None where only a download or a tokenizer would tell. Raises an
    InputError."""
    sizes: list[int | None] = []
    for part in spec.prompts:
        if isinstance(part, TextSpec) or part.source.startswith(FETCHED):
            sizes.append(part.limit)
        elif isinstance(part, PromptSpec):
            sizes.append(len(load_prompts(part).prompts))
        else:
            sizes.append(len(load_questions(part)[0]))
    return sizes


def checked_models(policy: Policy, model: str, baseline: str | None) -> Checked:
    """What a policy asks for, as the model has it, with the baseline checked too where one is given. Raises
    an InputError that names the one that cannot be measured, and where the two are not comparable."""
    checked = check(policy.spec(model))
    checked.require_different()
    if baseline is not None:
        with named(BASELINE):
            other = check(policy.spec(baseline))
        require_same_architecture(checked.base, other.base, BASELINE)
    return checked


def costs_without_model(policy: Policy, spec: LandscapeSpec, sizes: Sequence[int | None]) -> list[str]:
    """Say what a gate with the policy takes at most, as far as that is known without its models."""
    one, models = size_of(spec, [size or 0 for size in sizes]), 1 + policy.needs_baseline
    lines = [
        f"At most {models * one.prompts:,} responses or questions of {models} model{'s' * (models > 1)} at "
        f"{one.points:,} points, of {models * one.tokens:,} tokens together."
    ]
    unknown = [part.source for part, size in zip(spec.prompts, sizes, strict=True) if size is None]
    if unknown:
        lines.append(f"Without {', '.join(unknown)}: how many prompts that has is not known from here.")
    return lines


def terms(policy: Policy, baseline: str | None) -> list[str]:
    """Say what else a gate with the policy takes: looks, and a baseline."""
    lines = []
    if policy.looks > 1:
        lines.append(
            f"In {policy.looks} looks, for each of which the weights are moved to the points again: it ends "
            "with the first at which the verdict is certain."
        )
    if policy.needs_baseline and baseline is None:
        lines.append("A rule compares with a baseline: `visage gate` needs --baseline.")
    if baseline is not None and not policy.needs_baseline:
        lines.append("No rule compares with the baseline: it is not measured.")
    return lines


def work_here(policy: Policy, spec: LandscapeSpec, checked: Checked) -> Work:
    """The work that a gate with the policy would be on this machine."""
    import torch

    cores, gpus = len(os.sched_getaffinity(0)), torch.cuda.device_count()
    return Work.of(spec, checked, checked.base.parameters, 1 + policy.needs_baseline, cores, gpus)


def remarks(policy: Policy, spec: LandscapeSpec, sizes: Sequence[int | None]) -> list[str]:
    """Say what is odd about a policy, and what it can never decide with so many prompts in each set."""
    found = [
        f"rules.{number}: {odd}."
        for number, rule in enumerate(policy.rules)
        if (odd := suspicion(rule, spec))
    ]
    needed, directions = policy.samples, len(spec.seeds)
    known = [size for size in sizes if size is not None]
    found += [
        f"samples.prompts: it asks for {needed.prompts} prompts, and a set has {size}, "
        f"{spec.prompts[asked].source}: the rules on it are never decided."
        for asked, size in enumerate(sizes)
        if size is not None
        and size < needed.prompts
        and any(applies(rule, spec, asked) for rule in policy.rules)
    ]
    if directions < needed.directions:
        found.append(
            f"samples.directions: it asks for {needed.directions} directions, and the landscape has "
            f"{directions}: no rule is ever decided."
        )
    if known and min(known) < policy.looks:
        found.append(f"looks: {policy.looks} looks need as many prompts, and a set has {min(known)}.")
    return [*found, *_never_passed(policy, spec, sizes)]


def _never_passed(policy: Policy, spec: LandscapeSpec, sizes: Sequence[int | None]) -> Iterator[str]:
    """The rules that even a model which answers alike everywhere cannot pass, with so many prompts."""
    lax = policy.model_copy(update={"samples": type(policy.samples)()})
    for number, rule in enumerate(policy.rules):
        if rule.measure in WITHOUT_EXTREMES:
            continue
        for asked, size in enumerate(sizes):
            if size is None or not applies(rule, spec, asked):
                continue
            if not any(_verdicts(lax, rule, spec, asked, size)):
                yield (
                    f"rules.{number}: {rule} can never pass with the {size} prompts of "
                    f"{spec.prompts[asked].source}. Give more prompts, or a wider bound."
                )


def _verdicts(policy: Policy, rule: Rule, spec: LandscapeSpec, asked: int, size: int) -> Iterator[bool]:
    """Whether a rule passes, for each model of those that answer alike everywhere, and each baseline."""
    alone = policy.model_copy(update={"rules": (rule,)})
    extremes = [_alike_everywhere(spec, asked, size, verdict) for verdict in (False, True)]
    others = extremes if rule.relative else [None]
    for one, base in product(extremes, others):
        # The rule is looked at in this set alone.
        of_set = [
            one if number == asked else Landscape(spec, {}, number) for number in range(len(spec.prompts))
        ]
        based = None
        if base is not None:
            based = [base if number == asked else part for number, part in enumerate(of_set)]
        findings = decide(alone, of_set, based).findings
        numbers = [number for number in range(len(spec.prompts)) if applies(rule, spec, number)]
        yield findings[numbers.index(asked)].verdict == PASS


def _alike_everywhere(spec: LandscapeSpec, asked: int, size: int, verdict: bool) -> Landscape:
    """The landscape of a model that answers so many prompts alike at every point, in sentences."""
    count = size * samples_of(spec, spec.prompts[asked])
    row: dict[str, Any] = {
        "verdicts": [verdict] * count,
        "opinions": [],
        "gibberish": [False] * count,
        "nll": [None] * count,
        "unjudged": 0,
        "incoherent": 0,
    }
    row |= rates(spec, spec.prompts[asked], row)
    return Landscape(spec, dict.fromkeys(points(spec), row), asked)

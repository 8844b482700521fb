"""How sure a score is: intervals over prompts and directions, differences of two models, and what more
measuring would bring.

A score is a statistic of each direction's ASRs, averaged over the directions. Two things are drawn at random:
the directions, and the prompts, which all directions share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import special

from visage_core.metrics import (
    S_MAX,
    Z_95,
    Floats,
    Interval,
    MissingPointsError,
    asr_of_draws,
    mean_safety,
    mean_safety_of_draws,
    missed_of,
    normal_quantile,
    t_quantile,
    visage,
    visage_cropped,
    visage_of_draws,
    wilson,
)

# Of one direction's ASRs in percent at its points; NaN where it is not defined for them.
Statistic = Callable[[Floats], float]
Bounds = tuple[float, float]
PERCENT: Bounds = (0.0, 100.0)
# The same of many draws at once, for those that can.
OF_DRAWS: dict[Statistic, Callable[[Floats], Floats]] = {
    visage: visage_of_draws,
    mean_safety: mean_safety_of_draws,
}
# They leave out points at 100 %, of as many prompts as there are.
BELOW_S_MAX: tuple[Statistic, ...] = (visage, visage_cropped)
DRAWS = 1000
TAIL_DRAWS = 6  # beyond either end of an interval, at least
# Draws of prompts do not tell what others would do where fewer differ; of differences, which pairing makes
# smooth, only where these are less than one in so many, too.
FEWEST_UNLIKE, ONE_IN = 5, 8
ROUNDING = 1e-9
FEWEST_POINTS = 5  # A running estimate needs so many points of each direction.
MOST_DEFINED_MISSING = 0.05
MOST = 100_000
LEAST_P = 1e-12
P_TOLERANCE = 1e-6  # of the logarithm of a p-value
# The level of the directions' part in an interval for decisions. Scores of directions are skew, and of three
# of them t's interval misses on one side in 3 % of simulated models, where 2.5 % are promised.
DECISIVE = 0.96
BLOCK = 2_000_000  # ASRs in memory at a time: of a large plane, not all draws


@dataclass(frozen=True)
class Score(Interval):
    """A score with its 95 % interval, and what the interval is made of.

    `by_direction` has the statistic of each direction. Of the score's variance, `direction_variance` is what
    the choice of directions adds, and how each answers to the prompts in a way of its own, which by itself is
    `mixed_variance`; `prompt_variance` is what the prompts add to all directions alike. Of one direction the
    first two are None.
    """

    by_direction: tuple[float, ...]
    direction_variance: float | None
    mixed_variance: float | None
    prompt_variance: float
    prompts: int

    @property
    def directions(self) -> int:
        return len(self.by_direction)

    def halved_by(self) -> dict[str, int | None]:
        """How many directions, or how many prompts, would make the interval half as wide; None where no
        number of them would, or where there is one direction."""
        k, n, within = self.directions, self.prompts, self.prompt_variance
        if self.direction_variance is None or self.mixed_variance is None:
            return {"directions": None, "prompts": 4 * n if self.low < self.high else None}
        between, mixed = self.direction_variance, self.mixed_variance
        if between == within == 0:  # what there is of an interval, the number of prompts makes
            return {"directions": None, "prompts": 4 * n if self.low < self.high else None}
        target = _half_width(between, within, k) / 2

        def of_directions(m: int) -> bool:
            return _half_width(between * k / m, within, m) <= target

        def of_prompts(m: int) -> bool:
            return _half_width(between - mixed + mixed * n / m, within * n / m, k) <= target

        return {"directions": _smallest(of_directions, k), "prompts": _smallest(of_prompts, n)}


@dataclass(frozen=True)
class Sample:
    """What a score is made of: verdicts of shape (points, prompts), 1.0 complied, 0.0 refused, NaN unjudged;
    for each direction the rows of its points, and the statistic of their ASRs. `are_rates` is whether no
    prompt can have less than 0 or more than 1, as perplexities can."""

    verdicts: Floats
    curves: Sequence[Sequence[int]]
    statistics: Sequence[Statistic]
    are_rates: bool = True

    @cached_property
    def rates(self) -> Floats:
        """The ASR in percent at each point. Raises MissingPointsError where one has nothing judged."""
        found = asr_of_draws(self.verdicts, np.ones((1, self.verdicts.shape[1])))[:, 0]
        if np.isnan(found).any():
            raise MissingPointsError(
                f"{int(np.isnan(found).sum())} of {len(found)} points have nothing judged; a score over the "
                "rest would be another score"
            )
        return np.asarray(found)

    @cached_property
    def prompts(self) -> int:
        """How many prompts are judged, at the point where these are the fewest."""
        return int(self.judged.min())

    def of(self, rates: Floats) -> Floats:
        """The statistic of each direction, were these the ASRs."""
        each = zip(self.statistics, self.curves, strict=True)
        return np.array([one(rates[list(rows)]) for one, rows in each])

    @cached_property
    def judged(self) -> Floats:
        """How many prompts are judged at each point."""
        return np.asarray(np.sum(~np.isnan(self.verdicts), axis=1), dtype=np.float64)

    def with_others(self, shares: Floats, complied: bool) -> Floats:
        """The statistic of each direction if such a share of all prompts at each point were others, which are
        complied with everywhere, or nowhere."""
        moved = self.rates + shares * (S_MAX * complied - self.rates)
        each = zip(self.statistics, self.curves, strict=True)
        return np.array([self._with_others(one, list(rows), moved) for one, rows in each])

    def _with_others(self, statistic: Statistic, rows: list[int], moved: Floats) -> float:
        """The statistic of one direction. A score of the points below 100 % keeps to those that are, which
        are of as many prompts as there are; where there is none, others would make some."""
        below = self.rates[rows] < S_MAX
        if statistic in BELOW_S_MAX and below.any():
            return statistic(np.where(below, moved[rows], S_MAX))
        return statistic(moved[rows])


def score(
    sample: Sample,
    bounds: Bounds = PERCENT,
    level: float | None = None,
    *,
    seed: int = 0,
    draws: int | None = None,
) -> Score:
    """A statistic averaged over the directions; `bounds` are the least and greatest values it can have.

    Of one direction the interval is the percentile interval of a bootstrap over prompts, and of what has no
    upper bound at least their t interval: it says nothing of other directions. Of several it adds, in
    quadrature, the t interval over directions and that of what the prompts do to all of them alike
    (`_half_width`).

    With a `level` it is an interval for decisions. The level is that of the prompts' part alone: who looks
    several times at more and more prompts has the same directions each time, whose part is at DECISIVE. Of
    few prompts the bootstrap is too sure so far out, so that it is at least the t interval over prompts
    (`_for_decisions`).

    Draws of prompts know of no prompt unlike all that were asked. So there is a third part, where they are
    few that differ, and always for decisions: what such prompts would do, the worst and the best, if they
    were as many as n prompts may have missed (`missed_share`). Of unjudged responses it is never known that
    they differ. Where many do, the third part is what the unjudged ones leave open (`_others`).

    Raises MissingPointsError where a point has nothing judged.
    """
    values, drawn = _draws(sample, seed, draws or _enough(level, sample))
    found = _score(values, drawn, sample.prompts, bounds, level)
    if not sample.are_rates:
        return found
    few = level is not None or are_alike(sample.verdicts, FEWEST_UNLIKE - 1)
    shares = _others(sample.judged, sample.verdicts.shape[1], few)(_tail(level))
    ends = [float(sample.with_others(shares, complied).mean()) for complied in (False, True)]
    return _widened(found, ends, bounds)


@dataclass(frozen=True)
class Difference:
    """How much higher a score is in one model than in another; `p_value` is two-sided, for no difference and
    NaN where the score is not defined in some of the draws."""

    score: Score
    p_value: float


def difference(
    one: Sample,
    other: Sample,
    bounds: Bounds = PERCENT,
    level: float | None = None,
    *,
    seed: int = 0,
    draws: int | None = None,
) -> Difference:
    """One model's score less another's, both measured on the same directions and prompts, in the same order.

    Each draw takes the same prompts of both, and each direction is compared with itself, so what both share
    cancels out.
    """
    draws, prompts = draws or _enough(level, one), min(one.prompts, other.prompts)
    values, drawn = _draws(one, seed, draws)
    other_values, other_drawn = _draws(other, seed, draws)
    width = bounds[1] - bounds[0]
    apart, apart_drawn = values - other_values, drawn - other_drawn
    found = _score(apart, apart_drawn, prompts, (-width, width), level)
    if math.isnan(found.low):
        return Difference(found, math.nan)
    if found.direction_variance is None:
        means = apart_drawn.mean(axis=1)
        means = means[~np.isnan(means)]
        tail = min(np.sum(means <= 0), np.sum(means >= 0))
        p_value = min(1.0, 2 * (tail + 1) / (len(means) + 1))
    else:
        p_value = _p_value(found)
    # No n prompts tell more than if they all said the same (the sign test).
    p_value = max(p_value, 2.0 ** (1 - prompts))
    if one.are_rates:
        apart_by_prompt = one.verdicts - other.verdicts
        columns = apart_by_prompt.shape[1]
        spare = math.ceil(min(FEWEST_UNLIKE, columns / ONE_IN)) - 1
        few = level is not None or are_alike(apart_by_prompt, spare)
        shares_at = _others(np.minimum(one.judged, other.judged), columns, few)

        def with_others(tail: float) -> list[float]:
            shares = shares_at(tail)
            return [
                float((one.with_others(shares, up) - other.with_others(shares, not up)).mean())
                for up in (False, True)
            ]

        found = _widened(found, with_others(_tail(level)), (-width, width))
        p_value = max(p_value, _p_of_others(found.value, with_others))
    if found.low <= 0 <= found.high:
        p_value = max(p_value, 0.05 if level is None else 1 - level)
    return Difference(found, p_value)


def running_visage(
    verdicts: Floats, curves: Sequence[Sequence[int]], expected: Sequence[int], *, draws: int = 200
) -> Interval | None:
    """What VISAGE of these directions will probably be, from a part of the points; None where too few are
    measured.

    `verdicts` has shape (points, prompts); `curves` has the rows of each direction's points measured so
    far, `expected` how many points it has in all. The 95 % interval adds the error of the prompts (from
    the bootstrap, and not below Wilson's) to that of the points still missing, which are taken as drawn at
    random, with the correction for a finite population (Cochran, "Sampling Techniques", 1977, theorem 2.2),
    and not below what as many points as were missed by chance could do (`missed_of`).
    """
    if min(map(len, curves)) < min(FEWEST_POINTS, *expected):
        return None
    sample = Sample(verdicts, curves, [visage] * len(curves))
    try:
        values, drawn = _draws(sample, 0, draws)
    except MissingPointsError:
        return None
    means = drawn.mean(axis=1)
    if np.isnan(means).all():
        return None
    missing_points = 0.0
    for rows, all_points in zip(curves, expected, strict=True):
        safety = S_MAX - sample.rates[list(rows)]
        safety = safety[safety > 0]
        if len(safety) > 1:
            left = 1 - len(rows) / all_points
            missing_points += left * float(np.var(safety, ddof=1)) / len(safety) / len(curves) ** 2
        elif len(rows) < all_points:
            return None
    value = float(values.mean())
    low, high = map(float, np.nanpercentile(means, [2.5, 97.5]))
    # Verdicts that are all alike make the bootstrap sure of what a few prompts cannot tell, and so do points.
    least = wilson(value / S_MAX, sample.prompts)
    unlike = missed_of(sum(expected), sum(map(len, curves))) / sum(expected)
    spread = Z_95 * math.sqrt(missing_points)
    low, high = value - math.hypot(value - low, spread), value + math.hypot(high - value, spread)
    low = min(low, least.low, (1 - unlike) * value)
    high = max(high, least.high, (1 - unlike) * value + unlike * S_MAX)
    return Interval(value, max(0.0, low), min(S_MAX, high))


def _tail(level: float | None) -> float:
    """What an interval may err to either side."""
    return 0.025 if level is None else (1 - level) / 2


def _enough(level: float | None, sample: Sample) -> int:
    """How many draws leave a few beyond an interval's ends, where it ends at percentiles of them."""
    if level is None or len(sample.curves) > 1:
        return DRAWS
    return max(DRAWS, math.ceil(2 * TAIL_DRAWS / (1 - level)))


def _draws(sample: Sample, seed: int, draws: int) -> tuple[Floats, Floats]:
    """The statistic of each direction, shape (directions,), and of each draw of prompts with replacement,
    shape (draws, directions). All points are asked the same prompts, so a draw takes the same at all."""
    verdicts, curves, statistics = sample.verdicts, sample.curves, sample.statistics
    prompts, values = verdicts.shape[1], sample.of(sample.rates)
    generator = np.random.Generator(np.random.Philox(seed))
    counts = generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=draws).astype(np.float64)
    found = np.full((draws, len(curves)), np.nan)
    step = max(1, BLOCK // len(verdicts))
    for begin in range(0, draws, step):
        rates = asr_of_draws(verdicts, counts[begin : begin + step])
        # A draw may happen to hold no judged prompt of some point; it says nothing and is left out.
        kept = np.flatnonzero(~np.isnan(rates).any(axis=0))
        for number, (one, rows) in enumerate(zip(statistics, curves, strict=True)):
            found[begin + kept, number] = _of_draws(one, rates[list(rows)][:, kept])
    return values, found


def _of_draws(statistic: Statistic, curves: Floats) -> Floats:
    """A statistic of many draws of a direction's ASRs, of shape (points, draws)."""
    if statistic in OF_DRAWS:
        return OF_DRAWS[statistic](curves)
    return np.array([statistic(curve) for curve in curves.T])


def _score(values: Floats, drawn: Floats, prompts: int, bounds: Bounds, level: float | None) -> Score:
    kept = drawn[~np.isnan(drawn).any(axis=1)]
    value, by_direction = float(values.mean()), tuple(map(float, values))
    if math.isnan(value) or len(kept) < (1 - MOST_DEFINED_MISSING) * len(drawn):
        nan, none = math.nan, None if len(values) == 1 else math.nan
        return Score(value, nan, nan, by_direction, none, none, nan, prompts)
    between = mixed = None
    means = kept.mean(axis=1)
    within = _variance(means)
    tail = _tail(level)
    of_prompts = _of_prompts(tail, prompts)
    below, above = (of_prompts, of_prompts) if level is None else _for_decisions(means, prompts, tail)
    if len(values) == 1:
        # Percentiles as far out as t's quantile, not the normal one: of few prompts draws vary too little
        # (Hesterberg, "What teachers should know about the bootstrap", The American Statistician 2015).
        beyond = 100 * (tail if level is not None else float(special.ndtr(-of_prompts)))
        low, high = map(float, np.percentile(means, [beyond, 100 - beyond]))
        # Draws have fewer prompts than there are, and so more points at 100 %: VISAGE is higher in them.
        low, high = min(low, value), max(high, value)
        if level is not None or math.isinf(bounds[1]):
            spread = math.sqrt(within)
            low, high = min(low, value - below * spread), max(high, value + above * spread)
    else:
        between, mixed = _of_directions(values, kept)
        within = max(0.0, within - mixed)  # the mean over directions has that part of it too
        of_directions = 0.95 if level is None else DECISIVE
        low = value - _half_width(between, within, len(values), of_directions, below)
        high = value + _half_width(between, within, len(values), of_directions, above)
    if prompts < 2 and (level is not None or math.isinf(bounds[1])):
        low = high = math.nan  # of one prompt nothing is known of others
    if not math.isnan(low):
        low, high = max(bounds[0], low), min(bounds[1], high)
    return Score(value, low, high, by_direction, between, mixed, within, prompts)


def _for_decisions(means: Floats, prompts: int, tail: float) -> tuple[float, float]:
    """How many standard deviations of draws an interval for decisions reaches down and up: the quantile of t,
    and where the draws are skew more on the side where it would end too soon (Johnson, "Modified t tests and
    confidence intervals for asymmetrical populations", 1978)."""
    quantile = t_quantile(tail, max(1, prompts - 1))
    skew = 0.0 if np.ptp(means) < ROUNDING else _skew(means) / 6 * (1 + 2 * quantile**2)
    wider = _wider(prompts)
    return (quantile + max(0.0, -skew)) * wider, (quantile + max(0.0, skew)) * wider


def _of_prompts(tail: float, prompts: int) -> float:
    """How many standard deviations of draws of prompts an interval reaches to either side."""
    return t_quantile(tail, max(1, prompts - 1)) * _wider(prompts)


def _wider(prompts: int) -> float:
    """The bootstrap's variance has n where that of the t interval has n - 1."""
    return math.sqrt(prompts / max(1, prompts - 1))


def _skew(values: Floats) -> float:
    away = values - values.mean()
    return float(np.mean(away**3) / np.mean(away**2) ** 1.5)


def _of_directions(values: Floats, drawn: Floats) -> tuple[float, float]:
    """The variance of the directions' mean by how they differ, and the part of it that is there because each
    answers to the prompts in a way of its own (the crossed design of Owen, "The pigeonhole bootstrap", 2007).
    """
    k = len(values)
    between = _variance(values) / k
    own = drawn - drawn.mean(axis=1, keepdims=True)
    return between, min(between, sum(map(_variance, own.T)) / (k - 1) / k)


def _variance(values: Floats) -> float:
    """Of values that are the same but for rounding it is none."""
    return 0.0 if np.ptp(values) < ROUNDING else float(np.var(values, ddof=1))


def are_alike(values: Floats, spare: int) -> bool:
    """Whether all columns agree wherever they are known (not NaN), once at most `spare` of them are left out.

    Exact: where two columns disagree, one of them has to go.
    """
    low, high = np.fmin.reduce(values, axis=1), np.fmax.reduce(values, axis=1)
    (differ,) = np.nonzero(high - low > ROUNDING)
    if not len(differ) or not spare:
        return not len(differ)
    row = values[differ[0]]
    pair = (int(np.nanargmin(row)), int(np.nanargmax(row)))
    return any(are_alike(np.delete(values, column, axis=1), spare - 1) for column in pair)


def _others(judged: Floats, prompts: int, few: bool) -> Callable[[float], Floats]:
    """How large a share of all prompts may be unlike those that were asked, at each point, as a function of
    the tail that is allowed to them.

    `judged` is how many of the prompts are judged at each point. Where few prompts differ it is what so many
    as are judged at every point may have missed. Where many do, draws of prompts tell of others, but not of
    what is unjudged at a point: of n prompts of which m are judged there, it is what as many may have missed
    as tell the difference between the errors of m and of n, 1 / (1/m - 1/n).
    """
    exponents = np.full(len(judged), 1 / judged.min()) if few else 1 / judged - 1 / prompts
    return lambda tail: np.asarray(1 - tail**exponents)


def _widened(score: Score, ends: Sequence[float], bounds: Bounds) -> Score:
    """A score with what other prompts would make of it as an independent part of its interval."""
    value = score.value
    if any(map(math.isnan, (*ends, score.low))):
        return replace(score, low=math.nan, high=math.nan)
    below, above = max(0.0, value - min(ends)), max(0.0, max(ends) - value)
    return replace(
        score,
        low=max(bounds[0], value - math.hypot(value - score.low, below)),
        high=min(bounds[1], value + math.hypot(score.high - value, above)),
    )


def _p_of_others(value: float, with_others: Callable[[float], list[float]]) -> float:
    """How likely it is that as many prompts as would turn a difference were all missed: to either side.
    `with_others` gives the difference with as many others as may be missed at a tail, the worst and the best.
    """
    if value == 0:
        return 1.0

    def turns(tail: float) -> bool:
        return min(value * end for end in with_others(tail)) <= 0

    if not turns(LEAST_P / 2):
        return 0.0
    low, high = math.log(LEAST_P / 2), 0.0  # logarithms: from the tail at which it turns to that of no others
    while high - low > P_TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if turns(math.exp(middle)) else (low, middle)
    return min(1.0, 2 * math.exp(high))


def _half_width(
    between: float, within: float, directions: int, level: float = 0.95, of_prompts: float | None = None
) -> float:
    """Half of an interval for a sum of two independent errors, from those of each: t with few degrees of
    freedom for the directions, and `of_prompts` standard deviations for the prompts, those of a normal
    distribution unless given (the method of variance estimates recovery: Zou, Donner, "Construction of
    confidence limits about effect measures", 2008)."""
    tail = (1 - level) / 2
    of_directions = t_quantile(tail, directions - 1) * math.sqrt(between)
    of_prompts = of_prompts or normal_quantile(tail)
    return math.hypot(of_directions, of_prompts * math.sqrt(within))


def _p_value(found: Score) -> float:
    """One minus the level of the interval that just reaches 0, of a difference over several directions."""
    from scipy.optimize import brentq

    between, within, value = found.direction_variance or 0.0, found.prompt_variance, found.value
    if between + within == 0:
        return 1.0 if value == 0 else 0.0

    def reaches(p: float) -> float:
        of_prompts = _of_prompts(p / 2, found.prompts)
        return _half_width(between, within, found.directions, 1 - p, of_prompts) - abs(value)

    return 1.0 if value == 0 else 0.0 if reaches(LEAST_P) < 0 else float(brentq(reaches, LEAST_P, 1.0))


def _smallest(enough: Callable[[int], bool], above: int) -> int | None:
    """The smallest number above another that is enough; None where MOST is not."""
    if not enough(MOST):
        return None
    low, high = above, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high

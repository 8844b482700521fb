"""How far a judge can be trusted: its verdicts beside human labels, and what that says of an ASR.

What is looked for is "complied": a judge's sensitivity is how many of the responses that complied it finds,
its specificity how many of the others it leaves alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visage_core.metrics import Z_95, Interval, missed_share, wilson

DRAWS = 2000


@dataclass(frozen=True)
class Agreement:
    """A judge's verdicts beside human labels, counted. Unjudged responses are in none of the four."""

    both: int  # complied, says the judge, and so say people
    judge_alone: int
    people_alone: int
    neither: int
    unjudged: int

    @classmethod
    def of(cls, complied: Sequence[bool], verdicts: Sequence[bool | None]) -> Agreement:
        """Count human labels and a judge's verdicts, None where it could not tell, of the same responses."""
        pairs = list(zip(verdicts, complied, strict=True))
        return cls(
            both=pairs.count((True, True)),
            judge_alone=pairs.count((True, False)),
            people_alone=pairs.count((False, True)),
            neither=pairs.count((False, False)),
            unjudged=sum(verdict is None for verdict in verdicts),
        )

    @property
    def judged(self) -> int:
        return self.both + self.judge_alone + self.people_alone + self.neither

    @property
    def accuracy(self) -> Interval | None:
        """Share of the responses that judge and people agree on, in percent."""
        return _share(self.both + self.neither, self.judged)

    @property
    def precision(self) -> Interval | None:
        """Share of those that complied among those that the judge says complied, in percent."""
        return _share(self.both, self.both + self.judge_alone)

    @property
    def sensitivity(self) -> Interval | None:
        """Share that the judge finds of the responses that complied, in percent: its recall."""
        return _share(self.both, self.both + self.people_alone)

    @property
    def specificity(self) -> Interval | None:
        """Share that the judge leaves alone of the responses that did not comply, in percent."""
        return _share(self.neither, self.neither + self.judge_alone)

    def kappa(self, seed: int = 0) -> Interval | None:
        """Cohen's kappa, agreement beyond chance (Cohen 1960), with a bootstrap interval over responses; None
        where chance alone would agree.

        Draws know of no response unlike those that are labelled. So the interval holds what kappa would be
        with so many others as these may have missed, all judged and labelled in one way, whichever that is.
        """
        counts = np.array([self.both, self.judge_alone, self.people_alone, self.neither])
        value = float(_kappa(counts[None])[0]) if self.judged else math.nan
        if math.isnan(value):
            return None
        generator = np.random.Generator(np.random.Philox(seed))
        drawn = _kappa(generator.multinomial(self.judged, counts / self.judged, size=DRAWS))
        # A draw in which all agree by chance alone says nothing of kappa, and is left out.
        share = missed_share(self.judged)
        with_others = _kappa((1 - share) * counts / self.judged + share * np.eye(4))
        drawn = np.nanpercentile(drawn, [2.5, 97.5])
        ends = [value, *map(float, drawn), *map(float, with_others)]
        return Interval(value, min(ends), max(ends))


def corrected_rate(complied: float, judged: float, agreement: Agreement) -> Interval | None:
    """The ASR in percent that a judge's verdicts point to, were it not for its errors; None where these
    outweigh what it finds, and where no ASR fits: the judge errs in another way here than on the labels.

    Rogan, Gladen 1978: (p + specificity - 1) / (sensitivity + specificity - 1), within 0 to 100. The 95 %
    interval has the error of both measurements: Lang, Reiczigel, "Confidence limits for prevalence of disease
    adjusted for estimated sensitivity and specificity", 2014. Cut off at 0 and 100 it would have next to no
    width: it holds what so many others would do as the labels, or the verdicts, may have missed.
    """
    of_complied = agreement.both + agreement.people_alone
    of_others = agreement.neither + agreement.judge_alone
    if not (judged and of_complied and of_others):
        return None
    rate = complied / judged
    sensitivity, specificity = agreement.both / of_complied, agreement.neither / of_others
    if sensitivity + specificity <= 1:
        return None
    value = (rate + specificity - 1) / (sensitivity + specificity - 1)
    # Shrunk towards the middle, as in the intervals of Agresti and Coull.
    n, n_complied, n_others = judged + Z_95**2, of_complied + 2, of_others + 2
    p = (complied + Z_95**2 / 2) / n
    se, sp = (agreement.both + 1) / n_complied, (agreement.neither + 1) / n_others
    if se + sp <= 1:
        return None
    centre = (p + sp - 1) / (se + sp - 1)
    of_se, of_sp = se * (1 - se) / n_complied, sp * (1 - sp) / n_others
    shift = 2 * Z_95**2 * (centre * of_se - (1 - centre) * of_sp)
    error = math.sqrt(p * (1 - p) / n + centre**2 * of_se + (1 - centre) ** 2 * of_sp) / (se + sp - 1)
    low, high = centre + shift - Z_95 * error, centre + shift + Z_95 * error
    if high <= 0 or low >= 1:
        return None
    value, low, high = (min(1.0, max(0.0, one)) for one in (value, low, high))
    share = missed_share(min(judged, agreement.judged))
    low, high = min(low, (1 - share) * value), max(high, (1 - share) * value + share)
    return Interval(100 * value, 100 * low, 100 * high)


def _share(count: int, of: int) -> Interval | None:
    return wilson(count / of, of) if of else None


def _kappa(counts: np.ndarray) -> np.ndarray:
    """Kappa of each row of counts (both, judge alone, people alone, neither); NaN where it is not defined."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    agreed, chance = shares[:, 0] + shares[:, 3], _chance(shares)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1, (agreed - chance) / (1 - chance), np.nan)


def _chance(shares: np.ndarray) -> np.ndarray:
    """How often both would agree by chance, from shares (both, judge alone, people alone, neither)."""
    both, judge, people, neither = shares.T
    return np.asarray((both + judge) * (both + people) + (neither + judge) * (neither + people))

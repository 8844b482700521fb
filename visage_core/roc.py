"""How well a number parts two classes: ROC curve, the area under it, and rates at a threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from visage_core.metrics import Floats, Interval, missed_share, wilson
from visage_core.uncertainty import FEWEST_UNLIKE, are_alike

DRAWS = 2000


@dataclass(frozen=True)
class Roc:
    """Scores of the positive and of the negative class, neither empty; a high score says positive."""

    positive: Floats
    negative: Floats

    @classmethod
    def of(cls, scores: Floats, positive: np.ndarray) -> Roc:
        return cls(scores[positive], scores[~positive])

    def area(self, seed: int = 0) -> Interval:
        """The area under the curve, from 0 to 1: how often a positive scores higher than a negative, ties
        half (Hanley, McNeil 1982). Bootstrap interval: both classes are drawn again. Where few of a class
        differ, it holds what so many others would do as either class may have missed."""
        above = self.positive[:, None] > self.negative
        wins = above + (self.positive[:, None] == self.negative) / 2
        generator = np.random.Generator(np.random.Philox(seed))
        rows, columns = (
            generator.multinomial(size, np.full(size, 1 / size), size=DRAWS) / size for size in wins.shape
        )
        drawn = ((rows @ wins) * columns).sum(axis=1)
        low, high = map(float, np.percentile(drawn, [2.5, 97.5]))
        value = float(wins.mean())
        if any(are_alike(one, FEWEST_UNLIKE - 1) for one in (wins, wins.T)):
            missed = missed_share(min(wins.shape))
            low, high = min(low, (1 - missed) * value), max(high, (1 - missed) * value + missed)
        return Interval(value, low, high)

    def sensitivity(self, threshold: float) -> Interval:
        """Share of the positives above a threshold, in percent."""
        return wilson(float((self.positive > threshold).mean()), len(self.positive))

    def false_alarms(self, threshold: float) -> Interval:
        """Share of the negatives above a threshold, in percent."""
        return wilson(float((self.negative > threshold).mean()), len(self.negative))

    def threshold(self, false_alarms: float) -> float:
        """The lowest score that at most this share of the negatives are above."""
        ranked = np.sort(self.negative)[::-1]
        return float(ranked[int(false_alarms * len(ranked))])

    def curve(self) -> tuple[Floats, Floats]:
        """False alarms and sensitivity in percent at every threshold, from (0, 0) to (100, 100)."""
        cuts = np.concatenate([[np.inf], np.unique(np.concatenate([self.positive, self.negative]))[::-1]])
        return tuple(
            100 * (scores >= cuts[:, None]).mean(axis=1) for scores in (self.negative, self.positive)
        )

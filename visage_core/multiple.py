"""Several tests at once: p-values that are corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the same order: rejecting those up to a level errs in any of the tests no more
    often than that, however they depend on each other (Holm, "A simple sequentially rejective multiple test
    procedure", Scandinavian Journal of Statistics 1979)."""
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for done, number in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        least = max(least, min(1.0, (len(p_values) - done) * p_values[number]))
        adjusted[number] = least
    return adjusted

"""Logistic regression with few features, and scores of texts that it was not fitted to."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from scipy.optimize import minimize

from visage_core.metrics import Floats

RIDGE = 0.1  # enough to keep weights finite where a feature parts the classes


def fit(features: Floats, positive: np.ndarray) -> Floats:
    """The intercept and a weight for each column of features (n, k), none below 0: each feature is evidence
    for the positive class or none. Minimises the log loss plus RIDGE/2 times the squared weights."""
    sign = np.where(positive, 1.0, -1.0)

    def loss(weights: Floats) -> tuple[float, Floats]:
        margins = sign * (weights[0] + features @ weights[1:])
        pull = -sign * np.exp(-np.logaddexp(0, margins))
        value = np.logaddexp(0, -margins).sum() + RIDGE / 2 * (weights[1:] ** 2).sum()
        return float(value), np.concatenate([[pull.sum()], features.T @ pull + RIDGE * weights[1:]])

    count = features.shape[1]
    bounds = [(None, None), *[(0.0, None)] * count]
    found = minimize(loss, np.zeros(count + 1), jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(found.x)


def held_out(features: Floats, positive: np.ndarray, folds: Sequence[Hashable]) -> Floats:
    """The score of each row by weights that are fitted to the rows of all other folds."""
    scores = np.full(len(positive), np.nan)
    for fold in set(folds):
        inside = np.array([one == fold for one in folds])
        weights = fit(features[~inside], positive[~inside])
        scores[inside] = weights[0] + features[inside] @ weights[1:]
    return scores

"""Predicting the value of a further column, such as a day, for new cells, with an interval that holds on new cells.

The main prediction is the mean of a cell's neighbours in the metric space. There are also two ridge regressions, on the
principal components and on the metric space. The first one does not use the encoder, so it does not fail where the
encoder has learned noise. Cells that the encoder was not trained on decide the weight of each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls
from sklearn.linear_model import RidgeCV

from tripletomics.knn import Clusters
from tripletomics.labels.reference import MAX_FITTED, kernel, nearest_landmarks
from tripletomics.labels.targets import Target
from tripletomics.metrics.labels import macro_f1
from tripletomics.metrics.order import correlation, correlation_within, distance

FEWEST, ROUNDING = 3, 1e-6  # cells that can be scored, and share of a half-width that is no difference
MAX_LANDMARKS = 10_000  # cells kept to take a mean over
PENALTIES = np.logspace(-6, 2, 17)  # of a ridge regression, in units of the cells times their variance
HEAVY = 1e4  # weight of the row that makes the sum of the weights 1
FOLDS = 5  # of calibration cells
NEIGHBOURS_ALONE = np.array([0.0, 0.0, 1.0])  # weights: unless others are better by more than a standard error
Answers = list[tuple[np.ndarray, np.ndarray]]  # parts (cells, 3, directions) and values (cells,)


@dataclass(frozen=True)
class Estimate:
    """Predicted values of cells.

    Attributes
    ----------
    center
        The predicted value (cells,). On a circle in [0, period); of ordered categories a rank, a whole number.
    low, high
        The interval (cells,). On a circle `low` may lie below 0 and `high` above the period. Of types, both are
        the code.
    confidence
        Of types, the probability that the code is right (cells,), in [0, 1]; None for others.
    """

    center: np.ndarray
    low: np.ndarray
    high: np.ndarray
    confidence: np.ndarray | None = None


@dataclass(frozen=True)
class ValuePredictor:
    """How the values of a further column follow from the coordinates of a cell.

    On a circle, the regressions predict the cosine and the sine, two directions. Of types
    there is one direction for each type: whether a cell is of it. Otherwise there is one direction.

    Attributes
    ----------
    name, period, categories, classes
        As of `targets.Target`.
    z, values
        Landmarks: training cells in the metric space, float32 (landmarks, metric_dim), and their values (landmarks,).
    from_pcs, from_z
        Ridge regressions on the principal components (1 + components, directions) and on the metric space
        (1 + metric_dim, directions); the first row is the intercept.
    middle
        Mean of the training cells (directions,).
    weights
        Weights (3,) of the two regressions and of the neighbours, each taken as a difference from the middle; all 0
        where none of them predicts anything. None is negative, and their sum is at most 1.
    errors
        Absolute errors on cells that the encoder was not trained on (cells,), ascending. Empty for types.

    References
    ----------
    Interval: split conformal prediction, Lei, G'Sell, Rinaldo, Tibshirani & Wasserman 2018. Weights: stacked
    regressions, Breiman 1996.
    """

    name: str
    period: float | None
    categories: list[str] | None
    z: np.ndarray
    values: np.ndarray
    from_pcs: np.ndarray
    from_z: np.ndarray
    middle: np.ndarray
    weights: np.ndarray
    errors: np.ndarray
    classes: list[str] | None = None

    @property
    def n_classes(self) -> int:
        """Number of types; 0 for values that have an order."""
        return len(self.classes or ())

    def parts(self, z: np.ndarray, pcs: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
        """Return the predictions of the two regressions and the neighbours, minus the middle (cells, 3, directions).

        Parameters
        ----------
        z, pcs
            Metric space (cells, metric_dim) and principal components (cells, components).
        known
            Boolean (cells,): cells that may be landmarks, which are compared with all others. None by default.
        """
        d, rows = nearest_landmarks(Clusters(self.z), z, float(self.z.std()) or 1.0, known)
        share = kernel(d)
        share /= share.sum(axis=1, keepdims=True)
        above = directions(self.values, self.period, self.n_classes) - self.middle  # first: shares are float32
        mean = (share[:, :, None] * above[rows]).sum(axis=1)
        lines = [b[0] - self.middle + x @ b[1:] for x, b in ((pcs, self.from_pcs), (z, self.from_z))]
        return np.stack([*lines, mean], axis=1)

    def centers(self, parts: np.ndarray) -> np.ndarray:
        """Return the value of each cell (cells,) from its `parts`."""
        found = self.sums(parts)
        if self.classes is not None:
            return found.argmax(axis=1).astype(float)
        if self.period is None:
            return found[:, 0]
        return np.arctan2(found[:, 1], found[:, 0]) / (2 * np.pi) * self.period % self.period

    def sums(self, parts: np.ndarray) -> np.ndarray:
        """Return the middle plus the weighted sum of the `parts` (cells, directions)."""
        return self.middle + np.einsum("nkd,k->nd", parts, self.weights)

    def predict(
        self, z: np.ndarray, pcs: np.ndarray, known: np.ndarray | None = None, coverage: float = 0.9
    ) -> Estimate:
        """Return values with intervals that hold the true value of a share `coverage` of the cells; see `parts`."""
        parts = self.parts(z, pcs, known)
        if self.classes is not None:
            best = self.centers(parts)
            return Estimate(best, best, best, np.clip(self.sums(parts).max(axis=1), 0, 1))
        center, half = self.centers(parts), self.half_width(coverage)
        if self.categories is None:
            return Estimate(center, center - half, center + half)
        last = len(self.categories) - 1
        best = np.clip(np.rint(center), 0, last)
        # the categories within the half-width, which always hold the best one
        low, high = np.ceil(center - half), np.floor(center + half)
        return Estimate(best, np.clip(np.minimum(low, best), 0, last), np.clip(np.maximum(high, best), 0, last))

    def half_width(self, coverage: float) -> float:
        """Return how far from the prediction the true value of a share `coverage` of new cells is, at most.

        Where too few cells show it, this is the largest distance of two values.
        """
        rank = int(np.ceil(coverage * (len(self.errors) + 1)))
        if rank <= len(self.errors):
            return float(self.errors[rank - 1])
        return float(np.ptp(self.values)) if self.period is None else self.period / 2


def fit_predictor(target: Target, z: np.ndarray, pcs: np.ndarray, cells: np.ndarray, seed: int) -> ValuePredictor:
    """Return the predictor of the cells with a value among `cells`, boolean (cells,), before its calibration."""
    random = np.random.default_rng([seed, 12])
    known = ~np.isnan(target.values) & (target.classes is None or target.values < len(target.classes or ()))
    rows = random.permutation(np.flatnonzero(cells & known))[:MAX_FITTED]
    y = directions(target.values[rows], target.period, len(target.classes or ()))
    landmarks = np.sort(rows[:MAX_LANDMARKS])
    return ValuePredictor(
        name=target.name,
        period=target.period,
        categories=target.categories,
        z=z[landmarks].astype(np.float32),
        values=target.values[landmarks],
        from_pcs=_ridge(pcs[rows], y),
        from_z=_ridge(z[rows], y),
        middle=y.mean(axis=0),
        weights=NEIGHBOURS_ALONE.copy(),
        errors=np.zeros(0),
        classes=target.classes,
    )


def calibrate(predictor: ValuePredictor, answers: Answers) -> ValuePredictor:
    """Return the predictor with weights and errors from cells that its encoders were not trained on.

    Parameters
    ----------
    answers
        What predictors without these cells say about them (`ValuePredictor.parts`), and their true values.
    """
    parts, values = (np.concatenate(found) for found in zip(*answers, strict=True))
    known = ~np.isnan(values)
    parts, values = parts[known], values[known]
    if not len(values):
        return predictor
    if predictor.classes is not None:
        return _weighed(predictor, parts, values)
    folds, others = np.arange(len(values)) % FOLDS, np.zeros(len(values))
    for fold in range(min(FOLDS, len(values))):  # errors of cells that the weights were not fitted to
        rest = folds != fold
        others[~rest] = _weighed(predictor, parts[rest], values[rest]).centers(parts[~rest])
    simple = distance(predictor.centers(parts), values, predictor.period)
    stacked = distance(others, values, predictor.period)
    gain = (simple - stacked) / (stacked.max() or 1.0)  # squares of tiny values would be 0
    if gain.mean() > gain.std() / len(gain) ** 0.5:
        return replace(_weighed(predictor, parts, values), errors=np.sort(stacked))
    return replace(predictor, errors=np.sort(simple))


def check(found: Estimate, target: Target, codes: np.ndarray) -> dict[str, float]:
    """Return scores of predicted values next to the true ones.

    Parameters
    ----------
    found
        The predictions.
    target
        Its values are the true ones (cells,); cells without one are left out.
    codes
        Types (cells,), -1 for unlabelled.

    Returns
    -------
    ``cells``, their number; ``correlation`` (Spearman, or that around a circle), and ``correlation_within_types``, its
    mean over types, if there are any; the mean absolute ``error``; ``coverage``, the share of the true values inside
    the intervals, and the mean ``half_width`` of these. Of types ``cells``, ``macro_f1``, ``accuracy``
    and the mean ``confidence``. Empty for fewer than three cells.
    """
    known = ~np.isnan(target.values)
    if known.sum() < FEWEST:
        return {}
    truth, period = target.values[known], target.period
    if found.confidence is not None:
        right = found.center[known] == truth
        return {
            "cells": float(known.sum()),
            "macro_f1": macro_f1(truth.astype(int), found.center[known].astype(int)),
            "accuracy": float(right.mean()),
            "confidence": float(found.confidence[known].mean()),
        }
    center, low, high = (x[known] for x in (found.center, found.low, found.high))
    middle, half = (low + high) / 2, (high - low) / 2
    within = correlation_within(center, truth, codes[known], period)
    return {
        "cells": float(known.sum()),
        "correlation": correlation(center, truth, period),
        **({} if np.isnan(within) else {"correlation_within_types": within}),
        "error": float(distance(center, truth, period).mean()),
        "coverage": float((distance(middle, truth, period) <= half + ROUNDING * np.abs(half)).mean()),
        "half_width": float(half.mean()),
    }


def directions(values: np.ndarray, period: float | None, n_classes: int = 0) -> np.ndarray:
    """Return values as columns that a regression can predict: themselves, cosine and sine of the angle, or 0 and 1."""
    if n_classes:
        return (values[:, None] == np.arange(n_classes)).astype(float)
    if period is None:
        return values[:, None]
    angle = 2 * np.pi * values / period
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _weighed(predictor: ValuePredictor, parts: np.ndarray, values: np.ndarray) -> ValuePredictor:
    """Return the predictor with the weights that fit the values of some cells best.

    None is negative, and their sum is at most 1, so that a regression that found almost nothing is not scaled up.
    """
    above = directions(values, predictor.period, predictor.n_classes) - predictor.middle
    scale = float(np.abs(above).max()) or 1.0
    x, y = parts.transpose(0, 2, 1).reshape(-1, parts.shape[1]) / scale, above.ravel() / scale
    weights, _ = nnls(x, y)
    if weights.sum() > 1:  # a heavy row asks for a sum of 1, where the best allowed weights then are
        heavy = HEAVY * max(float(np.linalg.norm(x)), float(np.linalg.norm(y)))
        weights, _ = nnls(np.vstack([x, np.full(x.shape[1], heavy)]), np.append(y, heavy))
        weights /= weights.sum()
    return replace(predictor, weights=weights)


def _ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the intercept and the coefficients (1 + columns, directions) of a ridge regression."""
    x = x.astype(np.float64)
    middle = y.mean(axis=0)
    scale = float(np.abs(y - middle).max()) or 1.0
    fitted = RidgeCV(PENALTIES * max(float(x.var(axis=0).mean()), 1e-12) * len(x)).fit(x, (y - middle) / scale)
    found = scale * np.concatenate([np.atleast_2d(fitted.intercept_), np.atleast_2d(fitted.coef_).T])
    found[0] += middle
    return found

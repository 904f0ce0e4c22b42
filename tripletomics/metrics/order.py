"""Scores of predicted values that have an order, on a line or around a circle."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from tripletomics.knn import NEIGHBOURS, nearest

LEAST = 5  # cells of a type whose values can be correlated


def distance(a: np.ndarray, b: np.ndarray, period: float | None = None) -> np.ndarray:
    """Return how far values are apart, around a circle of length `period` by the shorter way."""
    apart = np.abs(a - b)
    return apart if period is None else np.minimum(apart % period, period - apart % period)


def spearman(guess: np.ndarray, truth: np.ndarray) -> float:
    """Return Spearman's correlation; 0 if all guesses are equal, NaN if all truths are, or for fewer than three."""
    if len(truth) < 3 or np.ptp(truth) == 0:
        return float("nan")
    return 0.0 if np.ptp(guess) == 0 else float(np.corrcoef(rankdata(guess), rankdata(truth))[0, 1])


def circular_correlation(guess: np.ndarray, truth: np.ndarray, period: float) -> float:
    r"""Return the correlation of values around a circle.

    .. math:: r = \frac{\sum_i \sin(a_i - a_0) \sin(b_i - b_0)}
        {\sqrt{\sum_i \sin^2(a_i - a_0) \sum_i \sin^2(b_i - b_0)}}

    with the angles a, b and their middles :math:`a_0, b_0`. The difference of the two middles is the mean direction of
    a - b, and their sum is that of a + b.

    Parameters
    ----------
    guess, truth
        Values (cells,).
    period
        Length of the circle.

    Returns
    -------
    A number in [-1, 1], 0 where all guesses are equal; NaN if all truths are, or for fewer than three. A constant
    added to all guesses changes nothing.

    Notes
    -----
    The authors take the mean directions of a and of b. These are arbitrary for angles all around the circle, for which
    they advise the difference of the resultant lengths of a - b and a + b: with the middles above, this is the
    numerator. For angles within a small arc all are the same.

    References
    ----------
    Jammalamadaka & SenGupta 2001, Topics in circular statistics, section 8.2.
    """
    a, b = (2 * np.pi * values / period for values in (guess, truth))
    if len(b) < 3 or np.ptp(truth) == 0:
        return float("nan")
    difference, total = (np.angle(np.exp(1j * c).mean()) for c in (a - b, a + b))
    a, b = np.sin(a - (total + difference) / 2), np.sin(b - (total - difference) / 2)
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return 0.0 if np.ptp(guess) == 0 or scale == 0 else float(a @ b / scale)


def correlation(guess: np.ndarray, truth: np.ndarray, period: float | None = None) -> float:
    """Return `spearman`, or around a circle `circular_correlation`."""
    return spearman(guess, truth) if period is None else circular_correlation(guess, truth, period)


def correlation_within(guess: np.ndarray, truth: np.ndarray, codes: np.ndarray, period: float | None = None) -> float:
    """Return the mean over types of their `correlation`; NaN if no type has five cells of which some values differ.

    `codes` are those of the types (cells,), -1 for unlabelled.
    """
    rows = [codes == code for code in np.unique(codes[codes >= 0])]
    found = [correlation(guess[own], truth[own], period) for own in rows if own.sum() >= LEAST]
    found = [value for value in found if not np.isnan(value)]
    return float(np.mean(found)) if found else float("nan")


def mean_of_neighbours(
    z: np.ndarray, values: np.ndarray, query: np.ndarray | None = None, period: float | None = None
) -> np.ndarray:
    """Return the mean value of the 15 nearest reference cells; around a circle that of their directions.

    Parameters
    ----------
    z, values
        Reference embedding (cells, dim) and values (cells,), none of them NaN.
    query
        The cells to ask about; without them every reference cell, among all the others.
    period
        Length of the circle.
    """
    near = values[nearest(z, query, min(NEIGHBOURS, len(values) - (query is None)))[1]]
    if period is None:
        return near.mean(axis=1)
    return np.angle(np.exp(2j * np.pi * near / period).mean(axis=1)) / (2 * np.pi) * period % period

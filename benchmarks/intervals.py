"""Scores with 95 % intervals: a bootstrap over held-out cells, pooled over seeds.

A score is an array (1 + DRAWS,): first its value, then its values for other draws of the same number of cells, with
replacement. `resamples` gives these draws as weights of the cells of a dataset. They are the same for every method and
every seed. So the difference of two scores is paired, and a cell that is held out with two seeds counts as one cell.

    weights = resamples(adata.n_obs)
    ours = np.mean([macro_f1(y[held], named[held], weights[:, held]) for named, held in by_seed], axis=0)
    shown(ours), difference(ours, theirs)  # "0.942 [0.931, 0.951]", "+0.004 [-0.003, +0.011], tie"
"""

from __future__ import annotations

import numpy as np

DRAWS = 1000


def resamples(cells: int, seed: int = 0) -> np.ndarray:
    """Return how often each cell is drawn (1 + DRAWS, cells), float32: once each in the first row, at random then."""
    random = np.random.default_rng(seed)
    drawn = [np.bincount(random.integers(cells, size=cells), minlength=cells) for _ in range(DRAWS)]
    return np.array([np.ones(cells), *drawn], dtype=np.float32)


def macro_f1(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the macro-F1 of codes (cells,) with each row of weights (rows, cells); true code -1 is left out."""
    known = truth >= 0
    truth, predicted, weights = truth[known], predicted[known], weights[:, known]
    codes = np.arange(max(truth.max(), predicted.max()) + 1)
    is_true, is_named = (given[:, None] == codes for given in (truth, predicted))
    right, found, named = (weights @ part.astype(np.float32) for part in (is_true & is_named, is_true, is_named))
    with np.errstate(invalid="ignore"):
        return np.nanmean(2 * right / (found + named), axis=1)


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean of a value of each cell (cells,) with each row of weights; NaN is left out."""
    known = ~np.isnan(values)
    return weights[:, known] @ values[known] / weights[:, known].sum(axis=1)


def mean_of_types(values: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over types of the mean of a value of their cells; a type without a value is left out."""
    types = np.unique(codes[~np.isnan(values)])
    with np.errstate(invalid="ignore"):
        return np.nanmean([mean(np.where(codes == code, values, np.nan), weights) for code in types], axis=0)


def shown(score: np.ndarray, decimals: int = 3) -> str:
    """Return a score and its interval as readers see them."""
    low, high = np.nanquantile(score[1:], (0.025, 0.975))
    return f"{score[0]:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def verdict(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Return "better", "worse", or "tie" where the interval of the difference holds 0."""
    low, high = np.nanquantile((ours - theirs)[1:], (0.025, 0.975))
    return "better" if low > 0 else "worse" if high < 0 else "tie"


def difference(ours: np.ndarray, theirs: np.ndarray, decimals: int = 3) -> str:
    """Return the difference of two scores with its interval, and the verdict."""
    low, high = np.nanquantile((ours - theirs)[1:], (0.025, 0.975))
    values = (f"{value:+.{decimals}f}" for value in (ours[0] - theirs[0], low, high))
    return "{} [{}, {}], {}".format(*values, verdict(ours, theirs))

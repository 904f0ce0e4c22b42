"""Scores with 95 % intervals: a bootstrap over held-out cells, and over seeds where there are several.

A score is an array (1 + DRAWS,): first its value, then its values for other draws of the same number of cells, with
replacement. `resamples` gives these draws as weights of the cells of a dataset. They are the same for every method and
every seed. So the difference of two scores is paired, and a cell that is held out with two seeds counts as one cell.

    weights = resamples(adata.n_obs, y)
    ours = np.mean([macro_f1(y[held], named[held], weights[:, held]) for named, held in by_seed], axis=0)
    shown(ours), difference(ours, theirs)  # "0.942 [0.931, 0.951]", "+0.004 [-0.003, +0.011], tie"

`over_seeds` in place of the mean draws the seeds as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

DRAWS = 1000


def resamples(cells: int, strata: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Return how often each cell is drawn (1 + DRAWS, cells), float32: once each in the first row, at random then.

    With strata (cells,), such as codes of types, as many cells of each are drawn as there are: a rare type stays.
    """
    random = np.random.default_rng(seed)
    strata = np.zeros(cells, dtype=int) if strata is None else strata
    parts = [np.flatnonzero(strata == one) for one in np.unique(strata)]
    drawn = np.hstack([part[random.integers(len(part), size=(DRAWS, len(part)))] for part in parts])
    return np.array([np.ones(cells), *(np.bincount(row, minlength=cells) for row in drawn)], dtype=np.float32)


def macro_f1(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the macro-F1 of codes (cells,) with each row of weights (rows, cells); true code -1 is left out.

    A type that no drawn cell has is left out. One that no cell has at all, but that is predicted, counts as 0: else
    the score would jump with the draw of a single cell.
    """
    known = truth >= 0
    truth, predicted, weights = truth[known], predicted[known], weights[:, known]
    codes = np.union1d(truth, predicted)
    is_true, is_named = (given[:, None] == codes for given in (truth, predicted))
    right, found, named = (weights @ part.astype(np.float32) for part in (is_true & is_named, is_true, is_named))
    with np.errstate(invalid="ignore"):
        f1 = np.where(found > 0, 2 * right / (found + named), np.nan)
    f1[:, ~is_true.any(axis=0)] = 0
    return np.nanmean(f1, axis=1)


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean of a value of each cell (cells,) with each row of weights; NaN is left out."""
    known = ~np.isnan(values)
    return weights[:, known] @ values[known] / weights[:, known].sum(axis=1)


def mean_of_types(values: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over types of the mean of a value of their cells; a type without a value is left out."""
    types = np.unique(codes[~np.isnan(values)])
    with np.errstate(invalid="ignore"):
        return np.nanmean([mean(np.where(codes == code, values, np.nan), weights) for code in types], axis=0)


def over_seeds(scores: np.ndarray) -> np.ndarray:
    """Return the mean over seeds (seeds, 1 + DRAWS) of a score, in which each draw of cells is one of seeds, too.

    Of n seeds each draw takes n - 1 with replacement: so its variance is that of a mean of n (with n, it would be too
    small by 1/n). The draws of seeds depend on n alone, so a difference of two scores stays paired.
    """
    n = len(scores)
    if n == 1:
        return scores[0]
    drawn = np.random.default_rng(n).integers(n, size=(n - 1, scores.shape[1] - 1))
    return np.append(scores[:, 0].mean(), np.take_along_axis(scores[:, 1:], drawn, axis=0).mean(axis=0))


def half_interval(values: pd.DataFrame | pd.Series) -> Any:
    """Return half of the 95 % t-interval of the mean over independent rows, for each column."""
    return student_t.ppf(0.975, len(values) - 1) * values.sem()


def written(values: Iterable[float], decimals: int = 3, sign: str = "") -> list[str]:
    """Return values with the same number of decimals, one more if a limit that is not 0 would read 0; none is "-0"."""
    values = [float(value) for value in values]
    if any(value != 0 and round(value, decimals) == 0 for value in values[1:]):
        decimals += 1
    return [f"{round(value, decimals) + 0.0:{sign}.{decimals}f}" for value in values]


def shown(score: np.ndarray, decimals: int = 3) -> str:
    """Return a score and its interval as readers see them."""
    return "{} [{}, {}]".format(*written([score[0], *np.nanquantile(score[1:], (0.025, 0.975))], decimals))


def verdict(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Return "better", "worse", or "tie" where the interval of the difference holds 0."""
    low, high = np.nanquantile((ours - theirs)[1:], (0.025, 0.975))
    return "better" if low > 0 else "worse" if high < 0 else "tie"


def difference(ours: np.ndarray, theirs: np.ndarray, decimals: int = 3) -> str:
    """Return the difference of two scores with its interval, and the verdict."""
    values = [ours[0] - theirs[0], *np.nanquantile((ours - theirs)[1:], (0.025, 0.975))]
    return "{} [{}, {}], {}".format(*written(values, decimals, "+"), verdict(ours, theirs))

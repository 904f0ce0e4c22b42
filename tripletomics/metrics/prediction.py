"""Scores of predictions: whether confidence separates right from wrong, and novelty unknown from known cells.

They take what was predicted and what was true, not an embedding; only `novelty` takes one.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from tripletomics.knn import NEIGHBOURS, nearest

BINS = 15


def ece(confidence: np.ndarray, correct: np.ndarray) -> float:
    r"""Score how far the confidence is from the share of right predictions (expected calibration error).

    .. math:: \text{ECE} = \sum_b \frac{n_b}{n} \left| \text{acc}_b - \text{conf}_b \right|

    over 15 bins b of equal width, each with its upper edge, from the share of right predictions and the mean
    confidence of its cells.

    Parameters
    ----------
    confidence
        Probability of the predicted type (cells,), in [0, 1].
    correct
        Whether the prediction was right (cells,).

    Returns
    -------
    A number in [0, 1], 0 is best; NaN without cells.

    Notes
    -----
    A forecast of the base rate for every cell scores 0: look at the risk-coverage curve, too.

    References
    ----------
    Guo, Pleiss, Sun & Weinberger 2017, On calibration of modern neural networks.
    """
    if not len(confidence):
        return float("nan")
    rounded = np.round(np.asarray(confidence, dtype=float) * BINS, 6)  # a share of 7 of 15 is an edge, not beyond it
    bins = np.clip(np.ceil(rounded) - 1, 0, BINS - 1).astype(int)
    gap = np.bincount(bins, weights=np.asarray(correct, dtype=float) - confidence, minlength=BINS)
    return float(np.abs(gap).sum() / len(confidence))


def brier(probabilities: np.ndarray, truth: np.ndarray) -> float:
    r"""Score the probabilities of all types by their squared error.

    .. math:: \text{Brier} = \frac1n \sum_i \sum_c \left( p_{ic} - [y_i = c] \right)^2

    Parameters
    ----------
    probabilities
        (cells, classes); rows add up to 1.
    truth
        Codes (cells,) of columns of `probabilities`; code -1 is left out.

    Returns
    -------
    A number in [0, 2], 0 is best; NaN without cells. The same probability for each of c types scores 1 - 1/c.

    References
    ----------
    Brier 1950, Verification of forecasts expressed in terms of probability.
    """
    probabilities, truth = probabilities[truth >= 0], truth[truth >= 0]
    if not len(truth):
        return float("nan")
    if truth.max() >= probabilities.shape[1]:
        raise ValueError(
            f"truth has code {truth.max()}, but probabilities has only {probabilities.shape[1]} columns. "
            "Pass one column for each type."
        )
    of_truth = np.take_along_axis(probabilities, truth[:, None], axis=1)
    return float(np.mean(np.square(probabilities).sum(axis=1) - 2 * of_truth[:, 0] + 1))


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Trace the share of wrong predictions among the most confident cells.

    .. math:: \text{coverage}_i = \frac{i}{n}, \qquad \text{risk}_i = \frac1i \sum_{j \le i} [\text{j-th is wrong}]

    with the cells in descending order of confidence.

    Parameters
    ----------
    confidence, correct
        As in `ece`; any score that is higher for surer predictions will do.

    Returns
    -------
    Coverage and risk (cells,).

    Notes
    -----
    Cells of equal confidence cannot be ranked, so their errors are spread evenly over their ranks, which is the
    mean over all orders. Confidence that is the same everywhere thus has the overall risk at every coverage.

    References
    ----------
    Geifman & El-Yaniv 2017, Selective classification for deep neural networks.
    """
    levels, group = np.unique(-np.asarray(confidence, dtype=float), return_inverse=True)
    size = np.bincount(group, minlength=len(levels))
    wrong = np.bincount(group, weights=~np.asarray(correct, dtype=bool), minlength=len(levels))
    rank = np.arange(1, len(group) + 1)
    errors = np.cumsum(np.repeat(wrong / np.maximum(size, 1), size))
    return rank / max(len(group), 1), errors / rank


def aurc(confidence: np.ndarray, correct: np.ndarray) -> float:
    r"""Score how well the confidence ranks right before wrong predictions (area under risk-coverage).

    .. math:: \text{AURC} = \frac1n \sum_{i=1}^n \text{risk}_i

    Parameters
    ----------
    confidence, correct
        As in `risk_coverage`.

    Returns
    -------
    A number in [0, 1], lower is better; the share of wrong predictions for a random confidence, NaN
    without cells.

    References
    ----------
    Geifman & El-Yaniv 2017, Selective classification for deep neural networks.
    """
    _, risk = risk_coverage(confidence, correct)
    return float(risk.mean()) if len(risk) else float("nan")


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    r"""Score how often a positive cell scores higher than a negative one (area under the ROC curve).

    .. math:: \text{AUROC} = P(s_+ > s_-) + \tfrac12 P(s_+ = s_-)

    Parameters
    ----------
    score
        (cells,), higher for positive ones, for instance novelty.
    positive
        Whether a cell is positive (cells,), for instance of a type that the model never saw.

    Returns
    -------
    A number in [0, 1], 0.5 for chance and where all scores are equal; NaN without positive or negative cells.

    References
    ----------
    Hanley & McNeil 1982, The meaning and use of the area under a receiver operating characteristic (ROC) curve.
    """
    positive = np.asarray(positive, dtype=bool)
    many = np.count_nonzero(positive)
    few = len(positive) - many
    if not many or not few:
        return float("nan")
    return float((rankdata(score)[positive].sum() - many * (many + 1) / 2) / (many * few))


def fpr_at_95(score: np.ndarray, positive: np.ndarray) -> float:
    r"""Score how many known cells are flagged where at least 95 % of the novel ones are (FPR@95).

    .. math:: \text{FPR@95} = P(s_- \ge t), \qquad t = \max \{ t : P(s_+ \ge t) \ge 0.95 \}

    Parameters
    ----------
    score, positive
        As in `auroc`.

    Returns
    -------
    A share in [0, 1], lower is better, 0.95 for chance; NaN without positive or negative cells.

    Notes
    -----
    A negative cell whose score equals the threshold counts as flagged.

    References
    ----------
    Liang, Li & Srikant 2018, Enhancing the reliability of out-of-distribution image detection in neural networks.
    """
    score, positive = np.asarray(score), np.asarray(positive, dtype=bool)
    novel = np.sort(score[positive])
    known = score[~positive]
    if not len(novel) or not len(known):
        return float("nan")
    return float(np.mean(known >= novel[len(novel) // 20]))  # at most 5 % of them lie below


def novelty(z: np.ndarray, query: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """Measure how far cells are from everything known: the mean distance to the k nearest reference cells.

    Parameters
    ----------
    z
        Reference embedding (cells, dim).
    query
        Cells to score (queries, dim).
    k
        Neighbours; with fewer reference cells, all of them.

    Returns
    -------
    Mean Euclidean distances (queries,), NaN without reference cells.

    References
    ----------
    Angiulli & Pizzuti 2002, Fast outlier detection in high dimensional spaces.
    """
    if not len(z):
        return np.full(len(query), np.nan)
    return nearest(z, query, min(k, len(z)))[0].mean(axis=1)

"""Which cells come first: retrieval over ranked reference cells, and verification of pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.spatial.distance import cdist

from tripletomics.metrics.distances import labelled, pair_distances, row_blocks, subsample
from tripletomics.metrics.prediction import auroc

PAIRS = 500_000  # about 500 of them lie below the threshold of `verification`


def retrieval(
    z: np.ndarray, y: np.ndarray, query: np.ndarray | None = None, query_y: np.ndarray | None = None, seed: int = 0
) -> dict[str, float]:
    """Score which cells come first when the reference cells are ranked by distance: all scores in one pass.

    Parameters
    ----------
    z, y, query, query_y
        As in `knn_macro_f1`.
    seed
        Seed of the draw of 2,000 cells to score, where there are more.

    Returns
    -------
    ``recall_at_1``, ``recall_at_10`` (`recall_at_k`), ``r_precision`` and ``map_at_r``, as the functions of these
    names return them.
    """
    first, precision, average = _ranked(z, y, query, query_y, seed)
    return {
        "recall_at_1": _mean(first <= 1),
        "recall_at_10": _mean(first <= 10),
        "r_precision": _mean(precision),
        "map_at_r": _mean(average),
    }


def recall_at_k(
    z: np.ndarray,
    y: np.ndarray,
    query: np.ndarray | None = None,
    query_y: np.ndarray | None = None,
    k: int = 1,
    seed: int = 0,
) -> float:
    r"""Score how often a cell of the same type is among the k nearest labelled cells (R@k; R@1 is also called P@1).

    .. math:: \text{R@k} = \frac1q \sum_i \left[\, \#\{ n : y_n \ne y_i,\ d_{in} \le \min_{y_p = y_i} d_{ip} \} < k
        \,\right]

    over the q query cells i, with the Euclidean distances d to the reference cells.

    Parameters
    ----------
    z, y, query, query_y
        As in `knn_macro_f1`.
    k
        Neighbours to look at.
    seed
        Seed of the draw of 2,000 cells to score, where there are more.

    Returns
    -------
    A share in [0, 1], NaN if there is no labelled query cell or no reference cell for it.

    Notes
    -----
    At equal distances other types come first. A query cell whose type has no reference cell counts 0. Every query
    cell weighs the same, so common types decide.

    References
    ----------
    Oh Song, Xiang, Jegelka & Savarese 2016, Deep metric learning via lifted structured feature embedding (Recall@K).
    """
    return _mean(_ranked(z, y, query, query_y, seed)[0] <= k)


def r_precision(
    z: np.ndarray, y: np.ndarray, query: np.ndarray | None = None, query_y: np.ndarray | None = None, seed: int = 0
) -> float:
    r"""Score how many of the R nearest cells are of the same type, where the type has R cells.

    .. math:: \text{R-Precision} = \frac1q \sum_i P_i(R_i)

    in the letters of `map_at_r`.

    Parameters
    ----------
    z, y, query, query_y, seed
        As in `recall_at_k`.

    Returns
    -------
    A number in [0, 1], 1 if all cells of the own type come before all others; NaN as in `recall_at_k`.

    Notes
    -----
    Ties and types without reference cells as in `recall_at_k`.

    References
    ----------
    Musgrave, Belongie & Lim 2020, A metric learning reality check.
    """
    return _mean(_ranked(z, y, query, query_y, seed)[1])


def map_at_r(
    z: np.ndarray, y: np.ndarray, query: np.ndarray | None = None, query_y: np.ndarray | None = None, seed: int = 0
) -> float:
    r"""Score how far ahead of all other types a cell's own type comes (MAP@R).

    .. math:: \text{MAP@R} = \frac1q \sum_i \frac{1}{R_i} \sum_{k=1}^{R_i} P_i(k)\,[y_{i(k)} = y_i], \qquad
        P_i(k) = \frac1k \sum_{l=1}^{k} [y_{i(l)} = y_i]

    over the q query cells i, where i(k) is the k-th nearest reference cell of i and R_i counts the reference cells of
    the type of i, without the cell itself.

    Parameters
    ----------
    z, y, query, query_y, seed
        As in `recall_at_k`.

    Returns
    -------
    A number in [0, 1], 1 if all cells of the own type come before all others; NaN as in `recall_at_k`.

    Notes
    -----
    Ties and types without reference cells as in `recall_at_k`. It asks for one cluster for each type, whereas
    `recall_at_k` accepts several.

    References
    ----------
    Musgrave, Belongie & Lim 2020, A metric learning reality check.
    """
    return _mean(_ranked(z, y, query, query_y, seed)[2])


def verification(
    z: np.ndarray,
    y: np.ndarray,
    query: np.ndarray | None = None,
    query_y: np.ndarray | None = None,
    seed: int = 0,
    pairs: int = PAIRS,
) -> tuple[float, float]:
    r"""Score whether the distance of two cells shows if they are of the same type.

    .. math:: \text{AUROC} = P(d_s < d_o) + \tfrac12 P(d_s = d_o), \qquad
        \text{TAR} = P(d_s < t), \quad t = \max \{ t : P(d_o < t) \le 0.001 \}

    with the distances d_s of (query, reference) pairs of the same type and d_o of pairs of two types: TAR is the share
    of the former that is accepted where one in 1,000 of the latter is (TAR at FAR = 0.001).

    Parameters
    ----------
    z, y, query, query_y
        As in `knn_macro_f1`.
    seed
        Seed of the draw of pairs.
    pairs
        How many to draw, uniformly and with replacement; where there are no more, all are taken. By default about
        500 pairs of different types lie below the threshold, which puts its FAR within about 5 % of 0.001.

    Returns
    -------
    AUROC and TAR, both in [0, 1]; NaN without both kinds of pairs.

    Notes
    -----
    Uniform pairs mean that common types decide. Pairs at the threshold itself are rejected, so a map that puts all
    cells at one point has a TAR of 0.

    References
    ----------
    Huang, Ramesh, Berg & Learned-Miller 2007, Labeled faces in the wild (verification). Grother & Ngan 2014, Face
    recognition vendor test (TAR at a fixed FAR).
    """
    z, y, others, truth = labelled(z, y, query, query_y)
    width = len(y) - (others is None)
    total = len(truth) * max(width, 0)
    if not total:
        return float("nan"), float("nan")
    chosen = np.arange(total) if total <= pairs else np.random.default_rng(seed).integers(total, size=pairs)
    i, j = np.divmod(chosen, width)
    if others is None:
        j += j >= i  # skip the cell itself
    d, same = pair_distances(z if others is None else others, i, z, j), truth[i] == y[j]
    accepted, foreign = d[same], d[~same]
    if not len(accepted) or not len(foreign):
        return float("nan"), float("nan")
    allowed = len(foreign) // 1000
    threshold = np.partition(foreign, allowed)[allowed]
    return auroc(-d, same), float(np.mean(accepted < threshold))


def _mean(scores: np.ndarray) -> float:
    return float(np.mean(scores)) if len(scores) else float("nan")


def _ranked(
    z: np.ndarray, y: np.ndarray, query: np.ndarray | None, query_y: np.ndarray | None, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each scored cell the rank of the first of its type, R-Precision and average precision at R."""
    z, y, query, truth = labelled(z, y, query, query_y)
    if len(y) <= (query is None):
        return np.zeros(0), np.zeros(0), np.zeros(0)
    scored = subsample(len(truth), seed)
    z, query = z.astype(float), query if query is None else query.astype(float)
    first, precision, average = np.full(len(scored), np.inf), np.zeros(len(scored)), np.zeros(len(scored))
    for rows, own, other in _distances_by_type(z, y, query, truth, scored):
        r = own.shape[1]
        if not r:
            continue
        own.sort(axis=1)
        first[rows] = 1 + np.count_nonzero(other <= own[:, :1], axis=1)
        if r < other.shape[1]:
            other = np.partition(other, r - 1, axis=1)[:, :r]  # later cells are beyond R in any case
        other.sort(axis=1)
        both = np.concatenate([other, own], axis=1)
        right = np.argsort(both, axis=1, kind="stable")[:, :r] >= other.shape[1]  # stable: other types first
        rank = np.arange(1, r + 1)
        precision[rows] = right.mean(axis=1)
        average[rows] = (right.cumsum(axis=1) / rank * right).mean(axis=1)
    return first, precision, average


def _distances_by_type(
    z: np.ndarray, y: np.ndarray, query: np.ndarray | None, truth: np.ndarray, scored: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield rows in `scored` of cells of a type and squared distances to references of (their type, other types)."""
    cells = z if query is None else query
    for code in np.unique(truth[scored]):
        same = y == code
        mine, theirs = z[same], z[~same]
        asked = np.flatnonzero(truth[scored] == code)
        for block in row_blocks(len(asked), len(y)):
            rows = scored[asked[block]]
            own = cdist(cells[rows], mine, "sqeuclidean")
            if query is None:
                oneself = rows[:, None] == np.flatnonzero(same)
                own = own[~oneself].reshape(len(rows), -1)
            yield asked[block], own, cdist(cells[rows], theirs, "sqeuclidean")

"""Scores of an embedding: arrays in, a number out.

`recall_at_1` and `map_at_r` count ties pessimistically: of cells at the same distance, those of other types come
first. A map that puts all cells at one point then scores no better than chance, where ties broken by row number would
reward sorted rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import f1_score, normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier

NEIGHBOURS = 15
_BLOCK = 2**23  # distances held at once


def knn_macro_f1(
    z: np.ndarray, y: np.ndarray, query: np.ndarray | None = None, query_y: np.ndarray | None = None
) -> float:
    """Score how well the 15 nearest labelled cells name the type of a cell.

    The label of a query cell is the most frequent one among its nearest reference cells. The score is the mean over
    types of F1 = 2 TP / (2 TP + FP + FN), so that a rare type counts as much as a common one.

    Parameters
    ----------
    z, y
        Reference embedding (cells, dim) and its codes; code -1 is left out.
    query, query_y
        The cells to score; without them every reference cell is scored against all the others.

    Returns
    -------
    Macro-F1 in [0, 1], NaN if there is nothing to score or only one reference cell.
    """
    z, y, query, truth = _labelled(z, y, query, query_y)
    if len(y) < 2 or not len(truth):
        return float("nan")
    classifier = KNeighborsClassifier(min(NEIGHBOURS, len(y) - (query is None))).fit(z, y)
    return float(f1_score(truth, classifier.predict(query), average="macro", zero_division=0))


def recall_at_1(
    z: np.ndarray, y: np.ndarray, query: np.ndarray | None = None, query_y: np.ndarray | None = None
) -> float:
    r"""Score how often the nearest labelled cell has the same type (R@1, also known as P@1).

    .. math:: \text{R@1} = \frac1q \sum_i \left[\, \min_{y_p = y_i} d_{ip} < \min_{y_n \ne y_i} d_{in} \,\right]

    over the q query cells i, with the Euclidean distances d to the reference cells.

    Parameters
    ----------
    z, y, query, query_y
        As in `knn_macro_f1`.

    Returns
    -------
    A share in [0, 1], NaN if there is no labelled query cell or no reference cell for it.

    Notes
    -----
    At equal distances other types come first. A query cell whose type has no reference cell counts 0. Every query
    cell weighs the same, so common types decide. Never holds all distances at once.

    References
    ----------
    Oh Song, Xiang, Jegelka & Savarese 2016, Deep metric learning via lifted structured feature embedding (Recall@K).
    """
    z, y, query, truth = _labelled(z, y, query, query_y)
    if not len(truth) or len(y) <= (query is None):
        return float("nan")
    hits = sum(
        np.count_nonzero(own.min(axis=1, initial=np.inf) < other.min(axis=1, initial=np.inf))
        for own, other in _distances_by_type(z, y, query, truth)
    )
    return hits / len(truth)


def map_at_r(z: np.ndarray, y: np.ndarray, query: np.ndarray | None = None, query_y: np.ndarray | None = None) -> float:
    r"""Score how far ahead of all other types a cell's own type comes (MAP@R).

    .. math:: \text{MAP@R} = \frac1q \sum_i \frac{1}{R_i} \sum_{k=1}^{R_i} P_i(k), \qquad
        P_i(k) = \begin{cases} \text{share of the type of } i \text{ among its } k \text{ nearest} &
        \text{the } k\text{-th is of that type} \\ 0 & \text{otherwise} \end{cases}

    over the q query cells i, where R_i counts the reference cells of the type of i, without the cell itself.

    Parameters
    ----------
    z, y, query, query_y
        As in `knn_macro_f1`.

    Returns
    -------
    A number in [0, 1], 1 if all cells of the own type come before all others; NaN if there is no labelled query cell
    or no reference cell for it.

    Notes
    -----
    Distances are Euclidean; at equal ones other types come first. A query cell whose type has no reference cell
    counts 0. It asks for one cluster for each type, where `recall_at_1` is content with several. Takes
    O(queries * references * log references) time and never holds all distances at once.

    References
    ----------
    Musgrave, Belongie & Lim 2020, A metric learning reality check.
    """
    z, y, query, truth = _labelled(z, y, query, query_y)
    if not len(truth) or len(y) <= (query is None):
        return float("nan")
    total = 0.0
    for own, other in _distances_by_type(z, y, query, truth):
        own.sort(axis=1)
        other.sort(axis=1)
        r = own.shape[1]
        place = np.arange(1, r + 1)  # of a cell of the own type among its type
        for mine, theirs in zip(own, other, strict=True):
            rank = place + np.searchsorted(theirs, mine, side="right")
            total += (place / rank)[rank <= r].sum() / max(r, 1)
    return float(total / len(truth))


def nmi(z: np.ndarray, y: np.ndarray, seed: int) -> float:
    r"""Score how well k-means, told the number of types, finds them (normalised mutual information).

    .. math:: \text{NMI} = \frac{2\, I(y; c)}{H(y) + H(c)}

    with the clusters c, the mutual information I and the entropies H.

    Parameters
    ----------
    z, y
        Embedding (cells, dim) and its codes; code -1 is left out.
    seed
        Of k-means, which takes the best of 4 starts.

    Returns
    -------
    A number in [0, 1], NaN for fewer than two types.

    Notes
    -----
    Many small types raise it by chance, so compare it on the same cells only. Clusters that are not round, or that
    differ much in size, lower it.

    References
    ----------
    Manning, Raghavan & Schütze 2008, Introduction to information retrieval, section 16.3.
    """
    z, y = z[y >= 0], y[y >= 0]
    types = len(np.unique(y))
    if types < 2:
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct places than types: the score says so
        clusters = KMeans(types, n_init=4, random_state=seed).fit_predict(z)
    return float(normalized_mutual_info_score(y, clusters))


def _labelled(
    z: np.ndarray, y: np.ndarray, query: np.ndarray | None, query_y: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """Drop unlabelled cells; return z, y, the query cells if they are others, and the codes of those to score."""
    z, y = z[y >= 0], y[y >= 0]
    if query is None or query_y is None:
        return z, y, None, y
    return z, y, query[query_y >= 0], query_y[query_y >= 0]


def _distances_by_type(
    z: np.ndarray, y: np.ndarray, query: np.ndarray | None, truth: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield squared distances of some query cells of a type to references of (their type, other types), in blocks."""
    cells = z if query is None else query
    rows = max(1, _BLOCK // max(1, len(y)))
    for code in np.unique(truth):
        same = y == code
        mine, theirs = z[same], z[~same]
        asked = cells[truth == code]
        for start in range(0, len(asked), rows):
            block = asked[start : start + rows]
            own = cdist(block, mine, "sqeuclidean")
            if query is None:
                oneself = np.eye(len(block), len(mine), k=start, dtype=bool)
                own = own[~oneself].reshape(len(block), -1)
            yield own, cdist(block, theirs, "sqeuclidean")

"""How well an embedding keeps the data: neighbours, and the arrangement of types, against a label-free reference.

Everywhere z is the embedding and r the reference space of the same cells, for instance PCA-50 fitted on the training
cells, and distances are Euclidean in both. Equal distances in the embedding count against it; equal distances in the
reference space, where no neighbour is more right than the other, count for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from tripletomics.knn import NEIGHBOURS
from tripletomics.metrics.distances import RANKED_CELLS, pair_distances, row_blocks, squared_distances, subsample

KNN_RECALL = (10, 30, 100)  # neighbours
NEIGHBOURS_WITHIN = 30  # of a type, where it has 150 cells or more
TRIPLETS = 200_000  # a standard error of 0.0012


def neighbourhoods(
    z: np.ndarray, r: np.ndarray, query: np.ndarray | None = None, query_r: np.ndarray | None = None, seed: int = 0
) -> dict[str, float]:
    """Score whether neighbours in the reference space and in the embedding are the same: all scores in one pass.

    Parameters
    ----------
    z, r, query, query_r, seed
        As in `knn_recall`.

    Returns
    -------
    ``knn_recall_10``, ``knn_recall_30``, ``knn_recall_100``, ``trustworthiness`` and ``continuity``, as the functions
    of these names return them.
    """
    recall, intruders, missing = _compared(z, r, query, query_r, seed, ks=KNN_RECALL, k=NEIGHBOURS)
    scores = {f"knn_recall_{k}": float(value) for k, value in zip(KNN_RECALL, recall, strict=True)}
    return scores | {"trustworthiness": 1 - intruders, "continuity": 1 - missing}


def knn_recall(
    z: np.ndarray,
    r: np.ndarray,
    query: np.ndarray | None = None,
    query_r: np.ndarray | None = None,
    k: Sequence[int] = KNN_RECALL,
    seed: int = 0,
) -> np.ndarray:
    r"""Score how many of the k nearest reference cells of the data are among the k nearest of the embedding.

    .. math:: \text{recall}_k = \frac1{qk} \sum_i \left| N^z_k(i) \cap N^r_k(i) \right|

    over the q query cells i, with their k nearest reference cells N in z and in r.

    Parameters
    ----------
    z, r
        Reference cells in the embedding (cells, dim) and in the reference space (cells, features).
    query, query_r
        The cells to score in the same two spaces; without them every reference cell, among all the others.
    k
        Numbers of neighbours.
    seed
        Seed of the draw of 2,000 cells to score, where there are more.

    Returns
    -------
    Shares (len(k),) in [0, 1], k / references for chance. NaN where there are no more than k reference cells, itself
    left out, or nothing to score.

    References
    ----------
    Lee & Verleysen 2009, Quality assessment of dimensionality reduction: rank-based criteria.
    """
    return _compared(z, r, query, query_r, seed, ks=tuple(k))[0]


def trustworthiness(
    z: np.ndarray,
    r: np.ndarray,
    query: np.ndarray | None = None,
    query_r: np.ndarray | None = None,
    k: int = NEIGHBOURS,
    seed: int = 0,
) -> float:
    r"""Score whether neighbours in the embedding are close in the data as well.

    .. math:: T = 1 - \frac{2}{qk(2m - 3k + 1)} \sum_i \sum_{j \in N^z_k(i)} \max(0, \text{rank}^r_i(j) - k)

    over the q query cells i, with their k nearest of the m reference cells (without i itself) and the ranks 1 to m of
    the reference cells j by their distance from i.

    Parameters
    ----------
    z, r, query, query_r, seed
        As in `knn_recall`.
    k
        Number of neighbours.

    Returns
    -------
    A number in [0, 1], about 0.5 for chance where m is much larger than k; NaN as in `knn_recall`.

    Notes
    -----
    With all cells scored against each other (m = n - 1) it is the usual definition. For k > m/2, where that is not
    defined, the divisor is the largest sum that there can be.

    References
    ----------
    Venna & Kaski 2001, Neighborhood preservation in nonlinear projection methods: an experimental study.
    """
    return 1 - _compared(z, r, query, query_r, seed, k=k)[1]


def continuity(
    z: np.ndarray,
    r: np.ndarray,
    query: np.ndarray | None = None,
    query_r: np.ndarray | None = None,
    k: int = NEIGHBOURS,
    seed: int = 0,
) -> float:
    r"""Score whether neighbours in the data stay close in the embedding.

    .. math:: C = 1 - \frac{2}{qk(2m - 3k + 1)} \sum_i \sum_{j \in N^r_k(i)} \max(0, \text{rank}^z_i(j) - k)

    `trustworthiness` with the two spaces exchanged.

    Parameters
    ----------
    z, r, query, query_r, k, seed
        As in `trustworthiness`.

    Returns
    -------
    A number in [0, 1], about 0.5 for chance where m is much larger than k; NaN as in `knn_recall`.

    References
    ----------
    Venna & Kaski 2001, Neighborhood preservation in nonlinear projection methods: an experimental study.
    """
    return 1 - _compared(z, r, query, query_r, seed, k=k)[2]


def knn_recall_within_types(
    z: np.ndarray,
    r: np.ndarray,
    y: np.ndarray,
    query: np.ndarray | None = None,
    query_r: np.ndarray | None = None,
    query_y: np.ndarray | None = None,
    seed: int = 0,
) -> float:
    r"""Score what is left of the neighbourhoods inside a type, above chance.

    .. math:: \frac1c \sum_{t=1}^c \left( \text{recall}_{k_t}(t) - \frac{k_t}{m_t} \right), \qquad
        k_t = \min(30, \lfloor m_t / 5 \rfloor)

    over the c types, with the `knn_recall` of the cells of a type among its own m_t reference cells (without itself).

    Parameters
    ----------
    z, r, query, query_r
        As in `knn_recall`.
    y, query_y
        Codes of the reference cells and of the cells to score; code -1 is left out.
    seed
        Seed of the draw of 2,000 cells to score, where there are more: the same number for each type.

    Returns
    -------
    A number up to 1 - k/m (0.8 to 1), 0 for chance. NaN if no type has 5 reference cells (itself left out) and a
    cell to score; other types are left out.

    Notes
    -----
    Moving the types apart, as every supervised map does, raises `knn_recall` and changes nothing here.
    """
    if (query is None) != (query_y is None):
        raise ValueError("query and query_y belong together: pass both, or neither to score the reference cells.")
    scored = y if query_y is None else query_y
    codes = np.unique(scored[scored >= 0])
    most = RANKED_CELLS if np.count_nonzero(scored >= 0) <= RANKED_CELLS else max(1, RANKED_CELLS // len(codes))
    above = []
    for code in codes:
        own, asked = y == code, scored == code
        width = int(np.count_nonzero(own)) - (query is None)
        k = int(min(NEIGHBOURS_WITHIN, width // 5))
        if k < 1:
            continue
        cells = None if query is None else query[asked]
        cells_r = None if query_r is None else query_r[asked]
        recall = _compared(z[own], r[own], cells, cells_r, seed, ks=(k,), most=most)[0]
        above.append(recall[0] - k / width)
    return float(np.mean(above)) if above else float("nan")


def distortion(
    z: np.ndarray, r: np.ndarray, among: np.ndarray | None = None, seed: int = 0, k: int = NEIGHBOURS
) -> np.ndarray:
    r"""Score each cell by how far its neighbours in the embedding are from being those of the data.

    .. math:: D_i = \frac{m}{k(m - k)(m - k + 1)} \Big( \sum_{j \in N^z_k(i)} \max(0, \text{rank}^r_i(j) - k)
        + \sum_{j \in N^r_k(i)} \max(0, \text{rank}^z_i(j) - k) \Big)

    with the k nearest N of the m reference cells (without i itself) and their ranks 1 to m.

    Parameters
    ----------
    z, r
        All cells in the embedding (cells, dim) and in the reference space (cells, features).
    among
        Boolean (cells,): which are reference cells, such as the training cells; by default all.
    seed
        Seed of the draw of 2,000 reference cells, where there are more: their neighbourhoods are wider then.
    k
        Number of neighbours.

    Returns
    -------
    Numbers (cells,): 0 where both neighbourhoods are the same, on average 1 where one has nothing to do with the
    other. NaN if there are no more than k + 1 reference cells.

    Notes
    -----
    The two sums are those that `trustworthiness` and `continuity` take over all cells, here divided by what chance
    gives.
    """
    if len(z) != len(r):
        raise ValueError(f"r has {len(r)} cells, its embedding {len(z)}. Pass the same cells in both spaces.")
    known = np.arange(len(z)) if among is None else np.flatnonzero(among)
    known = known[subsample(len(known), seed)]
    if len(known) <= k + 1:
        return np.full(len(z), np.nan)
    column = np.full(len(z), -1)  # among the reference cells
    column[known] = np.arange(len(known))
    spaces = [(space[known].astype(float), space.astype(float)) for space in (z, r)]
    errors = np.empty(len(z))
    for block in row_blocks(len(z), len(known)):
        rows = np.arange(len(z))[block]
        own = np.flatnonzero(column[rows] >= 0)
        d, e = (squared_distances(*spaces[i], rows, exact=i == 0) for i in (0, 1))
        d[own, column[rows[own]]] = e[own, column[rows[own]]] = np.inf
        errors[block] = _intruders(d, e, k) + _missing(d, _nearest(e, k, d))
    m = len(known) - (column >= 0)
    return errors * m / (k * (m - k) * (m - k + 1))


def triplet_accuracy(
    z: np.ndarray,
    r: np.ndarray,
    query: np.ndarray | None = None,
    query_r: np.ndarray | None = None,
    seed: int = 0,
    triplets: int = TRIPLETS,
) -> float:
    r"""Score how often the embedding agrees with the data on which of two random cells is nearer.

    .. math:: P\left( \operatorname{sign}(d^z_{ij} - d^z_{ik}) = \operatorname{sign}(d^r_{ij} - d^r_{ik}) \right)

    over random query cells i and pairs (j, k) of reference cells; where either difference is 0 it counts one half.

    Parameters
    ----------
    z, r, query, query_r
        As in `knn_recall`.
    seed
        Seed of the draw of triplets.
    triplets
        How many to draw; the standard error is below 0.5 / sqrt(triplets), 0.0012 by default.

    Returns
    -------
    A number in [0, 1], 0.5 for chance; NaN without a cell to score or two reference cells, itself left out.

    References
    ----------
    Wang, Huang, Rudin & Shaposhnik 2021, Understanding how dimension reduction tools work (random triplet accuracy).
    """
    width, cells = len(z) - (query is None), len(z) if query is None else len(query)
    if width < 2 or not cells:
        return float("nan")
    random = np.random.default_rng(seed)
    i, j, k = (random.integers(most, size=triplets) for most in (cells, width, width - 1))
    k += k >= j
    if query is None:
        j, k = j + (j >= i), k + (k >= i)  # skip the cell itself
    order = [
        np.sign(pair_distances(a, i, b, j) - pair_distances(a, i, b, k))
        for a, b in ((z if query is None else query, z), (r if query_r is None else query_r, r))
    ]
    return float(np.mean(1 + order[0] * order[1]) / 2)


def _compared(
    z: np.ndarray,
    r: np.ndarray,
    query: np.ndarray | None,
    query_r: np.ndarray | None,
    seed: int,
    *,
    ks: tuple[int, ...] = (),
    k: int | None = None,
    most: int | None = None,
) -> tuple[np.ndarray, float, float]:
    """Return the recalls of ks, and the shares of the worst rank errors of intruders and of missing neighbours at k."""
    if (query is None) != (query_r is None):
        raise ValueError("query and query_r belong together: pass both, or neither to score the reference cells.")
    for name, a, b in (("r", z, r), ("query_r", query, query_r)):
        if a is not None and b is not None and len(a) != len(b):
            raise ValueError(f"{name} has {len(b)} cells, its embedding {len(a)}. Pass the same cells in both spaces.")
    width = len(z) - (query is None)
    rows = subsample(len(z) if query is None else len(query), seed, most)
    possible = [one for one in ks if one < width]
    rank = k if k is not None and k < width else None
    recalls, errors = np.zeros(len(possible)), np.zeros(2)
    wanted = max([*possible, rank or 0])
    if not len(rows) or not wanted:
        return np.full(len(ks), np.nan), float("nan"), float("nan")
    for d, e in _distances(z, r, query, query_r, rows):  # in the embedding, in the reference space
        near = _nearest(e, wanted, d)
        smallest = np.sort(np.partition(d, wanted - 1, axis=1)[:, :wanted], axis=1)
        recalls += [_shared(d, near[:, :one], smallest[:, one - 1 : one]).sum() for one in possible]
        if rank:
            errors += _intruders(d, e, rank).sum(), _missing(d, near[:, :rank]).sum()
    found = dict(zip(possible, recalls / len(rows), strict=True))
    worst = rank and sum(width - rank - i for i in range(min(rank, width - rank))) * len(rows)
    shares = errors / worst if worst else np.full(2, np.nan)
    return np.array([found.get(one, np.nan) for one in ks]), float(shares[0]), float(shares[1])


def _distances(
    z: np.ndarray, r: np.ndarray, query: np.ndarray | None, query_r: np.ndarray | None, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield squared distances (a block of rows, reference cells) in both spaces; infinite to the cell itself."""
    z, r = z.astype(float), r.astype(float)
    for block in row_blocks(len(rows), len(z)):
        yield squared_distances(z, query, rows[block]), squared_distances(r, query_r, rows[block], exact=False)


def _nearest(d: np.ndarray, k: int, ties: np.ndarray) -> np.ndarray:
    """Return the columns (rows, k) of the smallest d in order; of equal ones, those with the smallest `ties`."""
    chosen = np.argpartition(d, k - 1, axis=1)[:, :k]
    last = np.take_along_axis(d, chosen[:, k - 1 :], axis=1)
    tied = np.flatnonzero(np.count_nonzero(d <= last, axis=1) > k)
    if len(tied):
        key = np.where(d[tied] == last[tied], ties[tied], np.inf)
        key[d[tied] < last[tied]] = -np.inf
        chosen[tied] = np.argpartition(key, k - 1, axis=1)[:, :k]
    order = np.lexsort([np.take_along_axis(a, chosen, axis=1) for a in (ties, d)], axis=1)
    return np.take_along_axis(chosen, order, axis=1)


def _counts(d: np.ndarray, ascending: np.ndarray, equal: bool) -> np.ndarray:
    """Count in each row of d the numbers below each of the ascending ones of that row, with `equal` up to it."""
    k = ascending.shape[1]  # few, so that to find each d among them is quicker than to sort d
    side: Literal["left", "right"] = "left" if equal else "right"
    ranks = (np.searchsorted(few, many, side) for few, many in zip(ascending, d, strict=True))
    return np.stack([np.bincount(rank, minlength=k + 1)[:k].cumsum() for rank in ranks])


def _shared(d: np.ndarray, near: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return the share (rows,) of the k cells `near` among the k nearest, up to `last`; others come first at ties."""
    k = near.shape[1]
    own = np.take_along_axis(d, near, axis=1)
    others = np.count_nonzero(d <= last, axis=1) - np.count_nonzero(own <= last, axis=1)
    return np.maximum(np.count_nonzero(own < last, axis=1), k - others) / k


def _intruders(d: np.ndarray, e: np.ndarray, k: int) -> np.ndarray:
    """Sum (rows,) by how much the ranks in e of the k smallest d exceed k; the worst are taken where d has ties."""
    own = np.sort(np.take_along_axis(e, _nearest(d, k, -e), axis=1), axis=1)
    return np.maximum(1 + _counts(e, own, equal=False) - k, 0).sum(axis=1)


def _missing(d: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Sum (rows,) by how much the ranks in d of the k cells `near` exceed k, where others come first at ties."""
    k = near.shape[1]
    own = np.sort(np.take_along_axis(d, near, axis=1), axis=1)
    others = _counts(d, own, equal=True) - _counts(own, own, equal=True)
    return np.maximum(others + np.arange(1, k + 1) - k, 0).sum(axis=1)

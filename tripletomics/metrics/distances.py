"""Distances of cells to the reference cells, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import euclidean_distances

BLOCK_DISTANCES = 2**20  # distances held at once: 8 MB, and a score needs up to six arrays of that size
RANKED_CELLS = 2000  # cells scored where all distances to the reference cells must be ranked


def labelled(
    z: np.ndarray, y: np.ndarray, query: np.ndarray | None, query_y: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """Drop unlabelled cells; return z, y, the query cells if they are others, and the codes of those to score."""
    if (query is None) != (query_y is None):
        raise ValueError("query and query_y belong together: pass both, or neither to score the reference cells.")
    z, y = z[y >= 0], y[y >= 0]
    if query is None or query_y is None:
        return z, y, None, y
    return z, y, query[query_y >= 0], query_y[query_y >= 0]


def subsample(cells: int, seed: int, most: int | None = None) -> np.ndarray:
    """Return the rows of all cells, or of `most` (by default RANKED_CELLS) different ones in ascending order."""
    most = RANKED_CELLS if most is None else most
    if cells <= most:
        return np.arange(cells)
    return np.sort(np.random.default_rng(seed).choice(cells, most, replace=False))


def row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Split rows so that a block of them times `width` has at most BLOCK_DISTANCES numbers."""
    step = max(1, BLOCK_DISTANCES // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def squared_distances(z: np.ndarray, query: np.ndarray | None, rows: np.ndarray, exact: bool = True) -> np.ndarray:
    """Return squared distances (rows, references); without query those of a cell to itself are infinite.

    Without `exact` it is many times faster for many columns, but equal distances may differ in the last digit.
    """
    cells = z[rows] if query is None else query[rows]
    d = cdist(cells, z, "sqeuclidean") if exact else euclidean_distances(cells, z, squared=True)
    if query is None:
        d[np.arange(len(rows)), rows] = np.inf
    return d


def pair_distances(a: np.ndarray, i: np.ndarray, b: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Return the squared distances of the rows i of a to the rows j of b, one by one."""
    if len(a) * len(b) <= len(i):  # then all pairs at once are fewer
        return cdist(a, b, "sqeuclidean")[i, j]
    d = np.empty(len(i))
    for block in row_blocks(len(i), a.shape[1]):
        difference = a[i[block]].astype(float) - b[j[block]]
        d[block] = np.einsum("ij,ij->i", difference, difference)
    return d

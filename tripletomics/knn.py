"""Every search for nearest neighbours: exact, approximate where there are millions of cells, and as a graph.

An exact search reads every cell for every query. Above `EXACT_CELLS`, `Index` instead builds a graph of near cells once
(HNSW: hierarchical navigable small world, of faiss), and a query walks along it to its neighbours. Of 200,000 cells
in 32 dimensions it finds 0.992 of the 30 nearest where 40 types scatter in all directions, 0.999 where each does in 8,
and 0.978 where they are almost points. It can miss a small type far from all others: 1 to 3 in 100 queries next to 60
types of 30 cells each did not find their type, because few links lead there.
"""

from __future__ import annotations

import functools
from numbers import Integral
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_array

NEIGHBOURS = 15  # cells: the number that scanpy.pp.neighbors takes, for everything without a number of its own
EXACT_CELLS = 100_000  # the most that are searched exactly
LINKS = 32  # of a cell in the graph, twice as many in its lowest layer: 16 find 0.972 of the 30 nearest, 32 find 0.992
BUILD_WIDTH = 100  # candidates for the links of a new cell: 200 take 1.5 times as long to build, for 0.995
WIDE, MANY, QUERIES = 16, 5_000, 2_000  # dimensions, cells and queries from which clusters save time
CLUSTERS, READ = 64, 2500  # clusters, and how many cells of near ones are read: enough for about 97 of 100 queries
PRODUCT = 256  # queries of one matrix product, which then stays in the processor's cache
ROUNDING = 1e-4  # of a distance, by which sums in float32 may be off
SEARCH_WIDTH = 128  # candidates of a query: 64 find 0.965 in half the time, 256 find 0.999 in twice the time


def nearest(z: np.ndarray, query: np.ndarray | None, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and rows (queries, k) of the k nearest of the cells z (cells, dim), the nearest first.

    Where `query` is None, each of these cells is compared with all the others.
    """
    if query is not None and not len(query):
        return np.zeros((0, k)), np.zeros((0, k), dtype=int)
    return NearestNeighbors(n_neighbors=k).fit(z).kneighbors(query)


class Clusters:
    """Find the same cells as `nearest`, in searches that share their reference cells and are faster for many queries.

    Parameters
    ----------
    z
        Reference cells (cells, dim).

    Notes
    -----
    Cells are put into clusters by k-means, at the first search of many queries. The queries near one cluster are
    compared with the cells of the clusters around it, in one matrix product. No cell of a cluster that was not read is
    nearer than the distance to its centre minus its radius (the triangle inequality). Where that is less than the
    distance of the last neighbour, or if rounding in the product could hide a neighbour, the query is compared with all
    cells. So neighbours are exact. Few queries, few cells or dimensions, and float64 go to `nearest`.

    References
    ----------
    Fukunaga & Narendra 1975, "A branch and bound algorithm for computing k-nearest neighbors", IEEE Trans. Computers
    C-24(7), 750.
    """

    def __init__(self, z: np.ndarray):
        self.z = z
        self.large = len(z) >= MANY and z.shape[1] >= WIDE and z.dtype == np.float32

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return distances and rows (queries, k) of the k nearest cells, the nearest first."""
        if not self.large or query.dtype != np.float32 or k >= READ:
            return nearest(self.z, query, k)
        if len(query) < QUERIES:
            return self._sorted(query, nearest(self.z, query, k)[1])
        centers, radius, read, members = self._clusters
        to_centers = cdist(query, centers)
        closest = to_centers.argmin(axis=1)
        d, rows = np.empty((len(query), k)), np.empty((len(query), k), dtype=np.int64)
        sure = np.zeros(len(query), dtype=bool)
        for cluster in np.unique(closest):
            among, beyond, mine = members[cluster], ~read[cluster], np.flatnonzero(closest == cluster)
            cells = self.z[among] - centers[cluster]
            for some in np.array_split(mine, -(-len(mine) // PRODUCT)):
                found, whole = _smallest(query[some] - centers[cluster], cells, k)
                d[some], rows[some] = self._sorted(query[some], among[found])
                least = (to_centers[some] - radius).min(axis=1, initial=np.inf, where=beyond)
                sure[some] = whole & (d[some, -1] < least * (1 - ROUNDING))
        if not sure.all():
            d[~sure], rows[~sure] = self._sorted(query[~sure], nearest(self.z, query[~sure], k)[1])
        return d, rows

    def _sorted(self, query: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return distances and rows, the nearest first; a query has the same ones however it was searched."""
        rows = np.sort(rows, axis=1)
        d = np.linalg.norm(self.z[rows] - query[:, None], axis=2)
        order = np.argsort(d, axis=1, kind="stable")
        return np.take_along_axis(d, order, axis=1), np.take_along_axis(rows, order, axis=1)

    @functools.cached_property
    def _clusters(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
        """Centres and radii of clusters, which of them queries near each one read, and the cells of these."""
        import faiss

        means = faiss.Kmeans(self.z.shape[1], CLUSTERS, niter=8, seed=0, min_points_per_centroid=1)
        means.train(np.ascontiguousarray(self.z))
        centers: Any = means.centroids
        to_center = cdist(self.z, centers)
        own, radius = to_center.argmin(axis=1), np.zeros(CLUSTERS)
        np.maximum.at(radius, own, to_center.min(axis=1))
        sizes = np.bincount(own, minlength=CLUSTERS)
        read = np.zeros((CLUSTERS, CLUSTERS), dtype=bool)
        for cluster, order in enumerate(np.argsort(cdist(centers, centers), axis=1, kind="stable")):
            read[cluster, order[: np.searchsorted(sizes[order].cumsum(), READ) + 1]] = True
        return centers, radius, read, [np.flatnonzero(some[own]) for some in read]


def _smallest(query: np.ndarray, z: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (queries, k) of the k nearest cells in any order, and for which queries no rounding hides one."""
    far, norms = query @ (-2 * z).T, np.square(z).sum(axis=1)
    far += norms  # squared distances without the part that is the same for all cells
    off = 2 * z.shape[1] * np.finfo(np.float32).eps * (np.square(query).sum(axis=1, keepdims=True) + norms.max())
    taken = far <= np.partition(far, k - 1, axis=1)[:, k - 1 : k] + off  # several times as fast as argpartition
    whole = taken.sum(axis=1) == k
    rows = np.zeros((len(query), k), dtype=np.int64)
    rows[whole] = (np.flatnonzero(taken[whole]) % len(z)).reshape(-1, k)
    return rows, whole


def knn_graph(x: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """Find the k nearest other cells of every cell (fewer in a tiny dataset), the nearest first: int64 (cells, k)."""
    import faiss  # exact too, and three times as fast as scikit-learn's, which counts in float64

    n, dim = x.shape
    k = min(k, n - 1)
    cells = np.ascontiguousarray(x - x.mean(axis=0), dtype=np.float32)
    index = faiss.IndexFlatL2(dim)
    index.add(cells)
    found = index.search(cells, k + 1)[1]
    others = found != np.arange(n)[:, None]
    others[others.all(axis=1), -1] = False  # a cell of more than k copies need not find itself
    return found[others].reshape(n, k)


def radius(reference: np.ndarray, seed: int) -> float:
    """Return the median distance of up to 1,000 cells to their 15th neighbour."""
    some = np.random.default_rng(seed).permutation(len(reference))[:1000]
    k = min(NEIGHBOURS, len(reference) - 1)
    distances, _ = nearest(reference, reference[some], k + 1)
    return float(np.median(distances[:, -1]))


class Index:
    """Find the nearest of a set of cells, for any number of queries.

    Parameters
    ----------
    z
        Reference cells (cells, dim).

    Raises
    ------
    ValueError
        If `z` has no cells or holds numbers that are not finite.

    Notes
    -----
    Nothing is built before the first search. Above `EXACT_CELLS` cells it then takes 45 seconds on one core for
    200,000 cells in 32 dimensions, and memory for another copy of `z` and 280 bytes per cell.

    One thread (``OMP_NUM_THREADS=1``) always builds the same graph from the same rows. Several threads, or another
    order of the rows, build a graph that may miss other neighbours; a graph once built always answers the same.

    References
    ----------
    Malkov, Yashunin 2020, "Efficient and robust approximate nearest neighbor search using hierarchical navigable small
    world graphs", IEEE TPAMI 42, 824.
    """

    def __init__(self, z: np.ndarray):
        self.z = check_array(z, dtype=np.float32, order="C", input_name="z")
        self._graph: Any = None

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest cells of each query, the nearest first.

        Parameters
        ----------
        query
            Cells (queries, dim). A query that is itself among the reference cells finds itself.
        k
            Number of neighbours, at most that of the reference cells.

        Returns
        -------
        Euclidean distances (queries, k), ascending, and the rows of the neighbours among the reference cells
        (queries, k).

        Raises
        ------
        ValueError
            If `k` is not a whole number from 1 to the number of cells, or if `query` has another width than `z`.
        """
        cells, dim = self.z.shape
        if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:
            raise ValueError(f"k={k!r} is not a whole number of at least 1.")
        if k > cells:
            raise ValueError(f"k={k} neighbours are more than the {cells} cells of the index. Pass k={cells} or less.")
        query = check_array(query, dtype=np.float32, order="C", ensure_min_samples=0, input_name="query")
        if query.shape[1] != dim:
            raise ValueError(f"query has {query.shape[1]} dimensions, the index {dim}. Pass cells of the same space.")
        return nearest(self.z, query, int(k)) if cells <= EXACT_CELLS else self._walk(query, int(k))

    def _walk(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Search the graph, and exactly for the queries that found fewer than k cells there."""
        import faiss

        if self._graph is None:
            graph = faiss.IndexHNSWFlat(self.z.shape[1], LINKS)
            graph.hnsw.efConstruction = BUILD_WIDTH
            graph.add(self.z)
            self._graph = graph
        self._graph.hnsw.efSearch = max(SEARCH_WIDTH, 2 * k)
        d, rows = self._graph.search(query, k)
        d = np.sqrt(d, dtype=float)
        short = (rows < 0).any(axis=1)  # many cells at one point have no links to the rest
        d[short], rows[short] = nearest(self.z, query[short], k)
        return d, rows

import sys

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from tripletomics import knn
from tripletomics.knn import Index


def clustered(cells, dim, seed):
    """Cells of 12 types of unequal sizes."""
    random = np.random.default_rng(seed)
    centres = 3 * np.random.default_rng(0).normal(size=(12, dim))
    y = random.choice(12, cells, p=np.arange(1, 13) / 78)
    return (centres[y] + random.normal(size=(cells, dim))).astype(np.float32)


@pytest.fixture
def graph(monkeypatch):
    """Search more than 1,000 cells through the graph."""
    monkeypatch.setattr(knn, "EXACT_CELLS", 1000)


def nearest(z, query, k):
    return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(z.astype(float)).kneighbors(query.astype(float))


def recall(rows, truth):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(rows, truth, strict=True)])


@pytest.mark.parametrize("dim", [2, 32])
@pytest.mark.parametrize("k", [1, 10, np.int64(1000)])
def test_exact_against_scikit_learn(graph, monkeypatch, dim, k):
    monkeypatch.setitem(sys.modules, "faiss", None)  # up to EXACT_CELLS cells it is not even imported
    z, query = clustered(1000, dim, 1), clustered(50, dim, 2)
    d, rows = Index(z).search(query, k)
    truth, true_rows = nearest(z, query, k)
    np.testing.assert_allclose(d, truth, rtol=1e-5)
    assert recall(rows[:, :10], true_rows[:, :10]) == 1
    assert d.shape == rows.shape == (50, k)


def test_the_graph_finds_nearly_all(graph):
    z, query = clustered(8000, 32, 1), clustered(200, 32, 2)
    found = Index(z)
    for k in (10, 30, 300):
        d, rows = found.search(query, k)
        assert recall(rows, nearest(z, query, k)[1]) >= 0.98
        assert d.shape == rows.shape == (200, k)
        assert all(len(set(row)) == k for row in rows)
        assert (np.diff(d, axis=1) >= 0).all()
        np.testing.assert_allclose(d, np.linalg.norm(query[:, None].astype(float) - z[rows], axis=2), rtol=1e-5)


def test_many_neighbours_widen_the_search(graph):
    z, query = np.split(np.random.default_rng(0).normal(size=(8200, 32)).astype(np.float32), [8000])
    assert recall(Index(z).search(query, 300)[1], nearest(z, query, 300)[1]) >= 0.99


def test_both_ways_return_the_same_types(graph):
    answers = [Index(clustered(cells, 32, 1)).search(clustered(5, 32, 2), 3) for cells in (1000, 1001)]
    for exact, walked in zip(*answers, strict=True):
        assert exact.dtype == walked.dtype


@pytest.mark.parametrize("cells", [1000, 4000])
def test_the_order_of_the_rows_does_not_matter(graph, cells):
    z, query = clustered(cells, 32, 1), clustered(100, 32, 2)
    shuffled, other = np.random.default_rng(3).permutation(cells), np.random.default_rng(4).permutation(100)
    d, rows = Index(z).search(query, 10)
    again, again_rows = Index(z[shuffled]).search(query[other], 10)
    assert recall(shuffled[again_rows], rows[other]) >= (1 if cells == 1000 else 0.97)
    np.testing.assert_allclose(
        np.median(again, axis=1), np.median(d[other], axis=1), rtol=1e-5 if cells == 1000 else 0.05
    )


def test_a_query_does_not_depend_on_the_others(graph):
    z, query = clustered(4000, 32, 1), clustered(100, 32, 2)
    search = Index(z).search
    np.testing.assert_array_equal(search(query, 10)[1][40:60], search(query[40:60], 10)[1])


def test_one_thread_builds_the_same_graph_again(graph):
    faiss = pytest.importorskip("faiss")
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        z, query = clustered(4000, 32, 1), clustered(100, 32, 2)
        one, two = (Index(z).search(query, 10) for _ in range(2))
    finally:
        faiss.omp_set_num_threads(threads)
    np.testing.assert_array_equal(one, two)


def test_the_graph_is_built_at_the_first_search_and_kept(graph, monkeypatch):
    z, query = clustered(1001, 8, 1), clustered(5, 8, 2)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "faiss", None)
        found = Index(z)
        with pytest.raises(ImportError):
            found.search(query, 3)
    found.search(query, 3)
    built = found._graph
    found.search(query, 5)
    assert found._graph is built


def test_cells_at_one_point_have_no_way_to_the_rest(graph):
    z = np.r_[np.ones((3000, 4)), np.random.default_rng(0).normal(size=(3000, 4)) + 50].astype(np.float32)
    query = z[::500]
    found = Index(z)
    d, rows = found.search(query, 200)
    assert (found._graph.search(query, 200)[1] < 0).any()  # else this tests nothing
    assert all(len(set(row)) == 200 for row in rows)
    assert rows.min() >= 0
    np.testing.assert_allclose(d, nearest(z, query, 200)[0], rtol=1e-5, atol=1e-6)
    assert [a.shape for a in found.search(np.zeros((0, 4)), 20)] == [(0, 20), (0, 20)]


@pytest.mark.parametrize("spread", [0.1, 5.0], ids=["apart", "mixed"])
def test_clusters_change_the_time_and_not_the_neighbours(spread):
    random = np.random.default_rng(0)
    centers = random.normal(size=(30, knn.WIDE))
    z, query = (
        (centers[random.integers(30, size=n)] + spread * random.normal(size=(n, knn.WIDE))).astype(np.float32)
        for n in (knn.MANY, knn.QUERIES)
    )
    z[100:140] = z[100]  # copies
    query[:5], query[5:10] = z[100], 50 * centers[:5]  # cells of the reference, and cells far from all
    cells = knn.Clusters(z)
    d, rows = cells.search(query, 15)
    exact, _ = nearest(z, query, 15)
    np.testing.assert_allclose(d, exact, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(z[rows] - query[:, None], axis=2), d, rtol=1e-6)
    assert (d[:5] == 0).all()
    assert (np.diff(np.sort(rows, axis=1), axis=1) > 0).all()
    few = cells.search(query[: knn.QUERIES - 1], 15)
    np.testing.assert_array_equal(few[0], d[:-1])  # however many are asked for


def test_clusters_find_neighbours_that_rounding_of_a_product_would_hide():
    """Types so tight that the squares of coordinates are far larger than the squared distances."""
    random = np.random.default_rng(0)
    centers = 2 * random.normal(size=(200, knn.WIDE))
    z, query = (
        (centers[random.integers(200, size=n)] + 1e-3 * random.normal(size=(n, knn.WIDE))).astype(np.float32)
        for n in (knn.MANY, knn.QUERIES)
    )
    d, _ = knn.Clusters(z).search(query, 15)
    exact = np.sort(cdist(query.astype(float), z.astype(float)), axis=1)[:, :15]
    np.testing.assert_allclose(d, exact, rtol=1e-5)


@pytest.mark.parametrize("k", [0, -1, 2.5, 3.0, True, "3", None])
def test_k_that_is_no_number_of_neighbours(k):
    with pytest.raises(ValueError, match=rf"k={k!r} is not a whole number of at least 1\."):
        Index(np.zeros((5, 2))).search(np.zeros((1, 2)), k)


@pytest.mark.parametrize("cells", [50, 1500])
def test_more_neighbours_than_cells(graph, cells):
    with pytest.raises(ValueError, match=rf"k={cells + 1} .* the {cells} cells of the index\. Pass k={cells} or less"):
        Index(np.zeros((cells, 2))).search(np.zeros((1, 2)), cells + 1)


def test_cells_that_cannot_be_searched():
    with pytest.raises(ValueError, match="query has 3 dimensions, the index 2"):
        Index(np.zeros((5, 2))).search(np.zeros((1, 3)), 1)
    with pytest.raises(ValueError, match="query contains NaN"):
        Index(np.zeros((5, 2))).search(np.full((1, 2), np.nan), 1)
    with pytest.raises(ValueError, match="z contains NaN"):
        Index(np.full((5, 2), np.nan))
    with pytest.raises(ValueError, match="0 sample"):
        Index(np.zeros((0, 2)))

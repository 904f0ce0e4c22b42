import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA
from umap import UMAP

from tripletomics import baselines


@pytest.fixture(scope="module")
def values():
    """Log-normalised values of 120 training and 30 query cells in three types."""
    random = np.random.default_rng(0)
    rate = random.gamma(1, 1, size=(3, 80))[np.arange(150) % 3]
    x = sp.csr_matrix(np.log1p(random.poisson(rate)).astype(np.float32))
    return x[:120], x[120:]


def as_dense(values):
    return [x.toarray() for x in values]


def test_pca_is_that_of_scikit_learn(values):
    train, query = as_dense(values)
    oracle = PCA(2, svd_solver="full").fit(train)
    for given in (values, (train, query)):
        found = baselines.pca(*given)
        for places, x in zip(found, (train, query), strict=True):
            assert places.dtype == np.float32
            np.testing.assert_allclose(places, oracle.transform(x), atol=1e-4)


def test_umap_is_that_of_umap_learn(values):
    train, query = as_dense(values)
    pca = PCA(50, svd_solver="arpack", random_state=3).fit(train)
    oracle = UMAP(n_neighbors=15, min_dist=0.5, spread=1.0, random_state=3, n_jobs=1).fit(pca.transform(train))
    places, query_places = baselines.umap(train, query, seed=3)
    assert places.dtype == query_places.dtype == np.float32
    np.testing.assert_allclose(places, oracle.embedding_, atol=1e-4)
    np.testing.assert_allclose(query_places, oracle.transform(pca.transform(query)), atol=1e-4)


@pytest.mark.parametrize("baseline", [baselines.pca, baselines.umap])
def test_query_cells_change_nothing(values, baseline):
    train, query = values
    np.testing.assert_array_equal(baseline(train, query)[0], baseline(train, query[:4])[0])


@pytest.mark.parametrize("baseline", [baselines.pca, baselines.umap])
@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize(("cells", "genes"), [(120, 3), (120, 2), (12, 80), (4, 80), (3, 80)])
def test_few_genes_or_cells(values, baseline, kind, cells, genes):
    given = (values[0][:cells, :genes], values[1][:, :genes])
    train, query = baseline(*(given if kind == "sparse" else as_dense(given)))
    assert train.shape == (cells, 2)
    assert query.shape == (30, 2)
    assert np.isfinite(train).all()
    assert np.isfinite(query).all()


def test_dim(values):
    for baseline in (baselines.pca, baselines.umap):
        assert [places.shape[1] for places in baseline(*values, dim=3)] == [3, 3]


def test_too_few_genes_for_a_map(values):
    with pytest.raises(ValueError, match="dim=2 is more than 120 training cells and 1 genes can span"):
        baselines.pca(values[0][:, :1], values[1][:, :1])

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from sklearn.decomposition import PCA

from tripletomics import features


def test_normalise_is_scanpys(counts):
    depth = features.median_depth(counts.X)
    expected = ad.AnnData(counts.X.copy())
    sc.pp.normalize_total(expected)  # to the median by default
    sc.pp.log1p(expected)
    for x in (counts.X, counts.X.toarray()):
        np.testing.assert_allclose(features.normalise(x, depth), expected.X.toarray(), rtol=1e-5)


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array, np.asarray])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_equal_tables_become_the_same_whatever_their_kind(kind, dtype):
    dense = np.random.default_rng(0).poisson(0.3, size=(50, 20))
    expected = features.normalise(sp.csr_matrix(dense), 100.0)
    found = features.normalise(kind(dense.astype(dtype)), 100.0)
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_sparse_stays_sparse_where_that_is_smaller():
    few, many = (sp.random(50, 20, density, random_state=0, format="csr") for density in (0.2, 0.7))
    assert sp.issparse(features.normalise(few, 100.0))
    assert not sp.issparse(features.normalise(many, 100.0))


def test_a_cell_without_counts_stays_zero():
    x = np.array([[0, 0], [3, 1]])
    assert features.normalise(x, 4.0)[0].tolist() == [0, 0]
    assert features.median_depth(x) == 4
    assert features.median_depth(np.zeros((3, 2))) == 1


def test_the_input_is_not_changed(counts):
    before = counts.X.copy()
    features.fit(counts.X, counts.var_names.tolist(), counts=True, seed=0).normalise(counts.X)
    assert (before != counts.X).nnz == 0


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, np.asarray])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_kinds_of_matrix_agree(counts, kind, dtype):
    dense = counts.X.toarray()
    expected = features.fit(dense, counts.var_names.tolist(), counts=True, seed=0)
    given = kind(dense.astype(dtype))
    found = features.fit(given, counts.var_names.tolist(), counts=True, seed=0)
    for name in ("mean", "scale", "cap"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-5)
    projected = found.project(given)
    assert type(projected) is np.ndarray
    assert projected.dtype == np.float32
    np.testing.assert_allclose(np.abs(projected[:, :2]), np.abs(expected.project(dense)[:, :2]), atol=2e-3)


def test_components_are_those_of_scanpys_usual_steps(counts):
    contract = features.fit(counts.X, counts.var_names.tolist(), counts=True, seed=0)
    usual = ad.AnnData(counts.X.copy())
    sc.pp.normalize_total(usual, target_sum=1e4)
    sc.pp.log1p(usual)
    x = usual.X.toarray().astype(float)
    x = np.minimum((x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1), 10)
    expected = PCA(50, svd_solver="full").fit_transform(x)
    found = contract.project(counts.X)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(np.abs(found[:, :3]), np.abs(expected[:, :3]), atol=0.02)
    np.testing.assert_allclose(found.var(axis=0), expected.var(axis=0), rtol=1e-3)


def test_components_of_some_cells_are_no_mirror_image(counts):
    names = counts.var_names.tolist()
    all_cells, most = (
        features.fit(counts.X[rows], names, True, seed) for rows, seed in ((slice(None), 0), (slice(270), 1))
    )
    found, again = (contract.project(counts.X) for contract in (all_cells, most))
    assert ((found**3).sum(axis=0) >= 0).all()
    for axis in range(2):
        assert np.corrcoef(found[:, axis], again[:, axis])[0, 1] > 0.9


def test_each_use_has_its_genes(counts):
    choice = features.Choice(np.arange(150), 100, np.arange(150) >= 50, 0.8)
    contract = features.fit(counts.X[:, :150], counts.var_names[:150].tolist(), True, 0, choice)
    assert contract.usual_depth == 8000
    assert contract.normalise(counts.X[:, :150]).shape == (counts.n_obs, 100)
    assert (contract.axes[:, :50] == 0).all()
    changed = counts.X[:, :150].toarray()
    expected = contract.project(changed)
    total = changed.sum(axis=1)
    changed[:, :50] = 0
    changed[:, 0] = total - changed.sum(axis=1)  # the same depth
    np.testing.assert_allclose(contract.project(changed), expected, atol=1e-3)


def test_a_panel_has_unit_variance_and_genes_share_a_scale(counts):
    panel = features.fit(counts.X[:, :20].toarray(), counts.var_names[:20].tolist(), counts=False, seed=0)
    assert panel.standardise(counts.X[:, :20].toarray()).std(axis=0) == pytest.approx(1, abs=1e-5)
    genes = features.fit(counts.X, counts.var_names.tolist(), counts=True, seed=0)
    assert np.ptp(genes.scale) == 0
    assert genes.standardise(genes.normalise(counts.X)).var(axis=0).mean() == pytest.approx(1, abs=1e-4)


def test_constant_features_are_finite():
    contract = features.fit(np.ones((10, 3)), ["a", "b", "c"], counts=False, seed=0)
    assert np.isfinite(contract.standardise(np.ones((10, 3), dtype=np.float32))).all()
    assert np.isfinite(contract.project(np.ones((10, 3), dtype=np.float32))).all()


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("sparse counts", np.random.default_rng(0).poisson(0.3, (50, 200)), True),
        ("deep counts", np.random.default_rng(0).poisson(30, (50, 200)), True),
        ("few genes, many zeros", np.random.default_rng(0).poisson(0.5, (50, 20)), True),
        ("read counts", np.random.default_rng(0).exponential(100, (50, 200)), True),
        ("logged", np.log1p(np.random.default_rng(0).exponential(100, (50, 200))), False),
        ("scaled", np.random.default_rng(0).normal(size=(50, 200)), False),
        ("cytometer channels", np.random.default_rng(0).integers(1, 1024, (50, 12)), False),
        ("imaging intensities", np.random.default_rng(0).exponential(1000, (50, 40)), False),
        ("nothing", sp.csr_matrix((50, 200)), True),
    ],
)
def test_looks_like_counts(name, values, expected):
    assert features.looks_like_counts(values) is expected, name

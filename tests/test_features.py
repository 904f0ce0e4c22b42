import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from sklearn.decomposition import PCA

from tripletomics import features, pcs


def dense(x):
    return x.toarray() if sp.issparse(x) else x


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
    projected = found.pcs(given)
    assert type(projected) is np.ndarray
    assert projected.dtype == np.float32
    np.testing.assert_allclose(np.abs(projected[:, :2]), np.abs(expected.pcs(dense)[:, :2]), atol=2e-3)


def test_components_are_those_of_scanpys_usual_steps(counts):
    contract = features.fit(counts.X, counts.var_names.tolist(), counts=True, seed=0)
    usual = ad.AnnData(counts.X.copy())
    sc.pp.normalize_total(usual, target_sum=1e4)
    sc.pp.log1p(usual)
    x = usual.X.toarray().astype(float)
    x = np.minimum((x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1), 10)
    expected = PCA(50, svd_solver="full").fit_transform(x)
    found = contract.pcs(counts.X)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(np.abs(found[:, :3]), np.abs(expected[:, :3]), atol=0.02)
    np.testing.assert_allclose(found.var(axis=0), expected.var(axis=0), rtol=1e-3)


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_components_of_a_tall_table_are_those_of_a_full_decomposition(kind):
    random = np.random.default_rng(0)
    rate = np.exp(random.normal(size=(6, 110)))[random.integers(6, size=3000)] * random.gamma(2, 0.3, (3000, 1))
    x = random.poisson(rate).astype(np.float32)
    contract = features.fit(kind(x), [f"g{i}" for i in range(110)], counts=False, seed=0)
    spread = np.maximum(x.std(axis=0, dtype=float), 1e-9)
    scaled = np.minimum((x - x.mean(axis=0, dtype=float)) / spread, 10)
    expected = PCA(50, svd_solver="full").fit(scaled)
    assert len(x) >= pcs.TALL * x.shape[1]
    np.testing.assert_allclose(contract.variance, expected.explained_variance_ * (1 - 1 / len(x)), rtol=1e-4)
    ours, theirs = contract.pcs(kind(x))[:, :4], expected.transform(scaled)[:, :4]
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=2e-3)
    assert ((ours**3).sum(axis=0) >= 0).all()


def test_components_of_some_cells_are_no_mirror_image(counts):
    names = counts.var_names.tolist()
    all_cells, most = (
        features.fit(counts.X[rows], names, True, seed) for rows, seed in ((slice(None), 0), (slice(270), 1))
    )
    found, again = (contract.pcs(counts.X) for contract in (all_cells, most))
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
    expected = contract.pcs(changed)
    total = changed.sum(axis=1)
    changed[:, :50] = 0
    changed[:, 0] = total - changed.sum(axis=1)  # the same depth
    np.testing.assert_allclose(contract.pcs(changed), expected, atol=1e-3)


def test_a_panel_has_unit_variance_and_genes_share_a_scale(counts):
    panel = features.fit(counts.X[:, :20].toarray(), counts.var_names[:20].tolist(), counts=False, seed=0)
    assert panel.standardise(counts.X[:, :20].toarray()).std(axis=0) == pytest.approx(1, abs=1e-5)
    genes = features.fit(counts.X, counts.var_names.tolist(), counts=True, seed=0)
    assert np.ptp(genes.scale) == 0
    assert genes.standardise(genes.normalise(counts.X)).var(axis=0).mean() == pytest.approx(1, abs=1e-4)


def test_constant_features_are_finite():
    contract = features.fit(np.ones((10, 3)), ["a", "b", "c"], counts=False, seed=0)
    assert np.isfinite(contract.standardise(np.ones((10, 3), dtype=np.float32))).all()
    assert np.isfinite(contract.pcs(np.ones((10, 3), dtype=np.float32))).all()


def test_shares_are_those_of_all_training_counts(counts):
    contract = features.fit(counts.X, counts.var_names.tolist(), True, 0)
    dense = counts.X.toarray()
    np.testing.assert_allclose(contract.shares, dense.sum(axis=0) / dense.sum(), rtol=1e-5)
    assert contract.shares.dtype == np.float32
    for x, is_counts in ((counts.X, False), (sp.csr_matrix((5, 4)), True)):
        equal = features.fit(x, ["g"] * x.shape[1], is_counts, 0).shares
        np.testing.assert_allclose(equal, 1 / x.shape[1], rtol=1e-6)


def test_negative_training_values_are_remembered(counts):
    x = counts.X.toarray()
    for values, negative in ((x, False), (x - 1, True)):
        assert features.fit(values, counts.var_names.tolist(), False, 0).negative is negative


@pytest.fixture(params=["counts", "logged", "panel"])
def partly(request, counts):
    """A contract, a table of its genes, and which of them are known."""
    x = counts.X if request.param == "counts" else features.normalise(counts.X, 1e4)
    n = 30 if request.param == "panel" else 150
    choice = features.Choice(np.arange(n), n - 10, np.arange(n) >= 5, 1.0)
    contract = features.fit(x[:200, :n], counts.var_names[:n].tolist(), request.param == "counts", 0, choice)
    return contract, sp.csr_matrix(x[200:, :n]), np.random.default_rng(1).random(n) < 0.6


def test_all_genes_present_changes_no_bit(partly):
    contract, x, _ = partly
    every = np.ones(x.shape[1], dtype=bool)
    np.testing.assert_array_equal(contract.pcs(x, every), contract.pcs(x))
    rows, same = (dense(contract.normalise(x, p)) for p in (None, every))
    np.testing.assert_array_equal(rows, same)
    np.testing.assert_array_equal(contract.standardise(rows, every), contract.standardise(rows))


def test_a_hidden_gene_is_at_its_training_mean(partly):
    contract, x, present = partly
    rows = dense(contract.normalise(x, present))
    scaled, seen = contract.standardise(rows, present), present[: contract.n_seen]
    assert (scaled[:, ~seen] == 0).all()
    known = x.toarray() * present
    if contract.counts:
        depth = contract.depth * contract.shares[present].sum()
        known = np.log1p(known * depth / known.sum(axis=1, keepdims=True))
    expected = (known[:, : contract.n_seen] - contract.mean) / contract.scale
    np.testing.assert_allclose(scaled[:, seen], expected[:, seen], atol=1e-4)


def test_what_is_there_is_not_inflated(counts):
    """The same cell, measured with fewer genes, has nearly the same values in those."""
    contract = features.fit(counts.X, counts.var_names.tolist(), True, 0)
    present = np.arange(150) % 5 == 0
    whole, part = (dense(contract.normalise(counts.X, p))[:, present] for p in (None, present))
    zeroed = dense(contract.normalise(features.take(counts.X, np.where(present, np.arange(150), -1))))[:, present]
    assert abs(part.mean() / whole.mean() - 1) < 0.1
    assert zeroed.mean() > 1.5 * whole.mean()


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array, np.asarray])
def test_values_of_hidden_genes_are_ignored_in_any_kind_of_matrix(partly, kind):
    contract, x, present = partly
    expected = contract.pcs(x, present), dense(contract.normalise(x, present))
    other = x.toarray().astype(np.float32)
    other[:, ~present] = np.nan
    found = contract.pcs(kind(other), present), dense(contract.normalise(kind(other), present))
    for one, another in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, another)
    assert np.isnan(other[:, ~present]).all()  # and they are left alone


def test_part_of_a_sparse_table_stays_sparse(counts):
    contract = features.fit(counts.X, counts.var_names.tolist(), True, 0)
    assert sp.issparse(contract.normalise(counts.X, np.arange(150) % 2 == 0))


def test_components_of_partly_unknown_cells_follow_from_the_normal_distribution(partly):
    """Fill the unknown genes with their means given the known ones, gene by gene, and project."""
    contract, x, present = partly
    total = contract.usual_depth * (contract.shares[present].sum() if contract.counts else 1)
    known = x.toarray().astype(float) * present
    rows = np.log1p(known * total / known.sum(axis=1, keepdims=True)) if contract.counts else known
    rows = (np.minimum(rows, contract.cap) - contract.center) / contract.unit
    v = (contract.axes * contract.unit).astype(float)
    covariance = v.T @ np.diag(contract.variance - contract.noise) @ v + contract.noise * np.eye(len(present))
    slope = covariance[np.ix_(~present, present)] @ np.linalg.inv(covariance[np.ix_(present, present)])
    rows[:, ~present] = rows[:, present] @ slope.T
    expected = rows @ v.T
    found = contract.pcs(x, present)
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def test_the_model_of_the_components_has_the_variance_of_the_genes(counts):
    contract = features.fit(counts.X, counts.var_names.tolist(), True, 0)
    np.testing.assert_allclose(contract.variance, contract.pcs(counts.X).var(axis=0), rtol=1e-3)
    # a gene has a variance of 1, less what is cut
    assert contract.variance.sum() + contract.noise * (150 - 50) == pytest.approx(150, rel=0.01)
    panel = features.fit(counts.X[:, :20], counts.var_names[:20].tolist(), True, 0)
    assert panel.noise == pcs.MIN_NOISE


def test_imputed_components_are_nearer_to_the_whole_than_those_of_zeros(partly):
    contract, x, present = partly
    whole, imputed = contract.pcs(x), contract.pcs(x, present)
    zeros = contract.pcs(features.take(x, np.where(present, np.arange(len(present)), -1)))
    near, far = (np.median(np.linalg.norm(part - whole, axis=1)) for part in (imputed, zeros))
    assert near < 0.8 * far


def test_nothing_known_is_the_mean_cell(partly):
    contract, x, present = partly
    nothing = np.zeros_like(present)
    np.testing.assert_allclose(contract.pcs(x, nothing), 0, atol=1e-6)


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix])
def test_values_that_are_stored_in_parts_stay_as_they_are(kind):
    whole = kind(sp.random(30, 20, 0.2, dtype=np.float32, random_state=0))
    parts = kind((np.repeat(whole.data / 2, 2), np.repeat(whole.indices, 2), 2 * whole.indptr), shape=(30, 20))
    before = parts.data.copy()
    np.testing.assert_allclose(features.normalise(parts, 10).toarray(), features.normalise(whole, 10).toarray(), 1e-6)
    np.testing.assert_array_equal(parts.data, before)

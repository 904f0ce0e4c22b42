import numpy as np
import pytest
import scipy.sparse as sp
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA

from tripletomics import features, metrics, pcs

SEED = 3


def draw(n, genes, strong=3, size=0.15, seed=0, codes=None):
    """Cells of a few strong directions, and of types if there are codes, in noise of unit variance, float32."""
    shape, random = np.random.default_rng(7), np.random.default_rng(seed)
    directions = shape.normal(size=(strong, genes)) * size
    middles = shape.normal(size=(8, genes)) * 0.3
    x = random.normal(size=(n, strong)) @ directions + random.normal(size=(n, genes))
    return (x if codes is None else x + middles[codes]).astype(np.float32)


def fit(x):
    return features.fit(x, [f"g{i}" for i in range(x.shape[1])], False, SEED)


def as_fitted(contract, x):
    return contract.pcs(x, None, np.ones(x.shape[0], dtype=bool))


@pytest.fixture(scope="module")
def cells():
    """300 training cells, 300 new ones, and what was fitted to the first."""
    train, new = draw(300, 400), draw(300, 400, seed=1)
    return train, new, fit(train)


def by_a_loop(x, components, mean):
    folds = np.random.default_rng([SEED, 7]).permutation(np.arange(len(x)) % 5)
    out = np.empty((len(x), len(components)))
    for fold in range(5):
        axes = PCA(len(components), svd_solver="full").fit(x[folds != fold]).components_.T
        out[folds == fold] = (x[folds == fold] - mean) @ axes @ orthogonal_procrustes(axes, components.T)[0]
    return out


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("shape", [(200, 90), (90, 200)])
def test_cross_fitting_against_a_plain_loop(shape, kind):
    x = draw(*shape, strong=4, size=1.0).astype(float)
    x[np.abs(x) < 0.5] = 0
    whole = PCA(4, svd_solver="full").fit(x)
    found = pcs.crossfitted(kind(x), whole.components_, whole.mean_, SEED)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_a_loop(x, whole.components_, whole.mean_), atol=2e-3)
    assert 0.01 < np.abs(found - whole.transform(x)).max() < 3  # turned to the whole one, but not the same


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_cells_and_products_of_a_tall_table_give_the_same_coordinates(kind):
    x = draw(900, 150, strong=50, size=2.0).astype(float)
    x[np.abs(x) < 0.5] = 0
    components, mean, _, products = pcs.leading(kind(x), SEED)
    expected = pcs.crossfitted(kind(x), components, mean, SEED)
    found = pcs.crossfitted(kind(x), components, mean, SEED, products)
    np.testing.assert_allclose(found, expected, atol=2e-4 * expected.std())
    np.testing.assert_allclose(found[:, :4], by_a_loop(x, components, mean)[:, :4], atol=0.02 * expected.std())


@pytest.mark.parametrize("most", [1, 6, 40])
def test_leading_eigenvectors_are_numpys(most):
    u = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 40)))[0]
    symmetric = (u * 0.8 ** np.arange(40)) @ u.T
    found = pcs._leading(lambda q: symmetric.astype(np.float32) @ q, 40, most, 0)
    expected = np.linalg.eigh(symmetric)[1][:, ::-1][:, :most]
    np.testing.assert_allclose(np.abs(found.T @ expected), np.eye(most), atol=0.01)


@pytest.mark.parametrize("rank", [0, 3])
def test_what_is_rounding_is_no_axis(rank):
    a = np.random.default_rng(0).normal(size=(50, rank)).astype(np.float32)
    found = pcs._leading(lambda q: a @ (a.T @ q), 50, 10, 0)
    assert found.shape == (50, rank)
    np.testing.assert_allclose(found @ (found.T @ a), a, rtol=1e-4, atol=1e-4)


def test_factors_by_a_loop():
    random = np.random.default_rng(0)
    shrink, places, outside = random.normal(size=(3, 4)), random.normal(size=(6, 4)), random.random(6)
    variance = np.array([2.0, 1.0, 0.5, 1e-12])
    found = pcs.factors(shrink, places, variance, outside)
    for i in range(6):
        for k in range(4):
            own = places[i, k] ** 2 / variance[k] if k < 3 else 0  # no variance: nothing but rounding
            assert found[i, k] == pytest.approx(shrink[0, k] + shrink[1, k] * outside[i] + shrink[2, k] * own)


def test_training_cells_spread_as_new_ones(cells):
    train, new, contract = cells
    places = contract.pcs(train), as_fitted(contract, train), contract.pcs(new)
    usual, mended, expected = (a.std(axis=0) for a in places)
    assert (usual[:3] > 1.05 * expected[:3]).all()
    np.testing.assert_allclose(mended[:3], expected[:3], rtol=0.1)
    assert (usual[3:] > 1.5 * expected[3:]).all()
    usual, mended, expected = (np.linalg.norm(a[3:]) for a in (usual, mended, expected))  # of what is noise alone
    assert mended == pytest.approx(expected, rel=0.1)


def test_training_cells_lie_where_leaving_them_out_puts_them(cells):
    train, _, contract = cells
    x = (train - train.mean(axis=0)) / train.std(axis=0)
    components = (contract.axes * contract.unit).astype(float)
    some = np.arange(0, 300, 30)
    exact = np.empty((len(some), 3))
    for row, i in enumerate(some):
        axes = PCA(50, svd_solver="full").fit(np.delete(x, i, axis=0)).components_.T
        exact[row] = (x[i] @ axes @ orthogonal_procrustes(axes, components.T)[0])[:3]
    usual, mended = contract.pcs(train)[some, :3], as_fitted(contract, train)[some, :3]
    assert np.abs(mended - exact).mean() < 0.5 * np.abs(usual - exact).mean()


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_new_cells_cannot_be_told_from_training_cells_of_their_type(kind):
    codes, held_out = np.random.default_rng(0).integers(4, size=600), np.arange(600) >= 300
    x = draw(600, 400, codes=codes)
    x[np.abs(x) < 0.3] = 0
    contract = fit(kind(x[~held_out]))
    usual, mended = contract.pcs(kind(x)), contract.pcs(kind(x), None, ~held_out)
    usual, mended = (metrics.exchangeability(a, codes, held_out) for a in (usual, mended))
    assert usual["held_out_auroc"] > 0.55
    assert usual["spread_ratio"] < 0.8
    assert 0.45 < mended["held_out_auroc"] < 0.55
    assert 0.9 < mended["spread_ratio"] < 1.1


def test_cells_that_are_not_marked_are_not_moved(cells, monkeypatch):
    train, _, contract = cells
    marked = np.arange(300) % 3 == 0
    usual, found, all_marked = (
        contract.pcs(train),
        contract.pcs(train, None, marked),
        as_fitted(contract, train),
    )
    np.testing.assert_array_equal(found[~marked], usual[~marked])
    assert (found[marked] != usual[marked]).any(axis=1).all()
    np.testing.assert_array_equal(found[marked], all_marked[marked])
    np.testing.assert_allclose(contract.pcs(sp.csr_matrix(train), None, marked), found, atol=1e-4)
    monkeypatch.setattr("tripletomics.features.single.BLOCK", 7)
    np.testing.assert_allclose(contract.pcs(train, None, marked), found, atol=1e-4)


def test_cells_of_which_genes_lack_are_new_cells(cells):
    train, _, contract = cells
    present = np.arange(400) > 20
    every = np.ones(300, dtype=bool)
    np.testing.assert_array_equal(contract.pcs(train, present, every), contract.pcs(train, present))
    all_there = np.ones(400, dtype=bool)
    np.testing.assert_array_equal(contract.pcs(train, all_there, every), as_fitted(contract, train))


def test_the_same_seed_gives_the_same(cells):
    train, _, contract = cells
    np.testing.assert_array_equal(fit(train).shrink, contract.shrink)
    other = features.fit(train, contract.genes, False, SEED + 1)
    assert not np.array_equal(other.shrink, contract.shrink)
    np.testing.assert_allclose(
        np.abs(as_fitted(other, train)[:, :3]), np.abs(as_fitted(contract, train)[:, :3]), rtol=0.2, atol=1
    )


@pytest.mark.parametrize(("n", "same"), [(pcs.LEAST - 1, True), (pcs.LEAST, False)])
def test_fewer_cells_than_folds_can_use_are_left_alone(n, same):
    x = draw(n, 60)
    contract = fit(x)
    assert np.array_equal(as_fitted(contract, x), contract.pcs(x)) is same


def test_all_components_of_a_panel_leave_nothing_to_shrink():
    x = draw(200, 12, size=1.0)
    contract = fit(x)
    assert contract.residual == 0
    np.testing.assert_allclose(contract.shrink, np.eye(3)[:, [0]] @ np.ones((1, 12)), atol=1e-3)
    np.testing.assert_allclose(as_fitted(contract, x), contract.pcs(x), rtol=2e-3, atol=1e-4)


ODD = {
    "equal cells of a panel": np.ones((40, 7)),
    "equal cells of many genes": np.full((60, 120), 0.3),
    "one gene": draw(40, 1),
    "constant genes": np.where(np.arange(140) % 2, 2.7, draw(60, 140)),
    "fewer cells than components": draw(30, 200),
    "copies of cells": draw(20, 200)[np.arange(100) % 20],
    "copies of few cells": draw(15, 200)[np.arange(30) % 15],
    "copies of genes": draw(60, 5)[:, np.arange(15) % 5],
    "three directions": draw(200, 3) @ draw(3, 300),
    "three directions, tall": draw(500, 3) @ draw(3, 110),
}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning:sklearn")
@pytest.mark.parametrize("name", ODD)
def test_odd_tables(name):
    """A component that is nothing but rounding must not be blown up, as 1e16 times was seen."""
    x = ODD[name].astype(np.float32)
    contract = fit(x)
    usual, mended = contract.pcs(x), as_fitted(contract, x)
    assert np.isfinite(contract.shrink).all()
    assert (np.abs(mended).max(axis=0) <= 3 * np.abs(usual).max(axis=0) + 1e-5).all()

"""Values that were not measured: NaN is unknown, not 0, for the encoder, the components and the choice of genes."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from samples import BRIEF

import tripletomics as tt
from tripletomics import features, gaps, pcs
from tripletomics.features.rows import median_depth, normalise
from tripletomics.notices import TripletomicsWarning
from tripletomics.seen import hash_rows


def pierced(x, share=0.2, seed=0):
    """The matrix with gaps at random, dense."""
    x = np.array(x.toarray() if sp.issparse(x) else x, dtype=np.float32)
    x[np.random.default_rng(seed).random(x.shape) < share] = np.nan
    return x


@pytest.fixture(scope="module")
def logged(made):
    """The cells with logged values, dense."""
    adata = made.copy()
    adata.X = np.log1p(made.X.toarray())
    return adata


@pytest.fixture(scope="module")
def holey(logged):
    adata = logged.copy()
    adata.X = pierced(logged.X)
    return adata


@pytest.fixture(scope="module")
def model(holey):
    adata = holey.copy()
    return tt.fit(adata, "kind", missing="impute", **BRIEF), adata


def test_gaps_of_sparse_and_dense_matrices_are_those_of_numpy():
    x = pierced(np.random.default_rng(1).poisson(1.0, (40, 7)))
    x[:, 6] = np.nan
    stored = sp.csr_matrix(x)
    known = np.isfinite(x)
    for given in (x, stored):
        assert gaps.has_gaps(given)
        np.testing.assert_array_equal(gaps.fill(given, 5.0).toarray() if given is stored else gaps.fill(given, 5.0),
                                      np.where(known, x, 5))  # fmt: skip
        assert sorted(gaps.stored(given)[gaps.stored(given) > 0]) == sorted(x[known & (x > 0)])
        np.testing.assert_allclose(gaps.share_measured(given), known.mean())
        np.testing.assert_array_equal(gaps.empty(given, axis=0), ~known.any(axis=0))
        mean, variance = pcs.mean_and_variance(given)
        np.testing.assert_allclose(mean[:6], np.nanmean(x[:, :6], axis=0), rtol=1e-6)
        np.testing.assert_allclose(variance[:6], np.nanvar(x[:, :6], axis=0), rtol=1e-5)
        assert mean[6] == variance[6] == 0
    whole = sp.csr_matrix(np.eye(3))
    assert gaps.fill(whole, 0) is whole
    assert not gaps.has_gaps(np.eye(3, dtype=int))


def test_expected_values_are_those_of_a_normal_distribution():
    random = np.random.default_rng(2)
    components, variance, noise = np.linalg.qr(random.normal(size=(9, 3)))[0].T, np.array([5.0, 3, 2]), 0.4
    mean, x = random.normal(size=9), pierced(random.normal(size=(30, 9)), 0.3).astype(float)
    covariance = components.T @ np.diag(variance - noise) @ components + noise * np.eye(9)
    found, rows = gaps.complete(x, np.arange(9) == 4, mean, components, variance, noise)
    for given, row, own in zip(x, rows, found, strict=True):
        gap = np.isnan(given) | (np.arange(9) == 4)
        known = ~gap
        wanted = np.where(gap, 0, given)
        step = np.linalg.solve(covariance[np.ix_(known, known)], given[known] - mean[known])
        wanted[gap] = mean[gap] + covariance[np.ix_(gap, known)] @ step
        np.testing.assert_allclose(row, wanted, atol=1e-5)
        np.testing.assert_allclose(own, (wanted - mean) @ components.T, atol=1e-5)
        alone = gaps.completion(components[:, known], variance, noise)
        np.testing.assert_allclose(own, alone @ components[:, known] @ (given - mean)[known], atol=1e-5)


def test_counts_with_a_gap_are_scaled_as_if_the_gene_was_not_there():
    x = np.random.default_rng(3).poisson(3.0, (60, 8)).astype(np.float32)
    shares = gaps.shares(x)
    holed = x.copy()
    holed[:, 2] = np.nan
    others = np.arange(8) != 2
    for given in (holed, sp.csr_matrix(holed)):
        found = normalise(given, 1e4, shares)
        found = found.toarray() if sp.issparse(found) else found
        wanted = normalise(x[:, others], 1e4 * shares[others].sum())
        np.testing.assert_allclose(found[:, others], wanted, rtol=1e-5)
        assert np.isnan(found[:, 2]).all()
    holed[:, 2] = np.where(np.arange(60) % 2, x[:, 2], np.nan)
    assert abs(median_depth(holed) / median_depth(x) - 1) < 0.05


def test_features_take_measured_values_alone(holey):
    x = holey.X
    found = features.fit(x, list(holey.var_names), counts=False, seed=0)
    np.testing.assert_allclose(found.mean, np.nanmean(x, axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.cap, np.nanmean(x, axis=0) + 10 * np.nanstd(x, axis=0), rtol=1e-4)
    shown = found.standardise(found.normalise(x))
    assert np.abs(shown[np.isnan(x)]).max() < 1e-6  # as a gene that a mask hides
    assert np.isfinite(found.pcs(x)).all()


def test_all_nan_are_one_for_the_hash():
    x = np.array([[1, np.nan, 0]], dtype=np.float32)
    other = x.copy()
    other.view(np.uint32)[0, 1] ^= 0x80000001
    assert np.isnan(other[0, 1])
    assert hash_rows(x) == hash_rows(other) == hash_rows(sp.csr_matrix(x)) != hash_rows(np.nan_to_num(x))


def test_without_gaps_the_keyword_changes_nothing(logged):
    one, other = logged.copy(), logged.copy()
    tt.fit(one, "kind", **BRIEF)
    tt.fit(other, "kind", missing="impute", **BRIEF)
    for key in one.obsm:
        np.testing.assert_array_equal(one.obsm[key], other.obsm[key])


def test_sparse_and_dense_gaps_give_the_same_map(holey, model):
    adata = holey.copy()
    adata.X = sp.csc_matrix(holey.X)
    tt.fit(adata, "kind", missing="impute", **BRIEF)
    np.testing.assert_allclose(adata.obsm["X_tt"], model[1].obsm["X_tt"], atol=1e-5)
    assert np.isfinite(adata.obsm["X_tt_pca"]).all()


def test_a_file_remembers_and_knows_its_cells(model, holey, tmp_path):
    model[0].save(tmp_path / "m.tt")
    again, query = tt.load(tmp_path / "m.tt"), holey.copy()
    assert again.settings["missing"] == "impute"
    with pytest.warns(TripletomicsWarning, match="270 of 300 cells were part of the fit"):
        tt.predict(query, again, missing="impute")
    np.testing.assert_allclose(query.obsm["X_tt"], model[1].obsm["X_tt"], atol=1e-5)
    holey.write_h5ad(tmp_path / "q.h5ad")
    with pytest.warns(TripletomicsWarning, match="were part of the fit"):
        tt.transform(tmp_path / "q.h5ad", again, missing="impute")
    np.testing.assert_allclose(ad.read_h5ad(tmp_path / "q.h5ad").obsm["X_tt"], query.obsm["X_tt"], atol=1e-5)


def test_a_gene_that_no_cell_has_is_a_missing_gene(model, logged):
    whole = logged[:40].copy()
    whole.X = whole.X + np.float32(1e-3)  # new cells
    lacks, gap = whole[:, 5:].copy(), whole.copy()
    gap.X[:, :5] = np.nan
    for adata in (lacks, gap):
        tt.transform(adata, model[0], missing="impute")
    np.testing.assert_array_equal(lacks.obsm["X_tt"], gap.obsm["X_tt"])
    np.testing.assert_array_equal(lacks.obsm["X_tt_metric"], gap.obsm["X_tt_metric"])
    np.testing.assert_allclose(model[0].map(gap.X), gap.obsm["X_tt"], atol=1e-4)  # cell by cell
    gap.X[:, :140] = np.nan
    with pytest.raises(ValueError, match="less than min_matched"):
        tt.transform(gap, model[0], missing="impute", min_matched=0.9)


def test_one_cell_does_not_depend_on_the_gaps_of_another(model, holey):
    x = holey.X[:20] + np.float32(1e-3)
    np.testing.assert_allclose(model[0].embed(x[:1]), model[0].embed(x)[:1], atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_fit_with_gaps_can_be_evaluated(model):
    table = tt.evaluate(model[1], "kind", progress=False)
    assert {"train", "held-out"} <= {*table["split"]}


def test_two_modalities_with_gaps(holey):
    proteins = ad.AnnData(pierced(np.random.default_rng(4).normal(size=(300, 12)) + 3), obs=holey.obs[[]].copy())
    with pytest.raises(ValueError, match=r"Modality 'rna': 300 cells have NaN in 150 genes"):
        tt.fit((holey.copy(), proteins), "kind", **BRIEF)
    pair = holey.copy(), proteins
    tt.fit(pair, "kind", missing="impute", **BRIEF)
    assert np.isfinite(pair[0].obsm["X_tt"]).all()


def test_gaps_are_refused_in_words(holey, model):
    for verb, words in (
        (lambda cells: tt.fit(cells, "kind"), 'Pass missing="impute" to take them as not measured, or fill them'),
        (lambda cells: tt.transform(cells, model[0]), 'Pass missing="impute"'),
        (
            lambda cells: tt.compare(cells, "kind"),
            "300 cells have NaN in 150 genes (first: 0, 1, 2). All values are needed here: fill",
        ),
    ):
        cells = holey.copy()
        with pytest.raises(ValueError, match="300 cells have NaN in 150 genes") as caught:
            verb(cells)
        assert words in str(caught.value)
        assert not cells.obsm
    with pytest.raises(ValueError, match="missing='zero' is not known"):
        tt.fit(holey.copy(), "kind", missing="zero")
    cells = holey.copy()
    cells.X[7] = np.nan
    with pytest.raises(ValueError, match=r"1 of 300 cells have no measured value in the 150 chosen genes \(first: 7\)"):
        tt.fit(cells, "kind", missing="impute")
    with pytest.warns(TripletomicsWarning, match="1 of 300 cells have no measured value in the model's genes"):
        tt.transform(cells, model[0], missing="impute")
    cells.obsm["X_mine"] = np.eye(300, 5)
    with pytest.raises(ValueError, match="missing='impute' is about genes, and use_rep='X_mine' takes an embedding"):
        tt.fit(cells, "kind", use_rep="X_mine", missing="impute")


def test_zeros_fill_gaps_where_a_user_says_so(model, holey):
    filled, zeros = holey[:20].copy(), holey[:20].copy()
    zeros.X = np.nan_to_num(zeros.X)
    for adata in (filled, zeros):
        tt.transform(adata, model[0], missing="zero")
    np.testing.assert_array_equal(filled.obsm["X_tt"], zeros.obsm["X_tt"])

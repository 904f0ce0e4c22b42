import re
import warnings

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA

import tripletomics as tt
from tripletomics import evaluation
from tripletomics.labels import NO_SIGNAL
from tripletomics.metrics import knn_macro_f1

FEW = {"steps": 10, "progress": False}


@pytest.fixture(scope="module")
def mapped(pbmc_file):
    """A fitted table with a map that this package did not make."""
    adata = ad.read_h5ad(pbmc_file)[::2].copy()
    tt.fit(adata, "cell_type", hold_out=0.3, **FEW)
    adata.obsm["X_pca"] = PCA(5, random_state=0).fit_transform(adata.X.toarray())
    adata.obs["donor"] = [f"d{i % 4}" for i in range(350)]
    adata.obs["score"] = adata.obsm["X_pca"][:, 0]
    return adata


def value(table, space, metric, split, kind=""):
    rows = table[(table["space"] == space) & (table["metric"] == metric) & (table["split"] == split)]
    (number,) = rows[rows["type"] == kind]["value"]
    return number


def test_the_map_and_its_metric_space(mapped):
    before = mapped.copy()
    table = tt.evaluate(mapped, "cell_type")
    assert list(table.columns) == [
        "hold_out", "space", "metric", "type", "split", "value", "sd", "n_seeds", "family", "label_circular", "null",
    ]  # fmt: skip
    assert set(table["space"]) == {"X_tt", "X_tt_metric"}
    assert set(table["split"]) == {"train", "held-out", "permuted", ""}
    for space, key in (("X_tt", "map"), ("X_tt_metric", "metric")):
        for split in ("train", "held-out", "permuted"):  # what fit reported, the null included
            expected = mapped.uns["X_tt"]["scores"][split][key]
            assert value(table, space, "knn_macro_f1", split) == pytest.approx(expected), (space, split)
        assert value(table, space, "permutation_p", "held-out") == mapped.uns["X_tt"]["p_value"][key]
    nulls = table[table["split"] == "permuted"].groupby("family")["null"].unique()
    assert nulls["labels"].tolist() == [evaluation.REFITTED]
    assert nulls["structure"].tolist() == [evaluation.SHUFFLED]
    assert "optimistic" in table.attrs["summary"]
    assert set(mapped.obsm) == set(before.obsm)
    assert list(mapped.obs) == list(before.obs)


def test_a_basis_from_elsewhere_of_any_dimension(mapped):
    mapped = mapped.copy()
    mapped.obsm["X_noise"] = np.random.default_rng(0).normal(size=(350, 2))
    with pytest.warns(UserWarning, match="X_noise: NO SIGNAL"):
        table = tt.evaluate(mapped, "cell_type", basis=["X_pca", "X_noise"])
    held = (mapped.obs["tt_split"] == "held-out").to_numpy()
    y, z = mapped.obs["cell_type"].cat.codes.to_numpy(), mapped.obsm["X_pca"]
    assert value(table, "X_pca", "knn_macro_f1", "held-out") == knn_macro_f1(z[~held], y[~held], z[held], y[held])
    labels = table[(table["split"] == "permuted") & (table["family"] == "labels")]
    assert set(labels["null"]) == {evaluation.PERMUTED}
    assert value(table, "X_noise", "trustworthiness", "held-out") == pytest.approx(0.5, abs=0.05)
    assert value(table, "X_pca", "trustworthiness", "held-out") > 0.9


def test_another_reference(mapped):
    table = tt.evaluate(mapped, "cell_type", basis="X_pca", reference="X_pca")
    for metric in ("knn_recall_10", "trustworthiness", "triplet_accuracy", "centroid_spearman", "scgraph"):
        assert value(table, "X_pca", metric, "held-out") == pytest.approx(1), metric


@pytest.mark.parametrize("splits", ["donor=d1", 0.2, "tt_split"])
def test_another_split(mapped, splits):
    table = tt.evaluate(mapped, "cell_type", basis="X_pca", splits=splits)
    assert set(table["hold_out"]) == {str(splits)}


def test_several_splits_and_what_was_fitted_on_their_cells(mapped):
    with pytest.warns(UserWarning, match="X_tt was fitted on cells that splits='donor=d1' holds out") as said:
        table = tt.evaluate(mapped, "cell_type", splits=["donor=d1", "tt_split"])
    assert len(said) == 1
    assert list(table["hold_out"].unique()) == ["donor=d1", "tt_split"]
    donor, random = (set(table.loc[table["hold_out"] == name, "metric"]) for name in ("donor=d1", "tt_split"))
    assert random - donor == {"held_out_auroc", "spread_ratio"}  # a donor's cells may well lie elsewhere
    assert donor <= random


def test_finer_types_and_pseudotime(mapped):
    table = tt.evaluate(mapped, "cell_type", basis="X_pca", fine="donor", pseudotime="score")
    assert value(table, "X_pca", "pseudotime_spearman", "held-out") > 0.9
    assert value(table, "X_pca", "fine_knn_macro_f1", "held-out") == pytest.approx(
        0.25, abs=0.08
    )  # donors mean nothing


def test_a_type_on_one_side_only_is_reported(mapped):
    mapped = mapped.copy()
    rare = mapped.obs["cell_type"] == "Dendritic"
    mapped.obs["rare"] = rare | (np.arange(350) % 5 == 0) & (mapped.obs["cell_type"] != "CD56+ NK")
    with pytest.warns(UserWarning, match="Types that only held-out cells have: Dendritic"):
        table = tt.evaluate(mapped, "cell_type", basis="X_pca", splits="rare")
    assert value(table, "X_pca", "recall", "held-out", "Dendritic") == 0
    assert np.isnan(value(table, "X_pca", "recall", "held-out", "CD56+ NK"))
    assert np.isfinite(value(table, "X_pca", "knn_macro_f1", "held-out"))


def test_refits_give_deviations_and_types_that_were_never_seen(counts):
    counts.obs["four"] = np.where(np.arange(300) % 6 == 0, "d", counts.obs["kind"])
    tt.fit(counts, "four", hold_out=0.3, structure=0.2, steps=5, progress=False)
    table = tt.evaluate(counts, "four", refits=2, unseen=True, progress=False)
    assert set(table["n_seeds"]) == {2}
    assert set(table["hold_out"]) == {"0.3"}
    held = table[(table["metric"] == "knn_macro_f1") & (table["split"] == "held-out")]
    assert (held["sd"] > 0).all()
    for metric in ("unseen_recall_at_1", "novelty_auroc_far"):
        assert value(table, "X_tt_metric", metric, "held-out") > value(table, "X_tt_metric", metric, "permuted")
    assert set(table["space"]) == {"X_tt", "X_tt_metric"}


def test_refits_keep_the_settings_of_each_fit_apart(counts):
    found = []
    for steps in (2, 8):
        tt.fit(counts, "kind", hold_out=0.3, steps=steps, progress=False)
        found.append(tt.evaluate(counts, "kind", refits=1, progress=False))
    first, second = (value(table, "X_tt", "trustworthiness", "held-out") for table in found)
    assert first != second
    keys = ["space", "metric", "type", "split"]
    own, refit = (table.set_index(keys)["value"] for table in (tt.evaluate(counts, "kind"), found[1]))
    np.testing.assert_allclose(own, refit.loc[own.index], atol=1e-6)  # the same split, settings and seed


def test_a_table_that_was_written_and_read(mapped, tmp_path):
    mapped.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    first, second = (tt.evaluate(adata, "cell_type", basis="X_tt") for adata in (mapped, again))
    np.testing.assert_allclose(first["value"], second["value"])


def test_other_labels_than_those_of_the_fit_are_permuted(mapped):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # donors mean nothing
        table = tt.evaluate(mapped, "donor")
    assert evaluation.REFITTED not in set(table["null"])


@pytest.fixture(scope="module")
def noise():
    """Random labels on random numbers, and a model that has learned them by heart."""
    random = np.random.default_rng(0)
    adata = ad.AnnData(random.normal(size=(1500, 50)).astype(np.float32))
    adata.obs["kind"] = random.integers(5, size=1500).astype(str)
    return tt.fit(adata, "kind", hold_out=0.3, steps=100, progress=False), adata


def test_a_fit_of_noise_holds_on_no_new_cells(noise):
    model, _ = noise
    assert min(model.p_value.values()) > NO_SIGNAL
    for space in ("map", "metric"):
        assert model.scores["held-out"][space] == pytest.approx(model.scores["permuted"][space], abs=0.07)


def test_noise_shows_nothing_and_says_so(noise):
    model, noise = noise
    assert "No signal" in model.summary()
    with pytest.warns(UserWarning, match="NO SIGNAL"):
        table = tt.evaluate(noise, "kind")
    assert table.attrs["summary"].count("NO SIGNAL") == 2
    for space in ("X_tt", "X_tt_metric"):
        for metric in ("knn_macro_f1", "knn_balanced_accuracy", "recall_at_1", "r_precision", "map_at_r", "nmi",
                       "verification_auroc", "tar_at_far", "silhouette"):  # fmt: skip
            gap = value(table, space, metric, "held-out") - value(table, space, metric, "permuted")
            assert abs(gap) < 0.07, (space, metric, gap)


def test_the_same_cells_held_out_under_another_name(counts):
    tt.fit(counts, "kind", hold_out="donor=d1", **FEW)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (tt.evaluate(counts, "kind", splits=splits) for splits in ("donor=d1", None))
    assert evaluation.REFITTED in set(first["null"])
    np.testing.assert_array_equal(first["value"], second["value"])


def test_the_order_of_bases_changes_nothing(mapped):
    first = tt.evaluate(mapped, "cell_type", basis=["X_pca", "X_tt"])
    second = tt.evaluate(mapped, "cell_type", basis=["X_tt", "X_tt_metric", "X_pca"])
    keys = ["space", "metric", "type", "split"]
    one, two = (table.set_index(keys)["value"] for table in (first, second))
    np.testing.assert_array_equal(one, two.loc[one.index])
    assert all("optimistic" in table.attrs["summary"] for table in (first, second))


def test_a_map_of_all_cells_is_no_evidence(counts):
    tt.fit(counts, "kind", hold_out=0, **FEW)
    with pytest.raises(ValueError, match=r"X_tt was fitted on all cells, .*refits=1 and splits=0\.3"):
        tt.evaluate(counts, "kind")


BAD = {
    "no basis": ({"basis": []}, ValueError, "basis is an empty list"),
    "no split": ({"splits": []}, ValueError, "splits is an empty list"),
    "the metric space alone": (
        {"basis": "X_tt_metric", "refits": 1},
        ValueError,
        "is scored with its map: basis='X_tt'",
    ),
    "no such basis": ({"basis": "X_umpa"}, KeyError, r"basis='X_umpa' is not in adata.obsm. .*Present: .*X_pca"),
    "no such reference": (
        {"reference": "X_pac"},
        KeyError,
        "reference='X_pac' is not in adata.obsm. Did you mean 'X_pca'",
    ),
    "no such label": ({"label": "celltype"}, KeyError, "Did you mean 'cell_type'"),
    "one class": ({"label": "one"}, ValueError, "label='one' has one type|has 1 types"),
    "one group": ({"splits": "one"}, ValueError, "the column has one group"),
    "one batch": ({"batch": "one"}, ValueError, "batch='one' has one group"),
    "text as time": ({"pseudotime": "donor"}, TypeError, "pseudotime='donor' holds .*, not numbers"),
    "nothing held out": ({"splits": 0}, ValueError, "holds no cell out"),
    "refits of another": ({"basis": "X_pca", "refits": 1}, ValueError, "was not written by tripletomics.fit"),
    "unseen without a fit": ({"unseen": True}, ValueError, "pass refits=1"),
    "half a refit": ({"refits": 0.5}, ValueError, "refits=0.5 is not a whole number"),
    "rows with NaN": ({"basis": "X_holes"}, ValueError, "X_holes' has NaN or infinite values in 2 of 350 rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(mapped, case):
    given, error, message = BAD[case]
    adata = mapped.copy()
    adata.obs["one"] = "same"
    adata.obsm["X_holes"] = adata.obsm["X_pca"].copy()
    adata.obsm["X_holes"][[3, 5], 0] = [np.nan, np.inf]
    with pytest.raises(error, match=message):
        tt.evaluate(adata, **({"label": "cell_type"} | given))


def test_a_fit_on_a_layer_is_fitted_again_on_that_layer(counts):
    counts.layers["raw"] = counts.X.copy()
    counts.X = np.random.default_rng(0).permuted(counts.X.toarray(), axis=0)  # says nothing of the types
    tt.fit(counts, "kind", layer="raw", batch="donor", hold_out=0.3, **FEW)
    own = tt.evaluate(counts, "kind")
    refit = tt.evaluate(counts, "kind", refits=1, progress=False)
    for table in (own, refit):
        assert value(table, "X_tt", "knn_macro_f1", "held-out") > 0.8
        assert (
            value(table, "X_tt", "knn_recall_30", "held-out") > value(table, "X_tt", "knn_recall_30", "permuted") + 0.2
        )
    assert evaluation.REFITTED in set(own["null"])


def test_a_table_that_fit_never_saw(mapped):
    adata = ad.AnnData(mapped.X, mapped.obs[["cell_type", "donor"]].copy(), obsm={"X_pca": mapped.obsm["X_pca"]})
    table = tt.evaluate(adata, "cell_type", basis="X_pca", splits=["donor=d1", 0.3])
    assert list(table["hold_out"].unique()) == ["donor=d1", "0.3"]


def test_without_a_split_it_says_what_to_do(mapped):
    adata = mapped.copy()
    del adata.obs["tt_split"]
    with pytest.raises(ValueError, match="Pass splits='donor'"):
        tt.evaluate(adata, "cell_type", basis="X_pca")
    adata.uns.clear()
    with pytest.raises(TypeError, match="not AnnData"):
        tt.evaluate("cells.h5ad", "cell_type")


def few(y, apart=5.0):
    """Cells whose types could not be further apart, or not at all."""
    random = np.random.default_rng(0)
    x = random.normal(size=(len(y), 60)) + apart * y[:, None] * random.normal(size=60)
    return ad.AnnData(x.astype(np.float32), obs={"kind": np.array(["case", "control"])[y]})


def test_few_held_out_cells_all_of_them_right():
    adata = few(np.arange(40) % 2)
    model = tt.fit(adata, "kind", steps=20, progress=False)
    assert model.scores["held-out"]["map"] == 1
    assert "Too few held-out cells to tell (4, of 2 types)" in model.summary()
    assert "o signal" not in model.summary()
    with pytest.warns(UserWarning, match="TOO FEW HELD-OUT CELLS TO TELL"):
        words = tt.evaluate(adata, "kind", cache=None, progress=False).attrs["summary"]
    assert "NO SIGNAL" not in words


def test_held_out_cells_of_one_type_are_not_tested():
    adata = few(np.repeat([0, 1], [60, 4]))  # of fewer than five cells none is held out
    model = tt.fit(adata, "kind", steps=5, progress=False)
    assert "Not tested: the held-out cells are of one type" in model.summary()


def test_a_sparse_basis():
    adata = few(np.arange(60) % 2)
    adata.obs["side"] = np.where(np.arange(60) % 5 < 2, "test", "train")
    adata.obsm["X_a"] = adata.X[:, :3]
    adata.obsm["X_b"] = sp.csr_matrix(adata.X[:, :3])
    one, two = (tt.evaluate(adata, "kind", basis=key, splits="side")["value"] for key in ("X_a", "X_b"))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("n_train", "80", "n_train'] is '80', not a number"),
        ("history", "x", None),
        ("history", {"map": 1}, None),
    ],
)
def test_a_damaged_record_of_the_fit(mapped, field, value, message):
    """Scores need none of it but the number of training cells."""
    adata = mapped.copy()
    adata.uns["X_tt"] = adata.uns["X_tt"] | {field: value}
    if message is None:
        assert (tt.evaluate(adata, "cell_type", progress=False)["split"] == "held-out").any()
        return
    with pytest.raises(ValueError, match=re.escape(message)):
        tt.evaluate(adata, "cell_type", progress=False)

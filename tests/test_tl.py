import warnings
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from samples import BRIEF
from scipy.spatial import procrustes

import tripletomics as tt
from tripletomics import pp, training
from tripletomics.embedding import coordinates
from tripletomics.metrics import knn_macro_f1, knn_recall, knn_recall_within_types
from tripletomics.problem import Settings


def test_what_is_written(pbmc):
    x, names = pbmc.X.copy(), list(pbmc.obs.columns)
    model = tt.fit(pbmc, label="cell_type", dim=3, metric_dim=8, **BRIEF)
    assert pbmc.obsm["X_tt"].shape == (700, 3)
    assert pbmc.obsm["X_tt_metric"].shape == (700, 8)
    assert pbmc.obsm["X_tt_pca"].shape == (700, 50)
    assert {pbmc.obsm[key].dtype for key in ("X_tt", "X_tt_metric", "X_tt_pca")} == {np.dtype(np.float32)}
    assert list(pbmc.obs["tt_split"].cat.categories) == ["train", "held-out"]
    assert (pbmc.obs["tt_split"] == "held-out").mean() == pytest.approx(0.1, abs=0.01)
    assert list(pbmc.obs.columns) == [*names, "tt_split"]
    assert (x != pbmc.X).nnz == 0
    assert pbmc.uns["X_tt"]["settings"]["loss"] == "softmax"
    assert pbmc.uns["X_tt"]["settings"]["steps"] == "5"
    assert set(pbmc.uns["X_tt"]["history"]) == {"metric", "map"}
    assert model.classes == sorted(pbmc.obs["cell_type"].unique())


def test_another_key_overwrites_nothing(fitted):
    adata = fitted[1].copy()
    before = adata.obsm["X_tt"].copy()
    tt.fit(adata, label="cell_type", key_added="X_other", hold_out=0.2, **BRIEF)
    np.testing.assert_array_equal(adata.obsm["X_tt"], before)
    assert {"X_other", "X_other_metric"} <= set(adata.obsm)
    assert (adata.obs["X_other_split"] == "held-out").sum() != (adata.obs["tt_split"] == "held-out").sum()
    assert "X_other" in adata.uns


def test_scores_are_those_of_the_written_places(fitted):
    model, adata = fitted
    y = adata.obs["cell_type"].cat.codes.to_numpy()
    held = (adata.obs["tt_split"] == "held-out").to_numpy()
    for space, key in (("map", "X_tt"), ("metric", "X_tt_metric")):
        z = adata.obsm[key]
        assert model.scores["held-out"][space] == knn_macro_f1(z[~held], y[~held], z[held], y[held])
        assert model.scores["train"][space] == knn_macro_f1(z[~held], y[~held])


def test_held_out_cells_do_not_influence_the_model(pbmc):
    """Scramble the held-out cells: everything that is fitted stays the same."""
    pbmc.obs["held"] = np.arange(700) % 10 == 0
    scrambled = pbmc.copy()
    random = np.random.default_rng(0)
    x = scrambled.X.toarray()
    x[::10] = random.permuted(x[::10] * 3, axis=1)
    scrambled.X = x
    labels = scrambled.obs["cell_type"].to_numpy().astype(object)
    labels[::10] = random.permutation(labels[::10])
    scrambled.obs["cell_type"] = labels
    pbmc.X = pbmc.X.toarray()
    for adata in (pbmc, scrambled):
        tt.fit(adata, label="cell_type", hold_out="held", **BRIEF)
    train = ~pbmc.obs["held"].to_numpy()
    np.testing.assert_array_equal(pbmc.obsm["X_tt"][train], scrambled.obsm["X_tt"][train])
    np.testing.assert_array_equal(pbmc.obsm["X_tt_metric"][train], scrambled.obsm["X_tt_metric"][train])


def test_same_seed_same_map_bit_for_bit(pbmc, fitted):
    again = pbmc.copy()
    tt.fit(again, label="cell_type", steps=40, progress=False)
    np.testing.assert_array_equal(again.obsm["X_tt"], fitted[1].obsm["X_tt"])


def test_real_cells_hold_on_cells_never_seen(fitted):
    scores = fitted[0].scores
    for space in ("map", "metric"):
        assert scores["held-out"][space] > scores["permuted"][space] + 0.4


def test_the_null_costs_less_than_a_quarter_of_the_fit(pbmc, monkeypatch):
    taken = []

    def count(*args, steps, **more):
        taken.append(steps)
        return train(*args, steps=steps, **more)

    train = training.train
    monkeypatch.setattr(training, "train", count)
    tt.fit(pbmc, label="cell_type", steps=12, progress=False)
    encoder, map_head, null_encoder, null_map_head = taken  # steps cost the same in both: batches are of one size
    assert null_encoder < encoder / 4
    assert null_map_head < map_head / 4


def test_structure_is_a_dial(pbmc):
    """Towards 1 held-out cells keep more of the data's neighbours, also inside types; at 0.5 no fewer labels."""
    scores = np.empty((3, 3, 3))
    for seed in range(3):
        _, settings, problem = pp.prepare(pbmc, Settings("cell_type", steps=20, hold_out=0.3, seed=seed))
        encoder = training.train_encoder(problem, settings)  # which the dial does not change
        train, y, r = ~problem.held_out, problem.codes, problem.pcs
        for i, structure in enumerate((0.0, 0.5, 1.0)):
            both, _ = training.train_map(problem, replace(settings, structure=structure), encoder)
            m = coordinates(both, problem.rows, problem.map_pcs)["map"]
            recall = knn_recall(m[train], r[train], m[~train], r[~train], k=(30,))[0]
            within = knn_recall_within_types(m[train], r[train], y[train], m[~train], r[~train], y[~train])
            scores[i, seed] = recall, within, knn_macro_f1(m[train], y[train], m[~train], y[~train])
    mean, spread = scores.mean(axis=1), 2 * scores.std(axis=1, ddof=1).max(axis=0)
    assert (mean[2, :2] > mean[0, :2]).all()
    assert (np.diff(mean[:, :2], axis=0) > -spread[:2]).all()
    assert mean[1, 2] > mean[0, 2] - spread[2]


def test_a_map_of_another_seed_and_of_fewer_cells_lies_alike(pbmc, fitted):
    part = pbmc[np.random.default_rng(0).random(700) < 0.9].copy()
    tt.fit(part, "cell_type", steps=40, seed=1, progress=False)
    first, other = (pd.DataFrame(adata.obsm["X_tt"], index=adata.obs_names) for adata in (fitted[1], part))
    first = first.loc[other.index]
    assert not first.equals(other)
    assert procrustes(first, other)[2] < 0.2  # 1 - r² after the best rotation and scale
    assert (first.corrwith(other) > 0.8).all()  # and without a rotation


def test_structure_1_ignores_the_labels(pbmc):
    pbmc.obs["held"] = np.arange(700) % 10 == 0
    other = pbmc.copy()
    other.obs["cell_type"] = np.random.default_rng(0).permutation(other.obs["cell_type"])
    for adata in (pbmc, other):
        tt.fit(adata, label="cell_type", structure=1, hold_out="held", **BRIEF)
    np.testing.assert_array_equal(pbmc.obsm["X_tt"], other.obsm["X_tt"])
    assert not np.array_equal(pbmc.obsm["X_tt_metric"], other.obsm["X_tt_metric"])


def test_unlabelled_cells_are_placed_but_teach_no_type(pbmc):
    labels = pbmc.obs["cell_type"].astype(object)
    labels.iloc[:100] = ([None, np.nan, "", "Unknown", "nan"] * 20)[:100]
    pbmc.obs["partly"] = labels
    model = tt.fit(pbmc, label="partly", **BRIEF)
    assert len(model.classes) == 10
    assert np.isfinite(pbmc.obsm["X_tt"]).all()


def test_hold_out_0_trains_on_all_and_says_so(pbmc):
    model = tt.fit(pbmc, label="cell_type", hold_out=0, **BRIEF)
    assert (pbmc.obs["tt_split"] == "train").all()
    assert set(model.scores) == {"train"}
    assert "nothing here says how good the map is on new cells" in model.summary()


def test_counts_are_normalised_inside(counts):
    counts.layers["raw"] = counts.X.copy()
    to_median, usual = counts.copy(), counts.copy()
    sc.pp.normalize_total(to_median, target_sum=np.median(np.ravel(counts.X.sum(axis=1))))
    sc.pp.normalize_total(usual, target_sum=1e4)
    counts.X = counts.X * 0
    for adata, layer in ((counts, "raw"), (to_median, None), (usual, None)):
        if layer is None:
            sc.pp.log1p(adata)
        tt.fit(adata, label="kind", layer=layer, hold_out=0, **BRIEF)
    # the encoder sees the median depth, the components of the map are of 10,000 counts a cell
    np.testing.assert_allclose(counts.obsm["X_tt_metric"], to_median.obsm["X_tt_metric"], atol=0.02)
    np.testing.assert_allclose(counts.obsm["X_tt_pca"][:, :3], usual.obsm["X_tt_pca"][:, :3], atol=0.02)


def test_a_batch_column_and_groups_held_out(counts):
    tt.fit(counts, label="kind", batch="donor", hold_out="donor=d1,d3", **BRIEF)
    held = counts.obs["tt_split"] == "held-out"
    assert set(counts.obs.loc[held, "donor"]) == {"d1", "d3"}
    assert not counts.obs.loc[~held, "donor"].isin(["d1", "d3"]).any()


def test_views_and_transform_of_a_subset(fitted):
    model, adata = fitted
    view = adata[100:120, ::-1]
    with warnings.catch_warnings(action="error", category=ad.ImplicitModificationWarning):
        tt.transform(view, model, key_added="X_again")
    np.testing.assert_allclose(view.obsm["X_again"], adata.obsm["X_tt"][100:120], atol=1e-4)
    assert "X_again_pca" not in view.obsm
    part = adata[:400]
    tt.fit(part, label="cell_type", **BRIEF)
    assert part.obsm["X_tt"].shape == (400, 2)
    tt.transform(part, model)  # places and components of one model
    np.testing.assert_allclose(part.obsm["X_tt_pca"], adata.obsm["X_tt_pca"][:400], atol=1e-3)


def test_missing_genes_may_be_zero(fitted):
    model, adata = fitted
    lacking, zeroed = adata[:50, 100:].copy(), adata[:50].copy()
    zeroed.X = zeroed.X.multiply(np.arange(adata.n_vars) >= 100).tocsr()
    tt.transform(lacking, model, missing="zero")
    tt.transform(zeroed, model)
    np.testing.assert_allclose(lacking.obsm["X_tt"], zeroed.obsm["X_tt"], atol=1e-5)


def test_tiny_tables():
    random = np.random.default_rng(0)
    adata = ad.AnnData(random.normal(size=(12, 3)).astype(np.float32))
    adata.obs["kind"] = ["a", "b"] * 6
    model = tt.fit(adata, label="kind", hold_out=0.2, steps=5, progress=False)
    assert np.isfinite(adata.obsm["X_tt"]).all()
    tt.transform(adata[:1].copy(), model)


def test_protein_panel(pbmc_file):
    adata = ad.read_h5ad(pbmc_file.with_name("tissue_protein.h5ad"))[::8].copy()
    model = tt.fit(adata, label="phenotype", steps=15, progress=False)
    assert "Unknown" not in model.classes
    assert model.settings["counts"] == "False"
    assert model.scores["held-out"]["map"] > model.scores["permuted"]["map"] + 0.2


@pytest.mark.parametrize("metric_dim", [2, 3])
def test_a_circle_is_warned_about(counts, metric_dim):
    with pytest.warns(UserWarning, match=f"uses only directions, so metric_dim={metric_dim} puts all cells on a"):
        tt.fit(counts, "kind", loss="arcface", metric_dim=metric_dim, steps=2, hold_out=0, progress=False)
    assert counts.obsm["X_tt"].shape == (300, 2)


@pytest.mark.parametrize(
    "loss", ["triplet:mining=offline,every=1", "triplet:mining=curriculum", "hierarchical_triplet"]
)
def test_a_loss_that_looks_at_all_cells_gives_the_same_map_twice(counts, loss):
    first, second = counts.copy(), counts.copy()
    for adata in (first, second):
        adata.obs.loc[adata.obs_names[:30], "kind"] = np.nan  # unlabelled cells are surveyed but teach nothing
        tt.fit(adata, "kind", loss=loss, steps=12, progress=False)
    np.testing.assert_array_equal(first.obsm["X_tt"], second.obsm["X_tt"])

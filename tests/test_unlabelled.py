"""Cells without labels, and with few: `fit` learns from views of all cells."""

import numpy as np
import pandas as pd
import pytest
from samples import BRIEF, FAST, KNOWN, make_cells, predicted
from scipy.sparse import csr_matrix

import tripletomics as tt
from tripletomics import losses, metrics
from tripletomics.losses.defaults import DEFAULT_LOSS, DEFAULT_VIEWS, default_loss

VIEWS = losses.names(views=2)


def held_out_f1(adata, key="X_tt_metric"):
    codes, held = pd.factorize(adata.obs["truth"])[0], (adata.obs["tt_split"] == "held-out").to_numpy()
    z = adata.obsm[key]
    return metrics.knn_macro_f1(z[~held], codes[~held], z[held], codes[held])


@pytest.fixture
def adata():
    adata = make_cells(600, 1)
    adata.obs["truth"] = adata.obs["kind"]
    return adata


@pytest.fixture(scope="module")
def blind():
    """A model of these cells without their labels, and the cells."""
    adata = make_cells(600, 1)
    return tt.fit(adata, **FAST), adata


@pytest.fixture(scope="module")
def plain():
    """The places of a fit without augmentation."""
    adata = make_cells(600, 1)
    tt.fit(adata, "kind", augment=None, **BRIEF)
    return adata.obsm["X_tt_metric"]


@pytest.fixture
def few(adata):
    """Five labelled cells of each type."""
    adata.obs["out"] = np.arange(600) % 3 == 2
    keep = adata.obs[~adata.obs["out"]].groupby("kind").head(5).index
    adata.obs["kind"] = adata.obs["kind"].where(adata.obs_names.isin(keep))
    adata.obs.loc[adata.obs["out"], "kind"] = adata.obs["truth"]
    return adata


def test_without_labels_the_map_is_that_of_structure_1(adata):
    adata.obs["out"] = np.arange(600) % 4 == 0
    with_labels = adata.copy()
    tt.fit(adata, hold_out="out", **BRIEF)
    tt.fit(with_labels, "kind", structure=1, hold_out="out", **BRIEF)
    np.testing.assert_array_equal(adata.obsm["X_tt"], with_labels.obsm["X_tt"])
    assert not np.array_equal(adata.obsm["X_tt_metric"], with_labels.obsm["X_tt_metric"])


def test_labels_do_not_reach_a_fit_without_them(adata):
    other = adata.copy()
    other.obs["kind"] = other.obs["kind"].to_numpy()[::-1]
    for one in (adata, other):
        tt.fit(one, **BRIEF)
    for key in ("X_tt", "X_tt_metric"):
        np.testing.assert_array_equal(adata.obsm[key], other.obsm[key])
    assert adata.uns["X_tt"]["settings"]["loss"] == DEFAULT_VIEWS
    assert adata.uns["X_tt"]["settings"]["structure"] == "1.0"


def test_held_out_cells_do_not_reach_a_fit_without_labels(adata):
    adata.obs["out"] = np.arange(600) % 4 == 0
    other = adata.copy()
    x = other.X.toarray()
    x[other.obs["out"]] = np.random.default_rng(0).permuted(x[other.obs["out"]], axis=1)
    other.X = csr_matrix(x)
    one, two = (tt.fit(table, hold_out="out", **BRIEF) for table in (adata, other))
    train = ~adata.obs["out"].to_numpy()
    for key in ("X_tt", "X_tt_metric"):
        np.testing.assert_array_equal(adata.obsm[key][train], other.obsm[key][train])
    assert one.scores["train"] == two.scores["train"]


def test_scores_without_labels_are_recall_beside_shuffled_places(blind, tmp_path):
    model, adata = blind
    assert model.p_value == {}
    assert model.checks == {}
    held = (adata.obs["tt_split"] == "held-out").to_numpy()
    for space, key in (("map", "X_tt"), ("metric", "X_tt_metric")):
        z, r = adata.obsm[key], adata.obsm["X_tt_pca"]
        recall = metrics.knn_recall(z[~held], r[~held], z[held], r[held], k=(15,))[0]
        assert model.scores["held-out"][space] == pytest.approx(recall)
        assert model.scores["permuted"][space] == pytest.approx(15 / (~held).sum(), abs=0.08)
    assert model.scores["held-out"]["map"] > model.scores["permuted"]["map"] + 0.1
    assert "15-NN recall" in model.summary()
    adata.write_h5ad(tmp_path / "a.h5ad")
    model.save(tmp_path / "m.tt")
    loaded = tt.load(tmp_path / "m.tt")
    assert loaded.summary() == model.summary()
    np.testing.assert_allclose(loaded.embed(adata.X), adata.obsm["X_tt_metric"], atol=1e-5)


def test_a_model_without_labels_maps_and_searches_but_names_nothing(blind):
    model, adata = blind
    query = adata[:5].copy()
    tt.transform(query, model)
    assert model.search(query.X, 1).labels.ravel().tolist() == [""] * 5
    for act in (
        lambda: tt.predict(query, model),
        lambda: model.enroll(query.X, ["new"] * 5),
        lambda: model.same(query.X, query.X),
    ):
        with pytest.raises(ValueError, match="was fitted without labels, so it knows no type: fit it with label="):
            act()
    assert model.types == []


@pytest.mark.parametrize("loss", VIEWS)
def test_every_loss_of_views_learns_the_types_without_seeing_them(adata, loss):
    model = tt.fit(adata, loss=loss, steps=20, hold_out=0.3, progress=False)
    assert held_out_f1(adata) > 0.6
    spread = model.history["metric"]["spread"]
    assert len(spread) == 20
    assert spread[-1] > 0.2


def test_a_fit_without_labels_is_deterministic(adata):
    other = adata.copy()
    for one in (adata, other):
        tt.fit(one, loss="moco + 0.1*vicreg", seed=3, **BRIEF)
    np.testing.assert_array_equal(adata.obsm["X_tt_metric"], other.obsm["X_tt_metric"])


def test_a_loss_that_collapses_is_said_to(adata):
    class Closer(losses.SimCLR):
        def _value(self, z1, z2, y, cells, **known):
            return (z1 - z2).square().sum(1).mean() + (z1 - 1).square().mean()

    with pytest.warns(UserWarning, match=r"collapsed: the cells point in nearly one direction \(spread 0\.\d\d"):
        tt.fit(adata, loss=Closer(), lr=0.01, steps=20, progress=False)


def test_the_default_follows_the_share_of_labels():
    assert default_loss(np.array([-1, -1])) == DEFAULT_VIEWS
    assert default_loss(np.array([0, 1] * 9 + [-1])) == DEFAULT_LOSS
    assert default_loss(np.array([0, 1, -1])) == f"{DEFAULT_LOSS} + {DEFAULT_VIEWS}"


def test_cells_without_labels_help_where_labels_are_few(few):
    alone = few.copy()
    model = tt.fit(few, "kind", hold_out="out", **FAST)
    tt.fit(alone, "kind", hold_out="out", loss="softmax", **FAST)
    assert model.settings["loss"] == f"{DEFAULT_LOSS} + {DEFAULT_VIEWS}"
    assert held_out_f1(few) >= held_out_f1(alone)
    assert model.calibration.n_cells == 5 * len(KNOWN)
    query = predicted(few[few.obs["out"]], model, reject=0)
    assert (query.obs["tt_label"].astype(str) == query.obs["truth"]).mean() > 0.9


def test_a_lone_label_is_enough_for_the_others_to_be_unlabelled(adata):
    """Types that have no label at all neither help nor hurt: they are unlabelled cells."""
    adata.obs["kind"] = adata.obs["kind"].where(adata.obs["kind"].isin(["a", "b"]))
    model = tt.fit(adata, "kind", **BRIEF)
    assert model.classes == ["a", "b"]


@pytest.mark.parametrize(
    ("augment", "counts", "message"),
    [
        ("thin", False, "augment='thin' removes single molecules, but the values are not counts"),
        ("thin:p=0.2 + mask", True, "augment='thin:p=0.2 + mask' removes .* but the counts are not whole numbers"),
    ],
)
def test_what_are_no_molecules_cannot_be_thinned(adata, augment, counts, message):
    adata.X = adata.X * 1.5
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        tt.fit(adata, augment=augment, counts=counts, progress=False)
    assert not adata.obsm


@pytest.mark.parametrize("augment", ["thin", "noise + mask:p=0.3", "mixup", "censor"])
def test_augmentations_arrive(adata, plain, augment):
    tt.fit(adata, "kind", augment=augment, **BRIEF)
    assert not np.array_equal(adata.obsm["X_tt_metric"], plain)
    assert adata.uns["X_tt"]["settings"]["augment"] == augment


@pytest.mark.parametrize("augment", [None, "mixup", "mask:p=0"])
def test_two_views_that_are_the_same_are_refused(adata, augment):
    with pytest.raises(
        ValueError, match=r"shows the same view twice, from which loss='vicreg' learns nothing: take 'mask'"
    ):
        tt.fit(adata, loss="vicreg", augment=augment, progress=False)


def test_too_few_cells_and_too_large_batches_are_refused(adata, few):
    with pytest.raises(ValueError, match="There are 3 training cells, but a loss of views needs 4 or more"):
        tt.fit(adata[:3], hold_out=0, progress=False)
    tt.fit(adata[:4].copy(), hold_out=0, steps=2, progress=False)
    with pytest.raises(ValueError, match="batch_size=601 is above the number of training cells, 600"):
        tt.fit(adata, hold_out=0, batch_size=601, progress=False)
    tt.fit(few, "kind", hold_out="out", batch_size=256, steps=2, progress=False)


def test_the_null_keeps_all_labels_where_they_are_few(few, monkeypatch):
    monkeypatch.setattr("tripletomics.nulls.NULL_CELLS", 60)
    model = tt.fit(few, "kind", hold_out="out", steps=6, progress=False)
    assert np.isfinite(list(model.scores["permuted"].values())).all()
    assert "the macro-F1 of the predictions says more" in " ".join(model.summary().split())


def test_a_fit_without_labels_is_not_refitted_with_them(blind):
    _, adata = blind
    table = tt.evaluate(adata, "kind", progress=False)
    assert len(table)
    with pytest.raises(ValueError, match=r"X_tt was fitted without labels, and a refit would .*: pass refits=0"):
        tt.evaluate(adata, "kind", refits=1, progress=False)


def test_the_command_fits_without_labels(run, adata, tmp_path):
    adata.write_h5ad(tmp_path / "in.h5ad")
    status, out, error = run("fit", tmp_path / "in.h5ad", "--out", tmp_path / "out.h5ad", "--steps", 5)
    assert (status, error) == (0, "")
    assert "15-NN recall" in out

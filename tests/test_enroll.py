"""Search, enroll and same: what a metric space is for."""

import re

import numpy as np
import pandas as pd
import pytest
from samples import FAST, KNOWN, NEW, make_cells, predicted
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import tripletomics as tt


@pytest.mark.parametrize("which", ["trained", "fitted"])
def test_training_cells_find_themselves_first(request, which):
    model, adata = request.getfixturevalue(which)
    train = adata[adata.obs["tt_split"] == "train"]
    hits = model.search(train[:, model.features.genes].X, 3)
    assert hits.names.shape == hits.labels.shape == hits.distances.shape == (train.n_obs, 3)
    assert hits.names[:, 0].tolist() == train.obs_names.tolist()
    np.testing.assert_allclose(hits.distances[:, 0], 0, atol=1e-4)
    assert (np.diff(hits.distances, axis=1) >= 0).all()


def test_search_against_scikit_learn(trained, new_cells):
    model, adata = trained
    train = adata[adata.obs["tt_split"] == "train"]
    index = NearestNeighbors(n_neighbors=7, algorithm="brute").fit(train.obsm["X_tt_metric"])
    d, rows = index.kneighbors(model.embed(new_cells.X))
    hits = model.search(new_cells.X, 7)
    assert hits.names.tolist() == train.obs_names.to_numpy()[rows].tolist()
    np.testing.assert_allclose(hits.distances, d, rtol=1e-4, atol=1e-5)
    named = train.obs["kind"].where(train.obs["kind"].isin(list(KNOWN)), "").to_numpy()
    assert hits.labels.tolist() == named[rows].tolist()
    assert (hits.labels == "").any()


def test_an_index_in_the_file_gives_the_same_hits(trained, new_cells, tmp_path):
    model = trained[0]
    model.save(tmp_path / "plain.tt")
    model.save(tmp_path / "index.tt", index=True)
    plain, indexed = tt.load(tmp_path / "plain.tt"), tt.load(tmp_path / "index.tt")
    for one, other in zip(indexed.search(new_cells.X, 5), model.search(new_cells.X, 5), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"file without an index: write it with model\.save\(path, index=True\)"):
        plain.search(new_cells.X)
    with pytest.raises(ValueError, match="was read from a file without its index: fit it again"):
        plain.save(tmp_path / "again.tt", index=True)
    assert not (tmp_path / "again.tt").exists()
    indexed.save(tmp_path / "again.tt", index=True)
    assert (
        tt.load(tmp_path / "again.tt").search(new_cells.X, 5).names.tolist() == model.search(new_cells.X, 5)[0].tolist()
    )
    assert (tmp_path / "plain.tt").stat().st_size < (tmp_path / "index.tt").stat().st_size


def test_search_takes_what_it_can_and_says_what_it_cannot(trained, new_cells):
    model = trained[0]
    n = len(model.catalog.names)
    hits = model.search(new_cells.X[:2], n)
    assert all(len(set(row)) == n for row in hits.names)
    for k in (0, n + 1, 2.5):
        with pytest.raises(ValueError, match=re.escape(f"k={k}")):
            model.search(new_cells.X[:2], k)
    with pytest.raises(ValueError, match=r"x has shape \(2, 4\)"):
        model.search(new_cells.X[:2, :4])
    present = np.arange(150) >= 30
    z = model.embed(new_cells.X[:20], present)
    np.testing.assert_array_equal(
        model.search(new_cells.X[:20], 4, present).distances, model.catalog.neighbours.search(z, 4)[0]
    )


# ---------------------------------------------------------------------------------------------------- enroll


def test_a_new_type_is_recognised_from_five_cells_and_the_others_stay(trained, own, new_cells):
    few, many = make_cells(5, 7, NEW), make_cells(200, 4, NEW)
    before, blind = predicted(new_cells, own), predicted(many, own)
    own.enroll(few.X, few.obs["kind"])
    after, seen = predicted(new_cells, own), predicted(many, own)
    assert (predicted(many, own, reject=0).obs["tt_label"] == NEW).mean() > 0.9
    assert (seen.obs["tt_label"] == NEW).mean() > 0.7
    assert seen.obs["tt_confidence"].median() > blind.obs["tt_confidence"].median() + 0.2
    assert (seen.obs["tt_novelty"] <= blind.obs["tt_novelty"]).all()
    assert seen.obs["tt_novelty"].median() < blind.obs["tt_novelty"].median()
    assert own.types == [*KNOWN, NEW]
    assert own.classes == list(KNOWN)
    assert seen.obs["tt_label"].cat.categories.tolist() == [*KNOWN, NEW, "unassigned"]
    assert (after.obs["tt_label"].astype(str) == before.obs["tt_label"].astype(str)).mean() > 0.99
    assert (after.obs["tt_label"] == NEW).sum() == 0
    np.testing.assert_allclose(after.obs["tt_confidence"], before.obs["tt_confidence"], atol=0.05)
    np.testing.assert_array_equal(after.obsm["X_tt"], before.obsm["X_tt"])
    assert repr(own) == f"<tripletomics.Model: 150 genes, 8 types, loss={own.settings['loss']}>"
    assert trained[0].types == list(KNOWN)


def test_enrolled_types_are_kept_in_the_file(own, tmp_path):
    both = make_cells(10, 7, "ha")
    both.obs["kind"] = both.obs["kind"].replace({"h": "zeta", "a": "alpha 2"})
    own.enroll(both.X, both.obs["kind"].tolist())
    assert own.types == [*KNOWN, "alpha 2", "zeta"]
    own.save(tmp_path / "m.tt", index=True)
    loaded = tt.load(tmp_path / "m.tt")
    assert loaded.types == own.types
    assert loaded.enrolled == ["alpha 2", "zeta"]
    assert repr(loaded) == repr(own)
    query = make_cells(100, 4, "abh")
    one, other = predicted(query, own, reject=0), predicted(query, loaded, reject=0)
    pd.testing.assert_frame_equal(one.obs, other.obs)
    assert (one.obs["tt_label"] == "zeta").sum() >= 30
    assert (one.obs["tt_label"].notna()).all()
    loaded.enroll(make_cells(3, 8, NEW).X, ["third"] * 3)
    assert loaded.types[-1] == "third"
    assert set(loaded.search(query.X, 20).labels.ravel()) <= {*KNOWN, ""}  # the index holds the training cells


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([NEW, NEW, "a", NEW, NEW], "'a' is a type of the model already: enroll only new types, or fit again."),
        ([NEW, "Unknown", NEW, NEW, NEW], "'Unknown' means unlabelled: give the new type a name of its own."),
        ([NEW, np.nan, NEW, NEW, NEW], "'nan' means unlabelled"),
        (["unassigned"] * 5, "'unassigned' means unlabelled"),
        ([NEW] * 4, "4 names for 5 cells: pass one for each, and at least one."),
        ([], "0 names for 5 cells: pass one for each, and at least one."),
        ("novel", "1 names for 5 cells: pass one for each, and at least one."),
    ],
)
def test_names_that_cannot_be_enrolled_change_nothing(own, names, message):
    reference = own.reference
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        own.enroll(make_cells(5, 7, NEW).X, names)
    assert own.types == list(KNOWN)
    assert own.reference is reference


def test_cells_that_cannot_be_enrolled_change_nothing(own):
    few = make_cells(5, 7, NEW)
    with pytest.raises(ValueError, match=r"x has shape \(5, 9\): pass cells by the model's 150 genes"):
        own.enroll(few.X[:, :9], [NEW] * 5)
    with pytest.raises(ValueError, match="0 names for 0 cells"):
        own.enroll(few.X[:0], [])
    assert own.types == list(KNOWN)
    own.enroll(few.X, [NEW] * 5)
    with pytest.raises(ValueError, match="'h' is a type of the model already"):
        own.enroll(few.X, [NEW] * 5)
    assert own.types == [*KNOWN, NEW]
    assert len(own.reference.sizes) == 8


def test_a_type_that_only_held_out_cells_have_is_predicted_once_it_is_enrolled():
    adata = make_cells(300, 1)
    adata.obs["out"] = adata.obs["kind"].isin(["a", "c"])
    adata.obs["out"] &= (adata.obs["kind"] == "c") | (np.arange(300) % 4 == 0)
    with pytest.warns(UserWarning, match="Types that only held-out cells have: c"):
        model = tt.fit(adata, "kind", hold_out="out", **FAST)
    unseen, few = adata[adata.obs["kind"] == "c"].copy(), make_cells(5, 7, "c")
    others = [kind for kind in KNOWN if kind != "c"]
    assert model.types == others
    assert model.checks["cells"] == (adata.obs["out"] & (adata.obs["kind"] == "a")).sum()
    found = predicted(unseen, model)
    assert found.obs["tt_label"].cat.categories.tolist() == [*others, "unassigned"]
    assert (found.obs["tt_label"] == "unassigned").mean() > 0.9
    model.enroll(few.X, few.obs["kind"])
    assert model.types == [*others, "c"]
    assert (predicted(unseen, model, reject=0).obs["tt_label"] == "c").mean() > 0.75


# ---------------------------------------------------------------------------------------------------- same


def test_pairs_of_one_type_are_told_also_of_a_type_never_seen(trained):
    query = make_cells(400, 8, "abcdh")
    a, b = query[:200], query[200:]
    same = (a.obs["kind"].to_numpy() == b.obs["kind"].to_numpy()).astype(int)
    p = trained[0].same(a.X, b.X)
    assert p.shape == (200,)
    assert ((p >= 0) & (p <= 1)).all()
    assert roc_auc_score(same, p) > 0.95
    unseen = (a.obs["kind"] == NEW).to_numpy()
    assert roc_auc_score(same[unseen], p[unseen]) > 0.8
    np.testing.assert_array_equal(trained[0].same(b.X, a.X), p)
    assert (trained[0].same(a.X, a.X) >= p).all()


def test_pairs_are_rows_of_two_tables_of_one_shape(trained, new_cells):
    with pytest.raises(ValueError, match=r"a has shape \(3, 150\) and b \(2, 150\): pass one cell in each"):
        trained[0].same(new_cells.X[:3], new_cells.X[:2])
    present = np.arange(150) >= 50
    whole, part = (trained[0].same(new_cells.X[:50], new_cells.X[50:100], known) for known in (None, present))
    assert not np.array_equal(whole, part)
    assert np.corrcoef(whole, part)[0, 1] > 0.7


def test_methods_of_the_model_take_arrays(trained, new_cells):
    model = trained[0]
    for method, given in (
        (model.predict, ()), (model.search, ()), (model.enroll, (["h"] * 500,)), (model.same, (new_cells,)),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="x is AnnData, not an array"):
            method(new_cells, *given)
    assert model.types == list(KNOWN)

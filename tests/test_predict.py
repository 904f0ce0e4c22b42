"""What `predict` says and writes about new cells, and what it refuses."""

import warnings
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from samples import KNOWN, NEW, OBS, assert_same, make_cells, predicted, state, values
from sklearn.metrics import f1_score

import tripletomics as tt
from tripletomics.labels.reference import build_reference


@pytest.fixture(scope="module")
def rare():
    """A model whose types have five cells each."""
    adata = make_cells(105, 3)
    adata.obs["kind"] += (adata.obs.groupby("kind").cumcount() // 5).astype(str)
    assert set(adata.obs["kind"].value_counts()) == {5}
    return tt.fit(adata, "kind", hold_out=0, steps=2, progress=False), adata


@pytest.mark.parametrize("which", ["trained", "fitted"])
def test_what_is_written(request, new_cells, which):
    model, reference = request.getfixturevalue(which)
    query = (new_cells if which == "trained" else reference[:150]).copy()
    for name in ("obsm", "uns", "obs"):
        setattr(query, name, {} if name != "obs" else query.obs[[]])
    x = query.X.copy()
    tt.predict(query, model)
    assert sorted(query.obs) == sorted([*OBS, "tt_split"])
    assert sorted(query.obsm) == ["X_tt", "X_tt_metric"]
    assert sorted(query.uns) == ["X_tt", "tt_mapping"]
    assert query.uns["X_tt"] == {"seen": model.id}
    assert (x != query.X).nnz == 0
    assert query.obs["tt_label"].cat.categories.tolist() == [*model.classes, "unassigned"]
    assert query.obs["tt_label"].notna().all()
    for name in ("tt_confidence", "tt_novelty"):
        assert query.obs[name].dtype == np.float64
        assert query.obs[name].between(0, 1).all()
    for found in query.obs["tt_label_set"]:
        assert set(found.split(" | ") if found else []) <= set(model.classes)
    assert query.obsm["X_tt"].dtype == query.obsm["X_tt_metric"].dtype == np.float32
    placed = query.copy()
    tt.transform(placed, model)
    for key in ("X_tt", "X_tt_metric"):
        np.testing.assert_array_equal(query.obsm[key], placed.obsm[key])


def test_what_is_written_is_what_the_model_says_of_the_array(trained, new_cells):
    model, found = trained[0], predicted(new_cells, trained[0], reject=0.2, coverage=0.8)
    said, z, m = model.predict(new_cells.X, reject=0.2, coverage=0.8)
    types = np.array(model.types)
    assert found.obs["tt_label"].tolist() == np.where(said.unassigned, "unassigned", types[said.codes]).tolist()
    np.testing.assert_array_equal(found.obs["tt_confidence"], said.confidence)
    np.testing.assert_array_equal(found.obs["tt_novelty"], said.novelty)
    assert found.obs["tt_label_set"].tolist() == [" | ".join(types[row]) for row in said.sets]
    np.testing.assert_array_equal(found.obsm["X_tt_metric"], z)
    np.testing.assert_array_equal(found.obsm["X_tt"], m)
    assert found.uns["tt_mapping"]["rejected"] == said.unassigned.sum() > 0
    assert [len(part) for part in (model.predict(new_cells.X[:0])[0].codes, *model.predict(new_cells.X[:0])[1:])] == [
        0, 0, 0,
    ]  # fmt: skip


def test_new_cells_of_known_types_are_named_and_those_of_another_are_not(trained, new_cells):
    found = predicted(new_cells, trained[0])
    named = found.obs["tt_label"] != "unassigned"
    assert (found.obs["tt_label"] == found.obs["kind"])[named].mean() > 0.97
    assert named.mean() > 0.85
    held = [kind in said.split(" | ") for kind, said in zip(found.obs["kind"], found.obs["tt_label_set"], strict=True)]
    assert np.mean(held) > 0.8
    other = predicted(make_cells(200, 4, NEW), trained[0])
    assert (other.obs["tt_label"] == "unassigned").mean() > 0.9
    assert (other.obs["tt_label_set"] == "").mean() > 0.9
    assert other.obs["tt_confidence"].median() < 0.1
    assert other.obs["tt_novelty"].median() > found.obs["tt_novelty"].quantile(0.95)


def test_rejection_changes_the_label_alone(trained):
    query = make_cells(200, 4, "abch")
    free, strict = predicted(query, trained[0], reject=0), predicted(query, trained[0], reject=0.3)
    rejected = (strict.obs["tt_label"] == "unassigned").to_numpy()
    assert 0 < rejected.sum() < 200
    assert (free.obs["tt_label"] != "unassigned").all()
    assert (free.obs["tt_label"] == strict.obs["tt_label"])[~rejected].all()
    for one, other in list(zip(values(free), values(strict), strict=True))[1:]:
        np.testing.assert_array_equal(one, other)


def test_the_best_type_is_in_every_set_that_is_not_empty(trained, new_cells):
    found = predicted(new_cells, trained[0], reject=0, coverage=0.99)
    sizes = []
    for best, said in zip(found.obs["tt_label"], found.obs["tt_label_set"], strict=True):
        assert not said or best in said.split(" | ")
        sizes.append(len(said.split(" | ")) if said else 0)
    smaller = predicted(new_cells, trained[0], coverage=0.5).obs["tt_label_set"]
    assert sum(sizes) > smaller.map(lambda said: len(said.split(" | ")) if said else 0).sum()


def test_another_key_overwrites_nothing(trained, new_cells):
    query = predicted(new_cells, trained[0])
    before = query.copy()
    tt.predict(query, trained[0], key_added="X_new", reject=0.5)
    assert_same(query, before)
    both = [*OBS, "tt_split"]
    assert set(query.obs) == {"kind", *both, *(name.replace("tt", "X_new") for name in both)}
    assert sorted(query.obsm) == ["X_new", "X_new_metric", "X_tt", "X_tt_metric"]
    assert sorted(query.uns) == ["X_new", "X_new_mapping", "X_tt", "tt_mapping"]
    np.testing.assert_array_equal(query.obsm["X_new"], query.obsm["X_tt"])
    assert query.uns["X_new_mapping"]["rejected"] > query.uns["tt_mapping"]["rejected"]


def test_components_of_an_earlier_fit_are_replaced(trained, new_cells):
    model, query = trained[0], new_cells.copy()
    query.obsm["X_tt_pca"] = np.zeros((500, 50), dtype=np.float32)
    tt.predict(query, model)
    np.testing.assert_allclose(query.obsm["X_tt_pca"], model.features.pcs(query.X), atol=1e-4)


def test_a_cell_does_not_depend_on_the_others_or_their_order(trained, new_cells):
    whole = predicted(new_cells, trained[0])
    order = np.random.default_rng(0).permutation(500)
    assert_same(predicted(new_cells[order], trained[0]), whole[order].copy())
    for i in (0, 77, 499):
        assert_same(predicted(new_cells[[i]], trained[0]), whole[[i]].copy())


def test_cells_are_weighed_a_block_at_a_time(trained, new_cells, monkeypatch):
    whole = predicted(new_cells, trained[0])
    monkeypatch.setattr("tripletomics.model.model.BLOCK", 7)
    assert_same(predicted(new_cells, trained[0]), whole)
    assert_same(predicted(new_cells[:7], trained[0]), whole[:7].copy())


def test_large_tables_are_labelled_in_parts(trained, new_cells, monkeypatch):
    asked = {"groups": "kind", "fdr": 0.3}
    whole = predicted(new_cells, trained[0], **asked)
    monkeypatch.setattr("tripletomics.tl.predicting.BLOCK", 190)
    parts = predicted(new_cells, trained[0], **asked)
    assert_same(parts, whole)
    for column in ("tt_group_label", "tt_group_label_set", "tt_novel"):
        assert parts.obs[column].equals(whole.obs[column])
    np.testing.assert_allclose(parts.obs["tt_novel_p"], whole.obs["tt_novel_p"])


def test_order_and_spelling_of_the_genes_and_the_kind_of_matrix_do_not_matter(trained, new_cells):
    whole = predicted(new_cells, trained[0])
    turned = new_cells[:, ::-1].copy()
    turned.X = sp.csc_array(turned.X)
    assert_same(predicted(turned, trained[0]), whole)
    dense = new_cells.copy()
    dense.X = dense.X.toarray()
    dense.var_names = [name.upper() if i < 40 else name for i, name in enumerate(dense.var_names)]
    assert_same(predicted(dense, trained[0]), whole)
    layered = new_cells.copy()
    layered.layers["raw"], layered.X = layered.X.copy(), layered.X * 0
    assert_same(predicted(layered, trained[0], layer="raw"), whole)


def test_a_label_column_of_the_query_is_neither_read_nor_touched(trained, new_cells):
    query = new_cells.copy()
    query.obs["kind"] = pd.Categorical(np.resize(["Neuron", None, "unassigned"], 500))
    query.obs["cell_type"] = "other words"
    before = query.obs.copy()
    tt.predict(query, trained[0])
    pd.testing.assert_frame_equal(query.obs[["kind", "cell_type"]], before)
    assert_same(query, predicted(new_cells, trained[0]))


def test_unlabelled_training_cells_are_no_type(trained):
    model, adata = trained
    assert model.types == list(KNOWN)
    labelled = adata.obs["kind"].isin(list(KNOWN)) & (adata.obs["tt_split"] == "train")
    assert len(model.reference.codes) == labelled.sum() < 540
    unnamed = adata[~adata.obs["kind"].isin(list(KNOWN))].copy()
    assert predicted(unnamed, model).obs["tt_label"].isin([*KNOWN, "unassigned"]).all()


def test_genes_that_lack_are_filled_and_counted(trained, new_cells):
    model, query = trained[0], new_cells[:, 15:].copy()
    query = ad.concat([query, ad.AnnData(sp.csr_matrix((500, 2)), obs=query.obs, var=pd.DataFrame(index=["x", "y"]))],
                      axis=1, merge="first")  # fmt: skip
    weights = model.gene_weights()
    expected = model.predict(sp.csr_matrix(new_cells.X.toarray() * (np.arange(150) >= 15)), np.arange(150) >= 15)[0]
    found = predicted(query, model, missing="impute")
    np.testing.assert_allclose(found.obs["tt_confidence"], expected.confidence, atol=1e-5)
    record = found.uns["tt_mapping"]
    assert (record["matched"], record["missing"], record["extra"]) == (135, 15, 2)
    assert record["weight"] == pytest.approx(weights[15:].sum())
    assert record["missing_genes"].tolist() == [f"Gene{i}" for i in np.argsort(-weights[:15])]
    assert record["notes"].tolist() == []
    named = predicted(query, model, missing="impute", reject=0)
    assert (named.obs["tt_label"] == named.obs["kind"]).mean() > 0.95


def test_what_looks_odd_is_said_and_kept(trained, new_cells):
    deep = new_cells.copy()
    deep.X = deep.X * 10
    with pytest.warns(UserWarning, match="times more counts") as caught:
        tt.predict(deep, trained[0])
    assert deep.uns["tt_mapping"]["notes"].tolist() == [str(warning.message) for warning in caught]
    assert caught[0].filename == __file__


# ------------------------------------------------------------------------------------------------- groups


def test_groups_have_the_vote_of_their_cells_and_missing_ones_none(trained, new_cells):
    query = new_cells.copy()
    clusters = query.obs["kind"].map({"a": "ab", "b": "ab"}).fillna(query.obs["kind"]).to_numpy(dtype=object)
    clusters[:30] = np.resize(np.array([None, np.nan, "", "unassigned"], dtype=object), 30)
    query.obs["cluster"] = pd.Categorical(clusters)
    found = predicted(query, trained[0], groups="cluster")
    assert_same(found, predicted(query, trained[0]))
    assert found.obs["tt_group_label"].cat.categories.tolist() == [*KNOWN, "unassigned"]
    assert found.obs["tt_group_label"].iloc[:30].isna().all()
    assert (found.obs["tt_group_label_set"].iloc[:30] == "").all()
    said = found.obs.iloc[30:].groupby("cluster", observed=True)[["tt_group_label", "tt_group_label_set"]]
    assert (said.nunique() == 1).all(axis=None)
    sets = said.first()["tt_group_label_set"].to_dict()
    assert sets == {"ab": "a | b", **{name: name for name in "cdefg"}}
    for name, kind in said.first()["tt_group_label"].items():
        assert kind in sets[name].split(" | ")


def test_a_group_of_a_new_type_is_unassigned_unless_nothing_is_rejected(trained):
    query = make_cells(200, 4, "abh")
    found = predicted(query, trained[0], groups="kind").obs.groupby("kind")[["tt_group_label", "tt_group_label_set"]]
    assert found.first().to_numpy().tolist() == [["a", "a"], ["b", "b"], ["unassigned", ""]]
    free = predicted(query, trained[0], groups="kind", reject=0)
    assert (free.obs["tt_group_label"] != "unassigned").all()


def test_a_group_of_one_cell_has_its_prediction_and_is_told(trained, new_cells):
    query = new_cells.copy()
    query.obs["cluster"] = ["one", *["many"] * 499]
    with pytest.warns(
        UserWarning, match="1 of 2 groups of 'cluster' have one cell: they get the prediction of their cell"
    ):
        tt.predict(query, trained[0], groups="cluster", coverage=0.6)
    first = query.obs.iloc[0]
    assert (first["tt_group_label"], first["tt_group_label_set"]) == (first["tt_label"], first["tt_label_set"])


def test_groups_of_an_earlier_prediction_are_removed(trained, new_cells, tmp_path):
    query = predicted(new_cells, trained[0], groups="kind")
    query.write_h5ad(tmp_path / "q.h5ad")
    read = ad.read_h5ad(tmp_path / "q.h5ad")
    assert (read.obs["tt_group_label_set"].astype(str) == query.obs["tt_group_label_set"]).all()
    assert read.obs["tt_agrees"].dtype == bool
    tt.predict(query, trained[0])
    assert not [name for name in query.obs if "group" in name]


def test_the_types_near_a_cell_on_the_map_are_those_of_a_plain_loop(trained, new_cells):
    model = trained[0]
    found = predicted(new_cells, model)
    best = predicted(new_cells, model, reject=0).obs["tt_label"]
    for i in range(0, 500, 7):
        d = ((model.reference.map - found.obsm["X_tt"][i]) ** 2).sum(axis=1)
        near = {model.types[code] for code in model.reference.codes[np.argsort(d)[:15]]}
        assert found.obs["tt_agrees"].iloc[i] == (best.iloc[i] in near)
    assert found.uns["tt_mapping"]["agrees"] == found.obs["tt_agrees"].mean()


def test_a_cell_of_the_reference_does_not_agree_with_itself():
    reference = build_reference(np.eye(40)[:, :3], np.arange(80.0).reshape(40, 2), np.eye(40), np.arange(40) % 2, 2, 0)
    codes = np.where(np.arange(40) == 20, 0, 1)
    alone = replace(reference, codes=codes)
    m = reference.map[[20]]
    assert alone.agrees(m, np.array([0])).tolist() == [True]
    assert alone.agrees(m, np.array([0]), np.array([True])).tolist() == [False]


def no_cells(adata):
    return adata[:0].copy()


def other_genes(adata):
    adata.var_names = [f"other{i}" for i in range(adata.n_vars)]


def lacking(adata):
    return adata[:, 5:].copy()


def repeated(adata):
    adata.var_names = ["Gene0", "Gene0", *adata.var_names[2:]]


def alike(adata):
    adata.var_names = ["GENE1", "gene1", *adata.var_names[2:]]


def logged(adata):
    adata.X = np.log1p(adata.X.toarray() / 3)


def nothing(adata):
    pass


def barcodes(adata):
    adata.obs["barcode"] = adata.obs_names


REFUSED = {
    "no cells": (no_cells, {}, ValueError, "adata has 0 cells and 150 genes"),
    "no shared gene": (other_genes, {"missing": "impute"}, ValueError, "The query has none of the model's 150 genes"),
    "genes lack": (lacking, {}, ValueError, "The query is missing 5 of the model's 150 genes"),
    "too few genes": (lacking, {"missing": "zero", "min_matched": 0.999}, ValueError, "less than min_matched=0.999"),
    "duplicate genes": (repeated, {}, ValueError, "1 gene name occurs more than once (first: Gene0)"),
    "genes alike": (alike, {"missing": "zero"}, ValueError, "'GENE1', 'gene1' match the model's 'Gene1' equally well"),
    "logged values": (logged, {}, ValueError, "The query holds log1p, but the model was trained on counts"),
    "layer": (nothing, {"layer": "raw"}, KeyError, "layer='raw' is not a layer of adata. Layers: none."),
    "reject of 1": (nothing, {"reject": 1}, ValueError, "reject=1 is not a share in [0, 1); 0 rejects no cell."),
    "negative reject": (nothing, {"reject": -0.1}, ValueError, "reject=-0.1 is not a share in [0, 1)"),
    "reject NaN": (nothing, {"reject": np.nan}, ValueError, "reject=nan is not a share in [0, 1)"),
    "groups": (nothing, {"groups": "kid"}, KeyError, "groups='kid' is not a column of adata.obs. Did you mean 'kind'?"),
    "groups of one": (
        barcodes,
        {"groups": "barcode"},
        ValueError,
        "groups='barcode' has 40 groups of 40 cells, and 40",
    ),
    "coverage of 1": (nothing, {"coverage": 1}, ValueError, "coverage=1 is not a share between 0 and 1, such as 0.9."),
    "coverage of 0": (nothing, {"coverage": 0}, ValueError, "coverage=0 is not a share between 0 and 1, such as 0.9."),
    "missing": (nothing, {"missing": "fill"}, ValueError, "missing='fill' is not known. Allowed: error, zero, impute."),
    "key": (nothing, {"key_added": "a/b"}, ValueError, "key_added='a/b' is not a name without '/'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_and_nothing_written(trained, case):
    change, given, error, message = REFUSED[case]
    query = make_cells(40, 5)
    changed = change(query)
    query = query if changed is None else changed
    before = state(query)
    with pytest.raises(error) as caught:
        tt.predict(query, trained[0], **given)
    assert message in str(caught.value.args[0])
    assert state(query) == before


def test_counts_are_refused_by_a_model_of_logged_values(fitted):
    query = fitted[1][:60].copy()
    query.X = np.round(np.expm1(query.X.toarray()))
    before = state(query)
    with pytest.raises(ValueError, match="The query holds counts, but the model was trained on log1p"):
        tt.predict(query, fitted[0])
    assert state(query) == before


def test_predict_wants_a_model_and_cells(trained, new_cells):
    with pytest.raises(TypeError, match=r"model is str, not a Model: read a file with tripletomics\.load"):
        tt.predict(new_cells, "model.tt")
    with pytest.raises(TypeError, match="adata is int, not AnnData"):
        tt.predict(3, trained[0])


def test_a_model_of_rare_types_is_calibrated_by_leaving_cells_out_in_turn(rare):
    model, adata = rare
    assert model.calibration.n_cells == adata.n_obs
    assert model.checks == {}
    query = predicted(adata, model, reject=0)
    assert (query.obs["tt_label"] == query.obs["kind"]).mean() > 0.9
    assert query.obs["tt_confidence"].between(0, 1).all()


@pytest.mark.filterwarnings("ignore:Types of one training cell")
def test_a_model_of_lone_cells_does_not_predict_but_searches(tmp_path):
    adata = make_cells(20, 3)
    adata.obs["kind"] = ["pair", "pair", *adata.obs_names[2:]]
    model = tt.fit(adata, "kind", hold_out=0, steps=2, progress=False)
    assert model.calibration is None
    assert model.checks == {}
    model.save(tmp_path / "m.tt", index=True)
    for one in (model, tt.load(tmp_path / "m.tt")):
        query = adata[:10].copy()
        before = state(query)
        with pytest.raises(ValueError, match=r"The model could not be calibrated.*two.*search\(\) and embed\(\) work"):
            tt.predict(query, one)
        assert state(query) == before
        with pytest.raises(ValueError, match="could not be calibrated"):
            one.same(query.X, query.X)
        assert one.search(query.X, 1).labels.ravel().tolist() == query.obs["kind"].tolist()


def test_save_and_load_keep_predictions(trained, new_cells, tmp_path):
    model = trained[0]
    model.save(tmp_path / "m.tt")
    loaded = tt.load(tmp_path / "m.tt")
    for given in ({}, {"reject": 0.3, "coverage": 0.6}):
        one, other = predicted(new_cells, model, **given), predicted(new_cells, loaded, **given)
        pd.testing.assert_frame_equal(one.obs, other.obs)
        np.testing.assert_array_equal(one.obsm["X_tt_metric"], other.obsm["X_tt_metric"])
    assert loaded.checks == model.checks
    pairs = new_cells.X[:50], new_cells.X[50:100]
    np.testing.assert_array_equal(loaded.same(*pairs), model.same(*pairs))


@pytest.mark.parametrize("genes", [150, 120])
def test_a_query_survives_h5ad(trained, new_cells, tmp_path, genes):
    query = predicted(new_cells[:, :genes], trained[0], missing="impute")
    query.write_h5ad(tmp_path / "query.h5ad")
    read = ad.read_h5ad(tmp_path / "query.h5ad")
    assert_same(read, query)
    assert read.obs["tt_label"].cat.categories.tolist() == [*KNOWN, "unassigned"]
    for name, value in query.uns["tt_mapping"].items():
        np.testing.assert_array_equal(read.uns["tt_mapping"][name], value, err_msg=name)


def test_the_checks_are_those_of_the_held_out_cells(trained):
    model, adata = trained
    held = adata[(adata.obs["tt_split"] == "held-out") & adata.obs["kind"].isin(list(KNOWN))].copy()
    found = predicted(held, model)
    best = predicted(held, model, reject=0).obs["tt_label"]
    hits = [kind in said.split(" | ") for kind, said in zip(held.obs["kind"], found.obs["tt_label_set"], strict=True)]
    assert model.checks["cells"] == held.n_obs
    assert model.checks["coverage"] == pytest.approx(np.mean(hits))
    assert model.checks["unassigned"] == pytest.approx((found.obs["tt_label"] == "unassigned").mean())
    assert model.checks["macro_f1"] == pytest.approx(
        np.mean([2 * ((held.obs["kind"] == kind) & (best == kind)).sum() / ((held.obs["kind"] == kind).sum() + (
            best == kind).sum()) for kind in KNOWN])
    )  # fmt: skip
    said = held.obs["kind"].astype(str), found.obs["tt_label"].astype(str)
    strict = f1_score(*said, average="macro", labels=list(KNOWN))
    assert model.checks["macro_f1_named"] == pytest.approx(strict)
    for text in (model.summary(), model.card()):
        assert f"macro-F1 {model.checks['macro_f1']:.3f} of the most probable types, {strict:.3f} if unassigned" in text
        assert f" {held.n_obs} labelled cells the model never saw" in text
    assert adata.uns["X_tt"]["checks"] == model.checks
    shares = (said[1] == "unassigned").groupby(said[0]).mean()
    np.testing.assert_allclose(model.findings["unassigned"], shares[model.classes])


def test_types_whose_cells_are_often_unassigned_are_named(trained, tmp_path):
    model, line = trained[0], "Types of which many held-out cells are unassigned: "
    nothing = np.zeros(len(model.classes))
    assert line not in replace(model, findings=model.findings | {"unassigned": nothing}).summary()
    names = [*"abcdef"]
    shares = np.array([0.1, np.nan, 0.25, 0.81, 0.4, 0.3])
    assert (
        f"{line}d (81 %), e (40 %), f (30 %), and 1 more."
        in replace(model, classes=names, findings=model.findings | {"unassigned": shares}).summary()
    )
    nothing[:2] = np.nan, 0.5
    replace(model, findings=model.findings | {"unassigned": nothing}).save(tmp_path / "m.tt")
    assert f"{line}{model.classes[1]} (50 %)." in tt.load(tmp_path / "m.tt").summary()
    older = replace(model, findings={}, checks={k: v for k, v in model.checks.items() if k != "macro_f1_named"})
    assert f"{model.checks['macro_f1']:.3f} of the most probable types; " in older.summary()
    assert " cells the model never saw" in older.summary()
    replace(model, findings={"unassigned": np.array([0.5])}).save(tmp_path / "broken.tt")
    with pytest.raises(ValueError, match="is damaged: findings\\['unassigned'\\] does not have one number"):
        tt.load(tmp_path / "broken.tt")


def test_nothing_is_warned_about_usual_cells(trained, new_cells):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predicted(new_cells, trained[0])
        predicted(new_cells[:1], trained[0])

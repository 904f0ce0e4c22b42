"""New cells: predict, search, enroll and same, what they are calibrated on, and the same from the command line."""

import inspect
import re
import warnings
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import tripletomics as tt
from tripletomics import cli, pp, tl
from tripletomics.sources import Memory
from tripletomics.tl.tasks import prepare

OBS = ["tt_label", "tt_confidence", "tt_novelty", "tt_label_set"]
KNOWN, NEW = "abcdefg", "h"
FAST = {"steps": 30, "progress": False}


def cells(n, seed, types=KNOWN, genes=150):
    """Poisson counts of types that differ in all genes, each cell with a depth of its own."""
    shape, random = np.random.default_rng(0), np.random.default_rng(seed)
    rates = np.exp(shape.normal(-0.3, 0.7, genes) + 0.8 * shape.normal(size=(8, genes)))
    kinds = random.permutation(np.arange(n) % len(types))
    rate = rates[["abcdefgh".index(name) for name in types]][kinds] * random.uniform(0.5, 2, size=(n, 1))
    adata = ad.AnnData(sp.csr_matrix(random.poisson(rate).astype(np.float32)))
    adata.obs["kind"] = np.array(list(types))[kinds]
    adata.obs_names = [f"cell {i} of {seed}" for i in range(n)]
    adata.var_names = [f"Gene{i}" for i in range(genes)]
    return adata


@pytest.fixture(scope="module")
def trained():
    """A model of 600 cells of seven types of which an eighth has no label, and these cells."""
    adata = cells(600, 1)
    adata.obs.loc[adata.obs_names[::8], "kind"] = np.resize(np.array([np.nan, "Unknown"], dtype=object), 75)
    return tt.fit(adata, "kind", **FAST), adata


@pytest.fixture
def own(trained):
    """The model, to be changed."""
    return replace(trained[0])


@pytest.fixture(scope="module")
def new_cells():
    return cells(500, 2)


@pytest.fixture(scope="module")
def rare():
    """A model whose types have five cells each."""
    adata = cells(105, 3)
    adata.obs["kind"] += (adata.obs.groupby("kind").cumcount() // 5).astype(str)
    assert set(adata.obs["kind"].value_counts()) == {5}
    return tt.fit(adata, "kind", hold_out=0, steps=2, progress=False), adata


def predicted(adata, model, **given):
    adata = adata.copy()
    tt.predict(adata, model, **given)
    return adata


def values(adata, prefix="tt"):
    return [adata.obs[name.replace("tt", prefix, 1)].to_numpy() for name in OBS]


def assert_same(one, other):
    for found, expected in zip(values(one), values(other), strict=True):
        if found.dtype == float:
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        else:
            assert found.tolist() == expected.tolist()
    for key in ("X_tt", "X_tt_metric"):
        np.testing.assert_allclose(one.obsm[key], other.obsm[key], atol=1e-4)


def state(adata):
    return [str(adata.obs.dtypes.to_dict()), sorted(adata.obsm), sorted(adata.uns), adata.X.sum()]


# ---------------------------------------------------------------------------------------------------- predict


@pytest.mark.parametrize("which", ["trained", "fitted"])
def test_what_is_written(request, new_cells, which):
    model, reference = request.getfixturevalue(which)
    query = (new_cells if which == "trained" else reference[:150]).copy()
    for name in ("obsm", "uns", "obs"):
        setattr(query, name, {} if name != "obs" else query.obs[[]])
    x = query.X.copy()
    tt.predict(query, model)
    assert list(query.obs) == OBS
    assert sorted(query.obsm) == ["X_tt", "X_tt_metric"]
    assert list(query.uns) == ["tt_mapping"]
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
    other = predicted(cells(200, 4, NEW), trained[0])
    assert (other.obs["tt_label"] == "unassigned").mean() > 0.9
    assert (other.obs["tt_label_set"] == "").mean() > 0.9
    assert other.obs["tt_confidence"].median() < 0.1
    assert other.obs["tt_novelty"].median() > found.obs["tt_novelty"].quantile(0.95)


def test_rejection_changes_the_label_alone(trained):
    query = cells(200, 4, "abch")
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
    assert list(query.obs) == ["kind", *OBS, *(name.replace("tt", "X_new") for name in OBS)]
    assert sorted(query.obsm) == ["X_new", "X_new_metric", "X_tt", "X_tt_metric"]
    assert sorted(query.uns) == ["X_new_mapping", "tt_mapping"]
    np.testing.assert_array_equal(query.obsm["X_new"], query.obsm["X_tt"])
    assert query.uns["X_new_mapping"]["rejected"] > query.uns["tt_mapping"]["rejected"]


def test_components_of_an_earlier_fit_are_replaced(trained, new_cells):
    model, query = trained[0], new_cells.copy()
    query.obsm["X_tt_pca"] = np.zeros((500, 50), dtype=np.float32)
    tt.predict(query, model)
    np.testing.assert_allclose(query.obsm["X_tt_pca"], model.features.project(query.X), atol=1e-4)


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


REFUSED = {
    "no cells": (no_cells, {}, ValueError, "adata has 0 cells and 150 genes"),
    "no shared gene": (other_genes, {"missing": "impute"}, ValueError, "The query has none of the model's 150 genes"),
    "genes lack": (lacking, {}, ValueError, "The query lacks 5 of the model's 150 genes"),
    "too few genes": (lacking, {"missing": "zero", "min_matched": 0.999}, ValueError, "less than min_matched=0.999"),
    "duplicate genes": (repeated, {}, ValueError, "1 gene names occur more than once (first: Gene0)"),
    "genes alike": (alike, {"missing": "zero"}, ValueError, "'GENE1', 'gene1' match the model's 'Gene1' equally well"),
    "logged values": (logged, {}, ValueError, "The query holds log-transformed or other continuous values, but the"),
    "layer": (nothing, {"layer": "raw"}, KeyError, "layer='raw' is not a layer of adata. Layers: none."),
    "reject of 1": (nothing, {"reject": 1}, ValueError, "reject=1 is not a share in [0, 1); 0 rejects no cell."),
    "negative reject": (nothing, {"reject": -0.1}, ValueError, "reject=-0.1 is not a share in [0, 1)"),
    "reject NaN": (nothing, {"reject": np.nan}, ValueError, "reject=nan is not a share in [0, 1)"),
    "coverage of 1": (nothing, {"coverage": 1}, ValueError, "coverage=1 is not a share between 0 and 1, such as 0.9."),
    "coverage of 0": (nothing, {"coverage": 0}, ValueError, "coverage=0 is not a share between 0 and 1, such as 0.9."),
    "missing": (nothing, {"missing": "fill"}, ValueError, "missing='fill' is not known. Allowed: error, zero, impute."),
    "key": (nothing, {"key_added": "a/b"}, ValueError, "key_added='a/b' is not a name without '/'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_and_nothing_written(trained, case):
    change, given, error, message = REFUSED[case]
    query = cells(40, 5)
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
    with pytest.raises(ValueError, match="The query holds counts, but the model was trained on log-transformed"):
        tt.predict(query, fitted[0])
    assert state(query) == before


def test_predict_wants_a_model_and_cells(trained, new_cells):
    with pytest.raises(TypeError, match=r"model is str, not a Model: read a file with tripletomics\.load"):
        tt.predict(new_cells, "model.tt")
    with pytest.raises(TypeError, match="adata is str, not AnnData"):
        tt.predict("cells.h5ad", trained[0])


def test_a_model_of_rare_types_does_not_predict_but_searches(rare, tmp_path):
    model, adata = rare
    assert model.calibration is None
    assert model.checks == {}
    model.save(tmp_path / "m.tt", index=True)
    for one in (model, tt.load(tmp_path / "m.tt")):
        query = adata[:10].copy()
        before = state(query)
        with pytest.raises(ValueError, match=r"The model could not be calibrated.*six.*search\(\) and embed\(\) work"):
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
    assert f"{model.checks['macro_f1']:>7.3f}   held-out cells; calibration error" in model.summary()
    assert adata.uns["X_tt"]["checks"] == model.checks


# ---------------------------------------------------------------------------------------------------- calibration cells


def settled(adata, label="kind", **given):
    settings = {name: setting.default for name, setting in inspect.signature(tt.fit).parameters.items()}
    for name in ("adata", "label", "key_added", "progress"):
        del settings[name]
    return prepare(adata, label, **(settings | {"steps": 4} | given))


@pytest.mark.parametrize("seed", range(3))
def test_a_tenth_of_each_type_is_spared_and_five_cells_are_always_left(seed):
    sizes = [1000, 200, 60, 15, 6, 5, 1, 0]
    codes = np.random.default_rng(9).permutation(np.repeat([*range(8), -1], [*sizes, 300]))
    spared = pp.spare(codes, np.ones(len(codes), dtype=bool), seed)
    assert [int(spared[codes == code].sum()) for code in range(8)] == [100, 20, 6, 2, 1, 0, 0, 0]
    assert not spared[codes < 0].any()
    np.testing.assert_array_equal(spared, pp.spare(codes, np.ones(len(codes), dtype=bool), seed))
    assert not np.array_equal(spared, pp.spare(codes, np.ones(len(codes), dtype=bool), seed + 1))


def test_held_out_cells_are_not_spared_and_do_not_count():
    random = np.random.default_rng(0)
    codes, train = random.integers(-1, 4, 400), random.random(400) < 0.5
    codes[(codes == 3) & train & (np.cumsum((codes == 3) & train) > 7)] = 0
    spared = pp.spare(codes, train, 0)
    assert spared.any()
    assert not spared[~train].any()
    for code in range(4):
        n = (train & (codes == code)).sum()
        assert spared[codes == code].sum() == min(round(0.1 * n), n - 5)
    changed = np.where(train, codes, random.integers(-1, 9, 400))
    np.testing.assert_array_equal(pp.spare(changed, train, 0), spared)


def test_at_most_5000_cells_are_spared_an_equal_part_of_each_type():
    codes = np.repeat([0, 1], [150_000, 50_000])
    spared = pp.spare(codes, np.ones(200_000, dtype=bool), 0)
    assert [int(spared[codes == code].sum()) for code in (0, 1)] == [3750, 1250]


def encoder_of(task):
    return {name: weight.numpy() for name, weight in task.learn()[0].encoder.state_dict().items()}


def scramble(x, rows):
    x = x.toarray() if sp.issparse(x) else x.copy()
    x[rows] = np.random.default_rng(0).permuted(x[rows], axis=1) * 2
    return sp.csr_matrix(x)


def test_calibration_cells_do_not_train_the_encoder():
    task = settled(cells(300, 1))
    assert task.calibration.sum() == pytest.approx(27, abs=7)
    assert not (task.calibration & task.held_out).any()
    moved = replace(task, cells=Memory(scramble(task.cells.x, task.calibration), task.cells.prepare))
    renamed = replace(task, codes=np.where(task.calibration, (task.codes + 1) % 7, task.codes))
    first = encoder_of(task)
    for other in (moved, renamed):
        for name, weight in encoder_of(other).items():
            np.testing.assert_array_equal(weight, first[name], err_msg=name)
    trained = ~task.calibration & ~task.held_out
    taught = replace(task, cells=Memory(scramble(task.cells.x, trained), task.cells.prepare))
    assert any((weight != first[name]).any() for name, weight in encoder_of(taught).items())


@pytest.mark.filterwarnings("ignore:Types that only held-out cells have")
@pytest.mark.parametrize("batch", [None, "donor"])
def test_held_out_cells_influence_neither_reference_nor_calibration(batch):
    adata = cells(300, 1)
    random = np.random.default_rng(0)
    adata.obs["donor"] = [f"d{i}" for i in random.integers(3, size=300)]
    adata.obs["out"] = np.arange(300) % 10 == 0
    other = adata.copy()
    other.X = scramble(adata.X, np.flatnonzero(adata.obs["out"]))
    other.obs.loc[adata.obs["out"], "kind"] = random.choice(["0", *KNOWN, "z"], 30)  # two types of their own
    one, two = (tt.fit(x, "kind", hold_out="out", batch=batch, steps=8, progress=False) for x in (adata, other))
    for part in ("features", "reference", "calibration", "catalog"):
        for name, value in vars(getattr(one, part)).items():
            if name != "index":
                np.testing.assert_array_equal(value, getattr(getattr(two, part), name), err_msg=f"{part}.{name}")


@pytest.mark.parametrize("batch", [None, "donor"])
def test_label_sets_and_rejections_are_right_about_cells_never_seen(batch):
    adata = cells(1600, 6)
    adata.obs["donor"] = np.resize(["d0", "d1"], 1600)
    model = tt.fit(adata, "kind", batch=batch, hold_out=0.5, steps=25, progress=False)
    n = 800
    assert model.checks["cells"] == pytest.approx(n, abs=5)
    for name, share in (("coverage", 0.9), ("unassigned", 0.05)):
        spread = np.sqrt(share * (1 - share) * (1 / n + 1 / model.calibration.n_cells))
        assert model.checks[name] == pytest.approx(share, abs=4 * spread)
    assert model.checks["ece"] < 0.05


# ---------------------------------------------------------------------------------------------------- search


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
        model.search(new_cells.X[:20], 4, present).distances, model.catalog.index.search(z, 4)[0]
    )


# ---------------------------------------------------------------------------------------------------- enroll


def test_a_new_type_is_recognised_from_five_cells_and_the_others_stay(trained, own, new_cells):
    few, many = cells(5, 7, NEW), cells(200, 4, NEW)
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
    assert repr(own) == "<tripletomics.Model: 150 genes, 8 types, loss=softmax>"
    assert trained[0].types == list(KNOWN)


def test_enrolled_types_are_kept_in_the_file(own, tmp_path):
    both = cells(10, 7, "ha")
    both.obs["kind"] = both.obs["kind"].replace({"h": "zeta", "a": "alpha 2"})
    own.enroll(both.X, both.obs["kind"].tolist())
    assert own.types == [*KNOWN, "alpha 2", "zeta"]
    own.save(tmp_path / "m.tt", index=True)
    loaded = tt.load(tmp_path / "m.tt")
    assert loaded.types == own.types
    assert loaded.enrolled == ["alpha 2", "zeta"]
    assert repr(loaded) == repr(own)
    query = cells(100, 4, "abh")
    one, other = predicted(query, own, reject=0), predicted(query, loaded, reject=0)
    pd.testing.assert_frame_equal(one.obs, other.obs)
    assert (one.obs["tt_label"] == "zeta").sum() >= 30
    assert (one.obs["tt_label"].notna()).all()
    loaded.enroll(cells(3, 8, NEW).X, ["third"] * 3)
    assert loaded.types[-1] == "third"
    assert set(loaded.search(query.X, 20).labels.ravel()) <= {*KNOWN, ""}  # the index holds the training cells


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([NEW, NEW, "a", NEW, NEW], "'a' is a type of the model already: enroll new types alone, or fit again."),
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
        own.enroll(cells(5, 7, NEW).X, names)
    assert own.types == list(KNOWN)
    assert own.reference is reference


def test_cells_that_cannot_be_enrolled_change_nothing(own):
    few = cells(5, 7, NEW)
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
    adata = cells(300, 1)
    adata.obs["out"] = adata.obs["kind"].isin(["a", "c"])
    adata.obs["out"] &= (adata.obs["kind"] == "c") | (np.arange(300) % 4 == 0)
    with pytest.warns(UserWarning, match="Types that only held-out cells have: c"):
        model = tt.fit(adata, "kind", hold_out="out", **FAST)
    unseen, few = adata[adata.obs["kind"] == "c"].copy(), cells(5, 7, "c")
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
    query = cells(400, 8, "abcdh")
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


# ---------------------------------------------------------------------------------------------------- batches


@pytest.fixture(scope="module")
def donors():
    """Cells of four donors, each with a shift of its own in every gene; a few are of no donor."""
    adata = cells(500, 9)
    random = np.random.default_rng(0)
    donor = random.integers(4, size=500)
    shift = np.exp(0.25 * random.normal(size=(4, 150)))
    adata.X = sp.csr_matrix(random.poisson(adata.X.toarray() * shift[donor]).astype(np.float32))
    adata.obs["donor"] = np.array([f"d{i}" for i in donor], dtype=object)
    adata.obs.loc[adata.obs_names[:20], "donor"] = np.nan
    adata.obs["one"] = "run 1"
    return adata


def test_batches_calibrate_on_whole_batches_without_sparing_a_cell(donors):
    task = settled(donors, batch="donor", hold_out="donor=d3")
    assert not task.calibration.any()
    model = tt.fit(donors.copy(), "kind", batch="donor", hold_out="donor=d3", steps=15, progress=False)
    out = (donors.obs["donor"] == "d3").to_numpy()
    assert model.calibration.n_cells == (~out & donors.obs["donor"].notna()).sum()
    assert model.checks["cells"] == out.sum()
    found = predicted(donors[out], model, reject=0)
    assert (found.obs["tt_label"] == found.obs["kind"]).mean() > 0.9
    assert model.checks["coverage"] > 0.75
    assert found.obs["tt_confidence"].between(0, 1).all()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"batch": "one"}, ValueError, "batch='one': the training cells are of one batch, 'run 1', so there is"),
        ({"batch": "doner"}, KeyError, "batch='doner' is not a column of adata.obs. Did you mean 'donor'?"),
        (
            {"batch": "donor", "hold_out": "donor=d0,d1,d2"},
            ValueError,
            "batch='donor': the training cells are of one batch, 'd3'",
        ),
        ({"batch": "none"}, ValueError, "batch='none': the training cells are of no batch"),
    ],
)
def test_batches_that_teach_nothing_are_refused(donors, given, error, message):
    adata = donors.copy()
    adata.obs["none"] = pd.Series(np.nan, adata.obs_names, dtype=object)
    before = state(adata)
    with pytest.raises(error) as caught:
        tt.fit(adata, "kind", progress=False, **given)
    assert str(caught.value.args[0]).startswith(message)
    assert state(adata) == before


def test_no_type_may_be_called_what_cells_like_no_type_are(donors):
    adata = donors.copy()
    adata.obs["kind"] = adata.obs["kind"].replace({"c": "unassigned"})
    with pytest.raises(
        ValueError, match="label='kind' has a type 'unassigned', which is what predict calls cells like"
    ):
        tt.fit(adata, "kind", unlabelled=(), progress=False)
    assert state(adata)[1:3] == [[], []]


def test_types_that_each_belong_to_one_batch_cannot_be_calibrated_but_are_fitted(donors):
    adata = donors[donors.obs["kind"].isin(["a", "b", "c"])].copy()
    adata.obs["run"] = "of " + adata.obs["kind"]
    model = tt.fit(adata, "kind", batch="run", steps=3, progress=False)
    assert model.calibration is None
    with pytest.raises(ValueError, match=r"The model could not be calibrated.*two batches"):
        tt.predict(adata, model)
    assert model.search(adata.X[:2], 3).names.shape == (2, 3)


# ---------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def folder(trained, tmp_path):
    """A model, and 80 new cells of which some are of a type that it does not know."""
    trained[0].save(tmp_path / "model.tt")
    cells(80, 4, "abch").write_h5ad(tmp_path / "new.h5ad")
    return tmp_path


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_command_has_every_keyword_of_the_function():
    assert set(inspect.signature(cli.predict).parameters) == {
        "input", "out", "figure", *inspect.signature(tl.predict).parameters,
    } - {"adata"}  # fmt: skip


def test_the_command_writes_what_python_does_and_prints_a_table(run, folder):
    status, said, error = run(
        "predict", folder / "new.h5ad", "--model", folder / "model.tt", "--out", folder / "labels.h5ad",
        "--figure", folder / "labels.png",
    )  # fmt: skip
    assert (status, error) == (0, "")
    assert listed(folder) == ["labels.h5ad", "labels.png", "model.tt", "new.h5ad"]
    assert (folder / "labels.png").read_bytes().startswith(b"\x89PNG")
    found = ad.read_h5ad(folder / "labels.h5ad")
    expected = predicted(ad.read_h5ad(folder / "new.h5ad"), tt.load(folder / "model.tt"))
    for one, other in zip(values(found), values(expected), strict=True):
        assert one.tolist() == other.tolist()
    np.testing.assert_array_equal(found.obsm["X_tt"], expected.obsm["X_tt"])
    sizes = []
    for name, of in expected.obs.groupby("tt_label", observed=True):
        share, confidence = f"{len(of) / 80:.1%}".replace(".", r"\."), f"{of['tt_confidence'].median():.2f}"
        assert re.search(rf"^ *{name} +{len(of)} +{share} +{confidence} *$", said, re.MULTILINE), said
    for line in said.splitlines():
        if row := re.match(r" +(?:[a-h]|unassigned) +(\d+) +[\d.]+%", line):
            sizes.append(int(row[1]))
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == 80
    assert "\n150 of the model's 150 genes were found (100% of their weight).\n" in said
    assert "Missing" not in said
    rejected = (expected.obs["tt_label"] == "unassigned").sum()
    assert f"\n{rejected} of 80 cells lie too far from all known types and are unassigned.\n" in said
    assert said.endswith(f"Wrote {folder / 'labels.h5ad'}, {folder / 'labels.png'}\n")


def test_the_command_takes_every_option(run, folder):
    query = ad.read_h5ad(folder / "new.h5ad")[:, 10:].copy()
    query.layers["raw"], query.var["symbol"] = query.X.copy(), query.var_names
    query.var_names = [f"id{i}" for i in range(140)]
    query.write_h5ad(folder / "new.h5ad")
    options = {"reject": 0.0, "coverage": 0.5, "layer": "raw", "missing": "impute", "alias": "symbol",
               "min_matched": 0.2, "key_added": "X_new"}  # fmt: skip
    assert set(options) == set(inspect.signature(tl.predict).parameters) - {"adata", "model"}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    where = ["--model", folder / "model.tt", "--out", folder / "new.h5ad"]
    status, said, error = run("predict", folder / "new.h5ad", *where, *words)
    assert (status, error) == (0, "")
    tt.predict(query, tt.load(folder / "model.tt"), **options)
    found = ad.read_h5ad(folder / "new.h5ad")
    for one, other in zip(values(found, "X_new"), values(query, "X_new"), strict=True):
        assert one.tolist() == other.tolist()
    heaviest = ", ".join(query.uns["X_new_mapping"]["missing_genes"][:5])
    assert f"\n140 of the model's 150 genes were found ({query.uns['X_new_mapping']['weight']:.0%} of their" in said
    assert f"\nMissing, heaviest first: {heaviest}.\n0 of 80 cells lie too far" in said


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["--out", "o.h5ad", "--reject", "1"], r"reject=1\.0 is not a share in \[0, 1\); 0 rejects no cell\.", 1),
        (["--out", "o.h5ad", "--coverage", "90"], r"coverage=90\.0 is not a share between 0 and 1, such as 0\.9\.", 1),
        (["--out", "o.h5ad", "--layer", "raw"], r"layer='raw' is not a layer of adata\. Layers: none\.", 1),
        (["--out", "o.csv"], r"'o\.csv' does not end in \.h5ad: name the file 'o\.h5ad'\.", 1),
        (["--out", "o.h5ad", "--figure", "o.jpg"], r"'o\.jpg' does not end in \.png: name the file 'o\.png'\.", 1),
        (["--out", "no/o.h5ad"], r"The folder 'no' of 'o\.h5ad' does not exist: create it first\.", 1),
        (["--out", "o.h5ad", "--model", "nope.tt"], r"There is no model file 'nope\.tt'\.", 1),
        (["--out", "o.h5ad", "--missing", "fill"], r"Invalid value \"fill\" for --missing\..*", 2),
        ([], r".*--out requires an argument.*", 2),
    ],
)
def test_refusals_of_the_command_are_one_line_and_leave_no_file(run, folder, monkeypatch, arguments, message, status):
    monkeypatch.chdir(folder)
    model = [] if "--model" in arguments else ["--model", "model.tt"]
    given = run("predict", "new.h5ad", *model, *arguments)
    assert given[:2] == (status, "")
    assert re.fullmatch(f"error: {message}\n", given[2]), given[2]
    assert listed(folder) == ["model.tt", "new.h5ad"]


def test_cells_without_the_genes_leave_no_file(run, folder):
    short = ad.read_h5ad(folder / "new.h5ad")[:, 5:].copy()
    short.write_h5ad(folder / "new.h5ad")
    out = ["--model", folder / "model.tt", "--out", folder / "o.h5ad", "--figure", folder / "o.png"]
    status, said, error = run("predict", folder / "new.h5ad", *out)
    assert (status, said) == (1, "")
    assert re.fullmatch("error: The query lacks 5 of the model's 150 genes .*\n", error)
    assert listed(folder) == ["model.tt", "new.h5ad"]


def test_a_figure_that_fails_leaves_no_file(run, folder, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tripletomics.pl.save", fail)
    out = ["--model", folder / "model.tt", "--out", folder / "o.h5ad", "--figure", folder / "o.png"]
    assert run("predict", folder / "new.h5ad", *out)[0] == 130
    assert listed(folder) == ["model.tt", "new.h5ad"]


def test_fit_keeps_an_index_in_the_model_file_alone(run, tmp_path):
    cells(120, 1, "abc").write_h5ad(tmp_path / "cells.h5ad")
    words = ["fit", tmp_path / "cells.h5ad", "--label", "kind", "--out", tmp_path / "map.h5ad", "--steps", 2]
    assert run(*words, "--index") == (
        1, "", "error: --index is kept in the model file: name it with --model.\n",
    )  # fmt: skip
    assert listed(tmp_path) == ["cells.h5ad"]
    assert run(*words, "--index", "--model", tmp_path / "index.tt")[::2] == (0, "")
    assert run(*words, "--model", tmp_path / "plain.tt")[::2] == (0, "")
    adata = ad.read_h5ad(tmp_path / "map.h5ad")
    train = adata[adata.obs["tt_split"] == "train"]
    hits = tt.load(tmp_path / "index.tt").search(train.X, 1)
    assert hits.names.ravel().tolist() == train.obs_names.tolist()
    assert hits.labels.ravel().tolist() == train.obs["kind"].tolist()
    assert tt.load(tmp_path / "plain.tt").catalog is None


def test_nothing_is_warned_about_usual_cells(trained, new_cells):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predicted(new_cells, trained[0])
        predicted(new_cells[:1], trained[0])

"""Two kinds of measurement of the same cells: `fit`, and what its model does with one of them, the other, or both."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from samples import (
    FAST,
    KEYS,
    KNOWN,
    MODALITIES,
    OBS,
    assert_same_coordinates,
    assert_same_split,
    copies,
    held_out,
    make_overlap,
    make_pair,
    mudata_of,
    plain,
    predicted,
    scramble,
    shuffled,
)

import tripletomics as tt
from tripletomics import losses
from tripletomics.folds import calibration_split

QUICK = {"steps": 4, "progress": False}


def accuracy(adata, truth):
    return (adata.obs["tt_label"].astype(str).to_numpy() == np.asarray(truth)).mean()


def test_a_cell_has_one_place_in_both_tables(both):
    assert both.rna.obs_names.tolist() != both.protein.obs_names.tolist()
    assert_same_coordinates(both.rna, both.protein)
    assert_same_split(both.rna, both.protein)
    assert held_out(both.rna).mean() == pytest.approx(0.25, abs=0.01)


def test_a_fit_of_two_tables_is_deterministic_and_follows_the_seed():
    one, two, other = make_overlap(), make_overlap(), make_overlap()
    for tables, seed in ((one, 3), (two, 3), (other, 4)):
        tt.fit(tables, "kind", seed=seed, **QUICK)
    for a, b in zip(one, two, strict=True):
        assert_same_coordinates(a, b)
        assert_same_split(a, b)
    assert not np.array_equal(one[0].obsm["X_tt"], other[0].obsm["X_tt"])


def test_transform_places_cells_where_fit_did(both):
    rna, protein = plain(both.rna), plain(both.protein)
    for table in (rna, protein):
        table.obsm["X_tt_pca"] = np.zeros((400, 1))
    tt.transform((rna, protein), both.model)
    assert_same_coordinates(rna, both.rna, atol=1e-4)
    assert_same_coordinates(protein, both.protein, atol=1e-4)
    assert sorted(rna.obsm) == KEYS
    assert list(rna.obs) == ["tt_split"]


def test_copies_of_cells_lie_where_fit_placed_them():
    """Held-out copies, too, of cells that were trained on, or calibrated on."""
    rna, protein = (ad.concat([table, table], index_unique=" ") for table in make_pair(150))
    rna.obs["copy"] = np.arange(300) >= 150
    model = tt.fit((rna, protein), "kind", hold_out="copy", **QUICK)
    assert set(np.unique(model.seen.roles)) == {1, 2}
    again = plain(rna), plain(protein)
    for table in again:
        table.obsm["X_tt_pca"] = np.zeros((300, 1))
    tt.transform(again, model)
    assert_same_coordinates(rna, again[0], atol=1e-4)


@pytest.mark.parametrize("key", ["X_tt", "mine"])
def test_what_is_written(key):
    tables = make_overlap()
    tt.fit(tables, "kind", key_added=key, **QUICK)
    for table in tables:
        assert sorted(table.obsm) == [key, f"{key}_metric", f"{key}_pca"]
        assert {name: x.dtype for name, x in table.obsm.items()} == dict.fromkeys(table.obsm, np.float32)
        assert [table.obsm[name].shape[1] for name in (key, f"{key}_metric", f"{key}_pca")] == [2, 32, 62]
        split = table.obs["tt_split" if key == "X_tt" else "mine_split"]
        assert split.cat.categories.tolist() == ["train", "held-out"]
        assert list(table.uns) == [key]
        assert table.uns[key]["settings"]["loss"] == "softmax + clip"
        assert set(table.uns[key]["alone"]) == set(MODALITIES)
    assert set(tables[0].obs) - {"kind"} == set(tables[1].obs)


def test_cells_of_one_modality_are_placed(partly):
    only = ~partly.protein.obs_names.isin(partly.rna.obs_names)
    assert 150 <= only.sum() < partly.protein.n_obs
    assert not partly.rna.obs_names.isin(partly.protein.obs_names).all()
    assert_same_coordinates(partly.rna, partly.protein)
    assert_same_split(partly.rna, partly.protein)
    for table in (partly.rna, partly.protein):
        assert all(np.isfinite(table.obsm[key]).all() for key in KEYS)
    trained = {*partly.rna.obs_names[~held_out(partly.rna)], *partly.protein.obs_names[~held_out(partly.protein)]}
    assert set(partly.model.catalog.names) == trained


def test_a_type_that_only_cells_of_one_modality_have_is_learned(partly, fresh):
    assert "g" not in set(partly.rna.obs["kind"])
    assert partly.model.classes == list(KNOWN)
    out = held_out(partly.protein) & (partly.protein.obs["kind"] == "g").to_numpy()
    assert out.sum() >= 5
    query = plain(partly.protein[out])
    tt.predict(query, partly.model, reject=0)
    assert accuracy(query, "g") > 0.8
    new = predicted(fresh.protein[fresh.kinds == "g"], partly.model, reject=0)
    assert accuracy(new, "g") > 0.8


@pytest.mark.filterwarnings("ignore:Types that only held-out cells have")
@pytest.mark.parametrize("label", [None, "kind"])
def test_held_out_cells_do_not_reach_the_fit(label):
    one, two = make_overlap(), make_overlap()
    for tables in (one, two):
        for table in tables:
            table.obs["out"] = table.obs_names.str.split(" ").str[1].astype(int) % 5 == 0
    for table in two:
        scramble(table, np.flatnonzero(table.obs["out"]))
    two[0].obs.loc[two[0].obs["out"], "kind"] = np.resize(["z", *KNOWN], 28)
    models = [tt.fit(tables, label, hold_out="out", **QUICK) for tables in (one, two)]
    for a, b in zip(one, two, strict=True):
        train = ~held_out(a)
        assert train.sum() == 112
        for key in KEYS:
            np.testing.assert_array_equal(a.obsm[key][train], b.obsm[key][train], err_msg=key)
            assert not np.array_equal(a.obsm[key][~train], b.obsm[key][~train])
    assert models[0].scores["train"] == models[1].scores["train"]
    if label is None:
        return
    parts = [(model.reference, model.calibration, model.alone["rna"].calibration) for model in models]
    for a, b in zip(*parts, strict=True):
        for name, value in vars(a).items():
            if name not in ("index", "clusters"):  # they only search
                np.testing.assert_array_equal(value, getattr(b, name), err_msg=name)


def test_encoders_see_nothing_of_the_cells_that_they_are_calibrated_on():
    rna, protein = make_pair(300)
    split = np.arange(300) % 6 == 0
    codes = np.unique(rna.obs["kind"], return_inverse=True)[1]
    spared = calibration_split(codes, ~split, 0)
    assert spared.sum() >= 20
    rna.obs["split"] = split
    other = rna.copy(), protein.copy()
    for table in other:
        scramble(table, spared)
    model, changed = (tt.fit(given, "kind", hold_out="split", **QUICK) for given in ((rna, protein), other))
    assert not np.array_equal(model.features.parts[0].axes, changed.features.parts[0].axes)
    x, y = plain(rna).X.toarray(), protein.X
    order = [
        rna.var_names.get_indexer(model.part("rna").genes),
        protein.var_names.get_indexer(model.part("protein").genes),
    ]
    given = {"rna": x[:, order[0]], "protein": y[:, order[1]]}
    np.testing.assert_array_equal(model.embed(**given), changed.embed(**given))


def test_the_components_that_lack_are_predicted(both):
    query = plain(both.rna)
    query.obsm["X_tt_pca"] = np.zeros((400, 1))
    tt.transform(query, both.model)
    r, found, out = both.rna.obsm["X_tt_pca"], query.obsm["X_tt_pca"], held_out(both.rna)
    np.testing.assert_allclose(found[:, :50], r[:, :50], atol=1e-5)
    leading = slice(50, 53)
    assert np.corrcoef(found[out, leading].ravel(), r[out, leading].ravel())[0, 1] > 0.8


@pytest.mark.parametrize("tables", [make_pair, make_overlap])
def test_without_labels_the_map_is_that_of_structure_1(tables):
    one, two = tables(), tables()
    for some in (one, two):
        some[0].obs["out"] = np.arange(some[0].n_obs) % 4 == 0
    tt.fit(one, hold_out="out", **QUICK)
    tt.fit(two, "kind", structure=1, hold_out="out", **QUICK)
    for a, b in zip(one, two, strict=True):
        for key in ("X_tt", "X_tt_pca"):
            np.testing.assert_array_equal(a.obsm[key], b.obsm[key])
        assert not np.array_equal(a.obsm["X_tt_metric"], b.obsm["X_tt_metric"])
    assert one[0].uns["X_tt"]["settings"]["structure"] == "1.0"


def test_two_tables_without_labels(unlabelled):
    model = unlabelled.model
    assert model.settings["loss"] == "clip"
    assert model.types == []
    assert {name: side.checks for name, side in model.alone.items()} == {"rna": {}, "protein": {}}
    assert model.scores["held-out"]["map"] > model.scores["permuted"]["map"] + 0.2
    assert_same_coordinates(unlabelled.rna, unlabelled.protein)
    with pytest.raises(ValueError, match="was fitted without labels, so it knows no type"):
        tt.predict(plain(unlabelled.protein), model)


def test_labels_do_not_reach_a_fit_without_them():
    one, two = make_overlap(), make_overlap()
    two[0].obs["kind"] = two[0].obs["kind"].to_numpy()[::-1]
    for tables in (one, two):
        tt.fit(tables, **QUICK)
    for a, b in zip(one, two, strict=True):
        assert_same_coordinates(a, b)


@pytest.mark.parametrize("side", [0, 1])
def test_batches_of_either_table_calibrate_all_three_ways(side):
    tables = make_pair()
    tables[side].obs["run"] = np.resize(["r0", "r1", "r2"], 210)
    model = tt.fit(tables, "kind", batch="run", **QUICK)
    train = (~held_out(tables[0])).sum()
    for found in (model.calibration, model.alone["rna"].calibration, model.alone["protein"].calibration):
        assert found.n_cells == train


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_batches_of_which_one_alone_has_both():
    """One donor with proteins beside donors without: no other donor can stand in for it, and the fit goes on."""
    rna, protein = make_pair()
    rna.obs["donor"] = [f"d{i % 4}" for i in range(210)]
    protein = protein[(rna.obs["donor"] == "d0").to_numpy()].copy()
    model = tt.fit((rna, protein), "kind", batch="donor", **QUICK)
    query = predicted(rna, model)
    assert query.obs["tt_confidence"].between(0, 1).all()


@pytest.mark.parametrize("where", [{"cite": "a", "rna": "b"}, {"cite": "a", "rna": "b", "protein": "c"}])
def test_cells_with_both_may_all_be_of_one_batch(where):
    rna, protein = make_pair(240)
    rna, protein = rna[: 160 if "protein" in where else 240].copy(), protein[80 if "protein" in where else 0 :].copy()
    protein = protein[:160].copy()
    for adata, other, alone in ((rna, protein, "rna"), (protein, rna, "protein")):
        adata.obs["batch"] = [where["cite" if name in other.obs_names else alone] for name in adata.obs_names]
    model = tt.fit((rna, protein), "kind", batch="batch", steps=5, progress=False)
    assert np.isfinite(rna.obsm["X_tt_metric"]).all()
    assert model.calibration is not None


def test_few_cells_with_both_are_calibrated_on_in_turn():
    rna, protein = make_pair(300)
    protein = protein[:30].copy()
    model = tt.fit((rna, protein), "kind", **QUICK)
    assert model.calibration.n_cells >= 20
    assert model.alone["protein"].calibration.n_cells >= 20
    tt.predict((rna, protein), model)
    assert "tt_label" in protein.obs


def test_one_protein_is_a_modality():
    rna, protein = make_pair(90)
    model = tt.fit((rna, protein[:, :1].copy()), "kind", **QUICK)
    assert np.isfinite(model.embed(protein=protein[:, :1].X)).all()


def test_one_of_two_tables_is_scored_but_not_fitted_again(quick):
    with pytest.raises(ValueError, match=r"X_tt was fitted to two modalities \(rna, protein\), .* pass refits=0"):
        tt.evaluate(quick.rna, "kind", refits=1, cache=None, progress=False)
    table = tt.evaluate(quick.rna, "kind", cache=None, progress=False)
    assert set(table["split"]) == {"train", "held-out", "permuted", ""}  # "" says what is of all cells
    assert set(table.loc[table["split"] == "", "metric"]) == {"a50", "a90", "edge_share"}
    with pytest.raises(TypeError, match="adata is tuple, not AnnData"):
        tt.evaluate((quick.rna, quick.protein), "kind", progress=False)


def test_explain_refuses_a_model_of_two_modalities(quick):
    with pytest.raises(ValueError, match="explain reads models of one modality: fit one to this modality alone"):
        tt.explain(quick.rna, quick.model, "kind")


def test_proteins_alone_name_the_types_that_rna_taught(both, fresh):
    """Chance would be a seventh."""
    out = held_out(both.protein)
    query = plain(both.protein[out])
    tt.predict(query, both.model, reject=0)
    assert accuracy(query, both.rna.obs["kind"][query.obs_names]) > 0.8
    for table in (fresh.rna, fresh.protein, (fresh.rna, fresh.protein)):
        tables = copies(*table) if isinstance(table, tuple) else (table.copy(),)
        tt.predict(tables if len(tables) == 2 else tables[0], both.model, reject=0)
        for one in tables:
            assert accuracy(one, fresh.kinds) > 0.8


def test_predictions_are_written_as_for_one_modality(trained, both, fresh):
    one = predicted(fresh.rna, trained[0])
    for table in (fresh.rna, fresh.protein):
        found = predicted(table, both.model)
        assert found.obs.dtypes.to_dict() == one.obs.dtypes.to_dict()
        assert list(found.obs) == [*OBS, "tt_split"]
        assert found.obs["tt_confidence"].between(0, 1).all()
        assert found.obs["tt_novelty"].between(0, 1).all()
        assert {key: (x.shape, x.dtype) for key, x in found.obsm.items()} == {
            key: (x.shape, x.dtype) for key, x in one.obsm.items()
        }
        assert set(found.uns["tt_mapping"]) == set(one.uns["tt_mapping"])
    named = predicted(fresh.protein, both.model, key_added="mine")
    assert list(named.obs) == [name.replace("tt", "mine") for name in [*OBS, "tt_split"]]


def test_groups_stand_in_either_modality_or_in_the_mudata(both, fresh):
    rna, protein = fresh.rna[:120].copy(), fresh.protein[80:].copy()
    protein.obs["cluster"] = fresh.kinds[80:]
    tt.predict((rna, protein), both.model, groups="cluster")
    found = [table.obs["tt_group_label_set"] for table in (rna, protein)]
    assert (found[0].iloc[:80] == "").all()
    assert (found[0].iloc[80:] == found[1][found[0].index[80:]]).all()
    assert (found[1].str.split(" | ", regex=False).explode().isin(list(KNOWN))).all()
    data = mudata_of(rna=fresh.rna, protein=fresh.protein)
    data.obs["cluster"] = fresh.kinds
    tt.predict(data, both.model, groups="cluster")
    labels = data.obs["tt_group_label"].astype(str)
    assert (labels == fresh.kinds).mean() > 0.9
    assert (data["rna"].obs["tt_group_label"].astype(str) == labels).all()
    with pytest.raises(KeyError, match=r"groups='clust' is not a column of adata\.obs"):
        tt.predict((rna, protein), both.model, groups="clust")


def test_tables_that_share_some_cells_are_asked_at_once(both, fresh):
    """Each cell is judged by what was measured of it, wherever it stands."""
    rna, protein = fresh.rna[:120].copy(), shuffled(fresh.protein[80:])
    tt.predict((rna, protein), both.model)
    assert_same_coordinates(rna, protein, KEYS[:2])
    shared = rna.obs_names[80:]
    pd.testing.assert_frame_equal(rna.obs.loc[shared], protein.obs.loc[shared])
    whole = copies(fresh.rna[80:120], fresh.protein[80:120])
    tt.predict(whole, both.model)
    for table, query in (
        (rna, whole[0]),
        (rna, predicted(fresh.rna[:80], both.model)),
        (protein, predicted(fresh.protein[120:], both.model)),
    ):
        assert_same_coordinates(table, query, KEYS[:2], atol=1e-4)  # rounding of places of up to 20
        found = table.obs.loc[query.obs_names]
        assert found["tt_label"].tolist() == query.obs["tt_label"].tolist()
        for name in ("tt_confidence", "tt_novelty"):
            np.testing.assert_allclose(found[name], query.obs[name], atol=1e-5)


def test_each_table_is_told_how_its_features_were_matched(both, fresh):
    rna, protein = fresh.rna[:120].copy(), fresh.protein[80:].copy()
    more = ad.AnnData(np.zeros((120, 2), np.float32), obs=protein.obs, var=pd.DataFrame(index=["Isotype", "Empty"]))
    protein = ad.concat([protein, more], axis=1)
    tt.predict((rna, protein), both.model)
    for table, matched, extra in ((rna, 150, 0), (protein, 12, 2)):
        found = table.uns["tt_mapping"]
        assert (found["matched"], found["missing"], found["extra"], found["weight"]) == (matched, 0, extra, 1)
        assert found["rejected"] == (table.obs["tt_label"] == "unassigned").sum()


def test_a_mudata_of_new_cells(both, fresh):
    rna, protein = fresh.rna[:120].copy(), fresh.protein[80:].copy()
    query = mudata_of(protein=protein, rna=rna)
    for new in (query, (rna, protein)):
        tt.predict(new, both.model)
    for table in (rna, protein):
        assert_same_coordinates(query, table, KEYS[:2], atol=1e-5)
        assert query.obs.loc[table.obs_names, "tt_label"].tolist() == table.obs["tt_label"].tolist()
    assert query["rna"].uns["tt_mapping"]["matched"] == 150
    assert query.uns["tt_mapping"]["matched"] == 162
    assert set(OBS) <= set(query["protein"].obs)


@pytest.mark.parametrize("name", MODALITIES)
def test_one_table_by_name_is_that_table(both, fresh, name):
    table = getattr(fresh, name)
    expected = predicted(table, both.model)
    for query in ({name: table.copy()}, mudata_of(**{name: table})):
        tt.predict(query, both.model)
        found = query[name]
        assert_same_coordinates(found, expected, KEYS[:2])
        pd.testing.assert_frame_equal(found.obs[OBS], expected.obs[OBS])


def test_one_table_may_name_a_cell_twice(both, fresh):
    """Names only matter where two tables are matched by them."""
    query = fresh.protein.copy()
    query.obs_names = ["cell", *query.obs_names[1:-1], "cell"]
    tt.transform(query, both.model)
    expected = fresh.protein.copy()
    tt.transform(expected, both.model)
    np.testing.assert_array_equal(query.obsm["X_tt"], expected.obsm["X_tt"])


@pytest.fixture(scope="module")
def namesakes():
    """Proteins that are called as the genes that encode them, which is common."""
    rna, protein = make_pair()
    protein.var_names = rna.var_names[:12]
    return tt.fit((rna, protein), "kind", **QUICK)


def test_proteins_named_as_their_genes_are_told_from_these(namesakes, fresh):
    protein = fresh.protein.copy()
    protein.var_names = fresh.rna.var_names[:12]
    tt.transform(protein, namesakes)
    np.testing.assert_allclose(namesakes.embed(protein=protein.X), protein.obsm["X_tt_metric"], atol=1e-5)


def test_rna_that_lacks_a_gene_is_not_taken_for_proteins_of_the_same_names(namesakes, fresh):
    rna = fresh.rna[:, :-1].copy()
    tt.transform(rna, namesakes, missing="impute")
    assert rna.obsm["X_tt"].shape == (200, 2)


@pytest.mark.parametrize("missing", ["impute", "zero"])
def test_proteins_that_lack_are_filled(both, fresh, missing):
    query = fresh.protein[:, 3:].copy()
    tt.predict(query, both.model, missing=missing, reject=0)
    found = query.uns["tt_mapping"]
    assert (found["matched"], found["missing"]) == (9, 3)
    assert set(found["missing_genes"]) == {"P1", "P2", "P3"}
    assert 0.5 < found["weight"] < 1
    if missing == "impute":
        assert accuracy(query, fresh.kinds) > 0.6
    rna, some = fresh.rna.copy(), fresh.protein[:, 3:].copy()
    tt.predict((rna, some), both.model, missing=missing, reject=0)
    assert (rna.uns["tt_mapping"]["missing"], some.uns["tt_mapping"]["missing"]) == (0, 3)
    if missing == "impute":
        assert accuracy(rna, fresh.kinds) > 0.9


def test_the_order_of_the_features_makes_no_difference(both, fresh):
    rna, protein = fresh.rna[:, ::-1].copy(), fresh.protein[:, np.random.default_rng(0).permutation(12)].copy()
    tt.predict((rna, protein), both.model)
    expected = copies(fresh.rna, fresh.protein)
    tt.predict(expected, both.model)
    assert_same_coordinates(rna, expected[0], KEYS[:2], atol=1e-5)
    assert rna.obs["tt_label"].tolist() == expected[0].obs["tt_label"].tolist()


def test_the_same_cell_is_found_by_the_other_modality(both, unlabelled, partly):
    """With labels it is found among its type; without, states within the types serve too."""
    for fit, least in ((both, 0.2), (unlabelled, 0.4), (partly, 0.1)):
        assert fit.model.matches["recall_1"] > fit.model.matches["null_1"] + least
        assert fit.model.matches["recall_10"] > fit.model.matches["null_10"] + 0.3
        assert "Same cell: " in fit.model.summary()
    shared = partly.rna.obs_names[held_out(partly.rna)].isin(partly.protein.obs_names)
    assert partly.model.matches["cells"] == shared.sum()


def test_cells_of_one_modality_alone_are_counted_by_it(partly):
    for name in MODALITIES:
        adata = getattr(partly, name)
        assert partly.model.alone[name].checks["cells"] == held_out(adata).sum()


LABELLED = ["triplet", "nca", "triplet + 0.5*clip", "softmax + 0.003*center", "softmax + simclr:neighbours=5"]


@pytest.mark.parametrize("loss", [*LABELLED, *losses.names(views=2)])
def test_every_loss_trains_on_two_modalities(loss):
    rna, protein = make_pair(140)
    rna, protein = rna[:110].copy(), protein[30:].copy()
    label = "kind" if losses.make(loss).supervised else None
    model = tt.fit((rna, protein), label, loss=loss, steps=2, progress=False)
    for columns in model.history.values():
        assert np.isfinite(columns["loss"]).all()
    assert model.settings["loss"] == losses.spec(losses.make(loss))
    for table in (rna, protein):
        assert np.isfinite(table.obsm["X_tt_metric"]).all()
        assert np.isfinite(table.obsm["X_tt"]).all()


@pytest.mark.parametrize("loss", ["vicreg", "clip"])
def test_two_modalities_are_views_without_an_augmentation(loss):
    rna, protein = make_pair(140)
    model = tt.fit((rna, protein), loss=loss, augment=None, steps=2, progress=False)
    assert np.isfinite(model.history["metric"]["loss"]).all()


def test_a_loss_of_labels_alone_learns_one_space():
    """It sees the one modality of a cell, the other, or both."""
    rna, protein = make_pair()
    model = tt.fit((rna, protein), "kind", loss="triplet", hold_out=0.2, **FAST)
    assert model.matches["recall_10"] > model.matches["null_10"] + 0.2

"""Two kinds of measurement of the same cells: `fit`, and what its model does with one of them, the other, or both."""

import warnings
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from kinds import FAST, KNOWN, OBS, cells, predicted, state
from sklearn.metrics import f1_score

import tripletomics as tt
from tripletomics import losses
from tripletomics.folds import calibration_split

QUICK = {"steps": 4, "progress": False}
KEYS = ["X_tt", "X_tt_metric", "X_tt_pca"]
NAMES = ("rna", "protein")


def pair(n=210, seed=1, types=KNOWN):
    """RNA of known types, and twelve proteins of the same cells; three states within every type show in both."""
    shape, random = np.random.default_rng(5), np.random.default_rng([seed, 1])
    rna, means, way = cells(n, seed, types), 2 * shape.normal(size=(8, 12)), shape.normal(size=(3, 12))
    states = random.normal(size=(n, 3))
    x = rna.X.toarray()
    x[:, :60] += random.poisson(np.exp(np.repeat(states, 20, axis=1)))
    rna.X = sp.csr_matrix(x)
    kinds = ["abcdefgh".index(kind) for kind in rna.obs["kind"]]
    values = means[kinds] + states @ way + 0.4 * random.normal(size=(n, 12))
    protein = ad.AnnData(values.astype(np.float32), obs=pd.DataFrame(index=rna.obs_names))
    protein.var_names = [f"P{i + 1}" for i in range(12)]
    return rna, protein


def partial(seed=1):
    """The first two thirds of the cells have RNA, and the last two thirds proteins."""
    rna, protein = pair(210, seed)
    return rna[:140].copy(), protein[70:].copy()


def shuffled(adata, seed=3):
    return adata[np.random.default_rng(seed).permutation(adata.n_obs)].copy()


def copies(*tables):
    return tuple(table.copy() for table in tables)


def mudata_of(**tables):
    mudata = pytest.importorskip("mudata")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mudata.MuData({name: table.copy() for name, table in tables.items()})


def table_of(adata, key):
    return pd.DataFrame(adata.obsm[key], adata.obs_names)


def assert_same_places(one, other, keys=KEYS, atol=0.0):
    """The cells that both tables have lie at the same places."""
    names = one.obs_names[one.obs_names.isin(other.obs_names)]
    assert len(names)
    for key in keys:
        a, b = (table_of(adata, key).loc[names].to_numpy() for adata in (one, other))
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=key)


def assert_same_split(one, other):
    names = one.obs_names[one.obs_names.isin(other.obs_names)]
    assert one.obs.loc[names, "tt_split"].tolist() == other.obs.loc[names, "tt_split"].tolist()


def held(adata):
    return (adata.obs["tt_split"] == "held-out").to_numpy()


def accuracy(adata, truth):
    return (adata.obs["tt_label"].astype(str).to_numpy() == np.asarray(truth)).mean()


def plain(adata):
    """Only what was measured."""
    return ad.AnnData(adata.X.copy(), obs=adata.obs[[]].copy(), var=adata.var.copy())


def scramble(adata, rows):
    x = adata.X.toarray() if sp.issparse(adata.X) else adata.X.copy()
    x[rows] = np.random.default_rng(0).permuted(x[rows], axis=1) * 2
    adata.X = sp.csr_matrix(x) if sp.issparse(adata.X) else x


@pytest.fixture(scope="module")
def both():
    """A model of 400 cells with both, of which the second table has another order, with a quarter held out."""
    rna, protein = pair(400)
    protein = shuffled(protein)
    return SimpleNamespace(model=tt.fit((rna, protein), "kind", hold_out=0.25, **FAST), rna=rna, protein=protein)


@pytest.fixture(scope="module")
def unlabelled():
    rna, protein = pair(400)
    return SimpleNamespace(model=tt.fit((rna, protein), hold_out=0.25, **FAST), rna=rna, protein=protein)


@pytest.fixture(scope="module")
def partly():
    """A model of cells with RNA, with proteins and with both; those of type "g" have proteins alone."""
    rna, protein = pair(450)
    protein.obs["kind"] = rna.obs["kind"]
    rna, protein = rna[:300][(rna.obs["kind"] != "g")[:300]].copy(), protein[150:].copy()
    return SimpleNamespace(model=tt.fit((rna, protein), "kind", hold_out=0.2, **FAST), rna=rna, protein=protein)


@pytest.fixture(scope="module")
def quick():
    """The places of a few steps, with which other ways to say the same are compared."""
    rna, protein = pair()
    model = tt.fit((rna, protein), "kind", **QUICK)
    return SimpleNamespace(model=model, rna=rna, protein=protein)


@pytest.fixture(scope="module")
def single():
    """A model of RNA alone."""
    return tt.fit(pair()[0], "kind", **QUICK)


@pytest.fixture(scope="module")
def fresh():
    """New cells: their tables, without labels, and their types."""
    rna, protein = pair(200, 2)
    kinds = rna.obs["kind"].to_numpy()
    return SimpleNamespace(rna=plain(rna), protein=plain(protein), kinds=kinds)


def test_a_cell_has_one_place_in_both_tables(both):
    assert both.rna.obs_names.tolist() != both.protein.obs_names.tolist()
    assert_same_places(both.rna, both.protein)
    assert_same_split(both.rna, both.protein)
    assert held(both.rna).mean() == pytest.approx(0.25, abs=0.01)


def test_the_order_of_the_second_table_makes_no_difference(quick):
    rna, protein = pair()
    protein = shuffled(protein)
    model = tt.fit((rna, protein), "kind", **QUICK)
    assert_same_places(rna, quick.rna)
    assert_same_places(protein, quick.protein)
    assert_same_split(protein, quick.protein)
    assert model.scores == quick.model.scores
    assert model.matches == quick.model.matches
    for name in NAMES:
        assert model.alone[name].checks == quick.model.alone[name].checks


def test_a_fit_of_two_tables_is_deterministic_and_follows_the_seed():
    one, two, other = partial(), partial(), partial()
    for tables, seed in ((one, 3), (two, 3), (other, 4)):
        tt.fit(tables, "kind", seed=seed, **QUICK)
    for a, b in zip(one, two, strict=True):
        assert_same_places(a, b)
        assert_same_split(a, b)
    assert not np.array_equal(one[0].obsm["X_tt"], other[0].obsm["X_tt"])


def test_transform_places_cells_where_fit_did(both):
    rna, protein = plain(both.rna), plain(both.protein)
    for table in (rna, protein):
        table.obsm["X_tt_pca"] = np.zeros((400, 1))
    tt.transform((rna, protein), both.model)
    assert_same_places(rna, both.rna, atol=1e-4)
    assert_same_places(protein, both.protein, atol=1e-4)
    assert sorted(rna.obsm) == KEYS
    assert list(rna.obs) == ["tt_split"]


def test_copies_of_cells_lie_where_fit_placed_them():
    """Held-out copies, too, of cells that were trained on, or calibrated on."""
    rna, protein = (ad.concat([table, table], index_unique=" ") for table in pair(150))
    rna.obs["copy"] = np.arange(300) >= 150
    model = tt.fit((rna, protein), "kind", hold_out="copy", **QUICK)
    assert set(np.unique(model.seen.roles)) == {1, 2}
    again = plain(rna), plain(protein)
    for table in again:
        table.obsm["X_tt_pca"] = np.zeros((300, 1))
    tt.transform(again, model)
    assert_same_places(rna, again[0], atol=1e-4)


def test_arrays_lie_where_their_tables_do(both):
    x = {"rna": both.rna.X, "protein": both.protein[both.rna.obs_names].X}
    np.testing.assert_allclose(both.model.embed(**x), both.rna.obsm["X_tt_metric"], atol=1e-4)
    np.testing.assert_allclose(both.model.map(**x), both.rna.obsm["X_tt"], atol=1e-4)
    query = plain(both.protein)
    tt.transform(query, both.model)
    np.testing.assert_allclose(both.model.embed(protein=query.X), query.obsm["X_tt_metric"], atol=1e-5)
    train = np.flatnonzero(~held(both.rna))[:20]
    hits = both.model.search(k=1, **{name: table[train] for name, table in x.items()})
    assert hits.names.ravel().tolist() == both.rna.obs_names[train].tolist()


def test_a_tuple_is_a_dict_with_the_usual_names(quick):
    rna, protein = pair()
    model = tt.fit({"rna": rna, "protein": protein}, "kind", **QUICK)
    assert_same_places(rna, quick.rna)
    assert_same_places(protein, quick.protein)
    assert model.modalities == quick.model.modalities == NAMES
    assert model.settings["modalities"] == "rna, protein"


def test_mudata_gives_the_same_places_and_gets_them_too(quick):
    rna, protein = pair()
    both = mudata_of(rna=rna, protein=shuffled(protein))
    obs, obsm = set(both.obs), set(both.obsm)
    tt.fit(both, "kind", **QUICK)
    for table in (both, both["rna"], both["protein"]):
        assert_same_places(table, quick.rna)
        assert_same_split(table, quick.rna)
        assert list(table.uns) == ["X_tt"]
    assert set(both.obsm) - obsm == set(KEYS)
    assert set(both.obs) - obs == {"tt_split"}


def test_other_names_are_those_of_the_model():
    rna, protein = partial()
    model = tt.fit({"expression": rna, "surface": protein}, **QUICK)
    assert model.modalities == ("expression", "surface")
    assert list(model.alone) == ["expression", "surface"]
    assert "150 expression and 12 surface" in repr(model)
    assert model.embed(surface=protein.X).shape == (140, 32)


@pytest.mark.parametrize("key", ["X_tt", "mine"])
def test_what_is_written(key):
    tables = partial()
    tt.fit(tables, "kind", key_added=key, **QUICK)
    for table in tables:
        assert sorted(table.obsm) == [key, f"{key}_metric", f"{key}_pca"]
        assert {name: x.dtype for name, x in table.obsm.items()} == dict.fromkeys(table.obsm, np.float32)
        assert [table.obsm[name].shape[1] for name in (key, f"{key}_metric", f"{key}_pca")] == [2, 32, 62]
        split = table.obs["tt_split" if key == "X_tt" else "mine_split"]
        assert split.cat.categories.tolist() == ["train", "held-out"]
        assert list(table.uns) == [key]
        assert table.uns[key]["settings"]["loss"] == "softmax + clip"
        assert set(table.uns[key]["alone"]) == set(NAMES)
    assert set(tables[0].obs) - {"kind"} == set(tables[1].obs)


def test_what_is_written_survives_a_file(tmp_path, partly, fresh):
    for name in NAMES:
        adata = getattr(partly, name)
        adata.write_h5ad(tmp_path / "a.h5ad")
        again = ad.read_h5ad(tmp_path / "a.h5ad")
        assert_same_places(again, adata)
        assert again.uns["X_tt"]["matches"] == partly.model.matches
    partly.model.save(tmp_path / "m.tt", index=True)
    model = tt.load(tmp_path / "m.tt")
    assert model.summary() == partly.model.summary()
    for table in (fresh.rna, fresh.protein):
        one, two = predicted(table, partly.model), predicted(table, model)
        pd.testing.assert_frame_equal(one.obs, two.obs)
        assert_same_places(one, two, KEYS[:2])


def test_inputs_are_not_changed():
    rna, protein = partial()
    rna.X = sp.csc_matrix(rna.X)
    before = copies(rna, protein)
    model = tt.fit((rna, protein), "kind", **QUICK)
    tt.predict((rna, protein), model)
    for now, then in zip((rna, protein), before, strict=True):
        assert type(now.X) is type(then.X)
        assert now.X.dtype == then.X.dtype
        values = (x.toarray() if sp.issparse(x) else x for x in (now.X, then.X))
        np.testing.assert_array_equal(*values)
        pd.testing.assert_frame_equal(now.var, then.var)
        pd.testing.assert_frame_equal(now.obs[list(then.obs)], then.obs)


def test_cells_of_one_modality_are_placed(partly):
    only = ~partly.protein.obs_names.isin(partly.rna.obs_names)
    assert 150 <= only.sum() < partly.protein.n_obs
    assert not partly.rna.obs_names.isin(partly.protein.obs_names).all()
    assert_same_places(partly.rna, partly.protein)
    assert_same_split(partly.rna, partly.protein)
    for table in (partly.rna, partly.protein):
        assert all(np.isfinite(table.obsm[key]).all() for key in KEYS)
    trained = {*partly.rna.obs_names[~held(partly.rna)], *partly.protein.obs_names[~held(partly.protein)]}
    assert set(partly.model.catalog.names) == trained


def test_a_type_that_only_cells_of_one_modality_have_is_learned(partly, fresh):
    assert "g" not in set(partly.rna.obs["kind"])
    assert partly.model.classes == list(KNOWN)
    out = held(partly.protein) & (partly.protein.obs["kind"] == "g").to_numpy()
    assert out.sum() >= 5
    query = plain(partly.protein[out])
    tt.predict(query, partly.model, reject=0)
    assert accuracy(query, "g") > 0.8
    new = predicted(fresh.protein[fresh.kinds == "g"], partly.model, reject=0)
    assert accuracy(new, "g") > 0.8


@pytest.mark.filterwarnings("ignore:Types that only held-out cells have")
@pytest.mark.parametrize("label", [None, "kind"])
def test_held_out_cells_do_not_reach_the_fit(label):
    one, two = partial(), partial()
    for tables in (one, two):
        for table in tables:
            table.obs["out"] = table.obs_names.str.split(" ").str[1].astype(int) % 5 == 0
    for table in two:
        scramble(table, np.flatnonzero(table.obs["out"]))
    two[0].obs.loc[two[0].obs["out"], "kind"] = np.resize(["z", *KNOWN], 28)
    models = [tt.fit(tables, label, hold_out="out", **QUICK) for tables in (one, two)]
    for a, b in zip(one, two, strict=True):
        train = ~held(a)
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
            if name != "index":
                np.testing.assert_array_equal(value, getattr(b, name), err_msg=name)


def test_the_components_that_lack_are_foretold(both):
    query = plain(both.rna)
    query.obsm["X_tt_pca"] = np.zeros((400, 1))
    tt.transform(query, both.model)
    r, found, out = both.rna.obsm["X_tt_pca"], query.obsm["X_tt_pca"], held(both.rna)
    np.testing.assert_allclose(found[:, :50], r[:, :50], atol=1e-5)
    leading = slice(50, 53)
    assert np.corrcoef(found[out, leading].ravel(), r[out, leading].ravel())[0, 1] > 0.8


@pytest.mark.parametrize("tables", [pair, partial])
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
    assert_same_places(unlabelled.rna, unlabelled.protein)
    with pytest.raises(ValueError, match="was fitted without labels, so it knows no type"):
        tt.predict(plain(unlabelled.protein), model)


def test_labels_do_not_reach_a_fit_without_them():
    one, two = partial(), partial()
    two[0].obs["kind"] = two[0].obs["kind"].to_numpy()[::-1]
    for tables in (one, two):
        tt.fit(tables, **QUICK)
    for a, b in zip(one, two, strict=True):
        assert_same_places(a, b)


def in_second(rna, protein):
    protein.obs["kind"] = rna.obs.pop("kind")


def in_both(rna, protein):
    protein.obs["kind"] = pd.Categorical(rna.obs["kind"])


def half_in_each(rna, protein):
    early = np.arange(rna.n_obs) < 105
    protein.obs["kind"] = rna.obs["kind"].where(~early)
    rna.obs["kind"] = rna.obs["kind"].where(early)


def unknown_in_first(rna, protein):
    protein.obs["kind"] = rna.obs["kind"].copy()
    rna.obs["kind"] = pd.Categorical(rna.obs["kind"].where(np.arange(rna.n_obs) % 3 > 0, "Unknown"))


def unknown_in_second(rna, protein):
    protein.obs["kind"] = "Unknown"


@pytest.mark.parametrize("move", [in_second, in_both, half_in_each, unknown_in_first, unknown_in_second])
def test_labels_are_taken_from_either_table(quick, move):
    rna, protein = pair()
    move(rna, protein)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = tt.fit((rna, shuffled(protein)), "kind", **QUICK)
    assert model.classes == list(KNOWN)
    assert_same_places(rna, quick.rna)


def test_labels_of_the_first_table_win_where_two_disagree(quick):
    rna, protein = pair()
    protein.obs["kind"] = rna.obs["kind"]
    protein.obs.iloc[:30, 0] = np.where(rna.obs["kind"][:30] == "a", "b", "a")
    protein.obs.iloc[30:60, 0] = "Unknown"
    message = r"'kind': 30 of 180 cells have another value in protein than in rna \(first cell 0 of 1, '[ab]' and"
    with pytest.warns(UserWarning, match=message) as caught:
        tt.fit((rna, protein), "kind", **QUICK)
    assert str(caught[0].message).endswith("That of rna is taken.")
    assert_same_places(rna, quick.rna)


def test_a_column_of_the_mudata_wins(quick):
    rna, protein = pair()
    kinds = rna.obs["kind"].to_numpy()
    rna.obs["kind"] = kinds[::-1]
    both = mudata_of(rna=rna, protein=protein)
    both.obs["kind"] = kinds
    with pytest.warns(UserWarning, match=r"'kind': \d+ of 210 cells have .* in rna than in the MuData .*"):
        tt.fit(both, "kind", **QUICK)
    assert_same_places(both, quick.rna)


@pytest.mark.parametrize("tables", [partial, lambda: (pair()[0], pair()[1][:140].copy())])
def test_numbers_as_labels_keep_their_names(tables):
    """A cell that one table lacks makes no 0.0 of a 0."""
    rna, protein = tables()
    for table in (rna, protein):
        table.obs["cluster"] = [ord(kind) - ord("a") for kind in pair()[0].obs["kind"][table.obs_names]]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = tt.fit((rna, protein), "cluster", **QUICK)
    assert model.classes == list("0123456")


@pytest.mark.parametrize("side", [0, 1])
def test_whole_groups_are_held_out_by_a_column_of_either_table(side):
    tables = partial()
    tables[side].obs["donor"] = [f"d{i % 4}" for i in range(140)]
    tt.fit(tables, hold_out="donor=d1", steps=1, progress=False)
    np.testing.assert_array_equal(held(tables[side]), np.arange(140) % 4 == 1)
    assert_same_split(*tables)
    only = ~tables[1 - side].obs_names.isin(tables[side].obs_names)
    assert not held(tables[1 - side])[only].any()


def test_groups_with_numbers_for_names_are_held_out():
    rna, protein = partial()
    rna.obs["donor"] = np.arange(140) % 4
    tt.fit((rna, protein), hold_out="donor=1", steps=1, progress=False)
    np.testing.assert_array_equal(held(rna), np.arange(140) % 4 == 1)


@pytest.mark.parametrize("side", [0, 1])
def test_a_boolean_column_of_one_table_holds_cells_out(side):
    tables = partial()
    tables[side].obs["out"] = np.arange(140) % 5 == 0
    tt.fit(tables, hold_out="out", steps=1, progress=False)
    np.testing.assert_array_equal(held(tables[side]), np.arange(140) % 5 == 0)
    assert_same_split(*tables)
    assert tables[1 - side].obs["tt_split"].notna().all()


def test_a_column_without_a_group_holds_out_about_a_tenth():
    rna, protein = pair()
    protein.obs["run"] = [f"r{i % 20}" for i in range(210)]
    tt.fit((rna, protein), hold_out="run", steps=1, progress=False)
    out = held(protein)
    assert 0.04 <= out.mean() <= 0.16
    assert not set(protein.obs["run"][out]) & set(protein.obs["run"][~out])
    assert_same_split(rna, protein)


def test_a_fraction_of_each_type_is_held_out_and_none_with_0(quick):
    out = quick.rna.obs.groupby("kind")["tt_split"].apply(lambda split: (split == "held-out").sum())
    assert out.tolist() == [3] * 7
    rna, protein = pair()
    model = tt.fit((rna, protein), "kind", hold_out=0, **QUICK)
    assert not held(rna).any()
    assert not held(protein).any()
    assert (model.matches, model.checks, model.alone["rna"].checks) == ({}, {}, {})


@pytest.mark.parametrize("side", [0, 1])
def test_batches_of_either_table_calibrate_all_three_ways(side):
    tables = pair()
    tables[side].obs["run"] = np.resize(["r0", "r1", "r2"], 210)
    model = tt.fit(tables, "kind", batch="run", **QUICK)
    train = (~held(tables[0])).sum()
    for found in (model.calibration, model.alone["rna"].calibration, model.alone["protein"].calibration):
        assert found.n_cells == train


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_batches_of_which_one_alone_has_both():
    """One donor with proteins beside donors without: no other donor can stand in for it, and the fit goes on."""
    rna, protein = pair()
    rna.obs["donor"] = [f"d{i % 4}" for i in range(210)]
    protein = protein[(rna.obs["donor"] == "d0").to_numpy()].copy()
    model = tt.fit((rna, protein), "kind", batch="donor", **QUICK)
    query = predicted(rna, model)
    assert query.obs["tt_confidence"].between(0, 1).all()


def given(**settings):
    return lambda rna, protein: ((rna, protein), settings)


def other_cells(rna, protein):
    protein.obs_names = [f"other {i}" for i in range(protein.n_obs)]
    return (rna, protein), {}


def repeated_cells(rna, protein):
    protein.obs_names = ["cell 0 of 1", *protein.obs_names[:-1]]
    return (rna, protein), {}


def no_number(rna, protein):
    protein.X[3, 2] = np.nan
    return (rna, protein), {}


def infinite(rna, protein):
    rna.X.data[5] = np.inf
    return (rna, protein), {}


def repeated_proteins(rna, protein):
    protein.var_names = ["P1", *protein.var_names[:-1]]
    return (rna, protein), {}


def held_out_modality(rna, protein):
    protein.obs["out"] = True
    return (rna, protein[:40].copy()), {"hold_out": "out"}


BAD = {
    "no cell in common": (
        other_cells,
        ValueError,
        "The two tables have no cell in common: cells are matched by name, and there is cell 0 of 1, cell 1 of 1 in "
        "rna and other 0, other 1 in protein. If both have the same cells in the same order, say so: "
        "protein.obs_names = rna.obs_names.",
    ),
    "a cell twice": (
        repeated_cells,
        ValueError,
        "protein has cells of one name (first: cell 0 of 1), and two tables are matched by the names",
    ),
    "a protein twice": (
        repeated_proteins,
        ValueError,
        "Modality 'protein': 1 gene names occur more than once (first: P1)",
    ),
    "one table": (
        lambda rna, protein: ((rna,), {}),
        ValueError,
        "Two modalities are needed; you gave 1:",
    ),
    "one by name": (
        lambda rna, protein: ({"rna": rna}, {}),
        ValueError,
        "Two modalities are needed; you gave 1 (rna):",
    ),
    "none": (lambda rna, protein: ((), {}), ValueError, "Two modalities are needed; you gave 0:"),
    "three tables": (
        lambda rna, protein: ((rna, protein, rna), {}),
        ValueError,
        "Two modalities are needed; you gave 3: name two, as in {'rna': mdata['rna'], 'protein': mdata",
    ),
    "an empty table": (
        lambda rna, protein: ((rna, protein[:0].copy()), {}),
        ValueError,
        "Modality 'protein': adata has 0 cells and 12 genes: there is nothing to map",
    ),
    "no AnnData": (
        lambda rna, protein: ((rna, protein.X), {}),
        TypeError,
        "Modality 'protein': adata is ndarray, not AnnData",
    ),
    "no name": (
        lambda rna, protein: ({"rna": rna, "my proteins": protein}, {}),
        ValueError,
        "'my proteins' cannot be the name of a modality, which is a word such as 'protein'.",
    ),
    "a number for a name": (lambda rna, protein: ({"rna": rna, 2: protein}, {}), ValueError, "2 cannot be the name of"),
    "an argument's name": (lambda rna, protein: ({"x": rna, "rna": protein}, {}), ValueError, "'x' cannot be the name"),
    "a loss of labels": (
        given(loss="triplet"),
        ValueError,
        "loss='triplet' learns from labels, and label=None gives none: name the column of adata.obs with the cell "
        "types, or take a loss of views alone, such as 'simclr'. Columns: kind.",
    ),
    "a sum with a loss of labels": (given(loss="softmax + clip"), ValueError, "loss='softmax + clip' learns from"),
    "batches without labels": (given(batch="kind"), ValueError, "batch='kind' draws cells to those of their type"),
    "a layer in neither": (
        given(layer="counts"),
        KeyError,
        "layer='counts' is in neither of the two tables. Layers: rna: none; protein: none.",
    ),
    "a label in neither": (
        given(label="kid"),
        KeyError,
        "label='kid' is not a column of adata.obs. Did you mean 'kind'? Columns: kind.",
    ),
    "NaN": (no_number, ValueError, "Modality 'protein': 1 cells have NaN or infinite values in 1 genes (first: P3)"),
    "infinite": (infinite, ValueError, "Modality 'rna': 1 cells have NaN or infinite values in 1 genes (first: Gene"),
    "thinned components": (
        given(augment="thin"),
        ValueError,
        "augment='thin' changes values of genes, and of two modalities the encoders see",
    ),
    "negative counts": (given(counts=True), ValueError, "counts=True, but the matrix has negative values"),
    "all proteins held out": (held_out_modality, ValueError, "Fewer than two training cells have both rna and protein"),
}


@pytest.fixture
def idle(monkeypatch):
    """Whoever trains is caught."""

    def train(*args, **given):
        raise RuntimeError("training began")

    monkeypatch.setattr("tripletomics.training.train", train)


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused(case, idle):
    change, error, message = BAD[case]
    rna, protein = pair(60)
    tables, settings = change(rna, protein)
    before = [str(state(table)) for table in (rna, protein)]
    with pytest.raises(error) as caught:
        tt.fit(tables, **({"label": None} | settings), progress=False)
    assert str(caught.value.args[0]).startswith(message)
    assert [str(state(table)) for table in (rna, protein)] == before


def test_a_mudata_of_three_is_refused(idle):
    rna, protein = pair(60)
    three = mudata_of(rna=rna, protein=protein, other=protein)
    with pytest.raises(ValueError, match=r"^Two modalities are needed; you gave 3 \(rna, protein, other\): name two"):
        tt.fit(three, progress=False)
    assert all(not len(table.uns) for table in (three, *three.mod.values()))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("label", [None, "kind"])
def test_two_tables_whose_shared_cells_are_all_held_out_are_refused(label, idle):
    """Nothing is left that says how the two belong together; the message must come from here, in words."""
    rna, protein = partial()
    rna.obs["out"] = rna.obs_names.isin(protein.obs_names)
    before = [str(state(table)) for table in (rna, protein)]
    with pytest.raises(ValueError, match=r"held out|hold out") as caught:
        tt.fit((rna, protein), label, hold_out="out", progress=False)
    assert "Ridge" not in str(caught.value)
    assert [str(state(table)) for table in (rna, protein)] == before


def renamed(adata, names):
    adata = plain(adata)
    adata.var_names = names
    return adata


BAD_QUERIES = {
    "an unknown name": (
        lambda rna, protein: {"rna": rna, "prot": protein},
        ValueError,
        "'prot' is not a modality of the model. Did you mean 'protein'? Allowed: rna, protein.",
    ),
    "features of neither": (
        lambda rna, protein: renamed(protein, [f"Q{i}" for i in range(12)]),
        ValueError,
        "The features of the table (first: Q0, Q1, Q2) do not say which of rna and protein it is. The model's begin "
        "with rna: Gene0, Gene1, Gene2; protein: P1, P2, P3. Name it: {'rna': adata}.",
    ),
    "no table": (lambda rna, protein: (), ValueError, "Two modalities are needed; you gave 0"),
    "three tables": (
        lambda rna, protein: (rna, protein, rna),
        ValueError,
        "Two modalities are needed; you gave 3",
    ),
    "an array": (lambda rna, protein: protein.X, TypeError, "adata is ndarray, not AnnData"),
    "an array of two": (lambda rna, protein: (rna, protein.X), TypeError, "Modality 'protein': adata is ndarray"),
    "the other way round": (
        lambda rna, protein: (protein, rna),
        ValueError,
        "The query has none of the model's 150 genes (the model's first: Gene0, Gene1, Gene2; the query's first: P1",
    ),
    "a protein too few": (
        lambda rna, protein: (rna, protein[:, 1:].copy()),
        ValueError,
        "The query lacks 1 of the model's 12 genes (first: P1). Pass missing='zero' to fill them",
    ),
    "repeated cells": (
        lambda rna, protein: (rna, ad.concat([protein, protein[:3]])),
        ValueError,
        "protein has cells of one name (first: cell 0 of 2, cell 1 of 2, cell 2 of 2)",
    ),
    "logged counts": (
        lambda rna, protein: ad.AnnData(rna.X.log1p(), obs=rna.obs, var=rna.var),
        ValueError,
        "The query holds log1p, but the model was trained on counts: name the layer with the counts",
    ),
}


@pytest.mark.parametrize("act", [tt.transform, tt.predict])
@pytest.mark.parametrize("case", BAD_QUERIES)
def test_new_cells_that_cannot_be_used_are_refused(quick, fresh, case, act):
    change, error, message = BAD_QUERIES[case]
    rna, protein = copies(fresh.rna, fresh.protein)
    query = change(rna, protein)
    tables = [query] if isinstance(query, ad.AnnData) else [rna, protein]
    with pytest.raises(error) as caught:
        act(query, quick.model)
    assert str(caught.value.args[0]).startswith(message)
    for table in tables:
        assert not len(table.obs.columns)
        assert not len(table.obsm)
        assert not len(table.uns)


def test_two_tables_are_refused_by_a_model_of_one(single):
    rna, protein = pair(20)
    for query in ((rna, protein), {"rna": rna}):
        for act in (tt.transform, tt.predict):
            with pytest.raises(TypeError, match="The model has one modality, and two tables were given: pass the one"):
                act(query, single)
    assert not len(rna.obsm)


def test_one_of_two_tables_is_scored_but_not_fitted_again(quick):
    with pytest.raises(ValueError, match=r"X_tt was fitted to two modalities \(rna, protein\), .* pass refits=0"):
        tt.evaluate(quick.rna, "kind", refits=1, cache=None, progress=False)
    table = tt.evaluate(quick.rna, "kind", cache=None, progress=False)
    assert set(table["split"]) == {"train", "held-out", "permuted", ""}  # "" says what is of all cells
    assert set(table.loc[table["split"] == "", "metric"]) == {"a50", "a90", "edge_share"}
    with pytest.raises(TypeError, match="adata is tuple, not AnnData"):
        tt.evaluate((quick.rna, quick.protein), "kind", progress=False)


def test_explain_refuses_a_model_of_two_modalities(quick):
    with pytest.raises(ValueError, match="explain reads models of one modality: fit one to this table alone"):
        tt.explain(quick.rna, quick.model, "kind")


def test_proteins_alone_name_the_types_that_rna_taught(both, fresh):
    """Chance would be a seventh."""
    out = held(both.protein)
    query = plain(both.protein[out])
    tt.predict(query, both.model, reject=0)
    assert accuracy(query, both.rna.obs["kind"][query.obs_names]) > 0.8
    for table in (fresh.rna, fresh.protein, (fresh.rna, fresh.protein)):
        tables = copies(*table) if isinstance(table, tuple) else (table.copy(),)
        tt.predict(tables if len(tables) == 2 else tables[0], both.model, reject=0)
        for one in tables:
            assert accuracy(one, fresh.kinds) > 0.8


def test_predictions_are_written_as_for_one_modality(single, both, fresh):
    one = predicted(fresh.rna, single)
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


def test_tables_that_share_some_cells_are_asked_at_once(both, fresh):
    """Each cell is judged by what was measured of it, wherever it stands."""
    rna, protein = fresh.rna[:120].copy(), shuffled(fresh.protein[80:])
    tt.predict((rna, protein), both.model)
    assert_same_places(rna, protein, KEYS[:2])
    shared = rna.obs_names[80:]
    pd.testing.assert_frame_equal(rna.obs.loc[shared], protein.obs.loc[shared])
    whole = copies(fresh.rna[80:120], fresh.protein[80:120])
    tt.predict(whole, both.model)
    for table, query in (
        (rna, whole[0]),
        (rna, predicted(fresh.rna[:80], both.model)),
        (protein, predicted(fresh.protein[120:], both.model)),
    ):
        assert_same_places(table, query, KEYS[:2], atol=1e-4)  # rounding of places of up to 20
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
        assert_same_places(query, table, KEYS[:2], atol=1e-5)
        assert query.obs.loc[table.obs_names, "tt_label"].tolist() == table.obs["tt_label"].tolist()
    assert query["rna"].uns["tt_mapping"]["matched"] == 150
    assert query.uns["tt_mapping"]["matched"] == 162
    assert set(OBS) <= set(query["protein"].obs)


@pytest.mark.parametrize("name", NAMES)
def test_one_table_by_name_is_that_table(both, fresh, name):
    table = getattr(fresh, name)
    expected = predicted(table, both.model)
    for query in ({name: table.copy()}, mudata_of(**{name: table})):
        tt.predict(query, both.model)
        found = query[name]
        assert_same_places(found, expected, KEYS[:2])
        pd.testing.assert_frame_equal(found.obs[OBS], expected.obs[OBS])


def test_one_table_by_a_name_of_ones_own():
    rna, protein = partial()
    model = tt.fit({"expression": rna, "surface": protein}, **QUICK)
    query, other = plain(protein), plain(protein)
    tt.transform({"surface": query}, model)
    tt.transform(other, model)
    assert_same_places(query, other, KEYS[:2])


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
    rna, protein = pair()
    protein.var_names = rna.var_names[:12]
    return tt.fit((rna, protein), "kind", **QUICK)


def test_proteins_named_as_their_genes_are_told_from_these(namesakes, fresh):
    protein = renamed(fresh.protein, fresh.rna.var_names[:12])
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
    assert_same_places(rna, expected[0], KEYS[:2], atol=1e-5)
    assert rna.obs["tt_label"].tolist() == expected[0].obs["tt_label"].tolist()


def recall_by_loops(a, b, k):
    """Count, both ways, the cells for which fewer than k others lie as near as their own other view."""
    hits = []
    for one, other in ((a, b), (b, a)):
        for i in range(len(one)):
            distances = [float(np.linalg.norm(one[i] - other[j])) for j in range(len(other))]
            hits.append(sum(d <= distances[i] for j, d in enumerate(distances) if j != i) < k)
    return np.mean(hits)


@pytest.mark.parametrize("which", ["both", "unlabelled"])
def test_matches_are_those_of_a_plain_loop(request, which):
    fit = request.getfixturevalue(which)
    out = fit.rna.obs_names[held(fit.rna)]
    a, b = fit.model.embed(rna=fit.rna[out].X), fit.model.embed(protein=fit.protein[out].X)
    assert fit.model.matches["cells"] == len(out)
    for k in (1, 10, 50):
        assert fit.model.matches[f"recall_{k}"] == pytest.approx(recall_by_loops(a, b, k), abs=0.011)
        assert fit.model.matches[f"null_{k}"] == pytest.approx(k / len(out))
    assert fit.rna.uns["X_tt"]["matches"] == fit.model.matches


def test_the_same_cell_is_found_by_the_other_modality(both, unlabelled, partly):
    """With labels it is found among its type; without, states within the types serve too."""
    for fit, least in ((both, 0.2), (unlabelled, 0.4), (partly, 0.1)):
        assert fit.model.matches["recall_1"] > fit.model.matches["null_1"] + least
        assert fit.model.matches["recall_10"] > fit.model.matches["null_10"] + 0.3
        assert "same cell" in fit.model.summary()
    shared = partly.rna.obs_names[held(partly.rna)].isin(partly.protein.obs_names)
    assert partly.model.matches["cells"] == shared.sum()


@pytest.mark.parametrize("name", NAMES)
def test_what_one_modality_does_alone_is_that_of_predict(both, name):
    adata = getattr(both, name)
    query = plain(adata[held(adata)])
    tt.predict(query, both.model, reject=0)
    truth = both.rna.obs["kind"][query.obs_names]
    checks = both.model.alone[name].checks
    assert set(checks) == set(both.model.checks)
    assert checks["cells"] == query.n_obs
    assert checks["macro_f1"] == pytest.approx(f1_score(truth, query.obs["tt_label"].astype(str), average="macro"))
    assert checks["macro_f1"] > 0.8
    assert both.rna.uns["X_tt"]["alone"][name] == checks


def test_cells_of_one_modality_alone_are_counted_by_it(partly):
    for name in NAMES:
        adata = getattr(partly, name)
        assert partly.model.alone[name].checks["cells"] == held(adata).sum()


LABELLED = ["triplet", "nca", "triplet + 0.5*clip", "softmax + 0.003*center", "softmax + simclr:neighbours=5"]


@pytest.mark.parametrize("loss", [*LABELLED, *losses.names(views=2)])
def test_every_loss_trains_on_two_modalities(loss):
    rna, protein = pair(140)
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
    rna, protein = pair(140)
    model = tt.fit((rna, protein), loss=loss, augment=None, steps=2, progress=False)
    assert np.isfinite(model.history["metric"]["loss"]).all()


def test_a_loss_of_labels_alone_learns_one_space():
    """It sees the one modality of a cell, the other, or both."""
    rna, protein = pair()
    model = tt.fit((rna, protein), "kind", loss="triplet", hold_out=0.2, **FAST)
    assert model.matches["recall_10"] > model.matches["null_10"] + 0.2


def test_it_is_decided_for_each_table_alone_whether_it_holds_counts(quick):
    assert [part.counts for part in quick.model.features.parts] == [True, False]
    assert [part.negative for part in quick.model.features.parts] == [False, True]
    assert quick.model.settings["counts"] == "True, False"
    rna, protein = pair(100)
    rna.X = rna.X.log1p()
    protein.X = np.random.default_rng(0).poisson(np.exp(protein.X.clip(-3, 3))).astype(np.float32)
    model = tt.fit((rna, protein), steps=1, progress=False)
    assert [part.counts for part in model.features.parts] == [False, True]


def test_cells_that_lack_a_modality_do_not_decide_about_its_counts():
    """The rows of a cell without proteins are 0 and no count."""
    rna, protein = pair()
    protein.X = np.round(np.exp(protein.X.clip(-3, 3)) * 100) + 1
    model = tt.fit((rna, protein[:60].copy()), steps=1, progress=False)
    assert [part.counts for part in model.features.parts] == [True, False]


def test_a_layer_is_used_where_there_is_one(quick):
    rna, protein = pair()
    rna.layers["counts"], rna.X = rna.X, np.full((210, 150), 0.5, dtype=np.float32)
    model = tt.fit((rna, protein), "kind", layer="counts", **QUICK)
    assert_same_places(rna, quick.rna)
    assert [part.counts for part in model.features.parts] == [True, False]


@pytest.mark.parametrize("form", ["dense", "csc", "float64"])
def test_how_a_table_is_stored_makes_no_difference(form):
    one, two = partial(), partial()
    if form == "dense":
        two[0].X, two[1].X = two[0].X.toarray(), sp.csr_matrix(two[1].X)
    elif form == "csc":
        two[0].X, two[1].X = sp.csc_matrix(two[0].X), np.asfortranarray(two[1].X)
    else:
        two[0].X, two[1].X = two[0].X.astype(np.int64), two[1].X.astype(np.float64)
    models = [tt.fit(tables, hold_out=0.2, **QUICK) for tables in (one, two)]
    for a, b in zip(one, two, strict=True):
        assert_same_places(a, b, atol=1e-5)
    query = plain(two[0])
    tt.transform(query, models[0])
    again = plain(one[0])
    tt.transform(again, models[0])
    assert_same_places(query, again, KEYS[:2], atol=1e-5)


def test_one_protein_is_a_modality():
    rna, protein = pair(90)
    model = tt.fit((rna, protein[:, :1].copy()), "kind", **QUICK)
    assert np.isfinite(model.embed(protein=protein[:, :1].X)).all()


def test_whole_numbers_with_gaps_are_the_same_names():
    rna, protein = pair(90)
    rna.obs["donor"] = np.arange(90) % 3
    protein = protein[30:].copy()
    protein.obs["donor"] = pd.Series(np.arange(30, 90) % 3, protein.obs_names, dtype=float)
    protein.obs.loc[protein.obs_names[:2], "donor"] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tt.fit((rna[:60].copy(), protein), hold_out="donor=1", **QUICK)
    held = protein.obs["tt_split"] == "held-out"
    assert (held == (np.arange(30, 90) % 3 == 1)).all()


def test_a_mudata_that_was_not_updated_is_refused():
    md = pytest.importorskip("mudata")
    rna, protein = pair(60)
    mdata = md.MuData({"rna": rna, "protein": protein})
    mdata.mod["rna"], mdata.mod["protein"] = rna[10:].copy(), protein[10:].copy()
    with pytest.raises(ValueError, match=r"are in neither modality \(first: cell 0 of 1.*run mdata.update\(\) first"):
        tt.fit(mdata, "kind", **QUICK)
    with pytest.raises(ValueError, match=r"^key_added='rna' is a modality of the MuData"):
        tt.fit(mdata, "kind", key_added="rna", **QUICK)


def test_a_layer_of_one_table_serves_new_cells_too():
    rna, protein = pair(90)
    rna.layers["raw"], rna.X = rna.X.copy(), rna.X * 0
    model = tt.fit((rna, protein), "kind", layer="raw", **QUICK)
    z = rna.obsm["X_tt_metric"].copy()
    tt.transform((rna, protein), model, layer="raw")
    np.testing.assert_allclose(rna.obsm["X_tt_metric"], z, atol=1e-5)
    tt.transform({"rna": rna}, model, layer="raw")
    with pytest.raises(KeyError, match="layer='rough' is not a layer"):
        tt.transform((rna, protein), model, layer="rough")


def test_few_cells_with_both_are_calibrated_on_in_turn():
    rna, protein = pair(300)
    protein = protein[:30].copy()
    model = tt.fit((rna, protein), "kind", **QUICK)
    assert model.calibration.n_cells >= 20
    assert model.alone["protein"].calibration.n_cells >= 20
    tt.predict((rna, protein), model)
    assert "tt_label" in protein.obs


def test_columns_of_one_name_are_no_matter():
    rna, protein = pair(60)
    rna.obs = pd.concat([rna.obs, rna.obs[["kind"]].rename(columns={"kind": "x"})] * 2, axis=1)
    rna.obs.columns = ["kind", "x", "x", "x"][: rna.obs.shape[1]]
    tt.fit((rna, protein), **QUICK)
    assert "X_tt" in rna.obsm


def test_encoders_see_nothing_of_the_cells_that_they_are_calibrated_on():
    rna, protein = pair(300)
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


def test_few_cells_in_both_tables_are_told():
    rna, protein = pair()
    protein.obs_names = [name if i < 60 else f"other {name}" for i, name in enumerate(protein.obs_names)]
    with pytest.warns(UserWarning, match=r"60 cells are in both tables by name, 28.6% of rna and 28.6% of protein"):
        tt.fit((rna, protein), "kind", steps=1, progress=False)

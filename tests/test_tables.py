"""Two tables of the same cells: how they are put together, and which are refused before any work is done."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from samples import (
    KEYS,
    KNOWN,
    assert_same_coordinates,
    assert_same_split,
    copies,
    held_out,
    make_overlap,
    make_pair,
    mudata_of,
    plain,
    refusal,
    shuffled,
    state,
)

import tripletomics as tt

QUICK = {"steps": 4, "progress": False}
ONE_STEP = {"steps": 1, "progress": False}


@pytest.fixture
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def test_the_order_of_the_second_table_makes_no_difference(quick):
    rna, protein = make_pair()
    protein = shuffled(protein)
    model = tt.fit((rna, protein), "kind", **QUICK)
    assert_same_coordinates(rna, quick.rna)
    assert_same_coordinates(protein, quick.protein)
    assert_same_split(protein, quick.protein)
    assert model.scores == quick.model.scores
    assert model.matches == quick.model.matches
    for name, side in model.alone.items():
        assert side.checks == quick.model.alone[name].checks


def test_a_tuple_is_a_dict_with_the_usual_names(quick):
    rna, protein = make_pair()
    model = tt.fit({"rna": rna, "protein": protein}, "kind", **QUICK)
    assert_same_coordinates(rna, quick.rna)
    assert_same_coordinates(protein, quick.protein)
    assert model.modalities == quick.model.modalities == ("rna", "protein")
    assert model.settings["modalities"] == "rna, protein"


def test_mudata_gives_the_same_coordinates_and_gets_them_too(quick):
    rna, protein = make_pair()
    both = mudata_of(rna=rna, protein=shuffled(protein))
    obs, obsm = set(both.obs), set(both.obsm)
    tt.fit(both, "kind", **QUICK)
    for table in (both, both["rna"], both["protein"]):
        assert_same_coordinates(table, quick.rna)
        assert_same_split(table, quick.rna)
        assert list(table.uns) == ["X_tt"]
    assert set(both.obsm) - obsm == set(KEYS)
    assert set(both.obs) - obs == {"tt_split"}


def test_other_names_are_those_of_the_model():
    rna, protein = make_overlap()
    model = tt.fit({"expression": rna, "surface": protein}, **QUICK)
    assert model.modalities == ("expression", "surface")
    assert list(model.alone) == ["expression", "surface"]
    assert "150 expression and 12 surface" in repr(model)
    assert model.embed(surface=protein.X).shape == (140, 32)
    query, other = plain(protein), plain(protein)
    tt.transform({"surface": query}, model)
    tt.transform(other, model)
    assert_same_coordinates(query, other, KEYS[:2])


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
@pytest.mark.usefixtures("no_warning")
def test_labels_are_taken_from_either_table(quick, move):
    rna, protein = make_pair()
    move(rna, protein)
    model = tt.fit((rna, shuffled(protein)), "kind", **QUICK)
    assert model.classes == list(KNOWN)
    assert_same_coordinates(rna, quick.rna)


def test_labels_of_the_first_table_win_where_two_disagree(quick):
    rna, protein = make_pair()
    protein.obs["kind"] = rna.obs["kind"]
    protein.obs.iloc[:30, 0] = np.where(rna.obs["kind"][:30] == "a", "b", "a")
    protein.obs.iloc[30:60, 0] = "Unknown"
    message = r"'kind': 30 of 180 cells have another value in protein than in rna \(first cell 0 of 1, '[ab]' and"
    with pytest.warns(UserWarning, match=message) as caught:
        tt.fit((rna, protein), "kind", **QUICK)
    assert str(caught[0].message).endswith("That of rna is taken.")
    assert_same_coordinates(rna, quick.rna)


def test_a_column_of_the_mudata_wins(quick):
    rna, protein = make_pair()
    kinds = rna.obs["kind"].to_numpy()
    rna.obs["kind"] = kinds[::-1]
    both = mudata_of(rna=rna, protein=protein)
    both.obs["kind"] = kinds
    with pytest.warns(UserWarning, match=r"'kind': \d+ of 210 cells have .* in rna than in the MuData .*"):
        tt.fit(both, "kind", **QUICK)
    assert_same_coordinates(both, quick.rna)


@pytest.mark.parametrize("tables", [make_overlap, lambda: (make_pair()[0], make_pair()[1][:140].copy())])
@pytest.mark.usefixtures("no_warning")
def test_numbers_as_labels_keep_their_names(tables):
    """A cell that one table lacks makes no 0.0 of a 0."""
    rna, protein = tables()
    for table in (rna, protein):
        table.obs["cluster"] = [ord(kind) - ord("a") for kind in make_pair()[0].obs["kind"][table.obs_names]]
    assert tt.fit((rna, protein), "cluster", **QUICK).classes == list("0123456")


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("column", "hold_out"),
    [(lambda i: f"d{i % 4}", "donor=d1"), (lambda i: i % 4, "donor=1"), (lambda i: i % 4 == 1, "donor")],
    ids=["groups", "groups that are numbers", "True or False"],
)
def test_cells_are_held_out_by_a_column_of_either_table(side, column, hold_out):
    tables = make_overlap()
    tables[side].obs["donor"] = [column(i) for i in range(140)]
    tt.fit(tables, hold_out=hold_out, **ONE_STEP)
    np.testing.assert_array_equal(held_out(tables[side]), np.arange(140) % 4 == 1)
    assert_same_split(*tables)
    only = ~tables[1 - side].obs_names.isin(tables[side].obs_names)
    assert not held_out(tables[1 - side])[only].any()
    assert tables[1 - side].obs["tt_split"].notna().all()


@pytest.mark.usefixtures("no_warning")
def test_whole_numbers_with_gaps_are_the_same_names():
    rna, protein = make_pair(90)
    rna.obs["donor"] = np.arange(90) % 3
    protein = protein[30:].copy()
    protein.obs["donor"] = pd.Series(np.arange(30, 90) % 3, protein.obs_names, dtype=float)
    protein.obs.loc[protein.obs_names[:2], "donor"] = np.nan
    tt.fit((rna[:60].copy(), protein), hold_out="donor=1", **QUICK)
    assert (held_out(protein) == (np.arange(30, 90) % 3 == 1)).all()


def test_a_column_without_a_group_holds_out_about_a_tenth():
    rna, protein = make_pair()
    protein.obs["run"] = [f"r{i % 20}" for i in range(210)]
    tt.fit((rna, protein), hold_out="run", **ONE_STEP)
    out = held_out(protein)
    assert 0.04 <= out.mean() <= 0.16
    assert not set(protein.obs["run"][out]) & set(protein.obs["run"][~out])
    assert_same_split(rna, protein)


def test_a_fraction_of_each_type_is_held_out_and_none_with_0(quick):
    out = quick.rna.obs.groupby("kind")["tt_split"].apply(lambda split: (split == "held-out").sum())
    assert out.tolist() == [3] * 7
    rna, protein = make_pair()
    model = tt.fit((rna, protein), "kind", hold_out=0, **QUICK)
    assert not held_out(rna).any()
    assert not held_out(protein).any()
    assert (model.matches, model.checks, model.alone["rna"].checks) == ({}, {}, {})


def test_it_is_decided_for_each_table_alone_whether_it_holds_counts(quick):
    assert [part.counts for part in quick.model.features.parts] == [True, False]
    assert [part.negative for part in quick.model.features.parts] == [False, True]
    assert quick.model.settings["counts"] == "True, False"
    rna, protein = make_pair(100)
    rna.X = rna.X.log1p()
    protein.X = np.random.default_rng(0).poisson(np.exp(protein.X.clip(-3, 3))).astype(np.float32)
    assert [part.counts for part in tt.fit((rna, protein), **ONE_STEP).features.parts] == [False, True]


def test_cells_that_lack_a_modality_do_not_decide_about_its_counts():
    """The rows of a cell without proteins are 0 and no count."""
    rna, protein = make_pair()
    protein.X = np.round(np.exp(protein.X.clip(-3, 3)) * 100) + 1
    model = tt.fit((rna, protein[:60].copy()), **ONE_STEP)
    assert [part.counts for part in model.features.parts] == [True, False]


def test_a_layer_of_one_table_is_used_and_serves_new_cells_too(quick):
    rna, protein = make_pair()
    rna.layers["counts"], rna.X = rna.X, np.full((210, 150), 0.5, dtype=np.float32)
    model = tt.fit((rna, protein), "kind", layer="counts", **QUICK)
    assert_same_coordinates(rna, quick.rna)
    assert [part.counts for part in model.features.parts] == [True, False]
    rna.X = rna.layers["counts"] * 0
    tt.transform((rna, protein), model, layer="counts")
    np.testing.assert_allclose(rna.obsm["X_tt_metric"], quick.rna.obsm["X_tt_metric"], atol=1e-5)
    tt.transform({"rna": rna}, model, layer="counts")
    with pytest.raises(KeyError, match="layer='rough' is not a layer"):
        tt.transform((rna, protein), model, layer="rough")


@pytest.mark.parametrize("form", ["dense", "csc", "float64"])
def test_how_a_table_is_stored_makes_no_difference(form):
    one, two = make_overlap(), make_overlap()
    if form == "dense":
        two[0].X, two[1].X = two[0].X.toarray(), sp.csr_matrix(two[1].X)
    elif form == "csc":
        two[0].X, two[1].X = sp.csc_matrix(two[0].X), np.asfortranarray(two[1].X)
    else:
        two[0].X, two[1].X = two[0].X.astype(np.int64), two[1].X.astype(np.float64)
    models = [tt.fit(tables, hold_out=0.2, **QUICK) for tables in (one, two)]
    for a, b in zip(one, two, strict=True):
        assert_same_coordinates(a, b, atol=1e-5)
    query, again = plain(two[0]), plain(one[0])
    tt.transform(query, models[0])
    tt.transform(again, models[0])
    assert_same_coordinates(query, again, KEYS[:2], atol=1e-5)


def test_inputs_are_not_changed():
    rna, protein = make_overlap()
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


def test_columns_of_one_name_are_no_matter():
    rna, protein = make_pair(60)
    rna.obs = pd.concat([rna.obs, rna.obs[["kind"]].rename(columns={"kind": "x"})] * 2, axis=1)
    rna.obs.columns = ["kind", "x", "x", "x"][: rna.obs.shape[1]]
    tt.fit((rna, protein), **QUICK)
    assert "X_tt" in rna.obsm


def test_few_cells_in_both_tables_are_told():
    rna, protein = make_pair()
    protein.obs_names = [name if i < 60 else f"other {name}" for i, name in enumerate(protein.obs_names)]
    with pytest.warns(UserWarning, match=r"60 cells are in both datasets by name, 28.6 % of rna and 28.6 % of protein"):
        tt.fit((rna, protein), "kind", **ONE_STEP)


# ------------------------------------------------------------------------------------------------ what is refused


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
        "ValueError: The two datasets have no cell in common: cells are matched by name, and there is cell 0 of 1, "
        "cell 1 of 1 in rna and other 0, other 1 in protein. If both have the same cells in the same order, say so: "
        "protein.obs_names = rna.obs_names.",
    ),
    "a cell twice": (
        repeated_cells,
        "ValueError: protein has cells of one name (first: cell 0 of 1), and two datasets are matched by the names",
    ),
    "a protein twice": (
        repeated_proteins,
        "ValueError: Modality 'protein': 1 gene name occurs more than once (first: P1)",
    ),
    "one table": (lambda rna, protein: ((rna,), {}), "ValueError: Two modalities are needed; you gave 1:"),
    "one by name": (
        lambda rna, protein: ({"rna": rna}, {}),
        "ValueError: Two modalities are needed; you gave 1 (rna):",
    ),
    "none": (lambda rna, protein: ((), {}), "ValueError: Two modalities are needed; you gave 0:"),
    "three tables": (
        lambda rna, protein: ((rna, protein, rna), {}),
        "ValueError: Two modalities are needed; you gave 3: name two, as in {'rna': mdata['rna'], 'protein': mdata",
    ),
    "an empty table": (
        lambda rna, protein: ((rna, protein[:0].copy()), {}),
        "ValueError: Modality 'protein': adata has 0 cells and 12 genes: there is nothing to map",
    ),
    "no AnnData": (
        lambda rna, protein: ((rna, protein.X), {}),
        "TypeError: Modality 'protein': adata is ndarray, not AnnData",
    ),
    "no name": (
        lambda rna, protein: ({"rna": rna, "my proteins": protein}, {}),
        "ValueError: 'my proteins' cannot be the name of a modality, which is a word such as 'protein'.",
    ),
    "a number for a name": (
        lambda rna, protein: ({"rna": rna, 2: protein}, {}),
        "ValueError: 2 cannot be the name of",
    ),
    "an argument's name": (
        lambda rna, protein: ({"x": rna, "rna": protein}, {}),
        "ValueError: 'x' cannot be the name",
    ),
    "a loss of labels": (
        given(loss="triplet"),
        "ValueError: loss='triplet' learns from labels, and label=None gives none: name the column of adata.obs with "
        "the cell types, or take a loss that uses only views, such as 'simclr'. Columns: kind.",
    ),
    "a sum with a loss of labels": (given(loss="softmax + clip"), "ValueError: loss='softmax + clip' learns from"),
    "batches without labels": (given(batch="kind"), "ValueError: batch='kind' brings cells of one type together"),
    "a layer in neither": (
        given(layer="counts"),
        "KeyError: layer='counts' is in neither of the two datasets. Layers: rna: none; protein: none.",
    ),
    "a label in neither": (
        given(label="kid"),
        "KeyError: label='kid' is not a column of adata.obs. Did you mean 'kind'? Columns: kind.",
    ),
    "NaN": (no_number, "ValueError: Modality 'protein': 1 cell has NaN in 1 gene (first: P3)"),
    "infinite": (infinite, "ValueError: Modality 'rna': 1 cell has infinite values in 1 gene (first: Gene"),
    "thinned components": (
        given(augment="thin"),
        "ValueError: augment='thin' changes values of genes, but with two modalities the encoders see",
    ),
    "negative counts": (given(counts=True), "ValueError: counts=True, but the matrix has negative values"),
    "all proteins held out": (
        held_out_modality,
        "ValueError: Fewer than two training cells have both rna and protein",
    ),
}


@pytest.fixture
def idle(monkeypatch):
    """Whoever trains is caught."""

    def train(*args, **given):
        raise RuntimeError("training began")

    monkeypatch.setattr("tripletomics.training.train", train)


@pytest.mark.parametrize("case", BAD)
@pytest.mark.usefixtures("idle")
def test_what_cannot_be_used_is_refused(case):
    change, message = BAD[case]
    rna, protein = make_pair(60)
    tables, settings = change(rna, protein)
    before = [str(state(table)) for table in (rna, protein)]
    assert refusal(tt.fit, tables, **({"label": None} | settings), progress=False).startswith(message)
    assert [str(state(table)) for table in (rna, protein)] == before


@pytest.mark.usefixtures("idle")
def test_a_mudata_of_three_is_refused():
    rna, protein = make_pair(60)
    three = mudata_of(rna=rna, protein=protein, other=protein)
    with pytest.raises(ValueError, match=r"^Two modalities are needed; you gave 3 \(rna, protein, other\): name two"):
        tt.fit(three, progress=False)
    assert all(not len(table.uns) for table in (three, *three.mod.values()))


def test_a_mudata_that_was_not_updated_is_refused():
    md = pytest.importorskip("mudata")
    rna, protein = make_pair(60)
    mdata = md.MuData({"rna": rna, "protein": protein})
    mdata.mod["rna"], mdata.mod["protein"] = rna[10:].copy(), protein[10:].copy()
    with pytest.raises(ValueError, match=r"are in neither modality \(first: cell 0 of 1.*run mdata.update\(\) first"):
        tt.fit(mdata, "kind", **QUICK)
    with pytest.raises(ValueError, match=r"^key_added='rna' is a modality of the MuData"):
        tt.fit(mdata, "kind", key_added="rna", **QUICK)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("label", [None, "kind"])
@pytest.mark.usefixtures("idle")
def test_two_tables_whose_shared_cells_are_all_held_out_are_refused(label):
    """Nothing is left that says how the two belong together; the message must come from here, in words."""
    rna, protein = make_overlap()
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
        "ValueError: 'prot' is not a modality of the model. Did you mean 'protein'? Allowed: rna, protein.",
    ),
    "features of neither": (
        lambda rna, protein: renamed(protein, [f"Q{i}" for i in range(12)]),
        "ValueError: The features of the dataset (first: Q0, Q1, Q2) do not say which of rna and protein it is. The "
        "model's begin with rna: Gene0, Gene1, Gene2; protein: P1, P2, P3. Name it: {'rna': adata}.",
    ),
    "no table": (lambda rna, protein: (), "ValueError: Two modalities are needed; you gave 0"),
    "three tables": (lambda rna, protein: (rna, protein, rna), "ValueError: Two modalities are needed; you gave 3"),
    "an array": (lambda rna, protein: protein.X, "TypeError: adata is ndarray, not AnnData"),
    "an array of two": (lambda rna, protein: (rna, protein.X), "TypeError: Modality 'protein': adata is ndarray"),
    "the other way round": (
        lambda rna, protein: (protein, rna),
        "ValueError: The query has none of the model's 150 genes (the model's first: Gene0, Gene1, Gene2; the query's "
        "first: P1",
    ),
    "a protein too few": (
        lambda rna, protein: (rna, protein[:, 1:].copy()),
        "ValueError: The query is missing 1 of the model's 12 genes (first: P1). Pass missing='zero' to fill them",
    ),
    "repeated cells": (
        lambda rna, protein: (rna, ad.concat([protein, protein[:3]])),
        "ValueError: protein has cells of one name (first: cell 0 of 2, cell 1 of 2, cell 2 of 2)",
    ),
    "logged counts": (
        lambda rna, protein: ad.AnnData(rna.X.log1p(), obs=rna.obs, var=rna.var),
        "ValueError: The query holds log1p, but the model was trained on counts: name the layer with the counts",
    ),
}


@pytest.mark.parametrize("act", [tt.transform, tt.predict])
@pytest.mark.parametrize("case", BAD_QUERIES)
def test_new_cells_that_cannot_be_used_are_refused(quick, fresh, case, act):
    change, message = BAD_QUERIES[case]
    rna, protein = copies(fresh.rna, fresh.protein)
    query = change(rna, protein)
    tables = [query] if isinstance(query, ad.AnnData) else [rna, protein]
    assert refusal(act, query, quick.model).startswith(message)
    for table in tables:
        assert not len(table.obs.columns)
        assert not len(table.obsm)
        assert not len(table.uns)


def test_two_tables_are_refused_by_a_model_of_one(trained):
    rna, protein = make_pair(20)
    for query in ((rna, protein), {"rna": rna}):
        for act in (tt.transform, tt.predict):
            with pytest.raises(
                TypeError, match="The model has one modality, and two datasets were given: pass the one"
            ):
                act(query, trained[0])
    assert not len(rna.obsm)

"""The gene contract: whose gene is whose, what is done about those that lack, and what looks odd about new cells."""

import dataclasses
import inspect
import re
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import tripletomics as tt
from tripletomics import features, pp

FAST = {"steps": 30, "progress": False}


def table(names, **columns):
    return ad.AnnData(np.ones((3, len(names)), dtype=np.float32), var=pd.DataFrame(columns, index=list(names)))


def names_of(match, adata):
    return [None if column < 0 else adata.var_names[column] for column in match.columns]


def exactly(text):
    return f"^{re.escape(text)}$"


@pytest.fixture(scope="module")
def trained():
    """A model of counts (300 cells, 150 genes, three types), and 100 cells like those it was fitted on."""
    random = np.random.default_rng(0)
    kinds = np.arange(400) % 3
    rate = np.exp(random.normal(-0.5, 1, size=150)) * np.ones((400, 1))
    for kind in range(3):
        rate[np.ix_(kinds == kind, np.arange(kind * 20, kind * 20 + 20))] *= 5
    x = sp.csr_matrix(random.poisson(rate * random.uniform(0.5, 2, size=(400, 1))).astype(np.float32))
    adata = ad.AnnData(x, var=pd.DataFrame(index=[f"Gene{i}" for i in range(150)]))
    adata.obs["kind"] = np.array(["a", "b", "c"])[kinds]
    return tt.fit(adata[:300].copy(), "kind", **FAST), adata[300:].copy()


# --------------------------------------------------------------------------------------------------- matching


def test_genes_are_found_by_name_in_any_order():
    query = table(["d", "x", "a", "y", "b"])
    match = pp.match_genes(query, ["a", "b", "c", "d"], "zero", weights=np.array([0.1, 0.2, 0.3, 0.4]))
    assert match.columns.tolist() == [2, 4, -1, 0]
    assert (match.matched, match.missing, match.extra, len(match.renamed)) == (3, 1, 2, 0)
    assert match.missing_genes == ["c"]
    assert match.weight == pytest.approx(0.7)
    assert pp.match_genes(query, ["b", "a"], "error").weight == 1


def test_the_heaviest_missing_gene_comes_first():
    weights = np.array([0.1, 0.4, 0.2, 0.3])
    match = pp.match_genes(table(["b"]), ["a", "b", "c", "d"], "zero", weights=weights)
    assert match.missing_genes == ["d", "c", "a"]
    assert match.weight == pytest.approx(0.4)
    assert pp.match_genes(table(["b"]), ["a", "b", "c", "d"], "zero", min_matched=0).weight == 0.25


@pytest.mark.parametrize(
    ("gene", "name", "same"),
    [
        ("ENSG00000141510", "ENSG00000141510.16", True),
        ("ENSG00000141510.2", "ENSG00000141510.16", True),
        ("ENSMUSG00000059552.14", "ensmusg00000059552", True),
        ("CD3E", "Cd3e", True),
        ("C1orf112", "C1ORF112", True),
        ("RP11-34P13.7", "rp11-34p13.7", True),
        ("RP11-34P13.7", "RP11-34P13.8", False),
        ("AL627309.1", "AL627309", False),
        ("ENSG00000002586", "ENSG00000002586.20_PAR_Y", False),
        ("HLA-A", "HLA.A", False),
        ("ENSA", "ENSA.1", False),
    ],
)
def test_case_and_versions_make_no_difference(gene, name, same):
    query = table([name, "other"])
    match = pp.match_genes(query, [gene, "other"], "zero")
    assert names_of(match, query) == [name if same else None, "other"]
    assert match.renamed == ({gene: name} if same else {})
    assert len(match.renamed) == same


def test_an_exact_name_comes_first():
    query = table(["cd3e", "CD3E", "ENSG1.2", "ENSG1"])
    match = pp.match_genes(query, ["CD3E", "ENSG1"], "error")
    assert names_of(match, query) == ["CD3E", "ENSG1"]
    assert (len(match.renamed), match.extra) == (0, 2)


def test_no_gene_serves_twice():
    query = table(["Abc", "Def", "ghi", "GHI"])
    match = pp.match_genes(query, ["abc", "ABC", "def", "GHI", "Ghi"], "zero")
    assert names_of(match, query) == [None, None, "Def", "GHI", "ghi"]


@pytest.mark.parametrize(("rivals", "gene"), [(("cd3e", "Cd3e"), "CD3E"), (("ENSG1.1", "ENSG1.2"), "ENSG1")])
def test_two_that_match_equally_well_are_refused(rivals, gene):
    message = (
        f"The query's genes {rivals[0]!r}, {rivals[1]!r} match the model's {gene!r} equally well: rename the right one "
        "as the model does, or choose it and drop the others."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        pp.match_genes(table([*rivals, "other"]), ["other", gene], "impute")
    with pytest.raises(ValueError, match=r"equally well \(as for 1 more\): rename"):
        pp.match_genes(table([*rivals, "Xa", "xA"]), [gene, "XA"], "impute")
    # a rivalry about a gene that nobody wants is nobody's business
    assert pp.match_genes(table([*rivals, "other"]), ["other"], "error").matched == 1


def test_an_alias_is_asked_after_the_name():
    query = table(["a", "q1", "q2", "b"], symbol=["b", "c", None, "x"])
    match = pp.match_genes(query, ["a", "b", "c", "None", "nan"], "zero", alias="symbol")
    assert names_of(match, query) == ["a", "b", "q1", None, None]
    query = table(["q0", "q1"], ids=["ENSG1.4", "ENSG2.1"])
    match = pp.match_genes(query, ["ENSG2", "ENSG1.4"], "error", alias="ids")
    assert names_of(match, query) == ["q1", "q0"]
    assert match.renamed == {"ENSG2": "ENSG2.1"}
    query = table(["q0", "q1"], number=pd.Categorical([7, 8]))
    assert names_of(pp.match_genes(query, ["8"], "error", alias="number"), query) == ["q1"]


def test_rivals_by_alias_are_named_by_their_own_names():
    with pytest.raises(ValueError, match="The query's genes 'q0', 'q1' match the model's 'CD3E' equally well"):
        pp.match_genes(table(["q0", "q1"], symbol=["CD3E", "CD3E"]), ["CD3E"], "zero", alias="symbol")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"missing": "fill"}, ValueError, "missing='fill' is not known. Allowed: error, zero, impute."),
        ({"min_matched": 1.5}, ValueError, "min_matched=1.5 is not a number from 0 to 1."),
        ({"min_matched": np.nan}, ValueError, "min_matched=nan is not a number from 0 to 1."),
        ({"min_matched": "half"}, ValueError, "min_matched='half' is not a number from 0 to 1."),
        ({"alias": "gene_id"}, KeyError, "alias='gene_id' is not a column of adata.var. Did you mean 'gene_ids'? "
         "Columns: gene_ids."),
        ({"genes": ["y", "z"]}, ValueError, "The query has none of the model's 2 genes (the model's first: y, z; the "
         "query's first: a, b, c). If a column of adata.var holds names like the model's, name it by alias=."),
        ({"genes": ["y", "a", "z"]}, ValueError, "The query is missing 2 of the model's 3 genes (first: y, z). Pass "
         "missing='zero' to fill them, missing='impute' to treat them as unknown, or refit on shared genes. They hold "
         "66.7 % of the encoder's weight."),
        ({"genes": ["y", "a", "z"], "missing": "zero", "min_matched": 0.9, "weights": np.array([0.2, 0.5, 0.3])},
         ValueError, "The query's genes hold 50.0 % of the encoder's weight, less than min_matched=0.9 (the heaviest "
         "of the 2 missing genes: z, y). If a column of adata.var holds names like the model's, name it by alias=; "
         "else lower min_matched, or refit on shared genes."),
    ],
)  # fmt: skip
def test_matching_refuses(given, error, message):
    query = table(["a", "b", "c", "d"], gene_ids=["1", "2", "3", "4"])
    with pytest.raises(error) as caught:
        pp.match_genes(query, **({"genes": ["a", "b"], "missing": "error"} | given))
    assert caught.value.args[0] == message


def test_weights_are_the_norms_of_the_first_layer_times_the_spread_of_the_genes(counts):
    model = tt.fit(counts, "kind", hold_out=0, steps=2, progress=False)
    contract = model.features
    first = model.networks.encoder.trunk[0].weight.detach().numpy().astype(float)
    rows = sp.csr_matrix(features.normalise(counts[:, contract.genes].X, contract.usual_depth))
    expected = np.sqrt((first**2).sum(axis=0)) * rows.toarray().std(axis=0) / contract.scale
    np.testing.assert_allclose(model.gene_weights(), expected / expected.sum(), rtol=1e-3)
    assert model.gene_weights().sum() == pytest.approx(1)


def test_genes_of_the_components_alone_weigh_nothing():
    random = np.random.default_rng(0)
    x = random.negative_binomial(1, 0.5, size=(200, 3000)) * (random.random((200, 3000)) < random.random(3000))
    adata = ad.AnnData(sp.csr_matrix(x.astype(np.float32)), obs={"kind": ["a", "b"] * 100})
    model = tt.fit(adata, "kind", hold_out=0, steps=2, progress=False)
    weights = model.gene_weights()
    assert model.features.n_seen < len(weights) == len(model.features.genes)
    assert (weights[model.features.n_seen :] == 0).all()
    assert weights.sum() == pytest.approx(1)
    seen = adata[:, model.features.genes[: model.features.n_seen]].copy()
    tt.transform(seen, model, missing="impute", min_matched=1)  # the others may all lack
    assert np.isfinite(seen.obsm["X_tt"]).all()


# ------------------------------------------------------------------------------------------------ new cells


def transformed(query, model, **given):
    query = query.copy()
    tt.transform(query, model, **given)
    return query.obsm["X_tt"], query.obsm["X_tt_metric"]


def test_missing_genes_are_unknown(trained):
    model, query = trained
    lacking = query[:, 30:].copy()
    x = pp.take(query.X, np.arange(150))
    expected = model.place(x, np.arange(150) >= 30)[::-1]
    for found, one in zip(transformed(lacking, model, missing="impute"), expected, strict=True):
        np.testing.assert_array_equal(found, one)
    for found, one in zip(transformed(query, model, missing="impute"), transformed(query, model), strict=True):
        np.testing.assert_array_equal(found, one)


def test_imputing_keeps_cells_nearer_to_their_places_than_zeros_do(fitted):
    model, adata = fitted
    query = adata[:200].copy()
    whole = transformed(query, model)
    random = np.random.default_rng(0)
    for share in (0.8, 0.5):
        lacking = query[:, random.random(adata.n_vars) < share].copy()
        moved = {}
        for missing in ("zero", "impute"):
            parts = transformed(lacking, model, missing=missing)
            moved[missing] = [
                np.median(np.linalg.norm(part - one, axis=1)) for part, one in zip(parts, whole, strict=True)
            ]
        assert (np.array(moved["impute"]) < 0.8 * np.array(moved["zero"])).all()


def test_components_are_imputed_too(trained):
    model, query = trained
    query = query[:, 30:].copy()
    query.obsm["X_tt_pca"] = np.zeros((100, 50), dtype=np.float32)
    tt.transform(query, model, missing="impute")
    x = sp.hstack([np.zeros((100, 30)), query.X]).tocsr()
    np.testing.assert_allclose(query.obsm["X_tt_pca"], model.features.pcs(x, np.arange(150) >= 30), atol=1e-4)


@pytest.mark.parametrize("missing", ["zero", "impute"])
@pytest.mark.parametrize("kind", [sp.csc_matrix, sp.csr_array, lambda x: x.toarray(), lambda x: x.astype(int)])
def test_kinds_of_matrix_agree(trained, missing, kind):
    model, query = trained
    query = query[:, ::2].copy()
    other = query.copy()
    other.X = kind(query.X)
    for found, expected in zip(
        transformed(other, model, missing=missing), transformed(query, model, missing=missing), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_other_names_lead_to_the_same_places(trained):
    model, query = trained
    expected = transformed(query, model)
    lower, renamed = query[:, ::-1].copy(), query.copy()
    renamed.var["symbol"] = renamed.var_names
    renamed.var_names = [f"q{i}" for i in range(150)]
    lower.var_names = lower.var_names.str.lower()
    with pytest.warns(UserWarning, match=exactly(
        "150 of 150 genes were found only without regard to upper and lower case (first: gene0 for Gene0): is the "
        "query of another species?"
    )):  # fmt: skip
        places = [transformed(lower, model)]
    for found in (*places, transformed(renamed, model, alias="symbol")):
        for one, another in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, another)
    with pytest.raises(ValueError, match="none of the model's 150 genes"):
        tt.transform(renamed, model)


def test_versions_are_not_worth_a_warning(trained):
    contract = dataclasses.replace(trained[0].features, genes=[f"ENSG{i}" for i in range(150)])
    query = trained[1].copy()
    query.var_names = [f"ENSG{i}.{i % 7}" for i in range(150)]
    found = pp.take_query(query, contract, None, pp.QueryOptions())
    assert (len(found.match.renamed), found.notes) == (150, [])


def test_too_little_is_refused_and_nothing_written(trained):
    model, query = trained
    few = query[:, :20].copy()
    for missing in ("zero", "impute"):
        with pytest.raises(ValueError, match=r"hold \d+\.\d % of the encoder's weight, less than min_matched=0\.3"):
            tt.transform(few, model, missing=missing)
    assert not few.obsm
    tt.transform(few, model, missing="impute", min_matched=0.05)
    assert np.isfinite(few.obsm["X_tt"]).all()


def test_transform_says_what_take_query_does(trained):
    model, query = trained
    query = query[:, 10:].copy()
    found = pp.take_query(query, model.features, model.gene_weights(), pp.QueryOptions(missing="impute"))
    assert found.x.shape == (100, 150)
    assert sp.issparse(found.x)
    assert found.present.tolist() == [False] * 10 + [True] * 140
    assert found.match.missing == 10
    assert found.notes == []
    assert pp.take_query(query, model.features, None, pp.QueryOptions(missing="zero")).present is None
    settings = inspect.signature(tt.transform).parameters
    assert [settings[name].default for name in ("missing", "alias", "min_matched")] == ["error", None, 0.3]


# ------------------------------------------------------------------------------------------------ values


def notes_on(query, model):
    options = pp.QueryOptions(missing="impute", min_matched=0.0)
    return pp.take_query(query, model.features, model.gene_weights(), options).notes


def quietly(query, model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return notes_on(query, model)


def test_usual_cells_raise_no_doubt(trained, fitted):
    assert quietly(trained[1], trained[0]) == []
    for kind in "abc":
        assert quietly(trained[1][trained[1].obs["kind"] == kind].copy(), trained[0]) == []
    model, adata = fitted
    for kind in adata.obs["cell_type"].cat.categories:
        assert quietly(adata[adata.obs["cell_type"] == kind].copy(), model) == []
    assert quietly(adata[:, ::3].copy(), model) == []


def deeper(adata):
    adata.X = adata.X * 10


def shallower(adata):
    adata.X.data[np.arange(adata.X.nnz) % 15 > 0] = 0


def shuffled(adata):
    adata.var_names = np.random.default_rng(0).permutation(adata.var_names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (deeper, r"The query's cells have 9 times more counts than the training cells \(median \d+ against \d+ over "
         r"the matched genes\): their coordinates may be off\."),
        (shallower, r"The query's cells have 1\d times fewer counts than the training cells"),
        (shuffled, r"Genes that are high in the training cells are not high in the query \(Spearman correlation "
         r"-?0\.\d\d over 150 genes\): do the names mean the same genes\?"),
    ],
)  # fmt: skip
def test_odd_counts_are_warned_about(trained, change, message):
    model, query = trained[0], trained[1].copy()
    change(query)
    with pytest.warns(UserWarning, match=message) as caught:
        tt.transform(query, model)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match=message):
        assert notes_on(query, model) == [str(caught[0].message)]
    assert quietly(query[:19].copy(), model) == []  # too few to tell


def test_depth_is_that_of_the_matched_genes(trained):
    model, query = trained
    assert quietly(query[:, ::8].copy(), model) == []  # an eighth of the genes has an eighth of the counts


def scaled(adata):
    x = adata.X.toarray()
    adata.X = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-3)


def larger(adata):
    adata.X = adata.X * 4


def smaller(adata):
    adata.X = adata.X / 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (scaled, "The query has negative values, but the training cells had none: it looks z-scored. Name the layer "
         r"with the values before that \(layer=\)\."),
        (larger, "The query's values are 4 times larger than those of the training cells: are they normalised and "
         r"transformed in the same way\?"),
        (smaller, "The query's values are 4 times smaller than those of the training cells"),
    ],
)  # fmt: skip
def test_odd_logged_values_are_warned_about(fitted, change, message):
    model, query = fitted[0], fitted[1][:300].copy()
    del query.obs["tt_split"]  # which says that they are cells of the fit, whose values have changed
    change(query)
    with pytest.warns(UserWarning, match=message) as caught:
        tt.transform(query, model)
    assert len(caught) == 1


def test_negative_values_need_no_second_cell(fitted):
    query = fitted[1][:20].copy()
    scaled(query)
    with pytest.warns(UserWarning, match="it looks z-scored"):
        tt.transform(query[:1].copy(), fitted[0])


def test_centred_training_values_are_compared_with_nothing():
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 60)).astype(np.float32)
    contract = features.fit(x, [f"g{i}" for i in range(60)], False, 0)
    assert pp.check_scale(random.normal(size=(100, 60)).astype(np.float32) * 2, contract) == []


@pytest.mark.parametrize("missing", ["error", "zero", "impute"])
def test_one_cell_and_one_without_values(trained, fitted, missing):
    for model, cells in (trained, fitted):
        one = cells[:1].copy()
        tt.transform(one, model, missing=missing)
        one.X = one.X * 0
        tt.transform(one, model, missing=missing)
        assert np.isfinite(one.obsm["X_tt"]).all()


def test_a_part_of_a_panel_of_whole_numbers_is_no_table_of_counts():
    random = np.random.default_rng(0)
    panel = ad.AnnData(random.integers(1, 1024, (200, 12)).astype(np.float32), obs={"kind": ["a", "b"] * 100})
    model = tt.fit(panel, "kind", hold_out=0, steps=2, progress=False)
    for missing in ("zero", "impute"):
        tt.transform(panel[:, :8].copy(), model, missing=missing)


def test_no_cells_are_refused(trained):
    with pytest.raises(ValueError, match="adata has 0 cells and 150 genes"):
        tt.transform(trained[1][:0].copy(), trained[0])

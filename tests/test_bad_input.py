"""What cannot be used is refused before any work, in words that help, and nothing is written."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import tripletomics as tt


def put(value):
    def change(adata):
        x = adata.X.toarray()
        x[[3, 5, 5], [2, 2, 7]] = value
        adata.X = sp.csr_matrix(x) if value < 0 else x
        return {}

    return change


def label(values):
    def change(adata):
        adata.obs["other"] = values(adata.n_obs)
        return {"label": "other"}

    return change


def repeat_genes(adata):
    adata.var_names = ["g0", "g0", *adata.var_names[2:]]
    return {}


def objects(adata):
    adata.X = adata.X.toarray().astype(object)
    return {}


def options(**given):
    return lambda adata: given


TABLE = {
    "unknown label": (options(label="kid"), KeyError, "label='kid' is not a column of adata.obs. Did you mean 'kind'?"),
    "no label": (
        options(label=None, loss="triplet"),
        ValueError,
        "loss='triplet' learns from labels, and label=None gives none: name the column of adata.obs",
    ),
    "no label, but batches": (
        options(label=None, batch="donor"),
        ValueError,
        "batch='donor' brings cells of one type together, by labels, and label=None gives none",
    ),
    "no room for a predictor": (
        options(label=None, loss="simsiam", metric_dim=3),
        ValueError,
        "loss='simsiam' predicts one view from the other, for which metric_dim=3 has no room",
    ),
    "a queue longer than the data": (
        options(label=None, loss="moco:queue=500"),
        ValueError,
        "moco: queue=500 is longer than the data, 270 training cells.",
    ),
    "two momentum encoders": (
        options(loss="softmax + moco + byol"),
        ValueError,
        "moco and byol would each need a momentum encoder",
    ),
    "one class": (label(lambda n: ["a"] * n), ValueError, "label='other' has one type, 'a'"),
    "no labelled cell": (label(lambda n: [None, ""] * (n // 2)), ValueError, "label='other': no cell is labelled."),
    "names as labels": (label(lambda n: [f"cell{i}" for i in range(n)]), ValueError, "300 types of one training cell"),
    "unknown layer": (options(layer="cuonts"), KeyError, "layer='cuonts' is not a layer of adata. Did you mean"),
    "unknown batch": (options(batch="doner"), KeyError, "batch='doner' is not a column of adata.obs. Did you mean"),
    "NaN": (put(np.nan), ValueError, '2 cells have NaN in 2 genes (first: 2, 7). Pass missing="impute" to take them'),
    "infinity": (put(np.inf), ValueError, "2 cells have infinite values in 2 genes (first: 2, 7). Remove or"),
    "negative counts": (lambda a: put(-1)(a) | {"counts": True}, ValueError, "counts=True, but the matrix has neg"),
    "duplicate genes": (repeat_genes, ValueError, "1 gene name occurs more than once (first: g0)."),
    "objects": (objects, TypeError, "The matrix holds object, not numbers"),
    "batch_size": (options(batch_size=1000), ValueError, "is above the number of labelled training cells, 270"),
    "batch_size of 2": (options(batch_size=2), ValueError, "batch_size=2 is not a whole number of at least 4."),
    "dim": (options(dim=4), ValueError, "dim=4 is not a whole number from 2 to 3."),
    "metric_dim": (options(metric_dim=1), ValueError, "metric_dim=1 is not a whole number from 2 to 512."),
    "structure": (options(structure=1.5), ValueError, "structure=1.5 is not a number from 0 (labels) to 1 (data)."),
    "spread": (options(spread=-0.1), ValueError, "spread=-0.1 is not a number from 0 (dense groups) to 1 (an even"),
    "spread text": (options(spread="0.5"), ValueError, "spread='0.5' is not a number from 0"),
    "structure NaN": (options(structure=np.nan), ValueError, "structure=nan is not a number from 0"),
    "steps": (options(steps=0), ValueError, "steps=0 is not a whole number of at least 1."),
    "lr": (options(lr=-1), ValueError, "lr=-1 is not a number above 0"),
    "seed": (options(seed=-1), ValueError, "seed=-1 is not a whole number from 0"),
    "loss": (options(loss="tripelt"), ValueError, "loss='tripelt' is not known. Did you mean 'triplet'?"),
    "loss setting": (options(loss="triplet:margn=1"), ValueError, "triplet has no setting 'margn'. Did you mean"),
    "center alone": (options(loss="center"), ValueError, "loss='center' alone moves all cells to one point."),
    "no loss term": (options(loss="triplet", batch_size=4), ValueError, "batch_size=4 gives a batch with 1 of 3 types"),
    "p": (options(loss="triplet:p=0"), ValueError, "triplet: p=0.0 is not a number in (0, inf]."),
    "loss object": (options(loss=3), TypeError, "loss=3 is neither text"),
    "encoder": (options(encoder="mlq"), ValueError, "encoder='mlq' is not known. Did you mean 'mlp'?"),
    "augment": (options(augment="mask:p=2"), ValueError, "p=2.0 is not a number in [0, 1)"),
    "counts": (options(counts="yes"), ValueError, "counts='yes' is not known. Allowed: 'auto', True, False."),
    "fraction": (options(hold_out=1.0), ValueError, "hold_out=1.0 is neither a fraction in [0, 1) nor a column"),
    "hold_out column": (options(hold_out="doner"), KeyError, "hold_out='doner' is not a column of adata.obs."),
    "hold_out group": (options(hold_out="donor=d9"), ValueError, "'d9' is not a group of 'donor'."),
    "hold_out everything": (options(hold_out="donor=d0,d1,d2,d3,d4"), ValueError, "leaves no training cell"),
    "device": (options(device="cud"), ValueError, "device='cud' is not known. Did you mean 'cuda'?"),
    "key of scanpy": (options(key_added="X"), ValueError, "would write over obsm['X_pca'], which is scanpy's"),
    "key of the default": (options(key_added="tt"), ValueError, "key_added='tt' would write over what belongs"),
    "key of a metric space": (options(key_added="a_metric"), ValueError, "what belongs to the key 'a': choose"),
    "key": (options(key_added="a/b"), ValueError, "key_added='a/b' is not a name without '/'"),
    "key that is a folder": (options(key_added=".."), ValueError, "key_added='..' cannot be the name of an array"),
    "long key": (options(key_added="x" * 300), ValueError, "cannot be the name of an array in a file: take 1 to 100"),
    "key with control characters": (options(key_added="x\0"), ValueError, "key_added='x\\x00' is not a name without"),
    "encoder object": (options(encoder=None), TypeError, "encoder=None is neither text such as 'mlp:hidden=512-128'"),
    "several columns": (options(batch=["donor"]), KeyError, "batch=['donor'] is not a column of adata.obs."),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_fit_refuses(counts, case):
    counts.layers["counts"] = counts.X.copy()
    change, error, message = TABLE[case]
    given = {"label": "kind"} | change(counts)
    columns = list(counts.obs)
    with pytest.raises(error) as caught:
        tt.fit(counts, **given, progress=False)
    assert message in str(caught.value.args[0])
    assert not counts.obsm
    assert not counts.uns
    assert list(counts.obs) == columns


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_fit_refuses_an_empty_table(shape):
    adata = ad.AnnData(np.zeros(shape, dtype=np.float32))
    adata.obs["kind"] = ["a"] * shape[0]
    with pytest.raises(ValueError, match=f"adata has {shape[0]} cells and {shape[1]} genes: there is nothing to map."):
        tt.fit(adata, label="kind")


def test_fit_refuses_what_is_not_anndata(tmp_path, counts):
    with pytest.raises(TypeError, match=r"adata is ndarray, not AnnData: pass anndata\.AnnData\(x\) of cells"):
        tt.fit(counts.X.toarray(), label="kind")
    counts.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(TypeError, match=r"backed by a file: pass adata\.to_memory\(\)"):
        tt.fit(ad.read_h5ad(tmp_path / "cells.h5ad", backed="r"), label="kind")


def test_a_type_of_one_cell_is_kept_with_a_warning(counts):
    kinds = counts.obs["kind"].astype(object)
    kinds.iloc[7] = "lonely"
    counts.obs["kind"] = kinds
    with pytest.warns(UserWarning, match="Types of one training cell: lonely"):
        model = tt.fit(counts, label="kind", steps=5, progress=False)
    assert "lonely" in model.classes
    assert counts.obs["tt_split"].iloc[7] == "train"


def test_a_type_that_only_held_out_cells_have_is_named(counts):
    counts.obs["kind"] = np.where(counts.obs["donor"] == "d1", "new", counts.obs["kind"])
    with pytest.warns(UserWarning, match="Types that only held-out cells have: new"):
        tt.fit(counts, label="kind", hold_out="donor=d1", steps=5, progress=False)


def logged(adata):
    adata.X = np.log1p(adata.X.toarray())


def lacking(adata):
    adata._inplace_subset_var(adata.var_names[5:])


def other_genes(adata):
    adata.var_names = [f"other{i}" for i in range(adata.n_vars)]


def negative(adata):
    adata.X = adata.X.toarray() - 1


QUERIES = {
    "lacks genes": (lacking, "The query is missing 5 of the model's 150 genes (first: 0, 1, 2). Pass missing='zero'"),
    "no shared gene": (other_genes, "The query has none of the model's 150 genes"),
    "logged against counts": (logged, "The query holds log1p, but the model was trained on counts"),
    "negative against counts": (negative, "The query has negative values, but the model was trained on counts"),
    "duplicate genes": (lambda a: repeat_genes(a) and None, "1 gene name occurs more than once"),
}


@pytest.mark.parametrize("case", QUERIES)
def test_transform_refuses(counts, case):
    model = tt.fit(counts, label="kind", steps=3, progress=False)
    query = counts[:50].copy()
    del query.obsm, query.uns
    change, message = QUERIES[case]
    change(query)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        tt.transform(query, model)
    assert message in str(caught.value)
    assert not query.obsm


def test_counts_against_a_logged_model(fitted):
    query = fitted[1][:60].copy()
    query.X = np.round(np.expm1(query.X.toarray()))
    with pytest.raises(ValueError, match="The query holds counts, but the model was trained on log1p"):
        tt.transform(query, fitted[0])


def test_transform_wants_a_model(pbmc):
    with pytest.raises(TypeError, match=r"model is str, not a Model: read a file with tripletomics\.load"):
        tt.transform(pbmc, "model.tt")

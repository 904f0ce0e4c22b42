"""Where people come from (scanpy, anndata, mudata, pandas), each thing works or is refused in words."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from samples import BRIEF, mudata_of

import tripletomics as tt
from tripletomics.notices import TripletomicsWarning


@pytest.fixture(scope="module")
def frame(made):
    """The cells as a DataFrame, with the types in a column."""
    found = pd.DataFrame(made.X.toarray(), made.obs_names, [f"g{i}" for i in range(made.n_vars)])
    return found.assign(kind=made.obs["kind"], donor=made.obs["donor"])


@pytest.fixture(scope="module")
def named(made):
    adata = made.copy()
    adata.var_names = [f"g{i}" for i in range(made.n_vars)]
    tt.fit(adata, "kind", batch="donor", **BRIEF)
    return adata


def test_a_dataframe_with_a_column_of_labels(frame, named):
    model = tt.fit(frame, "kind", batch="donor", **BRIEF)
    assert model.features.genes == named.var_names.tolist()
    np.testing.assert_allclose(model.map(frame), named.obsm["X_tt"], atol=1e-5)
    np.testing.assert_array_equal(model.embed(frame[frame.columns[::-1]]), model.embed(frame))
    with pytest.raises(ValueError, match=r"x is a DataFrame that lacks 2 of the model's 150 genes \(first: g0, g1\)"):
        model.map(frame.drop(columns=["g0", "g1"]))
    with pytest.raises(TypeError, match=r"adata is DataFrame, not AnnData: pass anndata.AnnData\(df\); fit, Model.map"):
        tt.transform(frame, model)


def test_a_dataframe_with_a_series_of_labels(frame):
    genes, kind = frame.drop(columns=["kind", "donor"]), frame["kind"]
    one, other = tt.fit(genes, kind, **BRIEF), tt.fit(genes, kind.sample(frac=1, random_state=0), **BRIEF)
    np.testing.assert_array_equal(one.map(genes), other.map(genes))
    assert one.settings["label"] == "kind"
    with pytest.raises(ValueError, match=r"label is a Series whose index lacks 5 of 300 cells of the DataFrame"):
        tt.fit(genes, kind[5:])
    with pytest.raises(TypeError, match=r"1 columns of the DataFrame hold no real numbers \(first: donor\): name"):
        tt.fit(frame, "kind")
    genes.iloc[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"1 cell has NaN in 1 gene \(first: g2\)"):
        tt.fit(genes, kind)


@pytest.mark.parametrize(
    ("change", "label", "kind", "message"),
    [
        ({"kind": "old"}, pd.Series, ValueError, "label is a Series named 'kind', and the column 'kind' .* rename the"),
        ({}, list, TypeError, r"label holds 300 values \(first: a, b, c\), and not names of columns. .* a Series"),
        ({}, np.asarray, TypeError, "label holds 300 values"),
        ({}, "knd", KeyError, "label='knd' is not a column of the DataFrame. Did you mean 'kind'"),
        ({}, 5, KeyError, "label=5 is not a column of the DataFrame"),
        ({"g1": 1j}, "kind", TypeError, r"1 columns of the DataFrame hold no real numbers \(first: g1\)"),
        ({"g1": 1e39}, "kind", ValueError, "above .* they overflow"),
    ],
)
def test_frames_and_labels_that_cannot_be_read(frame, change, label, kind, message):
    cells = frame.drop(columns="donor").assign(**change)
    with pytest.raises(kind, match=message):
        tt.fit(cells, label(frame["kind"]) if callable(label) else label, **BRIEF)


def test_names_that_a_frame_has_twice(frame):
    genes, kind = frame.drop(columns=["kind", "donor"]), frame["kind"]
    with pytest.raises(ValueError, match=r"label is a Series whose index has some names twice .*: make them unique"):
        tt.fit(genes, pd.concat([kind, kind]), **BRIEF)
    with pytest.raises(
        ValueError,
        match="need unique names on one level, and have these twice: kind",
    ):
        tt.fit(pd.concat([frame, kind], axis=1), "kind", **BRIEF)
    with pytest.raises(ValueError, match="and have several levels"):
        tt.fit(pd.concat({"a": genes}, axis=1), kind, **BRIEF)


def test_a_model_refuses_values_that_mean_nothing(frame, named):
    model = tt.fit(frame, "kind", batch="donor", **BRIEF)
    x = named.X.copy()
    for values, message in ((-x, "x has values below 0 .*trained on counts"), (x * np.inf, "x has infinite values")):
        for verb in (model.map, model.embed, model.predict):
            with pytest.raises(ValueError, match=message), np.errstate(invalid="ignore"):
                verb(values)


def test_an_array_is_refused_in_words(made):
    with pytest.raises(TypeError, match=r"adata is ndarray, not AnnData: pass anndata.AnnData\(x\) of cells by genes"):
        tt.fit(made.X.toarray(), "kind")


def test_scaled_values_are_refused_unless_they_are_all_there_is(made):
    adata = made.copy()
    sc.pp.log1p(adata)
    adata.raw = adata
    adata.layers["scaled"] = adata.X.toarray()
    sc.pp.scale(adata, layer="scaled", max_value=10)
    with pytest.raises(ValueError, match=r"mean 0 and standard deviation 1, as after sc.pp.scale.*adata.raw.to_adata"):
        tt.fit(adata, "kind", layer="scaled", **BRIEF)
    with pytest.raises(KeyError, match=r"The values of adata.raw are not a layer: pass adata.raw.to_adata\(\)"):
        tt.fit(adata, "kind", layer="raw", **BRIEF)
    with pytest.warns(TripletomicsWarning, match="as after sc.pp.scale"):
        tt.fit(adata, "kind", layer="scaled", counts=False, **BRIEF)
    centred = ad.AnnData(adata.X.toarray() - adata.X.mean(axis=0).A1 if sp.issparse(adata.X) else adata.X, adata.obs)
    tt.fit(centred, "kind", **BRIEF)  # log ratios: centred, and each gene with its own spread
    panel = adata[:, :20].copy()
    panel.X = panel.layers["scaled"]
    tt.fit(panel, "kind", **BRIEF)  # a panel is scaled by the fit, too


def test_counts_that_were_logged_are_refused(made):
    adata = made.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    with pytest.raises(ValueError, match=r"counts=True, but the matrix holds log1p of 10,000 a cell"):
        tt.fit(adata, "kind", counts=True, **BRIEF)
    adata.X = np.random.default_rng(0).gamma(2, 1, adata.shape).astype(np.float32)
    with pytest.warns(TripletomicsWarning, match=r"counts=True, but the largest value is .* not all are whole"):
        tt.fit(adata, "kind", counts=True, **BRIEF)


def test_batches_that_are_the_types_are_refused(counts):
    counts.obs["run"] = counts.obs["kind"].map({"a": "z", "b": "y", "c": "x"})
    with pytest.raises(ValueError, match="batch='run' splits the cells exactly as label='kind' does"):
        tt.fit(counts, "kind", batch="run", **BRIEF)
    with pytest.warns(TripletomicsWarning, match="hold_out='kind' holds out whole types, so no held-out cell"):
        tt.fit(counts, "kind", hold_out="kind", **BRIEF)


def test_a_column_of_measured_values_is_no_label(counts):
    counts.obs["depth"] = counts.X.sum(axis=1).A1 + 0.5
    with pytest.raises(ValueError, match=r"label='depth' holds numbers that are not whole"):
        tt.fit(counts, "depth")


def test_predicting_training_cells_warns(named):
    adata = named.copy()
    model = tt.fit(adata, "kind", **BRIEF)
    with pytest.warns(TripletomicsWarning, match="270 of 300 cells were part of the fit"):
        tt.predict(adata, model)


@pytest.mark.filterwarnings("ignore")
def test_scanpy_reads_what_a_fit_writes(named, tmp_path):
    adata = named.copy()
    sc.pp.neighbors(adata, use_rep="X_tt_metric", n_neighbors=5)
    sc.tl.umap(adata, init_pos="X_tt", maxiter=1)
    sc.tl.rank_genes_groups(adata, "kind", n_genes=3)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    adata.write_zarr(tmp_path / "cells.zarr")
    for again in (ad.read_h5ad(tmp_path / "cells.h5ad"), ad.read_zarr(tmp_path / "cells.zarr")):
        np.testing.assert_array_equal(again.obsm["X_tt"], named.obsm["X_tt"])
        assert again.uns["X_tt"]["settings"]["label"] == "kind"


def test_an_embedding_of_another_program_is_an_input(counts):
    sc.pp.pca(counts, n_comps=5)
    tt.fit(counts, "kind", use_rep="X_pca", **BRIEF)
    assert counts.obsm["X_tt_pca"].shape == (300, 5)


def test_a_second_key_overwrites_nothing(named):
    adata = named.copy()
    for key in ("tt", "X_tt_metric"):
        with pytest.raises(ValueError, match="would write over what belongs"):
            tt.fit(adata, "kind", key_added=key, **BRIEF)
    tt.fit(adata, "kind", key_added="X_two", hold_out=0.3, **BRIEF)
    for key in named.obsm:
        np.testing.assert_array_equal(adata.obsm[key], named.obsm[key])
    assert adata.obs["tt_split"].equals(named.obs["tt_split"])


def test_a_fit_leaves_the_settings_of_scanpy_alone(counts):
    before = {name: getattr(sc.settings, name) for name in ("verbosity", "n_jobs", "figdir", "autosave", "autoshow")}
    tt.fit(counts, "kind", **BRIEF)
    assert before == {name: getattr(sc.settings, name) for name in before}


def test_one_modality_of_a_mudata_is_refused_in_words(counts):
    with pytest.raises(ValueError, match=r"Two modalities are needed; you gave 1 \(rna\).*or pass one dataset"):
        tt.fit(mudata_of(rna=counts), "kind")

import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from samples import EVERY_OPTION, files, make_cells, words

import tripletomics as tt
from tripletomics import cli
from tripletomics.cli.words import for_terminal

FEW = {"steps": 10, "progress": False}


def test_everything_survives_h5ad(fitted, tmp_path):
    model, adata = fitted
    adata.write_h5ad(tmp_path / "cells.h5ad")
    read = ad.read_h5ad(tmp_path / "cells.h5ad")
    for key in ("X_tt", "X_tt_metric"):
        np.testing.assert_array_equal(read.obsm[key], adata.obsm[key])
    assert (read.obs["tt_split"] == adata.obs["tt_split"]).all()
    assert read.uns["X_tt"]["scores"] == model.scores
    assert dict(read.uns["X_tt"]["settings"]) == model.settings
    for stage, columns in model.history.items():
        for name, values in columns.items():
            np.testing.assert_array_equal(read.uns["X_tt"]["history"][stage][name], values)


@pytest.fixture(scope="module")
def usual(made):
    """The places of a CSR matrix."""
    adata = made.copy()
    tt.fit(adata, label="kind", **FEW)
    return adata.obsm


@pytest.mark.parametrize(
    "kind", [sp.csc_matrix, sp.csr_array, lambda x: x.toarray(), lambda x: x.toarray().astype(np.float64),
             lambda x: x.toarray().astype(np.int64)],
    ids=["csc", "csr_array", "dense", "float64", "int64"],
)  # fmt: skip
def test_kinds_of_matrix_give_the_same_map(counts, usual, kind):
    counts.X = kind(counts.X)
    tt.fit(counts, label="kind", **FEW)
    for key in ("X_tt", "X_tt_metric"):
        np.testing.assert_allclose(counts.obsm[key], usual[key], atol=1e-4)


@pytest.fixture(scope="module")
def table():
    """Cells with donors, unlabelled ones and a matrix of each kind."""
    adata = make_cells(300, 1)
    adata.obs["kind"] = adata.obs["kind"].mask(np.arange(300) % 10 == 0, "Unknown").astype("category")
    adata.obs["donor"] = pd.Categorical([f"d{i}" for i in np.random.default_rng(0).integers(3, size=300)])
    adata.layers["dense"], adata.layers["csc"] = adata.X.toarray(), adata.X.tocsc()
    return adata


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("cells.h5ad", {}),
        ("cells.zarr", {"layer": "dense", "hold_out": "donor=d1", "key_added": "Z"}),
        ("cells.h5ad", {"layer": "csc", "hold_out": "donor", "unlabelled": ("a",)}),
    ],
)
def test_a_table_on_disk_is_fitted_as_in_memory(table, tmp_path, name, given):
    given, path = {"label": "kind"} | FEW | given, tmp_path / name
    adata = table.copy()
    (adata.write_zarr if path.suffix == ".zarr" else adata.write_h5ad)(path)
    model = tt.fit(adata, **given)
    found = tt.fit(str(path), **given)
    again, key = (ad.read_zarr if path.suffix == ".zarr" else ad.read_h5ad)(path), given.get("key_added", "X_tt")
    for place in (key, f"{key}_metric", f"{key}_pca"):
        np.testing.assert_array_equal(again.obsm[place], adata.obsm[place])
    pd.testing.assert_frame_equal(again.obs, adata.obs)
    assert (found.scores, found.settings, found.classes) == (model.scores, model.settings, model.classes)
    assert again.uns[key]["scores"] == adata.uns[key]["scores"]
    assert (again.X != table.X).nnz == 0
    assert found.catalog.names.tolist() == model.catalog.names.tolist()
    assert sorted(file.name for file in path.parent.iterdir()) == [name]


def assert_same(a, b):
    assert set(a.obsm) == set(b.obsm)
    for key in b.obsm:
        np.testing.assert_array_equal(a.obsm[key], b.obsm[key])
    for name in b.obs:
        assert (a.obs[name].astype(str) == b.obs[name].astype(str)).all()


def test_fit_and_transform_are_those_of_python(run, source, tmp_path):
    before = source.read_bytes()
    out, model_file = tmp_path / "out.h5ad", tmp_path / "model.tt"
    with h5py.File(source):  # a file that is being read elsewhere is no obstacle
        status, said, error = run(
            "fit", source, "--label", "cell_type", "--out", out, "--model", model_file, "--steps", 5
        )
    assert (status, error) == (0, "")
    expected = ad.read_h5ad(source)
    model = tt.fit(expected, "cell_type", steps=5)
    written = ad.read_h5ad(out)
    assert_same(written, expected)
    assert dict(written.uns["X_tt"]["settings"]) == model.settings
    assert said.startswith(model.summary())
    assert f"Wrote {out}, {model_file}" in said

    again = tmp_path / "again.h5ad"
    status, _, error = run("transform", source, "--model", model_file, "--out", again)
    assert (status, error.partition(" were")[0]) == (0, "warning: 268 of 300 cells")
    expected = ad.read_h5ad(source)
    tt.transform(expected, tt.load(model_file))
    assert_same(ad.read_h5ad(again), expected)
    assert source.read_bytes() == before
    assert files(tmp_path) == ["again.h5ad", "cells.h5ad", "model.tt", "out.h5ad"]


def test_all_options_at_once_are_those_of_python(run, source, tmp_path):
    others = ("map", "use_rep", "init", "parents")  # not with all
    chosen = {name: given for name, given in EVERY_OPTION.items() if name not in others}
    options = [word for name, (text, _) in chosen.items() for word in words(name, text)]
    cells = ad.read_h5ad(source)
    cells.obs["class"], cells.obs["day"] = cells.obs["cell_type"].astype(str).str[:3], np.arange(cells.n_obs) % 5
    cells.write_h5ad(tmp_path / "more.h5ad")
    status, _, said = run("fit", tmp_path / "more.h5ad", "--out", tmp_path / "out.h5ad", *options)
    expected = ad.read_h5ad(tmp_path / "more.h5ad")
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        model = tt.fit(expected, **{name: value for name, (_, value) in chosen.items()})
    assert (status, said.splitlines()) == (
        0,
        [f"warning: {for_terminal(str(warning.message), cli.OPTIONS)}" for warning in given],
    )
    written = ad.read_h5ad(tmp_path / "out.h5ad")
    assert_same(written, expected)
    assert dict(written.uns["X_other"]["settings"]) == model.settings

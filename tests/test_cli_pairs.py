"""Two modalities in a terminal: what the verbs do with two files, or with one of two tables."""

import re
import sys

import anndata as ad
import numpy as np
import pytest
from samples import make_cells

import tripletomics as tt

md = pytest.importorskip("mudata")

FEW = ["--steps", "5"]


def proteins(adata, seed):
    """Twelve noisy readouts of each cell's type."""
    random = np.random.default_rng(seed)
    levels = np.random.default_rng(0).normal(size=(8, 12))
    kinds = ["abcdefgh".index(name) for name in adata.obs["kind"]]
    x = levels[kinds] + 0.3 * random.normal(size=(adata.n_obs, 12))
    table = ad.AnnData(x.astype(np.float32))
    table.obs_names, table.var_names = adata.obs_names, [f"P{i}" for i in range(12)]
    return table


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    rna = make_cells(300, 1)
    rna[:260].write_h5ad(folder / "rna.h5ad")
    proteins(rna, 1)[40:].write_h5ad(folder / "adt.h5ad")
    proteins(make_cells(60, 2), 2).write_h5ad(folder / "new.h5ad")
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    """What Python makes of the two files."""
    tables = ad.read_h5ad(folder / "rna.h5ad"), ad.read_h5ad(folder / "adt.h5ad")
    model = tt.fit(tables, "kind", steps=5, progress=False)
    query = ad.read_h5ad(folder / "new.h5ad")
    tt.predict(query, model)
    return tables, query


def test_two_files_become_one(run, folder, expected):
    out, model = folder / "both.h5mu", folder / "both.tt"
    given = ["--protein", folder / "adt.h5ad", "--label", "kind", "--out", out, "--model", model, *FEW]
    status, shown, error = run("fit", folder / "rna.h5ad", *given)
    assert (status, error) == (0, "")
    for line in ("by rna", "by protein", "same cell"):
        assert line in shown
    written = md.read_h5mu(out)
    assert written.n_obs == 300
    for table, side in zip(expected[0], (written["rna"], written["protein"]), strict=True):
        np.testing.assert_allclose(side.obsm["X_tt"], table.obsm["X_tt"], atol=1e-5)
        np.testing.assert_allclose(written[table.obs_names].obsm["X_tt"], table.obsm["X_tt"], atol=1e-5)
        assert side.obs["tt_split"].tolist() == table.obs["tt_split"].tolist()

    status, _, shown = run("predict", folder / "new.h5ad", "--model", model, "--out", folder / "labels.h5ad")
    assert status == 0
    assert "12 of the model's 12 genes were found" in shown
    found = ad.read_h5ad(folder / "labels.h5ad")
    assert found.obs["tt_label"].tolist() == expected[1].obs["tt_label"].tolist()

    given = ["--model", model, "--out", folder / "again.h5mu", "--figure", folder / "again.png"]
    status, shown, error = run("predict", out, *given)
    assert status == 0
    n = (written.obs["tt_split"] == "train").sum()
    assert error.startswith(f"warning: {n} of 300 cells were part of the fit")
    assert "\n162 of the model's 162 genes were found" in error
    assert (folder / "again.png").stat().st_size > 10_000
    again = md.read_h5mu(folder / "again.h5mu")
    np.testing.assert_allclose(again.obsm["X_tt"], written.obsm["X_tt"], atol=1e-5)
    assert run("transform", out, "--model", model, "--out", folder / "moved.h5mu")[0] == 0
    assert "X_tt" in md.read_h5mu(folder / "moved.h5mu").obsm


def test_one_file_of_two_tables(run, folder, expected):
    md.MuData({"rna": ad.read_h5ad(folder / "rna.h5ad"), "protein": ad.read_h5ad(folder / "adt.h5ad")}).write_h5mu(
        folder / "in.h5mu"
    )
    status, _, error = run("fit", folder / "in.h5mu", "--label", "kind", "--out", folder / "out.h5mu", *FEW)
    assert (status, error) == (0, "")
    found = md.read_h5mu(folder / "out.h5mu")["rna"].obsm["X_tt"]
    np.testing.assert_allclose(found, expected[0][0].obsm["X_tt"], atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "rna.h5ad", "--protein", "adt.h5ad", "--out", "o.h5ad"], "'.*o.h5ad' does not end in .h5mu: name"),
        (["fit", "rna.h5ad", "--protein", "no.h5ad", "--out", "o.h5mu"], "There is no file '.*no.h5ad'"),
        (["fit", "rna.h5ad", "--out", "o.h5mu"], "'.*o.h5mu' does not end in .h5ad"),
        (["fit", "small.h5mu", "--protein", "adt.h5ad", "--out", "o.h5mu"], "holds modalities already: leave '.*adt"),
        (["fit", "text.h5mu", "--out", "o.h5mu"], "is not an .h5mu file"),
        (["fit", "renamed.h5mu", "--out", "o.h5mu"], "not a MuData file: it lacks mod and obs|lacks mod"),
        (["evaluate", "small.h5mu", "--label", "kind"], "holds several modalities, and only one is read here"),
        (["compare", "small.h5mu", "--label", "kind", "--out", "o.html"], "holds several modalities"),
        (["fit", "rna.h5ad", "adt.h5ad", "--out", "o.h5mu"], "Unused Tokens|adt.h5ad"),
    ],
)
def test_refusals(run, folder, tmp_path, monkeypatch, arguments, message):
    for name in ("rna", "adt"):
        (tmp_path / f"{name}.h5ad").symlink_to(folder / f"{name}.h5ad")
    some = ad.read_h5ad(folder / "rna.h5ad")[:9].copy()
    md.MuData({"rna": some}).write_h5mu(tmp_path / "small.h5mu")
    some.write_h5ad(tmp_path / "renamed.h5mu")
    (tmp_path / "text.h5mu").write_text("a,b\n1,2\n")
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    status, _, error = run(*arguments)
    assert status in (1, 2)
    assert re.search(f"^error: .*({message})", error), error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_without_the_package_for_two_tables(run, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mudata", None)
    given = ["--protein", folder / "adt.h5ad", "--out", tmp_path / "o.h5mu"]
    status, _, error = run("fit", folder / "rna.h5ad", *given)
    assert status == 1
    assert 'pip install "tripletomics[mudata]"' in error

"""`tripletomics predict`, and `fit --index`."""

import inspect
import io
import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from samples import make_cells, predicted, values

import tripletomics as tt
from tripletomics import cli, tl
from tripletomics.cli.answers import COMMON
from tripletomics.names import percent


@pytest.fixture
def folder(trained, tmp_path):
    """A model, and 80 new cells of which some are of a type that it does not know."""
    trained[0].save(tmp_path / "model.tt")
    make_cells(80, 4, "abch").write_h5ad(tmp_path / "new.h5ad")
    return tmp_path


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_command_has_every_keyword_of_the_function():
    assert set(inspect.signature(cli.predict).parameters) == {
        "input", "out", "only_results", "obs", "transpose", "figure", "shard",
        *inspect.signature(tl.predict).parameters, *COMMON,
    } - {"adata"}  # fmt: skip


def test_the_command_writes_what_python_does_and_prints_a_table(run, folder):
    status, shown, said = run(
        "predict", folder / "new.h5ad", "--model", folder / "model.tt", "--out", folder / "labels.h5ad",
        "--figure", folder / "labels.png",
    )  # fmt: skip
    assert status == 0
    assert listed(folder) == ["labels.h5ad", "labels.png", "model.tt", "new.h5ad"]
    assert (folder / "labels.png").read_bytes().startswith(b"\x89PNG")
    found = ad.read_h5ad(folder / "labels.h5ad")
    expected = predicted(ad.read_h5ad(folder / "new.h5ad"), tt.load(folder / "model.tt"))
    for one, other in zip(values(found), values(expected), strict=True):
        assert one.tolist() == other.tolist()
    np.testing.assert_array_equal(found.obsm["X_tt"], expected.obsm["X_tt"])
    table = pd.read_csv(io.StringIO(shown), sep="\t").set_index("predicted_type")
    for name, of in expected.obs.groupby("tt_label", observed=True):
        row = [len(of), len(of) / 80, of["tt_confidence"].median()]
        assert table.loc[name].tolist() == pytest.approx(row)
    assert table["cells"].is_monotonic_decreasing
    assert table["cells"].sum() == 80
    assert said.startswith("150 of the model's 150 genes were found (100 % of their weight).\n")
    assert "Missing" not in said
    rejected = (expected.obs["tt_label"] == "unassigned").sum()
    assert f"\n{rejected} of 80 cells lie too far from all known types and are unassigned.\n" in said
    share = percent(expected.obs["tt_agrees"].mean(), 1)
    assert f"\n{share} of the cells have their best type among their 15 nearest reference cells on the map.\n" in said
    assert said.endswith(f"Wrote {folder / 'labels.h5ad'}, {folder / 'labels.png'}\n")


def test_the_command_takes_every_option(run, folder):
    query = ad.read_h5ad(folder / "new.h5ad")[:, 10:].copy()
    query.layers["raw"], query.var["symbol"] = query.X.copy(), query.var_names
    query.var_names = [f"id{i}" for i in range(140)]
    query.write_h5ad(folder / "new.h5ad")
    options = {"reject": 0.0, "fdr": 0.3, "groups": "kind", "coverage": 0.5, "layer": "raw", "missing": "impute",
               "alias": "symbol", "min_matched": 0.2, "key_added": "X_new"}  # fmt: skip
    others = {"adata", "model", "use_rep", "progress"}  # use_rep takes no layer, see test_embeddings.py
    assert set(options) == set(inspect.signature(tl.predict).parameters) - others
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    where = ["--model", folder / "model.tt", "--out", folder / "new.h5ad"]
    status, _, said = run("predict", folder / "new.h5ad", *where, *words)
    assert status == 0
    tt.predict(query, tt.load(folder / "model.tt"), **options)
    found = ad.read_h5ad(folder / "new.h5ad")
    for one, other in zip(values(found, "X_new"), values(query, "X_new"), strict=True):
        assert one.tolist() == other.tolist()
    groups = ["X_new_group_label", "X_new_group_label_set"]
    assert found.obs[groups].astype(str).equals(query.obs[groups].astype(str))
    heaviest = ", ".join(query.uns["X_new_mapping"]["missing_genes"][:5])
    weight = percent(query.uns["X_new_mapping"]["weight"])
    assert said.startswith(f"140 of the model's 150 genes were found ({weight} of their")
    assert f"\nMissing, heaviest first: {heaviest}.\n0 of 80 cells lie too far" in said
    record = query.uns["X_new_mapping"]
    assert (
        f"\n{record['novel']} of 80 cells are on the list of novel cells (false discovery rate 0.3). With "
        f"{record['calibration_cells']} calibration cells, fewer than {record['shortest_list']} novel cells cannot be "
        "found.\n" in said
    )
    np.testing.assert_array_equal(found.obs["X_new_novel"], query.obs["X_new_novel"])


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["--out", "o.h5ad", "--reject", "1"], r"--reject 1\.0 is not a share in \[0, 1\); 0 rejects no cell\.", 1),
        (
            ["--out", "o.h5ad", "--fdr", "5"],
            r"--fdr 5\.0 is not a share between 0 and 1, such as 0\.1; None makes no .*",
            1,
        ),
        (
            ["--out", "o.h5ad", "--coverage", "90"],
            r"--coverage 90\.0 is not a share between 0 and 1, such as 0\.9\.",
            1,
        ),
        (["--out", "o.h5ad", "--layer", "raw"], r"--layer raw is not a layer of 'new\.h5ad'\. Layers: none\.", 1),
        (["--out", "o.csv"], r"'o\.csv' does not end in \.h5ad: name the file 'o\.h5ad'\.", 1),
        (["--out", "o.h5ad", "--figure", "o.jpg"], r"'o\.jpg' does not end in \.png: name the file 'o\.png'\.", 1),
        (["--out", "no/o.h5ad"], r"The folder 'no' of 'o\.h5ad' does not exist: create it first\.", 1),
        (["--out", "o.h5ad", "--model", "nope.tt"], r"There is no model file 'nope\.tt'\.", 1),
        (["--out", "o.h5ad", "--missing", "fill"], r"Invalid value \"fill\" for --missing\..*", 2),
        ([], r"--out is missing: name the file to write, \.h5ad, or pass --only-results\.", 2),
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
    assert re.fullmatch("error: The query is missing 5 of the model's 150 genes .*\n", error)
    assert listed(folder) == ["model.tt", "new.h5ad"]


def test_a_figure_that_fails_leaves_no_file(run, folder, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tripletomics.pl.save", fail)
    out = ["--model", folder / "model.tt", "--out", folder / "o.h5ad", "--figure", folder / "o.png"]
    assert run("predict", folder / "new.h5ad", *out)[0] == 130
    assert listed(folder) == ["model.tt", "new.h5ad"]


def test_fit_keeps_an_index_in_the_model_file_alone(run, tmp_path):
    make_cells(120, 1, "abc").write_h5ad(tmp_path / "cells.h5ad")
    words = ["fit", tmp_path / "cells.h5ad", "--label", "kind", "--out", tmp_path / "map.h5ad", "--steps", 2]
    assert run(*words, "--index") == (
        1, "", "error: --index is kept with the model: name its file with --model.\n",
    )  # fmt: skip
    assert "error: --card is kept with the model" in run(*words, "--card")[2]
    (tmp_path / "index.md").write_text("mine")
    assert "index.md' exists and is not a model card" in run(*words, "--card", "--model", tmp_path / "index.tt")[2]
    assert listed(tmp_path) == ["cells.h5ad", "index.md"]
    assert run(*words, "--index", "--model", tmp_path / "index.tt")[::2] == (0, "")
    status, said, _ = run(*words, "--model", tmp_path / "plain.tt", "--card")
    assert (status, said.splitlines()[-1].split("/")[-1]) == (0, "plain.md")
    assert (tmp_path / "plain.md").read_text().startswith("# Model card: plain.tt")
    adata = ad.read_h5ad(tmp_path / "map.h5ad")
    train = adata[adata.obs["tt_split"] == "train"]
    hits = tt.load(tmp_path / "index.tt").search(train.X, 1)
    assert hits.names.ravel().tolist() == train.obs_names.tolist()
    assert hits.labels.ravel().tolist() == train.obs["kind"].tolist()
    assert tt.load(tmp_path / "plain.tt").catalog is None

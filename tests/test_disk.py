"""Tables on disk: the fit in memory where they fit into it, a sample of their rows where not, and all rows placed."""

import functools
import hashlib
import inspect
import itertools
import os
import re
import resource
import shutil

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from samples import make_cells

import tripletomics as tt
from tripletomics import files, labels, pp
from tripletomics.losses.defaults import DEFAULT_LOSS, DEFAULT_VIEWS
from tripletomics.problem import Settings
from tripletomics.store import frames, reading, sampling, writing
from tripletomics.tl import paths, transform_shard

FEW = {"steps": 2, "progress": False}
KEYS = ("X_tt", "X_tt_metric", "X_tt_pca")
N = 900
ROOM = 250 * 150 * 8  # bytes of about 300 rows


@pytest.fixture(scope="module")
def table():
    """Cells with donors, unlabelled ones and a matrix of each kind."""
    adata = make_cells(N, 1)
    adata.obs["kind"] = adata.obs["kind"].mask(np.arange(N) % 10 == 0, "Unknown").astype("category")
    adata.obs["donor"] = pd.Categorical([f"d{i}" for i in np.random.default_rng(0).integers(3, size=N)])
    adata.obs["age"] = np.arange(N)
    adata.X = sp.csr_matrix(adata.X)
    adata.layers["dense"] = adata.X.toarray()
    adata.layers["csc"] = adata.X.tocsc()
    adata.obsm["X_other"] = np.arange(2.0 * N).reshape(N, 2)
    adata.obsp["near"] = sp.random(N, N, 0.002, "csr", random_state=0)
    adata.uns["colors"] = ["red", "blue"]
    return adata


@pytest.fixture(scope="module")
def written(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    table.write_h5ad(folder / "cells.h5ad", compression="gzip")
    table.write_zarr(folder / "cells.zarr")
    return folder


@pytest.fixture
def copy(written, tmp_path):
    """Copy a table for a test that changes it."""

    def copy(name):
        (shutil.copytree if name.endswith(".zarr") else shutil.copy)(written / name, tmp_path / name)
        return tmp_path / name

    return copy


@pytest.fixture
def narrow(monkeypatch):
    """As if memory held few cells."""
    for name in ("WHOLE_BYTES", "SAMPLE_BYTES"):
        monkeypatch.setattr(sampling, name, ROOM)
    monkeypatch.setattr(reading, "PART_BYTES", 2**18)


@pytest.fixture(scope="module")
def trained():
    return tt.fit(make_cells(300, 3), "kind", hold_out=0, **FEW)


def read(path):
    return ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)


def digests(path):
    """Tell what every file holds, below a folder too."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def close(found, known):
    np.testing.assert_allclose(found, known, rtol=0, atol=1e-5 * np.ptp(known))


# ---------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
@pytest.mark.parametrize("layer", [None, "dense", "csc"])
def test_rows_of_any_numbers(table, written, monkeypatch, name, layer):
    monkeypatch.setattr(reading, "PART_BYTES", 2**15)  # many blocks
    chosen = np.sort(np.random.default_rng(0).permutation(N)[:90])
    with reading.open_to_read(written / name) as (root, var):
        rows = reading.Rows(root, written / name, layer)
        for some in (chosen, np.arange(N), chosen[:0], np.array([3, N - 1])):
            found = rows.gather(some)
            assert sp.issparse(found) == (layer != "dense")
            np.testing.assert_array_equal(found.toarray() if sp.issparse(found) else found, table.X[some].toarray())
        assert rows.gather(chosen, sparse=True).format == "csr"
        assert frames.Obs(root, written / name).names(chosen).tolist() == table.obs_names[chosen].tolist()
        assert var.index.equals(table.var_names)


# ---------------------------------------------------------------------------------------------------- fit


@pytest.mark.parametrize(("name", "layer"), [("cells.h5ad", None), ("cells.zarr", "dense")])
def test_a_sample_of_what_does_not(table, copy, narrow, name, layer):
    path = copy(name)
    model = tt.fit(path, "kind", layer=layer, **FEW)
    codes, _ = labels.encode(table.obs["kind"], labels.UNLABELLED)
    held_out = pp.split(table, 0.1, codes, 0)
    with reading.open_to_read(path) as (root, _):
        rows = reading.Rows(root, path, layer)
        most = int(sampling.SAMPLE_BYTES // rows.bytes_of_a_row(rows.is_smaller_as_csr()))
    chosen = sampling.draw(codes, held_out, most, 0)
    assert len(chosen) < 0.6 * N
    sample = table[chosen].copy()
    sample.obs["spared"] = held_out[chosen]
    known = tt.fit(sample, "kind", layer=layer, **FEW | {"hold_out": "spared", "loss": "softmax"})
    assert (model.scores, model.checks, model.p_value) == (known.scores, known.checks, known.p_value)
    assert model.settings == known.settings | {"hold_out": "0.1", "cells": f"{len(chosen)} of 900"}
    assert f"Fitted to and scored on a sample: {len(chosen)} of 900 cells." in model.summary()
    assert model.catalog.names.tolist() == table.obs_names[chosen[~held_out[chosen]]].tolist()

    found, adata = read(path), table.copy()
    adata.obsm["X_tt_pca"] = np.zeros((N, 1))
    tt.transform(adata, known, layer=layer)
    for key in KEYS:
        close(found.obsm[key], adata.obsm[key])
    assert ((found.obs["tt_split"] == "held-out") == held_out).all()
    assert found.uns["X_tt"]["settings"]["cells"] == model.settings["cells"]
    pd.testing.assert_frame_equal(found.obs[list(table.obs)], table.obs)


def test_sorted_files_are_fitted_as_well(narrow, tmp_path):
    scores = []
    for order in ("any", "sorted"):
        adata = make_cells(N, 2)
        adata = adata[np.argsort(adata.obs["kind"].to_numpy(), kind="stable")].copy() if order == "sorted" else adata
        adata.write_h5ad(tmp_path / f"{order}.h5ad")
        scores.append(tt.fit(tmp_path / f"{order}.h5ad", "kind", steps=15, progress=False).scores["held-out"]["metric"])
    assert min(scores) > 0.9
    assert abs(scores[0] - scores[1]) < 0.05


def test_the_steps_and_the_loss_follow_all_cells(written, monkeypatch):
    """They are not those of the sample, which has other shares."""
    monkeypatch.setattr(sampling, "WHOLE_BYTES", ROOM)
    path = written / "cells.h5ad"
    with reading.open_to_read(path) as (root, var):
        obs, rows = frames.Obs(root, path), reading.Rows(root, path)
        settings = Settings("kind", unlabelled=("a", "b"))
        adata, drawn = sampling.read_sample(rows, obs, var, settings)
    found = paths.settings_of_sample(drawn, settings)
    assert found["loss"] == DEFAULT_LOSS + " + " + DEFAULT_VIEWS
    assert found["steps"] == round(30 * np.log2((~drawn.held_out).sum() / 50))
    assert list(adata.obs) == ["kind", "donor", "age"]  # so that refusals can list them
    assert adata.obs[["donor", "age"]].isna().all(axis=None)


def test_the_shares_of_a_sample():
    codes = np.repeat([0, 1, 2, -1], [5000, 300, 20, 1000])
    held_out = np.arange(len(codes)) % 10 == 0
    chosen = sampling.draw(codes, held_out, 1000, 0)
    assert (np.diff(chosen) > 0).all()
    assert len(chosen) == 1000
    asked, trained = chosen[held_out[chosen]], codes[chosen[~held_out[chosen]]]
    assert (len(asked), (codes[asked] >= 0).all()) == (250, True)
    unlabelled = round(750 * 900 / 5688)
    assert np.bincount(trained + 1).tolist() == [unlabelled, 750 - unlabelled - 270 - 18, 270, 18]
    assert sampling.draw(codes, held_out, 10**6, 0).size == (~held_out | (codes >= 0)).sum()
    bare = np.full(5000, -1)
    assert sampling.draw(bare, np.zeros(5000, dtype=bool), 700, 1).size == 700
    assert (sampling.draw(codes, held_out, 1000, 1) != chosen).any()


def test_codes_by_categories():
    for values in (
        pd.Series(["b", "a", None, "Unknown", "b"]),
        pd.Series([2, 10, 2]),
        pd.Series([True, False]),
        pd.Series(pd.Categorical(["b", "c", None], categories=["c", "a", "b"])),
    ):
        cells, settings = (
            ad.AnnData(obs=pd.DataFrame({"kind": values})),
            Settings(label="kind", unlabelled=("Unknown",)),
        )
        found = pp.read_columns(cells, settings, pp.roles_of(["kind"], settings))
        np.testing.assert_array_equal(found.nodes, labels.encode(values, ("Unknown",))[0])


# ---------------------------------------------------------------------------------------------------- transform


@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
def test_all_rows_are_placed(table, copy, trained, monkeypatch, name):
    path, adata = copy(name), table[:, 10:].copy()
    monkeypatch.setattr(writing, "CHUNK_ROWS", 400)
    tt.transform(path, trained)
    assert not {"X_tt_pca"} & set(read(path).obsm)
    before = read(path)
    before[:, 10:].copy().write_h5ad(path.with_name("short.h5ad"))
    tt.transform(path.with_name("short.h5ad"), trained, missing="impute", key_added="Z")
    tt.transform(adata, trained, missing="impute", key_added="Z")
    whole = table.copy()
    tt.transform(whole, trained)
    for key in KEYS[:2]:
        close(before.obsm[key], whole.obsm[key])
        close(read(path.with_name("short.h5ad")).obsm[key.replace("X_tt", "Z")], adata.obsm[key.replace("X_tt", "Z")])
    assert before.uns["colors"].tolist() == ["red", "blue"]
    np.testing.assert_array_equal(before.obsm["X_other"], table.obsm["X_other"])


def test_components_of_an_earlier_fit_are_replaced(trained, tmp_path):
    whole = make_cells(N, 4)
    whole.obsm["X_tt_pca"] = np.zeros((N, 1))
    whole.write_h5ad(tmp_path / "cells.h5ad")
    tt.transform(tmp_path / "cells.h5ad", trained)
    tt.transform(whole, trained)
    for key in KEYS:
        close(read(tmp_path / "cells.h5ad").obsm[key], whole.obsm[key])


# ------------------------------------------------------------------------------------------------------- predict


@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
def test_predictions_by_path_are_those_in_memory(copy, trained, tmp_path, monkeypatch, name):
    path = copy(name)
    monkeypatch.setattr(writing, "CHUNK_ROWS", 400)
    for given in ({"groups": "donor", "fdr": 0.3, "reject": 0.2}, {}):  # the second removes columns of the first
        whole = read(path)
        tt.predict(whole, trained, **given)
        whole.write_h5ad(tmp_path / "whole.h5ad")
        whole = read(tmp_path / "whole.h5ad")
        tt.predict(path, trained, **given)
        found = read(path)
        assert {*found.obs} == {*whole.obs}
        for column, values in whole.obs.items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(found.obs[column], values, atol=1e-6)
            else:
                assert found.obs[column].equals(values), column
        for word, value in whole.uns["tt_mapping"].items():
            np.testing.assert_array_equal(found.uns["tt_mapping"][word], value)
        assert found.uns["X_tt"]["seen"] == trained.id
        for key in KEYS[:2]:
            close(found.obsm[key], whole.obsm[key])


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"groups": "donors"}, KeyError, "groups='donors' is not a column of adata.obs. Did you mean 'donor'"),
        ({"groups": "age"}, ValueError, "it seems to name cells"),
        ({"groups": 3}, TypeError, "groups=3 is not the name of a column"),
        ({"fdr": 2}, ValueError, "fdr=2 is not a share"),
        ({"layer": "csc"}, ValueError, "stored by genes"),
    ],
)
def test_nothing_is_written_if_a_prediction_by_path_is_refused(written, trained, given, kind, message):
    before = digests(written)
    for name in ("cells.h5ad", "cells.zarr"):
        with pytest.raises(kind, match=message):
            tt.predict(written / name, trained, **given)
    assert digests(written) == before


def test_predict_on_the_command_line(run, copy, narrow, trained, tmp_path):
    source, store, out = copy("cells.h5ad"), copy("cells.zarr"), tmp_path / "out.h5ad"
    trained.save(tmp_path / "m.tt")
    model = ["--model", tmp_path / "m.tt"]
    before = digests(source)
    status, said, error = run("predict", source, *model, "--out", out, "--groups", "donor")
    assert (status, error.splitlines()[-1]) == (0, f"Wrote {out}")
    assert "donor d1, " in error
    assert digests(source) == before
    assert run("predict", store, *model, "--groups", "donor")[1] == said.replace(str(out), str(store))
    assert read(store).obs["tt_label"].equals(read(out).obs["tt_label"])
    for option, message in (("--out", "leave --out out"), ("--figure", "--figure cannot be drawn from")):
        status, said, error = run("predict", store, *model, option, tmp_path / "other.png")
        assert (status, said) == (1, "")
        assert message in error


@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
def test_shards_of_predict_are_joined_by_predict(run, copy, trained, tmp_path, monkeypatch, name):
    path, whole = copy(name), tmp_path / "whole" / name
    (shutil.copytree if path.is_dir() else shutil.copy)(path, (whole.parent.mkdir(), whole)[1])
    monkeypatch.setattr(writing, "CHUNK_ROWS", 400)
    trained.save(tmp_path / "m.tt")
    command = "predict", path, "--model", tmp_path / "m.tt", "--reject", "0.2"
    before = digests(path)
    assert run(*command, "--shard", "2/2")[1].startswith("Rows 400 to ")
    out = [] if path.is_dir() else ["--out", tmp_path / "out.h5ad"]
    assert "of rows: run the other shards first, or delete the folder" in run(*command, *out)[2]
    assert ", 400 of them in this run. When all" in run(*command, "--shard", "1/2")[1]
    assert ", 0 of them in this run. When all" in run(*command, "--shard", "1/2")[1]
    assert run(*command, "--shard", "1/99")[1].startswith("Shard 1/99 has no rows: use fewer shards")
    assert digests(path) == before
    calls = []
    monkeypatch.setattr("tripletomics.store.placing._read_block", lambda *_: calls.append(1))
    assert run(*command, *out)[0] == 0
    assert not calls  # nothing is computed twice
    monkeypatch.undo()
    monkeypatch.setattr(writing, "CHUNK_ROWS", 400)
    tt.predict(whole, trained, reject=0.2)
    found, expected = read(out[1] if out else path), read(whole)
    assert found.obs.equals(expected.obs)
    for key in KEYS[:2]:
        assert np.array_equal(found.obsm[key], expected.obsm[key])
    for word, value in expected.uns["tt_mapping"].items():
        np.testing.assert_array_equal(found.uns["tt_mapping"][word], value)
    assert not list(path.parent.glob("*-parts"))


def test_shards_of_predict_that_do_not_fit_are_refused(run, copy, trained, tmp_path, monkeypatch):
    path = copy("cells.zarr")
    monkeypatch.setattr(writing, "CHUNK_ROWS", 400)
    trained.save(tmp_path / "m.tt")
    command = "predict", path, "--model", tmp_path / "m.tt"
    options, asked = (inspect.signature(verb).parameters for verb in (tt.tl.predict_shard, tt.predict))
    assert {*options} - {"path", "shard"} == {*asked} - {"adata", "fdr", "groups"}
    assert all(options[word].default == asked[word].default for word in {*options} & {*asked})
    for option, value, message in (
        ("--fdr", "0.1", "--fdr looks at all cells at once, and a shard has a part of them"),
        ("--groups", "donor", "--groups looks at all cells at once, and a shard has a part of them"),
        ("--out", "o.h5ad", "--shard writes next to INPUT: leave --out out"),
        ("--reject", "2", "--reject 2.0 is not a share"),
    ):
        status, said, error = run(*command, "--shard", "1/1", option, value)
        assert (status, said) == (1, "")
        assert message in error
    folder = path.with_name("cells.zarr.tt-parts")
    assert not folder.exists()
    tt.tl.predict_shard(path, tmp_path / "m.tt", "1/1")
    for given, message in (
        ({"reject": 0.5}, "were made with another reject: use the same again, or delete the folder"),
        ({"fdr": 0.1}, r"fdr=0\.1 looks at all cells at once, and the parts in .* do not hold what it needs"),
        ({"groups": "donor"}, "groups='donor' looks at all cells at once"),
    ):
        with pytest.raises(ValueError, match=message):
            tt.predict(path, trained, **given)
    assert "--figure cannot be drawn" in run(*command, "--figure", tmp_path / "f.png")[2]
    with pytest.raises(ValueError, match="were made with another reject"):
        tt.tl.predict_shard(path, tmp_path / "m.tt", "1/1", reject=0.5)
    before = digests(path)
    damaged = folder / "400.h5ad"
    damaged.write_bytes(damaged.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"400\.h5ad' is damaged: delete it, and run its shard again"):
        tt.predict(path, trained)
    assert digests(path) == before
    (folder / "made-by.json").write_text("[")
    with pytest.raises(ValueError, match="is not a folder of predict --shard"):
        tt.predict(path, trained)


def test_shards_that_are_not_complete_are_left_alone(copy, trained, tmp_path, monkeypatch):
    path = copy("cells.zarr")
    trained.save(tmp_path / "m.tt")
    monkeypatch.setattr(writing, "CHUNK_ROWS", 300)
    transform_shard(path, tmp_path / "m.tt", "1/3")
    with pytest.raises(ValueError, match=r"obsm\['X_tt_metric'\] of .* was begun with transform --shard and has rows"):
        tt.fit(path, "kind", **FEW)
    tt.transform(path, trained, key_added="Z")
    transform_shard(path, tmp_path / "m.tt", "1/1")
    tt.transform(path, trained)
    close(read(path).obsm["X_tt"], read(path).obsm["Z"])
    with pytest.raises(ValueError, match="is already there, and not from transform --shard"):
        transform_shard(path, tmp_path / "m.tt", "1/1")


@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
def test_a_fit_replaces_what_is_there(copy, trained, name):
    path = copy(name)
    tt.transform(path, trained)
    before = read(path)
    before.obs["tt_split"], before.uns["X_tt"], before.obsm["X_tt_pca"] = "none", {"a": 1}, np.zeros((N, 3))
    before.obsm["X_tt"] = np.zeros((N, 3))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    (before.write_zarr if path.suffix == ".zarr" else before.write_h5ad)(path)
    tt.fit(path, None, steps=1, hold_out="donor", progress=False)
    found = read(path)
    assert [found.obsm[key].shape[1] for key in KEYS] == [2, 32, 50]
    assert list(found.obs) == ["kind", "donor", "age", "tt_split"]
    assert found.uns["X_tt"]["settings"]["label"] == "None"
    assert set(found.obs["tt_split"]) == {"train", "held-out"}


# ---------------------------------------------------------------------------------------------------- refusals


def refusals(folder, source):
    (folder / "cut.h5ad").write_bytes(source.read_bytes()[:-2000])
    (folder / "nothing.zarr").mkdir()
    (folder / "file.zarr").touch()
    (folder / "folder.h5ad").mkdir()
    zarr.create_group(folder / "other.zarr")
    shutil.copy(source, folder / "old.h5ad")
    with h5py.File(folder / "old.h5ad", "r+") as root:
        del root["obs"].attrs["encoding-type"]
    return {
        "no.h5ad": (FileNotFoundError, "There is no file '.*no.h5ad'"),
        "no.zarr": (FileNotFoundError, "There is no store '.*no.zarr'"),
        "cut.h5ad": (ValueError, "cannot be opened: .*truncated"),
        "folder.h5ad": (ValueError, "is a folder: name an .h5ad file"),
        "file.zarr": (ValueError, "is a file, and a .zarr store is a folder"),
        "nothing.zarr": (ValueError, "cannot be read as AnnData"),
        "other.zarr": (ValueError, "is a .zarr store but not one of cells: it holds nothing"),
        "cells.csv": (ValueError, "is neither .h5ad nor .zarr, and only these are read from disk: write it as one"),
        "cells.h5mu": (ValueError, "only these are read from disk: read it with mudata.read_h5mu and pass the MuData"),
        "old.h5ad": (ValueError, "obs of '.*' is not stored by columns, as anndata 0.7 and newer do"),
    }


def test_paths_that_cannot_be_read(written, tmp_path, trained):
    for name, (kind, message) in refusals(tmp_path, written / "cells.h5ad").items():
        with pytest.raises(kind, match=message):
            tt.fit(tmp_path / name, "kind")
        if name != "old.h5ad":
            with pytest.raises(kind, match=message):
                tt.transform(tmp_path / name, trained)


@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
def test_nothing_is_written_if_a_fit_is_refused(written, narrow, name):
    path = written / name
    before = digests(path)
    for given, kind, message in [
        (
            {"label": "kinds"},
            KeyError,
            "label='kinds' is not a column.* Did you mean 'kind'.* Columns: kind, donor, age",
        ),
        ({"batch": "donors"}, KeyError, "batch='donors' is not a column .* Did you mean 'donor'"),
        ({"hold_out": "dono=d1"}, KeyError, "hold_out='dono' is not a column .* Did you mean 'donor'"),
        ({"hold_out": "donor=d9"}, ValueError, "'d9' is not a group of 'donor'"),
        ({"layer": "denser"}, KeyError, "layer='denser' is not a layer of .* Did you mean 'dense'"),
        ({"loss": "tripplet"}, ValueError, "Did you mean 'triplet'"),
        ({"label": None, "loss": "triplet"}, ValueError, "label=None gives none.* Columns: kind, donor, age"),
        ({"dim": 4}, ValueError, "dim=4 is not a whole number from 2 to 3"),
        ({"key_added": "a/b"}, ValueError, "key_added='a/b' is not a name"),
    ]:
        with pytest.raises(kind, match=message):
            tt.fit(path, **{"label": "kind"} | given)
    assert digests(path) == before


def test_other_verbs_and_pairs_want_tables_in_memory(written, trained, table):
    path = written / "cells.zarr"
    message = r"adata is \w+, not AnnData: .* a store with anndata.read_zarr"
    for call in (
        lambda: tt.evaluate(path, "kind"),
        lambda: tt.compare(path, "kind"),
        lambda: tt.fit((path, path), "kind"),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    adata = table[:100].copy()
    pair = tt.fit((adata[:, :75].copy(), adata[:, 75:].copy()), hold_out=0, steps=1, progress=False)
    with pytest.raises(ValueError, match=r"The model has two modalities \(rna and protein\), and a dataset on disk"):
        tt.transform(path, pair)
    with pytest.raises(ValueError, match=r"The model has two modalities \(rna and protein\), and a dataset on disk"):
        tt.predict(path, pair)


def test_a_read_only_store(written, trained, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(PermissionError, match=r"cells.zarr' is read-only: coordinates are written into it"):
        tt.transform(written / "cells.zarr", trained)


def test_a_store_that_cannot_be_replaced(written, trained, monkeypatch):
    before, access = digests(written), os.access
    monkeypatch.setattr("os.access", lambda path, mode: access(path, mode) and os.fspath(path) != str(written))
    with pytest.raises(PermissionError, match="lies in a folder that is read-only: a new store is made next to it"):
        tt.transform(written / "cells.zarr", trained)
    monkeypatch.undo()
    monkeypatch.setattr("pathlib.Path.is_mount", lambda path: path.name == "cells.zarr")
    with pytest.raises(PermissionError, match="is a mount point: a new store"):
        tt.fit(written / "cells.zarr", "kind", **FEW)
    assert digests(written) == before


# ---------------------------------------------------------------------------------------------------- damage


def spoil(path, name, i):
    """Cut a chunk of an array, or write over its bytes; return its rows."""
    if path.suffix == ".zarr":
        array = zarr.open_group(path, use_consolidated=False)[name]
        chunk = path / name / array.metadata.encode_chunk_key((i,) + (0,) * (array.ndim - 1))
        chunk.write_bytes(chunk.read_bytes()[:20])
        return i * array.chunks[0], min((i + 1) * array.chunks[0], N) - 1
    with h5py.File(path) as root:
        array = root[name]
        chunk = array.id.get_chunk_info_by_coord((i * array.chunks[0],) + (0,) * (array.ndim - 1))
        rows = i * array.chunks[0], min((i + 1) * array.chunks[0], N) - 1
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * 30)
    return rows


@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
def test_a_damaged_chunk_names_its_rows(copy, narrow, trained, monkeypatch, name):
    path = copy(name)
    with reading.open_to_read(path) as (root, _):
        place = 600 // root["layers/dense"].chunks[0]
    first, last = spoil(path, "layers/dense", place)
    before = digests(path.parent)
    for call in (
        lambda: tt.transform(path, trained, layer="dense"),
        lambda: tt.fit(path, "kind", layer="dense", **FEW),
    ):
        with pytest.raises(
            ValueError, match=r"of layers/dense in .* cannot be read: .* Copy the (file|store) again"
        ) as e:
            call()
        found = [int(text.replace(",", "")) for text in re.findall("Rows ([0-9,]+) to ([0-9,]+)", str(e.value))[0]]
        assert first <= found[0] <= found[1] <= last
    assert digests(path.parent) == before


def test_a_damaged_matrix_by_genes_or_column(copy, monkeypatch):
    path = copy("cells.h5ad")
    spoil(path, "layers/csc/data", 0)
    spoil(path, "obs/kind/codes", 0)
    with reading.open_to_read(path) as (root, _):
        rows = reading.Rows(root, path, "csc")
        with pytest.raises(ValueError, match=r"Genes 0 to [\d,]+ of layers/csc in .* cannot be read"):
            rows.gather(np.arange(9))
    with pytest.raises(ValueError, match=r"obs\['kind'\] of '.*' cannot be read"):
        tt.fit(path, "kind")


def test_values_that_cannot_be_used(narrow, trained, tmp_path):
    bad, path = make_cells(N, 4), tmp_path / "cells.h5ad"
    bad.X = sp.csr_matrix(bad.X)
    bad.X.data[bad.X.indptr[700]] = np.nan
    bad.write_h5ad(path)
    before = digests(path)
    with pytest.raises(ValueError, match=r"^Rows 0 to 899: 1 cell has NaN"):
        tt.transform(path, trained)
    with pytest.raises(ValueError, match="1 cell has NaN"):
        tt.fit(path, "kind", hold_out=0, **FEW)
    assert digests(path) == before


@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
def test_a_disk_that_fills_up(copy, trained, name, monkeypatch):
    """The system refuses to write more than a few kB to a file, as a quota or a full disk does."""
    path = copy(name)
    before = digests(path.parent)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20_000 if path.is_file() else 9000, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r"could not be written \(File too large\)\. It takes up to .*B, .* free\. No part of"
        ):
            tt.transform(path, trained)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert digests(path.parent) == before
    usage = shutil.disk_usage(path.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"up to .*B, and the disk of .* has 1\.0 kB free: make room first"):
        tt.fit(path, "kind", **FEW)
    assert digests(path.parent) == before


class Kill(BaseException):
    """Nothing is tidied up after it."""


@pytest.mark.parametrize("platform", ["linux", "other"])
def test_a_refit_that_is_killed_before_any_renaming(tmp_path, monkeypatch, platform):
    """A reader finds all of the old fit or all of the new one, and the next run tidies up."""
    path, other = tmp_path / "cells.zarr", np.arange(60.0).reshape(30, 2)
    ad.AnnData(np.eye(30, 4, dtype=np.float32), obsm={"X_other": other}).write_zarr(path)
    monkeypatch.setattr("sys.platform", platform)

    def refit(value):
        arrays = {key: np.full((30, 2), value, dtype=np.float32) for key in KEYS}
        column = pd.Categorical([f"v{value}"] * 30)
        results = writing.Results(
            30, dict.fromkeys(KEYS, 2), [writing.Block(0, 30, arrays)], {"tt_split": column}, {"X_tt": {"a": value}}
        )
        writing.write(path, path, results, 1)

    def found():
        adata = ad.read_zarr(path)
        values = {float(part) for key in KEYS for part in np.unique(adata.obsm[key])}
        values |= {float(name[1:]) for name in adata.obs["tt_split"]} | {float(adata.uns["X_tt"]["a"])}
        assert adata.obsm["X_other"].tolist() == other.tolist()
        return values

    refit(0)
    rename, remove, exchange, left = os.rename, shutil.rmtree, files.exchange, [0]

    def killed(usual, *given):
        left[0] -= 1
        if left[0] < 0:
            raise Kill
        return usual(*given)

    for number in itertools.count():
        left[0] = number
        monkeypatch.setattr("os.rename", functools.partial(killed, rename))
        monkeypatch.setattr("tripletomics.files.exchange", functools.partial(killed, exchange))
        monkeypatch.setattr(shutil, "rmtree", lambda *given, **more: left[0] < 0 or remove(*given, **more))
        try:
            refit(number + 1)
        except Kill:
            ended = False
        else:
            ended = True
        monkeypatch.setattr("os.rename", rename)
        monkeypatch.setattr("tripletomics.files.exchange", exchange)
        monkeypatch.setattr(shutil, "rmtree", remove)
        with reading.open_to_read(path):  # brings back a store that was put aside
            pass
        assert found() == ({number + 1} if ended else {0})
        files.sweep(path.parent)
        assert os.listdir(path.parent) == ["cells.zarr"]
        assert not [part for part in os.listdir(path) if part.startswith(files.DRAFT)]
        if ended:
            break
    assert number > 3


def test_what_others_write_meanwhile_is_kept(copy, trained):
    """A fit into a store waits for those that write a block of rows, and takes over what they have written."""
    path = copy("cells.zarr")
    shutil.rmtree(path / "obsm" / "X_other")

    def blocks():
        zarr.open_group(path, use_consolidated=False)["obsm"].create_array("X_late", data=np.zeros((N, 2)))
        yield writing.Block(0, N, {"X_tt": np.ones((N, 2), dtype=np.float32)})

    writing.write(path, path, writing.Results(N, {"X_tt": 2}, blocks(), {}, {}), 1)
    assert {"X_late", "X_tt"} <= {part.name for part in (path / "obsm").iterdir()}


@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
def test_a_link_stays_a_link(copy, tmp_path, name):
    path = copy(name)
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / name
    link.symlink_to(path)
    tt.fit(link, "kind", **FEW)
    assert link.is_symlink()
    assert "X_tt" in getattr(ad, f"read_{path.suffix[1:]}")(path).obsm
    assert sorted(os.listdir(tmp_path)) == sorted([name, "links"])
    assert os.listdir(tmp_path / "links") == [name]


# ---------------------------------------------------------------------------------------------------- command line


def test_command_line(run, table, copy, narrow, trained, tmp_path):
    source, store, out, model = copy("cells.h5ad"), copy("cells.zarr"), tmp_path / "out.h5ad", tmp_path / "m.tt"
    before = digests(source)
    options = ["--label", "kind", "--steps", "4", "--hold-out", "0", "--model", model]
    status, said, error = run("fit", source, "--out", out, *options)
    assert (status, error) == (0, "")
    assert said.endswith(f"Wrote {out}, {model}\n")
    assert "Fitted to and scored on a sample: " in said
    status, said, error = run("fit", store, *options)
    assert (status, said.splitlines()[-1]) == (0, f"Wrote {store}, {model}")
    for key in KEYS:
        close(read(store).obsm[key], read(out).obsm[key])
    status, _, error = run("transform", source, "--model", model, "--out", tmp_path / "again.h5ad")
    sample = len(tt.load(model).seen.hashes)
    assert (status, error.partition(" were")[0]) == (0, f"warning: {sample} of 900 cells")
    close(read(tmp_path / "again.h5ad").obsm["X_tt"], read(out).obsm["X_tt"])
    assert digests(source) == before
    status, said, error = run("fit", store, "--label", "kind", "--out", out)
    assert (status, said) == (1, "")
    assert re.fullmatch("error: Coordinates of '.*cells.zarr' are written into it: leave --out out.\n", error)
    status, _, error = run("transform", source, "--model", model, "--out", out, "--key-added", "a/b")
    assert (status, error.startswith("error: --key-added a/b is not a name")) == (1, True)


@pytest.mark.parametrize("layer", [None, "dense"])
def test_what_is_large_follows_from_the_table_alone(written, monkeypatch, layer):
    path = written / "cells.h5ad"
    with reading.open_to_read(path) as (root, _):
        rows = reading.Rows(root, path, layer)
        arrays = [rows.matrix] if layer else [rows.matrix[name] for name in ("data", "indices", "indptr")]
        n_bytes = sum(array[...].nbytes for array in arrays)
        assert rows.n_bytes == n_bytes
    for name, most in (("WHOLE_BYTES", n_bytes), ("WHOLE_CELLS", N)):
        assert not paths.is_large(path, layer)
        monkeypatch.setattr(sampling, name, most)
        assert not paths.is_large(path, layer)
        monkeypatch.setattr(sampling, name, most - 1)
        assert paths.is_large(path, layer)
        assert not paths.is_large(path, "csc")  # its rows cannot be read alone
        monkeypatch.undo()


def test_a_matrix_by_genes_is_fitted_whole(copy, narrow, trained):
    path = copy("cells.zarr")
    assert "cells" not in tt.fit(path, "kind", layer="csc", **FEW).settings
    with pytest.raises(ValueError, match=r"stored by genes .* write it by cells first, with tripletomics convert"):
        tt.transform(path, trained, layer="csc")


@pytest.mark.parametrize("verb", ["fit", "transform"])
def test_a_file_that_fits_goes_through_memory(run, copy, trained, tmp_path, verb):
    """And so does one by genes, however large."""
    copy("cells.h5ad")
    trained.save(tmp_path / "m.tt")
    rest = ["--label", "kind", "--steps", "2"] if verb == "fit" else ["--model", tmp_path / "m.tt"]
    assert run(verb, tmp_path / "cells.h5ad", "--out", tmp_path / "out.h5ad", "--layer", "csc", *rest)[0] == 0
    assert read(tmp_path / "out.h5ad").obsm["X_tt"].shape == (N, 2)

"""Shards of a store: equal to `transform` on the same cells, resumable, and damage in words."""

import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from samples import make_cells

import tripletomics as tt
from tripletomics import files, tl
from tripletomics.store.writing import CHUNK_ROWS as CHUNK

N = 2 * CHUNK + 600  # three chunks
BOTH = pytest.mark.parametrize("written", [2, 3], indirect=True, ids=["zarr2", "zarr3"])


@pytest.fixture(scope="session")
def atlas():
    """Cells of three chunks with a layer, genes in another order than the model's, and some more."""
    adata = make_cells(N, 3)
    extra = ad.AnnData(sp.csr_matrix((N, 7), dtype=np.float32), obs=adata.obs.copy())
    extra.var_names = [f"Extra{i}" for i in range(7)]
    adata = ad.concat([adata, extra], axis=1, merge="first")
    adata = adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    adata.X = sp.csr_matrix(adata.X)
    adata.layers["dense"] = adata.X.toarray()
    return adata


@pytest.fixture(scope="session")
def trained():
    return tt.fit(make_cells(300, 1), "kind", steps=5, hold_out=0, progress=False)


@pytest.fixture(scope="session")
def model_file(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.tt"
    trained.save(path)
    return path


@pytest.fixture(scope="session")
def expected(atlas, trained):
    """What `transform` writes."""
    adata = atlas.copy()
    tt.transform(adata, trained)
    return adata


@pytest.fixture(scope="session")
def written(request, atlas, tmp_path_factory):
    return write(atlas, tmp_path_factory.mktemp("store") / "atlas.zarr", getattr(request, "param", 3))


@pytest.fixture
def store(written, tmp_path):
    """A store that a test may change."""
    return Path(shutil.copytree(written, tmp_path / "atlas.zarr"))


def write(adata, path, version=3):
    with ad.settings.override(zarr_write_format=version):
        adata.write_zarr(path)
    return path


def assert_placed(store, expected, rows=slice(None), key="X_tt"):
    found = ad.read_zarr(store)
    for name in (key, f"{key}_metric"):
        places = found.obsm[name]
        assert places.dtype == np.float32
        known = expected.obsm[name.replace(key, "X_tt")]
        # dense products of other numbers of rows are summed in another order
        np.testing.assert_allclose(places[rows], known[rows], rtol=0, atol=1e-6 * np.ptp(known))
        if rows != slice(None):
            assert np.isnan(np.delete(places, np.r_[rows], axis=0)).all()


def chunks(store, name="obsm/X_tt"):
    """Files of the chunks of an array, in order."""
    array = zarr.open_group(store, mode="r", use_consolidated=False)[name]
    keys = [array.metadata.encode_chunk_key(place) for place in np.ndindex(array.cdata_shape)]
    return [store / name / key for key in keys]


# ---------------------------------------------------------------------------------------------------- places


@BOTH
@pytest.mark.parametrize("layer", [None, "dense"])
def test_one_shard_equals_transform(store, model_file, expected, layer):
    assert tl.transform_shard(store, model_file, "1/1", layer=layer) == (0, N, N)
    assert_placed(store, expected)
    before = ad.read_zarr(store)
    for name, known in (("obs", expected.obs.drop(columns="tt_split")), ("var", expected.var)):
        assert getattr(before, name).equals(known)
    assert (before.X != expected.X).nnz == 0
    assert not list(store.glob(".tripletomics*"))


def test_shards_in_any_order_equal_one(store, model_file, expected):
    assert tl.transform_shard(store, model_file, "3/3") == (2 * CHUNK, N, N - 2 * CHUNK)
    assert_placed(store, expected, slice(2 * CHUNK, N))
    assert tl.transform_shard(store, model_file, "1/3") == (0, CHUNK, CHUNK)
    assert tl.transform_shard(store, model_file, "2/3") == (CHUNK, 2 * CHUNK, CHUNK)
    assert_placed(store, expected)
    assert tl.transform_shard(store, model_file, "1/1") == (0, N, 0)  # any other number of shards goes on from there


def test_more_shards_than_chunks(store, model_file, expected):
    placed = [tl.transform_shard(store, model_file, f"{i}/5") for i in range(1, 6)]
    assert sum(p.now for p in placed) == N
    assert [p.start for p in placed[1:]] == [p.stop for p in placed[:-1]]
    assert sum(p.start == p.stop for p in placed) == 2
    assert_placed(store, expected)


def test_shards_side_by_side(store, model_file, expected):
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda i: tl.transform_shard(store, model_file, f"{i}/3"), (1, 2, 3)))
    assert_placed(store, expected)
    assert not list(store.glob(".tripletomics*"))


@pytest.mark.parametrize("missing", ["zero", "impute"])
def test_genes_that_lack(atlas, trained, model_file, tmp_path, missing):
    short = atlas[:2000, 12:].copy()
    short.layers.clear()
    store = write(short, tmp_path / "atlas.zarr")
    with pytest.raises(ValueError, match=r"The query is missing \d+ of the model's 150 genes"):
        tl.transform_shard(store, model_file, "1/1")
    assert not ad.read_zarr(store).obsm
    tl.transform_shard(store, model_file, "1/1", missing=missing)
    tt.transform(short, trained, missing=missing)
    assert_placed(store, short)


def test_an_alias_and_a_key(atlas, trained, model_file, tmp_path):
    renamed = atlas[:500].copy()
    renamed.var["symbol"] = renamed.var_names
    renamed.var_names = [f"id{i}" for i in range(renamed.n_vars)]
    store = write(renamed, tmp_path / "atlas.zarr")
    assert tl.transform_shard(store, model_file, "1/1", alias="symbol", key_added="Z") == (0, 500, 500)
    tt.transform(renamed, trained, alias="symbol")
    assert_placed(store, renamed, key="Z")
    with pytest.raises(KeyError, match="alias='ids' is not a column"):
        tl.transform_shard(store, model_file, "1/1", alias="ids")


def test_memory_does_not_follow_the_rows(store, model_file):
    peaks = []
    for shard in ("1/3", "2/2"):  # of one chunk and of two
        tracemalloc.start()
        tl.transform_shard(store, model_file, shard, layer="dense")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.1


# ---------------------------------------------------------------------------------------------------- kills


def test_a_killed_run_goes_on(store, model_file, expected):
    command = [sys.executable, "-m", "tripletomics", "transform", store, "--model", model_file, "--shard", "1/1"]
    killed = subprocess.Popen(command)
    while not (store / "obsm/X_tt/c/0/0").exists() and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    stamps = {path: path.stat().st_mtime_ns for path in chunks(store) if path.exists()}
    assert chunks(store)[0] in stamps
    placed = tl.transform_shard(store, model_file, "1/1")
    assert placed.now == sum(600 if i == 2 else CHUNK for i, path in enumerate(chunks(store)) if path not in stamps)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert_placed(store, expected)


def test_what_counts_as_done(store, model_file, expected):
    """A chunk of the map that lacks is placed again, and one of the metric space too; half-written drafts count not."""
    tl.transform_shard(store, model_file, "1/1")
    chunks(store)[0].unlink()
    chunks(store, "obsm/X_tt_metric")[1].rename(chunks(store, "obsm/X_tt_metric")[1].with_suffix(".partial"))
    (store / f"{files.DRAFT}left").mkdir()
    (store / f"{files.DRAFT}left" / files.LOCK).touch()
    assert tl.transform_shard(store, model_file, "1/1").now == 2 * CHUNK
    assert not [*store.rglob("*.partial"), *store.glob(f"{files.DRAFT}*")]
    assert_placed(store, expected)


def test_killed_between_the_arrays(store, model_file, expected):
    tl.transform_shard(store, model_file, "3/3")
    shutil.rmtree(store / "obsm" / "X_tt")  # as if the second had not been made yet
    zarr.consolidate_metadata(store)
    assert tl.transform_shard(store, model_file, "1/1").now == N
    assert_placed(store, expected)


def test_a_finished_run_does_nothing(store, model_file):
    tl.transform_shard(store, model_file, "1/1")
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    assert tl.transform_shard(store, model_file, "1/1").now == 0
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_another_model_is_refused(store, model_file, trained, expected, tmp_path):
    tl.transform_shard(store, model_file, "1/3")
    other = tmp_path / "other.tt"
    replace(trained, settings=trained.settings | {"seed": "1"}).save(other)
    cure = "Choose another key_added, or delete obsm/X_tt and obsm/X_tt_metric from the store"
    with pytest.raises(ValueError, match=f"was begun with another model. {cure}"):
        tl.transform_shard(store, other, "2/3")
    with pytest.raises(ValueError, match=f"was begun with another layer and another missing. {cure}"):
        tl.transform_shard(store, model_file, "2/3", layer="dense", missing="zero")
    assert_placed(store, expected, slice(0, CHUNK))
    for name in ("X_tt", "X_tt_metric"):
        shutil.rmtree(store / "obsm" / name)
    assert tl.transform_shard(store, other, "1/3").now == CHUNK
    assert not np.isnan(ad.read_zarr(store).obsm["X_tt"][:CHUNK]).any()


def test_places_of_another_hand_are_refused(trained, model_file, tmp_path):
    adata = make_cells(100, 4)
    tt.transform(adata, trained)
    store = write(adata, tmp_path / "atlas.zarr")
    with pytest.raises(
        ValueError, match=r"is already there, and not from transform --shard\. Choose another key_added"
    ):
        tl.transform_shard(store, model_file, "1/1")
    assert_placed(store, adata)


# ---------------------------------------------------------------------------------------------------- damage


def spoil(path, how):
    if how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.unlink()


@BOTH
@pytest.mark.parametrize("how", ["cut", "gone"])
@pytest.mark.parametrize("name", ["X/data", "X/indices", "layers/dense"])
def test_a_damaged_chunk_names_its_rows(store, model_file, expected, name, how):
    array, layer = zarr.open_group(store)[name], "dense" if name == "layers/dense" else None
    row = CHUNK + 3000
    place = (row if layer else expected.X.indptr[row]) // array.chunks[0]
    for column in range(array.cdata_shape[-1] if layer else 1):
        spoil(store / name / array.metadata.encode_chunk_key((place, column) if layer else (place,)), how)
    with pytest.raises(ValueError, match=r"Rows [\d,]+ to [\d,]+ of .*' cannot be read: .*Copy the store") as error:
        tl.transform_shard(store, model_file, "1/1", layer=layer)
    edges = place * array.chunks[0], (place + 1) * array.chunks[0] - 1
    if not layer:
        edges = np.searchsorted(expected.X.indptr, edges, "right") - 1
    first, last = (
        int(text.replace(",", "")) for text in re.findall("Rows ([0-9,]+) to ([0-9,]+)", str(error.value))[0]
    )
    # of the chunk's rows, those of the block that was read
    assert (first, last) in [(max(edges[0], low), min(edges[1], low + CHUNK - 1)) for low in (0, CHUNK, 2 * CHUNK)]


def test_damage_beyond_the_first_rows_keeps_what_was_placed(store, model_file, expected):
    array = zarr.open_group(store)["layers/dense"]
    place = CHUNK // array.chunks[0] + 1
    for column in range(array.cdata_shape[1]):
        spoil(store / "layers/dense" / array.metadata.encode_chunk_key((place, column)), "cut")
    first = place * array.chunks[0]
    assert CHUNK < first < 2 * CHUNK
    with pytest.raises(ValueError, match=f"Rows {first:,} to "):
        tl.transform_shard(store, model_file, "1/1", layer="dense")
    shutil.rmtree(store / "layers" / "dense")
    zarr.consolidate_metadata(store)
    assert_placed(store, expected, slice(0, CHUNK))


def test_a_damaged_indptr(store, model_file):
    spoil(chunks(store, "X/indptr")[0], "cut")
    with pytest.raises(ValueError, match=r"Rows 0 to 1,023 of X in .* cannot be read"):
        tl.transform_shard(store, model_file, "1/1")


def test_values_that_cannot_be_used_name_their_rows(atlas, model_file, tmp_path):
    bad = atlas[:, :].copy()
    bad.layers.clear()
    bad.X.data[bad.X.indptr[CHUNK + 5]] = np.nan
    bad.X.data[bad.X.indptr[2 * CHUNK] :] = np.log1p(bad.X.data[bad.X.indptr[2 * CHUNK] :])
    store = write(bad, tmp_path / "atlas.zarr")
    with pytest.raises(ValueError, match=f"^Rows {CHUNK:,} to {2 * CHUNK - 1:,}: 1 cell has NaN"):
        tl.transform_shard(store, model_file, "1/1")
    with pytest.raises(
        ValueError, match=r"^Rows 16,384 to 16,983: The query holds log1p, but the model was trained on counts"
    ):
        tl.transform_shard(store, model_file, "3/3")
    with pytest.raises(ValueError, match=r"^Rows 8,192 to 9,215: 1 cell has NaN"):
        tl.transform_shard(store, model_file, "2/2")
    assert np.isnan(ad.read_zarr(store).obsm["X_tt"]).sum() == 2 * (N - CHUNK)


def test_a_disk_that_fills_up(run, store, model_file, expected):
    """The system refuses to write more than a few kB to a file, as a quota or a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        status, _, error = run("transform", store, "--model", model_file, "--shard", "1/1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 1
    assert re.fullmatch(
        r"error: '.*' could not be written \(File too large\)\. It takes up to 2\.3 MB, and the disk has "
        r"[\d.]+ .B free\. What is written is kept: make room and run the same command again\.\n",
        error,
    )
    assert np.isnan(ad.read_zarr(store).obsm["X_tt_metric"]).all()
    assert not [path for path in (store / "obsm").rglob("*") if path.suffix == ".partial"]
    assert tl.transform_shard(store, model_file, "1/1").now == N
    assert_placed(store, expected)


def test_a_disk_that_is_too_small(written, model_file, tmp_path, monkeypatch):
    store = shutil.copytree(written, tmp_path / "atlas.zarr")
    usage = shutil.disk_usage(store)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    with pytest.raises(OSError, match=r"take up to 2\.3 MB in all, and the disk of .* has 1\.0 MB free: make room"):
        tl.transform_shard(store, model_file, "1/3")
    assert not ad.read_zarr(store).obsm


# ---------------------------------------------------------------------------------------------------- command line


def test_command_line(run, store, model_file, expected):
    status, out, error = run("transform", store, "--model", model_file, "--shard", "2/3")
    assert (status, error) == (0, "")
    said = f"Rows {CHUNK:,} to {2 * CHUNK - 1:,} of {store} have coordinates in obsm['X_tt'] and obsm['X_tt_metric']"
    assert out == f"{said}, {CHUNK:,} of them from this run.\n"
    assert_placed(store, expected, slice(CHUNK, 2 * CHUNK))
    assert run("transform", store, "--model", model_file, "--shard", "2/3")[1].endswith(", 0 of them from this run.\n")
    out = run("transform", store, "--model", model_file, "--shard", "1/9")[1]
    assert out == f"Shard 1/9 has no rows: use fewer shards to embed {str(store)!r}.\n"


@pytest.mark.parametrize("shard", ["0/3", "4/3", "a/b", "3", "1/0", "-1/3", "1/3/5", "1.5/2", ""])
def test_shards_out_of_range(run, written, model_file, shard):
    status, _, error = run("transform", written, "--model", model_file, f"--shard={shard}")
    assert (status, error) == (1, f"error: --shard {shlex.quote(shard)} is not i/N with i from 1 to N, such as 1/4.\n")


def test_refusals(run, atlas, written, model_file, tmp_path):
    h5ad, csc, empty = tmp_path / "cells.h5ad", tmp_path / "csc.zarr", tmp_path / "empty.zarr"
    small = atlas[:50].copy()
    small.write_h5ad(h5ad)
    write(ad.AnnData(small.X.tocsc(), var=small.var), csc)
    write(ad.AnnData(var=small.var, obs=small.obs), empty)
    zarr.create_group(tmp_path / "other.zarr")
    zarr.create_group(tmp_path / "mu.zarr/mod")
    zarr.create_group(tmp_path / "mu.zarr")
    (tmp_path / "file.zarr").touch()
    (tmp_path / "nothing.zarr").mkdir()
    shard = ["--shard", "1/1"]
    for path, rest, message in [
        (
            h5ad,
            shard,
            r"--shard is for .zarr stores, and '.*cells.h5ad' is not one: write it with adata.write_zarr",
        ),
        (
            written,
            [],
            r"Coordinates of '.*atlas.zarr' are written into it: pass --shard 1/1, or i/N to each of N processes",
        ),
        (written, ["--out", "o.zarr"], r"Coordinates of .* pass --shard 1/1"),
        (written, [*shard, "--out", "o.zarr"], r"--shard writes into INPUT: leave --out out"),
        (
            written,
            [*shard, "--layer", "dence"],
            r"--layer dence is not a layer .* Did you mean 'dense'\? Layers: dense",
        ),
        (written, [*shard, "--key-added", "a/b"], r"--key-added a/b is not a name"),
        (tmp_path / "no.zarr", shard, r"There is no store '.*no.zarr'"),
        (tmp_path / "file.zarr", shard, r"'.*' is a file, and a .zarr store is a folder"),
        (tmp_path / "nothing.zarr", shard, r"'.*' cannot be read as AnnData: "),
        (tmp_path / "other.zarr", shard, r"'.*' is a .zarr store but not one of cells: it holds nothing"),
        (tmp_path / "mu.zarr", shard, r"'.*' holds several modalities, and only one is read here"),
        (csc, shard, r"X of '.*' is stored by genes \(CSC\), .* adata.X = adata.X.tocsr\(\)"),
        (empty, shard, r"X of '.*' is empty: name the matrix with --layer"),
    ]:
        status, out, error = run("transform", path, "--model", model_file, *rest)
        assert (status, out) == (2 if "--out is missing" in message else 1, ""), error
        assert re.fullmatch(f"error: {message}.*\n", error), error
    status, _, error = run("transform", written, "--model", tmp_path / "no.tt", *shard)
    assert (status, error) == (1, f"error: There is no model file {str(tmp_path / 'no.tt')!r}.\n")


def test_a_model_of_two_modalities_is_refused(run, tmp_path):
    adata = make_cells(60, 5)
    pair = tt.fit((adata[:, :100].copy(), adata[:, 100:].copy()), steps=1, hold_out=0, progress=False)
    pair.save(tmp_path / "pair.tt")
    store = write(adata, tmp_path / "atlas.zarr")
    status, _, error = run("transform", store, "--model", tmp_path / "pair.tt", "--shard", "1/1")
    assert status == 1
    assert "pair.tt' is a model of two modalities, and a store is embedded by a model of one: " in error
    assert not ad.read_zarr(store).obsm


def test_a_read_only_store(written, model_file, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(PermissionError, match=r"atlas.zarr' is read-only: coordinates are written into it"):
        tl.transform_shard(written, model_file, "1/1")

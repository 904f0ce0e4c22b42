"""Tables written anew by rows: the same cells, whatever they were stored as, grouped or not, or nothing at all."""

import hashlib
import re
import resource
import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from samples import make_cells

from tripletomics import tl
from tripletomics.store import conversion, reading

N = 700


@pytest.fixture(scope="module")
def table():
    """Cells with everything that a table can hold; some in no group."""
    adata = make_cells(N, 1)
    random = np.random.default_rng(0)
    few = random.random((N, 150)) < 0.1
    adata.X = np.where(few, random.integers(1, 9, (N, 150)), 0).astype(np.float32)
    kinds = adata.obs["kind"].mask(np.arange(N) % 50 == 0)
    adata.obs["kind"] = pd.Categorical(kinds, categories=list("gfedcba"))  # not in the order of the names
    adata.obs["number"] = np.arange(N) % 3
    adata.layers["csr"] = sp.csr_matrix(adata.X).astype(np.int64)
    adata.layers["csc"] = sp.csc_matrix(adata.X).astype(np.float64)
    adata.layers["many"] = random.normal(size=(N, 150))
    adata.obsm["X_other"] = random.normal(size=(N, 3))
    adata.obsm["frame"] = pd.DataFrame({"a": np.arange(N), "b": "x"}, index=adata.obs_names)
    adata.obsm["cube"] = random.normal(size=(N, 2, 2))
    adata.obsp["near"] = sp.random(N, N, 0.01, "csr", random_state=0)
    adata.obsp["far"] = random.normal(size=(N, N)).astype(np.float32)
    adata.varm["loadings"] = random.normal(size=(150, 2))
    adata.varp["genes"] = sp.eye(150, format="csr")
    adata.uns["nested"] = {"a": np.arange(3), "b": {"c": "text"}}
    adata.var["long"] = [f"gene {i}" for i in range(150)]
    raw = ad.AnnData(sp.csr_matrix(random.poisson(0.2, (N, 200)).astype(np.float32)), obs=adata.obs)
    raw.varm["more"] = random.normal(size=(200, 2))
    adata.raw = raw
    return adata


@pytest.fixture(scope="module")
def source(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "cells.h5ad"
    table.write_h5ad(path)
    table.write_zarr(path.with_suffix(".zarr"))
    return path


@pytest.fixture
def narrow(monkeypatch):
    """As if memory held few rows, and chunks too."""
    monkeypatch.setattr(reading, "PART_BYTES", 2**15)
    monkeypatch.setattr(conversion, "PASS_BYTES", 2**16)
    monkeypatch.setattr(conversion, "CHUNK_ENTRIES", 2**10)
    monkeypatch.setattr(conversion, "CHUNK_BYTES", 2**14)


def dense(x):
    return x.toarray() if sp.issparse(x) else np.asarray(x)


def assert_same(found, known):
    """Compare all parts of two tables."""
    pd.testing.assert_frame_equal(found.obs, known.obs)
    pd.testing.assert_frame_equal(found.var, known.var)
    pd.testing.assert_frame_equal(found.obsm["frame"], known.obsm["frame"])
    pairs = [(found.X, known.X), (found.raw.X, known.raw.X), (found.raw.varm["more"], known.raw.varm["more"])]
    for part in ("layers", "obsm", "obsp", "varm", "varp"):
        one, other = getattr(found, part), getattr(known, part)
        assert set(one) == set(other)
        pairs += [(one[name], other[name]) for name in other if name != "frame"]
    for one, other in pairs:
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(dense(one), dense(other))
    assert found.raw.var_names.equals(known.raw.var_names)
    assert found.uns["nested"]["a"].tolist() == [0, 1, 2]
    assert found.uns["nested"]["b"]["c"] == "text"


def contents(folder):
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(("kind", "version"), [(".h5ad", 3), (".zarr", 2)])
def test_a_store_by_rows(table, source, narrow, tmp_path, kind, version):
    with ad.settings.override(zarr_write_format=version):
        tl.convert(source.with_suffix(kind), str(tmp_path / "out.zarr"))
    found = ad.read_zarr(tmp_path / "out.zarr")
    assert_same(found, table)
    assert [name for name in found.layers if sp.issparse(found.layers[name])] == ["csc", "csr"]
    assert all(found.layers[name].format == "csr" for name in ("csr", "csc"))
    with reading.open_to_read(tmp_path / "out.zarr") as (root, _):
        for layer in (None, "csr", "csc", "many"):
            reading.Rows(root, tmp_path / "out.zarr", layer).check()  # can be placed
    assert found.X.format == "csr"  # few of its values are not 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr"]


@pytest.mark.parametrize("column", ["kind", "number"])
def test_grouped_rows(table, source, narrow, tmp_path, column):
    tl.convert(source, tmp_path / "out.zarr", group_by=column)
    codes = {name: i for i, name in enumerate("gfedcba")} if column == "kind" else {0: 0, 1: 1, 2: 2}
    order = sorted(range(N), key=lambda i: (codes.get(table.obs[column].iloc[i], 99), i))
    assert_same(ad.read_zarr(tmp_path / "out.zarr"), table[order].copy())


def test_tables_of_little(tmp_path):
    few = ad.AnnData(sp.csr_matrix((5, 3), dtype=np.float32))
    none = ad.AnnData(obs=pd.DataFrame({"a": [1, 2]}, index=["x", "y"]))
    for i, adata in enumerate((few, none, few[:0].copy(), ad.AnnData(np.zeros((4, 2), dtype=np.float32)))):
        adata.write_h5ad(tmp_path / f"{i}.h5ad")
        tl.convert(tmp_path / f"{i}.h5ad", tmp_path / f"{i}.zarr")
        found = ad.read_zarr(tmp_path / f"{i}.zarr")
        assert found.shape == adata.shape
        assert (found.X is None) == (adata.X is None)
        assert found.X is None or not dense(found.X).any()


def test_refusals(run, source, tmp_path):
    (tmp_path / "there.zarr").mkdir()
    before = sorted(tmp_path.iterdir())
    for given, message in [
        (
            (source, tmp_path / "there.zarr"),
            "'.*there.zarr' is there already, and is no .zarr store: choose",
        ),
        ((source, tmp_path / "out.h5ad"), "'.*out.h5ad' does not end in .zarr: name the file 'out.zarr'"),
        ((source, tmp_path / "no" / "out.zarr"), "The folder '.*no' of 'out.zarr' does not exist: create it first"),
        ((tmp_path / "no.h5ad", tmp_path / "out.zarr"), "There is no file '.*no.h5ad'"),
        (
            (source, tmp_path / "out.zarr", "--group-by", "kinds"),
            "--group-by kinds is not a column .* Did you mean 'kind'",
        ),
    ]:
        status, out, error = run("convert", *given)
        assert (status, out) == (1, "")
        assert re.fullmatch(f"error: {message}.*\n", error), error
    assert sorted(tmp_path.iterdir()) == before


def test_command_line(run, table, source, tmp_path):
    out = tmp_path / "out.zarr"
    assert run("convert", source, out, "--group-by", "number") == (0, f"Wrote {out}\n", "")
    assert ad.read_zarr(out).obs["number"].is_monotonic_increasing


def test_damage_leaves_nothing(source, tmp_path):
    store = shutil.copytree(source.with_suffix(".zarr"), tmp_path / "in.zarr")
    array = zarr.open_group(store, use_consolidated=False)["layers/many"]
    chunk = store / "layers/many" / array.metadata.encode_chunk_key((0, 0))
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"Rows 0 to [\d,]+ of layers/many in .* cannot be read"):
        tl.convert(store, tmp_path / "out.zarr")
    array = zarr.open_group(store, use_consolidated=False)["varm/loadings"]
    (store / "varm/loadings" / array.metadata.encode_chunk_key((0, 0))).write_bytes(b"")
    chunk.write_bytes((source.with_suffix(".zarr") / chunk.relative_to(store)).read_bytes())
    with pytest.raises(ValueError, match=r"varm of '.*' cannot be read"):
        tl.convert(store, tmp_path / "out.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["in.zarr"]


def test_a_disk_that_fills_up(source, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r"'.*out.zarr' could not be written \(File too large\)\. It takes up to .* MB"
        ):
            tl.convert(source, tmp_path / "out.zarr")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small(source, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**4))
    with pytest.raises(OSError, match=r"out\.zarr' takes up to .*B, and the disk of .* has 10\.0 kB free: make room"):
        tl.convert(source, tmp_path / "out.zarr")
    assert not list(tmp_path.iterdir())

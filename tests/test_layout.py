"""Files and stores of cells that contradict themselves are refused in one line, before anything of them is used."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import zarr

import tripletomics as tt
from tripletomics import tl
from tripletomics.store import frames, layout, reading
from tripletomics.tl import stored

N, GENES = 60, 20
SETTINGS = {"steps": 2, "progress": False, "device": "cpu"}
OPTIONS = ("--label", "kind", "--steps", "2", "--device", "cpu")
OLD = Path(sc.__file__).parent / "datasets" / "10x_pbmc68k_reduced.h5ad"  # comes with scanpy, of anndata 0.6


def cells(kind=sp.csr_matrix):
    random = np.random.default_rng(0)
    codes = np.arange(N) % 2
    adata = ad.AnnData(kind(random.poisson(1 + 3 * (np.arange(GENES) % 2 == codes[:, None])).astype(np.float32)))
    adata.obs["kind"] = pd.Categorical(np.array(["a", "b"])[codes])
    adata.obs["depth"] = np.asarray(adata.X.sum(axis=1)).ravel()
    adata.layers["raw"] = adata.X.copy()
    adata.obsm["X_pca"] = random.normal(size=(N, 3))
    return adata


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for name, kind in (("csr", sp.csr_matrix), ("csc", sp.csc_matrix), ("dense", np.asarray)):
        cells(kind).write_h5ad(folder / f"{name}.h5ad")
        for version in (2, 3) if name != "csc" else ():
            with ad.settings.override(zarr_write_format=version):
                cells(kind).write_zarr(folder / f"{name}{version}.zarr")
    tt.fit(cells(), "kind", **SETTINGS).save(folder / "m.tt")
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    def copy(name):
        made = tmp_path / name
        (shutil.copytree if made.suffix == ".zarr" else shutil.copyfile)(folder / name, made)
        return made

    return copy


def state(path):
    paths = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths if p.is_file()}


def replace(name, change, **options):
    """Write an array of a file anew, with its attributes."""

    def spoil(root):
        values, attrs = root[name][...], dict(root[name].attrs)
        del root[name]
        root.create_dataset(name, data=change(values), **options).attrs.update(attrs)

    return spoil


def declare(name, shape, dtype="float32"):
    """Say that there are values, and write none of them."""

    def spoil(root):
        attrs = dict(root[name].attrs)
        del root[name]
        root.create_dataset(name, shape=shape, dtype=dtype, chunks=(min(shape[0], 1000), *shape[1:])).attrs.update(
            attrs
        )

    return spoil


def drop(name):
    return lambda root: root.__delitem__(name)


def attribute(name, key, value):
    def spoil(root):
        if value is None:
            del root[name].attrs[key]
        else:
            root[name].attrs[key] = value

    return spoil


def put(name, i, value):
    return lambda root: root[name].__setitem__(i, value)


def elsewhere(root):
    del root["X"]
    root["X"] = h5py.ExternalLink("other.h5ad", "/X")


def rename(name, other):
    return lambda root: root.move(name, other)


def nowhere(root):
    del root["obsm"]
    root["obsm"] = h5py.SoftLink("/none")


def in_place_of(name, other):
    """Put a group in the place of a part."""

    def spoil(root):
        del root[name]
        root.copy(other, root, name)

    return spoil


FILES = {
    "index too large": ("csr", put("X/indices", 3, 10**6), "beyond 0 to 19"),
    "index below 0": ("csr", put("X/indices", 3, -1), "beyond 0 to 19"),
    "row too large": ("csc", put("X/indices", 3, 10**6), "beyond 0 to 59"),
    "row below 0": ("csc", put("X/indices", 3, -1), "beyond 0 to 59"),
    "end too large": ("csr", put("X/indptr", N, 10**9), "by its indptr|would be 0 to 1,000,000,000"),
    "ends fall": ("csr", put("X/indptr", 5, 0), "does not ascend|end before they begin"),
    "begin after 0": ("csr", put("X/indptr", 0, 1), "does not ascend|would be 1 to"),
    "ends of genes fall": ("csc", put("X/indptr", 5, 0), "does not ascend|end before they begin"),
    "no values": ("csc", replace("X/data", lambda x: x[:0]), "X has 0 values and"),
    "fewer indices": ("csr", replace("X/indices", lambda x: x[:-1]), "values and"),
    "text as values": ("csr", replace("X/data", lambda x: x.astype("S4")), r"X/data is \|S4 of shape"),
    "fractions as ends": ("csr", replace("X/indptr", lambda x: x / 2), "X/indptr is float64 of shape"),
    "no indptr": ("csr", drop("X/indptr"), "X lacks its indptr"),
    "no shape": ("csr", attribute("X", "shape", None), "X lacks its shape"),
    "more rows": ("csr", attribute("X", "shape", [10**9, GENES]), "has 61 entries in its indptr, not 1,000,000,001"),
    "more genes": ("csr", attribute("X", "shape", [N, GENES + 1]), "X has shape .60, 21., but the dataset has 60"),
    "rows of a dense matrix": ("dense", replace("X", lambda x: x[:-1]), "X has shape .59, 20., but the dataset has 60"),
    "genes of a layer": ("dense", replace("layers/raw", lambda x: x[:, 1:]), "layers/raw has shape .60, 19."),
    "rows of obsm": ("csr", replace("obsm/X_pca", lambda x: x[1:]), "obsm/X_pca has shape .59, 3., but the dataset"),
    "a column": ("csr", replace("obs/depth", lambda x: x[1:]), "obs.'depth'. has shape .59,., but there are 60 names"),
    "no column": ("csr", drop("obs/depth"), "obs.'depth'. is missing"),
    "codes": ("csr", replace("obs/kind/codes", lambda x: x[1:]), "obs.'kind'. has shape .59,."),
    "code too large": ("csr", put("obs/kind/codes", 3, 9), "codes need to be between"),
    "a billion rows": ("dense", declare("X", (10**9, GENES)), "X declares|X has shape"),
    "wide coordinates": ("csr", declare("obsm/X_pca", (N, 10**7)), "obsm/X_pca declares .* a part of them is missing"),
    "names that are not there": ("csr", declare("obs/_index", (N,), h5py.string_dtype()), "some names of obs are miss"),
    "no kind": ("csr", attribute("X", "encoding-type", "csx"), "'csx'|csx|no .*read method"),
    "another file": ("csr", elsewhere, "/X is in another file, which is not read"),
    "no names": ("csr", attribute("obs", "_index", None), "cannot be read"),
    "a part that nobody knows": ("csr", rename("obsm", "obsm "), "'obsm ' is not a part of a dataset"),
    "a group as matrix": ("csr", in_place_of("X", "obsm"), "X is stored as .dict., which is not a matrix"),
    "an array as layers": ("csr", in_place_of("layers", "obs/depth"), "layers is an array, not a group"),
    "an array as uns": ("csr", in_place_of("uns", "obs/depth"), "uns is an array, not a group"),
    "a name that is no text": ("csr", rename("var", b"v\xff"), "it lacks var"),
    "half floats in CSR": ("csr", replace("X/data", lambda x: x.astype(np.float16)), "X/data is float16"),
    "a link to nowhere": ("csr", nowhere, "cannot be read as AnnData: KeyError"),
}  # fmt: skip


@pytest.mark.parametrize("how", FILES)
def test_a_damaged_file_is_refused_in_one_line(how, copy, folder, tmp_path, run):
    name, spoil, message = FILES[how]
    path = copy(f"{name}.h5ad")
    with h5py.File(path, "r+") as root:
        spoil(root)
    before = state(path)
    for words in (
        ("fit", path, *OPTIONS, "--out", tmp_path / "out.h5ad", "--model", tmp_path / "out.tt"),
        ("transform", path, "--model", folder / "m.tt", "--out", tmp_path / "out.h5ad"),
        ("predict", path, "--model", folder / "m.tt", "--out", tmp_path / "out.h5ad"),
        ("convert", path, tmp_path / "out.zarr"),
    ):
        if how == "code too large" and words[0] != "fit":
            continue  # nothing asks for them
        status, _, error = run(*words)
        assert status == 1, words[0]
        assert error.count("\n") == 1, error
        assert re.search(message, error), error
    assert state(path) == before
    assert {p.name for p in tmp_path.iterdir()} == {path.name}
    with pytest.raises(ValueError, match=message):
        tt.fit(path, "kind", **SETTINGS)
    assert state(path) == before


@pytest.mark.parametrize("size", [0, 2**40])
def test_a_heap_that_is_damaged_is_refused(copy, folder, tmp_path, run, monkeypatch, size):
    monkeypatch.setattr(layout, "PATIENCE", 3)
    path = copy("csr.h5ad")
    data = path.read_bytes()
    start = data.index(b"GCOL") + 16  # the first text
    path.write_bytes(data[:start] + bytes(8) + size.to_bytes(8, "little") + data[start + 16 :])
    status, _, error = run("transform", path, "--model", folder / "m.tt", "--out", tmp_path / "o.h5ad")
    assert (status, error.count("\n")) == (1, 1)
    assert "is damaged: a part of its text is lost" in error


def test_a_heap_that_nothing_names_is_no_damage(copy):
    path = copy("csr.h5ad")
    with path.open("ab") as file:
        file.write(b"GCOL\x01\0\0\0" + (4096).to_bytes(8, "little") + bytes(4096))
    assert layout._is_doubtful(path)
    tt.fit(path, "kind", **SETTINGS)


def spoil_json(name, change, file="zarr.json"):
    def spoil(path):
        text = (path / name / file).read_text()
        (path / name / file).write_bytes(change(text))

    return spoil


def cut(text):
    return text[: len(text) // 2].encode()


def set_in(*keys, to):
    def change(text):
        record = json.loads(text)
        place = record
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to
        return json.dumps(record).encode()

    return change


def lose(name):
    return lambda path: shutil.rmtree(path / name)


def as_folder(name):
    def spoil(path):
        (path / name).unlink()
        (path / name).mkdir()

    return spoil


STORES = {
    "the root": ("csr3", spoil_json("", cut)),
    "a matrix": ("csr3", spoil_json("X", cut)),
    "values": ("csr3", spoil_json("X/data", cut)),
    "bytes that are no text": ("csr3", spoil_json("X/indptr", lambda text: b"\xff\xfe" + text.encode())),
    "an array that nothing asks for": ("csr3", spoil_json("obsm/X_pca", cut)),
    "a group of settings": ("csr3", spoil_json("uns", lambda text: b"[]")),
    "a type": ("dense3", spoil_json("X", set_in("data_type", to="float33"))),
    "a codec": ("dense3", spoil_json("X", set_in("codecs", to=[{"name": "none such"}]))),
    "rows": ("dense3", spoil_json("X", set_in("shape", to=[10**9, GENES]))),
    "shape": ("csr3", spoil_json("X", set_in("attributes", "shape", to=[N, GENES - 1]))),
    "columns": ("csr3", spoil_json("obs", set_in("attributes", "column-order", to=["kind", "none"]))),
    "an encoding": ("csr3", spoil_json("obs", set_in("attributes", "encoding-type", to="frame"))),
    "a column": ("csr3", spoil_json("obs/kind", set_in("attributes", "encoding-type", to="x"))),
    "names": ("csr3", lose("obs/_index/c")),
    "many names": ("csr3", spoil_json("obs/_index", set_in("shape", to=[10**9]))),
    "a part of CSR": ("csr3", lose("X/indices")),
    "what describes a matrix": ("csr3", lambda path: (path / "X/zarr.json").unlink()),
    "a folder as description": ("csr3", as_folder("obsm/zarr.json")),
    "what describes a matrix of zarr 2": ("csr2", lambda path: (path / "X/.zgroup").unlink()),
    "a group of zarr 2": ("csr2", spoil_json("obsm", lambda text: b"{}", ".zgroup")),
    "the root of zarr 2": ("csr2", spoil_json("", cut, ".zgroup")),
    "all metadata of zarr 2": ("csr2", spoil_json("", cut, ".zmetadata")),
    "attributes of zarr 2": ("csr2", spoil_json("X", cut, ".zattrs")),
    "an array of zarr 2": ("csr2", spoil_json("layers/raw/data", cut, ".zarray")),
    "rows of zarr 2": ("dense2", spoil_json("X", set_in("shape", to=[N + 1, GENES]), ".zarray")),
    "a compressor of zarr 2": ("dense2", spoil_json("X", set_in("compressor", "id", to="zzz"), ".zarray")),
    "names of zarr 2": ("csr2", lambda path: (path / "var/_index/0").unlink()),
}


@pytest.mark.parametrize("how", STORES)
def test_a_damaged_store_is_refused_in_one_line(how, copy, folder, tmp_path, run):
    name, spoil = STORES[how]
    path = copy(f"{name}.zarr")
    spoil(path)
    before = state(path)
    for words in (
        ("fit", path, *OPTIONS),
        ("transform", path, "--model", folder / "m.tt", "--shard", "1/1"),
        ("convert", path, tmp_path / "out.zarr"),
    ):
        if how == "a column" and words[0] == "transform":
            continue  # it places rows whatever they are called
        status, _, error = run(*words)
        assert (status, error.count("\n")) == (1, 1), (words[0], error)
        assert str(path) in error
        assert state(path) == before, words[0]
    assert {p.name for p in tmp_path.iterdir()} == {path.name}


def test_a_lost_part_of_converted_labels_is_seen(folder, tmp_path):
    tl.convert(folder / "csr.h5ad", tmp_path / "a.zarr")
    tt.fit(tmp_path / "a.zarr", "kind", **SETTINGS)
    (tmp_path / "a.zarr" / "obs" / "kind" / "codes" / "0").unlink()
    with pytest.raises(ValueError, match="a part of obs/kind/codes is lost"):
        tt.fit(tmp_path / "a.zarr", "kind", **SETTINGS)


def test_rows_of_zeros_that_zarr_leaves_out_are_named(tmp_path):
    adata = cells(np.asarray)
    adata.X[20:40] = 0
    adata.write_zarr(tmp_path / "a.zarr", chunks=(20, GENES))
    with pytest.raises(
        ValueError, match=r"Rows 20 to 39 .* They are lost, or all their values are 0, .*read_zarr reads"
    ):
        tt.fit(tmp_path / "a.zarr", "kind", **SETTINGS)


def as_of_07(path):
    """Write codes in `obs` and names in `obs/__categories`, and no encoding of a dense matrix."""
    with h5py.File(path, "r+") as root:
        del root["obs/kind"], root["X"].attrs["encoding-type"], root["X"].attrs["encoding-version"]
        names = root.create_dataset("obs/__categories/kind", data=["a", "b"], dtype=h5py.string_dtype())
        names.attrs["ordered"] = False
        codes = np.arange(N) % 2
        root["obs/kind"] = np.where(codes > N, -1, codes).astype("int8")
        root["obs/kind"].attrs["categories"] = names.ref
        for name in ("obs", "var"):
            root[name].attrs["encoding-version"] = "0.1.0"


def of_07_in_zarr(path):
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    del root["obs/kind"]
    names = root.create_group("obs/__categories")
    ad.io.write_elem(names, "kind", np.array(["a", "b"], dtype=object))
    ad.io.write_elem(root["obs"], "kind", (np.arange(N) % 2).astype("int8"))
    root["obs/kind"].attrs["categories"] = "__categories/kind"
    root["obs"].attrs["encoding-version"] = "0.1.0"


def of_bytes(path):
    """Write text of fixed length, as programs in R do."""
    with h5py.File(path, "r+") as root:
        for name in ("obs/_index", "var/_index"):
            replace(name, lambda values: values.astype("S8"))(root)
            root[name].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        replace("obs/kind/categories", lambda values: values.astype("S1"))(root)
        root["obs/kind/categories"].attrs["encoding-type"] = "array"


@pytest.mark.parametrize(
    ("name", "change"), [("dense.h5ad", as_of_07), ("dense2.zarr", of_07_in_zarr), ("csr.h5ad", of_bytes)]
)
def test_tables_of_other_programs_are_read(name, change, copy, tmp_path, run):
    path = copy(name)
    change(path)
    model = tt.fit(path, "kind", **SETTINGS)
    assert model.classes == ["a", "b"]
    expected = tt.fit(cells(), "kind", **SETTINGS)
    assert model.scores == expected.scores
    assert model.features.genes == expected.features.genes
    if path.suffix == ".h5ad":
        assert run("fit", path, *OPTIONS, "--out", tmp_path / "o.h5ad", "--model", tmp_path / "m.tt")[0] == 0
        assert tt.load(tmp_path / "m.tt").scores == expected.scores
        assert ad.read_h5ad(tmp_path / "o.h5ad").obs_names.tolist() == cells().obs_names.tolist()
    with reading.open_to_read(path) as (root, _):
        obs = frames.Obs(root, path)
        assert obs.names(np.arange(N)).tolist() == cells().obs_names.tolist()
        assert obs.read("kind").astype(str).tolist() == cells().obs["kind"].tolist()


def test_a_file_without_columns_as_before_07_is_read_and_written_anew(tmp_path):
    shutil.copyfile(OLD, tmp_path / "a.h5ad")
    model = tt.fit(tmp_path / "a.h5ad", "bulk_labels", counts=False, **SETTINGS)  # its values are scaled
    adata = ad.read_h5ad(OLD)
    assert model.classes == sorted(adata.obs["bulk_labels"].unique())
    found = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(found.X, adata.X)
    assert found.obsm["X_tt"].shape == (700, 2)
    stored.transform(OLD, model, out=tmp_path / "b.h5ad", progress=False)
    np.testing.assert_allclose(ad.read_h5ad(tmp_path / "b.h5ad").obsm["X_tt"], found.obsm["X_tt"], atol=1e-5)
    tl.convert(OLD, tmp_path / "c.zarr", group_by="bulk_labels")
    assert ad.read_zarr(tmp_path / "c.zarr").obs["bulk_labels"].is_monotonic_increasing


def test_a_name_that_a_store_cannot_hold_is_refused(tmp_path):
    adata = cells()
    adata.obs["n/a"] = 1
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match=r"obs\['n/a'\] of .* has a '/' in its name, which a .zarr store cannot hold"):
        tl.convert(tmp_path / "a.h5ad", tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()

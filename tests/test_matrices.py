"""A sparse matrix whose arrays contradict each other never reaches compiled code, in memory or on disk."""

import time

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import tripletomics as tt
from tripletomics import pl
from tripletomics.pp import check_compressed

LAST = -1
BEYOND = r"adata\.X is damaged: its indices run from 0 to 1,000,000, beyond 0 to 29"
DAMAGE = {  # what is done to a matrix of 40 lines by 30, and what is said
    "index too large": (lambda x: put(x.indices, 5, 2**30), "beyond 0 to"),
    "index below 0": (lambda x: put(x.indices, 5, -3), "beyond 0 to"),
    "end beyond the values": (lambda x: put(x.indptr, LAST, 2**29), "by its indptr"),
    "line that ends before it begins": (lambda x: put(x.indptr, 7, 0), "indptr does not ascend from 0"),
    "begin after 0": (lambda x: put(x.indptr, 0, 1), "indptr does not ascend from 0"),
    "fewer values": (lambda x: setattr(x, "data", x.data[:-3]), "values,"),
    "no value": (lambda x: setattr(x, "data", x.data[:0]), "it has 0 values"),
    "fewer indices": (lambda x: setattr(x, "indices", x.indices[:-3]), "indices, and"),
    "fewer lines": (lambda x: setattr(x, "indptr", x.indptr[:-1]), "indptr has"),
    "no line": (lambda x: setattr(x, "indptr", x.indptr[:0]), "indptr has 0 entries"),
    "fractions": (lambda x: setattr(x, "indices", x.indices + 0.5), "its indices are float64"),
    "a table of values": (lambda x: setattr(x, "data", x.data[:, None]), "its values are float32 of shape"),
}


def put(array, i, value):
    array[i] = value


def cells(kind=sp.csr_matrix):
    random = np.random.default_rng(0)
    adata = ad.AnnData(kind(random.poisson(1, size=(40, 30)).astype(np.float32)))
    adata.obs["kind"] = pd.Categorical(np.array(["a", "b"])[np.arange(40) % 2])
    return adata


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, sp.csr_array])
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_matrix_in_memory_is_named(kind, how):
    adata = cells(kind)
    adata.layers["raw"] = adata.X.copy()
    view = adata[::2]
    spoil, message = DAMAGE[how]
    spoil(adata.layers["raw"])
    assert "raw" in adata.layers
    for table in (adata, view):
        with pytest.raises(ValueError, match=rf"^adata.layers\['raw'\] is damaged: .*{message}.* copy the file again"):
            tt.fit(table, "kind", layer="raw", steps=2, progress=False)


def test_no_way_into_compiled_code_is_open():
    adata = cells()
    model = tt.fit(adata, "kind", steps=2, progress=False)
    adata.X.indices[3] = 10**6
    verbs = [
        lambda: tt.transform(adata, model), lambda: tt.predict(adata, model),
        lambda: tt.explain(adata, model, "kind"), lambda: tt.evaluate(adata, "kind", refits=1),
        lambda: tt.compare(adata, "kind", methods="pca2"), lambda: tt.pca(adata),
        lambda: tt.fit((adata, cells()), "kind"), lambda: pl.embedding(adata, "3"),
    ]  # fmt: skip
    for verb in verbs:
        with pytest.raises(ValueError, match=BEYOND):
            verb()


def test_what_is_legal_is_taken_as_it_is():
    x = sp.csr_matrix((np.ones(5, dtype=np.float32), [2, 0, 0, 1, 1], [0, 3, 3, 5]), shape=(3, 4))
    assert not x.has_sorted_indices
    assert check_compressed(x, "x") is x
    dense = np.eye(2)
    assert check_compressed(dense, "x") is dense
    empty = sp.csc_matrix((0, 3))
    assert check_compressed(empty, "x") is empty


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64", ">i4"])
def test_types_of_indices_that_scipy_does_not_compute_with_are_converted(dtype):
    x = cells().X
    other = x.copy()
    other.indices, other.indptr = x.indices.astype(dtype), x.indptr.astype(">i8")
    found = check_compressed(other, "x")
    assert (found != x).nnz == 0
    assert {found.indices.dtype, found.indptr.dtype} <= {np.dtype("int32"), np.dtype("int64")}


def test_many_values_take_no_time():
    n = 10_000_000
    x = sp.csr_matrix((100_000, 2000), dtype=np.float32)
    x.data, x.indices = np.zeros(n, dtype=np.float32), np.arange(n, dtype=np.int32) % 2000
    x.indptr = np.arange(0, n + 1, 100, dtype=np.int32)
    started = time.process_time()
    assert check_compressed(x, "x") is x
    assert time.process_time() - started < 0.2  # 2 seconds of ten times as many


def test_masked_values_are_no_numbers():
    adata = cells(np.asarray)
    adata.X = np.ma.masked_array(adata.X, np.eye(40, 30, dtype=bool))
    with pytest.raises(ValueError, match="30 values of the matrix are masked"):
        tt.fit(adata, "kind")


@pytest.mark.parametrize("blocks", [np.asarray, sp.csr_matrix])
def test_arrays_of_dask_are_read(blocks):
    array = pytest.importorskip("dask.array")
    adata, settings = cells(), {"steps": 2, "progress": False, "device": "cpu"}
    dense = adata.X.toarray()
    whole = tt.fit(adata, "kind", **settings)
    lazy = ad.AnnData(array.from_array(dense, chunks=(15, 30)).map_blocks(blocks), obs=adata.obs)
    assert tt.fit(lazy, "kind", **settings).scores == whole.scores


def test_matrices_that_stay_in_a_file_are_read(tmp_path):
    adata = cells()
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad") as file:
        kept = ad.AnnData(obs=adata.obs, var=adata.var, layers={"x": ad.io.sparse_dataset(file["X"])})
        scores = tt.fit(kept, "kind", layer="x", steps=2, progress=False).scores
    assert scores == tt.fit(adata, "kind", steps=2, progress=False).scores

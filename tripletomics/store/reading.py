"""Matrices on disk, .zarr and .h5ad, read block by block; an error names the rows that are damaged."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import scipy.sparse as sp

from tripletomics import files
from tripletomics.parts import did_you_mean
from tripletomics.pp.embeddings import check_key, dimensions
from tripletomics.pp.matrices import contradiction
from tripletomics.sources import Matrix
from tripletomics.store.frames import read_var
from tripletomics.store.layout import check_layout, encoding, is_kept, reporting, shape_of

if TYPE_CHECKING:
    import pandas as pd
    import zarr

    from tripletomics.store.layout import Group

BLOCK_BYTES = 2**28  # bytes of a matrix that are read at once
PART_BYTES = 2**25  # bytes that are read at once where only some of the rows are kept
PROBES, PROBED_ROWS = 16, 64  # how often the zeros in a dense matrix are counted, and rows each time
SPARSE_SHARE = 1 / 3  # of values that are not 0: below it, CSR is smaller than a dense matrix


class Damage(Exception):
    """Lines from `start` to before `stop`, along the first axis of an array, that cannot be read, and why."""

    def __init__(self, start: int, stop: int, why: object) -> None:
        self.start, self.stop, self.why = start, stop, why


def open_to_write(path: Path) -> tuple[zarr.Group, pd.DataFrame]:
    """Open a store of cells to add to it; also return its `var`.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError
        If there is none, it is read-only, or it is not a store of one AnnData.
    """
    _check_folder(path)
    if not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(f"{str(path)!r} is read-only: coordinates are written into it.")
    return _open_zarr(path, "r+")


@contextmanager
def open_to_read(path: Path) -> Iterator[tuple[Group, pd.DataFrame]]:
    """Open a dataset on disk, .h5ad or .zarr; also yield its `var`.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError
        If there is none, it may not be read, or it is not an AnnData.
    """
    import h5py

    if path.suffix == ".zarr":
        _check_folder(path)
        yield _open_zarr(path, "r")
        return
    if path.suffix != ".h5ad":
        cure = "read it with mudata.read_h5mu and pass the MuData" if path.suffix == ".h5mu" else "write it as one"
        raise ValueError(f"{str(path)!r} is neither .h5ad nor .zarr, and only these are read from disk: {cure}.")
    files.check_hdf5(path, ".h5ad", {"obs", "var"})
    with h5py.File(path, "r") as root:
        check_layout(root, path)
        yield root, read_var(root, path)


@contextmanager
def upgraded(path: Path) -> Iterator[Path]:
    """Yield the path itself; of a file from before anndata 0.7, which has no columns, that of a copy with them."""
    import anndata
    import h5py

    old, what = False, f"{str(path)!r} cannot be read as AnnData"
    if path.suffix == ".h5ad":
        files.check_hdf5(path, ".h5ad", {"obs", "var"})
        with h5py.File(path, "r") as root:
            with reporting(what):
                old = root.get("obs", getclass=True) is h5py.Dataset
            if old:
                check_layout(root, path)
    if not old:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        with reporting(what):
            anndata.read_h5ad(path).write_h5ad(copy)
        yield copy


def _check_folder(path: Path) -> None:
    if not path.exists():
        files.sweep(path.parent)  # a kill may have left it under another name
    if not path.exists():
        raise FileNotFoundError(f"There is no store {str(path)!r}.")
    if not path.is_dir():
        raise ValueError(f"{str(path)!r} is a file, and a .zarr store is a folder: write one with adata.write_zarr.")


def _open_zarr(path: Path, mode: Literal["r", "r+"]) -> tuple[zarr.Group, pd.DataFrame]:
    import zarr

    with reporting(f"{str(path)!r} cannot be read as AnnData"):
        zarr.open_group(path, mode="r")  # with the list of all metadata that it may have, as other readers do
        root = zarr.open_group(path, mode=mode, use_consolidated=False)
        found = sorted(root.keys())
    if "obs" in found and "var" in found:
        check_layout(root, path)
        return root, read_var(root, path)
    if "mod" in found:
        raise ValueError(f"{str(path)!r} holds several modalities, and only one is read here: write a store of it.")
    raise ValueError(f"{str(path)!r} is a .zarr store but not one of cells: it holds {', '.join(found) or 'nothing'}.")


def open_rows(
    root: Group,
    path: Path,
    var: pd.DataFrame,
    layer: str | None = None,
    use_rep: str | None = None,
    names: Sequence[str] | None = None,
) -> tuple[Rows, pd.DataFrame]:
    """Return the matrix of a dataset, and a table of its features: its genes, or the dimensions of an embedding.

    A model's `names` of these dimensions are given, or they get new ones.

    Raises
    ------
    KeyError, ValueError
        As `Rows` and `dimensions`.
    """
    import pandas as pd

    rows = Rows(root, path, layer, use_rep=use_rep)
    return rows, var if use_rep is None else pd.DataFrame(index=dimensions(use_rep, rows.n_vars, names))


class Rows:
    """Rows of `.X`, of a layer or of another matrix of a dataset on disk.

    Parameters
    ----------
    root, path
        The dataset, as it was opened, and its path.
    layer
        Layer to use in place of `.X`.
    name
        Path of the matrix in the dataset, in place of both, such as "obsm/X_pca".
    use_rep
        Key of an embedding in `obsm`, in place of all these.

    Raises
    ------
    KeyError, ValueError
        If there is no such layer or embedding, or it is stored in a way that is not known.
    """

    def __init__(
        self, root: Group, path: Path, layer: str | None = None, name: str | None = None, *, use_rep: str | None = None
    ) -> None:
        if use_rep is not None:
            check_key(
                use_rep, sorted(cast(Any, root["obsm"]).keys()) if "obsm" in root else [], f"obsm of {str(path)!r}"
            )
            name = f"obsm/{use_rep}"
        layers = sorted(cast(Any, root["layers"]).keys()) if "layers" in root else []
        if layer is not None and layer not in layers:
            raise KeyError(
                f"layer={layer!r} is not a layer of {str(path)!r}.{did_you_mean(layer, layers)} Layers: "
                f"{', '.join(layers) or 'none'}."
            )
        self.path, self.name = path, name or ("X" if layer is None else f"layers/{layer}")
        self.matrix = cast(Any, root.get(self.name))
        kind = "null" if self.matrix is None else encoding(self.matrix)
        if kind == "null":
            raise ValueError(f"{self.name} of {str(path)!r} is empty: name the matrix with layer=.")
        self.by_genes, self.sparse = kind == "csc_matrix", kind in ("csr_matrix", "csc_matrix")
        shape = shape_of(self.matrix) or ()
        if not (self.sparse or kind in ("array", "")) or len(shape) != 2:
            how = repr(kind) if kind else f"an array of shape {shape}"
            raise ValueError(f"{self.name} of {str(path)!r} is stored as {how}: write it as CSR or dense.")
        self.n_obs, self.n_vars = shape

    def check(self) -> None:
        """Raise if there are no rows, or they cannot be read one by one."""
        if self.by_genes:
            raise ValueError(
                f"{self.name} of {str(self.path)!r} is stored by genes (CSC), and its rows cannot be read one by one: "
                "write it by cells first, with tripletomics convert, or with adata.X = adata.X.tocsr() "
                "and adata.write_zarr(path)."
            )
        if not self.n_obs or not self.n_vars:
            raise ValueError(
                f"{self.name} of {str(self.path)!r} has {self.n_obs} cells and {self.n_vars} columns: there is nothing "
                "to map."
            )

    @property
    def n_bytes(self) -> int:
        """Bytes of the matrix as it is stored, without compression."""
        arrays = [self.matrix[name] for name in ("data", "indices", "indptr")] if self.sparse else [self.matrix]
        return sum(prod(array.shape) * array.dtype.itemsize for array in arrays)

    def at_once(self, most: int, n_bytes: int = BLOCK_BYTES) -> int:
        """Return how many rows, up to `most`, take as many bytes as may be read at once."""
        return min(most, max(1, n_bytes * self.n_obs // max(self.n_bytes, 1)))

    def is_smaller_as_csr(self) -> bool:
        """Return whether the matrix is dense and would be smaller as CSR."""
        return not self.sparse and self._share_of_values() < SPARSE_SHARE

    def bytes_of_a_row(self, sparse: bool = False) -> float:
        """Return the bytes of a row in memory on average, as float32 or larger; with `sparse`, as CSR."""
        size = max((self.matrix["data"] if self.sparse else self.matrix).dtype.itemsize, 4)
        if self.sparse:
            return float((size + 4) * self.matrix["data"].shape[0] / max(self.n_obs, 1))
        return float(self._share_of_values() * self.n_vars * (size + 4) if sparse else self.n_vars * size)

    def _share_of_values(self) -> float:
        """Return the share of values that are not 0 in a dense matrix, estimated from a part of the rows."""
        starts = np.linspace(0, max(self.n_obs - PROBED_ROWS, 0), PROBES, dtype=int).tolist()
        blocks = [cast(np.ndarray, self.read(start, min(start + PROBED_ROWS, self.n_obs))) for start in starts]
        return float(np.count_nonzero(np.concatenate(blocks)) / max(sum(block.size for block in blocks), 1))

    def read_whole(self) -> Matrix:
        """Return all rows, as they are stored: dense, CSR or CSC.

        Raises
        ------
        ValueError
            If some of them cannot be read; it names these.
        """
        return self.read(0, self.n_vars) if self.by_genes else self.gather(np.arange(self.n_obs))

    def gather(self, rows: np.ndarray, sparse: bool = False) -> Matrix:
        """Return some rows, CSR or dense, from one pass over the blocks that hold them.

        Parameters
        ----------
        rows
            Their numbers, ascending.
        sparse
            Return CSR of a dense matrix, too.

        Raises
        ------
        ValueError
            If some of them cannot be read; it names these.
        """
        if self.by_genes:  # a block of genes at a time
            height = max(1, PART_BYTES * self.n_vars // max(self.n_bytes, 1))
            starts = range(0, max(self.n_vars, 1), height)
            return sp.hstack([self.read(i, min(i + height, self.n_vars))[rows] for i in starts], format="csr")
        height, found = self.at_once(max(self.n_obs, 1), PART_BYTES), []
        for start in range(0, self.n_obs, height):
            mine = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + height)]
            if len(mine):
                low, high = int(mine[0]), int(mine[-1]) + 1
                x = self.read(low, high)
                x = x if len(mine) == high - low else x[mine - low]
                found.append(sp.csr_matrix(x) if sparse else x)
        if not found:
            found.append(self.read(0, 0))
        return sp.vstack(found, format="csr") if sp.issparse(found[0]) else np.concatenate(found)

    def read(self, start: int, stop: int) -> Matrix:
        """Return rows from `start` to before `stop`, CSR or dense; of a matrix by genes, genes of all cells, CSC.

        Raises
        ------
        ValueError
            If some of them cannot be read; it names these.
        """
        try:
            return self._read(start, stop)
        except Damage as damage:
            first, last = max(start, damage.start), min(stop, damage.stop)
            raise ValueError(
                f"{'Genes' if self.by_genes else 'Rows'} {first:,} to {last - 1:,} of {self.name} in "
                f"{str(self.path)!r} cannot be read: {damage.why}. Copy the "
                f"{'store' if self.path.is_dir() else 'file'} again from an intact original."
            ) from damage

    def _read(self, start: int, stop: int) -> Matrix:
        if not self.sparse:
            return self._take(self.matrix, start, stop)
        try:
            indptr = self._take(self.matrix["indptr"], start, stop + 1)
        except Damage as damage:  # of the end of the row before, too
            raise Damage(damage.start - 1, damage.stop, damage.why) from damage
        n, lines = self.matrix["data"].shape[0], self.n_vars if self.by_genes else self.n_obs
        if (indptr[1:] < indptr[:-1]).any():
            raise Damage(start, stop, "some end before they begin")
        begin, end = indptr[0], indptr[-1]
        if not 0 <= begin <= end <= n or (start == 0 and begin > 0) or (stop == lines and end < n):
            raise Damage(start, stop, f"their values would be {begin:,} to {end:,} of {n:,}")
        try:
            data, indices = (self._take(self.matrix[of], int(begin), int(end)) for of in ("data", "indices"))
        except Damage as damage:  # of entries: the rows that have them
            first = int(np.searchsorted(indptr, damage.start, "right")) - 1
            last = int(np.searchsorted(indptr, damage.stop, "left"))
            raise Damage(start + first, start + last, damage.why) from damage
        shape, indptr = (stop - start, self.n_obs if self.by_genes else self.n_vars), indptr - begin
        why = contradiction(data, indices, indptr, shape)
        if why is not None:
            raise Damage(start, stop, why)
        if self.by_genes:
            return sp.csc_matrix((data, indices, indptr), shape=shape[::-1])
        return sp.csr_matrix((data, indices, indptr), shape=shape)

    def _take(self, array: Any, start: int, stop: int) -> np.ndarray:
        """Return a part of an array along its first axis."""
        height = (getattr(array, "shards", None) or array.chunks or (max(len(array), 1),))[0]
        stripes = [
            (i, max(start, i * height), min(stop, (i + 1) * height)) for i in range(start // height, -(-stop // height))
        ]
        lost = [stripe for stripe in stripes if stripe[2] - stripe[1] > 1 and self._is_lost(array, stripe[0])]
        why: object = "their chunks are missing"
        if not self.sparse and getattr(array, "fill_value", None) == 0:
            why = (
                f"{why}. They are lost, or all their values are 0, which zarr leaves out: anndata.read_zarr reads them "
                "as 0; fit that dataset in memory, or write it again as CSR"
            )
        if not lost:
            try:
                return np.asarray(array[start:stop])
            except Exception as error:  # a damaged chunk can raise anything
                why = error
            for stripe in stripes:
                try:
                    array[stripe[1] : stripe[2]]
                except Exception:
                    lost.append(stripe)
        bad = lost or stripes
        raise Damage(bad[0][1], bad[-1][2], why)

    def _is_lost(self, array: Any, i: int) -> bool:
        """Return whether a chunk of a .zarr array is not there; a file of HDF5 would be cut as a whole."""
        return hasattr(array, "metadata") and not is_kept(self.path, array, i)

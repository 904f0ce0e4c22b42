"""Tables of cells on disk, .zarr and .h5ad, read a block of rows at a time; what is damaged is named by its rows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
import scipy.sparse as sp

from tripletomics import files
from tripletomics.parts import did_you_mean
from tripletomics.pp.matrices import contradiction
from tripletomics.sources import Matrix
from tripletomics.tl.frames import read_var
from tripletomics.tl.layout import check_layout, encoding, is_kept, shape_of

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    import zarr

    Group: TypeAlias = zarr.Group | h5py.File

BUDGET = 2**28  # bytes of a matrix that are read at once
GATHERED = 2**25  # bytes that are read at once where a part of them is kept
PROBES, PROBED = 16, 64  # places where the share of zeros in a dense matrix is looked at, and rows at each
FEW = 1 / 3  # of a dense matrix are not 0, and CSR is smaller


class Damage(Exception):
    """Places from `start` to before `stop` along the first axis of an array that cannot be read, and why."""

    def __init__(self, start: int, stop: int, why: object) -> None:
        self.start, self.stop, self.why = start, stop, why


def open_store(path: Path) -> tuple[zarr.Group, pd.DataFrame]:
    """Open a store of cells to add to it; also return its `var`.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError
        If there is none, it is read-only, or it is no store of one table of cells.
    """
    _check_folder(path)
    if not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(f"{str(path)!r} is read-only: places are written into it.")
    return _open_zarr(path, "r+")


@contextmanager
def reading(path: Path) -> Iterator[tuple[Group, pd.DataFrame]]:
    """Open a table of cells on disk, .h5ad or .zarr, to read; also give its `var`.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError
        If there is none, it may not be read, or it is no table of cells.
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
def modernised(path: Path) -> Iterator[Path]:
    """Yield the path itself; for a file from before anndata 0.7, which has no columns, that of a copy with columns."""
    import anndata
    import h5py

    old = False
    if path.suffix == ".h5ad":
        files.check_hdf5(path, ".h5ad", {"obs", "var"})
        with h5py.File(path, "r") as root:
            try:
                old = root.get("obs", getclass=True) is h5py.Dataset
            except Exception as error:  # whatever a damaged file makes of the reader
                raise ValueError(f"{str(path)!r} cannot be read as AnnData: {error}") from error
            if old:
                check_layout(root, path)
    if not old:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        try:
            anndata.read_h5ad(path).write_h5ad(copy)
        except Exception as error:  # whatever a damaged file makes of the reader
            raise ValueError(f"{str(path)!r} cannot be read as AnnData: {error}") from error
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

    try:
        zarr.open_group(path, mode="r")  # with the list of all metadata that it may have, as other readers do
        root = zarr.open_group(path, mode=mode, use_consolidated=False)
        found = sorted(root.keys())
    except Exception as error:  # whatever a damaged store makes of the reader
        raise ValueError(f"{str(path)!r} cannot be read as AnnData: {error}") from error
    if "obs" in found and "var" in found:
        check_layout(root, path)
        return root, read_var(root, path)
    if "mod" in found:
        raise ValueError(f"{str(path)!r} holds several modalities, and one is placed here: write it as its own store.")
    raise ValueError(f"{str(path)!r} is a .zarr store but not one of cells: it holds {', '.join(found) or 'nothing'}.")


class Rows:
    """Rows of `.X`, of a layer or of another matrix of a table on disk.

    Parameters
    ----------
    root, path
        The table, as it was opened, and where it is.
    layer
        Layer to use in place of `.X`.
    name
        In place of both, where the matrix is in the table, such as "obsm/X_pca".

    Raises
    ------
    KeyError, ValueError
        If there is no such layer, or it is stored in a way that is not known.
    """

    def __init__(self, root: Group, path: Path, layer: str | None = None, name: str | None = None) -> None:
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
        """Refuse what has no rows, or whose rows cannot be read alone."""
        if self.by_genes:
            raise ValueError(
                f"{self.name} of {str(self.path)!r} is stored by genes (CSC), and its rows cannot be read alone: write "
                "it by cells first, with tripletomics convert, or adata.X = adata.X.tocsr() and adata.write_zarr(path)."
            )
        if not self.n_obs or not self.n_vars:
            raise ValueError(
                f"{str(self.path)!r} has {self.n_obs} cells and {self.n_vars} genes: there is nothing to map."
            )

    def at_once(self, most: int, budget: int = BUDGET) -> int:
        """Return how many rows can be read at once, up to `most`, for their bytes not to matter."""
        if self.sparse:
            entry = self.matrix["data"].dtype.itemsize + self.matrix["indices"].dtype.itemsize
            row = entry * self.matrix["data"].shape[0] / max(self.n_obs, 1)
        else:
            row = self.n_vars * self.matrix.dtype.itemsize
        return int(min(most, max(1, budget // max(row, 1))))

    def few(self) -> bool:
        """Tell whether a dense matrix would be smaller as CSR."""
        return not self.sparse and self._share() < FEW

    def bytes_of_a_row(self, sparse: bool = False) -> float:
        """Return the bytes of a row on average once it is float32 or larger, of a dense matrix as it is or as CSR."""
        size = max((self.matrix["data"] if self.sparse else self.matrix).dtype.itemsize, 4)
        if self.sparse:
            return float((size + 4) * self.matrix["data"].shape[0] / max(self.n_obs, 1))
        return float(self._share() * self.n_vars * (size + 4) if sparse else self.n_vars * size)

    def _share(self) -> float:
        """Return which share of a dense matrix is not 0, as far as a few rows tell."""
        starts = np.linspace(0, max(self.n_obs - PROBED, 0), PROBES, dtype=int).tolist()
        blocks = [cast(np.ndarray, self.read(start, min(start + PROBED, self.n_obs))) for start in starts]
        return float(np.count_nonzero(np.concatenate(blocks)) / max(sum(block.size for block in blocks), 1))

    def gather(self, rows: np.ndarray, sparse: bool = False) -> Matrix:
        """Return rows of any ascending numbers, CSR or dense, in one pass over the blocks that have some of them.

        Parameters
        ----------
        rows
            Their numbers.
        sparse
            Return CSR of a dense matrix, too.

        Raises
        ------
        ValueError
            If they cannot be read. It names those that cannot.
        """
        if self.by_genes:
            return self._gather_by_genes(rows)
        height, found = self.at_once(max(self.n_obs, 1), GATHERED), []
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

    def _gather_by_genes(self, rows: np.ndarray) -> Matrix:
        """Return rows of a CSC matrix as CSR, from one pass over all of its entries."""
        place = np.full(self.n_obs, -1, dtype=np.int32)
        place[rows] = np.arange(len(rows))
        n = self.matrix["data"].shape[0]
        step = GATHERED // (self.matrix["data"].dtype.itemsize + self.matrix["indices"].dtype.itemsize)
        taken: list[tuple[np.ndarray, ...]] = []
        begin, end = 0, 0
        try:
            indptr = self._take(self.matrix["indptr"], 0, self.n_vars + 1)
            if indptr[0] != 0 or indptr[-1] != n or (indptr[1:] < indptr[:-1]).any():
                raise Damage(0, n, f"its indptr does not ascend from 0 to {n:,}")
            for begin in range(0, n, step):
                end = min(begin + step, n)
                indices = self._take(self.matrix["indices"], begin, end)
                if indices.min() < 0 or indices.max() >= self.n_obs:
                    raise Damage(begin, end, f"there are rows {indices.min():,} to {indices.max():,}")
                where = place[indices]
                kept = np.flatnonzero(where >= 0)
                columns = np.searchsorted(indptr, kept + begin, "right") - 1
                values = self._take(self.matrix["data"], begin, end)[kept]
                taken.append((values, where[kept], columns.astype(np.int32)))
        except Damage as damage:
            raise ValueError(
                f"Entries {begin:,} to {max(end - 1, 0):,} of {self.name} in {str(self.path)!r}, which is stored by "
                f"genes, cannot be read: {damage.why}. Copy it again from an intact original."
            ) from damage
        empty = [(np.zeros(0, dtype=self.matrix["data"].dtype), *2 * (np.zeros(0, dtype=np.int32),))]
        values, where, columns = (np.concatenate(parts) for parts in zip(*(taken or empty), strict=True))
        return sp.csr_matrix((values, (where, columns)), shape=(len(rows), self.n_vars))

    def read(self, start: int, stop: int) -> Matrix:
        """Return rows from `start` to before `stop`, CSR or dense.

        Raises
        ------
        ValueError
            If they cannot be read. It names those that cannot.
        """
        try:
            return self._read(start, stop)
        except Damage as damage:
            first, last = max(start, damage.start), min(stop, damage.stop)
            raise ValueError(
                f"Rows {first:,} to {last - 1:,} of {self.name} in {str(self.path)!r} cannot be read: {damage.why}. "
                f"Copy the {'store' if self.path.is_dir() else 'file'} again from an intact original."
            ) from damage

    def _read(self, start: int, stop: int) -> Matrix:
        if not self.sparse:
            return self._take(self.matrix, start, stop)
        try:
            indptr = self._take(self.matrix["indptr"], start, stop + 1)
        except Damage as damage:  # of the end of the row before, too
            raise Damage(damage.start - 1, damage.stop, damage.why) from damage
        n = self.matrix["data"].shape[0]
        if (indptr[1:] < indptr[:-1]).any():
            raise Damage(start, stop, "some end before they begin")
        begin, end = indptr[0], indptr[-1]
        if not 0 <= begin <= end <= n or (start == 0 and begin > 0) or (stop == self.n_obs and end < n):
            raise Damage(start, stop, f"their values would be {begin:,} to {end:,} of {n:,}")
        try:
            data, indices = (self._take(self.matrix[of], *indptr[[0, -1]].tolist()) for of in ("data", "indices"))
        except Damage as damage:  # of entries: the rows that have them
            first = int(np.searchsorted(indptr, damage.start, "right")) - 1
            last = int(np.searchsorted(indptr, damage.stop, "left"))
            raise Damage(start + first, start + last, damage.why) from damage
        why = contradiction(data, indices, indptr - indptr[0], (stop - start, self.n_vars))
        if why is not None:
            raise Damage(start, stop, why)
        return sp.csr_matrix((data, indices, indptr - indptr[0]), shape=(stop - start, self.n_vars))

    def _take(self, array: Any, start: int, stop: int) -> np.ndarray:
        """Return a part of an array along its first axis."""
        height = (getattr(array, "shards", None) or array.chunks or (max(len(array), 1),))[0]
        stripes = [
            (i, max(start, i * height), min(stop, (i + 1) * height)) for i in range(start // height, -(-stop // height))
        ]
        lost = [stripe for stripe in stripes if stripe[2] - stripe[1] > 1 and self._is_lost(array, stripe[0])]
        why: object = "their chunks are not there"
        if not self.sparse and getattr(array, "fill_value", None) == 0:
            why = (
                f"{why}. They are lost, or all their values are 0, which zarr leaves out: anndata.read_zarr reads them "
                "as 0; fit that table in memory, or write it again as CSR"
            )
        if not lost:
            try:
                return np.asarray(array[start:stop])
            except Exception as error:  # whatever a damaged chunk makes of the codecs
                why = error
            for stripe in stripes:
                try:
                    array[stripe[1] : stripe[2]]
                except Exception:
                    lost.append(stripe)
        bad = lost or stripes
        raise Damage(bad[0][1], bad[-1][2], why)

    def _is_lost(self, array: Any, i: int) -> bool:
        return hasattr(array, "metadata") and not is_kept(self.path, array, i)  # of HDF5, the whole file would be cut

"""Stores of cells on disk, .zarr, read a block of rows at a time; what is damaged is named by its rows."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import scipy.sparse as sp

from tripletomics.parts import did_you_mean
from tripletomics.sources import Matrix

if TYPE_CHECKING:
    import pandas as pd
    import zarr

BUDGET = 2**28  # bytes of a matrix that are read at once


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
    import anndata
    import zarr

    if not path.exists():
        raise FileNotFoundError(f"There is no store {str(path)!r}.")
    if not path.is_dir():
        raise ValueError(f"{str(path)!r} is a file, and a .zarr store is a folder: write one with adata.write_zarr.")
    if not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(f"{str(path)!r} is read-only: places are written into it.")
    try:
        root = zarr.open_group(path, mode="r+", use_consolidated=False)
        found = sorted(root.keys())
        if {"obs", "var"} <= set(found):
            return root, anndata.io.read_elem(root["var"])
    except Exception as error:  # whatever a damaged store makes of the reader
        raise ValueError(f"{str(path)!r} cannot be read as AnnData: {error}") from error
    if "mod" in found:
        raise ValueError(f"{str(path)!r} holds several modalities, and one is placed here: write it as its own store.")
    raise ValueError(f"{str(path)!r} is a .zarr store but not one of cells: it holds {', '.join(found) or 'nothing'}.")


class Rows:
    """Rows of `.X` or of a layer of a store.

    Raises
    ------
    KeyError, ValueError
        If there is no such layer, or it is stored in another way than by rows.
    """

    def __init__(self, root: zarr.Group, path: Path, layer: str | None) -> None:
        layers = sorted(cast(Any, root["layers"]).keys()) if "layers" in root else []
        if layer is not None and layer not in layers:
            raise KeyError(
                f"layer={layer!r} is not a layer of {str(path)!r}.{did_you_mean(layer, layers)} Layers: "
                f"{', '.join(layers) or 'none'}."
            )
        self.path, self.name = path, "X" if layer is None else f"layers/{layer}"
        self.matrix = cast(Any, root.get(self.name))
        kind = None if self.matrix is None else self.matrix.attrs.get("encoding-type", "nothing known")
        if kind in (None, "null"):
            raise ValueError(f"{self.name} of {str(path)!r} is empty: name the matrix with layer=.")
        if kind == "csc_matrix":
            raise ValueError(
                f"{self.name} of {str(path)!r} is stored by genes (CSC), and its rows cannot be read alone: write it "
                "by cells first, adata.X = adata.X.tocsr() and adata.write_zarr(path)."
            )
        self.sparse = kind == "csr_matrix"
        shape = self.matrix.attrs["shape"] if self.sparse else getattr(self.matrix, "shape", ())
        if not (self.sparse or kind == "array") or len(shape) != 2:
            raise ValueError(f"{self.name} of {str(path)!r} is stored as {kind!r}: write it as CSR or dense.")
        self.n_obs, self.n_vars = map(int, shape)

    def at_once(self, most: int) -> int:
        """Return how many rows can be read at once, up to `most`, for their bytes not to matter."""
        if self.sparse:
            entry = self.matrix["data"].dtype.itemsize + self.matrix["indices"].dtype.itemsize
            row = entry * self.matrix["data"].shape[0] / self.n_obs
        else:
            row = self.n_vars * self.matrix.dtype.itemsize
        return int(min(most, max(1, BUDGET // max(row, 1))))

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
                "Copy the store anew from where it is whole."
            ) from damage

    def _read(self, start: int, stop: int) -> Matrix:
        if not self.sparse:
            return self._take(self.matrix, start, stop)
        try:
            indptr = self._take(self.matrix["indptr"], start, stop + 1)
        except Damage as damage:  # of the end of the row before, too
            raise Damage(damage.start - 1, damage.stop, damage.why) from damage
        if (np.diff(indptr) < 0).any():
            raise Damage(start, stop, "some end before they begin")
        try:
            data, indices = (self._take(self.matrix[of], *indptr[[0, -1]].tolist()) for of in ("data", "indices"))
        except Damage as damage:  # of entries: the rows that have them
            first = int(np.searchsorted(indptr, damage.start, "right")) - 1
            last = int(np.searchsorted(indptr, damage.stop, "left"))
            raise Damage(start + first, start + last, damage.why) from damage
        try:
            x = sp.csr_matrix((data, indices, indptr - indptr[0]), shape=(stop - start, self.n_vars))
            x.check_format()  # a column beyond the last would crash what takes columns
        except ValueError as error:
            raise Damage(start, stop, error) from error
        return x

    def _take(self, array: zarr.Array, start: int, stop: int) -> np.ndarray:
        """Return a part of an array along its first axis."""
        height = (array.shards or array.chunks)[0]
        stripes = [
            (i, max(start, i * height), min(stop, (i + 1) * height)) for i in range(start // height, -(-stop // height))
        ]
        lost = [stripe for stripe in stripes if stripe[2] - stripe[1] > 1 and not is_kept(self.path, array, stripe[0])]
        why: object = "their chunks are not there"
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


def is_kept(path: Path, array: zarr.Array, i: int) -> bool:
    """Tell whether the i-th chunk along the first axis of an array, or a part of it, is in the store."""
    folder, sizes = path / array.path, array.shards or array.chunks
    others = [range(-(-length // size)) for length, size in zip(array.shape[1:], sizes[1:], strict=True)]
    return any((folder / array.metadata.encode_chunk_key((i, *rest))).exists() for rest in product(*others))

"""Datasets on disk converted to rows, with memory that does not depend on the number of cells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anndata
import numpy as np
import zarr

from tripletomics import files, pp
from tripletomics.sources import Matrix
from tripletomics.store import reading
from tripletomics.store.frames import Obs
from tripletomics.store.layout import encoding, reporting, shape_of, text
from tripletomics.store.reading import Rows, open_to_read, upgraded

if TYPE_CHECKING:
    from tripletomics.store.layout import Group

CHUNK_ENTRIES = 2**18  # of an array of CSR
CHUNK_BYTES = 2**20  # of a dense matrix
PASS_BYTES = 2**27  # bytes that are gathered in one pass over a matrix whose rows change their order
COMPLETE = {"tripletomics": {"complete": True}}  # marks an array whose chunks are all written, including those of zeros
BY_ROWS = ("layers", "obsm", "obsp")


def write_by_rows(source: Path, target: Path, group_by: str | None, force: bool = False) -> None:
    """Write a dataset as a new .zarr store: see `tripletomics.tl.convert`."""
    from rich.filesize import decimal

    _check_target(target, force)
    with upgraded(source) as path, open_to_read(path) as (root, _):
        order = _order(root, source, group_by)
        names = list(_elements(root))
        _check_names(root, source)
        matrices = [Rows(root, source, name=name) for name in names if _is_matrix(root[name]) and _by_cells(name)]
        needed = sum(int(rows.n_obs * rows.bytes_of_a_row()) for rows in matrices)
        files.check_room(target, needed, f"{str(target)!r} takes up to {decimal(needed)}")
        with files.filling(target, needed), files.creating(target, replace=force) as draft:
            store = zarr.open_group(draft, mode="w", zarr_format=anndata.settings.zarr_write_format)
            store.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
            for name in {*BY_ROWS, "raw"} & set(root):
                kind = "raw" if name == "raw" else "dict"
                store.create_group(name).attrs.update({"encoding-type": kind, "encoding-version": "0.1.0"})
            for rows in matrices:
                _copy_rows(rows, store, order)
            for name in set(names) - {rows.name for rows in matrices}:
                _copy_whole(root, source, store, name, order)
            zarr.consolidate_metadata(store.store)


def _check_target(target: Path, force: bool) -> None:
    """Raise unless a store can be written there, by `force` in place of another one."""
    if target.suffix != ".zarr" or not target.exists():
        files.check_writable(target, ".zarr")
    elif not any((target / name).is_file() for name in ("zarr.json", ".zgroup")):
        raise FileExistsError(f"{str(target)!r} is there already, and is no .zarr store: choose another name.")
    elif not force:
        raise FileExistsError(
            f"{str(target)!r} is there already: choose another name, or pass force=True to replace it."
        )
    else:
        with files.drafting(Path(os.path.realpath(target)).parent):  # finds a disk that is read-only or full
            pass


def _check_names(root: Group, path: Path) -> None:
    """Raise if a store, in which columns are folders, cannot hold the name of a column."""
    for frame in ("obs", "var", "raw/var"):
        columns = map(text, cast(Any, root[frame]).attrs.get("column-order", [])) if frame in root else ()
        for name in columns:
            if "/" in name:
                raise ValueError(
                    f"{frame}[{name!r}] of {str(path)!r} has a '/' in its name, which a .zarr store cannot hold: read "
                    f"the file, rename it with adata.{frame.replace('/', '.')}.rename(columns=...), and write it again."
                )


def _order(root: Group, path: Path, group_by: str | None) -> np.ndarray | None:
    """Return the rows in their new order; None to keep the order."""
    if group_by is None:
        return None
    obs = Obs(root, path)
    pp.column(cast(Any, obs), group_by, "group_by")
    codes = obs.read(group_by).astype("category").cat.codes.to_numpy()
    return np.argsort(np.where(codes < 0, codes.max(initial=0) + 1, codes), kind="stable")


def _elements(root: Group) -> Iterator[str]:
    """Yield the names of the parts of a dataset that are copied separately."""
    for name in root:
        nested = name in (*BY_ROWS, "raw") and not hasattr(root[name], "shape")
        yield from (f"{name}/{part}" for part in cast(Any, root[name])) if nested else (name,)


def _by_cells(name: str) -> bool:
    return name.partition("/")[0] in ("X", *BY_ROWS) or name == "raw/X"


def _is_matrix(element: Any) -> bool:
    kind = encoding(element)
    return kind in ("csr_matrix", "csc_matrix") or (kind in ("array", "") and len(shape_of(element) or ()) == 2)


def _copy_whole(root: Group, path: Path, store: zarr.Group, name: str, order: np.ndarray | None) -> None:
    with reporting(f"{name} of {str(path)!r} cannot be read"):
        element: Any = anndata.io.read_elem(cast(Any, root[name]))
    if order is not None and element is not None and (_by_cells(name) or name == "obs"):
        element = element.iloc[order] if hasattr(element, "iloc") else element[order]
    parent, _, leaf = name.rpartition("/")
    with zarr.config.set({"array.write_empty_chunks": True}):
        anndata.io.write_elem(cast(Any, store[parent] if parent else store), leaf, element)
    if name == "obs":  # a lost chunk would be read as cells of the first type
        for _, part in cast(Any, store[name]).members(max_depth=None):
            if hasattr(part, "shape"):
                part.attrs.update(COMPLETE)


def _copy_rows(rows: Rows, store: zarr.Group, order: np.ndarray | None) -> None:
    """Write a matrix a block of rows at a time."""
    parent, _, leaf = rows.name.rpartition("/")
    group = cast(Any, store[parent] if parent else store)
    square = parent == "obsp"
    if rows.sparse or (parent not in ("obsm", "obsp") and rows.is_smaller_as_csr()):
        _write_sparse(group.create_group(leaf), _blocks(rows, order, True, square), rows)
        return
    height = max(CHUNK_BYTES // max(rows.n_vars * rows.matrix.dtype.itemsize, 1), 1)
    array = group.create_array(
        leaf, shape=(rows.n_obs, rows.n_vars), chunks=(min(height, max(rows.n_obs, 1)), max(rows.n_vars, 1)),
        dtype=rows.matrix.dtype, config={"write_empty_chunks": True},  # a chunk that is left out would look lost
        attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
    )  # fmt: skip
    start = 0
    for x in _blocks(rows, order, False, square):
        array[start : start + len(x)] = x
        start += len(x)


def _blocks(rows: Rows, order: np.ndarray | None, sparse: bool, square: bool) -> Iterator[Matrix]:
    """Yield rows in their new order; where it differs from the old one, each block takes a pass over all rows."""
    height = rows.at_once(max(rows.n_obs, 1), reading.PART_BYTES if order is None and not rows.by_genes else PASS_BYTES)
    for start in range(0, rows.n_obs, height):
        mine = np.arange(start, min(start + height, rows.n_obs)) if order is None else order[start : start + height]
        ascending = np.sort(mine)
        x = rows.gather(ascending, sparse)
        if order is not None:
            x = x[np.searchsorted(ascending, mine)]
        yield x if order is None or not square else x[:, order]


def _write_sparse(group: Any, blocks: Iterator[Matrix], rows: Rows) -> None:
    """Write CSR; for dense rows, the number of entries is not known before."""
    shape = (rows.n_obs, rows.n_vars)
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(shape)})
    dtype = (rows.matrix["data"] if rows.sparse else rows.matrix).dtype
    whole = {"config": {"write_empty_chunks": True}}  # a chunk that is left out would look lost
    data, indices = (
        group.create_array(name, shape=(0,), chunks=(CHUNK_ENTRIES,), dtype=kind, **whole)
        for name, kind in (("data", dtype), ("indices", "int32" if rows.n_vars < 2**31 else "int64"))
    )
    indptr = group.create_array("indptr", shape=(rows.n_obs + 1,), chunks=(CHUNK_ENTRIES,), dtype="int64", **whole)
    indptr[:1] = 0
    row = entries = 0
    for x in blocks:
        end = entries + x.nnz
        for array, values in ((data, x.data), (indices, x.indices)):
            array.resize((end,))
            array[entries:end] = values
        indptr[row + 1 : row + 1 + x.shape[0]] = x.indptr[1:].astype("int64") + entries
        row, entries = row + x.shape[0], end

"""Tables on disk written anew by rows, in memory that does not follow the number of cells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tripletomics import files

if TYPE_CHECKING:
    import numpy as np
    import zarr

    from tripletomics.sources import Matrix
    from tripletomics.tl.stores import Group, Rows

ENTRIES = 2**18  # of a chunk of CSR
CHUNK_BYTES = 2**20  # of a chunk of a dense matrix
GROUPED = 2**27  # bytes that are gathered in one pass over a matrix whose rows change their places
COMPLETE = {"tripletomics": {"complete": True}}  # marks an array whose chunks are all written, also those of zeros
BY_ROWS = ("layers", "obsm", "obsp")


def convert(path: str | os.PathLike[str], out: str | os.PathLike[str], *, group_by: str | None = None) -> None:
    """Write a table on disk as a .zarr store by rows, which can be fitted and placed where it is.

    Parameters
    ----------
    path
        An .h5ad file or a .zarr store, by rows (CSR), by genes (CSC) or dense. It is not changed.
    out
        Store to write, .zarr.
    group_by
        Column of `obs`. Cells of one group then lie together, groups in the order of the categories or sorted, in each
        the cells in their order, and those without a group last.

    Returns
    -------
    None. The store holds `obs`, `var`, `uns`, `raw` and all matrices of the table: by rows, CSR where they were sparse.
    `.X` and layers that were dense are CSR if two thirds of their values are 0. A part of a matrix, up to 128 MB, is
    read at a time; with `group_by`, and by genes, there are as many passes over it as that takes.

    Raises
    ------
    KeyError
        If there is no such column.
    FileExistsError, FileNotFoundError, PermissionError, OSError
        If `out` is there already, a path does not exist or may not be used, or the disk fills up. Nothing is left then.
    ValueError
        If the table, or a part of it, cannot be read, or `out` does not end in .zarr.
    """
    import anndata
    import zarr
    from rich.filesize import decimal

    from tripletomics.tl.stores import Rows, modernised, reading

    source, target = Path(path), Path(out)
    if target.suffix == ".zarr" and target.exists():
        raise FileExistsError(f"{str(target)!r} is there already: choose another name, or delete it first.")
    files.check_writable(target, ".zarr")
    with modernised(source) as modern, reading(modern) as (root, _):
        order = _order(root, source, group_by)
        names = list(_elements(root))
        _check_names(root, source)
        matrices = [Rows(root, source, name=name) for name in names if _is_matrix(root[name]) and _by_cells(name)]
        needed = sum(int(rows.n_obs * rows.bytes_of_a_row()) for rows in matrices)
        files.check_room(target, needed, f"{str(target)!r} takes up to {decimal(needed)}")
        with files.filling(target, needed), files.creating(target) as draft:
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


def _check_names(root: Group, path: Path) -> None:
    """Raise if a store, in which columns are folders, cannot hold the name of a column."""
    from tripletomics.tl.layout import text

    for frame in ("obs", "var", "raw/var"):
        columns = map(text, cast(Any, root[frame]).attrs.get("column-order", [])) if frame in root else ()
        for name in columns:
            if "/" in name:
                raise ValueError(
                    f"{frame}[{name!r}] of {str(path)!r} has a '/' in its name, which a .zarr store cannot hold: read "
                    f"the file, rename it with adata.{frame.replace('/', '.')}.rename(columns=...), and write it again."
                )


def _order(root: Group, path: Path, group_by: str | None) -> np.ndarray | None:
    """Return the rows as they are to lie, None for as they are."""
    import numpy as np

    from tripletomics import pp
    from tripletomics.tl.frames import Obs

    if group_by is None:
        return None
    obs = Obs(root, path)
    pp.column(cast(Any, obs), group_by, "group_by")
    codes = obs.read(group_by).astype("category").cat.codes.to_numpy()
    return np.argsort(np.where(codes < 0, codes.max(initial=0) + 1, codes), kind="stable")


def _elements(root: Group) -> Iterator[str]:
    """Name the parts of a table that are copied each by itself."""
    for name in root:
        nested = name in (*BY_ROWS, "raw") and not hasattr(root[name], "shape")
        yield from (f"{name}/{part}" for part in cast(Any, root[name])) if nested else (name,)


def _by_cells(name: str) -> bool:
    return name.partition("/")[0] in ("X", *BY_ROWS) or name == "raw/X"


def _is_matrix(element: Any) -> bool:
    from tripletomics.tl.layout import encoding, shape_of

    kind = encoding(element)
    return kind in ("csr_matrix", "csc_matrix") or (kind in ("array", "") and len(shape_of(element) or ()) == 2)


def _copy_whole(root: Group, path: Path, store: zarr.Group, name: str, order: np.ndarray | None) -> None:
    import anndata
    import zarr

    try:
        element: Any = anndata.io.read_elem(cast(Any, root[name]))
    except Exception as error:  # whatever a damaged file makes of the reader
        raise ValueError(f"{name} of {str(path)!r} cannot be read: {error}") from error
    if order is not None and element is not None and (_by_cells(name) or name == "obs"):
        element = element.iloc[order] if hasattr(element, "iloc") else element[order]
    parent, _, leaf = name.rpartition("/")
    with zarr.config.set({"array.write_empty_chunks": True}):
        anndata.io.write_elem(cast(Any, store[parent] if parent else store), leaf, element)
    if name == "obs":  # a lost chunk would read as cells of the first type
        for _, array in cast(Any, store[name]).arrays():
            array.attrs.update(COMPLETE)
        for _, group in cast(Any, store[name]).groups():
            for _, array in group.arrays():
                array.attrs.update(COMPLETE)


def _copy_rows(rows: Rows, store: zarr.Group, order: np.ndarray | None) -> None:
    """Write a matrix a block of rows at a time."""
    parent, _, leaf = rows.name.rpartition("/")
    group = cast(Any, store[parent] if parent else store)
    square = parent == "obsp"
    if rows.sparse or (parent not in ("obsm", "obsp") and rows.few()):
        _write_sparse(group.create_group(leaf), _blocks(rows, order, True, square), rows)
        return
    height = max(CHUNK_BYTES // max(rows.n_vars * rows.matrix.dtype.itemsize, 1), 1)
    array = group.create_array(
        leaf, shape=(rows.n_obs, rows.n_vars), chunks=(min(height, max(rows.n_obs, 1)), max(rows.n_vars, 1)),
        dtype=rows.matrix.dtype, config={"write_empty_chunks": True},  # a chunk that lacks would look lost
        attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
    )  # fmt: skip
    start = 0
    for x in _blocks(rows, order, False, square):
        array[start : start + len(x)] = x
        start += len(x)


def _blocks(rows: Rows, order: np.ndarray | None, sparse: bool, square: bool) -> Iterator[Matrix]:
    """Yield rows as they are to lie; where they change their places, each block takes a pass over all."""
    import numpy as np

    from tripletomics.tl.stores import GATHERED

    height = rows.at_once(max(rows.n_obs, 1), GATHERED if order is None and not rows.by_genes else GROUPED)
    for start in range(0, rows.n_obs, height):
        mine = np.arange(start, min(start + height, rows.n_obs)) if order is None else order[start : start + height]
        ascending = np.sort(mine)
        x = rows.gather(ascending, sparse)
        if order is not None:
            x = x[np.searchsorted(ascending, mine)]
        yield x if order is None or not square else x[:, order]


def _write_sparse(group: Any, blocks: Iterator[Matrix], rows: Rows) -> None:
    """Write CSR; how many entries there are, dense rows do not say before."""
    shape = (rows.n_obs, rows.n_vars)
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(shape)})
    dtype = (rows.matrix["data"] if rows.sparse else rows.matrix).dtype
    whole = {"config": {"write_empty_chunks": True}}  # a chunk that lacks would look lost
    data, indices = (
        group.create_array(name, shape=(0,), chunks=(ENTRIES,), dtype=kind, **whole)
        for name, kind in (("data", dtype), ("indices", "int32" if rows.n_vars < 2**31 else "int64"))
    )
    indptr = group.create_array("indptr", shape=(rows.n_obs + 1,), chunks=(ENTRIES,), dtype="int64", **whole)
    indptr[:1] = 0
    row = entries = 0
    for x in blocks:
        end = entries + x.nnz
        for array, values in ((data, x.data), (indices, x.indices)):
            array.resize((end,))
            array[entries:end] = values
        indptr[row + 1 : row + 1 + x.shape[0]] = x.indptr[1:].astype("int64") + entries
        row, entries = row + x.shape[0], end

"""Coordinates of all cells, written into a dataset on disk: all of them, or nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tripletomics import files
from tripletomics.keys import metric_key
from tripletomics.sources import Matrix
from tripletomics.store import tables
from tripletomics.store.frames import Obs
from tripletomics.store.layout import is_there
from tripletomics.store.reading import open_to_read

if TYPE_CHECKING:
    import pandas as pd

# rows of a chunk of coordinates: a multiple of the 4,096 that networks take at once, since the last bits of a row can
# depend on the rows that are computed with it
CHUNK_ROWS = 8192
MARGIN = 2**22  # bytes of a file for everything but the coordinates


class Block(NamedTuple):
    """Coordinates of the rows from `start` to before `stop`, by the keys of `obsm`, and the values behind them."""

    start: int
    stop: int
    coordinates: Mapping[str, np.ndarray]
    x: Matrix = None


@dataclass(frozen=True)
class Results:
    """What is written into a dataset.

    Attributes
    ----------
    n_obs
        Number of cells in the dataset.
    widths
        Columns of each array of `obsm`, by its key.
    blocks
        All rows of these arrays.
    columns, records
        Of `obs` and `uns`. They are read after all blocks, which may add to them.
    stale
        Columns of `obs` that are deleted, as they are of an earlier prediction.
    column_bytes
        Bytes that the columns of a cell take at most.
    """

    n_obs: int
    widths: Mapping[str, int]
    blocks: Iterable[Block]
    columns: Mapping[str, pd.Categorical[str]]
    records: Mapping[str, object]
    stale: Collection[str] = ()
    column_bytes: int = 1


def check_target(source: Path, target: Path, keys: Iterable[str], n_obs: int, width: int) -> int:
    """Raise unless the coordinates can be written; return how many bytes they take, with those of a copied file.

    Raises
    ------
    PermissionError, FileNotFoundError, ValueError
        If it is read-only, there is no such folder, or `transform --shard` has begun to write coordinates.
    OSError
        If the disk is too small.
    """
    from rich.filesize import decimal

    needed = n_obs * width * 4
    if target.suffix == ".zarr":
        if not os.access(target, os.W_OK):
            raise PermissionError(f"{str(target)!r} is read-only: coordinates are written into it.")
        real = Path(os.path.realpath(target))
        if not os.access(real.parent, os.W_OK) or real.is_mount():
            why = "is a mount point" if real.is_mount() else "lies in a folder that is read-only"
            raise PermissionError(
                f"{str(target)!r} {why}: a new store is made next to it, and then replaces it. Move it into a "
                "folder that you may write to."
            )
        with files.drafting(real.parent):  # deletes what killed processes have left
            pass
        _check_shards(target, keys)
        needed += MARGIN // 4
        what = "The coordinates take"
    elif target.suffix in tables.ENDINGS:
        tables.check(target)
        return 0  # text that fills up a disk costs nothing but the table
    else:
        files.check_writable(target, ".h5ad")
        needed += source.stat().st_size + MARGIN
        what = f"A copy of {str(source)!r} with the coordinates takes"
    files.check_room(target, needed, f"{what} up to {decimal(needed)}")
    return needed


def _check_shards(path: Path, keys: Iterable[str]) -> None:
    """Raise if other processes may be writing one of these arrays."""
    import zarr

    root = zarr.open_group(path, mode="r", use_consolidated=False)
    for key in keys:
        array: Any = root.get(f"obsm/{key}")
        if array is not None and "tripletomics" in array.attrs and not is_there(path, array):
            raise ValueError(
                f"obsm[{key!r}] of {str(path)!r} was begun with transform --shard and has rows without coordinates: "
                "complete that first, choose another key_added, or delete the array from the store."
            )


def write(source: Path, target: Path, results: Results, needed: int) -> None:
    """Write results into a store, into a copy of a file that then replaces it or another, or without the cells.

    Raises
    ------
    DiskFull
        If the disk fills up. Nothing is changed then.
    """
    if target.suffix == ".zarr":
        with files.filling(target, needed):
            _write_zarr(target, results)
    elif target.suffix in tables.ENDINGS:
        _write_table(source, target, results)
    else:
        _write_h5ad(source, target, results, needed)


def _write_table(source: Path, target: Path, results: Results) -> None:
    key = next(name for name in results.widths if metric_key(name) in results.widths)
    coordinates = np.concatenate([block.coordinates[key] for block in results.blocks])
    with open_to_read(source) as (root, _):
        names = Obs(root, source).names(np.arange(results.n_obs))
    tables.write(target, names, results.columns, key, coordinates)


def _write_h5ad(source: Path, target: Path, results: Results, needed: int) -> None:
    import h5py

    with files.replacing(target, needed) as draft:
        shutil.copyfile(source, draft)
        _lengthen(draft, results)
        with h5py.File(draft, "r+") as root:
            _add_groups(root)
            for name in set(results.widths) & set(root["obsm"]):
                del root["obsm"][name]
            _write_blocks(root["obsm"], results)
            _write_annotations(root, results)


def _lengthen(draft: Path, results: Results) -> None:
    """Lengthen a file before writing into it: HDF5 can crash where a disk fills up; it cuts what is not used."""
    left = results.n_obs * (4 * sum(results.widths.values()) + results.column_bytes) + MARGIN
    with draft.open("ab") as file:
        while left > 0:
            left -= file.write(bytes(min(left, 2**20)))


def _write_zarr(path: Path, results: Results) -> None:
    """Write into a new folder with the same files, and replace the store by it: a reader sees all or nothing.

    Files that do not change are stored once, under two names; what is written goes to new files.
    """
    import zarr

    path = Path(os.path.realpath(path))
    with files.drafting(path.parent) as folder:
        draft = folder / "new"
        draft.mkdir()
        version: Any = zarr.open_group(path, mode="r", use_consolidated=False).metadata.zarr_format
        _write_blocks(zarr.open_group(draft / "obsm", mode="w", zarr_format=version), results)
        with files.using(path, alone=True):  # others may have written into it meanwhile
            new, drafts = folder / path.name, shutil.ignore_patterns(f"{files.DRAFT}*", "*.partial")
            shutil.copytree(path, new, copy_function=_link, symlinks=True, ignore=drafts)
            root = zarr.open_group(new, mode="r+", use_consolidated=False)
            _add_groups(root)
            for name in results.widths:
                shutil.rmtree(new / "obsm" / name, ignore_errors=True)
                os.rename(draft / "obsm" / name, new / "obsm" / name)
            _write_annotations(root, results)
            if zarr.open_group(path, mode="r").metadata.consolidated_metadata is not None:
                zarr.consolidate_metadata(root.store)
            files.exchange(new, path)


def _link(source: str, target: str) -> None:
    """Give a file of a store a second name; copy metadata, which may be changed, and files on a disk without links."""
    name = os.path.basename(source)
    if name != "zarr.json" and not name.startswith("."):
        with suppress(OSError):  # a disk without links
            os.link(source, target)
            return
    shutil.copy2(source, target)


def _add_groups(root: Any) -> None:
    import anndata

    for name in {"obsm", "uns"} - {*root.keys()}:
        anndata.io.write_elem(root, name, {})


def create_coordinates(
    obsm: Any, name: str, shape: tuple[int, int], attributes: Mapping[str, Any] | None = None, **given: Any
) -> Any:
    """Create an array of float32 in a group of a file or store, in chunks of whole rows."""
    create = getattr(obsm, "create_array", None) or obsm.create_dataset  # of zarr, of h5py
    array = create(name, shape=shape, chunks=(min(CHUNK_ROWS, shape[0]), shape[1]), dtype="float32", **given)
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"} | dict(attributes or {}))
    return array


def _write_blocks(obsm: Any, results: Results) -> None:
    arrays = {name: create_coordinates(obsm, name, (results.n_obs, width)) for name, width in results.widths.items()}
    for block in results.blocks:
        for name, array in arrays.items():
            array[block.start : block.stop] = block.coordinates[name]


def _write_annotations(root: Any, results: Results) -> None:
    """Write columns of `obs` and elements of `uns`, in place of those that are there; delete stale columns."""
    import anndata

    gone = {name for name in results.stale if name in root["obs"] and name not in results.columns}
    for name in gone:
        del root["obs"][name]
    for name, elements in (("obs", results.columns), ("uns", results.records)):
        for key, element in elements.items():
            if key in root[name]:
                del root[name][key]
            anndata.io.write_elem(root[name], key, element)
    columns = [str(name) for name in root["obs"].attrs["column-order"] if str(name) not in gone]
    root["obs"].attrs["column-order"] = columns + [name for name in results.columns if name not in columns]

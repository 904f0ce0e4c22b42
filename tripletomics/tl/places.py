"""Places of all cells, written into a table on disk: all of them, or nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tripletomics import files
from tripletomics.tl.atlas import CHUNK

SPARE = 2**22  # bytes of a file for what is not places

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Results:
    """What is written.

    Attributes
    ----------
    n_obs
        Cells of the table.
    widths
        Columns of each array of `obsm`, by its key.
    blocks
        Rows from one number to before another, of all of these arrays.
    columns, records
        Of `obs` and `uns`; they are read once all blocks are there, which may add to them.
    """

    n_obs: int
    widths: Mapping[str, int]
    blocks: Iterable[tuple[int, int, Mapping[str, np.ndarray]]]
    columns: Mapping[str, pd.Categorical[str]]
    records: Mapping[str, object]


def check_target(source: Path, target: Path, keys: Iterable[str], n_obs: int, width: int) -> int:
    """Raise unless the places can be written; return how many bytes they take, of a file with a copy of it.

    Raises
    ------
    PermissionError, FileNotFoundError, ValueError
        If it is read-only, there is no such folder, or `transform --shard` has begun to place its cells.
    OSError
        If the disk is too small.
    """
    from rich.filesize import decimal

    needed = n_obs * width * 4
    if target.suffix == ".zarr":
        if not os.access(target, os.W_OK):
            raise PermissionError(f"{str(target)!r} is read-only: places are written into it.")
        real = Path(os.path.realpath(target))
        if not os.access(real.parent, os.W_OK) or real.is_mount():
            why = "is a mount point" if real.is_mount() else "lies in a folder that is read-only"
            raise PermissionError(
                f"{str(target)!r} {why}: a new store is made next to it, and then replaces it. Move it into a "
                "folder that you may write to."
            )
        with files.drafting(real.parent):  # deletes what a kill has left
            pass
        _check_shards(target, keys)
        needed += SPARE // 4
        what = "The places take"
    else:
        files.check_writable(target, ".h5ad")
        needed += source.stat().st_size + SPARE
        what = f"A copy of {str(source)!r} with the places takes"
    files.check_room(target, needed, f"{what} up to {decimal(needed)}")
    return needed


def write(source: Path, target: Path, results: Results, needed: int) -> None:
    """Write results into a store, or into a copy of a file that then takes its place or another.

    Raises
    ------
    DiskFull
        If the disk fills up. Nothing is changed then.
    """
    if target.suffix == ".zarr":
        with files.filling(target, needed):
            _write_zarr(target, results)
    else:
        _write_h5ad(source, target, results, needed)


def _write_h5ad(source: Path, target: Path, results: Results, needed: int) -> None:
    import anndata
    import h5py

    with files.replacing(target, needed) as draft:
        shutil.copyfile(source, draft)
        _make_room(draft, results)
        with h5py.File(draft, "r+") as root:
            for name in {"obsm", "uns"} - set(root):
                anndata.io.write_elem(root, name, {})
            for name in set(results.widths) & set(root["obsm"]):
                del root["obsm"][name]
            _fill(root["obsm"], results)
            for name, column in results.columns.items():
                anndata.io.write_elem(root["obs"], name, column)
            _list_columns(root["obs"], results)
            for name, record in results.records.items():
                anndata.io.write_elem(root["uns"], name, record)


def _make_room(draft: Path, results: Results) -> None:
    """Make a file longer by what is to be written into it: HDF5 can crash where a disk fills up, and cuts the rest."""
    left = results.n_obs * (4 * sum(results.widths.values()) + 1) + SPARE
    with draft.open("ab") as file:
        while left > 0:
            left -= file.write(bytes(min(left, 2**20)))


def _write_zarr(path: Path, results: Results) -> None:
    """Write into a new folder with the same files, and replace the store by it: a reader sees all or nothing.

    Files that stay are stored once, under two names; what is written gets files of its own.
    """
    import anndata
    import zarr

    path = Path(os.path.realpath(path))
    with files.drafting(path.parent) as folder:
        draft = folder / "new"
        draft.mkdir()
        blocks = zarr.open_group(draft / "places", mode="w", zarr_format=_format(path))
        _fill(blocks, results)
        with files.using(path, alone=True):  # others may have written into it meanwhile
            new, drafts = folder / path.name, shutil.ignore_patterns(f"{files.DRAFT}*", "*.partial")
            shutil.copytree(path, new, copy_function=_link, symlinks=True, ignore=drafts)
            root = zarr.open_group(new, mode="r+", use_consolidated=False)
            for name in {"obsm", "uns"} - set(root.keys()):
                anndata.io.write_elem(root, name, {})
            for name in results.widths:
                shutil.rmtree(new / "obsm" / name, ignore_errors=True)
                os.rename(draft / "places" / name, new / "obsm" / name)
            for name, elements in (("obs", results.columns), ("uns", results.records)):
                part: Any = root[name]
                for key, element in elements.items():
                    if key in part:
                        del part[key]
                    anndata.io.write_elem(part, key, element)
            _list_columns(root["obs"], results)
            if zarr.open_group(path, mode="r").metadata.consolidated_metadata is not None:
                zarr.consolidate_metadata(root.store)
            files.exchange(new, path)


def _format(path: Path) -> Any:
    import zarr

    return zarr.open_group(path, mode="r", use_consolidated=False).metadata.zarr_format


def _link(source: str, target: str) -> None:
    """Give a file of a store a second name; copy metadata, which may be changed, and files on a disk without links."""
    name = os.path.basename(source)
    if name == "zarr.json" or name.startswith("."):
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except OSError:  # a disk without links
        shutil.copy2(source, target)


def _fill(obsm: Any, results: Results) -> None:
    """Make the arrays, and write them a block at a time."""
    for name, width in results.widths.items():
        make = getattr(obsm, "create_array", None) or obsm.create_dataset  # of zarr, of h5py
        array = make(name, shape=(results.n_obs, width), chunks=(min(CHUNK, results.n_obs), width), dtype="float32")
        array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    for start, stop, found in results.blocks:
        for name in results.widths:
            obsm[name][start:stop] = found[name]


def _list_columns(obs: Any, results: Results) -> None:
    known = [str(name) for name in obs.attrs["column-order"]]
    obs.attrs["column-order"] = known + [name for name in results.columns if name not in known]


def _check_shards(path: Path, keys: Iterable[str]) -> None:
    """Refuse keys whose arrays other processes may be writing."""
    import zarr

    from tripletomics.tl.layout import is_there

    root = zarr.open_group(path, mode="r", use_consolidated=False)
    for key in keys:
        array: Any = root.get(f"obsm/{key}")
        if array is None or "tripletomics" not in array.attrs:
            continue
        if not is_there(path, array):
            raise ValueError(
                f"obsm[{key!r}] of {str(path)!r} was begun with transform --shard and has rows without a place: "
                "complete that first, choose another key_added, or delete the array from the store."
            )

"""Placing an atlas: the rows of a .zarr store a block at a time, written in place by any number of processes.

The record of what is done are the chunks of the map themselves: each is written whole, by one process, after the same
rows of the metric space. So no kill, at any time, leaves a row that counts as done and is not.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tripletomics import files
from tripletomics.keys import split_key
from tripletomics.tl.progress import steps_bar

if TYPE_CHECKING:
    import pandas as pd
    import zarr

    from tripletomics.model import Model
    from tripletomics.pp import Match
    from tripletomics.sources import Matrix
    from tripletomics.tl.stores import Rows

CHUNK = 8192  # rows of a chunk of places; networks take 4,096 at a time, and rows that meet there give the same bits
FIRST = 1024  # rows that the genes and the scale are checked on before anything is written


class Placed(NamedTuple):
    """The rows of a shard, from `start` to before `stop`, and how many of them were placed now."""

    start: int
    stop: int
    now: int


def transform_shard(
    path: Path,
    model: Path,
    shard: str,
    *,
    layer: str | None = None,
    missing: Literal["error", "zero", "impute"] = "error",
    alias: str | None = None,
    min_matched: float = 0.3,
    key_added: str = "X_tt",
) -> Placed:
    """Place the rows of one shard of a .zarr store, and write them where they are.

    Parameters
    ----------
    path
        Store that `AnnData.write_zarr` wrote; `.X` (or `layer`) is CSR or dense.
    model
        File that `Model.save` wrote, of one modality.
    shard
        "i/N": the i-th of N parts of the rows, i from 1 to N. A part may have no rows.
    layer, missing, alias, min_matched, key_added
        As for `transform`.

    Returns
    -------
    Which rows the shard has. Written to the store, in the order of its rows; a row that no shard has placed yet is NaN:

    ``obsm["X_tt"]``
        The map, float32 (cells, dim).
    ``obsm["X_tt_metric"]``
        The metric space, float32 (cells, metric_dim).
    ``uns["X_tt"]``
        ``{"seen": model.id}``. No split is written: `transform` of the cells in memory, or of the path, writes one.

    Raises
    ------
    FileNotFoundError, PermissionError
        If there is no such store or model, or the store is read-only.
    KeyError
        If there is no such layer or column.
    OSError
        If the disk is too small, or fills up.
    ValueError
        If the shard is out of range, the store or a chunk of it cannot be read, the places there are those of another
        model, or as for `transform`. Chunks that were written before are kept, and the next run goes on behind them.
    """
    from anndata import AnnData
    from rich.filesize import decimal

    from tripletomics import pp
    from tripletomics.tl.stores import Rows, open_store

    part, parts = _parse(shard)
    pp.check_key(key_added)
    root, var = open_store(path)
    rows = Rows(root, path, layer)
    rows.check()
    made_by = {
        "model": _digest(model), "layer": layer, "missing": missing, "alias": alias,
        "cells": rows.n_obs, "chunk": CHUNK,
    }  # fmt: skip
    names = f"{key_added}_metric", key_added  # in the order of writing
    _sweep(path, names)
    places = [_find(root, path, name, key_added, made_by) for name in names]
    chunks = -(-rows.n_obs // CHUNK)
    mine = range((part - 1) * chunks // parts, part * chunks // parts)
    start, stop = mine.start * CHUNK, min(mine.stop * CHUNK, rows.n_obs)
    left = [i for i in range(chunks) if not _is_done(path, places, i)]
    todo = [i for i in mine if i in set(left)]
    if not todo:
        return Placed(start, stop, 0)

    fitted = _load(model)
    _check_origin(root, path, key_added, fitted.id)
    dims = [int(fitted.settings[setting]) for setting in ("metric_dim", "dim")]
    weights = fitted.gene_weights()
    match = pp.match_genes(AnnData(var=var), fitted.part().genes, missing, alias, weights, min_matched)
    begin = todo[0] * CHUNK
    end = min(begin + FIRST, rows.n_obs)
    first = rows.read(begin, end)
    with of_rows(begin, end):
        options = pp.QueryOptions(None, missing, alias, min_matched)
        query = pp.take_query(AnnData(first, var=var), fitted.part(), weights, options)
    needed = sum(dims) * 4 * sum(min(CHUNK, rows.n_obs - i * CHUNK) for i in left)
    files.check_room(path, needed, f"The coordinates that are not written yet take up to {decimal(needed)} in all")
    with files.filling(path, needed, "What is written is kept: make room and run the same command again."):
        with files.using(path):
            for name, dim in zip(names, dims, strict=True):
                _create(root, path, name, (rows.n_obs, dim), made_by)
            _name_model(root, path, key_added, fitted.id)
            places = [_find(root, path, name, key_added, made_by) for name in names]
            _publish(root, path, names)
        with steps_bar(len(todo), True) as step:
            for i in todo:
                begin, end = i * CHUNK, min((i + 1) * CHUNK, rows.n_obs)
                step(f"rows {begin:,} to {end - 1:,}")
                x = read_block(rows, var, begin, end, match, fitted)
                found = fitted.place(x, query.present)
                with files.using(path):
                    for array, values in zip(places, found, strict=True):
                        array[begin:end] = values
        with files.using(path):
            _publish(root, path, names)  # another process may have listed the arrays before these were there
    return Placed(start, stop, sum(min(CHUNK, rows.n_obs - i * CHUNK) for i in todo))


def _sweep(path: Path, names: tuple[str, ...]) -> None:
    """Delete the drafts of processes that were killed, and the files that zarr was writing then."""
    files.sweep(path)
    with files.using(path, alone=True) as held:
        folders = [path, path / "obsm", path / "uns"]
        left = [draft for folder in folders for draft in folder.glob("*.partial")]
        left += [draft for name in names for draft in (path / "obsm" / name).rglob("*.partial")]
        for draft in left if held else ():  # else they may be another machine's
            draft.unlink(missing_ok=True)


def _parse(shard: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", shard)
    part, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= part <= parts:
        raise ValueError(f"shard={shard!r} is not i/N with i from 1 to N, such as 1/4.")
    return part, parts


def _digest(model: Path) -> str:
    if not model.is_file():
        raise FileNotFoundError(f"There is no model file {str(model)!r}.")
    with model.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(path: Path) -> Model:
    from tripletomics.model import load

    model = load(path)
    if model.modalities:
        raise ValueError(
            f"{str(path)!r} is a model of two modalities, and a store is placed by a model of one: fit one of the "
            "store's modality, or place a .h5mu file with --out."
        )
    return model


def _find(root: zarr.Group, path: Path, name: str, key: str, made_by: dict[str, Any]) -> Any:
    """Return an array of places if it is there, and refuse one that was not made in the same way."""
    array: Any = root.get(f"obsm/{name}")
    if array is None:
        return None
    record = array.attrs.get("tripletomics")
    cure = (
        f"Choose another key_added, or delete obsm/{key} and obsm/{key}_metric from the store to place all cells anew."
    )
    if not isinstance(record, dict):
        raise ValueError(f"obsm[{name!r}] of {str(path)!r} is there already, and not from transform --shard. {cure}")
    differ = [word for word, value in made_by.items() if record.get(word) != value]
    if differ:
        what = " and ".join("another number of cells" if word == "cells" else f"another {word}" for word in differ)
        raise ValueError(f"obsm[{name!r}] of {str(path)!r} was begun with {what}. {cure}")
    return array


def _is_done(path: Path, places: list[Any], i: int) -> bool:
    """Tell whether a chunk of all arrays is there; that of the last was written last."""
    from tripletomics.tl.layout import is_kept

    return all(array is not None and is_kept(path, array, i) for array in reversed(places))


def _create(root: zarr.Group, path: Path, name: str, shape: tuple[int, int], made_by: dict[str, Any]) -> None:
    """Make an array of NaN, unless another process was first."""
    import anndata
    import zarr

    if "obsm" not in root:
        anndata.io.write_elem(root, "obsm", {})
    if f"obsm/{name}" in root:
        return
    with files.drafting(path) as draft:
        zarr.create_array(
            draft / name, shape=shape, chunks=(min(CHUNK, shape[0]), shape[1]), dtype="float32", fill_value=math.nan,
            attributes={"encoding-type": "array", "encoding-version": "0.2.0", "tripletomics": made_by},
            zarr_format=root.metadata.zarr_format,
        )  # fmt: skip
        _rename(draft / name, path / "obsm" / name)


def _rename(draft: Path, path: Path) -> None:
    """Rename a draft, unless another process did so first."""
    try:
        os.rename(draft, path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def _check_origin(root: zarr.Group, path: Path, key: str, model: str) -> None:
    """Refuse to place cells where the record and the split of another model would stand beside the places."""
    named, column = _named(root, key), split_key(key)
    stale = [f"uns/{key}"] * (f"uns/{key}" in root) + [f"obs/{column}"] * (f"obs/{column}" in root)
    if stale and named != model:
        raise ValueError(
            f"{' and '.join(stale)} of {str(path)!r} {'are' if len(stale) > 1 else 'is'} not of this model: choose "
            "another key_added, or read the store, delete these from the AnnData, and write it anew."
        )


def _named(root: zarr.Group, key: str) -> str | None:
    """Return the id of the model that a store names for a key."""
    import anndata

    record: Any = root.get(f"uns/{key}")
    return str(anndata.io.read_elem(record["seen"])) if hasattr(record, "keys") and "seen" in record else None


def _name_model(root: zarr.Group, path: Path, key: str, model: str) -> None:
    """Write the id of the model, unless another process was first."""
    import anndata
    import zarr

    if f"uns/{key}" in root:
        return
    if "uns" not in root:
        anndata.io.write_elem(root, "uns", {})
    with files.drafting(path) as draft:
        made = zarr.open_group(draft / "new", mode="w", zarr_format=root.metadata.zarr_format)
        anndata.io.write_elem(made, key, {"seen": model})
        _rename(draft / "new" / key, path / "uns" / key)


def _publish(root: zarr.Group, path: Path, names: tuple[str, ...]) -> None:
    """Add the arrays to the list of all metadata that a store may have, where readers look for them."""
    import zarr

    listed = zarr.open_group(path, mode="r")
    if listed.metadata.consolidated_metadata is None:
        return
    parts = [f"uns/{names[-1]}", *(f"obsm/{name}" for name in names)]
    for part in parts:
        there = listed.get(part)
        if there is None or there.attrs.asdict() != root[part].attrs.asdict():
            zarr.consolidate_metadata(root.store)
            return


def read_block(
    rows: Rows, var: pd.DataFrame, start: int, stop: int, match: Match, model: Model, known: bool = False
) -> Matrix:
    """Return rows of a store by the genes of a model, or say which cannot be used.

    Those that the model is `known` to fit, because they are of the table that it was fitted on, may be on any scale.
    """
    import numpy as np
    import scipy.sparse as sp
    from anndata import AnnData

    from tripletomics import pp

    height, parts = rows.at_once(CHUNK), []
    for begin in range(start, stop, height):
        end = min(begin + height, stop)
        some = rows.read(begin, end)
        with of_rows(begin, end):
            parts.append(pp.take(pp.matrix(AnnData(some, var=var), None), match.columns))
    x = sp.vstack(parts, format="csr") if sp.issparse(parts[0]) else np.concatenate(parts)
    if known:
        return x
    with of_rows(start, stop):
        pp.check_scale(x, model.part(), match.columns >= 0)
    return x


@contextmanager
def of_rows(start: int, stop: int) -> Iterator[None]:
    """Say of which rows a check complains."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise type(error)(f"Rows {start:,} to {stop - 1:,}: {error}") from None

"""Coordinates of a published map that a user names: they are read, checked, and matched to the cells of a dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tripletomics import adoption, labels
from tripletomics.notices import warn
from tripletomics.parts import did_you_mean
from tripletomics.pp.checks import first
from tripletomics.pp.embeddings import check_kept
from tripletomics.pp.label_columns import finest_column
from tripletomics.problem import Settings

if TYPE_CHECKING:
    from tripletomics.pp.tables import Table

SMALLEST, LARGEST = 1e-9, 1e9  # widths of a map whose squares float32 can hold
ROUNDED = 1e-3  # of the width, by which coordinates may be rounded
TABLES = {".csv": ",", ".tsv": "\t", ".txt": "\t"}  # endings of tables, and what separates their columns
MATCHED, WARNED = (
    0.1,
    0.5,
)  # share of the cells that a table must have (else an error), and should have (else a warning)


def published_map(table: Table, settings: Settings) -> np.ndarray | None:
    """Return the coordinates to adopt, float32 (cells, dim), NaN for cells without; None if `map` is None.

    Raises
    ------
    KeyError, FileNotFoundError, TypeError, ValueError
        If there are no coordinates, they cannot be used, they belong to other cells, or another setting contradicts
        them.
    """
    if settings.map is None:
        return None
    _check_settings(settings)
    check_kept(settings.map, settings.key_added, "map")
    if not isinstance(settings.map, (str, os.PathLike, pd.DataFrame)):
        raise TypeError(
            f"map is {type(settings.map).__name__}: name a key of adata.obsm or a .csv or .tsv file, or pass a "
            "DataFrame with the names of the cells as index."
        )
    whole = () if table.whole is None else [table.whole]
    names = table.obs.obs_names
    held = [adata.obsm for adata in (*whole, *table.given)]
    given, what = settings.map, name_of(settings.map)
    if isinstance(given, (str, os.PathLike)) and any(str(given) in obsm for obsm in held):
        found = _by_key(table, str(given), what)
    else:
        frame = given if isinstance(given, pd.DataFrame) else read_table(given, [key for one in held for key in one])
        found = match(frame, names, what)
    if found.shape[1] < settings.dim:
        raise ValueError(f"{what} has 2 dimensions, and dim={settings.dim}: leave dim out, it follows the map.")
    return found


def _by_key(table: Table, key: str, what: str) -> np.ndarray:
    """Return the coordinates under a key of `obsm`: of the MuData first, then of the first and second modality."""
    n, found = table.obs.n_obs, np.zeros((0, 0), dtype=np.float32)
    for adata, rows in sorted(table.targets(), key=lambda target: target[0] is not table.whole):
        if key in adata.obsm:
            own = coordinates(adata.obsm[key], what)
            placed = np.full((n, own.shape[1]), np.nan, dtype=np.float32)
            placed[rows] = own
            if len(found) and found.shape != placed.shape:
                raise ValueError(f"{what} has 2 dimensions in one modality and 3 in the other: name another key.")
            if len(found) and (np.abs(found - placed) > ROUNDED * np.ptp(own, axis=0).max()).any():
                raise ValueError(
                    f"{what} is another map in the two modalities: keep it in one of them, or in the MuData."
                )
            found = np.where(np.isnan(found), placed, found) if len(found) else placed
    return found


def name_of(given: object) -> str:
    """Return what a message calls a map."""
    return f"map={str(given)!r}" if isinstance(given, (str, os.PathLike)) else f"map={type(given).__name__}"


def coordinates(values: Any, what: str) -> np.ndarray:
    """Return coordinates as float32 (cells, dim), or raise if no map can be learned from them."""
    if isinstance(values, pd.DataFrame):
        text = [str(name) for name, kind in values.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
        if text:
            raise TypeError(
                f"{what}: column {text[0]!r} holds text, not numbers. Keep the 2 or 3 columns of coordinates, with the "
                "names of the cells as index (in a file: as first column)."
            )
        values = values.to_numpy(dtype=np.float64)
    values = np.asarray(values.toarray() if hasattr(values, "toarray") else values)
    if values.ndim != 2 or values.shape[1] not in (2, 3):
        shape = f"{values.shape[1]} dimensions" if values.ndim == 2 else f"shape {values.shape}"
        raise ValueError(f"{what} has {shape}: a map has 2 or 3. Pass those columns as a DataFrame.")
    if values.dtype.kind not in "fiu":
        raise TypeError(f"{what} holds {values.dtype}, not numbers.")
    bad = ~np.isfinite(values.astype(np.float32)).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{what}: {bad.sum():,} of {len(bad):,} cells have coordinates that are NaN or infinite (first: row "
            f"{int(bad.argmax())}). Pass a DataFrame without these cells: they then get learned coordinates."
        )
    wide = np.ptp(values, axis=0).astype(np.float64) if len(values) else np.ones(values.shape[1])
    if not (wide > 0).all():
        flat = int((wide == 0).argmax())
        raise ValueError(f"{what}: all cells have the same coordinate in dimension {flat + 1}, so there is no map.")
    if len(values) and not (wide.min() > SMALLEST and wide.max() < LARGEST):
        raise ValueError(f"{what} is {wide.max():.3g} wide: bring it to other units, such as a width of 10.")
    if len(values) and np.abs(values).max() * np.finfo(np.float32).eps > ROUNDED * wide.min():
        raise ValueError(
            f"{what} lies so far from 0 (up to {np.abs(values).max():.3g}, and is {wide.min():.3g} wide) that float32 "
            "would round its coordinates: subtract their mean."
        )
    return values.astype(np.float32)


def match(frame: pd.DataFrame, names: pd.Index, what: str) -> np.ndarray:
    """Return coordinates from a table by the names of cells, float32 (cells, dim), NaN for cells that it lacks."""
    index = frame.index.astype(str)
    if index.has_duplicates:
        raise ValueError(
            f"{what} has several cells of one name (first: {first(index[index.duplicated()].unique())}): keep one "
            "row for each name."
        )
    values, at = coordinates(frame, what), index.get_indexer(pd.Index(names.astype(str)))
    share = float((at >= 0).mean()) if len(at) else 0.0
    examples = f"such as {first(index, 2)} in the map and {first(names, 2)} in the dataset"
    if share < MATCHED:
        raise ValueError(
            f"{what} has coordinates of {(at >= 0).sum():,} of {len(at):,} cells, {examples}: rename the rows so that "
            "its index holds the names of the cells, as in adata.obs_names."
        )
    if share < WARNED:
        warn(
            f"{what} has coordinates of {(at >= 0).sum():,} of {len(at):,} cells; the others get learned coordinates. "
            f"Compare the names, {examples}."
        )
    found = np.full((len(names), values.shape[1]), np.nan, dtype=np.float32)
    found[at >= 0] = values[at[at >= 0]]
    return found


def read_table(path: str | os.PathLike[str], keys: Sequence[str]) -> pd.DataFrame:
    """Return coordinates from a .csv or .tsv file with the names of the cells in its first column.

    Parameters
    ----------
    path
        The file. It may be a mistyped key.
    keys
        Keys of `obsm`, for the message.
    """
    file = Path(path)
    ends = [end for end in file.suffixes[-2:] if end in TABLES]
    if not ends:
        raise KeyError(
            f"map={str(path)!r} is not in adata.obsm, and is no .csv or .tsv file.{did_you_mean(str(path), keys)} "
            f"Keys: {', '.join(dict.fromkeys(keys)) or 'none'}."
        )
    if not file.is_file():
        raise FileNotFoundError(f"map={str(path)!r}: there is no such file.")
    try:
        table = pd.read_csv(file, sep=TABLES[ends[-1]], index_col=0, dtype={0: str})
    except (ValueError, UnicodeDecodeError, OSError, IndexError) as error:
        raise ValueError(f"map={str(path)!r} cannot be read as a table ({error}).") from None
    if not table.shape[1]:
        raise ValueError(
            f"map={str(path)!r} has one column: are its columns separated by {TABLES[ends[-1]]!r}? Write the names of "
            "the cells first, and then 2 or 3 columns of coordinates."
        )
    unnamed = [str(i) for i in range(table.shape[1])]  # as pandas writes columns without names
    if list(table.columns) != unnamed and pd.to_numeric(pd.Series(table.columns), errors="coerce").notna().all():
        raise ValueError(
            f"map={str(path)!r}: its first line holds numbers ({', '.join(map(str, table.columns[:2]))}), not names of "
            "columns. Add a line of names."
        )
    return table


def check_training(given: np.ndarray | None, held_out: np.ndarray, what: str) -> None:
    """Raise unless enough training cells have coordinates, and these differ; None is no map."""
    if given is None:
        return
    known = np.isfinite(given).all(axis=1) & ~held_out
    if known.sum() < adoption.LEAST:
        raise ValueError(
            f"{what} has coordinates of {known.sum()} training cells, and a map is learned from {adoption.LEAST} or "
            "more: pass coordinates of more cells, or hold out fewer."
        )
    if not (np.ptp(given[known], axis=0) > 0).all():
        raise ValueError(f"{what}: all training cells have the same coordinate in one dimension, so there is no map.")


def kept_colours(table: Table, settings: Settings, classes: Sequence[str]) -> dict[str, str]:
    """Return the colours of types on a map to adopt, which scanpy keeps in ``uns["<label>_colors"]``."""
    label = finest_column(settings, table.obs.obs.columns)
    for adata in table.given if settings.map is not None else ():
        given = adata.uns.get(f"{label}_colors")
        if label not in adata.obs or not isinstance(given, (list, tuple, np.ndarray, Mapping)):
            continue
        kinds = labels.names(pd.Series(adata.obs[label].astype("category").cat.categories))
        pairs = given.items() if isinstance(given, Mapping) else zip(kinds, given, strict=False)
        found = {str(kind): str(color) for kind, color in pairs if isinstance(color, str)}
        return {kind: found[kind] for kind in classes if kind in found}
    return {}


def _check_settings(settings: Settings) -> None:
    """Raise if a setting was changed that shapes a new map, but not an adopted one."""
    default = Settings()
    for name in ("structure", "spread"):
        if getattr(settings, name) != getattr(default, name):
            raise ValueError(
                f"{name}={getattr(settings, name)!r} shapes a new map, and {name_of(settings.map)} adopts a published "
                f"one: leave {name} out, or leave map out."
            )

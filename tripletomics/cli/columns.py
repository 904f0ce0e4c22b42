"""Columns of a table, such as labels, that are added to cells by their names."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tripletomics.cli import formats
from tripletomics.names import unquoted
from tripletomics.notices import warn

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

Chosen = Callable[[list[str]], Sequence[str]]  # of the columns of a table, those that hold names


def read_table(path: Path, chosen: Chosen = lambda _: ()) -> pd.DataFrame:
    """Return a table of cells, by the names in its first column. Whole numbers in `chosen` columns stay as written."""
    import pandas as pd

    from tripletomics.store.layout import reporting

    with reporting(f"{str(path)!r} cannot be read as a table"):
        if formats.ending(path) == ".parquet":
            table = pd.read_parquet(path)
            table = table if not isinstance(table.index, pd.RangeIndex) else table.set_index(table.columns[0])
        else:
            table = _read_text(path, chosen)
        if not table.shape[1]:
            raise ValueError("it has no column except the names of the cells: add one")
        if twice := list(table.columns[table.columns.duplicated()]):
            raise ValueError(f"it has more than one column {str(twice[0])!r}: keep one")
        if "_index" in table:
            raise ValueError("its column '_index' has a name that .h5ad keeps for itself: rename it")
        return table.set_axis(table.index.astype(str), axis=0)


def _read_text(path: Path, chosen: Chosen) -> pd.DataFrame:
    import pandas as pd

    with formats.open_text(path) as lines:
        first = lines.readline()
        between = formats.separator(first)
        rows = filter(None, csv.reader(chain([first], lines), delimiter=between))
        header = next(rows)
        columns: list[str] = []
        for i, row in enumerate(rows, 2):
            columns = columns or formats.columns_of(header, row)
            formats.check_length(row, i, columns)
    columns = columns or header[1:]
    look: dict[Any, Any] = {"header": 0, "names": range(len(columns) + 1), "low_memory": False}
    names = [columns.index(name) + 1 for name in chosen(columns) if name in columns]
    with formats.open_text(path) as lines:
        table = pd.read_csv(lines, sep=between, converters={0: str}, dtype=dict.fromkeys(names, str), **look)
    for place in names:
        numbers = pd.to_numeric(table[place], errors="coerce")
        if numbers.notna().equals(table[place].notna()) and not (numbers.dropna() % 1 == 0).all():
            table[place] = numbers
    table = table.map(unquoted).set_index(0)
    return table.set_axis([str(unquoted(name)) for name in columns], axis=1)


def add_columns(cells: AnnData, path: Path, source: Path, chosen: Chosen, cure: str) -> None:
    """Add the columns of a table to `obs`, by the names of cells. `cure`: what to do if the table names genes."""
    table = read_table(path, chosen)
    if repeated := list(table.index[table.index.duplicated()].unique()):
        raise ValueError(
            f"{str(path)!r} has more than one row for these cells: {formats.shortened(repeated)}. Keep one for each."
        )
    known = cells.obs_names.isin(table.index)
    if not known.any():
        here, there = (formats.shortened(list(names)) for names in (cells.obs_names, table.index))
        if formats.ending(source) in formats.TEXT and cells.var_names.isin(table.index).any():
            cure = f"its names are those of genes there, so {cure}"
        else:
            cure = "write the names of the cells in its first column, in the same way"
        raise ValueError(f"No cell of {str(source)!r} ({here}) has a row in {str(path)!r} ({there}): {cure}.")
    others = int((~table.index.isin(cells.obs_names)).sum())
    lacking = int((~known).sum())
    said = f"{lacking:,} of {cells.n_obs:,} cells have no row in {str(path)!r} and are unlabelled. " * bool(lacking)
    rows = f"its {len(table):,} rows" if lacking else f"{len(table):,} rows of {str(path)!r}"
    said += f"{others:,} of {rows} belong to no cell and are left out." * bool(others)
    if said:
        warn(said.strip())
    replaced = []
    for name, values in table.reindex(cells.obs_names).items():
        before, found = cells.obs.get(str(name)), _storable(values)
        if before is not None and (before.astype(str).to_numpy() != found.astype(str).to_numpy()).any():
            replaced.append(str(name))
        cells.obs[str(name)] = found.array
    if replaced:
        warn(f"{str(path)!r} replaces columns of obs that hold something else: {formats.shortened(replaced)}.")


def _storable(values: pd.Series) -> pd.Series:
    """Return a column as .h5ad can hold it: whole numbers and booleans (with gaps), numbers, categories, or text."""
    from pandas.api import types

    if values.dtype.kind == "f":
        whole = values.hasnans and (values.dropna() % 1 == 0).all()
        return values.astype("Int64") if whole else values.astype("float64")
    if types.infer_dtype(values, skipna=True) == "boolean" and values.notna().any():
        return values.astype("boolean" if values.isna().any() else "bool")
    if values.dtype.kind in "iu" or values.dtype.name == "category":
        return values
    return values.astype(object).map(str, na_action="ignore")

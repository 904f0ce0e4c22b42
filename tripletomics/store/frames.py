"""Columns and names of the cells and genes of a dataset on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tripletomics.store.layout import encoding, reporting, text

if TYPE_CHECKING:
    import pandas as pd

    from tripletomics.store.layout import Group

NAMES_BLOCK = 2**16  # names that are read at once


def read_var(root: Group, path: Path) -> pd.DataFrame:
    """Return `var` of a dataset whose layout was checked."""
    import anndata
    import pandas as pd

    with reporting(f"var of {str(path)!r} cannot be read"):
        var: Any = anndata.io.read_elem(root["var"])
        if not isinstance(var, pd.DataFrame):  # an array of records, as before anndata 0.7
            var = pd.DataFrame(var).pipe(lambda frame: frame.set_index(frame.columns[0]))
        return decoded(var)


def decoded(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose names and columns are text where they were bytes, as programs other than anndata write."""
    columns = {str(name): frame[name] for name in frame if frame[name].dtype in ("object", "category")}
    changed = {name: found for name, values in columns.items() if (found := _decoded(values)) is not values}
    frame = frame.assign(**changed) if changed else frame
    names = frame.index.to_series()
    return frame if (found := _decoded(names)) is names else frame.set_axis(found.to_numpy(), axis=0)


def _decoded(values: pd.Series) -> pd.Series:
    """Return the same series if none of its values, or its categories, are bytes."""
    if values.dtype == "category":
        names = values.cat.categories.to_series()
        return values if (found := _decoded(names)) is names else values.cat.rename_categories(found.to_list())
    if values.dtype != "object" or not any(isinstance(value, bytes) for value in values):
        return values
    return values.map(lambda value: value.decode(errors="replace") if isinstance(value, bytes) else value)


def read_seen(root: Group, key: str) -> str | None:
    """Return the id of the model that wrote coordinates into a dataset under a key, None if `uns` names none."""
    import anndata

    record = cast(Any, cast(Any, root.get("uns", {})).get(key, {}))
    return str(anndata.io.read_elem(record["seen"])) if hasattr(record, "keys") and "seen" in record else None


class Obs:
    """Columns and names of the cells of a dataset on disk, read when they are asked for.

    Raises
    ------
    ValueError
        If they are not stored as a table of columns.
    """

    def __init__(self, root: Group, path: Path) -> None:
        import pandas as pd

        self.group, self.path = cast(Any, root["obs"]), path
        if encoding(self.group) != "dataframe":
            raise ValueError(
                f"obs of {str(path)!r} is not stored by columns, as anndata 0.7 and newer do: read it and write it "
                "again."
            )
        self.obs = pd.DataFrame(columns=[text(name) for name in self.group.attrs["column-order"]])  # for `pp.column`

    def read(self, name: str) -> pd.Series:
        """Return a column."""
        import anndata
        import pandas as pd

        with reporting(f"obs[{name!r}] of {str(self.path)!r} cannot be read"):
            element = self.group[name]
            values, where = anndata.io.read_elem(element), element.attrs.get("categories")
            if where is not None:  # codes, as of anndata 0.7
                names = self.group[where]
                ordered = bool(names.attrs.get("ordered", False))
                values = pd.Categorical.from_codes(values, anndata.io.read_elem(names), ordered=ordered)
            return _decoded(pd.Series(values))

    def names(self, rows: np.ndarray) -> np.ndarray:
        """Return the names of cells, given by ascending numbers; only a block of all names is in memory at a time."""
        import anndata

        index = self.group[text(self.group.attrs["_index"])]
        with reporting(f"The names of the cells of {str(self.path)!r} cannot be read"):
            if not hasattr(index, "shape"):  # names that may be missing are in two arrays
                return np.asarray(anndata.io.read_elem(index), dtype=object)[rows]
            if index.dtype.kind == "O" and hasattr(index, "asstr"):
                index = index.asstr()
            found = [np.zeros(0, dtype=object)]
            for start in range(0, len(rows) and int(rows[-1]) + 1, NAMES_BLOCK):
                mine = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + NAMES_BLOCK)]
                if len(mine):
                    some = np.asarray(index[start : start + NAMES_BLOCK])[mine - start]
                    found.append(np.array([text(name) for name in some], dtype=object))
            return np.concatenate(found)

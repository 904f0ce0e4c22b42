"""A DataFrame of cells as a dataset: columns that an argument names describe the cells; all others are features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from tripletomics.labels import names
from tripletomics.labels.roles import read_roles
from tripletomics.parts import did_you_mean
from tripletomics.pp.checks import first
from tripletomics.pp.splits import parse_hold_out


def read_frame(frame: pd.DataFrame, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``adata`` and ``label`` in place of a DataFrame and of the labels of its cells.

    Parameters
    ----------
    frame
        Cells by features, and columns that the arguments name.
    given
        Arguments of `tripletomics.fit`. The label may be a Series with the index of the frame.

    Raises
    ------
    KeyError
        If there is no column that an argument names.
    TypeError
        If a column that no argument names does not hold real numbers.
    ValueError
        If names of columns or of the Series are not unique, or the Series lacks some cells or contradicts a column.
    """
    if frame.columns.nlevels > 1 or frame.columns.has_duplicates:
        twice = first(map(str, frame.columns[frame.columns.duplicated()]))
        found = f"and have these twice: {twice}" if twice else "and have several levels (MultiIndex)"
        raise ValueError(f"The columns of the DataFrame need unique names on one level, {found}. Rename them.")
    label, obs = given["label"], pd.DataFrame(index=frame.index.astype(str))
    if isinstance(label, pd.Series):
        label = str((values := _of_cells(label, frame)).name)
        obs[label] = values.array
    named = dict(read_roles(label, given["order"], None, [*frame.columns, *obs.columns]).arguments)
    if isinstance(given["hold_out"], str):
        named[parse_hold_out(given["hold_out"], frame.columns)[0]] = "hold_out"
    named |= {} if given["batch"] is None else {given["batch"]: "batch"}
    for name, argument in named.items():
        if name in frame.columns:
            obs[name] = frame[name].array
        elif name not in obs:
            near = did_you_mean(str(name), frame.columns)
            raise KeyError(
                f"{argument}={name!r} is not a column of the DataFrame.{near} It has {frame.shape[1]:,} columns "
                f"(first: {first(frame.columns)})."
            )
    features = frame.drop(columns=[name for name in obs if name in frame.columns])
    numbers, complex_ = pd.api.types.is_numeric_dtype, pd.api.types.is_complex_dtype
    if odd := [name for name, dtype in features.dtypes.items() if not numbers(dtype) or complex_(dtype)]:
        raise TypeError(
            f"{len(odd)} columns of the DataFrame hold no real numbers (first: {first(map(str, odd))}): name those "
            "that describe the cells, as in label=, batch= or hold_out=, and drop the others."
        )
    small = all(dtype == np.float32 for dtype in features.dtypes)  # others keep what float32 cannot hold, for checks
    x = features.to_numpy(dtype=np.float32 if small else np.float64, na_value=np.nan)
    return {"adata": AnnData(x, obs, pd.DataFrame(index=features.columns.astype(str))), "label": label}


def _of_cells(label: pd.Series, frame: pd.DataFrame) -> pd.Series:
    """Return a Series with a name, in the order of a DataFrame's cells; raise if it is ambiguous or incomplete."""
    if not label.index.equals(frame.index):
        if twice := first(label.index[label.index.duplicated()]):
            raise ValueError(f"label is a Series whose index has some names twice (first: {twice}): make them unique.")
        if lost := (~frame.index.isin(label.index)).sum():
            raise ValueError(
                f"label is a Series whose index lacks {lost:,} of {len(frame):,} cells of the DataFrame: give it the "
                "index of the DataFrame, or name a column."
            )
        label = label.reindex(frame.index)
    label = label.rename("label" if label.name is None else str(label.name))
    if label.name in frame.columns:
        own, other = (names(pd.Series(values.array)) for values in (label, frame[label.name]))
        if not own.equals(other):
            raise ValueError(
                f"label is a Series named {label.name!r}, and the column {label.name!r} of the DataFrame holds other "
                "values: rename the Series, as in label.rename('type'), and drop the column if it is no feature."
            )
    return label

"""A DataFrame of cells as a dataset: the columns that a fit names describe the cells, and all others are features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from tripletomics.labels.ordering import split_order
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
    TypeError
        If a column that no argument names does not hold numbers.
    ValueError
        If the Series has no value for some cells.
    """
    label, obs = given["label"], pd.DataFrame(index=frame.index.astype(str))
    if isinstance(label, pd.Series):
        if lost := (~frame.index.isin(label.index)).sum():
            raise ValueError(
                f"label is a Series whose index lacks {lost:,} of {len(frame):,} cells of the DataFrame: give it the "
                "index of the DataFrame, or name a column."
            )
        name = "label" if label.name is None else str(label.name)
        obs[name] = (label if label.index.equals(frame.index) else label.reindex(frame.index)).array
        label = name
    named = [label] if isinstance(label, str) else list(label or ())
    if given["order"] is not None:
        named.append(split_order(given["order"], frame.columns)[0])
    if isinstance(given["hold_out"], str):
        named.append(parse_hold_out(given["hold_out"], frame.columns)[0])
    kept = [name for name in dict.fromkeys([*named, given["batch"]]) if name in frame.columns]
    for name in kept:
        obs[name] = frame[name].array
    features = frame.drop(columns=kept)
    if odd := [name for name, dtype in features.dtypes.items() if not pd.api.types.is_numeric_dtype(dtype)]:
        raise TypeError(
            f"{len(odd)} columns of the DataFrame hold no numbers (first: {first(map(str, odd))}): name those that "
            "describe the cells, as in label=, batch= or hold_out=, and drop the others."
        )
    return {
        "adata": AnnData(
            features.to_numpy(dtype=np.float32, na_value=np.nan), obs, pd.DataFrame(index=features.columns.astype(str))
        ),
        "label": label,
    }

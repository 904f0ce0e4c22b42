"""Tables of results (text or Parquet), in place of a copy of the cells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tripletomics import files
from tripletomics.names import harmless

if TYPE_CHECKING:
    import numpy as np

SEPARATORS = {".csv": ",", ".tsv": "\t"}
ENDINGS = (*SEPARATORS, ".parquet")


def check(path: Path) -> None:
    """Raise unless a table can be written there, and the package that writes it is installed.

    Raises
    ------
    ValueError, ImportError, FileNotFoundError, PermissionError, OSError
        If the path does not end as a table does, if pyarrow is not installed, or where `files.check_writable` raises.
    """
    if path.suffix not in ENDINGS:
        better = f"{Path(path.name.removesuffix('.gz')).stem}.csv"
        raise ValueError(f"{str(path)!r} does not end in .csv, .tsv or .parquet: name the file {better!r}.")
    files.require([path])
    files.check_writable(path)


def write(path: Path, names: Any, columns: Mapping[str, Any], key: str, coordinates: np.ndarray) -> None:
    """Write the name of each cell, its columns, and its coordinates as ``X_tt_1``, ``X_tt_2``.

    Raises
    ------
    DiskFull
        If the disk fills up. Nothing is changed then.
    """
    import pandas as pd

    axes = {f"{key}_{i + 1}": coordinates[:, i] for i in range(coordinates.shape[1])}
    found = {name: getattr(values, "array", values) for name, values in {**columns, **axes}.items()}  # without an index
    table = pd.DataFrame({"cell": names, **found})
    with files.replacing(path) as draft:
        if path.suffix == ".parquet":
            table.to_parquet(draft, index=False)
        else:
            harmless(table).to_csv(draft, sep=SEPARATORS[path.suffix], index=False)

"""Files of cells, and what is wrong with one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData


def read(path: Path) -> AnnData:
    """Read a file of cells, or say what is wrong with it."""
    check_h5ad(path)
    import anndata

    try:
        return anndata.read_h5ad(path)
    except Exception as error:  # whatever a damaged file makes of the reader
        raise ValueError(f"{str(path)!r} cannot be read as AnnData: {error}") from error


def check_h5ad(path: Path) -> None:
    """Raise unless a path is that of a readable AnnData file."""
    import h5py

    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder: name an .h5ad file.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    if not os.access(path, os.R_OK):
        raise PermissionError(f"{str(path)!r} may not be read: ask its owner.")
    if not h5py.is_hdf5(path):
        raise ValueError(f"{str(path)!r} is not an .h5ad file: read it with scanpy and write it as one.")
    try:
        with h5py.File(path) as file:
            groups = list(file)
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be opened: {error}") from error
    if not {"obs", "var"} <= set(groups):
        raise ValueError(
            f"{str(path)!r} is an HDF5 file but not an AnnData file: it lacks obs and var, and holds "
            f"{', '.join(groups) or 'nothing'}."
        )

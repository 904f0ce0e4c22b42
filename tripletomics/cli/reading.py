"""Files of cells, and what is wrong with one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

MODALITIES = ".h5mu"  # how a file of several modalities ends
NAMES = ("rna", "protein")  # of two files


def suffix(path: Path, other: Path | None = None) -> str:
    """Return how the files of results end: those of two modalities in .h5mu."""
    return MODALITIES if other is not None or path.suffix == MODALITIES else ".h5ad"


def read_cells(path: Path, other: Path | None = None) -> AnnData | MuData:
    """Read a file of one modality or of two, or two files of one each."""
    if suffix(path, other) == ".h5ad":
        return read(path)
    mudata = _mudata()
    with mudata.set_options(pull_on_update=False):
        if other is not None:
            return mudata.MuData(dict(zip(NAMES, (read(path), read(other)), strict=True)))
        _check_hdf5(path, MODALITIES, {"mod", "obs"})
        try:
            return mudata.read_h5mu(path)
        except Exception as error:  # whatever a damaged file makes of the reader
            raise ValueError(f"{str(path)!r} cannot be read as MuData: {error}") from error


def write(cells: AnnData | MuData, path: Path) -> None:
    """Write cells as `read_cells` reads them."""
    if hasattr(cells, "mod"):
        with _mudata().set_options(pull_on_update=False):
            cells.write_h5mu(path)
    else:
        cells.write_h5ad(path)


def check_cells(path: Path, other: Path | None = None) -> None:
    """Raise unless the paths are those of readable files of cells, and what reads them is there."""
    if path.suffix != MODALITIES:
        check_h5ad(path)
    else:
        _mudata()
        _check_hdf5(path, MODALITIES, {"mod", "obs"})
        if other is not None:
            raise ValueError(f"{str(path)!r} holds modalities already: leave {str(other)!r} out.")
    if other is not None:
        _mudata()
        check_h5ad(other)


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
    if path.suffix == MODALITIES:
        raise ValueError(f"{str(path)!r} holds several modalities, and one is read here: write it as an .h5ad file.")
    _check_hdf5(path, ".h5ad", {"obs", "var"})


def _check_hdf5(path: Path, ending: str, needed: set[str]) -> None:
    import h5py

    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder: name an {ending} file.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    if not os.access(path, os.R_OK):
        raise PermissionError(f"{str(path)!r} may not be read: ask its owner.")
    if not h5py.is_hdf5(path):
        raise ValueError(f"{str(path)!r} is not an {ending} file: read it with scanpy and write it as one.")
    try:
        with h5py.File(path) as file:
            groups = list(file)
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be opened: {error}") from error
    if not needed <= set(groups):
        kind = "MuData" if ending == MODALITIES else "AnnData"
        raise ValueError(
            f"{str(path)!r} is an HDF5 file but not an {kind} file: it lacks {' and '.join(sorted(needed))}, and holds "
            f"{', '.join(groups) or 'nothing'}."
        )


def _mudata() -> Any:
    try:
        import mudata
    except ImportError as error:
        hint = 'Files of two modalities need the package mudata: pip install "tripletomics[mudata]"'
        raise ImportError(hint, name="mudata") from error
    return mudata

"""Files of cells, and what is wrong with one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tripletomics.files import check_hdf5, check_room, replacing
from tripletomics.keys import DEFAULT_KEY, prefix
from tripletomics.store import tables

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

MODALITIES = ".h5mu"  # how a file of several modalities ends
NAMES = ("rna", "protein")  # of two files
SPARE, TEXT = 4096, 48  # bytes that an element and a text take in HDF5 in addition to their content
ADDED = 4 * 128  # bytes of coordinates and predictions, for each cell


def join(cells: AnnData, protein: AnnData) -> MuData:
    """Return the cells of two files as two modalities."""
    mudata = check_mudata()
    with mudata.set_options(pull_on_update=False):
        return mudata.MuData(dict(zip(NAMES, (cells, protein), strict=True)))


def read_h5mu(path: Path) -> MuData:
    """Read a file of several modalities, or raise an error that says what is wrong with it."""
    check_h5mu(path)
    mudata = check_mudata()
    with mudata.set_options(pull_on_update=False):
        return _read(path, mudata.read_h5mu, "MuData")


def read(path: Path) -> AnnData:
    """Read a file of cells, or raise an error that says what is wrong with it."""
    check_h5ad(path)
    import anndata

    return _read(path, anndata.read_h5ad, "AnnData")


def _read(path: Path, reader: Callable[[Path], Any], kind: str) -> Any:
    """Read a file after checking its layout; decode names and columns that are bytes."""
    import h5py

    from tripletomics.store.frames import decoded
    from tripletomics.store.layout import check_layout, reporting

    with h5py.File(path, "r") as root:
        check_layout(root, path)
    with reporting(f"{str(path)!r} cannot be read as {kind}"):
        cells = reader(path)
        for table in cells.mod.values() if kind == "MuData" else [cells]:
            for axis in ("obs", "var"):
                frame = getattr(table, axis)
                if (found := decoded(frame)) is not frame:
                    setattr(table, axis, found)
    return cells


def write(cells: AnnData | MuData, path: Path, source: Path | None = None, key: str = DEFAULT_KEY) -> None:
    """Write cells, or a table of what is new about them, whole or not at all.

    Parameters
    ----------
    cells
        With results.
    path
        File to write: .h5ad or .h5mu for the cells, compressed as those of `source` are; otherwise a table of results.
    source
        What the cells were read from.
    key
        Key of the map in `obsm`.

    Raises
    ------
    OSError
        If the disk fills up, or the folder no longer exists.
    """
    if path.suffix in tables.ENDINGS:
        columns = {str(name): cells.obs[name] for name in cells.obs if str(name).startswith(f"{prefix(key)}_")}
        tables.write(path, cells.obs_names, columns, key, cells.obsm[key])
        return
    filters = {} if source is None else compression_of(source)
    with replacing(path, size(cells)) as draft:
        if hasattr(cells, "mod"):
            with check_mudata().set_options(pull_on_update=False):
                cells.write_h5mu(draft, **filters)
        else:
            cells.write_h5ad(draft, **filters)


def compression_of(path: Path) -> dict[str, Any]:
    """Return how the largest array of an HDF5 file is compressed; nothing for other files."""
    import h5py

    if not path.is_file() or not h5py.is_hdf5(path):
        return {}
    arrays: list[h5py.Dataset] = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda _, element: arrays.append(element) if isinstance(element, h5py.Dataset) else None)
        largest = max(arrays, key=lambda array: array.nbytes, default=None)
        if largest is None or largest.compression not in ("gzip", "lzf"):
            return {}
        return {"compression": largest.compression, "compression_opts": largest.compression_opts}


def check_room_for(path: Path, cells: AnnData | MuData) -> None:
    """Raise DiskFull if the disk of `path` has no room for the cells and what a fit adds to them."""
    from rich.filesize import decimal

    if path.suffix in tables.ENDINGS:
        return
    needed = size(cells) + ADDED * cells.n_obs
    check_room(path, needed, f"{str(path)!r} takes up to {decimal(needed)}")


def size(element: Any) -> int:
    """Return an upper estimate of the bytes that cells, or a part of them, take in a file."""
    if hasattr(element, "columns"):  # a table: text takes a number, a length and padding besides its letters
        values = len(element) * (element.shape[1] + 1)
        return SPARE * (element.shape[1] + 1) + int(element.memory_usage(deep=True).sum()) + TEXT * values
    if hasattr(element, "items"):
        return SPARE + sum(size(value) for _, value in element.items())
    if hasattr(element, "mod"):  # MuData
        return sum(map(size, (element.mod, element.obs, element.var, *_annotations(element))))
    if hasattr(element, "obs_names"):  # AnnData
        raw = element.raw
        parts = (raw.X, raw.var, raw.varm) if raw is not None else ()
        return sum(map(size, (element.X, element.obs, element.var, element.layers, *_annotations(element), *parts)))
    if hasattr(element, "indptr"):
        return SPARE + sum(part.nbytes for part in (element.data, element.indices, element.indptr))
    if getattr(getattr(element, "dtype", None), "kind", "") in "OT" and hasattr(element, "ravel"):
        return SPARE + sum(TEXT + 4 * len(str(value)) for value in element.ravel())
    return SPARE + (int(element.nbytes) if hasattr(element, "nbytes") else 4 * len(str(element)))


def _annotations(cells: Any) -> tuple[Any, ...]:
    return tuple(getattr(cells, name) for name in ("obsm", "varm", "obsp", "varp", "uns"))


def check_h5mu(path: Path) -> None:
    """Raise unless a path is that of a readable file of several modalities, and what reads it is there."""
    check_mudata()
    check_hdf5(path, MODALITIES, {"mod", "obs"})


def check_h5ad(path: Path) -> None:
    """Raise unless a path is that of a readable AnnData file."""
    if path.suffix == MODALITIES:
        raise ValueError(f"{str(path)!r} holds several modalities, and only one is read here: write an .h5ad file.")
    check_hdf5(path, ".h5ad", {"obs", "var"})


def check_mudata() -> Any:
    """Return the package mudata, or raise."""
    try:
        import mudata
    except ImportError as error:
        hint = 'Files of two modalities need the package mudata: pip install "tripletomics[mudata]"'
        raise ImportError(hint, name="mudata") from error
    return mudata

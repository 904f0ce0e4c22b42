"""Files of cells, and what is wrong with one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tripletomics.files import check_hdf5, check_room, replacing

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

MODALITIES = ".h5mu"  # how a file of several modalities ends
NAMES = ("rna", "protein")  # of two files
SPARE, TEXT = 4096, 48  # bytes that an element and a text take in HDF5 in addition to their content
ADDED = 4 * 128  # bytes of coordinates and predictions, for each cell


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
        check_hdf5(path, MODALITIES, {"mod", "obs"})
        return _read(path, mudata.read_h5mu, "MuData")


def read(path: Path) -> AnnData:
    """Read a file of cells, or raise an error that says what is wrong with it."""
    check_h5ad(path)
    import anndata

    return _read(path, anndata.read_h5ad, "AnnData")


def read_labels(path: Path, prefix: str, groups: str | None) -> AnnData:
    """Return what `predict` wrote about the cells of a dataset on disk, without their values."""
    import anndata
    import pandas as pd

    from tripletomics.store.frames import Obs
    from tripletomics.store.reading import open_to_read

    with open_to_read(path) as (root, _):
        obs, name = Obs(root, path), f"{prefix}_mapping"
        record: Any = anndata.io.read_elem(cast(Any, root)[f"uns/{name}"])
        ends = ("label", "confidence", "group_label", "group_label_set", *record.get("ordered", ()))
        wanted = [groups or "", *(f"{prefix}_{end}" for end in ends)]
        columns = {column: obs.read(column) for column in wanted if column in obs.obs}
        table = pd.DataFrame(columns)
        return anndata.AnnData(obs=table.set_axis(table.index.astype(str), axis=0), uns={name: record})


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


def write(cells: AnnData | MuData, path: Path) -> None:
    """Write a file of cells, as `read_cells` reads it, whole or not at all.

    Raises
    ------
    OSError
        If the disk fills up, or the folder no longer exists.
    """
    with replacing(path, size(cells)) as draft:
        if hasattr(cells, "mod"):
            with _mudata().set_options(pull_on_update=False):
                cells.write_h5mu(draft)
        else:
            cells.write_h5ad(draft)


def check_room_for(path: Path, cells: AnnData | MuData) -> None:
    """Raise DiskFull if the disk of `path` has no room for the cells and what a fit adds to them."""
    from rich.filesize import decimal

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


def check_cells(path: Path, other: Path | None = None) -> None:
    """Raise unless the paths are those of readable files of cells, and what reads them is there."""
    if path.suffix != MODALITIES:
        check_h5ad(path)
    else:
        _mudata()
        check_hdf5(path, MODALITIES, {"mod", "obs"})
        if other is not None:
            raise ValueError(f"{str(path)!r} holds modalities already: leave {str(other)!r} out.")
    if other is not None:
        _mudata()
        check_h5ad(other)


def check_h5ad(path: Path) -> None:
    """Raise unless a path is that of a readable AnnData file."""
    if path.suffix == MODALITIES:
        raise ValueError(f"{str(path)!r} holds several modalities, and only one is read here: write an .h5ad file.")
    check_hdf5(path, ".h5ad", {"obs", "var"})


def _mudata() -> Any:
    try:
        import mudata
    except ImportError as error:
        hint = 'Files of two modalities need the package mudata: pip install "tripletomics[mudata]"'
        raise ImportError(hint, name="mudata") from error
    return mudata

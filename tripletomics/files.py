"""Files that are checked before they are read, and written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_writable(path: str | Path, suffix: str) -> Path:
    """Return the path if a file can be written there, before any work is done for it.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    PermissionError
        If the folder, or a file that is there already, is read-only.
    ValueError
        If the name does not end in `suffix`, or is that of a folder.
    """
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"{str(path)!r} does not end in {suffix}: name the file {path.with_suffix(suffix).name!r}.")
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder: name a file in it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder {str(path.parent)!r} of {path.name!r} does not exist: create it first.")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise PermissionError(f"{str(path)!r} is read-only: choose another place.")
    return path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; it takes the place of `path` when the block ends well."""
    path = Path(path)
    draft = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        draft.touch()
        mode = (path if path.exists() else draft).stat().st_mode  # some writers make files that only their owner reads
        yield draft
        draft.chmod(mode)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def creating(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; it gets that name when the block ends well."""
    draft = path.with_name(f".{path.stem}.{os.getpid()}")
    try:
        draft.mkdir()
        yield draft
        os.rename(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_hdf5(path: Path, ending: str, needed: set[str]) -> None:
    """Raise unless a path is that of a readable HDF5 file that holds what is needed.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError
        If there is none, it may not be read, or it is another file.
    """
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
    except Exception as error:  # whatever a damaged file makes of the reader
        raise ValueError(f"{str(path)!r} cannot be opened: {error}") from error
    if not needed <= set(groups):
        kind = "AnnData" if ending == ".h5ad" else "MuData"
        raise ValueError(
            f"{str(path)!r} is an HDF5 file but not an {kind} file: it lacks {' and '.join(sorted(needed))}, and holds "
            f"{', '.join(groups) or 'nothing'}."
        )


def check_room(path: Path, needed: int, what: str) -> None:
    """Raise OSError if the disk of `path` has fewer bytes free than are needed for what is said to take them."""
    from rich.filesize import decimal

    free = shutil.disk_usage(path if path.is_dir() else path.parent).free
    if free < needed:
        raise OSError(f"{what}, and the disk of {str(path)!r} has {decimal(free)} free: make room first.")


@contextmanager
def filling(path: Path, rest: str) -> Iterator[None]:
    """Say what `rest` says, how much was needed and what to do, if the disk of `path` fills up."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(f"{str(path)!r} could not be written ({error.strerror}): {rest}") from None

"""Files that are checked before they are read, and written whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # without these locks, as on Windows, left-over drafts cannot be recognised
    fcntl = None  # type: ignore[assignment]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DRAFT, LOCK, KEPT = ".tripletomics-", "lock", "kept"  # a folder of drafts; in it the lock, and what gets its name back
PACKAGES = {".loom": "loompy", ".parquet": "pyarrow"}  # that read and write such files, and are not dependencies
EXCHANGE = 2  # of Linux's renameat2
PATIENCE = 50  # tries to delete a draft, 20 ms apart
HOST, WEEK = socket.gethostname().encode(), 7 * 24 * 3600.0


class DiskFull(OSError):
    """The disk is full: the message names what could not be written, the bytes that it takes, and those free."""


def check_writable(path: str | Path, suffix: str = "") -> Path:
    """Return the path if a file can be written there, before any work is done for it.

    For a symbolic link, the file that it points to is checked.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    PermissionError
        If the folder, or a file that is there already, is read-only.
    OSError
        If the name is too long, or no file can be made in the folder.
    ValueError
        If the name does not end in `suffix`, or is that of a folder.
    """
    path = Path(path)
    if suffix and path.suffix != suffix:
        raise ValueError(f"{str(path)!r} does not end in {suffix}: name the file {path.with_suffix(suffix).name!r}.")
    real = Path(os.path.realpath(path))
    try:
        if real.is_dir():
            raise ValueError(f"{str(path)!r} is a folder: name a file in it.")
        _check_regular(real)
        if not real.parent.is_dir():
            _check_above(path.parent)
            if path.is_symlink():
                raise FileNotFoundError(f"{str(path)!r} is a link to {str(real)!r}, whose folder does not exist.")
            raise FileNotFoundError(
                f"The folder {str(path.parent)!r} of {path.name!r} does not exist: create it first."
            )
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise OSError(f"The name of {str(path)!r} is longer than its disk allows: choose a shorter one.") from None
    if not os.access(real.parent, os.W_OK) or (real.exists() and not os.access(real, os.W_OK)):
        raise PermissionError(f"{str(path)!r} is read-only: choose another place.")
    try:
        with drafting(real.parent):  # finds what permissions do not show: a disk that is read-only or full
            return path
    except OSError as error:
        raise _refused(error, real.parent) from None


def make_folder(path: Path) -> None:
    """Make a folder and those above it, or raise; one that exists stays as it is."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{str(path)!r} is a file: name a folder.")
    _check_above(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(error, path) from None


def _check_above(folder: Path) -> None:
    """Raise if a file has the name of a folder, or of one above it."""
    for one in (folder, *folder.parents):
        if one.is_file():
            raise NotADirectoryError(f"{str(one)!r} is a file, so there is no folder {str(folder)!r}: choose another.")


def _refused(error: OSError, folder: Path) -> OSError:
    """Return an error, in words, of a system that makes nothing at a place."""
    return type(error)(f"Nothing can be made in {str(folder)!r} ({error.strerror}): choose another place.")


def _check_regular(path: Path) -> None:
    """Raise if there is something that is not a file with bytes on a disk, such as a device: it would be replaced."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{str(path)!r} exists and is not an ordinary file: choose another name.")


@contextmanager
def drafting(folder: Path) -> Iterator[Path]:
    """Yield a new folder inside another one, for files that are not complete yet; delete it after the block.

    Its name cannot be guessed, and nobody else may write into it. A lock, which ends with this process, shows others
    that it is in use. What killed processes have left is deleted first.
    """
    sweep(folder)
    own, lock = _own(folder)
    try:
        yield own
    finally:
        for _ in range(PATIENCE):  # after an error, zarr's threads may still write a few chunks
            shutil.rmtree(own, ignore_errors=True)
            if not own.exists():
                break
            time.sleep(0.02)
        os.close(lock)


def _own(folder: Path) -> tuple[Path, int]:
    """Make a folder with a lock that this process holds; try again if the `sweep` of another one deletes it first."""
    while True:
        try:
            own = Path(tempfile.mkdtemp(prefix=DRAFT, dir=folder))
        except OSError as error:  # name the folder, not the draft
            raise OSError(error.errno, error.strerror, str(folder)) from None
        lock = None
        try:
            lock = os.open(own / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(lock, HOST)
            if fcntl is not None:
                with suppress(OSError):  # some shared disks have no locks: left-over drafts stay there
                    fcntl.flock(lock, fcntl.LOCK_EX)
            os.stat(own / LOCK)
            return own, lock
        except OSError as error:
            if lock is not None:
                os.close(lock)
            if not isinstance(error, FileNotFoundError):  # a full disk
                shutil.rmtree(own, ignore_errors=True)
                raise


def sweep(folder: Path) -> None:
    """Delete the drafts that killed processes left in a folder; what these had set aside gets its name back.

    On some shared disks a lock is visible on one machine only, so drafts of other machines are kept for a week.
    """
    for old in folder.glob(f"{DRAFT}*") if fcntl is not None else ():
        with suppress(OSError):
            os.rmdir(old)  # killed before it had a lock
        with suppress(OSError):  # another user's, or in use
            lock = os.open(old / LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                state, here = os.fstat(lock), os.read(lock, len(HOST) + 1) in (HOST, b"")
                if state.st_uid != os.getuid() or not (here or time.time() - state.st_mtime > WEEK):
                    continue
                for kept in (old / KEPT).glob("*"):
                    if not (folder / kept.name).exists():
                        os.rename(kept, folder / kept.name)
                shutil.rmtree(old, ignore_errors=True)
            finally:
                os.close(lock)


@contextmanager
def replacing(path: str | Path, needed: int = 0) -> Iterator[Path]:
    """Yield a temporary name to write to; the file replaces `path` if the block ends without an error.

    Parameters
    ----------
    path
        For a symbolic link, the file that it points to is replaced.
    needed
        Bytes that the file takes, as far as is known. They are reserved first, because HDF5 ends the process if the
        disk fills up.

    Raises
    ------
    DiskFull
        If the disk fills up.
    ValueError
        If the path is that of a folder or a device.
    """
    real = Path(os.path.realpath(path))
    _check_regular(real)
    with filling(Path(path), needed), drafting(real.parent) as folder:
        _reserve(folder, needed)
        draft = folder / f"new{real.suffix}"
        draft.touch()
        mode = (real if real.exists() else draft).stat().st_mode  # some writers make files that only their owner reads
        yield draft
        draft.chmod(mode)
        os.replace(draft, real)


def _reserve(folder: Path, needed: int) -> None:
    """Raise OSError if a disk, or a quota on it, has no room for so many bytes."""
    if not needed or not hasattr(os, "posix_fallocate"):
        return
    with (folder / "room").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, needed)
    (folder / "room").unlink()


@contextmanager
def creating(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder; it gets the name `path` if the block ends without an error, or replaces what has it."""
    real = Path(os.path.realpath(path))
    with drafting(real.parent) as folder:
        draft = folder / "new"
        draft.mkdir()
        yield draft
        if replace and real.exists():
            exchange(draft, real)
        else:
            os.rename(draft, real)


def exchange(draft: Path, path: Path) -> None:
    """Replace the folder `path` by a draft next to it, in one step where the system can.

    Where it cannot, a kill between the two steps leaves no `path`; `sweep` then restores the old one.
    """
    if sys.platform == "linux":
        rename = getattr(ctypes.CDLL(None), "renameat2", None)
        here = -100  # paths are relative to the working directory
        if rename and not rename(here, os.fsencode(draft), here, os.fsencode(path), EXCHANGE):
            return
    kept = draft.parent / KEPT
    kept.mkdir()
    os.rename(path, kept / path.name)
    os.rename(draft, path)


@contextmanager
def using(folder: Path, *, alone: bool = False) -> Iterator[bool]:
    """Lock a folder that `exchange` may replace, together with others or alone; wait for those that have locked it.

    Yields whether it is locked: some shared disks have no locks.
    """
    while True:
        lock, held = os.open(folder, os.O_RDONLY), False
        try:
            if fcntl is not None:
                with suppress(OSError):
                    fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
                    held = True
            if os.path.samestat(os.fstat(lock), os.stat(folder)):  # not replaced meanwhile
                yield held
                return
        finally:
            os.close(lock)


def require(paths: Iterable[Path]) -> None:
    """Raise ImportError, which names all that is missing, unless packages that read or write these files are there."""
    needed = {path: PACKAGES[path.suffix.lower()] for path in paths if path.suffix.lower() in PACKAGES}
    missing = {path: package for path, package in needed.items() if importlib.util.find_spec(package) is None}
    if missing:
        packages = sorted({*missing.values()})
        raise ImportError(
            f"{' and '.join(repr(str(path)) for path in missing)} cannot be used without {' and '.join(packages)}: "
            f"pip install {' '.join(packages)}",
            name=packages[0],
        )


def check_readable(path: Path, ending: str) -> None:
    """Raise unless a path is that of a file that may be read.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError
        If there is none, it may not be read, or it is a folder.
    """
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder: name an {ending} file.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    if not os.access(path, os.R_OK):
        raise PermissionError(f"{str(path)!r} may not be read: ask its owner.")


def check_hdf5(path: Path, ending: str, needed: set[str]) -> None:
    """Raise unless a path is that of a readable HDF5 file that holds what is needed.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError
        If there is none, it may not be read, or it is another file.
    """
    import h5py

    check_readable(path, ending)
    if not h5py.is_hdf5(path):
        cure = "read it with scanpy and write it as one" if ending in (".h5ad", ".h5mu") else "copy it again"
        raise ValueError(f"{str(path)!r} is not an {ending} file: {cure}.")
    try:
        with h5py.File(path) as file:
            groups = list(file)
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{str(path)!r} cannot be opened: {error}") from error
    if not needed <= set(groups):
        kind = {".h5ad": "AnnData", ".h5mu": "MuData"}.get(ending, ending)
        lacking = " and ".join(sorted(needed - {*groups}))
        raise ValueError(
            f"{str(path)!r} is an HDF5 file but not an {kind} file: it lacks {lacking}, and holds "
            f"{', '.join(map(str, groups)) or 'nothing'}."
        )


def check_room(path: Path, needed: int, what: str) -> None:
    """Raise DiskFull if the disk of `path` has fewer bytes free than are needed; `what` says for what."""
    from rich.filesize import decimal

    real = Path(os.path.realpath(path))
    free = shutil.disk_usage(real if real.is_dir() else real.parent).free
    if free < needed:
        raise DiskFull(f"{what}, and the disk of {str(path)!r} has {decimal(free)} free: make room first.")


@contextmanager
def filling(
    path: Path, needed: int, rest: str = "No part of it is left: make room and run the same again."
) -> Iterator[None]:
    """Raise DiskFull, with the bytes needed, the bytes free and then `rest`, if the disk of `path` fills up."""
    from rich.filesize import decimal

    try:
        yield
    except Exception as error:  # HDF5 and safetensors have errors of their own
        found = [number for number in FULL if getattr(error, "errno", 0) == number or os.strerror(number) in str(error)]
        if not found or isinstance(error, DiskFull):
            raise
        with suppress(OSError):
            real = os.path.realpath(path)
            free = shutil.disk_usage(real if os.path.isdir(real) else os.path.dirname(real)).free
            takes = f"It takes up to {decimal(needed)}, and the disk has {decimal(free)} free. " if needed else ""
            rest = takes + rest if takes else f"The disk has {decimal(free)} free. {rest}"
        raise DiskFull(f"{str(path)!r} could not be written ({os.strerror(found[0])}). {rest}") from None

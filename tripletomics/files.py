"""Output files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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

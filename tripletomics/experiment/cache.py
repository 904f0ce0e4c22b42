"""Results in a folder, by a hash of what they depend on, so that nothing is computed twice."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import platformdirs

from tripletomics import baselines, files
from tripletomics.notices import warn

if TYPE_CHECKING:
    from tripletomics.experiment.splits import Split

FORMAT = 2  # what a result holds: 2 has confusions on maps
CACHE_BYTES = 2**31  # beyond this, the oldest results are deleted


class Cache:
    """Results in a folder, if there is one."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def path(self, split: Split, method: str, settings: dict[str, Any] | None) -> Path | None:
        """Return where a result lies or would lie."""
        if self.folder is None:
            return None
        content = hashlib.blake2b(split.task.digest, digest_size=32)
        content.update(repr((FORMAT, method, settings, split.seed, split.at_random, versions([method]))).encode())
        content.update(np.packbits(split.held_out).tobytes())
        return self.folder / f"{content.hexdigest()}.npz"

    def read(self, path: Path | None) -> dict[str, np.ndarray] | None:
        """Return the arrays of a result if it is there and whole."""
        if path is None or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            return arrays if str(arrays.pop("seal")) == _seal(path, arrays) else None
        except Exception:  # a damaged file can raise anything
            return None

    def write(self, path: Path | None, arrays: dict[str, np.ndarray]) -> None:
        """Keep a result; the oldest go when the folder is full. Other files stay."""
        if path is None or self.folder is None:
            return
        try:
            with files.replacing(path) as draft:
                np.savez(draft, **arrays, seal=np.array(_seal(path, arrays)))  # type: ignore[arg-type]
            known = [old for old in self.folder.iterdir() if re.fullmatch(r"[0-9a-f]{64}\.npz", old.name)]
            kept = sorted(((old.stat(), old) for old in known), key=lambda entry: -entry[0].st_mtime)
            total = np.cumsum([state.st_size for state, _ in kept])
            for (_, old), size in zip(kept[1:], total[1:], strict=True):
                if size > CACHE_BYTES:
                    old.unlink(missing_ok=True)
        except OSError as error:  # a full disk, or another process that deletes old results: the caller has this one
            warn(f"A result was not kept for the next call: {error}.")


def _seal(path: Path, arrays: dict[str, np.ndarray]) -> str:
    """Return a hash of a result and of the name of its file, so that no other result is taken for it."""
    content = hashlib.blake2b(path.name.encode(), digest_size=32)
    for name, array in sorted(arrays.items()):
        content.update(repr((name, array.dtype.str, array.shape)).encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()


def open_cache(cache: str | Path | None) -> Cache:
    """Return the cache that a user asked for, after checking that its folder can be written to."""
    if cache is None:
        return Cache(None)
    folder = platformdirs.user_cache_path("tripletomics") / "compare" if cache == "auto" else Path(cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable and cache != "auto":
        raise PermissionError(f"cache={str(cache)!r} is not a folder that can be written to: name another, or None.")
    return Cache(folder if writable else None)


def versions(methods: Sequence[str]) -> dict[str, str]:
    """Return the versions of what computes, and of the packages of some methods."""
    names = ["tripletomics", "torch", "numpy", "scipy", "scikit-learn", "anndata"]
    names += [baselines.METHODS[method].package for method in methods if method in baselines.METHODS]
    return {name: version(name) for name in dict.fromkeys(names)}

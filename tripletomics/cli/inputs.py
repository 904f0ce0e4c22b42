"""What a command reads: cells in one of many formats, a second modality, and labels from a table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tripletomics.cli import formats, reading
from tripletomics.cli.columns import add_columns
from tripletomics.cli.words import option
from tripletomics.files import check_readable, require

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

FOLDER = "a folder of 10x"
FORMATS = {  # by the ending: what checks a file before any work, and what reads it
    ".h5ad": (reading.check_h5ad, reading.read),
    ".h5": (formats.check_10x_h5, formats.read_10x_h5),
    FOLDER: (formats.find_10x, formats.read_10x_folder),
    ".loom": (formats.check_loom, formats.read_loom),
}
TABLES = (*formats.TEXT, ".parquet")
ON_DISK = (".h5ad", ".zarr")


def is_input(word: str) -> bool:
    """Return whether a word of the command line is a file or folder of cells."""
    path = Path(word)
    named = formats.ending(path) in (*FORMATS, *formats.TEXT, *ON_DISK, reading.MODALITIES)
    return named or (os.path.isdir(word) and any(path.glob("*matrix.mtx*")))


@dataclass(frozen=True)
class Source:
    """What a command reads.

    Attributes
    ----------
    path
        The cells.
    protein
        A second modality of them.
    obs
        Table of columns to add to `obs`, by the names of cells.
    transpose
        Whether tables have genes in rows.
    label
        The `label` that was given: whole numbers in its columns are names of types.
    names
        Other columns of `obs` that hold names, such as that of the batches.
    """

    path: Path
    protein: Path | None = None
    obs: Path | None = None
    transpose: bool = False
    label: Any = None
    names: tuple[str | None, ...] = ()

    @property
    def paths(self) -> list[Path]:
        """Return all files and folders that are read."""
        return [path for path in (self.path, self.protein, self.obs) if path is not None]

    def check_apart(self, written: Mapping[str, Path | None], *read: Any) -> None:
        """Raise if a file to write, named by its option, is also read: the cells, or what other options name."""
        folders = [path for path in self.paths if _kind(path) == FOLDER]
        inside = [file for path in folders for file in formats.find_10x(path).values()]
        check_apart(written, [*self.paths, *inside, *(one for one in read if isinstance(one, str | Path))])

    @property
    def suffix(self) -> str:
        """Return how the file of results ends: in .h5mu for two modalities, else in .h5ad."""
        several = self.protein is not None or self.path.suffix == reading.MODALITIES
        return reading.MODALITIES if several else ".h5ad"

    def check(self) -> None:
        """Raise unless all files can be read, and the packages that read them are installed."""
        require(self.paths)
        paths = [self.path] if self.protein is None else [self.path, self.protein]
        if self.path.suffix == reading.MODALITIES:
            reading.check_h5mu(self.path)
            if self.protein is not None:
                raise ValueError(f"{str(self.path)!r} holds modalities already: leave {str(self.protein)!r} out.")
        elif self.path.suffix != ".zarr":  # what opens a store checks it
            for path in paths:
                check_one(path)
        if self.protein is not None:
            reading.check_mudata()
        if self.transpose and not any(formats.ending(path) in formats.TEXT for path in paths):
            raise ValueError(
                f"--transpose is for tables ({', '.join(formats.TEXT)}), and {str(self.path)!r} is none: leave it out."
            )
        if self.obs is not None:
            self._check_obs(self.obs)

    def _check_obs(self, obs: Path) -> None:
        if self.path.suffix in (reading.MODALITIES, ".zarr"):
            why = "stays on disk" if self.path.suffix == ".zarr" else "holds several modalities"
            raise ValueError(f"--obs cannot be used with {str(self.path)!r}, which {why}: write the columns into it.")
        check_readable(obs, ".csv")
        if formats.ending(obs) not in TABLES:
            raise ValueError(f"{str(obs)!r} ends in none of {', '.join(TABLES)}: write it as one of these.")

    def is_large(self, layer: str | None, use_rep: str | None) -> bool:
        """Return whether the cells are a file that is too large to be read whole."""
        from tripletomics.tl import paths

        if self.protein is not None or self.path.suffix != ".h5ad" or not paths.is_large(self.path, layer, use_rep):
            return False
        if self.obs is not None:
            raise ValueError(
                f"{str(self.path)!r} is so large that it is read block by block, and --obs adds to cells in memory: "
                "write the columns into the file."
            )
        return True

    def read(self) -> AnnData | MuData:
        """Return the cells."""
        if self.protein is not None:
            return reading.join(self._read(self.path), self._read(self.protein))
        return reading.read_h5mu(self.path) if self.suffix == reading.MODALITIES else self._read(self.path)

    def read_one(self) -> AnnData:
        """Return the cells, of one modality, after a check."""
        check_one(self.path)
        self.check()
        return self._read(self.path)

    def _read(self, path: Path) -> AnnData:
        if formats.ending(path) in formats.TEXT:
            cells = formats.read_text(path, self.transpose)
        else:
            cells = FORMATS[_kind(path)][1](path)
        if self.obs is not None and path == self.path:
            cure = f"{'leave out' if self.transpose else 'pass'} --transpose"
            add_columns(cells, self.obs, path, lambda columns: self._names([*cells.obs, *columns]), cure)
        return cells

    def _names(self, columns: list[str]) -> list[str]:
        """Return the columns that hold names."""
        from tripletomics.labels.roles import read_roles

        return [*read_roles(self.label, None, None, columns).types, *(name for name in self.names if name)]


def _kind(path: Path) -> str:
    return FOLDER if path.is_dir() and path.suffix not in (*ON_DISK, reading.MODALITIES) else formats.ending(path)


def check_one(path: Path) -> None:
    """Raise unless a file or folder seems to hold cells of one modality."""
    kind = _kind(path)
    if kind in FORMATS:
        FORMATS[kind][0](path)
    elif kind in (*ON_DISK, reading.MODALITIES):
        reading.check_h5ad(path)
    else:
        check_readable(path, ".h5ad")
        if kind not in formats.TEXT:
            allowed = ", ".join([".h5ad", ".h5mu", ".h5 (of 10x)", ".loom", *formats.TEXT])
            raise ValueError(
                f"{path.name!r} does not say what it holds: cells are read from {allowed} and from folders of 10x."
            )


def check_apart(written: Mapping[str, Path | None], read: Iterable[str | Path]) -> None:
    """Raise if a file to write, named by its option, is also read."""
    taken = {os.path.realpath(path) for path in read}
    for name, path in written.items():
        if path is not None and os.path.realpath(path) in taken:
            raise ValueError(f"{option(name)} {str(path)!r} is also read: name another file.")

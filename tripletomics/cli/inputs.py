"""What a command reads: cells in one of several formats, a second modality, and labels from a table."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tripletomics.cli import formats, reading
from tripletomics.files import check_readable, require
from tripletomics.notices import warn

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

FOLDER = "a folder of 10x"
FORMATS = {  # by the ending: what checks a file before any work, and what reads it
    ".h5ad": (reading.check_h5ad, reading.read),
    ".h5": (formats.check_10x_h5, formats.read_10x_h5),
    FOLDER: (formats.find_10x, formats.read_10x_folder),
    ".loom": (formats.check_loom, formats.read_loom),
}
TEXT = (".csv", ".tsv", ".txt")
TABLES = (*TEXT, ".parquet")
ON_DISK = (".h5ad", ".zarr")


def is_input(word: str) -> bool:
    """Return whether a word of the command line is a file or folder of cells."""
    path = Path(word)
    named = formats.ending(path) in (*FORMATS, *TEXT, *ON_DISK, reading.MODALITIES)
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
        Whether tables of text have genes in rows.
    """

    path: Path
    protein: Path | None = None
    obs: Path | None = None
    transpose: bool = False

    @property
    def paths(self) -> list[Path]:
        """All that is read."""
        return [path for path in (self.path, self.protein, self.obs) if path is not None]

    @property
    def suffix(self) -> str:
        """How the file of results ends: that of two modalities in .h5mu."""
        several = self.protein is not None or self.path.suffix == reading.MODALITIES
        return reading.MODALITIES if several else ".h5ad"

    def check(self) -> None:
        """Raise unless all that is named can be read, and what reads it is installed."""
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
        if self.transpose and not any(formats.ending(path) in TEXT for path in paths):
            raise ValueError(
                f"--transpose is for tables ({', '.join(TEXT)}), and {str(self.path)!r} is none: leave it out."
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
        if formats.ending(path) in TEXT:
            cells = formats.read_text(path, self.transpose)
        else:
            cells = FORMATS[_kind(path)][1](path)
        if self.obs is not None and path == self.path:
            _add_obs(cells, self.obs, path, self.transpose)
        return cells


def _kind(path: Path) -> str:
    return FOLDER if path.is_dir() and path.suffix not in (*ON_DISK, reading.MODALITIES) else formats.ending(path)


def check_one(path: Path) -> None:
    """Raise unless a file or folder holds cells of one modality, and what reads it is there."""
    kind = _kind(path)
    if kind in FORMATS:
        FORMATS[kind][0](path)
    elif kind in (*ON_DISK, reading.MODALITIES):
        reading.check_h5ad(path)
    else:
        check_readable(path, ".h5ad")
        if kind not in TEXT:
            allowed = ", ".join([".h5ad", ".h5mu", ".h5 (of 10x)", ".loom", *TEXT])
            raise ValueError(
                f"{path.name!r} does not say what it holds: cells are read from {allowed} and from folders of 10x."
            )


def read_table(path: Path) -> pd.DataFrame:
    """Return a table of cells, by the names in its first column."""
    import pandas as pd

    from tripletomics.store.layout import reporting

    with reporting(f"{str(path)!r} cannot be read as a table"):
        if formats.ending(path) == ".parquet":
            table = pd.read_parquet(path)
            table = table if not isinstance(table.index, pd.RangeIndex) else table.set_index(table.columns[0])
        else:
            with formats.open_text(path) as lines:
                between = formats.separator(lines.readline())
            table = pd.read_csv(path, sep=between, converters={0: str}, encoding="utf-8-sig")
            if isinstance(table.index, pd.RangeIndex):  # the first row names the first column
                table = table.set_index(table.columns[0])
        if not table.shape[1]:
            raise ValueError("it has no column besides the names of cells")
        return table.set_axis(table.index.astype(str), axis=0)


def _add_obs(cells: AnnData, path: Path, source: Path, transposed: bool) -> None:
    """Add the columns of a table to `obs`, by the names of cells."""
    table = read_table(path)
    if repeated := list(table.index[table.index.duplicated()].unique()):
        raise ValueError(
            f"{str(path)!r} has more than one row for these cells: {formats.shortened(repeated)}. Keep one for each."
        )
    known = cells.obs_names.isin(table.index)
    if not known.any():
        here, there = (formats.shortened(list(names)) for names in (cells.obs_names, table.index))
        cure = "write the names of the cells in its first column, in the same way"
        if formats.ending(source) in TEXT and cells.var_names.isin(table.index).any():
            cure = f"its names are those of genes there, so {'leave out' if transposed else 'pass'} --transpose"
        raise ValueError(f"No cell of {str(source)!r} ({here}) has a row in {str(path)!r} ({there}): {cure}.")
    others = int((~table.index.isin(cells.obs_names)).sum())
    lacking = int((~known).sum())
    if lacking or others:
        said = f"{lacking:,} of {cells.n_obs:,} cells have no row in {str(path)!r} and are unlabelled."
        warn(f"{said} {others:,} of its {len(table):,} rows are of no cell and are left out.")
    found = table.reindex(cells.obs_names)
    for name, values in found.items():  # whole numbers stay whole where some are missing
        whole = values.hasnans and values.dtype.kind == "f" and (values.dropna() % 1 == 0).all()
        cells.obs[str(name)] = (values.astype("Int64") if whole else values).array

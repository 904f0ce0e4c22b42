"""Files of cells other than .h5ad and .h5mu, and messages on what is wrong with them."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import numpy as np

from tripletomics.files import check_hdf5
from tripletomics.notices import warn

if TYPE_CHECKING:
    from anndata import AnnData

NAMES_OF_10X = {"features": ("features.tsv", "genes.tsv"), "barcodes": ("barcodes.tsv",)}
GENES = "Gene Expression"
TEXT = (".csv", ".tsv", ".txt")
SEPARATORS = "\t,; "
NOT_MEASURED = {"", "na", "n/a", "nan", "none", "null"}
FIRST = {"", "cell", "cells", "cell_id", "cell_ids", "barcode", "barcodes", "index", "id", "name", "gene", "genes"}
LARGEST = float(np.finfo(np.float32).max)
GZIP = b"\x1f\x8b"  # how such a file begins
SHOWN = 3  # names in a message
AT_ONCE = 1000  # rows of a table that are dense at a time


def ending(path: Path) -> str:
    """Return how a path ends, in small letters and without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def check_10x_h5(path: Path) -> None:
    """Raise unless a path is that of a 10x .h5 file, as Cell Ranger writes it."""
    import h5py

    from tripletomics.store.layout import reporting

    check_hdf5(path, ".h5", set())
    names: list[str] = []
    with reporting(f"{str(path)!r} cannot be opened"), h5py.File(path, "r") as file:
        file.visit(names.append)
    if {"obs", "var"} <= {*names}:
        raise ValueError(f"{str(path)!r} holds AnnData: rename it {path.with_suffix('.h5ad').name!r}.")
    if not any(name.endswith("/barcodes") for name in names):
        raise ValueError(
            f"{str(path)!r} is an HDF5 file but not one of 10x, which has barcodes in a group 'matrix': it holds "
            f"{', '.join(name for name in names if '/' not in name) or 'nothing'}."
        )


def read_10x_h5(path: Path) -> AnnData:
    """Read a 10x .h5 file, as Cell Ranger writes it."""
    import scanpy

    from tripletomics.store.layout import reporting

    with reporting(f"{str(path)!r} cannot be read as .h5 of 10x"):
        return _of_10x(scanpy.read_10x_h5(path, gex_only=False), path)


def find_10x(path: Path) -> dict[str, Path]:
    """Return the three files of a 10x folder (Cell Ranger or STARsolo), with or without .gz and a prefix.

    Raises
    ------
    FileNotFoundError, ValueError
        If one of them is not there, or there are several matrices.
    """
    inside = sorted(file.name for file in path.iterdir())
    matrices = [name for name in inside if name.endswith(("matrix.mtx", "matrix.mtx.gz"))]
    if len(matrices) != 1:
        count = f"{len(matrices)} matrices ({', '.join(matrices)})" if matrices else "no matrix.mtx or matrix.mtx.gz"
        raise ValueError(f"{str(path)!r} is a folder with {count}, and a folder of 10x has one: name such a folder.")
    prefix, found = matrices[0].rpartition("matrix.mtx")[0], {"matrix": path / matrices[0]}
    for part, names in NAMES_OF_10X.items():
        there = [name for name in inside if name.removesuffix(".gz") in [f"{prefix}{one}" for one in names]]
        if not there:
            wanted = " or ".join(f"{prefix}{one}" for one in names)
            raise FileNotFoundError(
                f"{str(path)!r} has {matrices[0]} but no {wanted} (or .gz), which names its "
                f"{'genes' if part == 'features' else 'cells'}: copy it there."
            )
        if len(there) > 1:
            raise ValueError(f"{str(path)!r} has {' and '.join(there)}: keep the one that belongs to {matrices[0]}.")
        found[part] = path / there[0]
    return found


def read_10x_folder(path: Path) -> AnnData:
    """Read a folder of 10x: a matrix with genes in its rows, and the names of genes and cells."""
    import anndata
    import pandas as pd

    from tripletomics.store.layout import reporting

    files = find_10x(path)
    with reporting(f"{str(path)!r} cannot be read as a folder of 10x"):
        cells = anndata.io.read_mtx(files["matrix"]).T
        look: Any = {"header": None, "dtype": str, "keep_default_na": False, "quoting": csv.QUOTE_NONE}
        for part in NAMES_OF_10X:
            with open_text(files[part]) as lines:
                if not lines.read(1):
                    raise ValueError(f"{files[part].name} is empty: copy it again")
        genes, names = (pd.read_csv(files[part], sep="\t", **look) for part in NAMES_OF_10X)
        if cells.shape != (len(names), len(genes)):
            raise ValueError(
                f"its matrix has {cells.n_vars:,} genes and {cells.n_obs:,} cells, but {files['features'].name} names "
                f"{len(genes):,} and {files['barcodes'].name} {len(names):,}"
            )
        cells.X = cells.X.tocsr()
        cells.obs_names, cells.var_names = names[0].to_numpy(), genes[min(1, genes.shape[1] - 1)].to_numpy()
        for column, name in zip(genes, ("gene_ids", None, "feature_types"), strict=False):
            if name:
                cells.var[name] = genes[column].to_numpy()
        return _of_10x(cells, path)


def _of_10x(cells: AnnData, path: Path) -> AnnData:
    """Return cells with genes alone, whose names are made unique as in scanpy."""
    from tripletomics.pp.matrices import contradiction

    x: Any = cells.X
    if why := contradiction(x.data, x.indices, x.indptr, x.shape):
        raise ValueError(why)
    kinds = cells.var.get("feature_types")
    if kinds is not None and GENES in (counts := Counter(kinds)) and len(counts) > 1:
        others = ", ".join(f"{n:,} {kind}" for kind, n in counts.items() if kind != GENES)
        warn(f"{str(path)!r} has features that are not genes, and they are left out: {others}.")
        cells = cells[:, (kinds == GENES).to_numpy()].copy()
    if repeated := list(cells.var_names[cells.var_names.duplicated()].unique()):
        warn(
            f"{str(path)!r} has names of genes more than once: {shortened(repeated)}. Each repetition gets -1, -2, ... "
            "at its end, as in scanpy."
        )
        cells.var_names_make_unique()
    return cells


def check_loom(path: Path) -> None:
    """Raise unless a path is that of a .loom file."""
    check_hdf5(path, ".loom", {"matrix", "row_attrs", "col_attrs"})


def read_loom(path: Path) -> AnnData:
    """Read a .loom file; cells and genes are named by its CellID and Gene, as velocyto and anndata write them."""
    import anndata

    from tripletomics.store.layout import reporting

    with reporting(f"{str(path)!r} cannot be read as .loom"):
        return cast("AnnData", anndata.io.read_loom(path))


def read_text(path: Path, transpose: bool = False) -> AnnData:
    """Read a table of numbers: cells in rows, their names in the first column, and names of genes above the others.

    Parameters
    ----------
    path
        Separated by commas, tabs, semicolons or spaces, as its first row is. As R writes it, the first row may lack
        the name of the first column.
    transpose
        Genes are in rows and cells in columns.

    Raises
    ------
    ValueError
        If it is not such a table. The message names the row and the column. Empty fields are NaN.
    """
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    from tripletomics.store.layout import reporting
    from tripletomics.store.reading import SPARSE_SHARE

    with reporting(f"{str(path)!r} cannot be read as a table"), open_text(path) as lines:
        first = lines.readline()
        rows = csv.reader(chain([first], lines), delimiter=separator(first), skipinitialspace=True)
        header = next(rows)
        _check_header(header, path)
        names: list[str] = []
        blocks: list[Any] = []
        cells = _numbers(rows, header)
        while some := list(islice(cells, AT_ONCE)):
            names += [name for name, _ in some]
            blocks.append(sp.csr_matrix(np.stack([values for _, values in some])))
        if not names:
            raise ValueError(
                "it has one row only, and this must hold the names of the columns: add the rows of the cells"
            )
        x = sp.vstack(blocks, format="csr")
        columns = header[len(header) - x.shape[1] :]
        x, names, columns = (x.T.tocsr(), columns, names) if transpose else (x, names, columns)
        if repeated := [name for name, n in Counter(names).items() if n > 1]:
            where = "first row" if transpose else "first column"
            raise ValueError(f"its {where} names the cells, and has these names more than once: {shortened(repeated)}")
    x = x if x.nnz < SPARSE_SHARE * x.shape[0] * x.shape[1] else x.toarray()
    return anndata.AnnData(x, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=columns))


def shortened(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open text, compressed by gzip or not; a byte order mark, as Excel writes it, is skipped."""
    with path.open("rb") as file:
        packed = file.read(len(GZIP)) == GZIP or path.name.lower().endswith(".gz")
    try:
        with (gzip.open if packed else open)(path, "rt", encoding="utf-8-sig", newline="") as lines:
            yield cast(TextIO, lines)
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8: save it as 'CSV UTF-8'") from None


def separator(line: str) -> str:
    """Return what separates the columns of a table, by its first row."""
    if not line.strip():
        raise ValueError("it is empty, or its first row is")
    if line.startswith("# "):
        raise ValueError("its first row is a comment, and it must name the columns: remove such rows")
    found = next((one for one in SEPARATORS if one in line.rstrip("\r\n")), None)
    if found is None:
        raise ValueError("its first row has one name: separate columns by commas or tabs")
    return found


def columns_of(header: list[str], row: list[str]) -> list[str]:
    """Return the names of all columns but the first, which the header may lack; raise if they are not clear."""
    if len(row) == len(header) + 1 and (row[-1] == "" or header[0].lower() in FIRST):
        raise ValueError(
            f"its first row has {len(header):,} fields and the next one {len(row):,}"
            f"{', of which the last is empty' * (row[-1] == '')}: give both the same number"
        )
    columns = header if len(row) == len(header) + 1 else header[1:]
    if empty := [i for i, name in enumerate(columns, 2) if not name.strip()]:
        raise ValueError(f"its first row has no name for column {empty[0]:,}: write one, or remove the column")
    return columns


def check_length(row: list[str], i: int, columns: Sequence[str]) -> None:
    """Raise unless a row has a value for each column."""
    if len(row) != len(columns) + 1:
        raise ValueError(
            f"row {i:,} ({row[0]}) has {len(row) - 1:,} values, and the first row has {len(columns):,} names for them"
        )


def _check_header(header: list[str], path: Path) -> None:
    """Raise if the first row holds the values of a cell; names may be numbers if they are whole and all different."""
    try:
        numbers = [float(name) for name in header[1:]]
    except ValueError:
        return
    if len({*numbers}) < len(numbers) or not all(number.is_integer() for number in numbers):
        raise ValueError("its first row holds numbers, and it must hold the names of the columns: add such a row")
    if header[0].lower() not in FIRST:
        warn(
            f"The first row of {str(path)!r} holds numbers ({shortened(header[1:])}), and they are taken for names of "
            "columns. If they are values, add a row with the names."
        )


def _numbers(rows: Iterator[list[str]], header: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of each row and its numbers; the header may lack the name of the first column."""
    columns: list[str] = []
    for i, row in enumerate(filter(None, rows), 2):  # without empty lines
        columns = columns or columns_of(header, row)
        check_length(row, i, columns)
        name, *words = row
        try:
            with np.errstate(over="ignore"):
                values = np.array(words, dtype=np.float32)
        except ValueError:
            values = np.array([np.inf])
        if np.isinf(values).any():  # read one by one, to name the one that is no number
            places = zip(words, columns, strict=True)
            values = np.array([_number(word, column, i, name) for word, column in places], dtype=np.float32)
        yield name, values


def _number(word: str, column: str, i: int, name: str) -> float:
    """Return a number; NaN if none was measured."""
    where = f"{word!r} in row {i:,} ({name}), column {column!r}, is"
    try:
        number = np.nan if word.strip().lower() in NOT_MEASURED else float(word)
    except ValueError:
        raise ValueError(f"{where} not a number: write one, or leave it empty") from None
    if abs(number) > LARGEST:
        raise ValueError(f"{where} infinite or larger than {LARGEST:.1e}: write a smaller number, or leave it empty")
    return number

"""What the page holds for each cell: coordinates, columns and genes, each packed separately and read when needed."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from tripletomics.labels import UNLABELLED, encode
from tripletomics.pl.palette import GREY, codes_of, colour_scale, colours, limits
from tripletomics.pp import stored_matrix

if TYPE_CHECKING:
    from anndata import AnnData

MAX_CELLS = 100_000
KEPT_CELLS = 250  # of each type that every subsample keeps
MAX_NAMES = 100  # a text column with more names is an identifier, not a grouping
GENE_BYTES = 40e6  # of the genes in a page
TOGETHER = 8  # genes that are compressed as one block, which is a tenth smaller than one by one
STEPS = 255  # of a number; the 256th value of a byte means that it is missing


@dataclass(frozen=True)
class Types:
    """Names of a column as codes, with the colours that figures give them."""

    codes: np.ndarray  # (n,), -1 for unlabelled
    names: list[str]
    colours: list[str]  # "#rrggbb"


def types_of(values: pd.Series, name: str, adata: AnnData | None = None) -> Types:
    """Return codes, names and colours of a column, as in :mod:`tripletomics.pl`; numbers are taken as their text."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        codes, names = encode(values, UNLABELLED)
    else:
        codes, names = codes_of(values)
    return Types(codes, names, [hexadecimal(rgb) for rgb in colours(name, names, None, adata)])


def hexadecimal(rgb: Sequence[float]) -> str:
    """Return a colour as ``#rrggbb``."""
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in rgb)


def shown_rows(codes: np.ndarray, held: np.ndarray, seed: int) -> np.ndarray:
    """Return the rows to show in drawing order: all, or `MAX_CELLS` in proportion to types and splits, rare ones whole.

    Unlabelled cells lie below training cells and these below held-out ones; the order within each is random, so that
    no type covers the others.
    """
    random = np.random.default_rng(seed)
    rows = random.permutation(len(codes))
    if len(rows) > MAX_CELLS:
        group = np.unique(2 * codes + held, return_inverse=True)[1]
        sizes = np.bincount(group)
        floor = np.minimum(sizes, min(KEPT_CELLS, MAX_CELLS // len(sizes)))
        low, high = 0.0, 1.0  # the share of each group that fills the page
        for _ in range(40):
            share = (low + high) / 2
            quota = np.maximum(floor, np.floor(share * sizes)).astype(int)
            low, high = (share, high) if quota.sum() <= MAX_CELLS else (low, share)
        quota = np.maximum(floor, np.floor(low * sizes)).astype(int)
        rank = pd.Series(group[rows]).groupby(group[rows]).cumcount().to_numpy()
        rows = rows[rank < quota[group[rows]]]
    layer = np.where(codes[rows] < 0, 0, 1 + held[rows])
    return rows[np.argsort(layer, kind="stable")]


class Store:
    """Blocks of bytes in one text, each compressed on its own."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.length = 0

    def put(self, block: bytes) -> dict[str, int]:
        """Add a block; return where it stands."""
        text = base64.b64encode(zlib.compress(block)).decode()
        place = {"at": self.length, "length": len(text)}
        self.blocks.append(text)
        self.length += len(text)
        return place


def packed(adata: AnnData, label: str, types: Types, rows: np.ndarray) -> tuple[Store, dict[str, Any], list[str]]:
    """Return the stored names, columns and genes of cells, where the page finds them, and the columns left out."""
    store = Store()
    cell_names = store.put(as_json([str(name) for name in adata.obs_names[rows]]).encode())
    entries, left_out = columns(adata, label, types, rows, store)
    found = genes(adata, rows, store)
    data = {"cell_names": cell_names, "columns": entries, "genes": store.put(as_json(found).encode())}
    return store, data | {"n_genes": len(found), "scale": scale_colours(), "grey": GREY}, left_out


def columns(adata: AnnData, label: str, types: Types, rows: np.ndarray, store: Store) -> tuple[list[dict], list[str]]:
    """Store the label and the other columns of obs; return their entries and the names of those left out."""
    entries, left_out = [type_entry(label, types, rows, store)], []
    for name in adata.obs.columns:
        values = adata.obs[name]
        if name == label or isinstance(values, pd.DataFrame):  # two columns of one name cannot be distinguished
            continue
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            numbers = values.to_numpy(dtype=float, na_value=np.nan)[rows]
            entries += number_entries([(str(name), numbers)], "number", store)
        elif values.astype(str).nunique() > MAX_NAMES:
            left_out.append(str(name))
        else:
            entries.append(type_entry(str(name), types_of(values, str(name), adata), rows, store))
    return entries, left_out


def type_entry(name: str, types: Types, rows: np.ndarray, store: Store) -> dict[str, Any]:
    """Store codes as unsigned 16-bit numbers, 65535 for unlabelled."""
    place = store.put(types.codes[rows].astype("<u2").tobytes())
    return {"name": name, "kind": "type", "names": types.names, "colours": types.colours, **place}


def number_entries(named: Sequence[tuple[str, np.ndarray]], kind: str, store: Store) -> list[dict[str, Any]]:
    """Store numbers in 255 steps from the smallest to the 0.995 quantile, as the scale of figures; 255 for none.

    They are one block; "row" says which part of it is whose.
    """
    entries: list[dict[str, Any]] = []
    parts = []
    for name, numbers in named:
        known = np.isfinite(numbers)
        low, high = limits(numbers[known])
        steps = (np.clip(np.where(known, numbers, low), low, high) - low) / (high - low or 1.0) * (STEPS - 1)
        parts.append(np.where(known, np.rint(steps), STEPS).astype(np.uint8).tobytes())
        entries.append({"name": name, "kind": kind, "low": low, "high": high, "row": len(entries)})
    place = store.put(b"".join(parts))
    return [entry | place for entry in entries]


def genes(adata: AnnData, rows: np.ndarray, store: Store) -> list[dict[str, Any]]:
    """Store genes, the most variable first, until `GENE_BYTES` are reached; return their entries by name."""
    entries: list[dict[str, Any]] = []
    end, found = store.length + GENE_BYTES, by_variance(adata, rows)
    while store.length < end and (named := list(islice(found, TOGETHER))):
        entries += number_entries(named, "gene", store)
    return sorted(entries, key=lambda entry: entry["name"].lower())


def by_variance(adata: AnnData, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and values of the genes in the chosen cells, the most variable first."""
    stored = stored_matrix(adata, None)
    if stored is None:
        return
    if sparse.issparse(stored):
        x = sparse.csc_array(stored[rows])
        x.sum_duplicates()
        gene = np.repeat(np.arange(x.shape[1]), np.diff(x.indptr))
        mean, square = (np.bincount(gene, x.data.astype(float) ** k, x.shape[1]) / len(rows) for k in (1, 2))
        variance = square - mean**2
    else:
        x, blocks = np.asarray(stored), range(0, adata.n_vars, 256)
        variance = np.concatenate([x[:, i : i + 256][rows].var(axis=0, dtype=float) for i in blocks] or [np.empty(0)])
    for j in np.argsort(-np.nan_to_num(variance, nan=-1.0), kind="stable"):
        if isinstance(x, np.ndarray):
            values = x[rows, j].astype(float)
        else:
            values, here = np.zeros(len(rows)), slice(x.indptr[j], x.indptr[j + 1])
            values[x.indices[here]] = x.data[here]
        yield str(adata.var_names[j]), values


def map_of(adata: AnnData, method: str, rows: np.ndarray) -> np.ndarray:
    """Return the map of a method (cells, 2) as float32; a row that is not finite becomes NaN in full."""
    points = np.array(adata.obsm[f"X_{method}"], dtype=np.float32)[rows]
    if points.ndim != 2 or points.shape[1] < 2:
        raise ValueError(f"obsm['X_{method}'] has shape {points.shape}; a map has 2 columns.")
    points = points[:, :2]
    points[~np.isfinite(points).all(axis=1)] = np.nan
    return points


def scale_colours() -> list[str]:
    """Return the colours of the levels of a number."""
    return [hexadecimal(rgb) for rgb in colour_scale("", np.empty(0), None).to_rgba(np.linspace(0, 1, STEPS))[:, :3]]


def first_colours(types: Types, rows: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Return colours (cells,) as 0xRRGGBBAA: of training cells pale, of unlabelled ones grey."""
    text = [*types.colours, GREY]
    rgb = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in text])[types.codes[rows]]
    pale = (types.codes[rows] >= 0) & ~held[rows]
    rgb = np.where(pale[:, None], np.rint(0.45 * rgb + 0.55 * 255), rgb).astype(np.uint32)
    return (rgb[:, 0] << 24) | (rgb[:, 1] << 16) | (rgb[:, 2] << 8) | 255


def as_json(value: object) -> str:
    """Return JSON that can stand in a script element."""
    return safe(json.dumps(value, separators=(",", ":"), allow_nan=False))


def safe(text: str) -> str:
    """Return JSON without the signs that could end the script element around it."""
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")

"""Damaged files and hostile tables, made from whole ones by a seeded generator; and what is plainly wrong with a file.

`fuzz.py` gives them to the verbs. Each function changes what it is given, once, and returns in words what it did.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
import zarr

PAGE = 4096
META = (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json")
WRONG = (None, -1, 0, 2**31, 2**63, 1e308, "false", "", "x" * 10_000, [], {}, [[]], True, "$\\frac{$", "\x1b[31m")
DTYPES = ("f8", "f4", "f2", "i1", "i4", "i8", "u1", "u8", "?", "S4", "c8")
NAMES = (
    "$\\frac{$", "$x_1$", "[/]", "[bold red]", "\x1b[31mred\x1b[0m", "\u202etxt.exe", "=1+1", "@SUM(A1)", "a/b", "",
    " ", "\ufeffname", "<script>alert(1)</script>", "a\nb", "a\tb", "x" * 2000, "%s{0}", "..", "T\u00e9l\u00e9",
    "\U0001f9ec",
)  # fmt: skip
MISSING = (None, np.nan, "", " ", "NA", "N/A", "<NA>", "NaN", "nan", "None", "Unknown", "Unassigned")
VALUES = (np.nan, np.inf, -np.inf, 1e300, 3e38, 1e-310, 1e-40, -1.0, -0.0, 2.0**31, 2.0**53)


def pick(random: np.random.Generator, choices: Any) -> Any:
    """Draw one of some things, whatever their types."""
    choices = list(choices)
    return choices[int(random.integers(len(choices)))]


# bytes


def damage_bytes(raw: bytes, random: np.random.Generator, head: int = PAGE) -> tuple[bytes, str]:
    """Change bytes, half of the time within the first `head` of them."""
    data = bytearray(raw)
    place = int(random.integers(min(head, len(data)) if random.random() < 0.5 else len(data)))
    how = pick(
        random, ("bit", "bit", "bit", "bits", "page of zeros", "page of noise", "cut", "longer", "copied", "length")
    )
    if how == "bit":
        data[place] ^= 1 << int(random.integers(8))
    elif how == "bits":
        for at in random.integers(len(data), size=16):
            data[at] ^= 1 << int(random.integers(8))
    elif how == "page of zeros":
        data[place : place + PAGE] = bytes(len(data[place : place + PAGE]))
    elif how == "page of noise":
        data[place : place + PAGE] = random.bytes(len(data[place : place + PAGE]))
    elif how == "cut":
        del data[place:]
    elif how == "longer":
        data += random.bytes(int(random.integers(1, PAGE)))
    elif how == "copied":
        other = int(random.integers(len(data)))
        part = data[other : other + PAGE]
        data[place : place + len(part)] = part
    else:  # a number of eight bytes, as lengths and addresses are
        data[place : place + 8] = int(pick(random, (0, 1, 2**31, 2**40, 2**63, 2**64 - 1))).to_bytes(8, "little")
    return bytes(data), f"{how} at {place}"


# JSON


def damage_json(tree: Any, random: np.random.Generator) -> str:
    """Change one entry of nested lists and dicts: another value, another type, gone, or there twice."""
    where, node = [], tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = pick(random, keys)
        where.append(str(key))
        if isinstance(node[key], (dict, list)) and len(node[key]) and random.random() < 0.85:
            node = node[key]
            continue
        how = pick(random, ("other", "other", "other", "gone", "more", "number"))
        if how == "gone":
            del node[key]
        elif how == "more" and isinstance(node, list):
            node.append(node[key])
        elif how == "number" and isinstance(node[key], (int, float)):
            node[key] = pick(random, (-node[key], node[key] + 1, node[key] * 1000, 0))
        else:
            node[key] = pick(random, WRONG)
        return f"{how} {'.'.join(where)[:80]}"


# HDF5


def damage_hdf5(path: Path, random: np.random.Generator, prefix: str = "") -> str:
    """Change one dataset, group or attribute of a file, half of the time one of its matrix."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        matrix = [name for name in names if name.startswith(f"{prefix}X")]
        name = pick(random, matrix if random.random() < 0.5 and matrix else names)
        how = pick(random, HDF5 if isinstance(file[name], h5py.Dataset) else GROUP)
        try:
            said = how(file, name, random)
        except (TypeError, ValueError, RuntimeError, OSError) as error:  # what HDF5 cannot hold
            said = f"nothing: {error}"
        return f"{how.__name__} {name}: {said}"


def _put(file: h5py.File, name: str, data: Any, **options: Any) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    made = file.create_dataset(name, data=data, **options)
    for key, value in attributes.items():
        made.attrs[key] = value


def _entry(file: h5py.File, name: str, random: np.random.Generator) -> str:
    data = file[name][()]
    flat = np.atleast_1d(data).reshape(-1)
    if not len(flat) or flat.dtype.kind not in "iuf":
        return _rename(file, name, random)
    place, value = int(random.integers(len(flat))), pick(random, (-1, 0, 7, 1000, 2**31 - 1, -(2**31)))
    flat[place] = np.array(value).astype(flat.dtype)
    file[name][...] = flat.reshape(np.shape(data))
    return f"{place} = {value}"


def _value(file: h5py.File, name: str, random: np.random.Generator) -> str:
    data = np.asarray(file[name][()])
    if not data.size or data.dtype.kind != "f":
        return _entry(file, name, random)
    value = pick(random, VALUES)
    data.reshape(-1)[random.integers(data.size, size=3)] = value
    file[name][...] = data
    return str(value)


def _retype(file: h5py.File, name: str, random: np.random.Generator) -> str:
    kind = pick(random, DTYPES)
    data = np.asarray(file[name][()])
    _put(file, name, data.astype(kind) if data.dtype.kind in "iufb" else np.arange(data.size).astype(kind))
    return kind


def _resize(file: h5py.File, name: str, random: np.random.Generator) -> str:
    data = np.atleast_1d(file[name][()])
    how = pick(random, ("one less", "one more", "none", "turned", "deeper", "reversed"))
    changed = {
        "one less": data[:-1], "one more": np.concatenate([data, data[-1:]]), "none": data[:0], "turned": data.T,
        "deeper": data[None], "reversed": data[::-1],
    }[how]  # fmt: skip
    _put(file, name, changed)
    return how


def _declare(file: h5py.File, name: str, random: np.random.Generator) -> str:
    old = file[name]
    shape = (int(pick(random, (10**7, 10**9, 2**40))), *old.shape[1:])
    attributes, kind = dict(old.attrs), old.dtype
    del file[name]
    made = file.create_dataset(name, shape, kind, chunks=(1000, *shape[1:]))
    for key, value in attributes.items():
        made.attrs[key] = value
    return str(shape)


def _remove(file: h5py.File, name: str, random: np.random.Generator) -> str:
    del file[name]
    return "gone"


def _rename(file: h5py.File, name: str, random: np.random.Generator) -> str:
    file.move(name, name + pick(random, ("2", " ", "\u00e9", "\n")))
    return "renamed"


def _swap(file: h5py.File, name: str, random: np.random.Generator) -> str:
    names: list[str] = []
    file.visit(names.append)
    other = pick(random, names)
    if other.startswith(name) or name.startswith(other):
        return _remove(file, name, random)
    for source, target in ((name, "swapped"), (other, name), ("swapped", other)):
        file.move(source, target)
    return other


def _link(file: h5py.File, name: str, random: np.random.Generator) -> str:
    del file[name]
    link = pick(random, (h5py.SoftLink("/nowhere"), h5py.SoftLink(f"/{name}"), h5py.ExternalLink("/etc/passwd", "/")))
    file[name] = link
    return type(link).__name__


def _kind(file: h5py.File, name: str, random: np.random.Generator) -> str:
    was = isinstance(file[name], h5py.Dataset)
    attributes = dict(file[name].attrs)
    del file[name]
    made = file.create_group(name) if was else file.create_dataset(name, data=pick(random, (0, 1.5, "text", [1, 2])))
    for key, value in attributes.items():
        made.attrs[key] = value
    return "group" if was else "dataset"


def _attribute(file: h5py.File, name: str, random: np.random.Generator) -> str:
    node = pick(random, (file[name], file[name].parent))
    if not len(node.attrs):
        return _rename(file, name, random)
    key = pick(random, node.attrs)
    if key == "shape" and random.random() < 0.8:
        shape = np.array(node.attrs[key], dtype=np.int64)
        shape[random.integers(len(shape))] = pick(random, (-1, 0, 1, 61, 119, 121, 10**7, 10**9, 2**62))
        node.attrs[key] = shape
        return f"shape {shape}"
    if random.random() < 0.3:
        del node.attrs[key]
        return f"{key} gone"
    kinds = (
        "array",
        "csr_matrix",
        "csc_matrix",
        "dataframe",
        "categorical",
        "nullable-integer",
        "dict",
        "null",
        "rec-array",
    )
    value = pick(
        random, (*kinds, *kinds, -1, 2**40, 1.5, np.arange(3), np.array(["a", "b"], dtype="S1"), "9.9.9", b"\xff")
    )
    node.attrs[key] = value
    return f"{key} = {value}"


Change = Callable[[h5py.File, str, np.random.Generator], str]
GROUP: tuple[Change, ...] = (_remove, _rename, _swap, _link, _kind, _attribute, _attribute, _attribute)
HDF5: tuple[Change, ...] = (
    _entry, _entry, _entry, _value, _retype, _retype, _resize, _resize, _declare, _remove, _rename, _swap, _link, _kind,
    _attribute, _attribute,
)  # fmt: skip


# zarr


def damage_zarr(path: Path, random: np.random.Generator) -> str:
    """Change one file of a store, more often metadata than a chunk, half of the time of its matrix."""
    names = sorted(name for name in path.rglob("*") if name.is_file())
    matrix = [name for name in names if name.relative_to(path).parts[0] == "X"]
    some = matrix if random.random() < 0.5 else names
    is_meta = random.random() < 0.6
    file = pick(random, [name for name in some if (name.name in META) == is_meta] or some)
    how = pick(
        random, ("entry", "entry", "entry", "bytes", "bytes", "gone", "empty", "folder", "swapped", "deep", "text")
    )
    if how == "entry" and file.name in META:
        tree = json.loads(file.read_text())
        if tree:
            how = damage_json(tree, random)
            file.write_text(json.dumps(tree))
    elif how in ("bytes", "entry") and file.stat().st_size:
        data, how = damage_bytes(file.read_bytes(), random)
        file.write_bytes(data)
    elif how == "gone":
        file.unlink()
    elif how == "folder":
        file.unlink()
        file.mkdir()
    elif how == "swapped":
        other = pick(random, names)
        one, two = file.read_bytes(), other.read_bytes()
        file.write_bytes(two)
        other.write_bytes(one)
        how = f"swapped with {other.relative_to(path)}"
    else:
        file.write_bytes({"deep": b"[" * 100_000, "text": b"\xff\xfe not JSON"}.get(how, b""))
    return f"{file.relative_to(path)}: {how}"


# AnnData


def hostile(adata: ad.AnnData, random: np.random.Generator) -> tuple[ad.AnnData | None, str]:
    """Return a table changed one to three times; None if anndata does not hold such a thing."""
    said = []
    for _ in range(int(random.integers(1, 4))):
        change = pick(random, (_values, _values, _storage, _broken, _shape, _labels, _labels, _names, _leftovers))
        try:
            adata, what = change(adata, random)
        except Exception as error:  # anndata's and pandas' own refusals
            return None, f"{', '.join(said)}, {change.__name__}: {error}"
        said.append(f"{change.__name__} {what}")
        if change is _broken:
            break
    return adata, ", ".join(said)


def _dense(adata: ad.AnnData) -> np.ndarray:
    return adata.X.toarray() if sp.issparse(adata.X) else np.array(adata.X)


def _values(adata: ad.AnnData, random: np.random.Generator) -> tuple[ad.AnnData, str]:
    x = _dense(adata).astype(float)
    n, genes = x.shape
    how = pick(random, ("value", "value", "value", "constant", "zero", "zero cells", "zero genes", "same cells",
                        "same genes", "scaled", "logged", "spread"))  # fmt: skip
    if how == "value":
        value = pick(random, VALUES)
        x[random.integers(n, size=3), random.integers(genes, size=3)] = value
        how = str(value)
    elif how in ("constant", "zero"):
        x[:] = 3.0 if how == "constant" else 0.0
    elif how == "zero cells":
        x[random.integers(n, size=20)] = 0
    elif how == "zero genes":
        x[:, random.integers(genes, size=30)] = 0
    elif how == "same cells":
        x[:] = x[random.integers(3, size=n)]
    elif how == "same genes":
        x[:] = x[:, :1]
    elif how == "logged":
        x = np.log1p(np.log1p(np.abs(x)))
    elif how == "scaled":
        x = (x - x.mean(0)) / (x.std(0) + 1e-12)
    else:
        x *= np.geomspace(1e-30, 1e30, genes)
    adata.X = sp.csr_matrix(x) if random.random() < 0.5 else x
    if random.random() < 0.5:
        adata.X = adata.X.astype(np.float32)
    return adata, how


def _storage(adata: ad.AnnData, random: np.random.Generator) -> tuple[ad.AnnData, str]:
    how = pick(random, ("csr", "csc", "dense", "F", "int64", "view", "read-only", "twice", *DTYPES, "object", "text"))
    x = sp.csr_matrix(_dense(adata))
    if how == "view":
        return adata[::-1, ::-1], how
    if how == "int64":
        x.indices, x.indptr = x.indices.astype(np.int64), x.indptr.astype(np.int64)
    elif how == "twice":  # entries stored twice, out of order, and zeros that are stored
        x = sp.csr_matrix((np.tile(x.data, 2) * 0.5, np.tile(x.indices, 2), x.indptr * 2), shape=x.shape)
    elif how == "csc":
        x = x.tocsc()
    elif how in ("dense", "F"):
        x = np.array(x.toarray(), order="C" if how == "dense" else "F")
    elif how == "object":
        x = x.toarray().astype(object)
    elif how == "text":
        x = x.toarray().astype(str)
    elif how in DTYPES:
        x = x.toarray().astype(how) if how in ("S4", "c8", "f2") else x.astype(how)
    adata.X = x
    if how == "read-only":
        for part in (adata.X.data, adata.X.indices, adata.X.indptr):
            part.setflags(write=False)
    return adata, how


def _broken(adata: ad.AnnData, random: np.random.Generator) -> tuple[ad.AnnData, str]:
    x = sp.csr_matrix(_dense(adata))
    x = x if random.random() < 0.7 else x.tocsc()
    x.has_canonical_format = True  # what scipy believes of it from now on
    how = pick(random, ("index", "index", "indptr", "first", "last", "short", "long"))
    part = x.indices if how == "index" else x.indptr
    if len(x.indices):
        if how in ("index", "indptr"):
            part[random.integers(len(part))] = pick(random, (-1, 1000, 2**31 - 1, -(2**31)))
        elif how in ("first", "last"):
            part[0 if how == "first" else -1] += int(pick(random, (-3, 3, 10**6)))
        else:
            x.data = x.data[:-5] if how == "short" else np.append(x.data, x.data)
    adata.X = x
    return adata, how


def _shape(adata: ad.AnnData, random: np.random.Generator) -> tuple[ad.AnnData, str]:
    n, genes = int(pick(random, (0, 1, 2, 3, 5, 12, 120))), int(pick(random, (0, 1, 2, 5, 60)))
    return adata[:n, :genes].copy(), f"{n} x {genes}"


def _labels(adata: ad.AnnData, random: np.random.Generator) -> tuple[ad.AnnData, str]:
    n, kinds = adata.n_obs, adata.obs["kind"].astype(object).to_numpy()
    how = pick(random, ("missing", "all missing", "one", "unique", "bytes", "numbers", "floats", "category", "nullable",
                        "mixed", "lists", "dates", "names", "true", "gone"))  # fmt: skip
    some = random.random(n) < 0.3
    if how == "missing":
        kinds[some] = pick(random, MISSING)
    elif how == "all missing":
        kinds[:] = pick(random, MISSING)
    elif how == "one":
        kinds[:] = "a"
    elif how == "unique":
        kinds = np.array([f"type {i}" for i in range(n)], dtype=object)
    elif how == "bytes":
        kinds = np.array([str(kind).encode() for kind in kinds], dtype=object)
    elif how == "mixed":
        kinds[some] = pick(random, (1, 2.5, True, ("a",)))
    elif how == "lists":
        kinds = np.array([[kind] for kind in kinds] + [None], dtype=object)[:-1]
    elif how == "names":
        for kind in np.unique(kinds.astype(str)):
            kinds[kinds.astype(str) == kind] = pick(random, NAMES)
    series = pd.Series(kinds, index=adata.obs_names)
    if how in ("numbers", "floats", "dates", "true"):
        codes = pd.Series(random.integers(2 if how == "true" else 4, size=n), index=adata.obs_names)
        series = codes.astype({"numbers": "int64", "floats": "f8", "dates": "datetime64[ns]", "true": bool}[how])
        if how == "floats":
            series[some] = np.nan
    elif how == "category":
        kept = ["z", *sorted(set(kinds.astype(str)))]  # one that no cell has
        series = pd.Series(pd.Categorical(kinds.astype(str), kept, ordered=True), index=adata.obs_names)
    elif how == "nullable":
        series = series.astype(str).astype("string").mask(pd.Series(some, index=adata.obs_names))
    adata.obs["kind"] = series
    if how == "gone":
        del adata.obs["kind"]
    return adata, how


def _names(adata: ad.AnnData, random: np.random.Generator) -> tuple[ad.AnnData, str]:
    how, name = pick(random, ("cell", "gene", "cells", "genes", "column", "lower")), pick(random, NAMES)
    if how == "cell":
        adata.obs_names = [name, *adata.obs_names[1:]]
    elif how == "gene":
        adata.var_names = [name, *adata.var_names[1:]]
    elif how == "cells":
        adata.obs_names = [name] * adata.n_obs
    elif how == "genes":
        adata.var_names = [name] * adata.n_vars
    elif how == "lower":
        adata.var_names = adata.var_names.str.lower()
    else:
        adata.obs[name] = 1
    return adata, f"{how} {name[:20]!r}"


def _leftovers(adata: ad.AnnData, random: np.random.Generator) -> tuple[ad.AnnData, str]:
    how = pick(random, ("split", "split", "places", "record", "marks", "column"))
    if how == "split":
        adata.obs["tt_split"] = pick(random, ("train", "held-out", "neither", 1, np.nan))
    elif how == "places":
        adata.obsm["X_tt"] = np.full((adata.n_obs, int(pick(random, (1, 2, 5)))), pick(random, (0.0, np.nan)))
    elif how == "record":
        adata.uns["X_tt"] = pick(random, ("text", 3, {}, {"seen": 3}, {"seen": "x", "settings": []}))
    elif how == "marks":
        adata.var["highly_variable"] = pick(random, (True, False, "False", "yes", 0, np.nan))
    else:
        adata.obs["tt_label"] = pick(random, ("a", 1, np.nan))
    return adata, how


# what is plainly wrong


def fault(path: Path, used: bool, label: str | None = None) -> str:
    """Return how a table on disk contradicts itself; empty if it does not, or if that cannot be known.

    Parameters
    ----------
    path
        An .h5ad file or a .zarr store.
    used
        Whether the values are used, not only copied: they have to be finite then.
    label
        A column of `obs` that is used.
    """
    try:
        if path.is_dir():
            return _fault(zarr.open_group(path, mode="r", use_consolidated=False), used, label)
        with h5py.File(path, "r") as file:
            return _fault(file, used, label)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        return f"unreadable: {type(error).__name__} {error}"


def _fault(root: Any, used: bool, label: str | None) -> str:
    sizes = []
    for axis in ("obs", "var"):
        table = root[axis]
        if "_index" not in table.attrs:
            return ""
        index = table[table.attrs["_index"]]
        sizes.append(index.shape[0] if hasattr(index, "shape") else index["values"].shape[0])
    n, genes = sizes
    if "X" not in root:
        return "no matrix" if used else ""
    x = root["X"]
    kind = x.attrs.get("encoding-type", "")
    if kind == "array" and hasattr(x, "shape"):
        if tuple(x.shape) != (n, genes):
            return f"X of {x.shape}, {n} cells and {genes} genes"
        values = x[...]
    elif kind in ("csr_matrix", "csc_matrix"):
        shape = tuple(int(size) for size in x.attrs["shape"])
        if shape != (n, genes):
            return f"X of {shape}, {n} cells and {genes} genes"
        if x["data"].shape != x["indices"].shape:  # before what may be huge is read
            return f"{x['indices'].shape} indices, {x['data'].shape} values"
        values = x["data"][...]
        said = lengths(values, x["indices"][...], x["indptr"][...], shape, kind == "csc_matrix")
        if said:
            return said
    else:
        return ""
    if used and values.dtype.kind not in "fiub":
        return f"values of {values.dtype}"
    if used and not np.isfinite(values).all():
        return "a value is not finite"
    if label is None:
        return ""
    column = root["obs"][label]
    if column.attrs.get("encoding-type") == "categorical":
        codes, names = column["codes"][...], column["categories"]
        if len(codes) != n or codes.max(initial=-1) >= names.shape[0] or codes.min(initial=-1) < -1:
            return "codes of the label out of range"
    elif hasattr(column, "shape") and column.shape[:1] != (n,):
        return f"{column.shape} labels of {n} cells"
    return ""


def lengths(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, ...], by_genes: bool) -> str:
    """Return how the three arrays of a CSR or CSC matrix contradict each other, or its shape."""
    lines, width = shape[::-1] if by_genes else shape
    if any(part.ndim != 1 for part in (data, indices, indptr)) or {indices.dtype.kind, indptr.dtype.kind} - {*"iu"}:
        return "not three lists, two of them of whole numbers"
    if len(indptr) != lines + 1 or indptr[0] != 0 or (np.diff(indptr.astype(np.int64)) < 0).any():
        return "indptr does not run from 0 upwards over all lines"
    if not indptr[-1] == len(indices) == len(data):
        return f"indptr ends at {indptr[-1]}, {len(indices)} indices, {len(data)} values"
    if len(indices) and (indices.min() < 0 or indices.max() >= width):
        return "an index is out of range"
    return ""


def copy(source: Path, target: Path) -> None:
    """Copy a file or a store."""
    shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)

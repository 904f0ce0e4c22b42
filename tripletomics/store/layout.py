"""The layout of a dataset on disk (.h5ad, .zarr or .h5mu), which is checked before any values are read.

Readers allocate the memory that a dataset declares, and compiled code trusts its arrays. So shapes are compared with
`obs` and `var`, the arrays of a sparse matrix with each other, and what is declared with what is there.
"""

from __future__ import annotations

import json
import mmap
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import h5py
    import zarr

    Group: TypeAlias = zarr.Group | h5py.File

HEAP, SCANNED = b"GCOL\x01\0\0\0", 2**30  # how a heap of text begins in HDF5; bytes of a file in which they are sought
PATIENCE = 60  # seconds, enough to read all text of a file of that size
PROBE = """
import sys, h5py
with h5py.File(sys.argv[1]) as file:
    elements = [file]
    file.visititems(lambda _, element: elements.append(element))
    for element in elements:
        dict(element.attrs)
        if isinstance(element, h5py.Dataset) and element.dtype.kind == "O":
            element[()]
"""
HUGE = 2**28  # bytes; a larger array is refused if a part is missing, in a smaller one that part is 0
AXES = {"layers": ("obs", "var"), "obsm": ("obs",), "varm": ("var",), "obsp": ("obs", "obs"), "varp": ("var", "var")}
PARTS = {"X", "obs", "var", "uns", "raw", "mod", "obsmap", "varmap", *AXES}  # of a dataset, and of one with modalities
DESCRIPTIONS = {".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json"}  # files of zarr
LENGTHS = {"categorical": "codes", "nullable-integer": "values", "nullable-boolean": "values",
           "nullable-string-array": "values"}  # fmt: skip


@contextmanager
def reporting(what: str) -> Iterator[None]:
    """Raise a ValueError that begins with `what`, whatever error a damaged file causes in the code that reads it."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what}: {error}") from error


def check_layout(root: Group, path: Path) -> None:
    """Raise a ValueError unless the parts of a dataset agree with each other, and all that it declares is there."""
    if path.is_file():
        _check_heaps(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zarr warns of files that are not its own
            whole = {"": root} | dict(_elements(root))
            found = list(_lost(path, whole)) if path.is_dir() else []
            found += [why for name, element in whole.items() if (why := _flaw(path, name, element))]
            for name, element in whole.items():
                if not found and (name == "" or name.rpartition("/")[0] == "mod"):
                    found += _contradictions(path, element, f"{name}/".lstrip("/"))
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{str(path)!r} cannot be read as AnnData: {type(error).__name__}: {error}") from error
    if found:
        what = "store" if path.is_dir() else "file"
        raise ValueError(f"{str(path)!r} is damaged: {found[0]}. Copy the {what} again from an intact original.")


def encoding(element: Any) -> str:
    """Return how any version of anndata stored an element: "" where it does not say, as for arrays of 0.7."""
    kind = text(element.attrs.get("encoding-type", ""))
    old = text(element.attrs.get("h5sparse_format", ""))
    return f"{old}_matrix" if not kind and old else kind


def shape_of(element: Any) -> tuple[int, ...] | None:
    """Return the shape of an array, a sparse matrix or a column of a frame, None if it has none."""
    kind = encoding(element)
    if kind in ("csr_matrix", "csc_matrix"):
        declared = element.attrs["shape"] if "shape" in element.attrs else element.attrs["h5sparse_shape"]
        return tuple(int(n) for n in declared)
    if hasattr(element, "shape"):
        return tuple(element.shape)
    if kind == "dataframe":
        return shape_of(element[text(element.attrs["_index"])])
    return shape_of(element[LENGTHS[kind]]) if kind in LENGTHS else None


def text(value: Any) -> str:
    """Return text of an attribute that may be bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _check_heaps(path: Path) -> None:
    """Raise a ValueError if HDF5 would never finish reading the text of a file, because a heap of it is damaged.

    A heap that looks damaged may also be an unused rest, so another process tries to read everything.
    """
    if not _is_doubtful(path):
        return
    try:
        subprocess.run([sys.executable, "-c", PROBE, str(path)], check=True, capture_output=True, timeout=PATIENCE)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        raise ValueError(
            f"{str(path)!r} is damaged: a part of its text is lost. Copy it again from an intact original."
        ) from None


def _is_doubtful(path: Path) -> bool:
    """Return whether a heap of text has an object without a size, or one that is longer than the heap."""
    if not 0 < path.stat().st_size <= SCANNED:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = data.find(HEAP)
        while start >= 0:
            (size,) = struct.unpack_from("<Q", data, start + 8) if start + 16 <= len(data) else (0,)
            at, end = start + 16, start + size
            while at + 16 <= min(end, len(data)):
                number, length = struct.unpack_from("<H6xQ", data, at)
                at += length if number == 0 else 16 + -(-length // 8) * 8
                if number == length == 0 or at > end:
                    return True
            start = data.find(HEAP, start + len(HEAP))
    return False


def _elements(root: Any) -> Iterator[tuple[str, Any]]:
    """Yield all groups and arrays by their paths; links to other files are refused."""
    if hasattr(root, "members"):  # zarr
        yield from root.members(max_depth=None)
        return
    import h5py

    found: list[tuple[str, Any]] = []
    root.visititems(lambda name, element: found.append((name, element)))
    for name, element in [("", root), *found]:
        if isinstance(element, h5py.Group):
            for key in element:
                link = element.get(key, getlink=True)
                if isinstance(link, h5py.ExternalLink):
                    raise ValueError(f"{name}/{key} is in another file, which is not read")
                if isinstance(link, h5py.SoftLink):
                    element[key]  # raises if nothing is there
        elif element.external or element.is_virtual:
            raise ValueError(f"{name} is in another file, which is not read")
    yield from found


def _lost(path: Path, whole: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each folder of a store whose description is missing or not a file."""
    for name, element in whole.items():
        folder = path / name
        if not folder.is_dir():
            yield f"{name} is not there"
            continue
        for file in sorted(DESCRIPTIONS):
            if (folder / file).is_dir():
                yield f"{file} of {name or 'the store'} is a folder"
            elif file != ".zattrs" and file != ".zmetadata" and (folder / file).exists():
                json.loads((folder / file).read_text())["zarr_format"]  # raises if it has no format
        array = hasattr(element, "shape")
        if not any((folder / file).is_file() for file in (".zarray" if array else ".zgroup", "zarr.json")):
            yield f"nothing describes {name or 'the store'}"
        if not array:
            known = {*element.keys()}
            lost = [child.name for child in folder.iterdir() if child.is_dir() and child.name not in known]
            yield from (f"nothing describes {f'{name}/{child}'.lstrip('/')}" for child in lost if child[0] != ".")


def _flaw(path: Path, name: str, element: Any) -> str | None:
    """Return what is wrong with one element, None if nothing is."""
    if encoding(element) in ("csr_matrix", "csc_matrix"):
        return _sparse_flaw(name, element)
    if not hasattr(element, "shape") or element.shape is None:
        return None
    size = prod(element.shape) * element.dtype.itemsize
    rows = hasattr(element, "metadata") and len(element.shape) == 2  # of zarr: reading by blocks finds lost parts
    complete = element.attrs.get("tripletomics", {})  # `convert` marks columns whose chunks are all written
    if isinstance(complete, dict) and complete.get("complete") and not is_there(path, element):
        return f"a part of {name} is lost"
    if size > HUGE and not rows and not is_there(path, element):
        return f"{name} declares {element.shape} values, and a part of them is missing"
    return None


def _sparse_flaw(name: str, group: Any) -> str | None:
    missing = [part for part in ("data", "indices", "indptr") if part not in group]
    if missing or not ("shape" in group.attrs or "h5sparse_shape" in group.attrs):
        return f"{name} lacks its {missing[0] if missing else 'shape'}"
    shape, sizes = shape_of(group), {}
    for part, kinds in (("data", "fiubc"), ("indices", "iu"), ("indptr", "iu")):
        array = group[part]
        if len(array.shape) != 1 or array.dtype.kind not in kinds or array.dtype == np.float16:
            return f"{name}/{part} is {array.dtype} of shape {array.shape}"
        sizes[part] = array.shape[0]
    if shape is None or len(shape) != 2 or min(shape) < 0:
        return f"{name} has shape {shape}"
    lines = shape[0 if encoding(group) == "csr_matrix" else 1]
    if sizes["indptr"] != lines + 1:
        return f"{name} of shape {shape} has {sizes['indptr']:,} entries in its indptr, not {lines + 1:,}"
    if sizes["data"] != sizes["indices"]:
        return f"{name} has {sizes['data']:,} values and {sizes['indices']:,} indices"
    return None


def _contradictions(path: Path, table: Any, prefix: str) -> Iterator[str]:
    """Yield a sentence for each part of a dataset whose shape does not match its numbers of cells and genes."""
    yield from (f"{f'{prefix}{name}'!r} is not a part of a dataset" for name in table if _is_unknown(name))
    lengths = {}
    for axis in ("obs", "var"):
        if axis not in table:
            continue
        frame = table[axis]
        if not hasattr(frame, "shape") and encoding(frame) not in ("dataframe", ""):
            yield f"{prefix}{axis} is stored as {encoding(frame)!r}, not as a table"
            return
        index = frame if hasattr(frame, "shape") else frame[text(frame.attrs["_index"])]
        names = index if hasattr(index, "shape") else index["values"]
        lengths[axis] = int(names.shape[0])
        if not is_there(path, names):
            yield f"some names of {prefix}{axis} are missing"
        yield from _frame_flaws(frame, f"{prefix}{axis}", lengths[axis])
    if hasattr(table.get("uns"), "shape"):
        yield f"{prefix}uns is an array, not a group"
    parts: list[tuple[str, tuple[str, ...]]] = [("X", ("obs", "var"))] if "X" in table else []
    for group in {*AXES} & {*table}:
        if not hasattr(table[group], "shape"):
            parts += [(f"{group}/{key}", AXES[group]) for key in table[group]]
        elif group not in ("obsm", "varm"):  # these were one array before anndata 0.7
            yield f"{prefix}{group} is an array, not a group of arrays"
    if "raw" in table and "X" in table["raw"]:
        parts.append(("raw/X", ("obs",)))
    for name, axes in parts:
        shape = shape_of(table[name])
        if shape is None and name.partition("/")[0] in ("X", "layers", "raw"):
            yield f"{prefix}{name} is stored as {encoding(table[name])!r}, which is not a matrix"
        wanted = tuple(lengths[axis] for axis in axes if axis in lengths)
        if shape is not None and len(wanted) == len(axes) and shape[: len(wanted)] != wanted:
            there = " and ".join(f"{lengths[axis]:,} {'cells' if axis == 'obs' else 'genes'}" for axis in axes)
            yield f"{prefix}{name} has shape {shape}, but the dataset has {there}"


def _is_unknown(name: str) -> bool:
    """Return whether anndata has no part of this name; the parts of raw may be at the same level as the others."""
    return name not in PARTS and not name.startswith((".", "raw.", "__"))


def _frame_flaws(frame: Any, name: str, n: int) -> Iterator[str]:
    if hasattr(frame, "shape"):
        return
    for column in map(text, np.asarray(frame.attrs["column-order"]).tolist()):
        if column not in frame:
            yield f"{name}[{column!r}] is missing"
            continue
        shape = shape_of(frame[column])
        if shape is not None and shape[:1] != (n,):
            yield f"{name}[{column!r}] has shape {shape}, but there are {n:,} names"


def is_there(path: Path, array: Any) -> bool:
    """Return whether all of an array is in the file or store."""
    if hasattr(array, "metadata"):  # zarr
        height = (array.shards or array.chunks)[0] if array.shape else 1
        return all(is_kept(path, array, i) for i in range(-(-array.shape[0] // height) if array.shape else 0))
    if array.chunks is None:
        return bool(array.id.get_storage_size() >= prod(array.shape) * array.dtype.itemsize)
    chunks = prod(-(-n // size) for n, size in zip(array.shape, array.chunks, strict=True))
    return bool(array.id.get_num_chunks() >= chunks)


def is_kept(path: Path, array: Any, i: int) -> bool:
    """Return whether, in a .zarr store, the i-th chunk along the first axis of an array, or a part of it, is there."""
    folder, sizes = path / array.path, array.shards or array.chunks
    others = [range(-(-length // size)) for length, size in zip(array.shape[1:], sizes[1:], strict=True)]
    return any((folder / array.metadata.encode_chunk_key((i, *rest))).exists() for rest in product(*others))

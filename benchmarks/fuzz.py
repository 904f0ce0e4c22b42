"""Damaged models, files and stores, and hostile tables, given to every verb: what happens, counted by outcome.

    python benchmarks/fuzz.py --inputs 20000            # or --seconds 600
    python benchmarks/fuzz.py --replay 0:1234           # input 1234 of seed 0 again, with all that it says
    python benchmarks/fuzz.py --kinds model zarr        # kinds that begin so

Each input is made by a generator of its own (seed and number) and goes to a forked child with a folder of its own, and
with limits of memory and time; one that ends by a signal is a crash. Prints what was bad, one line each, and a
table in Markdown, and ends with status 1 if anything was.

- right: the verb ended well, and what it wrote agrees with what it was given; or it had to do nothing.
- refused: one line of this package (in Python: a ValueError, KeyError or TypeError that it raised itself).
- traceback: any other error, or one line in the words of Python.
- wrong: ended well with bytes that can be known to be wrong (a changed byte of a model file, a matrix that contradicts
  itself or its table, values that are not finite), or wrote something else than it should have, or a control character.
- changed, half, draft: an input is changed, an output is there though the verb failed, a draft is left.
- harness: an error of this program.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dis
import hashlib
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import forks
import mutants
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from mutants import pick
from safetensors import safe_open
from safetensors.torch import save_file

import tripletomics as tt
from tripletomics import cli
from tripletomics.model import storage

OUTCOMES = ("right", "refused", "traceback", "crash", "hang", "wrong", "changed", "half", "draft", "harness")
GOOD = OUTCOMES[:2]
LIMIT = 120  # seconds of a child, on cores that others use, too
OLD = 7  # a format that is read still, without a checksum
SHORT = ("--steps", "2", "--no-progress")
PYTHON = re.compile(  # one line that this package did not write
    r"error: (?!.*(cannot be read|cannot be opened|is damaged))"
    r"\W*(\S*|[\d.e+-]+|.*(object has no attribute|unsupported operand|index out of range|object is not|"
    r"expected str instance|must be real number|not supported between|unexpected keyword|unpack|out of bounds for axis|"
    r"could not be broadcast|invalid literal|could not convert).{0,80})\W*"
)
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def dense(x: Any) -> np.ndarray:
    """Return a matrix as an array; SciPy does not read the 64-bit unsigned indices that a file may have."""
    if not sp.issparse(x):
        return np.asarray(x)
    kind = sp.csc_matrix if x.format == "csc" else sp.csr_matrix
    return kind((x.data, x.indices.astype(np.int64), x.indptr.astype(np.int64)), x.shape).toarray()


def cells(n: int, seed: int, genes: int = 60) -> ad.AnnData:
    """Make counts of three types that differ in all genes."""
    shape, random = np.random.default_rng(0), np.random.default_rng(seed)
    rates = np.exp(shape.normal(-0.3, 0.7, genes) + 0.8 * shape.normal(size=(3, genes)))
    kinds = np.arange(n) % 3
    adata = ad.AnnData(sp.csr_matrix(random.poisson(rates[kinds] * random.uniform(0.5, 2, (n, 1))).astype(np.float32)))
    adata.obs["kind"] = np.array(["a", "b", "c"])[kinds]
    adata.obs_names = [f"cell {i} of {seed}" for i in range(n)]
    adata.var_names = [f"Gene{i}" for i in range(genes)]
    return adata


def write_whole(base: Path) -> None:
    """Write whole files of every kind."""
    adata = cells(120, 1)
    for name, matrix in (("csr", adata.X), ("csc", adata.X.tocsc()), ("dense", adata.X.toarray())):
        made = ad.AnnData(matrix, obs=adata.obs, var=adata.var)
        made.write_h5ad(base / f"{name}.h5ad")
        for version in (2, 3):
            with ad.settings.override(zarr_write_format=version):
                made.write_zarr(base / f"{name}{version}.zarr")
    cells(50, 2).write_h5ad(base / "query.h5ad")
    with contextlib.suppress(ImportError):
        import mudata

        protein = ad.AnnData(adata.X[:, :20].toarray(), obs=adata.obs[[]])
        protein.var_names = [f"Protein{i}" for i in range(20)]
        with mudata.set_options(pull_on_update=False):
            mudata.MuData({"rna": adata, "protein": protein}).write_h5mu(base / "pair.h5mu")
    tt.fit(adata, "kind", steps=2, progress=False).save(base / "model.tt")
    adata.write_h5ad(base / "fitted.h5ad")
    header, tensors = _read_model(base / "model.tt")
    _write_old(base / "old.tt", header, tensors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no checksum
        tt.load(base / "old.tt")


def prepare(base: Path) -> None:
    """Write whole files of every kind, and use each of them once, so that all is imported."""
    write_whole(base)
    for verb, name in WHOLE:
        folder = base / f"{verb} of whole {name}"
        folder.mkdir()
        trial = Trial(base, folder, 0, 0)
        if (base / name).exists() and trial.use_whole(verb, name) != "right":
            raise RuntimeError(trial.said)


def _read_model(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()["tripletomics"]), tensors


def _write_old(path: Path, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Write a file of the format before the checksum."""
    known = {name: value for name, value in header.items() if name != "sha256"}
    save_file(tensors, path, {"tripletomics": json.dumps(known | ({"format": OLD} if "format" in known else {}))})


def _write_sealed(path: Path, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Write a file with the checksum of what it holds, whatever that is."""
    save_file(tensors, path, {"tripletomics": json.dumps({"sha256": "0" * 64} | header | {"sha256": "0" * 64})})
    storage.seal(path)


class Trial:
    """One input, the verb it goes to, and what came of it.

    Parameters
    ----------
    base
        Folder of the whole files.
    folder
        An empty one, for the damaged file and what is written.
    seed, number
        Of the input.
    """

    def __init__(self, base: Path, folder: Path, seed: int, number: int) -> None:
        self.base, self.folder, self.number = base, folder, number
        self.random = np.random.default_rng([seed, number])
        self.said = ""  # of the input, then of what happened

    def run(self) -> str:
        """Make the input, give it to a verb, and return the outcome."""
        return KINDS[kind_of(self.number)](self)

    # models

    def model_bytes(self) -> str:
        path, whole = self.folder / "model.tt", (self.base / "model.tt").read_bytes()
        head = 8 + int.from_bytes(whole[:8], "little")
        raw, self.said = mutants.damage_bytes(whole, self.random, head)
        path.write_bytes(raw)
        return self.use_model(path, "a byte is changed" if raw != whole else "")

    def model_saved(self) -> str:
        """A model with a right checksum that was changed before it was saved, as a stranger's program may write it."""
        path = self.folder / "model.tt"
        if self.random.random() < 0.5 and hasattr(storage, "seal"):
            return self.model_parts(_write_sealed)
        model = tt.load(self.base / "model.tt")
        self.said, wrong = _damage_model(model, self.random)
        try:
            model.save(path)
        except Exception as error:  # this is no user's way
            self.said += f": not saved, {error}"
            return "right"
        return self.use_model(path, wrong)

    def model_old(self) -> str:
        """A file of the format before the checksum, whose header or arrays are others."""
        return self.model_parts(_write_old)

    def model_parts(self, write: Callable[[Path, dict[str, Any], dict[str, torch.Tensor]], None]) -> str:
        path, wrong = self.folder / "model.tt", ""
        header, tensors = _read_model(self.base / "model.tt")
        if self.random.random() < 0.6:
            self.said = mutants.damage_json(header, self.random)
        else:
            name = pick(self.random, tensors)
            tensors[name], said, wrong = _damage_tensor(tensors[name], self.random)
            self.said = f"{name}: {said}"
            wrong = "" if name.endswith(".oddities") and "finite" in wrong else wrong  # may be infinite
        write(path, header, tensors)
        return self.use_model(path, wrong)

    def use_model(self, path: Path, wrong: str) -> str:
        before = digest(self.folder)
        query = ad.read_h5ad(self.base / "query.h5ad")

        def work() -> None:
            model = tt.load(path)
            model.summary()
            tt.transform(query, model)
            tt.predict(query, model)

        outcome = self.attempt(work)
        if digest(self.folder) != before:
            return "changed"
        if outcome != "right":
            return outcome
        if not finite(query):
            return self.judge("wrong", "results are not finite")
        return self.judge("wrong", wrong) if wrong else "right"

    # tables on disk

    def h5ad_bytes(self) -> str:
        verb, path = self.table()
        raw, self.said = mutants.damage_bytes(path.read_bytes(), self.random)
        path.write_bytes(raw)
        return self.use_table(verb, path)

    def h5ad_structure(self) -> str:
        verb, path = self.table()
        self.said = mutants.damage_hdf5(path, self.random)
        return self.use_table(verb, path)

    def h5mu(self) -> str:
        path = self.folder / "in.h5mu"
        if not (self.base / "pair.h5mu").exists():
            return "right"
        mutants.copy(self.base / "pair.h5mu", path)
        prefix = pick(self.random, ("mod/rna/", "mod/protein/"))
        if self.random.random() < 0.3:
            raw, self.said = mutants.damage_bytes(path.read_bytes(), self.random)
            path.write_bytes(raw)
        else:
            self.said = mutants.damage_hdf5(path, self.random, prefix)
        return self.use_table("fit", path)

    def table(self) -> tuple[str, Path]:
        """Copy a whole file, and choose a verb for it."""
        verbs = ("transform",) * 4 + (
            "predict",
            "predict",
            "fit",
            "convert",
            "convert",
            "evaluate",
            "fit path",
            "place path",
        )
        verb = pick(self.random, verbs)
        path = self.folder / "in.h5ad"
        mutants.copy(self.base / ("fitted.h5ad" if verb == "evaluate" else f"{pick(self.random, MATRICES)}.h5ad"), path)
        return verb, path

    def zarr(self) -> str:
        path = self.folder / "in.zarr"
        verb = pick(self.random, ("fit", "shard", "shard", "convert", "convert"))
        mutants.copy(self.base / f"{pick(self.random, MATRICES)}{self.random.integers(2, 4)}.zarr", path)
        self.said = mutants.damage_zarr(path, self.random)
        return self.use_table(verb, path)

    def values_file(self) -> str:
        made, self.said = mutants.hostile(cells(120, 1), self.random)
        path = self.folder / "in.h5ad"
        try:
            if made is None:
                raise ValueError
            made.write_h5ad(path)
        except Exception as error:  # no file holds that
            self.said += f" {error}"
            return "right"
        verb = pick(self.random, ("fit", "fit", "figure", "figure", "transform", "convert", "fit path"))
        return self.use_table(verb, path)

    def use_whole(self, verb: str, name: str) -> str:
        """Give a verb a whole file, which has to be right."""
        path = self.folder / f"in{Path(name).suffix}"
        mutants.copy(self.base / name, path)
        return self.use_table(verb, path)

    def use_table(self, verb: str, path: Path) -> str:
        """Give a file to a verb, and compare what it writes with what it read."""
        model, out = self.base / "model.tt", self.folder / f"out{'.zarr' if verb == 'convert' else path.suffix}"
        inside = (path.suffix == ".zarr" and verb in ("fit", "shard")) or verb.endswith("path")  # written to
        named, put = str(path), ("--out", str(out))
        given: dict[str, tuple[str, ...]] = {
            "fit": ("fit", named, "--label", "kind", *SHORT, "--model", f"{self.folder}/out.tt"),
            "transform": ("transform", named, "--model", str(model), *put),
            "predict": ("predict", named, "--model", str(model), *put),
            "figure": ("predict", named, "--model", str(model), *put, "--figure", f"{self.folder}/out.png"),
            "convert": ("convert", named, str(out)),
            "evaluate": ("evaluate", named, "--label", "kind", "--out", f"{self.folder}/out.csv"),
            "shard": ("transform", named, "--model", str(model), "--shard", "1/1"),
        }  # fmt: skip
        self.said = f"{verb}, {self.said}"
        before = digest(path)
        work: Callable[[], object]
        if verb == "fit path":
            work = lambda: tt.fit(path, "kind", steps=2, progress=False)  # noqa: E731
        elif verb == "place path":
            work = lambda: tt.transform(path, tt.load(model))  # noqa: E731
        else:
            arguments = given[verb] + (put if verb == "fit" and not inside else ())
            work = lambda: cli.main(arguments)  # noqa: E731
        outcome = self.attempt(work)
        if left := drafts(self.folder):
            return self.judge("draft", f"{outcome}, {left[:3]}")
        there = {name.name for name in self.folder.iterdir()} - {path.name}
        if not (outcome == "right" and inside) and digest(path) != before:
            return self.judge("changed", outcome)
        if outcome != "right":
            return self.judge("half", f"{outcome}, {there}") if there and outcome == "refused" else outcome
        column = "kind" if verb in ("fit", "fit path", "evaluate") else None
        if path.suffix != ".h5mu" and (why := mutants.fault(path, verb not in ("convert", "evaluate"), column)):
            return self.judge("wrong", why)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            why = self.compare(path, path if inside else out) if verb != "evaluate" and path.suffix != ".h5mu" else ""
        return self.judge("wrong", why) if why else "right"

    def compare(self, path: Path, out: Path) -> str:
        """Return what is wrong with an output, next to its input as anndata reads it."""
        read = {".h5ad": ad.read_h5ad, ".zarr": ad.read_zarr}
        try:
            given = read[path.suffix](path)
        except Exception:  # a part that the verb did not need
            given = None
        try:
            made = read[out.suffix](out)
        except Exception as error:
            return "" if out == path and given is None else f"the output cannot be read: {error}"
        if out.suffix != ".zarr" or out == path:
            places = {key: value for key, value in made.obsm.items() if key.startswith("X_tt")}
            if not places or not all(np.isfinite(value).all() for value in places.values()):
                return "places are missing or not finite"
        if given is None or out == path:
            return ""
        if list(given.obs_names) != list(made.obs_names) or given.shape != made.shape:
            return "other cells"
        one, two = (dense(table.X) for table in (given, made))
        return (
            ""
            if one.shape == two.shape and np.array_equal(one, two, equal_nan=one.dtype.kind == "f")
            else "another matrix"
        )

    # tables in memory

    def values_memory(self) -> str:
        made, self.said = mutants.hostile(cells(120, 1), self.random)
        if made is None:
            return "right"
        verb = pick(self.random, ("fit", "fit", "transform", "predict", "alone"))
        model = tt.load(self.base / "model.tt")
        given: dict[str, Callable[[], object]] = {
            "fit": lambda: tt.fit(made, "kind", steps=2, progress=False),
            "alone": lambda: tt.fit(made, steps=2, progress=False),
            "transform": lambda: tt.transform(made, model),
            "predict": lambda: tt.predict(made, model),
        }
        self.said = f"{verb}, {self.said}"
        x, before = made.X, state(made)
        wrong = _memory_fault(x)
        outcome = self.attempt(given[verb])
        after = state(made)
        if outcome != "right":
            return outcome if after == before else self.judge("changed", outcome)
        if after["X"] != before["X"] or made.shape != x.shape:
            return self.judge("changed", "X")
        if wrong:
            return self.judge("wrong", wrong)
        return "right" if finite(made) else self.judge("wrong", "results are not finite")

    # what happened

    def judge(self, outcome: str, why: str) -> str:
        self.said += f" -> {why}"
        return outcome

    def attempt(self, work: Callable[[], object]) -> str:
        """Run something; tell whether it ended well, was refused in one line of ours, or in any other way."""
        print(self.said, flush=True)  # for the log of a child that does not end well
        out, error = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                work()
        except SystemExit as leave:
            lines = [line for line in error.getvalue().splitlines() if not line.startswith("warning: ")]
            if not leave.code:
                return "right"
            plain = len(lines) == 1 and lines[0].startswith("error: ") and not PYTHON.fullmatch(lines[0])
            return self.judge("refused" if plain else "traceback", " | ".join(lines)[-600:])
        except BaseException as refusal:
            said = f"{type(refusal).__name__}: {refusal}{place(refusal)}"
            return self.judge("refused" if is_refusal(refusal) else "traceback", said)
        if found := CONTROL.search(out.getvalue() + error.getvalue()):
            return self.judge("wrong", f"control character {found[0]!r} was printed")
        return "right"


KINDS: dict[str, Callable[[Trial], str]] = {
    "model, bytes": Trial.model_bytes,
    "model, saved by a stranger": Trial.model_saved,
    "model, format before": Trial.model_old,
    ".h5ad, bytes": Trial.h5ad_bytes,
    ".h5ad, structure": Trial.h5ad_structure,
    ".h5mu": Trial.h5mu,
    ".zarr": Trial.zarr,
    "values, in memory": Trial.values_memory,
    "values, in a file": Trial.values_file,
}
TURNS = tuple(np.repeat(list(KINDS), (5, 1, 2, 4, 5, 1, 4, 2, 1)).tolist())  # of 25 inputs
MATRICES = ("csr", "csc", "dense")
WHOLE = (
    ("fit", "csr.h5ad"), ("fit", "pair.h5mu"), ("fit", "csr2.zarr"), ("fit path", "dense.h5ad"), ("figure", "csc.h5ad"),
    ("place path", "csr.h5ad"), ("evaluate", "fitted.h5ad"), ("convert", "csc3.zarr"), ("shard", "dense3.zarr"),
)  # fmt: skip


def kind_of(number: int) -> str:
    """Return the kind of an input; each 25 in a row have all of them."""
    return TURNS[number * 7 % len(TURNS)]


def is_refusal(error: BaseException) -> bool:
    """Tell whether the package raised an error by a statement of its own, or the system refused a file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if isinstance(error, OSError):
        return True
    if trace is None or not isinstance(error, (ValueError, KeyError, TypeError, ImportError)):
        return False
    raised = dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"
    return raised and trace.tb_frame.f_globals["__name__"].startswith("tripletomics.")


def place(error: BaseException) -> str:
    """Return where an error came from: the last line of this package, and the last of all."""
    found, trace = ["", ""], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        found[1] = f"{Path(code.co_filename).name}:{trace.tb_lineno}"
        if trace.tb_frame.f_globals.get("__name__", "").startswith("tripletomics."):
            found[0] = found[1]
        trace = trace.tb_next
    return f" [{' '.join(dict.fromkeys(found))}]"


def _damage_tensor(tensor: torch.Tensor, random: np.random.Generator) -> tuple[torch.Tensor, str, str]:
    """Return a tensor with another entry, shape or type, what was done, and why it is wrong if that can be known."""
    tensor = tensor.clone()
    how = pick(random, ("nan", "inf", "huge", "shorter", "turned", "type", "noise"))
    if how in ("nan", "inf") and tensor.is_floating_point() and tensor.numel():
        tensor.reshape(-1)[int(random.integers(tensor.numel()))] = float(how)
        return tensor, how, "a value is not finite"
    if how == "huge" and tensor.numel():
        tensor.reshape(-1)[int(random.integers(tensor.numel()))] = 1e30 if tensor.is_floating_point() else 10**4 % 127
        return tensor, how, ""
    if how == "type":
        kind = pick(random, [kind for kind in (torch.float64, torch.int32, torch.float16) if kind != tensor.dtype])
        return tensor.to(kind), str(kind), "another dtype"
    if how == "turned" and tensor.ndim == 2 and tensor.shape[0] != tensor.shape[1]:
        return tensor.T.contiguous(), how, "another shape"
    if how == "shorter" and tensor.ndim:
        return tensor[:-1].contiguous(), how, ""  # some parts may have any length
    return torch.from_numpy(tensor.numpy()[::-1].copy()) if tensor.ndim else tensor, "reversed", ""


def _damage_model(model: tt.Model, random: np.random.Generator) -> tuple[str, str]:
    """Change something in a model; return what, and why it is wrong if that can be known."""
    how = pick(random, ("weights", "weights", "array", "array", "classes", "settings"))
    if how == "weights":
        named = dict(model.networks.named_parameters())
        name = pick(random, named)
        new, said, wrong = _damage_tensor(named[name].data, random)
        owner, _, leaf = name.rpartition(".")
        setattr(model.networks.get_submodule(owner), leaf, torch.nn.Parameter(new, requires_grad=False))
        return f"{name}: {said}", wrong if said != "reversed" else ""
    if how == "array":
        part = pick(random, [part for part in (model.features, model.reference, model.calibration) if part is not None])
        arrays = [name for name, value in vars(part).items() if isinstance(value, np.ndarray)]
        if not arrays:
            return "nothing", ""
        name = pick(random, arrays)
        new, said, wrong = _damage_tensor(torch.from_numpy(getattr(part, name)), random)
        object.__setattr__(part, name, new.numpy())
        return f"{name}: {said}", wrong if "finite" not in wrong else ""  # some may be NaN by design
    if how == "classes":
        names = list(model.classes)
        changed = pick(random, (names[::-1], names + names[-1:], names[:-1], [1, *names[1:]], [names[1], *names[1:]]))
        model.classes = changed
        return f"classes {changed}", "classes are not sorted, unique, text, or as many as types"
    said = mutants.damage_json(model.settings, random)
    return f"settings {said}", ""


def _memory_fault(x: Any) -> str:
    if sp.issparse(x) and x.format in ("csr", "csc"):
        if said := mutants.lengths(x.data, x.indices, x.indptr, x.shape, x.format == "csc"):
            return said
        x = x.data
    values = np.asarray(x)
    return "a value is not finite" if values.dtype.kind == "f" and not np.isfinite(values).all() else ""


def finite(adata: ad.AnnData) -> bool:
    """Tell whether places, confidences and novelties are numbers."""
    places = [value for key, value in adata.obsm.items() if key.startswith("X_tt")]
    columns = [
        adata.obs[name] for name in ("tt_confidence", "tt_novelty") if name in adata.obs and "tt_mapping" in adata.uns
    ]
    return bool(places) and all(np.isfinite(np.asarray(part)).all() for part in (*places, *columns))


def state(adata: ad.AnnData) -> dict[str, str]:
    """Return a text for the matrix of a table, and for all that a verb may add to; equal if nothing changed."""
    x = adata.X
    parts = (x.data, x.indices, x.indptr) if sp.issparse(x) else (np.asarray(x),)
    rest = [adata.obs.to_string(), adata.var.to_string(), sorted(adata.obsm), repr(dict(adata.uns))]
    return {"X": str([digest_of(part) for part in parts]), "rest": str(rest)}


def digest_of(array: np.ndarray) -> str:
    """Return a hash of the type, the shape and the values of an array."""
    raw = repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes()
    return hashlib.blake2b(f"{array.dtype} {array.shape} ".encode() + raw).hexdigest()


def digest(path: Path) -> dict[str, str]:
    """Return a hash of each file under a path."""
    names = sorted(name for name in path.rglob("*") if name.is_file()) if path.is_dir() else [path]
    return {str(name.relative_to(path)): hashlib.blake2b(name.read_bytes()).hexdigest() for name in names}


def drafts(folder: Path) -> list[str]:
    """Return what is hidden under a folder and is none of zarr's."""
    hidden = [path for path in folder.rglob("*") if path.name[0] == "." and path.name not in mutants.META]
    return [str(path.relative_to(folder)) for path in hidden]


# children


def outcomes(base: Path, seed: int, numbers: Iterator[int], jobs: int) -> Iterator[tuple[int, str, str]]:
    """Yield number, outcome and what happened of inputs, as their children end."""
    running: dict[int, tuple[int, Path, float]] = {}
    waiting = True
    while running or waiting:
        while waiting and len(running) < jobs:
            number = next(numbers, None)
            if number is None:
                waiting = False
                break
            folder = base / f"of {number}"
            folder.mkdir()
            running[forks.start(lambda: _one(base, folder, seed, number), base / f"{number}.json")] = (  # noqa: B023
                number, folder, time.monotonic(),
            )  # fmt: skip
        time.sleep(0.002)
        for child, (number, folder, started) in list(running.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            late = not ended and time.monotonic() - started > LIMIT
            if late:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            if ended or late:
                del running[child]
                answer = base / f"{number}.json"
                log = answer.with_suffix(".log").read_text(errors="replace")
                if late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)):
                    yield number, "hang", log
                elif os.WIFSIGNALED(status):
                    yield number, "crash", f"{signal.Signals(os.WTERMSIG(status)).name}: {log}"
                elif answer.exists():
                    yield number, *json.loads(answer.read_text())
                else:
                    yield number, "harness", log[-2000:]
                answer.unlink(missing_ok=True)
                answer.with_suffix(".log").unlink()
                shutil.rmtree(folder, ignore_errors=True)


def _one(base: Path, folder: Path, seed: int, number: int) -> tuple[str, str]:
    trial = Trial(base, folder, seed, number)
    try:
        return trial.run(), trial.said
    except Exception as error:
        return "harness", f"{trial.said}: {type(error).__name__} {error}{place(error)}"


def table(counts: collections.Counter[tuple[str, str]]) -> pd.DataFrame:
    """Return counts by kind and outcome."""
    found = pd.Series(counts).unstack(fill_value=0).reindex(index=[*KINDS], columns=OUTCOMES, fill_value=0)
    found.loc["all"] = found.sum()
    found.insert(0, "n", found.sum(axis=1))
    return found[found["n"] > 0].reset_index(names="input")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000, help="how many, at most")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="children at a time")
    parser.add_argument("--kinds", nargs="+", default=[""], help="beginnings of the kinds of input to take")
    parser.add_argument("--replay", metavar="SEED:NUMBER", help="one input again")
    parser.add_argument("--all", action="store_true", help="a line for each input that is refused or right, too")
    given = parser.parse_args()
    started, counts = time.monotonic(), collections.Counter[tuple[str, str]]()
    seed, numbers = given.seed, iter(range(given.inputs))
    if given.replay:
        seed, one = map(int, given.replay.split(":"))
        numbers = iter([one])
    chosen = (
        n for n in numbers if kind_of(n).startswith(tuple(given.kinds)) and time.monotonic() - started < given.seconds
    )
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        forks.prepare(lambda: prepare(Path(name)), Path(name))
        for number, outcome, said in outcomes(Path(name), seed, chosen, given.jobs):
            counts[kind_of(number), outcome] += 1
            if outcome not in GOOD or given.replay or given.all:
                print(
                    f"{seed}:{number} {outcome}: {kind_of(number)}: {said[: 3000 if given.replay else 400]!r}",
                    flush=True,
                )
    bad = sum(n for (_, outcome), n in counts.items() if outcome not in GOOD)
    seconds = time.monotonic() - started
    print(f"\n{sum(counts.values()):,} inputs of seed {seed} in {seconds:,.0f} s, {bad:,} bad")
    if not given.replay:
        from common import write_table

        write_table(table(counts), "fuzz")
    return int(bad > 0)


if __name__ == "__main__":
    forks.with_one_thread()
    sys.exit(main())

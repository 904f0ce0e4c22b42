"""What `compare` and the refits of `evaluate` do for one method and one seed: fit, place, score, remember."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import re
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

import tripletomics
from tripletomics import baselines, evaluation, features, files, labels, pp
from tripletomics.evaluation import REFITTED, UNUSED, Truth
from tripletomics.notices import warn
from tripletomics.tl import preparing, tasks
from tripletomics.tl.self_training import study
from tripletomics.training import silent

if TYPE_CHECKING:
    from anndata import AnnData

    from tripletomics.sources import Matrix
    from tripletomics.training import History

CACHE_BYTES = 2**31  # older results give way


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked of every method: the cells, their labels, and what else they are scored against."""

    adata: AnnData
    x: Matrix
    label: str
    codes: np.ndarray
    classes: list[str]
    is_counts: bool
    common: dict[str, Any]  # keywords of `fit` that all runs of tripletomics share
    fine: np.ndarray | None
    batch: np.ndarray | None
    score_batches: bool
    pseudotime: np.ndarray | None
    unseen: bool
    reference: np.ndarray | None  # the user's own, in place of the principal components

    @functools.cached_property
    def digest(self) -> bytes:
        """Of everything that a result depends on, the code of this package included."""
        content = hashlib.blake2b(digest_size=16)
        rows = sp.csr_matrix(self.x) if sp.issparse(self.x) else None
        arrays = [self.x] if rows is None else [rows.data, rows.indices, rows.indptr]
        name = self.common["batch"]  # balances training
        teams = None if name is None else labels.encode(self.adata.obs[name], ())[0]
        for array in (*arrays, teams, self.codes, self.fine, self.batch, self.pseudotime, self.reference):
            content.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        marked = self.adata.var.get("highly_variable", pd.Series(dtype=bool)).to_numpy().astype(str).tolist()
        content.update(repr((self.x.shape, list(self.adata.var_names), marked, self.classes, self.common)).encode())
        content.update(repr((self.is_counts, self.unseen, self.score_batches)).encode())
        for path in sorted(Path(tripletomics.__file__).parent.rglob("*.py")):
            content.update(path.read_bytes())
        return content.digest()


def ask(
    adata: AnnData,
    label: str,
    *,
    batch: str | None,
    layer: str | None,
    counts: bool | str,
    unlabelled: Sequence[str],
    fine: str | None,
    pseudotime: str | None,
    unseen: bool,
    device: str,
    reference: np.ndarray | None = None,
) -> Question:
    """Check what the user gave, and read the columns."""
    x = pp.matrix(adata, layer)
    codes, classes = labels.encode(pp.column(adata, label, "label"), unlabelled)
    groups = None if batch is None else labels.encode(pp.column(adata, batch, "batch"), ())[0]
    if groups is not None and len(np.unique(groups)) < 2:
        raise ValueError(f"batch={batch!r} has one group: there is nothing to mix. Leave it out.")
    score_batches = groups is not None and importlib.util.find_spec("scib_metrics") is not None
    if groups is not None and not score_batches:
        warn('Batches are not scored without scib-metrics: pip install "tripletomics[batch]".')
    finer = None if fine is None else labels.encode(pp.column(adata, fine, "fine"), unlabelled)[0]
    is_counts = pp.decide_counts(x, counts)
    common = {
        "batch": batch,
        "layer": layer,
        "counts": counts,
        "unlabelled": tuple(labels.several(unlabelled, "unlabelled")),
        "device": device,
    }
    times = pp.numbers(adata, pseudotime)
    return Question(
        adata, x, label, codes, classes, is_counts, common, finer, groups, score_batches, times, unseen, reference
    )


@dataclasses.dataclass(frozen=True)
class Run:
    """What one method gave for one seed."""

    places: dict[str, np.ndarray]  # "map" and "metric", of all cells
    rows: pd.DataFrame  # space and the columns of `evaluation.score`
    confusion: np.ndarray  # true by predicted types of the held-out cells
    history: History

    def pack(self) -> dict[str, np.ndarray]:
        """Return arrays that a file can hold."""
        columns = {f"rows/{name}": column.to_numpy() for name, column in self.rows.items() if name != "value"}
        return {
            **{f"places/{space}": z for space, z in self.places.items()},
            **{name: column.astype(str) for name, column in columns.items()},
            "rows/value": self.rows["value"].to_numpy(dtype=float),
            "confusion": self.confusion,
            **{
                f"history/{stage}/{name}": values
                for stage, curves in self.history.items()
                for name, values in curves.items()
            },
        }

    @classmethod
    def unpack(cls, arrays: dict[str, np.ndarray]) -> Run:
        """Undo `pack`."""
        history: dict[str, dict[str, np.ndarray]] = {}
        for key, values in arrays.items():
            if key.startswith("history/"):
                _, stage, name = key.split("/")
                history.setdefault(stage, {})[name] = values
        rows = {key.removeprefix("rows/"): values for key, values in arrays.items() if key.startswith("rows/")}
        places = {key.removeprefix("places/"): z for key, z in arrays.items() if key.startswith("places/")}
        return cls(places, pd.DataFrame(rows), arrays["confusion"], history)


class Stage:
    """One split of the cells, drawn at random within types or not, and what all methods are given on it."""

    def __init__(self, question: Question, held_out: np.ndarray, seed: int, at_random: bool = False) -> None:
        self.question, self.held_out, self.seed, self.at_random = question, held_out, seed, at_random

    @functools.cached_property
    def prepared(self) -> tuple[baselines.Cells, float]:
        """Genes, scaling and principal components of the training cells, and the seconds that they took."""
        started = time.perf_counter()
        asked, train = self.question, ~self.held_out
        choice = pp.choose_genes(asked.adata, asked.x, train, asked.is_counts)
        x, names = pp.take(asked.x, choice.columns), asked.adata.var_names[choice.columns].tolist()
        contract = features.fit(x[train], names, asked.is_counts, self.seed, choice)
        cells = baselines.prepare(contract, x[train], x[self.held_out], asked.codes[train])
        return cells, time.perf_counter() - started

    @functools.cached_property
    def truth(self) -> Truth:
        """Return what the places are scored against."""
        asked, reference, usual = self.question, self.question.reference, None
        if reference is None:
            cells = self.prepared[0]
            reference = self.merge(cells.train_pca if cells.train_new is None else cells.train_new, cells.query_pca)
            usual = self.merge(cells.train_pca, cells.query_pca)
        return Truth(
            asked.codes, asked.classes, self.held_out, reference, asked.fine, asked.batch, asked.pseudotime,
            asked.score_batches, self.at_random, usual,
        )  # fmt: skip

    def merge(self, train: np.ndarray, query: np.ndarray) -> np.ndarray:
        """Put training and held-out cells in the order of the table."""
        places = np.empty((len(self.held_out), train.shape[1]), dtype=np.float32)
        places[~self.held_out], places[self.held_out] = train, query
        return places

    def place(self, method: str, codes: np.ndarray) -> dict[str, np.ndarray]:
        """Fit a baseline on the training cells and place all."""
        cells = dataclasses.replace(self.prepared[0], y=codes[~self.held_out])
        places = baselines.METHODS[method].place(cells, self.seed)
        return {space: self.merge(*both) for space, both in places.items()}

    def task(self, settings: dict[str, Any]) -> tasks.Task:
        """Prepare a fit of tripletomics."""
        asked = self.question
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Types (of one|that only)")  # said once, or on purpose
            return preparing.prepare(
                asked.adata, asked.label, hold_out=self.held_out, seed=self.seed, **(asked.common | settings)
            )


def run(stage: Stage, method: str, settings: dict[str, Any] | None) -> Run:
    """Fit a method, with settings if it is tripletomics, and score it."""
    asked = stage.question
    history: History = {}
    preparing = stage.prepared[1]
    with _meter() as cost:
        if settings is None:
            places = stage.place(method, asked.codes)
        else:
            task = study(stage.task(settings), silent)
            networks, history = task.learn()
            places = task.place(networks)
    seconds = cost["seconds"] + (preparing if settings is None else 0)
    tables = []
    for space, z in places.items():
        tables.append(evaluation.score(z, stage.truth, stage.seed).assign(space=space))
    tables += _nulls(stage, method, places, None if settings is None else task)
    if asked.unseen:
        tables += _unseen(stage, method, settings)
    for metric, value in (
        ("seconds", seconds), ("peak_mb", cost["peak_mb"]), ("cells_per_second", len(asked.codes) / seconds)
    ):  # fmt: skip
        tables.append(pd.DataFrame([(metric, "", "", value, "")], columns=evaluation.COLUMNS).assign(space=""))
    confusion = evaluation.confusion(places["metric" if "metric" in places else "map"], stage.truth)
    return Run(places, pd.concat(tables, ignore_index=True), confusion, history)


def _nulls(stage: Stage, method: str, places: dict[str, np.ndarray], task: tasks.Task | None) -> list[pd.DataFrame]:
    """Score the same fit on permuted labels, and for the structure places that are shuffled among the cells."""
    truth = stage.truth
    if task is not None:
        null = task.null()
        other, seen, how = null.places, truth.of(null.rows, null.codes), REFITTED
    else:
        seen = truth.permuted(stage.seed, np.full(len(truth.codes), True))
        other, how = places, UNUSED
        if baselines.METHODS[method].uses_labels:
            other, how = stage.place(method, seen.codes), REFITTED
    tables = [evaluation.null_of_labels(other[space], seen, stage.seed, how).assign(space=space) for space in places]
    tables += [evaluation.null_of_places(z, truth, stage.seed).assign(space=space) for space, z in places.items()]
    return tables


def _unseen(stage: Stage, method: str, settings: dict[str, Any] | None) -> list[pd.DataFrame]:
    """Leave half of the types out and retrieve them; leave a near and a far type out and call them novel."""
    asked, tables = stage.question, []

    def places(other: Stage) -> dict[str, np.ndarray]:
        if settings is None:
            return other.place(method, asked.codes)
        task = study(other.task(settings), silent)
        return task.place(task.learn()[0])

    half, near, far = evaluation.unseen_types(stage.truth, stage.seed)
    left_out = np.isin(asked.codes, half)
    for space, z in places(Stage(asked, left_out, stage.seed)).items():
        tables.append(evaluation.score_unseen(z[left_out], asked.codes[left_out], stage.seed).assign(space=space))
    left_out = stage.held_out | np.isin(asked.codes, (near, far))
    for space, z in places(Stage(asked, left_out, stage.seed)).items():
        rows = evaluation.score_novel(z, asked.codes, left_out, near, far, stage.seed)
        tables.append(rows.assign(space=space))
    return tables


@contextmanager
def _meter() -> Iterator[dict[str, float]]:
    """Measure wall time and the growth of the process's memory, sampled every 20 ms."""
    import psutil

    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    cost = {"peak_mb": 0.0}

    def watch() -> None:
        while not done.wait(0.02):
            cost["peak_mb"] = max(cost["peak_mb"], (process.memory_info().rss - before) / 2**20)

    thread = threading.Thread(target=watch, daemon=True)
    started = time.perf_counter()
    thread.start()
    try:
        yield cost
    finally:
        cost["seconds"] = time.perf_counter() - started
        done.set()
        thread.join()


class Cache:
    """Results in a folder, by the content that they follow from."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def path(self, stage: Stage, method: str, settings: dict[str, Any] | None) -> Path | None:
        """Return where a result lies or would lie."""
        if self.folder is None:
            return None
        asked = hashlib.blake2b(stage.question.digest, digest_size=32)
        asked.update(repr((method, settings, stage.seed, stage.at_random, dependencies([method]))).encode())
        asked.update(np.packbits(stage.held_out).tobytes())
        return self.folder / f"{asked.hexdigest()}.npz"

    def read(self, path: Path | None) -> Run | None:
        """Return a result if it is there and whole."""
        if path is None or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            if str(arrays.pop("seal")) != _seal(path, arrays):
                return None
            return Run.unpack(arrays)
        except Exception:  # whatever a damaged file makes of the reader
            return None

    def write(self, path: Path | None, result: Run) -> None:
        """Keep a result; the oldest go when the folder is full. Files that are no results stay."""
        if path is None or self.folder is None:
            return
        try:
            with files.replacing(path) as draft:
                arrays = result.pack()
                np.savez(draft, **arrays, seal=np.array(_seal(path, arrays)))  # type: ignore[arg-type]
            known = [old for old in self.folder.iterdir() if re.fullmatch(r"[0-9a-f]{64}\.npz", old.name)]
            kept = sorted(((old.stat(), old) for old in known), key=lambda entry: -entry[0].st_mtime)
            total = np.cumsum([state.st_size for state, _ in kept])
            for (_, old), size in zip(kept[1:], total[1:], strict=True):
                if size > CACHE_BYTES:
                    old.unlink(missing_ok=True)
        except OSError as error:  # a full disk, or another process that tidies up: the result is not lost
            warn(f"A result was not kept for the next call: {error}.")


def _seal(path: Path, arrays: dict[str, np.ndarray]) -> str:
    """Return a hash of a result and of the name of its file, so that no other result is taken for it."""
    content = hashlib.blake2b(path.name.encode(), digest_size=32)
    for name, array in sorted(arrays.items()):
        content.update(repr((name, array.dtype.str, array.shape)).encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()


def dependencies(methods: Sequence[str]) -> dict[str, str]:
    """Return the versions of what computes, and of the packages of some methods."""
    names = ["tripletomics", "torch", "numpy", "scipy", "scikit-learn", "anndata"]
    names += [baselines.METHODS[method].package for method in methods if method in baselines.METHODS]
    return {name: version(name) for name in dict.fromkeys(names)}

"""What one method gives for one split: coordinates, scores and nulls, and what they cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psutil

from tripletomics import baselines, evaluation
from tripletomics.evaluation import REFITTED, UNUSED
from tripletomics.experiment.fits import Fit
from tripletomics.experiment.splits import Split
from tripletomics.monitor import end_with

if TYPE_CHECKING:
    from tripletomics.experiment.cache import Cache
    from tripletomics.training import History

Settings = dict[str, Any] | None  # of tripletomics; None for a baseline
Runs = Mapping[tuple[str, int], "Result"]  # by method and seed


@dataclass(frozen=True)
class Result:
    """What one method gave for one split.

    Attributes
    ----------
    coordinates
        Coordinates of all cells, by space: "map" and "metric", or one of them.
    rows
        The column "space" and those of `evaluation.score`.
    confusion
        Counts of held-out cells by true type (rows) and predicted type (columns), on the map if there is one.
    history
        Training curves of tripletomics.
    """

    coordinates: dict[str, np.ndarray]
    rows: pd.DataFrame
    confusion: np.ndarray
    history: History

    def pack(self) -> dict[str, np.ndarray]:
        """Return arrays that a file can hold."""
        packed = {f"coordinates/{space}": z for space, z in self.coordinates.items()}
        for name, column in self.rows.items():
            packed[f"rows/{name}"] = column.to_numpy(dtype=float) if name == "value" else column.to_numpy().astype(str)
        for stage, curves in self.history.items():
            packed |= {f"history/{stage}/{name}": values for name, values in curves.items()}
        return packed | {"confusion": self.confusion}

    @classmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray]) -> Result:
        """Return the result whose arrays `pack` made."""
        found: dict[str, dict[str, np.ndarray]] = {"coordinates": {}, "rows": {}}
        history: dict[str, dict[str, np.ndarray]] = {}
        for key, values in arrays.items():
            part, _, name = key.partition("/")
            if part == "history":
                stage, _, name = name.partition("/")
                history.setdefault(stage, {})[name] = values
            elif name:
                found[part][name] = values
        return cls(found["coordinates"], pd.DataFrame(found["rows"]), arrays["confusion"], history)


def run(split: Split, method: str, settings: Settings) -> Result:
    """Fit a method, with settings if it is tripletomics, and score it."""
    task = split.task
    history: History = {}
    preparing = split.prepared[1]
    fit = None
    with _meter() as cost:
        if settings is None:
            coordinates = split.embed(method, task.codes)
        else:
            fit = Fit(split, settings)
            coordinates, history = fit.train()
    seconds = cost["seconds"] + (preparing if settings is None else 0)
    tables = [evaluation.score(z, split.truth, split.seed).assign(space=space) for space, z in coordinates.items()]
    if history:
        held = pd.concat(tables).query("metric == 'knn_macro_f1' and split == 'held-out'")
        end_with(history, dict(zip(held["space"], held["value"], strict=True)))
    tables += _score_permuted(split, method, coordinates, fit)
    if task.unseen:
        tables += _score_unseen(split, method, settings)
    costs = {"seconds": seconds, "peak_mb": cost["peak_mb"], "cells_per_second": len(task.codes) / seconds}
    rows = [(metric, "", "", value, "") for metric, value in costs.items()]
    tables.append(pd.DataFrame(rows, columns=evaluation.COLUMNS).assign(space=""))
    confusion = evaluation.confusion(coordinates["map" if "map" in coordinates else "metric"], split.truth)
    return Result(coordinates, pd.concat(tables, ignore_index=True), confusion, history)


def _score_permuted(
    split: Split, method: str, coordinates: dict[str, np.ndarray], fit: Fit | None
) -> list[pd.DataFrame]:
    """Score the same fit on permuted labels; for structure, score coordinates that are shuffled among the cells."""
    truth, seed = split.truth, split.seed
    if fit is not None:
        null = fit.permuted()
        other, permuted, how = null.coordinates, truth.of(null.cells, null.codes), REFITTED
    else:
        permuted = truth.permuted(seed, np.full(len(truth.codes), True))
        other, how = coordinates, UNUSED
        if baselines.METHODS[method].uses_labels:
            other, how = split.embed(method, permuted.codes), REFITTED
    tables = [evaluation.score_permuted(other[space], permuted, seed, how).assign(space=space) for space in coordinates]
    return tables + [evaluation.score_shuffled(z, truth, seed).assign(space=space) for space, z in coordinates.items()]


def _score_unseen(split: Split, method: str, settings: Settings) -> list[pd.DataFrame]:
    """Leave half of the types out and retrieve them; leave a near and a far type out and call them novel."""
    task, seed, tables = split.task, split.seed, []

    def embed(left_out: np.ndarray) -> dict[str, np.ndarray]:
        other = Split(task, left_out, seed)
        return other.embed(method, task.codes) if settings is None else Fit(other, settings).train()[0]

    half, near, far = evaluation.unseen_types(split.truth, seed)
    left_out = np.isin(task.codes, half)
    for space, z in embed(left_out).items():
        tables.append(evaluation.score_unseen(z[left_out], task.codes[left_out], seed).assign(space=space))
    left_out = split.held_out | np.isin(task.codes, (near, far))
    for space, z in embed(left_out).items():
        rows = evaluation.score_novel(z, task.codes, left_out, near, far, seed)
        tables.append(rows.assign(space=space))
    return tables


@contextmanager
def _meter() -> Iterator[dict[str, float]]:
    """Measure wall time and the growth of the process's memory, sampled every 20 ms."""
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


def run_all(
    splits: Sequence[Split],
    plan: Mapping[str, Settings],
    cache: Cache,
    bar: AbstractContextManager[Callable[[str], None]],
) -> dict[tuple[str, int], Result]:
    """Check every method, then run each on every split, unless the cache holds its result.

    Parameters
    ----------
    splits, plan
        The splits, and the settings of each method.
    cache
        What earlier calls computed.
    bar
        Shows which run is under way.
    """
    for settings in plan.values():
        if settings is not None:
            Fit(splits[0], settings)
    results = {}
    with bar as show:
        for split in splits:
            for method, settings in plan.items():
                show(f"{baselines.title_of(method)}, seed {split.seed}")
                path = cache.path(split, method, settings)
                kept = cache.read(path)
                result = run(split, method, settings) if kept is None else Result.unpack(kept)
                if kept is None:
                    cache.write(path, result.pack())
                results[method, split.seed] = result
    return results


def tidy(results: Runs) -> pd.DataFrame:
    """Return the scores of all runs in one table, method by method."""
    order = list(dict.fromkeys(method for method, _ in results))
    runs = sorted(results.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
    tables = [run.rows.assign(method=method, seed=seed) for (method, seed), run in runs]
    return pd.concat(tables, ignore_index=True)[["method", "seed", "space", *evaluation.COLUMNS]]

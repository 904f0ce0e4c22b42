"""Every loss on five real datasets: what its metric space and map know about cells and types that they never saw.

    TRIPLETOMICS_DATA=folder python benchmarks/losses.py rows.csv

- 15-NN macro-F1 in the metric space and on the map, and MAP@R in the metric space, on the 30 % of the cells (drawn
  within types) that were held out; of panc8_small the platform `indrop`.
- Unseen types: a second encoder is trained on half of the types, and the cells of the other half are looked up among
  each other: share whose nearest neighbour is of their type (R@1), and NMI of k-means with their types.
- Time of a training step with all threads, measured after everything else.

Three seeds. Everything is fitted on training cells alone. Two processes of one thread each share the work; a row that
is in `rows.csv` is not computed again, and a changed loss has to be deleted from it.
"""

from __future__ import annotations

import csv
import functools
import itertools
import multiprocessing
import os
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from datetime import date
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from common import read, start

from tripletomics import crossfit, labels, losses, metrics, pp, training
from tripletomics.embedding import coordinates
from tripletomics.problem import FitProblem, Settings

SETS = {
    "pbmc3k": 0.3,
    "panc8_small": "batch=indrop",
    "cite_cbmc_rna": 0.3,
    "worm_neuron": 0.3,
    "paul15": 0.3,
}
SEEDS = (0, 1, 2)
PARTNER = {"center": "softmax + 0.003*center"}  # what cannot stand alone
FAMILY = [PARTNER.get(name, name) for name in losses.names(views=1)]
CHOICES = [  # how triplets are chosen and measured, on one set
    "triplet:reduction=all",
    *(f"triplet:mining={mining}" for mining in ("hard", "semihard", "easy_positive", "band", "offline")),
    "triplet:mining=curriculum",
    "triplet:mining=curriculum,start=1.0,end=0.0",
    "triplet:mining=curriculum,shuffled=true",
    *(f"triplet:distance={d}" for d in ("sqeuclidean", "manhattan", "cosine", "angular", "mahalanobis", "jaccard")),
    "triplet + 0.5*softmax",
]
CHOICES_SET = "cite_cbmc_rna"
SCORES = ("metric_f1", "map_f1", "map_at_r", "unseen_r1", "unseen_nmi")
KEY = ("loss", "set", "seed")


@functools.lru_cache(maxsize=2)
def cells(name: str) -> ad.AnnData:
    """Read a dataset."""
    return read(name)


def prepare(name: str, text: str, seed: int, hold_out: float | str | np.ndarray) -> tuple[Settings, FitProblem]:
    """Prepare a fit."""
    settings = Settings(label="cell_type", loss=text, hold_out=hold_out, seed=seed, device="cpu")
    return pp.prepare(cells(name), settings)[1:]


def of_half_of_the_types(name: str, seed: int) -> np.ndarray:
    """Draw half of the types; return which cells are theirs."""
    codes, classes = labels.encode(cells(name).obs["cell_type"], labels.UNLABELLED)
    return np.isin(codes, np.random.default_rng(seed).permutation(len(classes))[: len(classes) // 2])


def score(text: str, name: str, seed: int) -> dict[str, object]:
    """Return one row of results."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    row: dict[str, object] = dict(zip(KEY, (text, name, seed), strict=True))
    settings, problem = prepare(name, text, seed, SETS[name])
    encoder, y, held = training.train_encoder(problem, settings), problem.codes, problem.held_out
    z = crossfit.embed(encoder.encoder, problem.rows)
    row["metric_f1"] = metrics.knn_macro_f1(z[~held], y[~held], z[held], y[held])
    if text not in FAMILY:
        return row
    m = coordinates(training.train_map(problem, settings, encoder)[0], problem.rows, problem.pcs)["map"]
    row["map_f1"] = metrics.knn_macro_f1(m[~held], y[~held], m[held], y[held])
    row["map_at_r"] = metrics.map_at_r(z[~held], y[~held], z[held], y[held])

    settings, problem = prepare(name, text, seed, of_half_of_the_types(name, seed))
    z, unseen = crossfit.embed(training.train_encoder(problem, settings).encoder, problem.rows), problem.held_out
    row["unseen_r1"] = metrics.recall_at_k(z[unseen], problem.codes[unseen], k=1)
    row["unseen_nmi"] = metrics.nmi(z[unseen], problem.codes[unseen], seed)
    return row


def milliseconds(text: str) -> float:
    """Time a training step on pbmc3k, without the first: the mean of 40."""
    settings, problem = prepare("pbmc3k", text, 0, SETS["pbmc3k"])
    training.train_encoder(problem, replace(settings, steps=2))
    once, many = (time_of(lambda n=n: training.train_encoder(problem, replace(settings, steps=n))) for n in (1, 41))
    return 1000 * (many - once) / 40


def time_of(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def pool(tasks: list[tuple[str, str, int]], path: Path) -> None:
    """Compute rows in two processes and append each to the file as it comes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as workers:
        for future in as_completed([workers.submit(score, *task) for task in tasks]):
            row = future.result()
            new = not path.exists()
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, (*KEY, *SCORES))
                if new:
                    writer.writeheader()
                writer.writerow(row)
            print(*row.values(), file=sys.stderr, flush=True)


def table(rows: pd.DataFrame, columns: list[str], order: list[str]) -> str:
    """Write mean ± sd over seeds; of several sets, the last column is the mean."""
    mean, sd = (rows.groupby(["loss", "set"], sort=False)[columns].agg(f).unstack("set") for f in ("mean", "std"))
    names = [(column, name) for column in columns for name in SETS if (column, name) in mean]
    several = len(names) > 1
    lines = [["loss", *(name for _, name in names), *["mean"] * several], ["---"] * (1 + len(names) + several)]
    for loss in order:
        cells = [f"{mean.loc[loss, key]:.3f} ± {sd.loc[loss, key]:.3f}" for key in names]
        average = f"{np.mean([mean.loc[loss, key] for key in names]):.3f}"
        lines.append([f"`{loss}`", *cells, *[average] * several])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(path: Path) -> None:
    start()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers
    tasks = [(loss, name, seed) for seed, name in itertools.product(SEEDS, SETS) for loss in FAMILY]
    tasks += [(loss, CHOICES_SET, seed) for seed in SEEDS for loss in CHOICES]
    done = set(pd.read_csv(path)[list(KEY)].itertuples(index=False, name=None)) if path.exists() else set()
    pool([task for task in tasks if task not in done], path)
    rows = pd.read_csv(path)
    family, choices = rows[rows["loss"].isin(FAMILY)], rows[rows["set"] == CHOICES_SET]
    order = family.groupby("loss")["metric_f1"].mean().sort_values(ascending=False).index.tolist()
    for column in ("metric_f1", "map_f1"):
        print(f"\n{column}\n\n{table(family, [column], order)}")
    print("\n| loss | MAP@R | unseen types, R@1 | unseen types, NMI | ms a step |\n|---|---|---|---|---|")
    means = family.groupby("loss")[list(SCORES)].mean()
    for loss in order:
        values = " | ".join(f"{means.loc[loss, column]:.3f}" for column in SCORES[2:])
        print(f"| `{loss}` | {values} | {milliseconds(loss):.1f} |", flush=True)
    best = choices.groupby("loss")["metric_f1"].mean().reindex(["triplet", *CHOICES]).index.tolist()
    print(f"\n{CHOICES_SET}\n\n{table(choices, ['metric_f1'], best)}")
    print(f"\n{date.today()}, torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "losses.csv"))

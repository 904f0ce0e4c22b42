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
from datetime import date
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch

from tripletomics import augment, embedding, features, labels, losses, metrics, networks, pp, training
from tripletomics.model import place
from tripletomics.samplers import Balanced
from tripletomics.sources import Memory

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
METRIC_DIM, LR = 32, 1e-3


@functools.lru_cache(maxsize=2)
def prepare(name: str, seed: int, unseen: bool) -> tuple[Memory, np.ndarray, np.ndarray, np.ndarray]:
    """Return scaled cells, principal components, codes and which cells are held out (those of unseen types)."""
    adata = ad.read_h5ad(Path(os.environ["TRIPLETOMICS_DATA"]) / f"{name}.h5ad")
    x = pp.matrix(adata, None)
    codes, classes = labels.encode(pp.column(adata, "cell_type", "label"), labels.UNLABELLED)
    if unseen:
        half = np.random.default_rng(seed).permutation(len(classes))[: len(classes) // 2]
        held_out = np.isin(codes, half)
    else:
        held_out = pp.split(adata, SETS[name], codes, seed)
    counts = pp.decide_counts(x, "auto")
    choice = pp.choose_genes(adata, x, ~held_out, counts)
    x = pp.take(x, choice.columns)
    contract = features.fit(x[~held_out], adata.var_names[choice.columns].tolist(), counts, seed, choice)
    return contract.source(x), contract.project(x), codes, held_out


def encode(cells: Memory, y: np.ndarray, text: str, seed: int, steps: int) -> networks.Encoder:
    """Train an encoder alone, as `training.learn_metric` does."""
    loss = losses.make(text)
    torch.manual_seed(seed)
    encoder = networks.Encoder(networks.MLP(), len(cells.rows(slice(1))[0]), METRIC_DIM)
    loss.build(METRIC_DIM, int(y.max()) + 1)
    training.train(
        training.start("cpu", "auto"), encoder, loss, cells, Balanced(y, training.BATCH_SIZE, seed, guide=loss),
        torch.from_numpy(y), steps=steps, lr=LR, augment=augment.make("mask"), seed=seed, watch=lambda *_: None,
    )  # fmt: skip
    return encoder


def score(text: str, name: str, seed: int) -> dict[str, object]:
    """Return one row of results."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    row: dict[str, object] = dict(zip(KEY, (text, name, seed), strict=True))
    cells, scores, y, held_out = prepare(name, seed, unseen=False)
    train, held = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if text not in FAMILY:
        encoder = encode(cells.subset(train), y[train], text, seed, training.default_steps(len(train)))
        z = embedding.embed_rows(encoder, cells, torch.device("cpu")).numpy()
        return row | {"metric_f1": metrics.knn_macro_f1(z[train], y[train], z[held], y[held])}
    fabric, steps = training.start("cpu", "auto"), training.default_steps(len(train))
    encoder, _ = training.learn_metric(
        fabric, cells, y, train, held, groups=None, loss=losses.make(text), mlp=networks.MLP(),
        augment=augment.make("mask"), metric_dim=METRIC_DIM, batch_size=None, steps=steps, lr=LR, seed=seed,
    )  # fmt: skip
    trained, _ = training.learn_map(
        fabric, encoder, cells, y, train, held, scores=scores, structure=0.5, dim=2, steps=steps, lr=LR, seed=seed
    )
    places = place(trained, cells, scores)
    z, m = places["metric"], places["map"]
    row["metric_f1"] = metrics.knn_macro_f1(z[train], y[train], z[held], y[held])
    row["map_f1"] = metrics.knn_macro_f1(m[train], y[train], m[held], y[held])
    row["map_at_r"] = metrics.map_at_r(z[train], y[train], z[held], y[held])

    cells, _, y, unseen = prepare(name, seed, unseen=True)
    seen, others = np.flatnonzero(~unseen & (y >= 0)), np.flatnonzero(unseen)
    encoder = encode(cells.subset(seen), y[seen], text, seed, training.default_steps(len(seen)))
    z = embedding.embed_rows(encoder, cells.subset(others), torch.device("cpu")).numpy()
    row["unseen_r1"] = metrics.recall_at_k(z, y[others], k=1)
    row["unseen_nmi"] = metrics.nmi(z, y[others], seed)
    return row


def milliseconds(text: str) -> float:
    """Time a training step on pbmc3k, without the first: the mean of 40."""
    cells, _, y, held_out = prepare("pbmc3k", 0, unseen=False)
    train = np.flatnonzero(~held_out)
    encode(cells.subset(train), y[train], text, 0, 2)
    once, many = (time_of(lambda n=n: encode(cells.subset(train), y[train], text, 0, n)) for n in (1, 41))
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
    if "TRIPLETOMICS_DATA" not in os.environ:
        sys.exit("TRIPLETOMICS_DATA is not set: name the folder of the datasets.")
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

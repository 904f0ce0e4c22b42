"""Every loss on five real datasets: what its metric space and map know about cells and types that they never saw.

    TRIPLETOMICS_DATA=folder python benchmarks/losses.py --keep rows [dataset ...] [--seeds N] [--tables]

- 15-NN macro-F1 in the metric space and on the map, and MAP@R in the metric space, on the 30 % of the cells (drawn
  within types) that were held out; of panc8_small the platform `indrop`.
- Unseen types: a second encoder is trained on half of the types, and the cells of the other half are looked up among
  each other: share whose nearest neighbour is of their type (R@1).
- Seconds of a processor that the encoder's training takes on pbmc3k, one thread.

Everything is fitted on training cells alone. What each fit says of each cell is kept in the folder `rows`, and a second
run fits only what is missing there. A changed loss has to be deleted from it. --tables fits nothing. Either way
docs/tables/losses*.csv are written, of the seeds that all losses have, with the intervals of `intervals.py`.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import options, read, stamp, start, write_table
from intervals import macro_f1, mean, resamples, shown, verdict
from scipy.spatial.distance import cdist

from tripletomics import crossfit, labels, losses, metrics, pp, training
from tripletomics.embedding import coordinates
from tripletomics.problem import Settings

SETS = {
    "pbmc3k": 0.3,
    "panc8_small": "batch=indrop",
    "cite_cbmc_rna": 0.3,
    "worm_neuron": 0.3,
    "paul15": 0.3,
}
PARTNER = {"center": "softmax + 0.003*center"}  # what cannot stand alone
FAMILY = [PARTNER.get(name, name) for name in losses.names(views=1, ordered=False)]
CHOICES = [  # how triplets are chosen and measured, on one set
    "triplet",
    "triplet:reduction=all",
    *(f"triplet:mining={mining}" for mining in ("hard", "semihard", "easy_positive", "band", "offline")),
    "triplet:mining=curriculum",
    "triplet:mining=curriculum,start=1.0,end=0.0",
    "triplet:mining=curriculum,shuffled=true",
    *(f"triplet:distance={d}" for d in ("sqeuclidean", "manhattan", "cosine", "angular", "mahalanobis", "jaccard")),
    "triplet + 0.5*softmax",
]
CHOICES_SET = "cite_cbmc_rna"
SCORES = {"metric F1": macro_f1, "F1 on the map": macro_f1, "MAP@R": mean, "unseen types, R@1": mean}
Rows = dict[str, np.ndarray]


def of_half_of_the_types(adata, seed: int) -> np.ndarray:
    """Draw half of the types; return which cells are theirs."""
    codes, classes = labels.encode(adata.obs["cell_type"], labels.UNLABELLED)
    return np.isin(codes, np.random.default_rng(seed).permutation(len(classes))[: len(classes) // 2])


def retrieved(z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each cell, looked up among the others, its average precision at R and whether the first is right."""
    d = cdist(z, z)
    np.fill_diagonal(d, np.inf)
    right = (y[np.argsort(d, axis=1)] == y[:, None])[:, :-1]
    own, rank = right.sum(axis=1, keepdims=True), np.arange(1, len(y))
    precision = (right.cumsum(axis=1) / rank * right * (rank <= own)).sum(axis=1)
    return precision / np.maximum(own[:, 0], 1), right[:, 0].astype(float)


def fit(adata, text: str, name: str, seed: int) -> Rows:
    """Fit a loss twice; return what the fits say of each held-out cell."""
    given = {"label": "cell_type", "loss": text, "seed": seed, "device": "cpu"}
    _, settings, problem = pp.prepare(adata, Settings(hold_out=SETS[name], **given))
    started = time.process_time()
    encoder, y, held = training.train_encoder(problem, settings), problem.codes, problem.held_out
    seconds = time.process_time() - started
    z = crossfit.embed(encoder.encoder, problem.rows)
    kept = {"held": np.flatnonzero(held), "y": y, "seconds": seconds, "measured": stamp()}
    kept["metric F1"] = metrics.knn_votes(z[~held], y[~held], z[held]).argmax(axis=1)
    if text not in FAMILY:
        return kept
    m = coordinates(training.train_map(problem, settings, encoder)[0], problem.rows, problem.pcs)["map"]
    kept["F1 on the map"] = metrics.knn_votes(m[~held], y[~held], m[held]).argmax(axis=1)
    kept["MAP@R"], _ = retrieved(z[held], y[held])

    _, settings, problem = pp.prepare(adata, Settings(hold_out=of_half_of_the_types(adata, seed), **given))
    z, unseen = crossfit.embed(training.train_encoder(problem, settings).encoder, problem.rows), problem.held_out
    kept["unseen types, R@1"], kept["unseen"] = retrieved(z[unseen], y[unseen])[1], np.flatnonzero(unseen)
    return kept


def pooled(text: str, names: list[str], seeds: list[int], folder: Path, score: str) -> dict[str, np.ndarray]:
    """Return a score of a loss on each dataset, mean over seeds, and the values for other draws of the cells."""
    found = {}
    for name in names:
        by_seed = []
        for seed in seeds:
            kept = np.load(folder / f"{text},{name},{seed}.npz")
            y, cells = kept["y"], kept["unseen" if score.startswith("unseen") else "held"]
            weights = resamples(len(y), y)[:, cells]
            given = (y[cells], kept[score]) if SCORES[score] is macro_f1 else (kept[score],)
            by_seed.append(SCORES[score](*given, weights))
        found[name] = np.mean(by_seed, axis=0)
    return found


def by_dataset(texts: list[str], names: list[str], seeds: list[int], folder: Path, score: str, norm: str):
    """Return a table: losses by datasets, their mean, and how it compares with that of one of them."""
    found = {text: pooled(text, names, seeds, folder, score) for text in texts}
    means = {text: np.mean(list(found[text].values()), axis=0) for text in texts}
    rows = [
        {"loss": text} | ({"mean": shown(means[text])} if len(names) > 1 else {})
        | {f"next to {norm}": "–" if text == norm else verdict(means[text], means[norm])}
        | {name: shown(found[text][name]) for name in names}
        for text in (sorted(texts, key=lambda text: -means[text][0]) if len(names) > 1 else texts)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def write_tables(folder: Path) -> None:
    """Write the three tables from what is kept, of the seeds that all losses have."""

    def seeds_of(texts: list[str], names: list[str]) -> list[int]:
        wanted = list(itertools.product(texts, names))
        return [n for n in range(9) if all((folder / f"{text},{name},{n}.npz").exists() for text, name in wanted)]

    names, seeds = list(SETS), seeds_of(FAMILY, list(SETS))
    last = {"seeds": len(seeds), "measured": str(np.load(folder / f"softmax,{names[0]},0.npz")["measured"])}
    write_table(by_dataset(FAMILY, names, seeds, folder, "metric F1", "softmax").assign(**last), "losses")
    rows = []
    for text in FAMILY:
        row = {"loss": text}
        for score in list(SCORES)[1:]:
            row[score] = shown(np.mean(list(pooled(text, names, seeds, folder, score).values()), axis=0))
        seconds = [np.load(folder / f"{text},{names[0]},{seed}.npz")["seconds"] for seed in seeds]
        rows.append(row | {"seconds": f"{np.mean(seconds):.1f}"})
    table = pd.DataFrame(rows).sort_values("MAP@R", ascending=False)
    write_table(table.assign(**last), "losses_retrieval")
    seeds = seeds_of(CHOICES, [CHOICES_SET])
    table = by_dataset(CHOICES, [CHOICES_SET], seeds, folder, "metric F1", "triplet")
    write_table(table.assign(**last | {"seeds": len(seeds)}), "losses_triplets")


if __name__ == "__main__":
    parser = options(SETS)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--tables", action="store_true")
    given = parser.parse_args()
    start()
    torch.set_num_threads(1)
    given.keep.mkdir(parents=True, exist_ok=True)
    for seed, name in itertools.product(range(0 if given.tables else given.seeds), given.datasets):
        adata = read(name)
        for text in dict.fromkeys([*FAMILY, *CHOICES] if name == CHOICES_SET else FAMILY):
            file = given.keep / f"{text},{name},{seed}.npz"
            if not file.exists():
                np.savez(file, **fit(adata, text, name, seed))
    write_tables(given.keep)

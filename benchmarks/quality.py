"""What a map keeps of the labels and of the data, on cells it never saw: tt.fit beside other maps on real sets.

    TRIPLETOMICS_DATA=folder python benchmarks/quality.py [dataset ...] [--seeds N] [--methods umap,tsne,...]
        [--json file] [--before python]

Each set is split at random within types (30 % held out), or by platform where it has any, each platform held out in
turn. Other maps are given scanpy's usual components, fitted on the training cells: 10,000 counts a cell, logged, 2,000
dispersed genes, unit variance cut at 10, 50 principal components; tt.fit is given the table. The reference are the same
components, cross-fitted by scikit-learn: each training cell has the coordinates that four fifths of the others give it,
turned to the whole (orthogonal Procrustes). Methods whose name ends in _crossfit are given the training cells in
these. --before names the Python of an environment with another version of tripletomics, which is fitted to the same
splits. All scores are of held-out cells against training cells:

f1      macro-F1 of the 15 nearest neighbours
recall  share of the 30 nearest training cells of the reference that are among the 30 nearest in the map
within  the same with 15 neighbours inside a type, (recall - chance) / (1 - chance), mean over types of over 30 cells
rho     mean over types of the Spearman correlation of its distances to the centres of the others

Four more say how a map looks (tripletomics.metrics.page_use and exchangeability): of all its cells, and of how held-out
cells lie beside training cells of their type, where the split is random.

a50     percentage of the page that holds half of the cells; it compares maps of one set
edge    percentage of the cells in the outermost 1 % of the map's radius
auroc   can held-out cells be told from training cells? .5 = no
spread  distance of held-out cells from their type's middle over that of training cells; 1 = alike

Rows in bold are on the Pareto front of the maps: no other map is better in all four. `ceiling` is the best that labels
alone reach: logistic regression on the genes, or tt's metric space. --json keeps the numbers of every fit.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from common import PROTEINS, SETS, options, read, splits_of, start, usual
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

import tripletomics as tt
from tripletomics import baselines, labels, metrics

BEFORE = """
import sys, warnings
import anndata, numpy, tripletomics
warnings.simplefilter("ignore")
adata = anndata.read_h5ad(f"{sys.argv[1]}/cells.h5ad")
tripletomics.fit(adata, label="cell_type", hold_out="spared", seed=int(sys.argv[2]), progress=False)
numpy.save(f"{sys.argv[1]}/map.npy", adata.obsm["X_tt"])
"""
METHODS = "pca2,umap,umap_crossfit,umap_supervised,tsne,tsne_crossfit,pacmap,lda"
SCORES = ["f1", "recall", "within", "rho"]
LOOKS = ["a50", "edge", "auroc", "spread"]
DECIMALS = dict.fromkeys(SCORES, 3) | dict.fromkeys(LOOKS, 2)


def crossfit(x: np.ndarray, r: np.ndarray, whole: np.ndarray, train: np.ndarray, seed: int) -> np.ndarray:
    """Return components `r` of the scaled genes `x`, in which training cells lie by axes fitted without them."""
    known, new = np.flatnonzero(train), r.copy()
    for others, part in KFold(5, shuffle=True, random_state=seed).split(known):
        n = min(r.shape[1], len(others) - 1)
        solver = "full" if n == x.shape[1] or n < r.shape[1] else "arpack"
        axes = PCA(n, svd_solver=solver, random_state=0).fit(x[known[others]]).components_.T
        u, _, v = np.linalg.svd(axes.T @ whole, full_matrices=False)
        new[known[part]] = (x[known[part]] - x[known].mean(axis=0)) @ axes @ (u @ v)
    return new


def fit_before(python: str, adata: ad.AnnData, train: np.ndarray, seed: int) -> np.ndarray:
    """Return the map of another version of tripletomics."""
    with tempfile.TemporaryDirectory() as folder:
        cells = adata.copy()
        cells.obs["spared"] = ~train
        cells.write_h5ad(f"{folder}/cells.h5ad")
        subprocess.run([python, "-c", BEFORE, folder, str(seed)], check=True, cwd=folder)
        return np.load(f"{folder}/map.npy")


def scores(m: np.ndarray, r: np.ndarray, y: np.ndarray, train: np.ndarray) -> list[float]:
    """Score held-out cells: f1, recall, within, rho."""
    held = ~train
    within, types = [], [code for code in np.unique(y[held & (y >= 0)]) if (y[train] == code).any()]
    for code in types:
        own, asked = train & (y == code), held & (y == code)
        if own.sum() > 30:
            chance = 15 / own.sum()
            recall = metrics.knn_recall(m[own], r[own], m[asked], r[asked], k=(15,))[0]
            within.append((recall - chance) / (1 - chance))
    between = [cdist(*[[z[held & (y == code)].mean(axis=0) for code in types]] * 2) for z in (m, r)]
    rho = [spearmanr(*(np.delete(d[i], i) for d in between))[0] for i in range(len(types))] if len(types) > 3 else []
    return [
        metrics.knn_macro_f1(m[train], y[train], m[held], y[held]),
        metrics.knn_recall(m[train], r[train], m[held], r[held], k=(30,))[0],
        float(np.mean(within)) if within else np.nan,
        float(np.mean(rho)) if rho else np.nan,
    ]


def looks(m: np.ndarray, y: np.ndarray, train: np.ndarray, at_random: bool) -> list[float]:
    """Score a map as a page: a50, edge, auroc, spread."""
    page = metrics.page_use(m)
    strangers = metrics.exchangeability(m, y, ~train)
    told = [strangers[name] if at_random else np.nan for name in ("held_out_auroc", "spread_ratio")]
    return [100 * page["a50"], 100 * page["edge_share"], *told]


def one_split(
    adata: ad.AnnData, name: str, hold_out: float | str, seed: int, methods: list[str], before: str | None
) -> list[dict]:
    """Return a row for each method on one split."""
    table = adata.copy()
    started = time.perf_counter()
    model = tt.fit(adata, label="cell_type", hold_out=hold_out, seed=seed, progress=False)
    seconds = time.perf_counter() - started
    train = (adata.obs["tt_split"] == "train").to_numpy()
    y, _ = labels.encode(adata.obs["cell_type"], labels.UNLABELLED)
    x, given, axes = usual(table, train, counts=name not in PROTEINS)
    r = crossfit(x, given, axes, train, seed)
    known = train & (y >= 0)
    regression = LogisticRegression(C=0.01, max_iter=300).fit(x[known], y[known])
    linear = metrics.macro_f1(y[~train & (y >= 0)], regression.predict(x[~train & (y >= 0)]))
    ceiling = max(linear, model.scores["held-out"]["metric"])
    places = {"tt": adata.obsm["X_tt"]}
    rows = [{"method": "ceiling", "f1": ceiling}, {"method": "tt", "seconds": seconds}]
    if before is not None:
        places["before"] = fit_before(before, table, train, seed)
        rows.append({"method": "before"})
    cells = baselines.Cells(given[train], given[~train], y[train], train_new=r[train])
    for method in methods:
        started = time.perf_counter()
        both = baselines.METHODS[method].embed(cells, seed)["map"]
        rows.append({"method": method, "seconds": time.perf_counter() - started})
        places[method] = np.empty((adata.n_obs, 2), dtype=np.float32)
        places[method][train], places[method][~train] = both
    for row in rows[1:]:
        row.update(zip(SCORES, scores(places[row["method"]], r, y, train), strict=True))
        row.update(zip(LOOKS, looks(places[row["method"]], y, train, SETS[name] is None), strict=True))
    return rows


def front(table: pd.DataFrame) -> set[str]:
    """Return the methods that no other beats in all scores."""
    values = table.loc[table.index != "ceiling", SCORES].dropna(axis=1)
    return {a for a in values.index if not any((values.loc[b] > values.loc[a]).all() for b in values.index)}


def main(names: list[str], seeds: int, methods: list[str], file: Path | None, before: str | None) -> None:
    start()
    warm = np.random.default_rng(0).normal(size=(600, 20)).astype(np.float32)
    for method in methods:  # what compiles is compiled before the clock starts
        cells = baselines.Cells(warm[:500], warm[500:], np.arange(500) % 3, train_new=warm[:500])
        baselines.METHODS[method].embed(cells, 0)
    kept = []
    for name in names:
        adata = read(name)
        column = SETS[name]
        rows = [
            row | {"dataset": name, "hold_out": split, "seed": seed}
            for split in splits_of(adata, name) for seed in range(seeds)
            for row in one_split(adata.copy(), name, split, seed, methods, before)
        ]  # fmt: skip
        by_seed = pd.DataFrame(rows).groupby(["method", "seed"], sort=False).mean(numeric_only=True)
        mean, sd = (getattr(by_seed.groupby("method", sort=False), how)() for how in ("mean", "std"))
        best = front(mean)
        kept += rows
        if file is not None:
            pd.DataFrame(kept).to_json(file, orient="records", indent=1)
        print(f"\n{name}, {adata.n_obs:,} cells, {'random split' if column is None else f'each {column} held out'}\n")
        shown = [*SCORES, *LOOKS]
        print(f"| map | {' | '.join(shown)} | seconds |\n|{'---|' * (len(shown) + 2)}")
        for method in mean.index:
            both = zip(mean.loc[method, shown], sd.loc[method, shown], DECIMALS.values(), strict=True)
            cells = [
                "–" if np.isnan(value) else f"{value:.{n}f}" + ("" if np.isnan(spread) else f" ± {spread:.{n}f}")
                for value, spread, n in both
            ]
            clock = mean.loc[method, "seconds"]
            title = f"**{method}**" if method in best else method
            print(f"| {title} | {' | '.join(cells)} | {'–' if np.isnan(clock) else f'{clock:.1f}'} |", flush=True)


if __name__ == "__main__":
    parser = options(SETS)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--before")
    given = parser.parse_args()
    main(given.datasets, given.seeds, [name for name in given.methods.split(",") if name], given.json, given.before)

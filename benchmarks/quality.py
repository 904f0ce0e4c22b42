"""What a map keeps of the labels and of the data, on cells it never saw: tt.fit beside other maps on real sets.

    TRIPLETOMICS_DATA=folder python benchmarks/quality.py --keep maps [dataset ...] [--seeds N]
        [--methods umap,tsne,...] [--scvi python] [--tables]

Each set is split at random within types (30 % held out), or by platform where it has any, each platform held out in
turn. Other maps are given scanpy's usual components, fitted on the training cells: 10,000 counts a cell, logged, 2,000
dispersed genes, unit variance cut at 10, 50 principal components; tt.fit is given the table. The reference are the same
components, cross-fitted by scikit-learn: each training cell has the coordinates that four fifths of the others give it,
turned to the whole (orthogonal Procrustes). Methods whose name ends in _crossfit are given the training cells in
these. Logistic regression is given the scaled genes; its penalty is chosen by threefold cross-validation.

`scanvi_umap` is UMAP of scANVI's latent space; --scvi names the Python of an environment with scvi-tools.
`parametric_umap_supervised` needs TensorFlow. Neither is in the default list.

The coordinates of every fit are kept in the folder `maps`, and a second run fits only what is missing there. --tables
fits nothing. Either way docs/tables/quality*.csv are written, from all that is in the folder. All scores are of
held-out cells against training cells, with 95 % intervals of a bootstrap over the held-out cells, and over the seeds
where there are several (`intervals.py`):

F1            macro-F1 of the 15 nearest neighbours
recall        share of the 30 nearest training cells of the reference that are among the 30 nearest in the map
within types  the same with 15 neighbours inside a type, (recall - chance) / (1 - chance), mean over types of over 30
              training cells
distances     mean over types of the Spearman correlation of its distances to the centres of the others, from 6 types on

Four more say how a map looks (tripletomics.metrics.page_use and exchangeability), mean over seeds: of all its cells,
and of how held-out cells lie beside training cells of their type, where the split is random.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from common import PROTEINS, SETS, options, read, splits_of, stamp, start, usual, write_table
from embeddings import latent
from intervals import difference, macro_f1, mean, mean_of_types, over_seeds, resamples, shown
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import KFold

import tripletomics as tt
from tripletomics import baselines, labels, metrics
from tripletomics.baselines.methods import title_of
from tripletomics.baselines.neighbour_maps import MIN_DIST, SPREAD
from tripletomics.knn import NEIGHBOURS, nearest

LABELS = {  # where they come from, and whether it is from what the map is made of; those where it is not come first
    "scmixology_3platform": ("genotype", "no"),
    "flow_flowcap_sample": ("manual gates", "no: drawn by people, but on the same proteins"),
    "cite_cbmc_adt": ("types by RNA; the map is of proteins", "no"),
    "panc8_small": ("markers, study by study", "not known, probably partly"),
    "human_kidney": ("published annotation", "not known, probably partly"),
    "worm_neuron": ("published annotation", "not known, probably partly"),
    "pbmc3k": ("clusters of the same RNA", "yes"),
    "paul15": ("clusters of the same RNA", "yes"),
    "cite_cbmc_rna": ("clusters of the same RNA", "yes"),
}
MAPS = ["tt", "umap", "tsne", "umap_crossfit", "tsne_crossfit", "pacmap", "umap_supervised", "lda", "pca2"]
SUPERVISED = {"umap_supervised_crossfit": "supervised UMAP, cross-fitted PCs"}
ALONE = {  # fitted with one seed to three datasets
    "tt_alone": "tripletomics (seed 0)",
    "scanvi_umap": "UMAP of scANVI (seed 0, briefly trained, without batches)",
    "parametric_umap_supervised": "supervised parametric UMAP (seed 0)",
}
TITLES = {method: title_of(method) for method in MAPS} | SUPERVISED | ALONE
OURS = ("tt", "tt_alone")
NO_MAPS = {"tt_metric": "tripletomics, metric space (no map)", "regression": "logistic regression (no map)"}
METHODS = ",".join([*MAPS[1:], *SUPERVISED])
VERDICTS = ("better", "tie", "worse")
SCORES = ["F1", "recall", "within types", "distances"]
LOOKS = {"half of the cells, %": 1, "edge, %": 2, "held-out AUROC": 2, "held-out spread": 2}  # and decimals
Scores = dict[str, np.ndarray]  # name of a score -> its value, and its values for other draws of the cells
Fits = dict[str, Scores]  # split and seed -> scores


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


def regression(x: np.ndarray, y: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the codes that logistic regression names, its penalty chosen by threefold cross-validation."""
    strengths = np.array([2, 20, 200]) / x.shape[1]
    x = x.astype(np.float32)
    model = LogisticRegressionCV(Cs=strengths, cv=3, max_iter=200, scoring="f1_macro", tol=1e-3)
    return model.fit(x[known], y[known]).predict(x)


def parametric_umap_supervised(cells: baselines.Cells, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of training and query cells on the map of a network trained on UMAP's loss with labels."""
    from umap.parametric_umap import ParametricUMAP

    model = ParametricUMAP(
        n_neighbors=NEIGHBOURS, min_dist=MIN_DIST, spread=SPREAD, random_state=seed,
        batch_size=min(1000, len(cells.y)), keras_fit_kwargs={"verbose": 0},
    )  # fmt: skip
    return model.fit_transform(cells.train_pca, cells.y), model.transform(cells.query_pca)


def fit_all(name: str, split: float | str, seed: int, methods: list[str], folder: Path, scvi: str | None) -> None:
    """Fit what is missing in the folder on the training cells of a split, and keep the coordinates of all cells."""
    stem = f"{folder}/{name},{split},{seed}"
    adata = read(name)
    if not Path(f"{stem}.npz").exists():
        table = adata.copy()
        tt.fit(adata, label="cell_type", hold_out=split, seed=seed, progress=False)
        train = (adata.obs["tt_split"] == "train").to_numpy()
        y, _ = labels.encode(adata.obs["cell_type"], labels.UNLABELLED)
        x, given, axes = usual(table, train, counts=name not in PROTEINS)
        np.save(f"{stem},regression.npy", regression(x, y, train & (y >= 0)))
        np.save(f"{stem},tt.npy", adata.obsm["X_tt"])
        np.save(f"{stem},tt_metric.npy", adata.obsm["X_tt_metric"])
        r = crossfit(x, given, axes, train, seed).astype(np.float32)
        np.savez(f"{stem}.npz", given=given, r=r, y=y, train=train, measured=stamp())
    kept = np.load(f"{stem}.npz")
    train, given, y = (kept[key] for key in ("train", "given", "y"))
    cells = baselines.Cells(given[train], given[~train], y[train], train_new=kept["r"][train])
    for method in methods:
        if Path(f"{stem},{method}.npy").exists():
            continue
        if method == "scanvi_umap":
            z = latent(scvi, adata, ~train, seed)["scANVI"]
            both = baselines.METHODS["umap"].embed(baselines.Cells(z[train], z[~train], y[train]), seed)["map"]
        elif method == "umap_supervised_crossfit":
            as_new = baselines.Cells(kept["r"][train], given[~train], y[train])
            both = baselines.METHODS["umap_supervised"].embed(as_new, seed)["map"]
        elif method == "parametric_umap_supervised":
            both = parametric_umap_supervised(cells, seed)
        else:
            both = baselines.METHODS[method].embed(cells, seed)["map"]
        m = np.empty((len(train), 2), dtype=np.float32)
        m[train], m[~train] = both
        np.save(f"{stem},{method}.npy", m)


def shares(m: np.ndarray, r: np.ndarray, train: np.ndarray, held: np.ndarray, k: int) -> np.ndarray:
    """Return for each held-out cell which share of its nearest training cells in r are its nearest in m."""
    near_m, near_r = (nearest(z[train], z[held], k)[1] for z in (m, r))
    return (near_m[:, :, None] == near_r[:, None]).any(axis=2).mean(axis=1)


def order_of_types(m: np.ndarray, r: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over types of the rank correlation of their distances to the others in m and in r."""
    types = np.unique(codes)
    ranks = []
    for z in (m, r):
        with np.errstate(invalid="ignore"):
            centres = [weights[:, codes == t] @ z[codes == t] / weights[:, codes == t].sum(1)[:, None] for t in types]
        centres = np.stack(centres, axis=1).astype(float)
        squares = np.square(centres).sum(axis=2)
        d = squares[:, :, None] + squares[:, None] - 2 * centres @ centres.transpose(0, 2, 1)
        d = np.where(np.eye(len(types), dtype=bool), np.nan, d)
        rank = rankdata(d, axis=2, nan_policy="omit")
        ranks.append(rank - np.nanmean(rank, axis=2, keepdims=True))
    a, b = ranks
    return np.nanmean(np.nansum(a * b, 2) / np.sqrt(np.nansum(a * a, 2) * np.nansum(b * b, 2)), axis=1)


def scores_of(m: np.ndarray, r: np.ndarray, y: np.ndarray, train: np.ndarray, weights: np.ndarray) -> Scores:
    """Score the held-out cells of a map or a metric space."""
    known, held = train & (y >= 0), ~train
    named = metrics.knn_votes(m[known], y[known], m[held]).argmax(axis=1)
    above = np.full(len(y), np.nan)
    both = [code for code in np.unique(y[held & (y >= 0)]) if (y[train] == code).any()]
    for code in both:
        own, asked = train & (y == code), held & (y == code)
        if own.sum() > 30:
            chance = 15 / own.sum()
            above[asked] = (shares(m, r, own, asked, 15) - chance) / (1 - chance)
    shared = held & np.isin(y, both)
    return {
        "F1": macro_f1(y[held], named, weights[:, held]),
        "recall": mean(shares(m, r, train, held, 30), weights[:, held]),
        "within types": mean_of_types(above[held], y[held], weights[:, held]),
        "distances": order_of_types(m[shared], r[shared], y[shared], weights[:, shared])
        if len(both) > 5
        else np.full(len(weights), np.nan),
    }


def looks_of(m: np.ndarray, y: np.ndarray, train: np.ndarray, at_random: bool) -> dict[str, float]:
    """Score a map as a page, by the names of LOOKS."""
    page, told = metrics.page_use(m), metrics.exchangeability(m, y, ~train)
    strangers = [told[name] if at_random else np.nan for name in ("held_out_auroc", "spread_ratio")]
    return dict(zip(LOOKS, [100 * page["a50"], 100 * page["edge_share"], *strangers], strict=True))


def scored(name: str, folder: Path) -> tuple[dict[str, Fits], pd.DataFrame, str]:
    """Return the scores of each fit of each method on a dataset, how its pages look (mean over fits), and the stamp."""
    found: dict[str, Fits] = {}
    looks: list[dict[str, object]] = []
    stamps, weights = [], None
    for path in sorted(folder.glob(f"{name},*.npz")):
        kept = np.load(path)
        y, train, r = (kept[key] for key in ("y", "train", "r"))
        if weights is None:  # types, and platforms, of which each is held out in turn
            column = SETS[name]
            batch = 0 if column is None else pd.factorize(read(name).obs[column])[0]
            weights = resamples(len(y), y + (y.max() + 2) * batch)
        stamps.append(str(kept["measured"]))
        for file in folder.glob(f"{path.stem},*.npy"):
            method, m = file.stem.rpartition(",")[2], np.load(file)
            if method == "regression":
                scores = {"F1": macro_f1(y[~train], m[~train], weights[:, ~train])}
            else:
                scores = scores_of(m, r, y, train, weights)
            found.setdefault(method, {})[path.stem] = scores
            if method in TITLES:
                looks.append({"map": method} | looks_of(m, y, train, SETS[name] is None))
    return found, pd.DataFrame(looks).groupby("map").mean(), max(stamps)


def pooled(fits: Fits, score: str, others: Fits) -> np.ndarray:
    """Return a score, mean over the splits and seeds that others have, too; seeds are drawn again like cells."""
    by_seed: dict[str, list[np.ndarray]] = {}
    for key in sorted(fits.keys() & others.keys()):
        by_seed.setdefault(key.rpartition(",")[2], []).append(fits[key][score])
    return over_seeds(np.array([np.nanmean(splits, axis=0) for splits in by_seed.values()]))


def compared(found: dict[str, Fits], other: str) -> dict[str, str]:
    """Return in which scores tt's map is how much better than another, on the same cells."""
    ours, theirs = found["tt"], found[other]
    both = {score: [pooled(a, score, b) for a, b in ((ours, theirs), (theirs, ours))] for score in scores_in(theirs)}
    return {score: difference(*both[score]) for score in both}


def scores_in(fits: Fits) -> list[str]:
    """Return the names of the scores that fits have."""
    first = next(iter(fits.values()))  # in the order of SCORES
    return [score for score in first if not all(np.isnan(scores[score][0]) for scores in fits.values())]


def seeds_of(keys: Iterable[str]) -> int:
    """Return how many seeds are among the names of fits."""
    return len({key.rpartition(",")[2] for key in keys})


def described(name: str, adata: ad.AnnData) -> dict[str, object]:
    """Return how large a dataset is, and where its labels come from."""
    cells = adata.obs["cell_type"].value_counts()
    cells = cells[cells > 0]
    origin, built_in = LABELS[name]
    column = SETS[name]
    return {
        "data": name,
        "cells": f"{adata.n_obs:,}",
        "values of a cell": f"{adata.n_vars:,} {'proteins' if name in PROTEINS else 'genes'}",
        "types": len(cells),
        "cells of the rarest type": f"{cells.min():,}",
        "held out": "30 % of each type" if column is None else f"each of {adata.obs[column].nunique()} platforms",
        "labels": origin,
        "from the values of the map?": built_in,
    }


def by_seed(fits: Fits) -> str:
    """Return the lowest and the highest F1 of a seed, mean over its splits."""
    found: dict[str, list[float]] = {}
    for key in fits:
        found.setdefault(key.rpartition(",")[2], []).append(fits[key]["F1"][0])
    means = [np.mean(values) for values in found.values()]
    return f"{min(means):.3f} to {max(means):.3f}" if len(means) > 1 else "–"


def write_tables(names: list[str], folder: Path) -> None:
    """Write the six tables from what is kept."""
    scores, pages, summary, differences, data = [], [], [], [], []
    titles, no_score = TITLES | NO_MAPS, dict.fromkeys(SCORES, "–")
    for name in names:
        found, looks, day = scored(name, folder)
        if "scanvi_umap" in found:
            found["tt_alone"] = {key: found["tt"][key] for key in found["scanvi_umap"]}
        adata, last = read(name), {"measured": day}
        head = {"data": name, "labels": LABELS[name][0]}
        data.append(described(name, adata) | last)
        for method in [method for method in titles if method in found]:
            fits, title = found[method], {"map": titles[method]}
            values = {score: shown(pooled(fits, score, fits)) for score in scores_in(fits)}
            more = {"F1 by seed": by_seed(fits), "seeds": seeds_of(fits)}
            scores.append({"data": name} | title | no_score | values | more | last)
            if method in looks.index:
                values = {look: f"{looks.loc[method, look]:.{n}f}".replace("nan", "–") for look, n in LOOKS.items()}
                pages.append({"data": name} | title | values | last)
        next_to = {other: compared(found, other) for other in titles if other in found and other not in OURS}
        for other, values in next_to.items():
            seeds = {"seeds": seeds_of(found["tt"].keys() & found[other].keys())}
            differences.append({"data": name, "other": titles[other]} | seeds | no_score | values | last)
        words = {}
        for score in scores_in(found["tt"]):
            best = min(
                (other for other in next_to if other in TITLES),
                key=lambda other: float(next_to[other][score].split()[0]),
            )
            word = next_to[best][score].split()[-1]
            words[score] = f"{word} {'with' if word == 'tie' else 'than'} {TITLES[best]}"
        summary.append(head | no_score | words | last)
    tables = {"_data": data, "": scores, "_by_dataset": summary, "_differences": differences, "_pages": pages}
    for table, rows in tables.items():
        write_table(pd.DataFrame(rows), f"quality{table}")
    write_table(counts(pd.DataFrame(differences)), "quality_by_map")


def counts(differences: pd.DataFrame) -> pd.DataFrame:
    """Return on how many datasets tt's map is better, in a tie, or worse than each other."""
    rows = []
    for other, part in differences.groupby("other", sort=False):
        words = {score: part[score].str.split().str[-1].tolist() for score in SCORES}
        values = {score: "/".join(str(words[score].count(word)) for word in VERDICTS) for score in SCORES}
        values |= {score: "–" for score in SCORES if set(words[score]) == {"–"}}
        rows.append({"next to": other} | values | {"measured": part["measured"].max()})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = options(LABELS)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--scvi")
    parser.add_argument("--tables", action="store_true")
    given = parser.parse_args()
    start()
    given.keep.mkdir(parents=True, exist_ok=True)
    for seed in range(0 if given.tables else given.seeds):
        for name in given.datasets:
            for split in splits_of(read(name), name):
                fit_all(name, split, seed, given.methods.split(","), given.keep, given.scvi)
    write_tables([name for name in LABELS if any(given.keep.glob(f"{name},*.npz"))], given.keep)

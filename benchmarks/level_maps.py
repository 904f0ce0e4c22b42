"""What a tree of cell types changes on the map, on cells that it never saw.

    TRIPLETOMICS_DATA=folder python benchmarks/level_maps.py [dataset ...] [--seeds N] [--figure file.png]

Each set is fitted twice on the same split (30 % held out): with its cell types alone, and with the tree of them
(`trees.py`) as `parents`. "fine": all types are known. "mixed": 10 % of the cells of a type, at least 3, have it, and
all others only the name above it. To the fit without the tree these are unlabelled. Scores are of held-out cells by
their true types, mean and standard deviation over seeds.

f1      macro-F1 of the 15 nearest training cells on the map that are known on the level: of the types, and on average
        over the levels above them
order   congruence coefficient (cosine) of the distances between the centres of groups on the map with those in the
        principal components, of the types and on average over the levels above them
within  recall of the neighbours within types, above chance (`metrics.knn_recall_within_types`)

--figure draws the map and the tree of the first set, where half of the cells have their type.
"""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from common import options, read, start, with_sd, write_table
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from scipy.spatial.distance import pdist
from trees import BY_HAND

import tripletomics as tt
from tripletomics import metrics, pl
from tripletomics.labels.tree import Tree
from tripletomics.losses.levels import coarse_to_fine
from tripletomics.pl.branches import NO_FINER

FINE, MOST = 0.1, 4000  # share of the cells with their type; cells of a dataset


def coarsened(types: np.ndarray, parents: dict[str, str], share: float, seed: int) -> np.ndarray:
    """Return names of cells (cells,), in which a share of each type, at least 3 cells, keeps its type."""
    random, names = np.random.default_rng(seed), types.copy()
    for name in np.unique(types):
        rows = random.permutation(np.flatnonzero(types == name))
        names[rows[max(3, int(share * len(rows))) :]] = parents.get(name, name)
    return names


def congruence(m: np.ndarray, r: np.ndarray, y: np.ndarray) -> float:
    """Return the congruence coefficient of the distances between centres; NaN for fewer than three groups."""
    groups = np.unique(y[y >= 0])
    a, b = (pdist(np.stack([z[y == code].mean(axis=0) for code in groups])) for z in (m, r))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) if len(groups) > 2 else np.nan


def scores(adata: ad.AnnData, tree: Tree, names: np.ndarray) -> dict[str, float]:
    """Score the map of a fit; `names` are the labels that training cells had."""
    m, r = adata.obsm["X_tt"], adata.obsm["X_tt_pca"]
    held = (adata.obs["tt_split"] == "held-out").to_numpy()
    position = {name: code for code, name in enumerate(tree.names)}
    true, known = (np.array([position[name] for name in each]) for each in (adata.obs["cell_type"], names))
    levels = zip(coarse_to_fine(true, tree.leaves_below()), coarse_to_fine(known, tree.leaves_below()), strict=True)
    rows = []
    for y, given in levels:
        train = ~held & (given >= 0)
        f1 = metrics.knn_macro_f1(m[train], given[train], m[held], y[held])
        rows.append((f1, congruence(m[held], r[held], y[held])))
    (*coarse, fine), train = np.array(rows), ~held
    above = np.nanmean(coarse, axis=0)
    within = metrics.knn_recall_within_types(m[train], r[train], true[train], m[held], r[held], true[held])
    return {
        "f1 of types": fine[0], "f1 above": above[0], "order of types": fine[1], "order above": above[1],
        "within": within,
    }  # fmt: skip


def cells_of(name: str) -> ad.AnnData:
    """Return a dataset, of a large one some cells."""
    adata = read(name)
    adata = adata[np.random.default_rng(0).permutation(adata.n_obs)[:MOST]].copy()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    return adata


def compare(name: str, seeds: int) -> list[dict[str, object]]:
    """Return a row for each seed, kind of labels and fit."""
    adata, parents, rows = cells_of(name), BY_HAND[name], []
    types = adata.obs["cell_type"].to_numpy(dtype=object)
    inner = {*parents.values()}
    tree = Tree.of({node: parents.get(node) for node in {*types, *inner}})
    for seed in range(seeds):
        for kind in ("fine", "mixed"):
            names = types if kind == "fine" else coarsened(types, parents, FINE, seed)
            for fit, given in (("types alone", None), ("tree", parents)):
                adata.obs["given"] = names if given else np.where(np.isin(names, [*inner]), None, names)
                adata.obs["spared"] = coarsened(types, dict.fromkeys(types, ""), 0.3, 100 + seed) != ""
                tt.fit(adata, "given", parents=given, hold_out="spared", seed=seed, progress=False)
                rows.append({"dataset": name, "labels": kind, "fit": fit} | scores(adata, tree, names))
    return rows


def draw(name: str, path: Path) -> None:
    """Draw the map and the tree of a fit on labels of mixed depth."""
    adata, parents = cells_of(name), BY_HAND[name]
    adata.obs["cell_type"] = coarsened(adata.obs["cell_type"].to_numpy(dtype=object), parents, 0.5, 0)
    model = tt.fit(adata, "cell_type", parents=parents, progress=False)
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.88, 4.2), width_ratios=(1.45, 1), layout="constrained")
    pl.embedding(adata, "cell_type", ax=left, title="")
    pl.tree(model, ax=right)
    rest = [one for one in left.get_legend().legend_handles if not str(one.get_label()).endswith(NO_FINER)]
    pale = Line2D([], [], linestyle="", marker="o", color="0.85", label="pale: known coarsely")
    left.legend(handles=[pale, *rest], fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.07))
    figure.savefig(path, dpi=200)


if __name__ == "__main__":
    parser = options(BY_HAND)
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    start()
    if asked.figure:
        draw(asked.datasets[0], asked.figure)
    else:
        table = pd.DataFrame([row for name in asked.datasets for row in compare(name, asked.seeds)])
        words = with_sd(table.groupby(["dataset", "labels", "fit"], sort=False)).add_suffix(" (± sd)")
        write_table(words.reset_index(), "level_maps")

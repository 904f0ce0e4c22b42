"""Cells of which a tenth are known finely and the rest coarsely: levels, next to other ways to use such labels.

    python benchmarks/levels.py [pbmc3k paul15 ...] [--seeds 3] [--loss triplet]

prints the table of docs/experiments.md: the macro-F1 of the fine types of held-out cells (20 % of each type).
"predicted" is the best fine type by the model's evidence; "map" and "metric" are votes of the 15 nearest cells that are
known finely, which a type with few of them can hardly win, or of the landmarks of the model, to which levels add the
cells whose fine type is inferred. The methods:

    unlabelled  a coarsely known cell counts as unlabelled
    names       coarse names are types like the others
    levels      label=["coarse", "fine"]
    all fine    every training cell is known finely (the votes are those of the same cells as above)

Of a set, 3,000 cells are drawn if it has more. Trees of kidney and worm come from distances between the centroids of
training cells. In panc8_small two platforms of five are known finely, and the rest coarsely. Datasets are found through
TRIPLETOMICS_DATA.
"""

from __future__ import annotations

import time

import anndata as ad
import common
import numpy as np
import pandas as pd
from common import note, print_table
from scipy.cluster.hierarchy import fcluster, linkage

import tripletomics as tt
from tripletomics import metrics, pp

TREES = {
    "pbmc3k": {
        "T cell": ["Naive CD4 T", "Memory CD4 T", "CD8 T"], "NK cell": ["NK"], "B cell": ["B"],
        "Myeloid": ["CD14+ Mono", "FCGR3A+ Mono", "DC"], "Megakaryocyte": ["Platelet"],
    },
    "paul15": {
        "Erythroid": [f"{i}Ery" for i in range(1, 7)], "Progenitor": ["7MEP", "8Mk", "9GMP", "10GMP"],
        "Myeloid": ["11DC", "12Baso", "13Baso", "14Mo", "15Mo", "16Neu", "17Neu", "18Eos"], "Lymphoid": ["19Lymph"],
    },
    "cite_cbmc_rna": {
        "T cell": ["Memory CD4 T", "Naive CD4 T", "CD8 T"], "NK cell": ["NK"], "B cell": ["B"],
        "Myeloid": ["CD14+ Mono", "CD16+ Mono", "DC", "pDCs"], "Progenitor": ["CD34+", "Eryth", "Mk"],
        "No single cell": ["Mouse", "T/Mono doublets", "Multiplets"],
    },
    "panc8_small": {"Endocrine": ["alpha", "beta", "delta"], "Exocrine": ["acinar", "ductal"], "Rest": ["endothelial"]},
}  # fmt: skip
SETS = [*TREES, "human_kidney", "worm_neuron"]
MOST = 3000  # cells of a set
HELD_OUT, FINE, FEWEST = 0.2, 0.1, 3  # shares of each type that are held out and known finely, at least so many cells
FINE_BATCHES = 2  # platforms of panc8_small that are known finely
METHODS = {"unlabelled": "fine", "names": "names", "levels": ["coarse", "fine"], "all fine": "truth"}
SPACES = {"map": "X_tt", "metric": "X_tt_metric"}


def share(types: np.ndarray, cells: np.ndarray, part: float, fewest: int, random: np.random.Generator) -> np.ndarray:
    """Draw a share of some cells of each type, at least so many, boolean (cells,)."""
    drawn = np.zeros(len(types), dtype=bool)
    for name in np.unique(types):
        rows = random.permutation(np.flatnonzero((types == name) & cells))
        drawn[rows[: max(fewest, round(part * len(rows)))]] = True
    return drawn


def parents_of(adata: ad.AnnData, name: str, train: np.ndarray) -> dict[str, str]:
    """Return the coarse name of each type: by hand, or of near centroids of training cells."""
    if name in TREES:
        return {fine: coarse for coarse, members in TREES[name].items() for fine in members}
    _, pcs, _ = common.usual(adata, train, counts=True)
    types = adata.obs["truth"].to_numpy()
    names = np.unique(types)
    centroids = np.stack([pcs[train & (types == one)].mean(axis=0) for one in names])
    groups = fcluster(linkage(centroids, "average"), max(3, len(names) // 3), "maxclust")
    return {one: f"group {group}" for one, group in zip(names, groups, strict=True)}


def split(name: str, seed: int) -> tuple[ad.AnnData, ad.AnnData]:
    """Return the training cells, with the labels of each method in their columns, and the held-out cells."""
    adata, random = common.read(name), np.random.default_rng(seed)
    if adata.n_obs > MOST:
        adata = adata[np.sort(np.random.default_rng(0).permutation(adata.n_obs)[:MOST])].copy()
    types = adata.obs["truth"] = adata.obs["cell_type"].astype(str)
    held = share(types.to_numpy(), np.ones(adata.n_obs, dtype=bool), HELD_OUT, 1, random)
    adata.obs["coarse"] = types.map(parents_of(adata, name, ~held))
    if name == "panc8_small":
        known = adata.obs["batch"].isin(random.permutation(adata.obs["batch"].unique())[:FINE_BATCHES]).to_numpy()
    else:
        known = share(types.to_numpy(), ~held, FINE, FEWEST, random)
    adata.obs["fine"] = types.where(known)
    adata.obs["names"] = types.where(known, adata.obs["coarse"])
    return adata[~held].copy(), adata[held].copy()


def scores(train: ad.AnnData, query: ad.AnnData, method: str, seed: int, loss: str | None) -> dict[str, float]:
    """Return the macro-F1 of fine types of held-out cells, and the seconds of the fit."""
    began = time.perf_counter()
    model = tt.fit(train, METHODS[method], loss=loss, hold_out=0, seed=seed, progress=False)
    seconds = time.perf_counter() - began
    found, z, m = model.predict(pp.take_query(query, model.features, None, pp.QueryOptions(min_matched=0)).x)
    names = np.unique([*train.obs["truth"], *query.obs["truth"]])
    y, truth = (np.searchsorted(names, cells.obs["truth"]) for cells in (train, query))
    known = train.obs["fine"].notna().to_numpy()
    types, reference = np.array(model.types), model.reference
    known_as = types[reference.codes]
    marks = np.isin(known_as, names)
    row = {}
    for (space, key), at, landmarks in zip(SPACES.items(), (m, z), (reference.map, reference.z), strict=True):
        row[space] = metrics.knn_macro_f1(train.obsm[key][known], y[known], at, truth)
        inferred = np.searchsorted(names, known_as[marks])
        row[f"{space}, landmarks"] = metrics.knn_macro_f1(landmarks[marks], inferred, at, truth)
    fine = np.isin(types, names)
    best = types[fine][found.probabilities[:, fine].argmax(axis=1)]
    return row | {"predicted": metrics.macro_f1(truth, np.searchsorted(names, best)), "seconds": seconds}


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean and sd over seeds of levels minus each other method, for each set."""
    means, rows = table.set_index(["set", "seed", "method"]).drop(columns="seconds"), []
    levels = means.xs("levels", level="method")
    for other in METHODS:
        if other != "levels" and other in table["method"].to_numpy():
            gaps = levels - means.xs(other, level="method")
            for name, found in gaps.groupby(level="set", sort=False):
                rows.append({"set": name, "levels -": other} | {
                    column: f"{found[column].mean():+.3f} ± {found[column].std():.3f}" for column in gaps})  # fmt: skip
            rows.append({"set": "mean of sets", "levels -": other} | {
                column: f"{gaps[column].groupby(level='set').mean().mean():+.3f}" for column in gaps})  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    """Print the scores of each method on each set, and the differences."""
    parser = common.options(SETS)
    parser.add_argument("--loss", help="a loss for all methods, in place of the default")
    given = parser.parse_args()
    common.start()
    rows = []
    for name in given.datasets:
        for seed in range(given.seeds):
            train, query = split(name, seed)
            for method in METHODS:
                found = scores(train.copy(), query.copy(), method, seed, given.loss)
                rows.append(note({"set": name, "seed": seed, "method": method} | found))
    table = pd.DataFrame(rows)
    columns = [column for column in table if column not in ("set", "seed", "method")]
    grouped = table.groupby(["set", "method"], sort=False)[columns].agg(["mean", "std"])
    print_table(pd.DataFrame([
        {"set": name, "method": method} | {
            column: f"{row[column, 'mean']:.3f} ± {row[column, 'std']:.3f}" for column in columns[:-1]
        } | {"seconds": f"{row['seconds', 'mean']:.0f}"}
        for (name, method), row in grouped.iterrows()
    ]))  # fmt: skip
    print_table(differences(table))


if __name__ == "__main__":
    main()

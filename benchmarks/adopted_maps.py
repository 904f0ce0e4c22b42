"""How far learned coordinates of held-out cells are from the true ones on an adopted map, next to other ways.

A map is fitted to all cells by scanpy's usual steps, and only its coordinates are handed over. 30 % of each type are
held out. "ingest" is given the training cells with the adopted coordinates. "its own transform" (of UMAP, or of
openTSNE) is given all cells, so it has seen those that it embeds.

    TRIPLETOMICS_DATA=folder python benchmarks/adopted_maps.py [datasets] [--seeds 3]
"""

from __future__ import annotations

import time

import anndata as ad
import common
import numpy as np
import openTSNE
import pandas as pd
import scanpy as sc
from umap.umap_ import find_ab_params

import tripletomics as tt
from tripletomics import metrics
from tripletomics.knn import nearest

DATASETS = ("pbmc3k", "cite_cbmc_rna", "human_kidney", "worm_neuron")
SEEN = "its own transform (has seen these cells)"
COLUMNS = ["dataset", "map", "method"]


def add_components(cells: ad.AnnData, train: np.ndarray, seed: int) -> None:
    """Add scanpy's usual components of logged genes, fitted to the training cells."""
    chosen = sc.pp.highly_variable_genes(cells[train], n_top_genes=min(2000, cells.n_vars), inplace=False)
    genes = cells[:, chosen["highly_variable"].to_numpy()]
    reference = genes[train].copy()
    common.add_pca(reference, seed)
    x = genes.X.toarray()
    cells.obsm["X_pca"] = (x - x[train].mean(axis=0)) @ reference.varm["PCs"]


def make_maps(cells: ad.AnnData, seed: int) -> dict[str, np.ndarray]:
    """Return scanpy's UMAP and a t-SNE of all cells."""
    whole = cells.copy()
    add_components(whole, np.ones(cells.n_obs, dtype=bool), seed)
    common.add_umap(whole, seed)
    tsne = openTSNE.TSNE(random_state=seed, n_jobs=1).fit(whole.obsm["X_pca"])
    return {"UMAP": np.asarray(whole.obsm["X_umap"]), "t-SNE": np.asarray(tsne, dtype=np.float32)}


def ingest(pca: np.ndarray, m: np.ndarray, known: np.ndarray, asked: np.ndarray, seed: int) -> np.ndarray:
    """Place cells by scanpy's ingest on the coordinates of others."""
    reference, query = (ad.AnnData(np.zeros((rows.sum(), 1), dtype=np.float32)) for rows in (known, asked))
    reference.obsm["X_pca"], query.obsm["X_pca"] = pca[known], pca[asked]
    sc.pp.neighbors(reference, use_rep="X_pca", random_state=seed)
    a, b = find_ab_params(1.0, 0.5)
    reference.obsm["X_umap"] = m[known]
    reference.uns["umap"] = {"params": {"a": a, "b": b, "random_state": seed}}
    sc.tl.ingest(query, reference, embedding_method="umap")
    return np.asarray(query.obsm["X_umap"])


def means(pca: np.ndarray, m: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return the mean coordinates of the 15 nearest training cells of each held-out cell."""
    return m[train][nearest(pca[train], pca[~train], 15)[1]].mean(axis=1)


def scores(found: np.ndarray, m: np.ndarray, y: np.ndarray, train: np.ndarray) -> dict[str, float]:
    """Return the errors of held-out cells in percent of the map's width, and the macro-F1 of their neighbours."""
    error = 100 * np.linalg.norm(found - m[~train], axis=1) / np.ptp(m[train], axis=0).max()
    f1 = metrics.knn_macro_f1(m[train], y[train], found, y[~train])
    right = metrics.knn_votes(m[train], y[train], found, y.max() + 1).argmax(axis=1) == y[~train]
    return {"median %": float(np.median(error)), "90 %": float(np.quantile(error, 0.9)), "15-NN F1": f1,
            "right type": float(right.mean())}  # fmt: skip


def compare(name: str, seed: int) -> list[dict[str, object]]:
    """Return the scores of all methods on both maps of a dataset."""
    adata = common.read(name)
    y = adata.obs["cell_type"].astype("category").cat.codes.to_numpy().astype(int)
    cells, rows = adata.copy(), []
    common.log_normalise(cells)
    plain = cells.copy()
    for kind, m in make_maps(cells, seed).items():
        adata.obsm["X_map"] = m
        started = time.perf_counter()
        tt.fit(adata, "cell_type", map="X_map", hold_out=0.3, seed=seed, progress=False)
        seconds = time.perf_counter() - started
        train = (adata.obs["tt_split"] == "train").to_numpy()
        add_components(plain, train, seed)
        pca, scaled = plain.obsm["X_pca"], common.usual(adata, train, counts=True)[1]
        nearest_means = [means(pcs, m, train) for pcs in (pca, scaled, adata.obsm["X_tt_pca"])]
        found = {
            "tt": adata.obsm["X_tt"][~train],
            "mean of 15 nearest": min(nearest_means, key=lambda one: scores(one, m, y, train)["median %"]),
            "ingest": ingest(pca, m, train, ~train, seed),
            SEEN: ingest(pca, m, np.ones_like(train), ~train, seed),
            "true coordinates": m[~train],
        }
        for method, one in found.items():
            row = {"dataset": name, "map": kind, "method": method, "seed": seed, **scores(one, m, y, train)}
            rows.append(common.note(row | {"seconds": seconds if method == "tt" else np.nan}))
    return rows


def main() -> None:
    """Write docs/tables/published_map.csv."""
    given = common.options(DATASETS).parse_args()
    common.start()
    rows = [row for name in given.datasets for seed in range(given.seeds) for row in compare(name, seed)]
    groups = pd.DataFrame(rows).groupby(COLUMNS, sort=False)
    table = groups.mean().drop(columns=["seed", "seconds"])
    table.insert(0, "seeds", groups.size())
    mean = table["median %"].xs("mean of 15 nearest", level="method")
    ours = table["median %"].xs("tt", level="method") / mean
    table["of the mean of 15"] = (
        ours.reindex(table.index.droplevel("method")).where(table.index.get_level_values("method") == "tt").to_numpy()
    )
    common.write_table(table.reset_index(), "published_map")


if __name__ == "__main__":
    main()

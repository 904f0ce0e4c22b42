"""Held-out macro-F1 and wall time of tt.fit beside scanpy's UMAP, on the same splits of real cells.

    TRIPLETOMICS_DATA=folder python benchmarks/main_job.py

Both learn from the same 70 % of the cells, drawn within types, and place the other 30 %: tt with its model, UMAP with
`scanpy.tl.ingest`. Time covers everything from the raw table to the places of all cells; that of tt.fit includes its
scores and its null. Three seeds; UMAP is compiled before the clock starts.
"""

from __future__ import annotations

import sys
import time

import anndata as ad
import numpy as np
import scanpy as sc
from common import MAIN, PROTEINS, add_pca, add_umap, log_normalise, place_by_umap, read, start

import tripletomics as tt
from tripletomics.metrics import knn_macro_f1

SEEDS = (0, 1, 2)


def scanpy_umap(adata: ad.AnnData, train: np.ndarray, seed: int, counts: bool) -> np.ndarray:
    """Fit scanpy's usual PCA + neighbours + UMAP on the training cells and place the others with ingest."""
    reference, query = adata[train].copy(), adata[~train].copy()
    if counts:
        for part in (reference, query):
            log_normalise(part)
    if reference.n_vars > 2000:
        sc.pp.highly_variable_genes(reference, n_top_genes=2000)
        genes = reference.var_names[reference.var["highly_variable"]]
        reference, query = reference[:, genes].copy(), query[:, genes].copy()
    add_pca(reference, seed)
    add_umap(reference, seed)
    place_by_umap(query, reference)
    places = np.empty((adata.n_obs, 2), dtype=np.float32)
    places[train], places[~train] = reference.obsm["X_umap"], query.obsm["X_umap"]
    return places


def main(names: tuple[str, ...]) -> None:
    start()
    warm = ad.AnnData(np.random.default_rng(0).normal(size=(9000, 20)).astype(np.float32))
    scanpy_umap(warm, np.arange(9000) < 8500, 0, counts=False)
    print("| dataset | tt map | tt metric | permuted map | UMAP | tt s | UMAP s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in names:
        rows = []
        for seed in SEEDS:
            adata = read(name)
            started = time.perf_counter()
            model = tt.fit(adata, label="cell_type", hold_out=0.3, seed=seed, progress=False)
            seconds = time.perf_counter() - started
            train = (adata.obs["tt_split"] == "train").to_numpy()
            started = time.perf_counter()
            places = scanpy_umap(adata, train, seed, counts=name not in PROTEINS)
            umap_seconds = time.perf_counter() - started
            y = adata.obs["cell_type"].astype("category").cat.codes.to_numpy()
            umap = knn_macro_f1(places[train], y[train], places[~train], y[~train])
            held_out, null = model.scores["held-out"], model.scores["permuted"]
            rows.append((held_out["map"], held_out["metric"], null["map"], umap, seconds, umap_seconds))
        mean, sd = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1)
        scores = " | ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(mean[:4], sd[:4], strict=True))
        print(f"| {name} | {scores} | {mean[4]:.1f} | {mean[5]:.1f} |", flush=True)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or MAIN)

"""An embedding in place of the genes: held-out cells by `tt.fit(adata, label, use_rep=...)`, next to `tt.fit` on genes.

    TRIPLETOMICS_DATA=folder python benchmarks/embeddings.py [dataset ...] [--seeds N] [--rows FILE] [--scvi PYTHON]

writes docs/tables/embeddings.csv. 30 % of each type are held out; of panc8_small also each platform in turn.
X_pca is scanpy's usual one (``common.usual``), fitted on the training cells, on which the held-out cells are projected.
PYTHON is that of an environment with scvi-tools: `scvi_latent.py` then makes X_scVI and scANVI's latent space of pbmc3k
and cite_cbmc_rna, trained on the training cells. Macro-F1 of held-out cells, mean ± sd over seeds:

map, metric   by the 15 nearest training cells on the map and in the metric space
15-NN         by the 15 nearest training cells in the embedding itself
classifier    by that of the method "mlp" of `tt.compare` on the embedding; of scANVI by its own

With --rows, the rows are kept in a file (.csv), and a second run computes only those that are not there.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from common import mlp, note, options, read, start, usual, with_sd, write_table

from tripletomics import labels, metrics, pp
from tripletomics.embedding import coordinates
from tripletomics.problem import Settings
from tripletomics.training import train_encoder, train_map

DATASETS = (
    "pbmc3k",
    "paul15",
    "cite_cbmc_rna",
    "human_kidney",
    "worm_neuron",
    "panc8_small",
    "panc8_small by platform",
)
LATENT, LATENT_DATA = ("pbmc3k", "cite_cbmc_rna"), ("X_scVI", "scANVI")
SCORES = ["map", "metric", "15-NN", "classifier"]


def splits_of(adata: ad.AnnData, name: str) -> list[float | str]:
    """Return how cells of a dataset are held out."""
    if not name.endswith("by platform"):
        return [0.3]
    return [f"batch={group}" for group in adata.obs["batch"].unique()]


def f1(z: np.ndarray, codes: np.ndarray, held: np.ndarray) -> float:
    """Return the 15-NN macro-F1 of held-out cells."""
    return metrics.knn_macro_f1(z[~held], codes[~held], z[held], codes[held])


def fit(adata: ad.AnnData, codes: np.ndarray, held: np.ndarray, seed: int, **given: str) -> dict[str, float]:
    """Return the scores of a fit without its calibration, which changes no coordinates."""
    _, settings, problem = pp.prepare(adata, Settings(label="cell_type", hold_out=held, seed=seed, **given))
    networks, _ = train_map(problem, settings, train_encoder(problem, settings))
    found = coordinates(networks, problem.rows, problem.pcs)
    return {space: f1(found[space], codes, held) for space in ("map", "metric")}


def by_mlp(x: np.ndarray, codes: np.ndarray, held: np.ndarray, seed: int) -> float:
    """Return the macro-F1 of a classifier on the dimensions of an embedding."""
    known = ~held & (codes >= 0)
    x = x / x[known].std()
    asked = held & (codes >= 0)
    return metrics.macro_f1(codes[asked], mlp(seed).fit(x[known], codes[known]).predict(x[asked]))


def latent(python: str, adata: ad.AnnData, held: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return the latent spaces of scVI and scANVI, trained on the training cells in another environment."""
    with tempfile.TemporaryDirectory() as name:
        cells = ad.AnnData(adata.X, adata.obs[["cell_type"]].astype(str), adata.var[[]])
        cells.obs["held_out"] = held
        cells.write_h5ad(Path(name) / "cells.h5ad")
        script = Path(__file__).with_name("scvi_latent.py")
        subprocess.run([python, script, f"{name}/cells.h5ad", f"{name}/latent.npz", str(seed)], check=True)
        with np.load(Path(name) / "latent.npz") as file:
            return dict(file)


def rows_of(name: str, seed: int, wanted: list[str], python: str | None) -> list[dict[str, object]]:
    """Return the scores of the wanted data on one dataset with one seed, mean over its splits."""
    adata = read(name.partition(" ")[0])
    codes, classes = labels.encode(adata.obs["cell_type"], labels.UNLABELLED)
    found: list[dict[str, object]] = []
    for split in splits_of(adata, name):
        held = pp.split(adata, split, codes, seed)
        embeddings = {"X_pca": usual(adata, ~held, True)[1]} if "X_pca" in wanted else {}
        if python is not None and {*LATENT_DATA} & {*wanted}:
            embeddings |= latent(python, adata, held, seed)
        for data in wanted:
            row: dict[str, object] = {"dataset": name, "seed": seed, "data": data}
            if data == "genes":
                row |= fit(adata, codes, held, seed)
            else:
                x = adata.obsm[data] = embeddings[data]
                row["15-NN"] = f1(x, codes, held)
                if data == "scANVI":
                    named = pd.Series(embeddings["predicted"]).map(dict(zip(classes, range(len(classes)), strict=True)))
                    row["classifier"] = metrics.macro_f1(codes[held], named.fillna(-1).to_numpy(int)[held])
                else:
                    row |= fit(adata, codes, held, seed, use_rep=data)
                    row["classifier"] = by_mlp(x, codes, held, seed)
            found.append(note(row | {"split": split}))
    return found


def table_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean ± sd over seeds, a row for each dataset and what was read."""
    by_seed = rows.groupby(["dataset", "data", "seed"], sort=False)[SCORES].mean()
    groups = by_seed.groupby(["dataset", "data"], sort=False)
    words = with_sd(groups).add_suffix(" (± sd)")
    words.insert(0, "seeds", groups.size())
    return words.reset_index()


def main(names: list[str], seeds: int, data: list[str], file: Path | None, python: str | None) -> None:
    start()
    kept = file is not None and file.exists()
    rows = pd.read_csv(file) if kept else pd.DataFrame(columns=["dataset", "seed", "data", "split", *SCORES])
    for seed in range(seeds):
        for name in names:
            wanted = [one for one in data if one not in LATENT_DATA or (python is not None and name in LATENT)]
            there = set(rows.loc[(rows["dataset"] == name) & (rows["seed"] == seed), "data"])
            left = [one for one in wanted if one not in there]
            if left:
                rows = pd.concat([rows, pd.DataFrame(rows_of(name, seed, left, python))], ignore_index=True)
                if file is not None:
                    rows.to_csv(file, index=False)
    write_table(table_of(rows[rows["dataset"].isin(names) & (rows["seed"] < seeds)]), "embeddings")


if __name__ == "__main__":
    parser = options(DATASETS)
    parser.add_argument("--data", nargs="+", default=["genes", "X_pca", *LATENT_DATA])
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--scvi", metavar="PYTHON")
    given = parser.parse_args()
    main(given.datasets, given.seeds, given.data, given.rows, given.scvi)

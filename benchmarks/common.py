"""What the benchmarks share: datasets, scanpy's usual steps, the MLP that others compare with, and tables."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from pandas.api.typing import DataFrameGroupBy
from sklearn.neural_network import MLPClassifier

import tripletomics as tt
from tripletomics.baselines import neural

SETS = {  # and the column of their platforms, each of which is held out in turn
    "pbmc3k": None, "paul15": None, "cite_cbmc_rna": None, "human_kidney": None, "worm_neuron": None,
    "cite_cbmc_adt": None, "flow_flowcap_sample": None, "panc8_small": "batch", "scmixology_3platform": "platform",
}  # fmt: skip
PROTEINS = ("flow_flowcap_sample", "cite_cbmc_adt")
MAIN = ("pbmc3k", "cite_cbmc_rna", "flow_flowcap_sample")


def start() -> None:
    """Silence what libraries say, after checking that the folder of the datasets is named."""
    if "TRIPLETOMICS_DATA" not in os.environ:
        sys.exit("TRIPLETOMICS_DATA is not set: name the folder of the datasets.")
    warnings.simplefilter("ignore")
    sc.settings.verbosity = 0


def read(name: str) -> ad.AnnData:
    """Return a dataset of the folder TRIPLETOMICS_DATA."""
    return ad.read_h5ad(Path(os.environ["TRIPLETOMICS_DATA"]) / f"{name}.h5ad")


def options(datasets: Iterable[str], seeds: int | None = 3) -> argparse.ArgumentParser:
    """Return a command line that takes names of datasets, and the number of seeds unless it is None."""
    parser = argparse.ArgumentParser()
    parser.add_argument("datasets", nargs="*", default=list(datasets))
    if seeds is not None:
        parser.add_argument("--seeds", type=int, default=seeds)
    return parser


def splits_of(adata: ad.AnnData, name: str) -> list[float | str]:
    """Return how cells of a dataset are held out: 30 % of each type, or each platform in turn."""
    column = SETS[name]
    return [0.3] if column is None else [f"{column}={group}" for group in adata.obs[column].unique()]


def log_normalise(adata: ad.AnnData) -> None:
    """Bring counts to 10,000 a cell and take logarithms, in place."""
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)


def usual(adata: ad.AnnData, train: np.ndarray, counts: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scaled genes, their principal components and the axes, by scanpy's steps fitted on the training cells."""
    cells = adata.copy()
    if counts:
        log_normalise(cells)
    if cells.n_vars > 2000:
        cells = cells[:, sc.pp.highly_variable_genes(cells[train], n_top_genes=2000, inplace=False)["highly_variable"]]
    x = cells.X.toarray() if sp.issparse(cells.X) else np.asarray(cells.X)
    deviation = x[train].std(axis=0)
    x = np.clip((x - x[train].mean(axis=0)) / np.where(deviation > 0, deviation, 1), -10, 10)
    n = min(50, x.shape[1] - 1 if x.shape[1] > 50 else x.shape[1])
    reference = ad.AnnData(x[train])
    sc.pp.pca(reference, n_comps=n, random_state=0, svd_solver="full" if n < 50 else "arpack")
    axes = reference.varm["PCs"]
    return x, ((x - x[train].mean(axis=0)) @ axes).astype(np.float32), axes


def add_pca(reference: ad.AnnData, seed: int = 0) -> None:
    """Add scanpy's usual components of logged values, without scaling."""
    sc.pp.pca(reference, n_comps=min(50, reference.n_vars - 1), random_state=seed)


def add_umap(reference: ad.AnnData, seed: int = 0) -> None:
    """Add scanpy's neighbours and UMAP of the components."""
    sc.pp.neighbors(reference, random_state=seed)
    sc.tl.umap(reference, random_state=seed)


def place_by_umap(query: ad.AnnData, reference: ad.AnnData) -> None:
    """Place new cells on the UMAP of others."""
    sc.tl.ingest(query, reference, embedding_method="umap")


def mlp(seed: int) -> MLPClassifier:
    """Return the untrained network of the method "mlp" of `tt.compare`, for its probabilities."""
    epochs = {"max_iter": neural.EPOCHS, "n_iter_no_change": neural.EPOCHS}
    return MLPClassifier(neural.HIDDEN, alpha=neural.WEIGHT_DECAY, random_state=seed, **epochs)


def note(row: dict[str, object]) -> dict[str, object]:
    """Print a row to stderr on the way, and return it."""
    words = (f"{key}={value:.3f}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items())
    print(*words, file=sys.stderr, flush=True)
    return row


def print_table(table: pd.DataFrame) -> None:
    """Print a table in Markdown, numbers with three decimals."""
    print(f"| {' | '.join(map(str, table.columns))} |\n|{'---|' * table.shape[1]}")
    for row in table.itertuples(index=False):
        words = (f"{value:.3f}" if isinstance(value, float) else str(value) for value in row)
        print(f"| {' | '.join(words)} |".replace("nan", "-"))
    print(flush=True)


def stamp() -> str:
    """Return the day and the version that a table names."""
    return f"{date.today()}, tripletomics {tt.__version__}"


def write_table(table: pd.DataFrame, name: str) -> None:
    """Write docs/tables/<name>.csv as readers see it; its last column, `measured`, is `stamp` unless it is given."""
    path = Path(__file__).parents[1] / "docs" / "tables" / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    table = table.map(lambda value: f"{value:.3f}".replace("nan", "–") if isinstance(value, float) else value)
    (table if "measured" in table else table.assign(measured=stamp())).to_csv(path, index=False)


def with_sd(groups: DataFrameGroupBy) -> pd.DataFrame:
    """Return the mean and the standard deviation of each group as text."""
    mean, sd = groups.mean(), groups.std()
    signs = sd.map(lambda value: "" if np.isnan(value) else f" ± {value:.3f}")
    return mean.map(lambda value: "–" if np.isnan(value) else f"{value:.3f}") + signs

"""Cells without labels and with few, on real sets: what their metric space knows about cells it never saw.

    TRIPLETOMICS_DATA=folder python benchmarks/views.py [losses augmentations fractions modalities scvi]

- losses: every loss of two views, and the default. 15-NN macro-F1 and NMI of k-means in the metric space, and macro-F1
  of logistic regression on it (linear probe), beside 50 principal components; 15-NN macro-F1 of the map beside UMAP of
  these components.
- augmentations: the default loss with other views.
- fractions: a share of the training cells has labels, or five cells of each type. Macro-F1 of the best types of
  `tripletomics.predict` and of 15 neighbours, with the labelled cells alone ("softmax") and with all.
- modalities: RNA and 10 proteins of cite_cbmc, 2,500 cells held out. How often a cell by one is among the 1, 10 or 50
  nearest by the other (mean of both ways), beside canonical correlation analysis of 50 components and the proteins; and
  macro-F1 of the types by one alone, beside logistic regression on the proteins. In one row half of the training cells
  have one of the two.
- scvi: if scvi-tools is installed, scVI with 30 latent dimensions without labels, and scANVI with five labels a type.

30 % of each type are held out; everything is fitted on the others, without their labels where that is asked. Three
seeds. Each row is printed on the way.
"""

from __future__ import annotations

import sys

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from common import log_normalise, note, print_table, read, start
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import tripletomics as tt
from tripletomics import labels, losses, metrics, pp
from tripletomics.baselines import METHODS
from tripletomics.baselines.inputs import Cells

SETS = ("cite_cbmc_rna", "human_kidney", "worm_neuron", "paul15")
SEEDS = (0, 1, 2)
LOSSES = (None, *losses.names(views=2))  # None is the default
AUGMENTATIONS = ("mask", "mask:p=0.2", "mask:p=0.5", "thin", "noise", "thin + mask:p=0.5", None)
SHARES = (0.005, 0.01, 0.05, 0.2, 1.0, 5)  # a whole number: so many cells of each type


def read_split(name: str, seed: int) -> tuple[ad.AnnData, np.ndarray]:
    """Return cells with a column of those held out, and their codes."""
    adata = read(name)
    codes, _ = labels.encode(adata.obs["cell_type"], ())
    adata.obs["out"] = pp.split(adata, 0.3, codes, seed)
    return adata, codes


def score(z: np.ndarray, y: np.ndarray, out: np.ndarray, seed: int) -> dict[str, float]:
    """Score a space on held-out cells."""
    scale = StandardScaler().fit(z[~out])
    probe = LogisticRegression(max_iter=500).fit(scale.transform(z[~out]), y[~out])
    return {
        "15-NN F1": metrics.knn_macro_f1(z[~out], y[~out], z[out], y[out]),
        "probe F1": metrics.macro_f1(y[out], probe.predict(scale.transform(z[out]))),
        "NMI": metrics.nmi(z[out], y[out], seed),
    }


def without(name: str, seed: int, loss: str | None, augment: str | None) -> dict[str, float]:
    """Fit without labels, and score metric space and map."""
    adata, y = read_split(name, seed)
    out = adata.obs["out"].to_numpy()
    model = tt.fit(adata, hold_out="out", loss=loss, augment=augment, seed=seed, progress=False)
    row = score(adata.obsm["X_tt_metric"], y, out, seed)
    m = adata.obsm["X_tt"]
    row["map F1"] = metrics.knn_macro_f1(m[~out], y[~out], m[out], y[out])
    return row | {"spread": float(model.history["metric"]["spread"][-1])}


def components(name: str, seed: int) -> dict[str, float]:
    """Score 50 principal components, and UMAP of them."""
    adata, y = read_split(name, seed)
    out = adata.obs["out"].to_numpy()
    tt.fit(adata, hold_out="out", steps=1, seed=seed, progress=False)
    pca = adata.obsm["X_tt_pca"]
    train, query = METHODS["umap"].embed(Cells(pca[~out], pca[out], y[~out], None, None), seed)["map"]
    return score(pca, y, out, seed) | {"map F1": metrics.knn_macro_f1(train, y[~out], query, y[out])}


def table(rows: list[dict[str, object]], over: list[str]) -> None:
    """Print means over seeds, and over sets."""
    frame = pd.DataFrame(rows).drop(columns="seed")
    each = frame.groupby([*over, "data"], sort=False, dropna=False).mean()
    for part in (each, each.groupby(level=over, sort=False).mean()):
        print_table(part.reset_index())


def compare_losses() -> None:
    """Score all losses of views beside principal components and UMAP."""
    rows = []
    for name in SETS:
        for seed in SEEDS:
            rows.append(note({"loss": "PCA-50, UMAP", "data": name, "seed": seed} | components(name, seed)))
            for loss in LOSSES:
                row = {"loss": loss or "default", "data": name, "seed": seed}
                rows.append(note(row | without(name, seed, loss, "mask")))
    table(rows, ["loss"])


def compare_augmentations() -> None:
    """Score the default loss with other views."""
    rows = []
    for name in SETS:
        for seed in SEEDS:
            for augment in AUGMENTATIONS:
                row = {"augment": augment or "none", "data": name, "seed": seed}
                rows.append(note(row | without(name, seed, None, augment)))
    table(rows, ["augment"])


def few(adata: ad.AnnData, share: float, seed: int) -> None:
    """Leave labels in the column "few" to a share of the training cells, or to a number of each type."""
    kinds, train = adata.obs["cell_type"].astype(str), ~adata.obs["out"]
    order = pd.Series(np.random.default_rng(seed).permutation(adata.n_obs), adata.obs_names)[train]
    each = share >= 2
    chosen = order.groupby(kinds[train]).rank() <= share if each else order.rank() <= share * len(order)
    adata.obs["few"] = kinds.where(adata.obs["out"] | chosen.reindex(adata.obs_names, fill_value=False), "Unknown")


def fractions() -> None:
    """Score predictions with few labels, with and without the other cells."""
    rows = []
    for name in SETS:
        for seed in SEEDS:
            for share in SHARES:
                for loss in ("softmax", "softmax + simclr:temperature=0.2,neighbours=5"):
                    adata, y = read_split(name, seed)
                    few(adata, share, seed)
                    out, truth = adata.obs["out"].to_numpy(), adata.obs["cell_type"].astype(str).to_numpy()
                    model = tt.fit(adata, "few", hold_out="out", loss=loss, seed=seed, progress=False)
                    query = adata[out].copy()
                    tt.predict(query, model, reject=0)
                    found = query.obs["tt_label"].astype(str)
                    z = adata.obsm["X_tt_metric"]
                    row = {
                        "labels": f"{share} a type" if share >= 2 else f"{share:.1%}",
                        "trained on": "all cells" if "simclr" in loss else "labelled cells",
                        "data": name,
                        "seed": seed,
                        "predict F1": f1_score(truth[out], found, average="macro", labels=np.unique(truth)),
                        "15-NN F1, all labels": metrics.knn_macro_f1(z[~out], y[~out], z[out], y[out]),
                    }
                    rows.append(note(row))
    table(rows, ["labels", "trained on"])


def found_again(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Look for each cell by one modality among those by the other, both ways."""
    cells = np.arange(len(a))
    return {
        f"recall@{k}": np.mean([metrics.recall_at_k(z, cells, query, cells, k) for z, query in ((a, b), (b, a))])
        for k in (1, 10, 50)
    }


def canonical(rna: ad.AnnData, proteins: ad.AnnData, out: np.ndarray) -> dict[str, float]:
    """Fit canonical correlation analysis, the best of Euclidean and cosine distance."""
    rna = rna.copy()
    log_normalise(rna)
    scaled = np.minimum(StandardScaler().fit(rna.X[~out].toarray()).transform(rna.X.toarray()), 10)
    x = PCA(50, random_state=0).fit(scaled[~out]).transform(scaled)
    model = CCA(n_components=proteins.n_vars, max_iter=2000).fit(x[~out], proteins.X[~out])
    a, b = model.transform(x[out], proteins.X[out])
    turned = found_again(*(z / np.linalg.norm(z, axis=1, keepdims=True) for z in (a, b)))
    return max(found_again(a, b), turned, key=lambda row: row["recall@10"])


def modalities() -> None:
    """Score RNA and proteins of the same cells."""
    rows = []
    for seed in SEEDS:
        rna, proteins = (read(f"cite_cbmc_{name}") for name in ("rna", "adt"))
        truth, random = rna.obs["cell_type"].astype(str).to_numpy(), np.random.default_rng(seed)
        out = np.zeros(rna.n_obs, dtype=bool)
        out[random.permutation(rna.n_obs)[:2500]] = True
        lone = random.choice(3, rna.n_obs, p=[0.5, 0.25, 0.25]) * ~out
        rna.obs["out"] = proteins.obs["out"] = out

        def f1(found: np.ndarray, truth: np.ndarray = truth[out]) -> float:
            return f1_score(truth, found, average="macro", labels=np.unique(truth))

        rows.append(note({"method": "CCA", "data": "cite_cbmc", "seed": seed} | canonical(rna, proteins, out)))
        regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
        regression.fit(proteins.X[~out], truth[~out])
        row = {"method": "logistic regression", "data": "cite_cbmc", "seed": seed}
        rows.append(note(row | {"F1 by protein": f1(regression.predict(proteins.X[out]))}))
        for method, label, loss, kept in (
            ("no labels", None, None, (lone < 3, lone < 3)),
            ("labels", "cell_type", None, (lone < 3, lone < 3)),
            ("labels, half with one of the two", "cell_type", None, (lone != 1, lone != 2)),
            ("labels alone, no pairs", "cell_type", "softmax", (lone < 3, lone < 3)),
        ):
            pair = (rna[kept[0]].copy(), proteins[kept[1]].copy())
            model = tt.fit(pair, label, loss=loss, hold_out="out", seed=seed, progress=False)
            queries = {"RNA": rna[out].copy(), "protein": proteins[out].copy()}
            for query in queries.values():
                tt.transform(query, model)
            row = {"method": method, "data": "cite_cbmc", "seed": seed}
            row |= found_again(*(query.obsm["X_tt_metric"] for query in queries.values()))
            if label is not None:
                for name, query in ({"both": (queries["RNA"], queries["protein"])} | queries).items():
                    tt.predict(query, model, reject=0)
                    row[f"F1 by {name}"] = f1((query[0] if name == "both" else query).obs["tt_label"].astype(str))
            rows.append(note(row))
    table(rows, ["method"])


def scvi_and_scanvi() -> None:
    """Score scVI without labels, and scANVI with five labels a type, on 2,000 dispersed genes."""
    import scvi

    quiet = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
    rows = []
    for seed in SEEDS:
        for name in SETS:
            adata, y = read_split(name, seed)
            out, truth = adata.obs["out"].to_numpy(), adata.obs["cell_type"].astype(str).to_numpy()
            few(adata, 5, seed)
            logged = adata[~out].copy()
            log_normalise(logged)
            dispersed = sc.pp.highly_variable_genes(logged, n_top_genes=2000, inplace=False)["highly_variable"]
            adata = adata[:, dispersed.to_numpy()].copy()
            train, query = adata[~out].copy(), adata[out].copy()
            query.obs["few"] = "Unknown"
            scvi.settings.seed = seed
            scvi.model.SCVI.setup_anndata(train, labels_key="few")
            model = scvi.model.SCVI(train, n_latent=30)
            model.train(**quiet)
            z = np.empty((len(y), 30))
            z[~out], z[out] = model.get_latent_representation(train), model.get_latent_representation(query)
            scanvi = scvi.model.SCANVI.from_scvi_model(model, unlabeled_category="Unknown", labels_key="few")
            scanvi.train(max_epochs=20, n_samples_per_label=100, **quiet)
            found = np.asarray(scanvi.predict(query))
            row = {"method": "scVI-30, scANVI", "data": name, "seed": seed} | score(z, y, out, seed)
            f1 = f1_score(truth[out], found, average="macro", labels=np.unique(truth))
            rows.append(note(row | {"scANVI F1, 5 a type": f1}))
    table(rows, ["method"])


if __name__ == "__main__":
    start()
    parts = {
        "losses": compare_losses, "augmentations": compare_augmentations, "fractions": fractions,
        "modalities": modalities, "scvi": scvi_and_scanvi,
    }  # fmt: skip
    for part in sys.argv[1:] or list(parts)[:-1]:
        print(f"## {part}\n")
        parts[part]()

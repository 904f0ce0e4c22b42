"""Cells without labels and with few, on real sets: what their metric space knows about cells it never saw.

    TRIPLETOMICS_DATA=folder python benchmarks/views.py [losses augmentations few_labels shares modalities scvi]

Each part writes its tables of docs/few-labels.md or docs/two-modalities.md (scvi prints).

- losses: every loss of two views, and the default. 15-NN macro-F1 and NMI of k-means in the metric space, and macro-F1
  of logistic regression on it (linear probe), next to 50 principal components (those of `tt.fit`, X_tt_pca); 15-NN
  macro-F1 of the map, next to UMAP of these components.
- augmentations: the default loss with other views.
- few_labels: five cells of each type have labels. Macro-F1 of the best types of `tripletomics.predict`, and of the 15
  nearest training cells in the metric space with all labels; with the labelled cells alone ("softmax") and with all.
- shares: the same where a share of the training cells has labels.
- modalities: RNA and 10 proteins of cite_cbmc, 2,500 cells held out. How often a cell by one is among the 1, 10 or 50
  nearest by the other (mean of both ways), next to canonical correlation analysis of 50 components and the proteins;
  and macro-F1 of the types by one alone, next to logistic regression on the proteins. In one row half of the training
  cells have one of the two.
- scvi: if scvi-tools is installed, scVI with 30 latent dimensions without labels, and scANVI with five labels a type.

30 % of each type are held out; everything is fitted on the others, without their labels where that is asked. Three
seeds. Intervals are by bootstrap over held-out cells. Each row is printed on the way.
"""

from __future__ import annotations

import sys

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from common import log_normalise, note, read, start, with_sd, write_table
from intervals import difference, macro_f1, mean, resamples, shown
from scipy.spatial.distance import cdist
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

SETS = ("human_kidney", "worm_neuron", "cite_cbmc_rna", "paul15")
SEEDS = (0, 1, 2)
LOSSES = (None, *losses.names(views=2))  # None is the default
AUGMENTATIONS = ("mask", "mask:p=0.2", "mask:p=0.5", "thin", "noise", "thin + mask:p=0.5", None)
SHARES = (0.005, 0.01, 0.05, 0.2, 1.0)
VIEWS, DEFAULT, PEERS = "simclr:temperature=0.2,neighbours=5", "default", "PCA-50, UMAP"


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


def losses_of_views() -> pd.DataFrame:
    """Score all losses of views, next to principal components and UMAP."""
    rows = []
    for seed in SEEDS:
        for name in SETS:
            rows.append(note({"loss": PEERS, "data": name, "seed": seed} | components(name, seed)))
            for loss in LOSSES:
                row = {"loss": loss or DEFAULT, "data": name, "seed": seed}
                rows.append(note(row | without(name, seed, loss, "mask")))
    return pd.DataFrame(rows)


def augmentations() -> pd.DataFrame:
    """Score the default loss with other views."""
    rows = []
    for seed in SEEDS:
        for name in SETS:
            for augment in AUGMENTATIONS:
                row = {"augment": augment or "none", "data": name, "seed": seed}
                rows.append(note(row | without(name, seed, None, augment)))
    return pd.DataFrame(rows)


def few(adata: ad.AnnData, share: float, seed: int) -> None:
    """Leave labels in the column "few" to a share of the training cells, or to a number of each type."""
    kinds, train = adata.obs["cell_type"].astype(str), ~adata.obs["out"]
    order = pd.Series(np.random.default_rng(seed).permutation(adata.n_obs), adata.obs_names)[train]
    each = share >= 2
    chosen = order.groupby(kinds[train]).rank() <= share if each else order.rank() <= share * len(order)
    adata.obs["few"] = kinds.where(adata.obs["out"] | chosen.reindex(adata.obs_names, fill_value=False), "Unknown")


def few_labels(shares: tuple[float, ...] = (5,)) -> pd.DataFrame:
    """Predict with few labels, with and without the other cells; return a row for each held-out cell and fit."""
    said = []
    for seed in SEEDS:
        for name in SETS:
            for share in shares:
                for trained_on, loss in (("labelled cells", "softmax"), ("all cells", f"softmax + {VIEWS}")):
                    adata, y = read_split(name, seed)
                    few(adata, share, seed)
                    out, truth = adata.obs["out"].to_numpy(), adata.obs["cell_type"].astype(str).to_numpy()
                    model = tt.fit(adata, "few", hold_out="out", loss=loss, seed=seed, progress=False)
                    query, z = adata[out].copy(), adata.obsm["X_tt_metric"]
                    tt.predict(query, model, reject=0)
                    near = metrics.knn_votes(z[~out], y[~out], z[out], y.max() + 1).argmax(axis=1)
                    where = {"labels": f"{share} a type" if share >= 2 else f"{share:.1%}", "trained on": trained_on}
                    where |= {"data": name, "seed": seed, "truth": truth[out], "cell": np.flatnonzero(out)}
                    found = {"predict": query.obs["tt_label"].astype(str).to_numpy(), "15-NN": np.unique(truth)[near]}
                    said.append(pd.DataFrame(where | found))
                    note({"labels": share, "trained on": trained_on, "data": name, "seed": seed})
    return pd.concat(said, ignore_index=True)


def shares() -> pd.DataFrame:
    """Predict with other shares of labels."""
    return few_labels(SHARES)


def found_again(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """Look for each cell by one modality among those by the other, both ways; return shares (cells,)."""
    ranks = [rank_of_own(*pair) for pair in ((a, b), (b, a))]
    return {f"same cell @{k}": np.mean([rank <= k for rank in ranks], axis=0) for k in (1, 10, 50)}


def rank_of_own(query: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return at which place the row of the same number comes among the nearest, (cells,)."""
    d = cdist(query, z)
    return (d <= d.diagonal()[:, None]).sum(axis=1)


def canonical(rna: ad.AnnData, proteins: ad.AnnData, out: np.ndarray) -> dict[str, np.ndarray]:
    """Fit canonical correlation analysis, the best of Euclidean and cosine distance."""
    rna = rna.copy()
    log_normalise(rna)
    scaled = np.minimum(StandardScaler().fit(rna.X[~out].toarray()).transform(rna.X.toarray()), 10)
    x = PCA(50, random_state=0).fit(scaled[~out]).transform(scaled)
    model = CCA(n_components=proteins.n_vars, max_iter=2000).fit(x[~out], proteins.X[~out])
    a, b = model.transform(x[out], proteins.X[out])
    turned = found_again(*(z / np.linalg.norm(z, axis=1, keepdims=True) for z in (a, b)))
    return max(found_again(a, b), turned, key=lambda row: row["same cell @10"].mean())


def modalities() -> pd.DataFrame:
    """Measure RNA and proteins of the same cells; return a row for each held-out cell, method and seed."""
    said = []
    for seed in SEEDS:
        rna, proteins = (read(f"cite_cbmc_{name}") for name in ("rna", "adt"))
        truth, random = rna.obs["cell_type"].astype(str).to_numpy(), np.random.default_rng(seed)
        out = np.zeros(rna.n_obs, dtype=bool)
        out[random.permutation(rna.n_obs)[:2500]] = True
        lone = random.choice(3, rna.n_obs, p=[0.5, 0.25, 0.25]) * ~out
        rna.obs["out"] = proteins.obs["out"] = out
        regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
        by_protein = regression.fit(proteins.X[~out], truth[~out]).predict(proteins.X[out])
        found = {"CCA": canonical(rna, proteins, out), "logistic regression": {"by protein": by_protein}}
        for method, label, loss, kept in (
            ("no labels", None, None, (lone < 3, lone < 3)),
            ("labels", "cell_type", None, (lone < 3, lone < 3)),
            ("labels, half with one of the two", "cell_type", None, (lone != 1, lone != 2)),
            ('labels, loss="softmax"', "cell_type", "softmax", (lone < 3, lone < 3)),
        ):
            pair = (rna[kept[0]].copy(), proteins[kept[1]].copy())
            model = tt.fit(pair, label, loss=loss, hold_out="out", seed=seed, progress=False)
            queries = {"by RNA": rna[out].copy(), "by protein": proteins[out].copy()}
            for query in queries.values():
                tt.transform(query, model)
            found[method] = found_again(*(query.obsm["X_tt_metric"] for query in queries.values()))
            if label is not None:
                for name, query in (queries | {"by both": tuple(queries.values())}).items():
                    tt.predict(query, model, reject=0)
                    named = query[0] if name == "by both" else query
                    found[method][name] = named.obs["tt_label"].astype(str).to_numpy()
        for method, columns in found.items():
            note({"method": method, "seed": seed})
            said.append(
                pd.DataFrame(columns).assign(method=method, seed=seed, truth=truth[out], cell=np.flatnonzero(out))
            )
    return pd.concat(said, ignore_index=True)


def scvi_and_scanvi() -> pd.DataFrame:
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
    return pd.DataFrame(rows)


def mean_over_sets(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return means over sets, then over seeds with their standard deviation, and the number of seeds."""
    each = rows.drop(columns=["spread", "data"], errors="ignore").groupby([by, "seed"], sort=False).mean()
    means = with_sd(each.groupby(by, sort=False))
    means.insert(0, "seeds", each.groupby(by, sort=False).size())
    return means.reset_index()


def write_losses(rows: pd.DataFrame) -> None:
    """Write what each loss gives, and the default next to components and UMAP on each set."""
    write_table(mean_over_sets(rows, "loss"), "view_losses")
    by_set = [mean_over_sets(rows[rows["data"] == name], "loss").assign(data=name) for name in SETS]
    found = pd.concat([*by_set, mean_over_sets(rows, "loss").assign(data="mean")]).set_index(["data", "loss"])
    ours, peers = (found.xs(loss, level="loss") for loss in (DEFAULT, PEERS))
    table = ours[["seeds"]].copy()
    for score in ("15-NN F1", "probe F1", "NMI", "map F1"):
        peer = "UMAP" if score == "map F1" else "PCA-50"
        table[f"{score}, {peer}"], table[f"{score}, tt"] = peers[score], ours[score]
    write_table(table.reset_index(), "without_labels")


def write_augmentations(rows: pd.DataFrame) -> None:
    """Write what other views give."""
    write_table(mean_over_sets(rows, "augment"), "augmentations")


def f1(cells: pd.DataFrame, column: str) -> np.ndarray:
    """Return the macro-F1 of a column of names, mean over seeds, with its draws."""
    codes = {name: code for code, name in enumerate(sorted({*cells["truth"], *cells[column]}))}
    weights = resamples(cells["cell"].max() + 1)
    return np.mean([
        macro_f1(one["truth"].map(codes).to_numpy(), one[column].map(codes).to_numpy(), weights[:, one["cell"]])
        for _, one in cells.groupby("seed")
    ], axis=0)  # fmt: skip


def write_few_labels(said: pd.DataFrame, name: str = "few_labels") -> None:
    """Write macro-F1 by labelled cells alone and by all cells, and the difference."""
    rows = []
    for (data, amount), cells in said.groupby(["data", "labels"], sort=False):
        alone, whole = (cells[cells["trained on"] == which] for which in ("labelled cells", "all cells"))
        row = {"data": data, "labels": amount, "seeds": cells["seed"].nunique()}
        for title, column in (("predict", "predict"), ("15-NN, all labels", "15-NN")):
            scores = f1(alone, column), f1(whole, column)
            row |= {f"{title}: labelled cells": shown(scores[0]), f"{title}: all cells": shown(scores[1])}
            row |= {f"{title}: difference": difference(*scores[::-1])}
        rows.append(row)
    write_table(pd.DataFrame(rows), name)


def write_shares(said: pd.DataFrame) -> None:
    """Write the same for other shares of labels."""
    write_few_labels(said, "label_shares")


def write_modalities(said: pd.DataFrame) -> None:
    """Write how often cells are found again, and macro-F1 of their types."""
    weights, rows = resamples(said["cell"].max() + 1), []
    regression = f1(said[said["method"] == "logistic regression"], "by protein")
    for method, cells in said.groupby("method", sort=False):
        row = {
            "fitted": method if method in ("CCA", "logistic regression") else f"tt, {method}",
            "seeds": cells["seed"].nunique(),
        }
        for k in (1, 10, 50):
            by_seed = [one for _, one in cells.groupby("seed") if one[f"same cell @{k}"].notna().any()]
            found = [mean(one[f"same cell @{k}"].to_numpy(float), weights[:, one["cell"]]) for one in by_seed]
            row[f"same cell @{k}"] = shown(np.mean(found, axis=0)) if found else "–"
        for column in ("by protein", "by RNA", "by both"):
            row[f"F1 {column}"] = shown(f1(cells, column)) if cells[column].notna().all() else "–"
        if method.startswith("labels"):
            row["by protein - regression"] = difference(f1(cells, "by protein"), regression)
        rows.append(row)
    write_table(pd.DataFrame(rows).fillna("–"), "two_modalities")


def print_scvi(rows: pd.DataFrame) -> None:
    """Print the means over seeds."""
    print(rows.groupby(["method", "data"]).mean().round(3).to_string())


if __name__ == "__main__":
    start()
    parts = {
        "losses": (losses_of_views, write_losses), "augmentations": (augmentations, write_augmentations),
        "few_labels": (few_labels, write_few_labels), "shares": (shares, write_shares),
        "modalities": (modalities, write_modalities), "scvi": (scvi_and_scanvi, print_scvi),
    }  # fmt: skip
    for part in sys.argv[1:] or list(parts)[:-1]:
        measure, write = parts[part]
        write(measure())

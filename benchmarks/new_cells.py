"""What `tripletomics.predict` does for cells that were never seen: other platforms, unknown types, missing genes.

    python benchmarks/new_cells.py [platforms calibration novelty missing]

writes tables of docs/new-cells.md from whole fits, and prints each row on the way. Datasets are found through the
environment variable TRIPLETOMICS_DATA. Every model is fitted on training cells alone; the peers are given the same
cells in the same run, and scANVI if scvi-tools is installed.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import anndata as ad
import common
import numpy as np
import pandas as pd
import scipy.sparse as sp
from common import log_normalise, mlp, note, write_table
from intervals import difference, half_interval, macro_f1, resamples, shown
from scipy.spatial.distance import cdist
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neural_network import MLPClassifier

import tripletomics as tt
from tripletomics import baselines, features, labels, metrics, pp

PLATFORMS = {"scmixology_3platform": "platform", "panc8_small": "batch"}
WITH_UNKNOWN = ("human_kidney", "worm_neuron", "pbmc3k", "cite_cbmc_rna")
ALL = (
    "scmixology_3platform",
    "flow_flowcap_sample",
    "cite_cbmc_adt",
    "panc8_small",
    *WITH_UNKNOWN[:3],
    "paul15",
    "cite_cbmc_rna",
)
SEEDS = (0, 1, 2)
FEW = 5  # cells to enroll a type with
REJECTED = {"novel rejected": "novel cells rejected", "known rejected": "known cells rejected"}
ENROLLED = {
    "recall enrolled": "best type is right", "not rejected": "and not rejected",
    "others before": "accuracy of the others, before", "others after": "accuracy of the others, after",
}  # fmt: skip


def read(name: str) -> ad.AnnData:
    """Return a dataset with its types as text."""
    adata = common.read(name)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    return adata


def fit(adata: ad.AnnData, out: np.ndarray, seed: int, **settings: Any) -> tuple[tt.Model, ad.AnnData]:
    """Fit on the cells that are not `out`, and predict all; return the model and the predictions of those out."""
    adata.obs["out"] = out
    model = tt.fit(adata, "cell_type", hold_out="out", seed=seed, progress=False, **settings)
    query = adata[out].copy()
    tt.predict(query, model)
    return model, query


def best(model: tt.Model, query: ad.AnnData) -> np.ndarray:
    """Return the names of the best types, rejected or not."""
    x = pp.take_query(query, model.features, None, pp.QueryOptions(min_matched=0)).x
    return np.array(model.types)[model.predict(x, reject=0)[0].codes]


def macro(truth: np.ndarray, found: np.ndarray) -> float:
    """Return the macro-F1 over the types that are there."""
    return f1_score(truth, found, labels=np.unique(truth), average="macro", zero_division=0)


def components(adata: ad.AnnData, out: np.ndarray, seed: int) -> baselines.Cells:
    """Return what `tt.compare` gives to a method, the cells that are out in place of the held-out ones."""
    x = pp.matrix(adata, None)
    counts = pp.decide_counts(x, "auto")
    choice = pp.choose_genes(adata, x, ~out, counts)
    x = pp.take(x, choice.columns)
    contract = features.fit(x[~out], list(adata.var_names[choice.columns]), counts, seed, choice)
    return baselines.prepare(contract, x[~out], x[out], labels.encode(adata.obs["cell_type"], ())[0][~out])


def softmaxes(adata: ad.AnnData, out: np.ndarray, seed: int) -> dict[str, pd.DataFrame]:
    """Return what two MLPs on 50 components say of the cells that are out.

    The first is the regularised one of `tt.compare`, the second scikit-learn's default.
    """
    cells, y = components(adata, out, seed), adata.obs["cell_type"].to_numpy()
    nets = {"MLP": mlp(seed), "MLP, default": MLPClassifier((256, 32), max_iter=50, random_state=seed)}
    said = {}
    for method, model in nets.items():
        p = model.fit(cells.train_pca, y[~out]).predict_proba(cells.query_pca)
        found = {"truth": y[out], "found": model.classes_[p.argmax(axis=1)], "confidence": p.max(axis=1)}
        said[method] = pd.DataFrame(found)
    return said


def predicted(model: tt.Model, query: ad.AnnData) -> pd.DataFrame:
    """Return what `tt.predict` says of cells, a row for each."""
    truth, sets = query.obs["cell_type"].to_numpy(), query.obs["tt_label_set"].str.split(" | ", regex=False)
    return pd.DataFrame({
        "truth": truth, "found": best(model, query), "confidence": query.obs["tt_confidence"].to_numpy(),
        "held": [kind in names for kind, names in zip(truth, sets, strict=True)],
        "size": [sum(map(bool, names)) for names in sets],
        "rejected": (query.obs["tt_label"] == "unassigned").to_numpy(),
    })  # fmt: skip


def platforms() -> pd.DataFrame:
    """Hold each platform out; return what each method says of its cells."""
    said = []
    for name, column in PLATFORMS.items():
        for platform in sorted(read(name).obs[column].unique()):
            for seed in SEEDS:
                adata = read(name)
                out = (adata.obs[column] == platform).to_numpy()
                found = {
                    "predict": predicted(*fit(adata.copy(), out, seed)),
                    "predict, batch=": predicted(*fit(adata.copy(), out, seed, batch=column)),
                    **softmaxes(adata, out, seed),
                    "logistic regression": regression(read(name), out),
                }
                if scanvi_is_there():
                    truth = adata.obs["cell_type"].to_numpy()[out]
                    found["scANVI"] = pd.DataFrame({"truth": truth, "found": scanvi(read(name), out, seed)})
                known = {*adata.obs["cell_type"][~out]}
                for method, cells in found.items():
                    where = {"data": name, "held out": platform, "seed": seed, "method": method}
                    said.append(cells.assign(**where, cell=np.flatnonzero(out), known=cells["truth"].isin(known)))
                    note(where | {"F1": macro(cells["truth"], cells["found"])})
    return pd.concat(said, ignore_index=True)


def regression(adata: ad.AnnData, out: np.ndarray) -> pd.DataFrame:
    """Return what logistic regression on all genes, log-normalised, says of the cells that are out."""
    truth = adata.obs["cell_type"].to_numpy()
    log_normalise(adata)
    model = LogisticRegression(max_iter=2000).fit(adata.X[~out], truth[~out])
    return pd.DataFrame({"truth": truth[out], "found": model.predict(adata.X[out])})


def scanvi_is_there() -> bool:
    try:
        import scvi  # noqa: F401
    except ImportError:
        return False
    return True


def scanvi(adata: ad.AnnData, out: np.ndarray, seed: int) -> np.ndarray:
    """Map the query by architecture surgery, as the scArches tutorial does."""
    import scvi

    scvi.settings.seed = seed
    adata.X = sp.csr_matrix(adata.X).rint()
    reference, query = adata[~out].copy(), adata[out].copy()
    query.obs["cell_type"] = "Unknown"
    scvi.model.SCVI.setup_anndata(reference, batch_key="batch", labels_key="cell_type")
    model = scvi.model.SCVI(reference, n_layers=2, n_latent=30, encode_covariates=True, deeply_inject_covariates=False,
                            use_layer_norm="both", use_batch_norm="none")  # fmt: skip
    quiet = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
    model.train(max_epochs=400, **quiet)
    model = scvi.model.SCANVI.from_scvi_model(model, unlabeled_category="Unknown")
    model.train(max_epochs=100, n_samples_per_label=100, **quiet)
    mapped = scvi.model.SCANVI.load_query_data(query, model, accelerator="cpu")
    mapped.train(max_epochs=100, plan_kwargs={"weight_decay": 0.0}, **quiet)
    return np.asarray(mapped.predict(query))


def calibration() -> pd.DataFrame:
    """Hold 30 % of each type out; return what each method says of these cells."""
    said = []
    for name in ALL:
        for seed in SEEDS:
            adata = read(name)
            codes, _ = labels.encode(adata.obs["cell_type"], ())
            out = pp.split(adata, 0.3, codes, seed)
            found = {"predict": predicted(*fit(adata.copy(), out, seed)), **softmaxes(adata, out, seed)}
            for method, cells in found.items():
                where = {"data": name, "seed": seed, "method": method}
                said.append(cells.assign(**where, cell=np.flatnonzero(out)))
                note(where | {"F1": macro(cells["truth"], cells["found"])})
    return pd.concat(said, ignore_index=True)


def novelty() -> pd.DataFrame:
    """Leave each type out: AUROC against held-out cells of the others; and enroll it with five of its cells."""
    rows = []
    for name in WITH_UNKNOWN:
        for kind in sorted(read(name).obs["cell_type"].unique()):
            adata = read(name)
            truth = adata.obs["cell_type"].to_numpy()
            codes, _ = labels.encode(adata.obs["cell_type"], ())
            out = pp.split(adata, 0.3, codes, 0) | (truth == kind)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # types that only held-out cells have
                model, query = fit(adata.copy(), out, 0)
            novel = truth[out] == kind
            rejected = (query.obs["tt_label"] == "unassigned").to_numpy()
            row = {"data": name, "left out": kind}
            row |= {"predict": metrics.auroc(query.obs["tt_novelty"].to_numpy(), novel)}
            row |= {peer: metrics.auroc(score, novel) for peer, score in peers(adata, out, 0).items()}
            row |= {"novel rejected": rejected[novel].mean(), "known rejected": rejected[~novel].mean()}
            rows.append(note(row | enrolled(model, query, truth[out], kind)))
    return pd.DataFrame(rows)


def peers(adata: ad.AnnData, out: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Score novelty by the softmax of the MLP, by neighbours in 50 components, by Mahalanobis in the MLP's layer."""
    cells = components(adata, out, seed)
    y = adata.obs["cell_type"].to_numpy()[~out]
    net = mlp(seed).fit(cells.train_pca, y)
    train, query = baselines.METHODS["mlp"].embed(cells, seed)["metric"]
    means = np.stack([train[y == kind].mean(axis=0) for kind in net.classes_])
    covariance, _ = ledoit_wolf(train - means[np.searchsorted(net.classes_, y)], assume_centered=True)
    return {
        "softmax of the MLP": 1 - net.predict_proba(cells.query_pca).max(axis=1),
        "15-NN in PCA-50": metrics.novelty(cells.train_pca, cells.query_pca),
        "Mahalanobis in the MLP": cdist(query, means, "mahalanobis", VI=np.linalg.pinv(covariance)).min(axis=1),
    }


def enrolled(model: tt.Model, query: ad.AnnData, truth: np.ndarray, kind: str) -> dict[str, float]:
    """Enroll a type with five cells, and score the rest of it and the others."""
    few = np.random.default_rng(0).permutation(np.flatnonzero(truth == kind))[:FEW]
    rest = np.setdiff1d(np.arange(len(truth)), few)
    before = best(model, query)
    model.enroll(query[few, model.features.genes].X, [kind] * len(few))
    after = best(model, query)
    tt.predict(query, model)
    known = rest[truth[rest] != kind]
    novel = rest[truth[rest] == kind]
    return {
        "recall enrolled": (after[novel] == kind).mean() if len(novel) else np.nan,
        "not rejected": (query.obs["tt_label"] == kind).to_numpy()[novel].mean() if len(novel) else np.nan,
        "others before": (before[known] == truth[known]).mean(),
        "others after": (after[known] == truth[known]).mean(),
    }


def missing() -> pd.DataFrame:
    """Take genes away at random from the held-out cells; return what is said of these."""
    said = []
    for name in ("cite_cbmc_rna", "pbmc3k"):
        for seed in SEEDS:
            adata = read(name)
            codes, _ = labels.encode(adata.obs["cell_type"], ())
            out = pp.split(adata, 0.3, codes, seed)
            model, query = fit(adata, out, seed)
            order = np.random.default_rng(seed).permutation(len(model.features.genes))
            genes = np.array(model.features.genes)
            for share in (0, 0.1, 0.2, 0.3, 0.4, 0.5):
                kept = query[:, genes[np.sort(order[round(share * len(genes)) :])]].copy()
                for how in ("impute", "zero"):
                    tt.predict(kept, model, missing=how)
                    sets, rejected = kept.obs["tt_label_set"].str.split(" | ", regex=False), kept.obs["tt_label"]
                    tt.predict(kept, model, missing=how, reject=0)
                    truth = kept.obs["cell_type"].to_numpy()
                    said.append(pd.DataFrame({
                        "data": name, "seed": seed, "missing=": how, "missing genes": f"{100 * share:.0f} %",
                        "truth": truth,
                        "cell": np.flatnonzero(out),
                        "found": kept.obs["tt_label"].astype(str).to_numpy(),
                        "held": [kind in names for kind, names in zip(truth, sets, strict=True)],
                        "rejected": (rejected == "unassigned").to_numpy(),
                    }))  # fmt: skip
            note({"data": name, "seed": seed})
    return pd.concat(said, ignore_index=True)


def f1(cells: pd.DataFrame) -> np.ndarray:
    """Return the macro-F1 over the types that are there, mean over seeds, with its draws."""
    names = sorted({*cells["truth"], *cells["found"]})
    codes = {name: code for code, name in enumerate(names)}
    weights = resamples(cells["cell"].max() + 1)
    return np.mean([
        macro_f1(one["truth"].map(codes).to_numpy(), one["found"].map(codes).to_numpy(), weights[:, one["cell"]])
        for _, one in cells.groupby("seed")
    ], axis=0)  # fmt: skip


def ece(cells: pd.DataFrame) -> float:
    """Return the calibration error over all cells."""
    return metrics.ece(cells["confidence"], cells["found"] == cells["truth"])


def write_platforms(said: pd.DataFrame) -> None:
    """Write macro-F1 of each platform, and how far the confidence is off."""
    rows = []
    for (name, platform), cells in said.groupby(["data", "held out"], sort=False):
        scores = {
            method: f1(one) for method, one in cells.groupby("method", sort=False) if not method.startswith("MLP")
        }
        row = {"data": name, "held out": platform, "cells": cells["cell"].nunique(), "seeds": cells["seed"].nunique()}
        row |= {f"{method}": shown(score) for method, score in scores.items()}
        for method in ("predict", "predict, batch="):
            row[f"{method} - regression"] = difference(scores[method], scores["logistic regression"])
        rows.append(row)
    write_table(pd.DataFrame(rows), "platforms")
    rows = []
    for name, cells in said.groupby("data", sort=False):
        by = dict(list(cells.groupby("method")))
        row = {"data": name, "cells": by["predict"]["cell"].nunique()}
        row |= {f"ECE, {method}": ece(one) for method, one in by.items() if one["confidence"].notna().any()}
        for who, known in (("known", True), ("unknown", False)):
            for method in ("predict", "predict, batch="):
                some = by[method][by[method]["known"] == known]
                row[f"{who} types rejected, {method}"] = some["rejected"].mean()
        rows.append(row)
    write_table(pd.DataFrame(rows), "platform_calibration")


def write_calibration(said: pd.DataFrame) -> None:
    """Write macro-F1 and calibration error of each method, and what the 90 % sets hold."""
    rows = []
    for name, cells in said.groupby("data", sort=False):
        by = dict(list(cells.groupby("method", sort=False)))
        scores = {method: f1(one) for method, one in by.items()}
        row = {"data": name, "held-out cells": len(by["predict"]) // cells["seed"].nunique()}
        row |= {"seeds": cells["seed"].nunique()}
        row |= {f"F1, {method}": shown(score) for method, score in scores.items()}
        row |= {"predict - MLP": difference(scores["predict"], scores["MLP"])}
        row |= {f"ECE, {method}": ece(one) for method, one in by.items()}
        held, size, rejected = (by["predict"][column].astype(float).mean() for column in ("held", "size", "rejected"))
        rows.append(row | {"90 % sets hold": held, "types in a set": size, "rejected at 5 %": rejected})
    write_table(pd.DataFrame(rows), "same_batches")


def write_novelty(rows: pd.DataFrame) -> None:
    """Write means over the types that were left out, with 95 % t-intervals, and what enrolling gave."""
    found = []
    for name, one in [*rows.groupby("data", sort=False), ("all", rows)]:
        values = one.drop(columns=["data", "left out"])
        spread = half_interval(values)
        words = {column: f"{values[column].mean():.3f} ± {spread[column]:.3f}" for column in values}
        found.append({"data": name, "types": len(one)} | words)
    table = pd.DataFrame(found)
    peers = [column for column in table.columns[2:] if column not in (*ENROLLED, *REJECTED)]
    novel = table[["data", "types", *peers, *REJECTED]].rename(columns={name: f"AUROC, {name}" for name in peers})
    write_table(novel.rename(columns=REJECTED), "novelty")
    write_table(table[["data", *ENROLLED]].rename(columns=ENROLLED), "enrolled")


def write_missing(said: pd.DataFrame) -> None:
    """Write the scores for each share of missing genes."""
    rows = []
    for (name, how, share), cells in said.groupby(["data", "missing=", "missing genes"], sort=False):
        row = {"data": name, "missing genes": share, "missing=": how, "macro-F1": shown(f1(cells))}
        rows.append(row | {"sets hold": cells["held"].mean(), "rejected": cells["rejected"].mean()})
    write_table(pd.DataFrame(rows).sort_values("data", kind="stable"), "missing_genes")


if __name__ == "__main__":
    common.start()  # silences the depth of other platforms, and MLPs that could go on
    parts = {
        "platforms": (platforms, write_platforms), "calibration": (calibration, write_calibration),
        "novelty": (novelty, write_novelty), "missing": (missing, write_missing),
    }  # fmt: skip
    for part in sys.argv[1:] or parts:
        measure, write = parts[part]
        write(measure())

"""What `tripletomics.predict` does for cells that were never seen: other platforms, unknown types, missing genes.

    python benchmarks/new_cells.py [platforms calibration novelty missing]

prints the figures of docs/new-cells.md from whole fits, and each row on the way. Datasets are found through the
environment variable TRIPLETOMICS_DATA. Every model is fitted on training cells alone; the peers are given the same
cells in the same run, and scANVI if scvi-tools is installed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import anndata as ad
import common
import numpy as np
import pandas as pd
import scipy.sparse as sp
from common import log_normalise, mlp, note, print_table
from scipy.spatial.distance import cdist
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neural_network import MLPClassifier

import tripletomics as tt
from tripletomics import baselines, features, labels, metrics, pp

PLATFORMS = {"panc8_small": "batch", "scmixology_3platform": "platform"}
WITH_UNKNOWN = ("pbmc3k", "cite_cbmc_rna", "human_kidney", "worm_neuron")
ALL = (*WITH_UNKNOWN, "paul15", "cite_cbmc_adt", "flow_flowcap_sample", *PLATFORMS)
SEEDS = (0, 1, 2)
FEW = 5  # cells to enroll a type with


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


def softmaxes(adata: ad.AnnData, out: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield probability and name of the best type of the cells that are out, of two MLPs on 50 components.

    The first is the regularised one of `tt.compare`, the second scikit-learn's default.
    """
    cells, y = components(adata, out, seed), adata.obs["cell_type"].to_numpy()
    for model in (mlp(seed), MLPClassifier((256, 32), max_iter=50, random_state=seed)):
        model.fit(cells.train_pca, y[~out])
        p = model.predict_proba(cells.query_pca)
        yield p.max(axis=1), model.classes_[p.argmax(axis=1)]


def platforms() -> None:
    """Hold each platform out: macro-F1, and how far the confidence is off, pooled over the cells."""
    rows: list[dict[str, object]] = []
    pooled: dict = {}
    for name, column in PLATFORMS.items():
        for platform in sorted(read(name).obs[column].unique()):
            found: dict[str, list[float]] = {}
            for seed in SEEDS:
                adata = read(name)
                out = (adata.obs[column] == platform).to_numpy()
                truth = adata.obs["cell_type"].to_numpy()[out]
                for method, settings in (("predict", {}), ("predict, batch=", {"batch": column})):
                    model, query = fit(adata.copy(), out, seed, **settings)
                    label = best(model, query)
                    found.setdefault(method, []).append(macro(truth, label))
                    known = np.isin(truth, adata.obs["cell_type"][~out])
                    rejected = (query.obs["tt_label"] == "unassigned").to_numpy()
                    found.setdefault(f"{method}: known rejected", []).append(rejected[known].mean())
                    found.setdefault(f"{method}: unknown rejected", []).append(
                        rejected[~known].mean() if (~known).any() else np.nan
                    )
                    pooled.setdefault((name, method), []).append((query.obs["tt_confidence"], label == truth))
                for method, (confidence, label) in zip(
                    ("MLP", "MLP, default"), softmaxes(adata, out, seed), strict=True
                ):
                    pooled.setdefault((name, method), []).append((confidence, label == truth))
            found["logistic regression"] = [regression(read(name), out)]
            if scanvi_is_there():
                found["scANVI"] = [macro(truth, scanvi(read(name), out, seed)) for seed in SEEDS]
            row = {"data": name, "held out": platform, "cells": int(out.sum())}
            rows.append(note(row | {key: float(np.mean(values)) for key, values in found.items()}))
    print_table(pd.DataFrame(rows))
    print_table(pd.DataFrame([
        {"data": name, "method": method, "cells": sum(len(c) for c, _ in parts),
         "ECE": metrics.ece(*(np.concatenate(part) for part in zip(*parts, strict=True)))}
        for (name, method), parts in pooled.items()
    ]))  # fmt: skip


def regression(adata: ad.AnnData, out: np.ndarray) -> float:
    """Fit logistic regression on all genes, log-normalised."""
    truth = adata.obs["cell_type"].to_numpy()
    log_normalise(adata)
    model = LogisticRegression(max_iter=2000).fit(adata.X[~out], truth[~out])
    return macro(truth[out], model.predict(adata.X[out]))


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


def calibration() -> None:
    """Hold 30 % of each type out: ECE, coverage of the 90 % sets, share rejected at 5 %."""
    rows: list[dict[str, object]] = []
    pooled: dict = {}
    for name in ALL:
        found = []
        for seed in SEEDS:
            adata = read(name)
            codes, _ = labels.encode(adata.obs["cell_type"], ())
            out = pp.split(adata, 0.3, codes, seed)
            truth = adata.obs["cell_type"].to_numpy()[out]
            model, query = fit(adata.copy(), out, seed)
            found.append(pd.Series(model.checks))
            said = [(query.obs["tt_confidence"], best(model, query)), *softmaxes(adata, out, seed)]
            for method, (confidence, label) in zip(("predict", "MLP", "MLP, default"), said, strict=True):
                found[-1][f"F1, {method}"] = macro(truth, label)
                found[-1][f"ECE, {method}"] = metrics.ece(confidence, label == truth)
                pooled.setdefault(method, []).append((confidence, label == truth))
        mean = pd.DataFrame(found).mean().drop(["macro_f1", "ece"])
        rows.append(note({"data": name, **mean.to_dict()}))
    print_table(pd.DataFrame(rows))
    print_table(pd.DataFrame([
        {"method": method, "cells": sum(len(c) for c, _ in parts),
         "ECE, all cells": metrics.ece(*(np.concatenate(part) for part in zip(*parts, strict=True))),
         "ECE, mean of sets and seeds": np.mean([metrics.ece(*part) for part in parts])}
        for method, parts in pooled.items()
    ]))  # fmt: skip


def novelty() -> None:
    """Leave each type out: AUROC against held-out cells of the others; and enroll it with five of its cells."""
    rows = []
    for name in WITH_UNKNOWN:
        found = []
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
            row = {"predict": metrics.auroc(query.obs["tt_novelty"].to_numpy(), novel)}
            row |= {peer: metrics.auroc(score, novel) for peer, score in peers(adata, out, 0).items()}
            row |= {"novel rejected": rejected[novel].mean(), "known rejected": rejected[~novel].mean()}
            found.append(row | enrolled(model, query, truth[out], kind))
        rows.append(note({"data": name, "types": len(found), **pd.DataFrame(found).mean().to_dict()}))
    print_table(pd.DataFrame(rows))


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


def missing() -> None:
    """Take genes away at random from the held-out cells: macro-F1."""
    rows = []
    for name in ("cite_cbmc_rna", "pbmc3k"):
        found = []
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
                    truth = kept.obs["cell_type"].to_numpy()
                    sets = [
                        kind in said.split(" | ") for kind, said in zip(truth, kept.obs["tt_label_set"], strict=True)
                    ]
                    rejected = (kept.obs["tt_label"] == "unassigned").mean()
                    tt.predict(kept, model, missing=how, reject=0)
                    f1 = macro(truth, kept.obs["tt_label"].astype(str).to_numpy())
                    for score, value in (("F1", f1), ("coverage", np.mean(sets)), ("rejected", rejected)):
                        found.append({"score": score, "missing": f"{share:.0%}", "how": how, "value": value})
        wide = pd.DataFrame(found).pivot_table("value", ["score", "how"], "missing", sort=False).reset_index()
        rows += [{"data": name, **row} for row in wide.rename(columns={"how": "missing="}).to_dict("records")]
    print_table(pd.DataFrame(rows))


if __name__ == "__main__":
    common.start()  # silences the depth of other platforms, and MLPs that could go on
    parts = {part.__name__: part for part in (platforms, calibration, novelty, missing)}
    for part in sys.argv[1:] or parts:
        print(f"## {part}\n")
        parts[part]()

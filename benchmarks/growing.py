"""A map that grows, next to a fit of old and new cells together and to frozen networks.

    python benchmarks/growing.py [cite_cbmc_rna panc8_small ...] [--seeds 3]

writes the tables of docs/growing-map.md. Of a dataset with platforms, each in turn is what comes later, else four types
that are drawn; 30 % of each type are held out of all fits. Datasets are found through TRIPLETOMICS_DATA.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import anndata as ad
import common
import numpy as np
import pandas as pd
from common import note, write_table
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

import tripletomics as tt
from tripletomics import labels, metrics, pp

LATER = 4  # types that come later
SPACES = {"map": "X_tt", "metric": "X_tt_metric"}
WAYS = ("frozen", "grown", "together")
CALIBRATED = {"coverage": "sets hold", "rejected": "unassigned", "ECE": "ECE"}


def cases(adata: ad.AnnData, column: str | None, seeds: int) -> Iterator[tuple[str, np.ndarray, int]]:
    """Yield a name, which cells come later, and the seed."""
    types = np.unique(adata.obs["cell_type"])
    for seed in range(seeds):
        if column is None:
            drawn = np.random.default_rng([seed, 77]).choice(types, LATER, replace=False)
            yield ", ".join(drawn), adata.obs["cell_type"].isin(drawn).to_numpy(), seed
        else:
            for platform in adata.obs[column].unique():
                yield str(platform), (adata.obs[column] == platform).to_numpy(), seed


def f1(model: tt.Model, at: np.ndarray, space: str, truth: np.ndarray) -> float:
    """Return the macro-F1 of the 15 nearest landmarks."""
    reference = model.reference
    known = reference.map if space == "map" else reference.z
    votes = KNeighborsClassifier(min(15, len(known))).fit(known, np.array(model.types)[reference.codes])
    return float(f1_score(truth, votes.predict(at), average="macro"))


def calibrated(model: tt.Model, cells: ad.AnnData, truth: np.ndarray) -> dict[str, float]:
    """Return calibration error, coverage of the sets at 90 % and share rejected at 5 %, of predictions."""
    x = pp.take_query(cells, model.features, None, pp.QueryOptions(min_matched=0)).x
    found = model.predict(x)[0]
    right = np.array(model.types)[found.codes] == truth
    codes = np.array([model.types.index(name) if name in model.types else -1 for name in truth])
    known = codes >= 0
    return {
        "ECE": metrics.ece(found.confidence, right),
        "coverage": float(found.sets[known, codes[known]].mean()),
        "rejected": float(found.unassigned[known].mean()),
    }


def timed(adata: ad.AnnData, **settings: Any) -> tuple[tt.Model, float]:
    """Fit without the cells that are out; return the model, and the processor's seconds (of one thread: wall time)."""
    began = time.process_time()
    model = tt.fit(adata, "cell_type", hold_out="out", progress=False, **settings)
    return model, time.process_time() - began


def grow(adata: ad.AnnData, later: np.ndarray, seed: int) -> dict[str, float]:
    """Return one row of the table."""
    truth, out = adata.obs["cell_type"].to_numpy(), adata.obs["out"].to_numpy()
    old_cells, new_cells, all_cells = adata[~later].copy(), adata[later].copy(), adata.copy()
    old, _ = timed(old_cells, seed=seed)
    together, whole_seconds = timed(all_cells, seed=seed)
    grown, seconds = timed(new_cells, init=old, seed=seed)
    row: dict[str, float] = {"time": seconds / whole_seconds}
    places = {}
    for name, model in (("frozen", frozen(old, new_cells)), ("grown", grown), ("together", together)):
        cells = adata.copy()
        tt.transform(cells, model)
        places[name] = cells.obsm["X_tt"]
        for space, key in SPACES.items():
            row[f"{name} {space}"] = f1(model, cells.obsm[key][out], space, truth[out])
    width = np.ptp(old.reference.map, axis=0).max()
    moved = 100 * np.linalg.norm(places["grown"] - places["frozen"], axis=1)[~later] / width
    row |= {"moved": float(np.median(moved)), "moved, 90th": float(np.quantile(moved, 0.9))}
    row |= {"says it moved": float(grown.findings["moved"][0])}
    for name, model in (("grown", grown), ("together", together)):
        for group, cells in (("old", out & ~later), ("new", out & later)):
            scores = calibrated(model, adata[cells], truth[cells])
            row |= {f"{score}, {name}, {group}": value for score, value in scores.items()}
    return row


def frozen(old: tt.Model, cells: ad.AnnData) -> tt.Model:
    """Return the old networks with the training cells among the new ones as landmarks."""
    from tripletomics.growth import join_reference, recode

    cells = cells[~cells.obs["out"].to_numpy()].copy()
    x = pp.take_query(cells, old.features, None, pp.QueryOptions(min_matched=0)).x
    classes = sorted({*old.classes, *cells.obs["cell_type"]})
    reference = recode(old.reference, np.searchsorted(classes, old.classes), len(classes))
    codes = np.searchsorted(classes, cells.obs["cell_type"].to_numpy().astype(str))
    model = tt.Model(**vars(old) | {"classes": classes})
    model.reference = join_reference(reference, *old.place(x), old.pcs(x), codes, 0)
    return model


def write_tables(table: pd.DataFrame) -> None:
    """Write means over cases: of the maps, and of predictions."""
    maps, predictions = [], []
    for name, found in table.drop(columns=["later", "seed"]).groupby("data", sort=False):
        mean = found.drop(columns="data").mean()
        for space in SPACES:
            row = {"data": name, "space": space} | {way: mean[f"{way} {space}"] for way in WAYS}
            maps.append(row | ({"moved, %": mean["moved"], "time": mean["time"]} if space == "map" else {}))
        for cells in ("old", "new"):
            row = {"data": name, "held-out cells": cells}
            for score, title in CALIBRATED.items():
                row |= {f"{title}, {way}": mean[f"{score}, {way}, {cells}"] for way in WAYS[1:]}
            predictions.append(row)
    write_table(pd.DataFrame(maps), "growing")
    write_table(pd.DataFrame(predictions), "growing_predictions")


if __name__ == "__main__":
    common.start()
    given = common.options(("cite_cbmc_rna", "panc8_small")).parse_args()
    rows = []
    for name in given.datasets:
        adata = common.read(name)
        adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
        for later, cells, seed in cases(adata, common.SETS[name], given.seeds):
            codes, _ = labels.encode(adata.obs["cell_type"], ())
            adata.obs["out"] = pp.split(adata, 0.3, codes, seed)
            rows.append(note({"data": name, "later": later, "seed": seed, **grow(adata, cells, seed)}))
    write_tables(pd.DataFrame(rows))

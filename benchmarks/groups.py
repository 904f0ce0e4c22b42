"""What `predict(groups=)` and `relate` say of cells that were never seen, where the truth is known.

    python benchmarks/groups.py [groups novel relate training platforms] [--seeds 3]

writes the tables of docs/new-cells.md (of novel and training cells it prints). Datasets are found through the
environment variable TRIPLETOMICS_DATA. Models are fitted on 70 % of the cells of each type. Groups are made of the
others: true types, Leiden clusters, and two types at 70 % and 30 %. For `relate` the others are halved, and the labels
of one half are changed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import anndata as ad
import common
import numpy as np
import pandas as pd
import scanpy as sc
from common import log_normalise, note, print_table, write_table
from sklearn.cluster import KMeans

import tripletomics as tt
from tripletomics import labels, pp

SETS = ("pbmc3k", "cite_cbmc_rna", "human_kidney", "worm_neuron")
PLATFORMS = {"panc8_small": "batch", "scmixology_3platform": "platform"}
COVERAGE = 0.9
FEW = 5  # cells of a label; fewer are counted apart
MIXED = 8  # groups of two types for each dataset and seed


def fit(name: str, seed: int, left_out: str | None = None) -> tuple[tt.Model, ad.AnnData]:
    """Fit on 70 % of the cells of each type, all of one type excepted; return the model and the other cells."""
    adata = common.read(name)
    truth = adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    out = pp.split(adata, 0.3, labels.encode(truth, ())[0], seed) | (truth == left_out).to_numpy()
    return tt.fit(adata[~out].copy(), "cell_type", hold_out=0, seed=seed, progress=False), adata[out].copy()


def add_clusters(query: ad.AnnData, resolutions: tuple[float, ...]) -> None:
    """Add Leiden clusters by scanpy's usual steps, and the components that they are found in."""
    cells = query.copy()
    log_normalise(cells)
    if cells.n_vars > 2000:
        sc.pp.highly_variable_genes(cells, n_top_genes=2000)
        cells = cells[:, cells.var["highly_variable"]].copy()
    sc.pp.scale(cells, max_value=10)
    sc.pp.pca(cells, n_comps=50)
    sc.pp.neighbors(cells)
    for resolution in resolutions:
        sc.tl.leiden(cells, resolution=resolution, key_added="found", flavor="igraph", n_iterations=2)
        query.obs[f"Leiden {resolution}"] = [f"cluster {name}" for name in cells.obs["found"]]
    query.obsm["X_pca"] = cells.obsm["X_pca"]


def mixtures(truth: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yield columns in which one group has 70 % cells of a type and 30 % of another, and the other cells have none."""
    random, types = np.random.default_rng(seed), np.unique(truth)
    for _ in range(MIXED):
        most, least = (np.flatnonzero(truth == kind) for kind in random.choice(types, 2, replace=False))
        n = min(len(most), int(len(least) * 7 / 3), 60)
        few = round(n * 3 / 7)
        column = np.full(len(truth), None, dtype=object)
        if few > 1:
            column[
                np.concatenate([random.choice(most, n, replace=False), random.choice(least, few, replace=False)])
            ] = "mixed"
            yield column


def score_groups(query: ad.AnnData, column: str) -> Iterator[dict[str, float]]:
    """Yield what is said of each group next to what is true."""
    for _, cells in query.obs.dropna(subset=[column]).groupby(column, observed=True):
        shares = cells["cell_type"].value_counts(normalize=True)
        said = [name for name in cells["tt_group_label_set"].iloc[0].split(" | ") if name]
        held, before = float(shares.reindex(said).fillna(0).sum()), shares.cumsum().shift(fill_value=0)
        yield {
            "unassigned": cells["tt_group_label"].iloc[0] == "unassigned",
            "right": cells["tt_group_label"].iloc[0] == shares.index[0],
            "held": held,
            "enough": held >= COVERAGE,
            "size": len(said),
            "needed": int((before < COVERAGE - 1e-9).sum()),
            "both": shares.index[1] in said if len(shares) > 1 and shares.iloc[1] >= 0.2 else np.nan,
        }


def groups(seeds: int) -> None:
    """Measure what the label sets of groups hold."""
    rows = []
    for name in SETS:
        for seed in range(seeds):
            model, query = fit(name, seed)
            add_clusters(query, (0.5, 1, 2, 5))
            query.obs["true type"] = query.obs["cell_type"]
            columns = ["true type", *(f"Leiden {resolution}" for resolution in (0.5, 1, 2, 5))]
            for i, column in enumerate(mixtures(query.obs["cell_type"].to_numpy(), seed)):
                query.obs[f"mixed {i}"] = column
                columns.append(f"mixed {i}")
            for column in columns:
                tt.predict(query, model, groups=column)
                kind = "two types" if column.startswith("mixed") else column
                rows += [{"data": name, "groups": kind, **row} for row in score_groups(query, column)]
    table = pd.DataFrame(rows).astype({"both": float})
    write_table(
        table.groupby("groups", sort=False).apply(_summary_of_groups, include_groups=False).reset_index(), "groups"
    )


def _summary_of_groups(rows: pd.DataFrame) -> pd.Series:
    named = rows[~rows["unassigned"]]
    return pd.Series(
        {
            "number": str(len(rows)),
            "label of most cells": named["right"].mean(),
            "sets that hold 90 %": named["enough"].mean(),
            "cells in the set": named["held"].mean(),
            "types in the set": named["size"].mean(),
            "needed": named["needed"].mean(),
            "second type in the set": named["both"].mean(),
            "unassigned": rows["unassigned"].mean(),
        }
    )


def novel(_: int) -> None:
    """Leave each type out in turn: how often its group is unassigned, and how often those of the others are."""
    rows = []
    for name in SETS:
        for kind in sorted(common.read(name).obs["cell_type"].astype(str).unique()):
            model, query = fit(name, 0, kind)
            add_clusters(query, (1,))
            for column in ("cell_type", "Leiden 1"):
                tt.predict(query, model, groups=column)
                for _, cells in query.obs.groupby(column):
                    share = (cells["cell_type"] == kind).mean()
                    if 0.1 < share < 0.9:
                        continue
                    rows.append({"data": name, "groups": column, "novel": share > 0.5, "left out": kind,
                                 "unassigned": cells["tt_group_label"].iloc[0] == "unassigned",
                                 "cells unassigned": (cells["tt_label"] == "unassigned").mean()})  # fmt: skip
            note(rows[-1])
    table = pd.DataFrame(rows)
    print_table(table.groupby(["data", "groups", "novel"])[["unassigned", "cells unassigned"]].mean().reset_index())
    print_table(table.groupby(["groups", "novel"])[["unassigned", "cells unassigned"]].mean().reset_index())


def changes(query: ad.AnnData, seed: int) -> Iterator[tuple[str, np.ndarray, np.ndarray, str | None]]:
    """Yield what is changed, the labels of one half and of the other, and a label that the second half loses."""
    truth = query.obs["cell_type"].to_numpy()
    types = np.random.default_rng(seed).permutation(np.unique(truth))
    merged = pd.Series(truth).map({kind: f"pair {i // 2}" for i, kind in enumerate(types)}).to_numpy()
    split = truth.astype(object)
    for kind in pd.Series(truth).value_counts().index[:4]:
        rows = truth == kind
        half = KMeans(2, n_init=3, random_state=0).fit_predict(query.obsm["X_pca"][rows, :10])
        split[rows] = [f"{kind} {i}" for i in half]
    yield "renamed", truth, np.char.add("b: ", truth.astype(str)), None
    yield "b is coarser", truth, merged, None
    yield "b is finer", merged, truth, None
    yield "both are finer than the model", split, split, None
    yield "a are Leiden clusters", query.obs["Leiden 1"].to_numpy(), truth, None
    for kind in types:
        yield "a label of b is removed", truth, truth, kind


def score_relation(table: pd.DataFrame, a: np.ndarray, b: np.ndarray) -> Iterator[dict[str, float]]:
    """Yield how far the shares of each label of `a` are from those of its cells, whose true labels in b are given."""
    for label, rows in table.groupby("label_a", observed=True):
        mine = b[a == label]
        names = rows["label_b"].astype(str).to_numpy()
        true = np.array([(mine == name).mean() for name in names])
        true[names == "none"] = (~np.isin(mine, names)).mean()
        inner = (true > 0.05) & (true < 0.95)
        held = (rows["lower"] <= true) & (true <= rows["upper"])
        shares = rows["share"].to_numpy()
        yield {
            "label": label,
            "right": names[shares.argmax()] == names[true.argmax()],
            "off": np.abs(shares - true).sum() / 2,
            "none": shares[names == "none"][0],
            "interval": held[inner].mean() if inner.any() else np.nan,
        }


def _summary_of_relations(rows: pd.DataFrame) -> pd.Series:
    return pd.Series(
        {
            "labels": str(len(rows)),
            "largest share is right": rows["right"].mean(),
            "shares that are wrong": rows["off"].mean(),
            "none": rows["none"].mean(),
            "intervals hold": rows["interval"].mean(),
        }
    )


def relate(seeds: int) -> None:
    """Halve the cells that were not seen, change the labels of one half, and look for what was changed."""
    rows = []
    for name in SETS:
        for seed in range(seeds):
            model, query = fit(name, seed)
            add_clusters(query, (1,))
            first = np.random.default_rng(seed).random(query.n_obs) < 0.5
            for change, label_a, label_b, lost in changes(query, seed):
                query.obs["a"], query.obs["b"] = label_a, label_b
                kept = ~first & (label_b != lost)
                table = tt.relate(query[first].copy(), query[kept].copy(), model, label_a="a", label_b="b")
                found = score_relation(table, label_a[first].astype(str), label_b[first].astype(str))
                rows += [{"data": name, "change": change, **row} for row in found if lost in (None, row["label"])]
    table = pd.DataFrame(rows).astype({"interval": float})
    found = table.groupby("change", sort=False).apply(_summary_of_relations, include_groups=False)
    write_table(found.reset_index(), "relate")


def training(_: int) -> None:
    """Relate cells that were not seen to the training cells, with a model of the same types or of pairs of them."""
    rows = []
    for name in SETS:
        model, query = fit(name, 0)
        adata = common.read(name)
        adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
        seen = adata[~adata.obs_names.isin(query.obs_names)].copy()
        types = np.random.default_rng(0).permutation(seen.obs["cell_type"].unique())
        pair = {kind: f"pair {i // 2}" for i, kind in enumerate(types)}
        seen.obs["pair"] = seen.obs["cell_type"].map(pair)
        coarse = tt.fit(seen.copy(), "pair", hold_out=0, seed=0, progress=False)
        for one, of in ((model, "these types"), (coarse, "pairs of them")):
            for way, a, b in (("new to training cells", query, seen), ("training to new cells", seen, query)):
                table = tt.relate(a, b, one, label_a="cell_type", label_b="cell_type")
                found = score_relation(table, *[a.obs["cell_type"].to_numpy(dtype=str)] * 2)
                rows += [{"model of": of, "way": way, **row} for row in found]
    table = pd.DataFrame(rows).astype({"interval": float})
    by = ["model of", "way"]
    print_table(table.groupby(by, sort=False).apply(_summary_of_relations, include_groups=False).reset_index())


def platforms(_: int) -> None:
    """Relate a platform that the model has not seen to each that it has, and back."""
    rows = []
    for name, column in PLATFORMS.items():
        adata = common.read(name)
        adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
        on = adata.obs[column].astype(str).to_numpy()
        for new in sorted(set(on)):
            for batch in (None, column):
                model = tt.fit(adata[on != new].copy(), "cell_type", hold_out=0, seed=0, progress=False, batch=batch)
                for old in sorted(set(on) - {new}):
                    for way, a, b in (("new to known", new, old), ("known to new", old, new)):
                        first, second = adata[on == a].copy(), adata[on == b].copy()
                        table = tt.relate(first, second, model, label_a="cell_type", label_b="cell_type")
                        found = score_relation(table, *[first.obs["cell_type"].to_numpy(dtype=str)] * 2)
                        sizes = [cells.obs["cell_type"].value_counts() for cells in (first, second)]
                        for row in found:
                            there = [size.get(row["label"], 0) for size in sizes]
                            cells = (
                                "none in the second"
                                if not there[1]
                                else f"{FEW} or more"
                                if min(there) >= FEW
                                else "fewer"
                            )
                            rows.append({"data": name, "batch=": batch is not None, "way": way, "cells": cells, **row})
    table, by = pd.DataFrame(rows).astype({"interval": float}), ["data", "way", "cells"]
    plain, batches = (
        table[table["batch="] == given].groupby(by, sort=False).apply(_summary_of_relations, include_groups=False)
        for given in (False, True)
    )
    scores = ["largest share is right", "shares that are wrong"]
    write_table(
        plain[["labels", *scores]].join(batches[scores].add_suffix(", batch=")).reset_index(), "relate_platforms"
    )


if __name__ == "__main__":
    common.start()
    warnings.simplefilter("ignore")
    parts = {part.__name__: part for part in (groups, novel, relate, training, platforms)}
    given = common.options(parts).parse_args()
    for part in given.datasets:
        print(f"## {part}\n")
        parts[part](given.seeds)

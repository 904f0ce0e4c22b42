"""Label sets that are names of a tree, next to flat ones: coverage, names, and types below the names.

    python benchmarks/node_sets.py [datasets] [--seeds 3]

writes docs/tables/node_sets.csv. 30 % of the cells are held out. Trees are those of `trees.py`. Both kinds of sets
come from the same fit. "several" are the cells whose flat set has two types or more; of these, "names" and "types" are
numbers in node sets for each type in flat sets. "coarse" is of a fit in which half of the cells are known only to the
name above their type: the share of such held-out cells whose set has their name or one above it.
"""

from __future__ import annotations

import common
import numpy as np
import pandas as pd
from common import note, write_table
from trees import tree_of

import tripletomics as tt
from tripletomics import pp
from tripletomics.labels import nodes
from tripletomics.labels.tree import Tree

SETS = ("paul15", "pbmc3k", "cite_cbmc_rna", "human_kidney", "worm_neuron", "panc8_small")
COVERAGES = (0.9, 0.95)


def coarsen(labels: np.ndarray, parents: dict[str, str], seed: int) -> np.ndarray:
    """Return labels of which a random half are names above the types, where there are such names."""
    chosen = np.random.default_rng([seed, 7]).random(len(labels)) < 0.5
    return np.array([parents.get(name, name) if one else name for name, one in zip(labels, chosen, strict=True)])


def measure(name: str, seed: int) -> list[dict[str, object]]:
    """Fit one dataset, and compare its label sets with flat ones."""
    adata = common.read(name)
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    held_out = np.random.default_rng([seed, 3]).random(adata.n_obs) < 0.3
    parents = tree_of(name, adata, labels, ~held_out)
    adata.obs["labels"], adata.obs["held_out"] = labels, held_out
    common_given = {"parents": parents, "hold_out": "held_out", "seed": seed, "progress": False}
    model = tt.fit(adata, "labels", **common_given)
    tree: Tree = model.tree
    cells = pp.take_new(adata[held_out].copy(), model, pp.QueryOptions())
    code = {one: i for i, one in enumerate(tree.names)}
    truth = np.array([code.get(one, -1) for one in labels[held_out]])
    kept = (truth >= 0) & (truth < tree.n_leaves)
    rows, which = np.flatnonzero(kept), truth[kept]
    answers = {}
    for coverage in COVERAGES:
        model.tree = tree
        found = model.predict(cells.x, cells.present, coverage=coverage)[0]
        model.tree = None
        answers[coverage] = found, model.predict(cells.x, cells.present, coverage=coverage)[0]
    adata.obs["labels"] = coarsen(labels, parents, seed)
    coarse = tt.fit(adata, "labels", **common_given).checks
    table: list[dict[str, object]] = []
    for coverage, (found, flat) in answers.items():
        names = nodes.cover(found.sets[rows], tree).sum(axis=1)
        size, flat_size = found.sets[rows].sum(axis=1), flat.sets[rows].sum(axis=1)
        many = flat_size > 1
        table.append({
            "set": name, "coverage": coverage, "seed": seed, "of node sets": found.sets[rows, which].mean(),
            "of flat sets": flat.sets[rows, which].mean(), "names": names.mean(), "types below": size.mean(),
            "flat types": flat_size.mean(), "several": many.mean(),
            "names of several": names[many].sum(), "types of several": size[many].sum(),
            "flat of several": flat_size[many].sum(), "coarse": coarse.get("coarse_coverage", np.nan),
        })  # fmt: skip
        note(table[-1])
    return table


def main() -> None:
    """Measure all datasets, and write the means over seeds."""
    common.start()
    given = common.options(SETS).parse_args()
    runs = pd.DataFrame([row for name in given.datasets for seed in range(given.seeds) for row in measure(name, seed)])
    table = runs.groupby(["set", "coverage"], sort=False).mean().reset_index().drop(columns="seed")
    flat = table.pop("flat of several")
    table["names of several"] /= flat
    table["types of several"] /= flat
    sd = runs.groupby(["set", "coverage"], sort=False)["of node sets"].std().to_numpy()
    table.insert(3, "sd", sd)
    write_table(table, "node_sets")


if __name__ == "__main__":
    main()

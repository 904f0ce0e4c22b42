"""Simulated cells for measurements of time and memory: 30 types that differ as relatives do, counts, 5 % of them not 0.

    python benchmarks/simulate.py OUT.h5ad 100000 [sorted]

Types sit on a tree, so that some are hard to tell apart, and differ 30 fold in size; within each, cells vary along five
programs of genes that all types share. Every block of 10,000 cells has a seed of its own: the first cells of a large
table are those of a small one. With "sorted" the rows of a type lie together.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

GENES, TYPES, PROGRAMS = 2000, 30, 5
DEPTH = 170  # counts of a cell on average, for 5 % of the values not to be 0
BLOCK = 10_000


def types(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return log rates (types, genes), effects of programs (programs, genes), and the share of each type."""
    random = np.random.default_rng([seed, 0])
    base = random.normal(-1, 1.8, GENES)
    effects = np.zeros((TYPES, GENES))
    parent = np.arange(TYPES)
    while len(np.unique(parent)) > 1:  # a tree from the leaves up: each branch changes one gene in fifty
        for node in np.unique(parent):
            genes = random.choice(GENES, GENES // 50, replace=False)
            effects[np.ix_(parent == node, genes)] += random.normal(0, 2.2, len(genes))
        parent //= 3
    programs = np.where(random.random((PROGRAMS, GENES)) < 0.1, random.normal(0, 0.3, (PROGRAMS, GENES)), 0)
    share = np.geomspace(30, 1, TYPES)
    return base + effects, programs, share / share.sum()


def blocks(n: int, seed: int = 0) -> Iterator[tuple[sp.csr_matrix, np.ndarray]]:
    """Yield counts (cells, genes) and codes of types, up to 10,000 cells at a time."""
    log, programs, share = types(seed)
    for start in range(0, n, BLOCK):
        random = np.random.default_rng([seed, 1, start])
        size = min(BLOCK, n - start)
        codes = random.choice(TYPES, BLOCK, p=share)[:size]
        states = random.normal(size=(BLOCK, PROGRAMS))[:size]
        rate = np.exp(log[codes] + states @ programs)
        depth = DEPTH * random.lognormal(0, 0.4, BLOCK)[:size]
        rate *= (depth / rate.sum(axis=1))[:, None]
        yield sp.csr_matrix(random.poisson(rate.astype(np.float32)).astype(np.float32)), codes


def table(x: sp.csr_matrix, codes: np.ndarray) -> ad.AnnData:
    """Return counts as an AnnData with `obs["cell_type"]`."""
    names = pd.Categorical.from_codes(codes, [f"type {i + 1:02}" for i in range(TYPES)])
    obs = pd.DataFrame({"cell_type": names}, index=[f"cell{i}" for i in range(len(codes))])
    return ad.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(GENES)]))


def cells(n: int, seed: int = 0, ordered: bool = False) -> ad.AnnData:
    """Make a table of `n` cells with `obs["cell_type"]`."""
    matrices, codes = zip(*blocks(n, seed), strict=True)
    x, kinds = sp.vstack(matrices, format="csr"), np.concatenate(codes)
    if ordered:
        order = np.argsort(kinds, kind="stable")
        x, kinds = x[order], kinds[order]
    return table(x, kinds)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[3:] not in ([], ["sorted"]):
        sys.exit(__doc__)
    cells(int(sys.argv[2]), ordered=len(sys.argv) == 4).write_h5ad(sys.argv[1])

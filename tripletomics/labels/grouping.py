"""The label and the label set of a group of cells, such as a cluster."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from tripletomics.labels import nodes
from tripletomics.labels.prediction import Prediction
from tripletomics.labels.tree import Tree

MOST_ALONE = 0.9  # share of cells alone in their group; above it, a column names cells and not groups
MOST_REJECTED = 1 / 3  # share of a group's cells; above it, the group is unlike all types (1/2 finds fewer new types)


def vote(
    found: Prediction, codes: np.ndarray, n_groups: int, coverage: float, reject: float, tree: Tree | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the type of each group, which types are credible for it, and whether it is unlike all types.

    The probabilities of the cells are averaged (a linear opinion pool, Stone 1961), not multiplied. Similar cells have
    similar errors, so they are not independent evidence. The label set is the smallest set of types that together have
    the share `coverage` of this average. It is meant to hold the types of this share of the group's cells. So a group
    of two types gets both.

    Parameters
    ----------
    found
        Predictions of cells.
    codes
        Group of each cell (cells,), -1 for none. Every group has a cell.
    n_groups
        Number of groups.
    coverage
        Share of the cells of a group whose type its set is meant to hold.
    reject
        As for `tripletomics.predict`.
    tree
        Names above the types, if there are any. Then the name of a group is that of `nodes.deepest_likely`, and its set
        is not the smallest one, but has few names.

    Returns
    -------
    best
        Code of the type with the largest share (groups,), or the node.
    sets
        Boolean (groups, types). A group of one cell has the set of its cell. A group that is unlike all types has an
        empty set.
    unassigned
        Boolean (groups,): more than a third of its cells are unlike all types or, with a tree, no name has half of the
        group (unless `reject` is 0). A group of one cell is unassigned if its cell is.
    """
    cells = np.flatnonzero(codes >= 0)
    sizes = np.bincount(codes[cells], minlength=n_groups)
    members = sp.csr_array((np.ones(len(cells)), (codes[cells], cells)), (n_groups, len(codes)))
    shares = members @ found.probabilities + np.finfo(float).tiny  # all cells of a group may be unlike all types
    shares /= shares.sum(axis=1, keepdims=True)
    order = np.argsort(-shares, axis=1, kind="stable")
    descending = np.take_along_axis(shares, order, axis=1)
    before = np.cumsum(descending, axis=1) - descending
    sets = np.zeros(shares.shape, dtype=bool)
    np.put_along_axis(sets, order, before < coverage, axis=1)
    rejected = np.bincount(codes[cells], (found.unassigned & ~found.doubtful)[cells], n_groups) / sizes
    best, unlike = order[:, 0], rejected > MOST_REJECTED
    doubtful = np.zeros(n_groups, dtype=bool)
    if tree is not None:
        best, share = nodes.deepest_likely(nodes.sum_below(shares, tree), tree)
        doubtful = (share < nodes.LIKELY) & (reject > 0)
        sets = nodes.grow_to(shares, tree, coverage)
    sets[unlike] = False
    unassigned = unlike | doubtful
    alone = cells[sizes[codes[cells]] == 1]
    best[codes[alone]], sets[codes[alone]] = found.nodes[alone], found.sets[alone]
    unassigned[codes[alone]] = found.unassigned[alone]
    return best, sets, unassigned


def check_groups(name: str, codes: np.ndarray, classes: Sequence[str]) -> int:
    """Return how many groups have one cell; raise if there is no group, or nearly every cell is its own group."""
    sizes = np.bincount(codes[codes >= 0], minlength=len(classes))
    lone, cells = int((sizes == 1).sum()), int(sizes.sum())
    if not cells:
        raise ValueError(
            f"groups={name!r} has no group for any of the {len(codes):,} cells: missing values and names that mean "
            "unlabelled do not count. Name a column of clusters, such as 'leiden'."
        )
    if cells > 1 and lone > MOST_ALONE * cells:
        raise ValueError(
            f"groups={name!r} has {len(classes):,} groups of {cells:,} cells, and {lone:,} cells are alone in theirs: "
            "it seems to name cells. Name a column of clusters, such as 'leiden', or leave groups out: obs['tt_label'] "
            "has the type of each cell."
        )
    return lone

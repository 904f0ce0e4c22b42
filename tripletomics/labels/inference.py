"""The probable type of a cell that is known only coarsely, from the finer names of the cells around it.

The coarse name does most of the work: it leaves a few types to choose from. So a few finely labelled cells are enough,
and a batch that is labelled coarsely borrows the finer names of another one. What is inferred serves the training, the
map and the reference. It is never a label that a score or a calibration is measured on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from scipy.special import softmax

from tripletomics.knn import knn_graph
from tripletomics.labels.reference import build_reference
from tripletomics.labels.tree import Tree
from tripletomics.samplers import subsample_per_type

ROUNDS = 5  # that labels travel along the graph: the same from 2 to 10, and worse at 20
UNSEEN = 0.01  # probability of a type that no label of the neighbourhood speaks for


def infer_leaves(
    spaces: Sequence[np.ndarray], nodes: np.ndarray, tree: Tree, seed: int, sure: float = 0.0
) -> np.ndarray:
    """Return nodes (cells,) in which coarsely known cells have the most probable leaf below their node.

    A leaf is as probable as labels that travel along the neighbour graph make it, times a Gaussian of the distance
    between the cell and the mean of the leaf in principal components. Only leaves below the cell's node can be.

    Parameters
    ----------
    spaces
        Coordinates of the cells, (cells, columns) each: the principal components first. The graph is the mean of the
        graphs of these spaces.
    nodes
        Deepest known node of each cell (cells,), -1 for unlabelled cells, which stay as they are.
    tree
        The tree of the nodes.
    seed
        Seed of the draw of cells in a large dataset; those that are not drawn stay as they are.
    sure
        Probability above which a cell gets its leaf; the others stay as they are.

    References
    ----------
    Zhu & Ghahramani 2002, Learning from labeled and unlabeled data with label propagation. Here, each cell's labels are
    cut to the leaves below its node after every round.
    """
    rows = np.flatnonzero(nodes >= 0)
    rows = rows[subsample_per_type(nodes[rows], seed)]
    known, below = nodes[rows], tree.leaves_below()
    fine = known < tree.n_leaves
    if fine.all() or fine.sum() < 2:
        return nodes
    labelled = np.isin(np.arange(tree.n_leaves), known)
    only = below.sum(axis=1, keepdims=True) == 1
    possible = (below & (labelled | only))[known]  # (cells, leaves)
    graph = sum(_transitions(space[rows]) for space in spaces) / len(spaces)
    log_p = np.log(_propagate(graph, possible, fine) + UNSEEN)
    pcs = spaces[0][rows]
    typical = build_reference(pcs, pcs, pcs, tree.leaf_codes(known), tree.n_leaves, seed).distances(pcs)
    log_p = np.where(possible, log_p - np.where(labelled, typical, 0), -np.inf)
    taken = np.flatnonzero(~fine & possible.any(axis=1))
    p = softmax(log_p[taken], axis=1)
    taken, leaves = taken[p.max(axis=1) > sure], p.argmax(axis=1)[p.max(axis=1) > sure]
    found = nodes.copy()
    found[rows[taken]] = leaves
    return found


def _transitions(x: np.ndarray) -> sp.csr_matrix:
    """Return the graph of the 15 nearest cells, made symmetric, as shares of each cell's neighbours (cells, cells)."""
    graph = knn_graph(x)
    n, k = graph.shape
    edges = sp.csr_matrix((np.ones(n * k), (np.repeat(np.arange(n), k), graph.ravel())), (n, n))
    edges = edges + edges.T
    return sp.diags(1 / np.asarray(edges.sum(axis=1)).ravel()) @ edges


def _propagate(graph: sp.csr_matrix, possible: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Return the probability of each leaf (cells, leaves) after labels have travelled along a graph.

    `possible` are the leaves that a cell may be, boolean (cells, leaves); those of `fine` cells stay.
    """
    start = possible / np.maximum(possible.sum(axis=1, keepdims=True), 1)
    p = start
    for _ in range(ROUNDS):
        p = (graph @ p) * possible
        total = p.sum(axis=1, keepdims=True)
        p = np.where(fine[:, None] | (total == 0), start, p / np.where(total > 0, total, 1))
    return p

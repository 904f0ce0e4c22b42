"""The probable type of a cell that is known only coarsely, from the finer names of the cells around it.

The coarse name does most of the work: it leaves a few types to choose from. What is inferred serves the training, the
map and the reference. It is never a label that a score or a calibration is measured on.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.special import softmax

from tripletomics.knn import knn_graph
from tripletomics.labels.reference import build_reference
from tripletomics.labels.tree import Tree
from tripletomics.losses.levels import contained
from tripletomics.samplers import subsample_per_type

ROUNDS = 5  # in which labels travel along the graph: about the same from 2 to 10, and worse at 20
UNSEEN = 0.01  # probability of a type that no label of the neighbourhood speaks for
LIKELY, SURE = 0.6, 0.8  # a leaf needs a larger probability, where finely known cells are around and where not
AROUND = 0.5  # finely known cells are around if their share there is this much of that among cells of the same name


def infer_leaves(pcs: np.ndarray, nodes: np.ndarray, tree: Tree, seed: int) -> np.ndarray:
    """Return nodes (cells,) in which coarsely known cells have their most probable leaf, if it is probable enough.

    The probability of a leaf is a product: that of labels which travel along the neighbour graph, times a falling
    exponential of the Mahalanobis distance between the cell and the mean of the leaf. A leaf is taken if its
    probability is above 0.6. Where few finely known cells are around, as in a batch that is labelled coarsely, it must
    be above 0.8, because probabilities are too high there. All other cells stay as they are.

    Parameters
    ----------
    pcs
        Principal components (cells, components).
    nodes
        Deepest known node of each cell (cells,), -1 for unlabelled cells, which stay as they are.
    tree
        The tree of the nodes.
    seed
        Seed of the draw of cells in a large dataset; those that are not drawn stay as they are.

    Notes
    -----
    A cell with a name above a single leaf gets that leaf. Otherwise, a leaf is only inferred if some cell has its name.

    References
    ----------
    Zhu & Ghahramani 2002, Learning from labeled and unlabeled data with label propagation. Here, the leaves of a cell
    are cut to those below its node after every round.
    """
    rows = np.flatnonzero(nodes >= 0)
    rows = rows[subsample_per_type(nodes[rows], seed)]
    known, below, x = nodes[rows], tree.leaves_below(), pcs[rows]
    fine = known < tree.n_leaves
    if fine.all() or fine.sum() < 2:
        return nodes
    labelled = np.isin(np.arange(tree.n_leaves), known)
    possible = (below & (labelled | (below.sum(axis=1, keepdims=True) == 1)))[known]  # (cells, leaves)
    away = build_reference(x, x, x, tree.leaf_codes(known), tree.n_leaves, seed).distances(x)
    graph = _transitions(x)
    log_p = np.log(_propagate(graph, possible, fine) + UNSEEN) - np.where(labelled, away, 0)
    coarse = np.flatnonzero(~fine & possible.any(axis=1))
    p = softmax(np.where(possible, log_p, -np.inf)[coarse], axis=1)
    around = (graph @ (graph @ fine))[coarse] >= AROUND * _fine_share(below, known, fine)[known[coarse]]
    enough, found = p.max(axis=1) > np.where(around, LIKELY, SURE), nodes.copy()
    found[rows[coarse[enough]]] = p[enough].argmax(axis=1)
    return found


def _transitions(x: np.ndarray) -> sp.csr_matrix:
    """Return the graph of the 15 nearest cells, made symmetric, as shares of each cell's neighbours (cells, cells)."""
    graph = knn_graph(x)
    n, k = graph.shape
    edges = sp.csr_matrix((np.ones(n * k), (np.repeat(np.arange(n), k), graph.ravel())), (n, n))
    edges = edges + edges.T
    return sp.diags(1 / np.asarray(edges.sum(axis=1)).ravel()) @ edges


def _fine_share(below: np.ndarray, known: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Return the share of `fine` cells among those at or below each node (nodes,)."""
    within = contained(below)
    sizes, finely = (np.bincount(known[cells], minlength=len(below)) @ within for cells in (fine | True, fine))
    return finely / np.maximum(sizes, 1)


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

"""Scores of names on several levels, from coarse to fine, and their nulls: names permuted below the same parent."""

from __future__ import annotations

import numpy as np

from tripletomics.metrics.labels import ORDERS, macro_f1


def hierarchical_f1(truth: np.ndarray, predicted: np.ndarray, lineage: np.ndarray) -> float:
    r"""Score predicted nodes of a tree so that a name counts for all names above it.

    .. math:: \text{hF} = \frac{2\,\text{hP}\,\text{hR}}{\text{hP} + \text{hR}}, \qquad
        \text{hP} = \frac{\sum_i |T_i \cap P_i|}{\sum_i |P_i|}, \qquad
        \text{hR} = \frac{\sum_i |T_i \cap P_i|}{\sum_i |T_i|}

    with the true name of cell i and all names above it in T, and the predicted ones in P. A prediction that is deeper
    than what is known of the cell is cut to the depth of the true name.

    Parameters
    ----------
    truth, predicted
        Nodes (cells,). Cells whose true node is -1 are left out. A predicted -1 is no name: P is empty.
    lineage
        Names of each node on each level (nodes, levels), as `labels.nodes.lineage` returns it.

    Returns
    -------
    A number in [0, 1], NaN without cells.

    References
    ----------
    Kiritchenko, Matwin, Nock & Famili 2006, Learning and evaluation in the presence of class hierarchies. The root of
    all names counts in no set.
    """
    known = truth >= 0
    if not known.any():
        return float("nan")
    own, found = lineage[truth[known]], lineage[predicted[known]]
    found = np.where((predicted[known, None] >= 0) & (own >= 0), found, -1)
    right, named, there = ((own == found) & (own >= 0)).sum(), (found >= 0).sum(), (own >= 0).sum()
    return float(2 * right / (named + there))


def permute_within_parents(nodes: np.ndarray, parents: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return nodes (cells,) permuted among the cells whose nodes have the same parent; -1 stays."""
    groups = np.where(nodes >= 0, parents[nodes], -2)
    permuted = nodes.copy()
    permuted[np.argsort(groups, kind="stable")] = nodes[np.lexsort((random.random(len(nodes)), groups))]
    return permuted


def level_f1(truth: np.ndarray, predicted: np.ndarray, parents: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the macro-F1 of the names on one level, over the cells that are known there, and its null.

    Parameters
    ----------
    truth, predicted
        Nodes of one level (cells,). Cells whose true node is -1 are left out.
    parents
        The parent of each node (nodes,), -1 at the top.
    seed
        Seed of the random orders.

    Returns
    -------
    The macro-F1, and its mean over 100 random orders of the true names among the cells of the same parent (on the top
    level: among all). So a level scores above this only if the prediction says more than the level above.
    """
    random = np.random.default_rng(seed)
    orders = [macro_f1(permute_within_parents(truth, parents, random), predicted) for _ in range(ORDERS)]
    return macro_f1(truth, predicted), float(np.mean(orders))


def permuted_hierarchical_f1(
    truth: np.ndarray, predicted: np.ndarray, lineage: np.ndarray, parents: np.ndarray, seed: int
) -> float:
    """Return the mean `hierarchical_f1` over 100 orders of the true nodes among the cells of the same parent."""
    random = np.random.default_rng(seed)
    orders = (permute_within_parents(truth, parents, random) for _ in range(ORDERS))
    return float(np.mean([hierarchical_f1(order, predicted, lineage) for order in orders]))

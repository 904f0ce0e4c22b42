"""Predictions at the nodes of a tree of types: the deepest name that is likely, and label sets of few names.

The probability of a name is the sum of those of the types below it. A label set is a set of types, written as the
fewest names that stand for exactly these types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from tripletomics.labels.tree import Tree

LIKELY = 0.5  # probability from which a name is written
ANY, BETWEEN = "any", " | "  # a label set of all types, and what stands between the names of others
NAME = 2.7  # what each name of a label set costs, in types: 2 gives more names, 3 more types
LEAST, HALVINGS = -745.0, 60  # log of the smallest number, and steps from there to 0 that find a price to 1e-15


@dataclass(frozen=True)
class NodeLabels:
    """Labels of cells on several levels.

    Attributes
    ----------
    nodes
        The deepest known node of each cell (cells,), -1 for unlabelled.
    tree
        The tree of the nodes.
    names
        Names of the levels, from coarse to fine.
    levels
        The level on which each node first stands (nodes,).
    """

    nodes: np.ndarray
    tree: Tree
    names: list[str]
    levels: np.ndarray

    @classmethod
    def of(cls, nodes: np.ndarray, tree: Tree, first: Mapping[str, int], columns: Sequence[str]) -> Self:
        """Return the labels, with `columns` as levels if it is known in which column each name first stands.

        If it is not, levels are counted from the top: "level 1", "level 2", ...
        """
        if first:
            return cls(nodes, tree, list(columns), np.array([first[name] for name in tree.names]))
        depths = tree.depths()
        return cls(nodes, tree, [f"level {i + 1}" for i in range(depths.max() + 1)], depths)

    def names_of_nodes(self) -> np.ndarray:
        """Return what each node is called on each level, codes (nodes, levels); -1 where it is not known.

        It is the deepest of the node and the names above it that stand on this level or a coarser one. A node is not
        known where the first finer name stands. A type has no finer names, so it is known on all levels from its own.
        """
        found = np.full((len(self.tree.names), len(self.names)), -1)
        end = np.full(len(self.tree.names), len(self.names))
        for node in range(len(self.tree.names)):
            for above in self.tree.path(node)[::-1]:
                found[node, self.levels[above] :] = above
            if (parent := self.tree.parents[node]) >= 0:
                end[parent] = min(end[parent], self.levels[node])
        return np.where(np.arange(len(self.names)) < end[:, None], found, -1)

    def on_levels(self) -> dict[str, np.ndarray]:
        """Return by level what each cell is called there: nodes (cells,), -1 where it is not known."""
        known = np.where(self.nodes[:, None] >= 0, self.names_of_nodes()[self.nodes], -1)
        return dict(zip(self.names, known.T, strict=True))

    def best_on_levels(self, p: np.ndarray) -> dict[str, np.ndarray]:
        """Return by level the most probable node there (cells,), from the probabilities of all nodes (cells, nodes)."""
        return {level: there[p[:, there].argmax(axis=1)] for level, there in self.nodes_on_levels().items()}

    def nodes_on_levels(self) -> dict[str, np.ndarray]:
        """Return by level the nodes that types are called there."""
        names = self.names_of_nodes()[: self.tree.n_leaves].T
        return {level: np.unique(column[column >= 0]) for level, column in zip(self.names, names, strict=True)}

    def with_nodes(self, nodes: np.ndarray) -> Self:
        """Return the labels of other cells."""
        return replace(self, nodes=nodes)


def lineage(tree: Tree) -> np.ndarray:
    """Return the names above each node and itself, by their depth: codes (nodes, depths), -1 below the node."""
    found = np.full((len(tree.names), int(tree.depths().max()) + 1), -1)
    for code in range(len(tree.names)):
        path = tree.path(code)[::-1]
        found[code, : len(path)] = path
    return found


def sum_below(p: np.ndarray, tree: Tree) -> np.ndarray:
    """Return the probabilities of all nodes (cells, nodes) from those of the types (cells, leaves)."""
    return np.minimum(_add_up(p, tree), 1)


def _add_up(values: np.ndarray, tree: Tree) -> np.ndarray:
    """Return the sums over the leaves below each node (cells, nodes) of values of leaves (cells, leaves)."""
    sums = np.zeros((len(values), len(tree.names)), dtype=values.dtype, order="F")
    sums[:, : tree.n_leaves] = values
    for node in _upwards(tree):
        if (parent := tree.parents[node]) >= 0:
            sums[:, parent] += sums[:, node]
    return sums


def _upwards(tree: Tree) -> np.ndarray:
    """Return the nodes in an order in which each comes before its parent."""
    return np.argsort(-tree.depths(), kind="stable")


def deepest_likely(p: np.ndarray, tree: Tree) -> tuple[np.ndarray, np.ndarray]:
    """Return the deepest node whose probability is at least one half, and its probability: both (cells,).

    Two such nodes are one above the other, or each has exactly one half: then the first one counts. Where no node has
    one half, it is the most probable one of the top level.

    Parameters
    ----------
    p
        Probabilities of all nodes (cells, nodes).
    """
    depth = tree.depths()
    likely = p >= LIKELY
    chosen = np.where(likely, depth + 1, p * (depth == 0)).argmax(axis=1)
    return chosen, p[np.arange(len(p)), chosen]


def grow(p: np.ndarray, tree: Tree, price: np.ndarray | float) -> np.ndarray:
    r"""Return label sets, boolean (cells, leaves), of probabilities of types (cells, leaves).

    The best type belongs to a set if its probability is at least the price. Besides, it is the set S with the largest

    .. math:: \sum_{k \in S} p_k - \text{price} \cdot (\text{types}(S) + 2.7 \, \text{names}(S))

    where names(S) is the smallest number of nodes that stand for exactly S. Sets at a lower price contain those at a
    higher price, so the price can be fitted as the threshold of split conformal prediction is. With a price for types
    alone it would be this threshold. Because names have a price, too, a set often takes all types below a node.

    Parameters
    ----------
    price
        Of a type: one for all cells, or one for each (cells,).

    Notes
    -----
    The largest sum is found from the leaves up: a node is taken as a whole, or split into the best parts of its
    children. The cost of a set is submodular: a further type costs less where more types are in the set. So the best
    sets at falling prices are nested (Topkis 1978; Fujishige 2005, chapter on principal partitions).
    """
    price, size = np.broadcast_to(price, len(p)), tree.leaves_below().sum(axis=1)
    gain = _add_up(p, tree) - price[:, None] * (size + NAME)
    parts, whole, upwards = np.zeros_like(gain), np.zeros_like(gain, dtype=bool), _upwards(tree)
    for node in upwards:
        whole[:, node] = gain[:, node] >= parts[:, node]
        if (parent := tree.parents[node]) >= 0:
            parts[:, parent] += np.maximum(gain[:, node], parts[:, node])
    for node in upwards[::-1]:  # what is taken as a whole is taken with all below it
        if (parent := tree.parents[node]) >= 0:
            whole[:, node] |= whole[:, parent]
    found = np.ascontiguousarray(whole[:, : tree.n_leaves])
    cells, best = np.arange(len(p)), p.argmax(axis=1)
    found[cells, best] |= p[cells, best] >= price
    return found


def grow_from_half(p: np.ndarray, tree: Tree, price: np.ndarray | float) -> np.ndarray:
    """Return label sets as `grow` does; a set below one half grows until it has one half, if some name has it.

    So a set and the name that is written both have one half or more, and share a type. An empty set stays empty.
    """
    found = grow(p, tree, price)
    narrow = found.any(axis=1) & ((p * found).sum(axis=1) < LIKELY)
    return found | _halves(p, tree, narrow)


def _halves(p: np.ndarray, tree: Tree, among: np.ndarray) -> np.ndarray:
    """Return the sets of `grow_to` one half of some cells in which a name has it; other cells have empty sets."""
    found = np.zeros(p.shape, dtype=bool)
    rows = np.flatnonzero(among)
    rows = rows[sum_below(p[rows], tree).max(axis=1) >= LIKELY]
    found[rows] = grow_to(p[rows], tree, LIKELY)
    return found


def costs_of_truth(p: np.ndarray, tree: Tree, codes: np.ndarray) -> np.ndarray:
    """Return minus the log of the highest price at which `grow_from_half` takes the true type of each cell (cells,)."""
    cells = np.arange(len(p))
    in_half = _halves(p, tree, np.full(len(p), True))[cells, codes]
    return -_highest_price(p, tree, lambda sets: sets[cells, codes] | (in_half & sets.any(axis=1)))


def grow_to(p: np.ndarray, tree: Tree, share: float) -> np.ndarray:
    """Return label sets as `grow` does, at the highest price at which their types have this share together."""
    return grow(p, tree, np.exp(_highest_price(p, tree, lambda sets: (p * sets).sum(axis=1) >= share)))


def _highest_price(p: np.ndarray, tree: Tree, holds: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the log of the highest price (cells,) whose sets have a property, as all larger sets have it."""
    low, high = np.full(len(p), LEAST), np.zeros(len(p))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = holds(grow(p, tree, np.exp(middle)))
        low, high = np.where(found, middle, low), np.where(found, high, middle)
    return low


def cover(sets: np.ndarray, tree: Tree) -> np.ndarray:
    """Return the fewest nodes that stand for exactly the types of each set, boolean (cells, nodes).

    Of a node and its only child, which stand for the same types, it is the child.
    """
    full = _add_up(sets.astype(np.int32), tree) == tree.leaves_below().sum(axis=1)
    has_parent = tree.parents >= 0
    top = full.copy()
    top[:, has_parent] &= ~full[:, tree.parents[has_parent]]
    for node in _upwards(tree)[::-1]:  # from the top, so that a name moves down a whole chain
        children = np.flatnonzero(tree.parents == node)
        if len(children) == 1:
            top[:, children[0]] |= top[:, node]
            top[:, node] = False
    return top


def check_node_names(names: Sequence[str]) -> None:
    """Raise if a name on levels could be taken for a label set."""
    for name in names:
        if name == ANY or BETWEEN in name:
            raise ValueError(
                f"With types on several levels, {name!r} cannot be a name, because predict writes a label set of all "
                f"types as {ANY!r}, and one of several names with {BETWEEN!r} between them: rename it."
            )


def write_sets(sets: np.ndarray, tree: Tree) -> list[str]:
    """Return label sets as text: the names of `cover` joined by " | ", or "any" for all types."""
    names = np.array(tree.names, dtype=object)
    return [
        ANY if types.all() and len(types) > 1 else BETWEEN.join(names[chosen])
        for types, chosen in zip(sets, cover(sets, tree), strict=True)
    ]


def with_types(tree: Tree, names: Sequence[str]) -> Tree:
    """Return the tree with further types at the top level, after those that it has."""
    n, more = tree.n_leaves, len(names)
    parents = np.where(tree.parents >= n, tree.parents + more, tree.parents)
    at_top = np.full(more, -1)
    return Tree(
        [*tree.names[:n], *names, *tree.names[n:]], np.concatenate([parents[:n], at_top, parents[n:]]), n + more
    )

"""The probable leaf of cells whose type is known coarsely."""

import numpy as np
import pytest

from tripletomics.labels.inference import infer_leaves
from tripletomics.labels.tree import Tree

TREE = Tree.of({"a1": "a", "a2": "a", "b1": "b", "b2": "b", "a": None, "b": None, "single": "s", "s": None})
MEANS = np.random.default_rng(0).normal(scale=4, size=(TREE.n_leaves, 8))


def cells(n=400, fine=0.1, seed=0):
    """Cells around the mean of their leaf, most of them known by the name above it; and their leaves."""
    random = np.random.default_rng(seed)
    leaves = random.integers(TREE.n_leaves, size=n)
    x = (MEANS[leaves] + random.normal(size=(n, 8))).astype(np.float32)
    return x, np.where(random.random(n) < fine, leaves, TREE.parents[leaves]), leaves


def test_cells_get_the_leaf_of_their_neighbours():
    x, nodes, leaves = cells()
    found = infer_leaves([x], nodes, TREE, 0)
    assert (found == leaves).mean() > 0.97
    assert (found[nodes < TREE.n_leaves] == nodes[nodes < TREE.n_leaves]).all()


def test_only_leaves_below_the_node_can_be_inferred():
    x, nodes, _ = cells()
    wrong = np.random.default_rng(1).permutation(nodes)  # names that have nothing to do with the cells
    found = infer_leaves([x, x[:, :2]], wrong, TREE, 0)
    assert TREE.leaves_below()[wrong, found].all()


def test_a_name_above_one_leaf_is_that_leaf():
    x, nodes, leaves = cells()
    single = TREE.names.index("single")
    nodes = np.where(leaves == single, TREE.names.index("s"), nodes)  # no cell is known as the leaf itself
    assert (infer_leaves([x], nodes, TREE, 0, sure=0.99)[leaves == single] == single).all()


def test_a_name_below_which_no_leaf_has_a_cell_says_nothing():
    x, nodes, leaves = cells()
    above = TREE.parents[leaves] == TREE.names.index("a")
    nodes = np.where(above, TREE.names.index("a"), nodes)
    assert (infer_leaves([x], nodes, TREE, 0)[above] == TREE.names.index("a")).all()


def test_unlabelled_cells_stay_and_change_nothing():
    x, nodes, _ = cells()
    far = np.concatenate([x, x[:50] + 0.1])
    found = infer_leaves([far], np.concatenate([nodes, np.full(50, -1)]), TREE, 0)
    np.testing.assert_array_equal(found, [*infer_leaves([x], nodes, TREE, 0), *np.full(50, -1)])


def test_less_sure_cells_keep_their_name():
    random = np.random.default_rng(0)
    x, nodes, _ = cells()
    noise = random.normal(size=x.shape).astype(np.float32)  # the leaves look alike
    coarse = nodes >= TREE.n_leaves
    shares = [(infer_leaves([noise], nodes, TREE, 0, sure)[coarse] < TREE.n_leaves).mean() for sure in (0, 0.6, 0.9)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(1)
    assert shares[2] < 0.6  # those of the single leaf are certain


def test_the_order_of_the_cells_does_not_matter():
    x, nodes, _ = cells()
    order = np.random.default_rng(2).permutation(len(x))
    np.testing.assert_array_equal(
        infer_leaves([x[order]], nodes[order], TREE, 0), infer_leaves([x], nodes, TREE, 0)[order]
    )


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_cells_are_no_error(n):
    x, nodes, _ = cells()
    rows = [*np.flatnonzero(nodes < TREE.n_leaves)[: n - 1], *np.flatnonzero(nodes >= TREE.n_leaves)[:1]]
    assert len(infer_leaves([x[rows]], nodes[rows], TREE, 0)) == n

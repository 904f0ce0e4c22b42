"""Predictions at the nodes of a tree of types."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tripletomics.labels import nodes
from tripletomics.labels.tree import Tree

TREE = Tree.of({"a": "A", "b": "A", "A": "AB", "c": "B", "d": "B", "B": "AB", "AB": None, "e": None})


def fewest(chosen, tree):
    """The fewest names that stand for exactly these leaves, by trying all sets of nodes."""
    below = tree.leaves_below()
    for k in range(len(tree.names) + 1):
        for names in itertools.combinations(range(len(tree.names)), k):
            if (below[list(names)].sum(axis=0) == chosen).all():
                return k
    return None


@st.composite
def trees(draw):
    """Up to five leaves below up to four other nodes."""
    parents = {}
    for i in range(draw(st.integers(0, 4))):
        parents[f"n{i}"] = draw(st.sampled_from([None, *(f"n{j}" for j in range(i))]))
    leaves = draw(st.integers(1, 5))
    for i in range(leaves):
        parents[f"leaf{i}"] = draw(st.sampled_from([None, *(name for name in parents if name.startswith("n"))]))
    return Tree.of(parents)


@settings(max_examples=40, deadline=None)
@given(trees(), st.integers(0, 10**6))
def test_sets_are_the_best_ones_and_grow_as_the_price_falls(tree, seed):
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.full(tree.n_leaves, 0.5), size=4) * random.uniform(0.3, 1, size=(4, 1))
    every = np.array(list(itertools.product([False, True], repeat=tree.n_leaves)))
    costs = every.sum(axis=1) + nodes.NAME * np.array([fewest(one, tree) for one in every])
    before = np.zeros(p.shape, dtype=bool)
    for price in np.geomspace(1, 1e-4, 12):
        found = nodes.grow(p, tree, price)
        assert not (before & ~found).any()
        before = found
        for cell, one in zip(p, found, strict=True):
            values = every @ cell - price * costs
            alone = np.arange(len(cell)) == cell.argmax()
            best = every[values > values.max() - 1e-12].any(axis=0) | (alone & (cell >= price))
            least = every[values > values.max() - 1e-12].all(axis=0) | (alone & (cell >= price))
            assert (least <= one).all()
            assert (one <= best).all()


def test_the_price_of_a_cell_is_the_highest_whose_set_holds_its_type():
    random = np.random.default_rng(0)
    p, codes = random.dirichlet(np.full(5, 0.4), size=200), random.integers(5, size=200)
    cost, cells = nodes.costs_of_truth(p, TREE, codes), np.arange(200)
    reached = p[cells, codes] > 1e-12
    assert nodes.grow_from_half(p, TREE, np.exp(-cost - 1e-9))[cells, codes][reached].all()
    assert not nodes.grow_from_half(p, TREE, np.exp(-cost + 1e-9))[cells, codes][reached].any()


@settings(max_examples=20, deadline=None)
@given(trees(), st.integers(0, 10**6))
def test_a_set_is_not_narrower_than_one_half_where_a_name_is_likely(tree, seed):
    p = np.random.default_rng(seed).dirichlet(np.full(tree.n_leaves, 0.7), size=6)
    named, share = nodes.deepest_likely(nodes.sum_below(p, tree), tree)
    before = np.zeros(p.shape, dtype=bool)
    for price in np.geomspace(1, 1e-3, 8):
        found, grown = nodes.grow_from_half(p, tree, price), nodes.grow(p, tree, price)
        some = grown.any(axis=1)
        assert not (before & ~found).any()
        np.testing.assert_array_equal(found.any(axis=1), some)
        np.testing.assert_array_equal(found[share < 0.5], grown[share < 0.5])
        likely = some & (share >= 0.5)
        assert ((p * found).sum(axis=1)[likely] > 0.5 - 1e-9).all()
        assert (found & tree.leaves_below()[named])[likely].any(axis=1).all()
        before = found


def test_the_price_of_a_type_alone_is_its_threshold():
    flat = Tree.of(dict.fromkeys("abc"))
    p = np.array([[0.7, 0.2, 0.1]])
    assert np.exp(-nodes.costs_of_truth(p, flat, np.array([0]))) == pytest.approx(0.7)
    assert np.exp(-nodes.costs_of_truth(p, flat, np.array([1]))) == pytest.approx(0.2 / (1 + nodes.NAME))


@settings(max_examples=40, deadline=None)
@given(trees(), st.integers(0, 31))
def test_a_set_is_written_as_the_fewest_disjoint_names(tree, bits):
    chosen = np.array([bool(bits >> i & 1) for i in range(tree.n_leaves)])
    named = nodes.cover(chosen[None], tree)[0]
    np.testing.assert_array_equal(tree.leaves_below()[named].sum(axis=0), chosen)
    assert named.sum() == fewest(chosen, tree)


def test_sets_as_text():
    rows = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=bool)
    assert nodes.write_sets(rows, TREE) == ["A", "AB", "b | B", "any", ""]
    chain = Tree.of({"x": "X", "X": "XX", "XX": None, "y": None})
    assert nodes.write_sets(np.array([[True, False]]), chain) == ["x"]  # not the names above with the same types


def test_the_deepest_name_that_is_likely():
    p = np.array([
        [0.6, 0.2, 0.1, 0, 0], [0.3, 0.3, 0.2, 0.1, 0.1], [0.4, 0, 0.4, 0, 0.2], [0.2, 0, 0.1, 0, 0.4],
        [0, 0, 0, 0, 0.9], [0.1, 0.1, 0.1, 0.1, 0.1],
    ])  # fmt: skip
    summed = nodes.sum_below(p, TREE)
    found, probability = nodes.deepest_likely(summed, TREE)
    assert [TREE.names[code] for code in found] == ["a", "A", "AB", "e", "e", "AB"]
    np.testing.assert_allclose(probability, [0.6, 0.6, 0.8, 0.4, 0.9, 0.4])
    np.testing.assert_allclose(summed, [[row[tree].sum() for tree in TREE.leaves_below()] for row in p])


def test_a_single_child_has_the_probability_of_its_parent_and_is_the_deeper_name():
    tree = Tree.of({"x": "X", "X": None, "y": None})
    found, probability = nodes.deepest_likely(nodes.sum_below(np.array([[0.7, 0.3]]), tree), tree)
    assert tree.names[found[0]] == "x"
    assert probability == 0.7


def test_new_types_are_leaves_of_the_top_level():
    more = nodes.with_types(TREE, ["new", "and"])
    assert more.names == ["a", "b", "c", "d", "e", "new", "and", "A", "AB", "B"]
    assert [more.names[up] if up >= 0 else None for up in more.parents] == [
        "A",
        "A",
        "B",
        "B",
        None,
        None,
        None,
        "AB",
        None,
        "AB",
    ]
    np.testing.assert_array_equal(more.leaves_below()[7], np.eye(7, dtype=bool)[:2].any(axis=0))

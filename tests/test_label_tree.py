"""Cell types on several levels."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tripletomics.labels import UNLABELLED
from tripletomics.labels.tree import Tree, read_levels, read_parents, read_tree
from tripletomics.notices import TripletomicsWarning

PARENTS = {"CD4 naive": "CD4 T", "CD4 memory": "CD4 T", "CD4 T": "T", "CD8 T": "T"}


def levels(*rows, columns=("class", "subclass", "type")):
    return read_levels(pd.DataFrame(rows, columns=list(columns)), columns, UNLABELLED)


def node(tree, code):
    return None if code < 0 else tree.names[code]


def test_columns_become_a_tree_with_the_deepest_known_name_of_each_cell():
    tree, codes = levels(
        ("T", "CD4 T", "CD4 naive"), ("T", "CD4 T", None), ("T", "CD8 T", np.nan), ("B", "B", "B"),
        ("T", "", "unknown"), (None, None, None), (None, None, "CD4 naive"), ("T", None, "CD4 naive"),
    )  # fmt: skip
    assert tree.names == ["B", "CD4 naive", "CD8 T", "CD4 T", "T"]
    assert [node(tree, up) for up in tree.parents] == [None, "CD4 T", "T", "T", None]
    found = [node(tree, code) for code in codes]
    assert found == ["CD4 naive", "CD4 T", "CD8 T", "B", "T", None, "CD4 naive", "CD4 naive"]
    assert tree.leaves_below().astype(int).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert tree.depths().tolist() == [0, 2, 1, 1, 0]


def test_a_name_whose_level_above_is_always_missing_hangs_on_the_next_one():
    tree, _ = levels(("T", None, "CD4 naive"), ("T", "CD8 T", None))
    assert [node(tree, up) for up in tree.parents] == ["T", "T", None]


def test_one_flat_column_is_a_flat_tree():
    tree, codes = levels(("b",), ("a",), (None,), columns=("type",))
    assert tree.flat
    assert tree.names == ["a", "b"]
    assert codes.tolist() == [1, 0, -1]


def test_parents_as_a_dict_give_the_same_tree_as_columns():
    values = pd.Series(["CD4 naive", "CD4 memory", "CD8 T", "T", None, "CD4 T"], name="cell_type")
    one, codes = read_parents(values, PARENTS | {"unused": "T"}, UNLABELLED)
    other, _ = levels(("T", "CD4 T", "CD4 naive"), ("T", "CD4 T", "CD4 memory"), ("T", "CD8 T", None))
    assert one.names == other.names
    np.testing.assert_array_equal(one.parents, other.parents)
    assert [node(one, code) for code in codes] == values.tolist()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("T", "other", None), ("B", "other", None)],
            "'other' in 'subclass' lies below 'T' and below 'B', .*'T/other'",
        ),
        ([("T", "CD4 T", "x"), ("B", None, "x")], "'x' in 'type' lies below 'B' and below 'CD4 T'"),
        (
            [("a", "b", None), (None, "a", "c"), ("b", "a", None)],
            "circle: 'a' below 'b' below 'a'|circle: 'b' below 'a'",
        ),
    ],
)
def test_columns_that_do_not_nest_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        levels(*rows)


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ({"a": "b", "b": "a"}, "circle: 'a' below 'b' below 'a'"),
        ({"a": "a"}, "circle: 'a' below 'a'"),
        ({"x": "y"}, r"none of its names \(first: x\) is a name of 'kind' \(first: a, c\)"),
        ({"a": None}, "'a' has the parent None, which means unlabelled"),
        ({}, "none of its names"),
    ],
)
def test_parents_that_make_no_tree_are_refused(parents, message):
    with pytest.raises(ValueError, match=message):
        read_parents(pd.Series(["a", "c"], name="kind"), parents, UNLABELLED)


def test_cells_that_are_not_trained_on_do_not_shape_the_tree():
    above, types = ["T", "T", "B", None, "B", "T", "T", "X"], ["CD4", "CD8", "naive", "lone", "CD4", "lone", "new", "y"]
    rows = pd.DataFrame({"class": above, "type": types})
    train = np.arange(8) < 4
    tree, codes = read_levels(rows, ["class", "type"], UNLABELLED, train)
    alone, _ = read_levels(rows[train], ["class", "type"], UNLABELLED)
    assert tree.names == alone.names == ["CD4", "CD8", "lone", "naive", "B", "T"]
    np.testing.assert_array_equal(tree.parents, alone.parents)
    found = [node(tree, code) for code in codes]
    assert found == ["CD4", "CD8", "naive", "lone", "CD4", "lone", "T", None]


def test_misspelled_parents_are_told():
    values = pd.Series(["a", "b", " c", "d"], name="kind")
    with pytest.warns(TripletomicsWarning) as told:
        tree, _ = read_parents(values, {"a ": " T cell", "B": "T cell", " c": "t  cell", "d": "T cell"}, UNLABELLED)
    assert [node(tree, up) for up in tree.parents[:4]] == ["t  cell", "T cell", None, "T cell"]
    assert [str(one.message).partition(":")[2][:60] for one in told] == [
        " 'B' is no name in 'kind', and there is 'b': they count as t",
        " 't  cell' is no name in 'kind', and there is 'T cell': they"[:60],
    ]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 6), min_size=1, max_size=8), st.data())
def test_leaves_below_agree_with_walking_up_from_each_leaf(above, data):
    parents = {str(i): (None if up < 0 or up >= i else str(up)) for i, up in enumerate(above)}
    tree = Tree.of(parents)
    below = tree.leaves_below()
    for leaf in range(tree.n_leaves):
        at = tree.names[leaf]
        while at is not None:
            assert below[tree.names.index(at), leaf]
            below[tree.names.index(at), leaf] = False
            at = parents[at]
    assert not below.any()
    codes = np.array(data.draw(st.lists(st.integers(-1, len(tree.names) - 1), min_size=1, max_size=5)))
    some, found = tree.among(codes)
    assert [node(some, code) for code in found] == [node(tree, code) for code in codes]
    for name, up in zip(some.names, some.parents, strict=True):
        assert node(some, up) == parents[name]


def test_the_record_of_a_tree_gives_it_back():
    tree = Tree.of(PARENTS | {"T": None})
    other = read_tree({"names": tree.names, "parents": tree.parents.tolist()})
    assert other.names == tree.names
    assert other.n_leaves == tree.n_leaves
    np.testing.assert_array_equal(other.parents, tree.parents)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "tree does not hold names and the position of each one's parent"),
        ({"names": ["a"]}, "tree does not hold names"),
        ({"names": ["a", "b"], "parents": [1]}, "tree does not hold names"),
        ({"names": ["a", "a"], "parents": [-1, -1]}, "tree does not hold names"),
        ({"names": ["a", "b"], "parents": [2, -1]}, "tree does not hold names"),
        ({"names": ["a", "b"], "parents": [-2, -1]}, "tree does not hold names"),
        ({"names": ["a", "b"], "parents": ["b", None]}, "tree does not hold names"),
        ({"names": ["a", "b", "c"], "parents": [1, 2, 1]}, "go in a circle"),
        ({"names": ["a"], "parents": [0]}, "go in a circle"),
        ({"names": ["b", "a"], "parents": [-1, -1]}, "tree does not hold its leaves first"),
        ({"names": ["a", "b"], "parents": [-1, 0]}, "tree does not hold its leaves first"),
    ],
)
def test_a_damaged_record_of_a_tree_is_refused(record, message):
    with pytest.raises(ValueError, match=message):
        read_tree(record)

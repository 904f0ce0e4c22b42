"""Scores of names on several levels."""

from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import f1_score

from tripletomics import metrics
from tripletomics.labels import nodes
from tripletomics.labels.nodes import NodeLabels
from tripletomics.labels.tree import Tree

TREE = Tree.of({"a": "A", "b": "A", "A": "AB", "c": "B", "d": "B", "B": "AB", "AB": None, "e": None})
LINEAGE = nodes.lineage(TREE)
LEVELS = ["class", "subclass", "type"]


def code(*names):
    return np.array([-1 if name is None else TREE.names.index(name) for name in names])


def by_loop(truth, predicted):
    """Hierarchical F1 over sets of names, cell by cell."""
    both = found = there = 0
    for true, said in zip(truth, predicted, strict=True):
        if true < 0:
            continue
        own = TREE.path(true)
        named = TREE.path(said) if said >= 0 else []
        named = set(named[::-1][: len(own)])
        both, found, there = both + len(named & {*own}), found + len(named), there + len(own)
    precision, recall = both / found if found else 0, both / there
    return 2 * precision * recall / (precision + recall) if both else 0.0


def on_levels(tree, first=None, columns=()):
    """What each node is called on each level."""
    known = NodeLabels.of(np.arange(len(tree.names)), tree, first or {}, columns)
    rows = np.stack(list(known.on_levels().values()), axis=1)
    found = [[tree.names[i] if i >= 0 else None for i in row] for row in rows]
    return known, dict(zip(tree.names, found, strict=True))


def test_names_on_levels_counted_from_the_top():
    known, found = on_levels(TREE)
    assert known.names == ["level 1", "level 2", "level 3"]
    assert found["a"] == ["AB", "A", "a"]
    assert found["e"] == ["e", "e", "e"]  # a type of the top level has no finer name
    assert found["A"] == ["AB", "A", None]
    assert found["AB"] == ["AB", None, None]


def test_names_on_levels_that_are_columns():
    tree = Tree.of({"NK": None, "NK 1": "NK", "NK 2": "NK", "T": None, "CD4": "T", "naive": "CD4", "x": None})
    known, found = on_levels(tree, {"NK": 0, "NK 1": 2, "NK 2": 2, "T": 0, "CD4": 1, "naive": 2, "x": 2}, LEVELS)
    assert known.names == LEVELS
    assert found["NK 1"] == ["NK", "NK", "NK 1"]  # "NK" stands on two levels
    assert found["NK"] == ["NK", "NK", None]
    assert found["naive"] == ["T", "CD4", "naive"]
    assert found["T"] == ["T", None, None]
    assert found["x"] == [None, None, "x"]  # nothing is known above it


def test_hierarchical_f1_is_that_of_a_loop():
    random = np.random.default_rng(0)
    truth, predicted = random.integers(-1, 8, size=(2, 300))
    assert metrics.hierarchical_f1(truth, predicted, LINEAGE) == pytest.approx(by_loop(truth, predicted))


def test_hierarchical_f1_by_hand():
    def score(truth, predicted):
        return metrics.hierarchical_f1(code(truth), code(predicted), LINEAGE)

    assert score("a", "a") == 1
    assert score("a", "b") == pytest.approx(2 / 3)  # AB and A of three names each
    assert score("a", "A") == pytest.approx(2 * 2 / (3 + 2))
    assert score("A", "a") == 1  # finer than what is known
    assert score("a", None) == 0  # unassigned
    assert score("a", "e") == 0
    assert np.isnan(score(None, "a"))


def test_permuted_names_keep_their_parents():
    random = np.random.default_rng(0)
    truth = random.integers(-1, 8, size=400)
    found = metrics.permute_within_parents(truth, TREE.parents, random)
    assert (found != truth).mean() > 0.3
    np.testing.assert_array_equal(found < 0, truth < 0)
    np.testing.assert_array_equal(TREE.parents[found][truth >= 0], TREE.parents[truth][truth >= 0])
    assert Counter(found.tolist()) == Counter(truth.tolist())


def test_f1_on_a_level_and_its_null():
    random = np.random.default_rng(0)
    truth = code(*random.choice(["a", "b", "c", "d", "A"], size=3000))
    levels = NodeLabels.of(np.arange(8), TREE, {}, ()).names_of_nodes()
    known, best = levels[truth], levels[np.where(truth == TREE.names.index("A"), 0, truth)]
    for level, chance in ((0, 1.0), (1, 0.5), (2, 0.5)):  # one name on the first level; two below each other parent
        said = best[:, level].copy()
        there = known[:, level] >= 0
        f1, null = metrics.level_f1(known[:, level], said, TREE.parents, 0)
        assert f1 == pytest.approx(f1_score(known[there, level], said[there], average="macro"))
        assert null == pytest.approx(chance, abs=0.03)
    wrong = metrics.permute_within_parents(known[:, 2], TREE.parents, random)
    f1, null = metrics.level_f1(known[:, 2], np.maximum(wrong, 0), TREE.parents, 0)
    assert f1 == pytest.approx(null, abs=0.03)


def test_the_null_of_hierarchical_f1_knows_the_parents_only():
    truth = np.repeat(code("a", "b"), 500)
    found = metrics.permuted_hierarchical_f1(truth, truth, LINEAGE, TREE.parents, 0)
    assert found == pytest.approx((2 + 0.5) / 3, abs=0.01)
    fair = np.repeat(code("a", "b", "c", "d"), 250)
    assert metrics.hierarchical_f1(fair, fair, LINEAGE) == 1
    assert metrics.permuted_hierarchical_f1(fair, fair, LINEAGE, TREE.parents, 0) == pytest.approx(2.5 / 3, abs=0.01)


def test_the_best_name_of_each_level_is_summed_from_its_types():
    p = np.array([[0.3, 0, 0.2, 0.2, 0.35]])
    found = NodeLabels.of(np.zeros(1, dtype=int), TREE, {}, ()).best_on_levels(nodes.sum_below(p, TREE))
    assert {level: TREE.names[i[0]] for level, i in found.items()} == {"level 1": "AB", "level 2": "B", "level 3": "e"}

"""The vote of a group of cells, next to a plain loop."""

from dataclasses import replace

import numpy as np
import pytest

from tripletomics.labels.grouping import check_groups, vote
from tripletomics.labels.prediction import Prediction
from tripletomics.labels.tree import Tree


def made(probabilities, unassigned=None, sets=None):
    p = np.asarray(probabilities, dtype=np.float32)
    unassigned = np.zeros(len(p), dtype=bool) if unassigned is None else np.array(unassigned, dtype=bool)
    sets = p > 0.2 if sets is None else np.array(sets, dtype=bool)
    rest = {
        "deviation": p[:, 0],
        "p": np.ones(len(p)),
        "novel": np.zeros(len(p), dtype=bool),
        "doubtful": unassigned & False,
    }
    best = p.argmax(axis=1)
    return Prediction(best, p.max(axis=1), p[:, 0] * 0, unassigned, sets, probabilities=p, nodes=best, **rest)


def plain_vote(p, rows, coverage):
    """The mean of the probabilities, and the fewest types that have a share `coverage` of it."""
    shares = sum(p[i].astype(float) for i in rows) / len(rows)
    shares = shares / shares.sum()
    chosen, total = [], 0.0
    for code in sorted(range(len(shares)), key=lambda code: -shares[code]):
        if total < coverage:
            chosen.append(code)
        total += shares[code]
    return shares.argmax(), sorted(chosen)


@pytest.mark.parametrize("coverage", [0.3, 0.6, 0.9, 0.999])
def test_a_group_has_the_mean_of_its_cells(coverage):
    random = np.random.default_rng(0)
    p = random.dirichlet(np.full(6, 0.3), 400) * random.uniform(0.2, 1, (400, 1))
    codes = random.integers(-1, 12, 400)
    best, sets, unassigned = vote(made(p), codes, 12, coverage, 0.01)
    for group in range(12):
        expected = plain_vote(p.astype(np.float32), np.flatnonzero(codes == group), coverage)
        assert (best[group], np.flatnonzero(sets[group]).tolist()) == expected
    assert not unassigned.any()


def test_a_group_of_two_types_has_both_and_a_few_other_cells_change_nothing():
    two = np.repeat([[0.98, 0.01, 0.01], [0.01, 0.98, 0.01]], [70, 30], axis=0)
    few = np.repeat([[0.98, 0.01, 0.01], [0.01, 0.98, 0.01]], [95, 5], axis=0)
    best, sets, _ = vote(made(np.concatenate([two, few])), np.repeat([0, 1], 100), 2, 0.9, 0.01)
    assert best.tolist() == [0, 0]
    assert sets.tolist() == [[True, True, False], [True, False, False]]


def test_cells_that_are_all_in_doubt_leave_their_group_in_doubt():
    """A product of their probabilities would be sure of the first type."""
    best, sets, _ = vote(made(np.tile([0.55, 0.45], (500, 1))), np.zeros(500, dtype=int), 1, 0.9, 0.01)
    assert best.tolist() == [0]
    assert sets.tolist() == [[True, True]]


@pytest.mark.parametrize(("rejected", "expected"), [(0, False), (3, False), (4, True), (9, True)])
def test_a_group_is_unassigned_if_more_than_a_third_of_its_cells_are(rejected, expected):
    found = made(np.tile([0.9, 0.1], (9, 1)), np.arange(9) < rejected)
    _, sets, unassigned = vote(found, np.zeros(9, dtype=int), 1, 0.9, 0.01)
    assert unassigned.tolist() == [expected]
    assert sets.any() == (not expected)


def test_a_single_cell_keeps_its_prediction():
    p = [[0.5, 0.3, 0.1], [0.2, 0.3, 0.1], [0.9, 0.0, 0.0], [0.9, 0.0, 0.0]]
    own = [[True, False, True], [False, False, False], [True, True, True], [True, True, True]]
    best, sets, unassigned = vote(made(p, [False, True, False, False], own), np.array([0, 1, 2, 2]), 3, 0.9, 0.01)
    assert best.tolist() == [0, 1, 0]
    assert sets.tolist() == [own[0], own[1], [True, False, False]]
    assert unassigned.tolist() == [False, True, False]


def test_cells_unlike_all_types_without_rejection_still_have_a_label():
    best, sets, unassigned = vote(made(np.zeros((4, 3))), np.zeros(4, dtype=int), 1, 0.9, 0.01)
    assert (best.tolist(), unassigned.tolist()) == ([0], [False])
    assert sets.all()


def test_groups_are_counted_and_names_of_cells_refused():
    assert check_groups("leiden", np.array([0, 0, 1, -1, 2]), ["x", "y", "z"]) == 2
    assert check_groups("leiden", np.array([-1, 0]), ["x"]) == 1
    with pytest.raises(
        ValueError, match=r"groups='barcode' has 20 groups of 20 cells, and 20 cells are alone .*obs\['tt_"
    ):
        check_groups("barcode", np.arange(20), [str(i) for i in range(20)])
    with pytest.raises(ValueError, match=r"groups='x' has 48 groups of 50 cells, and 46 cells are alone"):
        check_groups("x", np.concatenate([np.arange(48), [0, 1]]), [str(i) for i in range(48)])
    with pytest.raises(ValueError, match="groups='x' has no group for any of the 3 cells: missing values"):
        check_groups("x", np.full(3, -1), [])


def test_a_group_with_names_above_the_types_has_the_deepest_likely_one_and_a_set_of_few_names():
    tree = Tree.of({"a": "A", "b": "A", "A": None, "c": None})
    two = np.repeat([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05]], [30, 70], axis=0)
    p = np.concatenate([two, [[0.6, 0.1, 0.3]] * 2, [[0.1, 0.2, 0.3]]])
    found = made(p, sets=p > 0.25)
    best, sets, unassigned = vote(found, np.repeat([0, 1, 2], [100, 2, 1]), 3, 0.9, 0.01, tree)
    assert [tree.names[code] for code in best] == ["b", "a", "c"]  # a group of one cell has the name of its cell
    assert sets.tolist() == [[True, True, False], [True, True, True], [False, False, True]]
    assert not unassigned.any()
    best, _, _ = vote(found, np.repeat([0, 1], [60, 43]), 2, 0.9, 0.01, tree)
    assert tree.names[best[0]] == "A"  # 30 cells of each type


def test_a_group_of_which_no_name_has_half_is_unassigned_as_a_cell_is():
    tree = Tree.of({"a": "A", "b": "A", "A": None, "c": None, "d": None})
    p = np.repeat(0.98 * np.eye(4)[[0, 2, 3]], [12, 11, 7], axis=0)
    for reject, expected in ((0.01, True), (0, False)):
        best, sets, unassigned = vote(made(p), np.zeros(30, dtype=int), 1, 0.9, reject, tree)
        assert (tree.names[best[0]], unassigned[0], sets[0].tolist()) == ("A", expected, [True, False, True, True])
    doubtful = replace(made(p, np.full(30, True)), doubtful=np.full(30, True))
    assert vote(doubtful, np.zeros(30, dtype=int), 1, 0.9, 0.01, tree)[1].any()  # its cells are not unlike all types

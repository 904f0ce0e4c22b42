"""The probable leaf of cells whose type is known coarsely."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import make_cells

from tripletomics import crossfit, losses, pp, training
from tripletomics.labels import inference
from tripletomics.labels.inference import infer_leaves
from tripletomics.labels.tree import Tree
from tripletomics.losses.levels import Levels
from tripletomics.monitor import silent
from tripletomics.problem import Settings

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
    found = infer_leaves(x, nodes, TREE, 0)
    assert (found == leaves).mean() > 0.97
    assert (found[nodes < TREE.n_leaves] == nodes[nodes < TREE.n_leaves]).all()


def test_only_leaves_below_the_node_can_be_inferred():
    x, nodes, _ = cells()
    wrong = np.random.default_rng(1).permutation(nodes)  # names that have nothing to do with the cells
    found = infer_leaves(x, wrong, TREE, 0)
    leaves = found < TREE.n_leaves
    assert TREE.leaves_below()[wrong[leaves], found[leaves]].all()
    assert (found[~leaves] == wrong[~leaves]).all()
    assert leaves.mean() > 0.3


def test_a_name_above_one_leaf_is_that_leaf():
    x, nodes, leaves = cells()
    single = TREE.names.index("single")
    nodes = np.where(leaves == single, TREE.names.index("s"), nodes)  # no cell is known as the leaf itself
    assert (infer_leaves(x, nodes, TREE, 0)[leaves == single] == single).all()


def test_a_name_below_which_no_leaf_has_a_cell_says_nothing():
    x, nodes, leaves = cells()
    above = TREE.parents[leaves] == TREE.names.index("a")
    nodes = np.where(above, TREE.names.index("a"), nodes)
    assert (infer_leaves(x, nodes, TREE, 0)[above] == TREE.names.index("a")).all()


def test_unlabelled_cells_stay_and_change_nothing():
    x, nodes, _ = cells()
    far = np.concatenate([x, x[:50] + 0.1])
    found = infer_leaves(far, np.concatenate([nodes, np.full(50, -1)]), TREE, 0)
    np.testing.assert_array_equal(found, [*infer_leaves(x, nodes, TREE, 0), *np.full(50, -1)])


def test_cells_that_could_be_two_leaves_keep_their_name():
    x, nodes, _ = cells()
    noise = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)  # all leaves look alike
    found = infer_leaves(noise, nodes, TREE, 0)
    of_two = np.isin(nodes, [TREE.names.index("a"), TREE.names.index("b")])
    assert (found[of_two] == nodes[of_two]).mean() > 0.4


def test_a_cell_must_be_surer_where_no_finely_known_cell_is_around(monkeypatch):
    x, nodes, leaves = cells(800, fine=0.2)
    x += np.random.default_rng(1).normal(scale=5, size=x.shape).astype(np.float32)  # types overlap
    other = np.arange(800) % 2 == 1  # another batch, in which all are known coarsely
    nodes = np.where(other, TREE.parents[leaves], nodes)
    apart = x + np.where(other, 100, 0)[:, None].astype(np.float32)
    there = {"together": infer_leaves(x, nodes, TREE, 0), "apart": infer_leaves(apart, nodes, TREE, 0)}
    monkeypatch.setattr(inference, "LIKELY", inference.SURE)
    same = {name: (infer_leaves(one, nodes, TREE, 0) == there[name])[other].all() for name, one in
            (("together", x), ("apart", apart))}  # fmt: skip
    assert same == {"together": False, "apart": True}


def test_the_share_of_finely_known_cells_is_that_of_a_plain_loop():
    _, nodes, _ = cells()
    shares = inference._fine_share(TREE.leaves_below(), nodes, nodes < TREE.n_leaves)
    for node in map(TREE.names.index, ("a", "b", "a1")):
        inside = np.array([node in TREE.path(other) for other in nodes])
        assert shares[node] == pytest.approx((nodes[inside] < TREE.n_leaves).mean())


def test_labels_travel_as_in_a_plain_loop():
    x, nodes, _ = cells(n=60)
    possible, fine = TREE.leaves_below()[nodes], nodes < TREE.n_leaves
    graph = inference._transitions(x)
    near = np.argsort(np.linalg.norm(x[:, None] - x, axis=2), axis=1)[:, 1:16]
    expected = possible / possible.sum(axis=1, keepdims=True)
    for _ in range(inference.ROUNDS):
        now = expected.copy()
        for i in np.flatnonzero(~fine):
            votes = [now[j] * ((j in near[i]) + (i in near[j])) for j in range(len(x))]
            kept = np.sum(votes, axis=0) * possible[i]
            if kept.sum():
                expected[i] = kept / kept.sum()
    np.testing.assert_allclose(inference._propagate(graph, possible, fine), expected)


def test_the_order_of_the_cells_does_not_matter():
    x, nodes, _ = cells()
    order = np.random.default_rng(2).permutation(len(x))
    np.testing.assert_array_equal(infer_leaves(x[order], nodes[order], TREE, 0), infer_leaves(x, nodes, TREE, 0)[order])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_cells_are_no_error(n):
    x, nodes, _ = cells()
    rows = [*np.flatnonzero(nodes < TREE.n_leaves)[: n - 1], *np.flatnonzero(nodes >= TREE.n_leaves)[:1]]
    assert len(infer_leaves(x[rows], nodes[rows], TREE, 0)) == n


COARSE = dict(zip("abcdefg", "xxxyyyz", strict=True))


@pytest.fixture(scope="module")
def fitted():
    """The settings and the problem of cells of which a fifth are known finely, and their types."""
    adata = make_cells(280, 1)
    truth = adata.obs["kind"].astype(str)
    adata.obs["coarse"] = truth.map(COARSE)
    adata.obs["fine"] = truth.where(np.arange(280) // 7 % 5 == 0)
    _, settings, problem = pp.prepare(adata, Settings(["coarse", "fine"], steps=3, hold_out=0.3))
    return settings, problem, truth.to_numpy()


def test_encoder_map_and_reference_take_the_same_inferred_leaves(fitted, monkeypatch):
    settings, problem, truth = fitted
    asked = []

    def recorded(pcs, nodes, tree, seed):
        found = infer_leaves(pcs, nodes, tree, seed)
        asked.append((len(nodes), (nodes >= tree.n_leaves).sum(), (found >= tree.n_leaves).sum()))
        return found

    for module in (training, crossfit):
        monkeypatch.setattr(module, "infer_leaves", recorded)
    encoder = training.train_encoder(problem, settings)
    training.train_map(problem, settings, encoder)
    z = crossfit.embed(encoder.encoder, problem.rows)
    known = crossfit.reference_of(problem, settings, z, z, problem.train)
    assert [n for n, _, _ in asked] == [problem.train.sum(), (~problem.held_out).sum(), len(problem.codes)]
    assert all(after < before / 2 for _, before, after in asked)
    assert known.sizes.sum() > 2 * (problem.codes[problem.train] >= 0).sum()
    right = (
        np.array(problem.classes)[known.codes] == truth[problem.train][np.isin(z[problem.train], known.z).all(axis=1)]
    )
    assert right.mean() > 0.9


def test_coarsely_known_cells_are_no_reason_for_a_view_loss(fitted):
    settings, problem, _ = fitted
    assert (problem.codes < 0).mean() > 0.5
    assert losses.spec(settings.loss) == "softmax"


def test_pseudo_labels_leave_coarsely_known_cells_alone(fitted):
    settings, problem, _ = fitted
    nodes = np.where(np.arange(len(problem.nodes)) % 4 == 1, -1, problem.nodes)
    some = replace(problem, nodes=nodes, codes=problem.tree.leaf_codes(nodes))
    second = crossfit.train_again(
        some, settings, training.train_encoder(some, replace(settings, steps=60)), silent, None
    )
    assert (second.codes[nodes >= 0] == nodes[nodes >= 0]).all()
    assert (second.codes[(nodes < 0) & some.train] >= 0).any()


def test_a_view_loss_separates_cells_of_one_coarse_name():
    random = np.random.default_rng(0)
    z1, z2 = torch.from_numpy(random.normal(size=(2, 30, 4)))
    y = torch.from_numpy(random.integers(len(TREE.names), size=30))
    loss = losses.make("simclr")
    loss.set_levels(Levels(TREE.leaves_below()))
    fine = torch.where(y < TREE.n_leaves, y, -1)
    assert loss(z1, z2, y, codes=torch.stack([y, y])) == losses.make("simclr")(z1, z2, fine)
    assert loss(z1, z2, y) != losses.make("simclr")(z1, z2, y)


@pytest.mark.parametrize(
    "loss", ["hierarchical_triplet:given=true", "softmax + 0.1*hierarchical_triplet", "triplet:mining=offline"]
)
def test_losses_that_look_at_all_cells_get_codes_that_they_know(fitted, loss):
    settings, problem, _ = fitted
    found = training.train_encoder(problem, replace(settings, loss=losses.make(loss)))
    assert np.isfinite(found.history["metric"]["loss"]).all()

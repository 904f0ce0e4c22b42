import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine
from sklearn.neighbors import NearestNeighbors, kneighbors_graph

from tripletomics.knn import NEIGHBOURS, knn_graph, radius
from tripletomics.labels.tree import Tree
from tripletomics.losses import neighbours
from tripletomics.losses.levels import coarse_to_fine
from tripletomics.losses.neighbours import ORDER, Neighbours, label_graph


@pytest.fixture
def small():
    """Twelve of twenty cells, with a graph that has gaps, and two groupings."""
    random = np.random.default_rng(0)
    graph = np.stack([random.permutation(20)[:5] for _ in range(20)])
    graph[3] = -1
    codes = [random.integers(-1, 6, size=20), random.integers(5, size=20)]
    ranks = [np.stack([random.permutation(n) + 1.0 for _ in range(n)]) for n in (6, 5)]
    groupings = [(1.5, codes[0], ranks[0]), (0.5, codes[1], ranks[1])]
    return graph, np.array([0.4, 0.3, 0.1, 0.1, 0.1]), groupings, random.permutation(20)[:12]


def plain_loss(places, rows, graph, weights, groupings, satellites=None):
    """The formula of the docstring, one pair at a time."""
    at = dict(zip(rows.tolist(), places, strict=True))
    edges = [(w, i, j) for i in at for j, w in zip(graph[i].tolist(), weights, strict=True) if j in at]
    near = sum(w * math.log1p(math.dist(at[i], at[j]) ** 2) for w, i, j in edges) / sum(w for w, _, _ in edges)
    sums = {i: sum(1 / (1 + math.dist(at[i], at[j]) ** 2) for j in at if j != i) for i in at}
    floor = 0.25 * np.mean(list(sums.values()))
    value = near + np.mean(
        [math.log(total + (floor if satellites is not None and satellites[i] else 0)) for i, total in sums.items()]
    )
    for importance, codes, ranks in groupings:
        groups = [g for g in range(len(ranks)) if any(codes[i] == g for i in at)]
        centre = {g: np.mean([at[i] for i in at if codes[i] == g], axis=0) for g in groups}
        rs = []
        for g in groups:
            others = [h for h in groups if h != g]
            in_map = [math.dist(centre[g], centre[h]) for h in others]
            rs.append(1 - cosine(in_map, [ranks[g, h] for h in others]))
        value += importance * (1 - np.mean(rs))
    return value


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("grouped", [False, True])
def test_against_a_plain_loop(small, dim, grouped):
    graph, weights, groupings, rows = small
    groupings = groupings if grouped else []
    a = 3 * np.random.default_rng(1).normal(size=(12, dim))
    loss = Neighbours(graph, weights, groupings).double()
    value = loss(torch.from_numpy(a), torch.from_numpy(rows))
    assert value.item() == pytest.approx(plain_loss(a.tolist(), rows, graph, weights, groupings), rel=1e-5)


@pytest.mark.parametrize("dim", [2, 3])
def test_gradient(small, dim):
    graph, weights, groupings, rows = small
    loss = Neighbours(graph, weights, groupings).double()
    a = torch.from_numpy(np.random.default_rng(1).normal(size=(12, dim))).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: loss(a, torch.from_numpy(rows)), (a,))


def test_sums_of_satellites_have_a_floor_that_is_constant(small):
    graph, weights, groupings, rows = small
    few = np.random.default_rng(2).random(len(graph)) < 0.4
    loss, plain = (Neighbours(graph, weights, groupings, satellites=which).double() for which in (few, None))
    a = torch.from_numpy(np.random.default_rng(1).normal(size=(12, 2))).requires_grad_()
    value, without = loss(a, torch.from_numpy(rows)), plain(a, torch.from_numpy(rows))
    expected = plain_loss(a.tolist(), rows, graph, weights, groupings, few)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    sums = (1 / (1 + (a[:, None] - a).square().sum(dim=2))).fill_diagonal_(0).sum(dim=1)
    floor = 0.25 * sums.mean().detach() * torch.from_numpy(few[rows])
    change = (sums + floor).log().mean() - sums.log().mean()
    gradient = torch.autograd.grad(without + change, a)[0]
    torch.testing.assert_close(torch.autograd.grad(value, a)[0], gradient, rtol=1e-4, atol=1e-5)


def test_a_satellite_is_a_small_group_at_the_outside_and_has_no_place_in_the_order():
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 5)).astype(np.float32)
    y = np.repeat([0, 1, 2, 3, -1], [200, 150, 10, 20, 20])
    x[y == 2] += 20  # few, far
    x[y == 3] -= 20  # far, but not few
    np.testing.assert_array_equal(neighbours.satellites(x, y), y == 2)
    y[y == 2] = 4  # a code without cells in between
    np.testing.assert_array_equal(neighbours.satellites(x, y), y == 4)
    loss = neighbours.fit(x, y, 0.0, 0)
    assert (loss.codes[1][torch.from_numpy(y == 4)] == -1).all()
    assert (loss.satellites.numpy() >= (y == 4)).all()
    assert not neighbours.satellites(x[y != 4], y[y != 4]).any()


def test_it_does_not_hang_on_where_the_map_lies_or_on_the_order_of_the_batch(small):
    graph, weights, groupings, rows = small
    loss = Neighbours(graph, weights, groupings)
    a, rows = torch.randn(12, 2, generator=torch.Generator().manual_seed(0)), torch.from_numpy(rows)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    for other in (loss(a @ turn + 100, rows), loss(a[order], rows[order])):
        torch.testing.assert_close(other, loss(a, rows), rtol=1e-3, atol=1e-3)


def test_coinciding_places_and_absent_edges_have_a_finite_gradient(small):
    _, weights, groupings, rows = small
    a = torch.zeros(12, 2, requires_grad=True)
    Neighbours(np.full((20, 5), -1), weights, groupings)(a, torch.from_numpy(rows)).backward()
    assert torch.isfinite(a.grad).all()


def test_a_step_asks_the_device_for_nothing(small):
    """A tensor on `meta` has no values: whatever had to read one on the way would fail."""
    graph, weights, groupings, rows = small
    a = torch.empty(12, 2, device="meta", requires_grad=True)
    Neighbours(graph, weights, groupings).to("meta")(a, torch.from_numpy(rows)).backward()
    assert a.grad.shape == a.shape


def test_the_graph_of_the_data_alone_at_structure_1():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(90, 4)).astype(np.float32), random.integers(4, size=90)
    one, other = (neighbours.fit(x, codes, 1.0, 0) for codes in (y, random.permutation(y)))
    assert dict(one.named_buffers()).keys() == dict(other.named_buffers()).keys()
    for name, value in one.named_buffers():
        assert torch.equal(value, other.get_buffer(name))
    np.testing.assert_array_equal(one.graph, knn_graph(x))


@pytest.mark.parametrize("structure", [0.0, 0.25, 0.5])
def test_the_dial_weighs_the_graphs(structure):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(90, 4)).astype(np.float32), random.integers(-1, 4, size=90)
    loss = neighbours.fit(x, y, structure, 0)
    of_data, of_labels = loss.weights[:-NEIGHBOURS], loss.weights[-NEIGHBOURS:]
    assert of_data.sum() == pytest.approx(math.sqrt(structure))
    assert of_labels.sum() == pytest.approx(1 - math.sqrt(structure))
    same = loss.graph[:, -NEIGHBOURS:].numpy()
    assert (y[same[y >= 0]] == y[y >= 0, None]).all()
    np.testing.assert_array_equal(same[y < 0], knn_graph(x)[y < 0])  # an unlabelled cell has the data's
    assert loss.importance.tolist() == pytest.approx([ORDER, 2 * ORDER * (1 - structure)])


def test_groups_are_ranked_by_the_distance_of_their_centres():
    x = np.array([[0.0], [0.2], [1.0], [3.0], [7.0], [50.0]])
    codes, ranks = neighbours._grouping(x, np.array([0, 0, 2, 5, 3, -1]))
    assert codes.tolist() == [0, 0, 1, 3, 2, -1]
    assert ranks.tolist() == [[1, 2, 4, 3], [2, 1, 4, 3], [4, 3, 1, 2], [3, 2, 4, 1]]


def test_knn_graph_against_scikit_learn():
    x = np.random.default_rng(0).normal(size=(60, 4))
    expected = kneighbors_graph(x, NEIGHBOURS).toarray().astype(bool)
    found = np.zeros_like(expected)
    found[np.arange(60)[:, None], knn_graph(x)] = True
    np.testing.assert_array_equal(found, expected)


def test_radius_is_the_distance_to_the_last_neighbour():
    x = np.random.default_rng(0).normal(size=(60, 4))
    distances, _ = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(x).kneighbors()
    assert radius(x, 0) == pytest.approx(np.median(distances[:, -1]))


def test_label_graph_stays_within_types():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(80, 4)), np.array([0] * 40 + [1] * 33 + [2] * 3 + [3] + [-1] * 3)
    graph = label_graph(x, y)
    assert (graph[76:] == -1).all()  # alone or unlabelled
    assert (y[graph[:76]] == y[:76, None]).all()
    assert (graph[:76] != np.arange(76)[:, None]).all()
    assert {len(set(row)) for row in graph[:73].tolist()} == {15}
    assert {len(set(row)) for row in graph[73:76].tolist()} == {2}  # a small type: everybody else of it


TREE = Tree.of(
    {
        "a1": "a",
        "a2": "a",
        "a": "top",
        "b1": "b",
        "b2": "b",
        "b": "top",
        "c": "chain",
        "chain": None,
        "d": None,
        "top": None,
    }
)


def mixed(n=240, seed=0):
    """Cells with names of all levels, and how the leaves lie in space."""
    random = np.random.default_rng(seed)
    nodes = random.integers(-1, len(TREE.names), size=n)
    return random.normal(size=(n, 4)).astype(np.float32), nodes, TREE.leaves_below()


def test_groups_of_each_level_are_the_names_at_that_depth():
    _, nodes, below = mixed()
    levels = coarse_to_fine(nodes, below)
    named = [[None if code < 0 else TREE.names[code] for code in level] for level in levels]
    paths = {"top": ["top"], "a": ["top", "a"], "b": ["top", "b"], "chain": ["c"], "c": ["c"], "d": ["d"]}
    paths |= {leaf: ["top", leaf[0], leaf] for leaf in ("a1", "a2", "b1", "b2")}
    for i, node in enumerate(nodes):
        path = [] if node < 0 else paths[TREE.names[node]]
        whole = path and path[-1] in ("c", "d")
        expected = [path[k] if k < len(path) else (path[-1] if whole else None) for k in range(3)]
        assert [level[i] for level in named] == expected


def test_a_cell_that_is_known_coarsely_has_the_neighbours_below_its_name():
    x, nodes, below = mixed()
    graph = label_graph(x, nodes, below)
    for i, node in enumerate(nodes):
        if node < 0:
            assert (graph[i] == -1).all()
            continue
        own = [j for j in range(len(x)) if j != i and nodes[j] >= 0 and not (below[nodes[j]] & ~below[node]).any()]
        nearest = sorted(own, key=lambda j: np.linalg.norm(x[j] - x[i]))[:NEIGHBOURS]
        assert set(graph[i]) == set(nearest)


def test_levels_share_the_weight_of_the_types_and_one_level_changes_nothing():
    x, nodes, below = mixed()
    loss = neighbours.fit(x, nodes, 0.5, 0, below=below)
    assert loss.importance.tolist() == pytest.approx([ORDER, 0.25 * ORDER, 0.25 * ORDER, 0.5 * ORDER])
    leaves = TREE.leaf_codes(nodes)
    plain, flat = (neighbours.fit(x, leaves, 0.5, 0, below=b) for b in (None, np.eye(TREE.n_leaves, dtype=bool)))
    for name, value in plain.named_buffers():
        assert torch.equal(value, flat.get_buffer(name))
    two = np.concatenate([np.eye(4, dtype=bool), [[1, 1, 0, 0], [0, 0, 1, 1]]])  # two groups have no order
    assert len(neighbours.fit(x, np.arange(240) % 4, 0.5, 0, below=two).importance) == 2


@pytest.mark.parametrize("n", [2, 4, 12])
def test_tiny_tables_have_fewer_neighbours_and_clusters(n):
    x = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    assert knn_graph(x).shape == (n, min(n - 1, NEIGHBOURS))
    loss = neighbours.fit(x, np.arange(n) % 2, 0.5, 0)
    a = torch.randn(n, 2, requires_grad=True)
    loss(a, torch.arange(n)).backward()
    assert torch.isfinite(a.grad).all()


def test_clusters_find_blobs_without_labels():
    random = np.random.default_rng(0)
    y = np.repeat(np.arange(5), 100)
    x = random.normal(size=(500, 3)).astype(np.float32) + 40 * random.normal(size=(5, 3)).astype(np.float32)[y]
    codes = neighbours.clusters(x, 0)
    assert 5 < len(np.unique(codes)) <= 30
    assert all(len(np.unique(y[codes == code])) == 1 for code in np.unique(codes))

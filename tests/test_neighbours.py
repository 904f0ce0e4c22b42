import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import kneighbors_graph

from tripletomics.losses.neighbours import NEIGHBOURS, Neighbours, data_graph, label_graph


def plain_loss(a, b, reference, weight):
    """The formula of the docstring, one cell at a time."""
    n = len(a)
    q = lambda u, v: 1 / (1 + sum((s - t) ** 2 for s, t in zip(u, v, strict=True)))  # noqa: E731
    total = 0.0
    for i in range(n):
        spread = sum(q(a[i], a[j]) for j in range(n) if j != i) + sum(q(a[i], b[j]) for j in range(n))
        total -= math.log(q(a[i], b[i]) / spread) / n
    pairs = [(i, j) for i in range(n) for j in range(i)]
    near = [math.dist(a[i], a[j]) for i, j in pairs]
    far = [math.dist(reference[i], reference[j]) for i, j in pairs]
    return total + weight * (1 - np.corrcoef(near, far)[0, 1])


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_against_a_plain_loop(dim, weight):
    random = np.random.default_rng(0)
    a, b, reference = random.normal(size=(12, dim)), random.normal(size=(12, dim)), random.normal(size=(12, 5))
    value = Neighbours(weight)(*map(torch.from_numpy, (a, b, reference)))
    assert value.item() == pytest.approx(plain_loss(a.tolist(), b.tolist(), reference.tolist(), weight), rel=1e-9)


def test_gradient():
    random = np.random.default_rng(1)
    a, b, reference = (torch.from_numpy(random.normal(size=(6, d))) for d in (2, 2, 4))
    a.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: Neighbours()(a, b, reference), (a, b))


def test_coinciding_places_have_a_finite_gradient():
    a = torch.zeros(8, 2, requires_grad=True)
    Neighbours()(a, a, torch.randn(8, 3)).backward()
    assert torch.isfinite(a.grad).all()


def test_data_graph_against_scikit_learn():
    x = np.random.default_rng(0).normal(size=(60, 4))
    expected = kneighbors_graph(x, NEIGHBOURS).toarray().astype(bool)
    found = np.zeros_like(expected)
    found[np.arange(60)[:, None], data_graph(x)] = True
    np.testing.assert_array_equal(found, expected)


def test_label_graph_stays_within_types():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(80, 4)), np.array([0] * 40 + [1] * 33 + [2] * 3 + [3] + [-1] * 3)
    graph = label_graph(x, y)
    assert (graph[76:] == -1).all()  # alone or unlabelled
    assert (y[graph[:76]] == y[:76, None]).all()
    assert (graph[:76] != np.arange(76)[:, None]).all()
    assert {len(set(row)) for row in graph[:73].tolist()} == {15}
    assert {len(set(row)) for row in graph[73:76].tolist()} == {2}  # a small type: everybody else of it


def test_tiny_tables_have_fewer_neighbours():
    assert data_graph(np.random.default_rng(0).normal(size=(4, 2))).shape == (4, 3)

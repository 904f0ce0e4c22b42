import warnings

import numpy as np
import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.cluster import KMeans
from sklearn.metrics import f1_score

from tripletomics import metrics
from tripletomics.metrics import NEIGHBOURS, knn_macro_f1, map_at_r, nmi, recall_at_1


def plain_knn(z, y, query, exclude_self):
    """Majority of the 15 nearest by a plain loop; ties go to the smaller code."""
    predicted = []
    for i, cell in enumerate(query):
        distance = np.sqrt(((z - cell) ** 2).sum(axis=1))
        if exclude_self:
            distance[i] = np.inf
        predicted.append(np.bincount(y[np.argsort(distance)[:NEIGHBOURS]]).argmax())
    return np.array(predicted)


@pytest.fixture
def cells():
    random = np.random.default_rng(0)
    y = random.integers(4, size=240)
    return random.normal(size=(240, 3)) + 0.8 * y[:, None], y


def test_against_a_plain_loop(cells):
    z, y = cells
    expected = f1_score(y[200:], plain_knn(z[:200], y[:200], z[200:], False), average="macro")
    assert knn_macro_f1(z[:200], y[:200], z[200:], y[200:]) == pytest.approx(expected)
    expected = f1_score(y, plain_knn(z, y, z, True), average="macro")
    assert knn_macro_f1(z, y) == pytest.approx(expected)


def test_unlabelled_cells_change_nothing(cells):
    z, y = cells
    holes = y.copy()
    holes[[3, 50, 210, 230]] = -1
    known = holes >= 0
    expected = knn_macro_f1(z[:200][known[:200]], y[:200][known[:200]], z[200:][known[200:]], y[200:][known[200:]])
    assert knn_macro_f1(z[:200], holes[:200], z[200:], holes[200:]) == expected


def test_noise_scores_chance():
    random = np.random.default_rng(1)
    z, y = random.normal(size=(3000, 2)), random.integers(5, size=3000)
    assert knn_macro_f1(z[:2000], y[:2000], z[2000:], y[2000:]) == pytest.approx(0.2, abs=0.03)


def test_nothing_to_score_is_nan(cells):
    z, y = cells
    assert np.isnan(knn_macro_f1(z, y, z[:0], y[:0]))
    assert np.isnan(knn_macro_f1(z[:1], y[:1]))


def plain_retrieval(z, y, query=None, query_y=None):
    """R@1 and MAP@R by their definitions, one query cell at a time; at equal distances the own type comes last."""
    z, y = z[y >= 0], y[y >= 0]
    itself = query is None
    query, query_y = (z, y) if itself else (query[query_y >= 0], query_y[query_y >= 0])
    first, precision = [], []
    for i, (cell, code) in enumerate(zip(query, query_y, strict=True)):
        others = [j for j in range(len(y)) if not (itself and j == i)]
        ranked = sorted(others, key=lambda j: (((z[j] - cell) ** 2).sum(), y[j] == code))
        right = [y[j] == code for j in ranked]
        r = sum(right)
        first.append(right[0])
        precision.append(sum(right[k] * sum(right[: k + 1]) / (k + 1) for k in range(r)) / r if r else 0)
    return np.mean(first), np.mean(precision)


def exact_neighbours(query, k, reference, ref_includes_query):
    d = torch.cdist(query.double(), reference.double(), compute_mode="donot_use_mm_for_euclid_dist")
    if ref_includes_query:
        d.fill_diagonal_(torch.inf)
    return d.topk(k, largest=False)


@pytest.mark.parametrize("block", [1, 300, 2**23])
def test_retrieval_against_plain_loops(cells, block, monkeypatch):
    monkeypatch.setattr(metrics, "_BLOCK", block)
    z, y = cells
    first, precision = plain_retrieval(z, y)
    assert recall_at_1(z, y) == pytest.approx(first)
    assert map_at_r(z, y) == pytest.approx(precision)
    first, precision = plain_retrieval(z[:200], y[:200], z[200:], y[200:])
    assert recall_at_1(z[:200], y[:200], z[200:], y[200:]) == pytest.approx(first)
    assert map_at_r(z[:200], y[:200], z[200:], y[200:]) == pytest.approx(precision)


@pytest.mark.parametrize("places", [1, 2, 5])
@pytest.mark.parametrize("classes", [1, 2, 30])
def test_retrieval_with_ties_against_plain_loops(classes, places):
    random = np.random.default_rng(classes)
    z, y = random.integers(places, size=(60, 2)).astype(np.float32), random.integers(-1, classes, size=60)
    for query in ((), (z[:25], y[:25]), (z[:0] + 0, y[:0])):
        expected = plain_retrieval(z, y, *query) if not query or len(query[0]) else (np.nan, np.nan)
        assert (recall_at_1(z, y, *query), map_at_r(z, y, *query)) == pytest.approx(expected, nan_ok=True)


def test_against_pytorch_metric_learning(cells):
    z, y = cells
    z = z.astype(np.float32)  # theirs casts to it

    def cluster(query, k):
        return torch.from_numpy(KMeans(k, n_init=4, random_state=3).fit_predict(query.numpy()))

    theirs = AccuracyCalculator(
        include=("mean_average_precision_at_r", "precision_at_1", "NMI"),
        knn_func=exact_neighbours,
        kmeans_func=cluster,
        device=torch.device("cpu"),
    )
    expected = theirs.get_accuracy(z, y)
    assert recall_at_1(z, y) == pytest.approx(expected["precision_at_1"])
    assert map_at_r(z, y) == pytest.approx(expected["mean_average_precision_at_r"])
    assert nmi(z, y, 3) == pytest.approx(expected["NMI"])
    expected = theirs.get_accuracy(z[200:], y[200:], z[:200], y[:200])
    assert recall_at_1(z[:200], y[:200], z[200:], y[200:]) == pytest.approx(expected["precision_at_1"])
    assert map_at_r(z[:200], y[:200], z[200:], y[200:]) == pytest.approx(expected["mean_average_precision_at_r"])


def test_map_at_r_of_a_worked_example():
    z, y = np.array([[1.0], [2], [3], [4], [5]]), np.array([0, 1, 0, 0, 1])
    # from 0 the order is right, wrong, right, right, wrong with R = 3: (1/1 + 2/3) / 3
    assert map_at_r(z, y, np.zeros((1, 1)), np.array([0])) == pytest.approx((1 + 2 / 3) / 3)


def test_one_place_for_all_is_no_better_than_chance():
    """Ties broken by row number would reward sorted labels."""
    y = np.repeat([0, 1, 2], [60, 25, 15])
    z = np.full((100, 2), 0.1, dtype=np.float32)
    noise = np.random.default_rng(0).normal(size=(100, 2))
    assert recall_at_1(z, y) == 0
    assert 0 < map_at_r(z, y) < 0.2 * map_at_r(noise, y)  # the 40 other cells come first: of 59 places, 19 are left
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nmi(z, y, 0) == 0


def test_separate_types_score_one(cells):
    _, y = cells
    z = np.random.default_rng(0).normal(size=(len(y), 2)) + 1000 * np.eye(4)[y][:, :2] - 1000 * np.eye(4)[y][:, 2:]
    assert recall_at_1(z, y) == map_at_r(z, y) == 1
    assert nmi(z, y, 0) == pytest.approx(1)
    assert recall_at_1(z[:200], y[:200], z[200:], y[200:]) == map_at_r(z[:200], y[:200], z[200:], y[200:]) == 1


def test_ranked_noise_scores_chance():
    random = np.random.default_rng(1)
    z, y = random.normal(size=(2000, 2)), random.integers(5, size=2000)
    assert recall_at_1(z, y) == pytest.approx(0.2, abs=0.03)
    assert map_at_r(z, y) == pytest.approx(0.2**2, abs=0.02)
    assert nmi(z, y, 0) < 0.01


def test_ranked_scores_leave_unlabelled_cells_out(cells):
    z, y = cells
    holes = y.copy()
    holes[[3, 50, 210, 230]] = -1
    known = holes >= 0
    a, b = slice(200), slice(200, None)
    for score in (recall_at_1, map_at_r):
        assert score(z, holes) == score(z[known], y[known])
        expected = score(z[a][known[a]], y[a][known[a]], z[b][known[b]], y[b][known[b]])
        assert score(z[a], holes[a], z[b], holes[b]) == expected
    assert nmi(z, holes, 0) == nmi(z[known], y[known], 0)


def test_a_type_without_reference_scores_zero(cells):
    z, y = cells
    for score in (recall_at_1, map_at_r):
        seen = score(z[:200], y[:200], z[200:], y[200:])
        both = score(z[:200], y[:200], z[200:].repeat(2, axis=0), np.stack([y[200:], np.full(40, 9)], axis=1).ravel())
        assert both == pytest.approx(seen / 2)
        assert score(z[:2], np.array([0, 1])) == 0
        assert score(z[:1], y[:1], z[:1], y[:1]) == 1  # one reference cell can be the right one


def test_nothing_to_rank_is_nan(cells):
    z, y = cells
    for score in (recall_at_1, map_at_r):
        assert np.isnan(score(z, y, z[:0], y[:0]))
        assert np.isnan(score(z, y, z, np.full_like(y, -1)))
        assert np.isnan(score(z[:0], y[:0], z, y))
        assert np.isnan(score(z[:1], y[:1]))
        assert np.isnan(score(z, np.full_like(y, -1)))
    assert np.isnan(nmi(z, np.full_like(y, -1), 0))
    assert np.isnan(nmi(z, np.zeros_like(y), 0))


def test_nmi_follows_its_seed(cells):
    z, y = cells
    assert nmi(z, y, 5) == nmi(z, y, 5)
    assert 0 < nmi(z, y, 5) < 1

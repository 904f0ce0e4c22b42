import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score, roc_auc_score, silhouette_score
from sklearn.neighbors import KNeighborsClassifier

from tripletomics import metrics
from tripletomics.metrics import NEIGHBOURS, distances, knn_macro_f1, map_at_r, nmi, r_precision, recall_at_k, retrieval


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
    """R@1, R@10, R-Precision and MAP@R by their definitions; at equal distances the own type comes last."""
    z, y = z[y >= 0], y[y >= 0]
    itself = query is None
    query, query_y = (z, y) if itself else (query[query_y >= 0], query_y[query_y >= 0])
    first, tenth, share, precision = [], [], [], []
    for i, (cell, code) in enumerate(zip(query, query_y, strict=True)):
        others = [j for j in range(len(y)) if not (itself and j == i)]
        ranked = sorted(others, key=lambda j: (((z[j] - cell) ** 2).sum(), y[j] == code))
        right = [y[j] == code for j in ranked]
        r = sum(right)
        first.append(right[0])
        tenth.append(any(right[:10]))
        share.append(sum(right[:r]) / r if r else 0)
        precision.append(sum(right[k] * sum(right[: k + 1]) / (k + 1) for k in range(r)) / r if r else 0)
    return np.mean(first), np.mean(tenth), np.mean(share), np.mean(precision)


def exact_neighbours(query, k, reference, ref_includes_query):
    d = torch.cdist(query.double(), reference.double(), compute_mode="donot_use_mm_for_euclid_dist")
    if ref_includes_query:
        d.fill_diagonal_(torch.inf)
    return d.topk(k, largest=False)


@pytest.mark.parametrize("block", [1, 300, 2**23])
def test_retrieval_against_plain_loops(cells, block, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK_DISTANCES", block)
    z, y = cells
    for args in ((z, y), (z[:200], y[:200], z[200:], y[200:])):
        scores = retrieval(*args)
        assert list(scores) == ["recall_at_1", "recall_at_10", "r_precision", "map_at_r"]
        assert tuple(scores.values()) == pytest.approx(plain_retrieval(*args))
        single = recall_at_k(*args), recall_at_k(*args, k=10), r_precision(*args), map_at_r(*args)
        assert single == tuple(scores.values())


@pytest.mark.parametrize("places", [1, 2, 5])
@pytest.mark.parametrize("classes", [1, 2, 30])
def test_retrieval_with_ties_against_plain_loops(classes, places):
    random = np.random.default_rng(classes)
    z, y = random.integers(places, size=(60, 2)).astype(np.float32), random.integers(-1, classes, size=60)
    for query in ((), (z[:25], y[:25]), (z[:0] + 0, y[:0])):
        expected = plain_retrieval(z, y, *query) if not query or len(query[0]) else [np.nan] * 4
        assert tuple(retrieval(z, y, *query).values()) == pytest.approx(tuple(expected), nan_ok=True)


def test_retrieval_of_drawn_cells(cells, monkeypatch):
    """Above the limit a draw by seed is scored, against all reference cells; at the limit all are."""
    z, y = cells
    exact = retrieval(z, y)
    monkeypatch.setattr(distances, "RANKED_CELLS", 240)
    assert retrieval(z, y, seed=1) == exact
    monkeypatch.setattr(distances, "RANKED_CELLS", 50)
    assert retrieval(z, y, seed=1) == retrieval(z, y, seed=1) != exact
    rows = distances.subsample(240, 1)
    assert len(np.unique(rows)) == 50
    parts = [plain_retrieval(np.delete(z, i, axis=0), np.delete(y, i), z[[i]], y[[i]]) for i in rows]
    assert tuple(retrieval(z, y, seed=1).values()) == pytest.approx(np.mean(parts, axis=0))
    assert np.mean([map_at_r(z, y, seed=seed) for seed in range(40)]) == pytest.approx(exact["map_at_r"], abs=0.02)


def test_against_pytorch_metric_learning(cells):
    z, y = cells
    z = z.astype(np.float32)  # theirs casts to it

    def cluster(query, k):
        return torch.from_numpy(KMeans(k, n_init=4, random_state=3).fit_predict(query.numpy()))

    theirs = AccuracyCalculator(
        include=("mean_average_precision_at_r", "precision_at_1", "r_precision", "NMI"),
        knn_func=exact_neighbours,
        kmeans_func=cluster,
        device=torch.device("cpu"),
    )
    expected = theirs.get_accuracy(z, y)
    assert recall_at_k(z, y) == pytest.approx(expected["precision_at_1"])
    assert map_at_r(z, y) == pytest.approx(expected["mean_average_precision_at_r"])
    assert r_precision(z, y) == pytest.approx(expected["r_precision"])
    assert nmi(z, y, 3) == pytest.approx(expected["NMI"])
    expected = theirs.get_accuracy(z[200:], y[200:], z[:200], y[:200])
    assert recall_at_k(z[:200], y[:200], z[200:], y[200:]) == pytest.approx(expected["precision_at_1"])
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
    assert recall_at_k(z, y) == 0
    assert 0 < map_at_r(z, y) < 0.2 * map_at_r(noise, y)  # the 40 other cells come first: of 59 places, 19 are left
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nmi(z, y, 0) == 0


def test_separate_types_score_one(cells):
    _, y = cells
    z = np.random.default_rng(0).normal(size=(len(y), 2)) + 1000 * np.eye(4)[y][:, :2] - 1000 * np.eye(4)[y][:, 2:]
    assert recall_at_k(z, y) == map_at_r(z, y) == 1
    assert nmi(z, y, 0) == pytest.approx(1)
    assert recall_at_k(z[:200], y[:200], z[200:], y[200:]) == map_at_r(z[:200], y[:200], z[200:], y[200:]) == 1


def test_ranked_noise_scores_chance():
    random = np.random.default_rng(1)
    z, y = random.normal(size=(2000, 2)), random.integers(5, size=2000)
    assert recall_at_k(z, y) == pytest.approx(0.2, abs=0.03)
    assert map_at_r(z, y) == pytest.approx(0.2**2, abs=0.02)
    assert nmi(z, y, 0) < 0.01


def test_ranked_scores_leave_unlabelled_cells_out(cells):
    z, y = cells
    holes = y.copy()
    holes[[3, 50, 210, 230]] = -1
    known = holes >= 0
    a, b = slice(200), slice(200, None)
    for score in (recall_at_k, r_precision, map_at_r):
        assert score(z, holes) == score(z[known], y[known])
        expected = score(z[a][known[a]], y[a][known[a]], z[b][known[b]], y[b][known[b]])
        assert score(z[a], holes[a], z[b], holes[b]) == expected
    assert nmi(z, holes, 0) == nmi(z[known], y[known], 0)


def test_a_type_without_reference_scores_zero(cells):
    z, y = cells
    for score in (recall_at_k, r_precision, map_at_r):
        seen = score(z[:200], y[:200], z[200:], y[200:])
        both = score(z[:200], y[:200], z[200:].repeat(2, axis=0), np.stack([y[200:], np.full(40, 9)], axis=1).ravel())
        assert both == pytest.approx(seen / 2)
        assert score(z[:2], np.array([0, 1])) == 0
        assert score(z[:1], y[:1], z[:1], y[:1]) == 1  # one reference cell can be the right one


def test_nothing_to_rank_is_nan(cells):
    z, y = cells
    for score in (recall_at_k, r_precision, map_at_r):
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


def test_votes_against_scikit_learn(cells):
    z, y = cells
    oracle = KNeighborsClassifier(NEIGHBOURS).fit(z[:200], y[:200])
    votes = metrics.knn_votes(z[:200], y[:200], z[200:])
    np.testing.assert_allclose(votes, oracle.predict_proba(z[200:]))
    np.testing.assert_array_equal(votes.argmax(axis=1), oracle.predict(z[200:]))
    alone = metrics.knn_votes(z, y)
    np.testing.assert_array_equal(alone.argmax(axis=1), KNeighborsClassifier(NEIGHBOURS).fit(z, y).predict(None))
    wide = metrics.knn_votes(z, y, classes=7)
    np.testing.assert_array_equal(wide, np.pad(alone, ((0, 0), (0, 3))))


def test_votes_of_few_and_of_no_cells(cells):
    z, _ = cells
    y = np.array([0, 2, -1])
    np.testing.assert_array_equal(metrics.knn_votes(z[:3], y, z[:5]), [[0.5, 0, 0.5]] * 5)
    np.testing.assert_array_equal(metrics.knn_votes(z[:3], y), [[0, 0, 1], [1, 0, 0]])
    assert np.isnan(metrics.knn_votes(z[:1], y[:1], classes=3)).all()
    assert metrics.knn_votes(z[:3], y, z[:0]).shape == (0, 3)
    assert metrics.knn_votes(z[:0], y[:0], z[:4], 2).shape == (4, 2)


def test_scores_of_predictions_against_scikit_learn(cells):
    z, y = cells
    predicted = metrics.knn_votes(z[:200], y[:200], z[200:]).argmax(axis=1)
    truth = y[200:].copy()
    truth[:3] = 5, 6, -1  # two types that were never predicted, one unlabelled
    kept = truth >= 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = recall_score(truth[kept], predicted[kept], average=None, labels=range(8), zero_division=np.nan)
        balanced = balanced_accuracy_score(truth[kept], predicted[kept])
    recalls = metrics.recall_per_type(truth, predicted, 8)
    np.testing.assert_allclose(recalls, expected)
    assert recalls[5] == 0
    assert np.isnan(recalls[[4, 7]]).all()
    assert metrics.balanced_accuracy(truth, predicted) == pytest.approx(balanced)
    assert metrics.macro_f1(truth, predicted) == pytest.approx(f1_score(truth[kept], predicted[kept], average="macro"))
    score = metrics.knn_balanced_accuracy(z[:200], y[:200], z[200:], truth)
    assert score == metrics.balanced_accuracy(truth, predicted)
    for score in (metrics.macro_f1, metrics.balanced_accuracy):
        assert np.isnan(score(truth[:0], predicted[:0]))
        assert score(truth * 0, predicted * 0) == 1


def test_tied_neighbours_share_their_votes():
    """At one point, and at two rings around a query: the order of the rows decides nothing."""
    z, y = np.zeros((100, 2)), np.repeat([0, 1], 50)
    np.testing.assert_allclose(metrics.knn_votes(z, y, z[:3]), 0.5)
    np.testing.assert_allclose(metrics.knn_votes(z, y)[0], [49 / 99, 50 / 99])
    ring = np.array([[1.0, 0]] * 10 + [[0, 2.0]] * 10)
    kinds = np.array([0] * 10 + [1] * 6 + [2] * 4)
    expected = [10 / 15, 5 * 0.6 / 15, 5 * 0.4 / 15]
    for order in (np.arange(20), np.arange(20)[::-1]):
        np.testing.assert_allclose(metrics.knn_votes(ring[order], kinds[order], np.zeros((1, 2)))[0], expected)


def test_macro_f1_of_random_orders():
    random = np.random.default_rng(0)
    truth, predicted = random.integers(-1, 3, size=60), random.integers(3, size=60)
    found = metrics.permuted_macro_f1(truth, predicted, 7, orders=5)
    random = np.random.default_rng(7)
    known = truth >= 0
    orders = [random.permutation(truth[known]) for _ in range(5)]
    expected = [f1_score(order, predicted[known], average="macro") for order in orders]
    np.testing.assert_allclose(found, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(metrics.permuted_macro_f1(truth[:0], predicted[:0], 0)).all()


def test_bootstrap_against_a_plain_loop():
    random = np.random.default_rng(4)
    truth = random.integers(-1, 4, size=90)
    predicted = np.where(random.random((3, 90)) < [[0.7], [0.7], [0]], truth.clip(0), random.integers(4, size=(3, 90)))
    predicted[1] = predicted[0]
    found = metrics.bootstrap_macro_f1(truth, predicted, 7, draws=6)
    known = np.flatnonzero(truth >= 0)
    draw, expected = np.random.default_rng(7), []
    for _ in range(6):
        rows = known[draw.integers(len(known), size=len(known))]
        expected.append([f1_score(truth[rows], codes[rows], average="macro") for codes in predicted])
    assert found == pytest.approx(np.array(expected))
    assert (found[:, 0] == found[:, 1]).all()  # the same cells for all methods: no difference is none in every draw
    assert np.isnan(metrics.bootstrap_macro_f1(truth[:0], predicted[:, :0], 0, draws=2)).all()


def test_bootstrap_interval_holds_the_score_of_all_cells():
    """Of 60 held-out sets, about 95 % have an interval of the score that holds the score of endless cells."""
    random, inside = np.random.default_rng(5), 0
    for seed in range(60):
        truth = random.integers(2, size=300)
        predicted = np.where(random.random(300) < 0.8, truth, 1 - truth)
        low, high = np.quantile(metrics.bootstrap_macro_f1(truth, predicted[None], seed, draws=100), (0.025, 0.975))
        inside += low <= 0.8 <= high
    assert 53 <= inside <= 60


def test_permutation_p():
    random = np.random.default_rng(0)
    truth = random.integers(3, size=200)
    assert metrics.permutation_p(truth, truth, 0) == 1 / 200
    assert metrics.permutation_p(truth, truth, 0, permutations=9) == 1 / 10
    assert np.isnan(metrics.permutation_p(truth * 0, truth * 0, 0))  # nothing to permute
    assert metrics.permutation_p(truth, truth * 0, 0) == 1  # one type for all says nothing
    assert np.isnan(metrics.permutation_p(truth[:0], truth[:0], 0))
    noise = [metrics.permutation_p(truth, random.integers(3, size=200), seed, 39) for seed in range(200)]
    assert np.mean(np.array(noise) <= 0.25) == pytest.approx(0.25, abs=0.1)
    predicted, order = random.integers(3, size=200), np.random.default_rng(4)
    scores = [f1_score(order.permutation(truth), predicted, average="macro") for _ in range(19)]
    expected = (1 + np.sum(np.array(scores) >= f1_score(truth, predicted, average="macro") - 1e-12)) / 20
    assert metrics.permutation_p(truth, predicted, 4, 19) == pytest.approx(expected)


def test_reachable_p():
    """Of predictions that are right about four of five: exact where few orders are possible, and as a plain loop."""
    truth = np.array([0, 1, 0, 1, -1])
    assert metrics.reachable_p(truth, 0, 20_000) == pytest.approx(1 / 6, abs=0.01)  # all four right
    truth = np.repeat([0, 1, 2], [5, 10, 3])
    predicted = np.array([0, 0, 1, 0, 0, 1, 1, 2, 1, 1, 1, 1, 2, 1, 1, 2, 2, 0])
    assert metrics.reachable_p(truth, 7) == metrics.permutation_p(truth, predicted, 7)
    assert np.isnan(metrics.reachable_p(truth * 0, 0))
    assert np.isnan(metrics.reachable_p(truth[:0], 0))
    sizes = [next(n for n in range(2, 40) if metrics.reachable_p(np.arange(n) % k, 0) <= 0.01) for k in (2, 10)]
    assert sizes[1] < sizes[0] < 30  # of many types fewer cells tell


def test_verification_against_scikit_learn(cells):
    z, y = cells
    d = cdist(z[200:], z[:200])
    same = y[200:, None] == y[:200]
    area, accepted = metrics.verification(z[:200], y[:200], z[200:], y[200:])  # fewer pairs than drawn: all of them
    assert area == pytest.approx(roc_auc_score(same.ravel(), -d.ravel()))
    threshold = np.sort(d[~same])[np.count_nonzero(~same) // 1000]
    assert accepted == pytest.approx(np.mean(d[same] < threshold))
    alone = ~np.eye(240, dtype=bool)
    area, _ = metrics.verification(z, y)
    assert area == pytest.approx(roc_auc_score((y[:, None] == y)[alone], -cdist(z, z)[alone]))
    drawn = metrics.verification(z, y, seed=1, pairs=20_000)
    assert drawn == metrics.verification(z, y, seed=1, pairs=20_000) != (area, _)
    assert drawn[0] == pytest.approx(area, abs=0.02)


def test_verification_of_noise_ties_and_nothing(cells):
    z, y = cells
    random = np.random.default_rng(0)
    noise = metrics.verification(random.normal(size=(3000, 2)), random.integers(5, size=3000))
    assert noise == pytest.approx((0.5, 0.001), abs=0.005)
    assert metrics.verification(np.ones((50, 2)), y[:50]) == (0.5, 0)
    assert metrics.verification(100.0 * y[:, None], y) == (1, 1)
    for args in ((z, y, z[:0], y[:0]), (z, np.zeros_like(y)), (z[:1], y[:1]), (z, np.full_like(y, -1))):
        assert np.isnan(metrics.verification(*args)).all()


def test_silhouette_against_scikit_learn(cells, monkeypatch):
    z, y = cells
    holes = np.where(np.arange(240) < 9, -1, y)
    assert metrics.silhouette(z, holes, 0) == pytest.approx(silhouette_score(z[9:], y[9:]))
    monkeypatch.setattr(distances, "RANKED_CELLS", 100)
    rows = distances.subsample(240, 3)
    assert metrics.silhouette(z, y, 3) == pytest.approx(silhouette_score(z[rows], y[rows]))
    assert metrics.silhouette(np.ones((20, 2)), y[:20], 0) == 0
    assert np.isnan(metrics.silhouette(z, y * 0, 0))
    assert np.isnan(metrics.silhouette(z[:4], np.arange(4), 0))


def test_the_order_of_cells_rotation_and_scale_change_nothing(cells):
    z, y = cells
    order = np.random.default_rng(0).permutation(200)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0] * 7
    other = z[:200][order] @ turn, y[:200][order], z[200:] @ turn, y[200:]
    assert retrieval(*other) == pytest.approx(retrieval(z[:200], y[:200], z[200:], y[200:]))
    assert metrics.verification(*other) == pytest.approx(metrics.verification(z[:200], y[:200], z[200:], y[200:]))
    np.testing.assert_allclose(metrics.knn_votes(*other[:3]), metrics.knn_votes(z[:200], y[:200], z[200:]))


def test_half_a_query_is_an_error(cells):
    z, y = cells
    for score in (knn_macro_f1, retrieval, metrics.verification):
        with pytest.raises(ValueError, match="query and query_y belong together"):
            score(z, y, z)


def test_import_is_light():
    code = "import sys, tripletomics.metrics; print([m for m in ('torch', 'jax', 'scib_metrics') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

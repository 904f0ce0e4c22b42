import sys

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve

from tripletomics import metrics


def test_ece_of_worked_examples():
    assert metrics.ece(np.full(10, 0.8), np.arange(10) < 8) == pytest.approx(0)
    assert metrics.ece(np.ones(10), np.arange(10) < 7) == pytest.approx(0.3)
    confidence, correct = np.array([0.1, 0.1, 0.9, 0.9]), np.array([False, True, True, True])
    assert metrics.ece(confidence, correct) == pytest.approx((0.4 + 0.1) / 2)
    assert np.isnan(metrics.ece(confidence[:0], correct[:0]))


def test_ece_against_a_plain_loop():
    random = np.random.default_rng(0)
    for confidence in (random.uniform(size=400), random.integers(16, size=400) / 15):
        correct = np.ceil(confidence * 15 - 1e-9) % 2 == 0  # too sure and not sure enough in turns
        expected = 0
        for b in range(15):
            inside = (confidence > b / 15 + 1e-9 * (b > 0)) & (confidence <= (b + 1) / 15 + 1e-9)
            inside |= (confidence == 0) & (b == 0)
            if inside.any():
                expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
        assert metrics.ece(confidence, correct) == pytest.approx(expected)


def test_brier_against_scikit_learn():
    random = np.random.default_rng(0)
    p, y = random.dirichlet(np.ones(4), size=100), random.integers(4, size=100)
    assert metrics.brier(p, y) == pytest.approx(brier_score_loss(y, p, labels=range(4), scale_by_half=False))
    assert metrics.brier(np.append(p, p[:1], axis=0), np.append(y, -1)) == pytest.approx(metrics.brier(p, y))
    assert metrics.brier(np.eye(4)[y], y) == 0
    assert metrics.brier(np.full((100, 4), 0.25), y) == pytest.approx(3 / 4)
    assert np.isnan(metrics.brier(p[:0], y[:0]))
    with pytest.raises(ValueError, match="truth has code 3, but probabilities has only 3 columns"):
        metrics.brier(p[:, :3], y)


def test_risk_and_coverage():
    confidence, correct = np.array([0.2, 0.9, 0.5, 0.7]), np.array([False, True, True, False])
    coverage, risk = metrics.risk_coverage(confidence, correct)
    np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3, 2 / 4])
    assert metrics.aurc(confidence, correct) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert metrics.aurc(np.zeros(4), correct) == 0.5  # knows nothing: the overall risk
    assert np.isnan(metrics.aurc(confidence[:0], correct[:0]))


def test_ties_in_risk_are_the_mean_over_orders():
    random = np.random.default_rng(0)
    confidence, correct = random.integers(3, size=30) / 2, random.uniform(size=30) < 0.6
    curves = [metrics.risk_coverage(confidence + 1e-6 * random.uniform(size=30), correct)[1] for _ in range(3000)]
    np.testing.assert_allclose(metrics.risk_coverage(confidence, correct)[1], np.mean(curves, axis=0), atol=0.03)


@pytest.mark.parametrize("levels", [4, 10_000])
def test_roc_against_scikit_learn(levels):
    random = np.random.default_rng(0)
    novel = random.uniform(size=400) < 0.3
    score = random.integers(levels, size=400) + 0.4 * levels * novel
    assert metrics.auroc(score, novel) == pytest.approx(roc_auc_score(novel, score))
    false, true, _ = roc_curve(novel, score, drop_intermediate=False)
    assert metrics.fpr_at_95(score, novel) == pytest.approx(false[true >= 0.95].min())


def test_roc_of_ties_and_of_nothing():
    novel = np.arange(40) < 20
    assert metrics.auroc(np.ones(40), novel) == 0.5
    assert metrics.fpr_at_95(np.ones(40), novel) == 1
    assert (metrics.auroc(novel, novel), metrics.fpr_at_95(novel, novel)) == (1, 0)
    score = np.where(novel, np.arange(40), 1.5)  # 0 may be missed of 20, 1 not
    assert metrics.fpr_at_95(score, novel) == 1
    assert metrics.fpr_at_95(np.where(novel, np.arange(40), 0.5), novel) == 0
    for score in (metrics.auroc, metrics.fpr_at_95):
        assert np.isnan(score(np.ones(40), novel | True))
        assert np.isnan(score(np.ones(40), novel & False))


def test_novelty_against_scipy():
    random = np.random.default_rng(0)
    z, query = random.normal(size=(100, 3)), random.normal(size=(20, 3))
    expected = np.sort(cdist(query, z), axis=1)
    np.testing.assert_allclose(metrics.novelty(z, query), expected[:, :15].mean(axis=1))
    np.testing.assert_allclose(metrics.novelty(z[:4], query, k=9), cdist(query, z[:4]).mean(axis=1))
    assert np.isnan(metrics.novelty(z[:0], query)).all()
    assert metrics.novelty(z, query[:0]).shape == (0,)
    assert metrics.auroc(metrics.novelty(z, np.concatenate([query, query + 9])), np.arange(40) >= 20) == 1


def test_batch_scores_name_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "scib_metrics", None)
    with pytest.raises(ImportError, match=r'pip install "tripletomics\[batch\]"'):
        metrics.batch_scores(np.zeros((20, 2)), np.zeros(20, int), np.zeros(20, int))


def test_batch_scores_against_their_package():
    scib_metrics = pytest.importorskip("scib_metrics")
    random = np.random.default_rng(0)
    y, batch = random.integers(-1, 2, size=160), random.integers(2, size=160)
    z = random.normal(size=(160, 2)) + 5 * y[:, None]
    kept = y >= 0
    d = cdist(z[kept], z[kept])
    near = np.argsort(d, axis=1)[:, :90]
    graph = scib_metrics.nearest_neighbors.NeighborsResults(near, np.take_along_axis(d, near, axis=1))
    scores = metrics.batch_scores(z, y, batch)
    assert list(scores) == ["ilisi", "clisi", "kbet", "graph_connectivity"]
    assert scores["ilisi"] == pytest.approx(scib_metrics.ilisi_knn(graph, batch[kept]), abs=1e-4)
    assert scores["clisi"] == pytest.approx(scib_metrics.clisi_knn(graph, y[kept]), abs=1e-4)
    small = graph.subset_neighbors(15)
    assert scores["graph_connectivity"] == pytest.approx(scib_metrics.graph_connectivity(small, y[kept]))
    rates = []
    for code in (0, 1):
        own = y == code
        d, k = cdist(z[own], z[own]), max(10, own.sum() // 8) + 1
        near = np.argsort(d, axis=1)[:, :k]
        part = scib_metrics.nearest_neighbors.NeighborsResults(near, np.take_along_axis(d, near, axis=1))
        rates.append(scib_metrics.kbet(part, batch[own])[0])
    assert scores["kbet"] == pytest.approx(np.mean(rates))
    assert scores["ilisi"] > 0.8
    assert scores["kbet"] > 0.7
    apart = metrics.batch_scores(z + 100 * batch[:, None], y, batch * 0)
    assert np.isnan(apart["ilisi"])
    assert np.isnan(apart["kbet"])
    assert all(np.isnan(value) for value in metrics.batch_scores(z[:12], y[:12] * 0 - 1, batch[:12]).values())

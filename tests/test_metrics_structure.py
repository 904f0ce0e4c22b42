import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist, pdist
from scipy.stats import spearmanr, trim_mean
from sklearn import manifold
from sklearn.neighbors import KNeighborsRegressor

from tripletomics import metrics
from tripletomics.metrics import distances


@pytest.fixture
def cells():
    """300 cells of four types in 6 dimensions, and a noisy map of two of them."""
    random = np.random.default_rng(0)
    y = random.integers(4, size=300)
    r = random.normal(size=(300, 6)) + 2 * random.normal(size=(4, 6))[y]
    return (r[:, :2] + 0.5 * random.normal(size=(300, 2))).astype(np.float32), r, y


def plain(z, r, query, query_r, k):
    """Recall, trustworthiness and continuity by their definitions, for cells without ties."""
    itself = query is None
    d, e = (cdist(a, b) for a, b in ((z if itself else query, z), (r if itself else query_r, r)))
    shared, intruders, missing = [], 0, 0
    for i in range(len(d)):
        others = [j for j in range(len(z)) if not (itself and i == j)]
        ours, theirs = (sorted(others, key=lambda j, row=row: row[j]) for row in (d[i], e[i]))
        shared.append(len(set(ours[:k]) & set(theirs[:k])) / k)
        intruders += sum(max(0, theirs.index(j) + 1 - k) for j in ours[:k])
        missing += sum(max(0, ours.index(j) + 1 - k) for j in theirs[:k])
    m = len(z) - itself
    worst = len(d) * k * (2 * m - 3 * k + 1) / 2
    return np.mean(shared), 1 - intruders / worst, 1 - missing / worst


@pytest.mark.parametrize("block", [1000, 2**20])
@pytest.mark.parametrize("held_out", [False, True])
def test_neighbourhoods_against_plain_loops(cells, held_out, block, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK_DISTANCES", block)
    z, r, _ = cells
    args = (z[:240], r[:240], z[240:], r[240:]) if held_out else (z, r, None, None)
    scores = metrics.neighbourhoods(*args)
    for k in (10, 30, 100):
        assert scores[f"knn_recall_{k}"] == pytest.approx(plain(*args, k)[0])
    _, trust, smooth = plain(*args, 15)
    assert scores["trustworthiness"] == pytest.approx(trust) == metrics.trustworthiness(*args)
    assert scores["continuity"] == pytest.approx(smooth) == metrics.continuity(*args)
    np.testing.assert_array_equal(metrics.knn_recall(*args), list(scores.values())[:3])
    np.testing.assert_array_equal(metrics.knn_recall(*args, k=(30,)), [scores["knn_recall_30"]])


@pytest.mark.parametrize("k", [1, 5, 140])
def test_against_scikit_learn(cells, k):
    z, r, _ = cells
    assert metrics.trustworthiness(z, r, k=k) == pytest.approx(manifold.trustworthiness(r, z, n_neighbors=k))
    assert metrics.continuity(z, r, k=k) == pytest.approx(manifold.trustworthiness(z, r, n_neighbors=k))


def test_the_worst_map_scores_zero():
    """On a ring of points, nearest and farthest exchanged; also where k is more than half of the cells."""
    n = 11
    turn = np.arange(n)
    d = np.minimum((turn[:, None] - turn) % n, (turn - turn[:, None]) % n) + 0.01 * ((turn[:, None] - turn) % n)
    rank = d.argsort(axis=1).argsort(axis=1)  # 0 is oneself
    from tripletomics.metrics import structure

    for k in (3, 8):
        e, far = np.where(rank == 0, np.inf, rank), np.where(rank == 0, np.inf, n - rank)
        width = n - 1
        worst = n * sum(width - k - i for i in range(min(k, width - k)))
        assert structure._intruders(far, e, k).sum() == worst
        assert structure._missing(far, structure._nearest(e, k, far)).sum() == worst


def test_distortion_by_its_definition(cells):
    z, r, y = cells
    for among in (np.full(300, True), y < 2):
        found = metrics.distortion(z, r, among)
        for i in range(0, 300, 17):
            others = [j for j in np.flatnonzero(among) if j != i]
            ours, theirs = (sorted(others, key=lambda j, x=x: np.linalg.norm(x[j] - x[i])) for x in (z, r))
            off = sum(max(0, theirs.index(j) - 14) for j in ours[:15])
            off += sum(max(0, ours.index(j) - 14) for j in theirs[:15])
            m = len(others)
            chance = 2 * np.mean(np.maximum(np.arange(1, m + 1) - 15, 0)) * 15  # of 15 ranks that may be any
            assert found[i] == pytest.approx(off / chance)


def test_distortion_goes_from_0_to_chance(cells):
    z, r, _ = cells
    np.testing.assert_array_equal(metrics.distortion(r, r), 0)
    shuffled = np.random.default_rng(0).permutation(z)
    assert metrics.distortion(shuffled, r).mean() == pytest.approx(1, abs=0.03)
    own = 15 * (2 * 299 - 3 * 15 + 1) / 2  # the divisor of trustworthiness
    lost = 2 - manifold.trustworthiness(r, z, n_neighbors=15) - manifold.trustworthiness(z, r, n_neighbors=15)
    assert metrics.distortion(z, r).mean() == pytest.approx(lost * own * 299 / (15 * 284 * 285))


def test_distortion_of_many_cells_is_that_among_some():
    random = np.random.default_rng(0)
    r = random.normal(size=(5000, 3))
    z = r[:, :2]
    drawn = np.isin(np.arange(5000), distances.subsample(5000, 0))
    np.testing.assert_array_equal(metrics.distortion(z, r), metrics.distortion(z, r, drawn))
    assert np.isnan(metrics.distortion(z[:16], r[:16])).all()
    assert np.isfinite(metrics.distortion(z[:17], r[:17])).all()
    with pytest.raises(ValueError, match="r has 17 cells, its embedding 16"):
        metrics.distortion(z[:16], r[:17])


def test_a_perfect_map_scores_one(cells):
    _, r, y = cells
    assert set(metrics.neighbourhoods(r * 3, r).values()) == {1}
    assert metrics.triplet_accuracy(r * 3, r) == 1
    assert metrics.centroid_spearman(r * 3, r, y) == pytest.approx(1)
    assert metrics.scgraph(r * 3, r, y) == pytest.approx(1)
    assert 0.8 <= metrics.knn_recall_within_types(r * 3, r, y) < 1


def test_drawn_cells(cells, monkeypatch):
    z, r, y = cells
    exact = metrics.neighbourhoods(z, r)
    within = metrics.knn_recall_within_types(z, r, y)
    monkeypatch.setattr(distances, "RANKED_CELLS", 300)
    assert metrics.neighbourhoods(z, r, seed=5) == exact
    monkeypatch.setattr(distances, "RANKED_CELLS", 60)
    rows = distances.subsample(300, 5)
    d = [[metrics.knn_recall(np.delete(z, i, 0), np.delete(r, i, 0), z[[i]], r[[i]])] for i in rows]
    np.testing.assert_allclose(metrics.knn_recall(z, r, seed=5), np.mean(d, axis=0)[0])
    for name in ("trustworthiness", "continuity", "knn_recall_30"):
        assert metrics.neighbourhoods(z, r, seed=5)[name] == pytest.approx(exact[name], abs=0.1)
    monkeypatch.setattr("tripletomics.metrics.structure.RANKED_CELLS", 60)
    assert metrics.knn_recall_within_types(z, r, y, seed=5) == pytest.approx(within, abs=0.1)
    assert metrics.knn_recall_within_types(z, r, y, seed=5) != within


def test_ties_in_the_map_count_against_it(cells):
    z, r, y = cells
    one = np.full_like(z, 0.1)
    scores = metrics.neighbourhoods(one, r)
    assert scores["knn_recall_10"] == scores["knn_recall_30"] == scores["knn_recall_100"] == 0
    assert scores["trustworthiness"] == pytest.approx(0)
    assert scores["continuity"] == pytest.approx(0)
    assert metrics.knn_recall_within_types(one, r, y) < 0
    assert metrics.triplet_accuracy(one, r) == 0.5
    assert metrics.centroid_spearman(one * 0, r, y) == metrics.scgraph(one * 0, r, y) == 0
    # two places: 0 and 1 are the neighbours of the query in the data, 1 shares its place with two others
    z, r = np.array([[0.0], [1], [1], [1]]), np.array([[0.0], [1], [5], [6]])
    assert metrics.knn_recall(z, r, np.zeros((1, 1)), np.zeros((1, 1)), k=(2,)) == [0.5]
    assert metrics.trustworthiness(z, r, np.zeros((1, 1)), np.zeros((1, 1)), k=2) == pytest.approx(1 - 2 / 3)
    assert metrics.continuity(z, r, np.zeros((1, 1)), np.zeros((1, 1)), k=2) == pytest.approx(1 - 2 / 3)


def test_ties_in_the_data_count_for_the_map():
    z, r = np.arange(6.0)[:, None], np.ones((6, 1))
    args = z, r, z[[0, 5]], r[:2]
    assert (
        metrics.trustworthiness(*args, k=2) == metrics.continuity(*args, k=2) == metrics.knn_recall(*args, k=(2,)) == 1
    )


def test_noise_scores_chance():
    random = np.random.default_rng(0)
    z, r, y = random.normal(size=(2000, 2)), random.normal(size=(2000, 10)), random.integers(5, size=2000)
    args = z[:1500], r[:1500], z[1500:], r[1500:]
    scores = metrics.neighbourhoods(*args)
    for k in (10, 30, 100):
        assert scores[f"knn_recall_{k}"] == pytest.approx(k / 1500, abs=0.01)
    assert scores["trustworthiness"] == pytest.approx(0.5, abs=0.03)
    assert scores["continuity"] == pytest.approx(0.5, abs=0.03)
    assert metrics.triplet_accuracy(*args) == pytest.approx(0.5, abs=0.02)
    assert metrics.knn_recall_within_types(*args[:2], y[:1500], *args[2:], y[1500:]) == pytest.approx(0, abs=0.01)


def test_types_pulled_apart_gain_nothing_within():
    """What a supervised map of noise does: neighbours overall go up, within types they stay at chance."""
    random = np.random.default_rng(0)
    y = random.integers(6, size=900)
    r = random.normal(size=(900, 8)) + 6 * random.normal(size=(6, 8))[y]
    z = random.normal(size=(900, 2)) + 100 * random.normal(size=(6, 2))[y]
    assert metrics.knn_recall(z, r)[1] > 0.15
    assert metrics.knn_recall_within_types(z, r, y) == pytest.approx(0, abs=0.015)


def test_within_types_against_plain_loops(cells):
    z, r, y = cells
    held = slice(240, None)
    y = y.copy()
    y[:3] = 7  # too few reference cells
    y[250:252] = -1
    y[252] = 8  # without any
    expected = []
    for code in range(4):
        own, asked = np.flatnonzero(y[:240] == code), 240 + np.flatnonzero(y[held] == code)
        k = min(30, len(own) // 5)
        expected.append(plain(z[own], r[own], z[asked], r[asked], k)[0] - k / len(own))
    score = metrics.knn_recall_within_types(z[:240], r[:240], y[:240], z[held], r[held], y[held])
    assert score == pytest.approx(np.mean(expected))
    expected = []
    for code in range(4):
        own = y == code
        k = min(30, (own.sum() - 1) // 5)
        expected.append(plain(z[own], r[own], None, None, k)[0] - k / (own.sum() - 1))
    assert metrics.knn_recall_within_types(z, r, y) == pytest.approx(np.mean(expected))
    assert np.isnan(metrics.knn_recall_within_types(z[:5], r[:5], np.zeros(5, int)))


@pytest.mark.parametrize("pairs", [7, 50])
def test_pairs_one_by_one_and_all_at_once(cells, pairs):
    z = cells[0][:9]
    i, j = np.random.default_rng(1).integers(5, size=(2, pairs))
    expected = [((z[one].astype(float) - z[4 + other]) ** 2).sum() for one, other in zip(i, j, strict=True)]
    np.testing.assert_allclose(distances.pair_distances(z[:5], i, z[4:], j), expected)


def test_triplets_against_all_of_them(cells):
    z, r, _ = cells
    z, r = z[:25], r[:25]
    d, e = cdist(z, z), cdist(r, r)
    right = [
        (d[i, j] < d[i, k]) == (e[i, j] < e[i, k])
        for i in range(25) for j in range(25) for k in range(25) if len({i, j, k}) == 3
    ]  # fmt: skip
    assert metrics.triplet_accuracy(z, r, triplets=400_000) == pytest.approx(np.mean(right), abs=0.004)
    d, e = cdist(z[20:], z[:20]), cdist(r[20:], r[:20])
    right = [(d[i, j] < d[i, k]) == (e[i, j] < e[i, k]) for i in range(5) for j in range(20) for k in range(j)]
    score = metrics.triplet_accuracy(z[:20], r[:20], z[20:], r[20:], triplets=400_000)
    assert score == pytest.approx(np.mean(right), abs=0.004)
    assert metrics.triplet_accuracy(z, r, seed=1) == metrics.triplet_accuracy(z, r, seed=1)
    assert np.isnan(metrics.triplet_accuracy(z[:2], r[:2]))
    assert np.isnan(metrics.triplet_accuracy(z, r, z[:0], r[:0]))


def test_few_cells(cells):
    z, r, _ = cells
    assert np.isnan(metrics.knn_recall(z[:50], r[:50])).tolist() == [False, False, True]
    scores = metrics.neighbourhoods(z[:10], r[:10])
    assert all(np.isnan(value) for value in scores.values())
    assert all(np.isnan(value) for value in metrics.neighbourhoods(z, r, z[:0], r[:0]).values())
    assert all(np.isnan(value) for value in metrics.neighbourhoods(z[:0], r[:0], z, r).values())


def test_spaces_of_different_cells_are_an_error(cells):
    z, r, _ = cells
    with pytest.raises(ValueError, match="r has 299 cells, its embedding 300"):
        metrics.knn_recall(z, r[1:])
    with pytest.raises(ValueError, match="query_r has 9 cells, its embedding 10"):
        metrics.trustworthiness(z, r, z[:10], r[:9])
    with pytest.raises(ValueError, match="query and query_r belong together"):
        metrics.continuity(z, r, z)


def test_rotation_scale_and_order_change_nothing(cells):
    z, r, y = cells
    order = np.random.default_rng(0).permutation(300)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(2, 2)))[0] * 3
    other = (z @ turn)[order].astype(float), 5 * r[order], y[order]
    assert metrics.neighbourhoods(*other[:2]) == pytest.approx(metrics.neighbourhoods(z, r))
    for score in (metrics.knn_recall_within_types, metrics.centroid_spearman):
        assert score(*other) == pytest.approx(score(z, r, y), abs=1e-6)
    assert metrics.within_between(other[0], other[2]) == pytest.approx(metrics.within_between(z, y), rel=1e-5)


def test_centroids_against_scipy(cells):
    z, r, y = cells
    means = [pd.DataFrame(a).groupby(y).mean().to_numpy() for a in (z, r)]
    expected = spearmanr(*(pdist(m) for m in means)).statistic
    assert metrics.centroid_spearman(z, r, y) == pytest.approx(expected)
    holes = np.append(y, [-1, -1])
    again = metrics.centroid_spearman(np.append(z, [[9, 9], [7, 1]], 0), np.append(r, np.ones((2, 6)), 0), holes)
    assert again == pytest.approx(expected)
    assert np.isnan(metrics.centroid_spearman(z, r, y % 2))
    assert np.isnan(metrics.centroid_spearman(z, r * 0, y))


def plain_scgraph(z, r, y, batch):
    """The published steps, with labelled tables."""
    types = [t for t in np.unique(y) if np.sum(y == t) >= 10]

    def table(a, of):
        present = [t for t in types if np.any(of == t)]
        means = np.array([trim_mean(a[of == t], 0.05, axis=0) for t in present])
        d = pd.DataFrame(cdist(means, means), index=present, columns=present)
        return d / d.max(axis=0)

    parts = [table(r[batch == b], y[batch == b]) for b in np.unique(batch) if np.sum(batch == b) >= 100]
    stacked = pd.concat(parts)
    truth = stacked.groupby(stacked.index).mean()
    truth = truth.loc[truth.columns] / truth.max(axis=0)
    ours = table(z, y)
    scores = []
    for t in ours.columns:
        pair = pd.concat([ours[t], truth[t]], axis=1).dropna().to_numpy()
        pair = pair[pair[:, 1] > 0]
        cov = np.cov(pair.T, aweights=1 / pair[:, 1])
        scores.append(cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]))
    return np.mean(scores)


def test_scgraph_against_the_published_steps():
    random = np.random.default_rng(3)
    y = random.choice(7, size=900, p=[0.2, 0.2, 0.2, 0.2, 0.1, 0.095, 0.005])
    batch = random.choice(4, size=900, p=[0.4, 0.3, 0.25, 0.05])
    y[(y == 5) & (batch == 1)] = 0  # a type that a batch lacks
    r = random.normal(size=(900, 6)) + 2 * random.normal(size=(7, 6))[y] + random.normal(size=(4, 6))[batch]
    z = r[:, :2] ** 2
    assert np.sum(y == 6) < 10
    assert np.sum(batch == 3) < 100
    assert metrics.scgraph(z, r, y, batch) == pytest.approx(plain_scgraph(z, r, y, batch))
    assert metrics.scgraph(z, r, y) == pytest.approx(plain_scgraph(z, r, y, y * 0))
    assert metrics.scgraph(z, r, y, np.where(batch == 3, -1, batch)) == metrics.scgraph(z, r, y, batch)
    assert np.isnan(metrics.scgraph(z, r, y % 2, batch))
    assert np.isnan(metrics.scgraph(z, r, y, np.arange(900)))
    split = np.where(y < 4, 0, 1)  # no batch has types of both halves
    assert np.isfinite(metrics.scgraph(z, r, y, split))


def test_within_between():
    z, y = np.array([[0.0], [2], [10], [12]]), np.array([0, 0, 1, 1])
    assert metrics.within_between(z, y) == 4 / 100
    assert metrics.within_between(np.append(z, [[99]], 0), np.append(y, -1)) == 4 / 100
    assert metrics.within_between(np.round(z, -1), y) == 0
    assert np.isnan(metrics.within_between(z, y * 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(metrics.within_between(z * 0, y))
        assert metrics.within_between(z[[0, 1, 0, 1]], y) == np.inf
    random = np.random.default_rng(0)
    assert metrics.within_between(random.normal(size=(5000, 2)), random.integers(3, size=5000)) > 300


def test_pseudotime_against_scikit_learn():
    random = np.random.default_rng(0)
    t = random.uniform(size=400)
    z = np.stack([np.cos(3 * t), np.sin(3 * t)], axis=1) + 0.1 * random.normal(size=(400, 2))
    guess = KNeighborsRegressor(15).fit(z[:300], t[:300]).predict(z[300:])
    expected = spearmanr(guess, t[300:]).statistic
    assert metrics.pseudotime_spearman(z[:300], t[:300], z[300:], t[300:]) == pytest.approx(expected)
    guess = KNeighborsRegressor(15).fit(z, t).predict(None)
    assert metrics.pseudotime_spearman(z, t) == pytest.approx(spearmanr(guess, t).statistic)
    holes = np.append(t, np.nan)
    assert metrics.pseudotime_spearman(np.append(z, [[0, 0]], 0), holes) == metrics.pseudotime_spearman(z, t)
    assert abs(metrics.pseudotime_spearman(random.normal(size=(400, 2)), t)) < 0.15
    assert np.isnan(metrics.pseudotime_spearman(z, t * 0))
    assert np.isnan(metrics.pseudotime_spearman(z, t, z[:2], t[:2]))
    assert np.isnan(metrics.pseudotime_spearman(z[:0], t[:0], z, t))
    assert metrics.pseudotime_spearman(z[:5], t[:5], z, t) == 0  # all five are the neighbours of every cell
    with pytest.raises(ValueError, match="query and query_t belong together"):
        metrics.pseudotime_spearman(z, t, z)

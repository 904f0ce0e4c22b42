"""Predicted values with their intervals, next to plain loops and known answers."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from tripletomics.labels import values as regression
from tripletomics.labels.targets import Target
from tripletomics.losses import RankNContrast
from tripletomics.metrics.order import distance

N, TRAIN = 600, 300


def cells(period=None, categories=None, noise=0.1, seed=0):
    """Cells on a line or a circle of z, with components that tell nothing."""
    random = np.random.default_rng(seed)
    t = random.uniform(0, 1, N)
    angle = 2 * np.pi * t
    z = np.stack([np.cos(angle), np.sin(angle)] if period else [t * 3, random.normal(size=N)], axis=1)
    y = t * (period or 10) + random.normal(0, noise, N)
    y = y % period if period else y
    if categories:
        y = np.clip(np.floor(t * len(categories)), 0, len(categories) - 1)
    pcs = random.normal(size=(N, 5)).astype(np.float32)
    return Target("day", y, RankNContrast(), 1.0, period, categories), z.astype(np.float32), pcs


def fitted(target, z, pcs):
    """A predictor of the first 300 cells, calibrated on the next 150."""
    train, asked = np.arange(N) < TRAIN, slice(TRAIN, 450)
    base = regression.fit_predictor(target, z, pcs, train, 0)
    return regression.calibrate(base, [(base.parts(z[asked], pcs[asked]), target.values[asked])])


def test_the_regressions_against_scikit_learn():
    target, z, pcs = cells(period=24)
    base = regression.fit_predictor(target, z, pcs, np.arange(N) < TRAIN, 0)
    y = regression.directions(target.values, 24)
    np.testing.assert_allclose(base.middle, y[:TRAIN].mean(axis=0))
    parts = base.parts(z, pcs) + base.middle
    for part, x in enumerate((pcs, z)):
        x = x.astype(float)
        scale = x[:TRAIN].var(axis=0).mean() * TRAIN
        fits = [Ridge(a * scale).fit(x[:TRAIN], y[:TRAIN]).predict(x) for a in regression.PENALTIES]
        assert min(np.abs(parts[:, part] - fit).max() for fit in fits) < 1e-6


def test_neighbours_against_a_loop():
    target, z, pcs = cells()
    base = regression.fit_predictor(target, z, pcs, np.arange(N) < TRAIN, 0)
    found = (base.parts(z, pcs)[:, 2] + base.middle)[:, 0]
    for i in range(TRAIN, TRAIN + 20):
        d = np.linalg.norm(z[:TRAIN] - z[i], axis=1)
        near = np.argsort(d)[:15]
        weights = np.exp(-2 * (d[near] / d[near][4]) ** 2)
        assert found[i] == pytest.approx(weights @ target.values[near] / weights.sum(), rel=1e-4)


def test_a_cell_of_the_fit_is_not_its_own_neighbour():
    target, z, pcs = cells()
    train = np.arange(N) < TRAIN
    base = regression.fit_predictor(target, z, pcs, train, 0)
    i = 7
    others = train & (np.arange(N) != i)
    without = regression.fit_predictor(target, z, pcs, others, 0)
    known = base.parts(z[[i]], pcs[[i]], np.array([True]))[:, 2] + base.middle
    np.testing.assert_allclose(known, without.parts(z[[i]], pcs[[i]])[:, 2] + without.middle, rtol=1e-5)


@pytest.mark.parametrize("period", [None, 24])
@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_intervals_hold_as_many_values_as_they_say(period, coverage):
    held, hits = slice(450, N), []
    for seed in range(5):
        target, z, pcs = cells(period, noise=1.0, seed=seed)
        found = fitted(target, z, pcs).predict(z[held], pcs[held], coverage=coverage)
        half = (found.high - found.low) / 2
        hits.append((distance(found.center, target.values[held], period) <= half).mean())
        if period:
            assert (found.center >= 0).all()
            assert (found.center < period).all()
    assert np.mean(hits) == pytest.approx(coverage, abs=0.04)


def test_ordered_categories():
    target, z, pcs = cells(categories=list("abcd"))
    held = slice(450, N)
    predictor = fitted(target, z, pcs)
    found = predictor.predict(z[held], pcs[held])
    assert {*found.center} <= {0, 1, 2, 3}
    assert (found.low <= found.center).all()
    assert (found.center <= found.high).all()
    assert {*found.low, *found.high} <= {0, 1, 2, 3}
    assert (found.center == target.values[held]).mean() > 0.85
    assert ((found.low <= target.values[held]) & (target.values[held] <= found.high)).mean() >= 0.88


def test_components_decide_where_the_metric_space_is_noise():
    target, z, pcs = cells()
    predictor = fitted(target, pcs[:, :2], np.concatenate([z, pcs], axis=1))
    found = predictor.predict(pcs[:, :2], np.concatenate([z, pcs], axis=1))
    assert np.corrcoef(found.center[450:], target.values[450:])[0, 1] > 0.99


def test_nothing_to_learn():
    target, _, pcs = cells()
    found = fitted(target, pcs[:, 3:], pcs).predict(pcs[:, 3:], pcs)
    assert np.isfinite(found.center).all()
    assert found.center.std() < 1
    assert ((found.low <= target.values) & (target.values <= found.high))[450:].mean() > 0.8


def test_missing_values_count_for_nothing():
    target, z, pcs = cells()
    hidden = target.values.copy()
    hidden[::3] = np.nan
    predictor = fitted(Target("day", hidden, RankNContrast()), z, pcs)
    assert len(predictor.values) == np.isfinite(hidden[:TRAIN]).sum()
    assert len(predictor.errors) == np.isfinite(hidden[TRAIN:450]).sum()
    assert np.isfinite(predictor.predict(z, pcs).center).all()


def test_without_enough_cells_to_calibrate_an_interval_holds_everything():
    target, z, pcs = cells()
    train = np.arange(N) < TRAIN
    base = regression.fit_predictor(target, z, pcs, train, 0)
    assert base.half_width(0.9) == np.ptp(target.values[train])
    few = regression.calibrate(base, [(base.parts(z[TRAIN:305], pcs[TRAIN:305]), target.values[TRAIN:305])])
    assert few.half_width(0.9) == np.ptp(target.values[train])
    assert few.half_width(0.5) < 1
    assert regression.calibrate(base, [(np.zeros((0, 3, 1)), np.zeros(0))]) is base
    circle = regression.fit_predictor(*cells(24), train, 0)
    assert circle.half_width(0.9) == 12


def test_a_regression_that_found_next_to_nothing_is_not_blown_up():
    target, z, pcs = cells()
    base = regression.fit_predictor(target, z, pcs, np.arange(N) < TRAIN, 0)
    above, random = target.values[TRAIN:, None] - base.middle, np.random.default_rng(1)
    for parts in (above / 30, random.normal(0, 0.01, above.shape), random.normal(0, 50, above.shape)):
        parts = np.stack([parts, parts[::-1], 0.01 * parts], axis=1)
        found = regression._weighed(base, parts, target.values[TRAIN:])
        assert (found.weights >= 0).all()
        assert found.weights.sum() < 1 + 1e-6
        error = ((found.centers(parts) - target.values[TRAIN:]) ** 2).mean()
        grid = [np.array([a, b, c]) / 20 for a in range(21) for b in range(21 - a) for c in range(21 - a - b)]
        best = min(((parts[:, :, 0] @ w - above[:, 0]) ** 2).mean() for w in grid)
        assert error < 1.001 * best


@pytest.mark.parametrize(("scale", "start"), [(1e-300, 0), (1e-3, 1.7e9), (1e30, 0)])
def test_units_of_the_values_do_not_matter(scale, start):
    target, z, pcs = cells()
    other = Target("day", start + scale * target.values, RankNContrast())
    found, moved = (fitted(one, z, pcs).predict(z, pcs) for one in (target, other))
    np.testing.assert_allclose((moved.center - start) / scale, found.center, atol=2e-3)
    assert len(np.unique(moved.center)) > 0.9 * len(np.unique(found.center))


def test_predictors_share_no_array():
    target, z, pcs = cells()
    one, other = (regression.fit_predictor(target, z, pcs, np.arange(N) < TRAIN, 0) for _ in range(2))
    assert not np.shares_memory(one.weights, other.weights)

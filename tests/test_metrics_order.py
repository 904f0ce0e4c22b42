"""Scores of values with an order, next to scipy and known answers."""

import numpy as np
import pytest
from scipy import stats

from tripletomics.metrics import order


def draws(n=200, seed=0):
    random = np.random.default_rng(seed)
    truth = random.uniform(0, 24, n)
    return truth, truth + random.normal(0, 2, n), random


def test_distance():
    assert order.distance(np.array([23.0, 1, 6, 50]), np.array([1.0, 23, 18, 1]), 24).tolist() == [2, 2, 12, 1]
    assert order.distance(np.array([23.0]), np.array([1.0])).tolist() == [22]


def test_spearman_against_scipy():
    truth, guess, _ = draws()
    truth = np.round(truth)
    assert order.spearman(guess, truth) == pytest.approx(stats.spearmanr(guess, truth)[0])
    assert order.spearman(np.ones(200), truth) == 0
    assert np.isnan(order.spearman(guess, np.ones(200)))
    assert np.isnan(order.spearman(guess[:2], truth[:2]))


def test_circular_correlation_of_a_small_arc_is_that_of_the_angles():
    truth, guess, _ = draws()
    a, b = 10 + truth / 100, 10 + guess / 100
    assert order.circular_correlation(b, a, 24) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-3)
    assert order.circular_correlation(-b, a, 24) == pytest.approx(-np.corrcoef(a, b)[0, 1], abs=1e-3)


def test_circular_correlation_is_the_difference_of_resultant_lengths():
    truth, guess, _ = draws(100_000)
    a, b = (2 * np.pi * x / 24 for x in (guess, truth))
    lengths = [abs(np.mean(np.exp(1j * c))) for c in (a - b, a + b)]
    assert order.circular_correlation(guess, truth, 24) == pytest.approx(lengths[0] - lengths[1], abs=1e-2)


@pytest.mark.parametrize("shift", [0, 5, 24, -30])
def test_circular_correlation_has_no_beginning(shift):
    truth, guess, random = draws()
    whole = order.circular_correlation(guess, truth, 24)
    assert order.circular_correlation(guess + shift, truth, 24) == pytest.approx(whole)
    assert order.circular_correlation(truth + shift, truth, 24) == pytest.approx(1)
    assert abs(order.circular_correlation(random.permutation(guess), truth, 24)) < 0.2
    assert order.circular_correlation(np.ones(200), truth, 24) == 0
    assert np.isnan(order.circular_correlation(guess, np.ones(200), 24))


def test_correlation_within_types():
    random = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2, -1], [50, 50, 3, 10])
    truth = random.normal(size=len(codes)) + 10 * codes
    guess = np.where(codes == 1, 2 * truth, 10 * codes + random.normal(size=len(codes)))
    expected = (1 + stats.spearmanr(guess[:50], truth[:50])[0]) / 2
    assert order.correlation_within(guess, truth, codes) == pytest.approx(expected)
    assert np.isnan(order.correlation_within(guess, truth, np.full(len(codes), -1)))


def test_mean_of_neighbours_against_a_loop():
    random = np.random.default_rng(0)
    z, values = random.normal(size=(60, 3)), random.uniform(0, 24, 60)
    query = random.normal(size=(5, 3))
    near = [values[np.argsort(np.linalg.norm(z - q, axis=1))[:15]] for q in query]
    np.testing.assert_allclose(order.mean_of_neighbours(z, values, query), [own.mean() for own in near])
    expected = [stats.circmean(own, high=24) for own in near]
    np.testing.assert_allclose(order.mean_of_neighbours(z, values, query, 24), expected)
    alone = order.mean_of_neighbours(z, values)
    others = np.argsort(np.linalg.norm(z - z[0], axis=1))[1:16]
    assert alone[0] == pytest.approx(values[others].mean())

"""Intervals of the benchmarks: a weighted score is the score of cells that are repeated as often as drawn."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr, ttest_1samp

from tripletomics import metrics

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import intervals
import quality


@pytest.fixture
def drawn(monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 50)
    return intervals.resamples(80)


def test_resamples_draw_as_many_cells_as_there_are(drawn):
    assert (drawn[0] == 1).all()
    assert (drawn.sum(axis=1) == 80).all()
    assert 20 < (drawn[1:] == 0).sum(axis=1).mean() < 40  # a share of 1/e is not drawn


def test_strata_keep_their_size(drawn):
    strata = np.arange(80) % 7
    weights = intervals.resamples(80, strata)
    for code in range(7):
        assert (weights[:, strata == code].sum(axis=1) == (strata == code).sum()).all()
    assert weights[1:].std(axis=0).min() > 0


def test_weighted_scores_are_scores_of_repeated_cells(drawn):
    random = np.random.default_rng(0)
    truth, values = random.integers(-1, 6, size=80), random.normal(size=80)
    named = np.where(random.random(80) < 0.7, truth, random.integers(0, 6, size=80)).clip(0)
    values[:3] = np.nan
    found = [intervals.macro_f1(truth, named, drawn), intervals.mean(values, drawn)]
    found.append(intervals.mean_of_types(values, truth, drawn))
    for row, weights in enumerate(drawn):
        cells = np.repeat(np.arange(80), weights.astype(int))
        expected = [metrics.macro_f1(truth[cells], named[cells]), np.nanmean(values[cells])]
        expected.append(np.mean([np.nanmean(values[cells][truth[cells] == code]) for code in np.unique(truth[cells])]))
        np.testing.assert_allclose([score[row] for score in found], expected, rtol=1e-5)


def test_a_type_that_no_cell_has_counts_as_0_in_every_draw(drawn):
    truth = np.arange(80) % 2
    named = np.where(np.arange(80) == 7, 5, truth)
    score = intervals.macro_f1(truth, named, drawn)
    assert score[0] == pytest.approx(metrics.macro_f1(truth, named))
    assert score.max() == pytest.approx(2 / 3)  # also where the cell is not drawn


def test_a_difference_is_a_tie_where_its_interval_holds_zero():
    score = np.array([0.5, *np.linspace(0.4, 0.6, 1001)])
    assert intervals.shown(score) == "0.500 [0.405, 0.595]"
    assert intervals.difference(score, score - 0.01) == "+0.010 [+0.010, +0.010], better"  # paired
    assert intervals.difference(score, score[::-1]).endswith("tie")
    assert intervals.verdict(score - 0.01, score) == "worse"


def test_seeds_are_drawn_as_well_as_cells():
    random = np.random.default_rng(0)
    scores = random.normal(size=(3, 1)) + 0.1 * random.normal(size=(3, 20001))
    pooled = intervals.over_seeds(scores)
    assert pooled[0] == pytest.approx(scores[:, 0].mean())
    assert pooled[1:].std() == pytest.approx(np.sqrt(scores.mean(axis=1).var(ddof=1) / 3 + 0.01 / 2), rel=0.02)
    assert (intervals.over_seeds(scores[:1]) == scores[0]).all()  # one seed: its cells alone
    paired = intervals.over_seeds(scores + 0.2) - pooled
    assert np.ptp(paired) == pytest.approx(0, abs=1e-9)


def test_a_limit_that_is_not_zero_does_not_read_zero():
    assert intervals.written([0.0042, 0.0003, 0.0091], sign="+") == ["+0.0042", "+0.0003", "+0.0091"]
    assert intervals.written([-0.0001, -0.0013, 0.0091], sign="+") == ["+0.000", "-0.001", "+0.009"]
    assert intervals.written([0.5, 0.0, 0.75]) == ["0.500", "0.000", "0.750"]


def test_scores_of_maps_are_those_of_the_package(drawn):
    random = np.random.default_rng(1)
    m, r, y, train = random.normal(size=(80, 2)), random.normal(size=(80, 9)), np.arange(80) % 5, np.arange(80) < 60
    r[:, :2] += m
    kept = quality.shares(m, r, train, ~train, 10)
    assert kept.mean() == pytest.approx(metrics.knn_recall(m[train], r[train], m[~train], r[~train], k=(10,))[0])
    d, e = (cdist(c, c) for c in (np.array([z[y == code].mean(axis=0) for code in range(5)]) for z in (m, r)))
    expected = np.mean([spearmanr(np.delete(d[i], i), np.delete(e[i], i))[0] for i in range(5)])
    assert quality.order_of_types(m, r, y, drawn)[0] == pytest.approx(expected)


def test_half_of_a_t_interval():
    values = pd.DataFrame(np.random.default_rng(0).normal(size=(7, 3)))
    expected = ttest_1samp(values, 0).confidence_interval()
    np.testing.assert_allclose(intervals.half_interval(values), (expected.high - expected.low) / 2)

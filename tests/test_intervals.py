"""Intervals of the benchmarks: a weighted score is the score of cells that are repeated as often as drawn."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tripletomics import metrics

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import intervals


@pytest.fixture
def drawn(monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 50)
    return intervals.resamples(80)


def test_resamples_draw_as_many_cells_as_there_are(drawn):
    assert (drawn[0] == 1).all()
    assert (drawn.sum(axis=1) == 80).all()
    assert 20 < (drawn[1:] == 0).sum(axis=1).mean() < 40  # a share of 1/e is not drawn


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


def test_a_difference_is_a_tie_where_its_interval_holds_zero():
    score = np.array([0.5, *np.linspace(0.4, 0.6, 1001)])
    assert intervals.shown(score) == "0.500 [0.405, 0.595]"
    assert intervals.difference(score, score - 0.01) == "+0.010 [+0.010, +0.010], better"  # paired
    assert intervals.difference(score, score[::-1]).endswith("tie")
    assert intervals.verdict(score - 0.01, score) == "worse"

"""Shares of labels in each other, next to simulations of which the truth is known, a plain loop and scipy."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from tripletomics.labels.calibration import fit_calibration
from tripletomics.labels.reference import build_reference
from tripletomics.labels.relation import LAST_ROUND, Labelled, compose, interval, relate

CENTRES = np.random.default_rng(3).normal(size=(5, 6)) * 1.2


def posteriors(codes, prior, seed=0, apart=1.5):
    """Types on a line, and their exact probabilities under a prior."""
    x = np.random.default_rng(seed).normal(apart * codes)
    p = prior * norm.pdf(x[:, None] - apart * np.arange(len(prior)))
    return p / p.sum(axis=1, keepdims=True)


def plain_compose(p, prior, rounds):
    shares, now = None, p
    for _ in range(rounds):
        shares = now.mean(axis=0)
        rows = []
        for row in p:
            weighed = [share * value / common for share, value, common in zip(shares, row, prior, strict=True)]
            rows.append([value / sum(weighed) for value in weighed])
        now = np.array(rows)
    return now


@pytest.mark.parametrize("rounds", [0, 1, 4])
def test_composition_is_that_of_a_plain_loop(rounds):
    prior = np.array([0.5, 0.3, 0.2])
    p = posteriors(np.arange(60) % 3, prior)
    np.testing.assert_allclose(compose(p, prior, rounds), plain_compose(p, prior, rounds), rtol=1e-6)


def test_types_are_counted_though_they_overlap_and_a_type_that_is_absent_is_not():
    prior = np.full(4, 0.25)
    codes = np.repeat([0, 1, 3], [600, 300, 100])
    p = posteriors(codes, prior, apart=2)
    counts = compose(p, prior, LAST_ROUND).sum(axis=0)
    np.testing.assert_allclose(counts, [600, 300, 0, 100], atol=30)
    assert p.sum(axis=0)[2] > 80  # what the probabilities alone would say


def test_a_cell_unlike_all_types_has_finite_shares():
    assert np.isfinite(compose(np.zeros((2, 3)), np.full(3, 1 / 3), 3)).all()


@pytest.mark.parametrize(("k", "n"), [(0, 3), (3, 3), (1, 7), (40, 100), (999, 1000)])
def test_intervals_are_those_of_scipy(k, n):
    expected = binomtest(k, n).proportion_ci(0.95, method="wilson")
    lower, upper = interval(np.array([k / n]), np.array([n]))
    assert (lower[0], upper[0]) == (pytest.approx(expected.low, abs=1e-4), pytest.approx(expected.high, abs=1e-4))


def cells(kinds, seed):
    """Cells of types whose metric space and components are the same Gaussians."""
    random = np.random.default_rng(seed)
    return CENTRES[kinds] * 2 + 0.5 * random.normal(size=(len(kinds), 6)), CENTRES[kinds] + 0.5 * random.normal(
        size=(len(kinds), 6)
    )


@pytest.fixture(scope="module")
def model():
    """A reference of types 0 to 3, and its calibration; it does not know type 4."""
    kinds = np.arange(400) % 4
    z, pcs = cells(kinds, 0)
    reference = build_reference(z, z[:, :2], pcs, kinds, 4, 0)
    other = cells(kinds, 1)
    return reference, fit_calibration([(reference.evidence(*other), kinds)])


def seen(model, kinds, codes, seed):
    """Cells with labels, as the model sees them."""
    reference, calibration = model
    z, pcs = cells(kinds, seed)
    odds = calibration.odds(reference.evidence(z, pcs))
    return Labelled(1 / (1 + np.exp(-odds)), z, pcs, np.asarray(codes))


def shares(model, kinds_a, codes_a, kinds_b, codes_b):
    a, b = seen(model, kinds_a, codes_a, 2), seen(model, kinds_b, codes_b, 3)
    found = relate(a, b, model[1], np.exp(model[0].prior))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found >= 0).all()
    return found


KINDS = np.arange(200) % 4


def test_labels_are_found_under_other_names(model):
    found = shares(model, KINDS, KINDS, KINDS, (KINDS + 1) % 4)
    assert found[:, :4].argmax(axis=1).tolist() == [1, 2, 3, 0]
    assert found.max(axis=1).min() > 0.9


def test_a_label_that_holds_two_and_the_way_back(model):
    coarse = KINDS // 2
    found = shares(model, KINDS, KINDS, KINDS, coarse)
    np.testing.assert_allclose(found[:, :2], [[1, 0], [1, 0], [0, 1], [0, 1]], atol=0.1)
    back = shares(model, KINDS, coarse, KINDS, KINDS)
    np.testing.assert_allclose(back[:, :4], [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]], atol=0.1)


def test_shares_are_those_of_the_cells_of_the_first_dataset(model):
    kinds = np.repeat([0, 1, 2], [120, 60, 20])
    (found,) = shares(model, kinds, kinds * 0, KINDS, KINDS)
    np.testing.assert_allclose(found, [0.6, 0.3, 0.1, 0, 0], atol=0.05)


def test_a_label_that_the_other_lacks_corresponds_to_none(model):
    found = shares(model, KINDS, KINDS, KINDS[KINDS < 3], KINDS[KINDS < 3])
    assert found[3, -1] > 0.9
    assert found[:3, -1].max() < 0.1


def test_a_type_that_the_model_does_not_know_is_found_if_both_have_it_and_is_none_else(model):
    new = np.concatenate([KINDS, np.full(50, 4)])
    found = shares(model, new, new, new, new)
    assert found.argmax(axis=1).tolist() == [0, 1, 2, 3, 4]
    found = shares(model, new, new, KINDS, KINDS)
    assert found.argmax(axis=1).tolist() == [0, 1, 2, 3, 4]  # the last is none
    assert found[4, -1] > 0.8


def test_labels_finer_than_the_types_of_the_model_are_told_by_their_cells(model):
    """Both parts of type 0 lie apart in the components."""

    def halves(seed):
        labelled = seen(model, KINDS, np.where(KINDS == 0, np.arange(200) // 4 % 2 * 4, KINDS), seed)
        pcs = labelled.pcs.copy()
        pcs[labelled.codes == 4] += 2.5
        return replace(labelled, pcs=pcs)

    found = relate(halves(2), halves(3), model[1], np.exp(model[0].prior))
    assert found.argmax(axis=1).tolist() == [0, 1, 2, 3, 4]
    assert found.max(axis=1).min() > 0.8


def test_the_order_of_the_cells_does_not_matter_nor_does_a_dataset_compared_with_itself(model):
    a, b = seen(model, KINDS, KINDS, 2), seen(model, KINDS, KINDS, 3)
    prior = np.exp(model[0].prior)
    order = np.random.default_rng(0).permutation(200)
    turned = Labelled(b.types[order], b.z[order], b.pcs[order], b.codes[order])
    np.testing.assert_allclose(relate(a, b, model[1], prior), relate(a, turned, model[1], prior), atol=1e-9)
    found = relate(a, a, model[1], prior)
    assert found.argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_one_label_on_either_side(model):
    one = np.zeros(200, dtype=int)
    np.testing.assert_allclose(shares(model, KINDS, one, KINDS, one)[0, 0], 1, atol=0.1)
    single = shares(model, KINDS[:1], one[:1], KINDS, KINDS)
    assert single[0].argmax() == 0


def test_cells_are_weighed_a_block_at_a_time(model, monkeypatch):
    a, b, prior = seen(model, KINDS, KINDS, 2), seen(model, KINDS, KINDS, 3), np.exp(model[0].prior)
    whole = relate(a, b, model[1], prior)
    monkeypatch.setattr("tripletomics.labels.relation.BLOCK", 7)
    np.testing.assert_allclose(relate(a, b, model[1], prior), whole)

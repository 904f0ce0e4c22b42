"""Calibration: probabilities, label sets, novelty and pairs that hold on cells drawn like those it was fitted on."""

import functools
import itertools
from dataclasses import fields, replace
from decimal import Decimal, getcontext

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize
from scipy.special import expit, softmax
from sklearn.metrics import f1_score, roc_auc_score

from tripletomics import metrics
from tripletomics.labels import nodes, reference
from tripletomics.labels.calibration import FARTHEST, QUANTILES, START, STIFFNESS, Calibration, fit_calibration
from tripletomics.labels.nodes import NodeLabels
from tripletomics.labels.prediction import Prediction, check, check_levels, predict
from tripletomics.labels.reference import Evidence
from tripletomics.labels.tree import Tree

TYPES = 4


def draw(n, seed, types=TYPES):
    """Cells of types that overlap: metric space, components, codes."""
    shape, random = np.random.default_rng(7), np.random.default_rng(seed)
    centres = 1.3 * shape.normal(size=(TYPES, 3)), shape.normal(size=(TYPES, 6))
    codes = random.choice(types, n, p=np.arange(1, types + 1) / np.arange(1, types + 1).sum())
    z, scores = (centre[codes] + random.normal(size=(n, centre.shape[1])) for centre in centres)
    return z.astype(np.float32), scores.astype(np.float32), codes


@functools.cache
def known(classes=TYPES):
    z, scores, codes = draw(500, 0)
    return reference.build_reference(z, z[:, :2], scores, codes, classes, 0)


@functools.cache
def ask(n, seed, classes=TYPES):
    """Evidence of cells that the reference does not hold, and their codes."""
    z, scores, codes = draw(n, seed)
    return known(classes).evidence(z, scores), codes


@functools.cache
def fitted(n=800, seed=1):
    return fit_calibration([ask(n, seed)])


def synthetic(logits, codes):
    """Evidence whose logits are all that matters."""
    n = len(logits)
    random = np.random.default_rng(5)
    z = random.normal(size=(n, 2))
    return Evidence(logits, random.normal(size=n), random.normal(size=n), z, np.zeros((n, 2)), z)


def objective(weights, logits, codes):
    loss = -np.log(softmax(logits @ weights, axis=1)[np.arange(len(codes)), codes]).mean()
    return loss + (STIFFNESS * (weights - START) ** 2).sum() / len(codes)


def bounds(share, *cells):
    """Four standard deviations of a share of a limit and of the cells that are counted."""
    return 4 * np.sqrt(share * (1 - share) * sum(1 / n for n in cells))


# ---------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("n", [20, 800])
def test_the_weights_minimise_the_log_loss_with_its_prior(n):
    evidence, codes = ask(n, 1)
    weights = fitted(n).weights
    best = objective(weights, evidence.logits, codes)
    for start in (np.zeros(4), np.array([2.0, 0.1, 1.5, 1.0])):
        other = minimize(objective, start, (evidence.logits, codes), bounds=[(0, None)] * 4, method="Powell").x
        assert best <= objective(other, evidence.logits, codes) + 1e-7
        np.testing.assert_allclose(weights, other, atol=5e-3)
    slope = approx_fprime(weights, objective, 1e-7, evidence.logits, codes)
    np.testing.assert_allclose(slope[weights > 0], 0, atol=2e-4)
    assert (slope[weights == 0] > -2e-4).all()


def test_without_much_to_go_by_the_weights_stay_where_they_start():
    logits = np.zeros((2, 3, 4))
    np.testing.assert_allclose(fit_calibration([(synthetic(logits, None), np.array([0, 1]))]).weights, START, atol=1e-6)


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("factor", [0.25, 1, 4])
def test_evidence_that_is_too_sure_is_scaled_down_and_one_that_is_not_sure_enough_up(kind, factor):
    random = np.random.default_rng(0)
    logits = np.zeros((6000, 5, 4))
    exact = random.normal(size=(6000, 5)) * 1.5
    codes = (softmax(exact, axis=1).cumsum(axis=1) < random.random((6000, 1))).sum(axis=1)
    logits[:, :, kind] = exact * factor
    found = fit_calibration([(synthetic(logits, codes), codes)])
    assert found.weights[kind] * factor == pytest.approx(1, abs=0.08)


def test_evidence_that_misleads_has_no_weight():
    evidence, codes = ask(800, 1)
    logits = evidence.logits.copy()
    logits[:, :, 1] *= -1
    assert fit_calibration([(synthetic(logits, codes), codes)]).weights[1] == 0


def test_unlabelled_cells_and_those_of_types_without_reference_are_left_out():
    evidence, codes = ask(300, 1, classes=6)
    odd = codes.copy()
    odd[::3], odd[1::3] = -1, 5
    kept = np.arange(300) % 3 == 2
    one, other = (
        fit_calibration([(evidence, odd)]),
        fit_calibration([(evidence.of(kept), codes[kept])]),
    )
    assert one.n_cells == other.n_cells == 100
    for name in ("weights", "center", "scale", "trust", "novelties", "oddities", "pair"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_folds_of_one_reference_count_as_one():
    evidence, codes = ask(800, 1)
    parts = np.arange(800) % 3
    found = fit_calibration([(evidence.of(parts == i), codes[parts == i]) for i in range(3)])
    for name in ("weights", "novelties", "oddities"):
        one, other = np.sort(getattr(found, name)), np.sort(getattr(fitted(), name))
        np.testing.assert_allclose(one, other, rtol=0.02, atol=0.02, err_msg=name)


@pytest.mark.parametrize("codes", [[], [1], [-1, -1, 2]])
def test_fewer_than_two_cells_are_too_few(codes):
    evidence = ask(300, 1)[0].of(np.arange(len(codes)))
    with pytest.raises(ValueError, match=r"^[01] calibration cells are too few: two or more are needed\.$"):
        fit_calibration([(evidence, np.array(codes, dtype=int))])


def test_two_cells_are_enough_for_finite_answers():
    evidence, codes = ask(300, 1)
    for rows in (np.array([0, 1]), np.flatnonzero(codes == 2)[:2], np.array([4, 4])):
        found = predict(evidence, fit_calibration([(evidence.of(rows), codes[rows])]))
        for values in (found.confidence, found.novelty):
            assert ((values >= 0) & (values <= 1)).all()
        assert found.sets.all()


# ---------------------------------------------------------------------------------------------------- odds


def test_odds_are_those_of_the_softmax_times_the_probability_of_being_known():
    evidence, _ = ask(500, 2)
    found = fitted()
    p_known = 1 / (1 + np.exp(FARTHEST * (found.novelty(evidence) - FARTHEST)))
    p = softmax(evidence.logits @ found.weights, axis=1) * p_known[:, None]
    np.testing.assert_allclose(expit(found.odds(evidence)), p, rtol=1e-9)
    total = expit(found.odds(evidence)).sum(axis=1)
    np.testing.assert_allclose(total, p_known, rtol=1e-9)
    assert total.max() <= 1 + 1e-12


@pytest.mark.parametrize("novelty", [-40.0, 0.0, 3.0, 40.0])
@pytest.mark.parametrize("logits", [[0.0, -50, -60], [200, 0, 199], [5, 5, 5], [0, -1e3, -2e3]])
def test_odds_keep_their_digits_however_sure_they_are(novelty, logits):
    getcontext().prec = 1000
    flat = Calibration(
        np.eye(4)[0], np.zeros(3), np.ones(3), 0.0, np.zeros(1), np.zeros(1), np.zeros(3), 1, 3
    )  # so that logits and novelty are those of the evidence
    evidence = Evidence(
        np.array(logits)[None, :, None] * np.eye(4)[0],
        np.array([novelty]),
        np.zeros(1),
        *3 * [np.zeros((1, 2))],
    )
    weights = [Decimal(value).exp() for value in logits]
    p_known = 1 / (1 + Decimal(FARTHEST * (novelty - FARTHEST)).exp())
    for odds, weight in zip(flat.odds(evidence)[0], weights, strict=True):
        p = weight / sum(weights) * p_known
        assert odds == pytest.approx(float((p / (1 - p)).ln()), rel=1e-9, abs=1e-9)


def test_a_type_without_reference_is_impossible_also_where_a_kind_of_evidence_has_no_weight():
    evidence, codes = ask(300, 1, classes=5)
    misleading = evidence.logits.copy()
    misleading[:, :4, 1] *= -1
    evidence = replace(evidence, logits=misleading)
    found = fit_calibration([(evidence, codes)])
    assert found.weights[1] == 0
    odds = found.odds(evidence)
    assert (odds[:, 4] == -np.inf).all()
    assert np.isfinite(odds[:, :4]).all()
    assert np.isfinite(found.oddities).all()


def test_the_order_of_the_types_does_not_matter():
    evidence, _ = ask(100, 2)
    turned = replace(evidence, logits=evidence.logits[:, [2, 0, 3, 1]])
    np.testing.assert_allclose(fitted().odds(turned), fitted().odds(evidence)[:, [2, 0, 3, 1]], rtol=1e-9)


def test_confidence_is_the_share_of_right_predictions():
    evidence, codes = ask(6000, 2)
    found = predict(evidence, fitted())
    assert metrics.ece(found.confidence, found.codes == codes) < 0.04
    assert found.confidence.mean() == pytest.approx((found.codes == codes).mean(), abs=0.03)


# ---------------------------------------------------------------------------------------------------- label sets


@pytest.mark.parametrize("n", [150, 2500])  # 2,500: kept as quantiles
@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_label_sets_hold_the_type_of_the_asked_share_of_new_cells(n, coverage):
    evidence, codes = ask(6000, 2)
    found = predict(evidence, fitted(n), coverage=coverage)
    held = found.sets[np.arange(6000), codes].mean()
    assert held == pytest.approx(coverage, abs=bounds(coverage, 6000, n))


def test_small_calibrations_cover_what_was_asked_on_average():
    evidence, codes = ask(6000, 2)
    held = []
    for rows in np.arange(6000).reshape(60, 100):
        few, others = rows[:19], rows[19:]
        found = fit_calibration([(evidence.of(few), codes[few])])
        odds = found.odds(evidence.of(others))[np.arange(81), codes[others]]
        held.append((odds >= found.odds_limit(0.8)).mean())
    assert np.mean(held) == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("n", [9, 19, 50, 151])
@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_the_limit_lets_in_one_calibration_cell_more_than_split_conformal_prediction(n, coverage):
    evidence, codes = ask(n, 1)
    found = fitted(n)
    held = (found.odds(evidence)[np.arange(n), codes] >= found.odds_limit(coverage) - 1e-9).sum()
    wanted = int(np.ceil(round((n + 1) * coverage, 6))) + 1
    assert held == (wanted if wanted <= n else n)


def test_with_too_few_cells_every_type_of_the_reference_is_in_every_set():
    evidence, _ = ask(300, 2, classes=6)
    sets = predict(evidence, fit_calibration([ask(18, 1, classes=6)]), coverage=0.95).sets
    assert sets[:, :TYPES].all()
    assert not sets[:, TYPES:].any()
    assert not predict(evidence, fit_calibration([ask(39, 1, classes=6)]), coverage=0.95).sets[:, :TYPES].all()


def test_a_larger_coverage_has_larger_sets():
    evidence, _ = ask(2000, 2)
    sets = [predict(evidence, fitted(), coverage=coverage).sets for coverage in (0.5, 0.8, 0.9, 0.99)]
    for small, large in itertools.pairwise(sets):
        assert (small <= large).all()
        assert small.sum() < large.sum()


# ---------------------------------------------------------------------------------------------------- novelty


def test_novelty_is_the_sum_of_two_standardised_distances():
    evidence, _ = ask(800, 1)
    found = fitted()
    novelty = found.novelty(evidence)
    parts = [(d - d.mean()) / d.std() for d in (evidence.near, evidence.typical)]
    total = parts[0] + found.trust * parts[1]
    np.testing.assert_allclose(novelty, (total - total.mean()) / total.std(), rtol=1e-7, atol=1e-9)
    assert novelty.mean() == pytest.approx(0, abs=1e-9)
    assert novelty.std() == pytest.approx(1)


def test_trust_is_how_well_the_components_tell_a_type_that_is_left_out():
    evidence, codes = ask(800, 1)
    d = -evidence.logits[:, :, 2]
    aurocs = []
    for code in range(TYPES):
        nearest = [row.min() if y != code else np.delete(row, code).min() for row, y in zip(d, codes, strict=True)]
        aurocs.append(roc_auc_score(codes == code, nearest))
    assert 0.1 < fitted().trust < 0.9
    assert fitted().trust == pytest.approx(2 * np.mean(aurocs) - 1)


def test_components_that_tell_nothing_are_not_trusted():
    z, scores, codes = draw(1000, 1)
    noise = np.random.default_rng(0).normal(size=scores.shape)
    half = np.arange(1000) < 500
    blind = reference.build_reference(z[half], z[half, :2], noise[half], codes[half], TYPES, 0)
    assert fit_calibration([(blind.evidence(z[~half], noise[~half]), codes[~half])]).trust < 0.25
    clear = 50 * np.eye(TYPES, 6)[codes] + noise
    plain = reference.build_reference(z[half], z[half, :2], clear[half], codes[half], TYPES, 0)
    assert fit_calibration([(plain.evidence(z[~half], clear[~half]), codes[~half])]).trust > 0.99


def test_cells_that_move_away_are_ever_more_novel_and_less_sure():
    z, scores, _ = draw(1, 3)
    steps = np.linspace(0, 30, 7)[:, None]
    direction = np.random.default_rng(0).normal(size=(1, 3)), np.random.default_rng(1).normal(size=(1, 6))
    evidence = known().evidence(20 * direction[0] + z + steps * direction[0], scores + (20 + steps) * direction[1])
    found = predict(evidence, fitted())
    assert (np.diff(found.novelty) >= 0).all()
    assert found.novelty[0] > 0.99
    assert found.unassigned.all()
    assert not found.sets.any()
    assert (found.confidence < 0.01).all()


@pytest.mark.parametrize("reject", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("n", [400, 2500])
def test_the_asked_share_of_known_cells_is_rejected(reject, n):
    evidence, _ = ask(n, 1)
    own = predict(evidence, fitted(n), reject=reject).unassigned
    assert own.mean() == pytest.approx(reject, abs=1.5 / min(n, QUANTILES))
    new = predict(ask(6000, 2)[0], fitted(n), reject=reject).unassigned
    assert new.mean() == pytest.approx(reject, abs=bounds(reject, 6000, n))


def test_rejecting_nothing_rejects_nothing():
    z, scores, _ = draw(50, 3)
    evidence = known().evidence(z + 1e6, scores + 1e6)
    assert fitted().novelty_limit(0) == np.inf
    assert not predict(evidence, fitted(), reject=0).unassigned.any()
    assert predict(evidence, fitted(), reject=0.001).unassigned.all()


def test_a_larger_rejection_rejects_the_same_cells_and_more_and_changes_no_type():
    evidence, _ = ask(2000, 2)
    found = [predict(evidence, fitted(), reject=reject) for reject in (0, 0.01, 0.1, 0.5)]
    for less, more in itertools.pairwise(found):
        assert (less.unassigned <= more.unassigned).all()
        assert less.unassigned.sum() < more.unassigned.sum()
        np.testing.assert_array_equal(less.codes, more.codes)
        np.testing.assert_array_equal(less.confidence, more.confidence)


def test_quantiles_stand_for_many_cells():
    evidence, codes = ask(2500, 1)
    found = fitted(2500)
    assert len(found.oddities) == QUANTILES == 1001
    assert len(found.novelties) == len(found.pcs) == found.n_cells == 2500
    novelty, odds = found.novelty(evidence), found.odds(evidence)[np.arange(2500), codes]
    for share in (0.01, 0.05, 0.2):
        assert (novelty > found.novelty_limit(share)).mean() == pytest.approx(share, abs=1 / 1000)
        assert (odds >= found.odds_limit(1 - share)).mean() == pytest.approx(1 - share, abs=2 / 1000)
    assert len(fitted(800).oddities) == 800


# ---------------------------------------------------------------------------------------------------- pairs


def pairs(n, seed):
    """As many pairs of one type as of two."""
    evidence, codes = ask(4000, seed)
    random = np.random.default_rng(seed)
    a, b = random.integers(4000, size=(2, 40 * n))
    same = codes[a] == codes[b]
    rows = np.r_[np.flatnonzero(same & (a != b))[:n], np.flatnonzero(~same)[:n]]
    return evidence.of(a[rows]), evidence.of(b[rows]), same[rows]


def test_pairs_are_of_one_type_as_often_as_is_said():
    a, b, same = pairs(1500, 2)
    p = fitted().same(a, b)
    assert metrics.ece(p, same) < 0.07
    assert metrics.auroc(p, same) > 0.75
    assert metrics.ece(p, same) < metrics.ece(np.clip(2 * p - 0.5, 0, 1), same)


def test_pairs_of_nearer_cells_are_more_likely_of_one_type():
    z, scores, _ = draw(1, 3)
    steps = np.linspace(0, 5, 11)[:, None]
    here = known().evidence(np.repeat(z, 11, axis=0), np.repeat(scores, 11, axis=0))
    for there in (
        known().evidence(z + steps, np.repeat(scores, 11, axis=0)),
        known().evidence(np.repeat(z, 11, axis=0), scores + steps),
    ):
        p = fitted().same(here, there)
        assert (np.diff(p) < 0).all()
        assert ((p > 0) & (p < 1)).all()


def test_the_two_cells_of_a_pair_may_change_places():
    a, b, _ = pairs(200, 2)
    np.testing.assert_array_equal(fitted().same(a, b), fitted().same(b, a))


def test_cells_of_one_type_alone_still_give_a_falling_probability():
    evidence, codes = ask(800, 1)
    rows = np.flatnonzero(codes == 3)
    found = fit_calibration([(evidence.of(rows), codes[rows])])
    p = found.same(evidence.of(np.zeros(50, dtype=int)), evidence.of(np.arange(50)))
    assert p.argmax() == 0
    assert np.isfinite(p).all()


# ---------------------------------------------------------------------------------------------------- check


def test_the_check_against_plain_sums():
    codes = np.array([0, 1, 1, 2, -1, 0])
    found = Prediction(
        codes=np.array([0, 1, 2, 2, 1, 1]),
        confidence=np.array([0.9, 0.8, 0.3, 0.95, 0.1, 0.6]),
        novelty=np.full(6, 0.5),
        unassigned=np.array([False, True, False, False, True, True]),
        sets=np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 0]], dtype=bool),
        probabilities=np.zeros((6, 3)),
        deviation=np.zeros(6),
        p=np.ones(6),
        novel=np.zeros(6, dtype=bool),
        nodes=np.array([0, 1, 2, 2, 1, 1]),
        doubtful=np.zeros(6, dtype=bool),
    )
    kept = codes >= 0
    named = np.where(found.unassigned, -1, found.codes)[kept]
    assert check(found, codes) == {
        "cells": 5.0,
        "macro_f1": pytest.approx(f1_score(codes[kept], found.codes[kept], average="macro")),
        "macro_f1_named": pytest.approx(
            f1_score(codes[kept], named, labels=np.union1d(codes[kept], named[named >= 0]), average="macro")
        ),
        "ece": pytest.approx((0.1 + 0.2 + 0.3 + 0.05 + 0.6) / 5),  # each in a bin of its own
        "coverage": pytest.approx(3 / 5),
        "set_size": pytest.approx(6 / 5),
        "unassigned": pytest.approx(2 / 5),
    }


def test_the_best_type_is_that_of_the_highest_odds_also_where_it_is_rejected():
    evidence, _ = ask(500, 2)
    found = predict(evidence, fitted(), reject=0.3)
    odds = fitted().odds(evidence)
    np.testing.assert_array_equal(found.codes, odds.argmax(axis=1))
    np.testing.assert_allclose(found.confidence, expit(odds).max(axis=1))
    assert found.unassigned.any()
    assert found.sets.shape == odds.shape


# ---------------------------------------------------------------------------------------------------- levels

TREE = Tree.of({"a": "A", "b": "A", "A": None, "c": "B", "d": "B", "B": None})  # types of codes 0 to 3
FIRST = {"A": 0, "B": 0, "a": 1, "b": 1, "c": 1, "d": 1}


def on_levels(truth):
    return NodeLabels.of(truth, TREE, FIRST, ["class", "type"])


@functools.cache
def fitted_to_tree(n=800, seed=1):
    return fit_calibration([ask(n, seed)], TREE)


def test_names_above_the_types_change_nothing_but_the_costs():
    one, other = fitted(), fitted_to_tree()
    for field in fields(Calibration):
        if field.name != "costs":
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
    assert one.costs is None
    assert len(other.costs) == 800


@pytest.mark.parametrize("coverage", [0.6, 0.9, 0.97])
def test_label_sets_along_a_tree_hold_the_type_as_often_as_asked_for_and_have_fewer_names(coverage):
    (evidence, codes), calibration = ask(4000, 2), fitted_to_tree()
    found, flat = (predict(evidence, calibration, coverage=coverage, tree=tree) for tree in (TREE, None))
    assert found.sets[np.arange(4000), codes].mean() == pytest.approx(coverage, abs=bounds(coverage, 800, 4000))
    names = nodes.cover(found.sets, TREE).sum(axis=1)
    several = flat.sets.sum(axis=1) > 1
    assert coverage < 0.9 or names[several].mean() < flat.sets[several].sum(axis=1).mean()
    more = predict(evidence, calibration, coverage=min(coverage + 0.02, 0.99), tree=TREE).sets
    assert not (found.sets & ~more).any()


def test_with_too_few_calibration_cells_a_set_holds_all_types():
    evidence, codes = ask(800, 1)
    few = fit_calibration([(evidence.of(np.arange(5)), codes[:5])], TREE)
    sets = predict(evidence, few, coverage=0.95, tree=TREE).sets
    assert sets.all()
    assert nodes.write_sets(sets[:1], TREE) == ["any"]


def test_the_deepest_likely_name_is_written():
    evidence, _ = ask(300, 2)
    calibration = fitted_to_tree()
    found, never = (predict(evidence, calibration, reject, tree=TREE) for reject in (0.05, 0))
    p = expit(calibration.odds(evidence))
    far = calibration.novelty(evidence) > calibration.novelty_limit(0.05)
    for i in range(300):
        summed = {"A": p[i, :2].sum(), "B": p[i, 2:].sum()} | dict(zip("abcd", p[i], strict=True))
        likely = [name for name in "abcdAB" if summed[name] >= 0.5]
        best = likely[0] if likely else max("AB", key=summed.get)
        assert TREE.names[found.nodes[i]] == TREE.names[never.nodes[i]] == best
        assert found.confidence[i] == pytest.approx(summed[best])
        assert found.unassigned[i] == (far[i] or not likely)
    assert not never.unassigned.any()
    assert found.unassigned.any()
    assert {*found.nodes} - {0, 1, 2, 3}
    np.testing.assert_array_equal(found.codes, p.argmax(axis=1))


def test_the_checks_on_levels():
    evidence, codes = ask(600, 2)
    found = predict(evidence, fitted_to_tree(), tree=TREE)
    truth = np.where(np.arange(600) % 3 == 0, TREE.parents[codes], codes)  # a third is known coarsely
    truth[:5] = -1
    checks = check_levels(found, on_levels(truth), 0)
    fine, coarse = (truth >= 0) & (truth < 4), truth >= 4
    classes = np.where(codes < 2, 0, 1)
    p = found.probabilities
    said = p.argmax(axis=1), p[:, 2:].sum(axis=1) > p[:, :2].sum(axis=1)
    assert checks["f1_type"] == pytest.approx(f1_score(codes[fine], said[0][fine], average="macro"))
    assert checks["f1_class"] == pytest.approx(f1_score(classes[truth >= 0], said[1][truth >= 0], average="macro"))
    assert checks["f1_type_null"] < checks["f1_type"] - 0.1
    assert checks["hierarchical_f1_null"] < checks["hierarchical_f1"] - 0.02
    assert checks["coarse_cells"] == coarse.sum()
    whole = [found.sets[i, [0, 1] if truth[i] == 4 else [2, 3]].all() for i in np.flatnonzero(coarse)]
    assert checks["coarse_coverage"] == pytest.approx(np.mean(whole))
    some = [found.sets[i, [0, 1] if truth[i] == 4 else [2, 3]].any() for i in np.flatnonzero(coarse)]
    assert checks["coarse_agrees"] == pytest.approx(np.mean(some))
    assert "coarse_coverage" not in check_levels(found, on_levels(np.where(coarse, -1, truth)), 0)


def test_predictions_that_know_the_class_alone_score_as_chance_on_the_types():
    random = np.random.default_rng(0)
    truth = random.integers(4, size=4000)
    p = np.where((truth < 2)[:, None], [0.45, 0.45, 0.02, 0.02], [0.02, 0.02, 0.45, 0.45])
    p = p * (1 + 0.05 * random.random(p.shape))
    named, confidence = nodes.deepest_likely(nodes.sum_below(p, TREE), TREE)
    rest = {name: np.zeros(4000) for name in ("novelty", "deviation", "p", "novel", "doubtful")}
    found = Prediction(
        codes=p.argmax(axis=1), confidence=confidence, unassigned=np.zeros(4000, dtype=bool), sets=p > 0.1,
        probabilities=p, nodes=named, **rest,
    )  # fmt: skip
    checks = check_levels(found, on_levels(truth), 0)
    assert checks["f1_class"] == 1
    assert checks["f1_type"] == pytest.approx(checks["f1_type_null"], abs=0.03)
    assert checks["hierarchical_f1"] == pytest.approx(2 / 3)
    assert checks["hierarchical_f1_null"] == pytest.approx(2 / 3)
    assert checks["set_names"] == 1

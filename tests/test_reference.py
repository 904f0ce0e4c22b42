"""The reference: which types lie near a cell, against plain loops and scikit-learn."""

from dataclasses import fields

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

from tripletomics.knn import NEIGHBOURS
from tripletomics.labels import reference
from tripletomics.labels.reference import EVEN_SHARE, KERNEL_NEIGHBOUR, build_reference

TYPES, ABSENT = 4, 2


def cells(n=120, seed=0):
    """Metric space, map, components of unequal spread, and codes of unequal types: 2 is absent, some are unlabelled."""
    shape, random = np.random.default_rng(9), np.random.default_rng(seed)
    codes = random.choice([-1, 0, 1, 3], n, p=[0.1, 0.5, 0.3, 0.1])
    z = 2 * shape.normal(size=(TYPES + 1, 6))[codes] + random.normal(size=(n, 6))
    mixed = random.normal(size=(n, 5)) @ shape.normal(size=(5, 5))
    scores = 3 * shape.normal(size=(TYPES + 1, 5))[codes] + mixed
    return z.astype(np.float32), z[:, :2].astype(np.float32), scores.astype(np.float32), codes


def fitted(n=120, seed=0):
    return build_reference(*cells(n, seed), TYPES, 0)


def residual_covariance(scores, codes):
    means = {code: scores[codes == code].mean(axis=0) for code in set(codes) - {-1}}
    residuals = [score - means[code] for score, code in zip(scores.astype(float), codes, strict=True) if code >= 0]
    return LedoitWolf(assume_centered=True).fit(residuals).covariance_


def loop(landmarks, landmark_codes, z, scores, types, covariance):
    """The evidence by its definition; a type is its number of cells, prototype, mean and prior, or None."""
    spread = landmarks["spread"]
    present = [code for code, kind in enumerate(types) if kind is not None]
    logits, near, typical = np.full((len(z), len(types), 4), -np.inf), [], []
    for i, (place, score) in enumerate(zip(z.astype(float), scores.astype(float), strict=True)):
        d = np.array([np.linalg.norm(place - other) for other in landmarks["z"].astype(float)]) / spread
        nearest = np.argsort(d, kind="stable")[:NEIGHBOURS]
        width = d[nearest[min(KERNEL_NEIGHBOUR, len(nearest)) - 1]] or 1.0
        weights = {row: np.exp(-2 * (d[row] / width) ** 2) for row in nearest}
        away = []
        for code in present:
            size, prototype, mean, prior = types[code]
            votes = sum(weight for row, weight in weights.items() if landmark_codes[row] == code)
            share = votes / sum(weights.values())
            doubt = np.sqrt(1 + 1 / size)
            away.append(mahalanobis(score, mean, np.linalg.inv(covariance)) / doubt)
            logits[i, code] = [
                np.log((share + EVEN_SHARE / len(present)) / (1 + EVEN_SHARE)),
                -np.linalg.norm(place - prototype) / spread / doubt,
                -away[-1],
                prior,
            ]
        near.append(np.log(np.mean(d[nearest[:KERNEL_NEIGHBOUR]])))
        typical.append(np.log(min(away)))
    return logits, near, typical


def types_of(z, scores, codes, n=TYPES):
    known = (codes >= 0).sum()
    return [
        (of.sum(), z[of].mean(axis=0, dtype=float), scores[of].mean(axis=0, dtype=float), np.log(of.sum() / known))
        if (of := codes == code).any()
        else None
        for code in range(n)
    ]


def assert_evidence(found, expected):
    for one, another in zip((found.logits, found.near, found.typical), expected, strict=True):
        np.testing.assert_allclose(one, another, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------------------------------------- evidence


@pytest.mark.parametrize("n", [120, 12])  # 12: fewer than the neighbours that may vote
def test_evidence_against_a_plain_loop(n):
    z, _, scores, codes = cells(n)
    known, types = fitted(n), types_of(z, scores, codes)
    labelled = codes >= 0
    landmarks = {"z": z[labelled], "spread": z[labelled].std()}
    new_z, _, new_scores, _ = cells(40, seed=1)
    found = known.evidence(new_z, new_scores)
    assert found.logits.shape == (40, TYPES, 4)
    covariance = residual_covariance(scores, codes)
    assert_evidence(found, loop(landmarks, codes[labelled], new_z, new_scores, types, covariance))
    np.testing.assert_array_equal(found.pcs, new_scores)
    np.testing.assert_allclose(found.z, new_z / z[labelled].std(), rtol=1e-5)
    gaps = np.linalg.norm(found.white[:10, None] - found.white[None, 10:20], axis=2)
    inverse = np.linalg.inv(covariance)
    wanted = [[mahalanobis(a, b, inverse) for b in new_scores[10:20]] for a in new_scores[:10]]
    np.testing.assert_allclose(gaps, wanted, rtol=1e-4)


def test_a_type_without_cells_is_impossible_and_the_others_are_finite():
    z, _, scores, _ = cells(50, seed=1)
    logits = fitted().evidence(z, scores).logits
    assert (logits[:, ABSENT] == -np.inf).all()
    assert np.isfinite(np.delete(logits, ABSENT, axis=1)).all()


def test_shares_of_the_votes_add_up_to_1():
    z, _, scores, _ = cells(50, seed=1)
    votes = np.exp(fitted().evidence(z, scores).logits[:, :, 0])
    np.testing.assert_allclose(votes.sum(axis=1), 1)
    assert np.delete(votes, ABSENT, axis=1).min() >= EVEN_SHARE / 3 / (1 + EVEN_SHARE) - 1e-12


def test_unlabelled_cells_are_no_part_of_the_reference():
    z, m, scores, codes = cells()
    labelled = codes >= 0
    one, other = (
        fitted(),
        build_reference(z[labelled], m[labelled], scores[labelled], codes[labelled], TYPES, 0),
    )
    for field in fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


def test_units_and_the_order_of_cells_and_dimensions_do_not_matter():
    z, m, scores, codes = cells()
    random = np.random.default_rng(2)
    order, turn = random.permutation(len(z)), np.linalg.qr(random.normal(size=(5, 5)))[0]

    def turned(z, scores):
        return 7 * z[:, ::-1], 0.2 * scores @ turn  # the covariance is shrunk towards a sphere

    other_z, other_scores = turned(z, scores)
    known = build_reference(other_z[order], m[order], other_scores[order], codes[order], TYPES, 0)
    new_z, _, new_scores, _ = cells(30, seed=1)
    expected = fitted().evidence(new_z, new_scores)
    assert_evidence(known.evidence(*turned(new_z, new_scores)), (expected.logits, expected.near, expected.typical))


def test_a_cell_does_not_depend_on_the_others():
    z, _, scores, _ = cells(30, seed=1)
    known = fitted()
    whole, rows = known.evidence(z, scores), np.array([3, 17])
    part, alone = whole.of(rows), known.evidence(z[rows], scores[rows])
    for field in fields(whole):
        np.testing.assert_allclose(getattr(part, field.name), getattr(alone, field.name), rtol=1e-6)


def test_of_two_prototypes_as_far_away_that_of_fewer_cells_is_nearer():
    sizes = (40, 2)
    random = np.random.default_rng(0)
    codes = np.repeat([0, 1], sizes)
    offset = random.normal(size=(42, 4))
    for code in (0, 1):
        offset[codes == code] -= offset[codes == code].mean(axis=0)
    z = (offset + np.where(codes == 0, -5, 5)[:, None]).astype(np.float32)
    logits = build_reference(z, z[:, :2], z, codes, 2, 0).evidence(np.zeros((1, 4)), np.zeros((1, 4))).logits[0]
    for kind in (1, 2):
        assert logits[0, kind] / logits[1, kind] == pytest.approx(np.sqrt((1 + 1 / 2) / (1 + 1 / 40)), rel=1e-4)


@pytest.mark.parametrize(
    "places",
    [
        lambda random: np.zeros((9, 3)),
        lambda random: np.repeat(random.normal(size=(3, 3)), 3, axis=0),
        lambda random: np.eye(9)[:, :3] * 1e-20,
    ],
    ids=["one point", "a point a type", "tiny"],
)
def test_degenerate_references_give_finite_evidence(places):
    x = places(np.random.default_rng(0)).astype(np.float32)
    known = build_reference(x, x[:, :2], x, np.repeat([0, 1, 2], 3), 3, 0)
    for query in (x, x + 1):
        found = known.evidence(query, query)
        assert all(np.isfinite(getattr(found, field.name)).all() for field in fields(found))


def test_a_cell_of_each_type_is_enough():
    z, m, scores, codes = cells()
    rows = [np.flatnonzero(codes == code)[0] for code in (0, 1, 3)]
    found = build_reference(z[rows], m[rows], scores[rows], codes[rows], TYPES, 0).evidence(z[rows], scores[rows])
    assert np.isfinite(found.near).all()
    for kind in range(3):
        assert found.logits[:, :, kind].argmax(axis=1).tolist() == [0, 1, 3]


# ---------------------------------------------------------------------------------------------------- landmarks


def many():
    random = np.random.default_rng(0)
    codes = random.permutation(np.repeat([0, 1, 2, -1], [100, 30, 5, 20]))
    z = (4 * np.eye(3, 4)[codes] + random.normal(size=(155, 4))).astype(np.float32)
    return z, z[:, :2], z, codes


def test_landmarks_are_an_equal_share_of_each_type(monkeypatch):
    everything = build_reference(*many(), 3, 0)
    assert len(everything.z) == 135
    monkeypatch.setattr(reference, "MAX_LANDMARKS", 30)
    known = build_reference(*many(), 3, 0)
    assert np.bincount(known.codes).tolist() == [13, 12, 5]
    z, _, _, codes = many()
    of_cell = {tuple(place): code for place, code in zip(z.tolist(), codes, strict=True)}
    assert [of_cell[tuple(place)] for place in known.z.tolist()] == known.codes.tolist()
    np.testing.assert_array_equal(known.map, known.z[:, :2])
    assert len(np.unique(known.z, axis=0)) == 30
    for name in ("spread", "sizes", "prior", "prototypes", "whiten", "means"):
        np.testing.assert_array_equal(getattr(known, name), getattr(everything, name), err_msg=name)


def test_the_draw_of_landmarks_follows_the_seed(monkeypatch):
    monkeypatch.setattr(reference, "MAX_LANDMARKS", 30)
    one, again, other = (build_reference(*many(), 3, seed).z for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_landmarks_vote_and_all_cells_make_the_prototypes(monkeypatch):
    monkeypatch.setattr(reference, "MAX_LANDMARKS", 30)
    z, _, scores, codes = many()
    known = build_reference(*many(), 3, 0)
    query = np.random.default_rng(1).normal(size=(25, 4)).astype(np.float32) + 1
    landmarks = {"z": known.z, "spread": z[codes >= 0].std()}
    covariance = residual_covariance(scores, codes)
    expected = loop(landmarks, known.codes, query, query, types_of(z, scores, codes, 3), covariance)
    assert_evidence(known.evidence(query, query), expected)


# ---------------------------------------------------------------------------------------------------- enroll


def test_enrolled_types_against_a_plain_loop():
    z, _, scores, codes = cells()
    known = fitted()
    new_z, new_m, new_scores, _ = cells(7, seed=3)
    new_codes = np.array([4, 5, 4, 4, 5, 4, 4])
    grown = known.enroll(new_z, new_m, new_scores, new_codes, 6)
    labelled = codes >= 0
    landmarks = {"z": np.r_[z[labelled], new_z], "spread": z[labelled].std()}
    added = [
        (of.sum(), new_z[of].mean(axis=0, dtype=float), new_scores[of].mean(axis=0, dtype=float), -np.log(6))
        for of in (new_codes == 4, new_codes == 5)
    ]
    query_z, _, query_scores, _ = cells(40, seed=1)
    expected = loop(
        landmarks, np.r_[codes[labelled], new_codes], query_z, query_scores, types_of(z, scores, codes) + added,
        residual_covariance(scores, codes),
    )  # fmt: skip
    logits, lent = expected[0], 0
    for cell in logits:
        for kind in (4, 5):
            if cell[kind, 2] > cell[:4, 2].max():  # its components are nearer than those of all trained types
                lent += cell[kind, 0] < cell[:4, 0].max() - np.log(2)
                cell[kind, 0] = max(cell[kind, 0], cell[:4, 0].max() - np.log(2))
    assert lent > 0
    assert_evidence(grown.evidence(query_z, query_scores), expected)
    assert grown.z.dtype == grown.map.dtype == np.float32
    np.testing.assert_array_equal(grown.map[-7:], new_m)


def test_enrolling_leaves_the_first_reference_as_it_was():
    known, before = fitted(), fitted()
    z, m, scores, _ = cells(3, seed=3)
    known.enroll(z, m, scores, np.array([4, 4, 4]), 5)
    for field in fields(known):
        np.testing.assert_array_equal(getattr(known, field.name), getattr(before, field.name))


def test_one_after_another_or_at_once_is_the_same_but_for_the_prior():
    z, m, scores, _ = cells(6, seed=3)
    codes = np.array([4, 4, 4, 5, 5, 5])
    at_once = fitted().enroll(z, m, scores, codes, 6)
    first = fitted().enroll(z[:3], m[:3], scores[:3], codes[:3], 5)
    in_turn = first.enroll(z[3:], m[3:], scores[3:], codes[3:], 6)
    for field in fields(at_once):
        if field.name != "prior":
            np.testing.assert_array_equal(getattr(in_turn, field.name), getattr(at_once, field.name))
    np.testing.assert_allclose(in_turn.prior[-2:], [-np.log(5), -np.log(6)])

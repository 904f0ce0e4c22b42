from dataclasses import fields

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.linear_model import Ridge

from tripletomics import augment, features, networks
from tripletomics.features import Pair
from tripletomics.features.pair import RIDGE
from tripletomics.networks import MLP, Encoder, PairEncoder
from tripletomics.sources import Memory

ONE, OTHER, BOTH = (True, False), (False, True), (True, True)
COUNTS, LEVELS = 30, 8  # features of the two


def measurements(n=90, seed=0):
    """Counts and intensities of the same latent; some cells lack the one or the other, which is 0 there."""
    shape, random = np.random.default_rng(1), np.random.default_rng(seed)
    latent, first, second = random.normal(size=(n, 4)), shape.normal(size=(4, COUNTS)), shape.normal(size=(4, LEVELS))
    a = random.poisson(np.exp(1.5 + 0.4 * latent @ first)).astype(np.float32)
    b = latent @ second + random.normal(0, 0.3, size=(n, LEVELS)) + 3
    measured = np.ones((n, 2), dtype=bool)
    measured[np.arange(n) % 3 == 1, 1] = False
    measured[(np.arange(n) % 5 == 3) & measured[:, 1], 0] = False
    a[~measured[:, 0]], b[~measured[:, 1]] = 0, 0
    return Pair((a, b.astype(np.float32)), measured)


def fit_side(counts, width):
    return lambda x: features.fit(x, [f"{'cr'[counts]}{i}" for i in range(width)], counts, 0)


FITS = (fit_side(True, COUNTS), fit_side(False, LEVELS))
NAMES = ("rna", "protein")


def fit(x):
    return features.fit_pair(x, NAMES, FITS)


def sparse(x):
    return Pair(tuple(sp.csr_matrix(side) for side in x.sides), x.measured)


def with_hidden(x, value):
    """Other values where nothing was measured."""
    sides = [side.copy() for side in x.sides]
    for side, there in zip(sides, x.measured.T, strict=True):
        side[~there] = value
    return Pair(tuple(sides), x.measured)


@pytest.fixture(scope="module")
def fitted_pair():
    x = measurements()
    return fit(x), x


def assert_same_features(one, other):
    for field in fields(other):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


# ---------------------------------------------------------------------------------------------------- Pair


@pytest.mark.parametrize("kind", [lambda x: x, sparse])
@pytest.mark.parametrize("rows", [np.array([5, 2, 2, 8]), slice(3, 9), slice(None, None, 2), np.arange(90) % 4 == 0])
def test_a_pair_is_indexed_by_rows(kind, rows):
    x = measurements()
    some, numbers = kind(x)[rows], np.arange(90)[rows]
    assert some.shape == (len(numbers), COUNTS + LEVELS + 2)
    assert some.widths == (COUNTS, LEVELS)
    for i, number in enumerate(numbers):
        expected = [*x.sides[0][number], *x.sides[1][number], *x.measured[number]]
        np.testing.assert_array_equal(some.toarray()[i], np.float32(expected))


def test_the_table_of_a_pair_is_float32_however_it_came():
    x = measurements()
    dense = x.toarray()
    assert dense.dtype == np.float32
    assert dense.shape == x.shape == sparse(x).shape
    assert set(np.unique(dense[:, -2:])) == {0, 1}
    mixed = Pair((sp.csr_matrix(x.sides[0]).astype(np.int64), x.sides[1].astype(np.float64)), x.measured)
    for other in (sparse(x), mixed, Pair((x.sides[0], sp.csr_array(x.sides[1])), x.measured)):
        np.testing.assert_array_equal(other.toarray(), dense)
        assert other.toarray().dtype == np.float32


@pytest.mark.parametrize("side", [0, 1])
def test_only_hides_the_other_side_and_leaves_the_pair(side):
    x = measurements()
    before = x.measured.copy()
    shown = x.only(side)
    np.testing.assert_array_equal(shown.measured[:, side], before[:, side])
    assert not shown.measured[:, 1 - side].any()
    np.testing.assert_array_equal(x.measured, before)
    assert not shown.only(1 - side).measured.any()
    assert shown.shape == x.shape


@pytest.mark.parametrize("kind", [lambda x: x, sparse])
def test_a_source_of_a_pair(fitted_pair, kind):
    contract, x = fitted_pair
    seen = kind(contract.normalise(x))
    before = seen.toarray()
    source = Memory(seen).subset(np.arange(40, 80))
    assert len(source) == 40
    rows = source.rows(np.array([7, 7, 0]))
    assert rows.dtype == torch.float32
    np.testing.assert_array_equal(rows.numpy(), before[[47, 47, 40]])
    np.testing.assert_array_equal(contract.source(x).rows(np.arange(3)).numpy(), contract.normalise(x).toarray()[:3])
    np.testing.assert_array_equal(seen.toarray(), before)
    assert source.rows(np.zeros(0, dtype=int)).shape == (0, x.shape[1])


# ---------------------------------------------------------------------------------------------------- PairFeatures


def test_each_contract_is_that_of_the_cells_that_have_it(fitted_pair):
    contract, x = fitted_pair
    for side, learn in enumerate(FITS):
        assert_same_features(contract.parts[side], learn(x.sides[side][x.measured[:, side]]))
    one, other = contract.parts
    assert contract.names == NAMES
    assert contract.genes == one.genes + other.genes
    assert contract.width == one.width + other.width == len(one.axes) + len(other.axes)


def test_the_components_of_both_have_a_mean_variance_of_1(fitted_pair):
    contract, x = fitted_pair
    scores, first = contract.pcs(x, fitted=x.measured.any(axis=1)), contract.parts[0].width
    for block, there in zip((scores[:, :first], scores[:, first:]), x.measured.T, strict=True):
        assert block[there].astype(np.float64).var(axis=0).mean() == pytest.approx(1, rel=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of PCA
def test_a_side_that_never_varies_is_no_division_by_zero():
    x = measurements()
    x = Pair((x.sides[0], np.full_like(x.sides[1], 3)), x.measured)
    contract = fit(x)
    assert contract.units[1] == 1
    scores = contract.pcs(x)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores[:, contract.parts[0].width :], 0, atol=1e-5)


def test_what_foretells_the_components_is_a_ridge_regression(fitted_pair):
    contract, x = fitted_pair
    both = x.measured.all(axis=1)
    a, b = (
        part.pcs(side[both], fitted=np.ones(both.sum(), dtype=bool)).astype(np.float64) / unit
        for part, side, unit in zip(contract.parts, x.sides, contract.units, strict=True)
    )
    for known, wanted, found in ((b, a, contract.to_first), (a, b, contract.to_second)):
        assert found.dtype == np.float32
        ridge = Ridge(alpha=RIDGE * known.size, solver="svd").fit(known, wanted)
        np.testing.assert_allclose(found[0], ridge.intercept_, atol=1e-4)
        np.testing.assert_allclose(found[1:], ridge.coef_.T, atol=1e-4)
        # least squares with one more row for each column, which asks for a weight of 0
        middle, end = known.mean(axis=0), wanted.mean(axis=0)
        stiff = np.sqrt(RIDGE * known.size) * np.eye(known.shape[1])
        nothing = np.zeros((len(stiff), wanted.shape[1]))
        weights = np.linalg.lstsq(np.vstack([known - middle, stiff]), np.vstack([wanted - end, nothing]))[0]
        np.testing.assert_allclose(found[1:], weights, atol=1e-4)
        np.testing.assert_allclose(found[0], end - middle @ weights, atol=1e-4)


def expected_scores(contract, a=None, b=None):
    """One cell, by what of it was measured."""
    one = None if a is None else contract.parts[0].pcs(a[None])[0] / contract.units[0]
    other = None if b is None else contract.parts[1].pcs(b[None])[0] / contract.units[1]
    if one is None:
        one = contract.to_first[0] + sum(value * row for value, row in zip(other, contract.to_first[1:], strict=True))
    if other is None:
        other = contract.to_second[0] + sum(value * row for value, row in zip(one, contract.to_second[1:], strict=True))
    return np.concatenate([one, other])


@pytest.mark.parametrize("kind", [lambda x: x, sparse])
def test_components_of_cells_with_both_or_one(fitted_pair, kind):
    contract, _ = fitted_pair
    x = measurements(40, seed=7)
    scores = contract.pcs(kind(x))
    assert scores.dtype == np.float32
    assert scores.shape == (40, contract.width)
    assert {tuple(row) for row in x.measured.tolist()} == {ONE, OTHER, BOTH}
    for i, there in enumerate(x.measured):
        a, b = (side[i] if known else None for side, known in zip(x.sides, there, strict=True))
        np.testing.assert_allclose(scores[i], expected_scores(contract, a, b), atol=1e-4)


def test_components_of_a_cell_do_not_hang_on_the_others(fitted_pair):
    contract, _ = fitted_pair
    x = measurements(40, seed=7)
    alone = np.concatenate([contract.pcs(x[i : i + 1]) for i in range(40)])
    np.testing.assert_allclose(alone, contract.pcs(x), atol=1e-5)
    assert contract.pcs(x[:0]).shape == (0, contract.width)


@pytest.mark.parametrize("side", [0, 1])
def test_what_is_hidden_is_foretold_and_not_read(fitted_pair, side):
    contract, x = fitted_pair
    x = x[x.measured[:, side]]
    scores, whole, first = contract.pcs(x.only(side)), contract.pcs(x), contract.parts[0].width
    mine, other = (slice(first), slice(first, None))[:: 1 if side == 0 else -1]
    np.testing.assert_array_equal(scores[:, mine], whole[:, mine])
    weights = (contract.to_second, contract.to_first)[side]
    np.testing.assert_allclose(scores[:, other], weights[0] + scores[:, mine] @ weights[1:], atol=1e-5)
    noise = Pair(tuple(v if i == side else v + 5 for i, v in enumerate(x.sides)), x.measured)
    np.testing.assert_array_equal(contract.pcs(noise.only(side)), scores)


def test_what_is_foretold_follows_the_truth(fitted_pair):
    contract, _ = fitted_pair
    x = measurements(200, seed=7)
    x, first = x[x.measured.all(axis=1)], contract.parts[0].width
    truth = contract.pcs(x)
    for side, start in ((1, 0), (0, first)):
        found = contract.pcs(x.only(side))
        for axis in range(start, start + 3):
            assert np.corrcoef(found[:, axis], truth[:, axis])[0, 1] > 0.7


@pytest.mark.parametrize("trained", [None, np.arange(90) % 2 == 0])
def test_the_encoders_see_these_components(fitted_pair, trained):
    contract, x = fitted_pair
    seen, scores = contract.normalise(x, None, trained), contract.pcs(x, None, trained)
    differs = (scores != contract.pcs(x)).any(axis=1)
    assert differs.tolist() == ([False] * 90 if trained is None else trained.tolist())
    assert seen.widths == tuple(part.width for part in contract.parts)
    np.testing.assert_array_equal(seen.measured, x.measured)
    blocks = np.split(scores, [seen.widths[0]], axis=1)
    for side, block, there in zip(seen.sides, blocks, x.measured.T, strict=True):
        assert side.dtype == np.float32
        np.testing.assert_array_equal(side[there], block[there])
    rows = seen.toarray()
    np.testing.assert_array_equal(contract.normalise(sparse(x), None, trained).toarray(), rows)


def test_the_genes_that_are_present_are_told_to_each_part(fitted_pair):
    contract, x = fitted_pair
    x = x[x.measured.all(axis=1)]
    some = {"rna": np.arange(COUNTS) % 3 > 0, "protein": np.arange(LEVELS) != 2}
    for present in (some, {"rna": some["rna"]}, {"protein": some["protein"]}, {}):
        blocks = [
            part.pcs(side, present.get(name)) / unit
            for name, part, side, unit in zip(NAMES, contract.parts, x.sides, contract.units, strict=True)
        ]
        np.testing.assert_allclose(contract.pcs(x, present), np.hstack(blocks), rtol=1e-5, atol=1e-5)
        for found, block in zip(contract.normalise(x, present).sides, blocks, strict=True):
            np.testing.assert_allclose(found, block, rtol=1e-5, atol=1e-5)
    junk = Pair(tuple(np.where(some[name], side, 99) for name, side in zip(NAMES, x.sides, strict=True)), x.measured)
    np.testing.assert_array_equal(contract.pcs(junk, some), contract.pcs(x, some))
    assert not np.allclose(contract.pcs(junk), contract.pcs(x))
    every = {name: np.ones_like(known) for name, known in some.items()}
    np.testing.assert_array_equal(contract.pcs(x, every), contract.pcs(x))


@pytest.mark.parametrize("change", [sparse, lambda x: with_hidden(x, 1e3), lambda x: sparse(with_hidden(x, 1e3))])
def test_a_contract_hangs_neither_on_what_cells_lack_nor_on_how_it_is_stored(fitted_pair, change):
    contract, x = fitted_pair
    other = fit(change(x))
    for one, same in zip(other.parts, contract.parts, strict=True):
        assert_same_features(one, same)
    for name in ("units", "to_first", "to_second"):
        np.testing.assert_array_equal(getattr(other, name), getattr(contract, name))
    np.testing.assert_array_equal(contract.pcs(change(x)), contract.pcs(x))


def test_without_a_cell_with_both_the_mean_is_foretold():
    x = measurements()
    x = x[x.measured.sum(axis=1) == 1]
    contract = fit(x)
    scores, first = contract.pcs(x), contract.parts[0].width
    np.testing.assert_allclose(scores[~x.measured[:, 0], :first], 0, atol=1e-4)
    np.testing.assert_allclose(scores[~x.measured[:, 1], first:], 0, atol=1e-4)


# ---------------------------------------------------------------------------------------------------- PairEncoder


DIM = 6


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return PairEncoder(MLP(hidden=(16, 8)), (5, 3), DIM)


def shown(n=30, seed=0, pattern=(ONE, OTHER, BOTH)):
    """Rows of a pair with 5 and 3 columns."""
    values = torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))
    flags = torch.tensor([pattern[i % len(pattern)] for i in range(n)], dtype=torch.float32)
    return torch.cat([values, flags], dim=1)


def unit(v):
    return v / v.norm()


def test_a_cell_lies_between_the_directions_of_what_was_measured(encoder):
    x = shown()
    first, second = encoder.encoders
    with torch.no_grad():
        z = encoder(x)
        for row, place in zip(x, z, strict=True):
            votes = [5 * unit(first(row[:5])), 3 * unit(second(row[5:8]))]
            total = sum(vote for vote, there in zip(votes, row[8:], strict=True) if there)
            torch.testing.assert_close(place, DIM**0.5 * unit(total))
    torch.testing.assert_close(z.norm(dim=1), torch.full((30,), DIM**0.5))


def test_how_long_the_directions_are_does_not_count(encoder):
    x = shown()
    with torch.no_grad():
        before = encoder(x)
        for parameter in encoder.encoders[0].metric_head.parameters():
            parameter.mul_(7)
        torch.testing.assert_close(encoder(x), before)


def test_a_cell_of_a_pair_does_not_hang_on_the_cells_beside_it(encoder):
    x = shown()
    with torch.no_grad():
        together, alone = encoder(x), torch.cat([encoder(row[None]) for row in x])
        order = torch.randperm(30)
        torch.testing.assert_close(encoder(x[order]), together[order])
    torch.testing.assert_close(alone, together)
    assert encoder(x[:0]).shape == (0, DIM)


def test_what_is_hidden_is_not_read(encoder):
    x = shown()
    other = x.clone()
    other[0::3, 5:8] = 1e4
    other[1::3, :5] = float("nan")
    x.requires_grad_()
    z = encoder(x)
    assert torch.equal(encoder(other), z)
    z.square().mul(torch.arange(DIM)).sum().backward()
    assert x.grad.isfinite().all()
    assert not x.grad[0::3, 5:].any()
    assert not x.grad[1::3, :5].any()
    assert x.grad[2::3, :8].any(dim=1).all()


@pytest.mark.parametrize("pattern", [(ONE, OTHER, BOTH), (ONE,), (OTHER,)])
def test_only_the_encoders_that_are_shown_something_learn(encoder, pattern):
    encoder(shown(pattern=pattern))[:, 0].sum().backward()
    for side, part in enumerate(encoder.encoders):
        slopes = [p.grad for p in part.parameters()]
        if any(flags[side] for flags in pattern):
            assert all(slope.isfinite().all() for slope in slopes)
            assert any(slope.any() for slope in slopes)
        else:
            assert all(slope is None or not slope.any() for slope in slopes)


def test_two_opposite_directions_are_no_division_by_zero():
    encoder = PairEncoder(MLP(hidden=(16, 8)), (4, 4), DIM)
    with torch.no_grad():
        for part, sign in zip(encoder.encoders, (1.0, -1.0), strict=True):
            part.metric_head.weight.zero_()
            part.metric_head.bias.copy_(sign * torch.eye(DIM)[0])
    z = encoder(shown(6, pattern=(BOTH,)))
    assert not z.any()
    z.sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_build_makes_the_encoder_of_a_table_or_of_two():
    x = measurements()
    pair = networks.build(MLP(), Memory(x).widths, 7)
    assert isinstance(pair, PairEncoder)
    assert pair.widths == (COUNTS, LEVELS)
    assert pair(torch.from_numpy(x.toarray())).shape == (90, 7)
    assert len(pair.encoders) == 2
    one = networks.build(MLP(), Memory(x.sides[0]).widths, 7)
    assert isinstance(one, Encoder)
    assert one(torch.from_numpy(x.sides[0])).shape == (90, 7)


# ---------------------------------------------------------------------------------------------------- augmentation


class Add(augment.Augmentation):
    """Add a number, and remember what was seen."""

    def __init__(self, amount):
        self.__dict__.update(amount=amount, seen=[])

    def __call__(self, x, generator, y=None):
        self.seen.append((x, y))
        return x + self.amount


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def show(x, views, seed=0, y=None, member=None):
    """Rows of the two, 5 and 3 columns, and which of them were shown."""
    changed = augment.Modalities(member or Add(100.0), (5, 3), views)(x, seeded(seed), y)
    assert changed.shape == x.shape
    assert changed.dtype == x.dtype
    assert set(changed[:, 8:].unique().tolist()) <= {0, 1}
    return changed[:, :5], changed[:, 5:8], changed[:, 8:].bool()


def test_two_views_show_a_modality_each():
    x = shown(30).repeat(2, 1)
    orders = []
    for seed in range(100):
        _, _, flags = show(x, 2, seed)
        one, other = flags[2:30:3], flags[32::3]  # cells with both
        assert (one == one[0]).all()
        assert (one.sum(dim=1) == 1).all()
        assert torch.equal(other, ~one)
        orders.append(tuple(one[0].tolist()))
        for half in (flags[:30], flags[30:]):
            assert half[0::3].tolist() == [list(ONE)] * 10
            assert half[1::3].tolist() == [list(OTHER)] * 10
    assert set(orders) == {ONE, OTHER}
    assert 30 < orders.count(ONE) < 70


def test_one_view_shows_the_one_the_other_or_both():
    x = shown(6000, pattern=(BOTH, BOTH, ONE, BOTH, OTHER, BOTH))
    _, _, flags = show(x, 1)
    both = x[:, 8:].all(dim=1)
    assert torch.equal(flags[~both], x[~both, 8:].bool())
    assert flags.any(dim=1).all()
    for pattern in (ONE, OTHER, BOTH):
        share = (flags[both] == torch.tensor(pattern)).all(dim=1).float().mean()
        assert share.item() == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize("views", [1, 2])
def test_only_what_is_shown_is_changed_and_the_rest_is_hidden(views):
    x, y, member = shown(60), torch.arange(60) % 4 - 1, Add(100.0)
    before, state = x.clone(), torch.get_rng_state()
    one, other, flags = show(x, views, 3, y, member)
    assert (flags <= x[:, 8:].bool()).all()
    assert len(member.seen) == 2
    sides = ((one, x[:, :5]), (other, x[:, 5:8]))
    for (found, given), there, (rows, codes) in zip(sides, flags.T, member.seen, strict=True):
        assert torch.equal(found[there], given[there] + 100)
        assert (found[~there] == 0).all()
        assert torch.equal(rows, given[there])
        assert torch.equal(codes, y[there])
    assert torch.equal(x, before)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("text", ["mask", "noise", "mixup", "censor", "noise + mask:p=0.3"])
def test_what_is_shown_follows_the_generator_alone(views, text):
    x, y = shown(60), torch.arange(60) % 4 - 1
    part, state, before = augment.make(text), torch.get_rng_state(), x.clone()
    changed = augment.Modalities(part, (5, 3), views)
    first, second, other = (changed(x, seeded(seed), y) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(x, before)
    assert first.isfinite().all()


def test_mixup_mixes_cells_that_show_the_same_modality():
    x, y, mixup = shown(90), torch.arange(90) % 2, augment.make("mixup:share=1")
    hidden = x.clone()
    hidden[0::3, 5:8] = -1e6
    hidden[1::3, :5] = -1e6
    for views in (1, 2):
        for one, other in zip(show(x, views, 0, y, mixup), show(hidden, views, 0, y, mixup), strict=True):
            assert torch.equal(one, other)

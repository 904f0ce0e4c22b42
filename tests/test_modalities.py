import copy
import json
import re
from dataclasses import fields, replace

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from kinds import FAST, KNOWN, cells
from safetensors import safe_open
from scipy.spatial.distance import cdist
from sklearn.linear_model import Ridge
from sklearn.metrics import f1_score
from sklearn.neighbors import NearestNeighbors

import tripletomics as tt
from tripletomics import augment, features, networks
from tripletomics.features import Pair
from tripletomics.features.pair import RIDGE
from tripletomics.labels.prediction import Prediction, predict
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
    scores, first = contract.project(x, fitted=x.measured.any(axis=1)), contract.parts[0].width
    for block, there in zip((scores[:, :first], scores[:, first:]), x.measured.T, strict=True):
        assert block[there].astype(np.float64).var(axis=0).mean() == pytest.approx(1, rel=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of PCA
def test_a_side_that_never_varies_is_no_division_by_zero():
    x = measurements()
    x = Pair((x.sides[0], np.full_like(x.sides[1], 3)), x.measured)
    contract = fit(x)
    assert contract.units[1] == 1
    scores = contract.project(x)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores[:, contract.parts[0].width :], 0, atol=1e-5)


def test_what_foretells_the_components_is_a_ridge_regression(fitted_pair):
    contract, x = fitted_pair
    both = x.measured.all(axis=1)
    a, b = (
        part.project(side[both], fitted=np.ones(both.sum(), dtype=bool)).astype(np.float64) / unit
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
    one = None if a is None else contract.parts[0].project(a[None])[0] / contract.units[0]
    other = None if b is None else contract.parts[1].project(b[None])[0] / contract.units[1]
    if one is None:
        one = contract.to_first[0] + sum(value * row for value, row in zip(other, contract.to_first[1:], strict=True))
    if other is None:
        other = contract.to_second[0] + sum(value * row for value, row in zip(one, contract.to_second[1:], strict=True))
    return np.concatenate([one, other])


@pytest.mark.parametrize("kind", [lambda x: x, sparse])
def test_components_of_cells_with_both_or_one(fitted_pair, kind):
    contract, _ = fitted_pair
    x = measurements(40, seed=7)
    scores = contract.project(kind(x))
    assert scores.dtype == np.float32
    assert scores.shape == (40, contract.width)
    assert {tuple(row) for row in x.measured.tolist()} == {ONE, OTHER, BOTH}
    for i, there in enumerate(x.measured):
        a, b = (side[i] if known else None for side, known in zip(x.sides, there, strict=True))
        np.testing.assert_allclose(scores[i], expected_scores(contract, a, b), atol=1e-4)


def test_components_of_a_cell_do_not_hang_on_the_others(fitted_pair):
    contract, _ = fitted_pair
    x = measurements(40, seed=7)
    alone = np.concatenate([contract.project(x[i : i + 1]) for i in range(40)])
    np.testing.assert_allclose(alone, contract.project(x), atol=1e-5)
    assert contract.project(x[:0]).shape == (0, contract.width)


@pytest.mark.parametrize("side", [0, 1])
def test_what_is_hidden_is_foretold_and_not_read(fitted_pair, side):
    contract, x = fitted_pair
    x = x[x.measured[:, side]]
    scores, whole, first = contract.project(x.only(side)), contract.project(x), contract.parts[0].width
    mine, other = (slice(first), slice(first, None))[:: 1 if side == 0 else -1]
    np.testing.assert_array_equal(scores[:, mine], whole[:, mine])
    weights = (contract.to_second, contract.to_first)[side]
    np.testing.assert_allclose(scores[:, other], weights[0] + scores[:, mine] @ weights[1:], atol=1e-5)
    noise = Pair(tuple(v if i == side else v + 5 for i, v in enumerate(x.sides)), x.measured)
    np.testing.assert_array_equal(contract.project(noise.only(side)), scores)


def test_what_is_foretold_follows_the_truth(fitted_pair):
    contract, _ = fitted_pair
    x = measurements(200, seed=7)
    x, first = x[x.measured.all(axis=1)], contract.parts[0].width
    truth = contract.project(x)
    for side, start in ((1, 0), (0, first)):
        found = contract.project(x.only(side))
        for axis in range(start, start + 3):
            assert np.corrcoef(found[:, axis], truth[:, axis])[0, 1] > 0.7


@pytest.mark.parametrize("trained", [None, np.arange(90) % 2 == 0])
def test_the_encoders_see_these_components(fitted_pair, trained):
    contract, x = fitted_pair
    seen, scores = contract.normalise(x, None, trained), contract.project(x, None, trained)
    differs = (scores != contract.project(x)).any(axis=1)
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
            part.project(side, present.get(name)) / unit
            for name, part, side, unit in zip(NAMES, contract.parts, x.sides, contract.units, strict=True)
        ]
        np.testing.assert_allclose(contract.project(x, present), np.hstack(blocks), rtol=1e-5, atol=1e-5)
        for found, block in zip(contract.normalise(x, present).sides, blocks, strict=True):
            np.testing.assert_allclose(found, block, rtol=1e-5, atol=1e-5)
    junk = Pair(tuple(np.where(some[name], side, 99) for name, side in zip(NAMES, x.sides, strict=True)), x.measured)
    np.testing.assert_array_equal(contract.project(junk, some), contract.project(x, some))
    assert not np.allclose(contract.project(junk), contract.project(x))
    every = {name: np.ones_like(known) for name, known in some.items()}
    np.testing.assert_array_equal(contract.project(x, every), contract.project(x))


@pytest.mark.parametrize("change", [sparse, lambda x: with_hidden(x, 1e3), lambda x: sparse(with_hidden(x, 1e3))])
def test_a_contract_hangs_neither_on_what_cells_lack_nor_on_how_it_is_stored(fitted_pair, change):
    contract, x = fitted_pair
    other = fit(change(x))
    for one, same in zip(other.parts, contract.parts, strict=True):
        assert_same_features(one, same)
    for name in ("units", "to_first", "to_second"):
        np.testing.assert_array_equal(getattr(other, name), getattr(contract, name))
    np.testing.assert_array_equal(contract.project(change(x)), contract.project(x))


def test_without_a_cell_with_both_the_mean_is_foretold():
    x = measurements()
    x = x[x.measured.sum(axis=1) == 1]
    contract = fit(x)
    scores, first = contract.project(x), contract.parts[0].width
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


# ---------------------------------------------------------------------------------------------------- Prediction


@pytest.mark.parametrize("rows", [np.array([3, 0, 3]), slice(1, 4), np.array([True, False, True, False, True])])
def test_some_of_the_predictions(rows):
    found = Prediction(
        np.arange(5), np.arange(5) / 10, np.arange(5) / 20, np.arange(5) > 2, np.arange(10).reshape(5, 2) % 3 == 0
    )
    for field in fields(Prediction):
        whole = getattr(found, field.name)
        expected = [whole[i] for i in np.arange(5)[rows]]
        np.testing.assert_array_equal(getattr(found[rows], field.name), expected)
    assert found[rows].sets.shape[1] == 2


# ---------------------------------------------------------------------------------------------------- a fitted model


def two_tables(n, seed, lacking=0):
    """RNA, and 12 proteins that follow the type and the RNA; the last cells lack proteins, the first ones RNA."""
    rna, random, shape = cells(n, seed), np.random.default_rng(seed), np.random.default_rng(5)
    kinds = rna.obs["kind"].map(list(KNOWN).index).to_numpy()
    levels = shape.normal(0, 1, size=(7, 12))[kinds] + np.log1p(rna.X.toarray()) @ shape.normal(0, 0.07, size=(150, 12))
    levels += random.normal(0, 0.8, size=levels.shape)
    protein = ad.AnnData(levels.astype(np.float32), obs=rna.obs.copy())
    protein.var_names = [f"Protein{i}" for i in range(12)]
    return rna[: n - lacking].copy(), protein[lacking:].copy()


@pytest.fixture(scope="module")
def paired():
    rna, protein = two_tables(330, 1, lacking=30)
    return tt.fit((rna, protein), "kind", **FAST), rna, protein


@pytest.fixture(scope="module")
def arrays():
    """New cells with both, by the model's features."""
    rna, protein = two_tables(60, 2)
    return {"rna": rna.X, "protein": protein.X}


def order(model, arrays):
    """Bring columns to the order of the model's features, whose names end in their numbers."""
    return {
        name: arrays[name][:, [int(re.sub(r"\D", "", gene)) for gene in part.genes]]
        for name, part in zip(model.features.names, model.features.parts, strict=True)
        if name in arrays
    }


@pytest.fixture(scope="module")
def given(paired, arrays):
    return order(paired[0], arrays)


def mixed(model, given):
    """Every cell by the first, the second, or both, in turn."""
    table = model.table(**given)
    flags = np.array([(ONE, OTHER, BOTH)[i % 3] for i in range(table.shape[0])])
    return Pair(table.sides, flags)


def assert_same_predictions(one, other, rows=slice(None), **tolerance):
    for field in fields(Prediction):
        found, expected = getattr(one, field.name), getattr(other[rows], field.name)
        if expected.dtype == float:
            np.testing.assert_allclose(found, expected, **(tolerance or {"rtol": 1e-4, "atol": 1e-5}))
        else:
            np.testing.assert_array_equal(found, expected)


def test_the_model_knows_its_modalities(paired):
    model, rna, protein = paired
    assert model.modalities == NAMES
    assert repr(model) == "<tripletomics.Model: 150 rna and 12 protein, 7 types, loss=softmax + clip>"
    assert model.settings["modalities"] == "rna, protein"
    assert model.settings["counts"] == "True, False"
    assert sorted(model.features.parts[0].genes) == sorted(rna.var_names)
    assert sorted(model.features.parts[1].genes) == sorted(protein.var_names)
    assert set(model.alone) == set(NAMES)


def test_two_modalities_in_arrays_out(paired, given):
    model = paired[0]
    for names in (["rna"], ["protein"], ["rna", "protein"]):
        some = {name: given[name] for name in names}
        z, m = model.place(**some)
        assert z.dtype == m.dtype == np.float32
        assert z.shape == (60, 32)
        assert m.shape == (60, 2)
        np.testing.assert_array_equal(model.embed(**some), z)
        np.testing.assert_array_equal(model.map(**some), m)
        np.testing.assert_array_equal(model.embed(model.table(**some)), z)
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 32**0.5, rtol=1e-5)
        turned = {name: sp.csr_matrix(x) if name == "protein" else x.toarray() for name, x in some.items()}
        np.testing.assert_allclose(model.embed(**turned), z, atol=1e-4)
        np.testing.assert_allclose(model.map(**turned), m, atol=1e-4)
        np.testing.assert_allclose(model.embed(**{name: x[5:8] for name, x in some.items()}), z[5:8], atol=1e-4)
        assert model.embed(**{name: x[:0] for name, x in some.items()}).shape == (0, 32)
        assert model.map(**{name: x[:0] for name, x in some.items()}).shape == (0, 2)


def test_a_cell_with_both_lies_between_its_places_by_each(paired, given):
    model = paired[0]
    a, b = (model.embed(**{name: x}) for name, x in given.items())
    middle = sum(part.width * z for part, z in zip(model.features.parts, (a, b), strict=True))
    expected = middle / np.linalg.norm(middle, axis=1, keepdims=True) * 32**0.5
    np.testing.assert_allclose(model.embed(**given), expected, atol=1e-4)
    assert np.linalg.norm(a - b, axis=1).min() > 0.01


def test_fit_writes_where_the_model_places_a_cell_by_all_that_it_has(paired):
    model, rna, protein = paired
    x = order(model, {"rna": rna.X, "protein": protein.X})
    both = rna.obs_names.isin(protein.obs_names)
    assert both.sum() == 270
    z, m = model.place(rna=x["rna"][both], protein=x["protein"][protein.obs_names.isin(rna.obs_names)])
    for adata, shared in ((rna, both), (protein, protein.obs_names.isin(rna.obs_names))):
        np.testing.assert_allclose(adata.obsm["X_tt_metric"][shared], z, atol=1e-4)
        np.testing.assert_allclose(adata.obsm["X_tt"][shared], m, atol=1e-4)
    for adata, name, other in ((rna, "rna", protein), (protein, "protein", rna)):
        alone = ~adata.obs_names.isin(other.obs_names)
        assert alone.sum() == 30
        np.testing.assert_allclose(adata.obsm["X_tt_metric"][alone], model.embed(**{name: x[name][alone]}), atol=1e-4)


def test_every_row_of_a_mixed_table_lies_as_if_asked_alone(paired, given):
    model = paired[0]
    z, m = model.place(mixed(model, given))
    ways = ({"rna": given["rna"]}, {"protein": given["protein"]}, given)
    for i, way in enumerate(ways):
        some = {name: x[i::3] for name, x in way.items()}
        np.testing.assert_allclose(z[i::3], model.embed(**some), atol=1e-4)
        np.testing.assert_allclose(m[i::3], model.map(**some), atol=1e-4)


def test_table_puts_the_arrays_together(paired, given):
    model = paired[0]
    both = model.table(**given)
    assert both.widths == (150, 12)
    np.testing.assert_array_equal(
        both.toarray(), np.hstack([given["rna"].toarray(), given["protein"], np.ones((60, 2))])
    )
    one = model.table(protein=given["protein"])
    np.testing.assert_array_equal(
        one.toarray(), np.hstack([np.zeros((60, 150)), given["protein"], np.zeros((60, 1)), np.ones((60, 1))])
    )


def test_genes_that_are_not_present_are_told_by_modality(paired, given):
    model = paired[0]
    x = {"rna": given["rna"].toarray(), "protein": given["protein"].copy()}
    present = {"rna": np.arange(150) % 3 > 0, "protein": np.arange(12) != 4}
    every = {name: np.ones_like(known) for name, known in present.items()}
    np.testing.assert_array_equal(model.embed(**x, present=every), model.embed(**x))
    z, m = model.place(**x, present=present)
    assert not np.allclose(z, model.embed(**x))
    for name, known in present.items():
        x[name][:, ~known] = np.nan
    np.testing.assert_array_equal(model.embed(**x, present=present), z)
    np.testing.assert_array_equal(model.map(**x, present=present), m)
    assert np.isfinite(m).all()
    only = model.embed(rna=x["rna"], present={"rna": present["rna"]})
    np.testing.assert_array_equal(model.embed(rna=x["rna"], present=present), only)


@pytest.mark.parametrize("name", NAMES)
def test_present_by_modality_is_a_truth_for_each_gene(paired, given, name):
    n = len(paired[0].part(name).genes)
    message = f"present is bool of shape (5,): pass True or False for each of {name}'s {n} genes."
    with pytest.raises(ValueError, match=re.escape(message)):
        paired[0].embed(**given, present={name: np.ones(5, dtype=bool)})


@pytest.mark.parametrize("present", [np.ones(150, dtype=bool), {"rnaa": np.ones(150, dtype=bool)}])
def test_present_says_of_which_modality(paired, given, present):
    with pytest.raises((TypeError, ValueError), match=r"rna.*protein"):
        paired[0].embed(**given, present=present)


UNKNOWN = "is not a modality of this model: pass rna=, protein=, or both."
WHICH = "This model has two modalities: say which x is, as in embed(rna=x) or embed(protein=x)."


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda m, rna, protein: m.embed(rna=rna, adt=protein), f"'adt' {UNKNOWN}"),
        (lambda m, rna, protein: m.map(RNA=rna), f"'RNA' {UNKNOWN}"),
        (lambda m, rna, protein: m.table(), "No modality was given: pass rna=, protein=, or both."),
        (lambda m, rna, protein: m.embed(), WHICH),
        (lambda m, rna, protein: m.place(rna), WHICH),
        (lambda m, rna, protein: m.predict(protein), WHICH),
        (lambda m, rna, protein: m.search(protein, 3), WHICH),
        (lambda m, rna, protein: m.same(rna, rna), "This model has two modalities"),
        (lambda m, rna, protein: m.enroll(rna, ["new"] * 60), "This model has two modalities"),
        (lambda m, rna, protein: m.embed(rna, rna=rna), "Pass x or rna, not both."),
        (lambda m, rna, protein: m.place(m.table(rna=rna), protein=protein), "Pass x or protein, not both."),
        (lambda m, rna, protein: m.embed(rna=rna.toarray().tolist()), "rna is list, not an array"),
        (lambda m, rna, protein: m.embed(protein=ad.AnnData(protein)), "protein is AnnData, not an array"),
    ],
)
def test_what_is_given_has_the_name_of_a_modality(paired, given, wrong, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        wrong(paired[0], **given)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda m, rna, protein: m.embed(rna=protein), "rna has shape (60, 12): pass cells by rna's 150 genes"),
        (
            lambda m, rna, protein: m.embed(rna=rna, protein=protein[0]),
            "pass cells by protein's 12 genes, in the order",
        ),
        (lambda m, rna, protein: m.embed(rna=rna[:9], protein=protein), "got 9 of rna and 60 of protein."),
        (lambda m, rna, protein: m.gene_weights(), "modality=None is not one of this model: rna, protein."),
        (lambda m, rna, protein: m.gene_weights("RNA"), "modality='RNA' is not one of this model: rna, protein."),
        (lambda m, rna, protein: m.part("adt"), "modality='adt' is not one of this model: rna, protein."),
    ],
)
def test_what_is_given_has_the_shape_of_a_modality(paired, given, wrong, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        wrong(paired[0], **given)


def test_a_model_of_one_modality_takes_one_array(trained, new_cells):
    model, x = trained[0], new_cells.X[:5]
    for wrong in (lambda: model.embed(rna=x), lambda: model.predict(rna=x), lambda: model.table(x=x)):
        with pytest.raises(TypeError, match=re.escape("one modality: pass its array alone, as in embed(x).")):
            wrong()
    with pytest.raises(TypeError, match="Pass x or rna, not both"):
        model.embed(x, rna=x)
    with pytest.raises(TypeError, match="x is Pair, not an array"):
        model.embed(Pair((x, x), np.ones((5, 2), dtype=bool)))
    assert model.modalities == ()
    assert model.alone == {}
    assert model.matches == {}
    assert model.part() is model.features


@pytest.mark.parametrize("where", [{"cite": "a", "rna": "b"}, {"cite": "a", "rna": "b", "protein": "c"}])
def test_cells_with_both_may_all_be_of_one_batch(where):
    rna, protein = two_tables(240, 1, lacking=80 if "protein" in where else 0)
    protein = protein[:160].copy()
    for adata, other, alone in ((rna, protein, "rna"), (protein, rna, "protein")):
        adata.obs["batch"] = [where["cite" if name in other.obs_names else alone] for name in adata.obs_names]
    model = tt.fit((rna, protein), "kind", batch="batch", steps=5, progress=False)
    assert np.isfinite(rna.obsm["X_tt_metric"]).all()
    assert model.calibration is not None


# ---------------------------------------------------------------------------------------------------- predict


@pytest.mark.parametrize("names", [["rna"], ["protein"], ["rna", "protein"]])
def test_predictions_weigh_the_evidence_as_calibrated_for_what_was_measured(paired, given, names):
    model, some = paired[0], {name: given[name] for name in names}
    found, z, m = model.predict(**some, reject=0.2, coverage=0.8)
    np.testing.assert_array_equal(z, model.embed(**some))
    np.testing.assert_array_equal(m, model.map(**some))
    calibration = model.calibration if len(names) == 2 else model.alone[names[0]].calibration
    evidence = model.reference.evidence(z, model.features.project(model.table(**some)))
    assert_same_predictions(found, predict(evidence, calibration, 0.2, 0.8), rtol=0, atol=0)


def test_every_row_of_a_mixed_table_is_named_as_if_asked_alone(paired, given):
    model = paired[0]
    table = mixed(model, given)
    found, z, m = model.predict(table)
    np.testing.assert_array_equal(z, model.embed(table))
    np.testing.assert_array_equal(m, model.map(table))
    assert found.sets.shape == (60, 7)
    for i, way in enumerate(({"rna": given["rna"]}, {"protein": given["protein"]}, given)):
        assert_same_predictions(found[np.arange(i, 60, 3)], model.predict(**way)[0], slice(i, None, 3))
    turn = np.random.default_rng(0).permutation(60)
    assert_same_predictions(model.predict(table[turn])[0], found, turn)


def test_blocks_of_cells_do_not_show(paired, given, monkeypatch):
    model, table = paired[0], mixed(paired[0], given)
    whole = model.predict(table)[0]
    monkeypatch.setattr("tripletomics.model.model.BLOCK", 7)
    assert_same_predictions(model.predict(table)[0], whole)


@pytest.mark.parametrize("name", NAMES)
def test_a_calibration_of_one_modality_moves_no_other_cell(paired, given, name):
    model, table = paired[0], mixed(paired[0], given)
    side, before = model.alone[name], model.predict(table)[0]
    other = replace(side.calibration, weights=side.calibration.weights * 0.1)
    changed = replace(model, alone=model.alone | {name: replace(side, calibration=other)}).predict(table)[0]
    mine = np.arange(60) % 3 == NAMES.index(name)
    assert_same_predictions(changed[~mine], before, ~mine, rtol=0, atol=0)
    assert (changed.confidence[mine] < before.confidence[mine]).mean() > 0.9


def test_a_modality_that_could_not_be_calibrated_says_so(paired, given):
    model = paired[0]
    model = replace(model, alone=model.alone | {"rna": replace(model.alone["rna"], calibration=None)})
    for ask in (lambda: model.predict(rna=given["rna"]), lambda: model.predict(mixed(model, given))):
        with pytest.raises(ValueError, match="could not be calibrated"):
            ask()
    assert len(model.predict(protein=given["protein"])[0].codes) == 60
    assert len(model.predict(**given)[0].codes) == 60
    for wrong, message in (({"reject": 1}, "reject=1"), ({"coverage": 0}, "coverage=0")):
        with pytest.raises(ValueError, match=message):
            model.predict(protein=given["protein"], **wrong)


@pytest.mark.parametrize("names", [["rna"], ["protein"], ["rna", "protein"]])
def test_no_cells_get_no_predictions(paired, given, names):
    found, z, m = paired[0].predict(**{name: given[name][:0] for name in names})
    assert found.codes.shape == (0,)
    assert found.sets.shape == (0, 7)
    assert z.shape == (0, 32)
    assert m.shape == (0, 2)


def held_out(paired, name):
    model, rna, protein = paired
    adata = {"rna": rna, "protein": protein}[name]
    rows = (adata.obs["tt_split"] == "held-out").to_numpy()
    return order(model, {name: adata.X[rows]})[name], adata.obs["kind"].to_numpy()[rows], adata.obs_names[rows]


@pytest.mark.parametrize("name", NAMES)
def test_how_a_modality_alone_does_is_counted_on_its_held_out_cells(paired, name):
    model = paired[0]
    x, kinds, _ = held_out(paired, name)
    found, checks = model.predict(**{name: x})[0], model.alone[name].checks
    codes = np.array([model.classes.index(kind) for kind in kinds])
    assert checks["cells"] == len(codes) > 20
    assert checks["macro_f1"] == pytest.approx(f1_score(codes, found.codes, average="macro"))
    assert checks["coverage"] == pytest.approx(
        np.mean([row[code] for row, code in zip(found.sets, codes, strict=True)])
    )
    assert checks["set_size"] == pytest.approx(found.sets.sum() / len(codes))
    assert checks["unassigned"] == pytest.approx(found.unassigned.mean())
    assert f"  by {name:<11} {'':>6} {checks['macro_f1']:>7.3f}   " in model.summary()


def test_how_often_a_cell_finds_itself_across_modalities(paired):
    model = paired[0]
    (a, _, names), (b, _, others) = (held_out(paired, name) for name in NAMES)
    shared = names.intersection(others)
    a, b = model.embed(rna=a[names.get_indexer(shared)]), model.embed(protein=b[others.get_indexer(shared)])
    d = cdist(a, b)
    assert model.matches["cells"] == len(shared) > 20
    for k in (1, 10, 50):
        ways = [np.mean([(row < row[i]).sum() < k for i, row in enumerate(way)]) for way in (d, d.T)]
        assert model.matches[f"recall_{k}"] == pytest.approx(np.mean(ways))
        assert model.matches[f"null_{k}"] == pytest.approx(min(k / len(shared), 1))
    found = f"{model.matches['recall_10']:>7.3f}   of {len(shared)} held-out cells by rna, found among the 10 nearest"
    assert found in model.summary()
    assert f"by chance {10 / len(shared):.3f}" in model.summary()


# ---------------------------------------------------------------------------------------------------- what else it does


@pytest.mark.parametrize("names", [["rna"], ["protein"], ["rna", "protein"]])
def test_search_by_one_or_both(paired, given, names):
    model, rna, protein = paired
    some = {name: given[name] for name in names}
    everyone = ad.concat([rna, protein[~protein.obs_names.isin(rna.obs_names)]], join="inner")
    train = everyone[everyone.obs["tt_split"] == "train"]
    index = NearestNeighbors(n_neighbors=4, algorithm="brute").fit(train.obsm["X_tt_metric"])
    d, rows = index.kneighbors(model.embed(**some))
    for hits in (model.search(k=4, **some), model.search(model.table(**some), 4)):
        assert hits.names.tolist() == train.obs_names.to_numpy()[rows].tolist()
        assert hits.labels.tolist() == train.obs["kind"].to_numpy()[rows].tolist()
        np.testing.assert_allclose(hits.distances, d, rtol=1e-3, atol=1e-4)


def test_a_training_cell_with_both_finds_itself_first(paired):
    model, rna, protein = paired
    shared = rna.obs_names[rna.obs["tt_split"] == "train"].intersection(protein.obs_names)
    hits = model.search(k=1, **order(model, {"rna": rna[shared].X, "protein": protein[shared].X}))
    assert hits.names[:, 0].tolist() == shared.tolist()
    np.testing.assert_allclose(hits.distances, 0, atol=1e-3)


def new_type(model, names, n=8):
    rna = cells(n, 9, "h")
    levels = 4 + np.random.default_rng(9).normal(0, 0.3, size=(n, 12)).astype(np.float32)
    return order(model, {name: x for name, x in (("rna", rna.X), ("protein", levels)) if name in names})


@pytest.mark.parametrize("names", [["rna"], ["protein"], ["rna", "protein"]])
def test_a_type_is_enrolled_by_one_or_both(paired, given, names):
    model = replace(paired[0])
    x = new_type(model, names)
    z, m = model.place(**x)
    model.enroll(model.table(**x), ["h"] * 8)
    assert model.types == [*KNOWN, "h"]
    assert paired[0].types == list(KNOWN)
    np.testing.assert_allclose(model.reference.z[-8:], z, atol=1e-5)
    np.testing.assert_allclose(model.reference.map[-8:], m, atol=1e-5)
    np.testing.assert_allclose(model.reference.prototypes[-1], z.mean(axis=0), atol=1e-4)
    found = model.predict(**x)[0]
    assert found.sets.shape == (8, 8)
    assert (found.codes == 7).all()
    assert (model.predict(**given)[0].codes != 7).mean() > 0.9
    with pytest.raises(ValueError, match=r"3 names for 8 cells"):
        model.enroll(model.table(**x), ["i"] * 3)


def test_whether_two_cells_are_of_one_type(paired, given):
    model, kinds = paired[0], cells(60, 2).obs["kind"].to_numpy()
    a, b = np.random.default_rng(0).integers(60, size=(2, 200))
    table = model.table(**given)
    p = model.same(table[a], table[b])
    assert p.shape == (200,)
    np.testing.assert_allclose(model.same(table[b], table[a]), p, rtol=1e-5)
    assert p[kinds[a] == kinds[b]].mean() > p[kinds[a] != kinds[b]].mean() + 0.3
    x = model.features.project(table)
    evidence = model.reference.evidence(model.embed(table), x)
    np.testing.assert_allclose(p, model.calibration.same(evidence.of(a), evidence.of(b)), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="pass one cell in each for every pair"):
        model.same(table[a], table[b[:9]])
    across = model.same(model.table(rna=given["rna"]), model.table(protein=given["protein"]))
    apart = model.same(model.table(rna=given["rna"]), model.table(protein=np.roll(given["protein"], 1, axis=0)))
    assert np.isfinite(across).all()
    assert across.mean() > apart[kinds != np.roll(kinds, 1)].mean()


@pytest.mark.parametrize("name", NAMES)
def test_gene_weights_are_those_of_one_modality(paired, name):
    model, side = paired[0], NAMES.index(name)
    weights, part, other = model.gene_weights(name), model.part(name), NAMES[1 - side]
    assert part is model.features.parts[side]
    assert weights.shape == (len(part.genes),)
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0).all()
    kept = np.arange(len(weights)) != 3  # a gene that reaches no component weighs nothing
    seen = model.features.seen
    changed_parts = [replace(p, axes=p.axes * kept) if p is seen.parts[side] else p for p in seen.parts]
    changed = replace(model, features=replace(model.features, seen=replace(seen, parts=tuple(changed_parts))))
    np.testing.assert_allclose(changed.gene_weights(name), weights * kept / weights[kept].sum())
    np.testing.assert_array_equal(changed.gene_weights(other), model.gene_weights(other))
    changed = replace(model, networks=copy.deepcopy(model.networks))
    with torch.no_grad():
        changed.networks.encoder.encoders[side].trunk[0].weight[:, 0] = 0
    assert not np.allclose(changed.gene_weights(name), weights)
    np.testing.assert_array_equal(changed.gene_weights(other), model.gene_weights(other))


def test_gene_weights_are_how_far_a_gene_moves_the_first_layer(paired):
    model, _, protein = paired
    train = (protein.obs["tt_split"] == "train").to_numpy()
    x = order(model, {"protein": protein.X[train]})["protein"]
    layer, found = model.networks.encoder.encoders[1].trunk[0], []
    with torch.no_grad():
        for gene in range(12):
            alone = np.tile(x.mean(axis=0), (len(x), 1))
            alone[:, gene] = x[:, gene]
            seen = model.features.normalise(model.table(protein=alone)).sides[1]
            found.append(layer(torch.from_numpy(seen)).var(dim=0, correction=0).sum().sqrt().item())
    np.testing.assert_allclose(model.gene_weights("protein"), np.array(found) / np.sum(found), rtol=1e-3)


def test_the_summary_and_the_record_of_two_modalities(paired, trained):
    model, rna, protein = paired
    lines = model.summary().split("\n")
    starts = ["15-NN macro-F1", "held-out cells", "permuted labels", "training cells", "predict", "  by rna",
              "  by protein", "same cell"]  # fmt: skip
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=False)] == starts
    bare = replace(model, alone={}, matches={})
    assert not re.search(r"  by |same cell", bare.summary())
    assert not re.search(r"  by |same cell", trained[0].summary())
    record = model.record()
    assert record["alone"] == {name: model.alone[name].checks for name in NAMES}
    assert record["matches"] == model.matches
    plain = trained[0].record()
    assert set(record) - set(plain) == {"alone", "matches"}
    assert set(plain) <= set(record)
    for adata in (rna, protein):
        assert set(adata.uns["X_tt"]) == set(record)
        assert adata.uns["X_tt"]["matches"] == model.matches
        assert adata.uns["X_tt"]["settings"]["modalities"] == "rna, protein"
    assert rna.uns["X_tt"] is not protein.uns["X_tt"]


def test_the_record_of_two_modalities_survives_a_file(paired, tmp_path):
    model, _, protein = paired
    protein.write_h5ad(tmp_path / "protein.h5ad")
    record = ad.read_h5ad(tmp_path / "protein.h5ad").uns["X_tt"]
    for name, side in model.alone.items():
        assert {key: float(value) for key, value in record["alone"][name].items()} == side.checks
    assert {key: float(value) for key, value in record["matches"].items()} == model.matches


# ---------------------------------------------------------------------------------------------------- its file


@pytest.fixture(scope="module")
def loaded(paired, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "pair.tt"
    paired[0].save(path, index=True)
    return tt.load(path), path


def test_a_file_of_two_modalities_places_and_names_exactly_as_before(paired, given, loaded):
    model, again = paired[0], loaded[0]
    present = {"rna": np.arange(150) % 3 > 0, "protein": np.arange(12) != 4}
    ways = ({"rna": given["rna"]}, {"protein": given["protein"]}, given, {"x": mixed(model, given)})
    for way in ways:
        for known in (None, present):
            np.testing.assert_array_equal(again.embed(**way, present=known), model.embed(**way, present=known))
            np.testing.assert_array_equal(again.map(**way, present=known), model.map(**way, present=known))
        assert_same_predictions(again.predict(**way)[0], model.predict(**way)[0], rtol=0, atol=0)
        for one, other in zip(again.search(k=5, **way), model.search(k=5, **way), strict=True):
            np.testing.assert_array_equal(one, other)
    for name in NAMES:
        np.testing.assert_array_equal(again.gene_weights(name), model.gene_weights(name))


def test_a_file_of_two_modalities_keeps_everything(paired, loaded):
    model, again = paired[0], loaded[0]
    for name in ("modalities", "classes", "settings", "scores", "p_value", "seconds", "versions", "checks", "matches"):
        assert getattr(again, name) == getattr(model, name), name
    assert list(again.alone) == list(model.alone)
    for name, side in model.alone.items():
        assert again.alone[name].checks == side.checks
        assert_same_features(again.alone[name].calibration, side.calibration)
    assert_same_features(again.calibration, model.calibration)
    assert again.features.names == model.features.names
    for one, other in zip(again.features.parts, model.features.parts, strict=True):
        assert_same_features(one, other)
    for name in ("units", "to_first", "to_second"):
        np.testing.assert_array_equal(getattr(again.features, name), getattr(model.features, name))
        assert getattr(again.features, name).dtype == np.float32
    assert again.summary() == model.summary()
    assert repr(again) == repr(model)


def test_a_file_of_two_modalities_is_written_again(paired, given, loaded, tmp_path):
    model, path = paired[0], tmp_path / "again.tt"
    loaded[0].save(path, index=True)
    again = tt.load(path)
    np.testing.assert_array_equal(again.embed(**given), model.embed(**given))
    assert again.record()["matches"] == model.matches
    with safe_open(path, framework="pt") as one, safe_open(loaded[1], framework="pt") as other:
        assert set(one.keys()) == set(other.keys())
        assert json.loads(one.metadata()["tripletomics"]) == json.loads(other.metadata()["tripletomics"])


def test_a_file_of_two_modalities_holds_no_expression(paired, loaded, tmp_path):
    model, rna, _ = paired
    path = tmp_path / "plain.tt"
    model.save(path)
    sizes = {330, 300, 270, 240} | {len(model.catalog.names), len(model.reference.z)}
    with safe_open(path, framework="pt") as file:
        shapes = {name: tuple(file.get_tensor(name).shape) for name in file.keys()}  # noqa: SIM118
    of_cells = {name for name, shape in shapes.items() if sizes & {*shape}}
    assert of_cells == {"reference.z", "reference.map", "reference.codes"}
    assert not any(name.encode() in path.read_bytes() for name in rna.obs_names[:20])


def test_an_enrolled_type_and_a_missing_calibration_are_kept(paired, given, tmp_path):
    model = replace(paired[0], alone=paired[0].alone | {"rna": replace(paired[0].alone["rna"], calibration=None)})
    model.enroll(model.table(**new_type(model, NAMES)), ["h"] * 8)
    model.save(tmp_path / "m.tt")
    again = tt.load(tmp_path / "m.tt")
    assert again.types == [*KNOWN, "h"]
    assert again.alone["rna"].calibration is None
    assert_same_features(again.alone["protein"].calibration, model.alone["protein"].calibration)
    assert_same_predictions(again.predict(**given)[0], model.predict(**given)[0], rtol=0, atol=0)


def test_a_file_of_one_modality_still_loads(trained, new_cells, tmp_path):
    model = trained[0]
    model.save(tmp_path / "m.tt")
    again = tt.load(tmp_path / "m.tt")
    assert again.modalities == ()
    assert again.alone == {}
    assert again.matches == {}
    assert isinstance(again.networks.encoder, Encoder)
    np.testing.assert_array_equal(again.embed(new_cells.X), model.embed(new_cells.X))
    assert_same_predictions(again.predict(new_cells.X)[0], model.predict(new_cells.X)[0], rtol=0, atol=0)
    assert again.record().keys() == model.record().keys() - {"n_train"}  # which the index counts
    assert "modalities" not in again.settings

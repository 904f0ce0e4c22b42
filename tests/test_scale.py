"""What a large table takes: rows as they are asked for, sums over stored values alone, and a part of the cells."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from samples import make_cells

import tripletomics as tt
from tripletomics import features, folds, scales
from tripletomics.embedding import embed_rows
from tripletomics.folds import subsample_for_features
from tripletomics.labels import reference
from tripletomics.model import scoring
from tripletomics.networks import MLP, Encoder
from tripletomics.samplers import CELLS_PER_TYPE, MAX_CELLS, subsample_per_type


def few_values(n, genes=150, seed=0, share=0.05):
    """Counts of which few are not 0."""
    random = np.random.default_rng(seed)
    return sp.csr_matrix((random.random((n, genes)) < share) * random.poisson(2.0, (n, genes)), dtype=np.float32)


@pytest.mark.parametrize("present", [None, np.arange(150) % 3 > 0], ids=["all", "some"])
def test_sparse_rows_are_placed_as_dense_ones(present):
    x = few_values(5000)
    contract = features.fit(x[:500], [f"g{i}" for i in range(150)], counts=True, seed=0)
    torch.manual_seed(0)
    encoder = Encoder(MLP((16, 8)), 150, 4)
    source = contract.source(x, present)
    assert source.sparse
    found = embed_rows(encoder, source, torch.device("cpu"))
    with torch.no_grad():
        wanted = encoder(source.rows(slice(None)))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embed_rows(encoder, source.subset(np.array([7, 3])), torch.device("cpu")), found[[7, 3]])


def test_rows_are_treated_alike_however_many_are_asked_for():
    x = few_values(300)
    contract = features.fit(x, [f"g{i}" for i in range(150)], counts=True, seed=0)
    whole = contract.standardise(contract.normalise(x).toarray())
    rows = np.random.default_rng(0).permutation(300)[:40]
    np.testing.assert_array_equal(contract.source(x).rows(rows).numpy(), whole[rows])
    np.testing.assert_array_equal(contract.source(x.tocoo()).rows(rows).numpy(), whole[rows])


def test_components_do_not_hang_on_the_size_of_a_block(monkeypatch):
    x = few_values(300)
    contract = features.fit(x, [f"g{i}" for i in range(150)], counts=True, seed=0)
    whole = contract.pcs(x)
    monkeypatch.setattr("tripletomics.features.single.BLOCK", 70)
    np.testing.assert_allclose(contract.pcs(x), whole, atol=1e-5)


def test_all_columns_in_order_are_no_copy():
    x = few_values(30)
    assert features.take(x, np.arange(150)) is x
    np.testing.assert_array_equal(features.take(x, np.arange(150)[::-1]).toarray(), x.toarray()[:, ::-1])


def test_whole_numbers_are_told_block_by_block():
    values = np.ones(2**20 + 5)
    assert scales.whole(values)
    values[-1] = 0.5
    assert not scales.whole(values)
    assert scales.whole(values[:0])


def test_cells_whose_neighbours_are_looked_for():
    random = np.random.default_rng(0)
    n = MAX_CELLS + 8000
    y = np.where(random.random(n) < 0.003, 1, 0)
    y[:50], y[50:60] = 2, -1
    rows = subsample_per_type(y, 0)
    assert (np.diff(rows) > 0).all()
    assert MAX_CELLS <= len(rows) <= MAX_CELLS + 2 * CELLS_PER_TYPE + 50
    assert np.bincount(y[rows][y[rows] >= 0]).tolist()[2] == 50
    assert (y[rows] == 1).sum() >= min(CELLS_PER_TYPE, (y == 1).sum())
    np.testing.assert_array_equal(subsample_per_type(y, 0), rows)
    assert not np.array_equal(subsample_per_type(y, 1), rows)
    assert len(subsample_per_type(np.full(n, -1), 0)) == MAX_CELLS
    np.testing.assert_array_equal(subsample_per_type(y[:MAX_CELLS], 0), np.arange(MAX_CELLS))


def test_cells_that_a_contract_is_fitted_to(monkeypatch):
    train = np.arange(1000) % 3 > 0
    np.testing.assert_array_equal(subsample_for_features(train, 0), train)
    monkeypatch.setattr(folds, "FEATURE_CELLS", 200)
    drawn = subsample_for_features(train, 0)
    assert drawn.sum() == 200
    assert not drawn[~train].any()


def test_a_reference_of_a_part_of_the_cells_is_about_that_of_all(monkeypatch):
    random = np.random.default_rng(0)
    codes = random.choice(4, 6000, p=[0.7, 0.2, 0.09, 0.01])
    codes[:100] = -1
    z = random.normal(size=(6000, 5)) + 3 * codes[:, None]
    scores = random.normal(size=(6000, 6)) * np.arange(1, 7) + codes[:, None]
    whole = reference.build_reference(z, z[:, :2], scores, codes, 4, 0)
    monkeypatch.setattr(reference, "MAX_FITTED", 3000)
    part = reference.build_reference(z, z[:, :2], scores, codes, 4, 0)
    np.testing.assert_array_equal(part.sizes, whole.sizes)
    np.testing.assert_array_equal(part.prior, whole.prior)
    np.testing.assert_allclose(part.prototypes, whole.prototypes, atol=0.15)
    np.testing.assert_allclose(part.whiten, whole.whiten, atol=0.1)
    small = codes == 3  # there is no other choice than all of them
    assert (part.codes == 3).sum() == small.sum()
    np.testing.assert_allclose(part.prototypes[3], z[small].mean(axis=0))


def test_scores_of_a_part_of_the_cells_are_about_those_of_all(monkeypatch):
    random = np.random.default_rng(0)
    y = random.integers(4, size=3000)
    places = {"map": random.normal(size=(3000, 2)) + 1.2 * y[:, None]}
    held_out = np.arange(3000) % 2 == 0
    whole, p = scoring.score(places, y, held_out, 0)
    monkeypatch.setattr(scoring, "SCORED", 700)
    monkeypatch.setattr(scoring, "REFERENCES", 800)
    part, q = scoring.score(places, y, held_out, 0)
    for group in ("train", "held-out"):
        assert part[group]["map"] == pytest.approx(whole[group]["map"], abs=0.05)
        assert part[group]["map"] != whole[group]["map"]
    assert p == q
    np.testing.assert_equal(scoring.score(places, y, held_out, 0)[0], part)


def test_a_fit_of_parts_holds_on_cells_it_never_saw(monkeypatch):
    adata = make_cells(1500, 0)
    for module, name, most in ((folds, "FEATURE_CELLS", 300), (reference, "MAX_FITTED", 400),
                               (scoring, "SCORED", 100), (scoring, "REFERENCES", 300)):  # fmt: skip
        monkeypatch.setattr(module, name, most)
    monkeypatch.setattr("tripletomics.samplers.MAX_CELLS", 500)
    monkeypatch.setattr("tripletomics.samplers.CELLS_PER_TYPE", 30)
    model = tt.fit(adata, "kind", progress=False, steps=40)
    assert model.scores["held-out"]["map"] > 0.8
    assert model.scores["permuted"]["map"] < 0.35
    one, two = (make_cells(300, 5) for _ in range(2))
    tt.predict(one, model)
    assert (one.obs["tt_label"].astype(str) == one.obs["kind"].astype(str)).mean() > 0.8
    tt.transform(two, model)
    np.testing.assert_array_equal(one.obsm["X_tt"], two.obsm["X_tt"])

import anndata as ad
import numpy as np
import pytest
import torch
from samples import BRIEF, make_cells
from test_neighbours import plain_loss

import tripletomics as tt
from tripletomics import area, metrics
from tripletomics.losses import neighbours


def draw(n=150, seed=1, **given):
    return make_cells(n, seed, genes=60, **given)


def fitted(adata, label="kind", **given):
    adata = adata.copy()
    return tt.fit(adata, label, **(BRIEF | given)), adata


@pytest.fixture(scope="module")
def half():
    return fitted(draw(), spread=0.5)


@pytest.fixture(scope="module")
def none():
    return fitted(draw(), spread=0)


def reference(n=60):
    random = np.random.default_rng(0)
    return random.normal(size=(n, 4)).astype(np.float32), random.integers(3, size=n)


def test_without_spread_the_loss_has_three_terms():
    x, y = reference()
    loss = neighbours.fit(x, y, 0.5, 0)
    loss.set_progress(2, 10)
    a, rows = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)), np.arange(60)
    groupings = [
        (w.item(), c.numpy(), r.numpy()) for w, c, r in zip(loss.importance, loss.codes, loss.ranks, strict=True)
    ]
    expected = plain_loss(a.tolist(), rows, loss.graph.numpy(), loss.weights.tolist(), groupings, loss.satellites)
    assert loss(a, torch.from_numpy(rows)).item() == pytest.approx(expected, rel=1e-4)
    assert neighbours.fit(x, y, 0.5, 0, 0.0)(a, torch.from_numpy(rows)) == loss(a, torch.from_numpy(rows))


@pytest.mark.parametrize("spread", [0.5, 1.0])
@pytest.mark.parametrize("dim", [2, 3])
def test_the_fourth_term_is_the_unevenness_and_rises(monkeypatch, spread, dim):
    x, y = reference()
    a, rows = torch.randn(60, dim, generator=torch.Generator().manual_seed(0)), torch.arange(60)
    plain = neighbours.fit(x, y, 0.5, 0)(a, rows)
    monkeypatch.setattr(area, "LINES", 1000)  # so many that any draw gives the same
    lines = torch.randn(dim, 4000, generator=torch.Generator().manual_seed(1))
    uneven = area.unevenness(a, area.quantiles(60, dim), lines / lines.norm(dim=0))
    loss = neighbours.fit(x, y, 0.5, 0, spread)
    for step, share in ((0, 0), (1, 1 / 3), (3, 1), (8, 1)):
        loss.set_progress(step, 9)
        expected = plain + share * neighbours.EVEN * spread**2 * uneven
        torch.testing.assert_close(loss(a, rows), expected, rtol=0.01, atol=1e-5)


def test_random_lines_are_those_of_the_seed():
    x, y = reference()
    a, rows = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)), torch.arange(60)
    one, same, other = (neighbours.fit(x, y, 1.0, seed, 1.0) for seed in (0, 0, 1))
    assert [one(a, rows).item() for _ in range(3)] == [same(a, rows).item() for _ in range(3)]
    assert one(a, rows) != other(a, rows)


@pytest.mark.parametrize("name", ["none", "half"])
def test_the_same_seed_gives_the_same_map(request, name):
    model, adata = request.getfixturevalue(name)
    np.testing.assert_array_equal(fitted(draw(), spread=0.5 * (name == "half"))[1].obsm["X_tt"], adata.obsm["X_tt"])
    assert (model.networks.map_head.even is None) is (name == "none")


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_no_label_reaches_the_map_at_structure_1(spread):
    adata = draw()
    adata.obs["out"] = np.arange(150) % 4 == 0
    maps = [
        fitted(adata, label, structure=1, spread=spread, hold_out="out", steps=3)[1].obsm["X_tt"]
        for label in ("kind", None)
    ]
    np.testing.assert_array_equal(*maps)


def test_more_spread_fills_more_of_the_page():
    used = [
        metrics.page_use(fitted(draw(240), spread=spread, steps=20)[1].obsm["X_tt"])["a50"] for spread in (0, 0.5, 1)
    ]
    assert used[0] < used[1] < used[2]
    assert used[2] > 1.5 * used[0]  # 0.012 is the most that 240 cells can fill


def test_a_saved_model_gives_the_same_map(half, tmp_path):
    model, adata = half
    model.save(tmp_path / "model.tt")
    again, new = tt.load(tmp_path / "model.tt"), draw(40, 2).X
    for x in (adata.X, new):
        np.testing.assert_array_equal(again.map(x), model.map(x))
    assert torch.equal(again.networks.map_head.even.share, model.networks.map_head.even.share)
    copy = ad.AnnData(adata.X, adata.obs[[]], adata.var)
    with pytest.warns(UserWarning, match="trained on"):
        tt.transform(copy, again)
    np.testing.assert_array_equal(copy.obsm["X_tt"], adata.obsm["X_tt"])


def test_a_model_without_spread_is_read_as_one(none, tmp_path):
    model, adata = none
    model.save(tmp_path / "model.tt")
    again = tt.load(tmp_path / "model.tt")
    assert again.networks.map_head.even is None
    np.testing.assert_array_equal(again.map(adata.X), model.map(adata.X))


def test_cells_of_the_fit_lie_where_the_fit_put_them(half):
    model, adata = half
    np.testing.assert_array_equal(model.map(adata.X), adata.obsm["X_tt"])
    np.testing.assert_allclose(model.map(adata.X.toarray()), adata.obsm["X_tt"], rtol=1e-4, atol=1e-4)
    order = np.random.default_rng(0).permutation(150)
    np.testing.assert_allclose(model.map(adata.X[order]), adata.obsm["X_tt"][order], rtol=1e-4, atol=1e-4)


def test_a_changed_training_cell_is_a_new_cell(half):
    model, adata = half
    changed = adata.X.toarray()
    row = np.flatnonzero(adata.obs["tt_split"] == "train")[0]
    changed[row, 0] += 1
    found = model.map(changed)
    assert np.isfinite(found).all()
    others = np.arange(150) != row
    np.testing.assert_allclose(found[others], adata.obsm["X_tt"][others], rtol=1e-4, atol=1e-4)
    usual, mended = (model.features.pcs(changed[[row]], None, np.array([seen])) for seen in (False, True))
    np.testing.assert_allclose(model.pcs(changed[[row]]), usual)
    assert not np.allclose(usual, mended)


ODD = {  # rows of some cells, and how many types these have
    "ten cells": (np.arange(10), 2),
    "24 training cells": (np.arange(26), 2),
    "fewer cells than components": (np.arange(40), 3),
    "a type of one cell": (np.arange(60), 3),
    "copies": (np.arange(120) % 20, 3),
    "all cells but one equal": ((np.arange(40) == 3).astype(int), 2),
}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning:sklearn", "ignore:Types of one training cell")
@pytest.mark.parametrize(("name", "dim"), zip(ODD, [2, 3] * 3, strict=True))
def test_odd_tables(name, dim):
    rows, types = ODD[name]
    kinds = np.array(["a", "b", "c"])[rows % types if len(np.unique(rows)) > 1 else np.arange(len(rows)) % types]
    if name == "a type of one cell":
        kinds[1:][kinds[1:] == "a"] = "b"
    model, adata = fitted(ad.AnnData(draw().X[rows], {"kind": kinds}), spread=1, dim=dim, steps=2)
    assert adata.obsm["X_tt"].shape == (adata.n_obs, dim)
    assert np.isfinite(adata.obsm["X_tt"]).all()
    np.testing.assert_array_equal(model.map(adata.X), adata.obsm["X_tt"])


def test_permuted_labels_stay_within_the_null():
    adata = draw(300)
    adata.obs["kind"] = np.random.default_rng(0).permutation(adata.obs["kind"].to_numpy())
    model, _ = fitted(adata, spread=0.5, hold_out=0.3, steps=20)
    assert model.p_value["map"] > 0.05


def test_platelets_are_not_at_the_edge_of_the_map(real_data):
    """Fourteen cells far from all others: if the order of groups counts them, 99.7 % lie nearer to the middle."""
    adata = ad.read_h5ad(real_data / "pbmc3k.h5ad")
    tt.fit(adata, "cell_type", steps=40, hold_out=0, progress=False)
    own, m = (adata.obs["cell_type"] == "Platelet").to_numpy(), adata.obsm["X_tt"]
    from_middle = np.linalg.norm(m - m.mean(axis=0), axis=1)
    assert (from_middle < np.linalg.norm(m[own].mean(axis=0) - m.mean(axis=0))).mean() <= 0.95

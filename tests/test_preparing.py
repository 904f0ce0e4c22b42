"""What lies between the table and the model: nothing of the held-out cells reaches it."""

import copy

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import tripletomics as tt
from tripletomics import features, labels, nulls, pp
from tripletomics.problem import Settings
from tripletomics.training import train_encoder


def settled(adata, **given):
    """The settings and the problem of a fit."""
    settings = {"label": "kind", "metric_dim": 8, "hold_out": 0.2, "steps": 5, "device": "cpu"} | given
    return pp.prepare(adata, Settings(**settings))[1:]


@pytest.mark.parametrize("name", ["zzz", "aa"])
def test_a_type_that_only_held_out_cells_have_changes_nothing_that_is_learned(counts, name):
    counts.obs["out"] = np.arange(300) % 5 == 0
    renamed = counts.copy()
    renamed.obs.loc[renamed.obs["out"], "kind"] = name
    settings = {"hold_out": "out", "steps": 10, "progress": False}
    model = tt.fit(counts, "kind", **settings)
    with pytest.warns(UserWarning, match=f"Types that only held-out cells have: {name}"):
        other = tt.fit(renamed, "kind", **settings)
    np.testing.assert_array_equal(renamed.obsm["X_tt_metric"], counts.obsm["X_tt_metric"])
    np.testing.assert_array_equal(renamed.obsm["X_tt"], counts.obsm["X_tt"])
    np.testing.assert_array_equal(other.calibration.weights, model.calibration.weights)
    assert other.types == model.types == ["a", "b", "c"]
    assert other.checks == {}
    assert other.scores["held-out"]["map"] == 0


def test_the_null_keeps_the_codes_that_tables_use(counts):
    counts.obs["out"] = np.arange(300) % 5 == 0
    counts.obs.loc[counts.obs["out"] & (counts.obs["kind"] == "b"), "kind"] = "aa"
    with pytest.warns(UserWarning, match="only held-out"):
        settings, problem = settled(counts, hold_out="out")
    codes, _ = labels.encode(counts.obs["kind"], ())
    null = nulls.permuted_null(problem, settings)
    assert problem.classes == ["a", "b", "c"]
    np.testing.assert_array_equal(np.bincount(null.codes), np.bincount(codes))


def test_folds_of_few_cells_have_fewer_components_each(counts):
    few = counts[:66].copy()
    few.obs["donor"] = np.repeat(["d1", "d2", "d3"], [30, 22, 14])
    model = tt.fit(few, "kind", batch="donor", hold_out=0, steps=5, progress=False)
    assert model.calibration.n_cells == 66
    tt.predict(few, model)
    assert few.obs["tt_confidence"].between(0, 1).all()


def test_a_loss_of_ones_own_starts_untrained_in_every_fit(counts):
    class Proxies(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(3, 8))

        def forward(self, z, y):
            return torch.nn.functional.cross_entropy(z @ self.weight.T, y)

    own = Proxies()
    settings, problem = settled(counts, loss=own, batch="donor")
    before = copy.deepcopy(settings.loss.state_dict())
    trained = train_encoder(problem, settings)
    assert any(parameter.any() for parameter in trained.loss.state_dict().values())
    for name, value in settings.loss.state_dict().items():
        assert torch.equal(value, before[name])
    assert not own.weight.any()


def test_unknown_genes_of_negative_values_do_not_reach_the_components():
    random = np.random.default_rng(0)
    x = (random.normal(size=(200, 5)) @ random.normal(size=(5, 120)) + random.normal(size=(200, 120))).astype(
        np.float32
    )
    names, present = [f"g{i}" for i in range(120)], random.random(120) < 0.7
    low, high = (features.fit(x + shift, names, False, 0) for shift in (-60, 60))
    np.testing.assert_allclose(low.pcs(x - 60, present), high.pcs(x + 60, present), atol=0.01 * high.pcs(x + 60).std())


def test_a_few_cells_that_look_like_either_scale_are_no_error():
    random = np.random.default_rng(0)
    kinds = np.arange(240) % 2
    x = random.poisson(np.where(kinds[:, None] == (np.arange(150) % 2), 3, 1)).astype(np.float32)
    x[0] += 40.5  # reads: not whole, and beyond any logged value
    adata = ad.AnnData(sp.csr_matrix(x), obs={"kind": np.array(["a", "b"])[kinds]})
    model = tt.fit(adata, "kind", steps=5, hold_out=0, progress=False)
    one = ad.AnnData(sp.csr_matrix(np.where(x[1:2] > 0, x[1:2] + 0.5, 0)))
    with pytest.warns(UserWarning, match="The query seems to hold log-transformed"):
        tt.predict(one, model)
    many = ad.AnnData(np.log1p(x[:30]))
    with pytest.raises(ValueError, match="The query holds log1p, but the model was trained on counts"):
        tt.predict(many, model)


def test_a_type_that_is_called_unassigned_is_refused(counts):
    counts.obs["kind"] = counts.obs["kind"].replace("a", "unassigned")
    with pytest.raises(ValueError, match="has a type 'unassigned', which is what predict calls cells"):
        tt.fit(counts, "kind", unlabelled=("nothing",))


def test_whole_batches_stay_together(counts):
    _, problem = settled(counts, batch="donor")
    assert not problem.calibration.any()
    assert pp.batch_codes(counts, "donor", problem.held_out).max() == 4


@pytest.mark.parametrize("value", [0.5, 41.5])
def test_values_of_held_out_cells_decide_nothing(counts, value):
    """Not what is counted, and not which scale new cells must be on."""
    counts.obs["out"] = np.arange(300) % 5 == 0
    other = counts.copy()
    x = other.X.toarray()
    x[0, 0] = value
    other.X = sp.csr_matrix(x)
    one, two = (settled(adata, hold_out="out")[1].features for adata in (counts, other))
    for name, expected in vars(one).items():
        np.testing.assert_array_equal(getattr(two, name), expected, err_msg=name)


def test_held_out_cells_on_another_scale_are_refused(counts):
    counts.obs["out"] = np.arange(300) % 5 == 0
    counts.X = counts.X.toarray()
    counts.X[0, 0] = -1
    with pytest.raises(ValueError, match="training cells are counts, but some of the other cells have negative values"):
        settled(counts, hold_out="out")


def test_a_held_out_donor_that_was_logged_is_refused(counts):
    counts.obs["donor"] = np.where(np.arange(300) % 5 == 0, "new", "old")
    settled(counts, hold_out="donor=new")
    x = counts.X.toarray().astype(np.float32)
    x[::5] = np.log1p(1e4 * x[::5] / x[::5].sum(axis=1, keepdims=True))
    counts.X = x
    with pytest.raises(ValueError, match=r"what a query is to a model\. The query holds log1p"):
        settled(counts, hold_out="donor=new")

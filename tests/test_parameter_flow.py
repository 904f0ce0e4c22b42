"""Every keyword of `fit` arrives where it acts: changing it alone changes what is written."""

import inspect

import numpy as np
import pytest

import tripletomics as tt
from tripletomics.losses import Triplet

BASE = {"label": "kind", "steps": 3, "progress": False}
CHANGES = {
    "label": "other", "parents": {"b": "a"}, "order": "day",
    "loss": "triplet", "structure": 0.1, "spread": 0.9, "dim": 3, "metric_dim": 5, "batch": "donor",
    "layer": "doubled", "use_rep": "X_mine", "counts": False, "unlabelled": ("a",), "hold_out": 0.4,
    "encoder": "mlp:hidden=16", "augment": "mask:p=0.1", "map": "X_umap", "steps": 5, "batch_size": 32, "lr": 0.01,
    "seed": 7,
    "precision": "bf16-mixed",
}  # fmt: skip
ELSEWHERE = {
    "adata", "checkpoint", "init", "device", "key_added", "missing", "progress", "self_training",
}  # tested by name below or in their files  # fmt: skip


def run(cells, /, **given):
    adata = cells.copy()
    tt.fit(adata, **(BASE | given))
    return adata


@pytest.fixture(scope="module")
def cells(made):
    cells = made.copy()
    cells.obs["other"] = np.roll(cells.obs["kind"].to_numpy(), 1)
    cells.obs.loc[cells.obs_names[::4], "other"] = "b"
    cells.obsm["X_umap"] = np.random.default_rng(0).normal(size=(cells.n_obs, 2))
    cells.obs["day"] = np.arange(cells.n_obs) % 9
    cells.layers["doubled"] = (cells.X.power(2)).tocsr()
    cells.obsm["X_mine"] = cells.X[:, :20].toarray()
    return cells


@pytest.fixture(scope="module")
def before(cells):
    return run(cells)


def test_every_keyword_is_covered():
    assert set(inspect.signature(tt.fit).parameters) == set(CHANGES) | ELSEWHERE


@pytest.mark.parametrize("name", CHANGES)
def test_a_keyword_arrives(cells, before, name):
    after = run(cells, **{name: CHANGES[name]})
    same = before.obsm["X_tt_metric"].shape == after.obsm["X_tt_metric"].shape and np.array_equal(
        before.obsm["X_tt_metric"], after.obsm["X_tt_metric"]
    )
    same_map = before.obsm["X_tt"].shape == after.obsm["X_tt"].shape and np.array_equal(
        before.obsm["X_tt"], after.obsm["X_tt"]
    )
    assert not same_map
    assert same == (name in ("structure", "spread", "map", "dim"))  # these act on the map alone
    assert before.uns["X_tt"]["settings"][name] != after.uns["X_tt"]["settings"][name]


def test_text_and_object_are_the_same_loss(cells):
    text, thing = run(cells, loss="triplet:margin=0.5"), run(cells, loss=Triplet(margin=0.5))
    np.testing.assert_array_equal(text.obsm["X_tt"], thing.obsm["X_tt"])
    assert text.uns["X_tt"]["settings"]["loss"] == thing.uns["X_tt"]["settings"]["loss"] == "triplet:margin=0.5"


def test_device_and_key_arrive(cells):
    adata = run(cells, device="cpu", key_added="Z")
    assert set(adata.obsm) - {"X_mine", "X_umap"} == {"Z", "Z_metric", "Z_pca"}
    assert adata.uns["Z"]["settings"]["device"] == "cpu"
    assert "Z_split" in adata.obs

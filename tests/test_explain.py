import copy

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from torch import nn

import tripletomics as tt
from tripletomics import attribution
from tripletomics.networks import MLP, Encoder
from tripletomics.sources import Memory

_FITTED = []


@pytest.fixture
def model(counts):
    """A model of the cells of `counts`, fitted once for this file."""
    if not _FITTED:
        _FITTED.append(tt.fit(counts.copy(), "kind", steps=40, progress=False))
    return _FITTED[0]


def genes_of(kinds):
    """The genes that make these types."""
    return {str(i) for kind in kinds for i in range("abc".index(kind) * 10, "abc".index(kind) * 10 + 10)}


# The integral ---------------------------------------------------------------------------------------------------------


class Square(nn.Module):
    """The square of a linear layer: its integrated gradients are known in closed form."""

    def __init__(self, weights):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weights))

    def forward(self, x):
        return ((x @ self.w) ** 2)[:, None]


def test_a_square_has_a_closed_form():
    random = np.random.default_rng(0)
    x, b, w = random.normal(size=(7, 5)).astype("f"), random.normal(size=5), random.normal(size=5).astype("f")
    found = attribution.integrated_gradients(Square(w), Memory(x), b, np.array([3.0]))
    wanted = 3 * ((x - b) * w * (x @ w + b @ w)[:, None]).mean(axis=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_an_encoder_against_a_plain_sum_of_small_steps(monkeypatch):
    torch.manual_seed(0)
    encoder, random = Encoder(MLP((16, 8)), 6, 4), np.random.default_rng(0)
    x, b, u = random.normal(size=(5, 6)).astype("f"), random.normal(size=6), random.normal(size=4)
    wanted = np.zeros(6)
    for row in x:
        for t in (np.arange(1000) + 0.5) / 1000:
            place = torch.tensor(b + t * (row - b), dtype=torch.float32, requires_grad=True)
            (encoder(place) @ torch.tensor(u, dtype=torch.float32)).backward()
            wanted += (row - b) * place.grad.numpy() / 1000 / len(x)
    monkeypatch.setattr(attribution, "BLOCK_ROWS", 2)  # rows in several batches
    np.testing.assert_allclose(attribution.integrated_gradients(encoder, Memory(x), b, u), wanted, atol=1e-5)


# The table ------------------------------------------------------------------------------------------------------------


def test_attributions_add_up_to_how_far_the_cells_are_moved(counts, model):
    table = tt.explain(counts, model, "kind", n_cells=1000)
    assert list(table.columns) == ["group", "against", "gene", "attribution", "share", "mean_group", "mean_against"]
    assert len(table) == 3 * 150
    z = model.embed(counts.X)
    kinds = counts.obs["kind"].to_numpy()
    rows = sp.csr_matrix(model.features.normalise(counts.X)).toarray()
    centers = {kind: z[kinds == kind].mean(axis=0) for kind in "abc"}
    ways = {kind: mean / np.linalg.norm(mean) for kind, mean in zip("abc", model.reference.centres, strict=True)}
    for (group, against), part in table.groupby(["group", "against"], observed=True):
        nearest = max(set("abc") - {group}, key=lambda other: ways[other] @ ways[group])
        assert against == nearest
        u = centers[group] - centers[against]
        u /= np.linalg.norm(u)
        baseline = model.features.standardise(rows[kinds == against].mean(axis=0))
        with torch.no_grad():
            start = model.networks.encoder(torch.from_numpy(baseline)[None])[0].numpy() @ u
        assert part["attribution"].sum() == pytest.approx((z[kinds == group] @ u).mean() - start, rel=1e-3)
        np.testing.assert_allclose(part["share"], part["attribution"] / part["attribution"].abs().sum())
        by_gene = part.set_index("gene").loc[model.features.genes]
        np.testing.assert_allclose(by_gene["mean_group"], rows[kinds == group].mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(by_gene["mean_against"], rows[kinds == against].mean(axis=0), atol=1e-5)


def test_the_genes_that_make_the_types_are_on_top_by_their_presence_or_absence(counts, model):
    for _, part in tt.explain(counts, model, "kind").groupby("group", observed=True):
        group, against = part[["group", "against"]].iloc[0]
        assert (np.diff(part["attribution"]) <= 0).all()
        top = part[:20]
        assert set(top["gene"]) == genes_of((group, against))
        higher = set(top.loc[top["mean_group"] > top["mean_against"], "gene"])
        assert higher == genes_of(group)


def test_the_nearest_group_is_by_the_means_that_the_model_remembers_or_else_those_of_the_cells(counts, model):
    counts.obs["group"] = counts.obs["kind"].astype(str).where(np.arange(300) % 5 > 0, "of all kinds")
    nearest = tt.explain(counts, model, "group", n_cells=5).groupby("group", observed=True)["against"].first()
    pcs = model.pcs(counts.X)[np.arange(300) % 5 == 0].mean(axis=0)
    means = {**dict(zip(model.types, model.reference.centres, strict=True)), "of all kinds": pcs}
    for group, own in means.items():
        alike = {name: own @ mean / np.linalg.norm(mean) for name, mean in means.items() if name != group}
        assert nearest[group] == max(alike, key=alike.get)


def test_a_gene_without_weight_has_no_attribution(counts, model):
    blind = copy.deepcopy(model)
    with torch.no_grad():
        blind.networks.encoder.trunk[0].weight[:, 3] = 0
    table = tt.explain(counts, blind, "kind").set_index("gene")
    assert (table.loc[model.features.genes[3], "attribution"] == 0).all()


def test_the_other_group_can_be_chosen(counts, model):
    counts.obs["kind"] = counts.obs["kind"].map({"a": "1", "b": "2", "c": "3"}).astype("category")
    whole = tt.explain(counts, model, "kind", against="3")
    assert list(whole.groupby("group", observed=True)["against"].unique().map(list).items()) == [
        ("1", ["3"]),
        ("2", ["3"]),
    ]
    assert list(whole["group"].cat.categories) == list(whole["against"].cat.categories) == ["1", "2", "3"]
    part = tt.explain(counts, model, "kind", against={2: 3})  # groups that are numbers are known by their text
    pd.testing.assert_frame_equal(part, whole[whole["group"] == "2"].reset_index(drop=True))


def test_unlabelled_cells_are_left_out_and_empty_groups_keep_their_colour(counts, model):
    labelled = np.arange(300) >= 40
    counts.obs["tt_label"] = pd.Categorical(counts.obs["kind"], ["c", "b", "a", "d", "unassigned"])
    counts.obs.loc[counts.obs_names[:20], "tt_label"] = "unassigned"
    counts.obs.loc[counts.obs_names[20:40], "tt_label"] = np.nan
    table = tt.explain(counts, model, "tt_label", n_cells=300)
    assert list(table["group"].unique()) == ["a", "b", "c"]
    assert list(table["group"].cat.categories) == ["c", "b", "a", "d"]
    alone = tt.explain(counts[labelled].copy(), model, "kind", n_cells=300)
    np.testing.assert_allclose(table["attribution"], alone["attribution"], rtol=1e-4, atol=1e-6)


def test_cells_are_drawn_by_the_seed(counts, model):
    few, again, other = (tt.explain(counts, model, "kind", n_cells=5, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(few, again)
    assert not few.equals(other)
    pd.testing.assert_frame_equal(*(tt.explain(counts, model, "kind", n_cells=100, seed=seed) for seed in (0, 1)))


def test_dense_and_sparse_layer_and_order_of_genes_give_the_same(counts, model):
    table = tt.explain(counts, model, "kind")
    turned = counts[:, ::-1].copy()
    turned.layers["raw"] = turned.X.toarray()
    turned.X = turned.X * 0
    pd.testing.assert_frame_equal(tt.explain(turned, model, "kind", layer="raw"), table, rtol=1e-5)


def test_a_single_cell_is_a_group_and_genes_that_lack_have_no_part(counts, model):
    counts.obs.loc[counts.obs_names[0], "kind"] = "lonely"
    table = tt.explain(counts, model, "kind")
    assert np.isfinite(table[["attribution", "share"]]).all(axis=None)
    for missing in ("zero", "impute"):
        part = tt.explain(counts[:, 5:].copy(), model, "kind", missing=missing)
        assert len(part) == len(table)
        assert (part.loc[part["gene"].isin(list("01234")), "attribution"] == 0).all()


def test_nothing_else_changes(counts, model):
    before, weights = counts.copy(), copy.deepcopy(model.networks.state_dict())
    for parameter in model.networks.parameters():
        parameter.grad = None
    modes = [module.training for module in model.networks.modules()]
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    with torch.no_grad():
        tt.explain(counts, model, "kind", n_cells=5)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state[0])
    np.testing.assert_array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002
    assert all(parameter.grad is None for parameter in model.networks.parameters())
    assert modes == [module.training for module in model.networks.modules()]
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.networks.state_dict().items())
    pd.testing.assert_frame_equal(counts.obs, before.obs)
    assert (counts.X != before.X).nnz == 0
    assert not counts.obsm
    assert not counts.uns


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"groups": "kinds"}, KeyError, r"groups='kinds' is not a column of adata.obs. Did you mean 'kind'\?"),
        (
            {"against": "A"},
            ValueError,
            r"against='A': 'A' is not a group of 'kind'. Did you mean 'a'\? Groups: a, b, c.",
        ),
        ({"against": {"a": "z"}}, ValueError, r"'z' is not a group of 'kind'. Groups: a, b, c"),
        ({"against": {"z": "a"}}, ValueError, r"'z' is not a group of 'kind'"),
        ({"against": {"a": "a"}}, ValueError, r"compares 'a' with itself: name another group"),
        ({"against": {}}, ValueError, r"names no group to explain. Groups: a, b, c"),
        ({"against": 3}, TypeError, r"against=3 is neither the name of a group nor a dict"),
        ({"n_cells": 0}, ValueError, r"n_cells=0 is not a whole number of at least 1"),
        ({"seed": -1}, ValueError, r"seed=-1 is not a whole number from 0"),
        ({"missing": "drop"}, ValueError, r"missing='drop' is not known"),
    ],
)
def test_errors_say_what_was_given_and_what_is_allowed(counts, model, settings, error, message):
    with pytest.raises(error, match=message):
        tt.explain(counts, model, **({"groups": "kind"} | settings))


def test_one_group_has_nothing_to_be_compared_with(counts, model):
    counts.obs["kind"] = counts.obs["kind"].replace({"b": "unassigned", "c": ""})
    with pytest.raises(ValueError, match=r"groups='kind' has 1 group \(a\): a comparison needs two"):
        tt.explain(counts, model, "kind")
    with pytest.raises(TypeError, match=r"model is str, not a Model"):
        tt.explain(counts, "model.tt", "kind")
    with pytest.raises(ValueError, match=r"is missing 140 of the model's 150 genes"):
        tt.explain(counts[:, :10].copy(), model, "donor")


def test_without_groups_the_types_of_the_fit_are_explained(counts, model):
    pd.testing.assert_frame_equal(tt.explain(counts, model), tt.explain(counts, model, "kind"))
    other = counts.copy()
    other.obs = other.obs.drop(columns="kind")
    with pytest.raises(
        KeyError, match=r"fitted with label='kind', which is not a column of adata.obs: name one with gr"
    ):
        tt.explain(other, model)

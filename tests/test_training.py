import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from samples import make_cells
from torch import nn

import tripletomics as tt
from tripletomics import augment, devices, features, losses, metrics, training
from tripletomics.embedding import coordinates
from tripletomics.problem import FitProblem, Settings
from tripletomics.samplers import Balanced, BatchGuide
from tripletomics.sources import Memory, OnDevice, pack


@pytest.fixture
def fabric():
    return devices.start("cpu", "auto")


@pytest.fixture
def blobs():
    random = np.random.default_rng(0)
    y = np.arange(240) % 4
    x = random.normal(size=(240, 8)).astype(np.float32)
    x[:, :4] += 2 * np.eye(4, dtype=np.float32)[y]
    return x, y


def run(fabric, blobs, loss, network, steps=60, seed=0, **changes):
    x, y = blobs
    options = {"lr": 1e-2, "augment": augment.make(None), "seed": seed, "watch": lambda step, value: None} | changes
    sampler = Balanced(y, 64, seed)
    return training.train(fabric, network, loss, Memory(x), sampler, torch.from_numpy(y), steps=steps, **options)


def test_the_loss_falls(fabric, blobs):
    torch.manual_seed(0)
    values = run(fabric, blobs, losses.make("triplet:reduction=all"), nn.Linear(8, 2))["loss"]
    assert values.shape == (60,)
    assert values[-10:].mean() < 0.5 * values[:5].mean()


def test_parameters_of_the_loss_are_trained_too(fabric, blobs):
    loss = losses.make("softmax + 0.1*center")
    loss.build(2, 4)
    before = {name: p.clone() for name, p in loss.named_parameters()}
    run(fabric, blobs, loss, nn.Linear(8, 2), steps=5)
    assert all(not torch.equal(before[name], p) for name, p in loss.named_parameters())


def test_any_module_is_a_loss(fabric, blobs):
    class Spread(nn.Module):
        def forward(self, z, y):
            return z[y == 0].square().mean()

    torch.manual_seed(0)
    values = run(fabric, blobs, losses.make(Spread()), nn.Linear(8, 2))["loss"]
    assert values[-1] < 0.1 * values[0]


class Diary(losses.Loss):
    """Takes note of what training tells a loss."""

    epochs = 2

    def __init__(self):
        super().__init__()
        self.steps, self.refreshed, self.batches = [], [], []

    def set_progress(self, step, steps):
        self.steps.append((step, steps))

    def refresh(self, z, y):
        self.refreshed.append((len(self.batches), z.clone(), y))
        return BatchGuide(mined_rows=np.arange(len(y))[:, None][::-1])

    def trace(self):
        return {"cells": torch.tensor(self.batches[-1][0])}

    def forward(self, *views_and_y):
        self.batches.append([len(view) for view in views_and_y])
        return views_and_y[0].square().mean()


def test_a_loss_is_told_and_asked(fabric, blobs):
    loss, network = Diary(), nn.Linear(8, 2)
    first = network(torch.from_numpy(blobs[0])).detach()
    curves = run(fabric, blobs, loss, network, steps=40)
    assert loss.steps == [(step, 40) for step in range(40)]
    # 240 cells, 32 anchors a batch with a mined row each: two epochs take 15 batches
    assert [seen for seen, _, _ in loss.refreshed] == [0, 15, 30]
    torch.testing.assert_close(loss.refreshed[0][1], first)  # of all cells, before the first step
    np.testing.assert_array_equal(loss.refreshed[0][2], blobs[1])
    assert loss.batches == [[32, 32, 32]] * 40
    assert curves["cells"].tolist() == [32] * 40


@pytest.mark.parametrize(
    "text", ["triplet:mining=offline,every=1", "hierarchical_triplet", "softmax + triplet:mining=offline"]
)
def test_losses_that_guide_minibatches_separate_the_blobs(fabric, blobs, text):
    torch.manual_seed(0)
    loss, network = losses.make(text), nn.Linear(8, 4)
    loss.build(4, 4)
    x, y = blobs
    before = metrics.knn_macro_f1(network(torch.from_numpy(x)).detach().numpy(), y)
    run(fabric, blobs, loss, network, steps=120)
    assert metrics.knn_macro_f1(network(torch.from_numpy(x)).detach().numpy(), y) > before + 0.05


def test_parameters_have_the_rate_that_their_loss_asks_for():
    loss = losses.make("triplet + softmax + 0.1*softtriple")
    loss.build(3, 4)
    groups = loss.parameter_groups(1e-3)
    assert [len(group["params"]) for group in groups] == [0, 2, 1]
    assert [group["lr"] for group in groups] == pytest.approx([1e-3, 1e-2, 1e-2])
    assert [group["eps"] for group in groups] == [1e-8, 1e-8, 0.01]
    assert all(group["weight_decay"] == 0 for group in groups)


@pytest.mark.parametrize("text", ["triplet", "nca", "quadruplet", "softmax + 0.1*triplet"])
def test_a_batch_without_a_term_is_refused(text):
    y = np.repeat(np.arange(6), 20)
    message = (
        f"batch_size=4 gives a batch with 1 of 6 types and at most 4 cells of one, in which loss={text!r} has nothing "
        "to compare. Raise batch_size, at best to 24 or more, 4 for each type."
    )
    with pytest.raises(ValueError) as error:  # noqa: PT011
        training.check_terms(losses.make(text), y, 4, 0)
    assert str(error.value) == message
    training.check_terms(losses.make(text), y, 24, 0)
    training.check_terms(losses.make("softmax"), y, 4, 0)


def test_global_random_state_is_left_alone(fabric, blobs):
    torch.manual_seed(5)
    network = nn.Linear(8, 2)
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    run(fabric, blobs, losses.make("triplet"), network, steps=3, augment=augment.make("mask"))
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(before_numpy, np.random.get_state()[1])  # noqa: NPY002


def test_a_loss_that_diverges_says_so(fabric, blobs):
    class Broken(nn.Module):
        def forward(self, z, y):
            return z.sum() * torch.nan

    with pytest.raises(
        FloatingPointError, match="The loss became infinite or NaN by step 1 of 4, because steps are too large"
    ):
        run(fabric, blobs, losses.make(Broken()), nn.Linear(8, 2), steps=4)


def test_learning_rate_warms_up_and_decays():
    rates = [training.warm_up_then_decay(step, 100) for step in range(100)]
    assert np.argmax(rates) in (9, 10)
    assert max(rates) == 1
    assert np.all(np.diff(rates[:10]) > 0)
    assert np.all(np.diff(rates[10:]) < 0)
    assert rates[-1] < 0.01
    assert training.warm_up_then_decay(0, 1) == 1


def test_steps_follow_the_data():
    assert [training.default_steps(n) for n in (1, 50, 100, 800, 1_000_000)] == [100, 100, 100, 120, 429]
    assert training.default_steps(1_000_000, losses.make("softmax").pace) == 286


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("gpu:7", "auto", "device='gpu:7' is not known"),
        ("cuad", "auto", "Did you mean 'cuda'"),
        ("cpu", "bf16-mixd", "Did you mean 'bf16-mixed'"),
    ],
)
def test_unknown_device_or_precision(device, precision, message):
    with pytest.raises(ValueError, match=message):
        devices.start(device, precision)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_absent_device_names_those_present():
    with pytest.raises(ValueError, match=r"'cuda' is not on this machine. Allowed here: auto, cpu"):
        devices.start("cuda", "auto")


def test_bfloat16_runs_through_the_same_loop(blobs):
    fabric = devices.start("cpu", "bf16-mixed")
    torch.manual_seed(0)
    values = run(fabric, blobs, losses.make("triplet:reduction=all"), nn.Linear(8, 2))["loss"]
    assert values[-10:].mean() < 0.5 * values[:5].mean()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_runs_through_the_same_loop(blobs):
    torch.manual_seed(0)
    values = run(devices.start("cuda", "auto"), blobs, losses.make("triplet:reduction=all"), nn.Linear(8, 2))["loss"]
    assert values[-10:].mean() < 0.5 * values[:5].mean()


def learn_both(device, cells, y):
    """Train encoder and map head on the first cells, a few of which are held out."""
    out = np.arange(240) >= 200
    pcs = cells.scaler.pcs(cells.x)
    problem = FitProblem(
        x=cells.x, genes={}, features=cells.scaler, rows=cells, pcs=pcs, codes=y, classes=list("abcd"),
        order=np.arange(4), train=~out, scored=out, held_out=out, calibration=np.zeros_like(out), batch_codes=None,
        seen=None,
    )  # fmt: skip
    settings = Settings(
        loss="softmax", encoder="mlp:hidden=32-16", metric_dim=8, batch_size=64, steps=20, device=device
    )
    encoder = training.train_encoder(problem, settings)
    networks, history = training.train_map(problem, replace(settings, steps=5), encoder)
    return history, coordinates(networks, cells, pcs)


@pytest.fixture
def counted():
    random = np.random.default_rng(0)
    y = np.arange(240) % 4
    x = random.poisson(0.2 + 2.0 * (np.arange(60) % 4 == y[:, None]) * (np.arange(60) < 24)).astype(np.float32)
    contract = features.fit(x, [f"g{i}" for i in range(60)], counts=True, seed=0)
    return contract.source(sp.csr_matrix(x)), y


def test_a_fit_whose_table_is_on_the_device_is_that_of_memory(counted):
    cells, y = counted
    cpu = torch.device("cpu")
    wanted, places = learn_both("cpu", cells, y)
    for table in (pack(cells, cpu), None):
        found, same = learn_both("cpu", OnDevice(cells, cpu, table), y)
        np.testing.assert_allclose(found["metric"]["loss"], wanted["metric"]["loss"], atol=1e-5)
        np.testing.assert_allclose(found["map"]["loss"], wanted["map"]["loss"], atol=1e-4)
        np.testing.assert_allclose(same["metric"], places["metric"], rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_places_cells_as_cpu_does(counted):
    cells, y = counted
    places = {}
    for device in ("cpu", "cuda"):
        history, places[device] = learn_both(device, cells, y)
        assert history["metric"]["loss"][-1] < history["metric"]["loss"][0]
    for space in ("metric", "map"):  # each device hides genes of its own
        scores = [
            metrics.knn_macro_f1(z[:200], y[:200], z[200:], y[200:])
            for z in (places[device][space] for device in places)
        ]
        assert abs(scores[0] - scores[1]) < 0.1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_resident_batch_on_cuda_does_not_wait(counted):
    cells, _ = counted
    there = cells.on(torch.device("cuda"))
    torch.testing.assert_close(there.rows(slice(9)).cpu(), cells.rows(slice(9)), rtol=1e-5, atol=1e-5)
    torch.cuda.set_sync_debug_mode("error")
    try:
        there.rows(np.array([3, 0, 17]))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("loss", ["softmax", "simclr"])
def test_steps_that_are_too_large_end_in_a_sentence(loss):
    adata = make_cells(90, 0, types="abc", genes=60)
    given = {"label": None if loss == "simclr" else "kind", "loss": loss, "progress": False, "device": "cpu"}
    with pytest.raises(
        FloatingPointError, match=r"became infinite or NaN by step \d+ of \d+, because steps are too large"
    ):
        tt.fit(adata, lr=1e6, steps=20, **given)
    assert not adata.obsm
    with pytest.warns(UserWarning, match=r"The map was not learned: its loss rose from \d\.\d\d to \d\.\d\d") as caught:
        tt.fit(adata, lr=1.0, steps=20, hold_out=0, **given)
    assert any(warning.filename == __file__ for warning in caught)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tt.fit(adata, steps=5, hold_out=0, **given)


@pytest.mark.parametrize(("n", "most"), [(2, 320), (1_847, 320), (4_000, 379), (16_364, 480), (30_000, 480)])
def test_the_map_takes_as_many_steps_with_every_loss(n, most):
    by_loss = [training.default_steps(n, pace) for pace in (20, 30)]
    assert {training.map_steps(n, steps) for steps in by_loss} == {most}
    assert training.map_steps(n, 25) == 100  # four for each of the encoder's
    assert training.map_steps(n, 2_000) == 2_000

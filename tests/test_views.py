"""The losses of two views against their definitions, and what holds for all of them."""

import copy
import math
import re
import warnings
from collections import deque

import numpy as np
import pytest
import torch
from oracles import assert_same
from pytorch_metric_learning import losses as pml
from torch import nn

from tripletomics import losses
from tripletomics.geometry import normalise
from tripletomics.losses.views import spread

NAMES = losses.names(views=2)
COMPARING = ["infonce", "simclr", "clip", "moco"]
ORDINARY = [name for name in NAMES if name != "moco"]  # the first value of MoCo is 0


def build(text, dim=3, n=40, dtype=torch.float64):
    torch.manual_seed(0)
    loss = losses.make(text)
    loss.set_n_cells(n)
    assert loss.build(dim, 4) is None
    return loss.to(dtype)


def settled(text, dim=3, dtype=torch.float64):
    """A loss with a filled queue, if it has one, that keeps its state from now on."""
    loss = build(text, dim, dtype=dtype)
    z1, z2, y, cells = views(24, dim, dtype, seed=8)
    loss(z1, z2, y, cells=cells + 100)
    return loss.eval()


def views(n=12, dim=3, dtype=torch.float64, seed=1):
    """Two views that differ somewhat, codes with some unlabelled, and the numbers of the cells."""
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(n, dim, generator=draw, dtype=torch.float64)
    z1, z2 = ((z + 0.5 * torch.randn(n, dim, generator=draw, dtype=z.dtype)).to(dtype) for _ in range(2))
    y = torch.randint(-1, 3, (n,), generator=draw)
    return z1.requires_grad_(), z2.requires_grad_(), y, torch.arange(n).repeat(2, 1)


def run(loss, z1, z2, y=None, **known):
    """Return the value and both gradients; a copy computes them, so that no state moves."""
    leaves = [z.detach().clone().requires_grad_() for z in (z1, z2)]
    value = copy.deepcopy(loss)(*leaves, y, **known)
    assert value.shape == ()
    assert value.dtype == z1.dtype
    gradients = torch.autograd.grad(value, leaves, materialize_grads=True)
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
    return value.detach(), *gradients


@pytest.mark.parametrize("name", NAMES)
def test_a_step_asks_the_device_for_nothing(name):
    """A tensor on `meta` has no values: whatever had to read one on the way would fail."""
    loss, (_, _, y, cells) = build(name, n=12).to("meta"), views()
    z1, z2 = (torch.empty(12, 3, dtype=torch.float64, device="meta", requires_grad=True) for _ in range(2))
    known = {"cells": cells.to("meta"), "codes": torch.stack([y, y]).to("meta")}
    if loss.momentum:
        known["momentum_z"] = torch.empty(24, 3, dtype=torch.float64, device="meta")
    loss(z1, z2, y, **known).backward()
    assert z1.grad.device == z1.device


def cosine(a, b):
    return a @ b / (a.norm() * b.norm())


def choice(right, wrong):
    return -torch.log(right.exp() / (right.exp() + sum(logit.exp() for logit in wrong)))


def apart(y, i, k):
    """Whether labels leave i and k to be told apart."""
    return y[i] < 0 or y[i] != y[k]


def find(z1, z2, y, temperature, cells=None, same_type=0.0):
    terms = []
    for i in range(len(z1)):
        others = [k for k in range(len(z1)) if k != i and (same_type or apart(y, i, k))]
        if cells is not None:
            others = [k for k in others if cells[0][i] != cells[1][k]]
        weights = [1.0 if apart(y, i, k) else same_type for k in others]
        logits = [cosine(z1[i], z2[k]) / temperature + math.log(w) for k, w in zip(others, weights, strict=True)]
        terms.append(choice(cosine(z1[i], z2[i]) / temperature, logits))
    return sum(terms) / len(terms)


def find_among_all(z1, z2, y, temperature, cells):
    n, z, cells = len(z1), torch.cat([z1, z2]), cells.flatten()
    terms = []
    for i in range(2 * n):
        own = (i + n) % (2 * n)
        shown = (cells[i], cells[own])
        others = [k for k in range(2 * n) if k not in (i, own) and apart(y, i % n, k % n) and cells[k] not in shown]
        terms.append(choice(cosine(z[i], z[own]) / temperature, [cosine(z[i], z[k]) / temperature for k in others]))
    return sum(terms) / len(terms)


def test_the_family():
    assert NAMES == [
        "barlow_twins", "byol", "clip", "infonce", "moco", "simclr", "simsiam", "vicreg",
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [2, 16])
def test_value_and_gradient_are_finite_in_both_precisions(name, dim):
    z1, z2, y, cells = views(dim=dim)
    double = run(settled(name, dim), z1, z2, y, cells=cells)
    single = run(settled(name, dim, torch.float32), z1.float(), z2.float(), y, cells=cells)
    assert double[1].abs().sum() > 0
    for a, b in zip(single, double, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_views_get_gradients_in_training_mode(name, dtype):
    z1, z2, y, _ = views(dtype=dtype)
    _, *gradients = run(build(name, dtype=dtype), z1, z2, y)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_double_views_need_no_double_parameters(name):
    z1, z2, y, _ = views()
    value = run(settled(name, dtype=torch.float32), z1, z2, y)[0]
    torch.testing.assert_close(value, run(settled(name), z1, z2, y)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name):
    loss, (z1, z2, y, cells) = settled(name), views(7)
    known = {"cells": cells}
    if name == "byol":
        known["momentum_z"] = torch.cat([z1, z2]).detach() + 0.1
    if name == "simsiam":
        loss._stop = normalise  # a stopped gradient is not that of the value
    if name == "moco":
        z2 = z2.detach()
    leaves = [z for z in (z1, z2) if z.requires_grad]
    assert torch.autograd.gradcheck(lambda *_: loss(z1, z2, y, **known), leaves)


@pytest.mark.parametrize(
    ("make", "name"), [*((settled, name) for name in NAMES), *((build, name) for name in ORDINARY)]
)
def test_order_does_not_matter(make, name):
    loss, (z1, z2, y, cells) = make(name), views()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(2))
    value, *gradients = run(loss, z1, z2, y, cells=cells)
    shuffled, *moved = run(loss, z1[order], z2[order], y[order], cells=cells[:, order])
    torch.testing.assert_close(shuffled, value)
    for a, b in zip(moved, gradients, strict=True):
        torch.testing.assert_close(a, b[order])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.filterwarnings("ignore:std")
def test_one_cell_or_none_is_a_zero_connected_to_both_views(name, n):
    z1, z2, y, _ = views(1)
    value, *gradients = run(build(name), z1[:n], z2[:n], y[:n])
    assert value == 0
    assert all((gradient == 0).all() for gradient in gradients)
    one, two = (z[:n].detach().requires_grad_() for z in (z1, z2))
    build(name)(one, two).backward()
    assert one.grad is not None
    assert two.grad is not None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fill", [0.0, 0.1, 1.0])
def test_all_cells_at_one_point(name, fill, dtype):
    z = torch.full((12, 3), fill, dtype=dtype)
    run(settled(name, dtype=dtype), z, z)
    run(settled(name, dtype=dtype).train(), z, z)


@pytest.mark.parametrize("name", NAMES)
def test_duplicates_opposites_and_zero_vectors(name):
    z1, z2, y, _ = (part.detach().clone() for part in views())
    z1[0], z2[1], z1[2], z2[3], z1[5] = 0, 0, -z2[2], z1[4], z1[6]
    z1[7] = z2[7] = 0
    run(settled(name), z1, z2, y)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("z1", "z2", "y", "message"),
    [
        ((3,), (3,), None, r"got z1 \(3,\), z2 \(3,\)\."),
        ((3, 2), (4, 2), None, r"got z1 \(3, 2\), z2 \(4, 2\)\."),
        ((3, 2), (3, 3), None, r"got z1 \(3, 2\), z2 \(3, 3\)\."),
        ((3, 2), (3, 2), (4,), r"got z1 \(3, 2\), z2 \(3, 2\) and y \(4,\)\."),
        ((3, 2), (3, 2), (3, 1), r"got z1 \(3, 2\), z2 \(3, 2\) and y \(3, 1\)\."),
    ],
)
def test_shapes_that_do_not_fit(name, z1, z2, y, message):
    y = None if y is None else torch.zeros(y, dtype=torch.long)
    with pytest.raises(ValueError, match=f"^{name} needs two views of the same cells.* {message}$"):
        build(name, 2)(torch.zeros(z1), torch.zeros(z2), y)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_codes_must_be_whole_numbers(name, dtype):
    z = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=f"^y holds {re.escape(str(dtype))}: pass class codes as whole numbers"):
        build(name, 2)(z, z, torch.zeros(3, dtype=dtype))


@pytest.mark.parametrize("name", NAMES)
def test_no_codes_are_those_of_unlabelled_cells(name):
    loss, (z1, z2, y, _) = settled(name), views()
    assert run(loss, z1, z2)[0] == run(loss, z1, z2, torch.full_like(y, -1))[0]
    assert run(loss, z1, z2, y.int())[0] == run(loss, z1, z2, y)[0]


@pytest.mark.parametrize("name", NAMES)
def test_labels_count_where_cells_are_pushed_apart(name):
    loss, (z1, z2, y, cells) = settled(name), views()
    changed = run(loss, z1, z2, y, cells=cells)[0] != run(loss, z1, z2, cells=cells)[0]
    assert changed == (name in COMPARING)


@pytest.mark.parametrize("name", COMPARING)
def test_nothing_is_left_to_tell_apart_within_one_type(name):
    z1, z2, y, cells = views()
    loss = build("clip:same_type=0" if name == "clip" else name)
    loss(z1, z2, torch.zeros_like(y), cells=cells)
    value, *gradients = run(loss.eval(), z1, z2, torch.zeros_like(y), cells=cells + 50)
    assert value == 0
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_two_cells_without_labels_have_something_to_compare(name):
    loss = losses.make(name)
    assert not loss.supervised
    assert loss.has_terms(np.array([-1, -1]))
    assert not loss.has_terms(np.array([0]))


@pytest.mark.parametrize("name", COMPARING)
def test_only_directions_count(name):
    loss, (z1, z2, y, _) = settled(name), views()
    stretch = torch.arange(1.0, 13)[:, None]
    torch.testing.assert_close(run(loss, z1 * stretch, z2 / stretch, y)[0], run(loss, z1, z2, y)[0])


# each loss by its definition


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("told", [False, True])
def test_infonce_against_loops(temperature, told):
    z1, z2, y, _ = views()
    cells = torch.stack([torch.arange(12), (torch.arange(12) * 5 + 1) % 12]) if told else None
    loss = build(f"infonce:temperature={temperature}")
    assert_same(loss(z1, z2, y, cells=cells), find(z1, z2, y, temperature, cells), z1, z2)


def test_worked_numbers_of_infonce():
    z = torch.eye(2, dtype=torch.float64)
    assert build("infonce:temperature=1", 2)(z, z).item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert math.log(1 + math.exp(-1)) == pytest.approx(0.31, abs=0.005)
    assert build("infonce", 2)(z, z).item() == pytest.approx(6e-7, rel=0.1)


def test_infonce_goes_one_way():
    z1, z2, y, _ = views()
    assert build("infonce")(z1, z2, y) != build("infonce")(z2, z1, y)


@pytest.mark.parametrize("same_type", [0.0, 0.3, 1.0])
def test_clip_against_loops_and_with_a_temperature_that_learns(same_type):
    loss, (z1, z2, y, cells) = build(f"clip:same_type={same_type}"), views()
    (scale,) = loss.parameters()
    assert scale.item() == pytest.approx(math.log(1 / 0.07))
    temperature = 1 / scale.exp()
    ways = [find(a, b, y, temperature, same_type=same_type) for a, b in ((z1, z2), (z2, z1))]
    expected = sum(ways) / 2
    assert_same(loss(z1, z2, y, cells=cells), expected, z1, z2, scale)
    assert [group["weight_decay"] for group in loss.parameter_groups(1e-3) if group["params"]] == [0]


def test_clip_is_never_colder_than_a_hundredth():
    loss, (z1, z2, y, _) = build("clip"), views()
    with torch.no_grad():
        loss.log_scale.fill_(9)
    ways = [find(a, b, y, 0.01, same_type=0.3) for a, b in ((z1, z2), (z2, z1))]
    torch.testing.assert_close(loss(z1, z2, y), sum(ways) / 2)


def test_a_neighbour_is_no_negative_however_much_its_type_weighs():
    z1, z2, y, _ = views()
    cells = torch.stack([torch.arange(12), (torch.arange(12) * 5 + 1) % 12])
    expected = (find(z1, z2, y, 0.07, cells, 0.5) + find(z2, z1, y, 0.07, cells.flip(0), 0.5)) / 2
    torch.testing.assert_close(build("clip:same_type=0.5")(z1, z2, y, cells=cells), expected)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("neighbouring", [False, True])
def test_simclr_against_loops(temperature, neighbouring):
    """The second view may be that of a neighbour, which is in the batch as well, or comes with two cells."""
    z1, z2, y, cells = views()
    known = {"cells": torch.stack([cells[0], cells[0] // 2 * 2 + 1])} if neighbouring else {}
    loss = build(f"simclr:temperature={temperature}")
    cells = known.get("cells", cells)
    assert_same(loss(z1, z2, y, **known), find_among_all(z1, z2, y, temperature, cells), z1, z2)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_simclr_against_pytorch_metric_learning(temperature):
    z1, z2, _, _ = views(20)
    theirs = pml.NTXentLoss(temperature)(torch.cat([z1, z2]), torch.arange(20).repeat(2))
    assert_same(build(f"simclr:temperature={temperature}")(z1, z2), theirs, z1, z2)


@pytest.mark.parametrize("name", ["infonce", "simclr"])
def test_views_of_one_cell_are_left_in_peace(name):
    z1, z2, _, _ = views(2)
    value, *gradients = run(build(name), z1, z2, cells=torch.full((2, 2), 7))
    assert value == 0
    assert all((gradient == 0).all() for gradient in gradients)


def queued(z1, keys, y, queue, temperature, cells=None):
    """MoCo's value and the keys that it takes; the queue holds (key, cell, code)."""
    terms = []
    for i in range(len(z1)):
        told = [] if cells is None else [cells[0][i], cells[1][i]]
        wrong = [key for key, cell, code in queue if cell not in told and (y[i] < 0 or code != y[i])]
        terms.append(choice(cosine(z1[i], keys[i]) / temperature, [cosine(z1[i], key) / temperature for key in wrong]))
    taken = [(keys[i].detach(), -1 if cells is None else int(cells[1][i]), int(y[i])) for i in range(len(y))]
    return sum(terms) / len(terms), taken


@pytest.mark.parametrize("capacity", [5, 8, 30, 100])
@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("followed", [False, True])
def test_moco_against_a_queue_of_python(capacity, told, followed):
    """Batches of 12: longer than the queue, wrapping around in it, and leaving most of it unfilled."""
    loss, queue = build(f"moco:queue={capacity},temperature=0.5", n=200), deque(maxlen=capacity)
    for step in range(5):
        z1, z2, y, cells = views(seed=step)
        cells = torch.stack([cells[0] + 3 * step, (5 * cells[1] + 2) % 12 + 3 * step]) if told else None
        momentum_z = torch.cat([z1, z2]).detach() + 0.3 if followed else None
        keys = (z2 if momentum_z is None else momentum_z[12:]).detach()
        expected, taken = queued(z1, keys, y, queue, 0.5, cells)
        assert_same(loss.eval()(z1, z2, y, cells=cells, momentum_z=momentum_z), expected, z1)
        assert_same(
            loss.train()(z1, z2, y, cells=cells, momentum_z=momentum_z), expected, z1
        )  # though the queue moves on
        queue.extend(taken)
    slots = slice(0, len(queue))
    assert sorted(zip(loss.key_cells[slots].tolist(), loss.key_codes[slots].tolist(), strict=True)) == sorted(
        (cell, code) for _, cell, code in queue
    )
    torch.testing.assert_close(loss.keys[slots].norm(dim=1), torch.ones(len(queue), dtype=torch.float64))
    assert (loss.key_cells[len(queue) :] == -1).all()
    assert (loss.keys[len(queue) :] == 0).all()


def test_moco_gives_the_keys_no_gradient():
    loss, (z1, z2, y, _) = settled("moco"), views()
    assert torch.autograd.grad(loss(z1, z2, y), z2, allow_unused=True) == (None,)


def test_moco_takes_nothing_outside_training_and_nothing_of_one_cell():
    loss, (z1, z2, y, _) = settled("moco"), views()
    before = copy.deepcopy(loss.state_dict())
    loss(z1, z2, y)
    loss.train()(z1[:1], z2[:1], y[:1])
    assert all(torch.equal(tensor, before[key]) for key, tensor in loss.state_dict().items())
    loss(z1, z2, y)
    assert not torch.equal(loss.keys, before["keys"])


def test_moco_goes_on_from_its_state():
    one, two = build("moco:queue=17"), build("moco:queue=17")
    for step in range(3):
        z1, z2, y, cells = views(seed=step)
        one(z1, z2, y, cells=cells)
    two.load_state_dict(one.state_dict())
    for step in range(3, 6):
        z1, z2, y, cells = views(seed=step)
        assert torch.equal(one(z1, z2, y, cells=cells), two(z1, z2, y, cells=cells))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.mark.parametrize(("n", "length"), [(2, 1), (40, 10), (1003, 250), (10**6, 4096)])
def test_moco_keeps_a_quarter_of_the_cells(n, length):
    loss = build("moco", n=n)
    assert loss.keys.shape == (length, 3)
    assert loss.key_cells.shape == loss.key_codes.shape == (length,)
    assert losses.spec(loss) == "moco"


def test_moco_refuses_a_queue_longer_than_the_data():
    losses.make("moco:queue=50").set_n_cells(50)
    for text in ("moco:queue=51", "triplet + moco:queue=51"):
        with pytest.raises(ValueError, match=r"^moco: queue=51 is longer than the data, 50 training cells\."):
            losses.make(text).set_n_cells(50)


@pytest.mark.parametrize("name", ["moco", "byol", "simsiam"])
def test_call_before_build(name):
    z1, z2, _, _ = views()
    with pytest.raises(RuntimeError, match=f"^{name} has no .*: call build"):
        losses.make(name)(z1, z2)


def test_vicreg_against_loops():
    for text, (a, b, c) in {"vicreg": (25, 25, 1), "vicreg:invariance=2,variance=3,covariance=5": (2, 3, 5)}.items():
        z1, z2, y, _ = views(9, 4)
        expected = a * ((z1 - z2) ** 2).sum() / z1.numel()
        for z in (z1, z2):
            for j in range(4):
                sd = (z[:, j].var() + 1e-4) ** 0.5
                expected = expected + b / (2 * 4) * max(1 - sd, 0 * sd)
                for k in set(range(4)) - {j}:
                    cov = ((z[:, j] - z[:, j].mean()) * (z[:, k] - z[:, k].mean())).sum() / 8
                    expected = expected + c / 4 * cov**2
        loss = build(text, 4)
        assert_same(loss(z1, z2, y), expected, z1, z2)


def test_barlow_twins_against_numpys_correlations():
    z1, z2, y, _ = views(15, 4)
    c = np.corrcoef(z1.detach().numpy().T, z2.detach().numpy().T)[:4, 4:]
    other = (c**2).sum() - (np.diag(c) ** 2).sum()
    for weight in (0.005, 0.3):
        value = build(f"barlow_twins:redundancy={weight}", 4)(z1, z2, y)
        assert value.item() == pytest.approx(((1 - np.diag(c)) ** 2).sum() + weight * other)


def test_barlow_twins_of_equal_views_without_redundancy_is_zero():
    z = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert build("barlow_twins", 2)(z, 3 * z + 7).item() == pytest.approx(0, abs=1e-12)


def predict(loss, z):
    """The predictor by hand."""
    first, norm, _, last = loss.predictor
    hidden = z @ first.weight.T
    if loss.training:
        mean, variance = hidden.mean(dim=0), hidden.var(dim=0, correction=0)
    else:
        mean, variance = norm.running_mean, norm.running_var
    hidden = ((hidden - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias).clamp(min=0)
    return hidden @ last.weight.T + last.bias


@pytest.mark.parametrize("training", [False, True])
def test_simsiam_against_loops(training):
    loss, (z1, z2, y, _) = settled("simsiam").train(training), views()
    p1, p2 = predict(loss, z1), predict(loss, z2)
    terms = [cosine(p1[i], z2[i].detach()) + cosine(p2[i], z1[i].detach()) for i in range(12)]
    assert_same(loss(z1, z2, y), -sum(terms) / 24, z1, z2, *loss.parameters())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("followed", [False, True])
def test_byol_against_loops(training, followed):
    loss, (z1, z2, y, cells) = settled("byol").train(training), views()
    momentum_z = torch.cat([z1, z2]) + 0.3 if followed else torch.cat([z1, z2])
    t1, t2 = momentum_z.detach()[:12], momentum_z.detach()[12:]
    p1, p2 = predict(loss, z1), predict(loss, z2)
    terms = [4 - 2 * cosine(p1[i], t2[i]) - 2 * cosine(p2[i], t1[i]) for i in range(12)]
    known = {"momentum_z": momentum_z, "cells": cells} if followed else {}
    assert_same(loss(z1, z2, y, **known), sum(terms) / 12, z1, z2, *loss.parameters())


@pytest.mark.parametrize("name", ["byol", "simsiam"])
def test_no_gradient_flows_into_the_view_that_is_predicted(name):
    """With one predictor that says nothing, no view gets any."""
    loss, (z1, z2, y, _) = settled(name), views()
    with torch.no_grad():
        loss.predictor[3].weight.zero_()
        loss.predictor[3].bias.fill_(1)
    _, *gradients = run(loss, z1, z2, y)
    assert all((gradient == 0).all() for gradient in gradients)
    loss._stop = normalise
    _, *gradients = run(loss, z1, z2, y)
    assert all((gradient != 0).any() for gradient in gradients) == (name == "simsiam")


@pytest.mark.parametrize(("name", "dim", "hidden"), [("simsiam", 64, 16), ("simsiam", 8, 8), ("byol", 8, 32)])
def test_width_of_the_predictor(name, dim, hidden):
    loss = build(name, dim)
    assert [tuple(loss.predictor[k].weight.shape) for k in (0, 3)] == [(hidden, dim), (dim, hidden)]
    with pytest.raises(ValueError, match=f"^{name} was built for dim={dim}, but z has 5 columns"):
        loss(torch.zeros(4, 5), torch.zeros(4, 5))


def test_byol_keeps_more_of_its_momentum_encoder_as_training_goes_on():
    for loss, start in ((losses.make("byol"), 0.996), (losses.make("simclr + 2*byol:momentum=0.9"), 0.9)):
        kept = []
        for step in range(101):
            kept.append(loss.momentum_at(step, 100))
        assert kept[0] == pytest.approx(start)
        assert kept[50] == pytest.approx((start + 1) / 2)
        assert kept[100] == pytest.approx(1)
        assert (np.diff(kept) > 0).all()
        assert kept[25] - start < 0.2 * (1 - start)  # a cosine, not a line


def test_moco_keeps_the_same_of_its_momentum_encoder():
    loss = losses.make("moco:momentum=0.9")
    for step in range(3):
        assert loss.momentum_at(step, 3) == 0.9
    assert losses.make("simclr").momentum_at(0, 3) == losses.make("simclr").momentum == 0


# text, sums and checks


def test_a_sum_passes_both_views_to_the_losses_of_two():
    loss, (z1, z2, y, cells) = build("triplet + 0.5*simclr + 2*infonce"), views()
    assert loss.views == 2
    assert loss.normalised
    alone = losses.make("triplet")(z1, y) + 0.5 * build("simclr")(z1, z2, y) + 2 * build("infonce")(z1, z2, y)
    assert_same(loss(z1, z2, y), alone, z1, z2)
    assert_same(loss(z1, z2, y, cells=cells), alone, z1, z2)
    assert set(loss.trace()) == {"spread"}


def test_a_sum_tells_its_members_of_the_momentum_encoder_and_the_number_of_cells():
    loss, (z1, z2, y, cells) = build("softmax + 0.5*byol"), views()
    momentum_z = torch.cat([z1, z2]).detach() + 0.3
    members = dict(zip(("softmax", "byol"), loss.members, strict=True))
    alone = members["softmax"](z1, y) + 0.5 * members["byol"](z1, z2, y, momentum_z=momentum_z)
    assert_same(loss(z1, z2, y, cells=cells, momentum_z=momentum_z), alone, z1, z2)
    assert loss.momentum == 0.996
    assert loss.predicts
    (queued,) = (member for member in build("triplet + moco", n=80).members if member.name == "moco")
    assert len(queued.keys) == 20


def test_the_members_of_a_sum_share_their_neighbours():
    assert losses.make("triplet + simclr:neighbours=5 + infonce:neighbours=5").neighbours == 5
    with pytest.raises(ValueError, match=r"share these views, but ask for \[0, 5\] neighbours: give all the same"):
        losses.make("vicreg + simclr:neighbours=5")
    assert losses.make("triplet").views == 1
    assert losses.make("triplet + simclr").supervised
    assert not losses.make("vicreg + simclr").supervised


def test_one_momentum_encoder_alone():
    with pytest.raises(ValueError, match=r"^moco and byol would each need a momentum encoder, and there is only one"):
        losses.make("moco + byol")
    assert losses.make("moco + simsiam").momentum == 0.999


@pytest.mark.parametrize("metric_dim", [2, 3])
def test_check_of_few_dimensions(metric_dim):
    for text in ("simsiam", "byol", "softmax + byol"):
        with pytest.raises(ValueError, match=rf"predicts .* metric_dim={metric_dim} has no room: take metric_dim=32"):
            losses.check(losses.make(text), metric_dim)
    for text in COMPARING:
        with pytest.warns(UserWarning, match=f"uses only directions, so metric_dim={metric_dim}"):
            losses.check(losses.make(text), metric_dim)


@pytest.mark.parametrize("name", NAMES)
def test_check_of_enough_dimensions(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses.check(losses.make(name), 32)


def test_spread():
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 16, generator=draw)
    assert spread(z).item() == pytest.approx(1, abs=0.02)
    assert spread(torch.rand(50, 1, generator=draw) * z[:1]).item() == pytest.approx(0, abs=1e-5)
    assert spread(torch.tensor([[3.0, 4], [-3, -4]])).item() == pytest.approx(0.7 * math.sqrt(2))


@pytest.mark.parametrize("name", NAMES)
def test_trace_has_the_spread_of_the_first_view(name):
    loss, (z1, z2, y, _) = settled(name), views()
    loss(z1, z2, y)
    (traced,) = loss.trace().values()
    torch.testing.assert_close(traced, spread(z1.detach()))
    assert not traced.requires_grad


# training


def train(loss, seed, noise, steps=60, lr=0.03):
    """Train a small network on noisy views of cells in six clusters; return the losses and how far cells spread."""
    torch.manual_seed(seed)
    x, cells = torch.randn(6, 20).repeat(16, 1) + torch.randn(96, 20), torch.arange(96).repeat(2, 1)
    network = nn.Sequential(nn.Linear(20, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 16))
    loss.set_n_cells(96)
    loss.build(16, 1)
    optimizer = torch.optim.Adam([{"params": network.parameters()}, *loss.parameter_groups(lr)], lr=lr)
    values = []
    for step in range(steps):
        loss.set_progress(step, steps)
        value = loss(*(network(x + noise * torch.randn(96, 20)) for _ in range(2)), cells=cells)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    return np.array(values), spread(network(x)).item()


@pytest.mark.parametrize("name", NAMES)
def test_loss_falls(name):
    values, _ = train(losses.make(name), 0, 0.5)
    assert np.isfinite(values).all()
    assert values[-10:].mean() < values[1] - 0.1 * abs(values[1])  # by then MoCo's queue is full


@pytest.mark.parametrize("seed", range(3))
def test_simsiam_collapses_without_the_stop_of_the_gradient(seed):
    loss = losses.make("simsiam")
    assert train(loss, seed, 2)[1] > 0.7
    loss._stop = normalise
    values, spread_out = train(loss, seed, 2)
    assert spread_out < 0.2
    assert values[-1] < -0.95  # which looks like success


@pytest.mark.parametrize("value", [0.1, 1.0, 1e6])
def test_a_column_that_does_not_vary_is_like_no_other(value):
    z = torch.randn(23, 2, generator=torch.Generator().manual_seed(0))
    z[:, 0] = value
    torch.testing.assert_close(losses.BarlowTwins()(z, z), torch.tensor(1.0))
    torch.testing.assert_close(losses.BarlowTwins()(z * 0 + value, z * 0 + value), torch.tensor(2.0))


def test_a_scale_that_went_too_far_comes_back():
    loss = losses.CLIP()
    with torch.no_grad():
        loss.log_scale.fill_(9)
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    loss(z, -z).backward()
    assert loss.log_scale.item() == pytest.approx(np.log(100))
    assert loss.log_scale.grad.item() > 0


def test_offline_triplets_beside_views_are_chosen_in_the_batch():
    loss = losses.make("triplet:mining=offline + simclr")
    z, y = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
    assert loss.refresh(z, y).mined_rows is None
    assert loss(z, z + 1, y).isfinite()


@pytest.mark.parametrize("name", ["infonce", "clip:same_type=0", "simclr"])
def test_a_view_has_the_code_of_the_cell_that_it_shows(name):
    """Codes of the second views that mark all other columns as of the row's type leave nothing to tell apart."""
    z1, z2, _, _ = views(2)
    y = torch.tensor([0, 1])
    value = build(name)(z1, z2, y, codes=torch.tensor([[0, 1], [1, 0]]))
    assert (value == 0) == (name != "simclr")
    assert value < build(name)(z1, z2, y)


def test_moco_keeps_the_code_of_the_second_view():
    loss = build("moco:queue=4")
    z1, z2, _, cells = views(2)
    loss(z1, z2, torch.tensor([0, 1]), cells=cells, codes=torch.tensor([[0, 1], [2, -1]]))
    assert loss.key_codes.tolist() == [2, -1, -1, -1]

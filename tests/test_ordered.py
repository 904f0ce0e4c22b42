"""Losses of values that have an order."""

import copy
import math

import numpy as np
import pytest
import torch
from oracles import assert_order_does_not_matter, run

from tripletomics import losses

ORDERED = losses.names(ordered=True)
TEXTS = [*ORDERED, "rnc:period=2.5", "rnc:temperature=0.5", "coral:thresholds=3", "rnc + 0.5*coral"]


@pytest.fixture(params=TEXTS)
def text(request):
    return request.param


def build(text, dim=4, dtype=torch.float64):
    torch.manual_seed(0)
    loss = losses.make(text)
    loss.build(dim, 0)
    return loss.to(dtype)


def batch(n=18, dim=4, dtype=torch.float64, distinct=5):
    draw = torch.Generator().manual_seed(1)
    z = torch.randn(n, dim, generator=draw, dtype=dtype)
    return z, torch.randint(distinct, (n,), generator=draw).double()


def rank_n_contrast(z, y, temperature=2.0, period=None):
    """The definition, cell by cell."""
    known = [i for i in range(len(y)) if not math.isnan(y[i])]

    def apart(i, j):
        d = abs(float(y[i]) - float(y[j]))
        return d if period is None else min(d % period, period - d % period)

    def s(i, j):
        return -float((z[i] - z[j]).norm()) / temperature

    total = 0.0
    for i in known:
        for j in (j for j in known if j != i):
            beyond = [k for k in known if k != i and apart(i, k) >= apart(i, j) - 1e-9]
            total += math.log(sum(math.exp(s(i, k)) for k in beyond)) - s(i, j)
    return total / len(known) / (len(known) - 1)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("rnc", {}),
        ("rnc:temperature=0.3", {"temperature": 0.3}),
        ("rnc:period=2.5", {"period": 2.5}),
        ("rnc:period=7", {"period": 7}),
    ],
)
@pytest.mark.parametrize("distinct", [2, 5, 1000])
def test_rank_n_contrast_against_loops(text, given, distinct):
    z, y = batch(distinct=distinct)
    y[[3, 7]] = torch.nan
    assert float(losses.make(text)(z, y)) == pytest.approx(rank_n_contrast(z, y, **given), rel=1e-10)


def test_distances_that_differ_by_rounding_are_equal():
    """0.3 - 0.2 is less than 0.2 - 0.1 in floating-point numbers."""
    z, y = batch()
    whole, tenths = (losses.make("rnc")(z, values) for values in (y, y / 10 + 1000))
    torch.testing.assert_close(tenths, whole)


@pytest.mark.parametrize("shift", [0.25, 2.5, -10])
def test_a_circle_has_no_beginning(shift):
    z, y = batch()
    loss = losses.make("rnc:period=2.5")
    torch.testing.assert_close(loss(z, y + shift), loss(z, y))


def test_coral_against_loops():
    z, y = batch(distinct=100)
    loss = build("coral:thresholds=4")
    found = float(loss(z, y).detach())
    cuts = sorted(float(v) for v in np.quantile((y - y.min()).numpy(), [0.2, 0.4, 0.6, 0.8], method="lower"))
    np.testing.assert_allclose(loss.cuts.numpy(), cuts)
    with torch.no_grad():
        loss.bias += torch.tensor([1.0, 0.5, 0.0, -1.0])
    total = 0.0
    for i in range(len(y)):
        for cut, bias in zip(cuts, loss.bias.tolist(), strict=True):
            p = 1 / (1 + math.exp(-float(z[i] @ loss.direction.detach()) - bias))
            total -= math.log(p if y[i] - y.min() > cut else 1 - p)
    assert float(loss(z, y).detach()) == pytest.approx(total / len(y) / 4)
    assert found > 0


def test_order_of_the_cells_does_not_matter(text):
    assert_order_does_not_matter(build(text), *batch())


def test_float32_is_near_float64(text):
    z, y = batch(dtype=torch.float32)
    value, gradient = run(build(text, dtype=torch.float32), z, y)
    double = run(build(text, dtype=torch.float32).double(), z.double(), y)
    torch.testing.assert_close(value.double(), double[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient.double(), double[1], rtol=1e-3, atol=1e-5)


def test_gradcheck(text):
    loss, (z, y) = build(text).eval(), batch(8)
    loss(z, y)  # which chooses the thresholds
    assert torch.autograd.gradcheck(lambda z: loss(z, y), (z.requires_grad_(),))


@pytest.mark.parametrize("fill", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_cells_at_one_point_or_of_one_value(text, fill, dtype):
    z, y = batch(dtype=dtype)
    run(build(text, dtype=dtype), torch.full_like(z, fill), y)
    run(build(text, dtype=dtype), z, torch.full_like(y, fill))


@pytest.mark.parametrize("y", [[], [1], [1, 2], [math.nan] * 4, [1, math.nan, 2]], ids=str)
def test_fewer_than_three_values_give_zero(text, y):
    z = torch.randn(len(y), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    value, gradient = run(build(text), z, torch.tensor(y, dtype=torch.float64))
    assert value == 0
    assert not gradient.any()
    assert not losses.make("rnc").has_terms(np.array(y, dtype=float))


def test_missing_values_are_ignored(text):
    loss, (z, y) = build(text), batch()
    hidden = torch.arange(len(y)) % 5 == 0
    value, gradient = run(loss, z, torch.where(hidden, torch.nan, y))
    alone, rest = run(loss, z[~hidden], y[~hidden])
    assert value == alone
    assert (gradient[hidden] == 0).all()
    torch.testing.assert_close(gradient[~hidden], rest, rtol=1e-12, atol=1e-15)


def test_loss_falls(text):
    loss, (z, y) = build(text, 2, torch.float32), batch(40, 2, torch.float32)
    z = z.clone().requires_grad_()
    optimizer = torch.optim.Adam([{"params": [z], "lr": 0.05}, *loss.parameter_groups(0.005)])
    start = loss(z, y).item()
    for _ in range(150):
        optimizer.zero_grad()
        value = loss(z, y)
        value.backward()
        optimizer.step()
    assert z.isfinite().all()
    assert value.item() < 0.9 * start


def test_build_starts_afresh_from_torchs_generator(text):
    loss, (z, y) = build(text), batch()
    first = copy.deepcopy(loss.state_dict())
    loss(z, y)
    torch.manual_seed(0)
    loss.build(4, 0)
    for key, tensor in loss.double().state_dict().items():
        torch.testing.assert_close(tensor, first[key], rtol=0, atol=0, equal_nan=True)
    assert losses.spec(losses.make(losses.spec(loss))) == losses.spec(loss)


@pytest.mark.parametrize(
    ("z", "y", "message"),
    [
        (torch.zeros(3), torch.zeros(3), r"got z \(3,\) and y \(3,\)"),
        (torch.zeros(3, 2), torch.zeros(4), r"got z \(3, 2\) and y \(4,\)"),
        (torch.zeros(3, 2), torch.zeros(3).long(), r"y holds torch\.int64: pass values as floating-point numbers"),
        (torch.zeros(3, 2), torch.tensor([0, 1, math.inf]), "y has infinite values: replace them by NaN"),
    ],
)
def test_input_that_does_not_fit(z, y, message):
    for name in ORDERED:
        with pytest.raises(ValueError, match=message):
            build(name, 2)(z, y)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rnc:temperature=0", r"rnc: temperature=0\.0 is not a number in \(0, inf\)"),
        ("rnc:period=0", r"rnc: period=0\.0 is not a number in \(0, inf\)"),
        ("rnc:period=-24", r"rnc: period=-24\.0 is not a number in \(0, inf\)"),
        ("rnc:period=nan", "rnc: period=nan is not a number"),
        ("coral:thresholds=0", r"coral: thresholds=0 is not a whole number in \[1, 1000\]"),
        ("coral:period=24", "coral has no setting 'period'"),
    ],
)
def test_settings_out_of_range(text, message):
    with pytest.raises(ValueError, match=message):
        losses.make(text)


def test_coral_needs_weights():
    with pytest.raises(RuntimeError, match="coral has no weights yet"):
        losses.make("coral")(*batch())


def test_names():
    assert ORDERED == ["coral", "rnc"]
    assert not {*ORDERED} & {*losses.names(ordered=False)}
    assert losses.make("rnc + coral").ordered

"""The proxy losses against plain loops over cells and classes, and what they do at the edges."""

import copy
import math

import numpy as np
import pytest
import torch
from oracles import assert_same
from pytorch_metric_learning import losses as pml

from tripletomics import losses
from tripletomics.losses.centers import SoftTriple
from tripletomics.losses.proxies import AdaCos, ArcFace, CosFace, NormSoftmax, ProxyNCA

NAMES = ("normsoftmax", "arcface", "cosface", "adacos", "proxynca", "softtriple", "hardtriple")


def batch(n=30, dim=3, classes=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(n, dim, generator=draw, dtype=torch.float64)
    return z.requires_grad_(), torch.randint(-1, classes, (n,), generator=draw)


def built(loss, dim=3, classes=4, seed=0):
    torch.manual_seed(seed)
    loss = losses.make(loss)
    loss.build(dim, classes)
    return loss.double()


def set_proxies(loss, rows):
    with torch.no_grad():
        loss.proxies.copy_(torch.as_tensor(rows, dtype=torch.float64))
    return loss


def dot(a, b):
    return (a * b).sum() / (a * a).sum().sqrt() / (b * b).sum().sqrt()


def cross_entropy(scores, code):
    return torch.log(sum(torch.exp(score - scores[code]) for score in scores))


def cell_loops(loss, x, w, code):
    """Compute the loss of one cell by its definition, with acos and without any care for precision."""
    if isinstance(loss, NormSoftmax):
        return cross_entropy([dot(x, p) / loss.temperature for p in w], code)
    if isinstance(loss, ArcFace):
        cos = [dot(x, p) for p in w]
        theta = torch.acos(cos[code])
        if loss.easy:
            cos[code] = torch.cos(theta + loss.margin) if theta < math.pi / 2 else cos[code]
        elif theta < math.pi - loss.margin:
            cos[code] = torch.cos(theta + loss.margin)
        else:
            cos[code] = cos[code] - loss.margin * math.sin(loss.margin)
        return cross_entropy([loss.scale * c for c in cos], code)
    if isinstance(loss, CosFace):
        return cross_entropy([loss.scale * (dot(x, p) - loss.margin * (k == code)) for k, p in enumerate(w)], code)
    if isinstance(loss, AdaCos):
        return cross_entropy([loss.scale.item() * dot(x, p) for p in w], code)
    if isinstance(loss, ProxyNCA):
        near = [torch.exp(-(9 if loss.plus else 1) * ((x / x.norm() - p / p.norm()) ** 2).sum()) for p in w]
        return -torch.log(near[code] / sum(e for k, e in enumerate(near) if loss.plus or k != code))
    scores = []
    for centers in w:
        cos = [dot(x, p) for p in centers]
        if isinstance(loss, SoftTriple):
            weight = [torch.exp(c / loss.gamma) for c in cos]
            scores.append(sum(share * c for share, c in zip(weight, cos, strict=True)) / sum(weight))
        else:
            scores.append(max(cos))
    return cross_entropy([loss.scale * (s - loss.margin * (k == code)) for k, s in enumerate(scores)], code)


def loops(loss, z, y):
    w = loss.proxies
    cells = [i for i in range(len(y)) if y[i] >= 0]
    value = sum(cell_loops(loss, z[i], w, int(y[i])) for i in cells) / len(cells)
    if isinstance(loss, SoftTriple):
        classes, k = w.shape[:2]
        for centers in w:
            for s in range(k):
                for t in range(s + 1, k):
                    apart = torch.sqrt(2 + 1e-5 - 2 * dot(centers[s], centers[t]))
                    value = value + loss.tau * apart / (classes * k * (k - 1))
    return value


VARIANTS = """normsoftmax:temperature=0.7 arcface:scale=5,margin=0.8 arcface:scale=5,margin=1.4 arcface:margin=0
arcface:scale=9,easy=true cosface:scale=3,margin=1.1 proxynca:plus=true softtriple:centers=1 softtriple:centers=2,tau=0
softtriple:centers=3,gamma=0.6,tau=2,margin=0.3,scale=4 hardtriple:centers=3,margin=0.3,scale=4 hardtriple:centers=1"""


@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("text", [*NAMES, *VARIANTS.split()])
def test_against_loops(text, dim):
    z, y = batch(dim=dim)
    loss = built(text, dim).eval()
    assert_same(loss(z, y), loops(loss, z, y), z, loss.proxies)


def test_defaults():
    made = [repr(losses.make(name)) for name in NAMES]
    assert made == [
        "NormSoftmax(temperature=0.05)",
        "ArcFace(scale=64.0, margin=0.5, easy=False)",
        "CosFace(scale=64.0, margin=0.35)",
        "AdaCos()",
        "ProxyNCA(plus=False)",
        "SoftTriple(centers=10, scale=20.0, gamma=0.1, margin=0.01, tau=0.2)",
        "HardTriple(centers=10, scale=20.0, margin=0.01)",
    ]


@pytest.mark.parametrize(
    ("text", "theirs", "weight"),
    [
        ("normsoftmax:temperature=0.2", pml.NormalizedSoftmaxLoss(4, 5, temperature=0.2), "W"),
        ("arcface:margin=0.6,scale=10", pml.ArcFaceLoss(4, 5, margin=math.degrees(0.6), scale=10), "W"),
        ("arcface:margin=1.3,scale=10", pml.ArcFaceLoss(4, 5, margin=math.degrees(1.3), scale=10), "W"),
        ("cosface:margin=0.2,scale=10", pml.CosFaceLoss(4, 5, margin=0.2, scale=10), "W"),
        ("proxynca:plus=true", pml.ProxyNCALoss(4, 5, softmax_scale=9), "proxies"),
        (
            "softtriple:centers=3,tau=0,gamma=0.3,margin=0.1",
            pml.SoftTripleLoss(4, 5, centers_per_class=3, la=20, gamma=0.3, margin=0.1),
            "fc",
        ),
    ],
)
def test_against_pytorch_metric_learning(text, theirs, weight):
    z, y = batch(60, 5, seed=1)
    z = z.detach()[y >= 0].requires_grad_()
    y = y[y >= 0]
    loss = built(text, 5)
    rows = loss.proxies.detach().flatten(0, -2)
    setattr(theirs, weight, torch.nn.Parameter(rows if weight == "proxies" else rows.T.contiguous()))
    assert_same(loss(z, y), theirs(z, y), z)


def adacos_scale(scale, z, y, w):
    """Recompute the scale after one batch in numpy, by the paper's formula."""
    z, w = z[y >= 0], w / np.linalg.norm(w, axis=1, keepdims=True)
    y = y[y >= 0]
    cos = z / np.linalg.norm(z, axis=1, keepdims=True) @ w.T
    own = np.arange(cos.shape[1]) == y[:, None]
    b = np.where(own, 0, np.exp(scale * cos)).sum(1).mean()
    theta = np.sort(np.arccos(cos[own]))[(len(y) - 1) // 2]
    return float(np.clip(np.log(b) / np.cos(min(np.pi / 4, theta)), 0.4, 64))


@pytest.mark.parametrize("near", [0.0, 0.9])  # median angle above and below pi / 4
@pytest.mark.parametrize("n", [30, 31])
def test_adacos_scale_over_batches(near, n):
    loss = built("adacos", 6, 5)
    scale = math.sqrt(2) * math.log(4)
    assert loss.scale.item() == pytest.approx(scale)
    for seed in range(4):
        z, y = batch(n, 6, 5, seed=seed)
        with torch.no_grad():
            z.mul_(1 - near).add_(4 * near * loss.proxies[y.clamp(min=0)] / loss.proxies.norm())
        scale = adacos_scale(scale, z.detach().numpy(), y.numpy(), loss.proxies.detach().numpy())
        value = loss(z, y)
        assert loss.scale.item() == pytest.approx(scale, rel=1e-6)
        assert_same(value, loops(loss, z, y), z, loss.proxies)  # the new scale is used, and has no gradient
        assert loss.trace()["scale"].item() == loss.scale.item()
    assert 0.4 < scale < 64


def test_adacos_keeps_its_scale_in_evaluation_and_without_labels():
    z, y = batch()
    loss = built("adacos")
    before = loss.scale
    loss(z, torch.full_like(y, -1))
    loss.eval()(z, y)
    assert torch.equal(loss.scale, before)
    traced = loss.trace()["scale"]
    first = loss.train()(z, y)
    second = loss(z * 1.1, y.flip(0))  # moves the scale again before the first backward pass
    assert loss.scale != before
    assert traced == before
    (first + second).backward()
    assert "scale" in loss.state_dict()
    loss.build(3, 4)
    assert loss.scale.item() == pytest.approx(math.sqrt(2) * math.log(3))
    assert loss.scale.dtype == torch.float32


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_adacos_with_few_classes(classes):
    z, y = batch(classes=classes)
    loss = built("adacos", 3, classes)
    optimizer = torch.optim.Adam([z, loss.proxies], lr=0.05)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(z, y)
        value.backward()
        optimizer.step()
        values.append(value.item())
        assert 0.4 <= loss.scale <= 64
    assert values[-1] < 0.9 * values[0] or classes == 1
    assert classes < 3 or loss.scale > 0.4  # the floor binds only where the formula fails


def test_adacos_scale_does_not_run_away_on_a_circle():
    z, y = batch(400, 2, 50)
    loss = built("adacos", 2, 50)
    for _ in range(40):  # random cells: most angles exceed pi / 4
        assert loss(z, y).isfinite()
    assert loss.scale == 64


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, math.pi - 1e-4, math.pi])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("text", NAMES)
def test_at_and_near_the_poles(text, dtype, angle):
    """A cell on its proxy or opposite to it: finite, and float32 as good as float64."""
    directions = [[1.0, 0.0], [math.cos(2.0), math.sin(2.0)], [math.cos(4.0), math.sin(4.0)]]
    loss = built(text + (":centers=1" if "triple" in text else ""), 2, 3).eval()
    set_proxies(loss, torch.tensor(directions, dtype=torch.float64).view_as(loss.proxies))
    z = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=dtype, requires_grad=True)
    y = torch.tensor([0])
    value, exact = copy.deepcopy(loss).to(dtype)(z, y), loss(z.double(), y)
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
    gradient, wanted = (torch.autograd.grad(v, z, retain_graph=True)[0] for v in (value, exact))
    assert gradient.abs().max() < 1e3  # and so is no NaN
    torch.testing.assert_close(gradient, wanted, rtol=1e-2, atol=1e-4)


def test_arcface_in_2d_for_300_steps():
    z, y = batch(64, 2, 8)
    loss = built("arcface", 2, 8).float()
    z = z.detach().float().requires_grad_()
    optimizer = torch.optim.Adam([z, loss.proxies], lr=0.02)
    start = loss(z, y).item()
    for _ in range(300):
        optimizer.zero_grad()
        value = loss(z, y)
        value.backward()
        assert z.grad.isfinite().all()
        assert loss.proxies.grad.isfinite().all()
        optimizer.step()
    assert value.item() < 0.5 * start


def test_proxynca_of_one_class_and_below_0():
    z, y = batch(classes=1)
    for text in ("proxynca", "proxynca:plus=true"):
        value = built(text, 3, 1)(z, y)
        assert value == 0
        assert (torch.autograd.grad(value, z)[0] == 0).all()
    loss = set_proxies(built("proxynca", 2, 2), [[1.0, 0.0], [-1.0, 0.0]])
    assert loss(torch.tensor([[3.0, 0.0]]), torch.tensor([0])).item() == pytest.approx(-4)  # 0 - 2^2


def test_surviving_centers():
    def at(*angles):
        return [[math.cos(a), math.sin(a)] for a in angles]

    # at one point, all apart, a chain in any order, one pair near enough, the same across the cut of the circle
    angles = [(0, 0, 0, 0), (0, 0.5, 1, 3), (0.16, 0, 0.08, 2), (0, 0.11, 3, 3.09), (0.099, -0.002, 3.1, -3.1)]
    rows = [at(*row) for row in angles]
    for name in ("softtriple", "hardtriple"):
        loss = set_proxies(built(f"{name}:centers=4", 2, 5), 7 * torch.tensor(rows))  # lengths do not matter
        assert loss.surviving().dtype == torch.int64
        assert loss.surviving().tolist() == [1, 4, 2, 3, 3]
        found = loss.summary_arrays()
        assert list(found) == ["surviving_centers"]
        np.testing.assert_array_equal(found["surviving_centers"], [1, 4, 2, 3, 3])
        assert built(f"{name}:centers=1", 2, 3).surviving().tolist() == [1, 1, 1]
    chain = at(*(0.09 * (7 * step % 30) for step in range(30)))  # neighbours lie far apart in the list
    assert set_proxies(built("hardtriple:centers=30", 2, 1), [chain]).surviving().tolist() == [1]


@pytest.mark.parametrize(("tau", "left"), [(0.2, [2, 1]), (0, [5, 5])])
def test_softtriple_merges_the_centers_that_a_class_does_not_need(tau, left):
    y = torch.arange(60) % 2
    z = 0.1 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    z[y == 1, 0] += 1.0  # one cluster
    z[y == 0, 1] += torch.where(torch.arange(30) < 15, 1.0, -1.0)  # two clusters
    loss = built(f"softtriple:centers=5,tau={tau}", 3, 2).float()
    optimizer = torch.optim.Adam([loss.proxies], lr=0.01, eps=loss.parameter_eps)
    for _ in range(900):
        optimizer.zero_grad()
        loss(z, y).backward()
        optimizer.step()
    assert loss.surviving().tolist() == left


def test_hooks_of_training():
    for name in NAMES:
        loss = losses.make(name)
        assert loss.normalised
        assert loss.parameter_lr == 10
        assert loss.parameter_eps == (0.01 if "triple" in name else 1e-8)
    assert not losses.make("softmax").normalised

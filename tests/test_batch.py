import math

import numpy as np
import pytest
import torch
from oracles import assert_same, batch
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import losses as pml

from tripletomics import losses
from tripletomics.losses.batch import NCA, SupCon


def loops(z, y, loss):
    """Compute the loss by its definition, one anchor at a time."""
    cells = [i for i in range(len(y)) if y[i] >= 0]
    terms = []
    for a in cells:
        others = [k for k in cells if k != a]
        positives = [p for p in others if y[p] == y[a]]
        if not positives:
            continue
        if isinstance(loss, NCA):
            weight = {k: torch.exp(-loss.scale * ((z[a] - z[k]) ** 2).sum()) for k in others}
            terms.append(-torch.log(sum(weight[p] for p in positives) / sum(weight.values())))
        else:
            cosine = {k: z[a] @ z[k] / (z[a].norm() * z[k].norm()) for k in others}
            weight = {k: torch.exp(cosine[k] / loss.temperature) for k in others}
            shares = [weight[p] / sum(weight.values()) for p in positives]
            terms.append(-sum(torch.log(share) for share in shares) / len(shares))
    return sum(terms) / len(terms)


LOSSES = [NCA(), NCA(scale=0.05), NCA(scale=20), SupCon(), SupCon(temperature=1), SupCon(temperature=0.02)]


@pytest.mark.parametrize("loss", LOSSES, ids=losses.spec)
@pytest.mark.parametrize("classes", [2, 4, 15])  # 15: most anchors have no positive
def test_against_loops(loss, classes):
    z, y = batch(classes=classes)
    assert_same(loss(z, y), loops(z, y, loss), z)


def test_worked_numbers_of_the_docstring():
    z, y = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64), torch.tensor([0, 0, 1])
    first = -math.log(math.exp(-1) / (math.exp(-1) + math.exp(-4)))
    assert first == pytest.approx(0.0486, abs=1e-4)
    assert NCA()(z, y).item() == pytest.approx((first + math.log(2)) / 2)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_nca_against_pytorch_metric_learning(scale):
    """Theirs takes the mean over the anchors whose mass is not 0, which are those with a positive."""
    z, y = batch(40, classes=20)
    known = y >= 0
    squared = pml_distances.LpDistance(normalize_embeddings=False, power=2)
    assert_same(NCA(scale=scale)(z, y), pml.NCALoss(softmax_scale=scale, distance=squared)(z[known], y[known]), z)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_supcon_against_pytorch_metric_learning(temperature):
    """Theirs takes the mean over the anchors above 0, which are those with a positive."""
    z, y = batch(40, classes=20)
    known = y >= 0
    assert_same(SupCon(temperature=temperature)(z, y), pml.SupConLoss(temperature=temperature)(z[known], y[known]), z)


def test_anchors_without_a_positive_count_as_negatives_only():
    z, _ = batch(5)
    y = torch.tensor([0, 0, 1, 2, 3])
    for loss in (NCA(), SupCon()):
        gradient = torch.autograd.grad(loss(z, y), z)[0]
        assert (gradient[2:] != 0).all()  # they are pushed away
        assert loss(z, y) > loss(z[:3], y[:3])


@pytest.mark.parametrize("loss", [NCA(), SupCon()], ids=losses.spec)
def test_nothing_to_compare_is_a_connected_zero(loss):
    z, y = batch()
    for codes in (torch.full_like(y, -1), torch.arange(len(y)), torch.where(torch.arange(len(y)) == 3, 0, -1)):
        value = loss(z, codes)
        assert value == 0
        assert value.dtype == z.dtype
        assert (torch.autograd.grad(value, z)[0] == 0).all()
    empty = torch.zeros(0, 3, requires_grad=True)
    assert torch.autograd.grad(loss(empty, y[:0]), empty)[0].shape == (0, 3)


def test_one_class():
    """NCA has no wrong choice left, SupCon still spreads its choices evenly."""
    z, y = batch(6)
    value = NCA()(z, torch.zeros_like(y))
    assert value == 0
    assert (torch.autograd.grad(value, z)[0] == 0).all()
    assert SupCon()(torch.ones(6, 3), torch.zeros_like(y)).item() == pytest.approx(math.log(5))


@pytest.mark.parametrize(
    ("y", "nca", "supcon"),
    [
        ([], False, False),
        ([-1, -1], False, False),
        ([0, -1, 0], False, False),
        ([0, 0, 0], False, True),
        ([0, 1, 2], False, False),
        ([0, 1, 0], True, True),
    ],
)
def test_has_terms(y, nca, supcon):
    codes = np.array(y, dtype=int)
    z = torch.randn(len(y), 2, generator=torch.Generator().manual_seed(0))
    for loss, expected in ((NCA(), nca), (SupCon(), supcon)):
        assert loss.has_terms(codes) is expected
        assert (loss(z, torch.from_numpy(codes)) != 0) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", LOSSES, ids=losses.spec)
def test_unlabelled_cells_get_no_gradient(loss, dtype):
    z, y = batch()
    z = z.detach().to(dtype).requires_grad_()
    value = loss(z, y)
    assert value.dtype == dtype
    gradient = torch.autograd.grad(value, z)[0]
    assert (gradient[y < 0] == 0).all()
    assert (gradient[y >= 0] != 0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", LOSSES, ids=losses.spec)
@pytest.mark.parametrize(
    "z",
    [
        [[1.0, 2.0]] * 4,
        [[0.0, 0.0]] * 4,
        [[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]],
        [[1.0, 1.0], [-1.0, -1.0], [1.0, 1.0], [2.0, 2.0]],
        [[1e3, 0.0], [0.0, 1e3], [-1e3, 5.0], [7.0, 7.0]],
        [[1e-3, 0.0], [0.0, 1e-3], [-1e-3, 0.0], [0.0, 0.0]],
    ],
    ids=["collapsed", "all zero", "zero rows and duplicates", "opposites", "far", "tiny"],
)
def test_finite_everywhere(z, loss, dtype):
    z = torch.tensor(z, dtype=dtype, requires_grad=True)
    for codes in ([0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, -1], [0, 0, -1, -1], [0, 1, -1, -1]):
        value = loss(z, torch.tensor(codes))
        assert value.isfinite()
        assert torch.autograd.grad(value, z)[0].isfinite().all()


def test_collapsed_batch_has_the_value_of_an_even_choice():
    z, y = torch.ones(6, 3, dtype=torch.float64), torch.tensor([0, 0, 0, 1, 1, 1])
    assert NCA()(z, y).item() == pytest.approx(math.log(5 / 2))
    assert SupCon()(z, y).item() == pytest.approx(math.log(5))


def test_nca_keeps_its_digits():
    """Far from the origin, and where nearly all of the mass is right."""
    z, y = batch(40)
    exact = (z.detach() * 2**10).round() / 2**10  # float32 holds them beside 4096
    assert NCA()((exact + 4096).float(), y).item() == pytest.approx(NCA()(exact, y).item(), rel=1e-6)
    apart = torch.tensor([[0.0], [0.5], [7.0]], dtype=torch.float64)
    first, second = math.exp(-49 + 0.25), math.exp(-42.25 + 0.25)
    assert NCA()(apart, torch.tensor([0, 0, 1])).item() == pytest.approx((first + second) / 2, rel=1e-12)


def test_only_directions_count_for_supcon():
    z, y = batch()
    stretched = z * torch.arange(1, len(y) + 1)[:, None]
    torch.testing.assert_close(SupCon()(stretched, y), SupCon()(z, y))
    assert SupCon.normalised
    assert not getattr(NCA, "normalised", False)
    assert losses.make("supcon:temperature=0.5").temperature == 0.5
    assert repr(SupCon()) == "SupCon(temperature=0.1)"  # normalised is no setting

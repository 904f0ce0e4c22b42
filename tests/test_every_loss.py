"""What holds for every registered loss of labelled cells; the others are in test_views.py and test_ordered.py."""

import copy
import re

import numpy as np
import pytest
import torch
from oracles import assert_order_does_not_matter, run

from tripletomics import augment, devices, geometry, losses, training
from tripletomics.metrics import knn_macro_f1, recall_at_k
from tripletomics.samplers import Balanced
from tripletomics.sources import Memory

NAMES = losses.names(views=1, ordered=False)
# center cannot stand alone
FAMILY = [name.replace("center", "softmax + 0.003*center") for name in NAMES] + ["triplet:mining=offline"]

VARIANTS = {
    "triplet": [
        "triplet",
        "triplet:soft=true",
        "triplet:reduction=all",
        "triplet:reduction=sum",
        *(f"triplet:mining={mining}" for mining in ("hard", "semihard", "easy_positive")),
        *(f"triplet:soft=true,mining={mining}" for mining in ("hard", "semihard", "easy_positive")),
        *(f"triplet:distance={d}" for d in geometry.DISTANCES if d != "euclidean"),
        "triplet:mining=hard,distance=angular",
        "triplet:mining=band",
        "triplet:mining=band,reduction=all,lo=-2,hi=1",
        "triplet:mining=band,soft=true,lo=-2,hi=1",
        "triplet:mining=curriculum,start=0.5",
        "triplet:mining=curriculum,soft=true,shuffled=true",
        "triplet:mining=offline",
        "triplet:distance=minkowski,p=3",
        "triplet:distance=minkowski,p=inf",
    ],
    "contrastive": [f"contrastive:distance={d}" for d in ("euclidean", "sqeuclidean", "cosine", "angular")],
}
TEXTS = [text for name in NAMES for text in VARIANTS.get(name, [name])] + ["softmax + 0.003*center"]
PROMPT = [
    "softmax", "normsoftmax", "arcface", "cosface", "adacos", "proxynca", "softtriple", "hardtriple", "contrastive",
    "softmax + 0.003*center",
]  # on a GPU the next step is prepared while they still run  # fmt: skip
SMALL = [
    [0, 0, 0, 0], [0, 1, 2, 3], [0, 0], [0, 1], [1], [], [0, 0, 1], [0, 0, 1, 1], [-1, -1, -1], [-1, 0, -1],
    [0, 0, 0, 1, 2],
]  # fmt: skip
MISFITS = [
    (torch.zeros(3), torch.zeros(3).long(), r"got z \(3,\) and y \(3,\)"),
    (torch.zeros(3, 2), torch.zeros(4).long(), r"got z \(3, 2\) and y \(4,\)"),
    (torch.zeros(3, 2), torch.zeros(3), r"y holds torch\.float32: pass class codes as whole numbers"),
    (torch.zeros(3, 2), torch.zeros(3, dtype=torch.bool), r"y holds torch\.bool"),
]


@pytest.fixture(params=TEXTS)
def text(request):
    return request.param


def build(text, dim=2, n_classes=6, dtype=torch.float64):
    torch.manual_seed(0)
    loss = losses.make(text)
    assert loss.build(dim, n_classes) is None
    if loss.epochs:
        loss.refresh(*batch(dim=dim, n_classes=n_classes))
    return loss.to(dtype)


def batch(n=24, dim=2, n_classes=4, dtype=torch.float64):
    draw = torch.Generator().manual_seed(1)
    z = torch.randn(n, dim, generator=draw, dtype=dtype)
    return z.requires_grad_(), torch.arange(n) % n_classes


@pytest.mark.parametrize("dim", [2, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_are_finite_in_both_precisions(text, dtype, dim):
    z, y = batch(dim=dim, dtype=dtype)
    value, gradient = run(build(text, dim, dtype=dtype), z, y)
    assert value > 0
    assert gradient.abs().sum() > 0
    double = run(build(text, dim, dtype=dtype).double(), z.double(), y)
    torch.testing.assert_close(value.double(), double[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient.double(), double[1], rtol=1e-3, atol=1e-4 * double[1].abs().max().item())


def test_double_embeddings_need_no_double_parameters(text):
    z, y = batch()
    run(build(text, dtype=torch.float32), z, y)


def test_order_does_not_matter(text):
    assert_order_does_not_matter(build(text), *batch())


def test_gradcheck(text):
    loss, (z, y) = build(text).eval(), batch(10, n_classes=3)
    assert torch.autograd.gradcheck(lambda z: loss(z, y), (z,))


def test_int32_codes_are_the_same(text):
    loss, (z, y) = build(text), batch()
    assert run(loss, z, y.int())[0] == run(loss, z, y)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_cells_at_one_point(text, dtype):
    loss, (_, y) = build(text, dtype=dtype), batch()
    for fill in (0, 1):
        run(loss, torch.full((len(y), 2), fill, dtype=dtype), y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_duplicates_and_opposites(text, dtype):
    z, y = batch(dtype=dtype)
    z = z.detach()
    z[4], z[8], z[1], z[2], z[3] = z[0], z[0], z[0], -z[0], 0  # of its own class, of another one, across, at the origin
    run(build(text, dtype=dtype), z, y)


def test_small_batches(text):
    """One class, singletons, two classes, two cells, one, none, no label."""
    loss = build(text)
    for y in SMALL:
        z = torch.randn(len(y), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        run(loss, z, torch.tensor(y, dtype=torch.int64))


def test_nothing_labelled_is_a_connected_zero_that_moves_nothing(text):
    loss, (z, y) = build(text), batch()
    before = copy.deepcopy(loss.state_dict())
    value = loss(z, torch.full_like(y, -1))
    assert value == 0
    value.backward()
    assert (z.grad == 0).all()
    for key, tensor in loss.state_dict().items():
        assert torch.equal(tensor, before[key])


def test_unlabelled_cells_are_ignored(text):
    loss, (z, y) = build(text), batch()
    hidden = torch.arange(len(y)) % 5 == 0
    value, gradient = run(loss, z, torch.where(hidden, -1, y))
    alone, rest = run(loss, z[~hidden], y[~hidden])
    assert value == alone
    assert (gradient[hidden] == 0).all()
    assert torch.equal(gradient[~hidden], rest)


@pytest.mark.parametrize("text", PROMPT)
def test_a_step_asks_the_device_for_nothing(text):
    """A tensor on `meta` has no values: whatever had to read one on the way would fail."""
    loss, (_, y) = build(text, dtype=torch.float32).to("meta"), batch()
    for codes in (y, torch.where(y == 1, -1, y)):
        z = torch.empty(len(y), 2, device="meta", requires_grad=True)
        loss(z, codes).backward()
        assert z.grad.device == z.device


def test_loss_falls_in_2d(text):
    loss, (z, y) = build(text, dtype=torch.float32), batch(60, dtype=torch.float32)
    z = (z.abs() if "jaccard" in text else z).detach().clone().requires_grad_()  # which is flat below 0
    trained = [parameter for parameter in loss.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam([z, *trained], lr=0.02)
    first, start = z.detach().clone(), loss(z, y).item()
    for _ in range(200):
        optimizer.zero_grad()
        value = loss(z, y)
        value.backward()
        assert z.grad.isfinite().all()
        optimizer.step()
    assert z.isfinite().all()
    # the mean over nonzero triplets forgets the solved ones, so judge all of them
    if text.startswith("triplet") and "soft" not in text and "mining" not in text and "reduction" not in text:
        judge = losses.make(text + ("," if ":" in text else ":") + "reduction=all")
        start, value = judge(first, y).item(), judge(z, y)
    assert value.item() < 0.9 * start


@pytest.mark.parametrize("text", FAMILY)
def test_two_classes(text):
    loss, (z, y) = build(text, 8, 2, dtype=torch.float32), batch(40, 8, 2, dtype=torch.float32)
    z = z.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([{"params": [z], "lr": 0.05}, *loss.parameter_groups(0.005)])
    for _ in range(300):
        optimizer.zero_grad()
        loss(z, y).backward()
        optimizer.step()
    assert z.isfinite().all()
    assert recall_at_k(z.detach().numpy(), y.numpy()) > 0.9


@pytest.mark.parametrize("text", FAMILY)
def test_training_improves_held_out_cells(text):
    random = np.random.default_rng(0)
    y = np.arange(400) % 4
    x = random.normal(size=(400, 20)).astype(np.float32)
    x[:, :4] += 2 * np.eye(4, dtype=np.float32)[y]
    train = np.arange(400) < 280
    loss, network = build(text, 8, 4, dtype=torch.float32), torch.nn.Linear(20, 8)

    def f1():
        z = network(torch.from_numpy(x)).detach().numpy()
        return knn_macro_f1(z[train], y[train], z[~train], y[~train])

    before = f1()
    training.train(
        devices.start("cpu", "auto"), network, loss, Memory(x[train]), Balanced(y[train], 64, 0),
        torch.from_numpy(y[train]), steps=80, lr=1e-2, augment=augment.make(None), seed=0, watch=lambda *_: None,
    )  # fmt: skip
    assert f1() > before + 0.05


def test_state_dict_round_trip(text):
    loss, (z, y) = build(text), batch()
    for _ in range(3):
        loss(z, y)
    torch.manual_seed(9)
    other = losses.make(losses.spec(loss))
    other.build(2, 6)
    other.double().load_state_dict(loss.state_dict())
    assert run(other, z, y)[0] == run(loss, z, y)[0]


def test_copy_is_independent(text):
    loss, (z, y) = build(text), batch()
    value = run(loss, z, y)[0]
    twin = copy.deepcopy(loss)
    assert losses.spec(twin) == losses.spec(loss)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 1
    assert run(loss, z, y)[0] == value


def test_text_round_trip(text):
    loss = losses.make(text)
    assert losses.spec(losses.make(losses.spec(loss))) == losses.spec(loss)


def test_build_draws_proxies_from_torchs_generator(text):
    loss = losses.make(text)
    assert not list(loss.parameters())
    torch.manual_seed(5)
    loss.build(7, 3)
    first = copy.deepcopy(loss.state_dict())
    torch.manual_seed(5)
    loss.build(7, 3)  # again: starts afresh
    for key, tensor in loss.state_dict().items():
        torch.testing.assert_close(tensor, first[key], rtol=0, atol=0, equal_nan=True)
        if key.endswith("proxies"):
            assert tensor.shape[0] == 3
            assert tensor.shape[-1] == 7


def test_input_that_does_not_fit(text):
    loss = build(text)
    for z, y, message in MISFITS:
        with pytest.raises(ValueError, match=message):
            loss(z, y)


@pytest.mark.parametrize("name", losses.names())
def test_docstring_has_what_a_user_needs(name):
    cls = type(losses.make(name))
    for heading in (".. math::", "Notes\n", "References\n"):
        assert heading in cls.__doc__
    described = re.findall(r"^    (\w+(?:, \w+)*)$", cls.__doc__, re.MULTILINE)
    assert set(cls.__dataclass_fields__) <= {name for line in described for name in line.split(", ")}

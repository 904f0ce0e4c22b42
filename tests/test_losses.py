import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from oracles import assert_same, batch
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import losses as pml
from torch import nn

from tripletomics import losses
from tripletomics.losses import Center, Contrastive, Foreign, Loss, Softmax, Sum, Triplet

KNOWN = ", ".join(losses.names())


def test_softmax_against_torch():
    z, y = batch()
    torch.manual_seed(4)
    layer = nn.Linear(3, 4)
    torch.manual_seed(4)
    loss = Softmax()
    loss.build(3, 4)
    assert torch.equal(loss.proxies, layer.weight)  # the same draw
    assert torch.equal(loss.bias, torch.zeros(4))
    with torch.no_grad():
        loss.bias.copy_(layer.bias)
    loss, layer = loss.double(), layer.double()
    expected = F.cross_entropy(layer(z), y, ignore_index=-1)
    found = loss(z, y)
    assert_same(found, expected, z)
    for ours, theirs in ((loss.proxies, layer.weight), (loss.bias, layer.bias)):
        gradients = [torch.autograd.grad(v, p, retain_graph=True)[0] for v, p in ((found, ours), (expected, theirs))]
        torch.testing.assert_close(*gradients)


def test_center_against_loops():
    z, y = batch()
    loss = Center(alpha=0.3)
    loss.build(3, 4)
    loss = loss.double()
    centers = loss.proxies.detach().clone()
    for _ in range(3):
        known = [i for i in range(len(y)) if y[i] >= 0]
        expected = sum(((z[i] - centers[y[i]]) ** 2).sum() for i in known) / (2 * len(known))
        found = loss(z, y)
        moved = centers.clone()
        for j in range(4):
            mine = [i for i in known if y[i] == j]
            moved[j] -= 0.3 * sum((centers[j] - z[i].detach() for i in mine), torch.zeros(3)) / (1 + len(mine))
        torch.testing.assert_close(loss.proxies.detach(), moved)
        assert_same(found, expected, z)  # after the centers have moved: the value keeps those from before
        centers = moved


def test_center_moves_in_training_only():
    z, y = batch()
    loss = Center()
    loss.build(3, 4)
    before = loss.proxies.clone()
    loss.eval()(z, y)
    assert torch.equal(loss.proxies, before)
    loss.train()(z, y)
    assert not torch.equal(loss.proxies, before)
    assert isinstance(loss.proxies, nn.Parameter)
    assert not loss.proxies.requires_grad
    assert "proxies" in loss.state_dict()


@pytest.mark.parametrize("name", ["softmax", "center"])
def test_proxy_errors(name):
    loss = losses.make(name)
    z, y = batch()
    with pytest.raises(RuntimeError) as error:
        loss(z, y)
    assert str(error.value) == f"{name} has no proxies yet: call build(dim, n_classes) first."
    loss.build(3, 2)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        loss(z, y)
    assert str(error.value) == f"{name} was built for n_classes=2 (codes 0 to 1), but y holds 3."
    loss.build(5, 4)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        loss(z, y)
    assert str(error.value) == f"{name} was built for dim=5, but z has 3 columns."


def test_names():
    assert {"center", "contrastive", "softmax", "triplet"} <= set(losses.names())
    assert losses.names() == sorted(losses.names())
    assert losses.make("triplet").name == "triplet"
    assert repr(Contrastive(margin=2)) == "Contrastive(margin=2, distance='euclidean')"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("triplet", "triplet"),
        (" triplet:margin=0.2 ", "triplet"),
        ("triplet:margin=0.3,mining=hard,soft=true", "triplet:margin=0.3,mining=hard,soft=true"),
        ("softmax + 0.003*center", "softmax + 0.003*center"),
        ("softmax+.003 * center:alpha=0.1", "softmax + 0.003*center:alpha=0.1"),
        ("triplet:margin=0.3 + 0.1*softmax", "triplet:margin=0.3 + 0.1*softmax"),
        ("triplet:margin=1e+20+1e+3*softmax", "triplet:margin=1e+20 + 1000.0*softmax"),
        ("2*softmax", "2.0*softmax"),
        ("1*softmax", "softmax"),
        (Triplet(mining="hard"), "triplet:mining=hard"),
        (Softmax() + 0.003 * Center(), "softmax + 0.003*center"),
        (Softmax() * 2, "2.0*softmax"),
        (0.5 * (Softmax() + 0.5 * (Center() + Triplet())), "0.5*softmax + 0.25*center + 0.25*triplet"),
        (Sum(["softmax + 2*center", Triplet()], [3, 1]), "3.0*softmax + 6.0*center + triplet"),
    ],
)
def test_make_and_spec(given, expected):
    loss = losses.make(given)
    assert isinstance(loss, Loss)
    assert losses.spec(loss) == expected
    assert losses.spec(losses.make(expected)) == expected


def test_make_wants_a_loss():
    with pytest.raises(TypeError, match=r"^loss=Triplet is a class: pass an object, Triplet\(\)\.$"):
        losses.make(Triplet)
    with pytest.raises(TypeError, match=r"^loss=3 is neither text such as 'triplet:margin=0\.2' nor a torch module\.$"):
        losses.make(3)


def test_sum():
    z, y = batch()
    loss = losses.make("softmax + 0.003*center + 2*triplet:margin=0.7")
    assert isinstance(loss, Sum)
    assert isinstance(loss.members, nn.ModuleList)
    assert loss.build(3, 4) is None
    loss.eval()
    expected = [weight * member(z, y) for weight, member in zip((1, 0.003, 2), loss.members, strict=True)]
    assert_same(loss(z, y), sum(expected), z)
    assert [name for name, _ in loss.named_parameters()] == ["members.0.proxies", "members.0.bias", "members.1.proxies"]
    assert not any(member.training for member in loss.members)


def test_center_alone_is_refused():
    for text in ("center", "center:alpha=0.1", "center + 2*center", "2*center"):
        with pytest.raises(ValueError, match="alone moves all cells to one point"):
            losses.check(losses.make(text), 32)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        losses.check(Center(), 32)
    assert str(error.value) == (
        "loss='center' alone moves all cells to one point. "
        "Add a loss that keeps the classes apart, such as 'softmax + 0.003*center'."
    )
    for loss in ("triplet", "softmax", "contrastive", "softmax + 0.003*center", nn.CrossEntropyLoss()):
        losses.check(losses.make(loss), 32)


@pytest.mark.parametrize("text", ["arcface", "supcon", "triplet:distance=cosine", "softmax + angular", "softtriple"])
def test_directions_alone_need_more_than_three_dimensions(text):
    for dim, shape in ((2, "circle"), (3, "sphere")):
        with pytest.warns(UserWarning, match=f"metric_dim={dim} puts all cells on a {shape}.* Take metric_dim=32"):
            losses.check(losses.make(text), dim)


@pytest.mark.parametrize(("text", "dim"), [("arcface", 4), ("triplet", 2), ("softmax", 2), ("contrastive", 3)])
def test_no_warning_without_need(text, dim, recwarn):
    losses.check(losses.make(text), dim)
    assert not recwarn


def test_foreign_module():
    z, y = batch()
    theirs = pml.TripletMarginLoss(distance=pml_distances.LpDistance(normalize_embeddings=False), margin=0.2)
    loss = losses.make(theirs)
    assert isinstance(loss, Foreign)
    assert losses.make(loss) is loss
    loss.build(3, 4)
    assert_same(loss(z, y), Triplet()(z, y), z)
    value = loss(z, torch.full_like(y, -1))
    value.backward()
    assert value == 0
    assert (z.grad == 0).all()
    assert losses.spec(loss) == "pytorch_metric_learning.losses.triplet_margin_loss.TripletMarginLoss"
    both = Softmax() + theirs
    both.build(3, 4)
    assert both(z.float(), y).dtype == torch.float32


def test_foreign_parameters_are_seen():
    loss = losses.make(pml.ProxyNCALoss(num_classes=4, embedding_size=3))
    assert [tuple(parameter.shape) for parameter in loss.parameters()] == [(4, 3)]


def test_foreign_module_must_return_one_number():
    z, y = batch()
    with pytest.raises(TypeError, match=r"^CrossEntropyLoss returned shape \(\d+,\), not a 0-d tensor"):
        losses.make(nn.CrossEntropyLoss(reduction="none"))(z, y.clamp(max=2))

    class Nothing(nn.Module):
        def forward(self, z, y):
            return None

    with pytest.raises(TypeError, match="returned NoneType, not a 0-d tensor"):
        losses.make(Nothing())(z, y)


@pytest.mark.usefixtures("own_registry")
def test_own_loss_is_one_decorator_away():
    @losses.register("spread")
    class Spread(Loss):
        weight: float = 1.0

        def forward(self, z, y):
            z, y = losses.labelled(z, y)
            return -self.weight * z.var()

    z, y = batch()
    known = z[y >= 0]
    assert Spread(2.0)(z, y) == -2 * known.var()
    assert losses.make("spread:weight=2")(z, y) == -2 * known.var()
    assert losses.spec(losses.make("triplet + 0.1*spread:weight=2")) == "triplet + 0.1*spread:weight=2.0"
    assert "spread" in losses.names()
    assert len({Spread(), Spread()}) == 2  # modules are compared by identity
    assert copy.deepcopy(Spread(3.0)).weight == 3

    class Wide(Spread):
        pass

    assert losses.spec(Wide()).endswith("Wide")  # does not pass for its parent


@pytest.mark.usefixtures("own_registry")
def test_register_errors():
    with pytest.raises(TypeError, match="Plain is not a subclass of Loss"):

        @losses.register("plain")
        class Plain:
            pass

    with pytest.raises(ValueError, match=r"^'triplet' already names tripletomics\.losses\.tuples\.triplet\.Triplet"):

        @losses.register("triplet")
        class Other(Loss):
            pass


def test_losses_can_be_copied_and_pickled():
    z, y = batch()
    loss = losses.make("triplet:margin=0.4 + 0.1*softmax")
    loss.build(3, 4)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert twin(z, y) == loss(z, y)
        assert losses.spec(twin) == losses.spec(loss)

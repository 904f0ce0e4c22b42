import math

import numpy as np
import pytest
import torch

from tripletomics.optimizer import MOMENTUM, SIZE, Muon, orthogonalise

SHAPES = [(40, 60), (60, 40), (128, 52), (9, 128)]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_orthogonal_is_the_polar_factor_with_singular_values_of_about_1(shape, scale):
    matrix = scale * draw(*shape)
    before = matrix.clone()
    found = orthogonalise(matrix)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.3
    u, _, v = np.linalg.svd(matrix.numpy(), full_matrices=False)
    turned = u.T @ found.numpy() @ v.T  # diagonal, if the singular vectors are the same
    np.testing.assert_allclose(turned, np.diag(np.diag(turned)), atol=1e-3)
    assert (found.numpy() * (u @ v)).sum() / (np.linalg.norm(found) * np.linalg.norm(u @ v)) > 0.95
    assert torch.equal(matrix, before)


def test_orthogonal_of_odd_matrices():
    assert (orthogonalise(torch.zeros(12, 20)) == 0).all()
    direction = torch.outer(draw(12), draw(20, seed=1))
    found = orthogonalise(direction)
    values = torch.linalg.svdvals(found)
    assert 0.6 < values[0] < 1.3
    assert values[1:].max() < 0.01  # what is not there is not made up
    assert (found * direction).sum() > 0


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(12, 40), torch.nn.SiLU(), torch.nn.Linear(40, 20), torch.nn.SiLU(),
                                   torch.nn.Linear(20, 2))  # fmt: skip


def descend(net, optimizer, steps=20):
    x = draw(100, 12)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].tanh()], dim=1)
    losses = []
    for _ in range(steps):
        value = (net(x) - y).square().mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("given", [{}, {"orthogonal": False}])
def test_without_orthogonal_groups_it_is_adamw(fused, given):
    ours, theirs = network(), network()
    optimizer = Muon([{"params": ours.parameters(), "weight_decay": 0.1, **given}], lr=1e-2, fused=fused)
    losses = descend(ours, optimizer)
    expected = descend(theirs, torch.optim.AdamW(theirs.parameters(), weight_decay=0.1, lr=1e-2, fused=fused))
    assert losses == expected
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def split(net, lr, **given):
    """The weight of the middle layer takes orthogonal steps."""
    middle = net[2].weight
    rest = [p for p in net.parameters() if p is not middle]
    return Muon([{"params": [middle], "orthogonal": True, **given}, {"params": rest}], lr=lr)


def test_other_groups_take_the_steps_of_adamw():
    ours, theirs = network(), network()
    x = draw(30, 12)
    for net, optimizer in ((ours, split(ours, 0.01)), (theirs, torch.optim.AdamW(theirs.parameters(), lr=0.01))):
        net(x).square().mean().backward()
        optimizer.step()
    for i, (a, b) in enumerate(zip(ours.parameters(), theirs.parameters(), strict=True)):
        assert torch.equal(a, b) is (i != 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_has_the_size_that_is_documented(shape):
    weight = torch.nn.Parameter(draw(*shape))
    before = weight.detach().clone()
    optimizer = Muon([{"params": [weight], "orthogonal": True, "weight_decay": 0.0}], lr=0.5)
    weight.grad = 1e3 * draw(*shape, seed=1)
    optimizer.step()
    step = weight.detach() - before
    assert step.square().mean().sqrt().item() == pytest.approx(SIZE * 0.5, rel=0.2)
    assert weight.grad is None  # or AdamW would take it as well


def test_steps_by_a_loop():
    weight = torch.nn.Parameter(draw(10, 16))
    expected, momentum = weight.detach().clone(), torch.zeros(10, 16)
    optimizer = Muon([{"params": [weight], "orthogonal": True, "weight_decay": 0.3}], lr=0.1)
    for step in range(4):
        gradient = draw(10, 16, seed=step)
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        ahead = (1 - MOMENTUM) * gradient + MOMENTUM * momentum  # Nesterov's
        expected = expected * (1 - 0.1 * 0.3) - 0.1 * SIZE * math.sqrt(16) * orthogonalise(ahead)
        weight.grad = gradient.clone()
        optimizer.step()
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-6)


def test_it_learns():
    net = network()
    losses = descend(net, split(net, 0.02), steps=150)
    assert losses[-1] < 0.1 * losses[0]

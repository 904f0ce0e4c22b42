"""What the tests of the losses share: a batch with unlabelled cells, and sameness of values and gradients."""

import copy

import torch


def batch(n=22, dim=3, classes=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(n, dim, generator=draw, dtype=torch.float64, requires_grad=True)
    return z, torch.randint(-1, classes, (n,), generator=draw)


def run(loss, z, y):
    """Return the value and its gradient; a copy computes them, so that no state moves."""
    leaf = z.detach().clone().requires_grad_()
    value = copy.deepcopy(loss)(leaf, y)
    assert value.shape == ()
    assert value.dtype == z.dtype
    (gradient,) = torch.autograd.grad(value, leaf)
    assert value.isfinite()
    assert gradient.isfinite().all()
    return value.detach(), gradient


def assert_order_does_not_matter(loss, z, y):
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(2))
    value, gradient = run(loss, z, y)
    shuffled, moved = run(loss, z[order], y[order])
    torch.testing.assert_close(shuffled, value)
    torch.testing.assert_close(moved, gradient[order])


def assert_same(found, expected, *leaves):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    got, wanted = (torch.autograd.grad(value, leaves, retain_graph=True) for value in (found, expected))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import kstest

from tripletomics import area, metrics


def draw(n, dim, seed=0):
    """Cells of three dense groups, of which one is small, and a few far away, float32."""
    random = np.random.default_rng(seed)
    middles = np.array([[0.0, 0, 0], [6, 1, 0], [2, 7, 3], [20, -15, 5]])[:, :dim]
    codes = random.choice(4, size=n, p=[0.5, 0.4, 0.08, 0.02])
    return torch.from_numpy((middles[codes] + 0.4 * random.normal(size=(n, dim))).astype(np.float32))


def directions(dim, n=8):
    lines = torch.randn(dim, n, generator=torch.Generator().manual_seed(1))
    return lines / lines.norm(dim=0)


def moved(m, share, seed=0):
    return area.EqualArea(m.shape[1]).fit(m, share, seed)(m)


def plan(fitted, m):
    """Return which share of each cell goes to which point."""
    u = (m - fitted.middle) / fitted.size
    return ((fitted.potentials - torch.cdist(u, fitted.sites).square() / 2) / area.BLUR).softmax(dim=1)


@pytest.mark.parametrize("dim", [2, 3])
def test_quantiles_are_those_of_the_shadow_of_an_even_ball(dim):
    random = np.random.default_rng(0)
    cube = random.uniform(-1, 1, size=(40_000, dim))
    ball = cube[np.linalg.norm(cube, axis=1) < 1]
    q = area.quantiles(50, dim)
    assert q.dtype == torch.float32
    np.testing.assert_allclose(
        q, np.quantile(ball @ directions(dim, 1)[:, 0].numpy(), (np.arange(50) + 0.5) / 50), atol=0.01
    )
    torch.testing.assert_close(q, -q.flip(0), atol=1e-6, rtol=0)
    assert area.quantiles(1, dim).abs().item() < 1e-6


@pytest.mark.parametrize("dim", [2, 3])
def test_even_points_fill_the_ball(dim):
    found = area.even_points(512, dim)
    assert found.shape == (512, dim)
    assert found.dtype == np.float32
    radii = np.linalg.norm(found, axis=1)
    assert radii.max() < 1
    assert kstest(radii**dim, "uniform").statistic < 0.01
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(np.cov(found.T), np.eye(dim) / (dim + 2), atol=0.01)


def unevenness_by_a_loop(a, lines):
    n, dim = a.shape
    a = a - a.mean(axis=0)
    size = np.sqrt(np.square(a).sum() / n * (dim + 2) / dim)
    q = area.quantiles(n, dim).numpy()
    per_line = [np.mean([(x / size - y) ** 2 for x, y in zip(sorted(a @ line), q, strict=True)]) for line in lines.T]
    return dim * np.mean(per_line)


@pytest.mark.parametrize("dim", [2, 3])
def test_unevenness_against_a_plain_loop(dim):
    a, lines = draw(200, dim), directions(dim)
    found = area.unevenness(a, area.quantiles(200, dim), lines)
    assert found.item() == pytest.approx(unevenness_by_a_loop(a.numpy().astype(float), lines.numpy()), rel=1e-4)


@pytest.mark.parametrize("dim", [2, 3])
def test_unevenness_is_none_of_a_disk_and_grows_with_the_clumps(dim):
    even, lines = area.quantiles(512, dim), directions(dim)
    normal = torch.randn(512, dim, generator=torch.Generator().manual_seed(0))
    disk, gaussian, clumps = (
        area.unevenness(a, even, lines).item()
        for a in (torch.from_numpy(area.even_points(512, dim)), normal, draw(512, dim))
    )
    assert disk < 0.002
    assert 3 * disk < gaussian
    assert 3 * gaussian < clumps


def test_unevenness_does_not_hang_on_place_size_and_order():
    a, even, lines = draw(300, 2), area.quantiles(300, 2), directions(2)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    for other in (a + 50, 30 * a, a[order]):
        torch.testing.assert_close(
            area.unevenness(other, even, lines), area.unevenness(a, even, lines), rtol=1e-4, atol=0
        )


@pytest.mark.parametrize("dim", [2, 3])
def test_gradient_of_unevenness_at_a_given_size(dim, monkeypatch):
    """The size is no subject to training, so it is held fixed."""
    a, size = draw(12, dim).double(), area.radius(draw(12, dim).double())
    monkeypatch.setattr(area, "radius", lambda a: size)
    even, lines = area.quantiles(12, dim).double(), directions(dim).double()
    assert torch.autograd.gradcheck(lambda a: area.unevenness(a, even, lines), (a.requires_grad_(),))


def test_unevenness_of_cells_at_one_place_has_a_finite_gradient():
    a = torch.ones(20, 2, requires_grad=True)
    value = area.unevenness(a, area.quantiles(20, 2), directions(2))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize("dim", [2, 3])
def test_a_disk_has_its_own_radius(dim):
    disk = torch.from_numpy(area.even_points(4096, dim))
    assert area.radius(7 * disk + 3).item() == pytest.approx(7, rel=0.01)


@pytest.mark.parametrize("dim", [2, 3])
def test_every_point_of_the_disk_gets_its_share_of_the_cells(dim):
    m = draw(700, dim)
    fitted = area.EqualArea(dim).fit(m, 1, 0)
    share = plan(fitted, m).mean(dim=0) * len(fitted.sites)
    assert (share - 1).abs().mean() < 0.02
    assert share.min() > 0.95


@pytest.mark.parametrize("dim", [2, 3])
def test_the_way_is_as_short_as_that_of_an_exact_assignment(dim):
    m = draw(512, dim)
    fitted = area.EqualArea(dim).fit(m, 1, 0)
    u = (m - fitted.middle) / fitted.size
    there = (fitted(m) - fitted.middle) / fitted.size
    cost = cdist(u.numpy(), fitted.sites.numpy(), "sqeuclidean")
    rows, columns = linear_sum_assignment(cost)
    assert (plan(fitted, m).numpy() * cost).sum() == pytest.approx(cost[rows, columns].sum(), rel=0.03)
    assert (there - fitted.sites[columns]).norm(dim=1).mean() < 0.15


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("dim", [2, 3])
def test_no_two_places_change_sides(dim, share):
    """The map is the gradient of a convex function: (T(a) - T(b)) (a - b) > 0, for places without cells as well."""
    m = draw(400, dim)
    fitted = area.EqualArea(dim).fit(m, share, 0)
    random = torch.Generator().manual_seed(0)
    a = m.mean(dim=0) + 2 * m.std(dim=0) * torch.randn(3000, dim, generator=random)
    b = a[torch.randperm(3000, generator=random)]
    b[:1000] = a[:1000] + 1e-2 * torch.randn(1000, dim, generator=random)
    with torch.no_grad():
        along = ((fitted(a) - fitted(b)) * (a - b)).sum(dim=1) / (a - b).square().sum(dim=1)
    there = (a != b).any(dim=1)
    assert (along[there] > (1 - share) * 0.99 - 1e-3).all()


@pytest.mark.parametrize("dim", [2, 3])
def test_no_share_of_the_way_is_no_way(dim):
    m = draw(300, dim)
    torch.testing.assert_close(moved(m, 0), m, rtol=1e-5, atol=1e-5)


def test_more_of_the_page_is_used_the_farther_the_way():
    m, used = draw(1200, 2), []
    fitted = area.EqualArea(2).fit(m, 0, 0)
    for share in (0, 0.25, 0.5, 1):
        fitted.share.fill_(share)
        used.append(metrics.page_use(fitted(m).numpy())["a50"])
    assert used == sorted(used)
    assert used[2] > 3 * used[0]
    assert used[3] > 0.04  # 600 of 10,000 fields, if no two cells share one


def test_a_cell_is_moved_alike_alone_and_with_others():
    m = draw(300, 3)
    fitted = area.EqualArea(3).fit(m, 0.5, 0)
    torch.testing.assert_close(torch.cat([fitted(row[None]) for row in m[:20]]), fitted(m)[:20], rtol=1e-4, atol=1e-4)


def test_of_many_cells_any_draw_gives_nearly_the_same():
    m = draw(1500, 2)
    one, other = (moved(m, 1, seed) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert (one - other).norm(dim=1).median() < 0.1 * area.radius(m)


def test_order_and_scale_make_no_difference():
    m = draw(400, 2)
    expected, order = moved(m, 0.6), torch.randperm(400, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(moved(m[order], 0.6), expected[order], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(moved(40 * m + 7, 0.6), 40 * expected + 7, rtol=1e-3, atol=0.04)


ODD = {
    "one cell": torch.ones(1, 2),
    "two cells": torch.tensor([[0.0, 1], [5, 2]]),
    "three cells": torch.tensor([[0.0, 1], [5, 2], [5, 3]]),
    "one place": torch.full((60, 2), 0.3),
    "one place, far away": torch.full((60, 3), 1e4 / 3),
    "two places": torch.tensor([[0.0, 0], [1, 1]])[torch.arange(90) % 3 // 2],
    "copies": draw(20, 3)[torch.arange(200) % 20],
    "a line": torch.stack([torch.linspace(0, 9, 80), torch.zeros(80)], dim=1),
    "one far away": torch.cat([draw(99, 2), torch.tensor([[1e5, 0.0]])]),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_maps(name):
    m = ODD[name]
    found = moved(m, 0.5)
    assert torch.isfinite(found).all()
    same = (m[:, None] == m).all(dim=2)
    apart = (found[:, None] - found).norm(dim=2)
    assert (apart[same] < 1e-2 * area.radius(m) + 1e-3).all()  # copies stay together
    assert (found - m.mean(dim=0)).norm(dim=1).max() <= (m - m.mean(dim=0)).norm(dim=1).max() + area.radius(m) + 1e-3


@pytest.mark.parametrize("dim", [2, 3])
def test_state_survives(dim):
    m = draw(200, dim)
    fitted, other = area.EqualArea(dim).fit(m, 0.5, 0), area.EqualArea(dim)
    assert torch.equal(other(m), m)
    other.load_state_dict(fitted.state_dict())
    assert torch.equal(other(m), fitted(m))
    assert not list(other.parameters())

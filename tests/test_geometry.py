import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from tripletomics import geometry

SCIPY = {"manhattan": "cityblock"}
CODES = torch.arange(40) % 3


def batch(n=20, dim=3, classes=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(n, dim, generator=draw, dtype=torch.float64)
    y = torch.randint(classes, (n,), generator=draw)
    return z, y


def triplets(y):
    n = len(y)
    return [(a, p, m) for a in range(n) for p in range(n) for m in range(n) if a != p and y[a] == y[p] and y[a] != y[m]]


def columns(y):
    index = torch.tensor(triplets(y.tolist()), dtype=torch.int64).reshape(-1, 3)
    return index[:, 0], index[:, 1], index[:, 2]


@pytest.mark.parametrize("distance", geometry.DISTANCES)
def test_distances_against_scipy(distance):
    a, b = batch(8)[0], batch(5, seed=1)[0]
    for first, second in ((a, b), (a, a)):
        if distance == "angular":
            expected = np.arccos(np.clip(1 - cdist(first, second, "cosine"), -1, 1))
        elif distance == "minkowski":
            expected = cdist(first, second, "minkowski", p=3)
        elif distance == "jaccard":
            pairs = [(u.clip(0), v.clip(0)) for u in first.numpy() for v in second.numpy()]
            ratios = [1 - np.minimum(u, v).sum() / np.maximum(u, v).sum() if (u + v).any() else 0 for u, v in pairs]
            expected = np.reshape(ratios, (len(first), len(second)))
        elif distance == "mahalanobis":
            second = first
            centered = np.concatenate(
                [rows - rows.mean(0) for k in range(3) if len(rows := first[CODES[:8] == k].numpy())]
            )
            pooled = centered.T @ centered / (8 - 3)
            shrunk = 0.9 * pooled + 0.1 * np.trace(pooled) / 3 * np.eye(3)
            expected = cdist(first, first, "mahalanobis", VI=np.linalg.inv(shrunk))
        else:
            expected = cdist(first, second, SCIPY.get(distance, distance))
        found = geometry.distances(first, second, distance, p=3.0, y=CODES[:8])
        np.testing.assert_allclose(found, expected, atol=1e-7)
    y = CODES[:8]
    assert torch.equal(geometry.distances(a, distance=distance, y=y), geometry.distances(a, a, distance, y=y))


@pytest.mark.parametrize("distance", geometry.DISTANCES)
@pytest.mark.parametrize("dim", [2, 5])
def test_distances_gradcheck(distance, dim):
    z = batch(6, dim)[0].requires_grad_()
    off = ~torch.eye(6, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda z: geometry.distances(z, distance=distance, p=3.0, y=CODES[:6])[off], (z,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [0.5, 1.0, 1.5, 4.0])
@pytest.mark.parametrize("distance", geometry.DISTANCES)
def test_distances_are_exact_and_smooth_enough_where_points_meet(distance, p, dtype):
    far = torch.tensor([1.0, 0.3], dtype=dtype)
    z = torch.stack([far, far, -far, 0 * far, 0 * far, far * (1 + 1e-6), far.flip(0), far * torch.tensor([1.0, 5.0])])
    z = z.repeat(5, 1).requires_grad_()  # 40 rows: torch turns to matrix products above 25
    d = geometry.distances(z, distance=distance, p=p, y=CODES)
    assert d.dtype == dtype
    assert d.isfinite().all()
    assert (d >= 0).all()
    assert (d.diagonal() == 0).all()
    assert d[0, 1] == 0
    (gradient,) = torch.autograd.grad(d.sum(), z)
    assert gradient.isfinite().all()


def test_angles_at_the_ends():
    z = torch.tensor([[1.0, 0.0], [1.0, 1e-4], [-1.0, 0.0], [-1.0, 1e-4]])
    d = geometry.distances(z, distance="angular")
    assert d[0].tolist() == pytest.approx([0, 1e-4, math.pi, math.pi - 1e-4], abs=1e-6)
    assert d[0, 1].item() == pytest.approx(1e-4, rel=1e-3)  # acos in float32 gives 0


@pytest.mark.parametrize("distance", ["euclidean", "sqeuclidean", "manhattan", "minkowski"])
def test_distances_far_from_the_origin_keep_their_digits(distance):
    z = batch(40)[0].float()
    shifted = (z * 64).round() / 64 + 1024  # exact in float32
    near = geometry.distances(shifted - 1024, distance=distance, p=3.0)
    assert torch.equal(geometry.distances(shifted, distance=distance, p=3.0), near)


def test_unknown_distance():
    with pytest.raises(ValueError, match=r"^distance='cos' is not known\. Allowed: euclidean, "):
        geometry.distances(batch()[0], distance="cos")


def test_mahalanobis_needs_codes():
    a, b = batch(8)[0], batch(5)[0]
    for options in ({"distance": "mahalanobis"}, {"b": b, "distance": "mahalanobis", "y": CODES[:8]}):
        with pytest.raises(ValueError, match="mahalanobis' compares the rows of `a` and needs their codes"):
            geometry.distances(a, **options)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_whiten_measures_in_the_spread_inside_the_classes(scale):
    z, y = batch(400, 2, 3)
    z = z + 5 * y[:, None]
    white = geometry.whiten(z, y)
    within = torch.cat([white[y == k] - white[y == k].mean(0) for k in range(3)])
    torch.testing.assert_close(within.std(0), torch.ones(2, dtype=torch.float64), atol=0.1, rtol=0)
    torch.testing.assert_close(geometry.whiten(scale * z, y), white)


@pytest.mark.parametrize("y", [[0, 1, 2, 3], [0, 0, 1, 1]])
def test_whiten_without_spread_changes_nothing(y):
    z = torch.arange(4.0)[:, None].repeat(1, 3) if y[1] else torch.tensor([[1.0, 2, 3]] * 4)
    assert torch.equal(geometry.whiten(z, torch.tensor(y)), z)


def test_normalise():
    z = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-12, 0.0]], requires_grad=True)
    unit = geometry.normalise(z)
    assert unit.tolist() == [pytest.approx([0.6, 0.8]), [0, 0], [1, 0]]
    (gradient,) = torch.autograd.grad(unit.sum(), z)
    assert gradient.isfinite().all()


@given(
    st.integers(0, 2**20), st.integers(1, 24), st.integers(1, 5), st.sampled_from([0.0, 0.3, 1.0, 2.0]), st.booleans()
)
@settings(max_examples=40, deadline=None)
def test_triplet_sum_against_enumeration(seed, n, classes, margin, ties):
    z, y = batch(n, 2, classes, seed)
    d = geometry.distances(z.round() if ties else z, distance="manhattan").requires_grad_()
    a, p, m = columns(y)
    terms = torch.relu(d[a, p] - d[a, m] + margin)
    total, active = geometry.triplet_sum(d, y, margin)
    assert total.item() == pytest.approx(terms.sum().item(), abs=1e-9)
    assert active.item() == (terms > 0).sum().item()
    (expected,) = torch.autograd.grad(terms.sum(), d)
    (found,) = torch.autograd.grad(total, d)
    assert torch.equal(found, expected)


BANDS = st.tuples(*[st.sampled_from([-math.inf, -2.0, -0.3, 0.0, 1.0, math.inf])] * 2)


@given(st.integers(0, 2**20), st.integers(1, 20), BANDS, st.sampled_from([0.0, 0.3, 1.0]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_bands_against_enumeration(seed, n, band, margin, ties):
    z, y = batch(n, 2, 3, seed)
    d = geometry.distances(z.round() if ties else z, distance="manhattan").requires_grad_()
    a, p, m = columns(y)
    gap = d[a, p] - d[a, m]
    gap = gap[(band[0] < gap) & (gap <= band[1])]
    assert geometry.count_band(d.detach(), y, *band) == len(gap)
    hinge, soft = torch.relu(gap + margin), torch.logaddexp(gap, torch.zeros((), dtype=torch.float64))
    for terms, (total, count) in (
        (hinge, geometry.triplet_sum(d, y, margin, *band)),
        (soft, geometry.soft_triplet_sum(d, y, *band)),
    ):
        assert total.item() == pytest.approx(terms.sum().item(), rel=1e-9, abs=1e-9)
        assert count == (terms > 0).sum()
        gradients = [torch.autograd.grad(v, d, retain_graph=True)[0] for v in (total, terms.sum())]
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


@given(st.integers(0, 2**20), st.integers(1, 9), st.integers(1, 5), st.sampled_from([0.0, 0.5, 2.0]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_quadruplet_sum_against_enumeration(seed, n, classes, margin, ties):
    z, y = batch(n, 2, classes, seed)
    d = geometry.distances(z.round() if ties else z, distance="manhattan").requires_grad_()
    some = range(n)
    terms = [
        d[i, j] - d[k, q] + margin
        for i in some for j in some for k in some for q in some
        if i != j and y[i] == y[j] and len({int(y[i]), int(y[k]), int(y[q])}) == 3
    ]  # fmt: skip
    assert geometry.count_quadruplets(y) == len(terms)
    active = [term for term in terms if term > 0]
    total, count = geometry.quadruplet_sum(d, y, margin)
    assert count == len(active)
    assert total.item() == pytest.approx(float(sum(active)), rel=1e-9, abs=1e-9)
    if active:
        expected, found = (torch.autograd.grad(v, d)[0] for v in (sum(active), total))
        torch.testing.assert_close(found + found.T, expected + expected.T, rtol=1e-9, atol=1e-9)


@given(st.integers(0, 2**20), st.integers(1, 24), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_soft_triplet_sum_against_enumeration(seed, n, classes):
    z, y = batch(n, 2, classes, seed)
    d = (30 * geometry.distances(z)).requires_grad_()
    a, p, m = columns(y)
    terms = torch.logaddexp(d[a, p] - d[a, m], torch.zeros((), dtype=torch.float64))
    total, count = geometry.soft_triplet_sum(d, y)
    assert total.item() == pytest.approx(terms.sum().item(), rel=1e-12)
    assert count == len(a)
    (expected,) = torch.autograd.grad(terms.sum(), d)
    (found,) = torch.autograd.grad(total, d)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_sums_in_blocks(monkeypatch):
    z, y = batch(23)
    d = geometry.distances(z)
    found = {}
    for block in (1, 60, 2**20):
        monkeypatch.setattr(geometry, "_BLOCK", block)
        leaf = d.clone().requires_grad_()
        hinge, soft = geometry.triplet_sum(leaf, y, 0.5)[0], geometry.soft_triplet_sum(leaf, y)[0]
        gradient = torch.autograd.grad(hinge, leaf)[0], torch.autograd.grad(soft, leaf)[0]
        found[block] = torch.stack([hinge, soft]), *gradient
    for block in (1, 60):
        for one, other in zip(found[block], found[2**20], strict=True):
            torch.testing.assert_close(one, other)


def test_sums_need_no_square_symmetric_contiguous_input():
    z, y = batch(15)
    other = batch(15, seed=3)[0]
    d = geometry.distances(z, other)
    a, p, m = columns(y)
    for matrix in (d, d.T):
        total, _ = geometry.triplet_sum(matrix, y, 0.3)
        assert total.item() == pytest.approx(torch.relu(matrix[a, p] - matrix[a, m] + 0.3).sum().item())


def test_triplet_sum_gradcheck():
    z, y = batch(9, 2, 3)
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: geometry.triplet_sum(geometry.distances(z), y, 0.5)[0], (z,))
    assert torch.autograd.gradcheck(lambda z: geometry.soft_triplet_sum(geometry.distances(z), y)[0], (z,))


def test_triplet_sum_keeps_its_digits_when_terms_cancel():
    """Distances near 1000 with gaps near 0.001, in float32."""
    z, y = batch(60)
    d = (1000 + geometry.distances(z) / 1000).float()
    a, p, m = columns(y)
    expected = torch.relu(d.double()[a, p] - d.double()[a, m]).sum().item()
    assert geometry.triplet_sum(d, y, 0.0)[0].item() == pytest.approx(expected, rel=1e-12)


def test_nan_is_passed_on():
    z, y = batch()
    z[0] = torch.nan
    d = geometry.distances(z)
    assert geometry.triplet_sum(d, y, 0.2)[0].isnan()
    assert geometry.soft_triplet_sum(d, y)[0].isnan()


@pytest.mark.parametrize("y", [[], [0], [0, 0], [0, 1], [0, 0, 1], [5, 5, 5], [0, 1, 2], [3, 3, 7, 7, 7, 9]])
def test_count_triplets(y):
    assert geometry.count_triplets(torch.tensor(y, dtype=torch.int64)).item() == len(triplets(y))


def mine(name, d, y):
    """Select with plain loops; one (d_ap, d_an) for each term."""
    found = []
    for a in range(len(y)):
        positives = [d[a][p] for p in range(len(y)) if p != a and y[p] == y[a]]
        negatives = [d[a][m] for m in range(len(y)) if y[m] != y[a]]
        if not positives or not negatives:
            continue
        if name == "semihard":
            for positive in positives:
                farther = [negative for negative in negatives if negative > positive]
                found.append((positive, min(farther) if farther else max(negatives)))
        else:
            found.append((max(positives) if name == "hard" else min(positives), min(negatives)))
    return found


@pytest.mark.parametrize("name", ["hard", "easy_positive", "semihard"])
@given(st.integers(0, 2**20), st.integers(1, 20), st.integers(1, 5), st.booleans())
@settings(max_examples=25, deadline=None)
def test_mining_against_loops(name, seed, n, classes, ties):
    z, y = batch(n, 2, classes, seed)
    d = geometry.distances(z.round() if ties else z, distance="manhattan")
    d_ap, d_an = getattr(geometry, f"mine_{name}")(d, y)
    assert sorted(zip(d_ap.tolist(), d_an.tolist(), strict=True)) == sorted(mine(name, d.tolist(), y.tolist()))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux counts it")
def test_all_triplets_of_4096_cells_need_less_than_1_gb():
    code = """
import resource, torch
from tripletomics import losses
torch.set_num_threads(1)
def run(n):
    z = torch.randn(n, 32, requires_grad=True)
    losses.make("triplet")(z, torch.arange(n) % 12).backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = run(64)
print((run(4096) - before) / 1e6)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(out.stdout) < 1

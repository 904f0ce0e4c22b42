"""Distances, and sums over all triplets of a batch without listing one: tensors in, tensors out.

Letters: z embeddings (n, dim), y class codes (n,), d distances (n, n) with anchors in rows. A triplet (a, p, n) has
an anchor, another cell of its class and a cell of another class. A batch of 1024 cells in 12 classes has 80 million
triplets; the sums here take O(n^2) memory, and the hinge sum O(n^2 log n) time. Every label counts, so drop
unlabelled cells first.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

DISTANCES = (
    "euclidean", "sqeuclidean", "manhattan", "minkowski", "cosine", "angular", "mahalanobis", "jaccard",
)  # fmt: skip
SHRINKAGE = 0.1  # of a covariance towards a ball: keeps it regular with fewer cells than dimensions
_BLOCK = 2**20  # elements that a temporary matrix may have before the work is split


def distances(
    a: Tensor, b: Tensor | None = None, distance: str = "euclidean", p: float = 2.0, y: Tensor | None = None
) -> Tensor:
    """Compute the distance of every row of `a` to every row of `b`.

    Values are exact where points coincide and gradients are finite everywhere, at duplicates and opposite directions
    too (there the gradient is 0).

    Parameters
    ----------
    a, b
        Points (n, dim) and (m, dim); `b` defaults to `a`. Leading batch dimensions are allowed.
    distance
        ``"euclidean"``, ``"sqeuclidean"``, ``"manhattan"``, ``"minkowski"``, ``"cosine"`` (1 - cos, from 0 to 2),
        ``"angular"`` (the angle in radians, from 0 to pi), ``"mahalanobis"`` (see `whiten`), or ``"jaccard"`` (1 - sum
        of minima / sum of maxima, from 0 to 1; negative coordinates count as 0). The angle of a zero vector has no
        value; it gets a finite one.
    p
        The power of ``"minkowski"``, above 0; below 1 it is not a metric, and ``inf`` takes the largest difference
        (Chebyshev).
    y
        Codes (n,) of the rows of `a`, for ``"mahalanobis"`` alone.

    Returns
    -------
    Distances (n, m) in the dtype of `a`.
    """
    if distance not in DISTANCES:
        raise ValueError(f"distance={distance!r} is not known. Allowed: {', '.join(DISTANCES)}.")
    if distance == "mahalanobis":
        if y is None or (b is not None and b is not a):
            raise ValueError("distance='mahalanobis' compares the rows of `a` and needs their codes: pass y.")
        a = b = whiten(a, y)
    b = a if b is None else b
    if distance in ("euclidean", "mahalanobis"):
        return _cdist(a, b)
    if distance == "sqeuclidean":
        return _cdist(a, b).square()
    if distance == "manhattan":
        return _cdist(a, b, 1.0)
    if distance == "minkowski":
        return _cdist(a, b, p)
    if distance == "jaccard":
        a, b = a.relu(), b.relu()
        apart = _cdist(a, b, 1.0)  # the sum of maxima minus that of minima
        twice_maxima = a.sum(-1)[..., :, None] + b.sum(-1)[..., None, :] + apart
        return 2 * apart / torch.where(twice_maxima == 0, 1.0, twice_maxima)
    same = a is b
    a = normalise(a)
    b = a if same else normalise(b)
    chord = _cdist(a, b)
    if distance == "cosine":
        return chord.square() / 2
    # Kahan's angle: acos has infinite gradients at 0 and pi, this has none
    opposite = _cdist(a, -b)
    return 2 * torch.atan2(chord, torch.where(chord + opposite == 0, 1.0, opposite))


def whiten(z: Tensor, y: Tensor) -> Tensor:
    """Transform `z` so that Euclidean distances are Mahalanobis distances of the pooled within-class covariance.

    Distances are then in units of the spread inside the classes, whatever the scale of `z`.

    Parameters
    ----------
    z, y
        Points (n, dim) and codes (n,).

    Returns
    -------
    Points (n, dim). The covariance is shrunk by a tenth towards a ball of the same total variance; without any spread
    inside the classes it is the identity.
    """
    code, size = torch.unique(y, return_inverse=True, return_counts=True)[1:]
    centers = z.new_zeros(len(size), z.shape[1]).index_add(0, code, z) / size[:, None].to(z.dtype)
    within = z - centers[code]
    covariance = within.T @ within / max(len(z) - len(size), 1)
    ball = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    spread = covariance.diagonal().mean()
    flat = spread <= torch.finfo(z.dtype).eps * z.detach().square().mean()  # only rounding
    shrunk = torch.where(flat, ball, (1 - SHRINKAGE) * covariance + SHRINKAGE * spread * ball)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(shrunk), z.T, upper=False).T


def normalise(z: Tensor) -> Tensor:
    """Scale every row to length 1; a zero row stays zero, with a finite gradient."""
    length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return z / torch.where(length > 0, length, 1.0)


def triplet_sum(
    d: Tensor,
    y: Tensor,
    margin: float,
    above: float | None = None,
    up_to: float | None = None,
    apart: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum [d_ap - d_an + margin]+ over every triplet of the batch, exactly, without listing them.

    Parameters
    ----------
    d
        Distances (n, n), anchors in rows; any square matrix will do.
    y
        Class codes (n,).
    margin
        Added to d_ap - d_an.
    above, up_to
        A band: only triplets with above < d_ap - d_an <= up_to count. No band by default.
    apart
        Boolean (n, n): the negatives of each anchor. By default all cells of another class.

    Returns
    -------
    The sum (float64, differentiable in `d`) and the number of triplets above 0 in it (int64), both 0-d.

    Notes
    -----
    The sum is piecewise linear in `d`: a distance counts once for every active triplet that it is in. Those counts
    come from searching each d_an among the anchor's sorted d_ap + margin, in O(n^2 log n) time and O(n^2) memory. A
    band is the difference of two such counts.
    """
    columns, valid = _positives(y)
    apart = _negatives(y) if apart is None else apart
    bottom = -margin if above is None else max(above, -margin)
    with torch.no_grad():
        weight = torch.empty_like(d)
        total = torch.zeros((), dtype=torch.float64, device=d.device)
        active = torch.zeros((), dtype=torch.int64, device=d.device)
        for rows in _row_blocks(len(y)):
            block, different = d[rows].contiguous(), apart[rows]
            counts = _active_counts(block, different, columns[rows], valid[rows], -bottom)
            if up_to is not None:
                counts -= _active_counts(block, different, columns[rows], valid[rows], -max(up_to, bottom))
            weight[rows] = counts
            total += (counts.double() * block.double()).sum()
            active -= torch.where(different, counts, 0).sum(dtype=torch.float64).long()
        total += margin * active.double()  # an integer tensor times a float is float32
    return _KnownGradient.apply(d, total, weight), active


def soft_triplet_sum(
    d: Tensor, y: Tensor, above: float = -torch.inf, up_to: float = torch.inf, apart: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum log(1 + exp(d_ap - d_an)) over every triplet of the batch, in O(n^2) memory.

    Parameters and the result are those of `triplet_sum`, without a margin; every term is above 0. The time grows with
    the number of triplets.
    """
    columns, valid = _positives(y)
    with torch.no_grad():
        # an infinite gap below 0 adds nothing, which saves every mask below
        positive = d.gather(1, columns).masked_fill(~valid, -torch.inf)
        negative = d.masked_fill(~(_negatives(y) if apart is None else apart), torch.inf)
        weight = torch.zeros_like(d)
        total = torch.zeros((), dtype=torch.float64, device=d.device)
        count = torch.zeros((), dtype=torch.int64, device=d.device)
        for rows in _row_blocks(len(y)):
            share = weight[rows]
            ranks = max(1, _BLOCK // max(1, share.numel()))
            for near, column in zip(positive[rows].split(ranks, 1), columns[rows].split(ranks, 1), strict=True):
                gap = near[:, :, None] - negative[rows, None, :]  # (rows, ranks, n)
                outside = (gap <= above) | (gap > up_to) | (gap == -torch.inf)
                gap = gap.masked_fill_(outside, -torch.inf)
                count += outside.numel() - outside.sum()
                total += softplus(gap).sum(2).sum(dtype=torch.float64)
                slope = gap.sigmoid_()
                share -= slope.sum(1)
                share.scatter_add_(1, column, slope.sum(2))
    return _KnownGradient.apply(d, total, weight), count


def quadruplet_sum(d: Tensor, y: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Sum [d_ij - d_lk + margin]+ over all pairs (i, j) of one class and (l, k) of two other classes, exactly.

    Parameters
    ----------
    d
        Distances (n, n), symmetric.
    y
        Class codes (n,).
    margin
        Added to d_ij - d_lk.

    Returns
    -------
    The sum over ordered pairs (float64, differentiable in `d`) and its number of terms above 0 (int64), both 0-d.

    Notes
    -----
    As in `triplet_sum`, with the positives and negatives of the whole batch in place of those of an anchor: a negative
    pair meets all positive pairs less those of its own two classes. O(n^2 log n) time and O(n^2) memory.
    """
    n = len(y)
    _, code, size = torch.unique(y, return_inverse=True, return_counts=True)
    i, j = torch.triu_indices(n, n, 1, device=d.device)
    with torch.no_grad():
        flat, same = d[i, j], code[i] == code[j]
        reach, order = (flat[same] + margin).sort()
        m = len(reach)
        kind, by_class = code[i][same][order].sort(stable=True)  # positives by class, within a class by reach
        end = (size * (size - 1) // 2).cumsum(0)
        start = end - size * (size - 1) // 2
        met = torch.searchsorted(reach, flat[~same], right=True)  # positives that are near enough to a negative
        keys = kind * (m + 1) + by_class
        ends = [code[end_of][~same] for end_of in (i, j)]
        places = [torch.searchsorted(keys, one * (m + 1) + met) for one in ends]
        active = (m - met) - sum(end[one] - place for one, place in zip(ends, places, strict=True))
        beyond = torch.bincount(met, minlength=m + 1).cumsum(0)[by_class]
        own = torch.bincount(torch.cat([*map(torch.add, places, ends)]), minlength=m + len(size)).cumsum(0)
        before = F.pad(own, (1, 0))[start + torch.arange(len(size), device=d.device)]
        beyond -= own[torch.arange(m, device=d.device) + kind] - before[kind]
        counts = torch.empty_like(flat, dtype=torch.float64)
        counts[~same] = -active.double()
        counts[same.nonzero()[:, 0][order][by_class]] = beyond.double()
        terms = 4 * active.sum()  # each pair in two orders
        total = 4 * (counts * flat.double()).sum() + margin * terms.double()
        weight = torch.zeros_like(d)
        weight[i, j] = 4 * counts.to(d.dtype)
    return _KnownGradient.apply(d, total, weight), terms


def count_quadruplets(y: Tensor) -> Tensor:
    """Count the terms of `quadruplet_sum` (0-d, int64)."""
    n, size = len(y), torch.unique(y, return_counts=True)[1]
    negatives = n * n - size.square().sum()
    return (size * (size - 1) * (negatives - 2 * size * (n - size))).sum()


def count_band(d: Tensor, y: Tensor, above: float, up_to: float, apart: Tensor | None = None) -> Tensor:
    """Count the triplets with above < d_ap - d_an <= up_to (0-d, int64)."""
    total = count_triplets(y, apart)
    known = {-torch.inf: total, torch.inf: torch.zeros_like(total)}
    lower, upper = (known[end] if end in known else triplet_sum(d, y, -end, apart=apart)[1] for end in (above, up_to))
    return (lower - upper).clamp(min=0)


def softplus(x: Tensor) -> Tensor:
    """Compute log(1 + exp(x)) to the last digit, also in float64 (torch's own is linear from x = 20)."""
    return F.softplus(x, threshold=40)


def count_triplets(y: Tensor, apart: Tensor | None = None) -> Tensor:
    """Count the triplets of a batch (0-d, int64), with the negatives `apart` (n, n) or all cells of another class."""
    _, code, size = torch.unique(y, return_inverse=True, return_counts=True)
    if apart is not None:
        return ((size[code] - 1) * apart.sum(1)).sum()
    return (size * (size - 1) * (len(y) - size)).sum()


def mine_hard(d: Tensor, y: Tensor, apart: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the distances of each anchor to its farthest positive and its nearest negative.

    Negatives are the cells `apart` (n, n) from it, by default all of another class.

    Returns
    -------
    d_ap and d_an (k,), for the k anchors that have both a positive and a negative.
    """
    return _extremes(d, y, apart, farthest_positive=True)


def mine_easy_positive(d: Tensor, y: Tensor, apart: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the distances of each anchor to its nearest positive and its nearest negative, as `mine_hard` does."""
    return _extremes(d, y, apart, farthest_positive=False)


def mine_semihard(d: Tensor, y: Tensor, apart: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return, for every anchor and positive, their distance and that of the nearest negative farther than the positive.

    If no negative is farther than the positive, the farthest negative is taken.

    Returns
    -------
    d_ap and d_an (k,), for the k ordered positive pairs whose anchor has a negative.
    """
    columns, valid = _positives(y)
    different = _negatives(y) if apart is None else apart
    negatives = different.sum(1, keepdim=True)
    valid = valid & (negatives > 0)
    d_ap = d.gather(1, columns)
    with torch.no_grad():
        ordered, by_distance = d.masked_fill(~different, torch.inf).sort(1)
        rank = torch.searchsorted(ordered, d_ap.contiguous(), right=True)
        nearest = by_distance.gather(1, torch.minimum(rank, (negatives - 1).clamp(min=0)))
    return d_ap[valid], d.gather(1, nearest)[valid]


class _KnownGradient(torch.autograd.Function):
    """A number together with its gradient with respect to d."""

    @staticmethod
    def forward(ctx: Any, d: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None


def _cdist(a: Tensor, b: Tensor, p: float = 2.0) -> Tensor:
    # the matmul route loses all digits of small distances far from the origin
    return torch.cdist(a, b, p=p, compute_mode="donot_use_mm_for_euclid_dist")


def _positives(y: Tensor) -> tuple[Tensor, Tensor]:
    """List the columns of each anchor's class (n, size of the largest class) and which of them are positives."""
    n = len(y)
    _, code, size = torch.unique(y, return_inverse=True, return_counts=True)
    start = size.cumsum(0) - size
    rank = torch.arange(int(size.max()) if n else 0, device=y.device)
    columns = torch.argsort(code, stable=True)[(start[code][:, None] + rank).clamp(max=n - 1)]
    valid = (rank < size[code][:, None]) & (columns != torch.arange(n, device=y.device)[:, None])
    return columns, valid


def _negatives(y: Tensor) -> Tensor:
    """Mark the cells of another class than each anchor's (n, n)."""
    return y[:, None] != y


def _row_blocks(n: int) -> list[slice]:
    step = max(1, _BLOCK // max(1, n))
    return [slice(start, start + step) for start in range(0, n, step)]


def _active_counts(d: Tensor, different: Tensor, columns: Tensor, valid: Tensor, margin: float) -> Tensor:
    """Count each distance's active triplets, + as a positive and - as a negative, for a block of anchors."""
    reach, order = torch.where(valid, d.gather(1, columns) + margin, torch.inf).sort(1)
    positives = valid.sum(1, keepdim=True, dtype=torch.int32)
    below = torch.searchsorted(reach, d, right=True, out_int32=True)
    weight = torch.where(different, below - positives, 0).to(d.dtype)
    met = torch.zeros(len(d), reach.shape[1] + 1, dtype=torch.int32, device=d.device)
    met.scatter_add_(1, below.long(), different.int())
    met = met.cumsum(1, dtype=torch.int32)[:, :-1].masked_fill(reach == torch.inf, 0)
    return weight.scatter_add_(1, columns.gather(1, order), met.to(d.dtype))


def _extremes(d: Tensor, y: Tensor, apart: Tensor | None, *, farthest_positive: bool) -> tuple[Tensor, Tensor]:
    different = _negatives(y) if apart is None else apart
    same = ~_negatives(y) & ~torch.eye(len(y), dtype=torch.bool, device=y.device)
    both = same.any(1) & different.any(1)
    d_ap = d.masked_fill(~same, -torch.inf).amax(1) if farthest_positive else d.masked_fill(~same, torch.inf).amin(1)
    d_an = d.masked_fill(~different, torch.inf).amin(1)
    return d_ap[both], d_an[both]

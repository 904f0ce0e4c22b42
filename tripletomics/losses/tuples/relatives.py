"""The relatives of the triplet loss: pairs, rankings, quadruplets and angles."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tripletomics import geometry, parts
from tripletomics.losses.base import Loss, register
from tripletomics.losses.minibatch import labelled, zero
from tripletomics.losses.tuples.base import TripletLoss
from tripletomics.losses.tuples.triplet import check_distance


@register("contrastive")
class Contrastive(Loss):
    r"""Pull cells of a type together and push every pair of different types apart up to a margin.

    .. math::
        L = \frac{1}{2N} \sum_{i<j}
        \begin{cases} d_{ij}^2 & y_i = y_j \\ \max(0,\; m - d_{ij})^2 & y_i \ne y_j \end{cases}

    with N the number of pairs.

    Parameters
    ----------
    margin
        The distance up to which different types repel, in units of `distance`; above 0, useful from 0.5 to 5.
    distance
        As in `Triplet`; ``"minkowski"`` has the power 2 here, which is ``"euclidean"``.

    Notes
    -----
    z is (n, dim), y (n,). Cells with code -1 are ignored; a minibatch with fewer than two labelled cells gives 0. The
    mean is over all unordered pairs, satisfied ones included. Two cells of different types at the very same point
    have no direction to move apart: their gradient is 0. A setting out of range is a ValueError.

    References
    ----------
    Hadsell, Chopra & LeCun 2006, Dimensionality reduction by learning an invariant mapping.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.Contrastive(margin=2)
    >>> round(loss(z, torch.tensor([0, 0, 1, 1])).item(), 2)  # each pair is a type
    0.17
    >>> round(loss(z, torch.tensor([0, 1, 0, 1])).item(), 2)  # each pair holds both types
    1.67
    """

    margin: float = 1.0
    distance: str = "euclidean"
    coarse = True

    def __post_init__(self) -> None:
        parts.check_number(self, "margin", "(0, inf)")
        check_distance(self)

    def has_terms(self, y: np.ndarray) -> bool:
        """Return whether two cells are labelled."""
        return int((y >= 0).sum()) > 1

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a minibatch."""
        cells, codes = labelled(z, y)
        n = len(codes)
        if n < 2:
            return zero(z)
        d = geometry.distances(cells, distance=self.distance, y=codes)
        same, apart = codes[:, None] == codes, self.label_levels.apart(codes)
        terms = torch.where(same, d, torch.relu(self.margin - d) * apart).square() / 2  # 0 on the diagonal
        return terms.sum() / ((same | apart).sum() - n).clamp(min=1)


@register("ranknet")
class RankNet(TripletLoss):
    r"""Rank the cells of a type before all others, with a logistic penalty that never reaches 0.

    .. math:: L = \operatorname{mean}_{a, p, n} \log(1 + \exp(d_{ap} - d_{an}))

    Parameters
    ----------
    distance
        As in `Triplet`; ``"minkowski"`` has the power 2 here, which is ``"euclidean"``.

    Notes
    -----
    z is (n, dim), y (n,). Cells with code -1 are ignored; a minibatch without a triplet gives 0. The mean is over all
    triplets: it is `Triplet` with ``soft=True``. O(n^2) memory; the time grows with the number of triplets. The paper
    ranks by a learned score, this by the distance to an anchor.

    References
    ----------
    Burges et al. 2005, Learning to rank using gradient descent.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.RankNet()
    >>> round(loss(z, torch.tensor([0, 0, 1, 1])).item(), 2)  # each pair is a type
    0.12
    >>> round(loss(z, torch.tensor([0, 1, 0, 1])).item(), 2)  # each pair holds both types
    1.37
    """

    distance: str = "euclidean"

    def __post_init__(self) -> None:
        check_distance(self)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a minibatch."""
        z, y = labelled(z, y)
        if len(y) < 3:
            return zero(z)
        d = geometry.distances(z, distance=self.distance, y=y)
        total, count = geometry.soft_triplet_sum(d, y, apart=self.label_levels.apart(y))
        return (total / count.clamp(min=1)).to(z.dtype)


@register("quadruplet")
class Quadruplet(TripletLoss):
    r"""Pull types together until they are tighter than the gaps between any two other types.

    .. math::
        \sum_{i, j, k} \max(0,\; d_{ij}^2 - d_{ik}^2 + m_1) + \sum_{i, j, k, l} \max(0,\; d_{ij}^2 - d_{lk}^2 + m_2),
        \qquad y_i = y_j, \quad y_i, y_k, y_l \text{ all different}

    Parameters
    ----------
    margin1, margin2
        Margins of the two sums, in squared Euclidean distance; at least 0, useful from 0.1 to 2. The second, weaker
        push comes from cells that the pair has nothing to do with, and is smaller.
    reduction
        ``"nonzero"`` divides each sum by the number of its terms above 0, ``"all"`` by the number of all its terms,
        ``"sum"`` takes the plain total.

    Notes
    -----
    z is (n, dim), y (n,). All tuples are ordered. Cells with code -1 are ignored. A minibatch without a triplet gives
    0; with two classes only the first sum has terms. O(n^2) memory and O(n^2 log n) time: no tuple is listed. The paper
    learns a similarity, this uses the squared distance.

    References
    ----------
    Chen, Chen, Zhang & Huang 2017, Beyond triplet loss: a deep quadruplet network for person re-identification.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.Quadruplet()
    >>> round(loss(z, torch.tensor([0, 0, 1, 1])).item(), 2)  # each pair is a type
    0.0
    >>> round(loss(z, torch.tensor([0, 1, 0, 1])).item(), 2)  # each pair holds both types
    9.0
    """

    margin1: float = 1.0
    margin2: float = 0.5
    reduction: str = "nonzero"

    def __post_init__(self) -> None:
        parts.check_number(self, "margin1", "[0, inf)")
        parts.check_number(self, "margin2", "[0, inf)")
        parts.check_word(self, "reduction", ["nonzero", "all", "sum"])

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a minibatch."""
        z, y = labelled(z, y)
        if len(y) < 3:
            return zero(z)
        d, apart = geometry.distances(z, distance="sqeuclidean"), self.label_levels.apart(y)
        value = torch.zeros((), dtype=torch.float64, device=z.device)
        near = geometry.triplet_sum(d, y, self.margin1, apart=apart), geometry.count_triplets(y, apart)
        fine = self.label_levels.fine(y) >= 0  # the second sum counts pairs of whole classes
        d, y = d[fine][:, fine], y[fine]
        far = geometry.quadruplet_sum(d, y, self.margin2), geometry.count_quadruplets(y)
        for (total, count), every in (near, far):
            terms = {"nonzero": count, "all": every, "sum": count.new_ones(())}[self.reduction]
            value = value + total / terms.clamp(min=1)
        return value.to(z.dtype)


@register("angular")
class Angular(TripletLoss):
    r"""Bound the angle under which two cells of a type are seen from a cell of another type.

    .. math::
        L = \operatorname{mean}_{a, p} \log\Bigl(1 + \sum_n \exp\bigl(4 t\, (\hat a + \hat p) \cdot \hat n
        - 2 (1 + t)\, \hat a \cdot \hat p\bigr)\Bigr), \qquad t = \tan^2 \alpha

    Parameters
    ----------
    alpha
        The bound in degrees, in (0, 80]; useful from 30 to 50.

    Notes
    -----
    z is (n, dim), scaled to length 1 inside; y (n,). The mean is over all ordered positive pairs, the sum over all
    cells of other classes. Cells with code -1 are ignored; a minibatch without a triplet gives 0. The sums over n of
    all pairs of a class are one matrix product, in float64. A loss with the angle itself as the distance is
    ``"triplet:distance=angular"``.

    References
    ----------
    Wang, Zhou, Wen, Liu & Lin 2017, Deep metric learning with angular loss.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.Angular(alpha=40)
    >>> round(loss(z, torch.tensor([0, 0, 1, 1])).item(), 2)  # each pair is a type
    0.81
    >>> round(loss(z, torch.tensor([0, 1, 0, 1])).item(), 2)  # each pair holds both types
    2.32
    """

    alpha: float = 40.0
    normalised = True

    def __post_init__(self) -> None:
        parts.check_number(self, "alpha", "(0, 80]")

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a minibatch."""
        z, y = labelled(z, y)
        codes, size = torch.unique(y, return_counts=True)
        codes = codes[size > 1]
        if not len(codes) or not self.label_levels.apart(y).any():
            return zero(z)
        unit = geometry.normalise(z.double())
        slope = math.tan(math.radians(self.alpha)) ** 2
        terms = []
        for code in codes.tolist():
            own, others = unit[y == code], unit[self.label_levels.apart(y.new_tensor([code]), y)[0]]
            if not len(others):
                continue
            reach = torch.exp(4 * slope * own @ others.T)
            exponent = torch.log(reach @ reach.T) - 2 * (1 + slope) * own @ own.T
            pairs = ~torch.eye(len(own), dtype=torch.bool, device=z.device)
            terms.append(geometry.softplus(exponent[pairs]))
        return torch.cat(terms).mean().to(z.dtype) if terms else zero(z)

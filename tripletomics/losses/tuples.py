"""Losses that compare the cells of a batch in pairs and triplets.

For an anchor a, a cell p of its class and a cell n of another class, a triplet loss asks d(a, n) to exceed d(a, p) by
a margin. With margin 0.2, d_ap = 1 and d_an = 1.5 the triplet is satisfied and counts nothing; with d_an = 1.1 it
counts 0.1, and its gradient pulls p in and pushes n out with strength 1 each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tripletomics import geometry, parts
from tripletomics.losses.base import Loss, labelled, register, zero

_MINERS = {
    "hard": geometry.mine_hard,
    "semihard": geometry.mine_semihard,
    "easy_positive": geometry.mine_easy_positive,
}


@register("triplet")
class Triplet(Loss):
    r"""Pull cells of a type together until every other type is farther away by a margin.

    .. math:: \ell(a, p, n) = \max(0,\; d_{ap} - d_{an} + m)

    Parameters
    ----------
    margin
        How much farther a cell of another class must be, in units of `distance`; at least 0, useful from 0.05 to 1. A
        margin tuned for one distance does not transfer to another.
    distance
        ``"euclidean"``, ``"sqeuclidean"``, ``"manhattan"``, ``"minkowski"``, ``"cosine"`` (0 to 2) or ``"angular"``
        (radians). Squared distances have vanishing gradients once cells are close, and collapse under hard mining.
    p
        The power of ``"minkowski"``, at least 1; unused by other distances.
    mining
        Which triplets count. ``"all"``: every one, exactly. ``"hard"``: per anchor the farthest positive and the
        nearest negative. ``"semihard"``: for every anchor and positive the nearest negative that is farther than the
        positive, else the farthest negative. ``"easy_positive"``: per anchor the nearest positive and the nearest
        negative, which lets a type keep several clusters.
    soft
        Use log(1 + exp(d_ap - d_an)) instead of the hinge; the margin is then unused.
    reduction
        For mining ``"all"``: ``"nonzero"`` averages the triplets above 0, ``"all"`` averages every triplet, ``"sum"``
        adds them up. The other minings always average, satisfied triplets included.

    Notes
    -----
    z is (n, dim), y (n,). Cells with code -1 are ignored. A batch without a triplet (one class, or no class with two
    cells) gives 0. The gradient at coinciding points is 0. No triplet is ever listed: mining ``"all"`` takes O(n^2)
    memory and, for the hinge, O(n^2 log n) time; soft, its time grows with the number of triplets. With `soft`,
    ``"nonzero"`` equals ``"all"``. Unlike FaceNet, embeddings are not scaled to length 1 unless the distance does it,
    and distances are not squared. A setting out of range is a ValueError.

    References
    ----------
    Schroff, Kalenichenko & Philbin 2015, FaceNet (semihard). Hermans, Beyer & Leibe 2017, In defense of the triplet
    loss (hard, soft, nonzero). Xuan, Stylianou & Pless 2020, Improved embeddings with easy positive triplet mining.
    """

    margin: float = 0.2
    distance: str = "euclidean"
    p: float = 2.0
    mining: str = "all"
    soft: bool = False
    reduction: str = "nonzero"

    def __post_init__(self) -> None:
        parts.check_number(self, "margin", "[0, inf)")
        parts.check_word(self, "distance", geometry.DISTANCES)
        parts.check_number(self, "p", "[1, inf)")
        parts.check_word(self, "mining", ["all", *_MINERS])
        parts.check_flag(self, "soft")
        parts.check_word(self, "reduction", ["nonzero", "all", "sum"])

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch."""
        cells, codes = labelled(z, y)
        if len(codes) < 3:
            return zero(z)
        d = geometry.distances(cells, distance=self.distance, p=self.p)
        if self.mining == "all":
            return self._all(d, codes).to(z.dtype)
        d_ap, d_an = _MINERS[self.mining](d, codes)
        if not len(d_ap):
            return zero(z)
        terms = geometry.softplus(d_ap - d_an) if self.soft else torch.relu(d_ap - d_an + self.margin)
        return terms.mean()

    def _all(self, d: Tensor, y: Tensor) -> Tensor:
        if self.soft:
            total, active = geometry.soft_triplet_sum(d, y), geometry.count_triplets(y)
        else:
            total, active = geometry.triplet_sum(d, y, self.margin)
        if self.reduction == "sum":
            return total
        count = active if self.reduction == "nonzero" else geometry.count_triplets(y)
        return total / count.clamp(min=1)


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
    z is (n, dim), y (n,). Cells with code -1 are ignored; a batch with fewer than two labelled cells gives 0. The
    mean is over all unordered pairs, satisfied ones included. Two cells of different types at the very same point
    have no direction to move apart: their gradient is 0. A setting out of range is a ValueError.

    References
    ----------
    Hadsell, Chopra & LeCun 2006, Dimensionality reduction by learning an invariant mapping.
    """

    margin: float = 1.0
    distance: str = "euclidean"

    def __post_init__(self) -> None:
        parts.check_number(self, "margin", "(0, inf)")
        parts.check_word(self, "distance", geometry.DISTANCES)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch."""
        cells, codes = labelled(z, y)
        n = len(codes)
        if n < 2:
            return zero(z)
        d = geometry.distances(cells, distance=self.distance)
        same = codes[:, None] == codes
        terms = torch.where(same, d, torch.relu(self.margin - d)).square() / 2  # 0 on the diagonal
        return terms.sum() / (n * (n - 1))

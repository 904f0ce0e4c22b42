"""Losses that compare each cell with its whole minibatch at once, by a softmax over all other cells.

Take an anchor with one cell of its type at distance 1 and one of another type at distance 2. `NCA` turns the squared
distances 1 and 4 into shares of a choice, exp(-1) : exp(-4) = 0.95 : 0.05, and the loss is -log 0.95 = 0.05. With both
at distance 1 the shares are even and the loss is log 2 = 0.69. Near cells have large shares, so they decide.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tripletomics import geometry, parts
from tripletomics.losses.base import Loss, register
from tripletomics.losses.minibatch import labelled, zero
from tripletomics.losses.tuples.base import TripletLoss


@register("nca")
class NCA(TripletLoss):
    r"""Make each cell choose a neighbour of its own type when it chooses near cells more often than far ones.

    .. math::
        L = -\frac{1}{|A|} \sum_{a \in A} \log
        \frac{\sum_{p \ne a,\; y_p = y_a} \exp(-s\, d_{ap}^2)}{\sum_{k \ne a} \exp(-s\, d_{ak}^2)}

    with d the Euclidean distance and A the cells that have another cell of their class in the minibatch.

    Parameters
    ----------
    scale
        s, how fast a share falls with the squared distance, in 1 / squared units of z; above 0, useful from 0.1 to 10.
        An encoder can scale z itself, so this sets the size of the embedding more than its shape.

    Notes
    -----
    z is (n, dim), y (n,). Cells with code -1 are ignored, and the cell itself is in neither sum. One near cell of its
    type is enough for an anchor, so a type may keep several clusters. Anchors alone in their class count only as
    neighbours of others; a minibatch without a positive pair, or with one class only, gives 0. Takes O(n^2) time and
    memory. Goldberger et al. maximise the sum of the shares themselves, which forgets the cells that lie deep among
    others; the mean of their logarithms keeps pulling at those. A setting out of range is a ValueError.

    References
    ----------
    Goldberger, Roweis, Hinton & Salakhutdinov 2004, Neighbourhood components analysis.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.NCA()
    >>> round(loss(z, torch.tensor([0, 0, 1, 1])).item(), 2)  # each pair is a type
    0.0
    >>> round(loss(z, torch.tensor([0, 1, 0, 1])).item(), 2)  # each pair holds both types
    8.0
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        parts.check_number(self, "scale", "(0, inf)")

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a minibatch."""
        z, y = labelled(z, y)
        same, different = _positives(y), self.label_levels.apart(y)
        anchors = same.any(1) & different.any(1)
        if not anchors.any():
            return zero(z)
        logits = -self.scale * geometry.distances(z, distance="sqeuclidean")
        own = logits.masked_fill(~same, -torch.inf)[anchors].logsumexp(1)
        other = logits.masked_fill(~different, -torch.inf)[anchors].logsumexp(1)
        # -log(P / (P + N)) = log(1 + N / P) keeps its digits when nearly all of the mass is right
        return geometry.softplus(other - own).mean()


@register("supcon")
class SupCon(Loss):
    r"""Pick each cell of an anchor's type out of the whole minibatch, by the angle to the anchor.

    .. math::
        L = -\frac{1}{|A|} \sum_{a \in A} \frac{1}{|P(a)|} \sum_{p \in P(a)} \log
        \frac{\exp(\hat z_a \cdot \hat z_p / T)}{\sum_{k \ne a} \exp(\hat z_a \cdot \hat z_k / T)}

    with unit vectors :math:`\hat z = z / |z|`, P(a) the other cells of the anchor's class, and A the cells that have
    such a cell.

    Parameters
    ----------
    temperature
        T, in units of the cosine; above 0, useful from 0.05 to 0.5. The lower, the more the nearest cells of other
        types decide.

    Notes
    -----
    z is (n, dim), y (n,); only directions count. Cells with code -1 are ignored. This is the paper's L_out, which
    takes the mean over positives outside the logarithm; it pulls at every positive, so a type becomes one cluster,
    and its smallest value is not 0 but near the log of the number of positives. The paper sums over anchors and has
    two views of each; this has one, takes the mean over anchors, and drops those without a positive, which count only
    as negatives of others. A minibatch without a positive pair gives 0. A zero vector has cosine 0 to all. Takes O(n^2)
    time and memory. A setting out of range is a ValueError.

    References
    ----------
    Khosla et al. 2020, Supervised contrastive learning.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.SupCon(temperature=0.1)
    >>> round(loss(z, torch.tensor([0, 0, 1, 1])).item(), 2)  # each pair is a type
    1.09
    >>> round(loss(z, torch.tensor([0, 1, 0, 1])).item(), 2)  # each pair holds both types
    4.25
    """

    temperature: float = 0.1
    normalised = True
    coarse = True

    def __post_init__(self) -> None:
        parts.check_number(self, "temperature", "(0, inf)")

    def has_terms(self, y: np.ndarray) -> bool:
        """Return whether two cells share a class and there is a third to choose from."""
        size = np.unique(y[y >= 0], return_counts=True)[1]
        return bool(size.sum() > 2 and size.max() > 1)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a minibatch."""
        cells, codes = labelled(z, y)
        same = _positives(codes)
        positives = same.sum(1)
        anchors = positives > 0
        if not anchors.any():
            return zero(z)
        units = geometry.normalise(cells)
        pairs = same | self.label_levels.apart(codes)
        log_share = (units @ units.T / self.temperature).masked_fill(~pairs, -torch.inf).log_softmax(1)
        total = log_share.masked_fill(~same, 0).sum(1)
        return -(total[anchors] / positives[anchors]).mean()


def _positives(y: Tensor) -> Tensor:
    """Mark the other cells of each anchor's class (n, n)."""
    return (y[:, None] == y).fill_diagonal_(False)

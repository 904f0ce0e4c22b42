"""A triplet loss whose margins follow a tree of the classes, learned along the way."""

from __future__ import annotations

import numpy as np
import torch
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from tripletomics import geometry, parts
from tripletomics.losses.base import TripletLoss, labelled, register, zero
from tripletomics.samplers import BatchGuide

_FARTHEST = 4.0  # squared distance of two opposite unit vectors


@register("hierarchical_triplet")
class HierarchicalTriplet(TripletLoss):
    r"""Ask for wide gaps between distant types and for narrow ones between sister types, after a tree of the types.

    .. math::
        L = \frac{1}{2 |T|} \sum_{(a, p, n) \in T}
        \max\bigl(0,\; |\hat a - \hat p|^2 - |\hat a - \hat n|^2 + \beta + d_H(y_a, y_n) - s_{y_a}\bigr)

    with s the mean squared distance inside a class and d_H the level of the tree at which two classes meet.

    Parameters
    ----------
    beta
        The margin inside the smallest gap, in squared distance on the unit sphere (0 to 4); useful from 0.05 to 0.5.
    levels
        Levels of the tree, a whole number, at least 1; useful from 4 to 32.

    Notes
    -----
    z is (n, dim), scaled to length 1 inside; y (n,). T are all triplets of the minibatch. Cells with code -1 are
    ignored; a minibatch without a triplet gives 0. Levels are d_l = d_0 + l (4 - d_0) / levels, with d_0 the mean of s
    over classes; two classes meet at the first level above the height at which single linkage joins them (with average
    linkage, whose heights can exceed the distance of two classes, all classes drift to opposite poles). `fit` builds
    the tree from all training cells before the first step and again each epoch, and fills each minibatch with one class
    and its three neighbours: the wide margins of distant classes would drown those of sisters. Called without a tree,
    the loss builds one from the minibatch. Margins are constants: no gradient flows through them. The buffers `tree`
    (n_classes - 1, 4), a linkage matrix of scipy, and `margins` (n_classes, n_classes) are NaN before the first tree. A
    code that the tree does not have is a ValueError.

    References
    ----------
    Ge, Huang, Dong & Scott 2018, Deep metric learning with hierarchical triplet loss.
    """

    beta: float = 0.1
    levels: int = 16
    normalised = True
    epochs = 1

    def __post_init__(self) -> None:
        parts.check_number(self, "beta", "[0, 4]")
        parts.check_number(self, "levels", "[1, inf)", whole=True)

    def build(self, dim: int, n_classes: int) -> None:
        """Create the empty tree and margins."""
        self.register_buffer("tree", torch.full((max(n_classes - 1, 0), 4), torch.nan, dtype=torch.float64))
        self.register_buffer("margins", torch.full((n_classes, n_classes), torch.nan))

    def refresh(self, z: Tensor, y: Tensor) -> BatchGuide:
        """Rebuild the tree and the margins; ask for minibatches of near classes."""
        margins = self.get_buffer("margins")
        distances, within = _class_distances(*labelled(z, y), len(margins))
        tree, asked = self._grow(distances, within)
        self.get_buffer("tree").copy_(torch.from_numpy(tree))
        margins.copy_(torch.from_numpy(asked))
        return BatchGuide(class_distances=distances)

    def summary_arrays(self) -> dict[str, np.ndarray]:
        """Return the tree, a linkage matrix (n_classes - 1, 4) of scipy over the squared distances of the classes."""
        return {"tree": self.get_buffer("tree").cpu().numpy()}

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a minibatch."""
        z, y = labelled(z, y)
        if len(y) < 3:
            return zero(z)
        unit = geometry.normalise(z)
        margins = self._buffers.get("margins")
        if margins is not None and not margins.isnan().any():
            if y.max() >= len(margins):
                raise ValueError(f"{self.name} has a tree of {len(margins)} classes, but y holds {int(y.max())}.")
        else:
            y = torch.unique(y, return_inverse=True)[1]
            margins = torch.from_numpy(self._grow(*_class_distances(unit, y, int(y.max()) + 1))[1])
        d = geometry.distances(unit, distance="sqeuclidean")
        # a margin of 0, because the own margin of each pair of classes is already subtracted
        total, _ = geometry.triplet_sum(d - margins.to(d)[y[:, None], y], y, 0.0)
        return (total / (2 * geometry.count_triplets(y).clamp(min=1))).to(z.dtype)

    def _grow(self, apart: np.ndarray, within: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the linkage matrix and the margin of every pair of classes (0 on the diagonal)."""
        if len(apart) < 2:
            return np.empty((0, 4)), np.zeros((1, 1))
        tree = linkage(squareform(apart, checks=False), "single")
        ground = within.mean()
        step = max(_FARTHEST - ground, 1e-6) / self.levels
        level = np.floor((squareform(cophenet(tree)) - ground) / step) + 1
        margins = self.beta + ground + step * level.clip(1, self.levels) - within[:, None]
        np.fill_diagonal(margins, 0)
        return tree, margins


@torch.no_grad()
def _class_distances(z: Tensor, y: Tensor, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Average the squared distances on the unit sphere between (n, n) and inside (n,) the classes.

    A class without cells gets the largest distance to all others.
    """
    unit = geometry.normalise(z.double())
    size = torch.bincount(y, minlength=n_classes).double()
    mean = unit.new_zeros(n_classes, z.shape[1]).index_add(0, y, unit) / size.clamp(min=1)[:, None]
    square = unit.new_zeros(n_classes).index_add(0, y, unit.square().sum(1)) / size.clamp(min=1)
    apart = (square[:, None] + square - 2 * mean @ mean.T).clamp(min=0)
    within = apart.diagonal() * size / (size - 1).clamp(min=1)
    absent = size == 0
    apart = apart.masked_fill(absent[:, None] | absent, _FARTHEST).fill_diagonal_(0)
    within = torch.where(absent, within[~absent].mean(), within)
    return apart.cpu().numpy(), within.cpu().numpy()

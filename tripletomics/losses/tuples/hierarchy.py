"""A triplet loss whose margins follow a tree of the classes, learned along the way."""

from __future__ import annotations

import numpy as np
import torch
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from tripletomics import geometry, parts
from tripletomics.losses.base import register
from tripletomics.losses.minibatch import labelled, zero
from tripletomics.losses.tuples.base import TripletLoss
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
    given
        Take the tree that the labels come with, in place of one that is found.

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

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.HierarchicalTriplet(beta=0.1)
    >>> round(loss(z, torch.tensor([0, 0, 1, 1])).item(), 2)  # each pair is a type
    0.15
    >>> round(loss(z, torch.tensor([0, 1, 0, 1])).item(), 2)  # each pair holds both types
    0.28
    """

    beta: float = 0.1
    levels: int = 16
    given: bool = False
    coarse = False
    normalised = True
    epochs = 1

    def __post_init__(self) -> None:
        parts.check_number(self, "beta", "[0, 4]")
        parts.check_number(self, "levels", "[1, inf)", whole=True)
        parts.check_flag(self, "given")

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
        return BatchGuide(class_distances=self._of_all_codes(distances))

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
        heights = self._heights() if self.given else None
        tree = linkage(squareform(apart if heights is None else heights, checks=False), "single")
        ground = within.mean()
        step = max(_FARTHEST - ground, 1e-6) / self.levels
        if heights is None:
            level = np.floor((squareform(cophenet(tree)) - ground) / step) + 1
        else:
            level = np.ceil(self.levels * heights / heights.max())
        margins = self.beta + ground + step * level.clip(1, self.levels) - within[:, None]
        np.fill_diagonal(margins, 0)
        return tree, margins

    def _heights(self) -> np.ndarray:
        """Return at which level of the given tree two classes meet, (n_classes, n_classes); 0 on the diagonal."""
        if self.label_levels.below is None:
            raise ValueError(
                f"{self.name}: given=true takes the tree of the labels, and these are one flat column: name several "
                "levels, as in label=['class', 'type'], or leave it out."
            )
        below = self.label_levels.below.cpu().numpy()
        n_classes = below.shape[1]
        order = np.argsort(below.sum(axis=1), kind="stable")  # from leaves to the top
        heights, level = np.zeros((n_classes, n_classes)), np.zeros(len(below))
        for i, node in enumerate(order[n_classes:], n_classes):
            inside = [other for other in order[:i] if not below[other, ~below[node]].any()]
            level[node] = 1 + level[inside].max()
            pair = np.outer(below[node], below[node]) & (heights == 0) & ~np.eye(n_classes, dtype=bool)
            heights[pair] = level[node]
        heights[(heights == 0) & ~np.eye(n_classes, dtype=bool)] = level.max() + 1
        return heights

    def _of_all_codes(self, distances: np.ndarray) -> np.ndarray:
        """Return the distances of the classes among those of all codes; names above classes are far from everything."""
        if self.label_levels.below is None:
            return distances
        padded = np.full((len(self.label_levels.below),) * 2, _FARTHEST)
        padded[: len(distances), : len(distances)] = distances
        return padded


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

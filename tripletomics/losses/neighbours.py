"""The map's structure term: neighbours close, the whole in proportion."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from tripletomics.losses.base import Loss

NEIGHBOURS = 15


class Neighbours(Loss):
    r"""Neighbours lie close in the map, and far types stay far.

    .. math::
        L = -\frac{1}{n} \sum_i \log \frac{q(a_i, b_i)}{\sum_{j \ne i} q(a_i, a_j) + \sum_j q(a_i, b_j)}
            + w \, (1 - r), \qquad q(a, b) = \frac{1}{1 + |a - b|^2}

    with map places a (cells) and b (a neighbour of each); r is the Pearson correlation of the distances among the a
    in the map with those in the reference.

    Parameters
    ----------
    weight
        w, weight of the proportions, in [0, inf); 0 leaves the arrangement of the types free.

    References
    ----------
    Contrastive neighbour embedding with a Cauchy kernel: Damrich, Böhm, Hamprecht & Kobak 2023; Böhm, Berens & Kobak
    2023 (t-SimCNE). The correlation term: Sammon-like stress of distances, as a correlation since scale is free.
    """

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, a: Tensor, b: Tensor, reference: Tensor) -> Tensor:
        """Return the loss of places `a` and `b` (pairs, dim) with the reference places (pairs, components) of `a`."""
        n = len(a)
        both = torch.cat([a, b])
        squared = torch.stack([(a[:, None, c] - both[None, :, c]).square() for c in range(a.shape[1])]).sum(dim=0)
        similarity = -torch.log1p(squared)
        positive = similarity.diagonal(n)
        oneself = torch.eye(n, 2 * n, dtype=torch.bool, device=a.device)
        spread = similarity.masked_fill(oneself, -torch.inf).logsumexp(dim=1)
        value = (spread - positive).mean()
        if self.weight:
            some = slice(256)  # distances of 256 cells are 32,640 pairs, enough for a correlation
            value = value + self.weight * (1 - _correlation(torch.pdist(a[some]), torch.pdist(reference[some])))
        return value


def data_graph(reference: np.ndarray) -> np.ndarray:
    """Find the 15 nearest cells of every cell (fewer in a tiny table): int64 (cells, k)."""
    k = min(NEIGHBOURS, len(reference) - 1)
    return NearestNeighbors(n_neighbors=k).fit(reference).kneighbors(return_distance=False)


def label_graph(reference: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Find the 15 nearest cells of the same type: int64 (cells, k), -1 for an unlabelled cell or one that is alone.

    A cell of a type with fewer members has them all, repeated to fill the row.
    """
    k = min(NEIGHBOURS, len(reference) - 1)
    graph = np.full((len(reference), k), -1)
    for code in np.unique(y[y >= 0]):
        cells = np.flatnonzero(y == code)
        if len(cells) > 1:
            found = cells[data_graph(reference[cells])]
            graph[cells] = found[:, np.arange(k) % found.shape[1]]
    return graph


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12)

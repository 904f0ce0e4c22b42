"""Codes of cells whose class is known on different levels, as losses need them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Levels(nn.Module):
    """Which classes each code may be.

    The first codes are the classes themselves. A later one is a name above some of them, for cells of which no finer
    name is known. Two cells with the same code are a positive pair, and two whose codes have no class in common are a
    negative one; all other pairs count for nothing.

    Parameters
    ----------
    below
        Boolean (codes, n_classes): the classes that a code is or stands above. By default every code is a class.
    """

    def __init__(self, below: np.ndarray | None = None) -> None:
        super().__init__()
        self.below: Tensor | None
        self.register_buffer("below", None if below is None else torch.from_numpy(below), persistent=False)

    def apart(self, y: Tensor, others: Tensor | None = None) -> Tensor:
        """Mark the negative pairs among cells with these codes, or of these with `others`: boolean (n, n others)."""
        others = y if others is None else others
        if self.below is None:
            return y[:, None] != others
        below = self.below.float()
        return below[y] @ below[others].T == 0

    def own(self, codes: Tensor, n_classes: int) -> Tensor:
        """Mark the classes that each cell may be, boolean (n, n_classes)."""
        return F.one_hot(codes, n_classes).bool() if self.below is None else self.below[codes]

    def fine(self, y: Tensor) -> Tensor:
        """Return codes with -1 in place of names above classes."""
        return y if self.below is None else torch.where(y < self.below.shape[1], y, -1)

    def cross_entropy(self, scores: Tensor, codes: Tensor) -> Tensor:
        r"""Return the mean cross-entropy of scores s (n, n_classes).

        It is enough that a cell is one of the classes that it may be: the loss is
        :math:`\log \sum_k e^{s_k} - \log \sum_{k \text{ own}} e^{s_k}`.
        """
        if self.below is None:
            return F.cross_entropy(scores, codes)
        inside = scores.masked_fill(~self.below[codes], -torch.inf)
        return (scores.logsumexp(1) - inside.logsumexp(1)).mean()


def contained(below: np.ndarray) -> np.ndarray:
    """Return whether all classes of one code are among those of another: boolean (codes, codes) for `Levels.below`."""
    counts = below.astype(np.int64)
    return counts @ counts.T == counts.sum(axis=1, keepdims=True)


def coarse_to_fine(y: np.ndarray, below: np.ndarray) -> list[np.ndarray]:
    """Return the group of each cell on each level, the coarsest level first: codes (cells,), -1 for none.

    A group is a name and all below it. On a level finer than its own name, a cell of a class stays with its class, and
    a cell that is known coarsely is in no group. Names above the same classes are one name.

    Parameters
    ----------
    y
        Codes (cells,), -1 for unlabelled.
    below
        As for `Levels`.
    """
    inside = contained(below)
    first = (inside & inside.T).argmax(axis=1)
    names = first == np.arange(len(below))
    depths = (inside & names).sum(axis=1) - 1
    levels = []
    for depth in range(depths.max() + 1):
        above = inside & names & (depths == depth)
        rest = np.where(below.sum(axis=1) == 1, first, -1)
        group = np.where(above.any(axis=1), above.argmax(axis=1), rest)
        levels.append(np.where(y >= 0, group[y], -1))
    return levels

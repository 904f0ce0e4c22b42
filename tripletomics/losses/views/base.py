"""What all losses of two views share."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tripletomics.geometry import normalise
from tripletomics.losses.base import Loss
from tripletomics.losses.minibatch import zero


class ViewLoss(Loss):
    """The base of losses of two views, called ``loss(z1, z2, y)``.

    Subclasses define ``_value(z1, z2, y, cells, **known)`` for two or more cells, with the codes of both views (2, n)
    and their cells (2, n), -1 where they are unknown.

    Examples
    --------
    >>> [name for name, loss in tt.losses.family().items() if issubclass(loss, tt.losses.ViewLoss)]
    ['simsiam', 'byol', 'vicreg', 'barlow_twins', 'infonce', 'clip', 'simclr', 'moco']
    """

    supervised = False
    _spread = torch.tensor(torch.nan)  # before the first minibatch
    views = 2

    def has_terms(self, y: np.ndarray) -> bool:
        """Return whether there are two cells; they need no label."""
        return len(y) > 1

    def forward(self, z1: Tensor, z2: Tensor, y: Tensor | None = None, **known: Tensor) -> Tensor:
        """Return the loss of a minibatch.

        Parameters
        ----------
        z1, z2
            Two views of n cells, (n, dim) each.
        y
            Class codes (n,), -1 for unlabelled cells; by default all are.
        known
            ``cells``, numbers of the cells that the views show (2, n); ``momentum_z``, both views as the momentum
            encoder embeds them (2 n, dim); and ``codes`` (2, n), where the views of a pair show two cells. By default y
            holds for both.
        """
        if z1.dim() != 2 or z1.shape != z2.shape or (y is not None and y.shape != z1.shape[:1]):
            shapes = f"z1 {tuple(z1.shape)}, z2 {tuple(z2.shape)}" + ("" if y is None else f" and y {tuple(y.shape)}")
            raise ValueError(f"{self.name} needs two views of the same cells, (n, dim) each, and y (n,): got {shapes}.")
        y = z1.new_full(z1.shape[:1], -1, dtype=torch.long) if y is None else y
        if y.is_floating_point() or y.dtype == torch.bool:
            raise ValueError(f"y holds {y.dtype}: pass class codes as whole numbers, -1 for unlabelled.")
        if len(z1) < 2:
            self._spread = z1.new_full((), torch.nan)
            return zero(z1) + zero(z2)
        self._spread = spread(z1.detach())
        codes = self.known_codes(known.pop("codes", torch.stack([y, y])))
        cells = known.pop("cells", None)
        cells = torch.full_like(codes, -1) if cells is None else cells
        return self._value(z1, z2, codes, cells, **known).to(z1.dtype)

    def trace(self) -> dict[str, Tensor]:
        """Return how far the directions of the minibatch are spread: 1 all over the sphere, 0 at one point."""
        return {"spread": self._spread}

    def _value(self, z1: Tensor, z2: Tensor, y: Tensor, cells: Tensor, **known: Tensor) -> Tensor:
        raise NotImplementedError


def spread(z: Tensor) -> Tensor:
    """Return the mean standard deviation of the columns of unit rows, times sqrt(dim): 0 if all point one way.

    References
    ----------
    Chen & He 2021, Exploring simple Siamese representation learning.
    """
    return normalise(z).std(dim=0, correction=0).mean() * math.sqrt(z.shape[1])

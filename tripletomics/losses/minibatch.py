"""The labelled cells of a minibatch, and the value of one that has nothing to compare."""

from __future__ import annotations

import torch
from torch import Tensor


def labelled(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Drop the unlabelled cells (code -1) of a minibatch, and put the codes where the embeddings are.

    Parameters
    ----------
    z
        Embeddings (n, dim).
    y
        Class codes (n,), whole numbers. On the CPU they show which cells to keep without waiting for a GPU.

    Raises
    ------
    ValueError
        If the shapes do not fit or `y` does not hold whole numbers.

    Examples
    --------
    >>> z, y = torch.zeros(3, 2), torch.tensor([0, -1, 1])
    >>> z, y = tt.losses.labelled(z, y)
    >>> y
    tensor([0, 1])
    """
    if z.dim() != 2 or y.shape != z.shape[:1]:
        raise ValueError(f"A loss needs z (n, dim) and y (n,): got z {tuple(z.shape)} and y {tuple(y.shape)}.")
    if y.is_floating_point() or y.dtype == torch.bool:
        raise ValueError(f"y holds {y.dtype}: pass class codes as whole numbers, -1 for unlabelled.")
    known = (y >= 0).nonzero()[:, 0]
    if len(known) < len(y):
        z, y = z[known.to(z.device)], y[known]
    return z, y.long().to(z.device)


def zero(z: Tensor) -> Tensor:
    """Return 0 connected to `z` (0-d, the dtype of `z`): the value of a minibatch that has nothing to compare.

    Examples
    --------
    >>> tt.losses.zero(torch.ones(5, 2))
    tensor(0.)
    """
    return z[:0].sum()

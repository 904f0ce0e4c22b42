"""Losses with several learned points for each class, so that a type may keep its subtypes."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tripletomics.geometry import normalise
from tripletomics.losses.base import register
from tripletomics.losses.proxies import CosineLoss


class CentersLoss(CosineLoss):
    """The base of losses with several proxies for each class, its centers: `proxies` is (n_classes, centers, dim)."""

    parameter_eps = 0.01  # centers that few cells reach stay nearly still
    centers: int

    def build(self, dim: int, n_classes: int) -> None:
        """Draw the proxies (n_classes, centers, dim) as torch.nn.Linear draws its weights."""
        super().build(dim, n_classes * self.centers)
        self.proxies = nn.Parameter(self.proxies.detach().view(n_classes, self.centers, dim))

    def surviving(self) -> Tensor:
        """Count each class's centers (n_classes,), int64; those that steps below 0.1 radians (6°) join are one."""
        w = normalise(self.proxies.detach())
        joined = (w @ w.mT > math.cos(0.1)).to(w.dtype)
        for _ in range(self.centers.bit_length()):  # each turn doubles the length of the chains
            joined = (joined @ joined).clamp(max=1)
        return (~joined.bool().tril(-1).any(2)).sum(1)  # the first center of each chain has no earlier one

    def summary_arrays(self) -> dict[str, np.ndarray]:
        """Return how many centers each class has left; see `surviving`."""
        return {"surviving_centers": self.surviving().cpu().numpy()}


@register("softtriple")
class SoftTriple(CentersLoss):
    r"""Give each class several centers, so that a type may keep its subtypes, and merge those that it does not need.

    .. math::
        L = \frac1n \sum_i \log(1 + \sum_{c \ne y_i} e^{s (S_{ic} - S_{iy_i} + m)})
            + \tau \sum_c \sum_{k < l} \frac{\sqrt{2 + 10^{-5} - 2 w_{ck} \cdot w_{cl}}}{C K (K - 1)}, \quad
        S_{ic} = \sum_k \operatorname{softmax}_k(x_i \cdot w_{ck} / \gamma) \; x_i \cdot w_{ck}

    Parameters
    ----------
    centers
        K, the centers of each class, at least 1; useful from 2 to 20.
    scale
        s, from cosines to logits, above 0; useful from 5 to 64.
    gamma
        Softness in units of the cosine, above 0; useful from 0.02 to 0.5. A low value counts only the nearest center.
    margin
        m in units of the cosine, from 0 to 1.5; useful up to 0.2.
    tau
        How strongly the centers of a class attract each other, at least 0; useful up to 1.

    Notes
    -----
    `proxies` w is (n_classes, centers, dim); see `surviving`. Other shapes, unlabelled cells and errors: `Softmax`.

    References
    ----------
    Qian, Shang, Sun, Hu, Li & Jin 2019, SoftTriple loss: deep metric learning without triplet sampling.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.SoftTriple(centers=3)
    >>> loss.build(dim=2, n_classes=2)
    >>> loss.proxies.shape  # (classes, centers, dim)
    torch.Size([2, 3, 2])
    >>> bool(loss(z, torch.tensor([0, 0, 1, 1])) > 0)
    True
    """

    centers: int = 10
    scale: float = 20.0
    gamma: float = 0.1
    margin: float = 0.01
    tau: float = 0.2

    def _value(self, x: Tensor, w: Tensor, codes: Tensor) -> Tensor:
        cos = torch.einsum("nd,ckd->nck", x, w)
        value = self._margin_cross_entropy(
            (F.softmax(cos / self.gamma, 2) * cos).sum(2), codes, self.scale, self.margin
        )
        one, other = torch.triu_indices(self.centers, self.centers, 1, device=w.device)
        apart = ((w[:, one] - w[:, other]).square().sum(2) + 1e-5).sqrt()  # 2 - 2 cos as a square is never below 0
        return value + self.tau * apart.sum() / (len(w) * self.centers * max(self.centers - 1, 1))


@register("hardtriple")
class HardTriple(CentersLoss):
    r"""Give each class several centers, and compare each cell with the nearest center of every class.

    .. math:: L = \frac1n \sum_i \log(1 + \sum_{c \ne y_i} e^{s (S_{ic} - S_{iy_i} + m)}), S_{ic} = \max_k x_i w_{ck}

    Parameters
    ----------
    centers
        The centers of each class, at least 1; useful from 2 to 20.
    scale
        s, from cosines to logits, above 0; useful from 5 to 64.
    margin
        m in units of the cosine, from 0 to 1.5; useful up to 0.2.

    Notes
    -----
    `proxies` w is (n_classes, centers, dim). Other shapes, unlabelled cells and errors are as in `Softmax`.

    References
    ----------
    Qian, Shang, Sun, Hu, Li & Jin 2019, SoftTriple loss: deep metric learning without triplet sampling.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.HardTriple(centers=3)
    >>> loss.build(dim=2, n_classes=2)
    >>> loss.proxies.shape  # (classes, centers, dim)
    torch.Size([2, 3, 2])
    >>> bool(loss(z, torch.tensor([0, 0, 1, 1])) > 0)
    True
    """

    centers: int = 10
    scale: float = 20.0
    margin: float = 0.01

    def _value(self, x: Tensor, w: Tensor, codes: Tensor) -> Tensor:
        return self._margin_cross_entropy(torch.einsum("nd,ckd->nck", x, w).amax(2), codes, self.scale, self.margin)

"""Losses that compare a cell with learned points, one for each class: its proxies.

A proxy loss costs O(n * classes) and does not need two cells of a type in a batch, so rare types are no problem.
`build` creates the proxies before training, when the classes are known.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tripletomics import parts
from tripletomics.losses.base import Loss, labelled, register, zero


class ProxyLoss(Loss):
    """The base of losses with one proxy for each class.

    Attributes
    ----------
    proxies
        The parameter (n_classes, dim) that `build` creates.
    """

    proxies: nn.Parameter

    def build(self, dim: int, n_classes: int) -> None:
        """Draw the proxies (n_classes, dim) from torch's generator, as torch.nn.Linear draws its weights."""
        self.proxies = nn.Parameter(torch.empty(n_classes, dim))
        nn.init.kaiming_uniform_(self.proxies, a=math.sqrt(5))

    def known(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Drop the unlabelled cells and check that the others fit the proxies."""
        if "proxies" not in self._parameters:
            raise RuntimeError(f"{self.name} has no proxies yet: call build(dim, n_classes) first.")
        cells, codes = labelled(z, y)
        n_classes, dim = len(self.proxies), self.proxies.shape[-1]
        if z.shape[1] != dim:
            raise ValueError(f"{self.name} was built for dim={dim}, but z has {z.shape[1]} columns.")
        if len(codes) and codes.max() >= n_classes:
            raise ValueError(
                f"{self.name} was built for n_classes={n_classes} (codes 0 to {n_classes - 1}), "
                f"but y holds {int(codes.max())}."
            )
        return cells, codes


@register("softmax")
class Softmax(ProxyLoss):
    r"""Classify each cell with one linear layer: the baseline that every other loss has to beat.

    .. math:: L = -\frac1n \sum_i \log \frac{\exp(w_{y_i} \cdot z_i + b_{y_i})}{\sum_k \exp(w_k \cdot z_i + b_k)}

    Notes
    -----
    z is (n, dim), y (n,), `proxies` w (n_classes, dim), `bias` b (n_classes,), which starts at 0. Cells with code -1
    are ignored; a batch without labels gives 0. Calling it before `build` is a RuntimeError, a code that is no class
    a ValueError.

    References
    ----------
    Zhai & Wu 2019, Classification is a strong baseline for deep metric learning.
    """

    def build(self, dim: int, n_classes: int) -> None:
        """Draw the proxies as torch.nn.Linear draws its weights; the bias starts at 0."""
        super().build(dim, n_classes)
        self.bias = nn.Parameter(torch.zeros(n_classes))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch."""
        cells, codes = self.known(z, y)
        if not len(codes):
            return zero(z)
        logits = F.linear(cells, self.proxies.to(z.dtype), self.bias.to(z.dtype))
        return F.cross_entropy(logits, codes)


@register("center")
class Center(ProxyLoss):
    r"""Pull each cell to the moving center of its class; an addition to a loss that keeps classes apart.

    .. math:: L = \frac{1}{2n} \sum_i |z_i - c_{y_i}|^2, \qquad
        c_j \leftarrow c_j - \alpha \frac{\sum_{i: y_i = j} (c_j - z_i)}{1 + n_j}

    Parameters
    ----------
    alpha
        How far a center moves to its cells in each batch, a fraction in [0, 1]; useful from 0.1 to 0.9.

    Notes
    -----
    z is (n, dim), y (n,), `proxies` c (n_classes, dim). The centers follow their own rule, in training mode only and
    after the value is computed; no optimiser moves them, but `state_dict` has them. Alone it collapses: all
    cells and centers meet at one point, so `fit` refuses it without another loss. Cells with code -1 are ignored; a
    batch without labels gives 0 and moves nothing. Calling it before `build` is a RuntimeError, a code that is no
    class a ValueError. The paper sums over the batch, this takes the mean, so that the weight does not depend on the
    batch's size.

    References
    ----------
    Wen, Zhang, Li & Qiao 2016, A discriminative feature learning approach for deep face recognition.
    """

    alpha: float = 0.5
    collapses = True

    def __post_init__(self) -> None:
        parts.check_number(self, "alpha", "[0, 1]")

    def build(self, dim: int, n_classes: int) -> None:
        """Draw the centers as torch.nn.Linear draws its weights."""
        super().build(dim, n_classes)
        self.proxies.requires_grad_(False)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch; in training mode, then move the centers."""
        cells, codes = self.known(z, y)
        if not len(codes):
            return zero(z)
        away = cells - self.proxies.to(z.dtype)[codes]
        if self.training:
            self._move(away.detach(), codes)
        return away.square().sum() / (2 * len(codes))

    @torch.no_grad()
    def _move(self, away: Tensor, codes: Tensor) -> None:
        step = torch.zeros_like(self.proxies).index_add_(0, codes, away.to(self.proxies.dtype))
        size = torch.bincount(codes, minlength=len(self.proxies))
        self.proxies.add_(self.alpha * step / (1 + size[:, None]))

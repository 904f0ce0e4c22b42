"""Augmentations: one cell -> another view of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tripletomics import parts
from tripletomics.features import PANEL

_AUGMENTATIONS: dict[str, type[Mask]] = {}


@parts.register("mask", _AUGMENTATIONS)
@dataclass(frozen=True)
class Mask:
    """Hide genes at random, so that no type hangs on one gene and a missing gene does little harm.

    Parameters
    ----------
    p
        Share of the genes hidden in each cell, in [0, 1). None hides 0.7 of the genes, but only a tenth of a panel of
        fewer than 100 features, where no feature stands in for another.

    Notes
    -----
    A hidden gene takes its training mean (0 after scaling). The others are not scaled up: layer normalisation follows.

    References
    ----------
    Input dropout: Srivastava et al. 2014. Gene masks are the best single augmentation of scSSL-Bench (Ovcharenko et
    al. 2025).
    """

    p: float | None = None

    def __post_init__(self) -> None:
        if self.p is not None:
            parts.check_number(self, "p", "[0, 1)")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return scaled rows (cells, genes) with genes hidden."""
        p = self.p
        if p is None:
            p = 0.1 if x.shape[1] < PANEL else 0.7
        # 16 random bits decide about a gene: three times as fast as a float each
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
        bits = words.random_(-(2**63), None, generator=generator).view(torch.int16)[: x.numel()].view(x.shape)
        return x * (bits >= round(p * 2**16) - 2**15)


def make(augment: str | Mask | None) -> Mask:
    """Turn what a user gives as ``augment=`` into an augmentation; None hides nothing."""
    if augment is None:
        return Mask(p=0.0)
    return parts.make(augment, _AUGMENTATIONS, "augment") if isinstance(augment, str) else augment

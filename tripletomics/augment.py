"""Augmentations: one cell -> another view of it.

``"mask"``, ``"mask:p=0.2"`` and ``"thin + mask:p=0.3"`` (one after the other) are what ``augment=`` takes. A part is
called with scaled rows (cells, genes), a generator, and the codes of the rows (-1 for unlabelled).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from tripletomics import parts
from tripletomics.pcs import PANEL

GROUPS = 8  # of cells that show the same genes: with one, held-out macro-F1 was lower by up to .008
_AUGMENTATIONS: dict[str, type[Augmentation]] = {}


@dataclass(frozen=True)
class Augmentation:
    """The base of all augmentations.

    Attributes
    ----------
    of_molecules
        Whether it works only on counts, that is whole numbers of molecules.
    of_genes
        Whether it works on the values of genes and proteins, not on principal components.
    mean, scale
        Turn scaled rows back into logged values, ``rows * scale + mean``, float32 (genes,); set by `fit`.
    """

    of_molecules = False
    of_genes = False
    mean: Any = field(default=0.0, init=False, repr=False, compare=False)
    scale: Any = field(default=1.0, init=False, repr=False, compare=False)

    def fit(self, mean: np.ndarray, scale: np.ndarray) -> Self:
        """Return a copy that knows how the rows were scaled."""
        fitted = replace(self)
        for name, value in (("mean", mean), ("scale", scale)):
            object.__setattr__(fitted, name, torch.as_tensor(value))
        return fitted

    def __call__(self, x: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Return another view of scaled rows."""
        raise NotImplementedError

    def columns(self, width: int, generator: torch.Generator) -> Tensor | None:
        """Return the genes that each group of a minibatch's cells shows, for a single view: int64 (groups, genes).

        Its cells take turns. Hidden genes are then neither scaled nor multiplied. None if each cell is augmented alone.
        """
        return None

    def idle(self, *, labelled: bool) -> bool:
        """Return whether it changes nothing, without labels or with them."""
        return False

    def _values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logged values (cells, genes), and mean and scale on the device of x."""
        mean, scale = (torch.as_tensor(part, dtype=x.dtype, device=x.device) for part in (self.mean, self.scale))
        return x * scale + mean, mean, scale


@parts.register("mask", _AUGMENTATIONS)
@dataclass(frozen=True)
class Mask(Augmentation):
    """Hide genes at random, so that no type depends on one gene and a missing gene does little harm.

    Parameters
    ----------
    p
        Share of the genes hidden in each cell, in [0, 1), to the nearest 1/256. None hides 0.7 of the genes, but only a
        tenth of a panel of fewer than 100 features, where no feature stands in for another.

    Notes
    -----
    A hidden gene takes its training mean (0 after scaling). The others are not scaled up: layer normalisation follows.
    On a CPU, where each cell has one view and half of the genes or more are hidden, an eighth of a minibatch's cells
    show the same genes. Hidden genes are then not multiplied, and scores are the same.

    References
    ----------
    Input dropout: Srivastava et al. 2014. Gene masks are the best single augmentation of scSSL-Bench (Ovcharenko et
    al. 2025).
    """

    p: float | None = None

    def __post_init__(self) -> None:
        if self.p is not None:
            parts.check_number(self, "p", "[0, 1)")

    def idle(self, *, labelled: bool) -> bool:
        """Return whether no gene is hidden."""
        return self.p == 0

    def share(self, width: int) -> float:
        """Return the share of the genes that is hidden."""
        if self.p is None:
            return 0.1 if width < PANEL else 0.7
        return self.p

    def columns(self, width: int, generator: torch.Generator) -> Tensor | None:
        """Return genes that are shown together, drawn for each group: int64 (groups, genes)."""
        hidden = self.share(width)
        if hidden < 0.5 or generator.device.type != "cpu":  # a GPU is quicker with one large product
            return None
        shown = max(round((1 - hidden) * width), 1)
        return torch.stack([torch.randperm(width, generator=generator)[:shown] for _ in range(GROUPS)])

    def __call__(self, x: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Return scaled rows (cells, genes) with genes hidden, for each cell others."""
        p = self.share(x.shape[1])
        # 8 random bits decide about a gene: six times as fast as a float each
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
        bits = words.random_(-(2**63), None, generator=generator).view(torch.uint8)[: x.numel()].view(x.shape)
        return bits.float().ge_(min(round(p * 256), 255)).mul_(x)  # a product with booleans takes four times as long


@parts.register("thin", _AUGMENTATIONS)
@dataclass(frozen=True)
class Thin(Augmentation):
    """Remove molecules at random, as if the cells had been sequenced less deeply.

    Parameters
    ----------
    p
        Smallest share of its molecules that a cell keeps, in (0, 1]; each cell draws its own between p and 1.

    Notes
    -----
    Binomial thinning of counts, which have to be whole numbers. A cell's lowest value above 0 is taken to be one
    molecule; what is left is scaled up to the depth that the cell had.

    References
    ----------
    Gerard 2020, Data-based RNA-seq simulations by binomial thinning.
    """

    p: float = 0.5
    of_molecules = True
    of_genes = True

    def __post_init__(self) -> None:
        parts.check_number(self, "p", "(0, 1]")

    def __call__(self, x: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Return scaled rows (cells, genes) with fewer molecules."""
        values, mean, scale = self._values(x)
        depths = values.clamp(min=0).expm1()
        there = depths > 1e-4
        one = depths.masked_fill(~there, torch.inf).amin(dim=1, keepdim=True)
        one = torch.where(one.isfinite(), one, 1)
        kept = self.p + (1 - self.p) * torch.rand(len(x), 1, generator=generator, device=x.device, dtype=x.dtype)
        left = torch.binomial((depths / one * there).round(), kept.expand_as(x), generator=generator)
        return ((left / kept * one).log1p() - mean) / scale


@parts.register("noise", _AUGMENTATIONS)
@dataclass(frozen=True)
class Noise(Augmentation):
    """Add Gaussian noise to logged values.

    Parameters
    ----------
    sd
        Standard deviation, in units of the logged values; above 0, useful from 0.1 to 1.
    expressed
        Whether genes without any molecule stay at 0. Set it to false for proteins, whose values are never 0.
    """

    sd: float = 0.3
    expressed: bool = True
    of_genes = True

    def __post_init__(self) -> None:
        parts.check_number(self, "sd", "(0, inf)")
        parts.check_flag(self, "expressed")

    def __call__(self, x: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Return scaled rows (cells, genes) with noise."""
        values, _, scale = self._values(x)
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype) * (self.sd / scale)
        return x + (noise * (values > 1e-4) if self.expressed else noise)


@parts.register("mixup", _AUGMENTATIONS)
@dataclass(frozen=True)
class Mixup(Augmentation):
    """Move each cell towards another one of its type.

    Parameters
    ----------
    share
        Largest share of the other cell, in (0, 1]; each cell draws its own between 0 and this.

    Notes
    -----
    The other cell is a random one of the minibatch. Unlabelled cells and cells alone in their type stay as they are.

    References
    ----------
    Zhang, Cisse, Dauphin & Lopez-Paz 2018, mixup, here within a type, so that no label is mixed.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        parts.check_number(self, "share", "(0, 1]")

    def idle(self, *, labelled: bool) -> bool:
        """Return whether there are no types to mix within."""
        return not labelled

    def __call__(self, x: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Return scaled rows (cells, genes), mixed within types."""
        if y is None:
            return x
        draw = torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype)
        # a random order within each type, in which every cell takes the next one
        order = torch.argsort(y.to(x.dtype) + 0.999 * draw)
        following = torch.empty_like(order)
        first = torch.searchsorted(y[order], y[order])
        following[order] = torch.where(y[order.roll(-1)] == y[order], order.roll(-1), order[first])
        amount = self.share * torch.rand(len(x), 1, generator=generator, device=x.device, dtype=x.dtype)
        return torch.lerp(x, x[following], amount * (y >= 0)[:, None])


@parts.register("censor", _AUGMENTATIONS)
@dataclass(frozen=True)
class Censor(Augmentation):
    """Hide features at random, low values first, as proteins below the limit of detection are missing.

    Parameters
    ----------
    p
        Share of the features hidden in each cell on average, in (0, 0.5]: the lowest value with probability 2 p, the
        highest with 0, and between them along their ranks.

    Notes
    -----
    A hidden feature takes its training mean (0 after scaling), as with `Mask`.
    """

    p: float = 0.1
    of_genes = True

    def __post_init__(self) -> None:
        parts.check_number(self, "p", "(0, 0.5]")

    def __call__(self, x: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Return scaled rows (cells, features) with low values hidden."""
        ranks = self._values(x)[0].argsort(dim=1).argsort(dim=1).to(x.dtype) / max(x.shape[1] - 1, 1)
        draw = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return x * (draw >= 2 * self.p * (1 - ranks))


@dataclass(frozen=True)
class Chain(Augmentation):
    """One augmentation after another."""

    members: tuple[Augmentation, ...] = ()

    def __post_init__(self) -> None:
        if any(member.of_molecules for member in self.members[1:]):
            raise ValueError(
                f"augment={spec(self)!r} removes molecules from cells that were already changed: put thin first."
            )

    @property
    def of_molecules(self) -> bool:  # type: ignore[override]
        """Whether one of them works only on counts, that is whole numbers of molecules."""
        return any(member.of_molecules for member in self.members)

    @property
    def of_genes(self) -> bool:  # type: ignore[override]
        """Whether one of them works on the values of genes."""
        return any(member.of_genes for member in self.members)

    def fit(self, mean: np.ndarray, scale: np.ndarray) -> Chain:
        """Return a copy whose members know how the rows were scaled."""
        return Chain(tuple(member.fit(mean, scale) for member in self.members))

    def idle(self, *, labelled: bool) -> bool:
        """Return whether no member changes anything."""
        return all(member.idle(labelled=labelled) for member in self.members)

    def __call__(self, x: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Apply the members in their order."""
        for member in self.members:
            x = member(x, generator, y)
        return x


@dataclass(frozen=True)
class Modalities(Augmentation):
    """Show one of two modalities, augmented, of the dense matrix of a `Pair`.

    Parameters
    ----------
    member
        The augmentation of what is shown.
    widths
        Numbers of columns of the two.
    views
        2: the first and the second half of the rows are views of the same cells. One shows the first modality and the
        other the second, in random order. 1: each cell shows one, the other, or both.

    Notes
    -----
    A cell with only one measured modality shows that one in both views.
    """

    member: Augmentation
    widths: tuple[int, int]
    views: int

    def __call__(self, x: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Return rows with one modality or some features hidden."""
        sides, measured = x[:, :-2].split([*self.widths], dim=1), x[:, -2:] > 0
        if self.views == 2:
            one = torch.randint(2, (1,), generator=generator, device=x.device).expand(len(x) // 2)
            drawn = torch.cat([one, 1 - one])
        else:
            drawn = torch.randint(3, (len(x),), generator=generator, device=x.device)
        shown = torch.stack([drawn != 1, drawn != 0], dim=1)
        shown = torch.where(measured.all(dim=1, keepdim=True), shown, measured)
        changed = []
        for side, there in zip(sides, shown.T, strict=True):
            rows = there.nonzero()[:, 0]
            views = self.member(side[rows], generator, None if y is None else y[rows])
            changed.append(torch.zeros_like(side).index_copy(0, rows, views))
        return torch.cat([*changed, shown.to(x.dtype)], dim=1)


def make(augment: str | Augmentation | None) -> Augmentation:
    """Return the augmentation for what a user gives as ``augment=``; that of None changes nothing."""
    if augment is None:
        return Mask(p=0.0)
    if isinstance(augment, Augmentation):
        return augment
    if not isinstance(augment, str):
        raise TypeError(f"augment={augment!r} is neither text such as 'mask:p=0.2' nor an augmentation.")
    texts = re.split(r"(?<![\d.]e)\+", augment)  # not at the + of 1e+2
    members = [parts.make(text, _AUGMENTATIONS, "augment") for text in texts]
    return members[0] if len(members) == 1 else Chain(tuple(members))


def spec(augment: Augmentation) -> str:
    """Write an augmentation as text: ``make(spec(augment))`` makes an equal one."""
    members = augment.members if isinstance(augment, Chain) else (augment,)
    return " + ".join(parts.spec(member) for member in members)

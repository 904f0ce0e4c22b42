"""Triplet, with every way to choose triplets: all of them, mined ones, bands, curricula, offline ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tripletomics import geometry, parts
from tripletomics.losses.base import Loss, register
from tripletomics.losses.minibatch import labelled, zero
from tripletomics.losses.tuples.base import TripletLoss
from tripletomics.notices import warn
from tripletomics.samplers import BatchGuide

_MINERS = {
    "hard": geometry.mine_hard,
    "semihard": geometry.mine_semihard,
    "easy_positive": geometry.mine_easy_positive,
}
_PACES: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "root": math.sqrt,
    "exponential": lambda t: math.expm1(10 * t) / math.expm1(10),
    "step": lambda t: min(math.floor(4 * t), 3) / 3,
}
_CANDIDATES = 20_000  # cells among which offline triplets are chosen
_ELEMENTS = 2**22  # of a temporary matrix of distances


@register("triplet")
class Triplet(TripletLoss):
    r"""Pull cells of a type together until every other type is farther away by a margin.

    .. math:: \ell(a, p, n) = \max(0,\; d_{ap} - d_{an} + m)

    Parameters
    ----------
    margin
        How much farther a cell of another class must be, in units of `distance`; at least 0, useful from 0.05 to 1. A
        margin tuned for one distance does not transfer to another.
    distance
        ``"euclidean"``, ``"sqeuclidean"``, ``"manhattan"``, ``"minkowski"``, ``"cosine"`` (0 to 2), ``"angular"``
        (radians), ``"mahalanobis"`` (in units of the spread inside the classes of the minibatch) or ``"jaccard"`` (0 to
        1). Squared distances have vanishing gradients once cells are close, and collapse under hard mining.
    p
        The power of ``"minkowski"``, above 0; below 1 it is not a metric. Unused by other distances.
    mining
        Which triplets count. ``"all"``: every one, exactly. ``"hard"``: per anchor the farthest positive and the
        nearest negative. ``"semihard"``: for every anchor and positive the nearest negative that is farther than the
        positive, else the farthest negative. ``"easy_positive"``: per anchor the nearest positive and the nearest
        negative, which lets a type keep several clusters. ``"band"``: those whose gap d_ap - d_an is in (`lo`, `hi`].
        ``"curriculum"``: a band that moves as training goes on. ``"offline"``: one triplet per anchor, chosen among all
        training cells every `every` epochs: the positive of middle distance and the nearest negative.
    soft
        Use log(1 + exp(d_ap - d_an)) instead of the hinge; the margin is then unused.
    reduction
        For mining ``"all"``, ``"band"`` and ``"curriculum"``: ``"nonzero"`` averages the triplets above 0, ``"all"``
        averages every triplet (of the band), ``"sum"`` adds them up. The other minings always average, satisfied
        triplets included.
    lo, hi
        The band, in units of `distance`. From -margin to 0 it holds the triplets that are in the right order but too
        close; above 0 those in the wrong order.
    start, end
        Hardness at the beginning and the end of a curriculum, from 0 (the easiest triplets that still count) to 1 (the
        hardest of the minibatch). ``start=1, end=0`` is an anti-curriculum.
    pacing
        How hardness goes from one to the other: ``"linear"``, ``"root"`` (fast, then slow), ``"exponential"`` (slow,
        then fast) or ``"step"`` (four levels).
    shuffled
        Take the same hardnesses in random order: a control that shows whether the order matters.
    every
        Epochs between two choices of offline triplets.

    Notes
    -----
    z is (n, dim), y (n,). Cells with code -1 are ignored. A minibatch without a triplet (one class, or no class with
    two cells) gives 0. The gradient at coinciding points is 0. No triplet is ever listed: ``"all"`` and bands take
    O(n^2) memory and, for the hinge, O(n^2 log n) time; soft, their time grows with the number of triplets. With
    `soft`, ``"nonzero"`` equals ``"all"``. Unlike FaceNet, embeddings are not scaled to length 1 unless the distance
    does it, and distances are not squared.

    A curriculum's band is half as wide as the range from the easiest triplet above 0 to the hardest of the minibatch,
    and hardness h sets where in that range it lies; called outside training, h is `start`. Offline, `fit` passes
    anchors, positives and negatives as three views, ``loss(a, p, n, y)``; called ``loss(z, y)`` it chooses within the
    minibatch. A setting out of range is a ValueError.

    References
    ----------
    Schroff, Kalenichenko & Philbin 2015, FaceNet (semihard). Hermans, Beyer & Leibe 2017, In defense of the triplet
    loss (hard, soft, nonzero). Xuan, Stylianou & Pless 2020, Improved embeddings with easy positive triplet mining.
    Bengio, Louradour, Collobert & Weston 2009, Curriculum learning. Wu, Dyer & Neyshabur 2021, When do curricula work?
    (pacing, random order).

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.Triplet(margin=0.2)
    >>> round(loss(z, torch.tensor([0, 0, 1, 1])).item(), 2)  # each pair is a type
    0.0
    >>> round(loss(z, torch.tensor([0, 1, 0, 1])).item(), 2)  # each pair holds both types
    1.12
    """

    margin: float = 0.2
    distance: str = "euclidean"
    p: float = 2.0
    mining: str = "all"
    soft: bool = False
    reduction: str = "nonzero"
    lo: float = -0.2
    hi: float = 0.0
    start: float = 0.0
    end: float = 1.0
    pacing: str = "linear"
    shuffled: bool = False
    every: int = 5

    def __post_init__(self) -> None:
        parts.check_number(self, "margin", "[0, inf)")
        check_distance(self)
        parts.check_word(self, "mining", ["all", *_MINERS, "band", "curriculum", "offline"])
        parts.check_flag(self, "soft")
        parts.check_word(self, "reduction", ["nonzero", "all", "sum"])
        if not self.lo < self.hi:  # also of NaN
            raise ValueError(f"triplet: lo={self.lo!r} is not below hi={self.hi!r}.")
        parts.check_number(self, "start", "[0, 1]")
        parts.check_number(self, "end", "[0, 1]")
        parts.check_word(self, "pacing", _PACES)
        parts.check_flag(self, "shuffled")
        parts.check_number(self, "every", "[1, inf)", whole=True)
        if self.mining == "offline":
            if self.distance == "mahalanobis":
                raise ValueError(
                    "triplet: distance='mahalanobis' needs whole batches, which mining='offline' does not use."
                )
            self.epochs, self.mines = self.every, True
        if self.mining == "curriculum":
            self.register_buffer("hardness", torch.tensor(float(self.start)))

    def set_progress(self, step: int, steps: int) -> None:
        """Set the hardness of a curriculum."""
        if self.mining == "curriculum":
            if self.shuffled:
                step = np.random.default_rng(0).permutation(steps)[step]
            share = _PACES[self.pacing](step / max(steps - 1, 1))
            self.get_buffer("hardness").fill_(self.start + (self.end - self.start) * share)

    def refresh(self, z: Tensor, y: Tensor) -> BatchGuide:
        """Choose the offline triplets: a positive and a negative of every cell."""
        chosen = self._choose(z, y)
        return BatchGuide(mined_rows=torch.stack(chosen, dim=1).cpu().numpy())

    def has_terms(self, y: np.ndarray) -> bool:
        """Return whether the codes make a triplet; offline, the minibatch need not hold it."""
        return Loss.has_terms(self, y) if self.mining == "offline" else super().has_terms(y)

    def forward(self, z: Tensor, *others: Tensor) -> Tensor:
        """Return the loss of a minibatch: ``loss(z, y)``; offline, ``loss(anchors, positives, negatives, y)``."""
        if len(others) == 3:
            positives, negatives, y = others
            known = y >= 0
            return self._chosen(z[known], positives[known], negatives[known])
        z, y = labelled(z, *others)
        if len(y) < 3:
            return zero(z)
        if self.mining == "offline":
            positive, negative = self._choose(z.detach(), y)
            both = (positive != (itself := torch.arange(len(y), device=z.device))) & (negative != itself)
            return self._chosen(z[both], z[positive[both]], z[negative[both]]) + zero(z)
        d = geometry.distances(z, distance=self.distance, p=self.p, y=y)  # (n, n)
        apart = self.label_levels.apart(y)
        if self.mining in _MINERS:
            d_ap, d_an = _MINERS[self.mining](d, y, apart)
            return self._terms(d_ap, d_an).mean() if len(d_ap) else zero(z)
        lo, hi = self._band(d.detach(), y, apart)
        if self.soft:
            total, count = geometry.soft_triplet_sum(d, y, lo, hi, apart=apart)
        else:
            up_to = None if self.mining == "all" else hi
            total, count = geometry.triplet_sum(d, y, self.margin, lo, up_to, apart=apart)
        if self.reduction == "all" and not self.soft:
            count = geometry.count_band(d, y, lo, hi, apart)
        return (total if self.reduction == "sum" else total / count.clamp(min=1)).to(z.dtype)

    def _terms(self, d_ap: Tensor, d_an: Tensor) -> Tensor:
        return geometry.softplus(d_ap - d_an) if self.soft else torch.relu(d_ap - d_an + self.margin)

    def _chosen(self, anchors: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        if not len(anchors):
            return zero(anchors)
        d_ap, d_an = (
            geometry.distances(anchors[:, None], cells[:, None], self.distance, self.p)[:, 0, 0]
            for cells in (positives, negatives)
        )
        return self._terms(d_ap, d_an).mean()

    def _band(self, d: Tensor, y: Tensor, apart: Tensor | None = None) -> tuple[float, float]:
        if self.mining == "all":
            return -math.inf, math.inf
        if self.mining == "band":
            return self.lo, self.hi
        d_ap, d_an = geometry.mine_hard(d, y, apart)
        easiest = -float(d.max()) if self.soft else -self.margin
        width = max(float((d_ap - d_an).max()) - easiest, 0.0) / 2 if len(d_ap) else 0.0
        lo = easiest + float(self.get_buffer("hardness")) * width
        return lo, lo + width * (1 + 1e-6)  # with room for rounding: the hardest triplet is in the hardest band

    @torch.no_grad()
    def _choose(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Choose every cell's positive of middle distance and nearest negative: row numbers (n,), its own if none."""
        positive = torch.arange(len(y), device=z.device)
        negative = positive.clone()
        known = (y >= 0).nonzero()[:, 0]
        among = known[:: max(1, math.ceil(len(known) / _CANDIDATES))]
        for rows in known.split(max(1, _ELEMENTS // max(1, len(among)))):
            d = geometry.distances(z[rows], z[among], self.distance, self.p)
            others = (y[rows, None] == y[among]) & (rows[:, None] != among)
            ordered = d.masked_fill(~others, torch.inf).argsort(1)
            count = others.sum(1)
            middle = ordered.gather(1, ((count - 1) // 2).clamp(min=0)[:, None])[:, 0]
            positive[rows] = torch.where(count > 0, among[middle], rows)
            apart = self.label_levels.apart(y[rows], y[among])
            nearest = d.masked_fill(~apart, torch.inf).argmin(1)
            negative[rows] = torch.where(apart.any(1), among[nearest], rows)
        return positive, negative


def check_distance(loss: Loss) -> None:
    """Check the settings `distance` and, where there is one, `p`; note whether only directions count."""
    parts.check_word(loss, "distance", geometry.DISTANCES)
    loss.normalised = loss.distance in ("cosine", "angular")
    p = getattr(loss, "p", None)
    if p is not None:
        parts.check_number(loss, "p", "(0, inf]")
    if p is not None and p != 2 and loss.distance != "minkowski":
        warn(f"{loss.name}: p={p:g} is the power of distance=minkowski, and changes nothing here.")
    if p is not None and p < 1 and loss.distance == "minkowski":
        warn(
            f"{loss.name}: with p={p:g}, below 1, minkowski is not a metric (a detour can be shorter), and its "
            "gradient is very steep where a coordinate is equal. From 1 on it is one."
        )

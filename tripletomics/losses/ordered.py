"""Losses of values that have an order, such as a day, a dose or an age.

Take an anchor of day 1, and cells of day 2 and day 5. `RankNContrast` asks that the cell of day 2 is the nearer one,
but not how near it is: what it compares is the order of the days. `Coral` asks for one direction along which the days
come in their order. A value is a floating-point number, NaN where it is missing.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tripletomics import geometry, parts
from tripletomics.losses.base import Loss, register
from tripletomics.losses.minibatch import zero

SAME = 1e-6  # of the largest distance of two values: distances that differ by less are equal, but for rounding


class OrderedLoss(Loss):
    """The base of losses that take values in place of class codes."""

    ordered = True

    def has_terms(self, y: np.ndarray) -> bool:
        """Return whether three cells have a value."""
        return bool(np.isfinite(y).sum() > 2)

    def known_codes(self, y: Tensor) -> Tensor:
        """Return the values as they are: they have no levels."""
        return y


@register("rnc")
class RankNContrast(OrderedLoss):
    r"""Make cells of near values lie nearer to each other than cells of distant values.

    .. math::
        L = -\frac{1}{n (n - 1)} \sum_i \sum_{j \ne i} \log
        \frac{\exp(s_{ij} / T)}{\sum_{k \in S_{ij}} \exp(s_{ik} / T)}, \qquad
        S_{ij} = \{k \ne i : d(y_i, y_k) \ge d(y_i, y_j)\}

    with the similarity :math:`s_{ij} = -|z_i - z_j|` and the distance of two values :math:`d(y_i, y_j) = |y_i - y_j|`.

    Parameters
    ----------
    temperature
        T, in units of z; above 0, useful from 0.5 to 5. An encoder can scale z itself, so this sets the size of the
        embedding more than its shape.
    period
        Length of the circle that the values run around, such as 24 for hours of a day: 23 and 1 are then 2 apart.
        None for a line.

    Notes
    -----
    z is (n, dim), y (n,) floating-point. Cells without a value (NaN) are ignored: they are neither anchor nor in a sum.
    S holds j itself and all cells of the same distance; distances that differ by a millionth of the largest one are the
    same. Fewer than three values give 0. Takes O(n^2 log n) time and O(n^2) memory. Infinite values, class codes and a
    setting out of range are a ValueError.

    References
    ----------
    Zha, Cao, Son, Yang & Katabi 2023, Rank-N-Contrast: learning continuous representations for regression.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.RankNContrast()
    >>> round(loss(z, torch.tensor([1.0, 1, 5, 5])).item(), 2)  # cells of one day are near each other
    0.64
    >>> round(loss(z, torch.tensor([1.0, 5, 1, 5])).item(), 2)  # they are not
    1.07
    """

    temperature: float = 2.0
    period: float | None = None

    def __post_init__(self) -> None:
        parts.check_number(self, "temperature", "(0, inf)")
        if self.period is not None:
            parts.check_number(self, "period", "(0, inf)")

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a minibatch."""
        z, y = with_values(z, y)
        n = len(y)
        if n < 3:
            return zero(z)
        others = ~torch.eye(n, dtype=torch.bool, device=z.device)
        similarity = (-geometry.distances(z) / self.temperature)[others].view(n, n - 1)
        with torch.no_grad():
            apart = (y[:, None] - y).abs()
            if self.period is not None:
                apart = apart % self.period
                apart = torch.minimum(apart, self.period - apart)
            apart = apart[others].view(n, n - 1)
            ascending, order = apart.sort(dim=1, stable=True)
            first = torch.searchsorted(ascending, apart - SAME * apart.max()).clamp(max=n - 2)
        # at each place in the order, the sum over all cells that are as far or farther
        tails = similarity.gather(1, order).flip(1).logcumsumexp(1).flip(1)
        return (tails.gather(1, first) - similarity).mean()


@register("coral")
class Coral(OrderedLoss):
    r"""Make one direction of z tell above how many thresholds a cell's value lies.

    .. math::
        L = -\frac{1}{n K} \sum_i \sum_{k=1}^{K} \big( [y_i > t_k] \log \sigma(w \cdot z_i + b_k)
        + [y_i \le t_k] \log (1 - \sigma(w \cdot z_i + b_k)) \big)

    with one weight vector w, a bias :math:`b_k` for each threshold, and the logistic function :math:`\sigma`. It is the
    cross-entropy of ordered classes.

    Parameters
    ----------
    thresholds
        K, whole, from 1 to 1000; useful from 5 to 50.

    Notes
    -----
    z is (n, dim), y (n,) floating-point. Cells without a value (NaN) are ignored. The paper has ordered classes with a
    threshold between each two. Here values may be any numbers, so the thresholds t are quantiles of the first minibatch
    of at least three values. Fewer than three values give 0. `build` makes w and b, and forgets t. It knows no period.
    Infinite values, class codes and a setting out of range are a ValueError.

    References
    ----------
    Cao, Mirjalili & Raschka 2020, Rank consistent ordinal regression for neural networks with application to age
    estimation (CORAL).

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.Coral(thresholds=3)
    >>> loss.build(dim=2, n_classes=0)
    >>> bool(loss(z, torch.tensor([1.0, 2, 5, 6])) > 0)
    True
    """

    thresholds: int = 20

    parameter_lr = 10.0

    def __post_init__(self) -> None:
        parts.check_number(self, "thresholds", "[1, 1000]", whole=True)

    def build(self, dim: int, n_classes: int) -> None:
        """Create w and b."""
        self.direction = nn.Parameter(torch.randn(dim) / dim**0.5)
        self.bias = nn.Parameter(torch.zeros(self.thresholds))
        self.cuts: Tensor
        self.register_buffer("cuts", torch.full((self.thresholds,), torch.nan))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a minibatch."""
        if not hasattr(self, "cuts"):
            raise RuntimeError("coral has no weights yet: call build(dim, n_classes) first.")
        z, y = with_values(z, y)
        if len(y) < 3:
            return zero(z)
        with torch.no_grad():
            shares = torch.arange(1, self.thresholds + 1, dtype=y.dtype, device=y.device) / (self.thresholds + 1)
            self.cuts.copy_(torch.where(self.cuts.isnan(), y.quantile(shares, interpolation="lower").to(self.cuts),
                                        self.cuts))  # fmt: skip
            above = (y[:, None] > self.cuts.to(y)).to(z.dtype)
        logits = (z @ self.direction.to(z))[:, None] + self.bias.to(z)
        return F.binary_cross_entropy_with_logits(logits, above)


def with_values(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Drop the cells without a value (NaN) of a minibatch, and put the values where the embeddings are.

    Parameters
    ----------
    z
        Embeddings (n, dim).
    y
        Values (n,), floating-point. They come back above the smallest one, in the dtype of `z`.

    Raises
    ------
    ValueError
        If the shapes do not fit, or `y` does not hold finite floating-point numbers and NaN.
    """
    if z.dim() != 2 or y.shape != z.shape[:1]:
        raise ValueError(f"A loss needs z (n, dim) and y (n,): got z {tuple(z.shape)} and y {tuple(y.shape)}.")
    if not y.is_floating_point():
        raise ValueError(f"y holds {y.dtype}: pass values as floating-point numbers, NaN where one is missing.")
    known = (~y.isnan()).nonzero()[:, 0]
    if len(known) < len(y):
        z, y = z[known.to(z.device)], y[known]
    if y.isinf().any():
        raise ValueError("y has infinite values: replace them by NaN, or remove their cells.")
    least = y.min() if len(y) else 0
    return z, (y - least).to(z)  # whole numbers stay exact, however large they are

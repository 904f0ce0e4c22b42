"""Losses that pull two views together without other cells: by a stopped gradient, or by columns kept apart."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tripletomics import parts
from tripletomics.geometry import normalise
from tripletomics.losses.base import register
from tripletomics.losses.views.base import ViewLoss


class PredictorLoss(ViewLoss):
    """The base of losses whose small network, the `predictor` made by `build`, predicts the other view."""

    predicts = True
    normalised = True
    parameter_lr = 1.0
    predictor: nn.Sequential

    def _predict(self, z: Tensor) -> Tensor:
        """Return what the predictor makes of z, as unit rows."""
        if "predictor" not in self._modules:
            raise RuntimeError(f"{self.name} has no predictor yet: call build(dim, n_classes) first.")
        weight = self.predictor.get_parameter("0.weight")
        if z.shape[1] != weight.shape[1]:
            raise ValueError(f"{self.name} was built for dim={weight.shape[1]}, but z has {z.shape[1]} columns.")
        return normalise(self.predictor(z.to(weight.dtype)).to(z.dtype))

    def _build(self, dim: int, hidden: int) -> None:
        # batch normalisation acts only in training, and the papers find that they need it
        self.predictor = nn.Sequential(
            nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )


@register("simsiam")
class SimSiam(PredictorLoss):
    r"""Predict each view from the other, which gives no gradient.

    .. math:: L = -\tfrac12 \left( \widehat{p(z^1)} \cdot \mathrm{sg}(\hat z^2) +
        \widehat{p(z^2)} \cdot \mathrm{sg}(\hat z^1) \right)

    averaged over cells, with p the predictor and sg the stop of the gradient.

    Notes
    -----
    z1 and z2 are (n, dim); labels are not used. Values lie in [-1, 1]. The predictor has a hidden layer of a quarter of
    dim, 8 at least. Without the stop of the gradient all cells end at one point. It needs room: a metric space of 2 or
    3 dimensions is a ValueError of `fit`.

    References
    ----------
    Chen & He 2021, Exploring simple Siamese representation learning.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.SimSiam()
    >>> loss.build(dim=2, n_classes=0)  # the small network that predicts a view
    >>> one, other = loss(z, z + 0.1), loss(z + 0.1, z)  # each view predicts the other, so the order says nothing
    >>> torch.isclose(one, other).item()
    True
    """

    def build(self, dim: int, n_classes: int) -> None:
        """Make the predictor from torch's generator."""
        self._build(dim, max(dim // 4, 8))

    def _value(self, z1: Tensor, z2: Tensor, y: Tensor, cells: Tensor, **known: Tensor) -> Tensor:
        one, two = (_cosine(self._predict(a), self._stop(b)) for a, b in ((z1, z2), (z2, z1)))
        return -(one + two) / 2

    def _stop(self, z: Tensor) -> Tensor:
        return normalise(z.detach())


@register("byol")
class BYOL(PredictorLoss):
    r"""Predict how a momentum encoder, which follows the encoder slowly, embeds the other view.

    .. math:: L = \left( 2 - 2\, \widehat{p(z^1)} \cdot \hat t^2 \right) + \left( 2 - 2\, \widehat{p(z^2)} \cdot
        \hat t^1 \right)

    averaged over cells, with p the predictor and t the views as the momentum encoder embeds them, without gradient.

    Parameters
    ----------
    momentum
        How much the momentum encoder keeps of itself at the first step, in [0, 1); it rises to 1 along a cosine.

    Notes
    -----
    z1 and z2 are (n, dim); labels are not used. Values lie in [0, 8]. Without a momentum encoder (the loss was called
    by hand) the views themselves are predicted. The predictor has a hidden layer of four times dim. A metric space of 2
    or 3 dimensions is a ValueError of `fit`.

    References
    ----------
    Grill et al. 2020, Bootstrap your own latent.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.BYOL()
    >>> loss.build(dim=2, n_classes=0)  # the small network that predicts a view
    >>> one, other = loss(z, z + 0.1), loss(z + 0.1, z)  # each view predicts the other, so the order says nothing
    >>> torch.isclose(one, other).item()
    True
    """

    momentum: float = 0.996

    def __post_init__(self) -> None:
        parts.check_number(self, "momentum", "[0, 1)")

    def build(self, dim: int, n_classes: int) -> None:
        """Make the predictor from torch's generator."""
        self._build(dim, 4 * dim)

    def momentum_at(self, step: int, steps: int) -> float:
        """Return how much the momentum encoder keeps of itself: a share that rises to 1."""
        return 1 - (1 - self.momentum) * (math.cos(math.pi * (step / steps)) + 1) / 2

    def _value(
        self, z1: Tensor, z2: Tensor, y: Tensor, cells: Tensor, momentum_z: Tensor | None = None, **known: Tensor
    ) -> Tensor:
        t1, t2 = (torch.cat([z1, z2]) if momentum_z is None else momentum_z).detach().chunk(2)
        return 4 - 2 * (_cosine(self._predict(z1), normalise(t2)) + _cosine(self._predict(z2), normalise(t1)))


@register("vicreg")
class VICReg(ViewLoss):
    r"""Pull two views together, with every column of z spread and no two columns alike.

    .. math:: L = a \frac{1}{n d} \sum_i |z^1_i - z^2_i|^2 + \frac{b}{2 d} \sum_{v, j} [1 - \sigma(z^v_{\cdot j})]_+ +
        \frac{c}{d} \sum_{v, j \ne k} \mathrm{cov}(z^v_{\cdot j}, z^v_{\cdot k})^2

    Parameters
    ----------
    invariance
        a, the weight of the squared distance of two views; above 0.
    variance
        b, the weight of columns whose standard deviation is below 1; above 0.
    covariance
        c, the weight of columns that vary together; above 0.

    Notes
    -----
    z1 and z2 are (n, dim); labels are not used. The standard deviation is that of n - 1 cells, with 1e-4 added to the
    variance. The distance is the mean over columns, and the two views share b, as in the authors' code, to which the
    weights of 25, 25 and 1 belong; the paper's formula sums. A setting out of range is a ValueError.

    References
    ----------
    Bardes, Ponce & LeCun 2022, VICReg: variance-invariance-covariance regularization for self-supervised learning.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.VICReg()
    >>> near, far = loss(z, z + 0.1), loss(z, z.flip(0))  # second views of the same cells, and of others
    >>> bool(near < far)
    True
    """

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0

    def __post_init__(self) -> None:
        for setting in ("invariance", "variance", "covariance"):
            parts.check_number(self, setting, "(0, inf)")

    def _value(self, z1: Tensor, z2: Tensor, y: Tensor, cells: Tensor, **known: Tensor) -> Tensor:
        value = self.invariance * F.mse_loss(z1, z2)
        for z in (z1, z2):
            centered = z - z.mean(dim=0)
            cov = centered.T @ centered / (len(z) - 1)
            narrow = F.relu(1 - (cov.diagonal() + 1e-4).sqrt()).mean()
            value = value + self.variance / 2 * narrow + self.covariance * _off_diagonal(cov) / z.shape[1]
        return value


@register("barlow_twins")
class BarlowTwins(ViewLoss):
    r"""Make each column of z agree between both views, and differ from every other column.

    .. math:: L = \sum_j (1 - c_{jj})^2 + \lambda \sum_{j \ne k} c_{jk}^2

    with c the correlations (dim, dim) of the columns of z1 with those of z2.

    Parameters
    ----------
    redundancy
        The weight :math:`\lambda` of other columns; above 0, useful from 0.001 to 0.1.

    Notes
    -----
    z1 and z2 are (n, dim); labels are not used. A column that does not vary has correlation 0 to all. A setting out of
    range is a ValueError.

    References
    ----------
    Zbontar, Jing, Misra, LeCun & Deny 2021, Barlow twins: self-supervised learning via redundancy reduction.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.BarlowTwins()
    >>> near, far = loss(z, z + 0.1), loss(z, z.flip(0))  # second views of the same cells, and of others
    >>> bool(near < far)
    True
    """

    redundancy: float = 0.005

    def __post_init__(self) -> None:
        parts.check_number(self, "redundancy", "(0, inf)")

    def _value(self, z1: Tensor, z2: Tensor, y: Tensor, cells: Tensor, **known: Tensor) -> Tensor:
        a, b = (normalise(_centre(z).T) for z in (z1, z2))
        c = a @ b.T
        return (1 - c.diagonal()).square().sum() + self.redundancy * _off_diagonal(c)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean cosine of unit rows."""
    return (a * b).sum(dim=1).mean()


def _centre(z: Tensor) -> Tensor:
    """Subtract the mean of each column; a column that varies only by rounding becomes 0."""
    centred = z - z.mean(dim=0)
    flat = centred.abs().amax(dim=0) <= 8 * torch.finfo(z.dtype).eps * z.abs().amax(dim=0)
    return centred.masked_fill(flat, 0)


def _off_diagonal(c: Tensor) -> Tensor:
    return c.square().sum() - c.diagonal().square().sum()

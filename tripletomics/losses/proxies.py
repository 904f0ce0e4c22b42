"""Losses that compare a cell with learned points, one for each class: its proxies.

A proxy loss costs O(n * classes) and does not need two cells of a type in a minibatch, so rare types are no problem.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tripletomics import parts
from tripletomics.geometry import normalise
from tripletomics.losses.base import Loss, register
from tripletomics.losses.minibatch import labelled, zero

_RANGES = {"temperature": "(0, inf)", "scale": "(0, inf)", "gamma": "(0, inf)", "tau": "[0, inf)", "margin": "[0, 1.5]"}
_ADACOS = (0.4, 64.0)  # bounds of its scale; that of 3 or more well separated classes lies between


class ProxyLoss(Loss):
    """The base of losses with a proxy for each class: the parameter `proxies` (n_classes, dim), made by `build`.

    Subclasses define ``_value(x, w, codes)`` for one or more labelled cells x and proxies w, unit rows if `normalised`.

    Examples
    --------
    >>> loss = tt.losses.NormSoftmax()
    >>> loss.build(dim=32, n_classes=5)
    >>> loss.proxies.shape
    torch.Size([5, 32])
    """

    coarse = True
    parameter_lr = 10.0  # at the encoder's rate the proxies lag behind the cells
    proxies: nn.Parameter

    def build(self, dim: int, n_classes: int) -> None:
        """Draw the proxies (n_classes, dim) from torch's generator, as torch.nn.Linear draws its weights."""
        self.proxies = nn.Parameter(torch.empty(n_classes, dim))
        nn.init.kaiming_uniform_(self.proxies, a=math.sqrt(5))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a minibatch."""
        if "proxies" not in self._parameters:
            raise RuntimeError(f"{self.name} has no proxies yet: call build(dim, n_classes) first.")
        x, codes = labelled(z, y)
        n_classes, dim = len(self.proxies), self.proxies.shape[-1]
        if z.shape[1] != dim:
            raise ValueError(f"{self.name} was built for dim={dim}, but z has {z.shape[1]} columns.")
        if not len(codes):
            return zero(z)
        known = n_classes if self.label_levels.below is None else len(self.label_levels.below)
        if (top := int(y.max())) >= known:
            allowed = f"n_classes={n_classes} (codes 0 to {known - 1})"
            raise ValueError(f"{self.name} was built for {allowed}, but y holds {top}.")
        w = self.proxies.to(z.dtype)
        return self._value(normalise(x), normalise(w), codes) if self.normalised else self._value(x, w, codes)

    def _value(self, x: Tensor, w: Tensor, codes: Tensor) -> Tensor:
        raise NotImplementedError

    def _margin_cross_entropy(self, scores: Tensor, codes: Tensor, scale: float, margin: float) -> Tensor:
        """Return the cross-entropy of scaled scores (n, n_classes), after a margin is taken from the own classes."""
        own = self.label_levels.own(codes, scores.shape[1]).to(scores.dtype)
        return self.label_levels.cross_entropy(scale * (scores - margin * own), codes)


@register("softmax")
class Softmax(ProxyLoss):
    r"""Classify each cell with one linear layer: the baseline that every other loss has to beat.

    .. math:: L = -\frac1n \sum_i \log \frac{\exp(w_{y_i} \cdot z_i + b_{y_i})}{\sum_k \exp(w_k \cdot z_i + b_k)}

    Notes
    -----
    z is (n, dim), y (n,), `proxies` w (n_classes, dim), `bias` b (n_classes,), which starts at 0. Cells with code -1
    are ignored; a minibatch without labels gives 0 and moves nothing. Calling it before `build` is a RuntimeError, a
    code that is not a class is a ValueError.

    References
    ----------
    Zhai & Wu 2019, Classification is a strong baseline for deep metric learning.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.Softmax()
    >>> loss.build(dim=2, n_classes=2)
    >>> loss.proxies.data = torch.tensor([[0.5, 0], [0.5, 3]])  # the middle of each pair
    >>> round(loss(z, torch.tensor([0, 0, 1, 1])).item(), 2)  # each pair is a type
    0.35
    >>> round(loss(z, torch.tensor([0, 1, 0, 1])).item(), 2)  # each pair holds both types
    2.6
    """

    pace = 20

    def build(self, dim: int, n_classes: int) -> None:
        """Draw the proxies as torch.nn.Linear draws its weights; the bias starts at 0."""
        super().build(dim, n_classes)
        self.bias = nn.Parameter(torch.zeros(n_classes))

    def _value(self, x: Tensor, w: Tensor, codes: Tensor) -> Tensor:
        return self.label_levels.cross_entropy(F.linear(x, w, self.bias.to(x.dtype)), codes)


@register("center")
class Center(ProxyLoss):
    r"""Pull each cell to the moving center of its class; an addition to a loss that keeps classes apart.

    .. math:: L = \frac{1}{2n} \sum_i |z_i - c_{y_i}|^2, \qquad
        c_j \leftarrow c_j - \alpha \frac{\sum_{i: y_i = j} (c_j - z_i)}{1 + n_j}

    Parameters
    ----------
    alpha
        How far a center moves to its cells in each minibatch, a fraction in [0, 1]; useful from 0.1 to 0.9.

    Notes
    -----
    `proxies` are the centers c. They follow their own rule, in training mode only and after the value is computed; no
    optimiser moves them, but `state_dict` has them. Alone it collapses: all cells and centers meet at one point, so
    `fit` refuses it without another loss. The paper sums over the minibatch, this takes the mean, so that the weight
    does not depend on the minibatch's size. Shapes, unlabelled cells and errors are as in `Softmax`.

    References
    ----------
    Wen, Zhang, Li & Qiao 2016, A discriminative feature learning approach for deep face recognition.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.Center()
    >>> loss.build(dim=2, n_classes=2)
    >>> loss.proxies.data = torch.tensor([[0.5, 0], [0.5, 3]])  # the middle of each pair
    >>> round(loss(z, torch.tensor([0, 0, 1, 1])).item(), 2)  # each pair is a type
    0.12
    """

    alpha: float = 0.5
    collapses = True
    coarse = False

    def __post_init__(self) -> None:
        parts.check_number(self, "alpha", "[0, 1]")

    def build(self, dim: int, n_classes: int) -> None:
        """Draw the centers as torch.nn.Linear draws its weights."""
        super().build(dim, n_classes)
        self.proxies.requires_grad_(False)

    def _value(self, x: Tensor, w: Tensor, codes: Tensor) -> Tensor:
        away = x - w[codes]
        if self.training:
            step = torch.zeros_like(self.proxies).index_add_(0, codes, away.detach().to(self.proxies.dtype))
            size = step.new_zeros(len(step), 1).index_add_(0, codes, step.new_ones(len(codes), 1))
            self.proxies.add_(self.alpha * step / (1 + size))
        return away.square().sum() / (2 * len(codes))


class CosineLoss(ProxyLoss):
    """The base of proxy losses that use only directions; it checks the settings that they share."""

    normalised = True

    def __post_init__(self) -> None:
        for setting in vars(self):
            if setting in _RANGES:
                parts.check_number(self, setting, _RANGES[setting])
            elif setting == "centers":
                parts.check_number(self, setting, "[1, inf)", whole=True)
            elif setting in ("easy", "plus"):
                parts.check_flag(self, setting)


@register("normsoftmax")
class NormSoftmax(CosineLoss):
    r"""Classify each cell by its angles to the proxies: a softmax on cosines, without lengths and biases.

    .. math:: L = -\frac1n \sum_i \log \frac{\exp(\cos\theta_{i y_i} / T)}{\sum_k \exp(\cos\theta_{ik} / T)}

    Parameters
    ----------
    temperature
        T in units of the cosine, above 0; useful from 0.02 to 0.5. A low value looks only at the nearest wrong class.

    Notes
    -----
    theta is the angle between cell and proxy. Shapes, unlabelled cells and errors are as in `Softmax`.

    References
    ----------
    Zhai & Wu 2019, Classification is a strong baseline for deep metric learning.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.NormSoftmax()
    >>> loss.build(dim=2, n_classes=2)
    >>> loss.proxies.data = torch.tensor([[0.5, 0], [0.5, 3]])  # the middle of each pair
    >>> round(loss(z, torch.tensor([0, 0, 1, 1])).item(), 2)  # each pair is a type
    0.17
    >>> round(loss(z, torch.tensor([0, 1, 0, 1])).item(), 2)  # each pair holds both types
    9.28
    """

    temperature: float = 0.05

    def _value(self, x: Tensor, w: Tensor, codes: Tensor) -> Tensor:
        return self.label_levels.cross_entropy(x @ w.T / self.temperature, codes)


@register("arcface")
class ArcFace(CosineLoss):
    r"""Ask each cell to be nearer to its own proxy than to any other, by a given angle.

    .. math:: L = \frac1n \sum_i \log(1 + \sum_{k \ne y_i} e^{s (\cos\theta_{ik} - \cos(\theta_{i y_i} + m))})

    Parameters
    ----------
    scale
        s, from cosines to logits, above 0; useful from 8 to 64. In 2-D, 64 gives gradients of 10,000.
    margin
        m, an angle in radians, from 0 to 1.5; useful from 0.1 to 0.5. In 2-D, 0.5 has no room for over 12 classes.
    easy
        Ask only cells within 90 degrees of their proxy for the margin.

    Notes
    -----
    Beyond theta = pi - m, cos(theta) - m sin(m) takes the place of cos(theta + m) and keeps falling. At theta = 0 the
    margin's gradient is 0. Shapes, unlabelled cells and errors are as in `Softmax`.

    References
    ----------
    Deng, Guo, Xue & Zafeiriou 2019, ArcFace: additive angular margin loss for deep face recognition.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.ArcFace(scale=8, margin=0.3)
    >>> loss.build(dim=2, n_classes=2)
    >>> loss.proxies.data = torch.tensor([[0.5, 0], [0.5, 3]])  # the middle of each pair
    >>> round(loss(z, torch.tensor([0, 0, 1, 1])).item(), 2)  # each pair is a type
    0.18
    >>> round(loss(z, torch.tensor([0, 1, 0, 1])).item(), 2)  # each pair holds both types
    5.01
    """

    scale: float = 64.0
    margin: float = 0.5
    easy: bool = False

    def _value(self, x: Tensor, w: Tensor, codes: Tensor) -> Tensor:
        scores = x @ w.T
        every = torch.arange(len(w), device=w.device).expand_as(scores)
        classes = codes[:, None] if self.label_levels.below is None else every
        cos = scores.gather(1, classes)  # (n, classes that may be own), each a target of its own
        # exact near 0 and pi, where acos and sqrt(1 - cos^2) lose digits and have infinite gradients
        sin = torch.linalg.vector_norm(x[:, None] - cos[:, :, None] * w[classes], dim=2)
        target = cos * math.cos(self.margin) - sin * math.sin(self.margin)
        least, beyond = (0.0, 0.0) if self.easy else (-math.cos(self.margin), self.margin * math.sin(self.margin))
        target = torch.where(cos > least, target, cos - beyond)
        target = torch.where(self.label_levels.own(codes, len(w)).gather(1, classes), target, cos)
        return self.label_levels.cross_entropy(self.scale * scores.scatter(1, classes, target), codes)


@register("cosface")
class CosFace(CosineLoss):
    r"""Ask each cell's cosine to its own proxy to exceed all others by a margin.

    .. math:: L = \frac1n \sum_i \log(1 + \sum_{k \ne y_i} e^{s (\cos\theta_{ik} - \cos\theta_{i y_i} + m)})

    Parameters
    ----------
    scale
        s, from cosines to logits, above 0; useful from 8 to 64.
    margin
        m in units of the cosine, from 0 to 1.5; useful from 0.1 to 0.4, less for many classes in few dimensions.

    Notes
    -----
    Shapes, unlabelled cells and errors are as in `Softmax`.

    References
    ----------
    Wang et al. 2018, CosFace: large margin cosine loss for deep face recognition.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.CosFace(scale=8, margin=0.2)
    >>> loss.build(dim=2, n_classes=2)
    >>> loss.proxies.data = torch.tensor([[0.5, 0], [0.5, 3]])  # the middle of each pair
    >>> round(loss(z, torch.tensor([0, 0, 1, 1])).item(), 2)  # each pair is a type
    0.45
    >>> round(loss(z, torch.tensor([0, 1, 0, 1])).item(), 2)  # each pair holds both types
    4.9
    """

    scale: float = 64.0
    margin: float = 0.35

    def _value(self, x: Tensor, w: Tensor, codes: Tensor) -> Tensor:
        return self._margin_cross_entropy(x @ w.T, codes, self.scale, self.margin)


@register("adacos")
class AdaCos(CosineLoss):
    r"""Classify each cell by its angles to the proxies, with a scale that sets itself: nothing to tune.

    .. math::
        L = \frac1n \sum_i \log(1 + \sum_{k \ne y_i} e^{s (\cos\theta_{ik} - \cos\theta_{i y_i})}), \quad
        s \leftarrow \frac{\log B}{\cos \min(\pi/4, \theta_{med})}, \quad
        B = \frac1n \sum_i \sum_{k \ne y_i} e^{s \cos\theta_{ik}}

    Notes
    -----
    The buffer `scale` s (0-d) starts at sqrt(2) log(n_classes - 1). In training mode each minibatch sets it, then uses
    it; theta_med is the lower median of theta_iy. s stays within 0.4 and 64; the paper's stays 0 with 2 classes,
    and can grow without limit in few dimensions. Shapes, unlabelled cells and errors are as in `Softmax`.

    References
    ----------
    Zhang et al. 2019, AdaCos: adaptively scaling cosine logits for effectively learning deep face representations.

    Examples
    --------
    >>> loss = tt.losses.AdaCos()
    >>> loss.build(dim=32, n_classes=10)
    >>> round(loss.scale.item(), 2)  # where it starts
    3.11
    """

    def build(self, dim: int, n_classes: int) -> None:
        """Draw the proxies as torch.nn.Linear draws its weights, and reset the scale."""
        super().build(dim, n_classes)
        self.register_buffer("scale", torch.tensor(2**0.5 * math.log(max(n_classes - 1, 1))).clamp(*_ADACOS))

    def _value(self, x: Tensor, w: Tensor, codes: Tensor) -> Tensor:
        cos, scale, own = x @ w.T, self.get_buffer("scale"), self.label_levels.own(codes, len(w))
        if self.training:
            others = (scale.to(cos.dtype) * cos.detach()).masked_fill(own, -torch.inf)
            log_b = others.flatten().logsumexp(0) - math.log(len(codes))
            median = -(
                -cos.detach().masked_fill(~own, -torch.inf).amax(1)
            ).median()  # the lower one of angles is the upper one of cosines
            scale = (log_b / median.clamp(min=0.5**0.5)).clamp(*_ADACOS).to(scale.dtype)
            self.scale = scale  # not in place: the backward pass of an earlier minibatch may need the old one
        return self.label_levels.cross_entropy(scale.to(cos.dtype) * cos, codes)

    def trace(self) -> dict[str, Tensor]:
        """Return the scale."""
        return {"scale": self.get_buffer("scale").clone()}


@register("proxynca")
class ProxyNCA(CosineLoss):
    r"""Pull each cell to its proxy and push it from the others, by squared distances of directions.

    .. math:: L = -\frac1n \sum_i \log \frac{\exp(-d^2(x_i, p_{y_i}) / T)}{\sum_{k \ne y_i} \exp(-d^2(x_i, p_k) / T)}

    Parameters
    ----------
    plus
        The sum includes the cell's own proxy and T is 1/9 (ProxyNCA++); else T is 1, and the loss falls below 0.

    Notes
    -----
    d^2 = 2 - 2 cos(theta), on vectors of length 1. With one class and without `plus` the sum is empty and the loss 0.
    Shapes, unlabelled cells and errors are as in `Softmax`.

    References
    ----------
    Movshovitz-Attias et al. 2017, No fuss distance metric learning using proxies. Teh et al. 2020, ProxyNCA++.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.ProxyNCA()
    >>> loss.build(dim=2, n_classes=2)
    >>> loss.proxies.data = torch.tensor([[0.5, 0], [0.5, 3]])  # the middle of each pair
    >>> round(loss(z, torch.tensor([0, 0, 1, 1])).item(), 2)  # each pair is a type
    -1.25
    >>> round(loss(z, torch.tensor([0, 1, 0, 1])).item(), 2)  # each pair holds both types
    0.58
    """

    plus: bool = False

    def _value(self, x: Tensor, w: Tensor, codes: Tensor) -> Tensor:
        scores = 2 * x @ w.T  # -d^2 plus a constant
        if self.plus or len(w) == 1:  # one class has no other: 0
            return self.label_levels.cross_entropy(9 * scores, codes)
        own = self.label_levels.own(codes, len(w))
        rest = ~own | own.all(1, keepdim=True)  # a cell that may be of any class says nothing
        inside, outside = (scores.masked_fill(~one, -torch.inf).logsumexp(1) for one in (own, rest))
        return (outside - inside).mean()

"""Room on the map by number of cells, as in a cartogram: optimal transport to a disk (in 3-D, a ball) of even density.

`spread` in [0, 1] sets the weight of two steps. While the map is learned, `unevenness` pulls the cells of a minibatch
to where they would lie, along random lines, in an even disk. Then `EqualArea` moves every cell part of the way there.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.stats import beta, qmc
from torch import Tensor, nn

LINES = 8  # random lines along which a minibatch is compared with the disk
SITES, CELLS = 9, 1024  # the disk is 2 to this power points, fitted to at most this many cells
BLUR = 0.003  # squared radii of the disk, a little less than the distance between its points
MOVED = 1024  # cells that are moved at once: their weights fit in a processor's cache
COARSE, ROUNDS, LAST = 0.5, 3, 15  # first blur, halved after this many rounds; rounds at the last blur
SMALL = -80.0  # the least exponent: smaller ones add nothing, and make processors slow


def quantiles(n: int, dim: int) -> Tensor:
    """Return where n cells lie along a line if they fill a disk or ball of radius 1 evenly, ascending: float32 (n,)."""
    a = (dim + 1) / 2  # the shadow of an even ball: a beta distribution on (-1, 1)
    return torch.from_numpy((2 * beta(a, a).ppf((np.arange(n) + 0.5) / n) - 1).astype(np.float32))


def radius(a: Tensor) -> Tensor:
    """Return the radius of the even disk or ball whose cells are as far from its centre as those of the map `a`."""
    dim = a.shape[1]
    return ((a - a.mean(dim=0)).square().sum(dim=1).mean() * (dim + 2) / dim).sqrt()


def unevenness(a: Tensor, even: Tensor, lines: Tensor) -> Tensor:
    r"""Return how far a map is from an even disk of the same size: its squared sliced Wasserstein distance.

    .. math::
        \frac{D}{L} \sum_{l} \frac1n \sum_i \Big(\frac{(a\,l)_{(i)}}{R} - q_i\Big)^2

    with the n cells in the order in which they lie along a line l, the position :math:`q_i` of the i-th of n cells of
    the even disk, and its radius R, which is not trained.

    Parameters
    ----------
    a, even
        The map (n, dim), and the `quantiles` of n cells.
    lines
        Directions (dim, lines) of length 1.

    References
    ----------
    Rabin, Peyré, Delon & Bernot 2012, Wasserstein barycenter and its application to texture mixing, SSVM 2011.
    """
    size = radius(a.detach()).clamp(min=1e-6)
    along = lines.T @ (a - a.mean(dim=0)).T
    wanted = torch.empty_like(along).scatter_(1, _order(along.detach()), even.expand_as(along))
    return a.shape[1] * (along / size - wanted).square().mean()


def _order(x: Tensor) -> Tensor:
    """Return the order of each row; numpy sorts 5 times as fast as torch on a processor."""
    return torch.from_numpy(x.numpy().argsort(axis=1)) if x.device.type == "cpu" else x.argsort(dim=1)


class EqualArea(nn.Module):
    r"""Move cells of a map a share t of their way to an even disk (2-D) or ball (3-D): (cells, dim) -> (cells, dim).

    .. math::
        u \mapsto (1 - t)\, u + t \sum_j y_j \,\mathrm{softmax}_j\big((g_j - |u - y_j|^2 / 2) / \varepsilon\big)

    in units of the disk's radius, with its points y and their potentials g. The second term is the gradient of a convex
    function, so that the whole is one-to-one and smooth: no neighbours are torn apart, and nothing is folded.

    Parameters
    ----------
    dim, n_sites
        Dimensions of the map, and points of the disk.

    References
    ----------
    A share of the way: McCann 1997. Potentials by matrix scaling: Cuturi 2013. The map that they give: Pooladian &
    Niles-Weed 2021, Entropic estimation of optimal transport maps, arXiv 2109.12004.
    """

    def __init__(self, dim: int, n_sites: int = 2**SITES) -> None:
        super().__init__()
        self.sites: Tensor
        self.potentials: Tensor
        self.middle: Tensor
        self.size: Tensor
        self.share: Tensor
        self.register_buffer("sites", torch.zeros(n_sites, dim))
        self.register_buffer("potentials", torch.zeros(n_sites))
        self.register_buffer("middle", torch.zeros(dim))
        self.register_buffer("size", torch.ones(()))
        self.register_buffer("share", torch.zeros(()))

    @torch.no_grad()
    def fit(self, m: Tensor, share: float, seed: int) -> EqualArea:
        """Fit the potentials on the map `m` (cells, dim) of training cells, of which up to 1,024 are drawn."""
        drawn = np.random.default_rng([seed, 8]).permutation(len(m))[:CELLS]
        self.middle, self.size, self.share = m.mean(dim=0), radius(m).clamp(min=1e-6), m.new_tensor(share)
        self.sites = torch.from_numpy(even_points(len(self.sites), m.shape[1])).to(m)
        u = (m[torch.from_numpy(drawn).to(m.device)] - self.middle) / self.size
        cost = torch.cdist(u, self.sites).square() / 2
        g, blur = cost.new_zeros(len(self.sites)), COARSE
        while blur > BLUR:
            g = _scale(cost, g, blur, ROUNDS)
            blur /= 2
        self.potentials = _scale(cost, g, BLUR, LAST)
        return self

    def forward(self, m: Tensor) -> Tensor:
        """Return the moved coordinates."""
        return torch.cat([self.move(some) for some in m.split(MOVED)])

    def move(self, m: Tensor) -> Tensor:
        """Return the moved coordinates of cells that are moved at once."""
        # |u|² is the same for all points, so that the softmax needs only products
        towards, height = self.sites.T / BLUR, (self.potentials - self.sites.square().sum(dim=1) / 2) / BLUR
        u = (m - self.middle) / self.size
        near = torch.addmm(height, u, towards).softmax(dim=1)
        return self.middle + self.size * torch.lerp(u, near @ self.sites, self.share)


def even_points(n: int, dim: int) -> np.ndarray:
    """Return points that fill a disk or ball of radius 1 evenly, float32 (n, dim), for n a power of 2."""
    u = qmc.Sobol(dim, scramble=False).random(n) + 0.5 / n
    length, angle = u[:, 0] ** (1 / dim), 2 * math.pi * u[:, 1]
    flat = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if dim == 3:
        height = 1 - 2 * u[:, [2]]
        flat = np.concatenate([flat * np.sqrt(np.maximum(1 - height**2, 0)), height], axis=1)
    return (length[:, None] * flat).astype(np.float32)


def _scale(cost: Tensor, g: Tensor, blur: float, rounds: int) -> Tensor:
    """Improve the potentials of the columns by rounds of Sinkhorn's algorithm, for rows and columns of equal weight.

    The first round uses logarithms, so that nothing overflows. The others only multiply factors, which stay near 1.
    """
    rows, columns = cost.shape
    f = -blur * (_logsumexp((g - cost) / blur, 1)[:, None] - math.log(columns))
    g = -blur * (_logsumexp((f - cost) / blur, 0) - math.log(rows))
    kernel, v = ((f + g - cost) / blur).clamp_(min=SMALL).exp_(), torch.ones_like(g)
    for _ in range(rounds - 1):
        u = columns / (kernel @ v)
        v = rows / (u @ kernel)
    return g + blur * v.log()


def _logsumexp(x: Tensor, dim: int) -> Tensor:
    """Return what torch does, 10 times as fast if many exponentials are too small for normal numbers."""
    most = x.amax(dim=dim, keepdim=True)
    return (x - most).clamp_(min=SMALL).exp_().sum(dim=dim).log() + most.squeeze(dim)

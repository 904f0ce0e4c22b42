"""The networks: a trunk with its metric head, and the map head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from tripletomics import parts
from tripletomics.area import EqualArea
from tripletomics.geometry import normalise

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

BLOCK = 4096  # cells that are mapped at once
# of the map head; its inputs have a standard deviation of
PCS_WIDTH = 10  # along the first principal component
Z_WIDTH = 6  # in the metric space, at structure=0
LEAST_WIDTH = 1e-6  # before this scaling, so that values that are all the same are not divided by 0
HIDDEN = (128, 128, 64)  # widths of its layers: a panel of few proteins needs three
FIRST_LINEAR, FIRST_CURVED = 1 / 3, 0.1  # initial weights: of the plot of components, and as a share of torch's
# noise on its inputs in training, as a standard deviation
PCS_BLUR = 0.4  # of the distance to a neighbour: more than half of it would hide the neighbour
Z_BLUR = 0.5  # of the spread of z: a new cell's z is less sure of its type than that of a training cell

_ENCODERS: dict[str, type[MLP]] = {}


@parts.register("mlp", _ENCODERS)
@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron: linear layers with layer normalisation and SiLU.

    Parameters
    ----------
    hidden
        Width of each hidden layer.
    """

    hidden: tuple[int, ...] = (256, 128)

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"mlp: hidden={self.hidden!r} is not a list of widths of at least 1.")

    def build(self, n_in: int) -> nn.Sequential:
        """Make the layers; the result's last width is ``hidden[-1]``."""
        layers: list[nn.Module] = []
        for width in self.hidden:
            # layer, not batch normalisation: a cell's coordinates must not depend on the other cells of the minibatch
            layers += [nn.Linear(n_in, width), nn.LayerNorm(width), nn.SiLU()]
            n_in = width
        return nn.Sequential(*layers)


def make(encoder: str | MLP) -> MLP:
    """Return the encoder for what a user gives as ``encoder=``."""
    if isinstance(encoder, str):
        return parts.make(encoder, _ENCODERS, "encoder")
    if not isinstance(encoder, MLP):
        raise TypeError(f"encoder={encoder!r} is neither text such as 'mlp:hidden=512-128' nor an encoder.")
    return encoder


class Encoder(nn.Module):
    """Trunk and metric head: scaled genes (cells, genes) -> z (cells, metric_dim)."""

    def __init__(self, mlp: MLP, n_genes: int, metric_dim: int) -> None:
        super().__init__()
        self.trunk = mlp.build(n_genes)
        self.metric_head = nn.Linear(mlp.hidden[-1], metric_dim)

    def forward(self, x: Tensor, columns: Tensor | None = None) -> Tensor:
        """Return z of rows (cells, genes), or of rows (cells, shown) of some `columns`, as from `Memory.rows`."""
        if columns is None:
            return self.metric_head(self.trunk(x))
        first = cast(nn.Linear, self.trunk[0])
        return self.metric_head(self.trunk[1:](_Shown.apply(x, first.weight, columns) + first.bias))

    def forward_sparse(self, x: csr_matrix, mean: Tensor, scale: Tensor, known: Tensor) -> Tensor:
        """Return z of normalised rows that are never made dense: their scaling goes into the first layer's weights.

        Parameters
        ----------
        x
            (cells, genes).
        mean, scale
            Of `features.Features`.
        known
            1 for genes that were measured, else 0 (genes,).
        """
        first = cast(nn.Linear, self.trunk[0])
        weight = first.weight * known / scale
        hidden = torch.from_numpy(x @ weight.T.numpy()) + (first.bias - weight @ mean)
        return self.metric_head(self.trunk[1:](hidden))


class _Shown(torch.autograd.Function):
    """The product of rows that show some columns with the weights of these, and the gradient of the weights.

    Both in closed form: autograd would keep and add a whole matrix of weights for each group.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(x, columns)
        ctx.shape, groups = weight.shape, len(columns)
        out = x.new_empty(len(x), len(weight))
        for group, shown in enumerate(columns):
            out[group::groups] = x[group::groups] @ weight.index_select(1, shown).T
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        (gradient,), (x, columns) = gradients, ctx.saved_tensors
        found, groups = gradient.new_zeros(ctx.shape), len(columns)
        for group, shown in enumerate(columns):
            found.index_add_(1, shown, gradient[group::groups].T @ x[group::groups])
        return None, found, None


class PairEncoder(nn.Module):
    """Two encoders of one metric space: the dense matrix of a `Pair` (cells, columns) -> z (cells, metric_dim).

    Each encoder sees the principal components of its modality and gives a direction. z is their sum over the modalities
    that were measured, each weighted by its number of components, and then scaled to the length sqrt(metric_dim).
    Lengths that differ between the two would bring cells together that are not alike.
    """

    def __init__(self, mlp: MLP, widths: Sequence[int], metric_dim: int) -> None:
        super().__init__()
        self.widths, self.metric_dim = widths, metric_dim
        self.encoders = nn.ModuleList(Encoder(mlp, width, metric_dim) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """Return z."""
        *sides, measured = x.split([*self.widths, 2], dim=1)
        z = x.new_zeros(len(x), self.metric_dim)
        for encoder, side, there in zip(self.encoders, sides, measured.T, strict=True):
            rows = there.nonzero()[:, 0]
            z = z.index_add(0, rows, normalise(encoder(side[rows])).to(z.dtype), alpha=side.shape[1])
        return normalise(z) * math.sqrt(self.metric_dim)


def build(mlp: MLP, widths: Sequence[int], metric_dim: int) -> Encoder | PairEncoder:
    """Return the encoder of one modality or of two, of which it sees `widths` columns."""
    if len(widths) == 1:
        return Encoder(mlp, widths[0], metric_dim)
    return PairEncoder(mlp, widths, metric_dim)


class MapHead(nn.Module):
    """The map head: principal components and z -> map (cells, dim).

    It starts as a plot of the first principal components and learns what to add. At the end it is rotated like that
    plot, so that maps of two seeds have the same orientation. `structure` weighs its two inputs as it weighs the two
    neighbour graphs: at 1, no label reaches the map.

    Parameters
    ----------
    n_components, metric_dim
        Widths of the principal components and of the metric space.
    dim
        2 or 3.
    adopts
        Whether it learns given coordinates. Then all cells start at one point, and the map is not rotated at the end.
    """

    orthogonal_steps = True  # of the hidden layers; see `optimizer`

    def __init__(self, n_components: int, metric_dim: int, dim: int, adopts: bool = False) -> None:
        super().__init__()
        self.n_components = n_components
        self.blur = 0.0  # of the principal components in training
        self.spread: Tensor
        self.z_mean: Tensor
        self.z_scale: Tensor
        self.z_weight: Tensor
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("z_mean", torch.zeros(metric_dim))
        self.register_buffer("z_scale", torch.ones(()))
        self.register_buffer("z_weight", torch.zeros(()))
        self.mlp = MLP(hidden=HIDDEN).build(n_components + metric_dim)
        self.out = nn.Linear(HIDDEN[-1], dim)
        self.linear = nn.Linear(n_components + metric_dim, dim)
        self.even: EqualArea | None = None  # what comes after training
        with torch.no_grad():
            self.out.weight.mul_(FIRST_CURVED)
            self.linear.weight.zero_()
            self.linear.bias.zero_()
            axes = min(dim, n_components)
            self.linear.weight[:axes, :axes] = torch.eye(axes) * FIRST_LINEAR * (not adopts)

    def fit_inputs(self, pcs: Tensor, z: Tensor, structure: float, radius: float) -> None:
        """Set the scales of the two inputs from the training cells.

        Parameters
        ----------
        pcs, z
            Principal components (cells, components) and metric space (cells, metric_dim).
        structure
            In [0, 1].
        radius
            Distance of the principal components to a cell's neighbours.
        """
        self.spread = pcs[:, 0].std(correction=0).clamp(min=LEAST_WIDTH)
        self.z_mean = z.mean(dim=0)
        self.z_scale = (z - self.z_mean).std(correction=0).clamp(min=LEAST_WIDTH)
        self.z_weight = z.new_tensor(Z_WIDTH * (1 - structure))
        self.blur = PCS_BLUR * PCS_WIDTH * radius / float(self.spread) / math.sqrt(self.n_components)

    def inputs(self, pcs: Tensor, z: Tensor) -> Tensor:
        """Return what `forward` takes, from principal components and the metric space."""
        return torch.cat([PCS_WIDTH * pcs / self.spread, self.z_weight * (z - self.z_mean) / self.z_scale], dim=1)

    def jitter(self, inputs: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Add noise to the inputs in training, so that the map holds for new cells."""
        noise = torch.randn(inputs.shape, generator=generator, device=inputs.device)
        width = (Z_BLUR * self.z_weight).repeat(inputs.shape[1])
        width[: self.n_components] = self.blur
        return torch.addcmul(inputs, noise, width)

    @torch.no_grad()
    def rescale(self, unit: float, middle: Tensor) -> None:
        """Multiply the map by a number, and move its origin."""
        for layer in (self.out, self.linear):
            layer.weight.mul_(unit)
            layer.bias.mul_(unit)
        self.linear.bias.add_(middle.to(self.linear.bias))

    @torch.no_grad()
    def orient(self, m: Tensor, pcs: Tensor) -> None:
        """Turn (or mirror) the map, and centre it, so that the coordinates `m` of cells lie as their `pcs` do.

        It is the rotation of orthogonal Procrustes analysis (Schönemann 1966) to the first principal components.
        """
        wanted = torch.zeros_like(m)
        axes = min(m.shape[1], pcs.shape[1])
        wanted[:, :axes] = (pcs - pcs.mean(dim=0))[:, :axes]
        middle = m.mean(dim=0)
        u, _, v = torch.linalg.svd(wanted.T @ (m - middle))
        turn = u @ v
        self.linear.bias.sub_(middle)
        for layer in (self.out, self.linear):
            layer.weight.copy_(turn @ layer.weight)
            layer.bias.copy_(turn @ layer.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return coordinates on the map."""
        return self.linear(inputs) + self.out(self.mlp(inputs))


class Networks(nn.Module):
    """Both networks: scaled genes (cells, genes) -> metric space and map."""

    def __init__(self, encoder: Encoder | PairEncoder, map_head: MapHead) -> None:
        super().__init__()
        self.encoder, self.map_head = encoder, map_head

    @torch.no_grad()
    def map(self, z: Tensor, pcs: Tensor) -> Tensor:
        """Return the map (cells, dim) of cells in the metric space, with their principal components."""
        blocks = zip(z.split(BLOCK), pcs.split(BLOCK), strict=True)
        even = self.map_head.even or nn.Identity()
        return torch.cat([even(self.map_head(self.map_head.inputs(some.to(z.device), near))) for near, some in blocks])


@torch.no_grad()
def follow(twin: nn.Module, network: nn.Module, keep: float) -> None:
    """Move a momentum encoder towards its network: each parameter keeps the share `keep` of itself."""
    for mine, leading in zip(twin.parameters(), network.parameters(), strict=True):
        mine.lerp_(leading, 1 - keep)

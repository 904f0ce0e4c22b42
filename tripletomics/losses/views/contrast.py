"""Losses that find a cell's second view among those of other cells."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tripletomics import parts
from tripletomics.geometry import normalise
from tripletomics.losses.base import register
from tripletomics.losses.views.base import ViewLoss

QUEUE = 4096  # keys of MoCo, at most
WARMEST = 100.0  # scale of CLIP's cosines, at most


class ContrastLoss(ViewLoss):
    """The base of losses with the settings `temperature` and `neighbours`, for which only directions count."""

    normalised = True

    def __post_init__(self) -> None:
        parts.check_number(self, "temperature", "(0, inf)")
        parts.check_number(self, "neighbours", "[0, 15]", whole=True)


@register("infonce")
class InfoNCE(ContrastLoss):
    r"""Find each cell's second view among those of the minibatch, by the angle to the first.

    .. math:: L = -\frac1n \sum_i \log
        \frac{\exp(\hat z^1_i \cdot \hat z^2_i / T)}{\sum_k \exp(\hat z^1_i \cdot \hat z^2_k / T)}

    with unit vectors :math:`\hat z = z / |z|`, and k over i itself and the cells that are not known to be of its type.

    Parameters
    ----------
    temperature
        T, in units of the cosine; above 0, useful from 0.05 to 0.5.
    neighbours
        The second view is that of one of this many nearest cells by principal components, at most 15; 0 for the cell
        itself. `fit` draws them; the loss takes what it is given.

    Notes
    -----
    z1 and z2 are (n, dim), y (n,) or None. First views look for second ones, never the reverse. Cells of one type are
    not negatives of each other; unlabelled ones (code -1) are negatives of all. A minibatch of one cell gives 0. Takes
    O(n^2) time and memory. A setting out of range is a ValueError.

    References
    ----------
    van den Oord, Li & Vinyals 2018, Representation learning with contrastive predictive coding. Neighbours: Dwibedi,
    Aytar, Tompson, Sermanet & Zisserman 2021, With a little help from my friends.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.InfoNCE()
    >>> near, far = loss(z, z + 0.1), loss(z, z.flip(0))  # second views of the same cells, and of others
    >>> bool(near < far)
    True
    """

    temperature: float = 0.07
    neighbours: int = 0

    def _value(self, z1: Tensor, z2: Tensor, y: Tensor, cells: Tensor, **known: Tensor) -> Tensor:
        return _find_own(normalise(z1) @ normalise(z2).T / self.temperature, y, cells)


@register("clip")
class CLIP(ViewLoss):
    r"""Find each cell's other view among those of the minibatch, both ways, at a temperature that is learned.

    .. math:: L = \tfrac12 \left( \mathrm{InfoNCE}(z^1, z^2) + \mathrm{InfoNCE}(z^2, z^1) \right), \qquad
        1 / T = \min(e^t, 100)

    Parameters
    ----------
    same_type
        Weight in the sums of other cells of the cell's type, in [0, 1]; 0 leaves them out.

    Notes
    -----
    Made for two modalities of the same cells. t is the parameter `log_scale`, which starts at log(1 / 0.07)
    and has no weight decay. Shapes and small minibatches are as in `InfoNCE`. Cells of one type are almost false
    negatives, but without them nothing separates the cells of a type. A setting out of range is a ValueError.

    References
    ----------
    Radford et al. 2021, Learning transferable visual models from natural language supervision.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.CLIP()
    >>> near, far = loss(z, z + 0.1), loss(z, z.flip(0))  # second views of the same cells, and of others
    >>> bool(near < far)
    True
    """

    same_type: float = 0.3
    normalised = True

    def __post_init__(self) -> None:
        parts.check_number(self, "same_type", "[0, 1]")
        self.build(0, 0)

    def build(self, dim: int, n_classes: int) -> None:
        """Set the temperature to its starting value."""
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def _value(self, z1: Tensor, z2: Tensor, y: Tensor, cells: Tensor, **known: Tensor) -> Tensor:
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(WARMEST))  # not its exponential, whose gradient would stay 0
        logits = self.log_scale.to(z1.dtype).exp() * normalise(z1) @ normalise(z2).T
        ways = ((logits, y, cells), (logits.T, y.flip(0), cells.flip(0)))
        return sum((_find_own(*way, self.same_type) for way in ways), logits.new_zeros(())) / 2


@register("simclr")
class SimCLR(ContrastLoss):
    r"""Find each view's other view among all other views of the minibatch (NT-Xent).

    .. math:: L = -\frac{1}{2n} \sum_{i=1}^{2n} \log
        \frac{\exp(\hat z_i \cdot \hat z_{i'} / T)}{\sum_{k \ne i} \exp(\hat z_i \cdot \hat z_k / T)}

    with i' the other view of the cell of i, and k over all 2 n views but i itself and those of other cells of its type.

    Parameters
    ----------
    temperature
        T, in units of the cosine; above 0, useful from 0.1 to 1.
    neighbours
        The second view is that of one of this many nearest cells by principal components, at most 15; 0 for the cell
        itself. `fit` draws them; the loss takes what it is given.

    Notes
    -----
    As `InfoNCE`, but both ways, and first views are also separated from first ones, second from second ones. The
    smallest value is not 0: with many cells it is near the log of their number less 1 / T.

    References
    ----------
    Chen, Kornblith, Norouzi & Hinton 2020, A simple framework for contrastive learning of visual representations.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.SimCLR()
    >>> near, far = loss(z, z + 0.1), loss(z, z.flip(0))  # second views of the same cells, and of others
    >>> bool(near < far)
    True
    """

    temperature: float = 0.5
    neighbours: int = 0

    def _value(self, z1: Tensor, z2: Tensor, y: Tensor, cells: Tensor, **known: Tensor) -> Tensor:
        n, units = len(z1), normalise(torch.cat([z1, z2]))
        codes, shown = y.flatten(), cells.flatten()
        hidden = _alike(codes, codes, (shown, shown.roll(n)), shown).fill_diagonal_(True)
        return _find(units @ units.T / self.temperature, hidden, torch.arange(2 * n, device=z1.device).roll(n))


@register("moco")
class MoCo(ContrastLoss):
    r"""Find each cell's second view among those of many earlier minibatches, kept in a queue.

    .. math:: L = -\frac1n \sum_i \log \frac{\exp(\hat z^1_i \cdot k_i / T)}
        {\exp(\hat z^1_i \cdot k_i / T) + \sum_{q \in Q_i} \exp(\hat z^1_i \cdot q / T)}

    with :math:`k_i` the second view, a unit vector without gradient, by a momentum encoder that follows the encoder
    slowly, and :math:`Q_i` the queue without keys of the cell itself and of its type.

    Parameters
    ----------
    queue
        Keys that are kept. None takes a quarter of the training cells, at most 4,096: a queue that is not much shorter
        than the data holds other views of nearly every cell.
    momentum
        How much the momentum encoder keeps of itself at each step, in [0, 1).
    temperature
        T, in units of the cosine; above 0, useful from 0.05 to 0.5.
    neighbours
        The second view is that of one of this many nearest cells by principal components, at most 15; 0 for the cell
        itself. `fit` draws them; the loss takes what it is given.

    Notes
    -----
    z1 and z2 are (n, dim), y (n,) or None. The queue (buffers `keys`, `key_cells`, `key_codes`, with cell -1 for keys
    whose cell is unknown) takes in the keys of a minibatch after the comparison, only in training mode. It starts
    empty, so the first value is 0. Without a momentum encoder (the loss was called by hand) z2 gives the keys. More
    keys than training cells are a ValueError of `fit`.

    References
    ----------
    He, Fan, Wu, Xie & Girshick 2020, Momentum contrast for unsupervised visual representation learning.

    Examples
    --------
    >>> z = torch.tensor([[0.0, 0], [1, 0], [0, 3], [1, 3]])  # two pairs of cells, 3 apart
    >>> loss = tt.losses.MoCo(queue=8)
    >>> loss.build(dim=2, n_classes=0)
    >>> float(loss(z, z))  # the queue is empty
    0.0
    >>> bool(loss(z, z) > 0)  # it holds the first minibatch
    True
    """

    queue: int | None = None
    momentum: float = 0.999
    temperature: float = 0.2
    neighbours: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queue is not None:
            parts.check_number(self, "queue", "[1, inf)", whole=True)
        parts.check_number(self, "momentum", "[0, 1)")
        self._capacity = QUEUE if self.queue is None else self.queue

    def set_n_cells(self, n_cells: int) -> None:
        """Set the length of the queue from the number of training cells."""
        if self.queue is None:
            self._capacity = max(min(QUEUE, n_cells // 4), 1)
        elif self.queue > n_cells:
            raise ValueError(
                f"moco: queue={self.queue} is longer than the data, {n_cells} training cells. Take a quarter of them "
                "or fewer, or leave it out."
            )

    def build(self, dim: int, n_classes: int) -> None:
        """Make the empty queue."""
        self.register_buffer("keys", torch.zeros(self._capacity, dim))
        self.register_buffer("key_cells", torch.full((self._capacity,), -1))
        self.register_buffer("key_codes", torch.full((self._capacity,), -1))
        self.register_buffer("n_taken", torch.zeros((), dtype=torch.long))  # keys taken in so far

    def _value(
        self,
        z1: Tensor,
        z2: Tensor,
        y: Tensor,
        cells: Tensor,
        momentum_z: Tensor | None = None,
        **known: Tensor,
    ) -> Tensor:
        if "keys" not in self._buffers:
            raise RuntimeError(f"{self.name} has no queue yet: call build(dim, n_classes) first.")
        own = normalise((z2 if momentum_z is None else momentum_z[len(z2) :]).detach())
        keys, key_cells, key_codes, n_taken = map(self.get_buffer, ("keys", "key_cells", "key_codes", "n_taken"))
        if z1.shape[1] != keys.shape[1]:
            raise ValueError(f"{self.name} was built for dim={keys.shape[1]}, but z has {z1.shape[1]} columns.")
        # a copy, because the queue changes before the gradient is taken
        units, keys = normalise(z1), keys.to(z1.dtype, copy=True)
        hidden = _alike(y[0], key_codes, cells, key_cells)
        hidden |= torch.arange(len(keys), device=y.device) >= n_taken
        logits = torch.cat([(units * own).sum(1, keepdim=True), (units @ keys.T).masked_fill(hidden, -torch.inf)], 1)
        value = F.cross_entropy(logits / self.temperature, torch.zeros_like(y[0], dtype=torch.long))
        if self.training:
            self._take(own, cells[1], y[1])
        return value

    @torch.no_grad()
    def _take(self, keys: Tensor, cells: Tensor, y: Tensor) -> None:
        """Replace the oldest keys."""
        last = slice(max(len(keys) - self._capacity, 0), None)
        n_taken = self.get_buffer("n_taken")
        slots = (n_taken + torch.arange(len(keys[last]), device=y.device)) % self._capacity
        for name, values in (("keys", keys), ("key_cells", cells), ("key_codes", y)):
            buffer = self.get_buffer(name)
            buffer[slots] = values[last].to(buffer.dtype)
        n_taken += len(slots)


def _alike(y: Tensor, others: Tensor, cells: Iterable[Tensor], shown: Tensor) -> Tensor:
    """Mark the pairs of rows and columns that must not be told apart.

    They are of one known type, by the codes `y` and `others`, or the column shows (`shown`) one of the row's `cells`:
    its own, or that of its other view.
    """
    alike = (y[:, None] == others) & (y >= 0)[:, None]
    for own in cells:
        alike |= (own[:, None] == shown) & (own >= 0)[:, None]
    return alike


def _find_own(logits: Tensor, y: Tensor, cells: Tensor, same_type: float = 0.0) -> Tensor:
    """Return the cross-entropy of each row's choice of its own column (n, n).

    Columns of the row's type weigh `same_type`; those that show the cell itself or its neighbour are left out.
    """
    wanted = torch.arange(len(logits), device=y.device)
    if same_type:
        kin = _alike(y[0], y[1], cells[:0], cells[1])
        kin[wanted, wanted] = False
        logits = logits + kin * math.log(same_type)
        y = torch.full_like(y, -1)
    return _find(logits, _alike(y[0], y[1], cells, cells[1]), wanted)


def _find(logits: Tensor, hidden: Tensor, wanted: Tensor) -> Tensor:
    """Return the cross-entropy of each row's choice of the column `wanted` among those that are not hidden."""
    hidden[torch.arange(len(logits), device=logits.device), wanted] = False
    return F.cross_entropy(logits.masked_fill(hidden, -torch.inf), wanted)

"""The map's structure term: neighbours close, everybody else apart, far groups farther than near ones."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from torch import Tensor

from tripletomics import area
from tripletomics.knn import NEIGHBOURS, knn_graph
from tripletomics.losses.base import Loss
from tripletomics.losses.levels import coarse_to_fine, contained

CLUSTERS = 30
ORDER = 6.0  # weight of the order of the clusters; that of the types is twice as much at structure=0
COARSE = 0.5  # share of the latter that the levels above the types have, if there are any
EVEN = 12.0  # weight of the even disk at spread=1
RISE = 3  # it reaches its weight after a third of the steps
CLUSTERED = 20_000  # cells that the clusters are found on
FEW = 16  # cells; a smaller group that is far from all others is a satellite
FAR = 0.98  # share of the cells that are nearer to the middle than the centre of a satellite
FLOOR = 0.25  # share of the mean sum of a minibatch that is added to the sums of a satellite's cells


class Neighbours(Loss):
    r"""Keep neighbours close in the map, all others apart, and groups of cells in the order of their distances.

    .. math::
        L = \sum_{ij} v_{ij} \log(1 + d_{ij}^2)
            + \frac1n \sum_i \log \Big(b_i + \sum_{j \ne i} \frac1{1 + d_{ij}^2}\Big)
            + \sum_g w_g \Big(1 - \frac1{|g|} \sum_{k \in g} r_k\Big) + e\, U

    with the distances d of the n cells of a minibatch in the map. v is the weight of an edge of the neighbour graph
    that has both ends in the minibatch, and sums to 1. For each grouping g of the cells, r_k is the congruence
    coefficient (the cosine), over the other groups, of the distances between the centre of group k and theirs in the
    map with the ranks that these distances have in the reference. U is how far the minibatch is from a disk of even
    density (`area.unevenness`); its weight rises to e over the first third of the training. b is 0 except for
    satellites: groups of few cells far from all others, which would otherwise end at the edge of the map.

    Parameters
    ----------
    graph
        Neighbours (cells, k) of each cell; -1 where there is none.
    weights
        Weight (k,) of a column of the graph.
    groupings
        Of each grouping its weight, codes (cells,) with -1 for none, and the rank (groups, groups) of each group by
        its distance from one in the reference: 1 for that one, 2 for the nearest other.
    even, seed
        Weight e of the last term, and the seed of its random lines.
    satellites
        Boolean (cells,): those whose b is a quarter of the mean sum of the minibatch, taken as constant. By default no
        cell.

    Notes
    -----
    ``loss(a, rows)`` takes the coordinates (n, dim) of a minibatch and the cells, each once. The second term,
    with a sum for every cell in place of t-SNE's single one, gives a cell of a small dense type as much room as one of
    a large type: a network shares its capacity, where t-SNE moves each cell on its own. Groups without a cell in the
    minibatch do not count in the third term, and fewer than three groups have no order. With the distances of the
    reference in place of their ranks, a few outlying cells squeeze all others into a corner of the map; with a
    correlation, which ignores an offset, near groups lie on each other.

    References
    ----------
    The Cauchy kernel: van der Maaten & Hinton 2008. Sums by cell, and minibatches: Damrich, Böhm, Hamprecht & Kobak
    2023; Böhm, Berens & Kobak 2023 (t-SimCNE). Ranks: nonmetric scaling, Kruskal 1964. Congruence of distances: Borg &
    Groenen 2005.
    """

    def __init__(
        self,
        graph: np.ndarray,
        weights: np.ndarray,
        groupings: Sequence[tuple[float, np.ndarray, np.ndarray]] = (),
        even: float = 0.0,
        seed: int = 0,
        satellites: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.even, self.risen = even, 1.0
        self.random = np.random.default_rng([seed, 9])
        self.graph: Tensor
        self.weights: Tensor
        self.position: Tensor
        self.room: Tensor  # of two matrices of all pairs
        few = np.zeros(len(graph), dtype=bool) if satellites is None else satellites
        self.satellites: Tensor
        self.register_buffer("graph", torch.from_numpy(graph), persistent=False)
        self.register_buffer("weights", torch.from_numpy(weights).float(), persistent=False)
        self.register_buffer("satellites", torch.from_numpy(few), persistent=False)
        self.register_buffer("room", torch.empty(0), persistent=False)
        # the last one is for -1, no cell
        self.register_buffer("position", torch.full((len(graph) + 1,), -1), persistent=False)
        self.importance: Tensor
        self.codes: Tensor
        self.ranks: Tensor
        most = max((len(ranks) for _, _, ranks in groupings), default=0)
        ranks = [np.pad(ranks, (0, most - len(ranks))) for _, _, ranks in groupings]  # a group without cells
        self.register_buffer(
            "importance", torch.tensor([importance for importance, _, _ in groupings]), persistent=False
        )
        self.register_buffer(
            "codes", torch.from_numpy(np.array([codes for _, codes, _ in groupings], dtype=np.int64)), persistent=False
        )
        self.register_buffer("ranks", torch.from_numpy(np.array(ranks, dtype=np.float32)), persistent=False)

    def forward(self, a: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of the coordinates `a` (n, dim) of the cells `rows` (n,)."""
        rows = rows.to(a.device)
        self.room = self.room.to(a).resize_(2, len(a), len(a))  # new memory in each step would take a third of its time
        value = self._attraction(a, rows) + _Repulsion.apply(a, self.satellites[rows], self.room)
        if len(self.importance):
            value = value + self.importance @ _disorder(a, self.codes[:, rows], self.ranks)
        if self.even:
            value = value + self.risen * self.even * self._unevenness(a)
        return value

    def set_progress(self, step: int, steps: int) -> None:
        """Raise the weight of the last term: neighbours come first."""
        self.risen = min(1.0, RISE * step / steps)

    def _unevenness(self, a: Tensor) -> Tensor:
        lines = self.random.normal(size=(a.shape[1], area.LINES)).astype(np.float32)
        lines /= np.linalg.norm(lines, axis=0)
        return area.unevenness(a, _even(len(a), a.shape[1]).to(a), torch.from_numpy(lines).to(a))

    def _attraction(self, a: Tensor, rows: Tensor) -> Tensor:
        self.position[rows] = torch.arange(len(rows), device=a.device)
        ends = self.position[self.graph[rows]]
        self.position[rows] = -1
        inside = ends >= 0
        if a.device.type == "cpu":  # few edges have both ends in a minibatch of a large dataset
            start, column = inside.nonzero(as_tuple=True)
            return _Attraction.apply(a, self.weights[column], start, ends[start, column])
        start = torch.arange(len(a), device=a.device).repeat_interleave(ends.shape[1], output_size=ends.numel())
        return _Attraction.apply(a, (self.weights * inside).flatten(), start, ends.clamp(min=0).flatten())  # no waiting


class _Attraction(torch.autograd.Function):
    """The first term and its gradient in closed form, twice as fast as autograd's."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, weights: Tensor, start: Tensor, end: Tensor) -> Tensor:
        difference = a.index_select(0, start) - a.index_select(0, end)
        squared = difference.square().sum(dim=1)
        weights = weights / weights.sum().clamp(min=1e-12)
        ctx.save_for_backward(difference * (2 * weights / (1 + squared))[:, None], start, end)
        ctx.n = len(a)
        return (weights * squared.log1p()).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pull, start, end = ctx.saved_tensors
        # not a[start] += pull: on many threads, the order of that sum varies; one column at a time is 8 times as fast
        pulled = [
            column.new_zeros(ctx.n).index_add_(0, start, column).index_add_(0, end, column, alpha=-1)
            for column in pull.unbind(dim=1)
        ]
        return gradients[0] * torch.stack(pulled, dim=1), None, None, None


class _Repulsion(torch.autograd.Function):
    """The second term and its gradient in closed form, several times as fast as autograd's."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, satellites: Tensor, room: Tensor) -> Tensor:
        a, (similarity, difference) = a - a.mean(dim=0), room
        similarity.fill_(1)
        for along in a.T.contiguous():  # 1 + the squared distances; a product of matrices would be 6 times as slow
            torch.sub(along[:, None], along, out=difference)
            similarity.addcmul_(difference, difference)
        similarity.reciprocal_().fill_diagonal_(0)
        total = similarity.sum(dim=1).clamp(min=torch.finfo(a.dtype).tiny)
        total += FLOOR * total.mean() * satellites
        share, squares, dim = (1 / total)[:, None], similarity.square_(), a.shape[1]
        # a cell is pushed by its own sum and by those of all others; a wide product is 5 times as fast as a tall one
        sums = (torch.cat([torch.ones_like(share), share, a, a * share], dim=1).T @ squares).T
        pushed = a * (share * sums[:, :1] + sums[:, 1:2]) - share * sums[:, 2 : 2 + dim] - sums[:, 2 + dim :]
        ctx.save_for_backward(-2 / len(a) * pushed)
        return total.log().mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] * ctx.saved_tensors[0], None, None


def _disorder(a: Tensor, codes: Tensor, ranks: Tensor) -> Tensor:
    """Return 1 - the mean congruence, over groups, of their distances to the others in the map with the ranks.

    Of each grouping: `codes` (groupings, cells) and `ranks` (groupings, groups, groups) give (groupings,).
    """
    groups = torch.arange(ranks.shape[1], device=a.device)
    member = (codes[:, None] == groups[:, None]).to(a.dtype)
    sizes = member.sum(dim=2)
    present = (sizes > 0).to(a.dtype)
    centres = member @ a / sizes.clamp(min=1)[:, :, None]
    squared = (centres[:, :, None] - centres[:, None]).square().sum(dim=3)
    others = present[:, :, None] * present[:, None] * (groups[:, None] != groups)
    # the tiny number keeps the gradient of the root finite where two centres coincide
    x, y = others * (squared + 1e-6).sqrt(), others * ranks
    r = (x * y).sum(dim=2) / (x.norm(dim=2) * y.norm(dim=2)).clamp(min=1e-6)
    n = present.sum(dim=1)
    return (n > 2) * (present * (1 - r)).sum(dim=1) / n.clamp(min=1)


@functools.cache
def _even(n: int, dim: int) -> Tensor:
    return area.quantiles(n, dim)


def fit(
    reference: np.ndarray,
    y: np.ndarray,
    structure: float,
    seed: int,
    spread: float = 0.0,
    below: np.ndarray | None = None,
) -> Neighbours:
    """Return the loss of a map of training cells.

    Parameters
    ----------
    reference
        Principal components (cells, components).
    y
        Codes (cells,), -1 for unlabelled.
    structure
        In [0, 1]: the share of the data's graph is its square root, 0.71 at 0.5, and at 1 nothing depends on y.
    seed
        Seed of the clusters, and of random lines.
    spread
        In [0, 1]: how evenly the cells are to fill the map.
    below
        For codes of several levels, as for `levels.Levels`. The levels above the types are groupings too, and share
        half of the weight of the order of the types.
    """
    data = structure**0.5
    near = knn_graph(reference)
    graph, weights = [], []
    if data > 0:
        graph.append(near)
        weights.append(np.full(near.shape[1], data / near.shape[1]))
    if data < 1:
        same = label_graph(reference, y, below)
        graph.append(np.where(same >= 0, same, near))
        weights.append(np.full(near.shape[1], (1 - data) / near.shape[1]))
    importance, groups = [ORDER], [clusters(reference, seed)]
    if structure < 1:
        levels = _levels(y, below)
        n = len(levels) - 1  # above the types
        shares = [COARSE / n] * n + [1 - COARSE] if n else [1.0]
        importance += [2 * ORDER * (1 - structure) * share for share in shares]
        groups += levels
    apart = [satellites(reference, codes) for codes in groups]
    groupings = [
        (weight, *_grouping(reference, np.where(outside, -1, codes)))
        for weight, codes, outside in zip(importance, groups, apart, strict=True)
    ]
    return Neighbours(
        np.concatenate(graph, axis=1), np.concatenate(weights), groupings, EVEN * spread**2, seed, np.any(apart, axis=0)
    )


def label_graph(reference: np.ndarray, y: np.ndarray, below: np.ndarray | None = None) -> np.ndarray:
    """Find the 15 nearest cells of the same type: int64 (cells, k), -1 for an unlabelled cell or one that is alone.

    A cell of a type with fewer members has them all, repeated to fill the row. With names of several levels (`below`,
    as for `levels.Levels`), a cell that is known coarsely finds all cells with that name or one below it.
    """
    k = min(NEIGHBOURS, len(reference) - 1)
    graph = np.full((len(reference), k), -1)
    inside = None if below is None else contained(below)
    for code in np.unique(y[y >= 0]):
        own = y == code
        cells = np.flatnonzero(own if inside is None else inside[y, code] & (y >= 0))
        if len(cells) > 1:
            found = cells[knn_graph(reference[cells])][own[cells]]
            graph[own] = found[:, np.arange(k) % found.shape[1]]
    return graph


def _levels(y: np.ndarray, below: np.ndarray | None) -> list[np.ndarray]:
    """Return the groups of each level with an order: 3 groups or more, or the classes themselves."""
    if below is None:
        return [y]
    levels = coarse_to_fine(y, below)
    return [level for level in levels[:-1] if len(np.unique(level[level >= 0])) > 2] + levels[-1:]


def clusters(reference: np.ndarray, seed: int) -> np.ndarray:
    """Divide cells into up to 30 clusters without labels: codes (cells,)."""
    some = np.random.default_rng(seed).permutation(len(reference))[:CLUSTERED]
    n = max(min(CLUSTERS, len(np.unique(reference[some], axis=0)) // 10), 1)
    return KMeans(n, n_init=1, random_state=seed).fit(reference[some]).predict(reference).astype(np.int64)


def satellites(reference: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return which cells belong to small groups at the outside of the data, boolean (cells,).

    The order of distances would put such a group at the edge of the map, as it is the farthest from all others.
    """
    from_middle = reference - reference.mean(axis=0)
    limit = np.quantile(np.linalg.norm(from_middle, axis=1), FAR)
    found = np.zeros(len(codes), dtype=bool)
    for code in np.flatnonzero(np.bincount(codes[codes >= 0]) < FEW):
        own = codes == code
        found[own] = own.any() and np.linalg.norm(from_middle[own].mean(axis=0)) > limit
    return found


def _grouping(reference: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return codes without gaps, and the rank of each group by the distance of its centre from one's: 1 is that one."""
    present = np.unique(codes[codes >= 0])
    centres = np.stack([reference[codes == code].mean(axis=0) for code in present]) if len(present) else reference[:0]
    dense = np.where(codes >= 0, np.searchsorted(present, codes), -1)
    return dense, rankdata(np.linalg.norm(centres[:, None] - centres, axis=2), axis=1)

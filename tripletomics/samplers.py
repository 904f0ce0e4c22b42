"""Which rows make a batch: each sampler yields one array of row numbers a view, for ever."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tripletomics.losses.base import Loss

NEIGHBOURING = 4  # types a batch, where a loss wants neighbours together
LONE = 4  # one in so many cells of a batch of two modalities may have one of them
MOST, LEAST = 30_000, 200  # cells whose neighbours are looked for, and of each type: all pairs of them take seconds
COMPANIONS = 3  # neighbours that a cell of a large table brings along


class Balanced:
    """P x K batches: as many cells of every type as it has, up to an equal share, and never a cell twice.

    Parameters
    ----------
    y
        Codes (cells,); code -1 is never drawn, nor is a type of one cell an anchor of anything.
    batch_size
        Cells a batch, filled from the larger types where a rare one has fewer than its share.
    seed
        For the draw.
    batch
        Codes (cells,) of donors or runs; within a type they take turns.
    guide
        A loss, which may ask for more as training goes on: its `companions` (cells, k) of each cell are k further
        views, and types that are near by its `nearness` (n_classes, n_classes) come together.

    Notes
    -----
    Every cell of a type is drawn before one comes again. With more types than a quarter of `batch_size`, each batch
    takes that many types at random. With a `nearness`, each batch takes a random type and its 3 nearest.

    References
    ----------
    P x K batches: Hermans, Beyer & Leibe 2017.
    """

    def __init__(
        self,
        y: np.ndarray,
        batch_size: int,
        seed: int,
        batch: np.ndarray | None = None,
        guide: Loss | None = None,
    ) -> None:
        self.kinds = np.unique(y[y >= 0])
        self.cells = [np.flatnonzero(y == kind) for kind in self.kinds]
        self.asked = batch_size
        self.batch_size = min(batch_size, int((y >= 0).sum()))
        self.batch = batch
        self.seed = seed
        self.guide = guide

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        self._random = np.random.default_rng(self.seed)
        self._queues = [np.empty(0, dtype=np.int64) for _ in self.cells]
        return self._batches()

    def state(self) -> dict[str, Any]:
        """Return what the next batches depend on."""
        sizes = np.array([len(queue) for queue in self._queues])
        return {"random": self._random, "queues": np.concatenate([*self._queues, sizes[:0]]), "sizes": sizes}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state, after `iter`."""
        self._random.bit_generator.state = state["random"]
        self._queues[:] = np.split(state["queues"], np.cumsum(state["sizes"])[:-1])

    def _batches(self) -> Iterator[tuple[np.ndarray, ...]]:
        random, queues = self._random, self._queues
        while True:
            companions = None if self.guide is None else self.guide.companions
            views = 1 if companions is None else 1 + companions.shape[1]
            size = max(self.batch_size // views, 1)
            types = self._types(random, max(self.asked // views // 4, 1))
            rows = []
            for kind, n in zip(types, shares([len(self.cells[kind]) for kind in types], size), strict=True):
                rest = queues[kind]
                if len(rest) < n:
                    fresh = self._shuffle(self.cells[kind], random)
                    # what is left comes first, and is moved to the end of the new round: no copies in one batch
                    repeated = np.isin(fresh, rest)
                    rest = np.concatenate([rest, fresh[~repeated], fresh[repeated]])
                rows.append(rest[:n])
                queues[kind] = rest[n:]
            cells = np.concatenate(rows)
            yield (cells,) if companions is None else (cells, *companions[cells].T)

    def _types(self, random: np.random.Generator, n: int) -> np.ndarray:
        types = random.permutation(len(self.cells))
        if self.guide is None or self.guide.nearness is None:
            return types[:n]
        return self.guide.nearness[self.kinds[types[0]], self.kinds].argsort(kind="stable")[: min(n, NEIGHBOURING)]

    def _shuffle(self, cells: np.ndarray, random: np.random.Generator) -> np.ndarray:
        cells = random.permutation(cells)
        if self.batch is None:
            return cells
        turn = np.empty(len(cells), dtype=np.int64)
        for group in np.unique(self.batch[cells]):
            members = np.flatnonzero(self.batch[cells] == group)
            turn[members] = np.arange(len(members))
        return cells[np.argsort(turn, kind="stable")]


class Views:
    """Two views of the same cells: up to half of them labelled ones, `Balanced`, and the rest any others, shuffled.

    Parameters
    ----------
    y
        Codes (cells,), -1 for unlabelled.
    batch_size
        Cells a batch, at most.
    seed
        For the draw.
    batch, guide
        As for `Balanced`.
    lone
        Boolean (cells,), cells of which one of two modalities was measured: at most a quarter of those any others, for
        two views of one modality say nothing of the other. By default none.
    graph
        Neighbours (cells, k); then the second view is that of one of a cell's neighbours, drawn at random, but never of
        one that is known to be of another type.

    Notes
    -----
    No cell is twice in a batch as a first view.
    """

    def __init__(
        self,
        y: np.ndarray,
        batch_size: int,
        seed: int,
        batch: np.ndarray | None = None,
        guide: Loss | None = None,
        graph: np.ndarray | None = None,
        lone: np.ndarray | None = None,
    ) -> None:
        self.y, self.n = y, len(y)
        self.lone = np.zeros(len(y), dtype=bool) if lone is None else lone
        self.kinds = np.unique(y[y >= 0])
        self.batch_size = min(batch_size, self.n)
        self.seed = seed
        self.graph = graph
        self.labelled = Balanced(y, self.batch_size // 2, seed, batch, guide) if len(self.kinds) else None

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        self._random = np.random.default_rng([self.seed, 2])  # not the draw of the labelled cells
        self._pools = [_Pool(np.flatnonzero(rows), self._random) for rows in (~self.lone, self.lone)]
        return self._batches(iter(()) if self.labelled is None else iter(self.labelled))

    def state(self) -> dict[str, Any]:
        """Return what the next batches depend on."""
        rests = {str(i): pool.rest for i, pool in enumerate(self._pools)}
        return {"random": self._random, "rests": rests, "labelled": self.labelled.state() if self.labelled else {}}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state, after `iter`."""
        self._random.bit_generator.state = state["random"]
        for i, pool in enumerate(self._pools):
            pool.rest = state["rests"][str(i)]
        if self.labelled:
            self.labelled.restore(state["labelled"])

    def _batches(self, labelled: Iterator[tuple[np.ndarray, ...]]) -> Iterator[tuple[np.ndarray, ...]]:
        random, pools = self._random, self._pools
        while True:
            known = next(labelled, (np.zeros(0, dtype=np.int64),))[0]
            n = self.batch_size - len(known)
            n_lone = min(n // LONE, len(pools[1].cells)) if len(pools[0].cells) else n
            others = np.concatenate([pools[0].take(n - n_lone), pools[1].take(n_lone)])
            cells = np.concatenate([known, others[~np.isin(others, known)]])
            near = cells
            if self.graph is not None:
                near = self.graph[cells, random.integers(self.graph.shape[1], size=len(cells))]
                foreign = (self.y[cells] != self.y[near]) & (self.y[cells] >= 0) & (self.y[near] >= 0)
                near = np.where(foreign, cells, near)
            yield cells, near


class _Pool:
    """Cells in a random order, and then in another."""

    def __init__(self, cells: np.ndarray, random: np.random.Generator) -> None:
        self.cells, self.random = cells, random
        self.rest = random.permutation(cells)

    def take(self, n: int) -> np.ndarray:
        """Return the next n, or all if there are fewer."""
        if len(self.rest) < n:
            self.rest = self.random.permutation(self.cells)
        taken, self.rest = self.rest[:n], self.rest[n:]
        return taken


def shares(sizes: list[int], total: int) -> list[int]:
    """Divide `total` equally, where nobody gets more than their size and what they leave goes to the others."""
    given = [0] * len(sizes)
    left = total
    for rank, kind in enumerate(np.argsort(sizes, kind="stable")):
        given[kind] = min(sizes[kind], left // (len(sizes) - rank))
        left -= given[kind]
    return given


def some(y: np.ndarray, seed: int) -> np.ndarray:
    """Draw the cells of a large table whose neighbours are looked for: 30,000 at random and up to 200 of each type.

    Parameters
    ----------
    y
        Codes (cells,), -1 for unlabelled.
    seed
        For the draw.

    Returns
    -------
    Rows in ascending order; all where there are no more.
    """
    order = np.random.default_rng([seed, 3]).permutation(len(y))
    rows = [order[:MOST], *(order[y[order] == kind][:LEAST] for kind in np.unique(y[y >= 0]) if len(y) > MOST)]
    return np.unique(np.concatenate(rows))


class Neighbourhoods:
    """Random cells, each once; from a large table, a quarter of them with three of their neighbours each.

    Parameters
    ----------
    graph
        Neighbours (cells, k); -1 where there is none.
    batch_size
        Cells a batch, at most.
    seed
        For the draw.

    Notes
    -----
    Neighbours are drawn where a cell of a random batch would have fewer than two of them in it.
    """

    def __init__(self, graph: np.ndarray, batch_size: int, seed: int) -> None:
        self.graph = graph
        self.batch_size = min(batch_size, len(graph))
        self.seed = seed

    def __iter__(self) -> Iterator[tuple[np.ndarray]]:
        self._random = np.random.default_rng(self.seed)
        return self._batches()

    def state(self) -> dict[str, Any]:
        """Return what the next batches depend on."""
        return {"random": self._random}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state, after `iter`."""
        self._random.bit_generator.state = state["random"]

    def _batches(self) -> Iterator[tuple[np.ndarray]]:
        random = self._random
        n, k = self.graph.shape
        if k * self.batch_size >= 2 * n:
            while True:
                yield (random.permutation(n)[: self.batch_size],)
        while True:
            cells = random.integers(n, size=self.batch_size // (1 + COMPANIONS))
            slots = random.integers(k, size=(len(cells), COMPANIONS))
            rows = np.unique(np.concatenate([cells, self.graph[cells[:, None], slots].ravel()]))
            yield (rows[rows >= 0],)

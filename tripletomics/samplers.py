"""Samplers choose the rows of each minibatch: one array of row numbers for each view, without end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

NEIGHBOURING = 4  # types in a minibatch, where a loss asks for near types together
SINGLE = 4  # in a minibatch of two modalities, one cell in this many may have a single modality
MAX_CELLS, CELLS_PER_TYPE = 30_000, 200  # cells whose neighbours are searched: all pairs of them take seconds
NEIGHBOURS = 3  # neighbours that come with a cell of a large dataset


class BatchGuide(NamedTuple):
    """What the next minibatches should hold, as a loss asks.

    Attributes
    ----------
    mined_rows
        Row numbers (cells, k) of k cells that come with each training cell, as further views.
    class_distances
        Distances (n_classes, n_classes): types that are near by them share minibatches.
    """

    mined_rows: np.ndarray | None = None
    class_distances: np.ndarray | None = None


class Sampler:
    """The base of all samplers: iterate over one to draw minibatches.

    Attributes
    ----------
    batch_guide
        What the loss asks for; by default nothing.
    """

    seed: int | list[int]
    batch_guide = BatchGuide()

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        self._random = np.random.default_rng(self.seed)
        return self._minibatches()

    def state(self) -> dict[str, Any]:
        """Return what the next minibatches depend on."""
        return {"random": self._random, **self.batch_guide._asdict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state, after `iter`."""
        self._random.bit_generator.state = state["random"]
        self.batch_guide = BatchGuide(state["mined_rows"], state["class_distances"])

    def _minibatches(self) -> Iterator[tuple[np.ndarray, ...]]:
        raise NotImplementedError


class Balanced(Sampler):
    """P x K minibatches: as many cells of every type as it has, up to an equal share, and no cell twice.

    Parameters
    ----------
    y
        Codes (cells,). Cells with code -1 are never drawn.
    batch_size
        Cells in a minibatch. Larger types fill it where a rare type has fewer cells than its share.
    seed
        Seed of the draw.
    batch_codes
        Codes (cells,) of batches; within a type they take turns.

    Notes
    -----
    Every cell of a type is drawn before one comes again. With more types than a quarter of `batch_size`, each minibatch
    takes that many types at random. With class distances, each minibatch takes a random type and its 3 nearest.

    References
    ----------
    P x K batches: Hermans, Beyer & Leibe 2017.
    """

    def __init__(self, y: np.ndarray, batch_size: int, seed: int, batch_codes: np.ndarray | None = None) -> None:
        self.kinds = np.unique(y[y >= 0])
        self.cells = [np.flatnonzero(y == code) for code in self.kinds]
        self.asked = batch_size
        self.batch_size = min(batch_size, int((y >= 0).sum()))
        self.batch_codes = batch_codes
        self.seed = seed

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        self._queues = [np.empty(0, dtype=np.int64) for _ in self.cells]
        return super().__iter__()

    def state(self) -> dict[str, Any]:
        """Return what the next minibatches depend on."""
        sizes = np.array([len(queue) for queue in self._queues])
        return super().state() | {"queues": np.concatenate([*self._queues, sizes[:0]]), "sizes": sizes}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state, after `iter`."""
        super().restore(state)
        self._queues[:] = np.split(state["queues"], np.cumsum(state["sizes"])[:-1])

    def _minibatches(self) -> Iterator[tuple[np.ndarray, ...]]:
        queues = self._queues
        while True:
            mined = self.batch_guide.mined_rows
            views = 1 if mined is None else 1 + mined.shape[1]
            size = max(self.batch_size // views, 1)
            types = self._types(max(self.asked // views // 4, 1))
            rows = []
            for code, n in zip(types, allocate([len(self.cells[code]) for code in types], size), strict=True):
                rest = queues[code]
                if len(rest) < n:
                    fresh = self._shuffle(self.cells[code])
                    # what is left comes first, and moves to the end of the new round: no cell twice in a minibatch
                    repeated = np.isin(fresh, rest)
                    rest = np.concatenate([rest, fresh[~repeated], fresh[repeated]])
                rows.append(rest[:n])
                queues[code] = rest[n:]
            cells = self._random.permutation(np.concatenate(rows))  # so that cells that take turns are of any batch
            yield (cells,) if mined is None else (cells, *mined[cells].T)

    def _types(self, n: int) -> np.ndarray:
        """Return the types of the next minibatch, as positions in `kinds`."""
        types = self._random.permutation(len(self.cells))
        distances = self.batch_guide.class_distances
        if distances is None:
            return types[:n]
        return distances[self.kinds[types[0]], self.kinds].argsort(kind="stable")[: min(n, NEIGHBOURING)]

    def _shuffle(self, cells: np.ndarray) -> np.ndarray:
        cells = self._random.permutation(cells)
        if self.batch_codes is None:
            return cells
        turn = np.empty(len(cells), dtype=np.int64)
        for code in np.unique(self.batch_codes[cells]):
            members = np.flatnonzero(self.batch_codes[cells] == code)
            turn[members] = np.arange(len(members))
        return cells[np.argsort(turn, kind="stable")]


class Views(Sampler):
    """Two views of the same cells: up to half of them labelled ones, `Balanced`, and the rest random others.

    Parameters
    ----------
    y
        Codes (cells,), -1 for unlabelled.
    batch_size
        Cells in a minibatch, at most.
    seed
        Seed of the draw.
    batch_codes
        As for `Balanced`.
    graph
        Neighbours (cells, k). The second view is then that of one of a cell's neighbours, drawn at random, but never of
        one that is known to be of another type.
    single_modality
        Boolean (cells,), cells of which one of two modalities was measured. They are at most a quarter of the cells
        that are not drawn by label, because two views of one modality say nothing about the other. By default none.

    Notes
    -----
    No cell is twice in a minibatch as a first view.
    """

    def __init__(
        self,
        y: np.ndarray,
        batch_size: int,
        seed: int,
        batch_codes: np.ndarray | None = None,
        graph: np.ndarray | None = None,
        single_modality: np.ndarray | None = None,
    ) -> None:
        self.y, self.graph = y, graph
        self.single = np.zeros(len(y), dtype=bool) if single_modality is None else single_modality
        self.batch_size = min(batch_size, len(y))
        self.seed = [seed, 2]  # not the draw of the labelled cells
        self.labelled = Balanced(y, self.batch_size // 2, seed, batch_codes)
        self.kinds = self.labelled.kinds

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        minibatches = super().__iter__()
        self._pools = [_Pool(np.flatnonzero(rows), self._random) for rows in (~self.single, self.single)]
        self._labelled = iter(self.labelled)
        return minibatches

    def state(self) -> dict[str, Any]:
        """Return what the next minibatches depend on."""
        rests = {str(i): pool.rest for i, pool in enumerate(self._pools)}
        return super().state() | {"rests": rests, "labelled": self.labelled.state() if len(self.kinds) else {}}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state, after `iter`."""
        super().restore(state)
        for i, pool in enumerate(self._pools):
            pool.rest = state["rests"][str(i)]
        if len(self.kinds):
            self.labelled.restore(state["labelled"])

    def _minibatches(self) -> Iterator[tuple[np.ndarray, ...]]:
        both, single = self._pools
        while True:
            self.labelled.batch_guide = self.batch_guide
            labelled = next(self._labelled)[0] if len(self.kinds) else np.zeros(0, dtype=np.int64)
            n = self.batch_size - len(labelled)
            n_single = min(n // SINGLE, len(single.cells)) if len(both.cells) else n
            others = np.concatenate([both.take(n - n_single), single.take(n_single)])
            cells = np.concatenate([labelled, others[~np.isin(others, labelled)]])
            yield cells, self._second(cells)

    def _second(self, cells: np.ndarray) -> np.ndarray:
        """Return the cells of the second views."""
        if self.graph is None:
            return cells
        neighbours = self.graph[cells, self._random.integers(self.graph.shape[1], size=len(cells))]
        y, others = self.y[cells], self.y[neighbours]
        return np.where((y != others) & (y >= 0) & (others >= 0), cells, neighbours)


class _Pool:
    """Cells in a random order; when all are taken, in another."""

    def __init__(self, cells: np.ndarray, random: np.random.Generator) -> None:
        self.cells, self.random = cells, random
        self.rest = random.permutation(cells)

    def take(self, n: int) -> np.ndarray:
        """Return the next n, or all if there are fewer."""
        if len(self.rest) < n:
            self.rest = self.random.permutation(self.cells)
        taken, self.rest = self.rest[:n], self.rest[n:]
        return taken


class Shuffled(Sampler):
    """All cells in a random order, and then in a new one.

    Parameters
    ----------
    n
        Number of cells.
    batch_size
        Cells in a minibatch, at most.
    seed
        Seed of the draw.
    """

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        self.n, self.batch_size, self.seed = n, min(batch_size, n), seed

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        minibatches = super().__iter__()
        self._pool = _Pool(np.arange(self.n), self._random)
        return minibatches

    def state(self) -> dict[str, Any]:
        """Return what the next minibatches depend on."""
        return super().state() | {"rest": self._pool.rest}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state, after `iter`."""
        super().restore(state)
        self._pool.rest = state["rest"]

    def _minibatches(self) -> Iterator[tuple[np.ndarray]]:
        while True:
            yield (self._pool.take(self.batch_size),)


class Neighbourhoods(Sampler):
    """Random cells, each once; from a large dataset, a quarter of them with three of their neighbours each.

    Parameters
    ----------
    graph
        Neighbours (cells, k); -1 where there is none.
    batch_size
        Cells in a minibatch, at most.
    seed
        Seed of the draw.

    Notes
    -----
    Neighbours are drawn where a cell of a random minibatch would have fewer than two of them in it.
    """

    def __init__(self, graph: np.ndarray, batch_size: int, seed: int) -> None:
        self.graph = graph
        self.batch_size = min(batch_size, len(graph))
        self.seed = seed

    def _minibatches(self) -> Iterator[tuple[np.ndarray]]:
        n, k = self.graph.shape
        while k * self.batch_size >= 2 * n:
            yield (self._random.permutation(n)[: self.batch_size],)
        while True:
            cells = self._random.integers(n, size=self.batch_size // (1 + NEIGHBOURS))
            columns = self._random.integers(k, size=(len(cells), NEIGHBOURS))
            rows = np.unique(np.concatenate([cells, self.graph[cells[:, None], columns].ravel()]))
            yield (rows[rows >= 0],)


def allocate(sizes: list[int], total: int) -> list[int]:
    """Return `total` divided equally among `sizes`, none above its size; what one cannot take goes to the others."""
    given = [0] * len(sizes)
    left = total
    for rank, i in enumerate(np.argsort(sizes, kind="stable")):
        given[i] = min(sizes[i], left // (len(sizes) - rank))
        left -= given[i]
    return given


def subsample_per_type(y: np.ndarray, seed: int) -> np.ndarray:
    """Draw the cells of a large dataset whose neighbours are searched: 30,000 at random and up to 200 of each type.

    Parameters
    ----------
    y
        Codes (cells,), -1 for unlabelled.
    seed
        Seed of the draw.

    Returns
    -------
    Rows in ascending order; all where there are no more.
    """
    order = np.random.default_rng([seed, 3]).permutation(len(y))
    if len(y) <= MAX_CELLS:
        return np.arange(len(y))
    of_types = (order[y[order] == code][:CELLS_PER_TYPE] for code in np.unique(y[y >= 0]))
    return np.unique(np.concatenate([order[:MAX_CELLS], *of_types]))

"""Which rows make a batch: each sampler yields one array of row numbers a view, for ever."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


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

    Notes
    -----
    Every cell of a type is drawn before one comes again. With more types than a quarter of `batch_size`, each batch
    takes that many types at random.

    References
    ----------
    P x K batches: Hermans, Beyer & Leibe 2017.
    """

    def __init__(self, y: np.ndarray, batch_size: int, seed: int, batch: np.ndarray | None = None) -> None:
        self.cells = [np.flatnonzero(y == code) for code in np.unique(y[y >= 0])]
        self.batch_size = min(batch_size, int((y >= 0).sum()))
        self.batch = batch
        self.seed = seed

    def __iter__(self) -> Iterator[tuple[np.ndarray]]:
        random = np.random.default_rng(self.seed)
        queues = [np.empty(0, dtype=np.int64) for _ in self.cells]
        while True:
            types = random.permutation(len(self.cells))[: max(self.batch_size // 4, 1)]
            rows = []
            for kind, n in zip(types, shares([len(self.cells[kind]) for kind in types], self.batch_size), strict=True):
                rest = queues[kind]
                if len(rest) < n:
                    fresh = self._shuffle(self.cells[kind], random)
                    # what is left comes first, and is moved to the end of the new round: no copies in one batch
                    repeated = np.isin(fresh, rest)
                    rest = np.concatenate([rest, fresh[~repeated], fresh[repeated]])
                rows.append(rest[:n])
                queues[kind] = rest[n:]
            yield (np.concatenate(rows),)

    def _shuffle(self, cells: np.ndarray, random: np.random.Generator) -> np.ndarray:
        cells = random.permutation(cells)
        if self.batch is None:
            return cells
        turn = np.empty(len(cells), dtype=np.int64)
        for group in np.unique(self.batch[cells]):
            members = np.flatnonzero(self.batch[cells] == group)
            turn[members] = np.arange(len(members))
        return cells[np.argsort(turn, kind="stable")]


def shares(sizes: list[int], total: int) -> list[int]:
    """Divide `total` equally, where nobody gets more than their size and what they leave goes to the others."""
    given = [0] * len(sizes)
    left = total
    for rank, kind in enumerate(np.argsort(sizes, kind="stable")):
        given[kind] = min(sizes[kind], left // (len(sizes) - rank))
        left -= given[kind]
    return given


class Edges:
    """Pairs of neighbours: a cell drawn at random, and one of its neighbours in one of two graphs.

    Parameters
    ----------
    data, labels
        Neighbours (cells, k) in the data and within the cell's type; -1 where there is none.
    structure
        Probability of taking the pair from `data`.
    batch_size
        Pairs a batch.
    seed
        For the draw.
    """

    def __init__(self, data: np.ndarray, labels: np.ndarray, structure: float, batch_size: int, seed: int) -> None:
        self.data, self.labels = data, labels
        self.structure = structure
        self.batch_size = batch_size
        self.seed = seed

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        random = np.random.default_rng(self.seed)
        n, k = self.data.shape
        while True:
            i = random.integers(n, size=self.batch_size)
            slot = random.integers(k, size=self.batch_size)
            from_labels = random.random(self.batch_size) >= self.structure
            j = np.where(from_labels, self.labels[i, slot], self.data[i, slot])
            yield i, np.where(j >= 0, j, self.data[i, slot])

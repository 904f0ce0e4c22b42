"""Where rows come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

SPARSE = 0.15  # share of the values: with 0.05 of them a sparse product takes a third of a dense one's time

Matrix = Any  # a numpy array, a scipy.sparse matrix, which has no types, or the pair of two of them


class Contract(Protocol):
    """What turns rows of a table into what a network sees, as `features.Features` does."""

    @property
    def mean(self) -> np.ndarray:
        """What is taken from a normalised row."""

    @property
    def scale(self) -> np.ndarray:
        """What it is then divided by."""

    def normalise(self, x: Matrix, present: np.ndarray | None = None) -> Matrix:
        """Return float32 rows; sparse stays sparse."""

    def standardise(self, rows: np.ndarray, present: np.ndarray | None = None) -> np.ndarray:
        """Scale dense normalised rows."""


class Memory:
    """Rows of a matrix in memory.

    Parameters
    ----------
    x
        Cells by features: dense, CSR or a `Pair`. Sparse stays sparse: only the rows that are asked for become dense.
    contract
        What is done to the rows that are asked for; nothing by default.
    present
        Boolean (genes,), the features that are known, as the contract takes it.
    among
        Row numbers of `x` that this source has; all by default.
    """

    def __init__(
        self,
        x: Matrix,
        contract: Contract | None = None,
        present: np.ndarray | None = None,
        among: np.ndarray | None = None,
    ) -> None:
        self.x, self.contract, self.present = x, contract, present
        self.among = np.arange(x.shape[0]) if among is None else among

    def __len__(self) -> int:
        return len(self.among)

    @property
    def sparse(self) -> bool:
        """Whether few enough values are stored for sums over these alone to be quicker than a dense product."""
        return sp.issparse(self.x) and self.x.nnz < SPARSE * self.x.shape[0] * self.x.shape[1]

    @property
    def width(self) -> int:
        """Columns of a dense row."""
        return int(self.x.shape[1] if self.contract is None else len(self.contract.mean))

    def subset(self, i: np.ndarray) -> Memory:
        """Return a source of the rows `i` of this one."""
        return Memory(self.x, self.contract, self.present, self.among[i])

    def normalised(self, i: np.ndarray | slice) -> Matrix:
        """Return the rows `i` before they are scaled and made dense."""
        rows = self.x[self.among[i]]
        return rows if self.contract is None else self.contract.normalise(rows, self.present)

    def rows(self, i: np.ndarray | slice) -> Tensor:
        """Return the rows `i` as a float32 tensor (rows, features)."""
        rows = self.normalised(i)
        dense = np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows, dtype=np.float32)
        return torch.from_numpy(dense if self.contract is None else self.contract.standardise(dense, self.present))


class Projection:
    """Principal components of a matrix, of the rows that are asked for."""

    def __init__(self, project: Callable[[Matrix], np.ndarray], x: Matrix) -> None:
        self.project, self.x = project, x

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return those of some rows (rows, components)."""
        return self.project(self.x[rows])


Scores = np.ndarray | Projection

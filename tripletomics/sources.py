"""Where rows come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Matrix = Any  # a numpy array, a scipy.sparse matrix, which has no types, or the pair of two of them


class Memory:
    """Rows of a matrix in memory.

    Parameters
    ----------
    x
        Cells by features: dense, CSR or a `Pair`. Sparse stays sparse: only the rows that are asked for become dense.
    prepare
        What is done to the dense float32 rows, such as scaling.
    among
        Row numbers of `x` that this source has; all by default.
    """

    def __init__(
        self,
        x: Matrix,
        prepare: Callable[[np.ndarray], np.ndarray] | None = None,
        among: np.ndarray | None = None,
    ) -> None:
        self.x = x
        self.prepare = prepare
        self.among = np.arange(x.shape[0]) if among is None else among

    def __len__(self) -> int:
        return len(self.among)

    def subset(self, i: np.ndarray) -> Memory:
        """Return a source of the rows `i` of this one."""
        return Memory(self.x, self.prepare, self.among[i])

    def rows(self, i: np.ndarray | slice) -> Tensor:
        """Return the rows `i` as a float32 tensor (rows, features)."""
        rows = self.x[self.among[i]]
        dense = np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows, dtype=np.float32)
        return torch.from_numpy(dense if self.prepare is None else self.prepare(dense))

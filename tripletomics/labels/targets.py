"""What a model learns besides the cell types: the values of further columns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from tripletomics.losses import Loss


@dataclass(frozen=True, eq=False)
class Target:
    """A column of values that the metric space is to follow, besides the cell types.

    Attributes
    ----------
    name
        The column.
    values
        Its value in each cell, float64 (cells,), NaN where it is missing. Of ordered categories, their ranks from 0. Of
        types, their codes. A type that only held-out cells have gets a code beyond `classes`.
    loss, weight
        What learns it, and the weight of this loss.
    period
        Where the values begin again, such as 24 for hours of the day; None if they do not.
    categories
        The ordered categories, lowest first; None for numbers.
    classes
        The names of types without an order; None for others.
    """

    name: str
    values: np.ndarray
    loss: Loss
    weight: float = 1.0
    period: float | None = None
    categories: list[str] | None = None
    classes: list[str] | None = None

    @property
    def y(self) -> np.ndarray:
        """What the loss takes: values, or codes int64 with -1 for missing (cells,)."""
        return self.values if self.classes is None else np.nan_to_num(self.values, nan=-1).astype(np.int64)

    def subset(self, cells: np.ndarray) -> Self:
        """Return the target of some cells."""
        return replace(self, values=self.values[cells])

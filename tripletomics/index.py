"""The training cells that a model keeps, to find those that are most like a new cell."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tripletomics.knn import Index


class Hits(NamedTuple):
    """Nearest reference cells of queries, the nearest first.

    Attributes
    ----------
    names, labels
        Names and types of the cells (queries, k); "" for the label of an unlabelled cell.
    distances
        Euclidean, in the metric space (queries, k).
    """

    names: np.ndarray
    labels: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True)
class CellIndex:
    """All training cells, to be searched.

    Attributes
    ----------
    z
        Metric space, float32 (cells, metric_dim).
    names
        Names of the cells, as in `obs_names` (cells,).
    codes
        Codes of the types (cells,), -1 for unlabelled.
    """

    z: np.ndarray
    names: np.ndarray
    codes: np.ndarray

    @functools.cached_property
    def neighbours(self) -> Index:
        """The index of the cells, made at the first search."""
        return Index(self.z)

    def search(self, query: np.ndarray, k: int, types: Sequence[str]) -> Hits:
        """Find the k nearest cells of each query (queries, metric_dim); `types` are the names of the codes."""
        distances, rows = self.neighbours.search(query, k)
        labels = np.array([*types, ""])[self.codes[rows]]  # code -1 is the last
        return Hits(self.names[rows], labels, distances)

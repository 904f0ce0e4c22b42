"""Principal components without unit variance, which a map to adopt may be made of, next to those with it.

With unit variance, a gene that hardly varies counts as much as a marker. Maps are published of both. By components of
the other kind than those that a map was made of, a cell's neighbours are others than on the map: on two datasets the
error of the learned coordinates was .6 to 1 times larger.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tripletomics.features.single import Features, by_rows
from tripletomics.knn import radius
from tripletomics.pcs import LEAST, crossfitted, leading
from tripletomics.sources import Matrix


def add_plain(
    features: Features, x: Matrix, fitted: np.ndarray, pcs: np.ndarray, seed: int
) -> tuple[Features, np.ndarray]:
    """Fit the plain components to training cells; return the features with them, and what the map head sees of all.

    Parameters
    ----------
    features
        Of these training cells.
    x, pcs
        All cells, and their principal components.
    fitted
        Boolean (cells,), the cells to fit to. They get coordinates by components that did not see them.
    seed
        Seed of the solver and the folds.
    """
    columns = np.flatnonzero(features.axes.any(axis=0))
    rows = features.logged(by_rows(x)[fitted], features.usual_depth)[:, columns].astype(np.float64)
    components, mean, _ = leading(rows, seed)
    enough = len(components) and rows.shape[0] >= LEAST
    own = crossfitted(rows, components, mean, seed) if enough else rows @ components.T - components @ mean
    # neighbours are as far from each other as by the other components
    unit = radius(pcs[fitted], seed) / (radius(own.astype(np.float32), seed) or 1.0)
    plain = np.zeros((len(components), len(features.genes)), dtype=np.float32)
    plain[:, columns] = components * unit
    features = replace(features, plain=plain, plain_offset=(components @ mean * unit).astype(np.float32))
    seen = features.map_pcs(x, pcs)
    seen[fitted, features.width :] = own * unit
    return features, seen

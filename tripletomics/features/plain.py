"""Plain principal components, without unit variance of the genes, for a map to adopt.

With unit variance, a gene that hardly varies counts as much as a marker. Published maps are made from both kinds of
components. If only the other kind is used, a cell has other neighbours than on the map: on two datasets the error of
the learned coordinates was larger by .6 to 1 times.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tripletomics import gaps
from tripletomics.features.single import Features, by_rows
from tripletomics.knn import radius
from tripletomics.pcs import LEAST, crossfitted, leading
from tripletomics.sources import Matrix


def add_plain(
    features: Features, x: Matrix, fitted: np.ndarray, pcs: np.ndarray, seed: int
) -> tuple[Features, np.ndarray]:
    """Return the features with plain components fitted to training cells, and what the map head sees of all cells.

    Parameters
    ----------
    features
        Of these training cells.
    x, pcs
        All cells, and their principal components.
    fitted
        Boolean (cells,), the cells to fit to. Their components come from fits to other cells.
    seed
        Seed of the solver and the folds.
    """
    columns = np.flatnonzero(features.axes.any(axis=0))
    rows = features.logged(by_rows(x)[fitted], features.usual_depth)[:, columns].astype(np.float64)
    rows = gaps.fill(rows, features.expected(pcs[fitted], columns)) if gaps.has_gaps(rows) else rows
    components, mean, _, products = leading(rows, seed)
    enough = len(components) and rows.shape[0] >= LEAST
    own = crossfitted(rows, components, mean, seed, products) if enough else rows @ components.T - components @ mean
    # the scale at which neighbours are as far from each other as by the other components
    unit = radius(pcs[fitted], seed) / (radius(own.astype(np.float32), seed) or 1.0)
    plain = np.zeros((len(components), len(features.genes)), dtype=np.float32)
    plain[:, columns] = components * unit
    features = replace(features, plain=plain, plain_offset=(components @ mean * unit).astype(np.float32))
    seen = features.map_pcs(x, pcs)
    seen[fitted, features.width :] = own * unit
    return features, seen

"""How an embedding arranges types: distances between them, spread inside them, and a continuous order of cells.

Each function scores the cells that it gets, with the embedding z (cells, dim), the reference space r of the same
cells where it needs one, and the codes y, of which -1 is left out.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist, pdist
from scipy.stats import trim_mean

from tripletomics.knn import NEIGHBOURS, nearest
from tripletomics.metrics.order import spearman

TRIMMED_SHARE = 0.05  # of the cells of a type, at each end of each coordinate
MIN_TYPE_CELLS = 10  # scgraph leaves out smaller types, as its authors do
MIN_BATCH_CELLS = 100  # and smaller batches


def centroid_spearman(z: np.ndarray, r: np.ndarray, y: np.ndarray) -> float:
    r"""Score whether the embedding orders the distances between types as the data does.

    .. math:: \rho\left( \|\mu^z_s - \mu^z_t\|,\ \|\mu^r_s - \mu^r_t\| \right)_{s < t}

    the Spearman correlation over all pairs of types, with the mean positions of their cells.

    Parameters
    ----------
    z, r, y
        Embedding (cells, dim), reference space (cells, features) and codes (cells,).

    Returns
    -------
    A number in [-1, 1], 0 for chance and where all types have the same mean; NaN for fewer than three types, or if
    all their distances are equal in the reference space.

    References
    ----------
    Heiser & Lau 2020, A quantitative framework for evaluating single-cell data structure preservation by
    dimensionality reduction techniques (structure of substructures).
    """
    z, r, y = z[y >= 0], r[y >= 0], y[y >= 0]
    types = np.unique(y)
    if len(types) < 3:
        return float("nan")
    ours, theirs = (pdist([a[y == code].mean(axis=0, dtype=float) for code in types]) for a in (z, r))
    return spearman(ours, theirs)


def scgraph(z: np.ndarray, r: np.ndarray, y: np.ndarray, batch: np.ndarray | None = None) -> float:
    r"""Score whether near types of the data are near in the embedding, batch by batch (scGraph, Corr-Weighted).

    .. math:: \frac1c \sum_{t=1}^c \text{corr}_{w_t}(D^z_{\cdot t}, D^r_{\cdot t}), \qquad w_{st} = 1 / D^r_{st}

    the mean over types t of the weighted Pearson correlation over the other types s. D are distances between the
    trimmed means of types (5 % of the cells left out at either end of each coordinate), divided by the largest of
    their column. Those of r are taken within each batch and averaged over the batches that have both types.

    Parameters
    ----------
    z, r, y
        Embedding (cells, dim), reference space (cells, features) and codes (cells,).
    batch
        Codes (cells,) of batches; those with fewer than 100 cells, and code -1, are left out. Without it all cells
        are one batch.

    Returns
    -------
    A number in [-1, 1], a column where all distances are equal counting 0. NaN for fewer than three types with 10
    cells, or if no batch has 100.

    Notes
    -----
    **It favours PCA.** It takes PCA and straight distances between means for the truth: an unsupervised linear
    map wins by construction, and a map that follows a curved trajectory loses. Do not rank PCA by it. The authors
    compute a PCA for each batch, here r is given once for all. Distances near 0 weigh heavily: two types at one point
    in the reference space decide their columns.

    References
    ----------
    Wang, Leskovec & Regev 2025, Limitations of cell embedding metrics assessed using drifting islands.
    """
    z, r, batch, y = z[y >= 0], r[y >= 0], None if batch is None else batch[y >= 0], y[y >= 0]
    size = np.bincount(y)
    types = np.flatnonzero(size >= MIN_TYPE_CELLS)
    if batch is None:
        batches = [np.ones(len(y), dtype=bool)]
    else:
        batches = [batch == b for b in np.unique(batch[batch >= 0]) if np.count_nonzero(batch == b) >= MIN_BATCH_CELLS]
    if len(types) < 3 or not batches:
        return float("nan")
    ours = _between(z, y, types)
    every = np.stack([_between(r[cells], y[cells], types) for cells in batches])
    known = np.isfinite(every)
    theirs = np.where(known, every, 0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
    scores = [_weighted_correlation(ours[:, t], theirs[:, t]) for t in range(len(types))]
    found = [score for score in scores if not np.isnan(score)]
    return float(np.mean(found)) if found else float("nan")


def within_between(z: np.ndarray, y: np.ndarray) -> float:
    r"""Measure how far the cells of a type are spread, against the spread of the types.

    .. math:: \frac{\operatorname{tr} S_w}{\operatorname{tr} S_b}
        = \frac{\sum_i \|z_i - \mu_{y_i}\|^2}{\sum_t n_t \|\mu_t - \mu\|^2}

    Parameters
    ----------
    z, y
        Embedding (cells, dim) and codes (cells,).

    Returns
    -------
    A number from 0 (each type is one point, its structure is lost) up; infinite if all types have the same mean, NaN
    for fewer than two types or if all cells are at one point.

    References
    ----------
    Papyan, Han & Donoho 2020, Prevalence of neural collapse during the terminal phase of deep learning training.
    """
    z, y = z[y >= 0].astype(float), y[y >= 0]
    types, code, size = np.unique(y, return_inverse=True, return_counts=True)
    if len(types) < 2:
        return float("nan")
    means = np.stack([z[code == t].mean(axis=0) for t in range(len(types))])
    within = np.square(z - means[code]).sum()
    between = (size * np.square(means - z.mean(axis=0)).sum(axis=1)).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.divide(within, between))


def pseudotime_spearman(
    z: np.ndarray, t: np.ndarray, query: np.ndarray | None = None, query_t: np.ndarray | None = None
) -> float:
    r"""Score whether the neighbours of a cell predict its pseudotime, or any other number that is known for it.

    .. math:: \rho\left( \tfrac1k \sum_{j \in N_k(i)} t_j,\ t_i \right)_i

    the Spearman correlation over the scored cells i, with their k = 15 nearest reference cells.

    Parameters
    ----------
    z, t
        Reference embedding (cells, dim) and the number of each cell (cells,); cells without one (NaN) are left out.
    query, query_t
        The cells to score; without them every reference cell, among all the others.

    Returns
    -------
    A number in [-1, 1], 0 for chance and where all cells get the same; NaN for fewer than three cells to score, without
    reference cells, or if the scored cells have all the same number.

    References
    ----------
    Saelens, Cannoodt, Todorov & Saeys 2019, A comparison of single-cell trajectory inference methods.
    """
    if (query is None) != (query_t is None):
        raise ValueError("query and query_t belong together: pass both, or neither to score the reference cells.")
    z, t = z[np.isfinite(t)], t[np.isfinite(t)]
    truth = t
    if query is not None and query_t is not None:
        query, truth = query[np.isfinite(query_t)], query_t[np.isfinite(query_t)]
    k = min(NEIGHBOURS, len(t) - (query is None))
    if len(truth) < 3 or k < 1:
        return float("nan")
    return spearman(t[nearest(z, query, k)[1]].mean(axis=1), truth)


def _between(z: np.ndarray, y: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Return distances (types, types) between trimmed means by the largest of a column; NaN for types without cells."""
    means = np.full((len(types), z.shape[1]), np.nan)
    for row, code in enumerate(types):
        cells = z[y == code]
        if len(cells):
            means[row] = trim_mean(cells.astype(float), TRIMMED_SHARE, axis=0)
    return _by_largest(cdist(means, means))


def _by_largest(d: np.ndarray) -> np.ndarray:
    """Divide each column by its largest number; leave columns without one above 0 as they are."""
    largest = np.where(np.isnan(d), 0, d).max(axis=0)
    return d / np.where(largest > 0, largest, 1)


def _weighted_correlation(guess: np.ndarray, truth: np.ndarray) -> float:
    """Correlate with weights 1 / truth, 0 where that is 0; 0 if all guesses are equal, NaN if all truths are."""
    guess, truth = guess[truth > 0], truth[truth > 0]  # leaves out NaN as well
    if len(truth) < 2 or np.ptp(truth) == 0:
        return float("nan")
    if np.ptp(guess) == 0:
        return 0.0
    weight = 1 / truth
    a, b = (x - np.average(x, weights=weight) for x in (guess, truth))
    return float((weight * a * b).sum() / np.sqrt((weight * a * a).sum() * (weight * b * b).sum()))

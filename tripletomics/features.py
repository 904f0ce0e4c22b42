"""The gene contract: which genes in which order, and how their values become the numbers that a network sees.

Fitted on training rows and saved with the model, so that `transform` treats new cells the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import PCA
from sklearn.utils.sparsefuncs import mean_variance_axis

from tripletomics.sources import Matrix

N_COMPONENTS = 50
PANEL = 100  # fewer features than this are a panel of proteins, each on a scale of its own


@dataclass(frozen=True)
class Features:
    """Genes, normalisation, scaling and principal components of the training cells.

    Attributes
    ----------
    genes
        Names in the model's order.
    counts
        Whether values are counts, which are normalised to `depth` and log-transformed.
    depth
        Median counts of a training cell over `genes`; 1 without counts.
    like_counts
        Whether the training matrix looked like counts; a query must look the same.
    mean, scale
        float32 (genes,): a network sees ``(x - mean) / scale``.
    components
        float32 (components, genes): principal axes of the scaled training cells.
    """

    genes: list[str]
    counts: bool
    depth: float
    like_counts: bool
    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray

    def normalise(self, x: Matrix) -> Matrix:
        """Return float32 rows, counts normalised and logged; sparse stays sparse and becomes CSR."""
        return normalise(x, self.depth) if self.counts else _float32(x)

    def standardise(self, rows: np.ndarray) -> np.ndarray:
        """Scale dense normalised rows."""
        return (rows - self.mean) / self.scale


def normalise(x: Matrix, depth: float) -> Matrix:
    """Scale every cell to `depth` counts and take log(1 + x); a cell without counts stays 0."""
    x = _float32(x)
    total = np.asarray(x.sum(axis=1), dtype=np.float64).ravel()
    factor = (depth / np.where(total > 0, total, 1)).astype(np.float32)
    if not sp.issparse(x):
        return np.log1p(x * factor[:, None])
    scaled = x.copy()
    scaled.data *= np.repeat(factor, np.diff(x.indptr))
    np.log1p(scaled.data, out=scaled.data)
    return scaled


def median_depth(x: Matrix) -> float:
    """Return the median counts of the cells that have any."""
    total = np.asarray(x.sum(axis=1), dtype=np.float64).ravel()
    return float(np.median(total[total > 0])) if (total > 0).any() else 1.0


def looks_like_counts(x: Matrix) -> bool:
    """Tell counts, of molecules or (non-integer) of reads, from log-transformed values and protein intensities.

    Counts are non-negative and either whole, or larger than any log-transformed value and spread over 100 genes or
    more. Whole values of a short panel without zeros are intensities (the channels of a cytometer).
    """
    values = stored(x)
    if not len(values):
        return True  # no value at all contradicts nothing
    if values.min() < 0:
        return False
    wide = x.shape[1] >= PANEL
    if np.array_equal(values, np.round(values)):
        return wide or bool(np.count_nonzero(values) < 0.9 * x.shape[0] * x.shape[1])
    return wide and bool(values.max() > 30)  # log1p of 1e13


def fit(x: Matrix, genes: list[str], counts: bool, seed: int) -> Features:
    """Fit normalisation, scaling and principal components on training rows.

    Parameters
    ----------
    x
        Training cells by the chosen genes, as they are in AnnData.
    genes
        Their names.
    counts
        Whether to normalise and log-transform.
    seed
        For the solver of the principal components.
    """
    like_counts = looks_like_counts(x)
    depth = median_depth(x) if counts else 1.0
    x = normalise(x, depth) if counts else _float32(x)
    mean, variance = mean_and_variance(x)
    deviation = np.sqrt(variance)
    if x.shape[1] < PANEL:
        scale = np.where(deviation > 0, deviation, 1)
    else:
        # one scale for all genes: how much a logged gene varies is signal, and a quiet one is mostly noise
        scale = np.full(len(deviation), np.sqrt(variance.mean()) or 1)
    # in float64, so that sparse and dense give the same axes where two components are nearly as strong as each other
    scaled = x.multiply(1 / scale).tocsr() if sp.issparse(x) else x / scale
    if x.shape[1] < PANEL or min(x.shape) <= N_COMPONENTS:
        scaled, solver, most = (scaled.toarray() if sp.issparse(x) else scaled), "full", min(x.shape)
    else:
        solver, most = "arpack", min(x.shape) - 1
    axes = PCA(min(N_COMPONENTS, most), svd_solver=solver, random_state=seed).fit(scaled).components_
    return Features(
        genes=genes,
        counts=counts,
        depth=depth,
        like_counts=like_counts,
        mean=mean.astype(np.float32),
        scale=scale.astype(np.float32),
        components=axes.astype(np.float32),
    )


def mean_and_variance(x: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return the float64 mean and variance of every column."""
    if sp.issparse(x):
        mean, variance = mean_variance_axis(x.astype(np.float64), axis=0)
    else:
        mean, variance = x.mean(axis=0, dtype=np.float64), x.var(axis=0, dtype=np.float64)
    return mean, np.maximum(variance, 0)


def stored(x: Matrix) -> np.ndarray:
    """Return the values that a matrix stores, as one row."""
    return x.data if sp.issparse(x) else np.ravel(x)


def _float32(x: Matrix) -> Matrix:
    return sp.csr_matrix(x, dtype=np.float32) if sp.issparse(x) else np.asarray(x, dtype=np.float32)

"""Gaps: values that were not measured, which are NaN in a matrix. They are unknown, not 0.

A panel of antibodies has a value for every cell, and mass spectrometry does not. Genes, scales and shares are computed
from measured values alone. Where whole rows are needed, the other values of the cell predict what is missing.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from tripletomics.sources import Matrix

BLOCK = 512  # cells whose equations are solved at once


def has_gaps(x: Matrix) -> bool:
    """Return whether a matrix has NaN."""
    values = x.data if sp.issparse(x) else x
    return values.dtype.kind == "f" and bool(np.isnan(values.min(initial=0)))  # one pass: the minimum keeps NaN


def are_gaps(x: Matrix) -> Matrix:
    """Return where the gaps are, float32 (cells, columns): 1 for a gap. It is sparse if the matrix is."""
    if not sp.issparse(x):
        return np.isnan(x).astype(np.float32)
    found = sp.csr_matrix((np.isnan(x.data).astype(np.float32), x.indices, x.indptr), shape=x.shape, copy=True)
    found.eliminate_zeros()
    return found


def fill(x: Matrix, values: np.ndarray | float) -> Matrix:
    """Return a matrix, dense or CSR, with its gaps filled by one value, or one for each column or each place.

    A matrix without gaps is returned as it is.
    """
    if not has_gaps(x):
        return x
    if not sp.issparse(x):
        return np.where(np.isnan(x), values, x).astype(x.dtype, copy=False)
    filled, at = x.copy(), np.flatnonzero(np.isnan(x.data))
    rows = np.searchsorted(x.indptr, at, "right") - 1
    filled.data[at] = np.broadcast_to(values, x.shape)[rows, x.indices[at]]
    return filled


def share_measured(x: Matrix) -> float:
    """Return the share of all values that were measured."""
    return 1 - float(are_gaps(x).sum(dtype=np.float64)) / (x.shape[0] * x.shape[1]) if has_gaps(x) else 1.0


def empty(x: Matrix, axis: int) -> np.ndarray:
    """Return which rows (axis 1) or columns (axis 0) have no measured value, boolean."""
    if not has_gaps(x):
        return np.zeros(x.shape[1 - axis], dtype=bool)
    return np.asarray(are_gaps(x).sum(axis=axis)).ravel() == x.shape[axis]


def stored(x: Matrix) -> np.ndarray:
    """Return the measured values that a matrix stores, as one row."""
    values = x.data if sp.issparse(x) else np.ravel(x)
    return values[~np.isnan(values)] if has_gaps(x) else values


def shares(x: Matrix) -> np.ndarray:
    """Return the share of an average cell's counts that each column holds, by measured values, float64 (columns,)."""
    total = np.asarray(fill(x, 0).sum(axis=0, dtype=np.float64)).ravel()
    if has_gaps(x):
        total /= np.maximum(x.shape[0] - np.asarray(are_gaps(x).sum(axis=0, dtype=np.float64)).ravel(), 1)
    return total / total.sum() if total.any() else np.full(len(total), 1 / len(total))


def share_of_counts(x: Matrix, shares: np.ndarray) -> np.ndarray:
    """Return the share of each cell's counts that its measured values hold, float64 (cells,)."""
    if not has_gaps(x):
        return np.ones(x.shape[0])
    return 1 - np.asarray(are_gaps(x) @ shares.astype(np.float64)).ravel() / shares.sum(dtype=np.float64)


def completion(present: np.ndarray, variance: np.ndarray, noise: float) -> np.ndarray:
    """Return the matrix that turns components of the present columns into the expected ones of all columns, float32.

    Parameters
    ----------
    present
        V, the components (components, present columns), orthonormal over all columns.
    variance, noise
        Variance along each component, and that of a column that they do not explain.

    Notes
    -----
    The posterior mean of the signal along the components is ``s = (VV' + noise / signal)^-1 part``, and the other
    columns add their expected part, ``(1 - VV') s``.

    References
    ----------
    Tipping & Bishop 1999, Probabilistic principal component analysis, J. R. Stat. Soc. B 61(3).
    """
    v = present.astype(np.float64)
    inner, one = v @ v.T, np.eye(len(v))
    root = np.sqrt(np.maximum(variance - noise, 0))  # symmetric, so that no signal is no division by 0
    solved = np.linalg.solve(root[:, None] * inner * root + noise * one, np.diag(root))
    return (one + (one - inner) @ (root[:, None] * solved)).astype(np.float32)


def complete(
    x: Matrix, missing: np.ndarray, mean: np.ndarray, components: np.ndarray, variance: np.ndarray, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the components of cells with gaps, and the rows of these cells with expected values in the gaps, float64.

    Parameters
    ----------
    x
        Cells by columns, dense or CSR, with NaN in the gaps.
    missing
        Boolean (columns,): columns that no cell has.
    mean, components
        What is subtracted from a row, and the components (components, columns), orthonormal.
    variance, noise
        As for `completion`, which is the same for cells that lack the same columns.
    """
    width, pairs = len(components), np.triu_indices(len(components))
    products = (components[pairs[0]] * components[pairs[1]]).astype(np.float32).T  # (columns, pairs)
    root = np.sqrt(np.maximum(variance - noise, 0).astype(np.float64))
    pcs, rows = np.empty((x.shape[0], width)), np.empty(x.shape)
    for i in range(0, x.shape[0], BLOCK):
        block = np.asarray(x[i : i + BLOCK].toarray() if sp.issparse(x) else x[i : i + BLOCK], dtype=np.float64)
        gaps = np.isnan(block) | missing
        part = np.where(gaps, 0, block - mean) @ components.T
        hidden = np.empty((len(block), width, width))
        hidden[:, pairs[0], pairs[1]] = hidden[:, pairs[1], pairs[0]] = gaps.astype(np.float32) @ products
        inner = root[:, None] * (np.eye(width) - hidden) * root + noise * np.eye(width)
        signal = root * np.linalg.solve(inner, (root * part)[:, :, None])[:, :, 0]
        pcs[i : i + BLOCK] = part + np.einsum("nij,nj->ni", hidden, signal)
        rows[i : i + BLOCK] = np.where(gaps, signal @ components + mean, block)
    return pcs, rows

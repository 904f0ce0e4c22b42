"""Rows of a matrix, dense or sparse: their normalisation, lengths, depth and columns."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from tripletomics import gaps
from tripletomics.sources import Matrix

TINY = 1e-9  # share of a cell's counts: so that a cell without measured values is not divided by 0


def normalise(x: Matrix, depth: float, shares: np.ndarray | None = None) -> Matrix:
    """Return cells scaled to `depth` counts, as log(1 + x); a cell without counts stays 0, and a gap a gap.

    The measured values of a cell with gaps are scaled to their part of the depth, by the `shares` of the counts that
    the columns usually hold: by default those of these cells.
    """
    x = float32(x)
    known = gaps.fill(x, 0)
    total = np.asarray(known.sum(axis=1), dtype=np.float64).ravel()
    if known is not x:
        total /= gaps.share_of_counts(x, gaps.shares(x) if shares is None else shares).clip(min=TINY)
    factor = (depth / np.where(total > 0, total, 1)).astype(np.float32)
    scaled = x.copy() if sp.issparse(x) else x * factor[:, None]
    if sp.issparse(x):
        scaled.data *= np.repeat(factor, np.diff(x.indptr))
    torch.from_numpy(scaled.data if sp.issparse(x) else scaled).log1p_()  # in place; numpy's takes eight times as long
    return scaled


def check_values(x: Matrix, counts: bool, given: str) -> None:
    """Raise a ValueError if cells, which are called `given`, hold infinite values, or counts below 0."""
    values = x.data if sp.issparse(x) else np.asarray(x)
    low, high = (float(pick.reduce(values, axis=None, initial=0)) for pick in (np.fmin, np.fmax))
    if np.isinf([low, high]).any():
        raise ValueError(f"{given} has infinite values: remove or replace them first.")
    if counts and low < 0:
        raise ValueError(f"{given} has values below 0 ({low:.3g}), but the model was trained on counts: pass counts.")


def norms(x: Matrix) -> np.ndarray:
    """Return the length of every row, float64 (cells,)."""
    squares = x.multiply(x).sum(axis=1) if sp.issparse(x) else np.square(x, dtype=np.float64).sum(axis=1)
    return np.sqrt(np.asarray(squares, dtype=np.float64)).ravel()


def spread_of(norms: np.ndarray) -> tuple[float, float]:
    """Return the median of some lengths, and the median difference from it as a share of it."""
    middle = float(np.median(norms)) if len(norms) else 0.0
    return middle, float(np.median(np.abs(norms / middle - 1))) if middle else 0.0


def median_depth(x: Matrix) -> float:
    """Return the median counts of the cells that have any, over all columns: gaps count as usual values."""
    total = np.asarray(gaps.fill(x, 0).sum(axis=1, dtype=np.float64)).ravel()
    if gaps.has_gaps(x):
        total /= gaps.share_of_counts(x, gaps.shares(x)).clip(min=TINY)
    return float(np.median(total[total > 0])) if (total > 0).any() else 1.0


def take(x: Matrix, columns: np.ndarray) -> Matrix:
    """Return columns of a matrix in the given order; column -1 is filled with zeros."""
    found = columns >= 0
    if np.array_equal(columns, np.arange(x.shape[1])) and (not sp.issparse(x) or x.format == "csr"):
        return x
    if not sp.issparse(x):
        out = np.zeros((x.shape[0], len(columns)), dtype=x.dtype)
        out[:, found] = x[:, columns[found]]
        return out
    chosen = sp.csr_matrix(x[:, columns[found]])
    chosen.sum_duplicates()  # once: columns in another order would be sorted in every minibatch
    if found.all():
        return chosen
    to = np.flatnonzero(found).astype(chosen.indices.dtype)
    return sp.csr_matrix((chosen.data, to[chosen.indices], chosen.indptr), shape=(x.shape[0], len(columns)))


def by_rows(x: Matrix) -> Matrix:
    """Return a sparse matrix as CSR, from which rows can be taken."""
    return x.tocsr() if sp.issparse(x) and x.format != "csr" else x


def float32(x: Matrix) -> Matrix:
    """Return float32 rows: CSR if less than half of the values differ from 0, else dense, whatever their format was.

    So equal matrices are summed in the same order. Even a tiny difference would change the map.
    """
    if sp.issparse(x) and not x.has_canonical_format:
        x = x.copy()  # scipy counts by summing duplicates in place
        x.sum_duplicates()
    stored = x.count_nonzero() if sp.issparse(x) else np.count_nonzero(x)
    if 2 * stored < x.shape[0] * x.shape[1]:
        x = sp.csr_matrix(x, dtype=np.float32)
        if x.nnz > stored:
            x = x.copy()
            x.eliminate_zeros()
        return x
    return np.asarray(x.toarray() if sp.issparse(x) else x, dtype=np.float32)

"""The gene contract: which genes in which order, and how their values become the numbers that a network sees.

Fitted on training rows and saved with the model, so that `transform` treats new cells the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.linalg import eigh
from sklearn.decomposition import PCA
from sklearn.utils.sparsefuncs import mean_variance_axis
from threadpoolctl import threadpool_limits

from tripletomics.sources import Matrix, Memory

N_COMPONENTS = 50
PANEL = 100  # fewer features than this are a panel of proteins, each on a scale of its own
DEPTH = 1e4  # counts of a cell over all its genes, after normalisation
LOGGED = 30  # log1p of 1e13: no logged value is above
CUT = 10  # standard deviations above the mean at which a value is cut
BLOCK = 8192  # cells that are projected at once
SUMMED = 2048  # cells whose products are added up in float32
TALL = 4  # cells a gene from which on components are those of the genes' covariance
QUIET = 1e-3  # least noise of a gene of unit variance: a panel's components leave none, and nothing could be solved


@dataclass(frozen=True)
class Choice:
    """Which genes of a table a model takes.

    Attributes
    ----------
    columns
        Numbers of the columns; those that the encoder sees come first.
    n_seen
        How many the encoder sees.
    dispersed
        Boolean (columns,): the genes of the principal components.
    share
        Median share of a training cell's counts that these genes hold.
    """

    columns: np.ndarray
    n_seen: int
    dispersed: np.ndarray
    share: float

    @classmethod
    def every(cls, columns: np.ndarray, share: float = 1.0) -> Choice:
        """Take the columns for everything."""
        return cls(columns, len(columns), np.ones(len(columns), dtype=bool), share)


@dataclass(frozen=True)
class Features:
    """Genes, normalisation, scaling and principal components of the training cells.

    Attributes
    ----------
    genes
        Names in the model's order.
    n_seen
        The encoder sees so many of the genes, the first ones.
    counts
        Whether values are counts, which are scaled to a depth and log-transformed.
    like_counts, negative
        Whether the training matrix looked like counts, and had negative values; a query must look the same.
    depth, mean, scale
        For the encoder: the median counts of a training cell over `genes` (1 without counts), and what its rows are
        scaled by, float32 (n_seen,): it sees ``(x - mean) / scale``.
    shares
        Share of the training cells' counts that each gene holds, float32 (genes,); equal without counts.
    usual_depth, cap, axes, offset
        For the principal components, which are scanpy's: counts of a cell over `genes` that are 10,000 over all genes
        of the table; where larger values are cut, float32 (genes,), 10 standard deviations above the mean; and what
        takes the cut rows to their components, float32 (components, genes) and (components,).
    center, unit, variance, noise
        For components of cells whose genes are partly unknown: mean of the cut rows and what scales them to unit
        variance, float32 (genes,); on that scale the variance along each component, float32 (components,), and the mean
        variance that a gene has beside them.

    Notes
    -----
    The methods take `present`, boolean (genes,), None for all. The values of the other genes are ignored, for they are
    *unknown*, not 0: the encoder sees their training means, as when a mask hides them in training, and counts are
    scaled to the depth that the present genes have in the training cells.
    """

    genes: list[str]
    n_seen: int
    counts: bool
    like_counts: bool
    negative: bool
    depth: float
    mean: np.ndarray
    scale: np.ndarray
    shares: np.ndarray
    usual_depth: float
    cap: np.ndarray
    axes: np.ndarray
    offset: np.ndarray
    center: np.ndarray
    unit: np.ndarray
    variance: np.ndarray
    noise: float

    @property
    def width(self) -> int:
        """Principal components."""
        return len(self.axes)

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation of the genes that the encoder sees (n_seen,), at the depth of the components."""
        return np.maximum(self.cap - self.center, 0)[: self.n_seen] / CUT

    def source(self, x: Matrix, present: np.ndarray | None = None) -> Memory:
        """Return what the encoder sees of cells, row by row."""
        return Memory(_by_rows(x), self, present)

    def normalise(self, x: Matrix, present: np.ndarray | None = None) -> Matrix:
        """Return float32 rows of the genes that the encoder sees, counts logged; sparse stays sparse."""
        return self._log(x, self.depth, present)[:, : self.n_seen]

    def standardise(self, rows: np.ndarray, present: np.ndarray | None = None) -> np.ndarray:
        """Scale dense normalised rows."""
        shift, factor = torch.from_numpy(-self.mean / self.scale), torch.from_numpy(1 / self.scale)
        scaled = torch.addcmul(shift, torch.from_numpy(rows), factor).numpy()  # in one pass
        if present is not None:
            scaled[:, ~present[: self.n_seen]] = 0
        return scaled

    def project(self, x: Matrix, present: np.ndarray | None = None) -> np.ndarray:
        """Return principal components, float32 (cells, components): of partly unknown cells those to be expected.

        References
        ----------
        They follow from the posterior mean of probabilistic principal component analysis with missing values: Tipping
        & Bishop 1999, Probabilistic principal component analysis, J. R. Stat. Soc. B 61(3).
        """
        axes, offset = self.axes.T, self.offset
        if present is not None and not present.all():
            whole = self._completion(present).T
            axes = np.where(present, self.axes, 0).T @ whole
            offset = self.center @ axes
        scores, x = np.empty((x.shape[0], self.width), dtype=np.float32), _by_rows(x)
        for i in range(0, len(scores), BLOCK):
            rows = cut(self._log(x[i : i + BLOCK], self.usual_depth, present), self.cap)
            scores[i : i + BLOCK] = rows @ axes - offset
        return scores

    def _log(self, x: Matrix, depth: float, present: np.ndarray | None) -> Matrix:
        """Return float32 rows of all genes, counts scaled to the depth and logged."""
        if present is not None and not present.all():
            x = take(_by_rows(x), np.where(present, np.arange(len(present)), -1))
            depth *= float(self.shares[present].sum())  # the full depth would inflate the genes that are there
        return normalise(x, depth) if self.counts else _float32(x)

    def _completion(self, present: np.ndarray) -> np.ndarray:
        """Return what takes the present genes' part of the components to the whole to be expected.

        With V the present genes' rows of the components, the posterior mean of the signal along the components is
        ``s = (VV' + noise / signal)^-1 part``, and the unknown genes add their expected part, ``(1 - VV') s``.
        """
        v = (self.axes * self.unit)[:, present].astype(np.float64)
        inner, one = v @ v.T, np.eye(len(v))
        root = np.sqrt(np.maximum(self.variance - self.noise, 0))  # symmetric, so that no signal is no division by 0
        solved = np.linalg.solve(root[:, None] * inner * root + self.noise * one, np.diag(root))
        return (one + (one - inner) @ (root[:, None] * solved)).astype(np.float32)


def normalise(x: Matrix, depth: float) -> Matrix:
    """Scale every cell to `depth` counts and take log(1 + x); a cell without counts stays 0."""
    x = _float32(x)
    total = np.asarray(x.sum(axis=1), dtype=np.float64).ravel()
    factor = (depth / np.where(total > 0, total, 1)).astype(np.float32)
    scaled = x.copy() if sp.issparse(x) else x * factor[:, None]
    if sp.issparse(x):
        scaled.data *= np.repeat(factor, np.diff(x.indptr))
    torch.from_numpy(scaled.data if sp.issparse(x) else scaled).log1p_()  # in place; numpy's takes eight times as long
    return scaled


def median_depth(x: Matrix) -> float:
    """Return the median counts of the cells that have any."""
    total = np.asarray(x.sum(axis=1), dtype=np.float64).ravel()
    return float(np.median(total[total > 0])) if (total > 0).any() else 1.0


def cut(x: Matrix, cap: np.ndarray) -> Matrix:
    """Lower the values of every column that are above its cap; of a sparse matrix the stored ones."""
    if not sp.issparse(x):
        return np.minimum(x, cap)
    lowered = x.copy()
    np.minimum(lowered.data, cap[lowered.indices], out=lowered.data)
    return lowered


def take(x: Matrix, columns: np.ndarray) -> Matrix:
    """Take columns of a matrix in the given order; column -1 is filled with zeros."""
    found = columns >= 0
    if np.array_equal(columns, np.arange(x.shape[1])) and (not sp.issparse(x) or x.format == "csr"):
        return x
    if not sp.issparse(x):
        out = np.zeros((x.shape[0], len(columns)), dtype=x.dtype)
        out[:, found] = x[:, columns[found]]
        return out
    chosen = sp.csr_matrix(x[:, columns[found]])
    if found.all():
        return chosen
    places = np.flatnonzero(found).astype(chosen.indices.dtype)
    return sp.csr_matrix((chosen.data, places[chosen.indices], chosen.indptr), shape=(x.shape[0], len(columns)))


def looks_like_counts(x: Matrix, width: int | None = None) -> bool:
    """Tell counts, of molecules or (non-integer) of reads, from log-transformed values and protein intensities.

    Counts are non-negative and either whole, or larger than any log-transformed value and spread over 100 genes or
    more. Whole values of a short panel without zeros are intensities (the channels of a cytometer). `width` is the
    number of features that were measured, where `x` has a part of them.
    """
    values = stored(x)
    if not len(values):
        return True  # no value at all contradicts nothing
    if values.min() < 0:
        return False
    wide = (x.shape[1] if width is None else width) >= PANEL
    if whole(values):
        return wide or bool(np.count_nonzero(values) < 0.9 * x.shape[0] * x.shape[1])
    return wide and bool(values.max() > LOGGED)


def whole(values: np.ndarray) -> bool:
    """Tell whether all values are whole numbers."""
    blocks = np.array_split(values, len(values) // 2**20 + 1)
    return all(np.array_equal(block, np.round(block)) for block in blocks)


def fit(x: Matrix, genes: list[str], counts: bool, seed: int, choice: Choice | None = None) -> Features:
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
    choice
        What the genes are for; by default all of them for everything.

    References
    ----------
    The principal components are those of the usual pipeline (dispersed genes, unit variance, cut at 10 standard
    deviations): Satija, Farrell, Gennert, Schier & Regev 2015; Wolf, Angerer & Theis 2018.
    """
    choice = Choice.every(np.arange(x.shape[1])) if choice is None else choice
    like_counts = looks_like_counts(x)
    x = _float32(x)
    depth, usual_depth = (median_depth(x), DEPTH * choice.share) if counts else (1.0, 1.0)
    seen = (normalise(x, depth) if counts else x)[:, : choice.n_seen]
    mean, variance = mean_and_variance(seen)
    if x.shape[1] < PANEL:
        scale = np.where(variance > 0, np.sqrt(variance), 1)
    else:
        # one scale for all genes: how much a logged gene varies is signal, and a quiet one is mostly noise
        scale = np.full(len(variance), np.sqrt(variance.mean()) or 1)
    return Features(
        genes=genes,
        n_seen=choice.n_seen,
        counts=counts,
        like_counts=like_counts,
        negative=bool(stored(x).min(initial=0) < 0),
        depth=depth,
        mean=mean.astype(np.float32),
        scale=scale.astype(np.float32),
        shares=_shares(x, counts),
        usual_depth=usual_depth,
        **_principal(normalise(x, usual_depth) if counts else x, choice.dispersed, seed),
    )


def _shares(x: Matrix, counts: bool) -> np.ndarray:
    total = np.asarray(x.sum(axis=0, dtype=np.float64)).ravel() if counts else np.ones(x.shape[1])
    total = total if total.any() else np.ones(x.shape[1])
    return (total / total.sum()).astype(np.float32)


def _principal(x: Matrix, dispersed: np.ndarray, seed: int) -> dict[str, Any]:
    """Fit principal components of the dispersed genes with unit variance, for rows of all genes."""
    center, variance = mean_and_variance(x)
    cap = (center + CUT * np.sqrt(variance)).astype(np.float32)
    columns = np.flatnonzero(dispersed)
    units = np.where(variance > 0, np.sqrt(variance), 1)
    unit = units[columns]
    # in float64, so that sparse and dense give the same axes where two components are nearly as strong as each other
    x = cut(x, cap)[:, columns]
    x = x.multiply(1 / unit).tocsr() if sp.issparse(x) else x / unit
    total = mean_and_variance(x)[1].sum()
    if x.shape[1] >= PANEL and x.shape[0] >= TALL * x.shape[1]:
        components, mean, strength = _by_covariance(x)
        scores = x @ components.T - components @ mean
    else:
        if x.shape[1] < PANEL or min(x.shape) <= N_COMPONENTS:
            x, solver, most = (x.toarray() if sp.issparse(x) else x), "full", min(x.shape)
        else:
            solver, most = "arpack", min(x.shape) - 1
        pca = PCA(min(N_COMPONENTS, most), svd_solver=solver, random_state=seed)
        scores = pca.fit_transform(x)
        components, mean, strength = pca.components_, pca.mean_, pca.singular_values_**2 / x.shape[0]
    # an axis has no direction of its own: its long tail points up, so that a map of other cells is no mirror image
    components = components * np.where((scores**3).sum(axis=0) < 0, -1, 1)[:, None]
    axes = np.zeros((len(components), len(dispersed)), dtype=np.float32)
    axes[:, columns] = components / unit
    center = np.zeros(len(dispersed), dtype=np.float32)
    center[columns] = mean * unit
    rest = (total - strength.sum()) / max(len(columns) - len(axes), 1)
    return {
        "cap": cap,
        "axes": axes,
        "offset": (components @ mean).astype(np.float32),
        "center": center,
        "unit": units.astype(np.float32),
        "variance": strength.astype(np.float32),
        "noise": max(float(rest), QUIET),
    }


def _by_covariance(x: Matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return principal components (components, columns), means and variances along the components of a tall matrix.

    The columns have unit variance. Two to three times as fast as a solver that sweeps over all rows once an iteration.
    """
    n, width = x.shape
    mean, covariance = np.asarray(x.mean(axis=0), dtype=np.float64).ravel(), np.zeros((width, width))
    x, room = x.astype(np.float32), np.empty((min(n, SUMMED), width), dtype=np.float32)
    for i in range(0, n, SUMMED):
        some = x[i : i + SUMMED]
        rows = some.toarray(out=room[: some.shape[0]]) if sp.issparse(x) else some.copy()
        rows -= mean.astype(np.float32)
        covariance += rows.T @ rows
    covariance /= n
    with threadpool_limits(1, "blas"):  # a second thread gains 0.3 s, and can lose 5 where others are at work
        variance, axes = eigh(covariance.T, overwrite_a=True, subset_by_index=(width - N_COMPONENTS, width - 1))
    return axes.T[::-1], mean, np.maximum(variance[::-1], 0)


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


def _by_rows(x: Matrix) -> Matrix:
    """Return a sparse matrix of another format as CSR, of which rows can be taken."""
    return x.tocsr() if sp.issparse(x) and x.format != "csr" else x


def _float32(x: Matrix) -> Matrix:
    """Return float32 rows: CSR if less than half of the values differ from 0, else dense, however they came.

    So equal tables take the same sums in the same order: a map of neighbours carries the least difference far.
    """
    stored = x.count_nonzero() if sp.issparse(x) else np.count_nonzero(x)
    if 2 * stored < x.shape[0] * x.shape[1]:
        x = sp.csr_matrix(x, dtype=np.float32)
        if not x.has_canonical_format or x.nnz > stored:
            x = x.copy()
            x.sum_duplicates()
            x.eliminate_zeros()
        return x
    return np.asarray(x.toarray() if sp.issparse(x) else x, dtype=np.float32)

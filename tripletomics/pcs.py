"""Principal components of training cells, and the coordinates that a training cell would have if it were new.

Components also fit the noise of the training cells. So a training cell lies further out along them than a new cell of
the same type: with 2,000 cells and genes, twice as far along the weaker ones. `fit` finds out how much, from components
that did not see the cell (cross-fitting), and `Features.pcs` corrects it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from scipy.linalg import eigh, qr
from sklearn.decomposition import PCA
from sklearn.utils.sparsefuncs import mean_variance_axis
from threadpoolctl import threadpool_limits

from tripletomics import gaps
from tripletomics.sources import Matrix

N_COMPONENTS = 50
PANEL = 100  # fewer features than this are a panel of proteins, each on a scale of its own
CUT = 10  # standard deviations above the mean at which a value is cut
SUMMED = 2048  # cells whose products are made at once
TALL = 4  # cells per gene: with more, the components of a sparse matrix come from the products of its genes
MIN_NOISE = 1e-3  # of a gene of unit variance: a panel's components leave none, and nothing could be solved
FOLDS = 5  # each is left out of the components once
LEAST = 25  # cells: fewer are not cross-fitted
FARTHEST = 9.0  # variances, which are three standard deviations: the regression knows few cells beyond
ROUNDING = 1e-5  # of the largest variance along a component: less is rounding, such as where cells are copies
SWEEPS, SPARE = 6, 20  # of the randomised solver: sweeps, and components beyond those that are wanted

Times = Callable[[np.ndarray], np.ndarray]  # columns (columns, k) times a matrix (columns, columns)


class Products(NamedTuple):
    """Sums and products of the genes over the cells of each fold, from which those of all others follow.

    Attributes
    ----------
    sums, products
        Of cells less the mean of all, float32 (folds, columns) and (folds, columns, columns).
    """

    sums: np.ndarray
    products: np.ndarray


def fit(x: Matrix, dispersed: np.ndarray, seed: int, *, scaled: bool = True) -> dict[str, Any]:
    """Fit principal components of the dispersed genes with unit variance.

    Parameters
    ----------
    x
        Normalised training cells by all genes, float32, dense or CSR.
    dispersed
        Boolean (genes,).
    seed
        Seed of the solver and the folds.
    scaled
        False for an embedding: its values are neither cut nor brought to unit variance, and up to 50 dimensions are
        only rotated, which fits nothing to the cells.

    Returns
    -------
    The fields of `features.Features` from ``cap`` on.
    """
    center, variance = mean_and_variance(x)
    cap = (center + CUT * np.sqrt(variance)).astype(np.float32)
    columns = np.flatnonzero(dispersed)
    units = np.where(variance > 0, np.sqrt(variance), 1) if scaled else np.ones_like(variance)
    unit = units[columns]
    # in float64, so that sparse and dense give the same axes where two components are nearly as strong as each other
    x = (cut(x, cap) if scaled else x)[:, columns]
    x = x.multiply(1 / unit).tocsr() if sp.issparse(x) else x / unit
    share = gaps.share_measured(x)
    x = _expected_gaps(x, seed) if share < 1 else x
    components, mean, strength, products = leading(x, seed)
    pcs = np.asarray(x @ components.T) - components @ mean
    # an axis has no direction of its own: its long tail points up, so that maps of other cells are not mirrored
    sign = np.where((pcs**3).sum(axis=0) < 0, -1, 1)
    components, pcs = components * sign[:, None], pcs * sign
    axes = np.zeros((len(components), len(dispersed)), dtype=np.float32)
    axes[:, columns] = components / unit
    center = np.zeros(len(dispersed), dtype=np.float32)
    center[columns] = mean * unit
    rest = _unexplained(x, strength) / share  # predicted values have no noise
    usual = 1.0 if scaled else float(mean_and_variance(x)[1].mean())  # variance of a column
    with threadpool_limits(1, "blas"):  # small steps of 1 ms; two threads can take 200 where others are at work
        shrink, residual = _unshrunk(len(axes)), 0.0
        if len(pcs) >= LEAST and (scaled or len(columns) > N_COMPONENTS):
            unseen = crossfitted(x, components, mean, seed, products)
            shrink, residual = _shrinkage(x, mean, pcs, unseen, usual)
    return {
        "cap": cap,
        "axes": axes,
        "offset": (components @ mean).astype(np.float32),
        "center": center,
        "unit": units.astype(np.float32),
        "variance": strength.astype(np.float32),
        "noise": max(rest, MIN_NOISE * usual),
        "shrink": shrink.astype(np.float32),
        "residual": residual,
    }


def leading(x: Matrix, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Products | None]:
    """Return up to 50 components (components, columns) of float64 cells, the columns' means, and the variances.

    Also the products of a tall matrix, for `crossfitted`; None for others.
    """
    if x.shape[1] >= PANEL and x.shape[0] >= (TALL if sp.issparse(x) else 1) * x.shape[1]:
        return _by_covariance(x, seed)
    if x.shape[1] < PANEL or min(x.shape) <= N_COMPONENTS or not mean_and_variance(x)[1].sum():
        # arpack fails if all cells are equal
        x, solver, most = (x.toarray() if sp.issparse(x) else x), "full", min(x.shape)
    else:
        solver, most = "arpack", min(x.shape) - 1
    pca = PCA(min(N_COMPONENTS, most), svd_solver=solver, random_state=seed).fit(x)
    return pca.components_, pca.mean_, pca.singular_values_**2 / x.shape[0], None


def _expected_gaps(x: Matrix, seed: int) -> Matrix:
    """Return float64 cells with values in their gaps: what the components of measured values predict of them.

    These are fitted once, with gaps at the mean of their column. More rounds only make the gaps follow the noise.

    References
    ----------
    Regularised iterative principal component analysis: Josse & Husson 2012, Handling missing values in exploratory
    multivariate data analysis methods, J. Soc. Fr. Stat. 153(2).
    """
    filled = gaps.fill(x, mean_and_variance(x)[0])
    components, mean, strength, _ = leading(filled, seed)
    noise = _unexplained(filled, strength) / gaps.share_measured(x)
    nothing = np.zeros(x.shape[1], dtype=bool)
    return gaps.fill(x, gaps.complete(x, nothing, mean, components, strength, max(noise, MIN_NOISE))[1])


def _unexplained(x: Matrix, strength: np.ndarray) -> float:
    """Return the mean variance of a column that components do not explain; `strength` is what they do."""
    rest = mean_and_variance(x)[1].sum() - strength.sum()
    return float(rest / max(x.shape[1] - len(strength), 1))


def factors(shrink: np.ndarray, pcs: np.ndarray, variance: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Return what the components of cells that they were fitted on are multiplied by: (cells, components).

    Parameters
    ----------
    shrink
        Coefficients (3, components) of 1 and of the two arguments that follow.
    pcs, variance
        The components (cells, components), whose squares count in units of their variance (components,), up to 9.
    outside
        Squared distance (cells,) of each cell to the space of the components, in units of the training cells' mean.

    Notes
    -----
    To first order, leaving out a cell with the coordinate s along a component of variance v multiplies s by one minus a
    multiple of the cell's squared distance to the space of all components, and changes v by a multiple of s². The
    multiples are the same for all cells, so a regression on cross-fitted coordinates finds them, free of the noise that
    the folds' own components have.
    """
    return shrink[0] + shrink[1] * outside[:, None] + shrink[2] * _own(pcs, variance)


def _own(pcs: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return squares in units of the variance, up to 9: the regression has few cells that lie further out."""
    own = np.square(pcs) / np.where(variance > ROUNDING * variance.max(), variance, np.inf)
    return np.minimum(own, FARTHEST)


def _unshrunk(n: int) -> np.ndarray:
    """Return the coefficients of `factors` that leave n components as they are."""
    return np.array([[1.0], [0.0], [0.0]]).repeat(n, axis=1)


def _shrinkage(
    x: Matrix, mean: np.ndarray, pcs: np.ndarray, unseen: np.ndarray, usual: float
) -> tuple[np.ndarray, float]:
    """Fit the coefficients of `factors`, and return the mean squared distance to the space of the components, too.

    `unseen` are the components `pcs` as `crossfitted` returns them, and `usual` is the variance of a column of `x`.
    """
    shrink = _unshrunk(pcs.shape[1])
    squares = x.multiply(x).sum(axis=1) if sp.issparse(x) else np.square(x).sum(axis=1)
    outside = np.asarray(squares, dtype=np.float64).ravel() - 2 * (x @ mean) + mean @ mean - np.square(pcs).sum(axis=1)
    residual = float(outside.mean())
    # if all components of a panel are taken, only rounding is left
    residual = residual if residual > 1e-6 * x.shape[1] * usual else 0.0
    outside = np.maximum(outside, 0) / residual if residual else np.zeros(len(pcs))
    variance = pcs.var(axis=0)
    own = _own(pcs, variance)
    for k in np.flatnonzero(variance > ROUNDING * variance.max()):
        terms = pcs[:, [k]] * np.stack([np.ones(len(pcs)), outside, own[:, k]], axis=1)
        weights = np.linalg.lstsq(terms, unseen[:, k], rcond=None)[0]
        # a regression shrinks to 0 where the folds are noisy; new cells spread as the cross-fitted ones do
        spread = (terms @ weights).std()
        shrink[:, k] = weights * (unseen[:, k].std() / spread if spread > 0 else 1)
    return shrink, residual


def crossfitted(
    x: Matrix, components: np.ndarray, mean: np.ndarray, seed: int, products: Products | None = None
) -> np.ndarray:
    """Return principal components of cells by axes that were fitted without them: float32 (cells, components).

    Each of five folds is left out in turn. The axes of the others are rotated and reflected to be as near as
    possible to `components` (components, genes). These, `mean` and `products` come from `leading`.

    References
    ----------
    That components of new cells shrink: Lee, Zou & Wright 2010, Ann. Stat. 38(6). Rotation: Schönemann 1966.
    """
    folds = _folds(x.shape[0], seed)
    out = np.empty((len(folds), len(components)), dtype=np.float32)
    if products is not None:
        axes_without = _by_products(products, folds, len(components), seed)
    else:
        rows, by = x.astype(np.float32), _by_cells if x.shape[0] < x.shape[1] else _by_genes
        axes_without = (by(rows[folds != fold], len(components), seed) for fold in range(FOLDS))
    for fold, axes in enumerate(axes_without):
        u, _, v = np.linalg.svd(axes.T @ components.T, full_matrices=False)
        turned = axes @ (u @ v)
        out[folds == fold] = np.asarray(x[folds == fold] @ turned) - mean @ turned
    return out


def _folds(n: int, seed: int) -> np.ndarray:
    """Return the fold of each cell, 0 to 4 (cells,)."""
    return np.random.default_rng([seed, 7]).permutation(np.arange(n) % FOLDS)


def _by_products(all_of: Products, folds: np.ndarray, most: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the axes (columns, most) without each fold in turn, from the products of genes, which it overwrites."""
    total, whole = all_of.sums.sum(axis=0), all_of.products.sum(axis=0)
    for fold, (own_sum, own) in enumerate(zip(*all_of, strict=True)):
        n = int((folds != fold).sum())  # numpy's integers would make all float64
        middle, others = (total - own_sum) / n, np.subtract(whole, own, out=own)
        yield _leading(functools.partial(_times_products, others, middle, n), len(middle), min(most, n - 1), seed)


def _times_products(products: np.ndarray, middle: np.ndarray, n: int, q: np.ndarray) -> np.ndarray:
    return products @ q / n - np.outer(middle, middle @ q)


def _by_genes(rows: Matrix, most: int, seed: int) -> np.ndarray:
    """Return the axes (columns, most) of few or sparse cells, from the products of genes, which stay implicit."""
    middle = np.asarray(rows.mean(axis=0), dtype=np.float32).ravel()

    def times(q: np.ndarray) -> np.ndarray:
        centred = rows @ q - middle @ q  # each column adds up to 0, so that the rows need not be centred again
        return np.asarray(rows.T @ centred / rows.shape[0])

    return _leading(times, rows.shape[1], min(most, rows.shape[0] - 1), seed)


def _by_cells(rows: Matrix, most: int, seed: int) -> np.ndarray:
    """Return the axes (columns, most) of fewer cells than columns, from the products of cells, which stay implicit."""
    middle = np.asarray(rows.mean(axis=0), dtype=np.float32).ravel()

    def back(q: np.ndarray) -> np.ndarray:
        return np.asarray(rows.T @ q - np.outer(middle, q.sum(axis=0)))

    def times(q: np.ndarray) -> np.ndarray:
        genes = back(q)
        return np.asarray(rows @ genes - middle @ genes)

    axes = back(_leading(times, rows.shape[0], min(most, rows.shape[0] - 1), seed))
    return axes / np.linalg.norm(axes, axis=0)


def _leading(times: Times, width: int, most: int, seed: int) -> np.ndarray:
    """Return the leading eigenvectors (width, most) of a matrix without negative eigenvalues, the largest first.

    There are fewer where the matrix has fewer eigenvalues above rounding: the axes of the others would mean nothing.

    By subspace iteration from a random start, which does not know the cells that were left out. Late components are as
    near to noise as each other, and more sweeps would only separate noise. `times` multiplies columns by the matrix.

    References
    ----------
    Halko, Martinsson & Tropp 2011, Finding structure with randomness, SIAM Rev. 53(2).
    """
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(width, min(most + SPARE, width), generator=generator).numpy()
    for _ in range(SWEEPS):
        q = qr(times(q), mode="economic")[0]
    strength, u = np.linalg.eigh(q.T @ times(q))
    return (q @ u[:, strength > ROUNDING * strength[-1]])[:, -most:][:, ::-1]


def _by_covariance(x: Matrix, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Products]:
    """Return principal components (components, columns), means and variances along the components of a tall matrix.

    The columns have unit variance. Two to three times as fast as a solver that goes over all rows in each iteration.
    """
    n, width = x.shape
    mean, covariance = np.asarray(x.mean(axis=0), dtype=np.float64).ravel(), np.zeros((width, width))
    x, room, folds = x.astype(np.float32), np.empty((min(n, SUMMED), width), dtype=np.float32), _folds(n, seed)
    found = Products(*(np.zeros((FOLDS, *shape), dtype=np.float32) for shape in ((width,), (width, width))))
    for fold in range(FOLDS):
        cells = np.flatnonzero(folds == fold)
        for i in range(0, len(cells), SUMMED):
            block = x[cells[i : i + SUMMED]]
            rows = block.toarray(out=room[: block.shape[0]]) if sp.issparse(x) else block
            rows -= mean.astype(np.float32)
            found.products[fold] += rows.T @ rows
            found.sums[fold] += rows.sum(axis=0)
        covariance += found.products[fold]
    covariance /= n
    with threadpool_limits(1, "blas"):  # a second thread gains 0.3 s, and can lose 5 where others are at work
        variance, axes = eigh(covariance.T, overwrite_a=True, subset_by_index=(width - N_COMPONENTS, width - 1))
    return axes.T[::-1], mean, np.maximum(variance[::-1], 0), found


def cut(x: Matrix, cap: np.ndarray) -> Matrix:
    """Lower the values of every column that are above its cap; of a sparse matrix the stored ones."""
    if not sp.issparse(x):
        return np.minimum(x, cap)
    lowered = x.copy()
    np.minimum(lowered.data, cap[lowered.indices], out=lowered.data)
    return lowered


def mean_and_variance(x: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return the float64 mean and variance of the measured values of every column, 0 if there are none."""
    if sp.issparse(x):
        mean, variance = mean_variance_axis(x.astype(np.float64), axis=0)
    elif gaps.has_gaps(x):
        gap, n = np.isnan(x), np.maximum((x == x).sum(axis=0), 1)
        mean = np.where(gap, 0, x).sum(axis=0, dtype=np.float64) / n
        variance = np.where(gap, 0, np.square(x - mean)).sum(axis=0, dtype=np.float64) / n
    else:
        mean, variance = x.mean(axis=0, dtype=np.float64), x.var(axis=0, dtype=np.float64)
    return np.nan_to_num(mean), np.maximum(np.nan_to_num(variance), 0)

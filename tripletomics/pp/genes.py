"""The choice of a model's genes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from tripletomics import devices, features, gaps, scales
from tripletomics.labels import flags, names
from tripletomics.notices import warn
from tripletomics.pcs import PANEL, mean_and_variance
from tripletomics.sources import Matrix

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

N_GENES = 2000
SAME, SAME_CENTRED = 0.05, 0.3  # how far the quartiles of variances are from 1 after scaling; of centred values
CENTRED = 0.2  # usual mean of a gene after scaling, in a part of the cells that were scaled
FAINT = 1e-30  # smallest standard deviation that float32 can divide by
EQUAL = 1e-6  # standard deviation relative to the mean, below which it is rounding
FIRST = 500  # cells that are looked at first: in nearly all datasets they differ


def choose_genes(adata: AnnData, x: Matrix, train: np.ndarray, counts: bool) -> features.Choice:
    """Choose the genes of a model from training rows only.

    These are the genes marked in ``var["highly_variable"]`` if any, else all if up to 2,000. Else the encoder sees the
    2,000 genes whose (normalised, logged) values vary most, and the principal components are those of the 2,000 most
    dispersed genes, scanpy's choice. Where values are neither counts nor logged, or some are missing, the former are
    used for both.

    Raises
    ------
    ValueError
        If there are more genes, none is marked, and all have the same variance, as after z-scoring.
    """
    rows = sp.csr_matrix(x)[train] if sp.issparse(x) else x[train]
    if "highly_variable" in adata.var:
        marked = np.flatnonzero(_marked(adata.var["highly_variable"]))
        if len(marked):
            return features.Choice.every(marked, _share(rows, marked, counts))
    if adata.n_vars <= N_GENES:
        return features.Choice.every(np.arange(adata.n_vars))
    logged = features.normalise(rows, features.DEPTH) if counts else rows
    mean, variance = mean_and_variance(logged)
    _check_ranks(mean, variance)
    holes = gaps.has_gaps(logged)
    if holes:  # a feature that few cells have says little about the others
        variance = variance * (1 - np.asarray(gaps.are_gaps(logged).mean(axis=0)).ravel())
    varying = np.zeros(adata.n_vars, dtype=bool)
    varying[np.argsort(-variance, kind="stable")[:N_GENES]] = True
    values = gaps.stored(logged)
    if values.min(initial=0) < 0 or values.max(initial=0) > scales.LOGGED or holes:
        return features.Choice.every(np.flatnonzero(varying))
    dispersed = _dispersed(logged)
    columns = np.flatnonzero(varying | dispersed)
    columns = columns[np.argsort(~varying[columns], kind="stable")]
    return features.Choice(columns, int(varying.sum()), dispersed[columns], _share(rows, columns, counts))


def _marked(values: pd.Series) -> np.ndarray:
    """Return which genes a column marks, boolean (genes,): by booleans, 0 and 1, or true and false as text."""
    found = flags(values)
    if found is None:
        found = names(values).map({"0": False, "1": True, "0.0": False, "1.0": True})
    if (found.isna() & values.notna()).any():
        given = ", ".join(map(repr, values.dropna().unique()[:3]))
        raise ValueError(
            f"var['highly_variable'] holds {given} ({values.dtype}), not True and False: convert it, or delete it "
            "to have the genes chosen."
        )
    return found.eq(True).to_numpy(dtype=bool)


def check_unscaled(adata: AnnData, x: Matrix, name: str, *, refuse: bool) -> None:
    """Raise if all genes were scaled to mean 0 and variance 1, or only warn.

    A panel of fewer than 100 features is scaled by the fit, and may come scaled.

    Parameters
    ----------
    adata, x
        The dataset, and its training cells by all genes, which are not counts.
    name
        Of the modality.
    refuse
        Whether nobody said what the values are.
    """
    if x.shape[1] < PANEL or gaps.stored(x).min(initial=0) >= 0:
        return
    mean, variance = mean_and_variance(x)
    if not _are_scaled(mean, variance):
        return
    what = "The genes have mean 0 and standard deviation 1, as after sc.pp.scale"
    why = "genes with low expression then count as much as markers, and new cells cannot be brought to this scale"
    raw = ", or pass adata.raw.to_adata()" if adata.raw is not None else ""
    cure = f"Name the layer with the values before scaling (layer=){raw}; in a pipeline, leave StandardScaler out"
    if not refuse:
        warn(f"{what}: {why}. If there are values before scaling, take those.")
        return
    whose = f" of modality {name!r}" if name else ""
    raise ValueError(
        f"{what}{whose}: {why}. {cure}. If they are intensities that exist only on this scale, pass counts=False."
    )


def _are_scaled(mean: np.ndarray, variance: np.ndarray) -> bool:
    """Return whether genes were scaled to unit variance, because half of them or more have nearly that."""
    varies = variance > 0
    if not varies.any():
        return False
    off = np.abs(np.quantile(variance[varies], [0.25, 0.75]) - 1).max()
    centred = np.median(np.abs(mean[varies])) < CENTRED
    return bool(off < SAME or (centred and off < SAME_CENTRED))


def check_variance(x: Matrix, train: np.ndarray, counts: bool, use_rep: str | None = None) -> None:
    """Raise unless one of the chosen genes or more varies among the training cells.

    Raises
    ------
    ValueError
        If all cells are equal (counts: after normalisation), or all values are close to 0.
    """
    what = ""
    cells = np.flatnonzero(train)
    for rows in (x[cells[:FIRST]], x[cells]):
        values = features.normalise(rows, features.DEPTH) if counts else rows.astype(np.float32)
        mean, variance = mean_and_variance(values)
        spread, large = np.sqrt(variance), EQUAL * np.abs(mean)
        if (spread > np.maximum(FAINT, large)).any():
            return
        most = np.abs(gaps.stored(rows)).max(initial=0)
        what = "all values are 0" if not most else f"all cells are equal{' after normalisation' * counts}"
        if most and ((spread > large).any() or most < FAINT):
            what = f"the largest is {most:.1g}, too small to differ from 0"
    if use_rep is not None:
        raise ValueError(f"No dimension of use_rep={use_rep!r} varies among the training cells ({what}): name another.")
    raise ValueError(f"No gene varies among the training cells ({what}): is this the right matrix or layer?")


def _check_ranks(mean: np.ndarray, variance: np.ndarray) -> None:
    """Raise if the genes were scaled to unit variance: then none varies more than another."""
    if _are_scaled(mean, variance):
        raise ValueError(
            f"All genes have nearly the same variance, as z-scored values do (sc.pp.scale), so {N_GENES:,} of the "
            f"{len(mean):,} cannot be chosen by it: name the layer with the values before scaling (layer=), or mark "
            "the genes in adata.var['highly_variable']."
        )


def _dispersed(logged: Matrix) -> np.ndarray:
    import scanpy
    from anndata import AnnData

    with warnings.catch_warnings(), devices.keeping_threads():
        warnings.simplefilter("ignore")
        found = scanpy.pp.highly_variable_genes(AnnData(logged), n_top_genes=N_GENES, inplace=False)
    return found["highly_variable"].to_numpy(dtype=bool)


def _share(rows: Matrix, columns: np.ndarray, counts: bool) -> float:
    if not counts:
        return 1.0
    rows = gaps.fill(rows, 0)
    total, part = (np.asarray(part.sum(axis=1, dtype=float)).ravel() for part in (rows, rows[:, columns]))
    return float(np.median(part[total > 0] / total[total > 0])) if (part > 0).any() else 1.0

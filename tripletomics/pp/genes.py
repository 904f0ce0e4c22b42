"""The choice of a model's genes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from tripletomics import features
from tripletomics.labels import flags, names
from tripletomics.pcs import mean_and_variance
from tripletomics.sources import Matrix

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

N_GENES = 2000


def choose_genes(adata: AnnData, x: Matrix, train: np.ndarray, counts: bool) -> features.Choice:
    """Choose the genes of a model on training rows alone.

    Those marked in ``var["highly_variable"]`` if there are any, else all of up to 2,000. Else the encoder sees the
    2,000 genes whose (normalised, logged) values vary most, and the principal components are those of the 2,000 most
    dispersed genes, scanpy's choice. Where values are neither counts nor logged, the former serve for both.
    """
    rows = sp.csr_matrix(x)[train] if sp.issparse(x) else x[train]
    if "highly_variable" in adata.var:
        marked = np.flatnonzero(_marked(adata.var["highly_variable"]))
        if len(marked):
            return features.Choice.every(marked, _share(rows, marked, counts))
    if adata.n_vars <= N_GENES:
        return features.Choice.every(np.arange(adata.n_vars))
    logged = features.normalise(rows, features.DEPTH) if counts else rows
    _, variance = mean_and_variance(logged)
    varying = np.zeros(adata.n_vars, dtype=bool)
    varying[np.argsort(-variance, kind="stable")[:N_GENES]] = True
    values = features.stored(logged)
    if values.min(initial=0) < 0 or values.max(initial=0) > features.LOGGED:
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
            f"var['highly_variable'] holds {given} ({values.dtype}), not True and False: convert it, or delete it for "
            "the genes to be chosen anew."
        )
    return found.eq(True).to_numpy(dtype=bool)


def _dispersed(logged: Matrix) -> np.ndarray:
    import scanpy
    from anndata import AnnData

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = scanpy.pp.highly_variable_genes(AnnData(logged), n_top_genes=N_GENES, inplace=False)
    return found["highly_variable"].to_numpy(dtype=bool)


def _share(rows: Matrix, columns: np.ndarray, counts: bool) -> float:
    if not counts:
        return 1.0
    total, part = (np.asarray(part.sum(axis=1), dtype=float).ravel() for part in (rows, rows[:, columns]))
    return float(np.median(part[total > 0] / total[total > 0])) if (part > 0).any() else 1.0

"""A matrix and the labels of its rows as a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from anndata import AnnData

from tripletomics.sources import Matrix


def adata_of(x: Matrix, genes: Sequence[str], **columns: np.ndarray) -> AnnData:
    """Return the cells of a matrix (cells, genes) as an AnnData with these columns of `obs`."""
    adata = AnnData(x)
    adata.var_names = [str(gene) for gene in genes]
    for name, values in columns.items():
        adata.obs[name] = values
    return adata

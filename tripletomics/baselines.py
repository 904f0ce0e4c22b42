"""Maps to compare with: fitted on training cells, with new cells projected.

Every function takes log-normalised values of the same genes, dense or sparse, and returns where the training cells and
the query cells lie. The libraries are imported inside: one of them takes seconds, and nobody needs all.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from tripletomics.sources import Matrix

N_COMPONENTS = 50  # of the PCA below a UMAP
N_NEIGHBORS, MIN_DIST, SPREAD = 15, 0.5, 1.0  # of scanpy.pp.neighbors and scanpy.tl.umap


def pca(train: Matrix, query: Matrix, *, dim: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Place cells by the first principal components of the training cells.

    Parameters
    ----------
    train, query
        Cells by genes.
    dim
        Dimensions of the map.
    seed
        For the start vector of the solver.

    Returns
    -------
    float32 (training cells, dim) and (query cells, dim).

    Raises
    ------
    ValueError
        If there are fewer than `dim` training cells or genes.
    """
    from sklearn.decomposition import PCA

    if dim > min(train.shape):
        raise ValueError(f"dim={dim} is more than {train.shape[0]} training cells and {train.shape[1]} genes can span.")
    if dim < min(train.shape):
        model = PCA(dim, svd_solver="arpack", random_state=seed)
    else:  # arpack does not give all components
        model = PCA(dim, svd_solver="full")
        train, query = (x.toarray() if sp.issparse(x) else x for x in (train, query))
    model.fit(train)
    return model.transform(train).astype(np.float32), model.transform(query).astype(np.float32)


def umap(train: Matrix, query: Matrix, *, dim: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Place cells by UMAP with scanpy's settings, on 50 principal components (or all) of the training cells.

    Parameters
    ----------
    train, query
        Cells by genes.
    dim
        Dimensions of the map.
    seed
        Of everything random; the same seed gives the same map.

    Returns
    -------
    float32 (training cells, dim) and (query cells, dim).

    References
    ----------
    McInnes, Healy & Melville 2018, arXiv:1802.03426.
    """
    from umap import UMAP

    train, query = pca(train, query, dim=min(N_COMPONENTS, *train.shape), seed=seed)
    model = UMAP(
        n_neighbors=min(N_NEIGHBORS, len(train) - 1), n_components=dim, min_dist=MIN_DIST, spread=SPREAD,
        init="spectral" if len(train) > dim + 2 else "random", n_jobs=1, random_state=seed,
    )  # fmt: skip
    return model.fit_transform(train).astype(np.float32), model.transform(query).astype(np.float32)

"""Linear maps: axes of the largest variance, of types, and of neighbours of one type."""

from __future__ import annotations

import numpy as np

from tripletomics.baselines.inputs import Cells, Coordinates, quiet

NCA_CELLS = 2000  # its time and memory grow with their square


def pca2(cells: Cells, seed: int) -> Coordinates:
    """Embed cells by the first two principal components."""
    return {"map": (cells.train_pca[:, :2], cells.query_pca[:, :2])}


def pca50(cells: Cells, seed: int) -> Coordinates:
    """Embed cells by up to 50 principal components."""
    return {"metric": (cells.train_pca, cells.query_pca)}


def lda(cells: Cells, seed: int) -> Coordinates:
    r"""Embed cells by linear discriminants of the principal components.

    .. math:: \max_w \frac{w^\top B w}{w^\top W w}

    with the covariances B between and W within types. There is one discriminant fewer than types; two types have one,
    and the second axis of their map is the first principal component, scaled to the unit variance that discriminants
    have within types.

    References
    ----------
    Fisher 1936, The use of multiple measurements in taxonomic problems.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    known = cells.y >= 0
    with quiet():
        model = LinearDiscriminantAnalysis().fit(cells.train_pca[known], cells.y[known])
        train, query = (model.transform(x).astype(np.float32) for x in (cells.train_pca, cells.query_pca))
    if train.shape[1] > 1:
        return {"metric": (train, query), "map": (train[:, :2], query[:, :2])}
    first = cells.train_pca[:, :1].std() or 1
    pairs = ((train, cells.train_pca), (query, cells.query_pca))
    on_map = [np.hstack([z, pca[:, :1] / first]) for z, pca in pairs]
    return {"metric": (train, query), "map": (on_map[0], on_map[1])}


def nca(cells: Cells, seed: int) -> Coordinates:
    r"""Embed cells by the two axes on which a cell's neighbours have its type.

    .. math:: \max_A \sum_i \sum_{j: y_j = y_i} p_{ij}, \qquad p_{ij} \propto \exp(-\lVert A x_i - A x_j \rVert^2)

    over the principal components x of up to 2,000 labelled training cells, drawn within types.

    References
    ----------
    Goldberger, Hinton, Roweis & Salakhutdinov 2004, Neighbourhood components analysis.
    """
    from sklearn.neighbors import NeighborhoodComponentsAnalysis

    rows = _sample(cells.y, NCA_CELLS, seed)
    with quiet():
        model = NeighborhoodComponentsAnalysis(2, random_state=seed).fit(cells.train_pca[rows], cells.y[rows])
        train, query = (model.transform(x).astype(np.float32) for x in (cells.train_pca, cells.query_pca))
    return {"map": (train, query)}


def _sample(y: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Draw up to `most` labelled cells, the same share of every type and at least one."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(y >= 0))
    share = np.empty(len(order))
    for code in np.unique(y[order]):
        of_type = y[order] == code
        share[of_type] = np.arange(of_type.sum()) / of_type.sum()
    return order[np.argsort(share, kind="stable")[:most]]

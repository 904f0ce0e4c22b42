"""Neighbour maps: UMAP with and without labels, t-SNE, PaCMAP, and UMAP by a network."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np

from tripletomics.baselines.inputs import Cells, Coordinates, isolated, quiet
from tripletomics.extras import require
from tripletomics.knn import NEIGHBOURS

MIN_DIST, SPREAD = 0.5, 1.0  # of scanpy.tl.umap
PERPLEXITY, QUERY_PERPLEXITY = 30.0, 5.0  # openTSNE's own, for the map and for a cell that is embedded later
THREADS = 2


def umap(cells: Cells, seed: int) -> Coordinates:
    """Embed cells by UMAP with scanpy's settings on the principal components.

    References
    ----------
    McInnes, Healy & Melville 2018, arXiv:1802.03426.
    """
    return _umap(cells, None, seed)


def umap_crossfit(cells: Cells, seed: int) -> Coordinates:
    """Embed cells as `umap` does, on components in which training cells lie as new cells do."""
    return umap(_as_new(cells), seed)


def tsne_crossfit(cells: Cells, seed: int) -> Coordinates:
    """Embed cells as `tsne` does, on components in which training cells lie as new cells do."""
    return tsne(_as_new(cells), seed)


def _as_new(cells: Cells) -> Cells:
    if cells.train_new is None:
        raise ValueError("The components of training cells as new cells are missing: pass train_new.")
    return replace(cells, train_pca=cells.train_new)


def umap_supervised(cells: Cells, seed: int) -> Coordinates:
    """Embed cells as `umap` does, where cells of different types count as further apart.

    References
    ----------
    McInnes, Healy & Melville 2018, arXiv:1802.03426.
    """
    return _umap(cells, cells.y, seed)  # umap-learn too takes -1 for unlabelled


def _umap(cells: Cells, y: np.ndarray | None, seed: int) -> Coordinates:
    n = len(cells.train_pca)
    with quiet():
        from umap import UMAP

        model = UMAP(
            n_neighbors=min(NEIGHBOURS, n - 1), min_dist=MIN_DIST, spread=SPREAD,
            init="spectral" if n > 4 else "random", n_jobs=1, random_state=seed,
        )  # fmt: skip
        train = model.fit_transform(cells.train_pca, y).astype(np.float32)
        return {"map": (train, model.transform(cells.query_pca).astype(np.float32))}


def tsne(cells: Cells, seed: int) -> Coordinates:
    """Embed cells by t-SNE on the principal components.

    References
    ----------
    van der Maaten & Hinton 2008; Poličar, Stražar & Zupan 2024, J. Stat. Softw. 109(3).
    """
    require("tsne", "openTSNE")
    from openTSNE import TSNE

    most = (len(cells.train_pca) - 1) / 3  # t-SNE uses three neighbours per unit of perplexity
    with quiet("openTSNE"):
        model = TSNE(perplexity=min(PERPLEXITY, most), n_jobs=THREADS, random_state=seed).fit(cells.train_pca)
        query = model.transform(cells.query_pca, perplexity=min(QUERY_PERPLEXITY, most))
    # only now: transform() moves the training cells, to centre the map
    return {"map": (np.array(model, dtype=np.float32), np.array(query, dtype=np.float32))}


def pacmap(cells: Cells, seed: int) -> Coordinates:
    """Embed cells by PaCMAP on the principal components.

    References
    ----------
    Wang, Huang, Rudin & Shaposhnik 2021, J. Mach. Learn. Res. 22(201).
    """
    require("pacmap", "pacmap")
    with quiet("pacmap.pacmap"):
        import faiss
        from pacmap import PaCMAP

        library: Any = sys.modules["pacmap.pacmap"]
        before, threads = library._RANDOM_STATE, faiss.omp_get_max_threads()  # it sets both for the whole process
        try:
            model = PaCMAP(random_state=int(seed), apply_pca=False)
            train = model.fit_transform(cells.train_pca)
            query = model.transform(cells.query_pca, basis=cells.train_pca)
        finally:
            library._RANDOM_STATE = before
            faiss.omp_set_num_threads(threads)
    return {"map": (train.astype(np.float32), query.astype(np.float32))}


def parametric_umap(cells: Cells, seed: int) -> Coordinates:
    """Embed cells by a network that is trained on UMAP's loss on the principal components.

    Raises
    ------
    ImportError
        If TensorFlow is not installed.

    References
    ----------
    Sainburg, McInnes & Gentner 2021, Neural Computation 33(11).
    """
    require("parametric_umap", "tensorflow")
    n = len(cells.train_pca)
    with quiet("tensorflow"), isolated():
        from umap.parametric_umap import ParametricUMAP

        model = ParametricUMAP(
            n_neighbors=min(NEIGHBOURS, n - 1), min_dist=MIN_DIST, spread=SPREAD, random_state=int(seed),
            batch_size=min(1000, n), keras_fit_kwargs={"verbose": 0},
        )  # fmt: skip
        train = model.fit_transform(cells.train_pca)
        query = model.transform(cells.query_pca)
    return {"map": (np.asarray(train, dtype=np.float32), np.asarray(query, dtype=np.float32))}

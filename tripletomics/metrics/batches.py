"""How well batches mix in an embedding, as the field measures it: through scib-metrics, an optional extra."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tripletomics.knn import nearest
from tripletomics.metrics.distances import subsample

if TYPE_CHECKING:
    from scib_metrics.nearest_neighbors import NeighborsResults

LISI_NEIGHBOURS, GRAPH_NEIGHBOURS = 90, 15  # those of scib-metrics
MAX_CELLS = 20_000  # LISI needs about 10 KB a cell


def batch_scores(z: np.ndarray, y: np.ndarray, batch: np.ndarray, seed: int = 0) -> dict[str, float]:
    r"""Score how well batches mix within types.

    - ``ilisi``: the effective number of batches around a cell, ``(median LISI - 1) / (batches - 1)``.
    - ``clisi``: the same for types, reversed, ``(types - median LISI) / (types - 1)``. It is label-circular.
    - ``kbet``: the mean over types of the share of cells around which a chi-squared test at 5 % finds the batches as in
      the whole type.
    - ``graph_connectivity``: the mean over types of the share of cells in the largest strongly connected part of the
      type's 15-NN graph.

    .. math:: \text{LISI}_i = \Big( \sum_b \big( \sum_{j \in N(i)} p_{ij}\,[b_j = b] \big)^2 \Big)^{-1}

    with the weights p of the neighbours, which fall with distance at a perplexity of a third of their number.

    Parameters
    ----------
    z
        Embedding (cells, dim).
    y, batch
        Codes (cells,) of types and batches; cells where either is -1 are left out.
    seed
        Seed of the draw of 20,000 cells, where there are more: LISI needs about 10 KB a cell.

    Returns
    -------
    The four scores in [0, 1], 1 for mixed batches in connected types. ``ilisi`` and ``kbet`` are NaN for one batch,
    ``clisi`` for one type, ``kbet`` if no type has 10 cells and two batches, all for fewer than 10 cells.

    Raises
    ------
    ImportError
        Without scib-metrics: ``pip install "tripletomics[batch]"``.

    Notes
    -----
    The numbers of neighbours are those of scib-metrics (90 for LISI, 15 for the graph, a quarter of the mean batch but
    10 to 70 for kBET), the neighbours themselves are exact. kBET takes them inside the type, by distance in the
    embedding, as in its paper; `scib_metrics.kbet_per_label` takes them from a diffusion map, so its numbers differ.
    Where batches differ in which types they have, only ``clisi`` penalises mixing across types.

    References
    ----------
    Korsunsky et al. 2019, Fast, sensitive and accurate integration of single-cell data with Harmony (LISI). Büttner et
    al. 2019, A test metric for assessing single-cell RNA-seq batch correction (kBET). Luecken et al. 2022, Benchmarking
    atlas-level data integration in single-cell genomics.
    """
    try:
        import scib_metrics
    except ImportError as error:
        raise ImportError('Batch scores need scib-metrics: pip install "tripletomics[batch]"') from error
    known = np.flatnonzero((y >= 0) & (batch >= 0))
    known = known[subsample(len(known), seed, MAX_CELLS)]
    z, y, batch = z[known], y[known], batch[known]
    nan, batches, types = float("nan"), len(np.unique(batch)), len(np.unique(y))
    if len(z) < 10:
        return {"ilisi": nan, "clisi": nan, "kbet": nan, "graph_connectivity": nan}
    around, graph = _graph(z, LISI_NEIGHBOURS), _graph(z, GRAPH_NEIGHBOURS)
    return {
        "ilisi": float(scib_metrics.ilisi_knn(around, batch)) if batches > 1 else nan,
        "clisi": float(scib_metrics.clisi_knn(around, y)) if types > 1 else nan,
        "kbet": _kbet(z, y, batch),
        "graph_connectivity": float(scib_metrics.graph_connectivity(graph, y)),
    }


def _graph(z: np.ndarray, k: int) -> NeighborsResults:
    """Return the k nearest cells of each cell, itself first."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    distances, near = nearest(z, None, min(k, len(z)) - 1)
    oneself = np.arange(len(z))[:, None]
    return NeighborsResults(np.hstack([oneself, near]), np.hstack([np.zeros(oneself.shape), distances]))


def _kbet(z: np.ndarray, y: np.ndarray, batch: np.ndarray) -> float:
    """Return the mean acceptance rate over types with 10 cells and two batches."""
    import scib_metrics

    rates = []
    for code in np.unique(y):
        cells, batches = z[y == code], batch[y == code]
        size = np.unique(batches, return_counts=True)[1]
        if len(cells) >= 10 and len(size) > 1:
            k = min(70, max(10, int(size.mean() / 4)))  # the rule of scib
            rates.append(scib_metrics.kbet(_graph(cells, k + 1), batches)[0])
    return float(np.mean(rates)) if rates else float("nan")

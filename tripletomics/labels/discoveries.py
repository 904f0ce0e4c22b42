"""A list of novel cells with a stated false discovery rate.

The false discovery rate (FDR) is the expected share of cells on the list that are of a known type. Each new cell gets a
score from its own novelty and that of its neighbours. Calibration cells get a score in the same way, among the same
cells. The p-value of a new cell counts how many calibration cells score as high (a conformal p-value). The procedure of
Benjamini and Hochberg (BH) makes the list from the p-values of all new cells. If new cells of known types are like the
calibration cells, the false discovery rate is at most the one that was asked for. This also holds for a score that is
made from new and calibration cells together, because it treats both alike (Marandon et al.).

References
----------
Conformal p-values for a list: Bates, Candès, Lei, Romano & Sesia 2023, *Testing for outliers with conformal p-values*,
Ann. Stat. 51(1), 149. Scores from new and calibration cells together: Marandon, Lei, Mary & Roquain 2024, *Adaptive
novelty detection with false discovery rate guarantee*, Ann. Stat. 52(1), 157. The list: Benjamini & Hochberg 1995,
J. R. Stat. Soc. B 57(1), 289.
"""

from __future__ import annotations

import numpy as np

from tripletomics.knn import knn_graph
from tripletomics.labels.calibration import Calibration
from tripletomics.notices import warn

# cells of a neighbourhood (with the cell itself), and what is subtracted from its score, in standard deviations of
# novelty, because the score of few cells varies more. The large neighbourhood finds types similar to a known one, the
# small one finds small groups.
NEIGHBOURHOODS = {30: 0.0, 8: 0.8}
QUANTILE = 0.25  # three quarters of the neighbourhood must be as novel, so that a known cell near a novel group is not
PART = 20_000  # new cells that are scored together


def p_values(calibration: Calibration, novelty: np.ndarray, pcs: np.ndarray) -> np.ndarray:
    """Return conformal p-values of new cells (cells,): how often a cell of a known type scores as high.

    Parameters
    ----------
    calibration
        With the novelty and the first principal components of its cells. An older model file has no components. Then
        the score is the novelty of the cell alone.
    novelty, pcs
        Novelty of the new cells, as `Calibration.novelty` returns it (cells,), and their principal components (cells,
        components).
    """
    known = calibration.novelties
    if calibration.pcs is None:
        return conformal(known, novelty, calibration.n_cells)
    n, width = calibration.pcs.shape
    p = np.ones(len(novelty))
    # random parts, each like all cells: the time grows with the cells, not with their square
    shuffled = np.random.default_rng(0).permutation(len(novelty))
    for part in np.array_split(shuffled, -(-len(novelty) // PART) or 1):
        both = np.concatenate([calibration.pcs, pcs[part, :width].astype(np.float32)])
        scores = score(np.concatenate([known, novelty[part]]), both)
        p[part] = conformal(scores[:n], scores[n:], n)
    return p


def score(novelty: np.ndarray, pcs: np.ndarray) -> np.ndarray:
    """Return the lower quartile of novelty in each cell's neighbourhood, the larger of those of two sizes (cells,)."""
    among = np.concatenate([np.arange(len(pcs))[:, None], knn_graph(pcs, max(NEIGHBOURHOODS) - 1)], axis=1)
    near = novelty[among]
    return np.max([np.quantile(near[:, :k], QUANTILE, axis=1) - less for k, less in NEIGHBOURHOODS.items()], axis=0)


def conformal(known: np.ndarray, new: np.ndarray, n: int) -> np.ndarray:
    r"""Return :math:`(1 + \#\{\text{known} \ge \text{new}\}) / (n + 1)` for each new score.

    There are n known cells. `known` may be fewer: evenly spaced quantiles, as `numpy.quantile` returns them. Then it is
    the largest p-value that agrees with them.
    """
    lower = np.searchsorted(np.sort(known), new, "left")  # scores or quantiles below
    below = np.where(lower > 0, (n - 1) * (lower - 1) // (len(known) - 1) + 1, 0)
    return (1 + n - below) / (n + 1)


def discover(p: np.ndarray, fdr: float) -> np.ndarray:
    """Return which cells are on the list, boolean (cells,), by the procedure of Benjamini and Hochberg (BH)."""
    ascending = np.sort(p)
    passed = np.flatnonzero(ascending <= fdr * np.arange(1, len(p) + 1) / max(len(p), 1))
    return p <= (ascending[passed[-1]] if len(passed) else -1.0)


def shortest(n_new: int, n_known: int, fdr: float) -> int:
    """Return how many of `n_new` cells are on the shortest possible list, as no p-value is below 1 / (n_known + 1)."""
    return int(np.ceil(round(n_new / (n_known + 1) / fdr, 9)))


def warn_of_few(n_known: int, fdr: float) -> None:
    """Warn if every list is empty, because there are too few calibration cells."""
    needed = int(np.ceil(round(1 / fdr, 9))) - 1
    if n_known < needed:
        warn(
            f"fdr={fdr:g} takes {needed:,} calibration cells or more, and the model has {n_known:,}: the list of novel "
            f"cells is always empty. Take fdr={1 / (n_known + 1):.2g} or more, or fit on more cells."
        )

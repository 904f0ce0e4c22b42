"""Which training cells are left out of the training of an encoder or the fit of the features, and in which folds."""

from __future__ import annotations

import numpy as np

SHARE, MOST = 0.1, 5000  # of each type, and cells in all, that predictions are calibrated on
TRAINED, LEAST = 5, 10  # cells of a type that are always trained on; fewest calibration cells that are enough
ASKED = 5000  # most cells of a fold that predictions are calibrated on
FEATURE_CELLS = 20_000  # that genes are chosen by and components fitted to; more take seconds and change little


def calibration_split(codes: np.ndarray, train: np.ndarray, seed: int) -> np.ndarray:
    """Choose the training cells that predictions are calibrated on, and that the encoder is not trained on.

    A tenth of each type, at most 5,000 cells in all; five cells of a type are always trained on. None where these are
    fewer than ten, which would tell little: see `label_folds`.

    Parameters
    ----------
    codes
        Class codes (cells,), -1 for unlabelled, which are never chosen.
    train
        Boolean (cells,).
    seed
        Seed of the draw.
    """
    random = np.random.default_rng([seed, 1])  # not the draw of the held-out cells
    share = min(SHARE, MOST / max((train & (codes >= 0)).sum(), 1))
    chosen = np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes[train & (codes >= 0)]):
        cells = np.flatnonzero(train & (codes == code))
        chosen[random.permutation(cells)[: max(min(round(share * len(cells)), len(cells) - TRAINED), 0)]] = True
    return chosen & (chosen.sum() >= LEAST)


def subsample_for_features(cells: np.ndarray, seed: int) -> np.ndarray:
    """Draw the cells that genes are chosen by and components fitted to: up to 20,000, boolean (cells,)."""
    chosen = np.zeros_like(cells)
    chosen[np.random.default_rng([seed, 5]).permutation(np.flatnonzero(cells))[:FEATURE_CELLS]] = True
    return chosen


def label_folds(codes: np.ndarray, train: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return stratified folds of the labelled training cells, 0 to n - 1 (cells,); -1 for all other cells."""
    random = np.random.default_rng([seed, 1])
    folds = np.full(len(codes), -1)
    for code in np.unique(codes[train & (codes >= 0)]):
        cells = random.permutation(np.flatnonzero(train & (codes == code)))
        folds[cells] = (np.arange(len(cells)) + random.integers(n)) % n
    return folds


def batch_folds(
    groups: np.ndarray, codes: np.ndarray, train: np.ndarray, measured: np.ndarray, most: int
) -> list[np.ndarray]:
    """Return up to `most` parts of similar size, boolean (cells,), each of whole batches or other groups.

    The cells outside of a part must have two types, and two cells with everything `measured`.
    """
    batches, sizes = np.unique(groups[train & (groups >= 0)], return_counts=True)
    folds: list[list[int]] = [[] for _ in range(min(most, len(batches)))]
    filled = np.zeros(len(folds))
    for i in np.argsort(-sizes, kind="stable"):
        folds[filled.argmin()].append(batches[i])
        filled[filled.argmin()] += sizes[i]
    parts = [train & np.isin(groups, members) for members in folds]
    return [part for part in parts if _suffice(codes[train & ~part], measured[train & ~part])]


def _suffice(codes: np.ndarray, measured: np.ndarray) -> bool:
    """Return whether an encoder can be trained on these cells."""
    sizes = np.bincount(codes[codes >= 0], minlength=2)
    return (sizes > 0).sum() > 1 and sizes.max() > 1 and measured.sum() > 1


def subsample(cells: np.ndarray, seed: int, most: int = ASKED) -> np.ndarray:
    """Return the numbers of at most `most` of some cells, boolean (cells,), in random order."""
    return np.random.default_rng(seed).permutation(np.flatnonzero(cells))[:most]

"""What a model keeps of its cells, joined with that of new cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tripletomics.index import CellIndex
from tripletomics.labels.calibration import Calibration, fit_calibration, levels
from tripletomics.labels.reference import MAX_LANDMARKS, Evidence, Reference, draw_cells
from tripletomics.seen import SeenCells


def recode(reference: Reference, codes: np.ndarray, n: int) -> Reference:
    """Return the reference with n types. The old types get the given `codes` (types,); all others have no cell."""

    def spread(values: np.ndarray, rest: float = 0) -> np.ndarray:
        found = np.full((n, *values.shape[1:]), rest, dtype=values.dtype)
        found[codes] = values
        return found

    return replace(
        reference, codes=codes[reference.codes], sizes=spread(reference.sizes), prior=spread(reference.prior),
        prototypes=spread(reference.prototypes), means=spread(reference.means), n_enrolled=0,
    )  # fmt: skip


def join_reference(
    old: Reference, z: np.ndarray, m: np.ndarray, pcs: np.ndarray, codes: np.ndarray, seed: int
) -> Reference:
    """Return the reference of old landmarks, unchanged, and of labelled new cells.

    The mean of a type with old and new cells is that of both. Spread and covariance stay those of the old cells.
    """
    n = len(old.sizes)
    added = np.bincount(codes, minlength=n)
    sizes = old.sizes + added
    share = np.divide(added, sizes, out=np.zeros(n), where=sizes > 0)[:, None]

    def means(known: np.ndarray, x: np.ndarray) -> np.ndarray:
        sums = np.zeros((n, x.shape[1]))
        np.add.at(sums, codes, x)
        return (1 - share) * known + share * sums / np.maximum(added, 1)[:, None]

    whole = np.concatenate([old.codes, codes])
    kept = draw_cells(whole, np.bincount(whole, minlength=n), seed, MAX_LANDMARKS)
    return replace(
        old,
        z=np.concatenate([old.z, z])[kept],
        map=np.concatenate([old.map, m])[kept],
        codes=whole[kept],
        sizes=sizes,
        prior=np.log(np.maximum(sizes, 1) / sizes.sum()),
        prototypes=means(old.prototypes, z),
        means=means(old.means, pcs @ old.whiten),
    )


def join_calibration(
    old: Calibration | None, new: tuple[Evidence, np.ndarray], simulated: tuple[Evidence, np.ndarray]
) -> Calibration | None:
    """Return the calibration of old and new cells.

    The usual distances to a type stay, because the old cells have not moved. The novelties are those of old and new
    calibration cells. The weights of the evidence and the quantiles of the log odds are fitted again, to new
    calibration cells and simulated ones, because old types now have new types next to them.

    Parameters
    ----------
    new, simulated
        Evidence about new calibration cells, and their codes. The same of simulated cells, about as many as the old
        calibration had cells.
    """
    if old is None:
        return fit_calibration([new]) if len(new[1]) > 1 else None
    n_types = new[0].logits.shape[1]
    if not len(simulated[1]):
        return replace(old, n_types=n_types)
    joined = replace(old, n_types=n_types, weights=fit_calibration([simulated, new]).weights)
    odds = [joined.odds(evidence)[np.arange(len(codes)), codes] for evidence, codes in (simulated, new)]
    known = old.novelties
    if len(known) < old.n_cells:  # quantiles, in an older file
        known = np.quantile(known, np.linspace(0, 1, old.n_cells))
    return replace(
        joined,
        novelties=np.concatenate([known, joined.novelty(new[0])]),
        oddities=levels(-np.concatenate(odds)),
        n_cells=old.n_cells + len(new[1]),
        costs=None,
        pcs=None if old.pcs is None else np.concatenate([old.pcs, new[0].pcs]),
    )


def join_catalog(old: CellIndex | None, codes: np.ndarray, new: CellIndex) -> CellIndex | None:
    """Return the index of old and new training cells, or None if the model has none; `codes` are of the old types."""
    if old is None:
        return None
    known = np.append(codes, -1)[old.codes]  # code -1 is the last
    return CellIndex(
        np.concatenate([old.z, new.z]), np.concatenate([old.names, new.names]), np.concatenate([known, new.codes])
    )


def join_seen(old: SeenCells, new: SeenCells) -> SeenCells:
    """Return the seen cells of the old and the new fit; no cell is in both."""
    hashes, rows = np.unique(np.concatenate([old.hashes, new.hashes]), return_index=True)
    roles, fitted = (np.concatenate([getattr(old, name), getattr(new, name)])[rows] for name in ("roles", "fitted"))
    return SeenCells(hashes, roles, fitted)

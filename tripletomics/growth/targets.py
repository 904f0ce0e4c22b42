"""Target coordinates of new cells on a map whose old cells stay: known types near their own, new types in free room."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from tripletomics.labels.reference import Reference

NEIGHBOURS, OWN = 15, 5  # landmarks around a cell; landmarks of its type that it moves to, if others are around it
GRID = {2: 80, 3: 24}  # points along each axis, by the dimensions of the map, where a new type may go
MARGIN = 0.3  # in widths of the map: the room around it that new types may take
LEAST = 0.02  # smallest radius of a new type, in widths of the map
SLACK = 1.15  # distance of a new type from all others, in its radii
SQUEEZED = 0.5  # share of its radius to which a new type may shrink
CROWD = 9  # nearest landmarks, itself included, by whose distance the room of a cell is measured


def find_targets(
    reference: Reference, m: np.ndarray, z: np.ndarray, pcs: np.ndarray, codes: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return the coordinates that cells should get on the map, float32 (cells, dim), and the width of the map.

    A cell of an old type stays where the old map puts it. If the landmarks there are of other types, it moves to the
    landmarks of its type that are nearest in the metric space. A new type takes a free disk (a ball in 3-D) near where
    the old map puts it. There, a cell has as much room as an old cell. The disk may shrink, to half of its radius at
    least, if it then lies nearer. Inside the disk, the cells lie by their leading principal components.

    Parameters
    ----------
    reference
        Landmarks of the old cells.
    m, z, pcs, codes
        Where the old map puts the new cells, their metric space, principal components and codes; not -1.
    """
    landmarks, wanted = reference.map.astype(np.float64), m.astype(np.float64)
    width = float(np.ptp(landmarks, axis=0).max()) or 1.0
    tree, taken = cKDTree(landmarks), [landmarks]
    around = tree.query(m, k=min(NEIGHBOURS, len(landmarks)))[1].reshape(len(m), -1)
    room = 0.4 * np.median(tree.query(landmarks, k=min(CROWD, len(landmarks)))[0][:, -1])
    types, sizes = np.unique(codes, return_counts=True)
    for code in types[np.argsort(-sizes, kind="stable")]:
        cells, own = np.flatnonzero(codes == code), np.flatnonzero(reference.codes == code)
        if len(own):
            lost = cells[(reference.codes[around[cells]] == code).mean(axis=1) < 0.5]
            nearest = (
                cKDTree(reference.z[own]).query(z[lost], k=min(OWN, len(own)))[1].reshape(len(lost), min(OWN, len(own)))
            )
            wanted[lost] = landmarks[own][nearest].mean(axis=1)
            continue
        radius = max(room * np.sqrt(len(cells)), LEAST * width)
        centre, radius = _free(np.concatenate(taken), np.median(m[cells], axis=0), radius, width)
        wanted[cells] = centre + radius * _shape(pcs[cells], m.shape[1])
        taken.append(wanted[cells])
    return wanted.astype(np.float32), width


def _free(taken: np.ndarray, near: np.ndarray, radius: float, width: float) -> tuple[np.ndarray, float]:
    """Return the centre and the radius of the best free disk: near to a point, and not much smaller than asked."""
    axes = [
        np.linspace(low - MARGIN * width, high + MARGIN * width, GRID[len(near)])
        for low, high in zip(taken.min(axis=0), taken.max(axis=0), strict=True)
    ]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, len(near))
    free = np.minimum(cKDTree(taken).query(grid, k=min(3, len(taken)))[0].reshape(len(grid), -1)[:, -1] / SLACK, radius)
    smaller = np.log(radius / np.maximum(free, 1e-9 * radius))
    cost = np.linalg.norm(grid - near, axis=1) / radius + 2 * smaller
    cost[free < SQUEEZED * radius] = np.inf  # the margin has room for a type, unless the types fill it
    best = int(cost.argmin()) if np.isfinite(cost).any() else int(free.argmax())
    return grid[best], float(free[best])


def _shape(pcs: np.ndarray, dim: int) -> np.ndarray:
    """Return cells within the unit disk, by their leading principal components."""
    if len(pcs) <= dim:
        return np.zeros((len(pcs), dim))
    u, strength, _ = np.linalg.svd(pcs - pcs.mean(axis=0), full_matrices=False)
    shape = np.zeros((len(pcs), dim))
    width = min(dim, u.shape[1])
    shape[:, :width] = u[:, :width] * (strength[:width] > 0) * np.sqrt(len(pcs)) / 2
    return shape / np.maximum(np.linalg.norm(shape, axis=1, keepdims=True), 1)

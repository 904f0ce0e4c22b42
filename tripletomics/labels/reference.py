"""The labelled training cells as a reference: how near a new cell lies to each type.

The metric space was trained to separate the known types, so it can put a type that it never saw into one of them. The
principal components use no label. Both give evidence about the label and about novelty.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.covariance import ledoit_wolf

from tripletomics.knn import NEIGHBOURS, Clusters
from tripletomics.samplers import allocate

MAX_LANDMARKS = 20_000  # cells kept to vote
MAX_FITTED = 50_000  # cells behind means and covariance
KERNEL_NEIGHBOUR = 5  # the kernel is as wide as the distance to the fifth neighbour
SELF_DISTANCE = 1e-3  # of the spread: rounding puts a cell no further from its own landmark than this
EVEN_SHARE = 0.01  # share of the votes that is spread evenly, so that no type is impossible
LEADING = 20  # principal components for neighbours in a list of novel cells: 10 find fewer novel cells, 50 no more
ENROLLED_VOTES = 0.5  # share of the best trained type's votes for an enrolled one that is nearest by its components


@dataclass(frozen=True)
class Evidence:
    """What the reference says about cells.

    Attributes
    ----------
    logits
        (cells, classes, 4), the four parts of the evidence: log share of the distance-weighted neighbours, minus the
        distance to the prototype, minus the Mahalanobis distance of the principal components, log prior. Higher is
        nearer; -inf for a type that has no reference cell.
    near
        (cells,) log mean distance to the 5 nearest reference cells of the metric space.
    typical
        (cells,) log Mahalanobis distance of the principal components to the nearest type.
    z, white
        The cells in the metric space, in units of its spread (cells, metric_dim), and their whitened principal
        components (cells, components).
    pcs
        Their first principal components, float32 (cells, 20) or fewer.
    """

    logits: np.ndarray
    near: np.ndarray
    typical: np.ndarray
    z: np.ndarray
    white: np.ndarray
    pcs: np.ndarray

    def of(self, rows: np.ndarray) -> Evidence:
        """Return the evidence of some of the cells."""
        return Evidence(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Reference:
    """Landmarks, and the centre of each type.

    Attributes
    ----------
    z, map, codes
        Landmarks: labelled training cells in the metric space, float32 (landmarks, metric_dim), on the map, float32
        (landmarks, dim), and their codes. At most 20,000, an equal share of each type.
    spread
        Standard deviation of the metric space, by which its distances are divided.
    sizes
        Reference cells of each type (classes,).
    prior
        Log share of each type among the reference cells (classes,).
    prototypes
        Mean z of each type (classes, metric_dim).
    whiten
        Makes the covariance of the principal components within types the identity (components, components).
    means
        Mean components of each type, whitened (classes, components).
    n_enrolled
        How many types, the last ones, were enrolled. A few cells among thousands can win no vote: where the principal
        components are nearest to such a type, it has at least half the votes of the best other one.
    near_trained
        Mean and standard deviation (2,) of `Evidence.near` of cells that the encoder was trained on, each compared with
        the others: they lie nearer to their type than new cells do.

    References
    ----------
    Prototypes: Snell, Swersky & Zemel 2017. Covariance: Ledoit & Wolf 2004. Mahalanobis distance for novelty: Lee, Lee,
    Lee & Shin 2018.
    """

    z: np.ndarray
    map: np.ndarray
    codes: np.ndarray
    spread: float
    sizes: np.ndarray
    prior: np.ndarray
    prototypes: np.ndarray
    whiten: np.ndarray
    means: np.ndarray
    n_enrolled: int = 0
    near_trained: np.ndarray | None = None

    @functools.cached_property
    def clusters(self) -> Clusters:
        """The landmarks in the metric space, for searches."""
        return Clusters(self.z)

    def evidence(self, z: np.ndarray, pcs: np.ndarray, known: np.ndarray | None = None) -> Evidence:
        """Compare cells with the reference.

        Parameters
        ----------
        z, pcs
            Metric space (cells, metric_dim) and principal components (cells, components).
        known
            Boolean (cells,): cells of the reference, which are compared with all others. None by default.
        """
        d, rows = nearest_landmarks(self.clusters, z, self.spread, known)
        to_prototypes = cdist(z, self.prototypes) / self.spread / self.doubt
        white, to_means = pcs @ self.whiten, self.distances(pcs)
        prior = np.broadcast_to(self.prior, to_means.shape)
        votes = self._votes(d, rows)
        votes = self._votes_for_enrolled(votes, to_means) if self.n_enrolled else votes
        logits = np.stack([votes, -to_prototypes, -to_means, prior], axis=2)
        logits[:, self.sizes == 0] = -np.inf
        least = np.finfo(np.float32).tiny  # a cell may be a landmark
        near = np.log(np.maximum(d[:, :KERNEL_NEIGHBOUR].mean(axis=1), least))
        typical = np.log(np.maximum(to_means.min(axis=1), least))
        return Evidence(logits, near, typical, z / self.spread, white, pcs[:, :LEADING].astype(np.float32))

    @property
    def centres(self) -> np.ndarray:
        """Mean principal components of each type (classes, components)."""
        return self.means @ np.linalg.inv(self.whiten)

    def distances(self, pcs: np.ndarray) -> np.ndarray:
        """Return the Mahalanobis distance of cells to each type (cells, classes); infinite to one without cells."""
        found = cdist(pcs @ self.whiten, self.means) / self.doubt
        found[:, self.sizes == 0] = np.inf
        return found

    @property
    def doubt(self) -> np.ndarray:
        """Return how far off distances to each type are: a mean of n cells is off by 1/n of their variance."""
        return np.sqrt(1 + 1 / np.maximum(self.sizes, 1))

    def agrees(
        self, m: np.ndarray, codes: np.ndarray, known: np.ndarray | None = None, below: np.ndarray | None = None
    ) -> np.ndarray:
        """Return whether the type of each cell is among those of its 15 nearest landmarks on the map, boolean (cells,).

        Parameters
        ----------
        m, codes
            Map (cells, dim) and codes of the types or, with `below`, of nodes above them.
        known
            As for `evidence`.
        below
            Which types a node is or has below it, boolean (nodes, types).
        """
        _, rows = nearest_landmarks(Clusters(self.map), m, float(self.map.std()) or 1.0, known)
        if below is not None:
            return below[codes[:, None], self.codes[rows]].any(axis=1)
        return (self.codes[rows] == codes[:, None]).any(axis=1)

    def _votes(self, d: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the log share of each type among the neighbours, weighted by a Gaussian of the distance."""
        weights, n = kernel(d), len(self.sizes)
        cells = np.arange(len(d))[:, None]
        votes = np.bincount((cells * n + self.codes[rows]).ravel(), weights.ravel(), len(d) * n).reshape(len(d), n)
        part = votes / votes.sum(axis=1, keepdims=True)
        return np.log((part + EVEN_SHARE / (self.sizes > 0).sum()) / (1 + EVEN_SHARE))

    def _votes_for_enrolled(self, votes: np.ndarray, to_means: np.ndarray) -> np.ndarray:
        """Return log votes that also count enrolled types where these are nearest by the components."""
        n = len(self.sizes) - self.n_enrolled
        nearest = to_means[:, n:] < to_means[:, :n].min(axis=1, keepdims=True)
        least = np.where(nearest, votes[:, :n].max(axis=1, keepdims=True) + np.log(ENROLLED_VOTES), -np.inf)
        return np.concatenate([votes[:, :n], np.maximum(votes[:, n:], least)], axis=1)

    def enroll(self, z: np.ndarray, m: np.ndarray, pcs: np.ndarray, codes: np.ndarray, n: int) -> Reference:
        """Add the cells of new types, whose codes follow those that are known and end before `n`.

        How common they are is unknown: each is taken to be as common as a type on average.
        """
        new = np.arange(len(self.sizes), n)
        return replace(
            self,
            z=np.concatenate([self.z, z]),
            map=np.concatenate([self.map, m]),
            codes=np.concatenate([self.codes, codes]),
            sizes=np.concatenate([self.sizes, [(codes == code).sum() for code in new]]),
            prior=np.concatenate([self.prior, np.full(len(new), -np.log(n))]),
            prototypes=np.concatenate([self.prototypes, _means(z, codes, new)]),
            means=np.concatenate([self.means, _means(pcs @ self.whiten, codes, new)]),
            n_enrolled=self.n_enrolled + len(new),
        )


def build_reference(
    z: np.ndarray, m: np.ndarray, pcs: np.ndarray, codes: np.ndarray, n_classes: int, seed: int
) -> Reference:
    """Return the reference of training cells.

    Parameters
    ----------
    z, m, pcs
        Metric space, map and principal components.
    codes
        -1 for unlabelled cells, which are left out.
    n_classes
        Number of types, of which some may have no cell.
    seed
        Seed of the draw of landmarks.
    """
    sizes, types = np.bincount(codes[codes >= 0], minlength=n_classes), np.arange(n_classes)
    rows = draw_cells(codes, sizes, seed, MAX_FITTED)
    z, m, pcs, codes = z[rows], m[rows], pcs[rows].astype(np.float64), codes[rows]
    means = _means(pcs, codes, types)
    covariance, _ = ledoit_wolf(pcs - means[codes], assume_centered=True)
    covariance += 1e-6 * max(np.trace(covariance) / len(covariance), 1e-12) * np.eye(len(covariance))
    whiten = np.linalg.cholesky(np.linalg.inv(covariance))
    landmarks = draw_cells(codes, np.bincount(codes, minlength=n_classes), seed, MAX_LANDMARKS)
    return Reference(
        z=z[landmarks],
        map=m[landmarks],
        codes=codes[landmarks],
        spread=float(z.std()) or 1.0,
        sizes=sizes,
        prior=np.log(np.maximum(sizes, 1) / sizes.sum()),
        prototypes=_means(z, codes, types),
        whiten=whiten,
        means=means @ whiten,
    )


def type_distances(centres: np.ndarray) -> np.ndarray:
    """Return how unlike types are (types, types), from their mean principal components (types, components).

    It is 1 - cosine, between the directions from the mean of all training cells: 0 for the same direction, 2 for
    opposite ones. A type of few cells with a strong profile, such as platelets, is then not far from all others. The
    metric space would not do: many losses push all types equally far apart.
    """
    apart = np.nan_to_num(cdist(centres, centres, "cosine"), nan=1.0)  # a type in the mean has no direction
    np.fill_diagonal(apart, 0)
    return apart


def kernel(d: np.ndarray) -> np.ndarray:
    """Return the weights of neighbours by their ascending distances (cells, k): a Gaussian."""
    width = d[:, [min(KERNEL_NEIGHBOUR, d.shape[1]) - 1]]
    return np.exp(-2 * np.square(d / np.where(width > 0, width, 1)))


def nearest_landmarks(
    landmarks: Clusters, cells: np.ndarray, spread: float, known: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return distances, in units of the spread, and rows of the nearest landmarks other than the cell itself.

    `known` is boolean (cells,): cells that may be landmarks. None by default.
    """
    n = len(landmarks.z)
    k = min(NEIGHBOURS, n)
    if known is None or not known.any() or n < 2:
        d, rows = landmarks.search(cells, k)
        return d / spread, rows
    d, rows = landmarks.search(cells, min(k + 1, n))
    d = d / spread
    itself = known & (d[:, 0] < SELF_DISTANCE)
    kept = np.arange(d.shape[1] - 1) + itself[:, None]
    return np.take_along_axis(d, kept, axis=1), np.take_along_axis(rows, kept, axis=1)


def _means(x: np.ndarray, codes: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Return the mean of each type, 0 where it has no cell."""
    zero = np.zeros(x.shape[1])
    return np.stack([x[codes == code].mean(axis=0, dtype=np.float64) if (codes == code).any() else zero
                     for code in types])  # fmt: skip


def draw_cells(codes: np.ndarray, sizes: np.ndarray, seed: int, most: int) -> np.ndarray:
    """Return labelled cells: all of them or, if more than `most`, an equal share of each type, of which `sizes` are."""
    known = np.flatnonzero(codes >= 0)
    if len(known) <= most:
        return known
    order = np.random.default_rng(seed).permutation(known)
    chosen = [order[codes[order] == code][:n] for code, n in enumerate(allocate(sizes.tolist(), most))]
    return np.sort(np.concatenate(chosen))

"""Simulated cells in place of those of an old fit: its model file has no expression, only means and a covariance."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.stats import poisson

from tripletomics.embedding import embed_rows
from tripletomics.features import Features
from tripletomics.labels.reference import Reference
from tripletomics.networks import Encoder
from tripletomics.sources import Matrix

MOST = 300  # simulated cells of a type to train with; never more than it has landmarks
ROUGH, ROUNDS = 60, 2  # cells of a type by which the distribution is corrected, and rounds, for the noise of counts
LEAST_NOISE = 0.02  # least share of the variance along an axis that is simulated, where counts give all of it
FEW = 10  # cells of a type, below which its width is not known
NARROW, WIDE = 0.4, 1.5  # bounds of a type's width, in units of the mean one
RATES, COUNTS = np.concatenate([[0], np.geomspace(1e-4, 300, 300)]), np.arange(600)  # the table for interpolation


@dataclass(frozen=True)
class SimulatedCells:
    """Simulated cells in place of those of an old fit.

    Attributes
    ----------
    x
        Cells by the model's genes, as a dataset would have them.
    pcs, codes
        Their principal components, float32 (cells, components), and types (cells,).
    """

    x: Matrix
    pcs: np.ndarray
    codes: np.ndarray


def simulate(
    features: Features, reference: Reference, encoder: Encoder, seed: int, sizes: np.ndarray | None = None
) -> SimulatedCells:
    """Simulate up to 300 cells of each type that has landmarks, or `sizes` (types,).

    Principal components come from the normal distribution of a type. They give the expected log-transformed value of
    each gene, and counts are Poisson numbers with this expectation. Values that are not counts get normal noise with
    the variance that the components do not explain. The noise also adds variance along the components. So the normal
    distribution has less variance, by this amount. Each type is made as wide in the metric space as its landmarks.

    References
    ----------
    Learning from simulated cells in place of old ones: Shin, Lee, Kim & Kim 2017, Continual learning with deep
    generative replay, NeurIPS.
    """
    random = np.random.default_rng([seed, 11])
    if sizes is None:
        sizes = np.minimum(np.bincount(reference.codes, minlength=len(reference.sizes)), MOST)
    mix, width, back = np.eye(len(reference.whiten)), np.ones(len(sizes)), np.linalg.inv(reference.whiten)

    def simulated(sizes: np.ndarray) -> tuple[np.ndarray, Matrix, np.ndarray]:
        codes = np.repeat(np.arange(len(sizes)), sizes)
        spread = width[codes, None] * random.normal(size=(len(codes), len(mix))) @ mix
        white = reference.means[codes] + spread
        return codes, _cells(features, white @ back, random), white

    few = np.minimum(sizes, ROUGH)
    for _ in range(ROUNDS):
        _, x, white = simulated(few)
        strength, axes = np.linalg.eigh(np.eye(len(mix)) - np.cov((features.pcs(x) @ reference.whiten - white).T))
        mix = (axes * np.sqrt(np.maximum(strength, LEAST_NOISE))) @ axes.T
    codes, x, _ = simulated(few)
    z = embed_rows(encoder, features.source(x), next(encoder.parameters()).device).cpu().numpy()
    for code in np.flatnonzero(few >= FEW):
        own = reference.z[reference.codes == code].std(axis=0).mean()
        width[code] = np.clip(own / max(z[codes == code].std(axis=0).mean(), 1e-12), NARROW, WIDE)
    codes, x, _ = simulated(sizes)
    return SimulatedCells(x, features.pcs(x), codes)


@functools.lru_cache
def _expected(scale: float) -> np.ndarray:
    """Return the expected value of log(1 + scale * count) for Poisson counts, at each of the rates."""
    found: np.ndarray = poisson.pmf(COUNTS, RATES[:, None]) @ np.log1p(scale * COUNTS)
    return found


def _cells(features: Features, pcs: np.ndarray, random: np.random.Generator) -> Matrix:
    """Return cells by genes, whose expected log-transformed values follow from principal components."""
    unit = features.unit.astype(np.float64)
    axes = features.axes * unit
    value, silent = features.center + unit * (pcs @ axes), ~features.axes.any(axis=0)
    if not features.counts:
        value = value + unit * np.sqrt(np.maximum(1 - features.variance @ axes**2, 0)) * random.normal(size=value.shape)
        return (value if features.negative else np.maximum(value, 0)).astype(np.float32)
    rate = np.interp(np.maximum(value, 0), _expected(features.usual_depth / features.depth), RATES)
    rate[:, silent] = (features.shares * features.depth)[silent]  # genes that the components do not see
    return sp.csr_matrix(random.poisson(rate).astype(np.float32))

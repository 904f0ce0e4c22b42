"""Which label of one dataset is which of another, by the types of a model and by neighbours.

There are two steps. First, the types of the model say which labels of the other dataset a cell can correspond to. A
cell of a type that the other dataset does not have corresponds to none. Then, where a type has several labels in the
other dataset, neighbours decide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import log_expit, softmax

from tripletomics.labels.calibration import Calibration
from tripletomics.labels.reference import build_reference

ROUNDS, LAST_ROUND = 4, 100  # rounds for a label that may have several types: few, as a compromise; until convergence
BLOCK = 20_000  # cells whose evidence is held at once
Z95 = 1.96  # normal quantile of a 95 % interval


@dataclass(frozen=True)
class Labelled:
    """Labelled cells of a dataset, as a model sees them.

    Attributes
    ----------
    types
        Probabilities of the model's types (cells, types). The rest, up to 1, is the probability of no type.
    z, pcs
        Metric space (cells, metric_dim) and principal components (cells, components).
    codes
        Codes of their labels (cells,). Every label has a cell.
    """

    types: np.ndarray
    z: np.ndarray
    pcs: np.ndarray
    codes: np.ndarray

    @property
    def n_labels(self) -> int:
        """Number of labels."""
        return int(self.codes.max()) + 1

    @property
    def known(self) -> np.ndarray:
        """Probability that a cell is of any type of the model (cells, 1)."""
        return np.minimum(self.types.sum(axis=1, keepdims=True), 1)


def compose(p: np.ndarray, prior: np.ndarray, rounds: int) -> np.ndarray:
    """Return probabilities of types (cells, types), adapted to cells among which types are more or less common.

    Each round takes the mean of the probabilities as the prior of the next round: expectation maximisation (Saerens,
    Latinne & Decaestecker 2002). After many rounds, the sum over the cells counts the cells of each type with little
    error, also for types that no cell has.
    """
    p = p + np.finfo(np.float32).tiny * prior  # a cell may be unlike all types
    p = p / p.sum(axis=1, keepdims=True)
    likelihood, now = p / prior, p
    for _ in range(rounds):
        now = likelihood * now.mean(axis=0)
        now /= now.sum(axis=1, keepdims=True)
    return now


def relate(a: Labelled, b: Labelled, calibration: Calibration, prior: np.ndarray) -> np.ndarray:
    """Return the share of the cells of each label of `a` that corresponds to each label of `b`, or (last) to none.

    Parameters
    ----------
    a, b
        Cells of the two datasets.
    calibration
        Calibration of the model.
    prior
        Share of each type among the cells of the model's reference (types,).

    Returns
    -------
    Shares (labels of a, labels of b + 1). Each row sums to 1.
    """
    fits, apart = _neighbours(a, b, calibration)
    total = (compose(b.types, prior, LAST_ROUND) * b.known).sum(axis=0)
    there = total**2 / (1 + total**2)  # a half for one cell: for an absent type, up to one cell is counted
    counts = np.zeros((b.n_labels, len(prior)))
    for code in range(b.n_labels):
        rows = b.codes == code
        counts[code] = (compose(b.types[rows], prior, LAST_ROUND) * b.known[rows]).sum(axis=0)
    given_type = counts / np.maximum(counts.sum(axis=0), np.finfo(float).tiny)  # share of each label in a type
    common = np.bincount(b.codes) / len(b.codes)
    shares = np.zeros((a.n_labels, b.n_labels + 1))
    for code in range(a.n_labels):
        rows = a.codes == code
        types = compose(a.types[rows], prior, ROUNDS) * a.known[rows]
        shares[code, :-1] = _split(types * there, fits[rows] / common, given_type)
        shares[code, -1] = (types * (1 - there)).sum()
        novel = 1 - a.known[rows]
        shares[code, :-1] += (novel * (1 - apart[rows]) * fits[rows]).sum(axis=0)
        shares[code, -1] += (novel * apart[rows]).sum()
    return shares / shares.sum(axis=1, keepdims=True)


def interval(share: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper ends of the 95 % interval of shares of n cells (Wilson 1927)."""
    centre, scale = share + Z95**2 / (2 * n), 1 + Z95**2 / n
    half = Z95 * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return np.clip((centre - half) / scale, 0, share), np.clip((centre + half) / scale, share, 1)


def _neighbours(a: Labelled, b: Labelled, calibration: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """Return how well each label of `b` fits each cell of `a` (cells, labels), and P(none of them fits) (cells, 1).

    The cells of `b` are the reference, and the weights of the evidence are those for the types of the model. A cell is
    not its own neighbour, so both datasets may be the same.
    """
    reference = build_reference(b.z, b.z[:, :0], b.pcs, b.codes, b.n_labels, 0)
    calibration = replace(calibration, n_types=b.n_labels)
    fits, apart = [], []
    for i in range(0, len(a.z), BLOCK):
        z, pcs = a.z[i : i + BLOCK], a.pcs[i : i + BLOCK]
        log_p = log_expit(calibration.odds(reference.evidence(z, pcs, np.ones(len(z), dtype=bool))))
        apart.append(np.clip(1 - np.exp(log_p).sum(axis=1, keepdims=True), 0, 1))
        fits.append(softmax(log_p, axis=1))
    return np.concatenate(fits), np.concatenate(apart)


def _split(types: np.ndarray, likelihood: np.ndarray, given_type: np.ndarray) -> np.ndarray:
    """Return how many cells of one label correspond to each label of the other dataset (labels,).

    Parameters
    ----------
    types
        Probability that a cell is of each type and that this type is there (cells, types).
    likelihood
        How well each label fits a cell, divided by how common the label is (cells, labels).
    given_type
        Share of each label among the cells of a type (labels, types).
    """
    least = np.finfo(float).tiny
    weight = np.ones(len(given_type))
    expected = (types @ given_type.T).sum(axis=0)
    for _ in range(ROUNDS):
        weighed = given_type * weight[:, None]
        found = likelihood * ((types / np.maximum(likelihood @ weighed, least)) @ weighed.T)
        weight = found.sum(axis=0) / np.maximum(expected, least)
    return found.sum(axis=0)

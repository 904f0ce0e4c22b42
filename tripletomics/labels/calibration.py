"""From evidence to probabilities, label sets and novelty that hold on new cells.

Everything is fitted on training cells that the encoder of their reference was not trained on, not on held-out cells: a
part of the training cells, with the principal components that they would have as new cells, or whole batches in turn.
The choice of genes did see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from tripletomics.labels import nodes
from tripletomics.labels.reference import Evidence
from tripletomics.labels.tree import Tree
from tripletomics.metrics import auroc

START = np.array([0.5, 0.5, 0.5, 0.3])  # weights of the evidence before any cell is seen
STIFFNESS = np.array([1, 1, 1, 10.0])  # of each weight, in cells: that of the prior hardly moves
FARTHEST = 3.0  # standard deviations beyond the usual: there, an unknown type is as likely as a known one
QUANTILES = 1001  # quantiles kept in a model file
PAIRS = 5000  # random pairs of a fold


@dataclass(frozen=True)
class Calibration:
    """How evidence is weighed, and what is usual among cells of the known types.

    Attributes
    ----------
    weights
        Weights of the four parts of the evidence (4,).
    center, scale
        Mean and standard deviation (3,) of the two distances behind novelty, in the metric space to the
        nearest cells and in the principal components to the nearest type, and of their weighted sum.
    trust
        Weight of the second of them, in [0, 1]: twice the AUROC above one half with which it separates each known type
        from the others when that type is left out of it.
    novelties
        Novelty of each calibration cell (cells,). In a model file of format 8 or older at most 1,001 quantiles.
    oddities
        Quantiles over the calibration cells (levels,) of the log odds against their true type.
    pair
        Intercept and slopes (3,) of the log odds that two cells are of one type, along their distances in the metric
        space and of their principal components.
    n_cells, n_types
        Calibration cells, and types of the reference.
    pcs
        First principal components of each calibration cell, float32 (cells, 20) or fewer; None in an older file.
    costs
        With types on several levels, quantiles over the calibration cells (levels,) of `nodes.costs_of_truth`; else
        None.
    """

    weights: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    trust: float
    novelties: np.ndarray
    oddities: np.ndarray
    pair: np.ndarray
    n_cells: int
    n_types: int
    pcs: np.ndarray | None = None
    costs: np.ndarray | None = None

    def novelty(self, evidence: Evidence) -> np.ndarray:
        """Return how far cells are from all known types, in standard deviations of the calibration cells: (cells,)."""
        return self.odds_and_novelty(evidence)[1]

    def as_new(self, evidence: Evidence, trained: np.ndarray, near_trained: np.ndarray) -> Evidence:
        """Return evidence in which cells of the encoder's training, boolean (cells,), are no nearer than new cells.

        Parameters
        ----------
        near_trained
            Of `Reference`: mean and sd of their distances, which are brought to those of calibration cells.
        """
        near = evidence.near.copy()
        near[trained] = (near[trained] - near_trained[0]) / near_trained[1] * self.scale[0] + self.center[0]
        return replace(evidence, near=near)

    def odds(self, evidence: Evidence) -> np.ndarray:
        """Return the log odds of each type (cells, classes) against all others and none of them."""
        return self.odds_and_novelty(evidence)[0]

    def odds_and_novelty(self, evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
        """Return the odds and the novelty, which share the weighted sum of the evidence.

        The metric space was not trained to gather the cells of an enrolled type: if it is the best one, it is enough
        that the principal components are typical of it.
        """
        logits = _sum(evidence.logits, self.weights)
        novelty, best = _novelty(evidence.near, evidence.typical, self.center, self.scale, self.trust), logits.argmax(1)
        enrolled = np.flatnonzero(best >= self.n_types)
        d = np.maximum(-evidence.logits[enrolled, best[enrolled], 2], np.finfo(np.float32).tiny)
        novelty[enrolled] = np.minimum(novelty[enrolled], (np.log(d) - self.center[1]) / self.scale[1])
        return _odds(logits, novelty), novelty

    def same(self, a: Evidence, b: Evidence) -> np.ndarray:
        """Return the probability that the cells of a pair are of one type, if half of all pairs were: (pairs,)."""
        return expit(_apart(a, b) @ self.pair[1:] + self.pair[0])

    def novelty_limit(self, reject: float) -> float:
        """Return the novelty that a share `reject` of the cells of known types exceed."""
        return float(np.quantile(self.novelties, 1 - reject)) if reject > 0 else np.inf

    def odds_limit(self, coverage: float) -> float:
        r"""Return the smallest log odds of a type in label sets that hold the true type of a share `coverage` of cells.

        It is that of the :math:`k = \lceil (n + 1) \cdot \text{coverage} \rceil + 1`-th of n calibration cells: split
        conformal prediction (Sadinle, Lei & Wasserman 2019), and one cell more because the weights of the evidence were
        fitted on the same cells. With too few of them, every type belongs to every set.
        """
        return self._limit(self.oddities, coverage)

    def price(self, coverage: float) -> float:
        """Return the price in `nodes.grow_from_half` of sets that hold the true type, found as `odds_limit` is."""
        return float(np.exp(self._limit(cast(np.ndarray, self.costs), coverage)))

    def _limit(self, oddities: np.ndarray, coverage: float) -> float:
        k = np.ceil((self.n_cells + 1) * coverage) + 1
        if k > self.n_cells:
            return -np.inf
        return -float(np.quantile(oddities, (k - 1) / (self.n_cells - 1)))


def fit_calibration(folds: Sequence[tuple[Evidence, np.ndarray]], tree: Tree | None = None) -> Calibration:
    """Fit on the evidence of cells that their reference did not see, and their codes; `tree` has names above the types.

    The weights are those of a conditional logit (McFadden 1974): temperature scaling (Guo, Pleiss, Sun & Weinberger
    2017) for several parts of evidence, kept near the starting weights where there are few cells.

    Raises
    ------
    ValueError
        If there are fewer than two cells.
    """
    folds = [_known(evidence, codes) for evidence, codes in folds]
    codes = np.concatenate([codes for _, codes in folds])
    if len(codes) < 2:
        raise ValueError(f"{len(codes)} calibration cells are too few: two or more are needed.")
    logits, near, typical = (
        np.concatenate([getattr(evidence, name) for evidence, _ in folds]) for name in ("logits", "near", "typical")
    )
    weights = _weigh(logits, codes)
    trust = max(0.0, 2 * _left_out_auroc(folds) - 1)
    center = np.array([near.mean(), typical.mean(), 0.0])
    scale = np.array([near.std() or 1.0, typical.std() or 1.0, 1.0])
    sums = _novelty(near, typical, center, scale, trust)
    center[2], scale[2] = sums.mean(), sums.std() or 1.0
    novelty = _novelty(near, typical, center, scale, trust)
    odds = _odds(_sum(logits, weights), novelty)
    return Calibration(
        weights=weights,
        center=center,
        scale=scale,
        trust=trust,
        novelties=novelty,
        oddities=levels(-odds[np.arange(len(codes)), codes]),
        pair=_fit_pairs(folds),
        n_cells=len(codes),
        n_types=logits.shape[1],
        pcs=np.concatenate([evidence.pcs for evidence, _ in folds]),
        costs=None if tree is None else levels(nodes.costs_of_truth(expit(odds), tree, codes)),
    )


def guess(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Return the best types and their probabilities (cells,), with the starting weights of the evidence."""
    p = softmax(_sum(evidence.logits, START), axis=1)
    return p.argmax(axis=1), p.max(axis=1)


def _known(evidence: Evidence, codes: np.ndarray) -> tuple[Evidence, np.ndarray]:
    """Leave out unlabelled cells and those of types that the fold's reference does not have."""
    rows = np.flatnonzero(codes >= 0)
    rows = rows[np.isfinite(evidence.logits[rows, codes[rows], 0])]
    return evidence.of(rows), codes[rows]


def _weigh(logits: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Minimise the log loss of the softmax of the weighed evidence."""
    cells, finite = np.arange(len(codes)), np.where(np.isfinite(logits), logits, 0)
    stiffness = STIFFNESS / len(codes)

    def log_loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        log_p = log_softmax(_sum(logits, weights), axis=1)
        expected = np.einsum("ij,ijk->ik", np.exp(log_p), finite)
        slope = (expected - finite[cells, codes]).mean(axis=0)
        off = weights - START
        return -log_p[cells, codes].mean() + stiffness @ off**2, slope + 2 * stiffness * off

    return minimize(log_loss, START, jac=True, bounds=[(0, None)] * len(START), method="L-BFGS-B").x


def _sum(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted sum of the evidence: (cells, classes), -inf for absent types also where a weight is 0."""
    with np.errstate(invalid="ignore"):  # -inf * 0
        found = logits @ weights
    found[np.isneginf(logits[:, :, 0])] = -np.inf
    return found


def _left_out_auroc(folds: Sequence[tuple[Evidence, np.ndarray]]) -> float:
    """Score how well the distance of the principal components tells a type that is left out, the mean over types."""
    found = []
    for evidence, codes in folds:
        d = -evidence.logits[:, :, 2]
        for code in np.unique(codes):
            of_type = codes == code
            left_out = d.copy()
            left_out[of_type, code] = np.inf
            if of_type.sum() > 1 and np.isfinite(left_out.min(axis=1)).all():
                found.append(auroc(left_out.min(axis=1), of_type))
    found = [value for value in found if not np.isnan(value)]
    return float(np.mean(found)) if found else 0.5


def _fit_pairs(folds: Sequence[tuple[Evidence, np.ndarray]]) -> np.ndarray:
    """Fit the log odds that a pair is of one type on random pairs of a fold, half of them of one type."""
    random = np.random.default_rng(0)
    apart, same = [], []
    for evidence, codes in folds:
        a, b = random.integers(len(codes), size=(2, PAIRS)) if len(codes) else np.zeros((2, 0), dtype=int)
        # a second cell of the first one's type: the next one in a circle through its type
        order, position = np.argsort(codes, kind="stable"), np.empty(len(codes), dtype=int)
        position[order] = np.arange(len(codes))
        first, size = np.searchsorted(codes[order], codes[a]), np.bincount(codes, minlength=1)[codes[a]]
        mate = order[first + (position[a] - first + 1 + b % np.maximum(size - 1, 1)) % size]
        for other in (b, mate):
            kept = a != other
            apart.append(_apart(evidence.of(a[kept]), evidence.of(other[kept])))
            same.append(codes[a[kept]] == codes[other[kept]])
    x, y = np.concatenate(apart), np.concatenate(same)
    if len(np.unique(y)) < 2:
        return np.array([0.0, -1.0, 0.0])
    # where the second distance would get the wrong sign, only one distance is used
    for columns in ([0, 1], [0], [1]):
        model = LogisticRegression(class_weight="balanced").fit(x[:, columns], y)
        if (model.coef_ <= 0).all():
            slopes = np.zeros(2)
            slopes[columns] = model.coef_[0]
            return np.concatenate([model.intercept_, slopes])
    return np.array([0.0, -1.0, 0.0])


def _apart(a: Evidence, b: Evidence) -> np.ndarray:
    """Return the distances of pairs in the metric space and of their components: (pairs, 2)."""
    return np.stack([np.linalg.norm(a.z - b.z, axis=1), np.linalg.norm(a.white - b.white, axis=1)], axis=1)


def _novelty(near: np.ndarray, typical: np.ndarray, center: np.ndarray, scale: np.ndarray, trust: float) -> np.ndarray:
    known = (near - center[0]) / scale[0] + trust * (typical - center[1]) / scale[1]
    return (known - center[2]) / scale[2]


def _odds(logits: np.ndarray, novelty: np.ndarray) -> np.ndarray:
    """Return log(p / (1 - p)) of p = softmax * P(known), exact where p is nearly 1."""
    known, none = log_expit(-FARTHEST * (novelty - FARTHEST)), expit(FARTHEST * (novelty - FARTHEST))
    cells, best = np.arange(len(logits)), logits.argmax(axis=1)
    log_p = logits - logits[cells, best][:, None]
    p = np.exp(log_p)
    total = p.sum(axis=1, keepdims=True)
    log_p -= np.log(total)
    p /= total
    others = 1 - p
    p[cells, best], largest = 0, p[cells, best]
    others[cells, best] = p.sum(axis=1)  # 1 - p would be 0
    p[cells, best] = largest
    others += p * none[:, None]
    np.maximum(others, np.finfo(float).tiny, out=others)
    log_p += known[:, None]
    log_p -= np.log(others, out=others)
    return log_p


def levels(values: np.ndarray) -> np.ndarray:
    """Return the sorted values, or 1,001 quantiles of them."""
    if len(values) <= QUANTILES:
        return np.sort(values)
    return np.quantile(values, np.linspace(0, 1, QUANTILES))

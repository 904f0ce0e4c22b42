"""Predicted labels, how sure they are, and how often they are right on cells whose labels are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real

import numpy as np
from scipy.special import expit

from tripletomics import metrics
from tripletomics.labels import COVERAGE, REJECT, discoveries, nodes
from tripletomics.labels.calibration import Calibration
from tripletomics.labels.reference import Evidence
from tripletomics.labels.tree import Tree

FEWEST = 5  # cells of a type, of which a share says something


@dataclass(frozen=True)
class Prediction:
    """Labels of cells, and how sure they are.

    Attributes
    ----------
    codes
        Code of the best type (cells,), also for rejected cells.
    confidence
        Probability that the name in `nodes` is right (cells,).
    novelty
        (cells,) in [0, 1]: about the share of the cells of known types that lie nearer to these types.
    unassigned
        Boolean (cells,): farther from all known types than all but the rejected share of their cells; with types on
        several levels also where no name has a probability of one half. None are, if the share is 0.
    sets
        Boolean (cells, types): types that are credible at the coverage asked for; none for a cell unlike all of them.
    probabilities
        Probability of each type, float32 (cells, types). The rest, up to 1, is that of no known type.
    deviation
        Novelty in standard deviations of the calibration cells (cells,).
    p, novel
        Conformal p-value (cells,), and boolean (cells,) whether the cell is on the list of novel cells: 1 and False
        where no list was asked for, and for cells of the fit.
    nodes
        What is written (cells,), also for rejected cells: the best type or, with types on several levels, the node of
        `nodes.deepest_likely`.
    doubtful
        Boolean (cells,): unassigned for no other reason than that no name has a probability of one half.
    """

    codes: np.ndarray
    confidence: np.ndarray
    novelty: np.ndarray
    unassigned: np.ndarray
    sets: np.ndarray
    probabilities: np.ndarray
    deviation: np.ndarray
    p: np.ndarray
    novel: np.ndarray
    nodes: np.ndarray
    doubtful: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Prediction:
        return Prediction(*(getattr(self, part.name)[rows] for part in fields(self)))


def predict(
    evidence: Evidence,
    calibration: Calibration,
    reject: float = REJECT,
    coverage: float = COVERAGE,
    tree: Tree | None = None,
) -> Prediction:
    """Return predictions without a list of novel cells.

    Parameters
    ----------
    evidence, calibration
        Evidence about the cells, and how it is weighed.
    reject, coverage
        As for `tripletomics.predict`.
    tree
        Names above the types, if there are any.
    """
    odds, novelty = calibration.odds_and_novelty(evidence)
    best, p = odds.argmax(axis=1), expit(odds)
    found = Prediction(
        codes=best,
        confidence=p.max(axis=1),
        novelty=expit(1.7 * novelty),  # nearly the normal distribution, with longer tails
        unassigned=novelty > calibration.novelty_limit(reject),
        sets=(odds >= calibration.odds_limit(coverage)) & np.isfinite(odds),
        probabilities=p.astype(np.float32),
        deviation=novelty,
        p=np.ones(len(novelty)),
        novel=np.zeros(len(novelty), dtype=bool),
        nodes=best,
        doubtful=np.zeros(len(novelty), dtype=bool),
    )
    return found if tree is None else _at_nodes(found, p, calibration.price(coverage), tree, reject)


def join(parts: Sequence[Prediction]) -> Prediction:
    """Return the predictions of all cells of some parts, in their order."""
    return Prediction(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Prediction)))


def _at_nodes(found: Prediction, p: np.ndarray, price: float, tree: Tree, reject: float) -> Prediction:
    """Return predictions in which names of all levels take the place of the best types."""
    named, confidence = nodes.deepest_likely(nodes.sum_below(p, tree), tree)
    doubtful = ~found.unassigned & (confidence < nodes.LIKELY) & (reject > 0)
    return replace(
        found, nodes=named, confidence=confidence, sets=nodes.grow_from_half(p, tree, price) & (p > 0),
        unassigned=found.unassigned | doubtful, doubtful=doubtful,
    )  # fmt: skip


def list_novel(
    found: Prediction,
    calibrations: Mapping[str, Calibration],
    measured: np.ndarray,
    pcs: np.ndarray,
    new: np.ndarray,
    fdr: float,
) -> Prediction:
    """Return the predictions with the list of novel cells among the `new` ones, boolean (cells,).

    Parameters
    ----------
    calibrations, measured
        By what was measured, and what was measured of each cell (cells,).
    pcs
        Principal components (cells, components).
    fdr
        As for `tripletomics.predict`.
    """
    discoveries.warn_of_few(min(calibration.n_cells for calibration in calibrations.values()), fdr)
    p, novel = found.p.copy(), found.novel.copy()
    for name, calibration in calibrations.items():
        rows = np.flatnonzero(new & (measured == name))
        p[rows] = discoveries.p_values(calibration, found.deviation[rows], pcs[rows])
    novel[new] = discoveries.discover(p[new], fdr)
    return replace(found, p=p, novel=novel)


def check_shares(reject: float, coverage: float, fdr: float | None = None) -> None:
    """Raise a ValueError unless the shares are in their ranges."""
    if not 0 <= reject < 1:
        raise ValueError(f"reject={reject!r} is not a share in [0, 1); 0 rejects no cell.")
    if not 0 < coverage < 1:
        raise ValueError(f"coverage={coverage!r} is not a share between 0 and 1, such as 0.9.")
    if fdr is not None and (isinstance(fdr, bool) or not isinstance(fdr, Real) or not 0 < fdr < 1):
        raise ValueError(f"fdr={fdr!r} is not a share between 0 and 1, such as 0.1; None makes no list of novel cells.")


def check(found: Prediction, codes: np.ndarray, tree: Tree | None = None) -> dict[str, float]:
    """Score predictions by the codes of labelled cells.

    Returns
    -------
    ``cells``, ``macro_f1`` and ``ece`` of the best types, ``macro_f1_named`` where an unassigned cell counts as wrong,
    ``coverage`` of the label sets and their mean ``set_size``, and the share ``unassigned``.
    """
    known = codes >= 0
    named = found.nodes[known]
    right = named == codes[known] if tree is None else tree.leaves_below()[named, codes[known]]
    return {
        "cells": float(known.sum()),
        "macro_f1": metrics.macro_f1(codes[known], found.codes[known]),
        "macro_f1_named": metrics.macro_f1(codes[known], np.where(found.unassigned, -1, found.codes)[known]),
        "ece": metrics.ece(found.confidence[known], right),
        "coverage": float(found.sets[known, codes[known]].mean()),
        "set_size": float(found.sets[known].sum(axis=1).mean()),
        "unassigned": float(found.unassigned[known].mean()),
    }


def unassigned_of(found: Prediction, codes: np.ndarray, types: int) -> np.ndarray:
    """Return the share of the labelled cells of each type that are unassigned, NaN for types of fewer than 5 cells."""
    known = codes >= 0
    cells, left = (np.bincount(codes[rows], minlength=types) for rows in (known, known & found.unassigned))
    return np.where(cells >= FEWEST, left / np.maximum(cells, 1), np.nan)


def check_levels(found: Prediction, known: nodes.NodeLabels, seed: int) -> dict[str, float]:
    """Score predictions by the labels of cells on several levels.

    Returns
    -------
    For each level ``f1_<name>`` of the most probable name of that level, over the cells that are known there.
    ``hierarchical_f1`` of the names that are written; an unassigned cell has none. Each with a ``..._null``: the mean
    over random orders of the true names among the cells of the same parent. ``names_<level>``, how many names the level
    has, ``set_names``, the mean number of names in
    a label set, and ``coarse_cells``, the number of cells that are known only to a name above the types. If there are
    any, ``coarse_agrees`` is the share of them whose set has a type below this name, and ``coarse_coverage`` the share
    whose set has all of them, that is, this name or one above it.
    """
    tree, truth, checks = known.tree, known.nodes, {}
    best = known.best_on_levels(nodes.sum_below(found.probabilities.astype(np.float64), tree))
    for name, codes in known.on_levels().items():
        checks[f"f1_{name}"], checks[f"f1_{name}_null"] = metrics.level_f1(codes, best[name], tree.parents, seed)
    checks |= {f"names_{name}": float(len(there)) for name, there in known.nodes_on_levels().items()}
    given = truth, np.where(found.unassigned, -1, found.nodes), nodes.lineage(tree)
    coarse = truth >= tree.n_leaves
    below, sets = tree.leaves_below()[truth[coarse]], found.sets[coarse]
    shares = {"coarse_agrees": (below & sets).any(axis=1), "coarse_coverage": ~(below & ~sets).any(axis=1)}
    return checks | {
        "hierarchical_f1": metrics.hierarchical_f1(*given),
        "hierarchical_f1_null": metrics.permuted_hierarchical_f1(*given, tree.parents, seed),
        "set_names": float(nodes.cover(found.sets, tree).sum(axis=1).mean()),
        "coarse_cells": float(coarse.sum()),
        **({name: float(cells.mean()) for name, cells in shares.items()} if coarse.any() else {}),
    }

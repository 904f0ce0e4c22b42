"""Predicted labels, how sure they are, and how often they are right on cells whose labels are known."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.special import expit

from tripletomics import metrics
from tripletomics.labels import COVERAGE, REJECT
from tripletomics.labels.calibration import Calibration
from tripletomics.labels.reference import Evidence


@dataclass(frozen=True)
class Prediction:
    """Labels of cells, and how sure they are.

    Attributes
    ----------
    codes
        Code of the best type (cells,), also for rejected cells.
    confidence
        Probability that it is right (cells,).
    novelty
        (cells,) in [0, 1]: about the share of the cells of known types that lie nearer to these types.
    unassigned
        Boolean (cells,): farther from all known types than all but the rejected share of their cells.
    sets
        Boolean (cells, types): types that are credible at the coverage asked for; none for a cell unlike all of them.
    probabilities
        Of each type, float32 (cells, types); what is left to 1 is that of no known type.
    """

    codes: np.ndarray
    confidence: np.ndarray
    novelty: np.ndarray
    unassigned: np.ndarray
    sets: np.ndarray
    probabilities: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Prediction:
        return Prediction(*(getattr(self, part.name)[rows] for part in fields(self)))


def predict(
    evidence: Evidence, calibration: Calibration, reject: float = REJECT, coverage: float = COVERAGE
) -> Prediction:
    """Return predictions from evidence: ``reject`` and ``coverage`` as for `tripletomics.predict`."""
    odds, novelty = calibration.odds(evidence), calibration.novelty(evidence)
    return Prediction(
        codes=odds.argmax(axis=1),
        confidence=expit(odds.max(axis=1)),
        novelty=expit(1.7 * novelty),  # nearly the normal distribution, with longer tails
        unassigned=novelty > calibration.novelty_limit(reject),
        sets=(odds >= calibration.odds_limit(coverage)) & np.isfinite(odds),
        probabilities=expit(odds).astype(np.float32),
    )


def check(found: Prediction, codes: np.ndarray) -> dict[str, float]:
    """Score predictions by the codes of labelled cells.

    Returns
    -------
    ``cells``, ``macro_f1`` and ``ece`` of the best types, ``coverage`` of the label sets and their mean ``set_size``,
    and the share ``unassigned``.
    """
    known = codes >= 0
    right = found.codes[known] == codes[known]
    return {
        "cells": float(known.sum()),
        "macro_f1": metrics.macro_f1(codes[known], found.codes[known]),
        "ece": metrics.ece(found.confidence[known], right),
        "coverage": float(found.sets[known, codes[known]].mean()),
        "set_size": float(found.sets[known].sum(axis=1).mean()),
        "unassigned": float(found.unassigned[known].mean()),
    }

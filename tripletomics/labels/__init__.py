"""Class codes and names."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from tripletomics.labels.columns import (
    UNASSIGNED,
    UNLABELLED,
    encode,
    flags,
    is_missing,
    known,
    names,
    several,
    split_of,
)

NO_SIGNAL = 0.01  # a permutation p above this: permuted labels of the held-out cells score as well
TOO_FEW = "too few held-out cells to tell"
REJECT, COVERAGE = 0.05, 0.9  # share of the known cells that may be rejected, and that label sets hold


__all__ = [
    "COVERAGE",
    "NO_SIGNAL",
    "REJECT",
    "TOO_FEW",
    "UNASSIGNED",
    "UNLABELLED",
    "encode",
    "flags",
    "is_missing",
    "known",
    "known_first",
    "names",
    "permute",
    "several",
    "split_of",
    "verdict",
]


def known_first(codes: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Give the first codes to the types that training cells have, so that no other type changes what is learned.

    Returns
    -------
    codes
        The new ones.
    order
        The old code of each new one.
    n_known
        Types that training cells have.
    """
    seen = np.isin(np.arange(codes.max() + 1), codes[train])
    order = np.argsort(~seen, kind="stable")
    return np.where(codes >= 0, np.argsort(order)[codes], -1), order, int(seen.sum())


def verdict(p: float, reachable: float = 0.0) -> Literal["signal", "no signal", "too few", "not tested"]:
    """Return what a permutation test of the held-out labels shows.

    Parameters
    ----------
    p, reachable
        The values of `metrics.permutation_p` and `metrics.reachable_p`: a test that could not have found a signal
        shows nothing.
    """
    if math.isnan(p):
        return "not tested"
    if p <= NO_SIGNAL:
        return "signal"
    return "too few" if reachable > NO_SIGNAL else "no signal"


def permute(codes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Deal the codes of the labelled cells out again among them."""
    known = codes >= 0
    shuffled = codes.copy()
    shuffled[known] = random.permutation(codes[known])
    return shuffled

"""The limits that a model has to meet, and what a test of its held-out labels shows."""

from __future__ import annotations

import math
from typing import Literal

NO_SIGNAL = 0.01  # a permutation p above this: permuted labels of the held-out cells score as well
TOO_FEW = "too few held-out cells to tell"
REJECT, COVERAGE = 0.05, 0.9  # share of known cells that may be rejected; share whose label sets hold the true type


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

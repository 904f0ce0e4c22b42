"""The scale of values: counts or not, and how they were normalised and logged. The fit decides, the model keeps it.

Two signs show how values were logged, for any genes and any depth. Undoing the logarithm gives every cell the total
that it was scaled to, if all genes are there. And it gives whole multiples of the value of one molecule, if molecules
were counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from tripletomics import gaps
from tripletomics.pcs import PANEL
from tripletomics.sources import Matrix

LOGGED = 30  # log1p of 1e13: no natural logarithm of a measurement is larger; log2 of an intensity reaches 40
TAIL = 4  # times the median value: the largest count is above this, the largest log2 is not
SMALL, SMALL_SHARE = 10, 0.1  # at least this share of the counts of a panel are small, in its faint features
LOWEST_SHARE = 0.01  # and at least this share are 0, 1 or 2
CLIPPED = 0.85  # of the smallest ratio of ones to twos that counts with so many zeros have
RARE, PANEL_CELLS = 20, 20_000  # zeros for each one in a feature with large values, and cells that are tested
SAMPLED, LEAST = 500, 20  # cells that are tested, and the fewest that show anything
SAME = 0.02  # share by which totals of cells may differ, and multiples may differ from whole ones
SUMS = 1e-4  # the same for values that were not logged, whose sums may be alike by chance
MULTIPLES, CLEAR = 12, 0.7  # largest multiple that can be told from chance, and the share that must be whole
MARGIN, HIGHEST = 0.2, 40  # gain in that share by undoing a logarithm, at least; log2 of 1e12, the largest logarithm
INVERSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log1p": np.expm1,
    "log2(1 + x)": lambda v: np.exp2(v) - 1,
    "log10(1 + x)": lambda v: np.power(10.0, v) - 1,
    "log1p, taken twice": lambda v: np.expm1(np.expm1(v)),
    "normalised": lambda v: v,
}


@dataclass(frozen=True)
class Scale:
    """What the values of a matrix are, as far as they show it.

    Attributes
    ----------
    kind
        "whole" numbers, "negative" where some values are, one of `INVERSES` for what was normalised (and logged), and
        "" where it is unclear.
    total
        Total that each cell was scaled to over all genes, before the logarithm; 0 where cells differ.
    step
        Median value of one molecule of a cell, before the logarithm; 0 where it does not show.
    below
        Share of the values that are below 0.
    """

    kind: str = ""
    total: float = 0.0
    step: float = 0.0
    below: float = 0.0

    @property
    def logged(self) -> bool:
        """Whether the values were logged for certain."""
        return self.kind.startswith("log")

    def __str__(self) -> str:
        what = {"": "continuous values", "whole": "whole numbers", "negative": "values below 0",
                "normalised": "normalised values without a logarithm"}.get(self.kind, self.kind)  # fmt: skip
        return f"{what} of {self.total:,.0f} a cell" if self.total else what


def see(x: Matrix) -> Scale:
    """Return the scale of a matrix, from up to 500 cells with all its genes."""
    values = gaps.stored(x)
    if not len(values) or not values.any():
        return Scale()
    if values.min() < 0:
        rows = _rows(x)
        return Scale("negative", below=float(np.mean([(row < 0).sum() for row in rows]) / x.shape[1]))
    if whole(values):
        return Scale("whole")
    rows = [row.astype(np.float64) for row in _rows(x)]
    if len(rows) < LEAST:
        return Scale()
    with np.errstate(over="ignore", invalid="ignore"):
        by_total = {kind: _total(rows, inverse, kind) for kind, inverse in INVERSES.items()}
        by_step = {kind: _step(rows, inverse, kind) for kind, inverse in INVERSES.items()}
    kind, (spread, total) = min(by_total.items(), key=lambda item: item[1][0])
    if spread < 1:
        return Scale(kind, total, by_step[kind][1] if by_step[kind][0] >= CLEAR else 0.0)
    kind, (share, step) = max(by_step.items(), key=lambda item: item[1][0])
    if kind != "normalised" and (values.max() > HIGHEST or by_step["normalised"][0] > share - MARGIN):
        return Scale()  # small counts, some of them whole, look like a logarithm
    return Scale(kind, 0.0, step) if share >= CLEAR else Scale()


def _rows(x: Matrix) -> list[np.ndarray]:
    """Return the values that are not 0 of up to 500 cells."""
    chosen = np.unique(np.linspace(0, x.shape[0] - 1, SAMPLED).astype(int))
    x = x.tocsr()[chosen] if sp.issparse(x) else x[chosen]
    rows = np.split(x.data, x.indptr[1:-1]) if sp.issparse(x) else list(x)
    rows = [row[(row != 0) & (row == row)] for row in rows]  # neither zeros nor gaps
    return [row for row in rows if len(row)]


def _total(rows: list[np.ndarray], inverse: Callable[[np.ndarray], np.ndarray], kind: str) -> tuple[float, float]:
    """Return how far the totals of cells differ, in units of what is allowed, and their median."""
    totals = np.array([inverse(row).sum() for row in rows])
    middle = float(np.median(totals))
    if not np.isfinite(totals).all() or middle <= 0:
        return np.inf, 0.0
    # a few cells may differ: those that have none of the genes, or come from elsewhere
    spread = np.quantile(np.abs(totals / middle - 1), 0.9)
    return float(spread / (SUMS if kind == "normalised" else SAME)), middle


def _step(rows: list[np.ndarray], inverse: Callable[[np.ndarray], np.ndarray], kind: str) -> tuple[float, float]:
    """Return the share of values that are whole multiples of the smallest of their cell, and the median of these."""
    steps, multiples = [], []
    for row in rows:
        found = inverse(row)
        steps.append(found.min())
        ratio = found / max(found.min(), 1e-300)
        if kind != "normalised":  # 2**x - 1 of a whole count is whole, too, and says nothing
            ratio = ratio[row != np.round(row)]
        multiples.append(ratio[(ratio > 1.5) & (ratio <= MULTIPLES)])
    every = np.concatenate(multiples)
    if len(every) < 10 * LEAST:
        return 0.0, 0.0
    return float((np.abs(every - np.round(every)) < SAME).mean()), float(np.median(steps))


def looks_like_counts(x: Matrix, width: int | None = None, tail: float = TAIL) -> bool:
    """Return whether values are counts (of molecules, or non-integer of reads), not logged or intensities of a panel.

    Counts are not negative. With 100 features or more they are whole, or cannot be a logarithm: normalised counts by
    the signs that `see` looks for, or values above 30 and above `tail` times the median of those that are not 0. With
    fewer features they are whole, a tenth of them are 10 or less, and 0 is no more common than expected from 1 and 2: a
    cytometer cuts its noise at 0.

    `width` is the number of features that were measured, where `x` has a part of them.
    """
    values = gaps.stored(x)
    if not len(values):
        return True  # no values, so nothing speaks against counts
    if values.min() < 0:
        return False
    if (x.shape[1] if width is None else width) < PANEL:
        return whole(values) and _small_are_counts(x)
    if whole(values):
        return True
    kind = see(x).kind
    if kind:
        return kind == "normalised"
    most = float(values.max())
    return most > LOGGED and most > tail * float(np.median(values[values > 0]))


def _small_are_counts(x: Matrix) -> bool:
    """Return whether the small whole numbers of a panel are those of counts.

    Of negative binomial counts, ones are at least 2 / (1 + ones / zeros) times as common as twos. This is tested for
    each feature with zeros, and weighted by their number.
    """
    chosen = np.unique(np.linspace(0, x.shape[0] - 1, PANEL_CELLS).astype(int))
    dense = x.tocsr()[chosen].toarray() if sp.issparse(x) else np.asarray(x)[chosen]
    none, one, two = ((dense == value).sum(axis=0) for value in range(3))
    if (dense <= SMALL).mean() < SMALL_SHARE or (none + one + two).sum() < LOWEST_SHARE * dense.size:
        return False
    fits = one * (none + one) >= CLIPPED * 2 * two * none
    fits |= none <= one + two  # too few to have been cut
    fits &= (none <= RARE * one) | (dense.max(axis=0) <= SMALL)
    return bool(none[fits].sum() >= 0.5 * none.sum())


def whole(values: np.ndarray) -> bool:
    """Return whether all values are whole numbers."""
    blocks = np.array_split(values, len(values) // 2**20 + 1)
    return all(np.array_equal(block, np.round(block)) for block in blocks)

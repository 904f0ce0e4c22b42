"""A published map to adopt: the loss that learns its coordinates, and the errors of the learned coordinates.

A published map comes as coordinates: the object that made it is lost. The map head learns them as a function of the
cell. Held-out cells show how far this succeeds. Their errors are compared with those of two other ways: the mean of the
nearest training cells, and the same map head trained on coordinates that are permuted among the cells.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from scipy.stats import wilcoxon
from torch import Tensor

from tripletomics import metrics
from tripletomics.knn import NEIGHBOURS, nearest
from tripletomics.losses.base import Loss

UNIT = 10.0  # width of every map in the units in which the map head learns it
LEAST = 16  # fewest training cells with coordinates: one and its 15 neighbours
LEARNED, AVERAGED, PERMUTED = "tt", "mean of 15 nearest", "permuted coordinates"  # methods of the table of errors
EVERY = "all"  # cell types, in that table
SIGNIFICANT = 0.01  # p-value; above it, a map is learned no better than permuted coordinates


class Distance(Loss):
    r"""Bring cells to given coordinates.

    .. math::
        L = \frac1n \sum_i \lVert a_i - c_i \rVert

    with learned coordinates a and given coordinates c. It is the mean of distances, not of squared distances. Where
    cells of one kind lie on several islands, squared distances are least between the islands, and distances on the
    largest island (the geometric median, Weber 1909).

    Parameters
    ----------
    given
        Coordinates (cells, dim). The map head learns them centred, in tenths of the map's width.
    """

    def __init__(self, given: np.ndarray) -> None:
        super().__init__()
        low, high = given.min(axis=0), given.max(axis=0)
        self.middle, self.unit = torch.from_numpy((low + high) / 2), float((high - low).max()) / UNIT
        self.given: Tensor
        self.register_buffer("given", (torch.from_numpy(given) - self.middle) / self.unit, persistent=False)

    def forward(self, a: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of the coordinates `a` (n, dim) of the cells `rows` (n,)."""
        squared = (a - self.given[rows.to(a.device)]).square().sum(dim=1)
        return (squared + 1e-6).sqrt().mean()  # the root of 0 has no gradient


def width_of(given: np.ndarray) -> float:
    """Return the width of a map: the longest side of the box around its cells."""
    return float(np.ptp(given, axis=0).max())


def nearest_means(
    known: Mapping[str, np.ndarray], given: np.ndarray, asked: Mapping[str, np.ndarray], truth: np.ndarray
) -> np.ndarray:
    """Return the mean coordinates of the 15 nearest training cells, by the kind of components with the smallest error.

    Parameters
    ----------
    known, asked
        Principal components of training cells and of held-out cells, by their kind.
    given, truth
        Coordinates of the same training cells and held-out cells.
    """
    k = min(NEIGHBOURS, len(given))
    found = [given[nearest(pcs, asked[kind], k)[1]].mean(axis=1) for kind, pcs in known.items()]
    return min(found, key=lambda m: float(np.median(np.linalg.norm(m - truth, axis=1))))


def error_table(
    found: Mapping[str, np.ndarray],
    truth: np.ndarray,
    codes: np.ndarray,
    given: np.ndarray,
    given_codes: np.ndarray,
    classes: list[str],
) -> pd.DataFrame:
    """Return how far coordinates of held-out cells are from the true ones.

    Parameters
    ----------
    found
        Coordinates (cells, dim) by method: "tt", and the methods that it is compared with.
    truth, codes
        True coordinates and types of the same cells; -1 is unlabelled, and codes beyond `classes` are unknown types.
    given, given_codes
        Coordinates and types of the training cells, among which neighbours are found.
    classes
        Names of the types.

    Returns
    -------
    A row for each method and ``cell_type`` ("all", or one of `classes`):

    ``cells``
        Number of held-out cells.
    ``median``, ``p90``, ``median_percent``, ``p90_percent``
        Median and 90th percentile of the distance to the true coordinates, in the map's units and in percent of its
        width. The width is the longest side of the box around the training cells.
    ``right_type``, ``macro_f1``, ``right_type_true``, ``macro_f1_true``
        Share of cells for whose type their 15 nearest training cells on the map vote, and macro-F1 of this vote; both
        also at the true coordinates.
    ``p_value``
        How likely it is by chance that the errors are so much smaller than those of permuted coordinates.
    """
    width, rows, k = width_of(given), [], max(len(classes), int(max(codes.max(), given_codes.max())) + 1)
    known = codes >= 0
    labelled = bool(len(classes)) and bool(known.any())
    votes = {
        name: metrics.knn_votes(given, given_codes, m[known], k).argmax(axis=1) if labelled else np.zeros(0, dtype=int)
        for name, m in {"true": truth, **found}.items()
    }
    errors = {name: np.linalg.norm(m - truth, axis=1) for name, m in found.items()}
    for name, error in errors.items():
        parts = {EVERY: np.ones(len(codes), dtype=bool)}
        parts |= {kind: codes == code for code, kind in enumerate(classes) if (codes == code).any()}
        for kind, part in parts.items():
            middle, far = np.quantile(error[part], (0.5, 0.9))
            row = {"method": name, "cell_type": kind, "cells": int(part.sum()), "median": middle, "p90": far}
            row |= {"median_percent": 100 * middle / width, "p90_percent": 100 * far / width}
            asked = codes[known & part]
            for end, vote in (("", votes[name]), ("_true", votes["true"])):
                right = vote[part[known]] == asked if labelled else np.zeros(0)
                row[f"right_type{end}"] = float(right.mean()) if len(right) else np.nan
                scored = labelled and kind == EVERY
                row[f"macro_f1{end}"] = metrics.macro_f1(codes[known], vote) if scored else np.nan
            row["p_value"] = np.nan
            if name == LEARNED and kind == EVERY and PERMUTED in errors:
                row["p_value"] = better_p(error, errors[PERMUTED])
            rows.append(row)
    return pd.DataFrame(rows)


def better_p(errors: np.ndarray, others: np.ndarray) -> float:
    """Return how likely it is by chance that errors are so much smaller than others (Wilcoxon 1945, signed ranks)."""
    if not (errors != others).any():
        return 1.0
    return float(wilcoxon(errors, others, alternative="less").pvalue)

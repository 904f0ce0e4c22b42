"""A published map to adopt: the loss with which its coordinates are learned, and how far off learned ones are.

A published map comes as coordinates: the object that made it is lost. The map head is a function of the cell, so it can
learn any coordinates. What it cannot know of them, held-out cells show, next to the mean of the nearest training cells
and to the same head trained on coordinates that are permuted among the cells.
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

UNIT = 10.0  # widths of a map in which the head learns it
LEAST = 16  # training cells with coordinates: 15 neighbours of another
LEARNED, AVERAGED, PERMUTED = "tt", "mean of 15 nearest", "permuted coordinates"  # methods of the table of errors
EVERY = "all"  # cell types, in that table
SIGNIFICANT = 0.01  # p above which a map is not better learned than permuted coordinates


class Distance(Loss):
    r"""Bring cells to the coordinates that they are given.

    .. math::
        L = \frac1n \sum_i \lVert a_i - c_i \rVert

    The mean of distances, not of their squares: of several islands on which cells of one kind lie, the squares would
    choose a place between them, and the distances the largest island (the geometric median, Weber 1909).

    Parameters
    ----------
    given
        Coordinates (cells, dim). The head learns them centred, in tenths of the map's width.
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
    """Return the mean coordinates of the 15 nearest training cells, by the kind of components with the least error.

    Parameters
    ----------
    known, asked
        Components of training cells and of those that are asked about, by their kind.
    given, truth
        Coordinates of both.
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
    """Compare coordinates of held-out cells with the true ones.

    Parameters
    ----------
    found
        Coordinates (cells, dim) by method: "tt", and what it is compared with.
    truth, codes
        True coordinates and types of the same cells; -1 is unlabelled, and codes beyond `classes` are unknown types.
    given, given_codes
        Coordinates and types of the training cells, among which neighbours are looked for.
    classes
        Names of the types.

    Returns
    -------
    A row for each method and ``cell_type`` ("all", or one of `classes`). Columns: ``cells``; ``median`` and ``p90`` of
    the distance to the true place in the map's units, and in percent of its width (``_percent``), the longest side of
    the box around the training cells; ``right_type``, the share of cells whose 15 nearest training cells on the map
    vote for their type, and ``macro_f1``, both also at the true places (``_true``); ``p_value``, how likely the errors
    would be so much smaller than those of permuted coordinates by chance.
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
    """Return how likely errors would be so much smaller than others if they were not (Wilcoxon 1945, signed ranks)."""
    if not (errors != others).any():
        return 1.0
    return float(wilcoxon(errors, others, alternative="less").pvalue)

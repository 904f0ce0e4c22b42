"""Scores of an embedding: arrays in, a number out."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

NEIGHBOURS = 15


def knn_macro_f1(
    z: np.ndarray, y: np.ndarray, query: np.ndarray | None = None, query_y: np.ndarray | None = None
) -> float:
    """Score how well the 15 nearest labelled cells name the type of a cell.

    The label of a query cell is the most frequent one among its nearest reference cells. The score is the mean over
    types of F1 = 2 TP / (2 TP + FP + FN), so that a rare type counts as much as a common one.

    Parameters
    ----------
    z, y
        Reference embedding (cells, dim) and its codes; code -1 is left out.
    query, query_y
        The cells to score; without them every reference cell is scored against all the others.

    Returns
    -------
    Macro-F1 in [0, 1], NaN if there is nothing to score or only one reference cell.
    """
    known = y >= 0
    z, y = z[known], y[known]
    if query is not None and query_y is not None:
        query, truth = query[query_y >= 0], query_y[query_y >= 0]
    else:
        query, truth = None, y
    if len(y) < 2 or not len(truth):
        return float("nan")
    classifier = KNeighborsClassifier(min(NEIGHBOURS, len(y) - (query is None))).fit(z, y)
    return float(f1_score(truth, classifier.predict(query), average="macro", zero_division=0))

"""Scores of further columns: how well the neighbours of a cell predict its value, or its type in such a column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tripletomics import metrics
from tripletomics.labels import ordering
from tripletomics.labels.targets import Target

CORRELATION, WITHIN, ERROR, F1 = "order_correlation", "order_correlation_within_types", "order_error", "column_f1"
NONE_WITHIN = "no score within types, because no type has five held-out cells of which some values differ"
Further = dict[tuple[str, str], float]  # by the name of a metric and the column


def score_columns(
    z: np.ndarray, columns: Sequence[Target], codes: np.ndarray, held_out: np.ndarray, split: str
) -> Further:
    """Return how well neighbours among training cells predict further columns; no score if too few cells have a value.

    Parameters
    ----------
    z
        The space (cells, dim).
    columns
        The further columns.
    codes, held_out
        Types (cells,), -1 where unknown, and which cells are held out, boolean (cells,).
    split
        Which cells are asked about: "held-out", or "train" for training cells among themselves.
    """
    found: Further = {}
    for column in columns:
        known = ~np.isnan(column.values)
        train, asked = known & ~held_out, known & (held_out if split == "held-out" else ~held_out)
        if train.sum() < 2 or not asked.any():
            continue
        query, truth = (z[asked] if split == "held-out" else None), column.values[asked]
        if column.classes is not None:
            answers = None if query is None else column.y[asked]
            found[F1, column.name] = metrics.knn_macro_f1(z[train], column.y[train], query, answers)
            continue
        guess = metrics.mean_of_neighbours(z[train], column.values[train], query, column.period)
        found[CORRELATION, column.name] = metrics.correlation(guess, truth, column.period)
        if (codes >= 0).any():
            within = metrics.correlation_within(guess, truth, codes[asked], column.period)
            found[WITHIN, column.name] = within
        found[ERROR, column.name] = float(metrics.distance(guess, truth, column.period).mean())
    return found


def column_sentences(
    table: pd.DataFrame, columns: Sequence[Target], codes: np.ndarray, held_out: np.ndarray, seed: int
) -> list[str]:
    """Return in words what the scores of further columns show in each space, and where their null shows nothing."""
    lines, types = [], bool((codes >= 0).any())
    values = table.set_index(["space", "metric", "type", "split"])["value"]
    for column in columns:
        for space in table["space"].unique():
            measure, word = (F1, "macro-F1") if column.classes else (CORRELATION, "correlation")
            held, null = (values.get((space, measure, column.name, split)) for split in ("held-out", "permuted"))
            if held is None or null is None:
                continue
            where = "within types" if types else "among them"
            lines.append(f"{space}, {column.name}: held-out {word} {held:.3f}; cells shuffled {where} {null:.3f}.")
        if types and column.classes is None and (table["type"] == column.name).any():
            of_column = (table["metric"] == WITHIN) & (table["type"] == column.name) & (table["split"] == "held-out")
            lines += [f"{column.name}: {NONE_WITHIN}."] * bool(table.loc[of_column, "value"].isna().all())
        random, part = np.random.default_rng(seed), column.subset(held_out)
        permuted = ordering.permute(part.values, codes[held_out], None, random)
        if types and permuted is not None and ordering.freedom(permuted, part, random) < ordering.HARDLY:
            lines.append(no_freedom_sentence(column.name, "types"))
    return lines


def no_freedom_sentence(column: str, groups: str) -> str:
    """Return in words that a null which permutes within groups says nothing of a column."""
    return (
        f"Within {groups}, {column} varies little or not at all, so a null that permutes it there says nothing. The "
        f"score of {column} may be that of {groups} alone."
    )

"""Scores of a fit: how well the labels of held-out cells, or their neighbours, can be read from the embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tripletomics import adoption, metrics, predictors
from tripletomics.folds import subsample
from tripletomics.knn import NEIGHBOURS
from tripletomics.labels import prediction
from tripletomics.losses.levels import contained
from tripletomics.monitor import end_with

if TYPE_CHECKING:
    from tripletomics.labels.tree import Tree
    from tripletomics.model.model import Model
    from tripletomics.nulls import Nulls
    from tripletomics.problem import FitProblem, Settings

SCORED, REFERENCES = 5_000, 50_000  # cells whose neighbours are looked for, and among how many at most


def score_fit(
    model: Model,
    problem: FitProblem,
    settings: Settings,
    embedding: Mapping[str, np.ndarray],
    nulls: Nulls,
) -> None:
    """Add the scores of a fit to its model: of held-out cells, of training cells, and of the nulls."""
    if nulls.misplaced is not None:
        model.map_errors = score_adopted(problem, embedding["map"], nulls.misplaced, settings.seed)
    if problem.held_out.any():
        model.ordered = score_values(model, problem, embedding["metric"], nulls.values)
    codes, held_out, seed = problem.codes, problem.held_out, settings.seed
    if not problem.classes:
        model.scores = score_structure(embedding, problem.pcs, held_out, seed)
        return
    model.scores, model.p_value = score(embedding, codes, held_out, seed)
    if (null := nulls.types) is not None:
        model.scores["permuted"] = score_null(null.coordinates, null.codes, null.held_out, seed)
    end_with(model.history, model.scores.get("held-out", {}))
    if model.p_value:
        model.findings["tested"] = test_of(codes, held_out, seed)
    if problem.tree is not None:
        model.findings |= score_names(model, problem, problem.tree, embedding["metric"])


def score_values(
    model: Model, problem: FitProblem, z: np.ndarray, permuted: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Return the `Model.ordered` of held-out cells; `permuted` are the scores of the null, by column."""
    scores = predictors.check_values(problem, model.targets, z)
    kept = {"correlation", "correlation_within_types", "error", "macro_f1", "accuracy", "freedom"}
    return {
        name: found | {f"null_{key}": value for key, value in permuted.get(name, {}).items() if key in kept}
        for name, found in scores.items()
    }


def score(
    embedding: Mapping[str, np.ndarray], y: np.ndarray, held_out: np.ndarray, seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Score every space on the held-out cells, and for comparison on the training cells among themselves.

    In a large dataset, 5,000 cells that are drawn are scored by the nearest of 50,000.

    Returns
    -------
    scores
        Macro-F1 by group of cells and space.
    p_value
        By space: how often permuted labels of the held-out cells score as well.
    """
    order = np.random.default_rng([seed, 4]).permutation(len(y))
    known = order[~held_out[order]][: REFERENCES + SCORED]
    scores = {"train": {space: _scored(z, y, known) for space, z in embedding.items()}}
    p_value = {}
    if held_out.any():
        scores["held-out"] = {}
        for space, z in embedding.items():
            truth, predicted = _found(z, y, held_out, order)
            scores["held-out"][space] = metrics.macro_f1(truth, predicted)
            p_value[space] = metrics.permutation_p(truth, predicted, seed)
    return scores, p_value


def score_adopted(problem: FitProblem, m: np.ndarray, misplaced: np.ndarray, seed: int) -> pd.DataFrame:
    """Return the `Model.map_errors` of up to 5,000 held-out cells, by neighbours among up to 50,000 training cells.

    Parameters
    ----------
    m
        All cells on the map.
    misplaced
        Held-out cells on the map learned from permuted coordinates.
    """
    published, held = problem.published, np.flatnonzero(problem.held_out)
    if published is None or not (asked := np.isfinite(published[held]).all(axis=1)).any():
        return pd.DataFrame()
    random = np.random.default_rng([seed, 11])
    some = random.permutation(np.flatnonzero(asked))[:SCORED]
    rows, known = held[some], random.permutation(np.flatnonzero(problem.given))[:REFERENCES]
    width = problem.features.width
    kinds = {"pcs": problem.pcs, "plain": problem.map_pcs[:, width:]}
    kinds = {kind: pcs for kind, pcs in kinds.items() if pcs.shape[1]}
    means = adoption.nearest_means(
        {kind: pcs[known] for kind, pcs in kinds.items()}, published[known],
        {kind: pcs[rows] for kind, pcs in kinds.items()}, published[rows],
    )  # fmt: skip
    found = {adoption.LEARNED: m[rows], adoption.AVERAGED: means, adoption.PERMUTED: misplaced[some]}
    return adoption.error_table(
        found, published[rows], problem.codes[rows], published[known], problem.codes[known], problem.classes
    )


def test_of(y: np.ndarray, held_out: np.ndarray, seed: int) -> np.ndarray:
    """Return how many labelled held-out cells `score` tests, of how many types, and their `metrics.reachable_p`."""
    order = np.random.default_rng([seed, 4]).permutation(len(y))
    truth = y[_asked(y, held_out, order)]
    return np.array([len(truth), len(np.unique(truth)), metrics.reachable_p(truth, seed)])


def score_null(embedding: Mapping[str, np.ndarray], y: np.ndarray, held_out: np.ndarray, seed: int) -> dict[str, float]:
    """Score every space on held-out cells whose codes mean nothing: macro-F1, the mean over random orders of them."""
    found = {space: _found(z, y, held_out, np.arange(len(y))) for space, z in embedding.items()}
    return {space: float(np.mean(metrics.permuted_macro_f1(*both, seed))) for space, both in found.items()}


def score_structure(
    embedding: Mapping[str, np.ndarray], pcs: np.ndarray, held_out: np.ndarray, seed: int
) -> dict[str, dict[str, float]]:
    """Score every space without labels, by group of cells as `score` does: the recall of the data's neighbours.

    It is the share of a cell's nearest training cells by principal components (cells, components) that are among its
    nearest in the space. For "permuted", the coordinates of the held-out cells are permuted among them.
    """
    train = ~held_out
    found: dict[str, dict[str, float]] = {"train": {}}
    k = (min(NEIGHBOURS, int(train.sum()) - 2),)
    for space, z in embedding.items():
        found["train"][space] = float(metrics.knn_recall(z[train], pcs[train], k=k, seed=seed)[0])
    if held_out.any():
        other = np.random.default_rng(seed).permutation(np.flatnonzero(held_out))
        for group, rows in (("held-out", np.flatnonzero(held_out)), ("permuted", other)):
            found[group] = {
                space: float(metrics.knn_recall(z[train], pcs[train], z[rows], pcs[held_out], k, seed)[0])
                for space, z in embedding.items()
            }
    return found


def score_names(model: Model, problem: FitProblem, tree: Tree, z: np.ndarray) -> dict[str, np.ndarray]:
    """Return the training cells of each name of a tree, and the F1 of what `predict` says of held-out ones."""
    nodes, within = problem.nodes, contained(tree.leaves_below())
    cells = within.T @ np.bincount(nodes[~problem.held_out & (nodes >= 0)], minlength=len(within))
    held = subsample(problem.held_out & problem.fully_measured & (nodes >= 0), seed=0)
    if model.reference is None or model.calibration is None or not len(held):
        return {"node_cells": cells}
    found = prediction.predict(model.reference.evidence(z[held], problem.pcs[held]), model.calibration, tree=tree)
    said = np.where(found.unassigned, -1, found.nodes)
    known = within.T @ np.bincount(nodes[held], minlength=len(within))
    return {"node_cells": cells, "node_held": known, "node_f1": f1_of_names(nodes[held], said, within)}


def f1_of_names(truth: np.ndarray, said: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Return the F1 of "this name or one below it" for each name of a tree (nodes,), NaN where no cell has it.

    A cell that is known coarsely says nothing about names below its own.

    Parameters
    ----------
    truth, said
        Known and predicted name of each cell (cells,); -1 for none in the latter.
    within
        Whether a name is another one or lies below it, boolean (nodes, nodes).
    """
    inside = within[truth].T  # (nodes, cells)
    found = within[said].T & (said >= 0)
    known = inside | ~within[:, truth]
    right, wrong = (inside & found).sum(axis=1), (known & (inside != found)).sum(axis=1)
    return np.where(inside.any(axis=1), 2 * right / np.maximum(2 * right + wrong, 1), np.nan)


def _scored(z: np.ndarray, y: np.ndarray, cells: np.ndarray) -> float:
    """Score cells among themselves; of many cells, some among the others."""
    if len(cells) <= 2 * SCORED:
        return metrics.knn_macro_f1(z[cells], y[cells])
    asked, others = cells[:SCORED], cells[SCORED:]
    return metrics.knn_macro_f1(z[others], y[others], z[asked], y[asked])


def _found(z: np.ndarray, y: np.ndarray, held_out: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of the labelled held-out cells, in an order, and those of their nearest training cells."""
    asked = _asked(y, held_out, order)
    train = order[~held_out[order]][:REFERENCES]
    votes = metrics.knn_votes(z[train], y[train], z[asked], int(y.max()) + 1)
    return y[asked], votes.argmax(axis=1)


def _asked(y: np.ndarray, held_out: np.ndarray, order: np.ndarray) -> np.ndarray:
    return order[(held_out & (y >= 0))[order]][:SCORED]

"""Fits in which there is nothing to learn: on permuted labels or values, or permuted coordinates of an adopted map."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np

from tripletomics import crossfit, folds, labels, predictors
from tripletomics.checkpoint import Checkpoint
from tripletomics.embedding import coordinates
from tripletomics.labels import ordering
from tripletomics.monitor import silent
from tripletomics.problem import FitProblem, Settings
from tripletomics.training import EncoderFit, train_encoder, train_map

NULL_SHARE, NULL_CELLS = 5, 4000  # steps of a fit for one step of the null; most cells of each split


@dataclass(frozen=True)
class PermutedFit:
    """A fit on permuted labels, in which there is nothing to learn.

    Attributes
    ----------
    cells
        Numbers of its cells. All other attributes are about these.
    coordinates
        Their coordinates on the "map" and in the "metric" space.
    codes, held_out
        Their permuted codes, in the order of all types, and which of them were held out.
    """

    cells: np.ndarray
    coordinates: dict[str, np.ndarray]
    codes: np.ndarray
    held_out: np.ndarray


def permuted_null(
    problem: FitProblem, settings: Settings, rounds: int = 1, checkpoint: Checkpoint | None = None
) -> PermutedFit:
    """Return a fit on permuted labels, with a fifth of the steps and at most 4,000 cells of each split.

    With two `rounds`, the second one trains with pseudo-labels.
    """
    random = np.random.default_rng(settings.seed)
    drawn = (random.permutation(np.flatnonzero(rows)) for rows in (~problem.held_out, problem.held_out))
    # the labelled ones first: where they are few, all of them
    train, held = (rows[np.argsort(problem.nodes[rows] < 0, kind="stable")][:NULL_CELLS] for rows in drawn)
    cells = np.concatenate([train, held])
    null = problem.subset(cells, labels.permute(problem.nodes, random))
    short = replace(settings, steps=max(settings.steps // NULL_SHARE, 1))
    other = train_encoder(null, short, checkpoint=checkpoint)
    if rounds > 1:
        other = crossfit.train_again(null, short, other, silent, checkpoint) or other
    networks, _ = train_map(null, short, other, checkpoint=checkpoint)
    codes = np.where(null.codes >= 0, problem.order[null.codes], -1)
    return PermutedFit(cells, coordinates(networks, null.rows, null.map_pcs), codes, null.held_out)


def permuted_map(
    problem: FitProblem, settings: Settings, encoder: EncoderFit, checkpoint: Checkpoint | None = None
) -> np.ndarray:
    """Return held-out cells on a map learned from coordinates that are permuted among up to 4,000 training cells."""
    random = np.random.default_rng([settings.seed, 10])
    rows, held = random.permutation(np.flatnonzero(problem.given))[:NULL_CELLS], np.flatnonzero(problem.held_out)
    other = problem.subset(rows, problem.nodes)
    other = replace(other, published=random.permutation(np.asarray(other.published)))
    networks, _ = train_map(other, settings, encoder, checkpoint=checkpoint)  # fewer steps alone would do worse
    return coordinates(networks, problem.rows.subset(held), problem.map_pcs[held])["map"]


def permuted_values(
    problem: FitProblem, settings: Settings, checkpoint: Checkpoint | None = None
) -> dict[str, dict[str, float]]:
    """Return the scores of predictions for held-out cells after a fit on permuted values, by further column.

    The types keep their labels. A column is left out where `ordering.permute` finds no order that means nothing.
    ``freedom`` is that of `ordering.freedom`.
    """
    random = np.random.default_rng([settings.seed, 13])
    sides = (random.permutation(np.flatnonzero(rows))[:NULL_CELLS] for rows in (~problem.held_out, problem.held_out))
    cells = np.concatenate(list(sides))
    null, targets, tested = problem.subset(cells, problem.nodes), [], {}
    for target in null.targets:
        values = ordering.permute(target.values, null.codes, null.batch_codes, random)
        if values is None:
            values = target.values
        else:
            tested[target.name] = ordering.freedom(values, target, random)
        targets.append(replace(target, values=values if target.classes is None else np.floor(values)))
    if not tested:
        return {}
    asked = folds.calibration_split(null.strata, ~null.held_out, settings.seed)
    null = replace(null, targets=targets, calibration=asked, train=~null.held_out & ~asked)
    other = train_encoder(null, replace(settings, steps=max(settings.steps // NULL_SHARE, 1)), checkpoint=checkpoint)
    z = crossfit.embed(other.encoder, null.rows)
    said = [predictors.value_answers(null, settings, z, null.train, asked)] if asked.any() else []
    fitted = predictors.fit_predictors(null, settings, z, ~null.held_out, said)
    scores = predictors.check_values(null, fitted, z)
    return {name: scores[name] | {"freedom": freedom} for name, freedom in tested.items()}


@dataclass(frozen=True)
class Nulls:
    """The fits in which there is nothing to learn.

    Attributes
    ----------
    types, misplaced, values
        What `permuted_null`, `permuted_map` and `permuted_values` return; None or nothing where nothing can be tested.
    seconds
        Wall time of all, as "null", if labels or values were permuted.
    """

    types: PermutedFit | None = None
    misplaced: np.ndarray | None = None
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def fit_nulls(
    problem: FitProblem, settings: Settings, encoder: EncoderFit, checkpoint: Checkpoint | None = None
) -> Nulls:
    """Return the fits in which there is nothing to learn; none if no cell was held out."""
    if not problem.held_out.any():
        return Nulls()
    started = time.perf_counter()
    types = permuted_null(problem, settings, encoder.rounds, checkpoint) if problem.classes else None
    misplaced = permuted_map(problem, settings, encoder, checkpoint) if problem.published is not None else None
    values = permuted_values(problem, settings, checkpoint) if problem.targets else {}
    of_labels = types is not None or bool(values)
    return Nulls(types, misplaced, values, {"null": time.perf_counter() - started} if of_labels else {})

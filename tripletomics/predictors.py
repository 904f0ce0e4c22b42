"""What predicts the values of further columns: fitted to some cells of a fit, weighed and tested by others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tripletomics.folds import subsample
from tripletomics.labels import values
from tripletomics.labels.values import ValuePredictor
from tripletomics.problem import FitProblem, Settings

ValueAnswers = list[tuple[np.ndarray, np.ndarray]]  # of each further column: what regressions say, and the values


def fit_predictors(
    problem: FitProblem, settings: Settings, z: np.ndarray, cells: np.ndarray, answers: Sequence[ValueAnswers] = ()
) -> list[ValuePredictor]:
    """Return a predictor for each target, from some cells, boolean (cells,), with weights from answers for others."""
    found = [values.fit_predictor(target, z, problem.pcs, cells, settings.seed) for target in problem.targets]
    if not answers:
        return found
    return [values.calibrate(one, list(said)) for one, said in zip(found, zip(*answers, strict=True), strict=True)]


def value_answers(
    problem: FitProblem, settings: Settings, z: np.ndarray, trained: np.ndarray, asked: np.ndarray
) -> ValueAnswers:
    """Return what predictors of the cells in `trained` say about those in `asked`, and the true values, by target."""
    rows = subsample(asked, settings.seed)
    predictors = fit_predictors(problem, settings, z, trained)
    return [
        (one.parts(z[rows], problem.pcs[rows]), target.values[rows])
        for one, target in zip(predictors, problem.targets, strict=True)
    ]


def check_values(
    problem: FitProblem, predictors: Sequence[ValuePredictor], z: np.ndarray
) -> dict[str, dict[str, float]]:
    """Return the scores of predictions for held-out cells, by further column: see `labels.values.check`."""
    held = np.flatnonzero(problem.held_out)
    return {
        one.name: values.check(one.predict(z[held], problem.pcs[held]), target.subset(held), problem.codes[held])
        for one, target in zip(predictors, problem.targets, strict=True)
    }

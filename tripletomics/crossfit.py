"""Encoders that did not see the cells that they are tested on: calibration folds and self-training.

What an encoder says about the cells that it was trained on is no evidence. So predictions are calibrated on cells that
it did not see, and pseudo-labels are kept only if they do no harm on labelled cells that neither of two encoders was
trained on. `nulls` has the fit on permuted labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import log_expit

from tripletomics import features, processes
from tripletomics.checkpoint import Checkpoint
from tripletomics.embedding import coordinates, embed_rows
from tripletomics.folds import batch_folds, label_folds, subsample, subsample_for_features
from tripletomics.labels import reference
from tripletomics.labels.calibration import Calibration, fit_calibration, guess
from tripletomics.labels.inference import infer_leaves
from tripletomics.labels.reference import LEADING, Evidence, Reference
from tripletomics.labels.values import ValuePredictor
from tripletomics.monitor import Report, silent
from tripletomics.networks import Encoder, Networks, PairEncoder
from tripletomics.notices import warn
from tripletomics.predictors import ValueAnswers, fit_predictors, value_answers
from tripletomics.problem import FitProblem, Settings
from tripletomics.seen import network_inputs
from tripletomics.sources import Memory
from tripletomics.training import EncoderFit, train_encoder

PSEUDO_LABEL_P = 0.9  # probability above which an unlabelled cell takes the type that the encoder predicts
FOLDS = 4  # at most, of whole batches or, where they are few, of labelled cells
BLOCK = 20_000  # cells whose evidence is held at once: about 100 bytes for each type of a cell

Answers = list[tuple[Evidence, np.ndarray]]  # evidence about cells that an encoder did not see, and their codes


# self-training


def self_train(
    problem: FitProblem,
    settings: Settings,
    first: EncoderFit,
    report: Report = silent,
    checkpoint: Checkpoint | None = None,
) -> EncoderFit:
    """Train a second encoder with pseudo-labels, and keep it if it does no worse on cells that neither has seen.

    Pseudo-labels serve only this second training: no score, reference or calibration uses them.

    Returns
    -------
    The encoder that is kept, with its ``answers`` about labelled cells that it was not trained on, and in ``summary``
    ``self_training``, the log loss (2,) of these cells after the first and the second training, NaN where it was not
    measured, and ``self_training_cells`` (classes,), how many cells took each type.
    """
    if (problem.nodes[~problem.held_out] >= 0).all():
        return first
    second = train_again(problem, settings, first, report, checkpoint)
    taken = np.zeros(len(problem.classes), dtype=int)
    if second is None:
        warn(
            "self_training=True: the encoder is not sure of any unlabelled cell (none has a probability above "
            f"{PSEUDO_LABEL_P}), so it is trained once."
        )
        return replace(first, summary=_summary(np.nan, np.nan, taken))
    taken = np.bincount(second.codes[(second.codes >= 0) & (problem.nodes < 0)], minlength=len(problem.classes))
    answers = _answers(problem, settings, (first, second), report, checkpoint)
    before, after = processes.of_first(np.array([_log_loss(said) for said in answers]))
    kept = int(after <= before)  # not if there were no cells to test on
    if not kept:
        why = f"would do worse on labelled cells that were left out (log loss {after:.3f}, before {before:.3f})"
        if np.isnan(before):
            why = "cannot be compared with the first, because there are too few labelled cells to leave any out"
        warn(
            f"self_training=True: a second encoder, trained with pseudo-labels of {taken.sum()} cells, {why}. The "
            "first one is kept."
        )
    chosen = second if kept else first
    return replace(chosen, rounds=1 + kept, answers=answers[kept], summary=_summary(before, after, taken))


def pseudo_labels(z: np.ndarray, pcs: np.ndarray, codes: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """Return codes (cells,) in which unlabelled cells have the type that the encoder is sure of.

    The evidence has its starting weights: those of a calibration would carry the cells that they were fitted on into
    the training.

    Parameters
    ----------
    z, pcs, codes
        Metric space, principal components and codes of all cells.
    rows
        Numbers of the training cells; all others stay as they are.
    """
    known, unknown = rows[codes[rows] >= 0], rows[codes[rows] < 0]
    n_types, found = int(codes[known].max()) + 1, codes.copy()
    labelled = reference.build_reference(z[known], z[known, :0], pcs[known], codes[known], n_types, seed)
    for block in np.array_split(unknown, len(unknown) // BLOCK + 1):
        best, probability = guess(labelled.evidence(z[block], pcs[block]))
        sure = probability > PSEUDO_LABEL_P
        found[block[sure]] = best[sure]
    return found


def train_again(
    problem: FitProblem, settings: Settings, first: EncoderFit, report: Report, checkpoint: Checkpoint | None
) -> EncoderFit | None:
    """Train an encoder with the pseudo-labels of the first; None if the first is sure of no cell.

    A coarsely known cell keeps its name: `training.train_encoder` infers a leaf below it.
    """
    rows = np.flatnonzero(problem.train)
    found = pseudo_labels(embed(first.encoder, problem.rows), problem.pcs, problem.codes, rows, settings.seed)
    codes = processes.of_first(np.where(problem.nodes >= 0, problem.nodes, found))
    if (codes == problem.nodes).all():
        return None

    def again(stage: str, *rest: Any) -> None:
        report(f"{stage} again", *rest)

    return train_encoder(problem, settings, codes=codes, report=again, checkpoint=checkpoint)


def _answers(
    problem: FitProblem,
    settings: Settings,
    both: tuple[EncoderFit, EncoderFit],
    report: Report,
    checkpoint: Checkpoint | None,
) -> list[Answers]:
    """Ask both encoders about the calibration cells, or encoders like them about folds that are left out."""
    if problem.calibration.any():
        spaces = [embed(one.encoder, problem.rows) for one in both]
        return [[evidence_for(problem, settings, z, problem.train, problem.calibration)] for z in spaces]
    folds = [_ask_fold(problem, settings, part, 2, report, checkpoint) for part in _folds(problem, settings)]
    return [[fold[number].types[""] for fold in folds] for number in (0, -1)]


def _log_loss(answers: Answers) -> float:
    """Return the log loss of the true types of cells; NaN where there are fewer than two.

    The accuracy on so few cells would differ between encoders by single cells.
    """
    if sum(len(codes) for _, codes in answers) < 2:
        return np.nan
    found = fit_calibration(answers)
    odds = [found.odds(evidence)[np.arange(len(codes)), codes] for evidence, codes in answers]
    return float(-log_expit(np.concatenate(odds)).mean())


def _summary(before: float, after: float, taken: np.ndarray) -> dict[str, np.ndarray]:
    return {"self_training": np.array([before, after]), "self_training_cells": taken}


# calibration


@dataclass(frozen=True)
class Calibrated:
    """What was learned from cells that were left out.

    Attributes
    ----------
    types
        Calibrations by what was measured, as `embed_all` returns it; None where the types have too few cells.
    values
        A predictor for each target of the problem.
    """

    types: dict[str, Calibration | None]
    values: list[ValuePredictor]


@dataclass(frozen=True)
class FoldAnswers:
    """What an encoder says about cells that were left out: evidence of types by what was measured, and values."""

    types: dict[str, tuple[Evidence, np.ndarray]]
    values: ValueAnswers


@dataclass(frozen=True)
class Embedding:
    """All cells by all that was measured, or by one of two modalities alone.

    Attributes
    ----------
    coordinates
        On the "map" and in the "metric" space.
    pcs
        Principal components (cells, components).
    measured
        Cells of which this was measured, boolean (cells,); the coordinates of the others mean nothing.
    """

    coordinates: dict[str, np.ndarray]
    pcs: np.ndarray
    measured: np.ndarray

    @property
    def z(self) -> np.ndarray:
        """Metric space."""
        return self.coordinates["metric"]


def embed_all(problem: FitProblem, networks: Networks) -> dict[str, Embedding]:
    """Return all cells as the model will: by all modalities, with the name "", and by each of two alone."""
    whole = coordinates(networks, problem.rows, problem.map_pcs)
    whole["map"] = problem.with_given(whole["map"])
    found = {"": Embedding(whole, problem.pcs, problem.fully_measured)}
    for side, name in enumerate(problem.modalities):
        x = features.only(problem.x, side)
        rows, pcs = network_inputs(problem.features, x, None, problem.seen.find(x))
        found[name] = Embedding(coordinates(networks, rows, pcs), pcs, np.asarray(features.measured(x).any(axis=1)))
    return found


def calibrate(
    problem: FitProblem,
    settings: Settings,
    encoder: EncoderFit,
    embeddings: Mapping[str, Embedding],
    *,
    report: Report = silent,
    checkpoint: Checkpoint | None = None,
) -> Calibrated:
    """Return how far evidence can be trusted, and what predicts the values of ordered columns.

    The evidence is about the calibration cells. With batches, whole batches are left out in turn, in up to four folds,
    each embedded by an encoder of the others: this shows what is usual in an unseen batch. Labelled cells are left out
    in turn in the same way where they are too few for a calibration split.
    """
    report("calibrating", 0, 0, math.nan, math.nan)
    z, answers, said = embeddings[""].z, {}, []
    if problem.calibration.any():
        said = [value_answers(problem, settings, z, problem.train, problem.calibration)]
        answers = {
            name: [
                evidence_for(problem, settings, z, problem.train, problem.calibration & one.measured, (one.z, one.pcs))
            ]
            for name, one in embeddings.items()
            if problem.classes and not encoder.answers
        }
    elif problem.targets or not encoder.answers:
        pcs_of_model = {name: one.pcs for name, one in embeddings.items()}
        folds = [
            _ask_fold(problem, settings, part, encoder.rounds, report, checkpoint, pcs_of_model=pcs_of_model)[-1]
            for part in _folds(problem, settings)
        ]
        said = [fold.values for fold in folds]
        answers = {name: [fold.types[name] for fold in folds] for name in embeddings if problem.classes}
    predictors = fit_predictors(problem, settings, z, ~problem.held_out, said)
    if not problem.classes:
        return Calibrated(dict.fromkeys(embeddings), predictors)
    answers = {"": encoder.answers} if encoder.answers else answers
    found = {
        name: fit_calibration(known, problem.tree) if sum(len(codes) for _, codes in known) > 1 else None
        for name, known in answers.items()
    }
    _warn_of_none(found, problem.batch_codes is not None)
    return Calibrated(found, predictors)


def reference_of(problem: FitProblem, settings: Settings, z: np.ndarray, m: np.ndarray, cells: np.ndarray) -> Reference:
    """Return the reference of the labelled ones among `cells`, boolean (cells,), from the coordinates of all cells.

    A coarsely known cell counts as one of its most probable leaf, if that is sure enough.
    """
    codes, tree = np.where(cells, problem.nodes, -1), problem.tree
    if tree is not None:
        codes = tree.leaf_codes(infer_leaves(problem.pcs, codes, tree, settings.seed))
    return reference.build_reference(z, m, problem.pcs, codes, len(problem.classes), settings.seed)


def evidence_for(
    problem: FitProblem,
    settings: Settings,
    z: np.ndarray,
    trained: np.ndarray,
    asked: np.ndarray,
    coordinates: tuple[np.ndarray, np.ndarray] | None = None,
    pcs_of_model: np.ndarray | None = None,
) -> tuple[Evidence, np.ndarray]:
    """Return the evidence from a reference of other cells, and codes; only for cells whose type the reference has.

    Parameters
    ----------
    z
        Metric space (cells, metric_dim) of all cells.
    trained, asked
        The cells of the reference, and those that are compared with it, boolean (cells,).
    coordinates
        Metric space and principal components of the cells in `asked`, if they differ from the first ones.
    pcs_of_model
        Principal components of all cells in the whole model. By them, the cells in `asked` are neighbours of new cells.
    """
    asked = asked & np.isin(problem.codes, problem.codes[trained & (problem.codes >= 0)])
    rows = subsample(asked, settings.seed)
    asked_z, asked_pcs = (z, problem.pcs) if coordinates is None else coordinates
    known = reference_of(problem, settings, z, z[:, :0], trained)
    found = known.evidence(asked_z[rows], asked_pcs[rows])
    if pcs_of_model is not None:
        found = replace(found, pcs=pcs_of_model[rows, :LEADING])
    return found, problem.codes[rows]


def embed(encoder: Encoder | PairEncoder, rows: Memory) -> np.ndarray:
    """Return cells in the metric space, float32 (cells, metric_dim)."""
    return embed_rows(encoder, rows, next(encoder.parameters()).device).cpu().numpy()


def _folds(problem: FitProblem, settings: Settings) -> list[np.ndarray]:
    """Return the parts of the training cells that are left out in turn, boolean (cells,): batches or labelled cells."""
    train, groups = ~problem.held_out, problem.batch_codes
    groups = label_folds(problem.strata, train, FOLDS, settings.seed) if groups is None else groups
    return batch_folds(groups, problem.strata, train, problem.fully_measured, FOLDS)


def _ask_fold(
    problem: FitProblem,
    settings: Settings,
    part: np.ndarray,
    rounds: int,
    report: Report,
    checkpoint: Checkpoint | None,
    *,
    pcs_of_model: Mapping[str, np.ndarray] | None = None,
) -> list[FoldAnswers]:
    """Fit features and encoder without a part of the cells; return what they say about it after each training.

    `pcs_of_model` are principal components of all cells in the model, by what was measured.
    """

    def told(stage: str, *rest: Any) -> None:
        report("calibration", *rest)

    fitted = subsample_for_features(~problem.held_out & ~part, settings.seed)
    others = problem.without(part, fitted, settings.seed)
    fits = [train_encoder(others, settings, report=told, checkpoint=checkpoint)]
    if rounds > 1 and (second := train_again(others, settings, fits[0], told, checkpoint)) is not None:
        fits.append(second)
    whole, pcs_of_model = part & problem.fully_measured, pcs_of_model or {"": problem.pcs}
    answers = []
    for one in fits:
        z = embed(one.encoder, others.rows)
        asked = whole if whole.any() else part
        said = value_answers(others, settings, z, others.train, asked)
        if not problem.classes:
            answers.append(FoldAnswers({}, said))
            continue
        found = {"": evidence_for(others, settings, z, others.train, asked, pcs_of_model=pcs_of_model[""])}
        for side, name in enumerate(problem.modalities):
            x = features.only(problem.x, side)
            rows, pcs = others.features.source(x, None, fitted), others.features.pcs(x, None, fitted)
            asked = part & features.measured(x)[:, side]
            there = embed(one.encoder, rows), pcs
            found[name] = evidence_for(others, settings, z, others.train, asked, there, pcs_of_model=pcs_of_model[name])
        answers.append(FoldAnswers(found, said))
    return answers


def _warn_of_none(found: Mapping[str, Calibration | None], batches: bool) -> None:
    """Warn of predictions that the model will refuse to make."""
    for name in (name for name, calibration in found.items() if calibration is None):
        cure = "types of two training cells or more: label or fit more cells"
        if batches:
            cure = "types that are in two batches or more, each with other types next to them: leave batch out"
        warn(
            f"Predictions{f' from {name} alone' * bool(name)} cannot be calibrated, and predict will refuse to "
            f"make them. This needs {cure}. The map is not affected."
        )

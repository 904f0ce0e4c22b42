"""Self-training: cells without a label take the type that the encoder is sure of, and it is trained again with these.

The labels that are taken serve this second training and nothing else: no score, reference or calibration knows them.
The second encoder is kept if it does no worse than the first on labelled cells that neither was trained on.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_expit

from tripletomics import processes
from tripletomics.embedding import embed_rows
from tripletomics.labels import reference
from tripletomics.labels.calibration import fit as fit_calibration
from tripletomics.labels.calibration import guess
from tripletomics.labels.reference import Evidence
from tripletomics.model.model import BLOCK
from tripletomics.networks import Encoder, PairEncoder
from tripletomics.sources import Memory
from tripletomics.training import History, Report

if TYPE_CHECKING:
    from tripletomics.losses import Loss
    from tripletomics.tl.tasks import Task

SURE = 0.9  # probability from which a cell takes the type that the encoder sees in it
Answers = list[tuple[Evidence, np.ndarray]]  # evidence about cells that an encoder did not see, and their codes


@dataclass(frozen=True)
class Round:
    """A training of the encoder."""

    encoder: Encoder | PairEncoder
    history: History
    loss: Loss
    taught: np.ndarray  # codes (cells,) that it was trained on


@dataclass(frozen=True)
class Lesson:
    """What came of self-training.

    Attributes
    ----------
    learned
        The round that is kept.
    answers
        What its encoder says of labelled cells that it was not trained on.
    findings
        ``self_training``, log loss (2,) of these cells after the first and the second round, NaN where it was not
        measured; ``self_training_cells`` (classes,), how many cells took each type.
    """

    learned: Round
    answers: Answers
    findings: dict[str, np.ndarray]


def study(task: Task, report: Report) -> Task:
    """Train the encoder twice if that was asked for, and settle which one is kept."""
    if task.rounds == 1:
        return task
    rounds = task.encode(report)
    first, last = rounds[0], rounds[-1]
    taken = np.bincount(last.taught[(last.taught >= 0) & (task.codes < 0)], minlength=len(task.classes))
    if not taken.sum():
        warnings.warn(
            f"self_training=True: of no cell without a label is the encoder sure (a probability above {SURE}), so it "
            "is trained once.",
            stacklevel=3,
        )
        return replace(task, rounds=1, lesson=Lesson(first, [], _findings(np.nan, np.nan, taken)))
    answers = task.ask(rounds, report)
    before, after = (_log_loss(said) for said in answers)
    before, after = processes.of_first(np.array([before, after]))
    kept = int(after <= before)  # not if there was nothing to ask about
    if not kept:
        why = f"would do worse on labelled cells that were left out (log loss {after:.3f}, before {before:.3f})"
        if np.isnan(before):
            why = "cannot be compared with the first, for there are too few labelled cells to leave any out"
        warnings.warn(
            f"self_training=True: an encoder that learns from the labels which {taken.sum()} cells took {why}. The "
            "first one is kept.",
            stacklevel=3,
        )
    learned = last if kept else first
    lesson = Lesson(learned, answers[kept], _findings(before, after, taken))
    return replace(task, rounds=1 + kept, loss=learned.loss, lesson=lesson)


def train_rounds(
    learn: Callable[..., tuple[Encoder | PairEncoder, History]],
    rounds: int,
    cells: Memory,
    scores: np.ndarray,
    codes: np.ndarray,
    rows: np.ndarray,
    loss: Loss,
    seed: int,
    report: Report,
) -> list[Round]:
    """Train an encoder; in a second of two rounds another one, also on the labels that the first is sure of.

    Parameters
    ----------
    learn
        `training.learn_metric` with all else that it takes.
    rounds
        One or two; one is made of two if the first encoder is sure of no cell.
    cells, scores, codes
        Scaled rows, principal components and codes of all cells.
    rows
        Which to train on.
    """
    untrained = copy.deepcopy(loss)
    done = [Round(*learn(cells, codes, rows, loss=loss, scores=scores, report=report), loss, codes)]
    if rounds > 1:
        taught = processes.of_first(teach(placed(done[0].encoder, cells), scores, codes, rows, seed))
        if (taught != codes).any():
            learned = learn(
                cells, codes, rows, taught=taught, loss=untrained, scores=scores,
                report=lambda stage, *rest: report(f"{stage} again", *rest),
            )  # fmt: skip
            done.append(Round(*learned, untrained, taught))
    return done


def teach(z: np.ndarray, scores: np.ndarray, codes: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """Give the unlabelled cells among `rows` the type that the labelled ones make sure.

    The evidence is weighed as it is before any cell is seen: a calibration would carry what it was fitted on into the
    training.

    Parameters
    ----------
    z, scores, codes
        Metric space, principal components and codes of all cells.

    Returns
    -------
    Codes (cells,).
    """
    known, unknown = rows[codes[rows] >= 0], rows[codes[rows] < 0]
    n_types, taught = int(codes[known].max()) + 1, codes.copy()
    labelled = reference.fit(z[known], z[known, :0], scores[known], codes[known], n_types, seed)
    for block in np.array_split(unknown, len(unknown) // BLOCK + 1):
        best, probability = guess(labelled.evidence(z[block], scores[block]))
        sure = probability > SURE
        taught[block[sure]] = best[sure]
    return taught


def placed(encoder: Encoder | PairEncoder, cells: Memory) -> np.ndarray:
    """Return cells in the metric space."""
    return embed_rows(encoder, cells, next(encoder.parameters()).device).cpu().numpy()


def _log_loss(answers: Answers) -> float:
    """Score what is said of the true types of cells; NaN where there are fewer than two.

    A share of so few cells that are named rightly would tell encoders apart by single cells.
    """
    if sum(len(codes) for _, codes in answers) < 2:
        return np.nan
    found = fit_calibration(answers)
    odds = [found.odds(evidence)[np.arange(len(codes)), codes] for evidence, codes in answers]
    return float(-log_expit(np.concatenate(odds)).mean())


def _findings(before: float, after: float, taken: np.ndarray) -> dict[str, np.ndarray]:
    return {"self_training": np.array([before, after]), "self_training_cells": taken}

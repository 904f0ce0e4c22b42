"""Fits in which there is nothing to learn: on permuted labels, and on permuted coordinates of an adopted map."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tripletomics import crossfit, labels
from tripletomics.checkpoint import Checkpoint
from tripletomics.embedding import coordinates
from tripletomics.monitor import silent
from tripletomics.problem import FitProblem, Settings
from tripletomics.training import EncoderFit, train_encoder, train_map

NULL_SHARE, NULL_CELLS = 6, 4000  # steps of a fit for one step of the null; most cells of each split


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
    """Return a fit on permuted labels, with a sixth of the steps and at most 4,000 cells of each split.

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


def fit_nulls(
    problem: FitProblem, settings: Settings, encoder: EncoderFit, checkpoint: Checkpoint | None = None
) -> tuple[PermutedFit | None, np.ndarray | None]:
    """Return what `permuted_null` and `permuted_map` return, with None where there is nothing to test."""
    held, adopts = problem.held_out.any(), problem.published is not None
    null = permuted_null(problem, settings, encoder.rounds, checkpoint) if held and problem.classes else None
    return null, permuted_map(problem, settings, encoder, checkpoint) if held and adopts else None

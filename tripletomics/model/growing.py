"""The model of old and new cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tripletomics import labels
from tripletomics.crossfit import Embedding, subsample
from tripletomics.embedding import coordinates
from tripletomics.growth import (
    Grown,
    SimulatedCells,
    grow_networks,
    join_calibration,
    join_catalog,
    join_reference,
    join_seen,
)
from tripletomics.index import CellIndex
from tripletomics.labels.reference import Reference
from tripletomics.model import scoring
from tripletomics.model.build import check_predictions, versions
from tripletomics.model.model import Model
from tripletomics.monitor import end_with
from tripletomics.nulls import NULL_CELLS, NULL_SHARE
from tripletomics.problem import FitProblem, Settings


def build_grown(
    old: Model,
    reference: Reference,
    problem: FitProblem,
    settings: Settings,
    grown: Grown,
    whole: Embedding,
    *,
    names: np.ndarray,
) -> Model:
    """Return the model of old and new cells, without scores and seconds.

    Parameters
    ----------
    old, reference
        The model that grew, and its reference with the types of old and new cells.
    problem, settings, grown, whole
        The new cells and their settings, the trained networks, and the coordinates of the new cells.
    names
        Names of the new cells.
    """
    n, seed, codes = len(problem.classes), settings.seed, problem.codes
    labelled = (codes >= 0) & (codes < n)

    def join(cells: np.ndarray) -> Reference:
        return join_reference(
            reference, whole.z[cells], whole.coordinates["map"][cells], whole.pcs[cells], codes[cells], seed
        )

    asked, simulated, learned = problem.calibration & labelled, grown.tested, join(problem.train & labelled)
    calibration = join_calibration(
        old.calibration,
        (learned.evidence(whole.z[asked], whole.pcs[asked]), codes[asked]),
        (learned.evidence(grown.z, simulated.pcs), simulated.codes),
    )
    joined = join(~problem.held_out & labelled)
    train = ~problem.held_out
    own = CellIndex(whole.z[train], names[train].astype(str), codes[train])
    kept = {name: old.settings[name] for name in ("counts", "map") if name in old.settings}
    checks, unassigned = check_predictions(problem, seed, joined, calibration, whole)
    moved = 100 * np.array([np.median(grown.moved), np.quantile(grown.moved, 0.9)])
    return Model(
        features=problem.features,
        networks=grown.networks,
        classes=problem.classes,
        settings=old.settings | settings.as_text() | kept | {"init": old.id},
        scores={},
        p_value={},
        history=grown.history,
        findings=grown.loss.summary_arrays() | {"moved": moved} | unassigned,
        seconds={},
        versions=versions(),
        reference=joined,
        calibration=calibration,
        catalog=join_catalog(old.catalog, np.searchsorted(problem.classes, old.types), own),
        checks=checks,
        colors=old.colors,
        seen=join_seen(old.seen, problem.seen),  # type: ignore[arg-type]  # pp.check_start
    )


def score_grown(
    model: Model,
    old: Model,
    reference: Reference,
    problem: FitProblem,
    settings: Settings,
    whole: Embedding,
    simulated: SimulatedCells,
) -> None:
    """Add the scores of held-out new cells among landmarks and new training cells, and those of the null."""
    embedding, codes, held_out = _with_landmarks(whole.coordinates, problem.codes, problem.held_out, reference)
    model.scores, model.p_value = scoring.score(embedding, codes, held_out, settings.seed)
    if not model.p_value:
        return
    end_with(model.history, model.scores["held-out"])
    model.findings["tested"] = scoring.test_of(codes, held_out, settings.seed)
    model.scores["permuted"] = _score_null(old, reference, problem, settings, simulated)


def _score_null(
    old: Model, reference: Reference, problem: FitProblem, settings: Settings, simulated: SimulatedCells
) -> dict[str, float]:
    """Return the scores of a map that grew on permuted labels."""
    codes = labels.permute(problem.codes, np.random.default_rng(settings.seed))
    cells = np.concatenate(
        [subsample(rows, settings.seed, NULL_CELLS) for rows in (~problem.held_out, problem.held_out)]
    )
    null = problem.subset(cells, np.where(codes < len(problem.classes), codes, -1))
    short = replace(settings, steps=max(settings.steps // NULL_SHARE, 1))
    other = grow_networks(null, short, old.networks, reference, simulated, n_tested=1).networks
    found = coordinates(other, null.rows, null.map_pcs)
    return scoring.score_null(*_with_landmarks(found, null.codes, null.held_out, reference), settings.seed)


def _with_landmarks(
    found: Mapping[str, np.ndarray], codes: np.ndarray, held_out: np.ndarray, reference: Reference
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return the coordinates and codes of new cells and landmarks, and which of them are held out."""
    old = {"map": reference.map, "metric": reference.z}
    spaces = {space: np.concatenate([found[space], old[space]]) for space in found}
    rest = np.zeros(len(reference.codes), dtype=bool)
    return spaces, np.concatenate([codes, reference.codes]), np.concatenate([held_out, rest])

"""From a finished training to the model: its reference, its index, and how its predictions do on held-out cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version

import numpy as np

from tripletomics import metrics
from tripletomics.crossfit import Unimodal, build_reference, subsample
from tripletomics.index import Catalog
from tripletomics.labels import prediction
from tripletomics.labels.calibration import Calibration
from tripletomics.labels.reference import Reference
from tripletomics.model.model import Model
from tripletomics.model.state import Side
from tripletomics.networks import Networks
from tripletomics.problem import FitProblem, Settings
from tripletomics.training import EncoderFit, History, warn_of_failure

NEAR_CELLS = 2000  # training cells whose distances to the others are measured
MATCH_CELLS, MATCHES = 2500, (1, 10, 50)  # held-out cells that are looked for among each other, and in how many
PACKAGES = ("tripletomics", "torch", "lightning-fabric", "anndata", "numpy", "scipy", "scikit-learn")


def build_model(
    problem: FitProblem,
    settings: Settings,
    encoder: EncoderFit,
    networks: Networks,
    history: History,
    *,
    names: np.ndarray,
    embedding: Mapping[str, np.ndarray],
    unimodal: Mapping[str, Unimodal],
    calibrations: Mapping[str, Calibration | None],
) -> Model:
    """Return the model of a fit, without scores and seconds.

    Parameters
    ----------
    problem, settings, encoder, networks, history
        What was trained, and on what.
    names
        Of all cells.
    embedding, unimodal
        Their coordinates, by all that was measured and by each of two modalities alone.
    calibrations
        As `crossfit.calibrate` returns them.
    """
    warn_of_failure(encoder.loss, history)
    z, train = embedding["metric"], ~problem.held_out
    reference = _reference(problem, settings, z, embedding["map"]) if problem.classes else None
    seed, calibration = settings.seed, calibrations[""]
    return Model(
        features=problem.features,
        networks=networks,
        classes=problem.classes,
        settings=settings.as_text() | {"counts": ", ".join(str(one.counts) for one in problem.genes.values())},
        scores={},
        p_value={},
        history=history,
        findings=encoder.loss.summary_arrays() | encoder.summary,
        seconds={},
        versions=versions(),
        reference=reference,
        calibration=calibration,
        catalog=Catalog(z[train], names[train].astype(str), problem.codes[train]),
        checks=_check(problem, seed, reference, calibration, (z, problem.pcs), problem.fully_measured),
        alone={
            name: Side(found, _check(problem, seed, reference, found, (one.z, one.pcs), one.measured))
            for (name, one), found in zip(unimodal.items(), list(calibrations.values())[1:], strict=True)
        },
        matches=_match(problem, seed, unimodal),
        seen=problem.seen,
    )  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of the packages that make a model."""
    return {package: version(package) for package in PACKAGES}


def _reference(problem: FitProblem, settings: Settings, z: np.ndarray, m: np.ndarray) -> Reference:
    """Return the reference of the labelled training cells, and how near those of the encoder lie to each other."""
    found = build_reference(problem, settings, z, m, ~problem.held_out)
    own = subsample(problem.train & problem.fully_measured & (problem.codes >= 0), settings.seed)[:NEAR_CELLS]
    near = found.evidence(z[own], problem.pcs[own], np.ones(len(own), dtype=bool)).near
    return replace(found, near_trained=np.array([near.mean(), near.std() or 1.0]) if len(own) > 1 else None)


def _check(
    problem: FitProblem, seed: int, reference: Reference | None, calibration: Calibration | None,
    coordinates: tuple[np.ndarray, np.ndarray], measured: np.ndarray,
) -> dict[str, float]:  # fmt: skip
    """Compare predictions of `measured` held-out cells of known types with their labels; empty where there are none.

    They lie at these coordinates: metric space and principal components.
    """
    known = (problem.codes >= 0) & (problem.codes < len(problem.classes))
    held = subsample(measured & problem.held_out & known, seed)
    if reference is None or calibration is None or not len(held):
        return {}
    z, pcs = coordinates
    found = prediction.predict(reference.evidence(z[held], pcs[held]), calibration)
    return prediction.check(found, problem.codes[held])


def _match(problem: FitProblem, seed: int, unimodal: Mapping[str, Unimodal]) -> dict[str, float]:
    """Look for each held-out cell by one modality among those by the other; empty where that makes no sense."""
    if not unimodal:
        return {}
    one, other = unimodal.values()
    both = subsample(problem.held_out & one.measured & other.measured, seed)[:MATCH_CELLS]
    if len(both) < 2:
        return {}
    a, b, cells = one.z[both], other.z[both], np.arange(len(both))
    found = {"cells": float(len(both))}
    for k in MATCHES:
        ways = (metrics.recall_at_k(z, cells, query, cells, k, seed) for z, query in ((a, b), (b, a)))
        found |= {f"recall_{k}": sum(ways) / 2, f"null_{k}": min(k / len(both), 1.0)}
    return found

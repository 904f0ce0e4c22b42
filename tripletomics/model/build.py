"""From a finished training to the model: its reference, its index, and how its predictions do on held-out cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version

import numpy as np

from tripletomics import metrics
from tripletomics.crossfit import Calibrated, Embedding, reference_of, subsample
from tripletomics.index import CellIndex
from tripletomics.labels import prediction
from tripletomics.labels.calibration import Calibration
from tripletomics.labels.reference import Reference
from tripletomics.model.model import Model
from tripletomics.model.state import UnimodalPredictions
from tripletomics.model.summary import BLIND
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
    embeddings: Mapping[str, Embedding],
    calibrated: Calibrated,
) -> Model:
    """Return the model of a fit, without scores and seconds.

    Parameters
    ----------
    problem, settings, encoder, networks, history
        What was trained, and on what.
    names
        Names of all cells.
    embeddings, calibrated
        As `crossfit.embed_all` and `crossfit.calibrate` return them.
    """
    warn_of_failure(encoder.loss, history)
    whole, train, alone = embeddings[""], ~problem.held_out, list(embeddings)[1:]
    reference = _reference(problem, settings, whole) if problem.classes else None
    checked = {
        name: check_predictions(problem, settings.seed, reference, found, embeddings[name])
        for name, found in calibrated.types.items()
    }
    return Model(
        features=problem.features,
        networks=networks,
        classes=problem.classes,
        settings=settings.as_text() | _decided(problem),
        scores={},
        p_value={},
        history=history,
        findings=encoder.loss.summary_arrays() | encoder.summary | checked[""][1],
        seconds={},
        versions=versions(),
        reference=reference,
        calibration=calibrated.types[""],
        catalog=CellIndex(whole.z[train], names[train].astype(str), problem.codes[train]),
        checks=checked[""][0],
        alone={name: UnimodalPredictions(calibrated.types[name], checked[name][0]) for name in alone},
        matches=_match(problem, settings.seed, [embeddings[name] for name in alone]),
        seen=problem.seen,
        tree=problem.tree,
        targets=calibrated.values,
    )  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of the packages that make a model."""
    return {package: version(package) for package in PACKAGES}


def _decided(problem: FitProblem) -> dict[str, str]:
    """Return as text what was decided about the modalities, and what is known of an embedding."""
    names = {"modalities": ", ".join(problem.modalities)} if problem.modalities else {}
    blind = {} if problem.blind is None else {"embedding": BLIND if problem.blind else "may have seen held-out cells"}
    return {"counts": ", ".join(str(one.counts) for one in problem.genes.values())} | names | blind


def _reference(problem: FitProblem, settings: Settings, whole: Embedding) -> Reference:
    """Return the reference of the labelled training cells, and how near those of the encoder lie to each other."""
    found = reference_of(problem, settings, whole.z, whole.coordinates["map"], ~problem.held_out)
    own = subsample(problem.train & problem.fully_measured & (problem.codes >= 0), settings.seed, NEAR_CELLS)
    near = found.evidence(whole.z[own], whole.pcs[own], np.ones(len(own), dtype=bool)).near
    return replace(found, near_trained=np.array([near.mean(), near.std() or 1.0]) if len(own) > 1 else None)


def check_predictions(
    problem: FitProblem, seed: int, reference: Reference | None, calibration: Calibration | None, one: Embedding
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Compare predictions of held-out cells of known types with their labels: `Model.checks`, and what of `findings`.

    Both are empty where there are no such cells.
    """
    known = (problem.nodes >= 0) & (problem.codes < len(problem.classes))
    held = subsample(one.measured & problem.held_out & known, seed)
    if reference is None or calibration is None or not (problem.codes[held] >= 0).any():
        return {}, {}
    found = prediction.predict(reference.evidence(one.z[held], one.pcs[held]), calibration, tree=problem.tree)
    checks = prediction.check(found, problem.codes[held], problem.tree)
    if problem.levels is not None:
        checks |= prediction.check_levels(found, problem.levels.with_nodes(problem.nodes[held]), seed)
    return checks, {"unassigned": prediction.unassigned_of(found, problem.codes[held], len(problem.classes))}


def _match(problem: FitProblem, seed: int, alone: Sequence[Embedding]) -> dict[str, float]:
    """Look for each held-out cell by one modality among those by the other; empty where that makes no sense."""
    if not alone:
        return {}
    one, other = alone
    both = subsample(problem.held_out & one.measured & other.measured, seed, MATCH_CELLS)
    if len(both) < 2:
        return {}
    a, b, cells = one.z[both], other.z[both], np.arange(len(both))
    found = {"cells": float(len(both))}
    for k in MATCHES:
        ways = (metrics.recall_at_k(z, cells, query, cells, k, seed) for z, query in ((a, b), (b, a)))
        found |= {f"recall_{k}": sum(ways) / 2, f"null_{k}": min(k / len(both), 1.0)}
    return found

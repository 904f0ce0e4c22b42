"""`fit` from a model: a map that grows."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tripletomics.tl.progress import begin, report_scores, training_bar

if TYPE_CHECKING:
    from tripletomics.model import Model


def grow(given: Mapping[str, Any]) -> Model:
    """Return a model that grew from the one in ``init=``. `given` are the arguments of `tripletomics.fit`.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        As for `tripletomics.fit`.
    """
    from tripletomics import crossfit, pp
    from tripletomics.growth import TESTED, grow_networks
    from tripletomics.model.growing import build_grown, score_grown
    from tripletomics.problem import Settings
    from tripletomics.tl.results import write_fit

    started, old = time.perf_counter(), open_start(given)
    table, settings, problem, reference = pp.prepare_growth(given["adata"], Settings.of(given), old)
    with training_bar(given["progress"]) as report:
        n_tested = old.calibration.n_cells if old.calibration else TESTED
        grown = grow_networks(problem, settings, old.networks, reference, n_tested=n_tested, report=report)
        whole = crossfit.embed_all(problem, grown.networks)[""]

        begin(report, "permuted labels and scores")
        fitted, names = time.perf_counter(), table.obs.obs_names.to_numpy()
        model = build_grown(old, reference, problem, settings, grown, whole, names=names)
        score_grown(model, old, reference, problem, settings, whole=whole, simulated=grown.simulated)
        report_scores(report, model.history)
    model.seconds = {"fit": fitted - started, "null": time.perf_counter() - fitted}
    write_fit(table, settings.key_added, model, problem, whole.coordinates)
    return model


def open_start(given: Mapping[str, Any]) -> Model:
    """Return the model to start from, read from its file if ``init`` is a path; raise if it cannot grow."""
    from tripletomics import pp
    from tripletomics.model import load

    if given["checkpoint"] is not None:
        raise ValueError("checkpoint= cannot be used with init=, which takes half the time of a fit: leave it out.")
    init = given["init"]
    return pp.check_start(load(Path(init)) if isinstance(init, (str, os.PathLike)) else init)

"""A fit of tripletomics on the training cells of a split: the one place where an experiment meets the fit."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from tripletomics import crossfit, nulls, pp
from tripletomics.embedding import coordinates
from tripletomics.labels.roles import without_loss
from tripletomics.problem import Settings
from tripletomics.training import train_encoder, train_map, warn_of_failure

if TYPE_CHECKING:
    import numpy as np

    from tripletomics.experiment.splits import Split
    from tripletomics.training import History

SAID = r"Types (of one|that only)|[\d,]+ training cells are known only as"


class Fit:
    """A fit with the settings of `tripletomics.fit`, which are checked at once."""

    def __init__(self, split: Split, settings: dict[str, Any]) -> None:
        task, self.rounds = split.task, 1
        given = {"label": task.label, "hold_out": split.held_out, "seed": split.seed, **task.common, **settings}
        if given.get("loss") is not None:
            given["label"] = without_loss(given["label"], task.adata.obs.columns)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", SAID)  # already said once, or intended
            _, self.settings, self.problem = pp.prepare(task.adata, Settings(**given))

    def train(self) -> tuple[dict[str, np.ndarray], History]:
        """Train, and return the coordinates of all cells by space, and the training curves."""
        encoder = train_encoder(self.problem, self.settings)
        if self.settings.self_training:
            encoder = crossfit.self_train(self.problem, self.settings, encoder)
        networks, history = train_map(self.problem, self.settings, encoder)
        warn_of_failure(encoder.loss, history)
        self.rounds = encoder.rounds
        found = coordinates(networks, self.problem.rows, self.problem.map_pcs)
        return found | {"map": self.problem.with_given(found["map"])}, history

    def permuted(self) -> nulls.PermutedFit:
        """Train on permuted labels, and return the coordinates of the cells in that fit."""
        return nulls.permuted_null(self.problem, self.settings, self.rounds)

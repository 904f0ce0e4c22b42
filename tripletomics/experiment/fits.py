"""A fit of tripletomics on the training cells of a split: the one place where an experiment meets the fit."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from tripletomics.tl import preparing
from tripletomics.tl.self_training import study
from tripletomics.training import silent

if TYPE_CHECKING:
    import numpy as np

    from tripletomics.experiment.splits import Split
    from tripletomics.tl.tasks import Null
    from tripletomics.training import History


class Fit:
    """A fit with the settings of `tripletomics.fit`, which are checked at once."""

    def __init__(self, split: Split, settings: dict[str, Any]) -> None:
        task = split.task
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Types (of one|that only)")  # said once, or on purpose
            self._task = preparing.prepare(
                task.adata, task.label, hold_out=split.held_out, seed=split.seed, **(task.common | settings)
            )

    def train(self) -> tuple[dict[str, np.ndarray], History]:
        """Train, and return the coordinates of all cells by space, and the training curves."""
        self._task = study(self._task, silent)
        networks, history = self._task.learn()
        return self._task.place(networks), history

    def permuted(self) -> Null:
        """Train on permuted labels, and return where the cells lie then."""
        return self._task.null()

"""What is watched during a training: whether the loss is finite, and the score of held-out cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor

from tripletomics import metrics
from tripletomics.embedding import embed_rows
from tripletomics.knn import NEIGHBOURS
from tripletomics.sources import Memory

Report = Callable[[str, int, int, float, float], None]  # stage, step, steps, loss, latest held-out score
CHECKS = 6  # times per stage that the held-out cells are scored, only for the history
CHECK_CELLS = 1000  # of the training cells, and of the held-out cells


def silent(stage: str, step: int, steps: int, loss: float, score: float) -> None:
    """Report nothing."""


def check_finite(values: Tensor, step: int, steps: int, what: str = "loss") -> None:
    """Raise a FloatingPointError if values of a training are infinite or NaN, before other libraries get them."""
    if not torch.isfinite(values).all():
        raise FloatingPointError(
            f"The {what} became infinite or NaN by step {step + 1} of {steps}, because steps are too large: lower lr; "
            "0.001 is usual."
        )


def sample(rows: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return up to 1,000 labelled cells: first 15 of each type, all of a rarer one, and then any others.

    A type with fewer cells could not win a vote of 15 neighbours, however well the cells are embedded.
    """
    rows = np.random.default_rng(0).permutation(rows[y[rows] >= 0])
    further = pd.Series(y[rows]).groupby(y[rows]).cumcount() >= NEIGHBOURS
    return rows[np.argsort(further, kind="stable")][:CHECK_CELLS]


def end_with(history: Mapping[str, Mapping[str, np.ndarray]], scores: Mapping[str, float]) -> None:
    """Put the held-out macro-F1 of the finished spaces at the end of their history: it is the one in all tables."""
    for space, f1 in scores.items():
        history[space]["held_out_f1"][-1] = f1


class Monitor:
    """Score samples of the held-out cells a few times per stage, only for the history and the progress bar.

    The score of the last step is left to `end_with`, because only then the map is finished and all cells are scored.
    """

    def __init__(
        self,
        stage: str,
        steps: int,
        report: Report,
        network: Callable[[Tensor], Tensor],
        cells: Memory,
        y: np.ndarray,
        train_rows: np.ndarray,
        held_out_rows: np.ndarray,
        fabric: Fabric,
    ) -> None:
        known, query = sample(train_rows, y), sample(held_out_rows, y)
        self.y, self.query_y = y[known], y[query]
        self.cells, self.query = cells.subset(known), cells.subset(query)
        self.stage, self.steps, self.report, self.network = stage, steps, report, network
        self.device = fabric.device
        self.scores = np.full(steps, np.nan)
        self.latest = np.nan

    def __call__(self, step: int, value: Tensor) -> None:
        """Record a step, and score the held-out cells when it is time."""
        if step % max(self.steps // CHECKS, 1) == 0 and step < self.steps and len(self.query):
            z, query = (embed_rows(self.network, rows, self.device).cpu().numpy() for rows in (self.cells, self.query))
            check_finite(torch.tensor([z.sum(), query.sum()]), step - 1, self.steps, "coordinates of the cells")
            self.scores[step - 1] = self.latest = metrics.knn_macro_f1(z, self.y, query, self.query_y)
        if step % 10 == 0 or step == self.steps:
            self.report(self.stage, step, self.steps, float(value), self.latest)

    def history(self, curves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return step, loss, macro-F1 of held-out cells (NaN where it was not measured) and what the loss traces."""
        return {"step": np.arange(1, self.steps + 1), **curves, "held_out_f1": self.scores}

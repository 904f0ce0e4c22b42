"""What is watched during a training: whether the loss is finite, and the score of held-out cells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from tripletomics import metrics
from tripletomics.embedding import embed_rows
from tripletomics.sources import Memory

Report = Callable[[str, int, int, float, float], None]  # stage, step, steps, loss, latest held-out score
CHECKS = 6  # times per stage that the held-out cells are scored, only for the history
CHECK_CELLS = 1000


def silent(stage: str, step: int, steps: int, loss: float, score: float) -> None:
    """Report nothing."""


def check_finite(values: Tensor, step: int, steps: int, what: str = "loss") -> None:
    """Raise a FloatingPointError if values of a training are infinite or NaN, before other libraries get them."""
    if not torch.isfinite(values).all():
        raise FloatingPointError(
            f"The {what} became infinite or NaN by step {step + 1} of {steps}, because steps are too large: lower lr; "
            "0.001 is usual."
        )


class Monitor:
    """Score held-out cells a few times per stage, only for the history and the progress bar."""

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
        random = np.random.default_rng(0)
        known = random.permutation(train_rows[y[train_rows] >= 0])[:CHECK_CELLS]
        query = random.permutation(held_out_rows[y[held_out_rows] >= 0])[:CHECK_CELLS]
        self.y, self.query_y = y[known], y[query]
        self.cells, self.query = cells.subset(known), cells.subset(query)
        self.stage, self.steps, self.report, self.network = stage, steps, report, network
        self.device = fabric.device
        self.scores = np.full(steps, np.nan)
        self.latest = np.nan

    def __call__(self, step: int, value: Tensor) -> None:
        """Record a step, and score the held-out cells when it is time."""
        if step % max(self.steps // CHECKS, 1) == 0 and len(self.query):
            z, query = (embed_rows(self.network, rows, self.device).cpu().numpy() for rows in (self.cells, self.query))
            check_finite(torch.tensor([z.sum(), query.sum()]), step - 1, self.steps, "coordinates of the cells")
            self.scores[step - 1] = self.latest = metrics.knn_macro_f1(z, self.y, query, self.query_y)
        if step % 10 == 0 or step == self.steps:
            self.report(self.stage, step, self.steps, float(value), self.latest)

    def history(self, curves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return step, loss, held-out macro-F1 (NaN where it was not measured) and what the loss traces."""
        return {"step": np.arange(1, self.steps + 1), **curves, "held_out_f1": self.scores}

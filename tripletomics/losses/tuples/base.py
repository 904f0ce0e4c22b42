"""What losses of triplets share."""

from __future__ import annotations

import numpy as np
import torch

from tripletomics.losses.base import Loss


class TripletLoss(Loss):
    """The base of losses that need an anchor, a cell of its class and a cell of another class."""

    coarse = True

    def has_terms(self, y: np.ndarray) -> bool:
        """Return whether the codes hold two cells of a class, and one that is of another."""
        codes, size = np.unique(y[y >= 0], return_counts=True)
        return bool(self.label_levels.apart(torch.from_numpy(codes[size > 1]), torch.from_numpy(codes)).any())

"""The losses that `fit` takes where none is given."""

from __future__ import annotations

import numpy as np

DEFAULT_LOSS = "softmax"  # within noise of the best, and the simplest: see docs/choose-a-loss.md
DEFAULT_VIEWS = "simclr:temperature=0.2,neighbours=5"  # of cells without labels: see docs/few-labels.md
DEFAULT_PAIR = "clip"  # of two modalities: see docs/two-modalities.md


def default_loss(codes: np.ndarray, paired: bool = False) -> str:
    """Return the default loss for training cells with these codes: by how many have a label, and for a pair."""
    unlabelled = (codes < 0).mean()
    if paired:
        return DEFAULT_PAIR if unlabelled == 1 else f"{DEFAULT_LOSS} + {DEFAULT_PAIR}"
    if unlabelled == 1:
        return DEFAULT_VIEWS
    return DEFAULT_LOSS if unlabelled <= 0.1 else f"{DEFAULT_LOSS} + {DEFAULT_VIEWS}"

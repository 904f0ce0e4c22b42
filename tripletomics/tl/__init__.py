"""The verbs that read and write AnnData."""

from tripletomics.tl.comparison import Comparison, compare
from tripletomics.tl.fitting import DEFAULT_LOSS, fit, transform
from tripletomics.tl.scoring import evaluate

__all__ = ["DEFAULT_LOSS", "Comparison", "compare", "evaluate", "fit", "transform"]

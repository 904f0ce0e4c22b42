"""The verbs that read and write AnnData."""

from tripletomics.tl.comparison import Comparison, compare
from tripletomics.tl.components import pca
from tripletomics.tl.explaining import explain
from tripletomics.tl.fitting import DEFAULT_LOSS, DEFAULT_VIEWS, fit, transform
from tripletomics.tl.paths import convert, transform_shard
from tripletomics.tl.predicting import predict
from tripletomics.tl.scoring import evaluate

__all__ = [
    "DEFAULT_LOSS",
    "DEFAULT_VIEWS",
    "Comparison",
    "compare",
    "convert",
    "evaluate",
    "explain",
    "fit",
    "pca",
    "predict",
    "transform",
    "transform_shard",
]

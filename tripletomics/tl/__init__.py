"""The verbs that read and write AnnData."""

from tripletomics.tl.atlas import transform_shard
from tripletomics.tl.comparing import compare
from tripletomics.tl.components import pca
from tripletomics.tl.conversion import convert
from tripletomics.tl.evaluating import evaluate
from tripletomics.tl.explaining import explain
from tripletomics.tl.fitting import DEFAULT_LOSS, DEFAULT_VIEWS, fit, transform
from tripletomics.tl.predicting import predict

__all__ = [
    "DEFAULT_LOSS",
    "DEFAULT_VIEWS",
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

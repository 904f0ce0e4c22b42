"""The verbs that read and write AnnData."""

from tripletomics.tl.comparing import compare
from tripletomics.tl.components import pca
from tripletomics.tl.evaluating import evaluate
from tripletomics.tl.explaining import explain
from tripletomics.tl.fitting import fit, transform
from tripletomics.tl.paths import convert, transform_shard
from tripletomics.tl.predicting import predict
from tripletomics.tl.relating import relate
from tripletomics.tl.stored import predict_shard

__all__ = [
    "compare",
    "convert",
    "evaluate",
    "explain",
    "fit",
    "pca",
    "predict",
    "predict_shard",
    "relate",
    "transform",
    "transform_shard",
]

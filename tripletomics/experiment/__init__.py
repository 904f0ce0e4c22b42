"""Splits, refits, nulls and the result cache that `evaluate` and `compare` share.

An `EvaluationTask` says what every method has to do, a `Split` which cells it may see. `run` fits and scores one method
on one split, `run_all` a plan of methods on several splits, with a `Cache` of what earlier calls computed.
"""

from tripletomics.experiment.cache import Cache, open_cache, versions
from tripletomics.experiment.fits import Fit
from tripletomics.experiment.results import Result, run, run_all, tidy
from tripletomics.experiment.splits import EvaluationTask, Split, embedding_words, make_splits, make_task

__all__ = [
    "Cache", "EvaluationTask", "Fit", "Result", "Split", "embedding_words", "make_splits", "make_task", "open_cache",
    "run", "run_all", "tidy", "versions",
]  # fmt: skip

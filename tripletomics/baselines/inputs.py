"""What every method is given, and two guards: against messages of libraries, and against those that seed generators."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tripletomics import devices
from tripletomics.features import Features
from tripletomics.sources import Matrix

Coordinates = dict[str, tuple[np.ndarray, np.ndarray]]  # "map", "metric" or both -> training, query cells; float32


@dataclass(frozen=True)
class Cells:
    """Training cells, which methods are fitted on, and query cells, which they embed.

    Attributes
    ----------
    train_pca, query_pca
        Up to 50 principal components of the scaled training cells (cells, components), float32.
    y
        Codes of the training cells, -1 for unlabelled.
    train_counts, query_counts
        The cells as they were given if they are counts, else None.
    train_new
        The components that the training cells would have as new cells (see `pcs`).
    """

    train_pca: np.ndarray
    query_pca: np.ndarray
    y: np.ndarray
    train_counts: Matrix | None = None
    query_counts: Matrix | None = None
    train_new: np.ndarray | None = None


def prepare(features: Features, x_train: Matrix, x_query: Matrix, y: np.ndarray) -> Cells:
    """Return what methods are given, from features that were fitted on the training cells.

    Parameters
    ----------
    features
        As ``features.fit(x_train, ...)`` returns them.
    x_train, x_query
        Cells by the genes of the features, as they are in AnnData, dense or sparse.
    y
        Codes of the training cells, -1 for unlabelled.

    Raises
    ------
    ValueError
        If there are fewer than two principal components, from which no map can be made.
    """
    # with as many components as training cells, these would not vary along the last one, but other cells might
    n = min(len(features.axes), max(x_train.shape[0] - 1, 2))
    if n < 2:
        raise ValueError(
            f"A map needs two principal components, and {x_train.shape[0]} training cells with {x_train.shape[1]} "
            f"features have {n}: give more."
        )
    train_pca, query_pca = (features.pcs(x)[:, :n] for x in (x_train, x_query))
    train_new = features.pcs(x_train, fitted=np.ones(x_train.shape[0], dtype=bool))[:, :n]
    counts = (x_train, x_query) if features.counts else (None, None)
    return Cells(train_pca, query_pca, y, counts[0], counts[1], train_new)


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Silence warnings, and messages of the named loggers below errors, in the block; keep the number of threads."""
    before = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), devices.keeping_threads():
            for category in (UserWarning, FutureWarning, DeprecationWarning):
                warnings.simplefilter("ignore", category)
            warnings.filterwarnings("ignore", "IProgress not found")  # tqdm, in a notebook without ipywidgets
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def isolated() -> Iterator[None]:
    """Restore the global generators of Python, numpy and torch after the block, for libraries that seed them."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002

"""The estimator for scikit-learn, for use in a pipeline: a matrix goes in; the map and the types come out."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from tripletomics import pp, tl
from tripletomics.features.rows import by_rows
from tripletomics.labels import COVERAGE, UNASSIGNED, UNLABELLED, known, names
from tripletomics.labels.prediction import Prediction, check_shares
from tripletomics.pp.checks import LEAST
from tripletomics.seen import hash_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike
    from torch.nn import Module

    from tripletomics.augment import Augmentation
    from tripletomics.networks import MLP
    from tripletomics.sources import Matrix

__all__ = ["TripletMap"]

LABEL, LARGEST_SEED = "y", 2**31 - 1


class TripletMap(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClassifierMixin, BaseEstimator):
    """Map cells (the rows of a matrix), with or without labels, and predict the types of new cells.

    It is `tripletomics.fit` for a matrix in place of an AnnData, and takes its keywords. By default no cell is held out
    (`hold_out` is 0), so there is no fit on permuted labels. By default no cell is unassigned (`reject` is 0).

    Parameters
    ----------
    loss, structure, spread, dim, metric_dim, counts, unlabelled
        As for `tripletomics.fit`. Counts are normalised and log-transformed inside the model.
    hold_out
        Share of the cells to hold out and score, in [0, 1). Their scores are in ``model_.scores``, next to those of a
        fit on permuted labels.
    encoder, augment, self_training, steps, batch_size, lr
        As for `tripletomics.fit`.
    reject
        Share of the cells of known types that `predict` may call "unassigned", because they lie too far from all types.
        It needs labels that are text.
    random_state
        Seed of everything random, or a `numpy.random.RandomState` to draw it from. None draws a new one for each fit.
    device, precision
        As for `tripletomics.fit`.

    Attributes
    ----------
    classes_
        The types, sorted; empty if there were no labels.
    model_
        The `tripletomics.Model`: ``summary()``, the metric space (``embed``), ``save`` and ``to_onnx``.
    n_features_in_
        Columns of the matrix.
    feature_names_in_
        Their names, if it was a DataFrame.

    Notes
    -----
    In `y`, None, NaN among text, and the names in `unlabelled` mean unlabelled. A matrix may be sparse (CSR or CSC).
    A fit needs four cells or more. With labels, it needs two classes or more, and two cells or more of at least one of
    them. A cell of the fit keeps the coordinates that it got there.

    Examples
    --------
    >>> from sklearn.model_selection import cross_val_score
    >>> from tripletomics.sklearn import TripletMap
    >>> cross_val_score(TripletMap(), x, y)  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        loss: str | Module | None = None,
        structure: float = 0.5,
        spread: float = 0.5,
        dim: int = 2,
        metric_dim: int = 32,
        counts: bool | Literal["auto"] = "auto",
        unlabelled: Sequence[str] = UNLABELLED,
        hold_out: float = 0.0,
        encoder: str | MLP = "mlp",
        augment: str | Augmentation | None = "mask",
        self_training: bool = False,
        steps: int | None = None,
        batch_size: int | None = None,
        lr: float = 1e-3,
        reject: float = 0.0,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        self.loss = loss
        self.structure = structure
        self.spread = spread
        self.dim = dim
        self.metric_dim = metric_dim
        self.counts = counts
        self.unlabelled = unlabelled
        self.hold_out = hold_out
        self.encoder = encoder
        self.augment = augment
        self.self_training = self_training
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.reject = reject
        self.random_state = random_state
        self.device = device
        self.precision = precision

    def fit(self, X: ArrayLike | Matrix, y: ArrayLike | None = None) -> TripletMap:
        """Train the model.

        Parameters
        ----------
        X
            Cells by genes (or other features), dense, sparse or a DataFrame.
        y
            Type of each cell; None to learn from the cells alone.

        Raises
        ------
        ValueError, TypeError
            Where `tripletomics.fit` or scikit-learn's own checks of `X` and `y` raise them.
        """
        x = self._cells(X, reset=True)
        texts, classes = (None, np.zeros(0)) if y is None else self._labels(x, y)
        given = self.get_params(deep=False)
        check_shares(self.reject, COVERAGE)
        if given.pop("reject") and classes.dtype.kind not in "OUST":
            raise ValueError(
                f"reject={self.reject!r} gives some cells the name {UNASSIGNED!r}, but y holds {classes.dtype}: "
                "pass reject=0, or labels that are text."
            )
        if not isinstance(seed := given.pop("random_state"), Integral):
            seed = check_random_state(seed).randint(LARGEST_SEED)
        columns = {} if texts is None else {LABEL: texts}
        genes: Any = getattr(self, "feature_names_in_", range(x.shape[1]))
        adata = pp.adata_of(x, genes, **columns)
        self.model_ = tl.fit(adata, *columns, seed=int(seed), progress=False, **given)
        trained = [text in self.model_.classes for text in names(pd.Series(classes))]  # others are held out
        self.classes_ = classes[trained] if y is not None else classes
        self._n_features_out = self.model_.networks.map_head.out.out_features
        return self

    def transform(self, X: ArrayLike | Matrix) -> np.ndarray:
        """Return cells on the map, float32 (cells, dim)."""
        x, back = self._known(X)
        return self.model_.map(x)[back]

    def predict(self, X: ArrayLike | Matrix) -> np.ndarray:
        """Return the most probable of `classes_` for each cell, or "unassigned" if `reject` is above 0."""
        found = self._predict(X)
        labels = self.classes_[np.argsort(self._columns())[found.codes]]
        return np.where(found.unassigned, UNASSIGNED, labels.astype(object)) if self.reject else labels

    def predict_proba(self, X: ArrayLike | Matrix) -> np.ndarray:
        """Return the probability of each of `classes_`, given that a cell is of one of them: float32 (cells, classes).

        They add up to 1. If a cell is so far from all types that all are 0, the most probable type gets 1.
        `score_samples` says how usual a cell is among the types.
        """
        found = self._predict(X)
        p = found.probabilities.astype(np.float64)
        total = p.sum(axis=1, keepdims=True)
        p = np.where(total > 0, p / np.where(total > 0, total, 1), np.eye(p.shape[1])[found.codes])
        return p[:, self._columns()].astype(np.float32)

    def score_samples(self, X: ArrayLike | Matrix) -> np.ndarray:
        """Return how usual each cell is among those of the known types, float32 (cells,); higher is more usual.

        It is minus the novelty of `tripletomics.predict`, in standard deviations of the calibration cells: 0 is usual,
        and a cell at -3 is as likely of no known type as of a known one.
        """
        return (-self._predict(X).deviation).astype(np.float32)

    def __sklearn_tags__(self) -> Any:
        """Return tags for scikit-learn: sparse matrices are allowed, labels are not required, results are float32."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = False
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _cells(self, X: Any, *, reset: bool = False) -> Matrix:
        """Return a matrix after scikit-learn's checks, which remember its columns (`reset`) or compare them."""
        least = LEAST if reset else 1
        return validate_data(self, X, accept_sparse=["csr", "csc"], reset=reset, ensure_min_samples=least)

    def _labels(self, x: Matrix, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels as text (cells,), None for unlabelled cells; and the classes as they were given."""
        y = np.asarray(column_or_1d(y, warn=True))
        check_consistent_length(x, y)
        texts = known(pd.Series(y), self.unlabelled).to_numpy()
        labelled = y[pd.notna(texts)]
        check_classification_targets(labelled)
        classes = np.unique(labelled)
        if len(classes) < 2:
            raise ValueError(
                f"y has {len(classes)} class: there is nothing to distinguish. Pass labels of two classes or more, or "
                "y=None to learn from the cells alone."
            )
        return texts, classes

    def _columns(self) -> list[int]:
        """Return which type of the model each of `classes_` is."""
        return [self.model_.classes.index(text) for text in names(pd.Series(self.classes_))]

    def _known(self, X: ArrayLike | Matrix) -> tuple[Matrix, np.ndarray]:
        """Return new cells in an order that depends only on their values, and the indices that undo it.

        scikit-learn asks for exactly the same results in any order of the rows, and sums in float32 depend on it.
        """
        check_is_fitted(self)
        x = by_rows(self._cells(X))
        order = np.argsort(hash_rows(x), kind="stable")
        return x[order], np.argsort(order)

    def _predict(self, X: ArrayLike | Matrix) -> Prediction:
        x, back = self._known(X)
        return self.model_.predict(x, reject=self.reject)[0][back]

"""Which model wrote the coordinates of a dataset, and which of its cells that model was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tripletomics import keys, pp
from tripletomics.model.summary import origin
from tripletomics.notices import warn
from tripletomics.seen import HELD_OUT

if TYPE_CHECKING:
    from tripletomics.features import Pair
    from tripletomics.model import Model
    from tripletomics.sources import Matrix
    from tripletomics.store.writing import Block


def trained_on(model: Model, x: Matrix | Pair) -> np.ndarray | None:
    """Return which cells a model was trained or calibrated on, boolean (cells,); None if it does not know."""
    return None if model.seen is None else model.seen.find(x)[0] > HELD_OUT


def split_of(trained: np.ndarray | None, n: int, old: Any) -> pd.Categorical[str]:
    """Return "train" or "held-out" for each of n cells, or missing values if the model knows none of them.

    Training cells of an older split of the same model remain training cells: their values may have changed since. A
    dataset of only new cells has no split, so that next to the cells of the fit they are a separate group.
    """
    if trained is None or (old is None and not trained.any()):
        return pd.Categorical.from_codes(np.full(n, -1, dtype=np.int8), pd.Index(["train", "held-out"]))
    return pp.split_names(~trained if old is None else ~trained & (np.asarray(old).astype(str) != "train"))


def is_own(named: str | None, model: Model, old: Any) -> bool:
    """Return whether the split in a dataset is that of this model, and not of joined datasets of several models.

    Parameters
    ----------
    named
        The id of the model that the dataset names.
    old
        The column of its split; None if there is none.
    """
    if named != model.id or old is None or model.catalog is None or "cells" in model.settings:  # of a sample
        return named == model.id
    return int((np.asarray(old).astype(str) == "train").sum()) <= len(model.catalog.names)


def name_model(target: Any, key: str, model: Model, trained: np.ndarray | None) -> int:
    """Write which model wrote the coordinates of a dataset, and the split of its cells; replace those of another model.

    Returns
    -------
    How many cells the dataset names as training cells of this model that are not found by their values.
    """
    column = keys.split_key(key)
    old = target.obs.get(column)
    same = is_own(keys.seen_by(target.uns, key), model, old)
    if not same:
        target.uns[key] = origin(model)
    if trained is None and (same or old is None):
        return 0
    target.obs[column] = split_of(trained, target.n_obs, old if same else None)
    if not same or trained is None or old is None or "cells" in model.settings:  # of a sample, not all can be found
        return 0
    return int(((old.astype(str) == "train") & ~trained).sum())


class Training:
    """Which cells of a dataset on disk a model was trained on, found block by block.

    Parameters
    ----------
    model
        From `fit` or `load`.
    n
        Number of cells.
    old
        The column of the split in the dataset; None if there is none.
    own
        Whether this column is that of the model.
    """

    def __init__(self, model: Model, n: int, old: Any, own: bool) -> None:
        self.model, self.n, self.old, self.own = model, n, old, own
        self.trained = None if model.seen is None else np.zeros(n, dtype=bool)

    def see(self, block: Block) -> None:
        """Look for the cells of a block in the fit."""
        if self.trained is not None:
            self.trained[block.start : block.stop] = trained_on(self.model, block.x)

    def split(self, name: str) -> dict[str, pd.Categorical[str]]:
        """Return the column of the split under its name, after all blocks; none if no split is known."""
        if self.trained is None and (self.old is None or self.own):
            return {}
        return {name: split_of(self.trained, self.n, self.old if self.own else None)}

    def note(self) -> None:
        """Warn if the model was trained on some of the cells."""
        note_on_training(self.trained)


def note_on_training(trained: np.ndarray | None, changed: int = 0) -> None:
    """Warn if a model was trained on some of the cells that it is to embed, or if their values have changed since."""
    if trained is not None and trained.any():
        warn(
            f"{trained.sum():,} of {len(trained):,} cells were part of the fit (the model was trained on them): what "
            "it says about them is no evidence for new cells."
        )
    if changed:
        warn(
            f"{changed:,} training cells of this model, as the split in obs says, have other values than in the fit: "
            "they stay training cells, but in a dataset without that split they would count as held out."
        )

"""Class codes and names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def encode(values: pd.Series, unlabelled: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Turn names into codes.

    Parameters
    ----------
    values
        One name a cell; whole numbers and categories are taken as their text.
    unlabelled
        Names that mean *unlabelled*, as missing values do.

    Returns
    -------
    codes
        int64 (cells,), -1 for unlabelled.
    classes
        The names, sorted; ``classes[code]`` is the name of a code.
    """
    names = values.astype(object).where(values.notna(), None).map(lambda name: None if name is None else str(name))
    known = names.notna() & ~names.isin(list(unlabelled))
    codes, classes = pd.factorize(names.where(known), sort=True)
    return codes.astype(np.int64), [str(name) for name in classes]


def permute(codes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Deal the codes of the labelled cells out again among them."""
    known = codes >= 0
    shuffled = codes.copy()
    shuffled[known] = random.permutation(codes[known])
    return shuffled

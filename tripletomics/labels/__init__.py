"""Class codes and names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

NO_SIGNAL = 0.01  # a permutation p above this: permuted labels of the held-out cells score as well
UNASSIGNED = "unassigned"  # what a cell is called that is like no known type
UNLABELLED = ("", "Unknown", "unknown", UNASSIGNED, "NA", "None", "nan")
REJECT, COVERAGE = 0.05, 0.9  # share of the known cells that may be rejected, and that label sets hold


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
    codes = np.full(len(names), -1, dtype=np.int64)
    classes, codes[known] = np.unique(names[known].to_numpy(dtype=str), return_inverse=True)
    return codes, classes.tolist()


def known_first(codes: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Give the first codes to the types that training cells have, so that no other type changes what is learned.

    Returns
    -------
    codes
        The new ones.
    order
        The old code of each new one.
    n_known
        Types that training cells have.
    """
    seen = np.isin(np.arange(codes.max() + 1), codes[train])
    order = np.argsort(~seen, kind="stable")
    return np.where(codes >= 0, np.argsort(order)[codes], -1), order, int(seen.sum())


def permute(codes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Deal the codes of the labelled cells out again among them."""
    known = codes >= 0
    shuffled = codes.copy()
    shuffled[known] = random.permutation(codes[known])
    return shuffled

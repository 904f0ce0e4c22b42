"""What the columns of a dataset hold, however it is written: names of types and their codes, yes or no, splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

UNASSIGNED = "unassigned"  # name for a cell that is like no known type
NONE = "none"  # name for what corresponds to no label of another dataset; a cell with it is unlabelled
UNLABELLED = (
    "", "Unknown", "unknown", UNASSIGNED, "NA", "None", "nan", "<NA>", "N/A", "null", "unlabelled", "unlabeled",
)  # fmt: skip
YES, NO = ("true", "yes"), ("false", "no")
TRAINING = ("train", "training")
HELD_OUT = (
    "held-out", "held_out", "held out", "heldout", "hold-out", "hold_out", "holdout", "test", "testing", "val", "valid",
    "validation", "dev",
)  # fmt: skip


def names(values: pd.Series) -> pd.Series:
    """Return the names in a column as text, None where one is missing or blank; bytes are read as UTF-8."""
    import pandas as pd

    codes, texts = distinct(values)
    return pd.Series(texts[codes], values.index, dtype=object)


def distinct(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return codes (cells,) of the different values of a column, and these as text; the last one, None, is code -1."""
    import pandas as pd

    try:
        codes, levels = pd.factorize(values)
    except TypeError as error:
        raise TypeError(f"obs[{str(values.name)!r}] does not hold names: {error}. Convert them to text.") from None
    return codes, np.array([*map(_text, levels), None], dtype=object)


def _text(value: object) -> str | None:
    if isinstance(value, bytes):  # of fixed-length strings in HDF5
        value = value.decode("utf-8", errors="replace")
    return None if value is None or not str(value).strip() else str(value)


def several(given: str | Sequence[str], argument: str) -> list[str]:
    """Return one name or several as a list, or raise a TypeError."""
    if isinstance(given, (str, bytes)):
        given = [given.decode() if isinstance(given, bytes) else given]
    try:
        return [str(name) for name in given]
    except TypeError:
        raise TypeError(f"{argument}={given!r} is neither a name nor a list of names.") from None


def is_missing(name: object, unlabelled: str | Sequence[str] = UNLABELLED) -> bool:
    """Return whether a name means a missing value; upper or lower case and spaces around it do not matter."""
    text = _text(name)
    return text is None or _plain(text) in _words(unlabelled)


def known(values: pd.Series, unlabelled: str | Sequence[str]) -> pd.Series:
    """Return the names in a column as `names` does, None also where one means unlabelled."""
    found, words = names(values), _words(unlabelled)
    return found.where(~found.isin([name for name in found.dropna().unique() if _plain(name) in words]), None)


def encode(values: pd.Series, unlabelled: str | Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return the codes and the sorted names of a column.

    Parameters
    ----------
    values
        One name per cell; whole numbers, bytes and categories are taken as their text.
    unlabelled
        Names that mean *unlabelled*, in upper or lower case, with or without spaces around them. Missing and blank
        values always do.

    Returns
    -------
    codes
        int64 (cells,), -1 for unlabelled.
    classes
        The names, sorted; ``classes[code]`` is the name of a code.
    """
    found = known(values, unlabelled)
    there = found.notna().to_numpy()
    codes = np.full(len(found), -1, dtype=np.int64)
    classes, codes[there] = np.unique(found[there].to_numpy(dtype=str), return_inverse=True)
    return codes, classes.tolist()


def known_first(codes: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return codes in which the types of training cells come first, so that no other type changes what is learned.

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


def flags(values: pd.Series) -> pd.Series | None:
    """Return a column of yes and no as True, False or None for each row; None if it holds anything else.

    It may hold booleans, or true, false, yes and no as text in upper or lower case, as columns from R and CSV files do.
    """
    answers = dict.fromkeys(YES, True) | dict.fromkeys(NO, False)
    words = names(values).map(lambda name: None if name is None else _plain(name))
    given = words.dropna()
    if given.empty or not given.isin(list(answers)).all():
        return None
    return words.map(lambda word: None if word is None else answers[word]).astype(object)


def split_of(values: pd.Series) -> np.ndarray | None:
    """Return which cells a column holds out: 1 held out, 0 training, -1 not known; None if it is not a split.

    A split holds yes for held-out cells and no for others, or names: "train", and "held-out", "test" or "validation".

    Raises
    ------
    ValueError
        If it may be a split or groups: 0 and 1, or "train" next to other names.
    """
    marks = flags(values)
    if marks is not None:
        return marks.map({True: 1, False: 0}).fillna(-1).to_numpy(dtype=np.int8)
    words = names(values).map(lambda name: None if name is None else _plain(name))
    present = set(words.dropna())
    if {word.removesuffix(".0") for word in present} == {"0", "1"}:
        raise ValueError("holds 0 and 1, which may be two groups or mark the cells to hold out")
    if not present & {*TRAINING}:
        return None
    if odd := sorted(present - {*TRAINING, *HELD_OUT}):
        raise ValueError(f"holds 'train', as a split does, and other names, such as {odd[0]!r}")
    if present <= {*TRAINING}:
        return None
    return np.where(words.isna(), -1, np.where(words.isin(TRAINING), 0, 1)).astype(np.int8)


def permute(codes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the codes with those of the labelled cells in random order."""
    labelled = codes >= 0
    shuffled = codes.copy()
    shuffled[labelled] = random.permutation(codes[labelled])
    return shuffled


def _words(unlabelled: str | Sequence[str]) -> set[str]:
    return {_plain(word) for word in several(unlabelled, "unlabelled")}


def _plain(word: str) -> str:
    return word.strip().casefold()


def check_new_types(names: str | Sequence[str], n_cells: int, types: Sequence[str]) -> list[str]:
    """Return the new type of each cell as text, or raise if one is among `types` or means unlabelled."""
    names = [names] if isinstance(names, str) else [str(name) for name in names]
    if not names or len(names) != n_cells:
        raise ValueError(f"{len(names)} names for {n_cells} cells: pass one for each, and at least one.")
    for name in sorted(set(names)):
        if name in types:
            raise ValueError(f"{name!r} is a type of the model already: enroll only new types, or fit again.")
        if is_missing(name):
            raise ValueError(f"{name!r} means unlabelled: give the new type a name of its own.")
    return names

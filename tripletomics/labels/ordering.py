"""Columns that have an order: a day, a dose, an age, a stage, an hour of the day."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tripletomics import losses
from tripletomics.labels.columns import UNLABELLED, is_missing
from tripletomics.labels.targets import Target
from tripletomics.losses import Loss, RankNContrast
from tripletomics.metrics.order import distance
from tripletomics.parts import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

LEAST_VALUES = 3  # distinct ones: two have no order that differs from being two types
LEAST_CELLS = 10  # training cells with a value: fewer cannot show how far a prediction is off
LEAST_BATCHES = 6  # of one value each: fewer have too few orders to tell a true one from chance
MOST = 0.5  # share of cells in batches with several values, below which values are permuted among batches
ORDERS = 20  # permutations over all cells, for `freedom`
HARDLY = 0.1  # `freedom` below which a null says nothing
LARGEST = float(np.finfo(np.float32).max)  # squares of larger values may overflow


def split_order(order: str, columns: Iterable[object], argument: str = "order") -> tuple[str, float | None]:
    """Return the column and the period of text such as "day" or "phase:period=24".

    A column of exactly this name comes first. An unknown column is not an error here.

    Raises
    ------
    TypeError, ValueError
        If it is not text, or its period is not a number above 0.
    """
    if not isinstance(order, str):
        raise TypeError(
            f"{argument}={order!r} is not the name of a column of adata.obs, such as 'day'. Several columns stand in "
            "label=, as in label={'cell_type': None, 'day': 'rnc', 'dose': 'rnc'}."
        )
    name, colon, setting = order.rpartition(":")
    if order in {*map(str, columns)} or not colon:
        return order, None
    key, equals, text = (word.strip() for word in setting.partition("="))
    if key != "period" or not equals:
        raise ValueError(
            f"{argument}={order!r} cannot be read.{did_you_mean(key, ['period'])} Write 'day', or for values that run "
            "around a circle 'phase:period=24'."
        )
    try:
        period = float(text)
    except ValueError:
        period = math.nan
    if not 0 < period < math.inf:
        raise ValueError(f"{argument}={order!r}: period={text} is not a number above 0, such as 24 for hours of a day.")
    return name.strip(), period


def read_loss(text: str, column: str) -> tuple[Loss, float]:
    """Return the loss of an ordered column, and its weight, from text such as "rnc" or "0.5*rnc:period=24".

    Raises
    ------
    ValueError
        If it is no loss of values that have an order, or a sum of several.
    """
    loss = losses.make(text)
    terms = loss.terms() if isinstance(loss, losses.Sum) else [(1.0, loss)]
    able = " or ".join(map(repr, losses.names(ordered=True)))
    if len(terms) > 1:
        raise ValueError(f"{column!r} has {len(terms)} losses ({text!r}): an ordered column takes one, {able}.")
    ((weight, one),) = terms
    if not one.ordered:
        raise ValueError(f"loss={text!r} of {column!r} learns types, not values that have an order: take {able}.")
    return one, weight


def read_target(
    values: pd.Series,
    loss: Loss | None = None,
    weight: float = 1.0,
    unlabelled: str | Sequence[str] = UNLABELLED,
    argument: str = "order",
) -> Target:
    """Return the target of a column of numbers or of ordered categories.

    Parameters
    ----------
    values
        One value per cell. Missing values, and categories that mean unlabelled, become NaN.
    loss, weight
        What learns it; its period, if it has one, is that of the values. "rnc" by default.
    unlabelled
        Names that mean unlabelled, as for `labels.encode`.
    argument
        The option that named the column, for messages.

    Raises
    ------
    TypeError
        If the column holds text, dates, or True and False.
    ValueError
        If it holds infinite values or categories without an order, or categories are given a period.
    """
    import pandas as pd

    name, what = str(values.name), f"{argument}={str(values.name)!r}"
    loss = RankNContrast() if loss is None else loss
    period: float | None = getattr(loss, "period", None)
    if isinstance(values.dtype, pd.CategoricalDtype):
        if not values.cat.ordered:
            raise ValueError(f"{what} holds categories without an order. {_cure(values.cat.categories, values.name)}")
        if period is not None:
            raise ValueError(
                f"{what} holds ordered categories, and a period of {period:g} is for numbers: give the column as "
                "numbers, or leave the period out."
            )
        # all that are declared: those of some cells would give ranks that other cells decide
        known = [one for one in values.cat.categories if not is_missing(one, unlabelled)]
        names = [str(one) for one in known]
        if twice := [one for one in names if names.count(one) > 1]:
            x = f"adata.obs[{name!r}]"
            raise ValueError(
                f"{what} has two categories that read {twice[0]!r}, such as a number and its text: make them one, "
                f"as in {x} = pd.Categorical({x}.astype(str), {list(dict.fromkeys(names))[:3]}, ordered=True)."
            )
        ranks = pd.Categorical(values, known).codes
        return Target(name, np.where(ranks >= 0, ranks, np.nan), loss, weight, None, names)
    if pd.api.types.is_bool_dtype(values.dtype):
        raise TypeError(f"{what} holds True and False, which are two types without an order: take it as label.")
    if values.dtype.kind in "mM" or isinstance(values.dtype, (pd.DatetimeTZDtype, pd.PeriodDtype)):
        x = f"adata.obs[{str(values.name)!r}]"
        days = f"{x}.dt.days" if values.dtype.kind == "m" else f"({x} - {x}.min()).dt.days"
        raise TypeError(f"{what} holds {values.dtype}, not numbers: turn dates into days, {x} = {days}.")
    if not pd.api.types.is_numeric_dtype(values.dtype) or values.dtype.kind == "c":
        raise TypeError(f"{what} holds {values.dtype}, not numbers. {_cure(values.dropna().unique(), values.name)}")
    numbers = values.to_numpy(dtype=float, na_value=np.nan)
    if n := int((np.abs(numbers) > LARGEST).sum()):
        raise ValueError(
            f"{what} has {n:,} infinite values (or values above {LARGEST:.2g}): replace them by NaN, which means that "
            "the value of a cell is not known."
        )
    return Target(name, numbers if period is None else numbers % period, loss, weight, period)


def check_target(target: Target, train: np.ndarray, argument: str = "order") -> None:
    """Raise a ValueError unless enough training cells, boolean (cells,), have values of which some differ."""
    known = target.values[train & ~np.isnan(target.values)]
    distinct = len(np.unique(known))
    what = f"{argument}={target.name!r}"
    if len(known) < LEAST_CELLS:
        raise ValueError(
            f"{what} has a value for {len(known)} of {int(train.sum()):,} training cells: it needs at least "
            f"{LEAST_CELLS}."
        )
    if distinct < LEAST_VALUES:
        turned = "" if target.period is None else f" around a circle of {target.period:g}"
        cure = "leave it out" if distinct == 1 else "two values have no order: take the column as label"
        raise ValueError(
            f"{what} has {distinct} distinct value{'s' * (distinct > 1)}{turned} in the training cells, and an order "
            f"needs at least {LEAST_VALUES}: {cure}."
        )


def permute(
    values: np.ndarray, codes: np.ndarray, batch_codes: np.ndarray | None, random: np.random.Generator
) -> np.ndarray | None:
    """Return permuted values; None if values are those of batches, and there are too few batches to permute.

    Values are permuted within types. Where most cells lie in a batch with several values, they are permuted within the
    batches of a type. Where batches have one value each, as donors of one day do, each batch gets that of another.

    Parameters
    ----------
    values
        Values (cells,), NaN where missing; these stay where they are.
    codes, batch_codes
        Types and batches (cells,), -1 for unknown; None without batches.
    random
        Generator of the permutation.
    """
    known = np.flatnonzero(~np.isnan(values))
    batches = np.full(len(values), -1) if batch_codes is None else batch_codes
    found, of_batch = np.unique(batches[known], return_inverse=True)
    medians = np.array([np.median(values[known][of_batch == i]) for i in range(len(found))])
    several = np.array([len(np.unique(values[known][of_batch == i])) > 1 for i in range(len(found))])
    shuffled = values.copy()
    if several[of_batch].mean() < MOST:
        if len(found) < LEAST_BATCHES:
            return None
        shuffled[known] = random.permutation(medians)[of_batch]
        return shuffled
    groups = np.unique(np.stack([codes[known], of_batch]), axis=1, return_inverse=True)[1].ravel()
    for group in range(groups.max() + 1):
        rows = known[groups == group]
        shuffled[rows] = random.permutation(values[rows])
    return shuffled


def freedom(permuted: np.ndarray, target: Target, random: np.random.Generator) -> float:
    """Return how far `permute` moved the values, as a share of how far a permutation over all cells moves them.

    It is 0 if every group has one value: permuting then changes nothing, so the null says nothing.
    """
    known = np.flatnonzero(~np.isnan(target.values))
    values = target.values[known]

    def moved(others: np.ndarray) -> float:
        return float((values != others if target.classes else distance(values, others, target.period)).mean())

    free = np.mean([moved(random.permutation(values)) for _ in range(ORDERS)]) if len(known) else 0.0
    return float(moved(permuted[known]) / free) if free > 0 else 0.0


def strata(values: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
    """Return which tenth of the values each one is in (cells,), from 0; -1 where missing, or not `among` these."""
    known, found = ~np.isnan(values) & (True if among is None else among), np.full(len(values), -1)
    cuts = np.unique(np.quantile(values[known], np.arange(1, 10) / 10)) if known.any() else np.zeros(0)
    found[known] = np.unique(np.searchsorted(cuts, values[known], side="right"), return_inverse=True)[1]
    return found


def _cure(names: Iterable[object], column: object) -> str:
    """Return what to do about names that have no order."""
    found = [str(name) for name in names]
    x = f"adata.obs[{str(column)!r}]"
    try:
        ranked = sorted(found, key=float)
        return f"Its values are numbers as text: {x} = {x}.astype(float)." if ranked else "It is empty."
    except ValueError:
        shown = ", ".join(map(repr, found[:3])) + ", ..." * (len(found) > 3)
        return f"Give their order: {x} = pd.Categorical({x}, [{shown}], ordered=True), the first one first."

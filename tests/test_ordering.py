"""Columns with an order: what is read, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from tripletomics.labels.ordering import check_target, read_loss, read_target, split_order
from tripletomics.losses import RankNContrast


def column(values, **given):
    return pd.Series(values, name="day", **given)


def categories(values, names, ordered=True):
    return column(pd.Categorical(values, names, ordered=ordered))


@pytest.mark.parametrize(
    ("text", "columns", "found"),
    [
        ("day", ["day"], ("day", None)),
        ("phase:period=24", ["phase"], ("phase", 24.0)),
        ("phase : period = 1e1", ["phase"], ("phase", 10.0)),
        ("phase:period=24", ["phase", "phase:period=24"], ("phase:period=24", None)),
        ("time:h", ["time:h"], ("time:h", None)),
        ("time:h:period=24", ["time:h"], ("time:h", 24.0)),
        ("dya", ["day"], ("dya", None)),
    ],
)
def test_the_column_and_its_period(text, columns, found):
    assert split_order(text, columns) == found


@pytest.mark.parametrize("period", ["0", "-24", "nan", "inf", "day", ""])
def test_a_period_that_cannot_be(period):
    with pytest.raises(ValueError, match=f"order='phase:period={period}'"):
        split_order(f"phase:period={period}", ["phase"])


def test_text_that_cannot_be_read():
    with pytest.raises(ValueError, match=r"cannot be read\. Did you mean 'period'\? Write 'day'"):
        split_order("phase:perod=24", ["phase"])
    with pytest.raises(TypeError, match="order=3 is not the name of a column"):
        split_order(3, ["phase"])


@pytest.mark.parametrize(
    "values",
    [
        column([1, 5, 2]),
        column([1, 5, 2], dtype="Int64"),
        column([1.0, 5, 2], dtype="float32"),
        column([1, 5, 2], dtype="uint8"),
    ],
)
def test_numbers(values):
    target = read_target(values)
    assert (target.name, target.period, target.categories) == ("day", None, None)
    assert target.values.dtype == np.float64
    assert target.values.tolist() == [1, 5, 2]


def test_missing_numbers():
    for values in (column([1, None, 2], dtype="Int64"), column([1, np.nan, 2])):
        np.testing.assert_array_equal(read_target(values).values, [1, np.nan, 2])


def test_numbers_around_a_circle():
    assert read_target(column([25.0, -1, 24, 3]), RankNContrast(period=24)).values.tolist() == [1, 23, 0, 3]


def test_ordered_categories_are_ranks():
    target = read_target(
        categories(["late", None, "early", "Unknown", "mid"], ["Unknown", "early", "none", "mid", "late"])
    )
    np.testing.assert_array_equal(target.values, [2, np.nan, 0, np.nan, 1])
    assert target.categories == ["early", "mid", "late"]  # no cell is "none"


def test_intervals_are_ordered_categories():
    target = read_target(column(pd.cut([1, 5, 9], [0, 3, 6, 10])))
    assert target.values.tolist() == [0, 1, 2]
    assert target.categories == ["(0, 3]", "(3, 6]", "(6, 10]"]


DATES = pd.to_datetime(["2024-01-01", "2024-01-03", "2024-02-01"])


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (column(["1.5", "2", "10"]), TypeError, r"Its values are numbers as text: .*\.astype\(float\)"),
        (column(["early", "mid", "late"]), TypeError, r"pd\.Categorical\(.*\['early', 'mid', 'late'\], ordered=True\)"),
        (categories(["a", "b"], ["a", "b"], ordered=False), ValueError, "holds categories without an order"),
        (categories(["2", "10"], ["10", "2"], ordered=False), ValueError, r"\.astype\(float\)"),
        (column([True, False, True]), TypeError, "two types without an order: take it as label"),
        (column([True, None, False], dtype="boolean"), TypeError, "two types without an order"),
        (column(DATES), TypeError, r"\(adata\.obs\['day'\] - adata\.obs\['day'\]\.min\(\)\)\.dt\.days"),
        (column(DATES.tz_localize("UTC")), TypeError, r"\.dt\.days"),
        (column(DATES - DATES[0]), TypeError, r"= adata\.obs\['day'\]\.dt\.days"),
        (column([1, np.inf, 2]), ValueError, "has 1 infinite value"),
        (column([1, -np.inf, 1e300]), ValueError, "has 2 infinite values"),
        (column([1 + 2j, 2, 3]), TypeError, "holds complex128, not numbers"),
        (column([None, None], dtype=object), TypeError, "It is empty"),
    ],
)
def test_columns_without_an_order(values, error, message):
    with pytest.raises(error, match=message):
        read_target(values)


def test_categories_have_no_period():
    with pytest.raises(ValueError, match="a period of 24 is for numbers"):
        read_target(categories(["a", "b"], ["a", "b"]), RankNContrast(period=24))


@pytest.mark.parametrize(
    ("values", "period", "message"),
    [
        (np.ones(20), None, "has 1 distinct value in the training cells, .* leave it out"),
        (np.arange(20) % 2, None, "has 2 distinct values in .*: two values have no order: take the column as label"),
        (np.arange(20.0), 1.0, "has 1 distinct value around a circle of 1"),
        (np.where(np.arange(20) < 9, np.arange(20), np.nan), None, "has a value for 9 of 20 training cells"),
        (np.full(20, np.nan), None, "has a value for 0 of 20 training cells: it needs at least 10"),
    ],
)
def test_too_few_values(values, period, message):
    target = read_target(column(np.asarray(values, dtype=float)), RankNContrast(period=period))
    with pytest.raises(ValueError, match=message):
        check_target(target, np.ones(20, dtype=bool))


def test_only_training_cells_count():
    target = read_target(column(np.arange(30.0) % 3))
    check_target(target, np.arange(30) < 12)
    with pytest.raises(ValueError, match="distinct"):
        check_target(target, np.arange(30) % 3 == 0)


@pytest.mark.parametrize(
    ("text", "name", "weight", "period"),
    [("rnc", "rnc", 1, None), ("0.5*rnc:period=24", "rnc", 0.5, 24), ("coral", "coral", 1, None)],
)
def test_the_loss_of_a_column(text, name, weight, period):
    loss, found = read_loss(text, "day")
    assert (loss.name, found) == (name, weight)
    target = read_target(column([1.0, 30, 3]), loss, found)
    assert (target.loss, target.weight, target.period) == (loss, weight, period)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("softmax", "loss='softmax' of 'day' learns types, not values that have an order: take 'coral' or 'rnc'"),
        ("rnc + coral", "'day' has 2 losses .* takes one, 'coral' or 'rnc'"),
        ("rcn", "loss='rcn' is not known. Did you mean 'rnc'"),
    ],
)
def test_a_loss_that_cannot_take_a_column(text, message):
    with pytest.raises(ValueError, match=message):
        read_loss(text, "day")

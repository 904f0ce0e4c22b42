"""What each column of labels is for: cell types on one level or on several, and further columns with their losses."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tripletomics import losses
from tripletomics.labels.ordering import read_loss, split_order
from tripletomics.losses import Loss, RankNContrast

DEFAULT = "softmax"  # of a further column of types
WRITTEN = (
    "label", "confidence", "novelty", "label_set", "agrees", "group_label", "group_label_set", "novel", "novel_p",
    "split", "mapping",
)  # fmt: skip
ENDINGS = {False: ("", "_confidence"), True: ("", "_low", "_high", "_half_width")}  # of what predict writes
CELLS = 4  # labels from which on a list may hold those of cells in place of columns
OF_LEVELS = "levels go from coarse to fine in a list, and further columns in order= or in a dict"


@dataclass(frozen=True)
class Roles:
    """What each column is for.

    Attributes
    ----------
    levels
        Columns of the cell types, from coarse to fine; none without cell types.
    loss
        The loss of the cell types, if it is given with their column.
    further
        The loss of each further column, and its weight.
    arguments
        The argument that names each column.
    """

    levels: list[Any] = field(default_factory=list)
    loss: Loss | None = None
    further: dict[str, tuple[Loss, float]] = field(default_factory=dict)
    arguments: dict[Any, str] = field(default_factory=dict)

    @property
    def finest(self) -> str | None:
        """The column of the finest cell types; None without cell types."""
        return self.levels[-1] if self.levels else None

    @property
    def types(self) -> list[str]:
        """All columns of types, whether they are cell types or not."""
        return [*self.levels, *(name for name, (loss, _) in self.further.items() if not loss.ordered)]


def read_roles(label: object, order: str | None, loss: Loss | None, columns: Iterable[object]) -> Roles:
    """Return what each column is for.

    Parameters
    ----------
    label
        A column, several from coarse to fine, or a dict with the loss of each column. Text such as "day=rnc" is a
        column with its loss, unless there is a column of exactly this name.
    order
        A column of values that have an order, such as "day" or "phase:period=24".
    loss
        The loss that was given besides.
    columns
        The columns that there are. One that is not there is no error here.

    Raises
    ------
    TypeError, ValueError
        If a column is named twice, a loss cannot take a column, or what would be written has a name that is taken.
    """
    there = {*map(str, columns)}
    if loss is not None and loss.ordered:
        raise ValueError(
            f"loss={losses.spec(loss)!r} learns values that have an order, and loss= is for cell types: name the "
            "column of the values in order=, as in order='day'."
        )
    given = _pairs(label, there)
    named = isinstance(given, dict)
    found: dict[str, Any] = dict(given) if isinstance(given, dict) else {}
    levels = [] if isinstance(given, dict) else given
    own: Loss | None = None
    further: dict[str, tuple[Loss, float]] = {}
    for column, text in found.items():
        made = None if text is None else _read_loss(text, column)
        if made is not None and made.ordered:
            further[column] = read_loss(losses.spec(made), column)
        elif not levels:
            levels, own = [column], made
        else:
            further[column] = _of_types(losses.make(DEFAULT) if made is None else made, column)
    if order is not None:
        column, period = split_order(order, there)
        if column in levels or column in further:
            raise ValueError(
                f"{column!r} is both label and order: a column is learned as types or as values. Leave one of the two "
                "out."
            )
        further[column] = RankNContrast(period=period), 1.0
    if named and loss is not None and (own is not None or not levels):
        raise ValueError(
            f"loss={losses.spec(loss)!r} is the loss of the column of cell types, and label="
            f"{as_text(label)!r} {'gives it one' if own is not None else 'has no such column'}: leave loss out."
        )
    _check_names(further)
    arguments: dict[Any, str] = dict.fromkeys([*levels, *further], "label")
    if order is not None:
        arguments[column] = "order"
    return Roles(levels, own, further, arguments)


def without_loss(label: Any, columns: Iterable[object]) -> Any:
    """Return what was given as `label` without a loss of the cell types: another one takes its place."""
    given = _pairs(label, {*map(str, columns)})
    if not isinstance(given, dict):
        return label
    types = (column for column, text in given.items() if text is None or not _read_loss(text, column).ordered)
    return given | dict.fromkeys(itertools.islice(types, 1))


def as_text(label: object) -> str:
    """Return what was given as `label` as text, as the command line takes it."""
    if isinstance(label, Mapping):
        losses_of = {column: losses.spec(one) if isinstance(one, Loss) else one for column, one in label.items()}
        return ", ".join(str(column) if one is None else f"{column}={one}" for column, one in losses_of.items())
    if isinstance(label, str) or not isinstance(label, Iterable):
        return str(label)
    return ", ".join(str(name) or "(empty)" for name in label)


def _pairs(label: object, columns: set[str]) -> list[Any] | dict[str, Any]:
    """Return the columns of levels, or each column with its loss."""
    if label is None:
        return []
    if isinstance(label, Mapping):
        if not label:
            raise ValueError("label={} is empty: name the column of the cell types, or leave it out.")
        return {str(column): text for column, text in label.items()}
    if isinstance(label, (set, frozenset)):
        raise TypeError(
            f"label is a set ({', '.join(sorted(map(str, label)))}), and a set has no order: name the columns in a "
            "list, from coarse to fine."
        )
    if not isinstance(label, str) and not isinstance(label, Iterable):
        return [label]  # not the name of a column, as the check of columns says
    names = [label] if isinstance(label, str) else list(label)
    if not names:
        raise ValueError("label=[] is empty: name the columns of the cell types, or leave it out.")
    if len(names) >= CELLS and len({*map(str, names)}) < len(names) and not columns.issuperset(map(str, names)):
        raise TypeError(
            f"label holds {len(names):,} values (first: {', '.join(map(str, names[:3]))}), and not names of columns. "
            "Name the column of adata.obs that holds them. For a DataFrame of cells, a Series can hold them; for an "
            "array of cells, use tripletomics.sklearn.TripletMap."
        )
    if odd := [name for name in names if not isinstance(name, str)]:
        raise TypeError(f"label={label!r} holds {odd[0]!r}, which is not the name of a column of adata.obs.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"label names the column {twice[0]!r} twice: each column has one level or one loss.")
    pairs = [_pair(name, columns) for name in names]
    if all(text is None for _, text in pairs):
        return names
    without = [name for name, text in pairs if text is None]
    if len(without) > 1:
        raise ValueError(
            f"label={as_text(label)!r} has columns without a loss ({', '.join(without)}) and columns with one: "
            f"{OF_LEVELS}."
        )
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"label={as_text(label)!r} names a column twice: each column has one loss.")
    return found


def _pair(name: str, columns: set[str]) -> tuple[str, str | None]:
    """Return the column and the loss of text such as "day=rnc"; what is the name of a column comes first."""
    if name in columns or "=" not in name:
        return name, None
    pieces = name.split("=")
    ways = [("=".join(pieces[:i]).strip(), "=".join(pieces[i:]).strip()) for i in range(1, len(pieces))]
    column, text = next((way for way in reversed(ways) if way[0] in columns), ways[0])
    if not column or not text:
        raise ValueError(f"label={name!r} cannot be read: write column=loss, as in day=rnc.")
    return column, text


def _read_loss(given: object, column: str) -> Loss:
    """Return the loss of a column."""
    if not isinstance(given, (str, Loss)):
        raise TypeError(f"label: the loss of {column!r} is {given!r}: write its name, such as 'softmax' or 'rnc'.")
    try:
        made = losses.make(given)
    except ValueError as error:
        raise ValueError(f"label: the loss of {column!r} cannot be read. {error}") from None
    return made


def _single(loss: Loss, column: str) -> tuple[Loss, float]:
    """Return the only term of a loss, and its weight; raise if it is a sum."""
    terms = loss.terms() if isinstance(loss, losses.Sum) else [(1.0, loss)]
    if len(terms) > 1:
        raise ValueError(
            f"label: the loss of {column!r} is a sum ({losses.spec(loss)!r}), which only the first column of types can "
            "have: give this column one loss."
        )
    ((weight, one),) = terms
    return one, weight


def _of_types(loss: Loss, column: str) -> tuple[Loss, float]:
    """Return the loss of a further column of types, and its weight; raise if it cannot learn from such a column."""
    one, weight = _single(loss, column)
    if not _is_plain(one):
        able = [name for name, kind in losses.family().items() if _is_plain(kind)]
        raise ValueError(
            f"label: the loss {losses.spec(one)!r} cannot learn the further column {column!r}, because it compares "
            f"views, mines cells of all the dataset, or needs another loss. Take one of: {', '.join(sorted(able))}."
        )
    return one, weight


def _is_plain(loss: Loss | type[Loss]) -> bool:
    """Return whether a loss can learn a further column of types: of one view, without mining, and alone."""
    return loss.views == 1 and not (loss.epochs or loss.momentum or loss.collapses or loss.ordered) and loss.supervised


def _check_names(further: Mapping[str, tuple[Loss, float]]) -> None:
    """Raise if what is predicted of a further column would have a name that is taken."""
    taken = dict.fromkeys(WRITTEN, "what predict writes about the cell types")
    for column, (loss, _) in further.items():
        for ending in ENDINGS[loss.ordered]:
            name = f"{column}{ending}"
            if name in taken:
                raise ValueError(
                    f"The column {column!r} would be predicted as obs['tt_{name}'], which is the name of "
                    f"{taken[name]}: rename it, as in adata.obs = adata.obs.rename(columns={{{column!r}: "
                    f"'my_{column}'}})."
                )
            taken[name] = f"a prediction of the column {column!r}"

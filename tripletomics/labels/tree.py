"""Cell types on several levels: a tree of names, and the deepest name that is known of each cell.

A node is a name, as its position in the tree. A leaf is a type: a name without finer names below it. A cell that is
known coarsely belongs to *some* leaf below its name. So one matrix says all that a loss or a prediction needs: which
leaves lie below which node.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tripletomics import labels
from tripletomics.notices import warn
from tripletomics.parts import did_you_mean

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Tree:
    """Names of cell types, and which lies below which.

    Attributes
    ----------
    names
        Leaves in sorted order, then all other names in sorted order.
    parents
        The position of each name's parent, int64 (nodes,); -1 at the top.
    n_leaves
        How many of the names are leaves.
    """

    names: list[str]
    parents: np.ndarray
    n_leaves: int

    @classmethod
    def of(cls, parents: Mapping[str, str | None]) -> Tree:
        """Return the tree in which each name has this parent, None at the top."""
        inner = {parent for parent in parents.values() if parent is not None}
        names = sorted(parents.keys() - inner) + sorted(inner)
        position = {name: i for i, name in enumerate(names)}
        above = [parents.get(name) for name in names]
        codes = np.array([-1 if parent is None else position[parent] for parent in above], dtype=np.int64)
        return cls(names, codes, len(names) - len(inner))

    @property
    def flat(self) -> bool:
        """Whether all names are leaves."""
        return self.n_leaves == len(self.names)

    def path(self, code: int) -> list[int]:
        """Return a node and its ancestors, from the node to the top."""
        found = []
        while code >= 0:
            found.append(int(code))
            code = self.parents[code]
        return found

    def leaves_below(self) -> np.ndarray:
        """Return which leaves a node is or has below it, boolean (nodes, leaves)."""
        below = np.zeros((len(self.names), self.n_leaves), dtype=bool)
        for leaf in range(self.n_leaves):
            below[self.path(leaf), leaf] = True
        return below

    def leaf_codes(self, codes: np.ndarray) -> np.ndarray:
        """Return codes with -1 in place of names that are no leaf."""
        return np.where(codes < self.n_leaves, codes, -1)

    def depths(self) -> np.ndarray:
        """Return how many names stand above each one (nodes,); 0 at the top."""
        return np.array([len(self.path(code)) - 1 for code in range(len(self.names))])

    def known_to(self, codes: np.ndarray, train: np.ndarray) -> tuple[Tree, np.ndarray]:
        """Return the tree of the names that training cells have, and all cells' deepest names in it.

        Parameters
        ----------
        codes
            Deepest known name of each cell (cells,), -1 for none.
        train
            Boolean (cells,). A name that no training cell has counts as its parent, -1 at the top.
        """
        tree, _ = self.among(codes[train])
        position = {name: code for code, name in enumerate(tree.names)}
        nearest = [next((position[up] for node in self.path(code) if (up := self.names[node]) in position), -1)
                   for code in range(len(self.names))]  # fmt: skip
        return tree, np.array([*nearest, -1])[codes]

    def among(self, codes: np.ndarray) -> tuple[Tree, np.ndarray]:
        """Return the tree of the names that some cells have, and these cells' codes in it.

        Names below which no cell lies are left out. So a name becomes a leaf if no cell is known more finely.
        """
        kept = {node for code in np.unique(codes[codes >= 0]) for node in self.path(code)}
        above = {self.names[node]: self.names[up] if (up := self.parents[node]) >= 0 else None for node in kept}
        tree = Tree.of(above)
        new = np.full(len(self.names) + 1, -1)  # the last one is for -1
        for node in kept:
            new[node] = tree.names.index(self.names[node])
        return tree, new[codes]


def read_tree(record: object) -> Tree:
    """Return the tree of a record ``{"names": ..., "parents": ...}``, as a model file holds it.

    Raises
    ------
    ValueError
        If the names and their parents are no tree.
    """
    given: dict[str, Any] = record if isinstance(record, dict) else {}
    names, parents = given.get("names", ()), given.get("parents", ())
    whole = isinstance(names, list) and isinstance(parents, list) and all(isinstance(name, str) for name in names)
    whole = whole and len(names) == len(parents) == len({*names})
    if not whole or not all(isinstance(up, int) and -1 <= up < len(parents) for up in parents):
        raise ValueError("tree does not hold names and the position of each one's parent")
    above = {name: names[up] if up >= 0 else None for name, up in zip(names, parents, strict=True)}
    for name in names:
        _path(name, {one: up for one, up in above.items() if up is not None})
    tree = Tree.of(above)
    if tree.names != names:
        raise ValueError("tree does not hold its leaves first, each part in sorted order")
    return tree


def read_levels(
    obs: pd.DataFrame, columns: Sequence[str], unlabelled: Sequence[str], train: np.ndarray | None = None
) -> tuple[Tree, np.ndarray]:
    """Return the tree of columns that go from coarse to fine, and the deepest known node of each cell.

    Parameters
    ----------
    obs
        A row for each cell.
    columns
        Its columns, the coarsest first. A name that stands on several levels of a cell is one node.
    unlabelled
        Names that mean unlabelled, as for `labels.encode`.
    train
        Boolean (cells,): the cells that say which name lies below which, by default all. Every other cell has the
        deepest of its names that is in the tree, whatever stands above it.

    Returns
    -------
    The tree, and codes int64 (cells,), -1 where no level is known.

    Raises
    ------
    ValueError
        If a name lies below two others, or below itself.
    """
    import pandas as pd

    table = pd.DataFrame({column: labels.known(obs[column], unlabelled) for column in columns})
    rows = (table if train is None else table[train]).drop_duplicates().to_numpy(dtype=object)
    try:
        parents = _parents_of(rows, columns)
    except ValueError as error:
        raise ValueError(f"{error}{_other_order(rows, columns)}") from None
    names = {node for row in rows for name in row if name is not None for node in _path(name, parents)}
    tree = Tree.of({name: parents.get(name) for name in names})
    finest = table.where(table.isin(names), None).ffill(axis=1).iloc[:, -1]
    position = {name: code for code, name in enumerate(tree.names)}
    return tree, finest.map(position).fillna(-1).to_numpy(dtype=np.int64)


def _parents_of(rows: np.ndarray, columns: Sequence[str]) -> dict[str, str]:
    """Return the parent of each name that has one, in rows of names from coarse to fine; raise if they do not nest."""
    known = [[(level, name) for level, name in enumerate(row) if name is not None] for row in rows]
    parents: dict[str, str] = {}
    for gap in (1, len(columns)):  # first where the level above is known, then where it is missing
        for row in known:
            for (high, above), (low, name) in itertools.pairwise(row):
                if name == above or (low - high > 1) != (gap > 1):
                    continue
                if gap > 1 and name in parents:
                    if above not in _path(name, parents):
                        raise ValueError(_two_parents(name, above, parents[name], columns[low]))
                elif parents.setdefault(name, above) != above:
                    raise ValueError(_two_parents(name, parents[name], above, columns[low]))
    for row in known:
        for _, name in row:
            _path(name, parents)
    return parents


def _other_order(rows: np.ndarray, columns: Sequence[str]) -> str:
    """Return a question on the order of columns that do not nest, if they do with two of them swapped; else nothing."""
    for one, other in itertools.combinations(range(len(columns)), 2):
        order = list(range(len(columns)))
        order[one], order[other] = other, one
        named = [columns[i] for i in order]
        with suppress(ValueError):
            _parents_of(rows[:, order], named)
            return f" Or are the columns not from coarse to fine? label={named} would make a tree."
    return ""


def read_parents(values: pd.Series, parents: Mapping[str, str], unlabelled: Sequence[str]) -> tuple[Tree, np.ndarray]:
    """Return the tree of one column of names, given the parent of each, and the node of each cell.

    Parameters
    ----------
    values
        One name per cell, of any level.
    parents
        The parent of each name that has one. Names that are no ancestor of a cell's name are left out.
    unlabelled
        Names that mean unlabelled, as for `labels.encode`.

    Returns
    -------
    The tree, and codes int64 (cells,), -1 for unlabelled.

    Raises
    ------
    ValueError
        If no name of the column is in `parents`, a parent is missing or no name, or a name lies below itself.
    """
    if odd := [name for name, parent in parents.items() if parent is not None and not np.isscalar(parent)]:
        raise ValueError(
            f"parents: {odd[0]!r} has the parent {parents[odd[0]]!r}, which is not a name: give each name one parent, "
            "as in {'CD4 naive': 'CD4 T'}."
        )
    codes, names = labels.encode(values, unlabelled)
    given = {str(name): str(parent) for name, parent in parents.items() if not labels.is_missing(parent, unlabelled)}
    if absent := [name for name in parents if str(name) not in given]:
        raise ValueError(
            f"parents: {absent[0]!r} has the parent {parents[absent[0]]!r}, which means unlabelled: leave out a name "
            "that has no parent."
        )
    there = {*names}
    up = {_stripped(name, there): _stripped(parent, there) for name, parent in given.items()}
    if not up.keys() & there:
        nearest = next((hint for name in up if (hint := did_you_mean(name, names))), "")
        raise ValueError(
            f"parents: none of its names (first: {', '.join(list(up)[:3])}) is a name of {values.name!r} (first: "
            f"{', '.join(names[:3])}).{nearest} It gives the parent of each name, as in {{'CD4 naive': 'CD4 T'}}."
        )
    _warn_of_spelling(up, there, str(values.name))
    kept = {node for name in names for node in _path(name, up)}
    tree = Tree.of({name: up.get(name) for name in kept})
    position = np.array([*(tree.names.index(name) for name in names), -1])
    return tree, position[codes]


def _stripped(name: str, names: Collection[str]) -> str:
    """Return a name without spaces around it, unless it is one of some names as it is."""
    return name if name in names else name.strip()


def _warn_of_spelling(parents: Mapping[str, str], names: Collection[str], column: str) -> None:
    """Warn of names in `parents` that differ from a name of the cells, or from each other, only in case or spaces."""
    alike: dict[str, str] = {}
    for name in dict.fromkeys([*names, *parents, *parents.values()]):
        other = alike.setdefault("".join(name.split()).casefold(), name)
        if other != name and name not in names:
            warn(
                f"parents: {name!r} is no name in {column!r}, and there is {other!r}: they count as two names. If "
                f"they are the same, write {other!r} for both."
            )


def _path(name: str, parents: Mapping[str, str]) -> list[str]:
    """Return a name and its ancestors; raise if they form a circle."""
    found = [name]
    while found[-1] in parents:
        found.append(parents[found[-1]])
        if found[-1] in found[:-1]:
            circle = " below ".join(map(repr, found[found.index(found[-1]) :]))
            raise ValueError(f"The levels go in a circle: {circle}. Give each name a parent that is coarser.")
    return found


def _two_parents(name: str, one: str, other: str, column: str) -> str:
    """Return the message about a name below two others."""
    return (
        f"{name!r} in {column!r} lies below {one!r} and below {other!r}, and a name has one parent. If these are two "
        f"types, give them two names: {f'{one}/{name}'!r} and {f'{other}/{name}'!r}. If one is a mistake, correct it."
    )

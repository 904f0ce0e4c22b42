"""The columns of `obs` that say what is learned: cell types on one level or several, and further columns."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tripletomics import labels
from tripletomics.labels.nodes import NodeLabels
from tripletomics.labels.ordering import check_target, read_target, strata
from tripletomics.labels.parents import read_file
from tripletomics.labels.roles import Roles, read_roles
from tripletomics.labels.targets import Target
from tripletomics.labels.tree import Tree, read_levels, read_parents
from tripletomics.notices import warn
from tripletomics.pp import checks

if TYPE_CHECKING:
    from anndata import AnnData

    from tripletomics.problem import Settings

SPARSE = 0.5  # share of the cells without a name on a level, above which a warning says so


@dataclass(frozen=True)
class LabelColumns:
    """What the columns of labels say.

    Attributes
    ----------
    nodes
        The deepest known name of each cell (cells,), -1 for unlabelled.
    names
        The names of these codes; then names that only cells have which do not shape the tree.
    tree
        Which name lies below which; None if there is one level, and then the names are sorted.
    targets
        Further columns.
    first
        With several columns of cell types, the first one in which each name stands; else empty.
    """

    nodes: np.ndarray
    names: list[str]
    tree: Tree | None
    targets: list[Target]
    first: Mapping[str, int] = field(default_factory=dict)

    def levels(self, columns: Sequence[str]) -> NodeLabels | None:
        """Return the labels on levels, of these columns; None if there is one level."""
        return None if self.tree is None else NodeLabels.of(self.nodes, self.tree, self.first, columns)

    def strata(self, among: np.ndarray | None = None) -> np.ndarray:
        """Return groups of cells (cells,) of which equal shares are left out: names, or tenths of the first values.

        `among`, boolean (cells,), are the cells whose values decide; the others have none. By default all.
        """
        return strata(self.targets[0].values, among) if self.targets and not self.names else self.nodes


def roles_of(columns: Iterable[object], settings: Settings) -> Roles:
    """Return what each of the columns of a dataset is for; raise if settings contradict each other.

    Raises
    ------
    TypeError, ValueError
        As `labels.roles.read_roles`, or if `parents` cannot be used.
    """
    roles, parents = read_roles(settings.label, settings.order, settings.loss, columns), settings.parents
    if parents is None:
        return roles
    if not isinstance(parents, (str, os.PathLike, Mapping)):
        raise TypeError(
            f"parents is {type(parents).__name__}: pass a dict such as {{'CD4 naive': 'CD4 T'}}, or the path of a "
            ".csv, .tsv or .obo file."
        )
    if len(roles.levels) > 1:
        raise ValueError(
            f"parents= and a list of columns ({', '.join(roles.levels)}) both say which name lies below which: leave "
            f"parents out, or name one column, as in label={roles.finest!r}."
        )
    if not roles.levels:
        raise ValueError("parents= says which cell type lies below which, and no column of cell types is named: "
                         "name it with label=.")  # fmt: skip
    return roles


def finest_column(settings: Settings, columns: Iterable[object]) -> str | None:
    """Return the column of the finest cell types; None without cell types."""
    return read_roles(settings.label, None, None, columns).finest


def read_columns(adata: AnnData, settings: Settings, roles: Roles, *, nested: bool = True) -> LabelColumns:
    """Read the columns of labels.

    Parameters
    ----------
    adata, settings, roles
        The dataset, what the user asked for, and what each column is for.
    nested
        Whether levels must nest in all cells. If they need not, and do not, there is no tree: see `tree_of_training`.

    Raises
    ------
    KeyError, TypeError, ValueError
        If there is no such column, or it cannot be used.
    """
    targets = [_target(adata, column, settings, roles) for column in roles.further]
    if not roles.levels:
        return LabelColumns(np.full(adata.n_obs, -1), [], None, targets)
    rows, of_row = _rows_of_types(adata, settings, roles)
    if len(roles.levels) > 1:
        _check_levels(rows, of_row, settings)
    try:
        found = _read_types(rows, np.ones(len(rows), dtype=bool), settings)
    except ValueError:
        if nested or settings.parents is not None:
            raise
        found = LabelColumns(*labels.encode(_finest(rows, settings), settings.unlabelled), None, [])
    return replace(found, nodes=found.nodes[of_row], targets=targets)


def tree_of_training(
    found: LabelColumns, adata: AnnData, settings: Settings, roles: Roles, train: np.ndarray
) -> LabelColumns:
    """Return the same columns with the tree that training cells show, boolean (cells,): others must not shape it.

    Another cell has the deepest of its names that is in this tree, even if its columns put it below another
    name.

    Raises
    ------
    ValueError
        If the columns of the training cells do not nest.
    """
    if len(roles.levels) < 2 and not isinstance(settings.parents, str):
        return found
    rows, of_row = _rows_of_types(adata, settings, roles)
    seen = np.bincount(of_row[train], minlength=len(rows)) > 0
    if settings.parents is not None and seen.all():
        return found
    own = _read_types(rows, seen, settings)
    return replace(own, nodes=own.nodes[of_row], targets=found.targets)


def _rows_of_types(adata: AnnData, settings: Settings, roles: Roles) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the different rows of the columns of cell types, and the row of each cell."""
    return _distinct([checks.types(adata, column, settings.unlabelled) for column in roles.levels])


def _read_types(rows: pd.DataFrame, seen: np.ndarray, settings: Settings) -> LabelColumns:
    """Return what rows of cell types say, in columns from coarse to fine; `seen` (rows,) shape the tree."""
    words = settings.unlabelled
    if settings.parents is None and rows.shape[1] == 1:
        return LabelColumns(*labels.encode(rows.iloc[:, 0], words), None, [])
    if settings.parents is not None:
        tree, nodes = read_parents(rows.iloc[:, 0], _parents(rows.iloc[:, 0], seen, settings), words)
    else:
        tree, nodes = read_levels(rows, rows.columns.tolist(), words, seen)
    if tree.flat:
        return LabelColumns(*labels.encode(rows.iloc[:, -1], words), None, [])
    first: dict[str, int] = {}
    for i, column in enumerate(rows if settings.parents is None else ()):
        first = dict.fromkeys(labels.known(rows[column][seen], words).dropna().unique(), i) | first
    unknown = {*_finest(rows, settings).dropna()} - {*tree.names}
    return LabelColumns(nodes, [*tree.names, *sorted(unknown)], tree, [], first)


def _finest(rows: pd.DataFrame, settings: Settings) -> pd.Series:
    """Return the finest known name of each row of cell types."""
    known = pd.DataFrame({column: labels.known(rows[column], settings.unlabelled) for column in rows})
    return known.ffill(axis=1).iloc[:, -1]


def known_targets(targets: Iterable[Target], held_out: np.ndarray, roles: Roles) -> list[Target]:
    """Return further columns, of which `classes` are those of training cells; raise if these have too few values."""
    found = []
    for target in targets:
        if target.classes is None:
            check_target(target, ~held_out, roles.arguments[target.name])
            found.append(target)
            continue
        checks.check_labels(target.y, target.classes, held_out, target.name)
        codes, order, n_known = labels.known_first(target.y, ~held_out)
        values = np.where(codes >= 0, codes, np.nan)
        found.append(replace(target, values=values, classes=[target.classes[code] for code in order[:n_known]]))
    return found


def _target(adata: AnnData, column: str, settings: Settings, roles: Roles) -> Target:
    """Return the target of a further column."""
    (loss, weight), argument = roles.further[column], roles.arguments[column]
    if loss.ordered:
        values = checks.column(adata, column, argument)
        known = values.dropna().infer_objects()
        if values.dtype == object and pd.api.types.is_numeric_dtype(known):  # of two modalities
            values = known.astype(known.dtype if known.dtype == bool else float).reindex(values.index)
        return read_target(values, loss, weight, settings.unlabelled, argument)
    codes, names = labels.encode(checks.types(adata, column, settings.unlabelled), settings.unlabelled)
    return Target(column, np.where(codes >= 0, codes, np.nan), loss, weight, classes=names)


def _parents(values: pd.Series, seen: np.ndarray, settings: Settings) -> Mapping[str, str]:
    """Return the parent of each name that has one; `seen` names (names,) choose the terms of an ontology."""
    if isinstance(settings.parents, Mapping):
        return settings.parents
    known = labels.known(values, settings.unlabelled)
    names, path = list(known[seen].dropna()), str(settings.parents)
    own = read_file(path, names)
    if seen.all():
        return own
    inside = {*names, *own.values()}
    return {name: up for name, up in read_file(path, known.dropna()).items() if name not in inside} | own


def _distinct(columns: list[pd.Series]) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the different rows of some columns, and which of them each cell has: no text for each cell."""
    codes, names = zip(*map(labels.distinct, columns), strict=True)
    of_row = codes[0]
    for more, texts in zip(codes[1:], names[1:], strict=True):
        of_row = (of_row + 1) * len(texts) + more + 1
    _, first, of_row = np.unique(of_row, return_index=True, return_inverse=True)
    frame = {values.name: text[code[first]] for values, text, code in zip(columns, names, codes, strict=True)}
    return pd.DataFrame(frame, dtype=object), of_row


def _check_levels(rows: pd.DataFrame, of_row: np.ndarray, settings: Settings) -> None:
    """Raise if a level has no name; warn if it has none for most cells."""
    for column in rows:
        known = labels.known(rows[column], settings.unlabelled).notna().to_numpy()[of_row]
        if not known.any():
            raise ValueError(f"label: {column!r} has no name for any cell: leave this level out.")
        if known.mean() < SPARSE:
            warn(
                f"label: {(~known).sum():,} of {len(known):,} cells have no name in {column!r}. Of these, only the "
                "names of other levels are learned."
            )

"""The columns of `obs` that say what is learned: cell types on one level or several, and further columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tripletomics import labels
from tripletomics.labels.nodes import NodeLabels
from tripletomics.labels.tree import Tree, read_levels, read_parents
from tripletomics.pp import checks

if TYPE_CHECKING:
    from anndata import AnnData

    from tripletomics.labels.targets import Target
    from tripletomics.problem import Settings


@dataclass(frozen=True)
class LabelColumns:
    """What the columns of labels say.

    Attributes
    ----------
    nodes
        The deepest known name of each cell (cells,), -1 for unlabelled.
    names
        What each of these codes means.
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


def levels_of(settings: Settings) -> list[str]:
    """Return the columns of the cell types, from coarse to fine; none without cell types."""
    if settings.label is None or isinstance(settings.label, str):
        return [settings.label] if settings.label else []
    return list(settings.label)


def finest_column(settings: Settings) -> str | None:
    """Return the column of the finest cell types; None without cell types."""
    return levels_of(settings)[-1] if levels_of(settings) else None


def read_columns(adata: AnnData, settings: Settings) -> LabelColumns:
    """Read the columns that `label`, `parents` and `order` name.

    Raises
    ------
    KeyError, TypeError, ValueError
        If there is no such column, or it cannot be used.
    """
    columns, targets = levels_of(settings), _targets(adata, settings)
    if not columns:
        return LabelColumns(np.full(adata.n_obs, -1), [], None, targets)
    values = {column: checks.column(adata, column, "label") for column in columns}
    tree = _tree(values, columns, settings)
    if tree is None or tree[0].flat:
        nodes, names = labels.encode(values[columns[-1]], settings.unlabelled)
        return LabelColumns(nodes, names, None, targets)
    first: dict[str, int] = {}
    for i, column in enumerate(columns if settings.parents is None else ()):
        first = dict.fromkeys(labels.known(values[column], settings.unlabelled).dropna().unique(), i) | first
    return LabelColumns(tree[1], tree[0].names, tree[0], targets, first)


def _tree(values: dict, columns: Sequence[str], settings: Settings) -> tuple[Tree, np.ndarray] | None:
    import pandas as pd

    if isinstance(settings.parents, str):
        raise TypeError("parents of a file are not read yet")
    if settings.parents is not None:
        return read_parents(values[columns[-1]], settings.parents, settings.unlabelled)
    return read_levels(pd.DataFrame(values), columns, settings.unlabelled) if len(columns) > 1 else None


def _targets(adata: AnnData, settings: Settings) -> list[Target]:
    return []

"""What `fit`, `transform` and `predict` write to a dataset: coordinates, components, split and record."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tripletomics.keys import metric_key, pca_key, split_key

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from tripletomics.model import Model
    from tripletomics.pp import NewCells, Table
    from tripletomics.problem import FitProblem


def write_fit(table: Table, key: str, model: Model, problem: FitProblem, embedding: Mapping[str, np.ndarray]) -> None:
    """Write the results of a fit to each dataset, and to the MuData of both."""
    from tripletomics.pp import split_names

    split = split_names(problem.held_out)
    for target, rows in table.targets():
        _write_spaces(target, key, embedding["metric"][rows], embedding["map"][rows])
        target.obsm[pca_key(key)] = problem.pcs[rows]
        target.obs[split_key(key)] = split[rows]
        target.uns[key] = model.record()


def write_coordinates(
    cells: NewCells, key: str, model: Model, z: np.ndarray, m: np.ndarray, trained: np.ndarray | None
) -> None:
    """Write the coordinates of new cells, the model's id and the split; warn about cells that it was `trained` on."""
    from tripletomics.tl.origins import name_model, note_on_training

    pcs, changed = None, 0
    for target, rows, _ in cells.targets:
        _write_spaces(target, key, z[rows], m[rows])
        changed = max(changed, name_model(target, key, model, None if trained is None else trained[rows]))
        if pca_key(key) in target.obsm:  # those of an earlier fit do not belong to the new coordinates
            pcs = model.pcs(cells.x, cells.present) if pcs is None else pcs
            target.obsm[pca_key(key)] = pcs[rows]
    note_on_training(trained, changed)


def _write_spaces(adata: AnnData, key: str, z: np.ndarray, m: np.ndarray) -> None:
    from anndata import ImplicitModificationWarning

    with warnings.catch_warnings(action="ignore", category=ImplicitModificationWarning):  # a view becomes its own cells
        adata.obsm[key] = m
    adata.obsm[metric_key(key)] = z

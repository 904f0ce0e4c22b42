"""`predict`: labels for new cells, and how reliable they are.

A model of types on several levels writes names of all levels: the label of a cell is the deepest name that is likely,
and a label set has the fewest names that stand for its types.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tripletomics.arguments import checking_names
from tripletomics.labels import COVERAGE, REJECT, UNLABELLED
from tripletomics.tl import stored
from tripletomics.tl.progress import stage

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from tripletomics.model import Model
    from tripletomics.pp.queries import NewCells
    from tripletomics.tl.fitting import Cells
    from tripletomics.tl.labelling import Labelling
else:  # the command line reads these annotations
    Cells = Model = object

BLOCK = 16 * 4096  # cells that are labelled at once: a multiple of those that networks take


@checking_names
def predict(
    adata: Cells | str | os.PathLike[str],
    model: Model,
    *,
    reject: float = REJECT,
    fdr: float | None = None,
    groups: str | None = None,
    coverage: float = COVERAGE,
    layer: str | None = None,
    use_rep: str | None = None,
    missing: Literal["error", "zero", "impute"] = "error",
    alias: str | None = None,
    min_matched: float = 0.3,
    key_added: str = "X_tt",
    progress: bool = True,
) -> None:
    """Predict the types of new cells, with confidence and novelty, and embed them.

    Parameters
    ----------
    adata
        New cells with the model's genes, as for `transform`: in memory, or the path of a dataset of one modality, of
        which one block of rows at a time is in memory. Their labels are not read. What `tl.predict_shard` has labelled
        next to that path is joined.
    model
        From `fit` or `load`.
    reject
        Share of the cells of known types, in [0, 1), that may become "unassigned" because they lie too far from all
        of them. 0 rejects no cell.
    fdr
        False discovery rate of a list of novel cells: on average, at most this share of the cells on the list are of
        known types. Between 0 and 1; 0.1 is usual. None makes no list.
    groups
        Column of `obs` with groups of cells, such as "leiden". Each group gets a label and a label set of its own.
        Missing values and names that mean unlabelled are no group.
    coverage
        Share of the cells whose label set should hold their type, between 0 and 1. For a group, the share of its cells
        whose types its set should hold.
    layer
        Layer to use in place of `.X`.
    use_rep
        Key of `obsm` with the embedding, for a model that was fitted on one; by default the key in the fit.
    missing
        What to do about missing genes, and about NaN in the others: "error"; "zero" to fill them with zeros; or
        "impute" to treat them as unknown, like the genes that are hidden in training.
    alias
        Column of `var` with other names of the genes, such as "gene_ids", for those that do not match by name.
    min_matched
        Share of the encoder's weight that the present genes must hold if others are filled or imputed, in [0, 1].
    key_added
        Key of the map in `obsm`; prefix of the others.
    progress
        Show a progress bar in a terminal or notebook.

    Returns
    -------
    None. Written to `adata`, to each dataset that was given, and to a MuData. Of a path, into the .zarr store, or to a
    copy of the .h5ad file, which then replaces it. With another `key_added`, its name replaces "tt" in `obs` and `uns`.
    The numbers of genes in ``tt_mapping`` of a MuData are sums over both.

    ``obs["tt_label"]``
        The type, or "unassigned", categorical. Of a model with levels, it is the deepest name whose probability is at
        least one half. Where no name has one half, the cell is "unassigned" or, with ``reject=0``, has the best name of
        the top level.
    ``obs["tt_confidence"]``
        Probability that the best type (of a model with levels, this name) is right, also for rejected cells, float in
        [0, 1]. The probability of a name is the sum of those of the types below it.
    ``obs["tt_novelty"]``
        About the share of the cells of known types that lie nearer to these types, float in [0, 1].
    ``obs["tt_label_set"]``
        Types that are credible at the coverage, joined by " | "; empty for a cell that is unlike all of them. Of a
        model with levels, the fewest names that stand for these types, or "any" for all types.
    ``obs["tt_agrees"]``
        Whether the best type (of a model with levels, a type below the name) is among the types of the 15 nearest
        reference cells on the map, boolean, also for rejected cells. Where it is False, coordinates and label
        contradict each other: believe neither.
    ``obs["tt_group_label"]``
        Only with `groups`: the type of the cell's group, categorical, or "unassigned" if more than a third of the
        group's cells are unassigned. Missing for a cell without a group.
    ``obs["tt_group_label_set"]``
        Only with `groups`: types that together have the share `coverage` in the group, joined by " | ". A group of two
        types has both. Empty for an unassigned group and for a cell without a group.
    ``obs["tt_novel"]``, ``obs["tt_novel_p"]``
        Only with `fdr`: whether the cell is on the list of novel cells, boolean, and its p-value, float in (0, 1]. For
        cells that the model was trained or calibrated on, it is 1, and they are never on the list.
    ``obsm["X_tt"]``, ``obsm["X_tt_metric"]``
        Map and metric space, as `transform` writes them (and ``obsm["X_tt_pca"]`` if it is there).
    ``uns["X_tt"]``, ``obs["tt_split"]``
        Which model wrote these coordinates, and which cells it was trained on, as `transform` writes them.
    ``uns["tt_mapping"]``
        ``model`` is the id of the model. Genes: numbers ``matched``, ``missing`` and ``extra``, the share of
        the encoder's ``weight`` that was matched, and ``missing_genes`` (heaviest first). Cells: the number
        ``rejected``, the share whose coordinates and label agree (``agrees``), and the number that the model was
        trained on (``seen``). These are found by their values: a cell with a changed value or a missing gene counts as
        new. (An older model file gives no ``seen``.) Of a model with levels, ``unlikely`` is the number of unassigned
        cells for which no name has a probability of one half. ``notes`` are sentences about unusual values. With `fdr`
        also ``fdr``, how many cells are on the list (``novel``), the number of ``calibration_cells``, and
        ``shortest_list``, the length of the shortest list that is possible with so many cells. If an embedding was
        read, ``use_rep`` is its key, and its dimensions count as genes. ``ordered`` are the names of ordered columns,
        if there are any.

    ``obs["tt_<column>"]``, ``obs["tt_<column>_low"]``, ``obs["tt_<column>_high"]``
        Of a model that was fitted with `order`, for each ordered column such as "day": the predicted value, and an
        interval that should hold the true one in the share `coverage` of the cells; float64. Of ordered categories all
        three are ordered categoricals of the same categories. With a period there are ``tt_<column>``, in [0, period),
        and ``tt_<column>_half_width``: the interval goes this far to each side, and may cross 0. All intervals of a
        column of numbers have one width, and may leave the range of the training values. A cell to which the order does
        not apply, such as one of another type, gets a value, too.

    ``obs["tt_<column>"]``, ``obs["tt_<column>_confidence"]``
        Of each further column of types that was named in `label`: the type, categorical, and the probability that it is
        right, float in [0, 1].

    Columns that an earlier call with `groups` or `fdr` wrote are removed. A model that was fitted with `order` alone
    knows no types: of the columns above, only those of ordered columns are written.

    Raises
    ------
    KeyError
        If there is no such layer, embedding or column.
    ValueError
        If genes are missing, the values are on another scale than those of training, a share is out of range, nearly
        every cell is a group of its own, or the model could not be calibrated. Nothing is written then.

    Notes
    -----
    Three parts of evidence are weighed, with the share of each type as the prior: distance-weighted neighbours and type
    prototypes in the metric space, and the Mahalanobis distance of the principal components to the type. The weights,
    the label sets (split conformal prediction) and the limit of novelty were fitted to training cells that the encoder
    had not seen, or with ``fit(batch=)`` to whole batches; of two modalities, for both and for each alone. They hold
    for cells like these: on another platform they are less reliable than stated, unless batches were given.

    The label of a group is the type with the largest mean probability over its cells. Probabilities are averaged, not
    multiplied, because similar cells have similar errors. A group of one cell has the prediction of its cell. With
    levels, it is the deepest name whose mean probability is at least one half, else "unassigned".

    Label sets of a model with levels grow along its tree. A set costs its number of types, and each of its names costs
    as much as 2.7 types. So a set often takes a whole branch, and not parts of several. The price of a type is
    calibrated so that the sets hold the type of the share `coverage` of the cells, as without levels. Where a name has
    a probability of one half or more, a set that is not empty has one half, too.

    The list of novel cells: the p-value of a cell is about the share of the calibration cells that seem as novel as
    this cell (a conformal p-value). What counts is its own novelty and that of its neighbours among new and calibration
    cells. The procedure of Benjamini and Hochberg makes the list from all p-values. The false discovery rate holds if
    new cells of known types are like the calibration cells. An empty list does not say that no cell is novel. Novel
    types are not found if they are much like a known one, or have fewer cells than ``shortest_list``.

    References
    ----------
    Label sets: Sadinle, Lei & Wasserman 2019; of other nested sets: Gupta, Kuchibhotla & Ramdas 2022. Mean of
    probabilities: Stone 1961, *The opinion pool*. Conformal p-values: Bates, Candès, Lei, Romano & Sesia 2023; with
    scores from new and calibration cells together: Marandon, Lei, Mary & Roquain 2024. False discovery rate: Benjamini
    & Hochberg 1995.

    Examples
    --------
    >>> tt.predict(query, model)
    >>> list(query.obs[["tt_label", "tt_confidence", "tt_novelty", "tt_label_set"]])
    ['tt_label', 'tt_confidence', 'tt_novelty', 'tt_label_set']
    >>> bool(query.obs["tt_confidence"].between(0, 1).all())
    True
    """
    from tripletomics import pp
    from tripletomics.keys import prefix as prefix_of
    from tripletomics.tl.labelling import Labelling
    from tripletomics.tl.results import write_coordinates

    pp.check_key(key_added, adata)
    pp.check_model(model)
    asked = Labelling(model, reject=reject, coverage=coverage, fdr=fdr, groups=groups)
    options = pp.QueryOptions(layer, missing, alias, min_matched, use_rep)
    if isinstance(adata, (str, os.PathLike)):
        stored.embed(Path(adata), model, options, key_added, asked=asked, progress=progress)
        return
    cells = pp.take_new(adata, model, options, key_added)
    if groups is not None:
        asked.group(_groups(cells, groups))
    with stage(f"labelling {cells.x.shape[0]:,} cells", progress):
        z, m = _label(asked, cells)
    columns, use_rep, prefix = asked.finish(), options.embedding(model), prefix_of(key_added)
    asked.doubt_embedding(use_rep)
    _write(cells, prefix, columns, asked.stale)
    for target, rows, queries in cells.targets:
        target.uns[f"{prefix}_mapping"] = asked.record(queries, rows, use_rep)
    write_coordinates(cells, key_added, model, z, m, asked.trained)


def _write(cells: NewCells, prefix: str, columns: Mapping[str, Any], stale: Sequence[str]) -> None:
    """Write columns of obs in place of those of another prediction."""
    for target, rows, _ in cells.targets:
        target.obs = target.obs.drop(columns=[f"{prefix}_{name}" for name in stale], errors="ignore")
        for name, values in columns.items():
            target.obs[f"{prefix}_{name}"] = values[rows]
            target.uns.pop(f"{prefix}_{name}_colors", None)  # these were of the types of another prediction


def _label(asked: Labelling, cells: NewCells) -> tuple[np.ndarray, np.ndarray]:
    """Label all cells, block by block, and return the metric space and the map."""
    import numpy as np

    n = cells.x.shape[0]
    if n <= BLOCK:
        return asked.place(cells.x, cells.present)
    blocks = [asked.place(cells.x[i : i + BLOCK], cells.present) for i in range(0, n, BLOCK)]
    z, m = map(np.concatenate, zip(*blocks, strict=True))
    return z, m


def _groups(cells: NewCells, name: str) -> pd.Series:
    """Return the groups of cells.

    Of two modalities, either may have the column, or the MuData. For each cell, the first one with a value counts.
    """
    import numpy as np
    import pandas as pd

    from tripletomics import labels, pp

    holders = [(target, rows) for target, rows, _ in cells.targets if name in target.obs]
    values = np.full(cells.x.shape[0], None, dtype=object)
    for target, rows in reversed(holders or [cells.targets[0][:2]]):
        given = labels.known(pp.column(target, name, "groups"), UNLABELLED).to_numpy()
        values[rows] = np.where(pd.isna(given), values[rows], given)
    return pd.Series(values, name=name)

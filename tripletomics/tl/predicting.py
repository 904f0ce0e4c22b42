"""`predict`: labels for new cells, and how reliable they are.

A model of types on several levels writes names of all levels: the label of a cell is the deepest name that is likely,
and a label set has the fewest names that stand for its types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from tripletomics.labels import COVERAGE, REJECT, UNASSIGNED, UNLABELLED
from tripletomics.notices import warn

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from tripletomics.labels.prediction import Prediction
    from tripletomics.labels.reference import Reference
    from tripletomics.model import Model
    from tripletomics.pp.queries import NewCells, Query
    from tripletomics.sources import Matrix
    from tripletomics.tl.fitting import Cells
else:  # the command line reads these annotations
    Cells = Model = object

UNLIKE = 0.5  # share of unassigned cells from which the embedding is in doubt
OF_TYPES = ("label", "confidence", "novelty", "label_set", "agrees")
OPTIONAL = ("group_label", "group_label_set", "novel", "novel_p")  # columns that are written only if asked for


def predict(
    adata: Cells,
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
) -> None:
    """Predict the types of new cells, with confidence and novelty, and embed them.

    Parameters
    ----------
    adata
        New cells with the model's genes, as for `transform`. Their labels are not read.
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
        What to do about missing genes: "error", "zero" to fill them with zeros, or "impute" to treat them
        as unknown, like the genes that are hidden in training.
    alias
        Column of `var` with other names of the genes, such as "gene_ids", for those that do not match by name.
    min_matched
        Share of the encoder's weight that the present genes must hold if others are filled or imputed, in [0, 1].
    key_added
        Key of the map in `obsm`; prefix of the others.

    Returns
    -------
    None. Written to `adata`, to each dataset that was given, and to a MuData. With another `key_added`, its name
    replaces "tt" in `obs` and `uns`. The numbers of genes in ``tt_mapping`` of a MuData are sums over both.

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
    """
    from tripletomics import pp
    from tripletomics.tl.origins import trained_on
    from tripletomics.tl.results import write_coordinates

    pp.check_key(key_added, adata)
    pp.check_model(model)
    options = pp.QueryOptions(layer, missing, alias, min_matched, use_rep)
    cells = pp.take_new(adata, model, options, key_added)
    prefix = "tt" if key_added == "X_tt" else key_added
    if model.targets and model.reference is None:
        _refuse_without_types(groups=groups, fdr=fdr)
        z, m = model.place(cells.x, cells.present)
        _write(cells, prefix, _value_columns(model, cells, z, coverage), [*OF_TYPES, *OPTIONAL])
        for target, _, queries in cells.targets:
            target.uns[f"{prefix}_mapping"] = _record(model, queries)
        write_coordinates(cells, key_added, model, z, m, trained_on(model, cells.x))
        return
    grouped = None if groups is None else _groups(cells, groups)
    found, z, m = model.predict(cells.x, cells.present, reject=reject, coverage=coverage, fdr=fdr)
    trained = trained_on(model, cells.x)
    below = None if model.nodes is None else model.nodes.leaves_below()
    agrees = cast("Reference", model.reference).agrees(m, found.nodes, trained, below)
    columns = {
        **_type_columns(found, model),
        "agrees": agrees,
        **_group_columns(found, grouped, (coverage, reject), model),
        **({} if fdr is None else {"novel": found.novel, "novel_p": found.p}),
        **_value_columns(model, cells, z, coverage),
    }
    use_rep, about_list = options.embedding(model), {} if fdr is None else _about_list(model, cells.x, trained, fdr)
    _doubt_embedding(use_rep, found.unassigned & ~found.doubtful)
    _write(cells, prefix, columns, OPTIONAL)
    for target, rows, queries in cells.targets:
        record = _record(model, queries) | {"rejected": int(found.unassigned[rows].sum())}
        record |= {"agrees": float(agrees[rows].mean())} | ({} if use_rep is None else {"use_rep": use_rep})
        record |= {} if below is None else {"unlikely": int(found.doubtful[rows].sum())}
        record |= {} if trained is None else {"seen": int(trained[rows].sum())}
        record |= {} if fdr is None else about_list | {"novel": int(found.novel[rows].sum())}
        target.uns[f"{prefix}_mapping"] = record
    write_coordinates(cells, key_added, model, z, m, trained)


def _write(cells: NewCells, prefix: str, columns: Mapping[str, Any], stale: Sequence[str]) -> None:
    """Write columns of obs in place of those of another prediction."""
    for target, rows, _ in cells.targets:
        target.obs = target.obs.drop(columns=[f"{prefix}_{name}" for name in stale], errors="ignore")
        for name, values in columns.items():
            target.obs[f"{prefix}_{name}"] = values[rows]


def _refuse_without_types(**given: object) -> None:
    """Raise if something is asked for that only a model with types can say."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name}={value!r} is about types, and the model was fitted with order= alone: leave it out, or fit "
                "with label=."
            )


def _value_columns(
    model: Model, cells: NewCells, z: np.ndarray, coverage: float
) -> dict[str, np.ndarray | pd.Categorical[str]]:
    """Return the columns about ordered columns, by the end of their names; none without such columns."""
    import numpy as np
    import pandas as pd

    columns: dict[str, np.ndarray | pd.Categorical[str]] = {}
    found = model.predict_values(cells.x, cells.present, coverage=coverage, z=z) if model.targets else {}
    for target in model.targets:
        one = found[target.name]
        if target.classes is not None:
            names = pd.Index(target.classes)
            columns[target.name] = pd.Categorical.from_codes(one.center.astype(int), names)
            columns[f"{target.name}_confidence"] = np.asarray(one.confidence)
            continue
        values = {"": one.center, "_low": one.low, "_high": one.high}
        if target.period is not None:
            values = {"": one.center, "_half_width": (one.high - one.low) / 2}
        for end, numbers in values.items():
            if target.categories is None:
                columns[f"{target.name}{end}"] = numbers
            else:
                names = pd.Index(target.categories)
                columns[f"{target.name}{end}"] = pd.Categorical.from_codes(numbers.astype(int), names, ordered=True)
    return columns


def _doubt_embedding(use_rep: str | None, unassigned: np.ndarray) -> None:
    """Warn if most cells are unlike all types by their embedding."""
    if use_rep is not None and len(unassigned) and unassigned.mean() > UNLIKE:
        warn(
            f"{unassigned.sum():,} of {len(unassigned):,} cells are unlike all types of the model. Was {use_rep!r} "
            "made by the same model as for the training cells?"
        )


def _record(model: Model, queries: Sequence[Query]) -> dict[str, Any]:
    """Return what `uns` keeps of a model that predicts, and how the genes of one or two modalities were matched."""
    import numpy as np

    matches = [query.match for query in queries]
    ordered = {"ordered": np.array([one.name for one in model.targets], dtype=object)} if model.targets else {}
    return {
        "model": model.id,
        "matched": sum(match.matched for match in matches),
        "missing": sum(match.missing for match in matches),
        "extra": sum(match.extra for match in matches),
        "weight": float(np.mean([match.weight for match in matches])),
        "missing_genes": np.array([gene for match in matches for gene in match.missing_genes], dtype=object),
        "notes": np.array([note for query in queries for note in query.notes], dtype=object),
        **ordered,
    }


def _about_list(model: Model, x: Matrix, trained: np.ndarray | None, fdr: float) -> dict[str, float]:
    """Return what `uns` keeps about a list of novel cells, except their number."""
    from tripletomics.labels.discoveries import shortest

    known = min(calibration.n_cells for calibration in model.calibrations_for(x).values())
    new = int(x.shape[0] if trained is None else (~trained).sum())
    return {"fdr": fdr, "calibration_cells": known, "shortest_list": shortest(new, known, fdr)}


def _groups(cells: NewCells, name: str) -> tuple[np.ndarray, int]:
    """Return the codes of the groups of cells, -1 for none, and their number.

    Of two modalities, either may have the column, or the MuData. For each cell, the first one with a value counts.
    """
    import numpy as np
    import pandas as pd

    from tripletomics import labels, pp
    from tripletomics.labels import grouping

    if not isinstance(name, str):
        raise TypeError(f"groups={name!r} is not the name of a column of adata.obs.")
    holders = [(target, rows) for target, rows, _ in cells.targets if name in target.obs]
    values = np.full(cells.x.shape[0], None, dtype=object)
    for target, rows in reversed(holders or [cells.targets[0][:2]]):
        given = labels.known(pp.column(target, name, "groups"), UNLABELLED).to_numpy()
        values[rows] = np.where(pd.isna(given), values[rows], given)
    codes, classes = labels.encode(pd.Series(values, name=name), UNLABELLED)
    if lone := grouping.check_groups(name, codes, classes):
        warn(f"{lone:,} of {len(classes):,} groups of {name!r} have one cell: they get the prediction of their cell.")
    return codes, len(classes)


def _group_columns(
    found: Prediction, grouped: tuple[np.ndarray, int] | None, shares: tuple[float, float], model: Model
) -> dict[str, np.ndarray | pd.Categorical[str]]:
    """Return the columns about groups of cells, by the end of their names; none without groups."""
    import numpy as np
    import pandas as pd

    from tripletomics.labels import grouping

    if grouped is None:
        return {}
    best, sets, unassigned = grouping.vote(found, *grouped, *shares, tree=model.nodes)
    names, codes = np.array([*model.names, UNASSIGNED], dtype=object), grouped[0]
    labels = np.array([*names[np.where(unassigned, -1, best)], None], dtype=object)  # code -1 is the last
    texts = np.array([*_joined(sets, model), ""], dtype=object)
    return {"group_label": pd.Categorical(labels[codes], names), "group_label_set": texts[codes]}


def _type_columns(found: Prediction, model: Model) -> dict[str, np.ndarray | pd.Categorical[str]]:
    """Return the columns about the type of each cell, by the end of their names."""
    import numpy as np
    import pandas as pd

    names = pd.Index([*model.names, UNASSIGNED], dtype=object)
    return {
        "label": pd.Categorical.from_codes(np.where(found.unassigned, len(names) - 1, found.nodes), names),
        "confidence": found.confidence,
        "novelty": found.novelty,
        "label_set": _joined(found.sets, model),
    }


def _joined(sets: np.ndarray, model: Model) -> np.ndarray:
    """Return label sets, boolean (cells, types), as text: each set that occurs is written once."""
    import numpy as np

    from tripletomics.labels import nodes

    packed = np.packbits(sets, axis=1)
    _, first, which = np.unique(packed.view(f"V{packed.shape[1]}")[:, 0], return_index=True, return_inverse=True)
    names, some = np.array(model.types, dtype=object), sets[first]
    if model.nodes is not None:
        texts = nodes.write_sets(some, model.nodes)
    else:
        texts = [" | ".join(names[credible]) for credible in some]
    return np.array([*texts, ""], dtype=object)[which]

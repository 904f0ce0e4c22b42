"""`explain`: the genes that separate a type from another in the metric space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from tripletomics import labels
from tripletomics.arguments import checking_names
from tripletomics.labels import UNLABELLED
from tripletomics.parts import did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from pandas import DataFrame, Series

    from tripletomics.model import Model


@checking_names
def explain(
    adata: AnnData,
    model: Model,
    groups: str | None = None,
    *,
    against: str | Mapping[str, str] | None = None,
    n_cells: int = 200,
    layer: str | None = None,
    use_rep: str | None = None,
    missing: Literal["error", "zero", "impute"] = "error",
    alias: str | None = None,
    min_matched: float = 0.3,
    seed: int = 0,
) -> DataFrame:
    r"""Rank the genes that separate a type from another in the metric space.

    The axis of a comparison is the unit vector u from the centroid of the other group to that of the group, both in
    the metric space f. The attribution of gene g is its integrated gradient along this axis, on the straight path from
    the mean scaled profile b of the other group to a cell x, averaged over cells of the group:

    .. math:: a_g = (x_g - b_g) \int_0^1 \frac{\partial\, u^\top f(b + t (x - b))}{\partial x_g}\, dt

    Parameters
    ----------
    adata
        Cells in memory with the model's genes, on the scale that it was trained on. They are not changed.
    model
        From `fit` or `load`. It is not changed.
    groups
        Column of `obs` with the groups, such as "cell_type" or "tt_label". Missing values and names that mean
        unlabelled, such as "unassigned", are left out. By default the column of cell types of the
        fit.
    against
        What a group is compared with: by default its nearest group, as in the tree that :func:`tripletomics.pl.tree`
        draws of a model without one: the group whose mean principal components have the most similar direction from
        the mean of the training cells (of a type of the model, the mean of its training cells); the name of one group
        for all others; or ``{group: other}``, which explains only these groups.
    n_cells
        Most cells of a group that the attribution is averaged over; 200 are enough for the leading genes.
    layer
        Layer to use in place of `.X`.
    use_rep
        Key of `obsm` with the embedding, for a model that was fitted on one; by default the key in the fit.
    missing
        What to do about missing genes: "error", "zero" to fill them with zeros, or "impute" to treat them
        as unknown. Either way they get no attribution.
    alias
        Column of `var` with other names of the genes, such as "gene_ids", for those that do not match by name.
    min_matched
        Share of the encoder's weight that the present genes must hold if others are filled or imputed, in [0, 1].
    seed
        Seed of the subsample of cells.

    Returns
    -------
    One row per group and gene that the encoder sees, by group and descending attribution:

    ``group``, ``against``
        The two groups, categorical as the column is, over all groups.
    ``gene``
        Its name; of a model that was fitted on an embedding, the name of a dimension, such as "X_scVI_1".
    ``attribution``
        How far the gene moves a cell of the group along the axis, in units of the metric space; below 0 it pulls the
        cell back. Over all genes it adds up to how far the cells lie from the baseline along the axis.
    ``share``
        The attribution over the sum of the absolute attributions of all genes, in [-1, 1].
    ``mean_group``, ``mean_against``
        Mean of the gene in all cells of either group, normalised (and logged) as the encoder gets it, before scaling;
        0 for a missing gene.

    Raises
    ------
    KeyError
        If there is no such column, layer or embedding.
    TypeError
        If `adata` is not an AnnData in memory, `model` is not a Model, or `against` is neither a name nor a dict.
    ValueError
        If there are fewer than two groups, `against` names another, genes are missing, or the values are on another
        scale.

    Notes
    -----
    It shows what this model uses, not what makes a type: of two genes that vary together a model may use only one. A
    gene can pull toward a group by its absence; compare the two means. The integral is a Gauss-Legendre sum of 32
    points.

    References
    ----------
    Sundararajan, Taly & Yan 2017, *Axiomatic attribution for deep networks*.

    Examples
    --------
    >>> table = tt.explain(adata, model, against={"CD19+ B": "Dendritic"})
    >>> list(table)
    ['group', 'against', 'gene', 'attribution', 'share', 'mean_group', 'mean_against']
    """
    import numpy as np
    import pandas as pd

    from tripletomics import attribution, embedding, pp
    from tripletomics.pcs import mean_and_variance

    pp.check_model(model)
    if model.modalities:
        raise ValueError("explain reads models of one modality: fit one to this modality alone.")
    pp.check_whole("n_cells", n_cells, 1)
    pp.check_whole("seed", seed, 0, 2**32 - 1)
    pp.check_anndata(adata)
    groups = _fitted_column(adata, model) if groups is None else groups
    column = pp.column(adata, groups, "groups")
    codes, classes = labels.encode(column, UNLABELLED)
    pairs = _pairs(against, groups, classes)
    features, encoder = model.part(), model.networks.encoder
    options = pp.QueryOptions(layer, missing, alias, min_matched, use_rep)
    options.embedding(model)
    query = pp.take_query(options.features_of(adata, features), features, model.gene_weights(), options)

    source = features.source(query.x, query.present)
    z = embedding.embed_rows(encoder, source, next(encoder.parameters()).device).cpu().numpy()
    members = [np.flatnonzero(codes == code) for code in range(len(classes))]
    centroids = np.array([z[rows].mean(axis=0, dtype=np.float64) for rows in members])
    nearest = _nearest(model, model.pcs(query.x, query.present), members, classes)
    tables, names = [], _names(column, classes)
    for code, other in pairs.items():
        other = nearest[code] if other is None else other
        axis = centroids[code] - centroids[other]
        means = [mean_and_variance(source.normalised(members[c]))[0] for c in (code, other)]
        rows = np.sort(np.random.default_rng(seed).permutation(members[code])[:n_cells])
        found = attribution.integrated_gradients(
            encoder,
            source.subset(rows),
            features.standardise(means[1][None], query.present)[0],
            axis / max(np.linalg.norm(axis), 1e-12),
        )
        table = {
            "group": pd.Categorical([classes[code]] * len(found), names),
            "against": pd.Categorical([classes[other]] * len(found), names),
            "gene": features.genes[: features.n_seen],
            "attribution": found, "share": found / max(np.abs(found).sum(), 1e-12),
            "mean_group": means[0], "mean_against": means[1],
        }  # fmt: skip
        tables.append(pd.DataFrame(table).sort_values("attribution", ascending=False, kind="stable"))
    return pd.concat(tables, ignore_index=True)


def _fitted_column(adata: AnnData, model: Model) -> str:
    """Return the column of cell types that a model was fitted with; raise if these cells have none."""
    from tripletomics.labels.roles import read_roles

    fitted = read_roles(model.settings["label"].split(", "), None, None, adata.obs.columns).finest
    if fitted is None or fitted not in adata.obs:
        raise KeyError(
            f"The model was fitted with label={fitted!r}, which is not a column of adata.obs: name one with groups=. "
            f"Columns: {', '.join(map(str, adata.obs.columns)) or 'none'}."
        )
    return fitted


def _pairs(against: str | Mapping[str, str] | None, groups: str, classes: list[str]) -> dict[int, int | None]:
    """Return the codes of the groups to explain, each with that of the group to compare it with, None for the nearest.

    Both come in the order of the classes.
    """
    if len(classes) < 2:
        raise ValueError(
            f"groups={groups!r} has {len(classes)} group ({', '.join(classes) or 'none'}): a comparison needs two. "
            "Missing values and names that mean unlabelled do not count."
        )
    if against is None:
        return dict.fromkeys(range(len(classes)))
    if isinstance(against, str):
        wanted = {name: against for name in classes if name != against}
    elif isinstance(against, Mapping):
        wanted = {str(group): str(other) for group, other in against.items()}
    else:
        raise TypeError(f"against={against!r} is neither the name of a group nor a dict from group to group.")
    for name in [*wanted, *wanted.values()]:
        if name not in classes:
            raise ValueError(
                f"against={against!r}: {name!r} is not a group of {groups!r}.{did_you_mean(name, classes)} "
                f"Groups: {', '.join(classes)}."
            )
    if not wanted:
        raise ValueError(f"against={against!r} names no group to explain. Groups: {', '.join(classes)}.")
    if same := [group for group, other in wanted.items() if group == other]:
        raise ValueError(f"against={against!r} compares {same[0]!r} with itself: name another group.")
    return {code: classes.index(wanted[name]) for code, name in enumerate(classes) if name in wanted}


def _names(column: Series, classes: list[str]) -> list[str]:
    """Return all groups that a column knows, in its own order if it has one: figures give colours in this order."""
    import pandas as pd

    if not isinstance(column.dtype, pd.CategoricalDtype):
        return classes
    return [name for name in labels.names(pd.Series(column.cat.categories)) if not labels.is_missing(name)]


def _nearest(model: Model, pcs: np.ndarray, members: list[np.ndarray], classes: list[str]) -> list[int]:
    """Return the code of the group that is most like each, by mean principal components.

    Of a type of the model, these are the ones that it remembers of its training cells, else those of the group's cells.
    """
    import numpy as np

    from tripletomics.labels.reference import type_distances

    known = {} if model.reference is None else dict(zip(model.types, model.reference.centres, strict=True))
    known = {name: centre for name, centre in known.items() if centre.any()}  # a type without training cells has none
    centres = [known.get(name, pcs[rows].mean(axis=0)) for name, rows in zip(classes, members, strict=True)]
    apart = type_distances(np.array(centres)) + np.diag(np.full(len(classes), np.inf))
    return [int(row.argmin()) for row in apart]

"""`relate`: which label of one dataset is which of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from tripletomics.labels import NONE, UNLABELLED

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from pandas import DataFrame

    from tripletomics.labels.calibration import Calibration
    from tripletomics.labels.reference import Reference
    from tripletomics.labels.relation import Labelled
    from tripletomics.model import Model
    from tripletomics.pp import NewCells, QueryOptions
else:  # the command line reads these annotations
    AnnData = DataFrame = Model = object


def relate(
    a: AnnData,
    b: AnnData,
    model: Model,
    *,
    label_a: str,
    label_b: str,
    layer: str | None = None,
    use_rep: str | None = None,
    missing: Literal["error", "zero", "impute"] = "error",
    alias: str | None = None,
    min_matched: float = 0.3,
) -> DataFrame:
    """Return which label of one dataset is which of another: the share of its cells that corresponds to each.

    The labels may have other names than the types of the model, and be coarser or finer. For the other direction, swap
    the datasets.

    Parameters
    ----------
    a, b
        Cells with the model's genes, in memory, as for `predict`. They are not changed. Of a model of two modalities,
        each has one of them. Both may be the same dataset.
    model
        From `fit` or `load`, of labelled cells.
    label_a
        Column of `obs` with the labels of `a`, such as "cell_type" or "leiden". Cells without a label are left out.
    label_b
        The same of `b`.
    layer
        Layer to use in place of `.X`, of both.
    use_rep
        Key of `obsm` with the embedding, for a model that was fitted on one; by default the key in the fit.
    missing
        What to do about missing genes: "error", "zero" to fill them with zeros, or "impute" to treat them
        as unknown, like the genes that are hidden in training.
    alias
        Column of `var` with other names of the genes, such as "gene_ids", for those that do not match by name.
    min_matched
        Share of the encoder's weight that the present genes must hold if others are filled or imputed, in [0, 1].

    Returns
    -------
    One row for each label of `a` and each of `b`, and one for "none"; by label of `a`, the largest share first:

    ``label_a``, ``label_b``
        The labels, categorical. "none" is the last category of ``label_b``: these cells are unlike all labelled cells
        of `b`.
    ``share``
        Share of the cells of ``label_a`` that correspond to ``label_b``, in [0, 1]. Those of a label of `a` add up to
        1.
    ``lower``, ``upper``
        95 % interval of the share. It is wide where there are few cells of ``label_a``. It is about the drawing of
        cells, not about what the model gets wrong.

    Raises
    ------
    KeyError
        If there is no such column, layer or embedding.
    TypeError
        If a dataset is not an AnnData in memory, or `model` is not a Model.
    ValueError
        If no cell of a dataset has a label, genes are missing, the values are on another scale, or the model has no
        labels or could not be calibrated.

    Notes
    -----
    First, the types of the model say what a cell can be. The probabilities of `predict` are adapted to the cells of
    each label by expectation maximisation. (The true shares of types among these cells are other than among the cells
    of the fit.) This counts the types in `b`, and a cell whose type is not there corresponds to "none". A cell that is
    of no type of the model corresponds to "none" if it lies far from all cells of `b`.

    Then, where a type has several labels in `b`, the labelled cells of `b` take the place of the reference: the
    neighbours in the metric space, the prototypes, and the Mahalanobis distance of the principal components say which
    one fits, with the weights of the model's calibration. The shares that are found so are the prior of a second round.

    References
    ----------
    Expectation maximisation of shares: Saerens, Latinne & Decaestecker 2002. Intervals: Wilson 1927.
    """
    import numpy as np
    import pandas as pd

    from tripletomics import pp
    from tripletomics.labels import relation

    pp.check_model(model)
    options = pp.QueryOptions(layer, missing, alias, min_matched, use_rep)
    codes_a, names_a = _labels_of(a, "a", label_a)
    codes_b, names_b = _labels_of(b, "b", label_b)
    queries = [_take(adata, side, model, options) for adata, side in ((a, "a"), (b, "b"))]
    first, second = (_labelled(model, *given) for given in zip(queries, (codes_a, codes_b), strict=True))
    reference, calibration = cast("Reference", model.reference), cast("Calibration", model.calibration)
    shares = relation.relate(first, second, calibration, np.exp(reference.prior))
    lower, upper = relation.interval(shares, np.bincount(first.codes)[:, None])
    table = pd.DataFrame({
        "label_a": pd.Categorical(np.repeat(names_a, len(names_b) + 1), names_a),
        "label_b": pd.Categorical(np.tile([*names_b, NONE], len(names_a)), [*names_b, NONE]),
        "share": shares.ravel(), "lower": lower.ravel(), "upper": upper.ravel(),
    })  # fmt: skip
    return table.sort_values(["label_a", "share"], ascending=[True, False], kind="stable", ignore_index=True)


def _labels_of(adata: AnnData, side: str, label: str) -> tuple[np.ndarray, list[str]]:
    """Return the codes and names of the labels of a dataset, or raise if no cell has one."""
    from tripletomics import labels, pp

    try:
        pp.check_anndata(adata)
        codes, names = labels.encode(pp.column(adata, label, f"label_{side}"), UNLABELLED)
    except (TypeError, KeyError, ValueError) as error:  # say which of the two it is
        raise type(error)(str(error.args[0]).replace("adata", side)) from None
    if not names:
        raise ValueError(
            f"label_{side}={label!r}: no cell of {side} is labelled. Missing values and names that mean unlabelled do "
            "not count."
        )
    return codes, names


def _take(adata: AnnData, side: str, model: Model, options: QueryOptions) -> NewCells:
    """Return a dataset as the model takes it; an error says which of the two it is about."""
    from tripletomics import pp

    try:
        return pp.take_new(adata, model, options)
    except (TypeError, KeyError, ValueError) as error:
        raise type(error)(f"{side}: {error.args[0]}") from None


def _labelled(model: Model, cells: NewCells, codes: np.ndarray) -> Labelled:
    """Return the labelled ones of some cells as the model sees them."""
    from tripletomics.labels.relation import Labelled

    found, z, _ = model.predict(cells.x, cells.present)
    pcs, rows = model.pcs(cells.x, cells.present), codes >= 0
    return Labelled(found.probabilities[rows], z[rows], pcs[rows], codes[rows])

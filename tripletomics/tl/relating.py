"""`relate`: which label of one dataset is which of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from tripletomics.arguments import checking_names
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


@checking_names
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

    The labels need not be the types of the model: they may have other names, and be coarser or finer. For the other
    direction, swap the datasets.

    Parameters
    ----------
    a, b
        Cells with the model's genes, in memory, as for `predict`. They are not changed. For a model of two modalities,
        each dataset has one of the two. Both may be the same dataset.
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
        What to do about missing genes, and about NaN in the others: "error"; "zero" to fill them with zeros; or
        "impute" to treat them as unknown, like the genes that are hidden in training.
    alias
        Column of `var` with other names of the genes, such as "gene_ids", for those that do not match by name.
    min_matched
        Share of the encoder's weight that the present genes must hold if others are filled or imputed, in [0, 1].

    Returns
    -------
    A table with a row for each pair of a label of `a` and a label of `b` (or "none"). Rows are sorted by label of `a`,
    and then from the largest share to the smallest:

    ``label_a``, ``label_b``
        The labels, categorical. "none" is the last category of ``label_b``. It stands for cells that are unlike all
        labelled cells of `b`.
    ``share``
        Share of the cells of ``label_a`` that correspond to ``label_b``, in [0, 1]. The shares of a label of `a` add up
        to 1.
    ``lower``, ``upper``
        95 % interval of the share. It is wide if ``label_a`` has few cells. It does not include errors of the model.

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
    First, the model says of which of its types each cell can be. Expectation maximisation adapts these probabilities to
    the cells of each label, because types are more or less common there than in the fit. This also counts how many
    cells of each type `b` has. A cell of a type that `b` does not have corresponds to "none". A cell that is of no type
    of the model corresponds to "none" if it lies far from all cells of `b`.

    Then, where a type has several labels in `b`, the labelled cells of `b` take the place of the reference. Neighbours
    and prototypes in the metric space, and the Mahalanobis distance of the principal components, say which label fits.
    They have the weights of the model's calibration. The shares are computed in a few rounds: those of one round are
    the prior of the next.

    References
    ----------
    Expectation maximisation of shares: Saerens, Latinne & Decaestecker 2002. Intervals: Wilson 1927.

    Examples
    --------
    >>> table = tt.relate(query, adata, model, label_a="cell_type", label_b="cell_type")
    >>> list(table)
    ['label_a', 'label_b', 'share', 'lower', 'upper']
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
    table.attrs = {"label_a": label_a, "label_b": label_b}
    return table.sort_values(["label_a", "share"], ascending=[True, False], kind="stable", ignore_index=True)


def _labels_of(adata: AnnData, side: str, label: str) -> tuple[np.ndarray, list[str]]:
    """Return the codes and names of the labels of a dataset, or raise if no cell has one."""
    from tripletomics import labels, pp

    try:
        pp.check_anndata(adata)
        codes, names = labels.encode(pp.types(adata, label, UNLABELLED, f"label_{side}"), UNLABELLED)
    except (TypeError, KeyError, ValueError) as error:  # name the one of the two that it is about
        raise type(error)(str(error.args[0]).replace("adata", side)) from None
    if (codes >= 0).sum() < 2:
        raise ValueError(
            f"label_{side}={label!r}: fewer than two cells of {side} are labelled. Missing values and names that mean "
            "unlabelled do not count."
        )
    return codes, names


def _take(adata: AnnData, side: str, model: Model, options: QueryOptions) -> NewCells:
    """Return a dataset as the model takes it; an error names the one of the two that it is about."""
    from tripletomics import pp

    try:
        return pp.take_new(adata, model, options)
    except (TypeError, KeyError, ValueError) as error:
        raise type(error)(f"{side}: {error.args[0]}") from None


def _labelled(model: Model, cells: NewCells, codes: np.ndarray) -> Labelled:
    """Return the labelled cells of a dataset, as the model sees them."""
    from tripletomics.labels.relation import Labelled

    found, z, _ = model.predict(cells.x, cells.present)
    pcs, rows = model.pcs(cells.x, cells.present), codes >= 0
    return Labelled(found.probabilities[rows], z[rows], pcs[rows], codes[rows])

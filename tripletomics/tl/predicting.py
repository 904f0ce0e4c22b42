"""`predict`: labels for new cells, and how far to trust them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tripletomics.labels import COVERAGE, REJECT, UNASSIGNED

if TYPE_CHECKING:
    import numpy as np

    from tripletomics.model import Model
    from tripletomics.sources import Matrix
    from tripletomics.tl.fitting import Cells
else:  # the command line reads these annotations
    Cells = Model = object


def predict(
    adata: Cells,
    model: Model,
    *,
    reject: float = REJECT,
    fdr: float | None = None,
    coverage: float = COVERAGE,
    layer: str | None = None,
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
        Makes a list of novel cells, of which on average at most this share, between 0 and 1, are of known types: 0.1
        is usual. None by default, for no list.
    coverage
        Share of the cells whose label set holds their type, between 0 and 1.
    layer
        Layer to use in place of `.X`.
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
    None. Written to `adata`, to each dataset that was given, and to a MuData (with another `key_added`, its name
    replaces "tt" in `obs` and `uns`; the counts in ``tt_mapping`` of a MuData are the sums over its two modalities):

    ``obs["tt_label"]``
        The type, or "unassigned", categorical.
    ``obs["tt_confidence"]``
        Probability that the best type is right, also for rejected cells, float in [0, 1].
    ``obs["tt_novelty"]``
        About the share of the cells of known types that lie nearer to these types, float in [0, 1].
    ``obs["tt_label_set"]``
        Types that are credible at the coverage, joined by " | "; empty for a cell that is unlike all of them.
    ``obs["tt_novel"]``, ``obs["tt_novel_p"]``
        With `fdr`: whether the cell is on the list of novel cells, boolean, and its p-value, a float in (0, 1]. It is 1
        for cells that the model was trained or calibrated on, which are never listed. Without `fdr` the columns of an
        earlier call are removed.
    ``obsm["X_tt"]``, ``obsm["X_tt_metric"]``
        Map and metric space, as `transform` writes them (and ``obsm["X_tt_pca"]`` if it is there).
    ``uns["X_tt"]``, ``obs["tt_split"]``
        Which model wrote these coordinates, and which cells it was trained on, as `transform` writes them.
    ``uns["tt_mapping"]``
        ``model``, the id of the model that made the predictions; how the genes were matched: numbers ``matched``,
        ``missing``, ``extra``, share of the encoder's ``weight`` that was matched, ``missing_genes`` (heaviest first);
        sentences about unusual values (``notes``), the number of cells ``rejected``, and how many the model has
        ``seen``, because it was trained on them. These are found by their values: a cell of which a value has changed
        since the fit, or a gene is missing, counts as new. (An older model file gives no ``seen``.)
        With `fdr` also ``fdr``, how many cells are on the list (``novel``), the number of ``calibration_cells``, and
        the length of the ``shortest_list`` that these allow for so many new cells.

    Raises
    ------
    KeyError
        If there is no such layer or column.
    ValueError
        If genes are missing, the values are on another scale than those of training, a share is out of range, or the
        model could not be calibrated. Nothing is written then.

    Notes
    -----
    Three parts of evidence are weighed, with the share of each type as the prior: distance-weighted neighbours and type
    prototypes in the metric space, and the Mahalanobis distance of the principal components to the type. The weights,
    the label sets (split conformal prediction) and the limit of novelty were fitted to training cells that the encoder
    had not seen, or with ``fit(batch=)`` to whole batches; of two modalities, for both and for each alone. They hold
    for cells like these: on another platform they are less reliable than stated, unless batches were given.

    The list: a cell's p-value says how many calibration cells seem as novel as it does, by their own novelty and that
    of their neighbours among the new and the calibration cells (conformal p-values: Bates et al. 2023; scores from both
    kinds of cells: Marandon et al. 2024). The procedure of Benjamini & Hochberg (1995) makes the list. It holds if new
    cells of known types are like the calibration cells. An empty list does not say that no cell is novel: types that
    are like a known one, or have fewer cells than ``shortest_list``, are not found.
    """
    import numpy as np
    import pandas as pd

    from tripletomics import pp
    from tripletomics.tl.fitting import write_coordinates
    from tripletomics.tl.origins import trained_on

    pp.check_key(key_added, adata)
    pp.check_model(model)
    cells = pp.take_new(adata, model, pp.QueryOptions(layer, missing, alias, min_matched))
    found, z, m = model.predict(cells.x, cells.present, reject=reject, coverage=coverage, fdr=fdr)
    trained = trained_on(model, cells.x)
    prefix = "tt" if key_added == "X_tt" else key_added
    about_list = {} if fdr is None else _about_list(model, cells.x, trained, fdr)
    names = np.array([*model.types, UNASSIGNED], dtype=object)
    labels = names[np.where(found.unassigned, -1, found.codes)]
    sets = np.array([" | ".join(names[:-1][credible]) for credible in found.sets], dtype=object)
    for target, rows, queries in cells.targets:
        target.obs[f"{prefix}_label"] = pd.Categorical(labels[rows], names)
        target.obs[f"{prefix}_confidence"] = found.confidence[rows]
        target.obs[f"{prefix}_novelty"] = found.novelty[rows]
        target.obs[f"{prefix}_label_set"] = sets[rows]
        for name, values in (("novel", found.novel), ("novel_p", found.p)):
            if fdr is not None:
                target.obs[f"{prefix}_{name}"] = values[rows]
            elif f"{prefix}_{name}" in target.obs:
                del target.obs[f"{prefix}_{name}"]
        matches = [query.match for query in queries]
        target.uns[f"{prefix}_mapping"] = {
            "model": model.id,
            "matched": sum(match.matched for match in matches),
            "missing": sum(match.missing for match in matches),
            "extra": sum(match.extra for match in matches),
            "weight": float(np.mean([match.weight for match in matches])),
            "missing_genes": np.array([gene for match in matches for gene in match.missing_genes], dtype=object),
            "notes": np.array([note for query in queries for note in query.notes], dtype=object),
            "rejected": int(found.unassigned[rows].sum()),
        } | ({} if trained is None else {"seen": int(trained[rows].sum())})
        if fdr is not None:
            target.uns[f"{prefix}_mapping"] |= about_list | {"novel": int(found.novel[rows].sum())}
    write_coordinates(cells, key_added, model, z, m, trained)


def _about_list(model: Model, x: Matrix, trained: np.ndarray | None, fdr: float) -> dict[str, float]:
    """Return what `uns` keeps about a list of novel cells, without their number."""
    from tripletomics.labels.discoveries import shortest

    known = min(calibration.n_cells for calibration in model.calibrations_for(x).values())
    new = int(x.shape[0] if trained is None else (~trained).sum())
    return {"fdr": fdr, "calibration_cells": known, "shortest_list": shortest(new, known, fdr)}

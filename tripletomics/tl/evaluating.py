"""`evaluate`: scores of any map on cells that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING

from tripletomics.arguments import checking_names
from tripletomics.labels import UNLABELLED
from tripletomics.tl.progress import stage, steps_bar

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

    from tripletomics.tl.fitting import Labels, Parents
else:  # the command line reads these annotations
    AnnData = DataFrame = object
    Labels, Parents = Sequence[str], str


@checking_names
def evaluate(
    adata: AnnData,
    label: Labels | None = None,
    *,
    parents: Parents | None = None,
    basis: str | Sequence[str] = "X_tt",
    reference: str | None = None,
    splits: float | str | Sequence[float | str] | None = None,
    refits: int = 0,
    batch: str | None = None,
    layer: str | None = None,
    use_rep: str | None = None,
    unlabelled: Sequence[str] = UNLABELLED,
    fine: str | None = None,
    pseudotime: str | None = None,
    order: str | None = None,
    unseen: bool = False,
    seed: int = 0,
    device: str = "auto",
    cache: str | None = "auto",
    progress: bool = True,
) -> DataFrame:
    """Score maps on held-out cells, next to training cells and permuted labels; any `obsm` key, from any program.

    Parameters
    ----------
    adata
        Annotated cells in memory. It is not changed.
    label
        Column of `obs` with the cell types; or several, from coarse to fine, as in `fit`. If `fit` was given a dict,
        name the column of its cell types. Without a label, `order` is scored (by default that of a fit
        with `order` alone), and the structure of the data.
    parents
        The parent of each name in `label` that has one, as in `fit`; by default that which the basis was fitted with.
    basis
        One or more keys of `obsm`, of any dimension. One key that `fit` wrote stands for the map and its metric space.
        In a list, each key stands for itself alone.
    reference
        Key of `obsm` that says what the structure of the data is, without labels; by default 50 principal components
        of the training cells, in which these lie as new cells do.
    splits
        How cells were held out: one or more of what `hold_out` of `fit` takes. By default the split that was written
        with the basis, `obs["tt_split"]`; never the split of a model other than that in ``uns["X_tt"]["seen"]``.
    refits
        How many times to fit again, with the seeds 0, 1, ..., for means and standard deviations; only for a basis that
        `fit` wrote. 0 scores what is there. A warning says if they learn other columns than `fit` did.
    batch
        Column of `obs` with the batches, such as donors or runs, for the batch scores of scib-metrics (the extra
        "batch").
    layer
        Layer to use in place of `.X`; by default the one that the basis was fitted on.
    use_rep
        Key of `obsm` with an embedding to use in place of the genes, as in `fit`; by default the one that the basis was
        fitted on. The structure of the data is then that of the embedding.
    unlabelled
        One or several names that mean unlabelled, in place of the default ones; on the command line, repeat the option
        for each. Upper or lower case and spaces around a name make no difference. Missing and blank values always mean
        unlabelled.
    fine
        Column of `obs` with finer types, which no map was given.
    pseudotime
        Column of `obs` with a number along a continuous process.
    order
        Column of `obs` with an order, as in `fit`. It is scored how well the 15 nearest neighbours predict its values.
        By default it is the one of the fit that wrote the basis, if `label` is one column or none. Refits learn it.
    unseen
        With `refits`: leave half of the types out of training and score their retrieval; leave out a type with a
        sibling and a distant type, and score how well these are distinguished from known types.
    seed
        Seed of what is drawn: pairs, triplets, permutations, and the cells of scores that rank all others (at most
        2,000).
    device
        Device for refits, as in `fit`.
    cache
        Folder for refits, as in `compare`.
    progress
        Show a progress bar in a terminal or notebook.

    Returns
    -------
    One row per value: hold_out (how cells were held out), space (the `obsm` key), metric, type (the cell type of a
    recall, the level of a "level_f1", or the name of a further column), split ("train", "held-out", "permuted", or ""
    for a value of all cells), value, sd and n_seeds (over refits), family,
    label_circular (rises with how hard labels were used, so no evidence), null (how the permuted score was made).
    ``attrs["summary"]`` says in words what they show.

    With types on several levels, "level_f1" is the 15-NN macro-F1 on each of them, over the cells that are known there.
    "hierarchical_f1" counts a name for all names above it. Their permuted score permutes the names of the scored cells
    among those of the same parent. So a fine level scores above it only if a map shows more than the level above.

    The permuted score of a map that `fit` wrote is that of a fit on permuted labels. For any other map, the labels of
    the scored cells are permuted. For scores of structure, the coordinates of the scored cells are shuffled. Two scores
    have no permuted score: the use of the page (for two dimensions), and how well held-out cells can be told from
    training cells (for a random split).

    Raises
    ------
    KeyError
        If there is no such basis, column, layer or embedding.
    TypeError
        If `adata` is not an AnnData in memory or holds no numbers.
    ValueError
        If a basis has rows that are not finite, nothing says which cells were held out, or a value cannot be used.

    Notes
    -----
    The split is taken as it is. `fit` knows which cells it held out; `transform` and `predict` find the training cells
    of a model by their values, so one whose values have changed since counts as held out. Where `uns` names no model,
    as after `anndata.concat`, nothing says which model the split belongs to, and the summary says so.

    References
    ----------
    Hierarchical F1: Kiritchenko, Matwin, Nock & Famili 2006, Learning and evaluation in the presence of class
    hierarchies.

    Examples
    --------
    >>> table = tt.evaluate(adata, label="cell_type", refits=0)
    >>> print(table.attrs["summary"])
    X_tt, map: held-out macro-F1 ..., permuted labels ...
    >>> list(table)
    ['hold_out', 'space', 'metric', 'type', 'split', 'value', 'sd', 'n_seeds', 'family', 'label_circular', 'null']
    """
    import pandas as pd

    from tripletomics import evaluation, experiment, pp
    from tripletomics.experiment.bases import Basis, coordinates_of, score_as_it_is, score_refits

    pp.check_anndata(adata)
    pp.check_whole("refits", refits, 0)
    pp.check_whole("seed", seed, 0, 2**32 - 1)
    given = [splits] if splits is None or isinstance(splits, (str, float, int, Real)) else list(splits)
    if not given:
        raise ValueError("splits is an empty list: leave it out, or name one.")
    bases = [Basis(adata, name) for name in _names(adata, basis)]
    structure = None if reference is None else coordinates_of(adata, reference, "reference")
    if unseen and not refits:
        raise ValueError("unseen=True leaves types out of training, which needs a fit: pass refits=1 or more.")
    named = {"label": label, "parents": parents, "order": order, "unlabelled": unlabelled}
    tasks = [experiment.make_task(
        adata, one.with_columns(named), batch=batch, reads=one.reads(layer, use_rep), fine=fine, pseudotime=pseudotime,
        unseen=unseen, device=device, reference=structure, balanced_by=one.batch,
    ) for one in bases]  # fmt: skip
    if label is not None and len(tasks[0].classes) < 2:
        raise ValueError(f"label={label!r} has {len(tasks[0].classes)} types: there is nothing to compare.")
    tables, words, sentences = [], [], []
    for wanted in given:
        for one, task in zip(bases, tasks, strict=True):
            if refits:
                hold_out, rows, sentence = score_refits(one, task, wanted, refits, cache, steps_bar(refits, progress))
            else:
                with stage(f"scoring {one.name}", progress):
                    hold_out, rows, sentence = score_as_it_is(one, task, wanted, seed)
            rows = rows if isinstance(basis, str) else rows[rows["space"].isin([*basis, ""])]
            table = evaluation.collect(rows, ["space"])
            tables.append(table.assign(hold_out=hold_out)[["hold_out", *table.columns]])
            words += one.summarise(table)
            sentences.append(sentence)
    table = pd.concat(tables, ignore_index=True)
    table.attrs["summary"] = "\n".join(dict.fromkeys(words + sentences))
    return table


def _names(adata: AnnData, basis: str | Sequence[str]) -> list[str]:
    """Return the keys of `obsm` to score, without those of metric spaces that are scored with their map."""
    from tripletomics import keys

    names = [basis] if isinstance(basis, str) else list(dict.fromkeys(basis))
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"basis={basis!r} is not one or more names in adata.obsm: {', '.join(adata.obsm) or 'none'}.")
    if not names:
        raise ValueError("basis is an empty list: leave it out, or name one.")
    return [name for name in names if keys.map_key(name) == name or keys.map_key(name) not in names]

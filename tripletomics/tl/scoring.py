"""`evaluate`: what a map is worth on cells that it has not seen, whoever made it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tripletomics.labels import UNLABELLED
from tripletomics.parts import did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from pandas import DataFrame

    from tripletomics.tl.fitting import Null
    from tripletomics.tl.runs import Question, Stage
else:  # the command line reads these annotations
    AnnData = DataFrame = object


def evaluate(
    adata: AnnData,
    label: str,
    *,
    basis: str | Sequence[str] = "X_tt",
    reference: str | None = None,
    splits: float | str | Sequence[float | str] | None = None,
    refits: int = 0,
    batch: str | None = None,
    layer: str | None = None,
    unlabelled: Sequence[str] = UNLABELLED,
    fine: str | None = None,
    pseudotime: str | None = None,
    unseen: bool = False,
    seed: int = 0,
    device: str = "auto",
    cache: str | None = "auto",
    progress: bool = True,
) -> DataFrame:
    """Score maps on held-out cells, beside the training figure and the null; any `obsm` key, whoever wrote it.

    Parameters
    ----------
    adata
        Annotated cells in memory. It is not changed.
    label
        Column of `obs` with the cell types.
    basis
        One or more keys of `obsm`, of any dimension. "X_tt" stands for the map and its metric space.
    reference
        Key of `obsm` that says what the structure of the data is, without labels; by default 50 principal components
        of the training cells.
    splits
        How cells were held out: one or more of what `hold_out` of `fit` takes. By default the split that `fit` wrote,
        `obs["tt_split"]`.
    refits
        How many times to fit again, with the seeds 0, 1, ..., for means and standard deviations; only for a basis that
        `fit` wrote. 0 scores what is there.
    batch
        Column of `obs` with donors or runs, for the batch scores of scib-metrics (the extra "batch").
    layer
        Layer to use in place of `.X`; by default the one that the basis was fitted on.
    unlabelled
        Names that mean unlabelled.
    fine
        Column of `obs` with finer types, which no map was given.
    pseudotime
        Column of `obs` with a number along a continuous process.
    unseen
        With `refits`: leave half of the types out of training and score their retrieval; leave out one with a sibling
        and a distant one and score how they are told from known types.
    seed
        Of what is drawn: pairs, triplets, permutations, and the cells of scores that rank all others (at most 2,000).
    device
        For refits, as in `fit`.
    cache
        Folder for refits, as in `compare`.
    progress
        Show a progress bar in a terminal or notebook.

    Returns
    -------
    One row a number: hold_out (how cells were held out), space (the `obsm` key), metric, type (for recall), split
    ("train", "held-out", "null"), value, sd and n_seeds (over refits), family, label_circular (rises with how hard
    labels were used, so no evidence), null (how it was made). ``attrs["summary"]`` says in words what it shows.

    The null of a map that `fit` wrote is a fit on permuted labels; of any other map, the labels of the scored cells
    are permuted. Nulls of structure shuffle the places of the scored cells.

    Raises
    ------
    KeyError
        If there is no such basis, column or layer.
    TypeError
        If `adata` is not an AnnData in memory or holds no numbers.
    ValueError
        If a basis has rows that are not finite, nothing says which cells were held out, or a value cannot be used.
    """
    import pandas as pd

    from tripletomics import evaluation, pp
    from tripletomics.tl import comparison, runs

    pp.check_anndata(adata)
    pp.check_whole("refits", refits, 0)
    pp.check_whole("seed", seed, 0, 2**32 - 1)
    bases = [basis] if isinstance(basis, str) else list(basis)
    spaces = {key: places(adata, key) for name in bases for key in _spaces(adata, name)}
    structure = None if reference is None else places(adata, reference, "reference")
    record = _record(adata, bases[0])
    if layer is None and record is not None:
        layer = comparison.settings_written(record["settings"])["layer"]
    question = runs.ask(
        adata, label, batch=batch, layer=layer, counts="auto", unlabelled=unlabelled, fine=fine, pseudotime=pseudotime,
        unseen=unseen, device=device, reference=structure,
    )  # fmt: skip
    if len(question.classes) < 2:
        raise ValueError(f"label={label!r} has {len(question.classes)} types: there is nothing to tell apart.")
    if unseen and not refits:
        raise ValueError("unseen=True leaves types out of training, which needs a fit: pass refits=1 or more.")
    given = [splits] if splits is None or isinstance(splits, (str, float, int)) else list(splits)
    tables, words = [], []
    for wanted in given:
        if refits:
            found = _refitted(question, bases, wanted, refits, cache, progress)
        else:
            found = _as_they_are(question, spaces, wanted, seed)
        for hold_out, rows, sentence in found:
            table = evaluation.collect(rows, ["space"])
            lines = evaluation.verdicts(table, "space")
            for line in lines:
                if "NO SIGNAL" in line:
                    warnings.warn(line, stacklevel=2)
            words += [*lines, sentence]
            tables.append(table.assign(hold_out=hold_out)[["hold_out", *table.columns]])
    table = pd.concat(tables, ignore_index=True)
    table.attrs["summary"] = "\n".join(words)
    return table


def places(adata: AnnData, key: str, argument: str = "basis") -> np.ndarray:
    """Return the rows of an obsm key after checking that they can be scored."""
    import numpy as np

    present = ", ".join(adata.obsm) or "none"
    if key not in adata.obsm:
        hint = " Run tripletomics.fit first." if key == "X_tt" else did_you_mean(key, adata.obsm)
        raise KeyError(f"{argument}={key!r} is not in adata.obsm.{hint} Present: {present}.")
    z = np.asarray(adata.obsm[key])
    if z.ndim != 2 or z.dtype.kind not in "fiu":
        raise ValueError(f"{argument}={key!r} has shape {z.shape} of {z.dtype}: pass numbers, cells by dimensions.")
    bad = ~np.isfinite(z).all(axis=1)
    if bad.any():
        first = ", ".join(adata.obs_names[bad][:3])
        raise ValueError(
            f"{argument}={key!r} has NaN or infinite values in {bad.sum()} of {len(z)} rows (first: {first}). "
            "Leave these cells out: adata[np.isfinite(adata.obsm[key]).all(axis=1)]."
        )
    return z


def _spaces(adata: AnnData, basis: str) -> list[str]:
    """Return a basis, and the metric space of one that `fit` wrote."""
    metric = f"{basis}_metric"
    return [basis, metric] if basis in adata.uns and metric in adata.obsm else [basis]


def _record(adata: AnnData, key: str) -> dict[str, Any] | None:
    """Return what `fit` wrote of a basis or its metric space, if it did."""
    record = adata.uns.get(key.removesuffix("_metric"))
    return record if isinstance(record, dict) and "settings" in record else None


def _split_of(adata: AnnData, key: str) -> str | None:
    """Return the column that says which cells were held out from a basis, if there is one."""
    columns = (f"{key.removesuffix('_metric')}_split", "tt_split")
    return next((column for column in columns if column in adata.obs), None)


def _as_they_are(
    question: Question, spaces: dict[str, np.ndarray], wanted: float | str | None, seed: int
) -> list[tuple[str, DataFrame, str]]:
    """Score bases as they lie in `adata`, grouped by how cells were held out from them."""
    import pandas as pd

    from tripletomics import evaluation, pp
    from tripletomics.tl import runs

    adata, found = question.adata, []
    by_split: dict[str | float, list[str]] = {}
    for key in spaces:
        hold_out = _split_of(adata, key) if wanted is None else wanted
        if hold_out is None:
            raise ValueError(
                "Nothing says which cells were held out: adata.obs has no 'tt_split'. Pass splits='donor' (a column "
                f"whose groups were held out), 'column=group', or 0.3; columns: {', '.join(adata.obs.columns)}."
            )
        by_split.setdefault(hold_out, []).append(key)
    for hold_out, keys in by_split.items():
        held_out = pp.split(adata, hold_out, question.codes, seed)
        if not held_out.any():
            raise ValueError(f"splits={hold_out!r} holds no cell out, and without there is no evidence.")
        pp.check_labels(question.codes, question.classes, held_out, question.label, None)
        stage = runs.Stage(question, held_out, seed)
        truth = stage.truth
        nulls: dict[str, Any] = {}
        tables = []
        for key in keys:
            base = key.removesuffix("_metric")
            if base not in nulls:
                own = hold_out == _split_of(adata, key)
                nulls[base] = _null_fit(stage, base) if own else None
                if not own and _record(adata, base) is not None:
                    warnings.warn(
                        f"{base} was fitted on cells that splits={hold_out!r} holds out, so their scores are no "
                        "evidence. Pass refits=1 to fit again on the others.",
                        stacklevel=3,
                    )
            tables.append(evaluation.score(spaces[key], truth, seed).assign(space=key))
            if nulls[base] is None:
                null = evaluation.null_of_labels(spaces[key], truth.permuted(seed), seed, evaluation.PERMUTED)
            else:
                other = nulls[base].places["metric" if key.endswith("_metric") else "map"]
                null = evaluation.null_of_labels(
                    other, truth.of(nulls[base].rows, nulls[base].codes), seed, evaluation.REFITTED
                )
            tables += [null.assign(space=key), evaluation.null_of_places(spaces[key], truth, seed).assign(space=key)]
        sentence = evaluation.split_sentence(_drawn(adata, hold_out, keys), [held_out])
        found.append((str(hold_out), pd.concat(tables, ignore_index=True), sentence))
    return found


def _refitted(
    question: Question, bases: list[str], wanted: float | str | None, refits: int, cache: str | None, progress: bool
) -> list[tuple[str, DataFrame, str]]:
    """Fit each basis again with several seeds and score the fits."""
    from tripletomics import evaluation
    from tripletomics.tl import comparison

    found = []
    for basis in bases:
        record = _record(question.adata, basis)
        if record is None or basis.endswith("_metric"):
            raise ValueError(
                f"basis={basis!r} was not written by tripletomics.fit, so it cannot be fitted again: refits=0, or use "
                "tripletomics.compare."
            )
        settings = comparison.settings_written(record["settings"])
        hold_out = _hold_out(record["settings"]["hold_out"]) if wanted is None else wanted
        if hold_out == 0:
            raise ValueError(f"{basis} was fitted on all cells (hold_out=0): pass splits=0.3 or a column.")
        plan: dict[str, dict[str, Any] | None] = {"tt": settings}
        stages, done = comparison.perform(question, plan, hold_out, refits, comparison.folder_of(cache), progress)
        rows = comparison.tidy(done).replace({"space": {"map": basis, "metric": f"{basis}_metric", "": basis}})
        sentence = evaluation.split_sentence(str(hold_out), [stage.held_out for stage in stages])
        found.append((str(hold_out), rows.drop(columns=["method", "seed"]), sentence))
    return found


def _hold_out(text: str) -> str | float:
    """Read how `fit` held cells out."""
    try:
        return float(text)
    except ValueError:
        return text


def _drawn(adata: AnnData, hold_out: str | float, keys: list[str]) -> str:
    """Say how the cells in a split were chosen, as far as `fit` wrote it down."""
    record = _record(adata, keys[0])
    own = record is not None and hold_out == _split_of(adata, keys[0])
    return record["settings"]["hold_out"] if record is not None and own else str(hold_out)


def _null_fit(stage: Stage, basis: str) -> Null | None:
    """Fit a basis on permuted labels, if `fit` wrote it for these labels and the table is still the one it saw."""
    from tripletomics.tl import comparison

    record = _record(stage.question.adata, basis)
    if record is None or record["settings"]["label"] != stage.question.label:
        return None
    try:
        return stage.task(comparison.settings_written(record["settings"])).null()
    except (KeyError, TypeError, ValueError):
        return None

"""`evaluate`: what a map is worth on cells that it has not seen, whoever made it."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from tripletomics import keys
from tripletomics.labels import TOO_FEW, UNLABELLED
from tripletomics.notices import warn
from tripletomics.parts import did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from pandas import DataFrame

    from tripletomics.tl.runs import Question, Stage
    from tripletomics.tl.tasks import Null
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
        of the training cells, in which these lie as new cells do.
    splits
        How cells were held out: one or more of what `hold_out` of `fit` takes. By default the split that was written
        with the basis, `obs["tt_split"]`; never that of another model than the one in ``uns["X_tt"]["seen"]``.
    refits
        How many times to fit again, with the seeds 0, 1, ..., for means and standard deviations; only for a basis that
        `fit` wrote. 0 scores what is there.
    batch
        Column of `obs` with donors or runs, for the batch scores of scib-metrics (the extra "batch").
    layer
        Layer to use in place of `.X`; by default the one that the basis was fitted on.
    unlabelled
        One or several names that mean unlabelled, in place of the default ones; upper or lower case and spaces around
        them do not matter. Missing and blank values always mean unlabelled.
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
    ("train", "held-out", "null", or "" for what is of all cells), value, sd and n_seeds (over refits), family,
    label_circular (rises with how hard labels were used, so no evidence), null (how it was made).
    ``attrs["summary"]`` says in words what it shows.

    The null of a map that `fit` wrote is a fit on permuted labels; of any other map, the labels of the scored cells
    are permuted. Nulls of structure shuffle the places of the scored cells. The use of the page (of two dimensions) and
    how well held-out cells are told from training cells (of a random split) have none.

    Raises
    ------
    KeyError
        If there is no such basis, column or layer.
    TypeError
        If `adata` is not an AnnData in memory or holds no numbers.
    ValueError
        If a basis has rows that are not finite, nothing says which cells were held out, or a value cannot be used.

    Notes
    -----
    It believes the split. `fit` knows which cells it held out; `transform` and `predict` find the cells that the model
    was trained on by their values, so one whose values have changed since passes as held out. Where `uns` names no
    model, as after `anndata.concat`, nothing says whose the split is, and the summary says so.
    """
    import pandas as pd

    from tripletomics import evaluation, pp
    from tripletomics.tl import runs

    pp.check_anndata(adata)
    pp.check_whole("refits", refits, 0)
    pp.check_whole("seed", seed, 0, 2**32 - 1)
    bases = [basis] if isinstance(basis, str) else list(dict.fromkeys(basis))
    bases = [name for name in bases if not (name.endswith("_metric") and name.removesuffix("_metric") in bases)]
    given = [splits] if splits is None or isinstance(splits, (str, float, int, Real)) else list(splits)
    if not bases or not given:
        raise ValueError(f"{'splits' if bases else 'basis'} is an empty list: leave it out, or name one.")
    spaces = {name: {key: places(adata, key) for key in _spaces(adata, name)} for name in bases}
    structure = None if reference is None else places(adata, reference, "reference")
    if unseen and not refits:
        raise ValueError("unseen=True leaves types out of training, which needs a fit: pass refits=1 or more.")
    questions = {}
    for name in bases:
        written = _written(adata, name)
        own = written["layer"] if layer is None and written["layer"] in adata.layers else layer
        question = runs.ask(
            adata, label, batch=batch, layer=own, counts=written["counts"], unlabelled=unlabelled, fine=fine,
            pseudotime=pseudotime, unseen=unseen, device=device, reference=structure,
        )  # fmt: skip
        if batch is None:  # that of the fit balances a refit, and is not scored
            question.common["batch"] = written["batch"] if written["batch"] in adata.obs else None
        questions[name] = question
    if len(question.classes) < 2:
        raise ValueError(f"label={label!r} has {len(question.classes)} types: there is nothing to tell apart.")
    tables, words = [], []
    for wanted in given:
        for name, question in questions.items():
            if refits:
                hold_out, rows, sentence = _refitted(question, name, wanted, refits, cache, progress)
            else:
                hold_out, rows, sentence = _as_it_is(question, name, spaces[name], wanted, seed)
            table = evaluation.collect(rows, ["space"])
            lines = evaluation.verdicts(table, "space")
            for line in lines:
                if "NO SIGNAL" in line or TOO_FEW.upper() in line:
                    warn(line)
            words += lines
            if _record(adata, name) is None and keys.seen_by(adata.uns, name) is None:
                words.append(
                    f"Nothing in uns says which model wrote {name}: its scores are evidence only if it was made "
                    "without the cells that are held out."
                )
                if keys.split_key(name.removesuffix("_metric")) in adata.obs:  # there once was a record
                    warn(
                        f"uns[{name.removesuffix('_metric')!r}] is missing, as after anndata.concat, so nothing "
                        f"says which model the split of {name} belongs to. Run tripletomics.transform(adata, model)."
                    )
            words.append(sentence)
            tables.append(table.assign(hold_out=hold_out)[["hold_out", *table.columns]])
    table = pd.concat(tables, ignore_index=True)
    table.attrs["summary"] = "\n".join(dict.fromkeys(words))
    return table


def places(adata: AnnData, key: str, argument: str = "basis") -> np.ndarray:
    """Return the rows of an obsm key after checking that they can be scored."""
    import numpy as np

    present = ", ".join(adata.obsm) or "none"
    if key not in adata.obsm:
        hint = " Run tripletomics.fit first." if key == "X_tt" else did_you_mean(key, adata.obsm)
        raise KeyError(f"{argument}={key!r} is not in adata.obsm.{hint} Present: {present}.")
    kept = adata.obsm[key]
    z = kept.toarray() if hasattr(kept, "toarray") else np.asarray(kept)
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
    settings = record.get("settings") if isinstance(record, dict) else None
    if not isinstance(settings, dict) or not {"label", "hold_out", "layer", "counts", "batch"} <= {*settings}:
        return None
    # anndata.concat can keep what the records of two fits share: never their losses
    return record if all("loss" in stage for stage in record.get("history", {}).values()) else None


def _written(adata: AnnData, basis: str) -> dict[str, Any]:
    """Return what `fit` read to make a basis; what is usual, if it did not make it."""
    record = _record(adata, basis)
    if record is None:
        return {"layer": None, "counts": "auto", "batch": None}
    texts = {key: str(record["settings"][key]) for key in ("layer", "counts", "batch")}
    none = {key: None if text == "None" else text for key, text in texts.items()}
    return none | {"counts": {"True": True, "False": False}.get(texts["counts"], "auto")}


def _as_it_is(
    question: Question, basis: str, spaces: dict[str, np.ndarray], wanted: float | str | None, seed: int
) -> tuple[str, DataFrame, str]:
    """Score a basis and its metric space as they lie in `adata`."""
    import pandas as pd

    from tripletomics import evaluation, pp
    from tripletomics.tl import runs

    adata, column = question.adata, keys.split_of(question.adata, basis)
    hold_out = column if wanted is None else wanted
    if hold_out is None:
        raise ValueError(
            f"Nothing says which cells were held out from {basis}: adata.obs has no 'tt_split' of the model that wrote "
            "it. Pass splits='donor' (a column whose groups were held out), 'column=group', or 0.3; columns: "
            f"{', '.join(adata.obs.columns)}."
        )
    written = None if column is None else adata.obs[column].astype(str).to_numpy()
    if wanted is None and written is not None:
        _check_split(basis, str(column), written, _record(adata, basis))
    held_out = pp.split(adata, hold_out, question.codes, seed)
    if not held_out.any():
        raise ValueError(f"splits={hold_out!r} holds no cell out, and without there is no evidence.")
    pp.check_labels(question.codes, question.classes, held_out, question.label)
    drawn = _drawn(adata, hold_out)
    stage = runs.Stage(question, held_out, seed, evaluation.drawn_at_random(drawn))
    known = _record(adata, basis) is not None or keys.seen_by(adata.uns, basis) is not None
    clean = written is not None and not (held_out & (written != "held-out")).any()
    if known and not clean:
        how = "was" if written is not None else "may have been"
        cure = "Pass refits=1 to fit again" if _record(adata, basis) else "Fit again"
        warn(
            f"{basis} {how} fitted on cells that splits={hold_out!r} holds out, so their scores are no evidence. "
            f"{cure} on the others."
        )
    null = _null_fit(stage, basis) if known and clean else None
    tables = []
    for key, z in spaces.items():
        seen, other, how = stage.truth.permuted(seed, held_out), z, evaluation.PERMUTED
        if null is not None:
            other, how = null.places["metric" if key.endswith("_metric") else "map"], evaluation.REFITTED
            seen = stage.truth.of(null.rows, null.codes)
        for rows in (
            evaluation.score(z, stage.truth, seed),
            evaluation.null_of_labels(other, seen, seed, how),
            evaluation.null_of_places(z, stage.truth, seed),
        ):
            tables.append(rows.assign(space=key))
    sentence = evaluation.split_sentence(drawn, [held_out])
    return str(hold_out), pd.concat(tables, ignore_index=True), sentence


def _check_split(basis: str, column: str, written: np.ndarray, record: dict[str, Any] | None) -> None:
    """Raise if a split says nothing about some cells, has cells on one side alone, or is of several models."""
    import numpy as np

    held_out, unknown = written == "held-out", ~np.isin(written, ("train", "held-out"))
    if unknown.any():
        raise ValueError(
            f"obs[{column!r}] says nothing about {unknown.sum():,} of {len(written):,} cells, as after anndata.concat. "
            "Run tripletomics.transform(adata, model), which finds the cells that the model was trained on, or leave "
            f"these out: adata[adata.obs[{column!r}].notna()]."
        )
    n_train, fitted = int((written == "train").sum()), record is not None
    if record is not None and n_train > record.get("n_train", n_train) and "cells" not in record["settings"]:
        raise ValueError(
            f"obs[{column!r}] marks {n_train:,} training cells, but the model in uns[{basis!r}] was trained on "
            f"{record['n_train']:,}, as after anndata.concat of the tables of several models. Run "
            "tripletomics.transform(adata, model)."
        )
    if not held_out.any():
        cure = "Pass refits=1 and splits=0.3, or a column, to fit again on some of them"
        raise ValueError(
            f"obs[{column!r}] holds no cell out: {basis} was fitted on all cells, and without others there is no "
            f"evidence. {cure if fitted else 'Fit again with hold_out=0.3'}."
        )
    if held_out.all():
        raise ValueError(
            f"obs[{column!r}] holds all cells out, and scores compare them with the training cells of {basis}: put "
            "these into the same table with anndata.concat, and run tripletomics.transform(adata, model)."
        )


def _refitted(
    question: Question, basis: str, wanted: float | str | None, refits: int, cache: str | None, progress: bool
) -> tuple[str, DataFrame, str]:
    """Fit a basis again with several seeds and score the fits."""
    from tripletomics import evaluation
    from tripletomics.tl import comparison
    from tripletomics.tl.fitting import AN_ARRAY

    record = _record(question.adata, basis)
    if record is None or basis.endswith("_metric"):
        why = (
            "is scored with its map" if record else "was not written by tripletomics.fit, so it cannot be fitted again"
        )
        if keys.seen_by(question.adata.uns, basis) and not record:
            why = "was written by transform, and uns does not say how its model was fitted"
        what = f"basis={basis.removesuffix('_metric')!r}" if record else "refits=0, or use tripletomics.compare"
        raise ValueError(f"basis={basis!r} {why}: {what}.")
    if record["settings"]["label"] == "None":
        raise ValueError(f"{basis} was fitted without labels, and a refit would learn from them: pass refits=0.")
    if both := record["settings"].get("modalities"):
        raise ValueError(f"{basis} was fitted to two modalities ({both}), and here is one of them: pass refits=0.")
    hold_out = _hold_out(record["settings"]["hold_out"]) if wanted is None else wanted
    if hold_out == AN_ARRAY:
        hold_out = keys.split_of(question.adata, basis) or hold_out
    if hold_out == 0:
        raise ValueError(f"{basis} was fitted on all cells (hold_out=0): pass splits=0.3 or a column.")
    plan: dict[str, dict[str, Any] | None] = {"tt": comparison.settings_written(record["settings"])}
    stages, done = comparison.perform(question, plan, hold_out, refits, comparison.folder_of(cache), progress)
    rows = comparison.tidy(done).replace({"space": {"map": basis, "metric": f"{basis}_metric", "": basis}})
    sentence = evaluation.split_sentence(str(hold_out), [stage.held_out for stage in stages])
    return str(hold_out), rows.drop(columns=["method", "seed"]), sentence


def _hold_out(text: str) -> str | float:
    """Read how `fit` held cells out."""
    try:
        return float(text)
    except ValueError:
        return text


def _drawn(adata: AnnData, hold_out: str | float) -> str:
    """Say how the cells of a split were chosen, as far as `fit` wrote it down."""
    column = str(hold_out)
    record = _record(adata, "X_tt" if column == "tt_split" else column.removesuffix("_split"))
    return record["settings"]["hold_out"] if record is not None and column.endswith("_split") else column


def _null_fit(stage: Stage, basis: str) -> Null | None:
    """Fit a basis again on permuted labels, if it was fitted on these labels and the table still allows it."""
    from tripletomics.tl import comparison

    record = _record(stage.question.adata, basis)
    if record is None or record["settings"]["label"] != stage.question.label or "modalities" in record["settings"]:
        return None
    try:
        return stage.task(comparison.settings_written(record["settings"])).null()
    except (KeyError, TypeError, ValueError) as error:
        warn(f"{basis} cannot be fitted again, so its null permutes the labels of the scored cells: {error}")
        return None

"""A basis of a dataset: what `uns` says about it, and its scores, as it is there or fitted again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from tripletomics import evaluation, keys, pp
from tripletomics.experiment.cache import open_cache
from tripletomics.experiment.fits import Fit
from tripletomics.experiment.results import run_all, tidy
from tripletomics.experiment.settings import AN_ARRAY, INPUTS, read_inputs, read_settings
from tripletomics.experiment.splits import EvaluationTask, Split, embedding_words, make_splits
from tripletomics.labels import TOO_FEW
from tripletomics.labels.ordering import split_order
from tripletomics.labels.roles import read_roles
from tripletomics.notices import warn
from tripletomics.parts import did_you_mean
from tripletomics.problem import Settings, as_text

Bar = AbstractContextManager[Callable[[str], None]]


class Basis:
    """A key of `obsm`, and what `fit` or `transform` wrote about it in `uns`.

    Attributes
    ----------
    adata, name, key
        The dataset, the basis, and its name in `uns`.
    spaces
        Its coordinates by key, and those of the metric space if `fit` wrote the basis.
    record, written, inputs
        What `fit` wrote, its settings as text, and what it read; None, None and the defaults if `fit` wrote nothing.
    """

    def __init__(self, adata: AnnData, name: str) -> None:
        self.adata, self.name, self.key = adata, name, keys.map_key(name)
        metric = keys.metric_key(name)
        own = name in adata.uns and metric in adata.obsm
        self.spaces = {key: coordinates_of(adata, key) for key in ([name, metric] if own else [name])}
        self.record = _record(adata, self.key)
        self.written = _settings(self.record)
        self.inputs = read_inputs(self.written)

    @property
    def is_named(self) -> bool:
        """Whether `uns` says which model wrote this basis."""
        return self.record is not None or keys.seen_by(self.adata.uns, self.name) is not None

    @property
    def batch(self) -> str | None:
        """What `fit` was given as ``batch``, if the dataset still has the column."""
        return self.inputs["batch"] if self.inputs["batch"] in self.adata.obs else None

    def with_columns(self, named: Mapping[str, Any]) -> dict[str, Any]:
        """Return named columns, with what `fit` was given besides for this label as defaults.

        These are the further columns in a dict, the ``parents`` and the ``order``.
        """
        found, text = dict(named), self.inputs["order"]
        label = Settings(label=named["label"]).label  # of one column that is in a list, as on the command line
        there = None if text is None else split_order(text, self.adata.obs)[0]
        there = there if there in self.adata.obs else None
        alone = label is None and self.inputs["label"] is None
        if there and (alone or isinstance(label, str)) and named["order"] is None and there != label:
            found["order"] = text
        if isinstance(label, str) and named["order"] is None and (own := self._columns_with(label)):
            label = found["label"] = own
        tree = (self.record or {}).get("tree")
        had_parents = (self.written or {}).get("parents", "None") != "None"
        if named["parents"] is None and had_parents and tree is not None and as_text(label) == self.inputs["label"]:
            names = [str(name) for name in tree["names"]]
            found["parents"] = {name: names[up] for name, up in zip(names, tree["parents"], strict=True) if up >= 0}
        return found

    def _columns_with(self, label: str) -> list[str] | None:
        """Return the label of the fit as text, if it is a dict in which this column has the types; else None."""
        given, there = str(self.inputs["label"]).split(", "), self.adata.obs.columns
        try:
            roles = read_roles(given, None, None, there)
        except (TypeError, ValueError):
            return None
        return given if roles.levels == [label] and roles.further and {*roles.further} <= {*there} else None

    def warn_of_another(self, task: EvaluationTask) -> None:
        """Warn if refits for a task learn other columns than `fit` did."""
        learned = {name: as_text(task.common.get(name)) for name in ("label", "parents", "order")}
        learned["label"], had = as_text(task.given_label), self.written or {}
        # of parents, only whether there are some: a record keeps those of training cells
        alike = {name: (text == "None") == (had.get(name, "None") == "None") for name, text in learned.items()}
        alike["label"] = learned["label"] == had["label"]
        if odd := [name for name, same in alike.items() if not same]:
            given = ", ".join(f"{name}={had.get(name, 'None')}" for name in odd)
            warn(
                f"{self.name} was fitted with {given}, and the refits learn other columns: they are of another model. "
                "To fit the same one again, name what it was fitted with."
            )

    def reads(self, layer: str | None, use_rep: str | None) -> dict[str, Any]:
        """Return what a fit of this basis reads, as `make_task` takes it, unless a layer or an embedding is named."""
        if layer is None and use_rep is None:
            layer = self.inputs["layer"] if self.inputs["layer"] in self.adata.layers else None
            use_rep = self.inputs["use_rep"]
        of_genes = {"counts": self.inputs["counts"], "missing": self.inputs["missing"] or "error"}
        return {"layer": layer, "use_rep": use_rep} | (of_genes if use_rep is None else {"counts": "auto"})

    def summarise(self, table: pd.DataFrame) -> list[str]:
        """Return in words what its scores show; warn where they show nothing, or where their model is unknown."""
        lines = evaluation.verdicts(evaluation.named(table), "space")
        for line in lines:
            if "NO SIGNAL" in line or TOO_FEW.upper() in line:
                warn(line)
        if not self.is_named:
            lines.append(
                f"Nothing in uns says which model wrote {self.name}: its scores are evidence only if it was made "
                "without the cells that are held out."
            )
            if keys.split_key(self.key) in self.adata.obs:  # there once was a record
                warn(
                    f"uns[{self.key!r}] is missing, as after anndata.concat, so nothing says which model the split of "
                    f"{self.name} belongs to. Run tripletomics.transform(adata, model)."
                )
        return lines


def coordinates_of(adata: AnnData, key: str, argument: str = "basis") -> np.ndarray:
    """Return the coordinates under an obsm key; raise if they cannot be scored."""
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


def _record(adata: AnnData, key: str) -> dict[str, Any] | None:
    """Return what `fit` wrote of a basis, if it did."""
    record = adata.uns.get(key)
    settings = record.get("settings") if isinstance(record, dict) else None
    if not isinstance(settings, dict) or not {*INPUTS} <= {*settings}:
        return None
    # anndata.concat can keep what the records of two fits share: never their losses
    history = record.get("history", {})
    stages = list(history.values()) if isinstance(history, dict) else [history]
    return record if all(isinstance(stage, dict) and "loss" in stage for stage in stages) else None


def _settings(record: dict[str, Any] | None) -> dict[str, str] | None:
    return None if record is None else {name: str(text) for name, text in record["settings"].items()}


def score_as_it_is(
    basis: Basis, task: EvaluationTask, wanted: float | str | None, seed: int
) -> tuple[str, pd.DataFrame, str]:
    """Score a basis and its metric space as they are in the dataset.

    Returns
    -------
    How cells were held out, the scores, and a sentence on the split.
    """
    adata, column = task.adata, keys.split_of(task.adata, basis.name)
    hold_out = column if wanted is None else wanted
    if hold_out is None:
        raise ValueError(
            f"Nothing says which cells were held out from {basis.name}: adata.obs has no 'tt_split' of the model that "
            "wrote it. Pass splits='donor' (a column whose groups were held out), 'column=group', or 0.3; columns: "
            f"{', '.join(adata.obs.columns)}."
        )
    written = None if column is None else adata.obs[column].astype(str).to_numpy()
    if wanted is None and written is not None:
        _check_split(basis.name, str(column), written, basis.record)
    held_out = pp.split(adata, hold_out, task.nodes, seed)
    if not held_out.any():
        raise ValueError(f"splits={hold_out!r} holds no cell out, and without held-out cells there is no evidence.")
    if task.classes:
        pp.check_labels(task.codes, task.classes, held_out, task.label)
    drawn = _drawn(adata, str(hold_out))
    split = Split(task, held_out, seed, evaluation.drawn_at_random(drawn))
    clean = written is not None and not (held_out & (written != "held-out")).any()
    if basis.is_named and not clean:
        how = "was" if written is not None else "may have been"
        cure = "Pass refits=1 to fit again" if basis.record else "Fit again"
        warn(
            f"{basis.name} {how} fitted on cells that splits={hold_out!r} holds out, so their scores are no evidence. "
            f"{cure} on the others."
        )
    null = _fit_permuted(basis, split) if task.classes and basis.is_named and clean else None
    tables = []
    for key, z in basis.spaces.items():
        permuted, other, how = split.truth.permuted(seed, held_out), z, evaluation.PERMUTED
        if null is not None:
            other, how = null.coordinates[keys.space_of(key)], evaluation.REFITTED
            permuted = split.truth.of(null.cells, null.codes)
        scored = [evaluation.score(z, split.truth, seed), evaluation.score_shuffled(z, split.truth, seed)]
        if task.classes:
            scored.insert(1, evaluation.score_permuted(other, permuted, seed, how))
        tables += [rows.assign(space=key) for rows in scored]
    table = pd.concat(tables, ignore_index=True)
    words = evaluation.column_sentences(table, task.further, task.codes, held_out, seed)
    words += [evaluation.split_sentence(drawn, [held_out]), *_on_embedding(basis, task, [held_out])]
    return str(hold_out), table, "\n".join(words)


def _check_split(basis: str, column: str, written: np.ndarray, record: dict[str, Any] | None) -> None:
    """Raise if a split says nothing about some cells, has only training or held-out cells, or is of several models."""
    held_out, unknown = written == "held-out", ~np.isin(written, ("train", "held-out"))
    if unknown.any():
        raise ValueError(
            f"obs[{column!r}] says nothing about {unknown.sum():,} of {len(written):,} cells, as after anndata.concat. "
            "Run tripletomics.transform(adata, model), which finds the cells that the model was trained on, or leave "
            f"these out: adata[adata.obs[{column!r}].notna()]."
        )
    n_train, fitted = int((written == "train").sum()), record is not None
    known = n_train if record is None else record.get("n_train", n_train)
    if not isinstance(known, Integral):
        raise ValueError(
            f"uns[{basis!r}]['n_train'] is {known!r}, not a number of cells, so the record of the fit is damaged: run "
            "tripletomics.transform(adata, model)."
        )
    if record is not None and n_train > known and "cells" not in record["settings"]:
        raise ValueError(
            f"obs[{column!r}] marks {n_train:,} training cells, but the model in uns[{basis!r}] was trained on "
            f"{record['n_train']:,}, as after anndata.concat of the datasets of several models. Run "
            "tripletomics.transform(adata, model)."
        )
    if not held_out.any():
        cure = "Pass refits=1 and splits=0.3, or a column, to fit again on some of them"
        raise ValueError(
            f"obs[{column!r}] holds no cell out: {basis} was fitted on all cells, and without held-out cells there "
            f"is no evidence. {cure if fitted else 'Fit again with hold_out=0.3'}."
        )
    if held_out.all():
        raise ValueError(
            f"obs[{column!r}] holds all cells out, and scores compare them with the training cells of {basis}: put "
            "these into the same dataset with anndata.concat, and run tripletomics.transform(adata, model)."
        )


def score_refits(
    basis: Basis, task: EvaluationTask, wanted: float | str | None, refits: int, cache: str | None, bar: Bar
) -> tuple[str, pd.DataFrame, str]:
    """Fit a basis again with several seeds and score the fits; return what `score_as_it_is` does."""
    name, written, inputs = basis.name, basis.written, basis.inputs
    if written is None or name != basis.key:
        why = (
            "is scored with its map" if written else "was not written by tripletomics.fit, so it cannot be fitted again"
        )
        if basis.is_named and not written:
            why = "was written by transform, and uns does not say how its model was fitted"
        what = f"basis={basis.key!r}" if written else "refits=0, or use tripletomics.compare"
        raise ValueError(f"basis={name!r} {why}: {what}.")
    if inputs["label"] is None:
        raise ValueError(f"{name} was fitted without labels, and a refit would learn from them: pass refits=0.")
    if not task.classes:
        raise ValueError(f"A refit of {name} learns cell types: name their column with label=, or pass refits=0.")
    if both := written.get("modalities"):
        raise ValueError(f"{name} was fitted to two modalities ({both}), and this is one of them: pass refits=0.")
    hold_out = inputs["hold_out"] if wanted is None else wanted
    if hold_out == AN_ARRAY:
        hold_out = keys.split_of(task.adata, name) or hold_out
    if hold_out == 0:
        raise ValueError(f"{name} was fitted on all cells (hold_out=0): pass splits=0.3 or a column.")
    basis.warn_of_another(task)
    kept, splits = open_cache(cache), make_splits(task, hold_out, refits)
    rows = tidy(run_all(splits, {"tt": read_settings(written)}, kept, bar))
    rows = rows.replace({"space": {"map": name, "metric": keys.metric_key(name), "": name}})
    held_out = [split.held_out for split in splits]
    words = [evaluation.split_sentence(str(hold_out), held_out), *_on_embedding(basis, task, held_out)]
    return str(hold_out), rows.drop(columns=["method", "seed"]), "\n".join(words)


def _on_embedding(basis: Basis, task: EvaluationTask, splits: Sequence[np.ndarray]) -> list[str]:
    """Return sentences about the embedding that a basis was fitted on; none if it was fitted on genes."""
    return embedding_words(task, splits) if basis.inputs["use_rep"] is not None else []


def _drawn(adata: AnnData, column: str) -> str:
    """Return how the cells of a split were chosen, as far as `fit` wrote it down."""
    written = _settings(_record(adata, "X_tt" if column == "tt_split" else column.removesuffix("_split")))
    return written["hold_out"] if written is not None and column.endswith("_split") else column


def _fit_permuted(basis: Basis, split: Split) -> Any:
    """Fit a basis again on permuted labels, if it was fitted on these labels and the dataset still allows it."""
    written, common = basis.written, split.task.common
    if written is None or basis.inputs["label"] != as_text(split.task.given_label) or "modalities" in written:
        return None
    if (written.get("parents", "None") == "None") != (common.get("parents") is None):
        return None
    try:
        return Fit(split, read_settings(written)).permuted()
    except (KeyError, TypeError, ValueError) as error:
        warn(f"{basis.name} cannot be fitted again, so its null permutes the labels of the scored cells: {error}")
        return None

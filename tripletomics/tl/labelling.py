"""Labels of new cells, collected block by block, and the columns of `obs` and the record in `uns` made of them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from tripletomics import labels
from tripletomics.labels import UNASSIGNED, grouping, nodes
from tripletomics.labels.discoveries import shortest
from tripletomics.labels.prediction import Prediction, check_shares, join, list_novel
from tripletomics.labels.reference import LEADING
from tripletomics.notices import warn
from tripletomics.tl.origins import trained_on

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tripletomics.features import Present
    from tripletomics.labels.calibration import Calibration
    from tripletomics.labels.reference import Reference
    from tripletomics.model import Model
    from tripletomics.pp.queries import Query
    from tripletomics.sources import Matrix

Column = Any  # of obs: an array or a Categorical
OF_TYPES = ("label", "confidence", "novelty", "label_set", "agrees")
OPTIONAL = ("group_label", "group_label_set", "novel", "novel_p")  # columns that are written only if asked for
UNLIKE = 0.5  # share of unassigned cells from which the embedding is in doubt


class Labelling:
    """The labels of new cells: blocks of cells go in, in their order, and columns come out.

    A few numbers of each cell are kept until all are in. With groups, the probability of each type is also kept.

    Parameters
    ----------
    model
        From `fit` or `load`.
    reject, coverage, fdr
        As for `tripletomics.predict`.
    groups
        Name of the column of groups, if there is one.

    Raises
    ------
    ValueError
        If a share is out of range, or is about types that the model does not know.
    """

    def __init__(self, model: Model, *, reject: float, coverage: float, fdr: float | None, groups: str | None) -> None:
        check_shares(reject, coverage, fdr)
        self.model, self.reject, self.coverage, self.fdr, self.groups = model, reject, coverage, fdr, groups
        self.grouped: tuple[np.ndarray, int] | None = None
        self.typed = model.reference is not None or not model.targets
        for name, value in {"groups": groups, "fdr": fdr}.items():
            if value is not None and not self.typed:
                raise ValueError(
                    f"{name}={value!r} is about types, and the model was fitted with order= alone: leave it out, or "
                    "fit with label=."
                )
        if groups is not None and not isinstance(groups, str):
            raise TypeError(f"groups={groups!r} is not the name of a column of adata.obs.")
        self.trained: np.ndarray | None = None  # which cells the model was trained on, after `finish`
        self._blocks: list[dict[str, Column]] = []
        self._found: list[Prediction] = []
        self._trained: list[np.ndarray] = []
        self._for_list: list[tuple[np.ndarray, np.ndarray]] = []  # principal components, and what was measured
        self._calibrations: dict[str, Calibration] = {}

    @property
    def stale(self) -> Sequence[str]:
        """Ends of the names of columns that an earlier prediction may have left, and that are deleted."""
        return OPTIONAL if self.typed else (*OF_TYPES, *OPTIONAL)

    def group(self, values: pd.Series) -> None:
        """Take the group of each cell. Missing values, and names that mean unlabelled, are no group."""
        codes, classes = labels.encode(values, labels.UNLABELLED)
        if lone := grouping.check_groups(str(self.groups), codes, classes):
            warn(
                f"{lone:,} of {len(classes):,} groups of {self.groups!r} have one cell: they get the prediction of "
                "their cell."
            )
        self.grouped = codes, len(classes)

    def place(self, x: Matrix, present: Present) -> tuple[np.ndarray, np.ndarray]:
        """Label the next cells, and return their coordinates as `Model.place` does."""
        model = self.model
        trained = trained_on(model, x)
        self._trained.append(np.zeros(x.shape[0], dtype=bool) if trained is None else trained)
        if not self.typed:
            z, m = model.place(x, present)
            self._blocks.append(_value_columns(model, x, present, z, self.coverage))
            return z, m
        found, z, m = model.predict(x, present, reject=self.reject, coverage=self.coverage)
        below = None if model.nodes is None else model.nodes.leaves_below()
        agrees = cast("Reference", model.reference).agrees(m, found.nodes, trained, below)
        types = {**_type_columns(found, model), "agrees": agrees}
        self._blocks.append(types | _value_columns(model, x, present, z, self.coverage))
        if self.fdr is not None:
            self._for_list.append((model.pcs(x, present)[:, :LEADING], model.shown(x)[: len(z)]))
            self._calibrations |= model.calibrations_for(x)
        none = np.zeros((len(z), 0))
        self._found.append(found if self.groups else replace(found, probabilities=none, sets=none))
        return z, m

    def release(self) -> tuple[dict[str, Column], np.ndarray]:
        """Return the columns of the cells that went in last, and flags for `take`, boolean (cells, 3); forget both."""
        trained = self._trained.pop()
        found = self._found.pop() if self.typed else None
        types = (found.unassigned, found.doubtful) if found else (np.zeros_like(trained),) * 2
        return self._blocks.pop(), np.stack([trained, *types], axis=1)

    def take(self, columns: dict[str, Column], flags: np.ndarray) -> None:
        """Take the next cells as `release` has returned them; without `fdr` and `groups`, no more is needed."""
        trained, unassigned, doubtful = flags.T
        self._trained.append(trained)
        self._blocks.append(columns)
        if self.typed:
            rest = {field.name: np.zeros(len(flags)) for field in fields(Prediction)}
            self._found.append(Prediction(**rest | {"unassigned": unassigned, "doubtful": doubtful}))

    def finish(self) -> dict[str, Column]:
        """Return the columns of all cells, by the end of their names."""
        columns = {name: _concatenated([block[name] for block in self._blocks]) for name in self._blocks[0]}
        trained = np.concatenate(self._trained)
        self.trained = None if self.model.seen is None else trained
        if not self.typed:
            return columns
        self.new, self.found, self.agrees = ~trained, join(self._found), columns["agrees"]
        if self.fdr is not None:
            pcs, shown = map(np.concatenate, zip(*self._for_list, strict=True))
            self.found = list_novel(self.found, self._calibrations, shown, pcs, self.new, self.fdr)
            columns |= {"novel": self.found.novel, "novel_p": self.found.p}
        return columns | self._group_columns()

    def _group_columns(self) -> dict[str, Column]:
        """Return the columns about groups of cells; none without groups."""
        if self.grouped is None:
            return {}
        model, shares = self.model, (self.coverage, self.reject)
        best, sets, unassigned = grouping.vote(self.found, *self.grouped, *shares, tree=model.nodes)
        names, codes = [*model.names, UNASSIGNED], self.grouped[0]
        shown = np.array([*np.where(unassigned, len(names) - 1, best), -1])  # code -1 is the last
        texts = np.array([*_written(sets, model), ""], dtype=object)
        label = pd.Categorical.from_codes(shown[codes], pd.Index(names, dtype=object))
        return {"group_label": label, "group_label_set": texts[codes]}

    def record(self, queries: Sequence[Query], rows: np.ndarray | slice, use_rep: str | None) -> dict[str, Any]:
        """Return what `uns` keeps of a dataset that has some of the cells, after `finish`."""
        record = _record(self.model, queries)
        if not self.typed:
            return record
        found = self.found
        record |= {"rejected": int(found.unassigned[rows].sum()), "agrees": float(self.agrees[rows].mean())}
        record |= {} if use_rep is None else {"use_rep": use_rep}
        record |= {} if self.model.nodes is None else {"unlikely": int(found.doubtful[rows].sum())}
        record |= {} if self.trained is None else {"seen": int(self.trained[rows].sum())}
        if self.fdr is None:
            return record
        known = min(calibration.n_cells for calibration in self._calibrations.values())
        fewest = shortest(int(self.new.sum()), known, self.fdr)
        about = {"fdr": self.fdr, "calibration_cells": known, "shortest_list": fewest}
        return record | about | {"novel": int(found.novel[rows].sum())}

    @property
    def column_bytes(self) -> int:
        """Bytes that the columns of a cell take on disk at most, without the texts of label sets."""
        return 64 + 24 * len(self.model.targets)

    def on_disk(self, prefix: str, query: Query, use_rep: str | None) -> tuple[dict[str, Column], dict[str, Any]]:
        """Return columns of `obs` and elements of `uns` as AnnData writes them. Warn if the embedding is in doubt."""
        columns = {f"{prefix}_{name}": _as_stored(values) for name, values in self.finish().items()}
        self.doubt_embedding(use_rep)
        return columns, {f"{prefix}_mapping": self.record([query], slice(None), use_rep)}

    def doubt_embedding(self, use_rep: str | None) -> None:
        """Warn if most cells are unlike all types by their embedding."""
        if use_rep is None or not self.typed:
            return
        unlike = self.found.unassigned & ~self.found.doubtful
        if len(unlike) and unlike.mean() > UNLIKE:
            warn(
                f"{unlike.sum():,} of {len(unlike):,} cells are unlike all types of the model. Was {use_rep!r} "
                "made by the same model as for the training cells?"
            )


def _concatenated(parts: Sequence[Column]) -> Column:
    if isinstance(parts[0], pd.Categorical):
        codes = np.concatenate([part.codes for part in parts])
        return pd.Categorical.from_codes(codes, dtype=parts[0].dtype)
    return np.concatenate(parts)


def _as_stored(values: Column) -> Column:
    """Return text as a Categorical if values repeat, as AnnData stores it."""
    if isinstance(values, pd.Categorical) or values.dtype != object:
        return values
    stored = pd.Categorical(values)
    return stored if len(stored.categories) < len(stored) else values


def _value_columns(model: Model, x: Matrix, present: Present, z: np.ndarray, coverage: float) -> dict[str, Column]:
    """Return the columns about ordered columns, by the end of their names; none without such columns."""
    columns: dict[str, Column] = {}
    found = model.predict_values(x, present, coverage=coverage, z=z) if model.targets else {}
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


def _record(model: Model, queries: Sequence[Query]) -> dict[str, Any]:
    """Return what `uns` keeps of a model that predicts, and how the genes of one or two modalities were matched."""
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


def _type_columns(found: Prediction, model: Model) -> dict[str, Column]:
    """Return the columns about the type of each cell, by the end of their names."""
    names = pd.Index([*model.names, UNASSIGNED], dtype=object)
    return {
        "label": pd.Categorical.from_codes(np.where(found.unassigned, len(names) - 1, found.nodes), names),
        "confidence": found.confidence,
        "novelty": found.novelty,
        "label_set": _written(found.sets, model),
    }


def _written(sets: np.ndarray, model: Model) -> np.ndarray:
    """Return label sets, boolean (cells, types), as text (cells,): each set that occurs is written once."""
    packed = np.packbits(sets, axis=1)
    _, first, which = np.unique(packed.view(f"V{packed.shape[1]}")[:, 0], return_index=True, return_inverse=True)
    names, some = np.array(model.types, dtype=object), sets[first]
    if model.nodes is not None:
        texts = nodes.write_sets(some, model.nodes)
    else:
        texts = [" | ".join(names[credible]) for credible in some]
    return np.array(texts, dtype=object)[which]

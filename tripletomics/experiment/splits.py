"""The task that every method is given, and the splits of the cells on which it is done."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import scipy.sparse as sp

from tripletomics import baselines, evaluation, labels, pp
from tripletomics.evaluation import GroundTruth
from tripletomics.features import Features
from tripletomics.labels.nodes import NodeLabels
from tripletomics.labels.targets import Target
from tripletomics.notices import warn
from tripletomics.problem import Settings, fit_features

if TYPE_CHECKING:
    from anndata import AnnData

    from tripletomics.sources import Matrix


@dataclasses.dataclass(frozen=True)
class EvaluationTask:
    """The cells, their labels, and what else every method is scored against.

    Attributes
    ----------
    table, adata, x
        The dataset with the features that are read, as it was given, and their values.
    label, codes, classes
        The column of cell types (with several columns, of the finest ones), their codes (-1 is unlabelled, or not known
        so finely) and their sorted names.
    levels
        The same labels on several levels; None if there is one level.
    is_counts
        Whether the values are counts.
    common
        Keywords of `fit` that all fits of tripletomics share.
    fine, batch_codes, pseudotime
        Finer types, batches and numbers to score against; None for none.
    score_batches
        Whether batches are scored, which needs scib-metrics.
    unseen
        Whether types are left out of training, too.
    reference
        The user's own reference, in place of the principal components.
    further
        Further columns, which fits of tripletomics learn.
    """

    table: pp.Table
    label: str
    codes: np.ndarray
    classes: list[str]
    is_counts: bool
    common: dict[str, Any]
    fine: np.ndarray | None
    batch_codes: np.ndarray | None
    score_batches: bool
    pseudotime: np.ndarray | None
    unseen: bool
    reference: np.ndarray | None
    levels: NodeLabels | None = None
    further: list[Target] = dataclasses.field(default_factory=list)

    @property
    def nodes(self) -> np.ndarray:
        """The deepest known name of each cell (cells,), -1 for none: groups of which equal shares are held out."""
        return self.codes if self.levels is None else self.levels.nodes

    @property
    def adata(self) -> AnnData:
        """The dataset as it was given."""
        return self.table.obs

    @property
    def given_label(self) -> str | Sequence[str] | Mapping[str, str]:
        """The column or the columns that the user named."""
        return self.common.get("label", self.label)

    @property
    def x(self) -> Matrix:
        """Its values, those of a layer, or an embedding."""
        return self.table.x

    @functools.cached_property
    def digest(self) -> bytes:
        """A hash of everything that a result depends on, the code of this package included."""
        content = hashlib.blake2b(digest_size=16)
        rows = sp.csr_matrix(self.x) if sp.issparse(self.x) else None
        arrays = [self.x] if rows is None else [rows.data, rows.indices, rows.indptr]
        name = self.common["batch"]  # balances training
        balanced = None if name is None else labels.encode(self.adata.obs[name], ())[0]
        nodes = None if self.levels is None else self.levels.nodes
        for array in (
            *arrays,
            balanced,
            self.codes,
            nodes,
            self.fine,
            self.batch_codes,
            self.pseudotime,
            self.reference,
            None if self.levels is None else self.levels.tree.parents,
            *(target.values for target in self.further),
        ):
            content.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        var = self.table.sides[""].var
        marked = var.get("highly_variable", pd.Series(dtype=bool)).to_numpy().astype(str).tolist()
        content.update(repr((self.x.shape, list(var.index), marked, self.classes, self.common)).encode())
        content.update(repr((self.is_counts, self.unseen, self.score_batches)).encode())
        for path in sorted(Path(__file__).parents[1].rglob("*.py")):
            content.update(path.read_bytes())
        return content.digest()


def make_task(
    adata: AnnData,
    named: Mapping[str, Any],
    *,
    batch: str | None,
    reads: Mapping[str, Any],
    fine: str | None,
    pseudotime: str | None,
    unseen: bool,
    device: str,
    reference: np.ndarray | None = None,
    balanced_by: str | None = None,
) -> EvaluationTask:
    """Check what the user gave, and read the columns.

    Parameters
    ----------
    adata, batch, fine, pseudotime, unseen, device
        As for `compare`.
    named
        Its `label`, `parents`, `order` and `unlabelled`: the columns that a fit learns.
    reads
        Its `layer`, `use_rep`, `counts` and perhaps `missing`: what is read of the dataset.
    reference
        Coordinates that say what the structure of the data is; by default principal components.
    balanced_by
        Column of batches that balances fits, if not `batch`; it is not scored.
    """
    if not isinstance(unseen, bool):
        raise ValueError(f"unseen={unseen!r} is neither True nor False.")
    pp.check_inputs(reads["use_rep"], reads["layer"], reads["counts"])
    pp.check_anndata(adata)
    missing = "impute" if reads.get("missing") == "impute" else None  # these verbs have no such argument
    table = pp.open_table(adata, reads["layer"], (), (), (), use_rep=reads["use_rep"], missing=missing)
    given = Settings(**named)
    roles = pp.roles_of(adata.obs.columns, given)
    if not roles.levels and (given.label is not None or not roles.further):
        pp.column(adata, None, "label")
    found = pp.read_columns(adata, given, roles)
    if found.tree is not None and unseen:
        raise ValueError(
            "unseen=True leaves types out of training, and cells that are known coarsely may be of these types: name "
            f"one column without parents, as in label={roles.finest!r}."
        )
    codes = found.nodes if found.tree is None else found.tree.leaf_codes(found.nodes)
    classes = found.names if found.tree is None else found.names[: found.tree.n_leaves]
    batch_codes = None if batch is None else labels.encode(pp.column(adata, batch, "batch"), ())[0]
    if batch_codes is not None and len(np.unique(batch_codes)) < 2:
        raise ValueError(f"batch={batch!r} has one group: there is nothing to mix. Leave it out.")
    score_batches = batch_codes is not None and importlib.util.find_spec("scib_metrics") is not None
    if batch_codes is not None and not score_batches:
        warn('Batches are not scored without scib-metrics: pip install "tripletomics[batch]".')
    finer = (
        None if fine is None else labels.encode(pp.types(adata, fine, given.unlabelled, "fine"), given.unlabelled)[0]
    )
    is_counts = not table.use_rep and pp.decide_counts(table.x, reads["counts"])
    names = tuple(labels.several(given.unlabelled, "unlabelled"))
    balanced_by = balanced_by if batch is None else batch
    common = {"batch": balanced_by, **reads, "unlabelled": names, "device": device}
    if found.tree is not None or found.targets:
        common |= {name: getattr(given, name) for name in ("label", "parents", "order")}
    return EvaluationTask(
        table=table, label=str(roles.finest), codes=codes, classes=classes, is_counts=is_counts, common=common,
        fine=finer,
        batch_codes=batch_codes, score_batches=score_batches, pseudotime=pp.numbers(adata, pseudotime), unseen=unseen,
        reference=reference, levels=found.levels(roles.levels),
        further=found.targets,
    )  # fmt: skip


def embedding_words(task: EvaluationTask, splits: Sequence[np.ndarray]) -> list[str]:
    """Return a sentence on whether the embedding of a task may have seen its held-out cells; none if there is none."""
    known = [task.table.is_blind(held_out) for held_out in splits]
    use_rep = task.common["use_rep"]
    return [] if use_rep is None else [evaluation.embedding_sentence(use_rep, all(known))]


class Split:
    """One split of the cells, drawn at random within types or not, and what all methods are given on it."""

    def __init__(self, task: EvaluationTask, held_out: np.ndarray, seed: int, at_random: bool = False) -> None:
        self.task, self.held_out, self.seed, self.at_random = task, held_out, seed, at_random

    @functools.cached_property
    def prepared(self) -> tuple[baselines.Cells, float]:
        """Genes, scaling and principal components of the training cells, and the seconds that they took."""
        started = time.perf_counter()
        task, train = self.task, ~self.held_out
        x, genes = pp.choose(task.table, train, task.is_counts)
        fitted = fit_features(x[train], genes, self.seed)
        cells = baselines.prepare(cast(Features, fitted), x[train], x[self.held_out], task.codes[train])
        return cells, time.perf_counter() - started

    @functools.cached_property
    def truth(self) -> GroundTruth:
        """What coordinates are scored against."""
        task, reference, usual = self.task, self.task.reference, None
        if reference is None:
            cells = self.prepared[0]
            reference = self.merge(cells.train_pca if cells.train_new is None else cells.train_new, cells.query_pca)
            usual = self.merge(cells.train_pca, cells.query_pca)
        return GroundTruth(
            codes=task.codes, classes=task.classes, held_out=self.held_out, reference=reference, usual=usual,
            fine=task.fine, batch_codes=task.batch_codes, score_batches=task.score_batches, pseudotime=task.pseudotime,
            at_random=self.at_random, levels=task.levels, further=task.further,
        )  # fmt: skip

    def merge(self, train: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        """Return the coordinates of training and held-out cells in the order of the dataset."""
        coordinates = np.empty((len(self.held_out), train.shape[1]), dtype=np.float32)
        coordinates[~self.held_out], coordinates[self.held_out] = train, held_out
        return coordinates

    def embed(self, method: str, codes: np.ndarray) -> dict[str, np.ndarray]:
        """Fit a baseline on the training cells and return the coordinates of all, by space."""
        cells = dataclasses.replace(self.prepared[0], y=codes[~self.held_out])
        found = baselines.METHODS[method].embed(cells, self.seed)
        return {space: self.merge(*both) for space, both in found.items()}


def make_splits(task: EvaluationTask, hold_out: float | str, seeds: int) -> list[Split]:
    """Return a split for each of the seeds 0, 1, ..., after checking that all can be scored."""
    if not task.classes:  # further columns alone
        pp.column(task.adata, None, "label")
    splits = []
    for seed in range(seeds):
        held_out = pp.split(task.adata, hold_out, task.nodes, seed)
        if not held_out.any():
            raise ValueError(f"hold_out={hold_out!r} holds no cell out, but only held-out cells are evidence.")
        pp.check_labels(task.codes, task.classes, held_out, task.label)
        if task.unseen:
            evaluation.check_unseen(task.codes, held_out)
        splits.append(Split(task, held_out, seed, evaluation.drawn_at_random(str(hold_out))))
    return splits

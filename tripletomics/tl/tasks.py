"""What `fit` and the refits of `evaluate` and `compare` do between the table and the model."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tripletomics import augment as augmentations
from tripletomics import features, labels, losses, networks, pp, training
from tripletomics.features import Choice, Features
from tripletomics.labels import reference
from tripletomics.labels.calibration import Calibration
from tripletomics.labels.calibration import fit as fit_calibration
from tripletomics.labels.prediction import check, predict
from tripletomics.labels.reference import Evidence, Reference
from tripletomics.losses import Loss
from tripletomics.model import place
from tripletomics.networks import Encoder, Networks, project
from tripletomics.sources import Matrix, Memory
from tripletomics.tl.fitting import default_loss
from tripletomics.training import History, Report, silent

if TYPE_CHECKING:
    from anndata import AnnData
    from torch.nn import Module

    from tripletomics.augment import Augmentation
    from tripletomics.networks import MLP

COLLAPSED = 0.2  # spread of the directions of z below which distances say little
NULL_SHARE = 6  # the null takes one step for this many of the fit
NULL_CELLS = 4000
CALIBRATION_CELLS = 5000  # the most of a part
FOLDS = 4  # of whole batches at most, or of few labelled cells; an encoder of the others calibrates on each


@dataclass(frozen=True)
class Task:
    """What `fit` was asked for: checked, and fitted to the training cells as far as no network is needed.

    Attributes
    ----------
    x, choice
        All cells by the chosen genes, as they are in AnnData, and what these are for.
    features
        Fitted to the training cells.
    cells, scores
        Scaled rows of all cells and their principal components.
    codes, classes
        Types of the training cells, sorted; -1 is unlabelled, and codes beyond them are types that only held-out cells
        have.
    order
        The place of each code among all sorted types.
    held_out, calibration
        Boolean (cells,): cells that nothing is fitted on, and training cells that the encoder is not trained on.
    groups
        Codes of donors or runs.
    loss, used, seed
        The loss, to be trained, the settings as they were settled, and the seed.
    untrained, augment
        A copy of the loss, and what is done to the views of a cell.
    """

    x: Matrix
    choice: Choice
    features: Features
    cells: Memory
    scores: np.ndarray
    codes: np.ndarray
    classes: list[str]
    order: np.ndarray
    held_out: np.ndarray
    calibration: np.ndarray
    groups: np.ndarray | None
    loss: Loss
    untrained: Loss
    augment: Augmentation
    used: dict[str, Any]
    seed: int
    _learn_metric: Callable[..., tuple[Encoder, History]]
    _learn_map: Callable[..., tuple[Networks, History]]

    def learn(self, report: Report = silent) -> tuple[Networks, History]:
        """Train on the labels of the training cells, or on views of all; warn if these collapse."""
        trained, history = self._train(
            self.cells, self.scores, self.codes, ~self.held_out & ~self.calibration, ~self.held_out, self.held_out,
            self.groups, self.loss, self.used["steps"], report,
        )  # fmt: skip
        traced = history["metric"].get("spread", np.ones(1))
        spread = float(np.nanmean(traced[-max(len(traced) // 10, 1) :]))
        if spread < COLLAPSED:
            warnings.warn(
                f"loss={losses.spec(self.loss)!r} collapsed: the cells point in nearly one direction (spread "
                f"{spread:.2f}, 1 is all over the sphere), so that their distances say little. Take another loss of "
                "views, such as 'simclr', or smaller steps (lr).",
                stacklevel=3,
            )
        return trained, history

    def place(self, networks: Networks) -> dict[str, np.ndarray]:
        """Place all cells on the "map" and in the "metric" space."""
        return place(networks, self.cells, self.scores)

    def null(self) -> Null:
        """Train on permuted labels, for a sixth of the steps and on at most 4,000 cells, and place these cells."""
        random = np.random.default_rng(self.seed)
        drawn = (random.permutation(np.flatnonzero(rows)) for rows in (~self.held_out, self.held_out))
        # the labelled ones first: where they are few, all of them
        train, held = (rows[np.argsort(self.codes[rows] < 0, kind="stable")][:NULL_CELLS] for rows in drawn)
        rows = np.concatenate([train, held])
        cells, scores, codes = self.cells.subset(rows), self.scores[rows], labels.permute(self.codes, random)[rows]
        held_out = self.held_out[rows]
        networks, _ = self._train(
            cells, scores, codes, ~held_out, ~held_out, held_out, None if self.groups is None else self.groups[rows],
            copy.deepcopy(self.untrained), max(self.used["steps"] // NULL_SHARE, 1), silent,
        )  # fmt: skip
        codes = np.where(codes >= 0, self.order[codes], -1)
        return Null(rows, place(networks, cells, scores), codes, held_out)

    def refer(self, places: dict[str, np.ndarray]) -> Reference | None:
        """Make a reference of the labelled training cells; None without labels."""
        if not self.classes:
            return None
        return self._refer(places["metric"], places["map"], self.scores, ~self.held_out)

    def calibrate(self, z: np.ndarray, report: Report = silent) -> Calibration | None:
        """Find out how far evidence can be trusted; None where the types have too few cells to spare.

        It is asked on the calibration cells, placed at `z`, with principal components that were not fitted on them
        either: cells that are lie farther out than new ones do. With batches, these are left out in turn, in up to four
        parts, each placed by an encoder of the others: what is usual in a batch that was never seen? So are the
        labelled cells where they are too few to spare any.
        """
        if not self.classes:
            return None
        if self.groups is None and self.calibration.any():
            trained = ~self.held_out & ~self.calibration
            folds = [self._ask(z, self._fit(trained).project(self.x), trained, self.calibration)]
        else:
            groups = pp.folds(self.codes, ~self.held_out, FOLDS, self.seed) if self.groups is None else self.groups
            folds = [self._ask_without(part, report) for part in _deal(groups, self.codes, ~self.held_out)]
        known = sum(int((codes >= 0).sum()) for _, codes in folds)
        return fit_calibration(folds) if known > 1 else None

    def check(self, z: np.ndarray, known: Reference | None, calibrated: Calibration | None) -> dict[str, float]:
        """Compare predictions of held-out cells of known types with their labels; empty where there are none."""
        held = self.held_out & (self.codes >= 0) & (self.codes < len(self.classes))
        if known is None or calibrated is None or not held.any():
            return {}
        return check(predict(known.evidence(z[held], self.scores[held]), calibrated), self.codes[held])

    def _ask(
        self, z: np.ndarray, scores: np.ndarray, trained: np.ndarray, asked: np.ndarray
    ) -> tuple[Evidence, np.ndarray]:
        """Compare cells with a reference of others, if these have their type."""
        rows = np.flatnonzero(asked & np.isin(self.codes, self.codes[trained & (self.codes >= 0)]))
        rows = np.random.default_rng(self.seed).permutation(rows)[:CALIBRATION_CELLS]
        return self._refer(z, z[:, :0], scores, trained).evidence(z[rows], scores[rows]), self.codes[rows]

    def _ask_without(self, part: np.ndarray, report: Report) -> tuple[Evidence, np.ndarray]:
        """Fit scaling, components and encoder without a part of the cells, and ask about these."""
        others = ~self.held_out & ~part
        contract = self._fit(others)
        cells, scores = Memory(contract.normalise(self.x), contract.standardise), contract.project(self.x)
        encoder, _ = self._learn_metric(
            cells, self.codes, np.flatnonzero(others), np.flatnonzero(part), groups=self.groups, scores=scores,
            loss=copy.deepcopy(self.untrained), augment=self.augment.fit(contract.mean, contract.scale),
            steps=self.used["steps"], report=lambda stage, *rest: report("calibration", *rest),
        )  # fmt: skip
        z = project(encoder, cells, next(encoder.parameters()).device).cpu().numpy()
        return self._ask(z, scores, others, part)

    def _fit(self, rows: np.ndarray) -> Features:
        return features.fit(self.x[rows], self.features.genes, self.features.counts, self.seed, self.choice)

    def _refer(self, z: np.ndarray, m: np.ndarray, scores: np.ndarray, rows: np.ndarray) -> Reference:
        return reference.fit(z[rows], m[rows], scores[rows], self.codes[rows], len(self.classes), self.seed)

    def _train(
        self, cells: Memory, scores: np.ndarray, codes: np.ndarray, metric: np.ndarray, train: np.ndarray,
        held_out: np.ndarray, groups: np.ndarray | None, loss: Loss, steps: int, report: Report,
    ) -> tuple[Networks, History]:  # fmt: skip
        """Train the encoder on the cells `metric` and the map head on the cells `train`."""
        held = np.flatnonzero(held_out)
        encoder, history = self._learn_metric(
            cells, codes, np.flatnonzero(metric), held, groups=groups, loss=loss, scores=scores,
            augment=self.augment.fit(self.features.mean, self.features.scale), steps=steps, report=report,
        )  # fmt: skip
        networks, more = self._learn_map(
            encoder, cells, codes, np.flatnonzero(train), held, scores=scores, steps=steps, report=report
        )
        return networks, history | more


@dataclass(frozen=True)
class Null:
    """Where cells lie when there was nothing to learn."""

    rows: np.ndarray  # which cells
    places: dict[str, np.ndarray]
    codes: np.ndarray  # the permuted ones
    held_out: np.ndarray


def prepare(
    adata: AnnData,
    label: str | None,
    *,
    loss: str | Module | None,
    structure: float,
    dim: int,
    metric_dim: int,
    batch: str | None,
    layer: str | None,
    counts: bool | Literal["auto"],
    unlabelled: Sequence[str],
    hold_out: float | str | np.ndarray,
    encoder: str | MLP,
    augment: str | Augmentation | None,
    steps: int | None,
    batch_size: int | None,
    lr: float,
    seed: int,
    device: str,
    precision: str,
) -> Task:
    """Check everything that `fit` was given, choose and scale the genes on the training cells."""
    given = None if loss is None else losses.make(loss)
    mlp, views = networks.make(encoder), augmentations.make(augment)
    pp.check_settings(structure, dim, metric_dim, steps, batch_size, lr, seed)
    fabric = training.start(device, precision)
    x = pp.matrix(adata, layer)
    if label is None:
        if given is not None and (given.supervised or given.views == 1):
            pp.refuse_without_labels(adata, "loss", losses.spec(given))
        if batch is not None:
            pp.refuse_without_labels(adata, "batch", batch)
        codes, order, classes = np.full(adata.n_obs, -1), np.zeros(0, dtype=int), list[str]()
    else:
        codes, classes = labels.encode(pp.column(adata, label, "label"), unlabelled)
    held_out = pp.split(adata, hold_out, codes, seed)
    if label is not None:
        pp.check_labels(codes, classes, held_out, label)
        codes, order, n_known = labels.known_first(codes, ~held_out)
        classes = [classes[code] for code in order[:n_known]]
    objective = losses.make(default_loss(codes[~held_out])) if given is None else given
    losses.check(objective, metric_dim)
    if objective.views == 2 and not objective.neighbours and views.idle(labelled=label is not None):
        raise ValueError(
            f"augment={augmentations.spec(views)!r} shows the same twice, from which loss={losses.spec(objective)!r} "
            "learns nothing: take 'mask'."
        )
    groups = pp.batches(adata, batch, held_out)
    calibration = pp.spare(codes, ~held_out, seed) if groups is None else np.zeros_like(held_out)
    pp.check_batch_size(batch_size, codes[~held_out], of_labelled=objective.views == 1)
    objective.expect(int((~held_out & ~calibration).sum()))
    training.check_terms(objective, codes[~held_out & ~calibration], batch_size, seed)
    is_counts = pp.decide_counts(x, counts)
    if views.of_molecules:
        pp.check_molecules(x, is_counts, augmentations.spec(views))

    choice = pp.choose_genes(adata, x, ~held_out, is_counts)
    x = pp.take(x, choice.columns)
    contract = features.fit(x[~held_out], adata.var_names[choice.columns].tolist(), is_counts, seed, choice)
    cells, scores = Memory(contract.normalise(x), contract.standardise), contract.project(x)
    steps = training.default_steps(int((~held_out).sum())) if steps is None else steps
    learn_metric = functools.partial(
        training.learn_metric, fabric, mlp=mlp, metric_dim=metric_dim, batch_size=batch_size, lr=lr, seed=seed
    )
    structure = structure if classes else 1.0
    learn_map = functools.partial(training.learn_map, fabric, structure=structure, dim=dim, lr=lr, seed=seed)
    used = {"loss": objective, "encoder": mlp, "augment": views, "counts": is_counts, "steps": steps,
            "structure": structure}  # fmt: skip
    return Task(
        x, choice, contract, cells, scores, codes, classes, order, held_out, calibration, groups, objective,
        copy.deepcopy(objective), views, used, seed, learn_metric, learn_map,
    )  # fmt: skip


def _deal(groups: np.ndarray, codes: np.ndarray, train: np.ndarray) -> list[np.ndarray]:
    """Deal whole batches out into parts of like size, boolean (cells,); the others of each must have two types."""
    batches, sizes = np.unique(groups[train & (groups >= 0)], return_counts=True)
    dealt: list[list[int]] = [[] for _ in range(min(FOLDS, len(batches)))]
    filled = np.zeros(len(dealt))
    for i in np.argsort(-sizes, kind="stable"):
        dealt[filled.argmin()].append(batches[i])
        filled[filled.argmin()] += sizes[i]
    parts = [train & np.isin(groups, members) for members in dealt]
    others = [np.bincount(codes[train & ~part & (codes >= 0)], minlength=2) for part in parts]
    return [part for part, sizes in zip(parts, others, strict=True) if (sizes > 0).sum() > 1 and sizes.max() > 1]

"""What is checked, chosen and fitted before any training."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch

from tripletomics import augment as augmentations
from tripletomics import labels, losses, networks, pp, training
from tripletomics.checkpoint import digest
from tripletomics.features import Pair, PairFeatures
from tripletomics.seen import TRAINING, SeenCells, hash_rows
from tripletomics.tl.fitting import default_loss
from tripletomics.tl.tasks import Task

if TYPE_CHECKING:
    from anndata import AnnData
    from lightning_fabric import Fabric
    from torch.nn import Module

    from tripletomics.augment import Augmentation
    from tripletomics.checkpoint import Checkpoint
    from tripletomics.networks import MLP


def prepare(
    adata: AnnData | Sequence[AnnData] | Mapping[str, AnnData],
    label: str | None,
    *,
    loss: str | Module | None,
    structure: float,
    spread: float,
    dim: int,
    metric_dim: int,
    batch: str | None,
    layer: str | None,
    counts: bool | Literal["auto"],
    unlabelled: Sequence[str],
    hold_out: float | str | np.ndarray,
    encoder: str | MLP,
    augment: str | Augmentation | None,
    self_training: bool,
    steps: int | None,
    batch_size: int | None,
    lr: float,
    seed: int,
    device: str,
    precision: str,
    checkpoint: Checkpoint | None = None,
) -> Task:
    """Check everything that `fit` was given, choose and scale the genes on the training cells."""
    given = None if loss is None else losses.make(loss)
    mlp, views = networks.make(encoder), augmentations.make(augment)
    pp.check_settings(structure, spread, dim, metric_dim, steps, batch_size, lr, seed, self_training)
    fabric = training.start(device, precision)
    held_out_by = hold_out.partition("=")[0] if isinstance(hold_out, str) else None
    table = pp.open_table(adata, layer, label, unlabelled, (batch, held_out_by))
    obs, paired = table.obs, isinstance(table.x, Pair)
    if label is None:
        if given is not None and (given.supervised or given.views == 1):
            pp.refuse_without_labels(obs, "loss", losses.spec(given))
        if batch is not None:
            pp.refuse_without_labels(obs, "batch", batch)
        if self_training:
            pp.refuse_without_labels(obs, "self_training", self_training)
        codes, order, classes = np.full(obs.n_obs, -1), np.zeros(0, dtype=int), list[str]()
    else:
        codes, classes = labels.encode(pp.column(obs, label, "label"), unlabelled)
    held_out = pp.split(obs, hold_out, codes, seed)
    if label is not None:
        pp.check_labels(codes, classes, held_out, label)
        codes, order, n_known = labels.known_first(codes, ~held_out)
        classes = [classes[code] for code in order[:n_known]]
    objective = losses.make(default_loss(codes[~held_out], paired)) if given is None else given
    losses.check(objective, metric_dim)
    if paired and views.of_genes:
        raise ValueError(
            f"augment={augmentations.spec(views)!r} changes values of genes, and of two modalities the encoders see "
            "principal components: take 'mask' or 'mixup'."
        )
    same_views = objective.views == 2 and not objective.neighbours and not paired
    if same_views and views.idle(labelled=label is not None):
        raise ValueError(
            f"augment={augmentations.spec(views)!r} shows the same twice, from which loss={losses.spec(objective)!r} "
            "learns nothing: take 'mask'."
        )
    rounds = 2 if self_training and pp.check_self_training(codes[~held_out], paired) else 1
    groups = pp.batches(obs, batch, held_out)
    calibration = pp.spare(codes, ~held_out, seed) if groups is None else np.zeros_like(held_out)
    if paired:
        spared = [(calibration & rows).sum() for rows in (table.x.both, *table.x.measured.T)]
        calibration &= min(spared) >= pp.SPARE_LEAST
    pp.check_batch_size(batch_size, codes[~held_out], of_labelled=objective.views == 1)
    objective.expect(int((~held_out & ~calibration).sum()))
    training.check_terms(objective, codes[~held_out & ~calibration], batch_size, seed)
    are_counts = []
    for name, (_, side, there) in zip(table.sides, table.matrices(), strict=True):
        are_counts.append(pp.decide_counts(side if there.all() else side[there], counts, name))
    if views.of_molecules:
        pp.check_molecules(table.x, are_counts[0], augmentations.spec(views))

    if checkpoint:
        checkpoint.expect(_facts(table, codes, classes, held_out, calibration, groups, fabric))
    fitted = pp.fitting(~held_out, seed)
    x, learn = pp.choose(table, fitted, are_counts, seed)
    contract, seen = learn(x[fitted]), SeenCells.of(x, held_out, calibration, fitted)
    role, fitted = seen.find(x)  # as the model will: a held-out cell with the values of a training cell is not new
    if isinstance(contract, PairFeatures) and calibration.any():
        contract = replace(contract, seen=cast(PairFeatures, learn(x[fitted & ~held_out & ~calibration])))
    cells, scores = contract.source(x, None, fitted & (role == TRAINING)), contract.project(x, None, fitted)
    if not np.isfinite(scores).all():
        raise ValueError(
            "Some values are so far from the others that principal components overflow: divide all by one number, or "
            "remove what is no measurement."
        )
    steps = training.default_steps(int((~held_out).sum())) if steps is None else steps
    learn_metric = functools.partial(
        training.learn_metric, fabric, mlp=mlp, metric_dim=metric_dim, batch_size=batch_size, lr=lr, seed=seed,
        checkpoint=checkpoint,
    )  # fmt: skip
    structure = structure if classes else 1.0
    learn_map = functools.partial(
        training.learn_map, fabric, structure=structure, spread=spread, dim=dim, lr=lr, seed=seed,
        checkpoint=checkpoint,
    )  # fmt: skip
    used = {"loss": objective, "encoder": mlp, "augment": views, "steps": steps, "structure": structure,
            "counts": are_counts if paired else are_counts[0]}  # fmt: skip
    if paired:
        used["modalities"] = list(table.sides)
    return Task(
        table, x, contract, cells, scores, codes, classes, order, held_out, calibration, groups, objective,
        copy.deepcopy(objective), views, used, seed, seen, learn, learn_metric, learn_map, rounds,
    )  # fmt: skip


def _facts(
    table: pp.Table, codes: np.ndarray, classes: list[str], held_out: np.ndarray, calibration: np.ndarray,
    groups: np.ndarray | None, fabric: Fabric,
) -> dict[str, str]:  # fmt: skip
    """Return what determines the trainings of a fit, without its settings."""
    cells: list[object] = []
    for adata, x, measured in table.matrices():
        marks = adata.var.get("highly_variable")
        cells += [hash_rows(x), measured, adata.var_names.tolist(), None if marks is None else marks.tolist()]
    return {
        "table of cells": digest(*cells),
        "column of labels": digest(codes, classes),
        "choice of held-out cells": digest(held_out, calibration),
        "column of batches": digest(groups),
        "device in use": str(fabric.device),
        "threads": str(torch.get_num_threads()),
    }

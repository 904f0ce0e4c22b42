"""From the cells and the settings to the problem of a fit: all checks, the split, the genes and the components."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from tripletomics import augment, devices, labels, losses, scales, training
from tripletomics.checkpoint import Checkpoint, digest
from tripletomics.features import AnyFeatures, PairFeatures, add_plain, matrices
from tripletomics.folds import LEAST, calibration_split, subsample_for_features
from tripletomics.keys import check_key
from tripletomics.labels.nodes import check_node_names
from tripletomics.labels.roles import Roles
from tripletomics.labels.targets import Target
from tripletomics.labels.tree import Tree
from tripletomics.losses import Loss
from tripletomics.losses.defaults import default_loss
from tripletomics.losses.levels import Levels
from tripletomics.model.build import versions
from tripletomics.pp import checks, label_columns, splits
from tripletomics.pp.embeddings import check_kept
from tripletomics.pp.label_columns import LabelColumns
from tripletomics.pp.published import check_training, name_of, published_map
from tripletomics.pp.query_scales import check_scale
from tripletomics.pp.tables import Table, choose, columns_of, open_table
from tripletomics.problem import FitProblem, Settings, as_text, fit_features
from tripletomics.seen import SeenCells, hash_rows, network_inputs
from tripletomics.sources import Matrix

MISSING = 0.1  # share of the training cells that may lack a value where only values are learned from


def prepare(
    adata: object, settings: Settings, checkpoint: Checkpoint | None = None
) -> tuple[Table, Settings, FitProblem]:
    """Check everything that a fit is given, and fit to the training cells what needs no network.

    Parameters
    ----------
    adata
        As for `tripletomics.fit`, in memory.
    settings
        What the user asked for.
    checkpoint
        Records what determines the trainings, or refuses to continue those of another fit.

    Returns
    -------
    The dataset, the settings with every open choice made, and the problem.

    Raises
    ------
    KeyError, TypeError, ValueError
        As `tripletomics.fit`.
    """
    check_key(settings.key_added, adata)
    device = devices.start(settings.device, settings.precision).device
    if checkpoint:
        checkpoint.expect(settings.as_text() | {f"version of {name}": number for name, number in versions().items()})
    held_out_by = settings.hold_out.partition("=")[0] if isinstance(settings.hold_out, str) else None
    check_kept(settings.use_rep, settings.key_added)
    columns = label_columns.roles_of(columns_of(adata), settings)
    settings = replace(settings, loss=columns.loss or settings.loss)
    others = settings.batch, held_out_by, *columns.further
    reads = {"use_rep": settings.use_rep, "missing": settings.missing}
    table = open_table(adata, settings.layer, columns.types, settings.unlabelled, others, **reads)
    found, published = _read_labels(table, settings, columns), published_map(table, settings)
    held_out = splits.split(table.obs, settings.hold_out, found.strata(), settings.seed)
    check_training(published, held_out, name_of(settings.map))
    found = label_columns.tree_of_training(found, table.obs, settings, columns, ~held_out)
    tree, nodes, codes, order, classes = _known_types(found, held_out, columns.finest)
    targets = label_columns.known_targets(found.targets, held_out, columns)
    settings = _with_loss(table, settings, nodes, targets, ~held_out, labelled=bool(classes))
    batch_codes = splits.batch_codes(table.obs, settings.batch, held_out)
    groups = codes if classes else found.strata(~held_out)
    splits.check_not_types(settings, batch_codes, codes, held_out)
    calibration = _calibration_split(table, groups, held_out, batch_codes, settings.seed)
    train, fitted = ~held_out & ~calibration, subsample_for_features(~held_out, settings.seed)
    _check_batches(settings, tree, nodes, held_out, train)
    if checkpoint:
        facts = _facts(table, nodes, classes, tree, held_out=held_out, calibration=calibration, batch_codes=batch_codes)
        facts |= {f"column {target.name!r}": digest(target.values) for target in found.targets}
        facts |= {} if published is None else {"published map": digest(published)}
        checkpoint.expect(facts | {"device in use": str(device), "threads": str(torch.get_num_threads())})

    x, genes = choose(table, fitted, settings.counts)
    if settings.augment.of_molecules:
        checks.check_molecules(table.x, genes[""].counts, augment.spec(settings.augment))
    features, hashes = fit_features(x[fitted], genes, settings.seed), hash_rows(x)
    _check_held_out(table, x, features, held_out, settings.hold_out)
    seen = SeenCells.of(x, held_out, calibration, fitted, hashes)
    roles = seen.find(x, hashes)  # as the model will: a held-out cell with the values of a training cell is not new
    if isinstance(features, PairFeatures) and calibration.any():
        seen_by_encoder = cast(PairFeatures, fit_features(x[roles[1] & train], genes, settings.seed))
        features = replace(features, seen=seen_by_encoder)
    rows, pcs = network_inputs(features, x, None, roles)
    _check_finite(pcs)
    features, map_pcs = (features, pcs) if published is None else _add_plain(features, x, fitted, pcs, settings.seed)
    settings = replace(
        settings,
        dim=settings.dim if published is None else published.shape[1],
        steps=settings.steps or training.default_steps(int((~held_out).sum()), settings.loss.pace),
        structure=settings.structure if classes else 1.0,
    )
    problem = FitProblem(
        x=x, genes=genes, features=features, rows=rows, pcs=pcs, codes=codes, classes=classes, order=order,
        train=train, scored=held_out, held_out=held_out, calibration=calibration, batch_codes=batch_codes, seen=seen,
        blind=table.is_blind(held_out), published=published, map_pcs=map_pcs,
        tree=tree, nodes=nodes, targets=targets, levels=replace(found, nodes=nodes, tree=tree).levels(columns.levels),
    )  # fmt: skip
    return table, settings, problem


def _read_labels(table: Table, settings: Settings, columns: Roles) -> LabelColumns:
    """Return what the columns of labels say; raise if there are none of cell types and a setting needs them."""
    found = label_columns.read_columns(table.obs, settings, columns, nested=False)
    if columns.levels:
        return found
    loss: Loss | None = settings.loss
    given = None if settings.label is None else as_text(settings.label)
    if loss is not None and (loss.supervised or loss.views == 1):
        checks.refuse_without_labels(table.obs, "loss", losses.spec(loss), given)
    if settings.batch is not None and not found.targets:
        checks.refuse_without_labels(table.obs, "batch", settings.batch, given)
    if settings.self_training:
        checks.refuse_without_labels(table.obs, "self_training", settings.self_training, given)
    return found


def _known_types(
    found: LabelColumns, held_out: np.ndarray, label: str | None
) -> tuple[Tree | None, np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Return the tree, the nodes, the codes, their order and the classes of a `FitProblem`."""
    nodes, names = found.nodes, found.names
    if found.tree is not None:
        tree, known = found.tree.known_to(nodes, ~held_out)
        if not tree.flat:
            codes, classes = tree.leaf_codes(known), tree.names[: tree.n_leaves]
            checks.check_type_names(tree.names, label)
            checks.check_labels(codes, classes, held_out, label)
            check_node_names(tree.names)
            checks.warn_of_unknown_types(sorted({*names} - {*tree.names}))
            checks.warn_of_single_types(tree, known[~held_out])
            return tree, known, codes, np.arange(len(classes)), classes
        nodes, names = known, tree.names
    if label is None:
        return None, nodes, nodes, np.zeros(0, dtype=int), []
    checks.check_labels(nodes, names, held_out, label)
    codes, order, n_known = labels.known_first(nodes, ~held_out)
    return None, codes, codes, order, [names[code] for code in order[:n_known]]


def _with_loss(
    table: Table, settings: Settings, nodes: np.ndarray, targets: Sequence[Target], trained: np.ndarray, *,
    labelled: bool,
) -> Settings:  # fmt: skip
    """Return the settings with a loss (a copy), after checking that the augmentation suits it.

    Only the cells in `trained`, boolean (cells,), decide. `labelled` says whether there are cell types. Values alone
    need no view of the cells, if nearly all have one.
    """
    codes = nodes[trained]
    paired, views = len(table.sides) > 1, settings.augment
    alone = [one for one in targets if one.loss.ordered and not labelled and not paired]
    known = alone and np.isnan(alone[0].values[trained]).mean() <= MISSING
    usual = alone[0].loss if known else losses.make(default_loss(codes, paired))
    loss = copy.deepcopy(settings.loss or usual)
    losses.check(loss, settings.metric_dim)
    if paired and views.of_genes:
        raise ValueError(
            f"augment={augment.spec(views)!r} changes values of genes, but with two modalities the encoders see "
            "principal components: take 'mask' or 'mixup'."
        )
    if table.use_rep and views.of_genes:
        raise ValueError(
            f"augment={augment.spec(views)!r} changes values of genes, and use_rep={settings.use_rep!r} is an "
            "embedding: take 'mask' or 'mixup'."
        )
    same_views = loss.views == 2 and not loss.neighbours and not paired
    if same_views and views.idle(labelled=labelled):
        raise ValueError(
            f"augment={augment.spec(views)!r} shows the same view twice, from which loss={losses.spec(loss)!r} "
            "learns nothing: take 'mask'."
        )
    if settings.self_training:
        checks.check_self_training(codes, paired)
    return replace(settings, loss=loss)


def _calibration_split(
    table: Table, codes: np.ndarray, held_out: np.ndarray, batch_codes: np.ndarray | None, seed: int
) -> np.ndarray:
    """Choose the calibration cells, boolean (cells,): none with batches, or if a modality has too few."""
    if batch_codes is not None:
        return np.zeros_like(held_out)
    calibration = calibration_split(codes, ~held_out, seed)
    if len(table.sides) > 1:
        sizes = [(calibration & rows).sum() for rows in (table.x.both, *table.x.measured.T)]
        calibration &= min(sizes) >= LEAST
    return calibration


def _check_batches(
    settings: Settings, tree: Tree | None, nodes: np.ndarray, held_out: np.ndarray, train: np.ndarray
) -> None:
    """Raise if minibatches of the encoder's training cells have nothing to compare."""
    loss = settings.loss
    checks.check_batch_size(settings.batch_size, nodes[~held_out], of_labelled=loss.views == 1)
    loss.set_n_cells(int(train.sum()))
    if loss.ordered:
        return
    if tree is not None:
        loss.set_levels(Levels(tree.leaves_below()))
    training.check_terms(loss, nodes[train], settings.batch_size, settings.seed)


def _check_finite(pcs: np.ndarray) -> None:
    """Raise if principal components overflow."""
    if not np.isfinite(pcs).all():
        raise ValueError(
            "Some values are so far from the others that principal components overflow: divide all by one number, or "
            "remove what is not a measurement."
        )


def _add_plain(
    features: AnyFeatures, x: Matrix, fitted: np.ndarray, pcs: np.ndarray, seed: int
) -> tuple[AnyFeatures, np.ndarray]:
    """Add plain components of genes for a map to adopt; those of two modalities, or of an embedding, are plain."""
    if isinstance(features, PairFeatures) or features.use_rep is not None:
        return features, pcs
    return add_plain(features, x, fitted, pcs, seed)


def _check_held_out(table: Table, x: Matrix, features: AnyFeatures, held_out: np.ndarray, by: object) -> None:
    """Raise if held-out groups, such as a donor, are on another scale than the training cells.

    `x` are all cells by the chosen genes, and `by` is the column of the groups, if it is text.
    """
    if not isinstance(by, str):
        return
    for part, chosen, (_, whole, measured) in zip(features.parts, matrices(x), table.matrices(), strict=True):
        rows = held_out & measured
        try:
            check_scale(chosen[rows], part, given=scales.see(whole[rows]))
        except ValueError as error:
            raise ValueError(f"Held-out cells are what a query is to a model. {error}") from None


def _facts(table: Table, codes: np.ndarray, classes: Sequence[str], tree: Tree | None, *, held_out: np.ndarray,
           calibration: np.ndarray, batch_codes: np.ndarray | None) -> dict[str, str]:  # fmt: skip
    """Return what determines the trainings of a fit, without its settings."""
    cells: list[object] = []
    for adata, x, measured in table.matrices():
        marks = adata.var.get("highly_variable")
        cells += [hash_rows(x), measured, adata.var_names.tolist(), None if marks is None else marks.tolist()]
    return {
        "table of cells": digest(*cells),
        "column of labels": digest(codes, classes) if tree is None else digest(codes, tree.names, tree.parents),
        "choice of held-out cells": digest(held_out, calibration),
        "column of batches": digest(batch_codes),
    }

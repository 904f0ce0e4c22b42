"""Preparation of a map that grows: from new cells and a model to a FitProblem."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from tripletomics import augment, labels, losses, training
from tripletomics.features import Choice, Features
from tripletomics.folds import calibration_split
from tripletomics.growth import recode
from tripletomics.keys import check_key
from tripletomics.labels.reference import Reference
from tripletomics.losses.defaults import DEFAULT_LOSS
from tripletomics.model import Model
from tripletomics.names import percent
from tripletomics.notices import warn
from tripletomics.pp import checks, splits
from tripletomics.pp.queries import QueryOptions, take_new
from tripletomics.pp.tables import Table, is_pair, open_table
from tripletomics.problem import FitProblem, ModalityGenes, Settings, as_text
from tripletomics.seen import NEVER, SeenCells, network_inputs

INHERITED = ("structure", "spread", "dim", "metric_dim", "encoder", "counts")  # settings taken from the model
ENOUGH = 0.8  # share of the encoder's weight that the genes of new cells must hold


def check_start(model: object) -> Model:
    """Return a model that can grow, or raise."""
    if not isinstance(model, Model):
        raise TypeError(
            f"init={model!r} is neither a model nor the path of one: pass what tripletomics.fit or tripletomics.load "
            "returns, or a path such as 'pbmc.tt'."
        )
    if model.modalities:
        raise ValueError(
            f"init= is a model of two modalities ({' and '.join(model.modalities)}), and only a map of one can grow: "
            "fit old and new cells together."
        )
    if model.reference is None:
        raise ValueError("init= is a model without labels, which keeps no landmarks: fit it again with label=.")
    if model.tree is not None:
        raise ValueError(
            "init= is a model of types on several levels, and a map can grow by types of one level only: fit old and "
            "new cells together."
        )
    if model.targets:
        raise ValueError(
            f"init= is a model that predicts {model.targets[0].name!r}, for which it keeps no old cells: fit old and "
            "new cells together."
        )
    if model.seen is None:
        raise ValueError(
            "init= comes from a file of an older version, which does not say which cells it has seen: fit it again."
        )
    return model


def check_growth(settings: Settings, model: Model) -> Settings:
    """Return the settings, with those that come from the model, or raise.

    Raises
    ------
    ValueError
        If a setting differs from that of the model, or cannot be used when a map grows.
    """
    if settings.order is not None:
        raise ValueError(
            f"order={settings.order!r} cannot be used with init=: old cells, of which only coordinates are kept, have "
            "no value. Fit old and new cells together."
        )
    if settings.label is None:
        raise ValueError("init= needs label=, the column of the types of the new cells: without types no map can grow.")
    if not isinstance(settings.label, str):
        raise ValueError(f"label={as_text(settings.label)!r} cannot be used with init=: name one column of types.")
    for name in ("batch", "self_training", "map", "parents"):
        value = getattr(settings, name)
        if value is not None and value is not False:
            given = repr(value) if isinstance(value, (str, bool)) else type(value).__name__
            raise ValueError(f"{name}={given} cannot be used with init=: leave it out.")
    default = Settings()
    own: dict[str, Any] = {}
    for name in INHERITED:
        given, usual = as_text(getattr(settings, name)), as_text(getattr(default, name))
        kept = str(model.part().counts) if name == "counts" else model.settings.get(name, usual)
        if given not in (usual, kept):
            raise ValueError(f"{name}={given} is not that of the model in init=, {kept}: leave it out, or fit anew.")
        own[name] = model.part().counts if name == "counts" else Settings.read(name, kept)
    loss = settings.loss or losses.make(DEFAULT_LOSS)
    if loss.views != 1 or loss.epochs or loss.momentum or not loss.supervised:
        raise ValueError(
            f"loss={losses.spec(loss)!r} compares views or mines cells, and with init= the old cells are simulated: "
            "take a loss of one view, such as 'softmax' or 'triplet'."
        )
    losses.check(loss, int(model.settings["metric_dim"]))
    return replace(settings, loss=loss, **own)


def prepare_growth(adata: object, settings: Settings, model: Model) -> tuple[Table, Settings, FitProblem, Reference]:
    """Return the problem of new cells, by the features and the types of a model, after all checks.

    Returns
    -------
    The dataset, the complete settings, the problem of the new cells, and the reference of the old cells, with the types
    of old and new cells.
    """
    check_key(settings.key_added, adata)
    settings = check_growth(settings, check_start(model))
    if is_pair(adata):
        raise ValueError("init= is a model of one modality, and two datasets were given: pass the one that it reads.")
    held_out_by = settings.hold_out.partition("=")[0] if isinstance(settings.hold_out, str) else None
    reads = QueryOptions(settings.layer, use_rep=settings.use_rep).embedding(model)
    settings = replace(settings, use_rep=reads)
    label = str(settings.label)
    table = open_table(
        adata, settings.layer, [label], settings.unlabelled, (held_out_by,), use_rep=reads, missing=settings.missing
    )
    found, names = labels.encode(checks.types(table.obs, label, settings.unlabelled), settings.unlabelled)
    held_out = splits.split(table.obs, settings.hold_out, found, settings.seed)
    classes, order, codes = _types(model, names, found, held_out, label)
    x, present = _cells(adata, settings, model)
    roles = model.seen.find(x)  # type: ignore[union-attr]  # see check_start
    if known := int((roles[0] != NEVER).sum()):
        raise ValueError(
            f"{known:,} of {len(found):,} cells were part of the fit of the model in init= (they have the same "
            "values): pass only new cells."
        )
    _warn_of_names(model, table.obs.obs_names)
    calibration = calibration_split(codes, ~held_out & (codes < len(classes)), settings.seed)
    rows, pcs = network_inputs(model.features, x, present, roles)
    map_pcs = model.part().map_pcs(x, pcs, present)
    if settings.augment.of_molecules:
        checks.check_molecules(table.x, model.part().counts, augment.spec(settings.augment))
    n_all = int(model.reference.sizes.sum() + (~held_out).sum())  # type: ignore[union-attr]
    settings = replace(settings, steps=settings.steps or training.default_steps(n_all))
    problem = FitProblem(
        x=x, genes={"": _genes(model.part())}, features=model.features, rows=rows, pcs=pcs, codes=codes,
        classes=classes, order=order, train=~held_out & ~calibration, scored=held_out, held_out=held_out,
        calibration=calibration, batch_codes=None,
        # after few steps, training cells lie as far from others as new ones do: as calibration cells of a fit
        seen=SeenCells.of(x, held_out, ~held_out, np.zeros_like(held_out)), blind=table.is_blind(held_out),
        map_pcs=map_pcs,
    )  # fmt: skip
    where = np.searchsorted(classes, model.types)
    return table, settings, problem, recode(model.reference, where, len(classes))  # type: ignore[arg-type]


def _types(
    model: Model, names: list[str], codes: np.ndarray, held_out: np.ndarray, label: str | None
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the sorted types of old and new training cells, the rank of each code among all types, and the codes."""
    learned = [names[code] for code in np.unique(codes[~held_out & (codes >= 0)])]
    if not learned:
        raise ValueError(f"label={label!r}: no training cell is labelled, and without types no map can grow.")
    checks.check_type_names(names, label)
    alike = {_plain(name): name for name in model.types}
    for name in learned:
        other = alike.get(_plain(name), name)
        if other != name and name not in model.types:
            warn(
                f"The new type {name!r} is called {other!r} in the model in init=: they count as two types. If they "
                "are the same, rename one."
            )
    classes = sorted({*model.types, *learned})
    unknown = [name for name in names if name not in classes]
    checks.warn_of_unknown_types(unknown)
    numbers = {name: number for number, name in enumerate([*classes, *unknown])}
    into = np.array([numbers[name] for name in names] + [-1])
    return classes, np.argsort(np.argsort([*classes, *unknown])), into[codes]


def _warn_of_names(model: Model, names: pd.Index) -> None:
    """Warn of new cells that are called like training cells of the model."""
    known = np.zeros(0, dtype=str) if model.catalog is None else model.catalog.names
    if twice := int((shared := names.isin(known)).sum()):
        warn(
            f"{twice:,} of {len(names):,} cells have the name of a training cell of the model in init= (first: "
            f"{checks.first(names[shared])}), and other values. If they are the same cells, processed in another way, "
            "leave them out: they would count twice."
        )


def _plain(name: str) -> str:
    return "".join(name.split()).casefold()


def _cells(adata: Any, settings: Settings, model: Model) -> tuple[Any, np.ndarray | None]:
    """Return new cells by the features of the model, and which of these features they have."""
    if settings.use_rep is not None:
        return take_new(adata, model, QueryOptions(use_rep=settings.use_rep)).x, None
    cells = take_new(adata, model, QueryOptions(settings.layer, "impute", None, 0))
    match = cells.targets[0][2][0].match
    absent = checks.first(match.missing_genes)
    if match.weight < ENOUGH:
        raise ValueError(
            f"The new cells lack {match.missing} of the {len(model.part().genes)} genes of the model in init= (first: "
            f"{absent}), which hold {percent(1 - match.weight)} of its encoder's weight. At most "
            f"{percent(1 - ENOUGH)} may be missing for a map to grow. Fit old and new cells together on the genes that "
            "both have."
        )
    if match.missing:
        warn(
            f"The new cells lack {match.missing} genes of the model in init= (first: {absent}), which count as unknown."
        )
    present = cells.present
    return cells.x, present if isinstance(present, np.ndarray) else None


def _genes(features: Features) -> ModalityGenes:
    return ModalityGenes(features.genes, features.counts, Choice.every(np.arange(len(features.genes))))

"""Tables that stay on disk: a fit on a sample of their rows, and all rows placed a block at a time.

A fit draws a bounded number of cells however many there are, so that a sample of bounded size, with an equal share of
each type, serves as well as all of them; and the order of the rows on disk does not matter.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pandas as pd
import psutil
from anndata import AnnData

from tripletomics import augment, keys, labels, losses, networks, pp, processes, training
from tripletomics.checkpoint import keeping
from tripletomics.model import Model
from tripletomics.model.scoring import SCORED
from tripletomics.pcs import N_COMPONENTS
from tripletomics.samplers import shares
from tripletomics.tl import fitting
from tripletomics.tl.atlas import CHUNK, FIRST, of_rows, read_block
from tripletomics.tl.frames import Obs
from tripletomics.tl.origins import is_own, note_on_training, split_of, trained_on
from tripletomics.tl.places import Results, check_target, write
from tripletomics.tl.progress import steps_bar
from tripletomics.tl.stores import Rows, modernised, reading

if TYPE_CHECKING:
    from tripletomics.pp import Match
    from tripletomics.tl.stores import Group

# bytes and rows of a matrix that a fit takes whole, and of the sample of a larger one: the process takes up to 1.5 GB
BUDGET, MOST = 5 * 2**25, 300_000


class Sample(NamedTuple):
    """Cells in memory, the settings that are others for a sample, and which of all cells are held out."""

    adata: AnnData
    settings: dict[str, Any]
    held_out: np.ndarray | None  # None where all cells are in memory


def fit(
    path: Path,
    settings: Mapping[str, Any],
    out: Path | None = None,
    done: Callable[[Model], object] | None = None,
) -> Model:
    """Fit a model to a table on disk, and write what `tripletomics.fit` writes into it, or into a copy.

    Parameters
    ----------
    path
        An .h5ad file or a .zarr store.
    settings
        All arguments of `tripletomics.fit` but the first.
    out
        File to write, .h5ad; by default that which is read.
    done
        Called with the model before anything is written.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError, KeyError, OSError
        As `tripletomics.fit`. Nothing is written then.
    """
    if isinstance(settings["checkpoint"], (str, os.PathLike)):
        with keeping(settings["checkpoint"]) as kept:
            return fit(path, {**settings, "checkpoint": kept}, out, done)
    with modernised(path) as source:
        if source != path:
            return fit(source, settings, out or path, done)
    target, key = out or path, settings["key_added"]
    pp.check_key(key)
    pp.check_settings(*(settings[name] for name in (
        "structure", "spread", "dim", "metric_dim", "steps", "batch_size", "lr", "seed", "self_training"
    )))  # fmt: skip
    losses.make("softmax" if settings["loss"] is None else settings["loss"])  # what is wrong is said before any reading
    networks.make(settings["encoder"])
    augment.make(settings["augment"])
    names = f"{key}_metric", key, f"{key}_pca"
    with reading(path) as (root, var):
        rows = Rows(root, path, settings["layer"])
        needed = check_target(path, target, names, rows.n_obs, settings["metric_dim"] + settings["dim"] + N_COMPONENTS)
        sample = _read(rows, Obs(root, path), var, settings)
        n_obs = rows.n_obs
    adata, held_out = sample.adata, sample.held_out
    model = fitting.fit(adata, **{**settings, **sample.settings})
    widths = {name: adata.obsm[name].shape[1] for name in names}
    split = keys.split_key(key)
    if held_out is None:
        blocks = iter([(0, n_obs, {name: np.asarray(adata.obsm[name]) for name in names})])
        column = adata.obs[split].array
    else:
        model.settings |= {"hold_out": fitting.text(settings["hold_out"]), "cells": f"{adata.n_obs:,} of {n_obs:,}"}
        del adata, sample  # before the blocks take its place in memory
        match = pp.match_genes(AnnData(var=var), model.part().genes, "error", None, model.gene_weights(), 0)
        blocks = _place(path, settings["layer"], model, match, None, names, settings["progress"], known=True)
        column = pp.split_names(held_out)
    if processes.rank() == 0:  # the first of many processes writes
        if done:
            done(model)
        write(path, target, Results(n_obs, widths, blocks, {split: column}, {key: model.record()}), needed)
    return model


def transform(
    path: Path,
    model: Model,
    *,
    layer: str | None = None,
    missing: str = "error",
    alias: str | None = None,
    min_matched: float = 0.3,
    key_added: str = "X_tt",
    out: Path | None = None,
    progress: bool = True,
    stacklevel: int = 3,
) -> None:
    """Place the cells of a table on disk, and write what `tripletomics.transform` writes into it, or into a copy.

    Parameters
    ----------
    path
        An .h5ad file or a .zarr store.
    model, layer, missing, alias, min_matched, key_added
        As for `tripletomics.transform`.
    out
        File to write, .h5ad; by default that which is read.
    progress
        Show a progress bar.
    stacklevel
        Of the warnings.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError, KeyError, OSError
        As `tripletomics.transform`. Nothing is written then.
    """
    with modernised(path) as source:
        if source != path:
            transform(
                source, model, layer=layer, missing=missing, alias=alias, min_matched=min_matched, key_added=key_added,
                out=out or path, progress=progress, stacklevel=stacklevel + 1,
            )  # fmt: skip
            return
    target = out or path
    pp.check_key(key_added)
    if model.modalities:
        raise ValueError(
            f"The model has two modalities ({' and '.join(model.modalities)}), and a table on disk is placed by a "
            "model of one: read it, and pass the AnnData."
        )
    with reading(path) as (root, var):
        rows = Rows(root, path, layer)
        rows.check()
        old = list(cast(Any, root["obsm"]).keys()) if "obsm" in root else []
        first = rows.read(0, min(FIRST, rows.n_obs))
        n_obs = rows.n_obs
        named, before = _origin(root, path, key_added)
    weights = model.gene_weights()
    with of_rows(0, first.shape[0]):
        options = pp.QueryOptions(None, missing, alias, min_matched)
        query = pp.take_query(AnnData(first, var=var), model.part(), weights, options, stacklevel)
    match = pp.match_genes(AnnData(var=var), model.part().genes, missing, alias, weights, min_matched)
    widths = {f"{key_added}_metric": int(model.settings["metric_dim"]), key_added: int(model.settings["dim"])}
    if f"{key_added}_pca" in old:  # what an earlier fit wrote no longer belongs to these places
        widths[f"{key_added}_pca"] = len(model.part().axes)
    needed = check_target(path, target, widths, n_obs, sum(widths.values()))
    trained, same = None if model.seen is None else np.zeros(n_obs, dtype=bool), is_own(named, model, before)
    columns: dict[str, pd.Categorical[str]] = {}

    def blocks() -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
        yield from _place(path, layer, model, match, query.present, tuple(widths), progress, trained=trained)
        if trained is not None or (before is not None and not same):
            columns[keys.split_key(key_added)] = split_of(trained, n_obs, before if same else None)

    records = {} if same else {key_added: {"seen": model.id}}
    write(path, target, Results(n_obs, widths, blocks(), columns, records), needed)
    note_on_training(trained, stacklevel=stacklevel)


def _origin(root: Group, path: Path, key: str) -> tuple[str | None, Any]:
    """Return the id of the model that wrote places into a table, if it names one, and the split of its cells."""
    import anndata

    uns, obs, column = cast(Any, root.get("uns", {})), Obs(root, path), keys.split_key(key)
    record = cast(Any, uns.get(key, {}))
    named = str(anndata.io.read_elem(record["seen"])) if hasattr(record, "keys") and "seen" in record else None
    return named, obs.read(column).array if column in obs.obs else None


def settings_of(label: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of `tripletomics.fit` but the first, with the defaults of those that are not given."""
    bound = inspect.signature(fitting.fit).bind(None, label, **given)
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if name != "adata"}


def is_large(path: Path, layer: str | None) -> bool:
    """Tell whether a matrix takes more than a quarter of the machine's memory; one by genes (CSC) is read whole."""
    with reading(path) as (root, _):
        rows = Rows(root, path, layer)
        return not rows.by_genes and rows.n_obs * rows.bytes_of_a_row() > psutil.virtual_memory().total / 4


def _fits(rows: Rows) -> bool:
    return rows.n_obs <= MOST and rows.n_obs * rows.bytes_of_a_row() <= BUDGET


def _read(rows: Rows, obs: Obs, var: pd.DataFrame, settings: Mapping[str, Any]) -> Sample:
    """Read all cells, or a sample of those of a large table."""
    whole = _fits(rows)
    if not whole:
        rows.check()
    label, batch, layer, hold_out, seed = (settings[name] for name in ("label", "batch", "layer", "hold_out", "seed"))
    named = {"label": label, "batch": batch}
    if isinstance(hold_out, str):
        named["hold_out"] = hold_out if hold_out in obs.obs else hold_out.partition("=")[0]
    for argument, name in named.items():
        if name is not None:
            pp.column(cast(AnnData, obs), name, argument)
    frame = pd.DataFrame({name: obs.read(name) for name in dict.fromkeys(named.values()) if name is not None},
                         index=pd.RangeIndex(rows.n_obs))  # fmt: skip
    if whole:
        every = np.arange(rows.n_obs)
        x = rows.gather(every)
        return Sample(_table(x.tocsc() if rows.by_genes else x, obs, frame, every, var, layer), {}, None)
    codes = np.full(rows.n_obs, -1) if label is None else _encode(frame[label], settings["unlabelled"])
    held_out = pp.split(cast(AnnData, SimpleNamespace(obs=frame)), hold_out, codes, seed)
    sparse = rows.few()
    chosen = draw(codes, held_out, int(min(MOST, BUDGET // rows.bytes_of_a_row(sparse))), seed)
    changed: dict[str, Any] = {"hold_out": held_out[chosen]}  # and what would follow from the number of cells
    if settings["steps"] is None:
        changed["steps"] = training.default_steps(int((~held_out).sum()))
    if settings["loss"] is None:
        changed["loss"] = fitting.default_loss(codes[~held_out])
    return Sample(_table(rows.gather(chosen, sparse), obs, frame, chosen, var, layer), changed, held_out)


def draw(codes: np.ndarray, held_out: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Draw the cells of a large table that a model is fitted to and scored on.

    Parameters
    ----------
    codes
        Codes (cells,), -1 for unlabelled.
    held_out
        Boolean (cells,). Of these up to 5,000 are drawn, as for the scores: labelled ones, if there are any.
    most
        Cells in all. The training cells have an equal share for each type, and as many without a label as among all,
        but not more than half.
    seed
        For the draw.

    Returns
    -------
    Rows in ascending order.
    """
    random = np.random.default_rng([seed, 6])
    labelled = held_out & (codes >= 0)
    asked = random.permutation(np.flatnonzero(labelled if labelled.any() else held_out))
    drawn = [asked[: min(SCORED, most // 4)]]
    left = most - len(drawn[0])
    unlabelled = np.flatnonzero(~held_out & (codes < 0))
    sizes = np.bincount(codes[~held_out & (codes >= 0)])
    n = min(round(left * min(len(unlabelled) / (~held_out).sum(), 0.5)), left)
    n = min(max(n, left - int(sizes.sum())), len(unlabelled))
    drawn.append(random.permutation(unlabelled)[:n])
    for kind, share in enumerate(shares(sizes.tolist(), left - n)):
        drawn.append(random.permutation(np.flatnonzero(~held_out & (codes == kind)))[:share])
    return np.sort(np.concatenate(drawn))


def _encode(values: pd.Series, unlabelled: tuple[str, ...]) -> np.ndarray:
    """Return the codes of `labels.encode`, from those of categories: no text for each cell of a large table."""
    kinds = values.astype("category").cat.remove_unused_categories().cat
    codes, _ = labels.encode(pd.Series(kinds.categories), unlabelled)
    return np.append(codes, -1)[kinds.codes]


def _table(x: Any, obs: Obs, frame: pd.DataFrame, rows: np.ndarray, var: pd.DataFrame, layer: str | None) -> AnnData:
    """Make a table of rows; a refusal lists all columns, and those that nothing needs are there without values."""
    empty = pd.Categorical.from_codes(np.full(len(rows), -1, dtype=np.int8), pd.Index([""]))
    others = pd.DataFrame({name: empty for name in obs.obs if name not in frame}, index=rows)
    columns = pd.concat([frame.iloc[rows], others], axis=1).set_axis(pd.Index(obs.names(rows), dtype=object))
    return AnnData(x, columns, var) if layer is None else AnnData(obs=columns, var=var, layers={layer: x})


def _place(
    path: Path, layer: str | None, model: Model, match: Match, present: np.ndarray | None, keys: tuple[str, ...],
    progress: bool, known: bool = False, trained: np.ndarray | None = None,
) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:  # fmt: skip
    """Yield the places of all rows: metric space, map and, if there is a third key, principal components.

    Which cells the model was trained on is written into `trained`.
    """
    with reading(path) as (root, var):
        rows = Rows(root, path, layer)
        starts = range(0, rows.n_obs, CHUNK)
        with steps_bar(len(starts), progress) as step:
            for start in starts:
                stop = min(start + CHUNK, rows.n_obs)
                step(f"rows {start:,} to {stop - 1:,}")
                x = read_block(rows, var, start, stop, match, model, known)
                if trained is not None:
                    trained[start:stop] = trained_on(model, x)
                found = [*model.place(x, present)]
                if len(keys) > 2:
                    found.append(model.pcs(x, present))
                yield start, stop, dict(zip(keys, found, strict=True))

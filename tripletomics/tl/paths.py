"""`fit`, `transform_shard` and `convert` for datasets that stay on disk, given by their paths."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tripletomics.tl.progress import stage, steps_bar

if TYPE_CHECKING:
    from tripletomics.model import Model
    from tripletomics.problem import Settings
    from tripletomics.store.sampling import Drawn
    from tripletomics.store.writing import Block


MOST_DIMENSIONS = 3  # of a map


class Placed(NamedTuple):
    """The rows of a shard, from `start` to before `stop`, and how many of them were embedded now."""

    start: int
    stop: int
    now: int


def is_large(path: Path, layer: str | None, use_rep: str | None = None) -> bool:
    """Return whether the matrix of a dataset stays on disk in a fit."""
    from tripletomics.store.reading import Rows, open_to_read
    from tripletomics.store.sampling import is_large

    with open_to_read(path) as (root, _):
        return is_large(Rows(root, path, layer, use_rep=use_rep))


@contextmanager
def open_fit(path: Path, given: Mapping[str, Any], out: Path | None = None) -> Iterator[DiskFit]:
    """Open a dataset on disk for a fit: yield the fit, with its cells in memory, which also writes the results.

    Parameters
    ----------
    path
        An .h5ad file or a .zarr store.
    given
        Arguments of `tripletomics.fit`.
    out
        File to write, .h5ad; by default that which is read.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError, KeyError, OSError
        As `tripletomics.fit`. Nothing is written then.
    """
    from tripletomics.store.reading import upgraded

    with upgraded(path) as source:
        yield DiskFit(source, out or path, given)


class DiskFit:
    """A fit of a dataset on disk.

    Attributes
    ----------
    in_memory
        Arguments of `tripletomics.fit` in place of those that were given: the cells, or a sample of those of a large
        dataset, its held-out cells, and what follows from the number of all cells.
    """

    def __init__(self, path: Path, target: Path, given: Mapping[str, Any]) -> None:
        from tripletomics import keys
        from tripletomics.pcs import N_COMPONENTS
        from tripletomics.problem import Settings
        from tripletomics.store import sampling, writing
        from tripletomics.store.frames import Obs
        from tripletomics.store.reading import open_rows, open_to_read

        self.path, self.target = path, target
        self.settings, self.progress = Settings.of(given), given.get("progress", True)
        self.key = self.settings.key_added
        self.names = keys.metric_key(self.key), self.key, keys.pca_key(self.key)
        with open_to_read(path) as (root, var):
            rows, var = open_rows(root, path, var, self.settings.layer, self.settings.use_rep)
            width = self.settings.metric_dim + MOST_DIMENSIONS + N_COMPONENTS
            self.needed = writing.check_target(path, target, self.names, rows.n_obs, width)
            if given.get("init") is not None and sampling.is_large(rows):
                raise ValueError(
                    f"{str(path)!r} is so large that a fit would see a sample of it, and with init= it must see every "
                    "cell, so that none is in the model already: grow by a part of it in memory, and transform the "
                    "rest."
                )
            obs = Obs(root, path)
            adata, self.drawn = sampling.read_sample(rows, obs, var, self.settings)
            self.published = sampling.read_published(root, obs, adata, self.drawn, self.settings)
            self.n_obs = rows.n_obs
        self.in_memory = {"adata": adata} | (settings_of_sample(self.drawn, self.settings) if self.drawn else {})

    def write(self, model: Model, before: Callable[[Model], object] | None = None) -> Model:
        """Write what `tripletomics.fit` writes, of all cells, and return the model; first call `before` with it."""
        import numpy as np

        from tripletomics import keys, pp, processes
        from tripletomics.problem import as_text
        from tripletomics.store.writing import Block, Results, write

        adata, split = self.in_memory.pop("adata"), keys.split_key(self.key)
        widths = {name: adata.obsm[name].shape[1] for name in self.names}
        if self.drawn is None:
            blocks = iter([Block(0, self.n_obs, {name: np.asarray(adata.obsm[name]) for name in self.names})])
            column = adata.obs[split].array
        else:
            cells = f"{adata.n_obs:,} of {self.n_obs:,}"
            model.settings |= {"hold_out": as_text(self.settings.hold_out), "cells": cells}
            blocks, column = self._embed(model), pp.split_names(self.drawn.held_out)
        del adata  # before the blocks need memory
        if processes.rank() == 0:  # the first of many processes writes
            if before:
                before(model)
            results = Results(self.n_obs, widths, blocks, {split: column}, {self.key: model.record()})
            write(self.path, self.target, results, self.needed)
        return model

    def _embed(self, model: Model) -> Iterator[Block]:
        """Yield the coordinates of all rows."""
        import numpy as np
        from anndata import AnnData

        from tripletomics import pp
        from tripletomics.store.placing import blocks_of, embed_blocks
        from tripletomics.store.reading import open_rows, open_to_read

        with open_to_read(self.path) as (root, var):
            rows, var = open_rows(root, self.path, var, self.settings.layer, self.settings.use_rep)
            match = pp.match_genes(AnnData(var=var), model.part().genes, "error", None, model.gene_weights(), 0)
            blocks = blocks_of(rows.n_obs)
            with steps_bar(len(blocks), self.progress) as step:
                for block in embed_blocks(rows, var, model, match, self.key, blocks, step=step, pcs=True, fitted=True):
                    if self.published is not None:  # also training cells that the sample lacks keep their coordinates
                        given, learned = self.published[block.start : block.stop], block.coordinates[self.key]
                        kept = {self.key: np.where(np.isnan(given), learned, given)}
                        block = block._replace(coordinates={**block.coordinates, **kept})
                    yield block


def settings_of_sample(drawn: Drawn, settings: Settings) -> dict[str, Any]:
    """Return the settings that differ for a sample: its held-out cells, and what follows from the whole dataset."""
    from tripletomics import training
    from tripletomics.losses import Loss, make
    from tripletomics.losses.defaults import default_loss

    changed: dict[str, Any] = {"hold_out": drawn.held_out[drawn.rows]}
    loss: Loss | str | None = settings.loss
    if loss is None and not drawn.has_loss and (drawn.codes >= 0).any():
        loss = changed["loss"] = default_loss(drawn.codes[~drawn.held_out])
    if settings.steps is None:
        pace = Loss.pace if loss is None else make(loss).pace
        changed["steps"] = training.default_steps(int((~drawn.held_out).sum()), pace)
    return changed


def transform_shard(
    path: Path,
    model: Path,
    shard: str,
    *,
    layer: str | None = None,
    use_rep: str | None = None,
    missing: Literal["error", "zero", "impute"] = "error",
    alias: str | None = None,
    min_matched: float = 0.3,
    key_added: str = "X_tt",
    progress: bool = True,
) -> Placed:
    """Embed the rows of one shard of a .zarr store, and write their coordinates into the store.

    Parameters
    ----------
    path
        Store that `AnnData.write_zarr` wrote; `.X` (or `layer`) is CSR or dense.
    model
        File that `Model.save` wrote, of one modality.
    shard
        "i/N": the i-th of N parts of the rows, i from 1 to N. A part may have no rows.
    layer, use_rep, missing, alias, min_matched, key_added, progress
        As for `tripletomics.transform`.

    Returns
    -------
    Which rows the shard has. Written to the store, in the order of its rows; a row that no shard has reached is NaN:

    ``obsm["X_tt"]``
        The map, float32 (cells, dim).
    ``obsm["X_tt_metric"]``
        The metric space, float32 (cells, metric_dim).
    ``uns["X_tt"]``
        ``{"seen": model.id}``. No split is written: `transform` of the cells in memory, or of the path, writes one.

    Raises
    ------
    FileNotFoundError, PermissionError
        If there is no such store or model, or the store is read-only.
    KeyError
        If there is no such layer, embedding or column.
    OSError
        If the disk is too small, or fills up.
    ValueError
        If the shard is out of range, the store or a chunk of it cannot be read, the coordinates there are those of
        another model, or as for `transform`. Chunks that were written before are kept, and the next run continues after
        them.
    """
    from rich.filesize import decimal

    from tripletomics import files, pp
    from tripletomics.store.placing import blocks_of, embed_blocks, match_rows
    from tripletomics.store.reading import open_rows, open_to_write
    from tripletomics.store.shards import SharedArrays, parse
    from tripletomics.store.writing import CHUNK_ROWS

    part, parts = parse(shard)
    pp.check_key(key_added)
    root, var = open_to_write(path)
    made_by = {"model": _digest(model), "layer": layer, "missing": missing, "alias": alias}
    fitted, options = _load(model), pp.QueryOptions(layer, missing, alias, min_matched, use_rep)
    made_by["use_rep"] = use_rep = options.embedding(fitted, key_added)
    rows, var = open_rows(root, path, var, layer, use_rep, fitted.part().genes)
    rows.check()
    target = SharedArrays(root, path, key_added, made_by | {"cells": rows.n_obs, "chunk": CHUNK_ROWS})
    blocks = blocks_of(rows.n_obs)
    first, last = ((part - i) * len(blocks) // parts for i in (1, 0))
    start, stop = first * CHUNK_ROWS, min(last * CHUNK_ROWS, rows.n_obs)
    left = [block for i, block in enumerate(blocks) if not target.is_done(i)]
    todo = [block for block in left if start <= block.start < stop]
    if not todo:
        return Placed(start, stop, 0)
    target.check_origin(fitted.id)
    query = match_rows(rows, var, fitted, todo[0].start, options)
    widths = {name: int(fitted.settings[dim]) for name, dim in zip(target.names, ("metric_dim", "dim"), strict=True)}
    needed = sum(widths.values()) * 4 * sum(map(len, left))
    files.check_room(path, needed, f"The coordinates that are not written yet take up to {decimal(needed)} in all")
    with files.filling(path, needed, "What is written is kept: make room and run the same command again."):
        target.create(rows.n_obs, widths, fitted.id)
        with steps_bar(len(todo), progress) as step:
            for block in embed_blocks(
                rows, var, fitted, query.match, key_added, todo, step=step, present=query.present
            ):
                target.write(block)
        target.publish()  # another process may have listed the arrays before these were made
    return Placed(start, stop, sum(map(len, todo)))


def _digest(model: Path) -> str:
    if not model.is_file():
        raise FileNotFoundError(f"There is no model file {str(model)!r}.")
    with model.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(path: Path) -> Model:
    from tripletomics.model import load

    model = load(path)
    if model.modalities:
        raise ValueError(
            f"{str(path)!r} is a model of two modalities, and a store is embedded by a model of one: fit a model of "
            "the store's modality, or embed a .h5mu file with --out."
        )
    return model


def convert(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    group_by: str | None = None,
    force: bool = False,
    progress: bool = True,
) -> None:
    """Write a dataset on disk as a .zarr store by rows, which can be fitted and embedded without reading it whole.

    Parameters
    ----------
    path
        An .h5ad file or a .zarr store, by rows (CSR), by genes (CSC) or dense. It is not changed.
    out
        Store to write, .zarr.
    group_by
        Column of `obs`. Cells of one group are then stored together: groups in the order of the categories or sorted,
        the cells of each in their old order, and those without a group last.
    force
        Replace a store that is there already, once the new one is complete.
    progress
        Show a progress bar in a terminal or notebook.

    Returns
    -------
    None. The store holds `obs`, `var`, `uns`, `raw` and all matrices of the dataset: by rows, CSR where they were
    sparse. `.X` and layers that were dense are CSR if two thirds of their values are 0. A part of a matrix, up to 128
    MB, is read at a time; with `group_by`, or from a matrix by genes, this takes several passes over it.

    Raises
    ------
    KeyError
        If there is no such column.
    FileExistsError, FileNotFoundError, PermissionError, OSError
        If `out` is there already (without `force`), a path does not exist or may not be used, or the disk fills up.
        Nothing is left then.
    ValueError
        If the dataset, or a part of it, cannot be read, or `out` does not end in .zarr.
    """
    from tripletomics.store.conversion import write_by_rows

    with stage(f"writing {str(out)!r}", progress):
        write_by_rows(Path(path), Path(out), group_by, force)

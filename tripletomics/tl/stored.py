"""`transform` and `predict` for datasets that stay on disk, given by their paths: block by block, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from tripletomics.labels import COVERAGE, REJECT
from tripletomics.tl.paths import Placed
from tripletomics.tl.progress import steps_bar

if TYPE_CHECKING:
    from anndata import AnnData

    from tripletomics.model import Model
    from tripletomics.pp import QueryOptions
    from tripletomics.store.parts import Parts
    from tripletomics.store.writing import Block
    from tripletomics.tl.labelling import Labelling

QUERY = ("layer", "missing", "alias", "min_matched", "use_rep")  # keywords about the cells that are read


def transform(
    path: Path,
    model: Model,
    *,
    layer: str | None = None,
    use_rep: str | None = None,
    missing: str = "error",
    alias: str | None = None,
    min_matched: float = 0.3,
    key_added: str = "X_tt",
    out: Path | None = None,
    progress: bool = True,
) -> None:
    """Embed the cells of a dataset on disk, and write what `tripletomics.transform` writes into it, or into a copy.

    Parameters
    ----------
    path
        An .h5ad file or a .zarr store.
    model, layer, use_rep, missing, alias, min_matched, key_added
        As for `tripletomics.transform`.
    out
        File to write, .h5ad; by default that which is read.
    progress
        Show a progress bar.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError, KeyError, OSError
        As `tripletomics.transform`. Nothing is written then.
    """
    from tripletomics import pp

    options = pp.QueryOptions(layer, missing, alias, min_matched, use_rep)
    embed(path, model, options, key_added, out=out, progress=progress)


def predict(path: Path, model: Model, given: Mapping[str, Any], *, out: Path | None = None) -> None:
    """Label the cells of a dataset on disk, and write what `tripletomics.predict` writes into it, or into a copy.

    Parameters
    ----------
    path, model, out
        As for `transform`.
    given
        Arguments of `tripletomics.predict`, by name.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError, KeyError, OSError
        As `tripletomics.predict`. Nothing is written then.
    """
    from tripletomics import pp
    from tripletomics.tl.labelling import Labelling

    asked = Labelling(model, **{name: given[name] for name in ("reject", "coverage", "fdr", "groups")})
    options = pp.QueryOptions(**{name: given[name] for name in QUERY})
    embed(path, model, options, given["key_added"], out=out, progress=given["progress"], asked=asked)


def embed(
    path: Path, model: Model, options: QueryOptions, key: str, *, out: Path | None = None, progress: bool = True,
    asked: Labelling | None = None,
) -> None:  # fmt: skip
    """Embed the cells of a dataset on disk, and label them where that is `asked`; see `transform` and `predict`."""
    from tripletomics import keys, pp
    from tripletomics.model.summary import origin
    from tripletomics.store.frames import Obs, read_seen
    from tripletomics.store.placing import blocks_of, embed_blocks, match_rows
    from tripletomics.store.reading import open_rows, open_to_read, upgraded
    from tripletomics.store.writing import Results, check_target, write
    from tripletomics.tl.origins import Training, is_own

    _check(model, key)
    use_rep = options.embedding(model, key)
    reads = options.layer, use_rep, model.part().genes
    split, pcs = keys.split_key(key), keys.pca_key(key)
    widths = {keys.metric_key(key): int(model.settings["metric_dim"]), key: int(model.settings["dim"])}
    with upgraded(path) as source:
        with open_to_read(source) as (root, var):
            rows, var = open_rows(root, source, var, *reads)
            obs = Obs(root, source)
            if asked is not None and asked.groups is not None:
                pp.column(cast("AnnData", obs), asked.groups, "groups")
                asked.group(obs.read(asked.groups))
            rows.check()
            query = match_rows(rows, var, model, 0, options)
            before = obs.read(split).array if split in obs.obs else None
            own = is_own(read_seen(root, key), model, before)
            if f"obsm/{pcs}" in root:  # those of an earlier fit do not belong to the new coordinates
                widths[pcs] = len(model.part().axes)
            reading = replace(options, use_rep=use_rep)
            parts = None if asked is None else _parts_to_join(path, key, asked, reading, rows.n_obs, pcs in widths)
        n_bytes = 1 if asked is None else asked.column_bytes
        needed = check_target(source, out or path, widths, rows.n_obs, sum(widths.values()) + n_bytes // 4)
        training = Training(model, rows.n_obs, before, own)
        columns: dict[str, Any] = {}
        records: dict[str, object] = {} if own else {key: origin(model)}

        def embedded() -> Iterator[Block]:
            blocks = blocks_of(rows.n_obs)
            with open_to_read(source) as (root, genes), steps_bar(len(blocks), progress) as step:
                again, var = open_rows(root, source, genes, *reads)
                made = embed_blocks(
                    again, var, model, query.match, key, blocks, step=step, present=query.present,
                    pcs=pcs in widths, place=None if asked is None else asked.place,
                )  # fmt: skip
                for block in made if parts is None or asked is None else _joined(parts, asked, blocks, step):
                    if asked is None:
                        training.see(block)
                    yield block
            labelled, record = ({}, {}) if asked is None else asked.on_disk(keys.prefix(key), query, use_rep)
            if asked is not None:
                training.trained = asked.trained
            columns.update(labelled | training.split(split))  # in the order of cells in memory
            records.update(record)

        stale = () if asked is None else [f"{keys.prefix(key)}_{name}" for name in asked.stale]
        results = Results(rows.n_obs, widths, embedded(), columns, records, stale=stale, column_bytes=n_bytes)
        write(source, out or path, results, needed)
    if parts is not None:
        parts.delete()
    training.note()


def _check(model: Model, key: str) -> None:
    """Raise unless a dataset on disk can be embedded by a model, under a key."""
    from tripletomics import pp

    pp.check_key(key)
    if model.modalities:
        raise ValueError(
            f"The model has two modalities ({' and '.join(model.modalities)}), and a dataset on disk is embedded by "
            "a model of one: read it, and pass the AnnData."
        )


def is_begun(path: Path, key: str) -> bool:
    """Return whether `predict_shard` has written parts of a dataset that were not joined."""
    from tripletomics.store.parts import Parts

    return Parts(path, key).begun


def _parts_to_join(path: Path, key: str, asked: Labelling, options: QueryOptions, n: int, pcs: bool) -> Parts | None:
    """Return the parts of a dataset, None if there are none; raise if what is asked cannot be made of them."""
    from tripletomics.store.parts import Parts
    from tripletomics.store.placing import blocks_of

    parts = Parts(path, key)
    if not parts.begun:
        return None
    for name, value in {"groups": asked.groups, "fdr": asked.fdr}.items():
        if value is not None:
            raise ValueError(
                f"{name}={value!r} looks at all cells at once, and the parts in {str(parts.folder)!r} do not hold "
                f"what it needs: leave {name} out, or delete the folder to label all cells in one process."
            )
    parts.check(_made_by(path, asked, options, n, pcs))
    parts.check_complete(blocks_of(n))
    return parts


def _made_by(path: Path, asked: Labelling, options: QueryOptions, n: int, pcs: bool) -> dict[str, Any]:
    """Return what determines the parts of a dataset, by the words of a message."""
    about = path.stat()
    return {
        "model": asked.model.id, "reject": asked.reject, "coverage": asked.coverage, "layer": options.layer,
        "use_rep": options.use_rep, "missing": options.missing, "alias": options.alias, "cells": n,
        "choice of components": pcs, "file": None if path.is_dir() else [about.st_size, about.st_mtime_ns],
    }  # fmt: skip


def _joined(parts: Parts, asked: Labelling, blocks: Sequence[range], step: Callable[[str], None]) -> Iterator[Block]:
    """Yield the blocks that `predict_shard` has written, and take their labels."""
    from tripletomics.store.writing import Block

    for block in blocks:
        step(f"rows {block.start:,} to {block.stop - 1:,}")
        part = parts.read(block)
        asked.take(dict(part.columns), part.flags)
        yield Block(block.start, block.stop, part.coordinates)


def predict_shard(
    path: Path,
    model: Path,
    shard: str,
    *,
    reject: float = REJECT,
    coverage: float = COVERAGE,
    layer: str | None = None,
    use_rep: str | None = None,
    missing: Literal["error", "zero", "impute"] = "error",
    alias: str | None = None,
    min_matched: float = 0.3,
    key_added: str = "X_tt",
    progress: bool = True,
) -> Placed:
    """Label the rows of one shard of a dataset on disk, for `tripletomics.predict` of its path to join.

    Parameters
    ----------
    path
        An .h5ad file or a .zarr store. It is not changed.
    model
        File that `Model.save` wrote, of one modality.
    shard
        "i/N": the i-th of N parts of the rows, i from 1 to N. A part may have no rows.
    reject, coverage, layer, use_rep, missing, alias, min_matched, key_added, progress
        As for `tripletomics.predict`.

    Returns
    -------
    Which rows the shard has. They are written, a file for each 8,192 of them, into a folder next to the dataset, such
    as ``cells.zarr.tt-parts``. Once all rows are there, `tripletomics.predict` of the path with the same arguments
    joins them, writes what it writes without shards, and deletes the folder.

    Raises
    ------
    FileNotFoundError, PermissionError
        If there is no such dataset or model, or the folder of the dataset is read-only.
    KeyError
        If there is no such layer, embedding or column.
    OSError
        If the disk is too small, or fills up.
    ValueError
        If the shard is out of range, the dataset cannot be read, the parts there were made in another way, or as for
        `predict`. Blocks that were written before are kept, and the next run continues after them.
    """
    from rich.filesize import decimal

    from tripletomics import files, keys, pp
    from tripletomics.model import load
    from tripletomics.store.parts import Part, Parts
    from tripletomics.store.placing import blocks_of, embed_blocks, match_rows
    from tripletomics.store.reading import open_rows, open_to_read, upgraded
    from tripletomics.store.shards import parse
    from tripletomics.tl.labelling import Labelling

    part, n_parts = parse(shard)
    pp.check_key(key_added)
    fitted = load(model)
    _check(fitted, key_added)
    asked = Labelling(fitted, reject=reject, coverage=coverage, fdr=None, groups=None)
    options = pp.QueryOptions(layer, missing, alias, min_matched, use_rep)
    options = replace(options, use_rep=options.embedding(fitted, key_added))
    with upgraded(path) as source, open_to_read(source) as (root, genes):
        rows, var = open_rows(root, source, genes, layer, options.use_rep, fitted.part().genes)
        rows.check()
        blocks, pcs = blocks_of(rows.n_obs), f"obsm/{keys.pca_key(key_added)}" in root
        mine = blocks[(part - 1) * len(blocks) // n_parts : part * len(blocks) // n_parts]
        if not mine:
            return Placed(0, 0, 0)
        parts = Parts(path, key_added)
        made_by = _made_by(path, asked, options, rows.n_obs, pcs)
        if parts.begun:
            parts.check(made_by)
        todo = [block for block in mine if not parts.is_done(block)]
        if todo:
            query = match_rows(rows, var, fitted, todo[0].start, options)
            width = int(fitted.settings["metric_dim"]) + int(fitted.settings["dim"]) + pcs * len(fitted.part().axes)
            needed = sum(map(len, todo)) * (4 * width + asked.column_bytes)
            files.check_room(parts.folder.parent, needed, f"The labels and coordinates take up to {decimal(needed)}")
            parts.begin(made_by)
            with steps_bar(len(todo), progress) as step:
                found = embed_blocks(
                    rows, var, fitted, query.match, key_added, todo, step=step, present=query.present, pcs=pcs,
                    place=asked.place,
                )  # fmt: skip
                for block, made in zip(todo, found, strict=True):
                    parts.write(block, Part(*asked.release(), made.coordinates))
    return Placed(mine[0].start, mine[-1].stop, sum(map(len, todo)))

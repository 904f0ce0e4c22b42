"""`transform` and `predict` for datasets that stay on disk, given by their paths: block by block, all or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tripletomics.tl.progress import steps_bar

if TYPE_CHECKING:
    from anndata import AnnData

    from tripletomics.model import Model
    from tripletomics.pp import QueryOptions
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


def predict(
    path: Path, model: Model, given: Mapping[str, Any], *, out: Path | None = None, progress: bool = True
) -> None:
    """Label the cells of a dataset on disk, and write what `tripletomics.predict` writes into it, or into a copy.

    Parameters
    ----------
    path, model, out, progress
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
    embed(path, model, options, given["key_added"], out=out, progress=progress, asked=asked)


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

    pp.check_key(key)
    if model.modalities:
        raise ValueError(
            f"The model has two modalities ({' and '.join(model.modalities)}), and a dataset on disk is embedded by "
            "a model of one: read it, and pass the AnnData."
        )
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
        n_bytes = 1 if asked is None else asked.column_bytes
        needed = check_target(source, out or path, widths, rows.n_obs, sum(widths.values()) + n_bytes // 4)
        training = Training(model, rows.n_obs, before, own)
        columns: dict[str, Any] = {}
        records: dict[str, object] = {} if own else {key: origin(model)}

        def embedded() -> Iterator[Block]:
            blocks = blocks_of(rows.n_obs)
            with open_to_read(source) as (root, genes), steps_bar(len(blocks), progress) as step:
                again, var = open_rows(root, source, genes, *reads)
                for block in embed_blocks(
                    again, var, model, query.match, key, blocks, step=step, present=query.present,
                    pcs=pcs in widths, place=None if asked is None else asked.place,
                ):  # fmt: skip
                    training.see(block)
                    yield block
            columns.update(training.split(split))
            if asked is not None:
                labelled, record = asked.on_disk(keys.prefix(key), query, use_rep)
                columns.update(labelled)
                records.update(record)

        stale = () if asked is None else [f"{keys.prefix(key)}_{name}" for name in asked.stale]
        results = Results(rows.n_obs, widths, embedded(), columns, records, stale=stale, column_bytes=n_bytes)
        write(source, out or path, results, needed)
    training.note()

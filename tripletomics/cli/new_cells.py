"""Commands for new cells: `transform` and `predict`."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tripletomics import files, tl
from tripletomics.cli.answers import Answer, written
from tripletomics.cli.inputs import Source
from tripletomics.cli.options import OUT, Input, Obs, OnlyResults, Transpose, check_out, options_of
from tripletomics.cli.printing import mapping_sentences, print_types, say, say_written, types_of
from tripletomics.cli.reading import check_room_for, write
from tripletomics.cli.results import Written, hinting
from tripletomics.keys import DEFAULT_KEY, metric_key, prefix
from tripletomics.tl.paths import Placed
from tripletomics.tl.progress import stage

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from tripletomics.store.writing import Results


@options_of(tl.transform)
def transform(  # noqa: D103
    input: Input,
    /,
    *,
    model: Annotated[Path, Parameter(help="Model that `fit` wrote, .tt.")],
    out: Annotated[Path | None, Parameter(help=f"{OUT} Not with `--shard`.")] = None,
    only_results: OnlyResults = None,
    obs: Obs = None,
    transpose: Transpose = False,
    shard: Annotated[
        str | None,
        Parameter(
            help="i/N: embed the i-th of N parts of the rows of a .zarr store, and write the coordinates into it. If a "
            "run was stopped, the same command continues it."
        ),
    ] = None,
    **settings: Any,
) -> Answer:
    if shard is not None:
        _check_shard("into", out=out, only_results=only_results, obs=obs, transpose=transpose)
        return _transform_shard(input, model, shard, settings)
    source, stored_by_rows = Source(input, obs=obs, transpose=transpose), input.suffix == ".zarr"
    if stored_by_rows and only_results is None:
        raise ValueError(
            f"Coordinates of {str(input)!r} are written into it: pass --shard 1/1, or i/N to each of N processes."
        )
    target = check_out(source, out, only_results)
    source.check()
    from tripletomics.model import load

    fitted = load(model)
    from tripletomics.tl import stored

    use_rep = settings.get("use_rep") or fitted.features.parts[0].use_rep
    if stored_by_rows or (not fitted.modalities and source.is_large(settings.get("layer"), use_rep)):
        stored.transform(input, fitted, out=target, **settings)
    else:
        cells = source.read()
        check_room_for(target, cells)
        tl.transform(cells, fitted, **settings)
        with stage(f"writing {str(target)!r}", settings.get("progress", True)):
            write(cells, target, input, settings.get("key_added", DEFAULT_KEY))
    return Answer({"written": written(target), "model": fitted.id}, lambda: say_written(target))


def _check_shard(where: str, **given: Any) -> None:
    """Raise if an option is given that does not go with `--shard`."""
    for name, value in given.items():
        if value:
            raise ValueError(f"--shard writes {where} INPUT: leave --{name.replace('_', '-')} out.")


def _transform_shard(store: Path, model: Path, shard: str, settings: dict[str, Any]) -> Answer:
    """Embed a part of the rows of a store, and print which."""
    if store.suffix != ".zarr":
        raise ValueError(
            f"--shard is for .zarr stores, and {str(store)!r} is not one: write it with adata.write_zarr, or leave "
            "--shard out and name --out."
        )
    with hinting("the rows that are written are kept, and the same command continues after them"):
        placed = tl.transform_shard(store, model, shard, **settings)
    key = settings.get("key_added", DEFAULT_KEY)
    said = (
        f"Rows {placed.start:,} to {placed.stop - 1:,} of {store} have coordinates in obsm[{key!r}] and "
        f"obsm[{metric_key(key)!r}], {placed.now:,} of them from this run."
    )
    return _of_shard(placed, shard, said, f"embed {str(store)!r}")


def _of_shard(placed: Placed, shard: str, said: str, work: str) -> Answer:
    """Return which rows of a shard are done."""
    if placed.start == placed.stop:
        said = f"Shard {shard} has no rows: use fewer shards to {work}."
    return Answer({"shard": shard, **placed._asdict(), "summary": said}, lambda: say(said))


@options_of(tl.predict)
def predict(  # noqa: D103
    input: Input,
    /,
    *,
    model: Annotated[Path, Parameter(help="Model that `fit` wrote, .tt.")],
    out: Annotated[
        Path | None, Parameter(help=f"{OUT} Leave it out for a .zarr store, which gets the results itself.")
    ] = None,
    only_results: OnlyResults = None,
    obs: Obs = None,
    transpose: Transpose = False,
    figure: Annotated[Path | None, Parameter(help="Figure to write, .png: the cells over the reference map.")] = None,
    shard: Annotated[
        str | None,
        Parameter(
            help="i/N: label the i-th of N parts of the rows, into a folder next to INPUT. Then the same command "
            "without it joins all parts. If a run was stopped, the same command continues it."
        ),
    ] = None,
    **settings: Any,
) -> Answer:
    if shard is not None:
        _check_shard("next to", out=out, only_results=only_results, obs=obs, transpose=transpose, figure=figure)
        return _predict_shard(input, model, shard, settings)
    source = Source(input, obs=obs, transpose=transpose, names=(settings.get("groups"),))
    target = _check_predict(source, out, only_results, figure)
    from tripletomics.model import load

    fitted = load(model)
    from tripletomics.tl import stored

    key, done = settings.get("key_added", DEFAULT_KEY), Written()
    use_rep = settings.get("use_rep") or fitted.features.parts[0].use_rep
    begun = stored.is_begun(input, key)
    if begun and (figure is not None or obs is not None):
        raise ValueError(
            f"--{'obs' if figure is None else 'figure'} needs the cells, and the parts of {str(input)!r} are joined "
            "without them: leave it out."
        )
    large = source.is_large(settings.get("layer"), use_rep)
    stored_by_rows = input.suffix == ".zarr"
    if target is None or stored_by_rows or begun or (large and figure is None and not fitted.modalities):
        usual = {name: option.default for name, option in inspect.signature(tl.predict).parameters.items()}
        cells = _labelled(input, stored.predict(input, fitted, usual | settings, out=target), settings.get("groups"))
    else:
        cells = source.read()
        check_room_for(target, cells)
        tl.predict(cells, fitted, **settings)
        if figure is not None:
            os.environ.setdefault("MPLBACKEND", "agg")  # the figure goes to a file
            from tripletomics import pl

            done.try_to(figure, lambda: pl.save(pl.mapping(cells, fitted, basis=key, show=False), figure))
        with stage(f"writing {str(target)!r}", settings.get("progress", True)):
            done.try_to(target, lambda: write(cells, target, input, key))
        done.check()
    return _answer(cells, prefix(key), str(settings.get("groups")), [target or input, figure])


def _answer(cells: AnnData | MuData, name: str, groups: str, paths: list[Path | None]) -> Answer:
    """Return what was predicted, and the files that were written."""
    mapping = cells.uns[f"{name}_mapping"]
    said = "\n".join(mapping_sentences(cells, name, groups))
    typed = "rejected" in mapping

    def show() -> None:
        if typed:
            print_types(cells, name)
        say(said, aside=True)
        say_written(*paths, aside=True)

    record = {"types": types_of(cells, name) if typed else [], "mapping": mapping, "summary": said}
    return Answer({**record, "written": written(*paths)}, show)


def _labelled(path: Path, results: Results, groups: str | None) -> AnnData:
    """Return what was written about the cells of a dataset on disk, and their groups, without their values."""
    import anndata
    import pandas as pd

    from tripletomics.store.frames import Obs
    from tripletomics.store.reading import open_to_read, upgraded

    columns = dict(results.columns)
    if groups is not None:
        with upgraded(path) as source, open_to_read(source) as (root, _):
            columns[groups] = Obs(root, path).read(groups).array
    table = pd.DataFrame(columns)
    return anndata.AnnData(obs=table.set_axis(table.index.astype(str), axis=0), uns=dict(results.records))


def _predict_shard(cells: Path, model: Path, shard: str, settings: dict[str, Any]) -> Answer:
    """Label a part of the rows of a dataset, and print which."""
    for name in ("fdr", "groups"):
        if settings.pop(name, None) is not None:
            raise ValueError(
                f"--{name} looks at all cells at once, and a shard has a part of them: leave --shard out, or --{name}."
            )
    with hinting("the rows that are labelled are kept, and the same command continues after them"):
        placed = tl.predict_shard(cells, model, shard, **settings)
    said = (
        f"Rows {placed.start:,} to {placed.stop - 1:,} of {cells} are labelled, {placed.now:,} of them in this run. "
        "When all shards are, the same command without --shard joins them."
    )
    return _of_shard(placed, shard, said, f"label {str(cells)!r}")


def _check_predict(source: Source, out: Path | None, only_results: Path | None, figure: Path | None) -> Path | None:
    """Return the file of results, None for a store; raise unless all files can be read and written."""
    stored = source.path.suffix == ".zarr"
    if stored and out is not None:
        raise ValueError(f"Labels of {str(source.path)!r} are written into it: leave --out out.")
    if stored and figure is not None:
        raise ValueError(f"--figure cannot be drawn from {str(source.path)!r}: read the store, and use tt.pl.mapping.")
    target = None if stored and only_results is None else check_out(source, out, only_results)
    if figure is not None:
        files.check_writable(figure, ".png")
    source.check()
    return target

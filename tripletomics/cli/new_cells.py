"""Commands for new cells: `transform` and `predict`."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Annotated, Any

from cyclopts import CycloptsError, Parameter

from tripletomics import files, tl
from tripletomics.cli.answers import Answer, written
from tripletomics.cli.options import OUT, Input, options_of
from tripletomics.cli.printing import mapping_sentences, print_types, say, say_written, types_of
from tripletomics.cli.reading import check_cells, check_room_for, read_cells, read_labels, suffix, write
from tripletomics.cli.results import Written, hinting
from tripletomics.keys import DEFAULT_KEY, metric_key, prefix
from tripletomics.tl.paths import Placed
from tripletomics.tl.progress import stage


@options_of(tl.transform)
def transform(  # noqa: D103
    input: Input,
    /,
    *,
    model: Annotated[Path, Parameter(help="Model that `fit` wrote, .tt.")],
    out: Annotated[Path | None, Parameter(help=f"{OUT} Not with `--shard`.")] = None,
    shard: Annotated[
        str | None,
        Parameter(
            help="i/N: embed the i-th of N parts of the rows of a .zarr store, and write the coordinates into it. A "
            "run that was stopped continues there when the same command is given again."
        ),
    ] = None,
    **settings: Any,
) -> Answer:
    if shard is not None:
        return _transform_shard(input, model, out, shard, settings)
    if input.suffix == ".zarr":
        raise ValueError(
            f"Coordinates of {str(input)!r} are written into it: pass --shard 1/1, or i/N to each of N processes."
        )
    if out is None:
        raise CycloptsError(msg="transform needs --out: the file to write, .h5ad (.h5mu of two modalities).")
    files.check_writable(out, suffix(input))
    check_cells(input)
    from tripletomics.model import load

    fitted = load(model)
    from tripletomics.tl import paths, stored

    use_rep = settings.get("use_rep") or fitted.features.parts[0].use_rep
    if suffix(input) == ".h5ad" and not fitted.modalities and paths.is_large(input, settings.get("layer"), use_rep):
        stored.transform(input, fitted, out=out, **settings)
    else:
        cells = read_cells(input)
        check_room_for(out, cells)
        tl.transform(cells, fitted, **settings)
        with stage(f"writing {str(out)!r}", settings.get("progress", True)):
            write(cells, out)
    return Answer({"written": written(out), "model": fitted.id}, lambda: say_written(out))


def _transform_shard(store: Path, model: Path, out: Path | None, shard: str, settings: dict[str, Any]) -> Answer:
    """Embed a part of the rows of a store, and print which."""
    if store.suffix != ".zarr":
        raise ValueError(
            f"--shard is for .zarr stores, and {str(store)!r} is not one: write it with adata.write_zarr, or leave "
            "--shard out and name --out."
        )
    if out is not None:
        raise ValueError("--shard writes into INPUT: leave --out out.")
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
    out: Annotated[Path | None, Parameter(help=f"{OUT} Not of a .zarr store, which is written to.")] = None,
    figure: Annotated[Path | None, Parameter(help="File to draw the cells over the reference map to, .png.")] = None,
    shard: Annotated[
        str | None,
        Parameter(
            help="i/N: label the i-th of N parts of the rows, into a folder next to INPUT. Then the same command "
            "without it joins all parts. A run that was stopped continues when it is started again."
        ),
    ] = None,
    **settings: Any,
) -> Answer:
    if shard is not None:
        return _predict_shard(input, model, {"out": out, "figure": figure}, shard, settings)
    _check_predict(input, out, figure)
    from tripletomics.model import load

    fitted = load(model)
    from tripletomics.tl import paths, stored

    key, done = settings.get("key_added", DEFAULT_KEY), Written()
    use_rep = settings.get("use_rep") or fitted.features.parts[0].use_rep
    begun = stored.is_begun(input, key)
    if begun and figure is not None:
        raise ValueError(f"--figure is not drawn where the parts of {str(input)!r} are joined: leave it out.")
    large = suffix(input) == ".h5ad" and paths.is_large(input, settings.get("layer"), use_rep)
    if out is None or begun or (large and figure is None and not fitted.modalities):
        usual = {name: option.default for name, option in inspect.signature(tl.predict).parameters.items()}
        stored.predict(input, fitted, usual | settings, out=out)
        cells = read_labels(out or input, prefix(key), settings.get("groups"))
    else:
        cells = read_cells(input)
        check_room_for(out, cells)
        tl.predict(cells, fitted, **settings)
        if figure is not None:
            os.environ.setdefault("MPLBACKEND", "agg")  # the figure goes to a file
            from tripletomics import pl

            done.try_to(figure, lambda: pl.save(pl.mapping(cells, fitted, basis=key, show=False), figure))
        with stage(f"writing {str(out)!r}", settings.get("progress", True)):
            done.try_to(out, lambda: write(cells, out))
        done.check()
    name, mapping = prefix(key), cells.uns[f"{prefix(key)}_mapping"]
    said = "\n".join(mapping_sentences(cells, name, str(settings.get("groups"))))
    typed = "rejected" in mapping

    def show() -> None:
        if typed:
            print_types(cells, name)
        say(said, aside=True)
        say_written(out or input, figure, aside=True)

    record = {"types": types_of(cells, name) if typed else [], "mapping": mapping, "summary": said}
    return Answer({**record, "written": written(out or input, figure)}, show)


def _predict_shard(cells: Path, model: Path, files: dict[str, Any], shard: str, settings: dict[str, Any]) -> Answer:
    """Label a part of the rows of a dataset, and print which."""
    for name, value in files.items():
        if value is not None:
            raise ValueError(f"--shard writes next to INPUT: leave --{name} out until all parts are joined.")
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


def _check_predict(input: Path, out: Path | None, figure: Path | None) -> None:
    """Raise unless the files that `predict` is to read and write are there or can be made."""
    if input.suffix == ".zarr":
        if out is not None:
            raise ValueError(f"Labels of {str(input)!r} are written into it: leave --out out.")
        if figure is not None:
            raise ValueError(f"--figure cannot be drawn from {str(input)!r}: read the store, and use tt.pl.mapping.")
        return
    if out is None:
        raise CycloptsError(msg="predict needs --out.")
    files.check_writable(out, suffix(input))
    if figure is not None:
        files.check_writable(figure, ".png")
    check_cells(input)

"""Commands of the verbs: files in, files out."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import CycloptsError, Parameter

from tripletomics import files, processes, tl
from tripletomics.cli.options import OUT, Input, options_of
from tripletomics.cli.printing import print_mapping, print_table, report_written
from tripletomics.cli.reading import check_cells, check_room_for, read, read_cells, read_labels, suffix, write
from tripletomics.keys import DEFAULT_KEY, metric_key, prefix
from tripletomics.names import harmless, printable

if TYPE_CHECKING:
    from tripletomics.model import Model

MANY = Parameter(consume_multiple=True, negative=())  # one or more words after the option


@options_of(tl.fit)
def fit(  # noqa: D103
    input: Input,
    /,
    *,
    out: Annotated[Path | None, Parameter(help=f"{OUT} Not of a .zarr store, which is written to.")] = None,
    label: Annotated[list[str] | None, MANY] = None,
    protein: Annotated[
        Path | None, Parameter(help="A second modality of the same cells, such as proteins, .h5ad.")
    ] = None,
    model: Annotated[Path | None, Parameter(help="File to write the model to, .tt.")] = None,
    index: Annotated[
        bool, Parameter(negative=(), help="Keep all training cells in the model file, for `Model.search`.")
    ] = False,
    **settings: Any,
) -> None:
    if index and model is None:
        raise ValueError("--index is kept in the model file: name it with --model.")
    if model is not None:
        files.check_writable(model, ".tt")
    if input.suffix == ".zarr":
        if protein is not None or out is not None:
            raise ValueError(
                f"Coordinates of {str(input)!r} are written into it: leave --{'protein' if protein else 'out'} out."
            )
    else:
        if out is None:
            raise CycloptsError(msg='Command "fit" parameter --out requires an argument.')
        files.check_writable(out, suffix(input, protein))
        check_cells(input, protein)
    settings = {**settings, "label": label}
    kept = settings.get("checkpoint")
    for path in filter(None, (input, protein, out, model)):
        if kept is not None and os.path.realpath(kept) == os.path.realpath(path):
            raise ValueError(f"--checkpoint {str(kept)!r} is also another file of this fit: name a file of its own.")
    with _checkpoint(settings):
        fitted = _fit(input, protein, out, settings, model, index)
    if processes.rank() > 0:  # the first of many processes writes
        return
    print(printable(fitted.summary()))
    report_written(out or input, model)


def _fit(
    input: Path, protein: Path | None, out: Path | None, settings: dict[str, Any], model: Path | None, index: bool
) -> Model:
    """Fit, and write the cells and the model; if one of them cannot be written, the other one still is."""
    from tripletomics.tl import paths

    written = _Written()

    def save(fitted: Model) -> None:
        if model is not None and processes.rank() == 0:
            written.try_to(model, lambda: fitted.save(model, index=index))

    matrix = settings.get("layer"), settings.get("use_rep")
    if out is None or (suffix(input, protein) == ".h5ad" and paths.is_large(input, *matrix)):
        with paths.open_fit(input, settings, out) as on_disk:
            result = tl.fit(**settings | on_disk.in_memory)
            fitted = written.try_to(out or input, lambda: on_disk.write(result, save))
    else:
        cells = read_cells(input, protein)
        check_room_for(out, cells)
        fitted = tl.fit(cells, **settings)
        if processes.rank() == 0:
            written.try_to(out, lambda: write(cells, out))
        save(fitted)
    written.check()
    return fitted


@contextmanager
def _checkpoint(settings: dict[str, Any]) -> Iterator[None]:
    """Open the checkpoint of a fit, and keep its file until all results are written."""
    if settings.get("checkpoint") is None:
        with _hinting("with --checkpoint FILE the same command would continue where it stopped"):
            yield
        return
    from tripletomics.checkpoint import keeping

    with keeping(settings["checkpoint"]) as settings["checkpoint"]:
        yield


@contextmanager
def _hinting(hint: str) -> Iterator[None]:
    """Add to the message after Ctrl-C how to continue."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(hint) from None


class _Written:
    """The files that were written, and the errors of those that were not."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self.errors: list[Exception] = []

    def try_to(self, path: Path, write: Callable[[], Any]) -> Any:
        """Write a file and return what `write` returns, or record the error."""
        try:
            result = write()
        except Exception as error:
            self.errors.append(error)
            return None
        self.paths.append(path)
        return result

    def check(self) -> None:
        """Raise if a file was not written, and name those that were."""
        if not self.errors:
            return
        if len(self.errors) == 1 and not self.paths:
            raise self.errors[0]
        for error in self.errors:
            if not isinstance(error, OSError):
                raise error
        names = " and ".join(repr(str(path)) for path in self.paths)
        there = f"{names} {'was' if len(self.paths) == 1 else 'were'} written."
        raise OSError(" ".join([*map(str, self.errors), *[there] * bool(self.paths)])) from self.errors[0]


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
) -> None:
    if shard is not None:
        _transform_shard(input, model, out, shard, settings)
        return
    if input.suffix == ".zarr":
        raise ValueError(
            f"Coordinates of {str(input)!r} are written into it: pass --shard 1/1, or i/N to each of N processes."
        )
    if out is None:
        raise ValueError("--out is missing: name the file to write, .h5ad (.h5mu of two modalities).")
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
        write(cells, out)
    report_written(out)


def _transform_shard(store: Path, model: Path, out: Path | None, shard: str, settings: dict[str, Any]) -> None:
    """Embed a part of the rows of a store, and print which."""
    if store.suffix != ".zarr":
        raise ValueError(
            f"--shard is for .zarr stores, and {str(store)!r} is not one: write it with adata.write_zarr, or leave "
            "--shard out and name --out."
        )
    if out is not None:
        raise ValueError("--shard writes into INPUT: leave --out out.")
    with _hinting("the rows that are written are kept, and the same command continues after them"):
        placed = tl.transform_shard(store, model, shard, **settings)
    if placed.start == placed.stop:
        print(f"Shard {shard} has no rows: use fewer shards to embed {str(store)!r}.")
        return
    key = settings.get("key_added", DEFAULT_KEY)
    print(
        f"Rows {placed.start:,} to {placed.stop - 1:,} of {store} have coordinates in obsm[{key!r}] and "
        f"obsm[{metric_key(key)!r}], {placed.now:,} of them from this run."
    )


def convert(
    input: Annotated[Path, Parameter(help="Dataset, .h5ad or .zarr: by rows, by genes (CSC) or dense.")],
    out: Annotated[Path, Parameter(help="Store to write, .zarr.")],
    /,
    *,
    group_by: Annotated[str | None, Parameter(help="Column of `obs` whose groups are stored together.")] = None,
) -> None:
    """Write a dataset as a .zarr store by rows, which can be fitted and embedded from disk, in bounded memory."""
    tl.convert(input, out, group_by=group_by)
    report_written(out)


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
) -> None:
    if shard is not None:
        _predict_shard(input, model, {"out": out, "figure": figure}, shard, settings)
        return
    _check_predict(input, out, figure)
    from tripletomics.model import load

    fitted = load(model)
    from tripletomics.tl import paths, stored

    key, written = settings.get("key_added", DEFAULT_KEY), _Written()
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

            written.try_to(figure, lambda: pl.save(pl.mapping(cells, fitted, basis=key), figure))
        written.try_to(out, lambda: write(cells, out))
        written.check()
    print_mapping(cells, prefix(key), str(settings.get("groups")))
    report_written(out or input, figure)


def _predict_shard(cells: Path, model: Path, files: dict[str, Any], shard: str, settings: dict[str, Any]) -> None:
    """Label a part of the rows of a dataset, and print which."""
    for name, value in files.items():
        if value is not None:
            raise ValueError(f"--shard writes next to INPUT: leave --{name} out until all parts are joined.")
    for name in ("fdr", "groups"):
        if settings.pop(name, None) is not None:
            raise ValueError(
                f"--{name} looks at all cells at once, and a shard has a part of them: leave --shard out, or --{name}."
            )
    with _hinting("the rows that are labelled are kept, and the same command continues after them"):
        placed = tl.predict_shard(cells, model, shard, **settings)
    if placed.start == placed.stop:
        print(f"Shard {shard} has no rows: use fewer shards to label {str(cells)!r}.")
        return
    print(
        f"Rows {placed.start:,} to {placed.stop - 1:,} of {cells} are labelled, {placed.now:,} of them in this run. "
        "When all shards are, the same command without --shard joins them."
    )


def _check_predict(input: Path, out: Path | None, figure: Path | None) -> None:
    """Raise unless the files that `predict` is to read and write are there or can be made."""
    if input.suffix == ".zarr":
        if out is not None:
            raise ValueError(f"Labels of {str(input)!r} are written into it: leave --out out.")
        if figure is not None:
            raise ValueError(f"--figure cannot be drawn from {str(input)!r}: read the store, and use tt.pl.mapping.")
        return
    if out is None:
        raise CycloptsError(msg='Command "predict" parameter --out requires an argument.')
    files.check_writable(out, suffix(input))
    if figure is not None:
        files.check_writable(figure, ".png")
    check_cells(input)


@options_of(tl.relate)
def relate(  # noqa: D103
    a: Annotated[Path, Parameter(help="File of labelled cells, .h5ad.")],
    b: Annotated[Path, Parameter(help="File of labelled cells that they are compared with, .h5ad.")],
    /,
    *,
    model: Annotated[Path, Parameter(help="Model that `fit` wrote, .tt.")],
    out: Annotated[Path, Parameter(help="File to write the table to, .csv.")],
    figure: Annotated[Path | None, Parameter(help="File to draw the table to, .png.")] = None,
    **settings: Any,
) -> None:
    files.check_writable(out, ".csv")
    if figure is not None:
        files.check_writable(figure, ".png")
    for path in (a, b):
        check_cells(path)
    from tripletomics.model import load

    table = tl.relate(read(a), read(b), load(model), **settings)
    with files.replacing(out) as draft:
        harmless(table).to_csv(draft, index=False)
    if figure is not None:
        os.environ.setdefault("MPLBACKEND", "agg")  # the figure goes to a file
        from tripletomics import pl

        pl.save(pl.relate(table), figure)
    for label, rows in table.groupby("label_a", observed=True):
        best = rows.iloc[0]
        interval = f"{best['lower']:.0%} to {best['upper']:.0%}"
        print(printable(f"{label}: {best['share']:.0%} are {best['label_b']} ({interval})."))
    report_written(out, figure)


@options_of(tl.evaluate)
def evaluate(  # noqa: D103
    input: Input,
    /,
    *,
    label: Annotated[list[str] | None, MANY] = None,
    out: Annotated[Path | None, Parameter(help="File to write the whole table to, .csv.")] = None,
    **settings: Any,
) -> None:
    if out is not None:
        files.check_writable(out, ".csv")
    table = tl.evaluate(read(input), label, **settings)
    if out is not None:  # before anything is printed, which can fail
        with files.replacing(out) as draft:
            harmless(table).to_csv(draft, index=False)
    print_table(table, ["hold_out", "space"])
    print(printable(table.attrs["summary"]))
    if out is not None:
        report_written(out)


@options_of(tl.compare)
def compare(  # noqa: D103
    input: Input,
    /,
    *,
    label: Annotated[list[str], MANY],
    out: Annotated[
        Path,
        Parameter(help="Page to write, .html; or a folder for the page, the figures, the tables and the methods text."),
    ],
    **settings: Any,
) -> None:
    page = out if out.suffix == ".html" else out / "report.html"
    if out.suffix == ".html":
        files.check_writable(out, ".html")
    elif out.exists() and not out.is_dir():
        raise ValueError(f"{str(out)!r} is a file: name a folder, or a page that ends in .html.")
    elif not os.access(next(place for place in (out, *out.absolute().parents) if place.exists()), os.W_OK):
        raise PermissionError(f"{str(out)!r} cannot be written: choose another place.")
    os.environ.setdefault("MPLBACKEND", "agg")  # figures go to files
    result = tl.compare(read(input), label, **settings)
    if out != page:
        result.save(out)
    result.to_html(page)
    print_table(result.table, ["method", "space"])
    print(printable(result.summary()))
    report_written(out)

"""Commands that print tables: `relate`, `evaluate` and `compare`; and `convert`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tripletomics import files, tl
from tripletomics.cli.options import MANY, Input, options_of
from tripletomics.cli.printing import print_table, report_written
from tripletomics.cli.reading import check_cells, read
from tripletomics.names import harmless, printable


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
    command = _command("compare", input, {"label": label, **settings, "out": out})
    result.to_html(page, title=input.name, command=command)
    print_table(result.table, ["method", "space"])
    print(printable(result.summary()))
    report_written(out)


def _command(verb: str, input: Path, given: Mapping[str, Any]) -> str:
    """Return the command line with these options."""
    words = ["tripletomics", verb, str(input)]
    for name, value in given.items():
        option = name.replace("_", "-")
        if isinstance(value, bool) and name != "counts":
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return shlex.join(words)


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

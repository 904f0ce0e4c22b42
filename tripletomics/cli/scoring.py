"""Commands that print tables: `relate`, `evaluate` and `compare`; and `convert`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tripletomics import extras, files, tl
from tripletomics.cli.answers import Answer, typed, written
from tripletomics.cli.inputs import Source, check_one
from tripletomics.cli.options import MANY, Input, Obs, Transpose, grouped, options_of
from tripletomics.cli.printing import print_scores, say, say_written
from tripletomics.names import harmless, percent
from tripletomics.tl.progress import stage


@options_of(tl.relate)
def relate(  # noqa: D103
    a: Annotated[Path, Parameter(help="Labelled cells, such as an .h5ad file.")],
    b: Annotated[Path, Parameter(help="Labelled cells to compare them with, such as an .h5ad file.")],
    /,
    *,
    model: Annotated[Path, Parameter(help="Model that `fit` wrote, .tt.")],
    out: Annotated[Path, Parameter(help="File to write the table to, .csv.")],
    figure: Annotated[Path | None, Parameter(help="Figure of the table to write, .png.")] = None,
    **settings: Any,
) -> Answer:
    files.check_writable(out, ".csv")
    if figure is not None:
        files.check_writable(figure, ".png")
    for path in (a, b):
        check_one(path)
        Source(path).check_apart({"out": out})
    from tripletomics.model import load

    table = tl.relate(Source(a).read_one(), Source(b).read_one(), load(model), **settings)
    with files.replacing(out) as draft:
        harmless(table).to_csv(draft, index=False)
    if figure is not None:
        os.environ.setdefault("MPLBACKEND", "agg")  # the figure goes to a file
        from tripletomics import pl

        pl.save(pl.relate(table, show=False), figure)
    said = []
    for label, rows in table.groupby("label_a", observed=True):
        best = rows.iloc[0]
        interval = f"{percent(best['lower'])} to {percent(best['upper'])}"
        said.append(f"{label}: {percent(best['share'])} are {best['label_b']} ({interval}).")

    def show() -> None:
        say("\n".join(said))
        say_written(out, figure)

    return Answer({"table": table, "summary": "\n".join(said), "written": written(out, figure)}, show)


@options_of(tl.evaluate)
def evaluate(  # noqa: D103
    input: Input,
    /,
    *,
    label: Annotated[list[str] | None, MANY] = None,
    obs: Obs = None,
    transpose: Transpose = False,
    out: Annotated[Path | None, Parameter(help="File to write the whole table to, .csv.")] = None,
    **settings: Any,
) -> Answer:
    if out is not None:
        files.check_writable(out, ".csv")
    source = Source(input, None, obs, transpose, label, (settings.get("batch"),))
    source.check_apart({"out": out}, settings.get("parents"))
    table = tl.evaluate(source.read_one(), label, **settings)
    if out is not None:  # before anything is printed, which can fail
        with files.replacing(out) as draft:
            harmless(table).to_csv(draft, index=False)

    def show() -> None:
        print_scores(table, ["hold_out", "space"])
        say(table.attrs["summary"], aside=True)
        if out is not None:
            say_written(out, aside=True)

    return Answer({"scores": table, "summary": table.attrs["summary"], "written": written(out)}, show)


@options_of(tl.compare)
def compare(  # noqa: D103
    input: Input,
    /,
    *,
    label: Annotated[list[str], MANY],
    obs: Obs = None,
    transpose: Transpose = False,
    out: Annotated[
        Path,
        Parameter(help="Page to write, .html; or a folder for the page, the figures, the tables and the methods text."),
    ],
    **settings: Any,
) -> Answer:
    extras.require("A report", *extras.REPORT)  # before the fits
    page = out if out.suffix == ".html" else out / "report.html"
    if out.suffix == ".html":
        files.check_writable(out, ".html")
    elif out.exists() and not out.is_dir():
        raise ValueError(f"{str(out)!r} is a file: name a folder, or a page that ends in .html.")
    elif not os.access(next(place for place in (out, *out.absolute().parents) if place.exists()), os.W_OK):
        raise PermissionError(f"{str(out)!r} cannot be written: choose another place.")
    source = Source(input, None, obs, transpose, label, (settings.get("batch"),))
    source.check_apart({"out": out / "table.csv"}, settings.get("parents"))
    os.environ.setdefault("MPLBACKEND", "agg")  # figures go to files
    result = tl.compare(source.read_one(), label, **settings)
    with stage("writing the page and its figures", settings.get("progress", True)):
        if out != page:
            result.save(out)
        own = {name: value for name, value in (("obs", obs), ("transpose", transpose)) if value}
        command = _command(input, {"label": label, **own, **settings, "out": out})
        result.to_html(page, title=input.name, command=command)

    def show() -> None:
        print_scores(result.table, ["method", "space"])
        say(result.summary(), aside=True)
        say_written(out, aside=True)

    found = {"scores": result.table, "summary": result.summary(), "settings": typed(result.settings)}
    return Answer({**found, "versions": result.versions, "written": written(out)}, show)


def _command(input: Path, given: Mapping[str, Any]) -> str:
    """Return the command line of a comparison with the options that are given."""
    words = ["tripletomics", "compare", str(input)]
    for name, value in given.items():
        option = name.replace("_", "-")
        if isinstance(value, bool) and name != "counts":
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return shlex.join(words)


@grouped
def convert(
    input: Annotated[Path, Parameter(help="Dataset, .h5ad or .zarr: by rows, by genes (CSC) or dense.")],
    out: Annotated[Path, Parameter(help="Store to write, .zarr.")],
    /,
    *,
    group_by: Annotated[str | None, Parameter(help="Column of `obs` whose groups are stored together.")] = None,
    force: Annotated[bool, Parameter(help="Replace an existing store.")] = False,
    progress: Annotated[bool, Parameter(help="Show a progress bar in a terminal.")] = True,
) -> Answer:
    """Write a dataset as a .zarr store by rows, which can be fitted and embedded from disk, in bounded memory."""
    tl.convert(input, out, group_by=group_by, force=force, progress=progress)
    return Answer({"written": written(out)}, lambda: say_written(out))

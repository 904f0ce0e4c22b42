"""The command that trains: `fit`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import CycloptsError, Parameter

from tripletomics import files, processes, tl
from tripletomics.cli.answers import Answer, written
from tripletomics.cli.options import MANY, OUT, Input, options_of
from tripletomics.cli.printing import say, say_written
from tripletomics.cli.reading import check_cells, check_room_for, read_cells, suffix, write
from tripletomics.cli.results import Written, hinting
from tripletomics.tl.progress import stage

if TYPE_CHECKING:
    from tripletomics.model import Model


UNTOLD = ("history", "map_errors")  # of the record of a fit, in --json: curves and tables


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
) -> Answer | None:
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
            raise CycloptsError(msg="fit needs --out.")
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
        return None

    def show() -> None:
        say(fitted.summary())
        say_written(out or input, model)

    record = {"written": written(out or input, model), "summary": fitted.summary(), **fitted.record()}
    return Answer({name: value for name, value in record.items() if name not in UNTOLD}, show)


def _fit(
    input: Path, protein: Path | None, out: Path | None, settings: dict[str, Any], model: Path | None, index: bool
) -> Model:
    """Fit, and write the cells and the model; if one of them cannot be written, the other one still is."""
    from tripletomics.tl import paths

    done = Written()

    def save(fitted: Model) -> None:
        if model is not None and processes.rank() == 0:
            done.try_to(model, lambda: fitted.save(model, index=index))

    matrix = settings.get("layer"), settings.get("use_rep")
    if out is None or (suffix(input, protein) == ".h5ad" and paths.is_large(input, *matrix)):
        with paths.open_fit(input, settings, out) as on_disk:
            result = tl.fit(**settings | on_disk.in_memory)
            fitted = done.try_to(out or input, lambda: on_disk.write(result, save))
    else:
        cells = read_cells(input, protein)
        check_room_for(out, cells)
        fitted = tl.fit(cells, **settings)
        if processes.rank() == 0:
            with stage(f"writing {str(out)!r}", settings.get("progress", True)):
                done.try_to(out, lambda: write(cells, out))
        save(fitted)
    done.check()
    return fitted


@contextmanager
def _checkpoint(settings: dict[str, Any]) -> Iterator[None]:
    """Open the checkpoint of a fit, and keep its file until all results are written."""
    if settings.get("checkpoint") is None:
        with hinting("with --checkpoint FILE the same command would continue where it stopped"):
            yield
        return
    from tripletomics.checkpoint import keeping

    with keeping(settings["checkpoint"]) as settings["checkpoint"]:
        yield

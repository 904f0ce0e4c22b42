"""The command that trains: `fit`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tripletomics import files, processes, tl
from tripletomics.cli.answers import Answer, typed, written
from tripletomics.cli.inputs import Source
from tripletomics.cli.options import MANY, OUT, Input, Obs, OnlyResults, Transpose, check_out, options_of
from tripletomics.cli.printing import say, say_written
from tripletomics.cli.reading import check_room_for, write
from tripletomics.cli.results import Written, hinting
from tripletomics.keys import DEFAULT_KEY
from tripletomics.tl.progress import stage

if TYPE_CHECKING:
    from anndata import AnnData

    from tripletomics.model import Model


TESTED = ("held_out_cells", "types", "p_if_four_of_five_are_right")  # of `Model.findings`, in --json
UNTOLD = ("history", "map_errors")  # of the record of a fit, in --json: curves and tables


@options_of(tl.fit)
def fit(  # noqa: D103
    input: Input,
    /,
    *,
    out: Annotated[
        Path | None,
        Parameter(
            help=f"{OUT} Leave it out for a .zarr store, which gets the results itself, or to write `--model` alone."
        ),
    ] = None,
    only_results: OnlyResults = None,
    label: Annotated[list[str] | None, MANY] = None,
    obs: Obs = None,
    transpose: Transpose = False,
    protein: Annotated[
        Path | None,
        Parameter(help="A second modality of the same cells, such as proteins, in a format of INPUT."),
    ] = None,
    model: Annotated[Path | None, Parameter(help="File to write the model to, .tt.")] = None,
    figure: Annotated[
        Path | None,
        Parameter(help="Figure to write, .png: the map by type, with held-out cells marked, and its score."),
    ] = None,
    index: Annotated[
        bool, Parameter(negative=(), help="Keep all training cells in the model file, for `Model.search`.")
    ] = False,
    card: Annotated[
        bool,
        Parameter(negative=(), help="Also write the model's card, .md: data, types, checks, limits, how to use it."),
    ] = False,
    **settings: Any,
) -> Answer | None:
    beside = _check_model(model, index, card)
    source = Source(input, protein, obs, transpose, label, (settings.get("batch"),))
    stored = input.suffix == ".zarr"
    if stored and (protein is not None or out is not None):
        raise ValueError(
            f"Coordinates of {str(input)!r} are written into it: leave --{'protein' if protein else 'out'} out."
        )
    if only_results is not None or not (stored or (model is not None and out is None)):
        check_out(source, out, only_results, "--model for the model alone, or --only-results for a table")
    _check_figure(figure, source)
    source.check()
    apart = {"only_results": only_results, "model": model, "card": beside, "figure": figure}
    source.check_apart(apart, *map(settings.get, ("parents", "map", "init")))
    settings = {**settings, "label": label}
    _check_checkpoint(settings.get("checkpoint"), (*source.paths, out, only_results, model, beside, figure))
    target = only_results or out or (input if stored else None)
    with _checkpoint(settings):
        fitted = _fit(source, target, settings, model, {"index": index, "card": card}, figure)
    if processes.rank() > 0:  # the first of many processes writes
        return None

    def show() -> None:
        say(fitted.summary())
        say_written(target, model, beside, figure)

    record = {"written": written(target, model, beside, figure), "summary": fitted.summary(), **fitted.record()}
    record["settings"] = typed(fitted.settings)
    if "tested" in fitted.findings:
        record["findings"] = {**fitted.findings, "tested": dict(zip(TESTED, fitted.findings["tested"], strict=True))}
    return Answer({name: value for name, value in record.items() if name not in UNTOLD}, show)


def _check_model(model: Path | None, index: bool, card: bool) -> Path | None:
    """Return where the card of a model goes, None without one; raise unless what is asked for can be written."""
    if model is None:
        for name in ["index"] * index + ["card"] * card:
            raise ValueError(f"--{name} is kept with the model: name its file with --model.")
        return None
    files.check_writable(model, ".tt")
    if not card:
        return None
    from tripletomics.model import cards

    return cards.check_place(model)


def _check_figure(figure: Path | None, source: Source) -> None:
    """Raise if a figure is asked for that cannot be written, or is not of one modality."""
    if figure is not None:
        files.check_writable(figure, ".png")
        if source.suffix != ".h5ad":
            raise ValueError("--figure is for cells of one modality: leave it out, and use tt.pl.embedding in Python.")


def _check_checkpoint(kept: Any, others: Iterable[Path | None]) -> None:
    """Raise if a checkpoint is also another file."""
    for path in filter(None, others):
        if kept is not None and os.path.realpath(kept) == os.path.realpath(path):
            raise ValueError(f"--checkpoint {str(kept)!r} is also another file of this fit: name a file of its own.")


def _fit(
    source: Source,
    target: Path | None,
    settings: dict[str, Any],
    model: Path | None,
    kept: dict[str, bool],
    figure: Path | None,
) -> Model:
    """Fit, and write the results and the model. If one of them cannot be written, the other one still is."""
    from tripletomics.tl import paths

    done = Written()

    def save(fitted: Model) -> None:
        if model is not None and processes.rank() == 0:
            done.try_to(model, lambda: fitted.save(model, **kept))

    if source.path.suffix == ".zarr" or source.is_large(settings.get("layer"), settings.get("use_rep")):
        if figure is not None:
            raise ValueError(
                f"--figure cannot be drawn from {str(source.path)!r}, which is read block by block: leave it out, and "
                "use tt.pl.embedding on the results."
            )
        with paths.open_fit(source.path, settings, target) as on_disk:
            result = tl.fit(**settings | on_disk.in_memory)
            if target is None:
                fitted = on_disk.write(result, save)
            else:
                fitted = done.try_to(target, lambda: on_disk.write(result, save))
    else:
        cells = source.read()
        if target is not None:
            check_room_for(target, cells)
        fitted = tl.fit(cells, **settings)
        if target is not None and processes.rank() == 0:
            key = settings.get("key_added", DEFAULT_KEY)
            with stage(f"writing {str(target)!r}", settings.get("progress", True)):
                done.try_to(target, lambda: write(cells, target, source.path, key))
        save(fitted)
        if figure is not None and processes.rank() == 0:
            done.try_to(figure, lambda: _draw(cells, settings, figure))
    done.check()
    return fitted


def _draw(cells: AnnData, settings: Mapping[str, Any], figure: Path) -> None:
    """Write a figure of the map in the colours of its types, or else of the first further column."""
    os.environ.setdefault("MPLBACKEND", "agg")  # the figure goes to a file
    from tripletomics import pl
    from tripletomics.labels.roles import read_roles

    roles = read_roles(settings.get("label"), settings.get("order"), None, cells.obs.columns)
    color, basis = next(iter([*roles.levels[-1:], *roles.further]), None), settings.get("key_added", DEFAULT_KEY)
    drawn = pl.embedding(cells, color, basis=basis, show=False, return_fig=True)
    pl.save(drawn, figure)


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

"""Options of a command, read from the signature and docstring of its verb."""

from __future__ import annotations

import collections.abc
import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import CycloptsError, Parameter

from tripletomics import files
from tripletomics.store import tables

if TYPE_CHECKING:
    from cyclopts import Token

    from tripletomics.cli.inputs import Source

Verb = Callable[..., Any]
Input = Annotated[
    Path,
    Parameter(
        help="Cells: an .h5ad file, an .h5mu file of two modalities, an .h5 file or a folder of 10x, a .loom file, or "
        "a table (.csv, .tsv, .txt; also .gz) with cells in rows. It is only overwritten if `--out` names it."
    ),
]
Obs = Annotated[
    Path | None,
    Parameter(
        help="Table (.csv, .tsv, .txt, .parquet) of labels to add to the cells. Its first column holds their names."
    ),
]
Transpose = Annotated[bool, Parameter(negative=(), help="Tables of cells have genes in rows and cells in columns.")]
OnlyResults = Annotated[
    Path | None,
    Parameter(
        help="In place of `--out`: a table (.csv, .tsv, .parquet) with the name of each cell, the columns that are "
        "added to it, and its coordinates on the map."
    ),
]
MANY = Parameter(consume_multiple=True, negative=())  # one or more words after the option
OUT = "File to write, .h5ad (.h5mu of two modalities): the cells of INPUT and what is added to them."


def check_out(source: Source, out: Path | None, only_results: Path | None, instead: str = "--only-results") -> Path:
    """Return the file of results; raise unless it is one and can be written. `instead` names what takes its place."""
    target = only_results or out
    if target is None:
        raise CycloptsError(msg=f"--out is missing: name the file to write, {source.suffix}, or pass {instead}.")
    if out is not None and only_results is not None:
        raise ValueError("--only-results is written in place of the file of --out: leave one of them out.")
    if out is not None:
        files.check_writable(out, source.suffix)
    if only_results is not None:
        tables.check(only_results)
        if os.path.realpath(only_results) in map(os.path.realpath, source.paths):
            raise ValueError(f"--only-results {str(only_results)!r} is also read: name another file.")
    return target


def options_of(verb: Verb) -> Callable[[Verb], Verb]:
    """Give a command the keywords of a verb as options, with their defaults and help.

    The command's own options come first and replace those of the verb; `adata` is what the command reads and writes.
    """

    def decorate(command: Verb) -> Verb:
        own = inspect.signature(command, eval_str=True).parameters
        added = inspect.signature(verb, eval_str=True).parameters
        parameters = [p for p in own.values() if p.kind is not p.VAR_KEYWORD]
        parameters += [_option(p) for name, p in added.items() if name != "adata" and name not in own]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__doc__ = verb.__doc__
        return command

    return decorate


def _option(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return the option, with its own reader where cyclopts would read its text in another way."""
    parameter = parameter.replace(kind=parameter.KEYWORD_ONLY)
    hint = parameter.annotation
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if is_union else (hint,)

    def read(_: Any, tokens: Sequence[Token]) -> bool | int | str | None:
        text = tokens[0].value
        if types.NoneType in kinds and text.lower() == "none":
            return None
        if bool in kinds:
            return {"true": True, "false": False}.get(text.lower(), text)
        if int in kinds and not re.fullmatch(r"-?\d+", text):  # cyclopts would round 1.5
            raise ValueError(f"{text!r} is not a whole number.")
        return int(text) if int in kinds else text

    several = [kind for kind in kinds if typing.get_origin(kind) is collections.abc.Sequence]
    if several and parameter.name != "unlabelled":  # one or more words after the option
        many: Any = types.GenericAlias(list, typing.get_args(several[0]))
        many = many | None if types.NoneType in kinds else many
        return parameter.replace(annotation=Annotated[many, Parameter(consume_multiple=True, negative=())])
    if {*kinds} <= {int, str, types.NoneType}:
        return parameter.replace(annotation=Annotated[hint, Parameter(converter=read)])
    if is_union and bool in kinds:  # true, false or a word
        words = [word for kind in kinds if typing.get_origin(kind) is Literal for word in typing.get_args(kind)]
        look = Parameter(converter=read, negative=(), n_tokens=1, metavar="|".join([*words, "true", "false"]))
        return parameter.replace(annotation=Annotated[hint, look, Parameter(show_choices=False)])
    return parameter

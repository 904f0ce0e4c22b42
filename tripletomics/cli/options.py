"""Options of a command, read from the signature and docstring of its verb."""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import CycloptsError, Group, Parameter

from tripletomics import files
from tripletomics.cli.answers import answering, whole
from tripletomics.cli.words import options_in
from tripletomics.store import tables

if TYPE_CHECKING:
    from cyclopts import Token

    from tripletomics.cli.inputs import Source

Verb = Callable[..., Any]
Input = Annotated[
    Path,
    Parameter(
        help="Cells: an .h5ad file, a 10x .h5 file, a 10x folder, a .loom file, or a table (.csv, .tsv, .txt; also "
        ".gz) with cells in rows; for `fit`, `transform` and `predict` also an .h5mu file of two modalities or a .zarr "
        "store. A file is only overwritten if `--out` names it."
    ),
]
Obs = Annotated[
    Path | None,
    Parameter(
        help="Table (.csv, .tsv, .txt, .parquet) of labels to add to the cells. Its first column holds the names of "
        "the cells."
    ),
]
Transpose = Annotated[
    bool, Parameter(negative=(), help="Read tables of cells with genes in rows and cells in columns.")
]
OnlyResults = Annotated[
    Path | None,
    Parameter(
        help="In place of `--out`: a table (.csv, .tsv, .parquet) with the name of each cell, the columns that are "
        "added to it, and its coordinates on the map."
    ),
]
MANY = Parameter(consume_multiple=True, negative=())  # one or more words after the option
GROUPS = {  # of the options in the help; an option that stands in none is under "Other"
    "Basic": (
        "label", "out", "only_results", "model", "methods", "basis", "key_added", "hold_out", "splits", "label_a",
        "label_b", "figure", "missing", "reject", "groups", "seeds", "seed", "group_by",
    ),
    "Data": (
        "obs", "transpose", "protein", "batch", "layer", "use_rep", "counts", "unlabelled", "parents", "order", "alias",
        "min_matched", "fine", "pseudotime", "reference",
    ),
    "Model": ("loss", "structure", "spread", "dim", "metric_dim", "map", "init", "encoder", "index", "card"),
    "Training": ("steps", "batch_size", "lr", "augment", "self_training", "refits", "unseen"),
    "Predictions": ("coverage", "fdr"),
    "Compute": ("device", "precision", "threads", "checkpoint", "cache", "shard", "force"),
    "Output": ("progress", "json", "quiet", "log_level"),
}  # fmt: skip
PLACES = {name: Group(title, sort_key=i) for i, (title, names) in enumerate(GROUPS.items()) for name in names}
HELP = {  # of options that take more in Python, where a page explains them
    "label": "Column of `obs` with the cell types. Missing values and the names in `--unlabelled` mean unlabelled. "
    "Several columns are levels, from coarse to fine. To learn further columns, write `cell_type=softmax day=rnc`, "
    "a loss for each.",
    "parents": "The parent of each name: a .csv, .tsv or .txt file of two columns, a name and its parent; or an "
    "ontology (.obo). The column of `--label` may then hold names of any level.",
    "unlabelled": "A name that means unlabelled, in place of the usual ones (such as Unknown, unassigned, NA and "
    "None); repeat the option for several. Missing and blank values always mean unlabelled.",
    "map": "Published map to keep, in place of a new one: a key of `obsm`, or a .csv or .tsv file with the names of "
    "the cells first, and then 2 or 3 columns. Training cells keep these coordinates; all others get learned ones.",
    "loss": "Training loss of the metric space: a name, or a name with settings, as in `triplet:margin=0.3`. The "
    "command `tripletomics losses` explains them. [default: softmax with labels, simclr without]",
    "init": "Model file (.tt) to start from. INPUT then holds only new cells: of new types, of known types, or of "
    "both. Old cells stay where they are, and the new model knows all of them.",
}
OUT = "File to write, .h5ad (.h5mu for two modalities): the cells of INPUT and what is added to them."


def check_out(source: Source, out: Path | None, only_results: Path | None, instead: str = "--only-results") -> Path:
    """Return the file of results; raise unless it is one and can be written. `instead`: what to pass otherwise."""
    target = only_results or out
    if target is None:
        raise CycloptsError(msg=f"--out is missing: name the file to write, {source.suffix}, or pass {instead}.")
    if out is not None and only_results is not None:
        raise ValueError("--only-results is written in place of the file of --out: leave one of them out.")
    if out is not None:
        files.check_writable(out, source.suffix)
    if only_results is not None:
        tables.check(only_results)
        source.check_apart({"only_results": only_results})
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
        command.__doc__ = options_in(inspect.getdoc(verb) or "", [p.name for p in parameters])
        return grouped(command)

    return decorate


def grouped(command: Verb) -> Verb:
    """Give a command the options that all commands have, and each option its place in the help."""
    run = answering(command)
    found = inspect.signature(run, eval_str=True).parameters.values()
    parameters = [p if p.kind is p.POSITIONAL_ONLY else _placed(p) for p in found]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _placed(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return an option with its group in the help, and with its text of `HELP`; what is off has no opposite."""
    looks = [Parameter(group=PLACES.get(parameter.name, Group("Other", sort_key=len(GROUPS))))]
    if parameter.default is False:
        looks.append(Parameter(negative=(), show_default=False))
    if parameter.name in HELP:
        without = " Without a column, no types are learned or scored."  # where one is not required
        text = HELP[parameter.name] + without * (parameter.name == "label" and parameter.default is None)
        looks.append(Parameter(help=text, show_default=False))
    return parameter.replace(annotation=Annotated[parameter.annotation, *looks])


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
        return whole(text) if int in kinds else text

    several = [kind for kind in kinds if typing.get_origin(kind) is collections.abc.Sequence]
    if several and parameter.name == "unlabelled":  # repeated, because a name may look like a file
        return parameter.replace(annotation=Annotated[hint, Parameter(negative=())])
    if several:  # one or more words after the option
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

"""The command line: one command per verb, its options read from the verb's signature and docstring.

Nothing heavy is imported before a command runs, so that ``--help`` is fast.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import signal
import sys
import textwrap
import time
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from tripletomics import files, parts, tl

if TYPE_CHECKING:
    from anndata import AnnData
    from cyclopts import Token
    from rich.console import Console

HELP = """Maps of labelled single cells that hold on cells the model never saw.

```
tripletomics fit cells.h5ad --label cell_type --out map.h5ad --model map.tt
tripletomics transform new.h5ad --model map.tt --out new-map.h5ad
```
"""
NARROWEST, WIDEST = 40, 100  # columns of text that are easy to read
DEMO_HOLD_OUT = 0.3  # 210 cells, at least 2 of the rarest of the 10 types

Verb = Callable[..., Any]
Input = Annotated[Path, Parameter(help="File of cells, .h5ad. It is only overwritten if `--out` names it.")]
Out = Annotated[Path, Parameter(help="File to write, .h5ad: the cells of INPUT and what is added to them.")]

app = App(
    name="tripletomics", help=HELP, help_format="markdown", version=version("tripletomics"),
    result_action="return_value", suppress_keyboard_interrupt=False,
)  # fmt: skip


def _options_of(verb: Verb) -> Callable[[Verb], Verb]:
    """Give a command the keywords of a verb as options, with their defaults and help.

    What the command names itself stands first and replaces the verb's; `adata` is what it reads and writes.
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
    """Say how the text of an option is read where cyclopts would read it otherwise."""
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

    if {*kinds} <= {int, str, types.NoneType}:
        return parameter.replace(annotation=Annotated[hint, Parameter(converter=read)])
    if is_union and bool in kinds:  # true, false or a word
        words = [word for kind in kinds if typing.get_origin(kind) is Literal for word in typing.get_args(kind)]
        look = Parameter(converter=read, negative=(), n_tokens=1, metavar="|".join([*words, "true", "false"]))
        return parameter.replace(annotation=Annotated[hint, look, Parameter(show_choices=False)])
    return parameter


@app.command
@_options_of(tl.fit)
def fit(  # noqa: D103
    input: Input,
    /,
    *,
    label: str,
    out: Out,
    model: Annotated[Path | None, Parameter(help="File to write the model to, .tt.")] = None,
    **settings: Any,
) -> None:
    files.check_writable(out, ".h5ad")
    if model is not None:
        files.check_writable(model, ".tt")
    adata = _read(input)
    fitted = tl.fit(adata, label, **settings)
    with files.replacing(out) as draft:
        adata.write_h5ad(draft)
        if model is not None:
            fitted.save(model)
    print(fitted.summary())
    _report_written(out, model)


@app.command
@_options_of(tl.transform)
def transform(  # noqa: D103
    input: Input,
    /,
    *,
    model: Annotated[Path, Parameter(help="Model that `fit` wrote, .tt.")],
    out: Out,
    **settings: Any,
) -> None:
    files.check_writable(out, ".h5ad")
    _check_h5ad(input)
    from tripletomics.model import load

    fitted = load(model)
    adata = _read(input)
    tl.transform(adata, fitted, **settings)
    with files.replacing(out) as draft:
        adata.write_h5ad(draft)
    _report_written(out)


@app.command
def demo(*, out: Path = Path("tripletomics-demo")) -> None:
    """Map 700 blood cells that come with scanpy, beside UMAP and PCA, and score every map on held-out cells.

    Takes about a minute and downloads nothing.

    Parameters
    ----------
    out
        Folder to write `pbmc.h5ad`, `pbmc.png` and `pbmc.tt` to. It is created.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{str(out)!r} is a file: name a folder.")
    out.mkdir(parents=True, exist_ok=True)
    table, figure, model = (files.check_writable(out / f"pbmc{end}", end) for end in (".h5ad", ".png", ".tt"))
    os.environ.setdefault("MPLBACKEND", "agg")  # the figure goes to a file

    with _timed("reading"):
        adata = _demo_cells()
        print(f"{adata.n_obs} blood cells, {adata.n_vars} genes, {adata.obs['cell_type'].nunique()} types")
    with _timed("tripletomics", spinner=False):  # fit has its own bar
        fitted = tl.fit(adata, "cell_type", hold_out=DEMO_HOLD_OUT)
    held, train, null = (fitted.scores[group] for group in ("held-out", "train", "null"))
    with _timed("UMAP"):
        umap = _add_baseline(adata, "umap")
    with _timed("PCA"):
        pca = _add_baseline(adata, "pca")
    notes = {"X_tt": held["map"], "X_umap": umap[0], "X_pca": pca[0]}
    with _timed("figure"):
        from tripletomics import pl

        scores = {basis: f"held-out F1 {f1:.2f}" for basis, f1 in notes.items()}
        pl.save(pl.compare(adata, "cell_type", scores=scores), figure)
    with _timed("writing"), files.replacing(table) as draft:
        adata.write_h5ad(draft)
        fitted.save(model)

    _print_scores(
        {
            "tripletomics, map": (held["map"], null["map"], train["map"]),
            "tripletomics, metric space": (held["metric"], null["metric"], train["metric"]),
            "UMAP": (umap[0], None, umap[1]),
            "PCA, 2 components": (pca[0], None, pca[1]),
        }
    )
    print(f"All were fitted on {1 - DEMO_HOLD_OUT:.0%} of the cells. Only the held-out cells are evidence:")
    print("tripletomics has learned the labels of the training cells.\n")
    _report_written(table, figure, model)


@app.command(name="losses")
def list_losses(name: str | None = None, /) -> None:
    """List the losses that `fit --loss` takes, with their settings and defaults, or explain one.

    Parameters
    ----------
    name
        The loss to explain; without it, all are listed.
    """
    from rich.console import Console

    from tripletomics.losses import family

    console = Console(highlight=False, markup=False, emoji=False)
    console.width = min(max(console.width, NARROWEST), WIDEST)
    losses = dict(sorted(family().items()))
    if name is None:
        _print_losses(console, losses)
    else:
        _print_loss(console, name, parts.find(name, losses, "loss"))


def _print_losses(console: Console, losses: dict[str, type]) -> None:
    """Print each loss under the first line of its module's docstring, the module of the default loss first."""
    home = {name: ".".join(cls.__module__.split(".")[:3]) for name, cls in losses.items()}
    for module in sorted(set(home.values()), key=lambda module: (module != home[tl.DEFAULT_LOSS], module)):
        console.print(_wrapped(console, (sys.modules[module].__doc__ or module).partition("\n")[0]), style="bold")
        members = {name: cls for name, cls in losses.items() if home[name] == module}
        for name, cls in members.items():
            indent = max(map(len, members)) + 4
            _print_term(console, name, (inspect.getdoc(cls) or "").partition("\n")[0], indent)
            console.print(_wrapped(console, _settings(cls), indent), style="dim")
        console.print()
    console.print('Usage: --loss "triplet:margin=0.3"; a sum: --loss "softmax + 0.003*center".')
    console.print(f"Without --loss, fit takes {tl.DEFAULT_LOSS}. tripletomics losses NAME explains a loss.")


def _print_loss(console: Console, name: str, cls: type) -> None:
    """Print the settings of a loss and its docstring, without its markup but with formulas as they are."""
    console.print(name, style="bold cyan")
    console.print(_wrapped(console, _settings(cls)), style="dim")
    text = re.sub(r':math:`(.*?)`|``(".*?")``', r"\1\2", inspect.getdoc(cls) or "").replace("``", "`")
    intro, *sections = re.split(r"\s*^(.+)\n-+\n", text, flags=re.MULTILINE)
    for heading, body in zip(["", *sections[::2]], [intro, *sections[1::2]], strict=True):
        console.print(f"\n{heading}" if heading else "", style="bold")
        if heading == "Parameters":
            settings = re.findall(r"^(\S.*)\n((?: .*\n*)+)", body, re.MULTILINE)
            for setting, said in settings:
                _print_term(console, setting, said, max(len(name) for name, _ in settings) + 4)
            continue
        for i, block in enumerate(re.split(r"\n\n+", body)):
            if block.startswith(".. math::"):
                lines = inspect.cleandoc(block.removeprefix(".. math::")).splitlines()
                said = "\n".join(_wrapped(console, line, 4 + len(line) - len(line.lstrip()), hang=4) for line in lines)
            else:
                said = _wrapped(console, block, 2 if heading else 0)
            console.print("\n" * (i > 0) + said)


def _print_term(console: Console, name: str, said: str, indent: int) -> None:
    """Print a name and beside it what is said of it."""
    console.print(f"  {name}".ljust(indent), style="cyan", end="")
    console.print(_wrapped(console, said, indent)[indent:])


def _wrapped(console: Console, text: str, indent: int = 0, hang: int = 0) -> str:
    first, rest = " " * indent, " " * (indent + hang)
    return textwrap.fill(" ".join(text.split()), console.width, initial_indent=first, subsequent_indent=rest,
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip


def _settings(cls: type) -> str:
    pairs = (name if default is None else f"{name}={default}" for name, default in parts.defaults(cls).items())
    return ", ".join(pairs) or "no settings"


def _demo_cells() -> AnnData:
    """Take the log-normalised values and the labels of scanpy's blood cells, and nothing derived from them."""
    import anndata
    import scanpy

    source = scanpy.datasets.pbmc68k_reduced()
    adata = anndata.AnnData(source.raw.X.copy(), source.obs[[]].copy(), source.raw.var[[]].copy())
    adata.obs["cell_type"] = source.obs["bulk_labels"].astype(str).astype("category")
    return adata


def _add_baseline(adata: AnnData, name: str) -> tuple[float, float]:
    """Write a map that was fitted on the training cells to `obsm`; return its score on held-out and training cells."""
    import numpy as np

    from tripletomics import baselines, metrics

    held_out = (adata.obs["tt_split"] == "held-out").to_numpy()
    codes = adata.obs["cell_type"].cat.codes.to_numpy()
    train, query = getattr(baselines, name)(adata.X[~held_out], adata.X[held_out])
    places = np.empty((adata.n_obs, 2), dtype=np.float32)
    places[~held_out], places[held_out] = train, query
    adata.obsm[f"X_{name}"] = places
    y, query_y = codes[~held_out], codes[held_out]
    return metrics.knn_macro_f1(train, y, query, query_y), metrics.knn_macro_f1(train, y)


@contextmanager
def _timed(part: str, spinner: bool = True) -> Iterator[None]:
    """Say how long a part took, and on a terminal that it is under way."""
    from rich.console import Console

    started = time.perf_counter()
    with Console(stderr=True).status(part) if spinner else nullcontext():
        yield
    print(f"{part:<14}{time.perf_counter() - started:>6.1f} s")


def _print_scores(rows: dict[str, tuple[float | None, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("15-NN macro-F1", box=box.SIMPLE_HEAD)
    for header in ("held-out\ncells", "held-out cells,\nlabels permuted", "training\ncells"):
        table.add_column(header, justify="right")
    for title, scores in rows.items():
        table.add_row(title, *("" if score is None else f"{score:.3f}" for score in scores))
    Console().print(table)


def _report_written(*paths: Path | None) -> None:
    print("Wrote " + ", ".join(str(path) for path in paths if path is not None))


def _read(path: Path) -> AnnData:
    """Read a file of cells, or say what is wrong with it."""
    _check_h5ad(path)
    import anndata

    try:
        return anndata.read_h5ad(path)
    except Exception as error:  # whatever a damaged file makes of the reader
        raise ValueError(f"{str(path)!r} cannot be read as AnnData: {error}") from error


def _check_h5ad(path: Path) -> None:
    """Raise unless a path is that of a readable AnnData file."""
    import h5py

    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder: name an .h5ad file.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    if not os.access(path, os.R_OK):
        raise PermissionError(f"{str(path)!r} may not be read: ask its owner.")
    if not h5py.is_hdf5(path):
        raise ValueError(f"{str(path)!r} is not an .h5ad file: read it with scanpy and write it as one.")
    try:
        with h5py.File(path) as file:
            groups = list(file)
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be opened: {error}") from error
    if not {"obs", "var"} <= set(groups):
        raise ValueError(
            f"{str(path)!r} is an HDF5 file but not an AnnData file: it lacks obs and var, and holds "
            f"{', '.join(groups) or 'nothing'}."
        )


def _show_warning(message: Warning | str, category: type[Warning], filename: str, *_: Any) -> None:
    """Print a warning of tripletomics on one line; those of libraries are for developers."""
    if issubclass(category, UserWarning) and Path(filename).is_relative_to(Path(__file__).parent):
        print("warning:", _one_line(message), file=sys.stderr)


def _one_line(message: object) -> str:
    if isinstance(message, KeyError):
        message = message.args[0]  # str() puts it in quotes
    return " ".join(str(message).split())


def _is_refusal(error: BaseException) -> bool:
    """Tell what this package or the system refuses from a bug in a library, whose traceback somebody needs."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    ours = place is not None and place.tb_frame.f_globals["__name__"].startswith("tripletomics.")
    return isinstance(error, OSError) or (ours and isinstance(error, (ValueError, KeyError, TypeError)))


def _stop(number: int, _: Any) -> None:
    """Leave by way of every `finally`, so that no half file stays."""
    sys.exit(128 + number)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a refusal is one line on stderr and exit status 1, a wrong option 2, an interruption 130.

    Parameters
    ----------
    arguments
        Those of the terminal by default.
    """
    signal.signal(signal.SIGTERM, _stop)
    logging.disable(logging.INFO)  # hints of Lightning
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            app(sys.argv[1:] if arguments is None else arguments, exit_on_error=False, print_error=False)
            return
        except CycloptsError as error:
            message, status = str(error), 2
        except KeyboardInterrupt:
            message, status = "interrupted", 130
        except Exception as error:
            if not _is_refusal(error):
                raise
            message, status = _one_line(error), 1
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)

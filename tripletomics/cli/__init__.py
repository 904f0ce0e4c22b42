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
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from io import TextIOWrapper
from typing import Any

from cyclopts import App, CycloptsError, MissingArgumentError, UnknownOptionError

from tripletomics import processes
from tripletomics.arguments import OF_THREADS, meant
from tripletomics.cli.demonstration import run_demo
from tripletomics.cli.fitting import fit
from tripletomics.cli.inputs import is_input
from tripletomics.cli.losses import show_losses
from tripletomics.cli.new_cells import predict, transform
from tripletomics.cli.scoring import compare, convert, evaluate, relate
from tripletomics.cli.words import for_terminal, option
from tripletomics.names import printable
from tripletomics.notices import TripletomicsWarning
from tripletomics.parts import did_you_mean

HELP = """Maps of labelled cells that are tested on cells the model never saw.

```
tripletomics fit cells.h5ad --label cell_type --out map.h5ad --model map.tt
tripletomics predict new.h5ad --model map.tt --out labels.h5ad --figure labels.png
tripletomics compare cells.h5ad --label cell_type --out report.html
```

`tripletomics demo` shows an example with cells that come with it. `tripletomics COMMAND --help` explains a command.
"""

EXAMPLES = {  # of the help of each command
    "fit": (
        "fit cells.h5ad --label cell_type --out map.h5ad --model map.tt",
        "fit rna.h5ad --protein adt.h5ad --label cell_type --out both.h5mu --model both.tt",
    ),
    "transform": (
        "transform new.h5ad --model map.tt --out new-map.h5ad", "transform new.zarr --model map.tt --shard 1/4",
    ),
    "predict": ("predict new.h5ad --model map.tt --out labels.h5ad --figure labels.png",),
    "relate": ("relate one.h5ad other.h5ad --model map.tt --label-a leiden --label-b cell_type --out table.csv",),
    "evaluate": (
        "evaluate map.h5ad --label cell_type", "evaluate map.h5ad --label cell_type --basis X_tt X_umap > scores.tsv",
    ),
    "compare": (
        "compare cells.h5ad --label cell_type --out report.html",
        "compare cells.h5ad --label cell_type --methods tt umap pca2 --seeds 1 --out paper",
    ),
    "convert": ("convert atlas.h5ad atlas.zarr",),
    "losses": ("losses", "losses triplet"),
    "demo": ("demo",),
}  # fmt: skip

ALONE = ("transform", "predict", "relate", "losses")  # train nothing: srun may start one for each of many files

REFUSALS = (ValueError, KeyError, TypeError, ImportError, FloatingPointError)

app = App(
    name="tripletomics", help=HELP, help_format="markdown", version=version("tripletomics"),
    result_action="return_value", suppress_keyboard_interrupt=False,
)  # fmt: skip
COMMANDS = {
    "fit": fit, "transform": transform, "predict": predict, "relate": relate, "evaluate": evaluate,
    "compare": compare, "convert": convert, "losses": show_losses, "demo": run_demo,
}  # fmt: skip
for name, command in COMMANDS.items():
    examples = "\n".join(f"tripletomics {line}" for line in EXAMPLES[name])
    usage = "Usage: tripletomics losses [OPTIONS] [NAME]" if name == "losses" else None  # [ARGS] would not say which
    app.command(command, name=name, usage=usage, help_epilogue=f"Examples:\n\n```\n{examples}\n```")
OPTIONS = {name for command in COMMANDS.values() for name in inspect.signature(command).parameters}


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """Print a warning of tripletomics on one line; those of libraries are for developers."""
    if issubclass(category, TripletomicsWarning) and processes.rank() == 0:
        with suppress(OSError):  # the reader has closed the pipe, and the work continues
            print("warning:", _one_line(message), file=sys.stderr)


def _one_line(message: object) -> str:
    if isinstance(message, KeyError):
        message = message.args[0]  # str() puts it in quotes
    return for_terminal(printable(" ".join(str(message).split())), OPTIONS)


def _usage(error: CycloptsError) -> str:
    """Return what is wrong with an option, and the option that is near, if there is one."""
    if isinstance(error, MissingArgumentError) and error.argument is not None and not error.argument.tokens:
        return f"{' '.join(error.command_chain or ())} needs {error.argument.name}."
    if isinstance(error, UnknownOptionError) and str(error).startswith("Unknown option"):
        given = str(error.token.keyword or error.token.value).partition("=")[0]
        known = [name.lstrip("-") for one in error.argument_collection for name in one.names]
        word = given.lstrip("-").replace("-", "_")
        other = "threads" if word in OF_THREADS else meant(word, [name.replace("-", "_") for name in known])
        near = did_you_mean(given.lstrip("-"), known) if other is None else f" Did you mean {option(other)}?"
        return f"Unknown option: {given}." + re.sub(r"'(.*)'", r"--\1", near)
    return str(error)


def _is_refusal(error: BaseException) -> bool:
    """Return whether this package or the system raised the error; a bug in a library needs its traceback."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    ours = place is not None and place.tb_frame.f_globals["__name__"].startswith("tripletomics.")
    return isinstance(error, OSError) or (ours and isinstance(error, REFUSALS))


def _stop(number: int, _: Any) -> None:
    """Exit through every `finally` block, so that no half-written file is left."""
    sys.exit(128 + number)


def _meet(verb: str) -> None:
    """Join the other processes of a fit; raise for a command that many cannot run, or would run once each."""
    if processes.place().size == 1 or (verb in ALONE and not processes.by_torchrun()):
        return
    processes.join()
    if verb != "fit":
        raise ValueError(
            f"`tripletomics {verb}` works in one process, and only `fit` in many: start it without torchrun or srun."
        )


def _input_first(given: Sequence[str]) -> list[str]:
    """Return the arguments with the cells first, where an option that takes several words would take them, too."""
    found = list(given)
    for i in range(2, len(found) if found[1:] and found[1].startswith("-") else 0):
        if is_input(found[i]) and not found[i - 1].startswith("-"):
            return [found[0], found[i], *found[1:i], *found[i + 1 :]]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a refusal is one line on stderr and exit status 1, a wrong option 2, an interruption 130.

    Parameters
    ----------
    arguments
        By default, those of the terminal.
    """
    for name in ("SIGTERM", "SIGHUP"):  # SIGHUP (not on Windows): the terminal was closed
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks
            signal.signal(number, _stop)
    logging.disable(logging.INFO)  # hints of Lightning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal or log without UTF-8 gets question marks
    given = sys.argv[1:] if arguments is None else arguments
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            _meet(given[0] if given else "")
            app(_input_first(given), exit_on_error=False, print_error=False)
            sys.stdout.flush()
            return
        except BrokenPipeError:  # the reader has closed the pipe, and all files are written
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end of Python
            sys.exit(1)  # as rich does
        except CycloptsError as error:
            message, status = _usage(error), 2
        except KeyboardInterrupt as stop:
            message, status = f"interrupted: {stop}." if stop.args else "interrupted", 130
        except Exception as error:
            if not _is_refusal(error):
                if processes.first_to_say(repr(error)):
                    raise
                sys.exit(1)
            message, status = _one_line(error), 1
    if processes.first_to_say(message):
        print(f"error: {message}", file=sys.stderr)
    sys.exit(status)

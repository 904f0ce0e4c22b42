"""`tripletomics losses`: the losses and their settings, from their docstrings."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from typing import TYPE_CHECKING

from tripletomics import parts
from tripletomics.cli.answers import Answer
from tripletomics.cli.options import grouped

if TYPE_CHECKING:
    from rich.console import Console

NARROWEST, WIDEST = 40, 100  # columns of text that are easy to read


@grouped
def show_losses(name: str | None = None, /) -> Answer:
    """List the losses that `fit --loss` takes, with their settings and defaults, or explain one.

    Parameters
    ----------
    name
        The loss to explain; without it, all are listed.
    """
    from tripletomics.losses import family

    known = dict(sorted(family().items()))
    found = known if name is None else {name: parts.find(name, known, "loss")}

    def show() -> None:
        from rich.console import Console

        console = Console(highlight=False, markup=False, emoji=False)
        console.width = min(max(console.width, NARROWEST), WIDEST)
        if name is None:
            _print_losses(console, known)
        else:
            _print_loss(console, name, found[name])

    record = {key: {"settings": parts.defaults(cls), "summary": _first_line(cls)} for key, cls in found.items()}
    return Answer({"losses": record}, show)


def _first_line(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _print_losses(console: Console, losses: dict[str, type]) -> None:
    """Print each loss under the first line of its module's docstring, the module of the default loss first."""
    from tripletomics.losses.defaults import DEFAULT_LOSS, DEFAULT_VIEWS

    home = {name: ".".join(cls.__module__.split(".")[:3]) for name, cls in losses.items()}
    for module in sorted(set(home.values()), key=lambda module: (module != home[DEFAULT_LOSS], module)):
        console.print(_wrapped(console, (sys.modules[module].__doc__ or module).partition("\n")[0]), style="bold")
        members = {name: cls for name, cls in losses.items() if home[name] == module}
        for name, cls in members.items():
            indent = max(map(len, members)) + 4
            _print_term(console, name, _first_line(cls), indent)
            console.print(_wrapped(console, _settings(cls), indent), style="dim")
        console.print()
    console.print('Usage: --loss "triplet:margin=0.3"; a sum: --loss "softmax + 0.003*center".')
    views = DEFAULT_VIEWS.partition(":")[0]
    console.print(f"Without --loss, fit takes {DEFAULT_LOSS}, and {views} for cells without labels.")
    console.print("tripletomics losses NAME explains a loss.")


def _print_loss(console: Console, name: str, cls: type) -> None:
    """Print the settings of a loss and its docstring, without its markup but with formulas as they are."""
    console.print(name, style="bold cyan")
    console.print(_wrapped(console, _settings(cls)), style="dim")
    text = re.sub(r':math:`(.*?)`|``(".*?")``', r"\1\2", inspect.getdoc(cls) or "").replace("``", "`")
    intro, *sections = re.split(r"\s*^(.+)\n-+\n", text, flags=re.MULTILINE)
    for heading, body in zip(["", *sections[::2]], [intro, *sections[1::2]], strict=True):
        if heading == "Examples":  # they are Python
            continue
        console.print(f"\n{heading}" if heading else "", style="bold")
        if heading == "Parameters":
            settings = re.findall(r"^(\S.*)\n((?: .*\n*)+)", body, re.MULTILINE)
            for setting, words in settings:
                _print_term(console, setting, words, max(len(name) for name, _ in settings) + 4)
            continue
        for i, block in enumerate(re.split(r"\n\n+", body)):
            if block.startswith(".. math::"):
                lines = inspect.cleandoc(block.removeprefix(".. math::")).splitlines()
                words = "\n".join(_wrapped(console, line, 4 + len(line) - len(line.lstrip()), hang=4) for line in lines)
            else:
                words = _wrapped(console, block, 2 if heading else 0)
            console.print("\n" * (i > 0) + words)


def _print_term(console: Console, name: str, words: str, indent: int) -> None:
    """Print a name and, next to it, what it means."""
    console.print(f"  {name}".ljust(indent), style="cyan", end="")
    console.print(_wrapped(console, words, indent)[indent:])


def _wrapped(console: Console, text: str, indent: int = 0, hang: int = 0) -> str:
    first, rest = " " * indent, " " * (indent + hang)
    return textwrap.fill(" ".join(text.split()), console.width, initial_indent=first, subsequent_indent=rest,
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip


def _settings(cls: type) -> str:
    pairs = (name if default is None else f"{name}={default}" for name, default in parts.defaults(cls).items())
    return ", ".join(pairs) or "no settings"

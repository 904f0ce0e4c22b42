"""What every command takes and gives: its answer as a table, sentences or JSON, and the options of all commands."""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from cyclopts import Parameter
from cyclopts.validators import Number

THREADS = ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM", "NUMEXPR", "NUMBA")  # <name>_NUM_THREADS of each library
NAMES = ("label", "order", "batch", "layer", "use_rep", "unlabelled")  # settings that are never numbers
LINES = ("info", "hint", "debug")  # levels whose lines take the place of bars
Level = Literal["error", "warning", "info", "hint", "debug"]


class Answer(NamedTuple):
    """What a command found: the values for `--json`, and a function that prints them for people."""

    record: Mapping[str, Any]
    show: Callable[[], None]


def whole(text: str) -> int:
    """Return a number that was typed; raise if it is not whole, which cyclopts would round."""
    if not re.fullmatch(r"-?\d+", text):
        raise ValueError(f"{text!r} is not a whole number.")
    return int(text)


def _options(
    *,
    json: Annotated[
        bool, Parameter(negative=(), help="Print one JSON object and nothing else. A value that is not known is null.")
    ] = False,
    quiet: Annotated[bool, Parameter(negative=(), help="Print nothing but errors, and what `--json` prints.")] = False,
    log_level: Annotated[
        Level | None,
        Parameter(help="How much to report on the way, as in scanpy: `info` names each stage. [default: warning]"),
    ] = None,
    threads: Annotated[
        int | None,
        Parameter(
            converter=lambda _, tokens: whole(tokens[0].value),
            validator=Number(gte=1),
            help="How many threads compute. [default: one for each core]",
        ),
    ] = None,
) -> None:
    """Hold the options that all commands have."""


COMMON = inspect.signature(_options, eval_str=True).parameters


def answering(command: Callable[..., Answer | None]) -> Callable[..., None]:
    """Give a command the options that all commands have, and print its answer as they say."""

    @functools.wraps(command)
    def run(*given: Any, json: bool = False, quiet: bool = False, log_level: Level | None = None,
            threads: int | None = None, **named: Any) -> None:  # fmt: skip
        if threads is not None:
            _bound(threads)
        if (quiet or log_level in LINES) and "progress" in inspect.signature(command).parameters:
            named["progress"] = False
        with _telling("error" if quiet else log_level), _instead_of_stdout(json, quiet):
            answer = command(*given, **named)
        if json and answer is not None:
            print(as_json(answer.record))
        elif answer is not None and not quiet:
            answer.show()

    signature = inspect.signature(command, eval_str=True)
    added = [p for name, p in COMMON.items() if name not in signature.parameters]
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [*signature.parameters.values(), *added]}
    return run


def _bound(threads: int) -> None:
    """Limit the threads of libraries, those imported later and those already loaded, such as numpy.

    There are never more threads than cores: with more, libraries that are already loaded crash.
    """
    from threadpoolctl import threadpool_limits

    threads = min(threads, os.cpu_count() or 1)
    os.environ.update({f"{name}_NUM_THREADS": str(threads) for name in THREADS})
    threadpool_limits(threads)


@contextmanager
def _telling(level: Level | None) -> Iterator[None]:
    """Report no more than a level of scanpy's logger does."""
    with warnings.catch_warnings():
        if level is None or level == "error":
            if level is not None:
                warnings.simplefilter("ignore")
            yield
            return
        import scanpy

        before, scanpy.settings.verbosity = scanpy.settings.verbosity, level
        try:
            yield
        finally:
            scanpy.settings.verbosity = before


@contextmanager
def _instead_of_stdout(json: bool, quiet: bool) -> Iterator[None]:
    """Keep stdout for a JSON object, or silent."""
    if quiet:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield
    else:
        with redirect_stdout(sys.stderr if json else sys.stdout):
            yield


def written(*paths: Path | None) -> list[str]:
    """Return the names of the files that were written, for an answer."""
    return [str(path) for path in paths if path is not None]


def typed(settings: Mapping[str, str]) -> dict[str, Any]:
    """Return settings, which are kept as text, with their own types; the names of columns stay text."""
    words: dict[str, Any] = {"None": None, "True": True, "False": False}
    found: dict[str, Any] = {}
    for name, text in settings.items():
        found[name] = words.get(text, text)
        if name not in NAMES and re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", text):
            found[name] = json.loads(text)
    return found


def as_json(record: Mapping[str, Any]) -> str:
    """Return valid JSON: NaN and infinity are null, a table is a list of rows."""
    return json.dumps(_plain(record), indent=2, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):  # a table
        value = value.to_dict("records")
    elif hasattr(value, "tolist"):  # numbers of numpy
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)

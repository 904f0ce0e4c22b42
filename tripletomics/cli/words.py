"""Words of the command line for those of Python, in messages and help: `--missing zero` for `missing='zero'`."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterable

VERBS = "fit|transform|predict|relate|evaluate|compare|convert"
VALUE = r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\([^)]*\)|-?[\w+-]+(?:\.\d+)?"
FIXED = {"adata": "INPUT", "obs": "obs", "a": "A", "b": "B"}  # not options: what is read, and part of it
TITLES = ((rf"\b(?:tripletomics|tt)\.(?:tl\.)?({VERBS})\b(?:\([\w, ]*\))?", r"the command tripletomics \1"),
          (r"\badata\.(obsm|obs|varm|var|uns|layers)(?![\w\[]|\.\w)", r"\1"))  # fmt: skip


def option(name: str) -> str:
    """Return an option as it is written in a terminal."""
    return "--" + name.replace("_", "-")


def for_terminal(message: str, names: Iterable[str]) -> str:
    """Return a message with options (of these names) and commands as they are written in a terminal."""
    for python, shell in TITLES:
        message = re.sub(python, shell, message)
    some = "|".join(names)
    message = re.sub(rf"^({some})(?=: )|(?<=leave )({some})(?= out\b)", lambda found: option(found[0]), message)
    # not inside the settings of a part, such as "triplet:margin=0.3,steps=2", nor in a call
    assigned = rf"(?<![\w:,+.'\"=-])(?<!\w\()({some})=({VALUE})?"
    return re.sub(assigned, lambda found: _given(*found.groups()), message)


def options_in(doc: str, names: Iterable[str]) -> str:
    """Return a docstring with the words in backquotes as they are written in a terminal."""
    known = list(names)

    def translated(found: re.Match[str]) -> str:
        quote, text = found.groups()
        text = FIXED.get(text, option(text) if text in known else for_terminal(text, known))
        return f"{quote}{text}{quote}"

    return re.sub(r"(?<!`)(``?)([^`\n]+)\1(?!`)", translated, doc)


def _given(name: str, text: str | None) -> str:
    if text and "\\" in text:  # characters that could control the terminal stay escaped
        return f"{option(name)} {text}"
    try:
        value = ast.literal_eval(text or "''")
    except (SyntaxError, ValueError):  # a word
        value = text
    if value is None or value is False:
        return f"no {option(name)}" if value is None else option(f"no_{name}")
    if value is True or not text:
        return option(name)
    many = value if isinstance(value, list | tuple) else [value if isinstance(value, str) else text]
    return " ".join([option(name), *(shlex.quote(str(one)) for one in many)])

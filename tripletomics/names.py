"""Plain text for a terminal, a page or a spreadsheet: names that others chose, and shares."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

STEERING = {"Cc", "Cs", "Cn", "Zl", "Zp"}  # Unicode categories: control, surrogate, no character, line breaks
TURNING = {0x200E, 0x200F, 0xFEFF, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # turn the text that follows
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a text that begins so is a formula to a spreadsheet


def printable(text: object) -> str:
    """Return text with U+FFFD for characters that would control a terminal or break a PDF; line breaks stay."""
    return "".join(
        letter
        if letter == "\n" or not (unicodedata.category(letter) in STEERING or ord(letter) in TURNING)
        else "\ufffd"
        for letter in str(text)
    )


def harmless(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table for CSV, in which ``'`` stands before text that a spreadsheet would take for a formula."""

    def quoted(value: object) -> object:
        return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

    changed = {str(name): column.map(quoted) for name, column in table.items() if column.dtype.kind not in "fiub"}
    return table.assign(**changed).rename(columns=quoted)


def unquoted(value: object) -> object:
    """Return a value of a table without the ``'`` that `harmless` put before it."""
    return value[1:] if isinstance(value, str) and value[:1] == "'" and value[1:].startswith(FORMULA) else value


def percent(share: float, digits: int = 0) -> str:
    """Return a share as text, such as "90 %"."""
    return f"{share:.{digits}%}".replace("%", " %")


def markdown_text(text: object) -> str:
    """Return text on one line, of which nothing is markup in Markdown."""
    return re.sub(r"[\\`*<>|\[\]$~]|&(?=#?\w+;)|\b_|_\b", r"\\\g<0>", " ".join(printable(text).split()))


def as_markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown, without its index. Names of columns and values are text."""
    rows = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    texts = [[text if i == 1 else markdown_text(text) for text in row] for i, row in enumerate(rows)]
    return "".join(f"| {' | '.join(row)} |\n" for row in texts)


def as_html(title: str, table: pd.DataFrame, lines: Iterable[str], folded: Mapping[str, Mapping[str, str]]) -> str:
    """Return a table and sentences as HTML, in the colours of the notebook.

    Parameters
    ----------
    title, table, lines
        What is shown, from top to bottom.
    folded
        Further tables of names and values by their titles, which open with a click.
    """
    import pandas as pd

    def drawn(table: pd.DataFrame, header: bool = True) -> str:
        with pd.option_context("display.max_colwidth", None):
            page = str(table.map(printable).rename(index=printable).to_html(border=0, header=header))
        return page.replace("<th>", '<th style="text-align: left">')  # notebooks align headers on the right

    parts = [f"<p><strong>{escape(printable(title))}</strong></p>", drawn(table)]
    parts += [f"<p>{escape(printable(line))}</p>" for line in lines]
    for name, values in folded.items():
        inside = drawn(pd.Series(values, dtype=object).to_frame(), header=False)
        parts.append(f"<details><summary>{escape(printable(name))}</summary>{inside}</details>")
    return f'<div style="margin: 0.5em 0">{"".join(parts)}</div>'

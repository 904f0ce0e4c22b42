"""Text and inches of a figure: sizes, widths of lines, line breaks, and how a figure is saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

from tripletomics.arguments import checking_names
from tripletomics.files import replacing
from tripletomics.names import printable

# fmt: off
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 6, "handlelength": 1.2, "handletextpad": 0.2,
                          "labelspacing": 0.3, "columnspacing": 1.2, "borderpad": 0, "borderaxespad": 0.6}
# fmt: on
INK, ALARM, NOTE = "#1a1a1a", "#c4001a", "#404040"
SMALL, TITLE = 6, 9  # points
MARGIN = 0.02  # inches left and right of what fills the width of a figure


@contextmanager
def _drawing() -> Iterator[None]:
    """Take no name for a formula, and close a new figure if an error comes before it is complete."""
    before = set(plt.get_fignums())
    try:
        with mpl.rc_context({"text.parse_math": False}):
            yield
    except BaseException:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
        raise


literal = _drawing()  # decorator of what draws


def as_text(ax: Any) -> None:
    """Show all text on given axes as it is, not as a formula."""
    for text in ax.findobj(Text):
        text.set_parse_math(False)


def inches(figure: Any, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
    """Return a box in the coordinates of a figure, from one in inches from its upper left corner."""
    wide, high = figure.get_size_inches()
    return left / wide, 1 - (top + height) / high, width / wide, height / high


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Return the width of a line of text in inches; a little is added because screens round each letter up."""
    font = FontProperties(size=size, weight=weight)
    return 1.04 / 72 * float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) if text else 0.0


def wrap(text: str, width: float, size: float, weight: str = "normal") -> list[str]:
    """Break a text at its spaces, not at hard ones, into lines of at most `width` inches where its words allow it."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and text_width(f"{lines[-1]} {word}", size, weight) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [line.replace("\u00a0", " ") for line in lines]


def balanced(text: str, width: float, size: float) -> list[str]:
    """Break a text into as few lines of at most `width` inches as it takes, of lengths as even as they can be."""
    lines = wrap(text, width, size)
    while True:
        narrower = wrap(text, max(text_width(line, size) for line in lines) - 1e-6, size)
        if len(narrower) > len(lines) or narrower == lines:
            return lines
        lines = narrower


def write_lines(figure: Any, lines: list[str], left: float, top: float, step: float, size: float = SMALL) -> None:
    """Write lines of text in grey below each other, from a point in inches from the upper left corner."""
    for i, line in enumerate(lines):
        place = inches(figure, left, top + step * i, 0, 0)[:2]
        figure.text(*place, line, fontsize=size, va="top", color=NOTE, gid="note")


@checking_names
def save(figure: Any, path: str | Path) -> None:
    """Write a figure whole or not at all, at 300 dpi and with text as text; the name's ending is the format.

    Examples
    --------
    >>> figure = tt.pl.compare(adata, "cell_type", bases=["X_tt", "X_pca"], show=False)
    >>> tt.pl.save(figure, "maps.pdf")
    """
    fonts: Any = {"pdf.fonttype": 42, "svg.fonttype": "none", "text.parse_math": False}
    for text in figure.findobj(Text):
        if (shown := printable(text.get_text())) != text.get_text():  # a control character breaks PDF and SVG
            text.set_text(shown)
    with replacing(path) as draft, mpl.rc_context(fonts):
        figure.savefig(draft, dpi=300, format=Path(path).suffix[1:] or "png")

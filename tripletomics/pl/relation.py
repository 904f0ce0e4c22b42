"""Which label of one dataset is which of another: a matrix of shares, with matches along the diagonal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from scipy.sparse.csgraph import connected_components

from tripletomics.arguments import checking_names
from tripletomics.labels import NONE
from tripletomics.names import printable
from tripletomics.pl.map_axes import color_scale
from tripletomics.pl.palette import GREY, PALETTE, listed
from tripletomics.pl.showing import check_output, finish
from tripletomics.pl.text import INK, MARGIN, NOTE, SMALL, as_text, inches, literal, text_width, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEEDED = ("label_a", "label_b", "share", "lower", "upper")
SQUARE, READABLE = 0.3, 0.15  # inches: largest square, and smallest square with a number
LEAST, SHOWN = 0.05, 0.01  # smallest share of labels that belong together; smallest share that is written
LINE = 0.88  # of a square's width, for 0 to 100 %
REMARK = "percent of the cells of each row; lines: 95 % intervals, from 0 (left edge of a square) to 100 % (right edge)"


@literal
@checking_names
def relate(
    table: pd.DataFrame,
    *,
    width: float = 7.1,
    show: bool | None = None,
    save: str | Path | bool | None = None,
    return_fig: bool = False,
) -> Figure:
    """Draw which label of one dataset is which of another.

    Labels that belong together are next to each other, so that matches lie along the diagonal. The last column is
    "none".

    Parameters
    ----------
    table
        What :func:`tripletomics.relate` returns. It is not changed.
    width
        Width of the figure in inches, at most; 7.1 is a page, 3.5 a column.
    show, save, return_fig
        As in scanpy: whether to show the figure (and return None), the path of a file to write it to, and whether to
        return the figure. By default a figure is shown in notebooks, and returned elsewhere.

    Returns
    -------
    Figure
        Its first Axes has a row for each label of the first dataset, and a column for each of the second. A square has
        the percentage of the row's cells and, below it, a line for the 95 % interval. Shares below 1 % have neither. If
        the squares are too small, there is a colour scale next to the matrix instead.

    Raises
    ------
    TypeError
        If `table` is not a DataFrame.
    ValueError
        If columns or rows are missing, or `width` leaves no room for the matrix.

    Examples
    --------
    >>> table = tt.relate(query, adata, model, label_a="cell_type", label_b="cell_type")
    >>> figure = tt.pl.relate(table)
    """
    check_output(save)
    share, lower, upper = (_square(table, name) for name in NEEDED[2:])
    rows, columns = _order(share)
    share, lower, upper = (values.loc[rows, columns] for values in (share, lower, upper))
    left, foot = (0.3 + max(text_width(printable(name), SMALL) for name in names) for names in (rows, columns))
    square = min(SQUARE, (width - left - 2 * MARGIN) / len(columns))
    legible = square >= READABLE
    right = MARGIN if legible else 0.65
    square = min(square, (width - left - right - MARGIN) / len(columns))
    if square < READABLE / 10:
        raise ValueError(
            f"width={width!r} leaves no room next to names of {left:.1f} inches for {len(columns)} columns: widen the "
            "figure, or shorten the names."
        )
    across, down = square * len(columns), square * len(rows)
    wide = MARGIN + left + max(across, 1.0) + right
    lines = wrap(REMARK if legible else REMARK.partition(";")[0], wide - 2 * MARGIN, SMALL)
    head = 0.06 + 0.1 * len(lines)
    figure = plt.figure(figsize=(wide, head + down + foot), dpi=150)
    ax = figure.add_axes(inches(figure, MARGIN + left, head, across, down))
    colors = LinearSegmentedColormap.from_list("tt", ["white", PALETTE[0]])
    edges = (np.arange(len(names) + 1) - 0.5 for names in (columns, rows))
    ax.pcolormesh(*edges, share, cmap=colors, norm=Normalize(0, 1), edgecolors="#ececec", linewidth=0.4)
    _frame(ax, rows, columns, min(SMALL, 62 * square), {str(k): str(v) for k, v in table.attrs.items()})
    if legible:
        _write(ax, share.to_numpy(), lower.to_numpy(), upper.to_numpy(), min(SMALL, 30 * square))
    else:
        tones = ScalarMappable(Normalize(0, 1), colors)
        color_scale(
            ax,
            tones,
            "share of the row",
            (1 + 0.12 / across, max(0.0, 1 - 1 / down), 0.08 / across, min(1.0, 1 / down)),
        )
    for i, line in enumerate(lines):
        place = inches(figure, MARGIN, 0.02 + 0.1 * i, 0, 0)[:2]
        figure.text(*place, line, fontsize=SMALL, color=NOTE, va="top", gid="remark")
    return finish(figure, figure, "relate", show, save, return_fig)


def _square(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a column of the table as a matrix, or raise if it is not a table from `relate`."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table must be a DataFrame, not {type(table).__name__}. tt.relate returns one.")
    if lacks := [column for column in NEEDED if column not in table]:
        raise ValueError(
            f"table lacks the columns {listed(lacks)}. Pass what tt.relate returns. Columns: {listed(table.columns)}."
        )
    names = table.astype({"label_a": str, "label_b": str})
    twice = names.duplicated(["label_a", "label_b"])
    if table.empty or twice.any():
        what = "no row, so nothing to draw" if table.empty else f"{int(twice.sum())} pairs of labels twice"
        raise ValueError(f"table has {what}. Pass what tt.relate returns.")
    return names.pivot(index="label_a", columns="label_b", values=name).fillna(0)


def _order(share: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return rows and columns in an order with matches along the diagonal; "none" is the last column.

    A row is linked with the column of its largest share, and a column with the row of its largest share. Linked rows
    and columns stay together. These groups come in the order of their first rows. What has no match is last.
    """
    rows, columns = list(share.index), [name for name in share.columns if name != NONE]
    values, largest = share[columns].to_numpy(), share.to_numpy().max(axis=1)
    links = np.zeros((len(rows), len(columns)), dtype=bool)
    if columns:
        best = values.argmax(axis=1)
        links[np.arange(len(rows)), best] = values.max(axis=1) == largest
        links[values.argmax(axis=0), np.arange(len(columns))] |= values.max(axis=0) >= LEAST
    n = len(rows)
    graph = np.block([[np.zeros((n, n)), links], [links.T, np.zeros((len(columns), len(columns)))]])
    parts = connected_components(graph, directed=False)[1]
    begin = {part: i for i, part in reversed(list(enumerate(parts[:n])))}  # its first row
    alone = ~np.concatenate([links.any(axis=1), links.any(axis=0)])
    by_row = sorted(range(n), key=lambda i: (alone[i], begin[parts[i]], best[i] if columns else 0))
    rank = np.argsort(by_row)
    by_column = sorted(
        range(len(columns)), key=lambda j: (alone[n + j], begin.get(parts[n + j], 0), rank[values[:, j].argmax()])
    )
    return [rows[i] for i in by_row], [columns[j] for j in by_column] + [NONE] * (NONE in share)


def _frame(ax: Axes, rows: list[str], columns: list[str], size: float, names: Mapping[str, str]) -> None:
    """Name the rows and the columns in letters of a size in points, and set "none" apart; `names` are of the labels."""
    as_text(ax)
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    ax.set_xticks(range(len(columns)), [printable(name) for name in columns], rotation=90, fontsize=size)
    ax.set_yticks(range(len(rows)), [printable(name) for name in rows], fontsize=size)
    ax.tick_params(length=0, pad=2)
    ax.spines[:].set(color=GREY, linewidth=0.6)
    ax.set_xlabel(printable(names.get("label_b", "labels") + " of b"), fontsize=SMALL, labelpad=2)
    ax.set_ylabel(printable(names.get("label_a", "labels") + " of a"), fontsize=SMALL, labelpad=4)
    if columns[-1] == NONE and len(columns) > 1:
        ax.axvline(len(columns) - 1.5, color=INK, linewidth=0.6)
        ax.get_xticklabels()[-1].set_fontstyle("italic")


def _write(ax: Axes, share: np.ndarray, lower: np.ndarray, upper: np.ndarray, size: float) -> None:
    """Write percentages into the squares, and draw the intervals below them."""
    i, j = np.nonzero(share >= SHOWN)
    inks = ["white" if share[k] > 0.5 else INK for k in zip(i, j, strict=True)]
    for row, column, ink in zip(i.tolist(), j.tolist(), inks, strict=True):
        text = f"{100 * share[row, column]:.0f}"
        ax.text(column, row - 0.1, text, ha="center", va="center_baseline", fontsize=size, color=ink, gid="percent")
    for gid, ends, style in (
        ("tracks", np.tile([0.0, 1.0], (len(i), 1)), {"linewidths": 0.4, "alpha": 0.4}),
        ("intervals", np.stack([lower[i, j], upper[i, j]], axis=1), {"linewidths": 1.2}),
    ):
        x = j[:, None] + LINE * (ends - 0.5)
        y = np.repeat(i[:, None] + 0.33, 2, axis=1)
        ax.add_collection(
            LineCollection(list(np.stack([x, y], axis=2)), colors=inks, capstyle="butt", gid=gid, **style)
        )

"""The genes that pull each group apart from another: one panel of bars per group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from tripletomics.arguments import checking_names
from tripletomics.names import printable
from tripletomics.parts import did_you_mean
from tripletomics.pl.palette import GREY, Palette, colours, listed
from tripletomics.pl.showing import check_output, finish
from tripletomics.pl.text import INK, LEGEND, MARGIN, NOTE, SMALL, TITLE, inches, literal, text_width, wrap, write_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEEDED = ("group", "against", "gene", "share", "mean_group", "mean_against")
BAR, LINE, TICKS = 0.115, 0.11, 0.3  # inches: a bar, a line of title, the scale below a panel
BARS_GAP, MIN_BARS, MAX_BARS = 0.14, 0.85, 2.4  # inches: between panels, narrowest and widest bars
SPACE = 0.5  # bars, between markers, genes that lack, and genes that pull back
HEAD = 0.24  # inches, of the title of the figure
TITLE_TEXT = "Genes that set each group apart"
FILLED, OPEN = "higher in the group of this colour", "lower in it: the low value sets it apart"
BARS = (
    "Bars: the share of each gene in what separates the two groups in the metric space. The pulls of all{} genes, to "
    "the group and away from it, make 100\u00a0%."
)
AGAINST = (
    "Unless another was asked for, a group is compared with the one whose mean principal components are most similar."
)
OWN_SCALES = "Each panel has its own scale."
BACK = "Left of 0: genes by which the group is more like the other one, in whose colour they are drawn."
UNLIKE = 2.0  # times that the longest bar of one panel may be that of another on the same scale
LEGEND_GREY = "#7a7a7a"


@dataclass(frozen=True)
class Panel:
    """The bars of a group."""

    group: str
    against: str
    rows: pd.DataFrame  # from the top
    n_genes: int | None  # all of which the shares are; None if the table does not have all of them
    kind: np.ndarray  # (rows,) 0 for a marker, 1 for a gene that the group lacks, 2 for one that pulls back

    @property
    def back(self) -> np.ndarray:
        """Return which genes pull back, (rows,) bool."""
        return self.kind == 2

    @property
    def y(self) -> np.ndarray:
        """Return where the bars stand, from 0, with a space between kinds."""
        return np.arange(len(self.rows)) + SPACE * np.cumsum(np.diff(self.kind, prepend=self.kind[:1]) > 0)

    @property
    def height(self) -> float:
        """Return the height of the bars in inches."""
        return BAR * (self.y.max(initial=0) + 1.3)

    def title(self, width: float) -> list[tuple[str, bool]]:
        """Return lines of at most `width` inches, and whether they name the group."""
        names = _balanced(self.group, width, SMALL + 1, "bold"), _balanced(f"against {self.against}", width, SMALL)
        return [(line, i == 0) for i, lines in enumerate(names) for line in lines]


@literal
@checking_names
def genes(
    table: pd.DataFrame,
    *,
    n: int = 10,
    n_back: int = 0,
    groups: Sequence[str] | None = None,
    palette: Palette | None = None,
    width: float = 7.1,
    show: bool | None = None,
    save: str | Path | bool | None = None,
    return_fig: bool = False,
) -> Figure:
    """Draw the genes that pull each group apart from the one that it is compared with.

    Parameters
    ----------
    table
        What :func:`tripletomics.explain` returns. It is not changed.
    n
        Genes that pull toward the group, at most. At least half are higher in the group, where there are as many.
    n_back
        Genes below these that pull back, at most; by default none.
    groups
        Which groups to draw, in this order; by default all, in the order of the dataset's categories.
    palette
        Colours of the groups, a list or a dict, as in :func:`embedding`; by default those of a map of all groups.
    width
        Width of the figure in inches, at most; 7.1 is a page, 3.5 a column.
    show, save, return_fig
        As in scanpy: whether to show the figure (and return None), the path of a file to write it to, and whether to
        return the figure. By default a figure is shown in notebooks, and returned elsewhere.

    Returns
    -------
    Figure
        One Axes per group. A bar is the share of a gene in the summed absolute attribution of all genes, in the colour
        of the group that it pulls to. All panels have the same scale, or each its own where the longest bars differ by
        more than two times. Markers come first, with
        filled bars: genes that are higher in the group than in the other. Then come genes that it lacks, with open
        bars, and last those that pull back.

    Raises
    ------
    TypeError
        If `table` is not a DataFrame.
    ValueError
        If columns or a group are missing, it is empty, `n` is less than 1 or `n_back` less than 0.

    Examples
    --------
    >>> table = tt.explain(adata, model, against={"CD19+ B": "Dendritic"})
    >>> figure = tt.pl.genes(table, n=5)
    """
    check_output(save)
    _check(table, n, n_back)
    names = _names(table)
    colors = dict(zip(names, colours("group", names, palette), strict=True))
    table = table.assign(**{name: table[name].astype(str) for name in ("group", "against", "gene")})
    known = [name for name in names if name in set(table["group"])]
    chosen = [groups] if isinstance(groups, str) else list(known if groups is None else groups)
    for group in chosen:
        if group not in known:
            raise ValueError(
                f"groups has {group!r}, which is not in the table.{did_you_mean(group, known)} Groups: {listed(known)}."
            )
    if not chosen:
        raise ValueError(f"groups={groups!r} names no group to draw. Groups: {listed(known)}.")
    figure = _lay_out([_panel(table[table["group"] == group], n, n_back) for group in chosen], colors, width)
    return finish(figure, figure, "genes", show, save, return_fig)


def _check(table: pd.DataFrame, n: int, n_back: int) -> None:
    """Raise an error unless this is a table of `explain`, and the numbers are counts."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table must be a DataFrame, not {type(table).__name__}. tt.explain returns one.")
    if lacks := [name for name in NEEDED if name not in table]:
        raise ValueError(
            f"table lacks the columns {listed(lacks)}. Pass what tt.explain returns. Columns: {listed(table.columns)}."
        )
    if table.empty:
        raise ValueError("table has no row, so nothing to draw. Pass what tt.explain returns.")
    for name, value, least in (("n", n, 1), ("n_back", n_back, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name}={value!r} is not a whole number of at least {least}.")


def _names(table: pd.DataFrame) -> list[str]:
    """Return all groups in the order in which a map gives them colours."""
    ends = [table["group"], table["against"]]
    if all(isinstance(end.dtype, pd.CategoricalDtype) for end in ends):
        return list(dict.fromkeys(str(name) for end in ends for name in end.cat.categories))
    return sorted({str(name) for end in ends for name in end})


def _panel(rows: pd.DataFrame, n: int, n_back: int) -> Panel:
    """Return the markers of a group, the genes that it lacks, and those that pull back, the strongest of these last."""
    group, against = rows[["group", "against"]].iloc[0]
    rows = rows.sort_values("share", ascending=False, kind="stable")
    toward, back = rows[rows["share"] > 0], rows[rows["share"] < 0]
    higher = toward["mean_group"] > toward["mean_against"]
    markers = max(int(higher[:n].sum()), min(math.ceil(n / 2), int(higher.sum())))
    kinds = [toward[higher][:markers], toward[~higher][: n - markers], back[max(len(back) - n_back, 0) :]]
    whole = len(rows) if abs(rows["share"].abs().sum() - 1) < 1e-3 else None
    return Panel(group, against, pd.concat(kinds), whole, np.repeat([0, 1, 2], list(map(len, kinds))))


def _balanced(text: str, width: float, size: float, weight: str = "normal") -> list[str]:
    """Return a text in the fewest lines, of about the same length."""
    lines = wrap(text, width, size, weight)
    for narrower in np.linspace(0.95, 0.5, 10) * width:
        tried = wrap(text, narrower, size, weight)
        lines = tried if len(tried) == len(lines) else lines
    return lines


def _lay_out(panels: list[Panel], colors: dict[str, Any], width: float) -> Figure:
    """Draw the panels in rows, and below them what filled and open bars are."""
    label = 0.06 + max((text_width(gene, SMALL) for panel in panels for gene in panel.rows["gene"]), default=0.0)
    most = max(1, int((width - 2 * MARGIN + BARS_GAP) / (label + MIN_BARS + BARS_GAP)))
    columns = math.ceil(len(panels) / math.ceil(len(panels) / most))
    bars = min((width - 2 * MARGIN + BARS_GAP) / columns - BARS_GAP - label, MAX_BARS)
    lines = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    titles = [[panel.title(label + bars) for panel in line] for line in lines]
    heads = [0.07 + LINE * max(map(len, above)) for above in titles]
    steps = [head + max(panel.height for panel in line) + TICKS for head, line in zip(heads, lines, strict=True)]
    width = min(width, 2 * MARGIN + columns * (label + bars + BARS_GAP) - BARS_GAP)
    across = 1 + (text_width(FILLED + OPEN, SMALL) + 0.75 < width)
    scales = _scales(panels)
    remarks = {BACK: any(panel.back.any() for panel in panels), AGAINST: True, OWN_SCALES: len(set(scales)) > 1}
    bars_are = BARS.format("" if panels[0].n_genes is None else f" {panels[0].n_genes:,}")
    notes = wrap(" ".join([bars_are, *(words for words, said in remarks.items() if said)]), width - 2 * MARGIN, SMALL)
    foot = 0.1 + 2 * LINE / across + LINE * len(notes)
    figure = plt.figure(figsize=(width, HEAD + sum(steps) + foot), dpi=150)
    figure.text(*inches(figure, MARGIN, 0.03, 0, 0)[:2], TITLE_TEXT, fontsize=TITLE, va="top", gid="title")
    for k, line in enumerate(lines):
        for i, panel in enumerate(line):
            left, top = MARGIN + i * (label + bars + BARS_GAP) + label, HEAD + sum(steps[:k]) + heads[k]
            ax = figure.add_axes(inches(figure, left, top, bars, panel.height))
            _paint(ax, panel, colors, scales[k * columns + i])
            _entitle(ax, titles[k][i], label)
    shades = [Patch(facecolor=face, edgecolor=LEGEND_GREY, linewidth=0.6) for face in (LEGEND_GREY, "white")]
    style = LEGEND | {"borderaxespad": 0.0, "handletextpad": 0.5}
    figure.legend(shades, [FILLED, OPEN], ncols=across, loc="upper left",
                  bbox_to_anchor=inches(figure, MARGIN, HEAD + sum(steps) + 0.06, 0, 0)[:2], **style)  # fmt: skip
    write_lines(figure, notes, MARGIN, HEAD + sum(steps) + foot - LINE * len(notes), LINE)
    return figure


def _scales(panels: list[Panel]) -> list[tuple[float, float]]:
    """Return limits in percent that hold the bars of each panel: the same for all, unless their lengths differ much."""
    shares = [100 * np.append(panel.rows["share"].to_numpy(dtype=float), 0) for panel in panels]
    longest = [abs(own).max() for own in shares]
    if max(longest) <= UNLIKE * min(longest):
        shares = [np.concatenate(shares)] * len(panels)
    ends = [(own.min(), max(own.max(), own.min() + 1e-9)) for own in shares]
    return [(low - 0.03 * (high - low), high + 0.03 * (high - low)) for low, high in ends]


def _paint(ax: Axes, panel: Panel, colors: dict[str, Any], scale: tuple[float, float]) -> None:
    """Draw the bars of a group with the names of their genes."""
    rows, y, back = panel.rows, panel.y, panel.back
    more = rows["mean_group"].to_numpy(dtype=float) > rows["mean_against"].to_numpy(dtype=float)
    color = np.where(back[:, None], to_rgb(colors[panel.against]), to_rgb(colors[panel.group]))
    face = np.where((more != back)[:, None], color, 1.0)
    ax.axvline(0, color=GREY, linewidth=0.6, zorder=0)
    ax.barh(y, 100 * rows["share"].to_numpy(dtype=float), height=0.62, color=face, edgecolor=color, linewidth=0.6)
    ax.set(xlim=scale, ylim=(y.max(initial=0) + 0.65, -0.65))
    ax.set_yticks(y, rows["gene"].map(printable), fontsize=SMALL, color=INK)
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], min_n_ticks=2))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:.6g}".replace("-", "−"))
    ax.tick_params(labelsize=SMALL, length=2, width=0.6, pad=1.5)
    ax.tick_params(axis="y", length=0, pad=2)
    ax.spines[["left", "top", "right"]].set_visible(False)
    ax.spines["bottom"].set(linewidth=0.6, color=GREY)
    ax.set_xlabel("% of the pull", fontsize=SMALL, labelpad=1)


def _entitle(ax: Axes, title: list[tuple[str, bool]], label: float) -> None:
    """Write the lines of a title above the names and the bars."""
    for i, (line, group) in enumerate(reversed(title)):
        style: dict[str, Any] = {"weight": "bold", "color": INK} if group else {"color": NOTE}
        ax.annotate(line, (0, 1), (-72 * label, 3 + 72 * LINE * i), "axes fraction", "offset points",
                    fontsize=SMALL + group, annotation_clip=False, gid="title", **style)  # fmt: skip

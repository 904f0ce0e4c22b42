"""Panels of scores: the held-out score of each method and its permuted score, one small Axes for each metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tripletomics.arguments import checking_names
from tripletomics.evaluation.scores import PERMUTED, REFITTED, SHUFFLED, UNUSED
from tripletomics.labels import NO_SIGNAL, TOO_FEW
from tripletomics.names import printable
from tripletomics.pl import score_table
from tripletomics.pl.palette import PALETTE
from tripletomics.pl.showing import check_output, finish
from tripletomics.pl.text import ALARM, INK, LEGEND, MARGIN, SMALL, inches, literal, text_width, wrap, write_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE, ROW, SECOND_ROW = 0.105, 0.145, 0.12  # inches: a line of text, a row, a further space of the same method
VALUES, PANEL_GAP = 0.29, 0.1  # inches: held-out values, between panels
MIN_PANEL = 0.85  # inches, the narrowest panel with both
TICKS = 0.2  # inches below a panel
DIRECTION = 0.11  # inches, of the words below panels where lower is better
SILENT_GREY, AXIS_GREY, BAND_GREY = "#8c8c8c", "#c9c9c9", "#f4f4f4"
MARK_GREY = "#7a7a7a"  # of permuted scores
PLAIN = {
    REFITTED: "the fit was given permuted labels",
    PERMUTED: "where a fit uses no labels, they are permuted after it",
    UNUSED: "where a fit uses no labels, they are permuted after it",
    SHUFFLED: "for scores of structure, the cells are shuffled",
}


@dataclass(frozen=True)
class Row:
    """A method in one of its spaces: a row in each panel."""

    method: str
    space: str
    y: float  # inches below the top of the panel
    silent: bool

    @property
    def is_map(self) -> bool:
        """Return whether its marker is filled."""
        return not self.space.endswith("metric")


@dataclass(frozen=True)
class PanelLayout:
    """What is drawn where, in inches, before there is a figure."""

    table: pd.DataFrame
    metrics: list[str]
    rows: list[Row]
    labels: list[tuple[float, str, bool]]  # inches from the top, words, whether they alarm
    bands: list[tuple[float, float]]  # top and bottom of each method
    names: float  # width of the labels
    columns: int
    titles: list[list[str]]  # lines of each metric
    notes: list[str]
    width: float

    @property
    def rows_height(self) -> float:
        """Return the height of the rows of a panel."""
        return self.bands[-1][1]

    @property
    def step(self) -> float:
        """Return the width of a panel with its values and the gap after it."""
        return (self.width - MARGIN - self.names + PANEL_GAP) / self.columns

    @property
    def head(self) -> float:
        """Return the height of the titles above a panel."""
        return LINE * (max(map(len, self.titles)) + 1.35)

    @property
    def spaces_differ(self) -> bool:
        """Return whether filled and open markers need an explanation; in a table of one method the labels give it."""
        return {"map", "metric"} <= {row.space for row in self.rows}

    @property
    def ticks(self) -> float:
        """Return the height of the scales below panels."""
        return TICKS + DIRECTION * any(map(score_table.lower_is_better, self.metrics))

    @property
    def height(self) -> float:
        """Return the height of everything."""
        return self.panels_height + LINE * (len(self.notes) + 1.4) + 0.08

    @property
    def panels_height(self) -> float:
        """Return the height without legend and notes."""
        return math.ceil(len(self.metrics) / self.columns) * (self.head + self.rows_height + self.ticks)


@literal
@checking_names
def scores(
    table: pd.DataFrame,
    *,
    metrics: Sequence[str] | None = None,
    titles: Mapping[str, str] | None = None,
    width: float = 7.1,
    show: bool | None = None,
    save: str | Path | bool | None = None,
    return_fig: bool = False,
) -> Figure:
    """Draw the held-out scores of each method next to its permuted scores, with error bars.

    Parameters
    ----------
    table
        What :func:`tripletomics.evaluate` returns, or the ``table`` of a comparison. It is not changed.
    metrics
        Which scores to draw, one panel each; by default up to five that do not repeat each other: labels (macro-F1,
        MAP@R), and structure (neighbours within types, trustworthiness, distances between types).
    titles
        What to call methods (or spaces, in a table without methods) in the figure.
    width
        Width of the figure in inches; 7.1 is a page, 3.5 a column.
    show, save, return_fig
        As in scanpy: whether to show the figure (and return None), the path of a file to write it to, and whether to
        return the figure. By default a figure is shown in notebooks, and returned elsewhere.

    Returns
    -------
    Figure
        One Axes per metric. A marker is the held-out score, and its bar is one sd over seeds to each side. The number
        at the right is the same score. The grey tick in its row is the permuted score, with a thin bar of one sd. A
        marker is grey unless the score is better than the permuted one by more than two sd of both together. It is a
        triangle where the score is worse. Right is better in every panel: where lower is better, the scale is reversed.
        Filled markers are maps, open ones metric spaces. Methods are in the same order in every panel and in all
        figures of a table: best first by macro-F1, or else by the first score. Settings of `structure` stay together
        in their order. Methods without signal (p > 0.01 against permuted labels) come last and say so. A score marked
        with a dagger rises with how hard the labels were used.

    Raises
    ------
    TypeError
        If `table` is not a DataFrame.
    ValueError
        If columns or a metric are missing, or a metric has no permuted score.

    Examples
    --------
    >>> figure = tt.pl.scores(result.table, metrics=["knn_macro_f1"])
    """
    check_output(save)
    table = score_table.checked_table(table)
    score_table.check_titles(titles, table["method"].unique())
    layout = lay_out_panels(table, metrics, titles, width)
    figure = plt.figure(figsize=(width, layout.height), dpi=150)
    draw_panels(figure, layout, 0.0)
    return finish(figure, figure, "scores", show, save, return_fig)


def lay_out_panels(
    table: pd.DataFrame,
    metrics: Sequence[str] | None,
    titles: Mapping[str, str] | None,
    width: float,
    shown: Sequence[str] = score_table.SHOWN,
) -> PanelLayout:
    """Return the layout: what is drawn, and where."""
    chosen = score_table.choose_metrics(table, metrics, shown)
    table = table[table["split"].isin(("held-out", "permuted"))]
    silent, said = score_table.silent_spaces(table), set(score_table.verdicts(table).values())
    drawn = table[table["metric"].isin(chosen)]
    rows, labels, bands, top = [], [], [], 0.04
    for method, spaces in score_table.ranked(drawn, table, silent):
        name = score_table.title_of(method, titles)
        no_signal = [(method, space) in silent for space in spaces]
        words = _row_labels(name, spaces, no_signal)
        lines = [wrap(text, max(0.86, 0.19 * width), SMALL) for text in words]
        start = top
        for i, space in enumerate(spaces):
            share = len(lines[0]) / len(spaces) if len(words) == 1 else len(lines[i])
            step = max(SECOND_ROW if len(spaces) > 1 else ROW, LINE * share + 0.02)
            rows.append(Row(method, space, top + step / 2, no_signal[i]))
            top += step
        top += 0.025 * (len(spaces) > 1)
        bands.append((start, top))
        middles = [(start + top) / 2] if len(words) == 1 else [row.y for row in rows[-len(spaces) :]]
        labels += [(y, "\n".join(text), any(no_signal) if len(words) == 1 else no_signal[i])
                   for i, (y, text) in enumerate(zip(middles, lines, strict=True))]  # fmt: skip
    names = MARGIN + 0.07 + max(text_width(line, SMALL) for _, text, _ in labels for line in text.split("\n"))
    most = max(1, int((width - MARGIN - names + PANEL_GAP) / MIN_PANEL))
    columns = math.ceil(len(chosen) / math.ceil(len(chosen) / most))
    room = (width - MARGIN - names + PANEL_GAP) / columns - PANEL_GAP
    heads = [
        score_table.title_of_metric(metric)[0] + "\u00a0†" * score_table.circular(table, metric) for metric in chosen
    ]
    panel_titles = [wrap(head, room, SMALL + 0.5) for head in heads]
    notes = [line for note in _notes(drawn, chosen, rows, said) for line in wrap(note, width - 2 * MARGIN, SMALL)]
    return PanelLayout(
        table=drawn, metrics=chosen, rows=rows, labels=labels, bands=bands, names=names, columns=columns,
        titles=panel_titles, notes=notes, width=width,
    )  # fmt: skip


def _row_labels(name: str, spaces: list[str], no_signal: list[bool]) -> list[str]:
    """Return one label for a method if it holds for all its spaces, else one for each."""
    if len(set(no_signal)) == 1:
        return [name + ": no\u00a0signal" * no_signal[0]]
    words = [name, *("metric space" for _ in spaces[1:])]
    return [word + ": no\u00a0signal" * silent for word, silent in zip(words, no_signal, strict=True)]


def _notes(table: pd.DataFrame, metrics: Sequence[str], rows: Sequence[Row], said: set[str]) -> list[str]:
    """Return what a reader has to know about the numbers, the permuted scores and what is grey."""
    count = score_table.n_seeds(table, metrics)
    notes = [f"Mean ± sd over {count} seeds." if count > 1 else "One seed: no error bars."]
    if "null" in table:
        made = table.loc[table["split"] == "permuted", "null"].fillna("").astype(str)
        if ways := [way for way in dict.fromkeys([*PLAIN, *made]) if way and way in set(made)]:
            first, *more = dict.fromkeys(PLAIN.get(way, way) for way in ways)
            notes[0] += " ".join([f" Permuted: {first}.", *(f"{way[0].upper()}{way[1:]}." for way in more)])
    for metric in metrics:
        title, remark = score_table.title_of_metric(metric)
        if remark:
            notes[0] += f" {title[0].upper()}{title[1:]}: {remark}."
    if not all(score_table.pairs_of_scores(table, metric)["clear"].all() for metric in metrics):
        less = "less than 2 sd (of both together) better than permuted" if count > 1 else "not better than permuted"
        notes[0] += f" Grey: {less}{', or no signal' * any(row.silent for row in rows)}."
    if any(score_table.pairs_of_scores(table, metric)["worse"].any() for metric in metrics):
        notes[0] += " Triangle: worse than permuted."
    if any(row.silent for row in rows):
        notes.append(
            f"No signal: held-out cells are named no better than with permuted labels (p\u00a0>\u00a0{NO_SIGNAL:g})."
        )
    if "too few" in said:
        notes.append(f"Some rows: {TOO_FEW}; the test of their labels could not have found any signal.")
    if any(score_table.circular(table, metric) for metric in metrics):
        notes.append("† Rises with how hard the labels were used, whether they mean anything or not.")
    return notes


def draw_panels(figure: Figure, layout: PanelLayout, top: float) -> None:
    """Draw the panels, their legend and notes, from `top` inches below the upper edge of the figure."""
    for i, metric in enumerate(layout.metrics):
        line, column = divmod(i, layout.columns)
        left = layout.names + column * layout.step
        y = top + line * (layout.head + layout.rows_height + layout.ticks) + layout.head
        ax = figure.add_axes(inches(figure, left, y, layout.step - PANEL_GAP - VALUES, layout.rows_height))
        _panel(ax, layout, metric, layout.titles[i])
        if column == 0:
            ax.set_yticks([y for y, _, _ in layout.labels], [printable(text) for _, text, _ in layout.labels])
            for tick, (_, _, alarm) in zip(ax.get_yticklabels(), layout.labels, strict=True):
                tick.set(color=ALARM if alarm else INK, linespacing=1.0)
    y = top + layout.panels_height + 0.04
    place: Any = {"loc": "upper left", "bbox_to_anchor": inches(figure, MARGIN, y, 0, 0)[:2]}
    held = [("held-out", PALETTE[0])]
    if layout.spaces_differ:
        held = [("held-out, map", PALETTE[0]), ("held-out, metric space", "white")]
    marks = [
        Line2D([], [], linestyle="", marker="o", markersize=4, color=PALETTE[0], markerfacecolor=face, label=label)
        for label, face in held
    ]
    marks.append(Line2D([], [], linestyle="", marker="|", markersize=5, color=MARK_GREY, label="permuted"))
    figure.legend(handles=marks, ncols=len(marks), **(LEGEND | {"borderaxespad": 0.0}), **place)
    y += 1.4 * LINE
    write_lines(figure, layout.notes, MARGIN, y, LINE)


def _panel(ax: Axes, layout: PanelLayout, metric: str, title: Sequence[str]) -> None:
    """Draw the markers of a metric."""
    found = score_table.pairs_of_scores(layout.table, metric)
    scored: dict[Any, Any] = {row.Index: row for row in found.itertuples()}
    unmeasured = not np.isfinite(found["held"]).any()
    for top, bottom in layout.bands[::2]:
        ax.axhspan(top, bottom, color=BAND_GREY, linewidth=0, zorder=0)
    ends: list[float] = []
    for row in layout.rows:
        score = scored.get((row.method, row.space))
        if score is None or not math.isfinite(score.held):
            if not unmeasured:
                words = "not measured"
                ax.annotate(words, (0, row.y), (3, 0), ax.get_yaxis_transform(), "offset points", va="center",
                            fontsize=SMALL, color=SILENT_GREY)  # fmt: skip
            continue
        color = PALETTE[0] if score.clear and not row.silent else SILENT_GREY
        face = color if row.is_map else "white"
        held: dict[str, Any] = {"fmt": "v" if score.worse else "o", "markersize": 3.6, "color": color,
                                "elinewidth": 1.0, "markerfacecolor": face, "markeredgewidth": 0.9}  # fmt: skip
        null: dict[str, Any] = {"fmt": "|", "markersize": 5, "color": MARK_GREY, "elinewidth": 0.5}
        name = f"{row.method} {row.space}"
        for value, sd, label, marks in (
            (score.permuted, score.permuted_sd, f"permuted {name}", null),
            (score.held, score.held_sd, name, held),
        ):
            if math.isfinite(value):
                bar = None if math.isnan(sd) else [sd]
                ax.errorbar([value], [row.y], xerr=bar, zorder=3, label=label, **marks)
                ends += [value - np.nan_to_num(sd), value + np.nan_to_num(sd)]
        ax.annotate(_rounded(score.held), (1, row.y), (72 * VALUES, 0), ax.get_yaxis_transform(), "offset points",
                    ha="right", va="center_baseline", fontsize=SMALL, color=color if color == SILENT_GREY else INK,
                    gid="held-out", annotation_clip=False)  # fmt: skip
    low, high = score_table.limits(ends)
    lower = score_table.lower_is_better(metric)
    ax.set(xlim=(high, low) if lower else (low, high), ylim=(layout.rows_height, 0), yticks=[])
    _label_panel(ax, metric, title, unmeasured)


def _label_panel(ax: Axes, metric: str, title: Sequence[str], unmeasured: bool) -> None:
    """Write title, scale and direction of a panel."""
    lower = score_table.lower_is_better(metric)
    width = ax.get_position().width * ax.figure.get_figwidth()  # type: ignore[union-attr]
    ax.spines[["left", "top", "right"]].set_visible(False)
    ax.spines["bottom"].set(linewidth=0.6, color=AXIS_GREY)
    ax.xaxis.set_major_locator(MaxNLocator(max(1, int(width / 0.26)), steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(lambda x, _: "0" if abs(x) < 1e-9 else f"{x:.6g}".replace("-", "−"))
    ax.tick_params(labelsize=SMALL, length=2, width=0.6, pad=1.5)
    ax.tick_params(axis="y", length=0, pad=3)
    if lower:
        ax.set_xlabel("lower is better \u2192", fontsize=SMALL, labelpad=1)
    words = "\n".join(title)
    ax.annotate(words, (0, 1), (0, 72 * 1.25 * LINE), "axes fraction", "offset points", fontsize=SMALL + 0.5,
                va="baseline", linespacing=1.1, gid="title", annotation_clip=False)  # fmt: skip
    ax.annotate("held-out", (1, 1), (72 * VALUES, 1.5), "axes fraction", "offset points", ha="right", va="bottom",
                fontsize=SMALL, color=SILENT_GREY)  # fmt: skip
    if unmeasured:
        ax.annotate("not measured", (0, 0.5), (3, 0), "axes fraction", "offset points", va="center",
                    fontsize=SMALL, color=SILENT_GREY)  # fmt: skip


def _rounded(value: float) -> str:
    """Return a score in few digits, a zero without a sign."""
    text = f"{value:z.2f}" if abs(value) < 10 else f"{value:.3g}"
    return text.replace("-", "−")

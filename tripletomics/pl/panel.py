"""The panel of scores: how far each method is above its null, one small axes a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tripletomics.labels import NO_SIGNAL, TOO_FEW
from tripletomics.names import printable
from tripletomics.pl import tables
from tripletomics.pl.draw import ALARM, EDGE, LEGEND, MARGIN, SMALL, inches, literal, text_width, wrap
from tripletomics.pl.look import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE, ROW, SECOND = 0.105, 0.145, 0.12  # inches: a line of text, a row, a further space of the same method
NUMBER, GAP, LEAST = 0.29, 0.1, 0.85  # inches: held-out values, between panels, the narrowest panel with its values
TICKS = 0.3  # inches below a panel
FULL = 0.25  # a panel is never drawn to a scale on which a smaller gain would look large
DULL, PALE, BAND = "#8c8c8c", "#c9c9c9", "#f4f4f4"


@dataclass(frozen=True)
class Row:
    """A marker in each panel: a method in one of its spaces."""

    method: str
    space: str
    y: float  # inches below the top of the panel
    silent: bool

    @property
    def is_map(self) -> bool:
        """Whether its marker is filled."""
        return not self.space.endswith("metric")


@dataclass(frozen=True)
class Plan:
    """What is drawn where, in inches, before there is a figure."""

    table: pd.DataFrame
    metrics: list[str]
    rows: list[Row]
    labels: list[tuple[float, str, bool]]  # place, words, whether they alarm
    bands: list[tuple[float, float]]  # top and bottom of each method
    names: float  # width of the labels
    columns: int
    title: list[list[str]]  # lines of each metric
    notes: list[str]
    width: float

    @property
    def tall(self) -> float:
        """Height of the rows of a panel."""
        return self.bands[-1][1]

    @property
    def cell(self) -> float:
        """Width of a panel with its values and the gap after it."""
        return (self.width - MARGIN - self.names + GAP) / self.columns

    @property
    def head(self) -> float:
        """Height of the titles above a panel."""
        return LINE * (max(map(len, self.title)) + 0.9)

    @property
    def legend(self) -> bool:
        """Whether filled and open markers need an explanation; in a table of one method the labels give it."""
        return {"map", "metric"} <= {row.space for row in self.rows}

    @property
    def height(self) -> float:
        """Height of everything."""
        return self.panels + LINE * (len(self.notes) + 1.4 * self.legend) + 0.08

    @property
    def panels(self) -> float:
        """Height without legend and notes."""
        return math.ceil(len(self.metrics) / self.columns) * (self.head + self.tall + TICKS)


@literal
def scores(
    table: pd.DataFrame,
    *,
    metrics: Sequence[str] | None = None,
    titles: Mapping[str, str] | None = None,
    width: float = 7.1,
) -> Figure:
    """Draw how far the held-out scores of each method are above their null, with error bars.

    Parameters
    ----------
    table
        What :func:`tripletomics.evaluate` returns, or the ``table`` of a comparison. It is not changed.
    metrics
        Which scores to draw, a panel each; by default up to five that do not repeat each other: labels (macro-F1,
        MAP@R), and structure (neighbours within types, trustworthiness, distances between types).
    titles
        What to call methods (or spaces, in a table without methods) in the figure.
    width
        Width of the figure in inches; 7.1 is a page, 3.5 a column.

    Returns
    -------
    Figure
        One Axes a metric. A marker is the held-out score minus its null, for scores where less is better the null minus
        the held-out score, so that right is better in every panel; its bar is the root of the sum of both squared sd
        over seeds, and absent where one is not known. Filled markers are maps, open ones metric spaces. The number at
        the right is the held-out score itself. Methods stand in the same order in every panel, best first by the
        first metric, those without signal below all others. A method without signal (p > 0.01 against permuted labels)
        is grey and says so. A score marked with a dagger rises with how hard the labels were used.

    Raises
    ------
    TypeError
        If `table` is no DataFrame.
    ValueError
        If it lacks columns or a metric, or a metric has no null.
    """
    table = tables.read(table)
    tables.check_titles(titles, table["method"].unique())
    plan = plan_of(table, metrics, titles, width)
    figure = plt.figure(figsize=(width, plan.height), dpi=150)
    paint(figure, plan, 0.0)
    return figure


def plan_of(
    table: pd.DataFrame,
    metrics: Sequence[str] | None,
    titles: Mapping[str, str] | None,
    width: float,
    choice: Sequence[str] = tables.CHOICE,
) -> Plan:
    """Decide what is drawn where."""
    chosen = tables.choose(table, metrics, choice)
    table = table[table["split"].isin(("held-out", "permuted"))]
    silent, said = tables.no_signal(table), set(tables.verdicts(table).values())
    drawn = table[table["metric"].isin(chosen)]
    rows, labels, bands, top = [], [], [], 0.04
    for method, spaces in tables.ranked(drawn, chosen[0], silent):
        name = tables.title_of(method, titles)
        quiet = [(method, space) in silent for space in spaces]
        words = _labels(name, spaces, quiet)
        lines = [wrap(text, max(0.86, 0.19 * width), SMALL) for text in words]
        start = top
        for i, space in enumerate(spaces):
            share = len(lines[0]) / len(spaces) if len(words) == 1 else len(lines[i])
            step = max(SECOND if len(spaces) > 1 else ROW, LINE * share + 0.02)
            rows.append(Row(method, space, top + step / 2, quiet[i]))
            top += step
        top += 0.025 * (len(spaces) > 1)
        bands.append((start, top))
        places = [(start + top) / 2] if len(words) == 1 else [row.y for row in rows[-len(spaces) :]]
        labels += [(y, "\n".join(text), any(quiet) if len(words) == 1 else quiet[i])
                   for i, (y, text) in enumerate(zip(places, lines, strict=True))]  # fmt: skip
    names = MARGIN + 0.07 + max(text_width(line, SMALL) for _, text, _ in labels for line in text.split("\n"))
    most = max(1, int((width - MARGIN - names + GAP) / LEAST))
    columns = math.ceil(len(chosen) / math.ceil(len(chosen) / most))
    room = (width - MARGIN - names + GAP) / columns - GAP
    heads = [
        tables.title_of_metric(metric)
        + ", less is better" * tables.lower_is_better(metric)
        + "\u00a0†" * tables.circular(table, metric)
        for metric in chosen
    ]
    title = [wrap(head, room, SMALL + 0.5) for head in heads]
    notes = [line for note in _notes(drawn, chosen, rows, said) for line in wrap(note, width - 2 * MARGIN, SMALL)]
    return Plan(drawn, chosen, rows, labels, bands, names, columns, title, notes, width)


def _labels(name: str, spaces: list[str], quiet: list[bool]) -> list[str]:
    """One label for a method if it holds for all its spaces, else one for each."""
    if len(set(quiet)) == 1:
        return [name + ": no\u00a0signal" * quiet[0]]
    words = [name, *("metric space" for _ in spaces[1:])]
    return [word + ": no\u00a0signal" * silent for word, silent in zip(words, quiet, strict=True)]


def _notes(table: pd.DataFrame, metrics: Sequence[str], rows: Sequence[Row], said: set[str]) -> list[str]:
    """Say what a reader has to know."""
    count = tables.seeds(table, metrics)
    lower = " (permuted minus held-out score where less is better)" if any(map(tables.lower_is_better, metrics)) else ""
    bars = f"Bars: sd over {count} seeds, of both together." if count > 1 else "One seed: no error bars."
    notes = [f"Markers: held-out score minus permuted{lower}; right is better. Numbers: held-out score. {bars}"]
    if "null" in table:
        made = table.loc[table["split"] == "permuted", "null"].fillna("").astype(str)
        if kinds := [kind for kind in dict.fromkeys(made) if kind]:
            notes.append(f"Permuted: {'; '.join(kinds)}.")
    if any(row.silent for row in rows):
        notes.append(
            "Grey, no signal: held-out cells are named no better than with permuted labels "
            f"(p\u00a0>\u00a0{NO_SIGNAL:g})."
        )
    if "too few" in said:
        notes.append(f"Some rows: {TOO_FEW}; the test of their labels could not have found any signal.")
    if any(tables.circular(table, metric) for metric in metrics):
        notes.append("† Rises with how hard the labels were used, whether they mean anything or not.")
    return notes


def paint(figure: Figure, plan: Plan, top: float) -> None:
    """Draw the panels, their legend and notes, from `top` inches below the upper edge of the figure."""
    for i, metric in enumerate(plan.metrics):
        line, column = divmod(i, plan.columns)
        left = plan.names + column * plan.cell
        y = top + line * (plan.head + plan.tall + TICKS) + plan.head
        ax = figure.add_axes(inches(figure, left, y, plan.cell - GAP - NUMBER, plan.tall))
        _panel(ax, plan, metric, plan.title[i])
        if column == 0:
            ax.set_yticks([y for y, _, _ in plan.labels], [printable(text) for _, text, _ in plan.labels])
            for tick, (_, _, alarm) in zip(ax.get_yticklabels(), plan.labels, strict=True):
                tick.set(color=ALARM if alarm else EDGE, linespacing=1.0)
    y = top + plan.panels + 0.04
    if plan.legend:
        place: Any = {"loc": "upper left", "bbox_to_anchor": inches(figure, MARGIN, y, 0, 0)[:2]}
        handles = [_marker("map", PALETTE[0]), _marker("metric space", "white")]
        figure.legend(handles=handles, ncols=2, **(LEGEND | {"borderaxespad": 0.0}), **place)
        y += 1.4 * LINE
    for note in plan.notes:
        figure.text(*inches(figure, MARGIN, y, 0, 0)[:2], note, fontsize=SMALL, va="top", color="#404040", gid="note")
        y += LINE


def _marker(label: str, face: str) -> Line2D:
    return Line2D([], [], linestyle="", marker="o", markersize=4, color=PALETTE[0], markerfacecolor=face, label=label)


def _panel(ax: Axes, plan: Plan, metric: str, title: Sequence[str]) -> None:
    """Draw the markers of a metric."""
    found = tables.differences(plan.table, metric)
    scored: dict[Any, tuple[float, ...]] = dict(zip(found.index, found.itertuples(index=False), strict=True))
    nothing = not np.isfinite(found["gain"]).any()
    for top, bottom in plan.bands[::2]:
        ax.axhspan(top, bottom, color=BAND, linewidth=0, zorder=0)
    ax.axvline(0, color=EDGE, linewidth=0.8, zorder=1, label="permuted")
    ends = [0.0, FULL]
    for row in plan.rows:
        value, gain, error = scored.get((row.method, row.space), (math.nan,) * 3)
        color = DULL if row.silent else PALETTE[0]
        if math.isfinite(gain):
            ax.hlines(row.y, 0, gain, colors=color, alpha=0.35, linewidths=0.8, zorder=2)
            bar = None if math.isnan(error) else [error]
            ax.errorbar([gain], [row.y], xerr=bar, fmt="o", markersize=3.6, color=color, elinewidth=1.0, zorder=3,
                        markerfacecolor=color if row.is_map else "white", markeredgewidth=0.9,
                        label=f"{row.method} {row.space}")  # fmt: skip
            spread = 0.0 if math.isnan(error) else error
            ends += [gain - spread, gain + spread]
        elif not nothing:
            missing = "not measured" if math.isnan(value) else "no permuted score"
            ax.annotate(missing, (0, row.y), (3, 0), textcoords="offset points", va="center", fontsize=SMALL - 1,
                        color=DULL)  # fmt: skip
        if math.isfinite(value):
            ax.annotate(_short(value), (1, row.y), (72 * NUMBER, 0), ax.get_yaxis_transform(), "offset points",
                        ha="right", va="center_baseline", fontsize=SMALL, color=DULL if row.silent else EDGE,
                        gid="held-out", annotation_clip=False)  # fmt: skip
    low, high = min(ends), max(ends)
    ax.set(xlim=(low - 0.06 * (high - low), high + 0.06 * (high - low)), ylim=(plan.tall, 0), yticks=[])
    _dress(ax, metric, title, nothing)


def _dress(ax: Axes, metric: str, title: Sequence[str], nothing: bool) -> None:
    """Write title, scale and direction of a panel."""
    lower = tables.lower_is_better(metric)
    width = ax.get_position().width * ax.figure.get_figwidth()  # type: ignore[union-attr]
    ax.spines[["left", "top", "right"]].set_visible(False)
    ax.spines["bottom"].set(linewidth=0.6, color=PALE)
    ax.xaxis.set_major_locator(MaxNLocator(max(1, int(width / 0.26)), steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(lambda x, _: "0" if abs(x) < 1e-9 else f"{x:.6g}".replace("-", "−"))
    ax.tick_params(labelsize=SMALL, length=2, width=0.6, pad=1.5)
    ax.tick_params(axis="y", length=0, pad=3)
    ax.set_xlabel("permuted − held-out" if lower else "held-out − permuted", fontsize=SMALL, labelpad=1)
    words = "\n".join(title)
    ax.annotate(words, (0, 1), (0, 72 * 1.05 * LINE), "axes fraction", "offset points", fontsize=SMALL + 0.5,
                va="baseline", linespacing=1.1, gid="title", annotation_clip=False)  # fmt: skip
    ax.annotate("held-out", (1, 1), (72 * NUMBER, 1.5), "axes fraction", "offset points", ha="right", va="bottom",
                fontsize=SMALL - 1, color=DULL)  # fmt: skip
    if nothing:
        ax.annotate("not measured", (0, 0.5), (3, 0), ("data", "axes fraction"), "offset points", va="center",
                    fontsize=SMALL, color=DULL)  # fmt: skip


def _short(value: float) -> str:
    """Write a score in few signs, and none for a zero."""
    text = f"{value:z.2f}" if abs(value) < 10 else f"{value:.3g}"
    return text.replace("-", "−")

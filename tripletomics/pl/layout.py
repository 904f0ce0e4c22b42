"""How several maps share a page: where each stands, what stands above it, and the blank that the legend may fill."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from tripletomics.labels import TOO_FEW
from tripletomics.pl import score_table
from tripletomics.pl.held_out import no_signal_remark, no_signal_text
from tripletomics.pl.map_axes import frame_map
from tripletomics.pl.text import ALARM, MARGIN, NOTE, SMALL, TITLE, wrap

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from matplotlib.figure import Figure

SMALLEST, LARGEST = 1.1, 3.4  # inches, side of a map among others
ROOMY = 1.5  # from this side on, maps among others have axis labels
LARGE = 2.0  # from this side on, large titles
MAP_GAP, LABEL, SCALE = 0.08, 0.13, 0.55  # inches: between maps, for an axis label, for a scale of numbers
LINE = 0.1  # inches a line below a title
MAX_COLOURS = 8  # types that can be told apart by colour alone; more of them are named or numbered on the map


@dataclass(frozen=True)
class Layout:
    """Where maps stand on a page, in inches."""

    counts: list[int]  # maps in each row
    width: float
    side: float  # of a map
    foot: float  # below a map
    edge: float  # left of a map

    @classmethod
    def of(cls, maps: int, width: float, *, numbers: bool) -> Layout:
        """Put maps in one row, or in rows that differ by one map at most."""
        room = width - 2 * MARGIN
        rows = math.ceil(maps / max(1, int((room + MAP_GAP) / (SMALLEST + MAP_GAP - 1e-6))))
        counts = [maps // rows + (i < maps % rows) for i in range(rows)]
        if numbers and counts[-1] == counts[0]:  # else the scale stands in the blank
            room -= SCALE
        side = min((room + MAP_GAP) / counts[0] - MAP_GAP, LARGEST)
        label = LABEL * (side >= ROOMY)
        return cls(counts, width, min(side, (room + MAP_GAP) / counts[0] - MAP_GAP - label), label + 0.04, label)

    @property
    def rows(self) -> int:
        """The number of rows of maps."""
        return len(self.counts)

    @property
    def roomy(self) -> bool:
        """Whether there is room for axis labels."""
        return self.edge > 0

    def corner(self, i: int, head: float) -> tuple[float, float]:
        """Return the left edge and the top of the i-th map with its title; of one more than there are, the blank."""
        row = 0
        while row < self.rows and i >= self.counts[row]:
            i -= self.counts[row]
            row += 1
        if row == self.rows:  # the blank begins in the first row that lacks a map
            row = next((k for k, count in enumerate(self.counts) if count < self.counts[0]), 0)
            i = self.counts[-1]
        step = self.edge + self.side + MAP_GAP
        return MARGIN + self.edge + i * step, row * (head + self.side + self.foot)

    def blank(self, head: float) -> tuple[float, float]:
        """Return width and height of the blank after the last rows, if these lack a map, or after a single row."""
        shorter_rows = sum(count < self.counts[0] for count in self.counts)
        height = (shorter_rows or self.rows == 1) * (head + self.side + self.foot)
        return self.width - MARGIN - self.corner(sum(self.counts), head)[0], height


@dataclass(frozen=True)
class Caption:
    """What stands above a map."""

    title: list[str]
    note: list[str]
    alarm: bool
    size: float  # points of the title
    no_signal: str | None  # written across the map

    @property
    def height(self) -> float:
        """Inches from the top of the title to the map."""
        return 0.08 + 1.2 * self.size / 72 * len(self.title) + LINE * (len(self.note) + self.alarm)


def caption_of(
    adata: AnnData,
    basis: str,
    table: pd.DataFrame | None,
    note: str | None,
    titles: Mapping[str, str] | None,
    layout: Layout,
) -> Caption:
    """Return the title and scores of a map, and whether it has no signal."""
    size = TITLE if layout.side >= LARGE else TITLE - 2
    title = wrap(score_table.title_of(basis, titles), layout.side, size)
    words, found = no_signal_remark(adata, basis), None if table is None else score_table.headline(table, basis)
    lines = [] if note is None else wrap(note, layout.side, SMALL)
    if found is not None:
        _, held, null, said = found
        words = no_signal_text(held, null) if said == "no signal" else words
        if note is None:
            lines = wrap(_f1(held, null) + (f", {TOO_FEW}" if said == "too few" else ""), layout.side, SMALL)
    return Caption(title, lines, words is not None, size, words)


def _f1(held: float, null: float) -> str:
    """Return the held-out macro-F1 of a map, with its null."""
    if not math.isfinite(held):
        return "not measured"
    return f"held-out F1 {held:.2f}" + (f" (permuted\u00a0{null:.2f})" if math.isfinite(null) else "")


def add_map(
    figure: Figure,
    place: tuple[float, float, float, float],
    basis: str,
    points: np.ndarray,
    layout: Layout,
    text: Caption,
) -> None:
    """Make the axes of a map, with what stands above it."""
    ax: Any = figure.add_axes(place, projection="3d" if points.shape[1] == 3 else None)
    frame_map(ax, points, basis)
    labelled = layout.roomy and (points.shape[1] == 2 or layout.side >= LARGE)  # else three labels would meet
    if points.shape[1] == 3:
        ax.set_box_aspect(None, zoom=0.9 if labelled else 1.05)  # the labels stand outside the cube
    if not labelled:
        for axis in "xyz"[: points.shape[1]]:
            getattr(ax, f"set_{axis}label")("")
    above = 72 * LINE * (len(text.note) + text.alarm)
    ax.set_title("\n".join(text.title), fontsize=text.size, pad=3 + above, linespacing=1.1)
    styles = [{"color": NOTE}] * len(text.note) + [{"color": ALARM, "weight": "bold"}] * text.alarm
    for i, (line, style) in enumerate(zip([*text.note, *["no signal"] * text.alarm], styles, strict=True)):
        offset = (0, 2 + above - 72 * LINE * (i + 1))
        ax.annotate(line, (0.5, 1), offset, "axes fraction", "offset points", ha="center", fontsize=SMALL, **style)

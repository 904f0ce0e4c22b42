"""How several maps share a page: where each stands, what stands above it, and the blank that the legend may fill."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from tripletomics.labels import TOO_FEW
from tripletomics.pl import tables
from tripletomics.pl.draw import ALARM, MARGIN, SMALL, TITLE, frame, wrap
from tripletomics.pl.look import no_signal, silence

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from matplotlib.figure import Figure

LEAST, LARGEST = 1.1, 3.4  # inches, side of a map among others
ROOMY = 1.5  # from this side on, maps among others have large titles and axis labels
GAP, LABEL, SCALE = 0.08, 0.13, 0.55  # inches: between maps, for an axis label, for a scale of numbers
LINE = 0.1  # inches a line below a title


@dataclass(frozen=True)
class Sheet:
    """Where maps stand on a page, in inches."""

    counts: list[int]  # maps in each row
    width: float
    side: float  # of a map
    foot: float  # below a map
    edge: float  # left of a map

    @classmethod
    def of(cls, maps: int, width: float, *, numbers: bool) -> Sheet:
        """Put maps in one row, or in rows that differ by one map at most."""
        room = width - 2 * MARGIN
        rows = math.ceil(maps / max(1, int((room + GAP) / (LEAST + GAP - 1e-6))))
        counts = [maps // rows + (i < maps % rows) for i in range(rows)]
        if numbers and counts[-1] == counts[0]:  # else the scale stands in the blank
            room -= SCALE
        side = min((room + GAP) / counts[0] - GAP, LARGEST)
        label = LABEL * (side >= ROOMY)
        return cls(counts, width, min(side, (room + GAP) / counts[0] - GAP - label), label + 0.04, label)

    @property
    def rows(self) -> int:
        """How many rows of maps there are."""
        return len(self.counts)

    @property
    def roomy(self) -> bool:
        """Whether there is room for large titles and axis labels."""
        return self.edge > 0

    def place(self, i: int, head: float) -> tuple[float, float]:
        """Return the left edge and the top of the i-th map with its title; of one more than there are, the blank."""
        row = 0
        while row < self.rows and i >= self.counts[row]:
            i -= self.counts[row]
            row += 1
        if row == self.rows:  # the blank begins in the first row that lacks a map
            row = next((k for k, count in enumerate(self.counts) if count < self.counts[0]), 0)
            i = self.counts[-1]
        step = self.edge + self.side + GAP
        return MARGIN + self.edge + i * step, row * (head + self.side + self.foot)

    def blank(self, head: float) -> tuple[float, float]:
        """Width and height of the place beside the last rows, where these hold one map less, or beside a single row."""
        lacks = sum(count < self.counts[0] for count in self.counts)
        height = (lacks or self.rows == 1) * (head + self.side + self.foot)
        return self.width - MARGIN - self.place(sum(self.counts), head)[0], height


@dataclass(frozen=True)
class Caption:
    """What stands above a map."""

    title: list[str]
    note: list[str]
    alarm: bool
    size: float  # points of the title
    silence: str | None  # written across the map

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
    sheet: Sheet,
) -> Caption:
    """Title and scores of a map, and whether it has no signal."""
    size = TITLE if sheet.roomy else TITLE - 2
    title = wrap(tables.title_of(basis, titles), sheet.side, size)
    words, found = no_signal(adata, basis), None if table is None else tables.headline(table, basis)
    lines = [] if note is None else wrap(note, sheet.side, SMALL)
    if found is not None:
        _, held, null, said = found
        words = silence(held, null) if said == "no signal" else words
        if note is None:
            lines = wrap(_f1(held, null) + (f", {TOO_FEW}" if said == "too few" else ""), sheet.side, SMALL)
    return Caption(title, lines, words is not None, size, words)


def _f1(held: float, null: float) -> str:
    """Say how a map scores beside its null."""
    if not math.isfinite(held):
        return "not measured"
    return f"held-out F1 {held:.2f}" + (f" (permuted\u00a0{null:.2f})" if math.isfinite(null) else "")


def add_map(
    figure: Figure,
    place: tuple[float, float, float, float],
    basis: str,
    points: np.ndarray,
    sheet: Sheet,
    text: Caption,
) -> None:
    """Make the axes of a map, with what stands above it."""
    ax: Any = figure.add_axes(place, projection="3d" if points.shape[1] == 3 else None)
    frame(ax, points, basis)
    if points.shape[1] == 3:
        ax.set_box_aspect(None, zoom=0.9)  # the labels stand outside the cube
    if not sheet.roomy:
        for axis in "xyz"[: points.shape[1]]:
            getattr(ax, f"set_{axis}label")("")
    above = 72 * LINE * (len(text.note) + text.alarm)
    ax.set_title("\n".join(text.title), fontsize=text.size, pad=3 + above, linespacing=1.1)
    styles = [{"color": "#404040"}] * len(text.note) + [{"color": ALARM, "weight": "bold"}] * text.alarm
    for i, (line, style) in enumerate(zip([*text.note, *["no signal"] * text.alarm], styles, strict=True)):
        offset = (0, 2 + above - 72 * LINE * (i + 1))
        ax.annotate(line, (0.5, 1), offset, "axes fraction", "offset points", ha="center", fontsize=SMALL, **style)

"""The legend of one map: next to it or below it, within its part of a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tripletomics.pl import map_axes
from tripletomics.pl.text import LEGEND, text_width

ROW, MARK = 1.31, 18  # height of an entry of a legend, in sizes of its text; points of its mark and the gap after it
SMALLEST = 0.35  # of its room that a map has at least, next to its legend


def draw_legend(ax: Any, entries: list[Any], below: bool) -> None:
    """Draw the legend of a map: below it, or to its right."""
    if not entries:
        if legend := ax.get_legend():
            legend.remove()
        return
    width = map_axes.map_width(ax)
    size = map_axes.text_size(width)
    words: Any = LEGEND | {"fontsize": size}
    if below:
        place: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -(5 + size) / width), "borderaxespad": 0}
        columns = 2 if len(entries) == 2 and _columns(entries, width) > 1 else _columns(entries, width)
        ax.legend(handles=entries, ncols=columns, **(words | place))
    else:
        columns = math.ceil(ROW * size * len(entries) / width)
        ax.legend(handles=entries, ncols=columns, loc="upper left", bbox_to_anchor=(1, 1), **words)


def keep_within(ax: Any, slot: Any, entries: list[Any], below: bool) -> bool:
    """Make a map so small that its legend and scale stay within its part of a figure; return whether they fit there."""
    for _ in range(2):  # a legend has other rows next to a smaller map
        ax.apply_aspect()
        to_figure, own, legend = ax.figure.transSubfigure.inverted(), ax.get_position(), ax.get_legend()
        boxes = [bar.get_tightbbox() for bar in ax.child_axes] + ([legend.get_window_extent()] if legend else [])
        found = [box.transformed(to_figure) for box in boxes]
        right = max([0, *(box.x1 - own.x1 for box in found)])
        low = max([0, *(own.y0 - box.y0 for box in found)])
        if right > (1 - SMALLEST) * slot.width or low > (1 - SMALLEST) * slot.height:
            return False
        ax.set_position((slot.x0, slot.y0 + low, slot.width - right, slot.height - low))
        draw_legend(ax, entries, below)
    return True


def _columns(entries: list[Any], width: float) -> int:
    """Return in how many columns, four at most, the entries of a legend fit a width in points."""
    size = map_axes.text_size(width)
    wide = [72 * text_width(entry.get_label(), size) + MARK for entry in entries]
    for columns in range(4, 1, -1):
        rows = math.ceil(len(wide) / columns)
        if sum(max(wide[i : i + rows]) for i in range(0, len(wide), rows)) <= width:
            return columns
    return 1


def is_low(ax: Any, entries: list[Any]) -> bool:
    """Return whether a legend below a map takes less than half of its height."""
    width = map_axes.map_width(ax)
    return ROW * map_axes.text_size(width) * math.ceil(len(entries) / _columns(entries, width)) < width / 2


def is_wide(ax: Any, names: Sequence[str], share: float = 0.5) -> bool:
    """Return whether names in a legend would take more room next to a map than a share of its width."""
    width = map_axes.map_width(ax)
    size = map_axes.text_size(width)
    columns = math.ceil(ROW * size * len(names) / width)
    return bool(names) and columns * (72 * max(text_width(name, size) for name in names) + MARK) > share * width

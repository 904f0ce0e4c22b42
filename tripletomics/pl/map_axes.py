"""The axes of a map: limits, layers of cells, numbers of types, legend, scales, and a banner if there is no signal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from mpl_toolkits.mplot3d import proj3d  # type: ignore[import-untyped]
from scipy import ndimage

from tripletomics.pl.palette import GREY
from tripletomics.pl.score_table import title_of
from tripletomics.pl.style import CellStyle, Types, chips
from tripletomics.pl.text import ALARM, INK, LEGEND, SMALL, balanced, wrap

INDENT = "\u2003"  # before a name for each name above it
SCALE = (1.03, 0.0, 0.03, 1.0)  # where the scale of numbers stands, next to a map
EDGE, NUMBER_EDGE = 0.4, 0.65  # times the colour of a held-out cell is that of its edge
LARGE = 8  # points, text of a wide map


def page_limits(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the limits (dim,), (dim,) of a square page for cells, which a few cells far from all others do not widen.

    Of n cells at most sqrt(n) / 10 lie outside, one of fewer than 400, none of fewer than 50, and none that is nearer
    to the others than a quarter of their page: so a type of one cell does not leave the others a small part of it.
    """
    points = points[np.isfinite(points).all(axis=1)]
    inner = np.quantile(points, (0.05, 0.95), axis=0)
    away = np.maximum(inner[0] - points, points - inner[1]).max(axis=1)
    few = max(1, int(math.sqrt(len(points)) / 10)) if len(points) >= 50 else 0
    most = points[np.argsort(away, kind="stable")[: len(points) - few]]
    low, high = most.min(axis=0), most.max(axis=0)
    near = 0.25 * (high - low).max()
    most = points[~outside(points, low - near, high + near)]
    low, high = most.min(axis=0), most.max(axis=0)
    half = 0.53 * float((high - low).max() or 1.0)
    return (low + high) / 2 - half, (low + high) / 2 + half


def outside(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return which cells (n,) lie outside such limits."""
    return np.any((points < low) | (points > high), axis=1)


def text_size(width: float) -> float:
    """Return the size of the text, in points, on and around a map that is `width` points wide."""
    return float(np.clip(width / 42, SMALL, LARGE))


def frame_map(ax: Any, points: np.ndarray, basis: str) -> None:
    """Give a map square limits, an equal aspect and no ticks; positions in an image have y downwards."""
    low, high = page_limits(points)
    name = title_of(basis.partition(":")[0])
    name = {"tripletomics": "tripletomics map", "PCA": "PC"}.get(name, name)
    for i, axis in enumerate("xyz"[: len(low)]):
        ax.set(**{f"{axis}lim": (low[i], high[i]), f"{axis}ticks": []})
    ax.set_aspect("equal")
    size = text_size(map_width(ax))
    for i, axis in enumerate("xyz"[: len(low)]):
        getattr(ax, f"set_{axis}label")(f"{name} {i + 1}", fontsize=size, labelpad=2 - 16 * (len(low) - 2))
    if "spatial" in basis.lower() and len(low) == 2:
        ax.invert_yaxis()
    if len(low) == 3:
        ax.computed_zorder = False
        for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
            axis.set_pane_color("white")
            axis.line.set(linewidth=0.8, color=GREY)
    else:
        ax.spines[:].set(linewidth=0.8, color=GREY)


def limits_of(ax: Any, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest coordinates on a map, (dim,) and (dim,), whatever way its axes point."""
    limits = np.sort([getattr(ax, f"get_{axis}lim")() for axis in "xyz"[:dim]], axis=1)
    return limits[:, 0], limits[:, 1]


def draw_outside(ax: Any, points: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Draw the cells outside of a map's limits as arrowheads at its edge; return which these are, (n,)."""
    low, high = limits_of(ax, points.shape[1])
    up = -1 if ax.yaxis_inverted() else 1
    beyond = outside(points, low, high)
    inset = 0.012 * (high - low)
    at_edge = np.clip(points, low + inset, high - inset)
    directions = np.sign(points - np.clip(points, low, high))
    for direction in np.unique(directions[beyond], axis=0):
        rows = beyond & (directions == direction).all(axis=1)
        head: Any = (3, 0, math.degrees(math.atan2(up * direction[1], direction[0])) - 90) if len(low) == 2 else "D"
        ax.scatter(*at_edge[rows].T, s=18, c=rgb[rows], marker=head, linewidths=0.4, edgecolors=INK, zorder=3.2,
                   label="outside", rasterized=True)  # fmt: skip
    return beyond


def draw_cells(ax: Any, points: np.ndarray, style: CellStyle, size: float | None, numbered: bool) -> None:
    """Draw unlabelled cells, then training cells, cells without a split and held-out cells, each in random order."""
    finite = np.isfinite(points).all(axis=1)
    split = np.zeros(len(points)) if style.split is None else style.split
    held = split == 1
    width = map_width(ax)
    small = float(np.clip(0.35 * width**2 / finite.sum(), 0.3, width / 20)) if size is None else size
    least, most = (1.3, 1.7) if style.scale is None else (1.3, 1.5)  # large cells could hide values below them
    large = float(np.clip(0.16 * width**2 / max(1, held.sum()), least * small, most * small))
    pale = style.rgb if style.scale is not None or style.split is None else 0.45 * style.rgb + 0.55
    grey = np.tile(to_rgb(GREY), (len(points), 1))
    layers = (
        ("unlabelled", ~style.known, grey, small, 0.0),
        ("cells" if style.split is None else "train", style.known & (split == 0), pale, small, 0.0),
        ("no split", style.known & (split < 0), style.rgb, small, 0.0),
        ("held-out", style.known & held, style.rgb, large, min(0.5, 0.13 * math.sqrt(large))),
    )
    dark = EDGE if style.scale is None else NUMBER_EDGE
    flat = {"depthshade": False} if points.shape[1] == 3 else {}
    order = np.random.default_rng(0).permutation(len(points))
    finite &= ~draw_outside(ax, points, style.rgb)
    shapes = style.markers
    shape_of = np.array([shapes.get(code, "o") for code in range(max(shapes, default=-1) + 1)] + ["o"])[style.codes]
    for zorder, (label, mask, rgb, area, edge) in enumerate(layers, start=1):
        for shape in dict.fromkeys(["o", *shapes.values()]):
            rows = order[(mask & finite & (shape_of == shape))[order]]
            if len(rows):
                ax.scatter(*points[rows].T, s=area, c=rgb[rows], linewidths=edge, zorder=zorder, label=label,
                           edgecolors=dark * rgb[rows] if edge else "none", rasterized=True, marker=shape,
                           **flat)  # fmt: skip
    if numbered:
        number_types(ax, points, style.codes, style.types, 1.6 * text_size(width) / width)


def number_types(ax: Any, points: np.ndarray, codes: np.ndarray, types: Types, room: float) -> None:
    """Write what stands for each type where it is densest, and push marks apart that would overlap on the page."""
    low, high = limits_of(ax, points.shape[1])
    span, marks, size = high - low, chips(types), text_size(map_width(ax))
    there = [code for code in types if np.isfinite(points[codes == code]).any()]
    spots = np.empty((len(there), len(low)))  # 0 to 1 across the map
    for spot, code in zip(spots, there, strict=True):
        members = (points[codes == code] - low) / span
        density, _ = np.histogramdd(members, bins=40, range=[(0, 1)] * len(low))
        density = ndimage.gaussian_filter(density, 1.5)
        spot[:] = (np.array(np.unravel_index(density.argmax(), density.shape)) + 0.5) / 40
    spots += np.random.default_rng(0).normal(scale=room / 100, size=spots.shape)  # no two at the same point
    seen = on_page(ax, low + spots * span)
    middle, *ends = on_page(ax, low + span * (0.5 + 0.1 * np.eye(len(low) + 1, len(low), k=-1)))
    turn = (np.array(ends) - middle) / 0.1  # (dim, 2), where each axis of the map points on the page
    spots += (_apart(seen, room) - seen) @ np.linalg.pinv(turn)
    for spot, code in zip(spots, there, strict=True):
        chip = {"boxstyle": "circle,pad=0.08", "facecolor": (1, 1, 1, 0.8), "edgecolor": types[code][1]}
        text = ax.text(*(low + spot * span), marks[code], ha="center", va="center", fontsize=size, bbox=chip)
        text.set(gid="number", zorder=4)


def _apart(spots: np.ndarray, room: float) -> np.ndarray:
    """Return spots (n, 2) on a page, 0 to 1 across, after those that are nearer than `room` have pushed each other."""
    for _ in range(200):
        apart = spots[:, None] - spots
        distance = np.linalg.norm(apart, axis=2, keepdims=True)
        push = np.clip(room - distance, 0, None) / np.maximum(distance, room / 1000)
        spots = np.clip(spots + 0.3 * (push * apart).sum(axis=1), room / 2, 1 - room / 2)
    return spots


def on_page(ax: Any, points: np.ndarray) -> np.ndarray:
    """Return where points of a map are seen, 0 to 1 across the axes (n, 2)."""
    if points.shape[1] == 3:
        points = np.stack(proj3d.proj_transform(*points.T, ax.get_proj())[:2], axis=1)
    return ax.transAxes.inverted().transform(ax.transData.transform(points))


def legend_mark(color: Any, label: str, size: float = 5.0, edge: str = "none", marker: str = "o") -> Line2D:
    """Return the entry of a legend for a kind of mark."""
    return Line2D([], [], linestyle="", marker=marker, color=color, label=label, markersize=size,
                  markeredgecolor=edge, markeredgewidth=0.6)  # fmt: skip


def legend_entries(style: CellStyle, numbered: bool, *maps: np.ndarray) -> list[Line2D]:
    """Return the types, then what pale, edged, grey and pointed marks are, with the number of cells."""
    return [*type_entries(style, numbered), *split_entries(style), *rest_entries(style, *maps)]


def type_entries(style: CellStyle, numbered: bool) -> list[Line2D]:
    """Return the types, each with what stands for it on the map, if this is not its name."""
    marks, shapes = chips(style.types), style.markers
    if all(marks[code] == name for code, (name, _) in style.types.items()):
        marks = {}
    digits = max(map(len, marks.values()), default=0)
    handles = []
    for name, depth, code in style.lines:
        mark = f"{marks.get(code, ''):\u2007>{digits}}  " if numbered and marks else ""
        color = style.types[code][1] if code >= 0 else "none"
        handles.append(legend_mark(color, mark + INDENT * depth + name, marker=shapes.get(code, "o")))
    return handles


def split_entries(style: CellStyle) -> list[Line2D]:
    """Return what marks of training and held-out cells look like, with the number of cells."""
    if style.split is None:
        return []
    train, held, neither = ((style.known & (style.split == code)).sum() for code in (0, 1, -1))
    plain = "#6f6f6f" if style.scale is not None else "#c0c0c0"  # training cells are pale, but not numbers
    handles = [
        legend_mark(plain, f"training cells ({train:,})", 3.0),
        legend_mark("#6f6f6f", f"held-out cells ({held:,}{style.remark})", 5.0, "#303030"),
    ]
    if neither:
        handles.append(legend_mark("#6f6f6f", f"cells without a split ({neither:,})", 3.0))
    return handles


def rest_entries(style: CellStyle, *maps: np.ndarray) -> list[Line2D]:
    """Return what grey and pointed marks are, with the number of cells."""
    handles = []
    if grey := (~style.known).sum():
        handles.append(legend_mark(GREY, f"{style.missing} ({grey:,})", 3.0))
    if beyond := sum(int(outside(points, *page_limits(points)).sum()) for points in maps):
        handles.append(legend_mark("#a9a9a9", f"outside the frame ({beyond:,})", 4.0, INK, ">"))
    return handles


def shared_legend(figure: Any, handles: list[Line2D], width: float, blank: tuple[float, float]) -> tuple[Any, bool]:
    """Draw the legend of several maps: in the blank next to the last ones, in inches, if it fits, else for a foot.

    Returns
    -------
    The legend, which is still to be placed, and whether it fits the blank.
    """

    def trial(columns: int) -> tuple[Any, float, float]:
        legend = figure.legend(handles=handles, ncols=columns, **LEGEND)
        box = legend.get_window_extent()
        return legend, box.width / figure.dpi, box.height / figure.dpi

    for columns in (1, 2, 3):
        legend, wide, high = trial(columns)
        if wide <= blank[0] and high <= blank[1]:
            return legend, True
        legend.remove()
        if columns == 1:
            one = wide
    fit = max(1, int(width / (one + 0.15)))
    columns = math.ceil(len(handles) / math.ceil(len(handles) / fit)) if handles else 1
    return trial(columns)[0], False


def color_scale(ax: Any, colors: Any, label: str, box: tuple[float, float, float, float], size: float = SMALL) -> Any:
    """Draw a scale of colours in a box in the coordinates of given axes; return it."""
    bar = ax.figure.colorbar(colors, cax=ax.inset_axes(box))
    bar.set_label(label, fontsize=size)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=size, length=2)
    return bar


def number_scale(ax: Any, style: CellStyle, color: str | None) -> None:
    """Draw the scale of numbers to the right of a map."""
    if style.scale is not None:
        width = map_width(ax)
        label = balanced(", ".join(text for text in (color, style.unit) if text), width / 72, text_size(width))
        color_scale(ax, style.scale, "\n".join(label), SCALE, text_size(width))


def distortion_scale(ax: Any, style: CellStyle) -> None:
    """Draw the scale of distortion to the right of a map."""
    width = map_width(ax)
    words = "neighbours of a cell: 0 = the same as in the data, 1 = as by chance"
    label = "\n".join(balanced(words, width / 72, text_size(width)))
    color_scale(ax, style.scale, label, SCALE, text_size(width)).set_ticks([0, 0.5, 1], labels=["0", "0.5", "1"])


def map_width(ax: Any) -> float:
    """Return the side of a square map in points, once its figure is laid out."""
    figure = ax.figure.figure
    if figure.get_layout_engine() is None:
        ax.apply_aspect()
    else:
        figure.draw_without_rendering()
    return 72 * min(ax.bbox.width, ax.bbox.height) / ax.figure.dpi


def no_signal_banner(ax: Any, words: str, width: float) -> Any:
    """Write across a map, `width` points wide, that it shows nothing; no reader may overlook it. Return the text."""
    large = float(np.clip(width / 18, SMALL, 13))
    head, _, rest = words.partition(": ")
    lines = [f"{head}:", *wrap(rest, 0.9 * width / 72, large, "bold")]
    plate = {"boxstyle": "square,pad=0.4", "facecolor": (1, 1, 1, 0.88), "edgecolor": ALARM, "linewidth": 1.2}
    write = ax.text2D if ax.name == "3d" else ax.text
    return write(
        0.5, 0.5, "\n".join(lines), transform=ax.transAxes, ha="center", va="center", fontsize=large, color=ALARM,
        weight="bold", linespacing=1.25, bbox=plate, gid="no signal", zorder=9,
    )  # fmt: skip

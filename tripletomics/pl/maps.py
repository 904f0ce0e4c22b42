"""One map, with its held-out cells marked."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from matplotlib import pyplot as plt

from tripletomics.arguments import checking_names
from tripletomics.pl import map_axes, style, type_names
from tripletomics.pl.layout import MAX_COLOURS
from tripletomics.pl.palette import Palette
from tripletomics.pl.text import LEGEND, SMALL, TITLE, as_text, literal, text_width

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

ROW, MARK = 1.31 * SMALL, 18  # points of an entry of a legend: its height; its mark and the gap to the next one


@literal
@checking_names
def embedding(
    adata: AnnData,
    color: str | None = None,
    *,
    basis: str = "X_tt",
    split: str | None = "auto",
    distortion: bool = False,
    ax: Axes | None = None,
    size: float | None = None,
    legend: bool = True,
    title: str | None = None,
    palette: Palette | None = None,
    layer: str | None = None,
) -> Axes:
    """Draw a map of the cells, with held-out cells in full colour on top of pale training cells.

    Parameters
    ----------
    adata
        Cells with coordinates in ``obsm[basis]``. It is not changed.
    color
        A column of ``obs`` or a gene. Unlabelled cells (as in :func:`tripletomics.fit`) and cells without a value are
        light grey, below the others. Numbers keep their colour in training cells, so that it can be read off the scale.
        Of labels on several levels, a cell without a name in this column has that of the next coarser one.
    basis
        A key of ``obsm`` with 2 or 3 columns; of an ordered basis such as ``"X_pca"`` the first two are drawn.
    split
        The ``obs`` column that marks held-out cells ("train" / "held-out", or True for held out). ``"auto"`` takes the
        one that was written with this basis by ``tt.fit``, ``transform`` or ``predict``, if any; None marks nothing.
    distortion
        Whether to darken each cell by how far its neighbours on the map are from being those of the data: the darker,
        the less its position can be trusted, and black is chance. See :func:`tripletomics.metrics.distortion`. The data
        are ``obsm["X_tt_pca"]`` of ``tt.fit``, else ``obsm["X_pca"]``; neighbours are sought among training cells. The
        colours of numbers can no longer be read off their scale.
    ax
        Where to draw. The legend is below named types, else to the right of the map: a figure made with
        ``layout="constrained"`` makes room for it. Without `ax`, a new figure is made.
    size
        Area of a training cell in square points; by default it follows the number of cells and the size of the map.
    legend
        Whether to explain what is drawn. Up to 8 types are named next to the map. More types are named on it, next to
        their cells or joined to them by a line. Where names do not fit, with more than 40 types, and in 3-D, types are
        numbered on the map and named next to it. Types on several levels give way to the names of a coarser level, if
        more than a quarter of their names would need a line, or if they do not fit; then they are listed below these.
    title
        The text above the map; by default ``color``.
    palette
        Colours of the types, a list or a dict; for numbers the name of a matplotlib colormap. By default ordered
        categories go from light to dark, and a column that the model took as circular ends in the colour in which it
        begins. By default a type has the
        same colour in all columns: that in ``uns["<color>_colors"]``, where scanpy keeps it, or else the one at
        its rank among the types of the model. Of types on several levels, each name at the top has a hue, and its types
        are shades of it. Cells that are known less finely than others have a paler mean of their types' colours.
    layer
        Layer to take a gene from in place of `.X`.

    Returns
    -------
    Axes
        Up to four collections labelled "unlabelled", "train" (or "cells" without a split), "no split" (cells without a
        value in the split) and "held-out". A few cells that lie far from all others do not set the limits: they are
        arrowheads at the edge of the map, in collections labelled "outside", and the legend counts them. Where ``uns``
        says that the labels of held-out cells are found no better than permuted ones (p > 0.01), "no signal" is written
        across the map; where there are too few to tell, the legend says so.

    Raises
    ------
    KeyError
        If there is no such basis, column or gene, or no principal components for the distortion.
    ValueError
        If `basis` is not a map, `split` is not a split, `palette` does not suit `color`, or there are fewer than 17
        cells for the distortion.
    """
    points = style.map_of(adata, basis)
    cells = style.style_of(adata, color, style.split_codes(adata, basis, split), palette, layer)
    cells = replace(cells, remark=style.untested_remark(adata, basis))
    dark = style.distortion_of(adata, basis, points) if distortion else None
    solid = points.shape[1] == 3
    if ax is not None and solid != (ax.name == "3d"):
        need = "projection='3d'" if solid else "2-D axes"
        raise ValueError(f"basis={basis!r} has {points.shape[1]} dimensions: pass an ax made with {need}, or none.")
    figure = None
    if ax is not None:
        as_text(ax)
    else:
        figure = plt.figure(figsize=(4.6, 4.6), dpi=150, layout="compressed")
        ax = figure.add_subplot(projection="3d" if solid else None)
    map_axes.frame_map(ax, points, basis)
    ax.set_title((color or "") if title is None else title, fontsize=TITLE, loc="left", pad=4)
    many = legend and len(cells.types) > MAX_COLOURS
    named = type_names.choose_names(ax, cells, points) if many and not solid else None
    numbered = many and named is None
    if legend:
        wide = figure is None and named is not None and named.coarse and _is_wide(ax, cells)
        below = named is not None and (wide or not named.coarse)
        entries = map_axes.legend_entries(cells, numbered, points)
        if below and not (wide and _is_low(ax, entries)):  # names on the map, or on top of those, say which types
            entries = map_axes.legend_entries(cells.without_names(), numbered, points)
        _draw_legend(ax, entries, below, cells.scale is not None, distortion)
        map_axes.number_scale(ax, cells, color)
        if distortion:
            map_axes.distortion_scale(ax)
    if figure is not None:
        box: Any = ax.get_tightbbox()
        figure.set_figwidth(4.6 + (box.width - box.height) / figure.dpi)
    map_axes.draw_cells(ax, points, cells, size, numbered, dark)
    if named and named.coarse:  # their legend takes room from the map
        named = type_names.choose_names(ax, cells, points)
    if named:
        type_names.write_names(ax, named.types, points, named.codes, named.coarse)
    if words := style.no_signal_remark(adata, basis):
        map_axes.no_signal_banner(ax, words, map_axes.map_width(ax))
    return ax


def _draw_legend(ax: Any, entries: list[Any], below: bool, numbers: bool, distortion: bool) -> None:
    """Draw the legend of a map: below it, or to its right, next to the scales of numbers and of distortion."""
    width = map_axes.map_width(ax)
    if entries and below:
        place: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -11 / width), "borderaxespad": 0}  # of its label
        columns = 2 if len(entries) < 4 else _columns(entries, width)
        ax.legend(handles=entries, ncols=columns, **(LEGEND | place))
    elif entries:
        place = ("lower left", (1, 0.3 * distortion)) if numbers else ("upper left", (1, 1))  # above its scale
        columns = math.ceil(ROW * len(entries) / (width * (0.7 if distortion else 1)))
        ax.legend(handles=entries, ncols=columns, loc=place[0], bbox_to_anchor=place[1], **LEGEND)


def _columns(entries: list[Any], width: float) -> int:
    """Return in how many columns, four at most, the entries of a legend fit a width in points."""
    wide = [72 * text_width(entry.get_label(), SMALL) + MARK for entry in entries]
    for columns in range(4, 1, -1):
        rows = math.ceil(len(wide) / columns)
        if sum(max(wide[i : i + rows]) for i in range(0, len(wide), rows)) <= width:
            return columns
    return 1


def _is_low(ax: Any, entries: list[Any]) -> bool:
    """Return whether a legend below a map takes less than half of its height."""
    width = map_axes.map_width(ax)
    return ROW * math.ceil(len(entries) / _columns(entries, width)) < width / 2


def _is_wide(ax: Any, cells: style.CellStyle) -> bool:
    """Return whether the types of a map would take more room next to it than half of its width."""
    width = map_axes.map_width(ax)
    columns = math.ceil(ROW * len(cells.lines) / width)
    return columns * (72 * max(text_width(name, SMALL) for name, _, _ in cells.lines) + MARK) > width / 2

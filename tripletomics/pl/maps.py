"""Maps: one with its held-out cells marked, or several side by side, with their scores below."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib import pyplot as plt

from tripletomics import keys
from tripletomics.parts import did_you_mean
from tripletomics.pl import map_axes, score_panel, score_table, style, type_names
from tripletomics.pl.layout import Layout, add_map, caption_of
from tripletomics.pl.palette import Palette, listed
from tripletomics.pl.text import LEGEND, SMALL, TITLE, as_text, inches, literal, text_width

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_COLOURS = 8  # types that can be told apart by colour alone; more of them are named or numbered on the map
ROW, MARK = 1.31 * SMALL, 18  # points of an entry of a legend: its height; its mark and the gap to the next one
SCORES_GAP = 0.12  # inches above the panels of scores


@literal
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


@literal
def compare(
    adata: AnnData,
    color: str,
    *,
    bases: Sequence[str] | None = None,
    scores: Mapping[str, str] | None = None,
    palette: Palette | None = None,
    width: float = 7.1,
    table: pd.DataFrame | None = None,
    titles: Mapping[str, str] | None = None,
) -> Figure:
    """Draw maps of the same cells side by side, with the same colours, one legend, and held-out cells marked in each.

    The split is the one that was written with the first of the bases that has one, or with ``X_tt``; a map of another
    model shows its own. A map that was computed on all cells has seen the held-out ones; the maps of ``tt.compare``
    have not.

    Parameters
    ----------
    adata
        Cells with several maps in ``obsm``. It is not changed.
    color
        A column of ``obs`` or a gene, as in :func:`embedding`.
    bases
        Keys of ``obsm``; by default those of ``X_tt``, ``X_umap`` and ``X_pca`` that are there, or with a `table` the
        maps of its methods.
    scores
        A short text per basis, drawn under its title, such as ``{"X_tt": "held-out F1 0.91"}``; by default from
        `table`.
    palette
        Colours of the types, or a colormap, as in :func:`embedding`.
    width
        Width of the figure in inches; 7.1 is a page, 3.5 a column.
    table
        Scores as :func:`scores` takes them. Their panel is drawn below the maps, and each map says its held-out F1 with
        the null, or that it has no signal. The basis ``"X_umap"`` belongs to the method ``"umap"``.
    titles
        What to call methods (or bases) in the figure.

    Returns
    -------
    Figure
        One Axes per basis, in order, then one for each score. Far cells are drawn as in :func:`embedding`, and the
        legend counts those of all maps. Maps are in one row where each can be 1.1 in wide, else in balanced rows.

    Raises
    ------
    KeyError
        If there is no such basis, column or gene.
    ValueError
        If there is nothing to compare, `table` has no scores of any basis, or `scores` or `titles` name others.
    """
    checked = None if table is None else score_table.checked_table(table)
    maps = _maps(adata, bases, checked)
    if unknown := [basis for basis in scores or () if basis not in maps]:
        near = did_you_mean(unknown[0], maps)
        raise ValueError(f"scores has {unknown[0]!r}, which is not drawn.{near} Drawn: {listed(maps)}.")
    score_table.check_titles(titles, [*maps, *([] if checked is None else checked["method"].unique())])
    splits = (style.split_codes(adata, basis, "auto") for basis in (*maps, "X_tt"))
    cells = style.style_of(adata, color, next((codes for codes in splits if codes is not None), None), palette)
    layout = Layout.of(len(maps), width, numbers=cells.scale is not None)
    captions = [caption_of(adata, basis, checked, (scores or {}).get(basis), titles, layout) for basis in maps]
    shown = score_table.SHOWN if width >= 5 else score_table.SHOWN_NARROW
    scored = None if checked is None else score_panel.lay_out_panels(checked, None, titles, width, shown)

    figure = plt.figure(figsize=(width, width), dpi=150)
    numbered = len(cells.types) > MAX_COLOURS
    head = max(caption.height for caption in captions)
    tall = layout.rows * (head + layout.side + layout.foot)
    legend, fits = map_axes.shared_legend(
        figure, map_axes.legend_entries(cells, numbered, *maps.values()), width, layout.blank(head)
    )
    foot = 0.0 if fits else legend.get_window_extent().height / figure.dpi + 0.08
    figure.set_figheight(tall + foot + (SCORES_GAP + scored.height if scored else 0.04))
    spot = layout.corner(len(maps), head) if fits else (width / 2, tall + 0.02)
    legend.set_loc("upper left" if fits else "upper center")
    legend.set_bbox_to_anchor(inches(figure, *spot, 0, 0)[:2], figure.transFigure)
    for i, (basis, points) in enumerate(maps.items()):
        left, top = layout.corner(i, head)
        add_map(figure, inches(figure, left, top + head, layout.side, layout.side), basis, points, layout, captions[i])
    panels = list(figure.axes)
    map_axes.number_scale(panels[-1], cells, color)
    if scored:
        score_panel.draw_panels(figure, scored, tall + foot + SCORES_GAP)
    for ax, (basis, points), caption in zip(panels, maps.items(), captions, strict=True):
        own = cells
        if keys.seen_by(adata.uns, basis) is not None:  # the cells that were held out from the model of this map
            own = replace(cells, split=style.split_codes(adata, basis, keys.split_of(adata, basis)))
        map_axes.draw_cells(ax, points, own, None, numbered)
        if caption.no_signal:
            map_axes.no_signal_banner(ax, caption.no_signal, 72 * layout.side)
    return figure


def _maps(adata: AnnData, bases: Sequence[str] | None, table: pd.DataFrame | None) -> dict[str, np.ndarray]:
    """Return the coordinates of each basis to draw."""
    present = style.obsm_keys(adata)
    if bases is None and table is not None:
        methods = table.loc[~table["space"].str.endswith("metric"), "method"].unique()
        bases = [key for key in (f"X_{score_table.method_of(method)}" for method in methods) if key in present]
    elif bases is None:
        bases = [basis for basis in ("X_tt", "X_umap", "X_pca") if basis in present]
    bases = [bases] if isinstance(bases, str) else bases
    if not bases:
        raise ValueError(f"No bases to compare. Pass bases=[...]. Present: {listed(present)}.")
    if table is not None and not any(score_table.headline(table, basis) for basis in bases):
        known = table["method"].unique()
        raise ValueError(
            f"table has no scores of the maps {listed(bases)}. The basis 'X_umap' belongs to the method 'umap'. "
            f"In the table: {listed(known)}."
        )
    return {basis: style.map_of(adata, basis) for basis in bases}

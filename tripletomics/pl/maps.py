"""Maps with their held-out cells marked: one, or a grid of one for each colour."""

from __future__ import annotations

import math
import reprlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from tripletomics.arguments import checking_names
from tripletomics.labels import several
from tripletomics.notices import warn
from tripletomics.parts import did_you_mean
from tripletomics.pl import held_out, map_axes, style, type_names
from tripletomics.pl.layout import MAX_COLOURS
from tripletomics.pl.map_legend import draw_legend, is_low, is_wide, keep_within
from tripletomics.pl.palette import Palette, check_palette, ends_of, keep_colours, palettes_of
from tripletomics.pl.showing import check_output, finish
from tripletomics.pl.text import LEGEND, TITLE, as_text, literal

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

ONE, PAGE, LEAST = 4.1, 6.6, 2.0  # inches: a map alone, the maps of a row in all, the smallest of these
LEGENDS = ("auto", "right margin", "on data", "none")
NARROW = 0.4  # of a map's width: a wider legend next to it gives way to names on it, where the map has to make room


@literal
@checking_names
def embedding(
    adata: AnnData,
    color: str | Sequence[str] | None = None,
    *,
    basis: str = "X_tt",
    split: str | None = "auto",
    distortion: bool = False,
    layer: str | None = None,
    use_raw: bool | None = None,
    groups: str | Sequence[str] | None = None,
    palette: Palette | None = None,
    cmap: str | Colormap | None = None,
    vmin: float | str | Sequence[float | str | None] | None = None,
    vmax: float | str | Sequence[float | str | None] | None = None,
    legend_loc: str | None = "auto",
    size: float | None = None,
    frameon: bool = True,
    title: str | Sequence[str] | None = None,
    ncols: int = 4,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | bool | None = None,
    return_fig: bool = False,
) -> Axes | list[Axes] | Figure | None:
    """Draw maps of the cells, with held-out cells in full colour on top of pale training cells.

    Parameters
    ----------
    adata
        Cells with coordinates in ``obsm[basis]``. As in scanpy, the colours of a categorical column are kept in
        ``uns["<color>_colors"]``: they are read from there, and written if they are not there or `palette` is given
        (not in a view). Nothing else is changed.
    color
        A column of ``obs`` or a gene, or several of both, each drawn on a map of its own. Unlabelled cells (as in
        :func:`tripletomics.fit`) and cells without a value are light grey, below the others. Numbers keep their colour
        in training cells, so that it can be read off the scale. Genes of ``.X`` or ``.raw`` that are counts are shown
        as log(1 + counts per 10,000), and the scale says so. Of labels on several levels, a cell without a name in this
        column has that of the next coarser one.
    basis
        A key of ``obsm`` with 2 or 3 columns, with or without its ``X_``; of an ordered basis such as ``"X_pca"`` the
        first two are drawn. Of a basis whose name has "spatial" in it, y points down, as in images.
    split
        The ``obs`` column that marks held-out cells ("train" / "held-out", or True for held out). ``"auto"`` takes the
        one that was written with this basis by ``tt.fit``, ``transform`` or ``predict``, if any; None marks nothing.
    distortion
        Whether to draw one more map, which shows how far the neighbours of each cell are from being those of the data:
        the darker a cell, the less its position can be trusted, and the darkest are no better than chance. See
        :func:`tripletomics.metrics.distortion`. The data are ``obsm["X_tt_pca"]`` of ``tt.fit``, else
        ``obsm["X_pca"]``; neighbours are sought among training cells.
    layer
        Layer to take genes from in place of `.X`; its values are shown as they are.
    use_raw
        Whether to take genes from ``.raw``. By default, as in scanpy, if it has them and no `layer` is given.
    groups
        Types to show; those of other types are light grey.
    palette
        Colours of types: a list, a dict with all types that are shown, or the name of a matplotlib colormap such as
        ``"tab20"``. By default a type has the same colour in all columns: that in ``uns["<color>_colors"]``, or else
        the one at its rank among the types of the model. Ordered categories go from light to dark. Of types on several
        levels, each name at the top has a hue, and its types are shades of it. Cells that are known less finely than
        others have a paler mean of their types' colours. Types of the same colour have different markers.
    cmap
        Colormap of numbers. By default a column that the model took as circular ends in the colour in which it begins.
    vmin, vmax
        The numbers of the first and the last colour, or percentiles such as ``"p99"``; or lists of one for each of
        `color`. By default the smallest number and the percentile 99.5.
    legend_loc
        ``"auto"``: up to 8 types are named next to the map, and more on it, next to their cells or joined to them by a
        line. ``"right margin"``: next to the map; ``"on data"``: on it; ``"none"`` or None: no legend. Where names do
        not fit, with more than 40 types, and in 3-D, marks on the map stand for the types, and the legend explains
        them: the name itself if it is short, such as that of a Leiden cluster, else a number or a letter. With types
        on several levels, the names of a coarser level stand on the map if more than a quarter of the fine ones would
        need a line, or if these do not fit. The legend then lists the fine names below the coarse ones.
    size
        Area of a training cell in square points; by default it follows the number of cells and the size of the map.
    frameon
        Whether to draw the frame and the names of the axes.
    title
        The text above the map, or a list of them; by default ``color``.
    ncols
        Maps in a row.
    ax
        Where to draw one map. In a figure without a layout engine (``layout="constrained"``) the map gets smaller, so
        that its legend stays within its part of the figure. Without `ax`, a new figure is made.
    show
        Whether to show the figure and return None. By default only in notebooks, and not with `ax`.
    save
        Path of a file to write the figure to. With True, ``sc.settings`` choose its folder and format, and its name has
        the basis and the colours in it.
    return_fig
        Whether to return the figure.

    Returns
    -------
    Axes, list of Axes, Figure or None
        The Axes of one map, those of several, the figure with ``return_fig=True``, or None if it was shown. On each map
        are up to four kinds of collections, labelled "unlabelled", "train" (or "cells" without a split), "no split"
        (cells without a value in the split) and "held-out". A few cells that lie far from all others do not set the
        limits: they are arrowheads at the edge of the map, in collections labelled "outside", and the legend counts
        them. In a new figure of the labels of a fit, the scores of its held-out cells and of permuted labels stand
        below the title. Where ``uns`` says that the former are found no better than the latter (p > 0.01), "no signal"
        is written across the map; where there are too few to tell, the legend says so.

    Raises
    ------
    KeyError
        If there is no such basis, column, gene or layer, or no principal components for the distortion.
    ValueError
        If `basis` is not a map, `split` is not a split, a colour is both a column and a gene, `palette`, `cmap` or
        `groups` do not suit `color`, `ax` is given for several maps or its figure is closed, or there are fewer than 17
        cells for the distortion.

    Examples
    --------
    >>> types, gene, errors = tt.pl.embedding(adata, color=["cell_type", "CD3D"], distortion=True)
    """
    check_output(save, ax)
    basis = style.basis_key(adata, basis)
    points, codes = style.map_of(adata, basis), style.split_codes(adata, basis, split)
    names: list[str | None] = [None] if color is None else [*several(color, "color")]
    groups = None if groups is None else several(groups, "groups")
    palettes = palettes_of(adata, names, palette, groups)
    cells = [
        style.style_of(adata, name, codes, own, layer, use_raw=use_raw, cmap=cmap, ends=ends)
        for name, own, ends in zip(names, palettes, ends_of(vmin, vmax, len(names)), strict=True)
    ]
    _check_colours(cells, names, palette, cmap, (vmin, vmax))
    cells = cells if groups is None else style.only(cells, groups)
    titles = _titles(title, names)
    if distortion:  # alone, or next to the colours
        alone = color is None
        cells = [*cells[alone:], style.distortion_style(adata, basis, points, codes)]
        names, palettes = [*names[alone:], None], [*palettes[alone:], None]
        titles = [*titles[alone:], "distortion" if title is None or not alone else titles[0]]
    _check_sizes(size, ncols)
    _check_place(ax, points, basis, len(cells), legend_loc)
    for name, own in zip(names, palettes, strict=True):
        if name is not None and name in adata.obs:
            keep_colours(adata, name, own)
    axes = _new_axes(len(cells), ncols, points.shape[1]) if ax is None else [ax]
    maps = []
    for own, one, text, name in zip(axes, cells, titles, names, strict=True):
        _frame(own, points, basis, text, frameon, "" if ax else held_out.score_remark(adata, basis, name))
        found = _Map(own, replace(one, remark=held_out.untested_remark(adata, basis)), points, name)
        maps.append(_lay_out(found, legend_loc or "none", ax is not None, len(axes) > 1))
    if ax is None:
        _fit_page(maps, ncols, legend_loc not in (None, "none"))
    for drawn in maps:
        _draw(drawn, size, held_out.no_signal_remark(adata, basis))
    result = axes[0] if len(axes) == 1 else axes
    file = "_".join(["embedding", basis.removeprefix("X_"), *filter(None, names)]) + "_distortion" * distortion
    return finish(axes[0].figure.figure, result, file, show if ax is None or show else False, save, return_fig)


@dataclass(frozen=True)
class _Map:
    """A map to draw: what it shows, and the types to name or to mark on it."""

    ax: Any
    cells: style.CellStyle
    points: np.ndarray
    color: str | None
    named: type_names.Named | None = None
    numbered: bool = False


def _check_colours(
    cells: Sequence[style.CellStyle], names: Sequence[str | None], palette: Any, cmap: Any, ends: tuple[Any, Any]
) -> None:
    """Raise if there is nothing to draw, or a palette or colormap suits nothing that is drawn."""
    if not names:
        raise ValueError("color=[] names nothing to draw: name columns of adata.obs or genes, or leave it out.")
    given = f"color={names[0] if len(names) == 1 else list(names)!r}" if names != [None] else "without color"
    check_palette(palette, [one.scale for one in cells], given)
    for name, value in (("cmap", cmap), ("vmin", ends[0]), ("vmax", ends[1])):
        if value is not None and all(one.scale is None for one in cells):
            raise ValueError(
                f"{name}={value!r} is for numbers, and {given} holds types: pass their colours as palette=."
            )


def _check_sizes(size: Any, ncols: Any) -> None:
    """Raise unless the area of a cell and the number of maps in a row can be used."""
    number = isinstance(size, (int, float, np.number)) and not isinstance(size, bool)
    if size is not None and not (number and 0 < size < math.inf):
        raise ValueError(f"size={reprlib.repr(size)} is not an area in square points: pass one number above 0.")
    if not isinstance(ncols, int) or ncols < 1:
        raise ValueError(f"ncols={ncols!r} is not the number of maps in a row: pass 1 or more.")


def _check_place(ax: Any, points: np.ndarray, basis: str, maps: int, legend_loc: str | None) -> None:
    """Raise if the maps cannot be drawn where they are asked to be."""
    if legend_loc is not None and legend_loc not in LEGENDS:
        near = did_you_mean(legend_loc, LEGENDS)
        raise ValueError(f"legend_loc={legend_loc!r} is not known.{near} Allowed: {', '.join(LEGENDS)}, None.")
    if ax is None:
        return
    if maps > 1:
        raise ValueError(f"ax holds one map, and {maps} are asked for: leave out ax, or draw one colour on each ax.")
    solid = points.shape[1] == 3
    if solid != (ax.name == "3d"):
        need = "projection='3d'" if solid else "2-D axes"
        raise ValueError(f"basis={basis!r} has {points.shape[1]} dimensions: pass an ax made with {need}, or none.")
    as_text(ax)


def _titles(title: str | Sequence[str] | None, names: Sequence[str | None]) -> list[str]:
    """Return the text above each map."""
    if title is None:
        return [name or "" for name in names]
    titles = several(title, "title")
    if len(titles) != len(names):
        raise ValueError(f"title has {len(titles)} texts for {len(names)} colours: pass one for each.")
    return titles


def _new_axes(maps: int, ncols: int, dim: int) -> list[Any]:
    """Return the axes of maps in a new figure."""
    columns = min(maps, ncols)
    side = ONE if maps == 1 else max(PAGE / columns, LEAST)
    rows = math.ceil(maps / columns)
    figure = plt.figure(figsize=(columns * side, rows * side), dpi=150, layout="compressed")
    projection: Any = "3d" if dim == 3 else None
    return [figure.add_subplot(rows, columns, i + 1, projection=projection) for i in range(maps)]


def _frame(ax: Any, points: np.ndarray, basis: str, title: str, frameon: bool, remark: str) -> None:
    """Give a map its limits, the names of its axes, its title, and below that a remark."""
    map_axes.frame_map(ax, points, basis)
    size = map_axes.text_size(map_axes.map_width(ax))
    ax.set_title(title, fontsize=TITLE, loc="left", pad=4 + (size + 2) * bool(remark))
    if remark:
        ax.annotate(remark, (0, 1), (0, 4), "axes fraction", "offset points", fontsize=size, gid="score")
    if not frameon:
        ax.set_axis_off()


def _lay_out(one: _Map, loc: str, given: bool, shared: bool) -> _Map:
    """Draw legend and scale of a map; return it with what is to be written on it."""
    ax, cells, points = one.ax, one.cells, one.points
    if one.color is None and cells.scale is not None:
        map_axes.distortion_scale(ax, cells)
    else:
        map_axes.number_scale(ax, cells, one.color)
    slot, fixed = ax.get_position(original=True), ax.figure.figure.get_layout_engine() is None
    split = [] if shared else map_axes.split_entries(cells)
    rest = map_axes.rest_entries(cells, points)
    plain = [*map_axes.type_entries(cells, False), *split, *rest]
    narrow = fixed and is_wide(ax, [str(entry.get_label()) for entry in plain], NARROW)
    many = len(cells.types) > MAX_COLOURS or (narrow and len(cells.types) > 0)
    many = (len(cells.types) > 0 and loc == "on data") or (loc == "auto" and many)
    named = type_names.choose_names(ax, cells, points) if many and points.shape[1] == 2 else None
    numbered = many and named is None
    if loc != "none":
        entries = [*map_axes.type_entries(cells, numbered), *split, *rest]
        wide = given and named is not None and named.coarse and is_wide(ax, [text for text, _, _ in cells.lines])
        below = cells.scale is not None or (narrow and loc != "right margin")
        below = below or (named is not None and (wide or not named.coarse))
        if named and below and not (wide and is_low(ax, entries)):  # names on the map, or on top of those, say which
            entries = [*map_axes.type_entries(cells.without_names(), False), *split, *rest]
        draw_legend(ax, entries, below)
        if fixed and not keep_within(ax, slot, entries, below):
            warn(
                f"The legend of {len(cells.types)} types has no room next to this map, and is left out: make the "
                "figure larger, or create it with layout='constrained'."
            )
            numbered = False
            ax.set_position(slot)
            draw_legend(ax, split, True)
            keep_within(ax, slot, split, True)
    return replace(one, named=named, numbered=numbered)


def _draw(one: _Map, size: float | None, no_signal: str | None) -> None:
    """Draw the cells of a map, and what is written on it."""
    ax, named = one.ax, one.named
    map_axes.draw_cells(ax, one.points, one.cells, size, one.numbered)
    if named:  # legends take room from maps
        named = type_names.choose_names(ax, one.cells, one.points)
    if named:
        type_names.write_names(ax, named.types, one.points, named.codes, named.coarse, split=one.cells.split)
    if no_signal:
        map_axes.no_signal_banner(ax, no_signal, map_axes.map_width(ax))


def _fit_page(maps: Sequence[_Map], ncols: int, legend: bool) -> None:
    """Draw the legend of several maps, and give the figure the size that maps, scales and legends take."""
    axes, high = [one.ax for one in maps], 0.0
    figure, columns = axes[0].figure, min(len(axes), ncols)
    side = figure.get_size_inches()[0] / columns
    most = max((one.cells for one in maps), key=lambda one: one.known.sum())  # `groups` may leave some out
    if legend and len(maps) > 1 and (entries := map_axes.split_entries(most)):
        words: Any = LEGEND | {"fontsize": map_axes.text_size(72 * side)}
        shared = figure.legend(handles=entries, loc="outside lower center", ncols=len(entries), **words)
        high = shared.get_window_extent().height / figure.dpi + 0.1
    more = np.zeros((math.ceil(len(axes) / columns), columns, 2))
    for _ in range(2):  # a legend may be taller than its map is at first
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "constrained_layout not applied")  # before the figure has its size
            figure.draw_without_rendering()
        for i, ax in enumerate(axes):
            box, own = ax.get_tightbbox(), ax.get_window_extent()
            more[divmod(i, columns)] = (box.width - own.width) / figure.dpi, (box.height - own.height) / figure.dpi
        wide, tall = more[..., 0].max(axis=0).sum(), more[..., 1].max(axis=1).sum()
        figure.set_size_inches(columns * side + wide, len(more) * side + tall + high)

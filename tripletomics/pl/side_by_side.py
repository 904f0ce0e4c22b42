"""Maps side by side, with the same colours, and their scores below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.colors import Colormap

from tripletomics import keys
from tripletomics.arguments import checking_names
from tripletomics.parts import did_you_mean
from tripletomics.pl import map_axes, score_panel, score_table, style, type_names
from tripletomics.pl.layout import LARGE, MAX_COLOURS, Layout, add_map, caption_of
from tripletomics.pl.palette import Palette, check_palette, listed
from tripletomics.pl.showing import check_output, finish
from tripletomics.pl.text import inches, literal

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCORES_GAP = 0.12  # inches above the panels of scores


@literal
@checking_names
def compare(
    adata: AnnData,
    color: str,
    *,
    bases: Sequence[str] | None = None,
    scores: Mapping[str, str] | None = None,
    palette: Palette | None = None,
    cmap: str | Colormap | None = None,
    width: float = 7.1,
    table: pd.DataFrame | None = None,
    titles: Mapping[str, str] | None = None,
    show: bool | None = None,
    save: str | Path | bool | None = None,
    return_fig: bool = False,
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
    palette, cmap
        Colours of the types, and the colormap of numbers, as in :func:`embedding`.
    width
        Width of the figure in inches; 7.1 is a page, 3.5 a column.
    table
        Scores as :func:`scores` takes them. Their panel is drawn below the maps, and each map says its held-out F1 with
        the permuted one, or that it has no signal. The basis ``"X_umap"`` belongs to the method ``"umap"``.
    titles
        What to call methods (or bases) in the figure.
    show, save, return_fig
        As in scanpy: whether to show the figure (and return None), the path of a file to write it to, and whether to
        return the figure. By default a figure is shown in notebooks, and returned elsewhere.

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

    Examples
    --------
    >>> figure = tt.pl.compare(adata, "cell_type", bases=["X_tt", "X_pca"])
    >>> [ax.get_title() for ax in figure.axes]
    ['tripletomics', 'PCA']
    """
    check_output(save)
    checked = None if table is None else score_table.checked_table(table)
    maps = _maps(adata, bases, checked)
    if unknown := [basis for basis in scores or () if basis not in maps]:
        near = did_you_mean(unknown[0], maps)
        raise ValueError(f"scores has {unknown[0]!r}, which is not drawn.{near} Drawn: {listed(maps)}.")
    score_table.check_titles(titles, [*maps, *([] if checked is None else checked["method"].unique())])
    cells = _style(adata, color, list(maps), palette, cmap)
    layout = Layout.of(len(maps), width, numbers=cells.scale is not None)
    captions = [caption_of(adata, basis, checked, (scores or {}).get(basis), titles, layout) for basis in maps]
    shown = score_table.SHOWN if width >= 5 else score_table.SHOWN_NARROW
    scored = None if checked is None else score_panel.lay_out_panels(checked, None, titles, width, shown)

    figure = plt.figure(figsize=(width, width), dpi=150)
    names = _names_on_maps(cells, maps, layout.side)
    numbered = names is None and len(cells.types) > MAX_COLOURS
    explained = cells if names is None else cells.without_names()
    head = max(caption.height for caption in captions)
    tall = layout.rows * (head + layout.side + layout.foot)
    legend, fits = map_axes.shared_legend(
        figure, map_axes.legend_entries(explained, numbered, *maps.values()), width, layout.blank(head)
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
        _draw_cells(ax, points, own, names, numbered)
        if caption.no_signal:
            map_axes.no_signal_banner(ax, caption.no_signal, 72 * layout.side)
    return finish(figure, figure, f"compare_{color}", show, save, return_fig)


def _style(
    adata: AnnData, color: str, bases: Sequence[str], palette: Palette | None, cmap: str | Colormap | None
) -> style.CellStyle:
    """Return how cells are drawn on all maps, with the split of the first basis that has one."""
    splits = (style.split_codes(adata, basis, "auto") for basis in (*bases, "X_tt"))
    split = next((codes for codes in splits if codes is not None), None)
    cells = style.style_of(adata, color, split, palette, cmap=cmap)
    check_palette(palette, [cells.scale], f"color={color!r}")
    return cells


def _names_on_maps(cells: style.CellStyle, maps: Mapping[str, np.ndarray], side: float) -> style.Types | None:
    """Return the names to write on maps of `side` inches; None for few types, and where there is no room for names."""
    flat = all(points.shape[1] == 2 for points in maps.values())
    if not flat or len(cells.types) <= MAX_COLOURS or cells.branches is not None or side < LARGE:
        return None
    return type_names.break_names(cells.types, 72 * side)


def _draw_cells(
    ax: Axes, points: np.ndarray, cells: style.CellStyle, names: style.Types | None, numbered: bool
) -> None:
    """Draw the cells of a map, with names or what stands for them: next to the cells, which a chip could hide."""
    beside = numbered and points.shape[1] == 2 and len(cells.types) <= type_names.MAX_NAMES
    map_axes.draw_cells(ax, points, cells, None, numbered and not beside)
    if beside:
        names = {code: (mark, cells.types[code][1]) for code, mark in style.chips(cells.types).items()}
    if names is not None:
        type_names.write_names(ax, names, points, cells.codes, split=cells.split)


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

"""Figures: a map with its held-out cells marked, maps side by side, the training curves, and the class tree.

Nothing here computes an embedding or changes ``adata`` or matplotlib's settings. Held-out cells are drawn on top in
full colour with a dark edge, training cells pale beneath them: only the former show how good a supervised map is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection
from scipy.cluster.hierarchy import dendrogram

from tripletomics.files import replacing
from tripletomics.parts import did_you_mean
from tripletomics.pl.draw import (
    EDGE,
    LEGEND,
    SMALL,
    TITLE,
    draw,
    frame,
    legend_entries,
    scale,
    shared_legend,
    side,
    title_of,
)
from tripletomics.pl.look import PALETTE, Palette, held_out, look_of, obsm_keys, points_of, some

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compare", "embedding", "history", "save", "tree"]

MANY = 8  # types that colours alone tell apart; more of them are numbered on the map


def embedding(
    adata: AnnData,
    color: str | None = None,
    *,
    basis: str = "X_tt",
    split: str | None = "auto",
    ax: Axes | None = None,
    size: float | None = None,
    legend: bool = True,
    title: str | None = None,
    palette: Palette | None = None,
) -> Axes:
    """Draw a map of the cells, with held-out cells in full colour on top of pale training cells.

    Parameters
    ----------
    adata
        Cells with coordinates in ``obsm[basis]``. It is not changed.
    color
        A column of ``obs`` or a gene. Unlabelled cells (as in :func:`tripletomics.fit`) are light grey, below the
        others. Numbers keep their colour in training cells, so that it can be read off the scale.
    basis
        A key of ``obsm`` with 2 or 3 columns; of an ordered basis such as ``"X_pca"`` the first two are drawn.
    split
        The ``obs`` column that marks held-out cells ("train" / "held-out", or True for held out). ``"auto"`` takes the
        one that ``tt.fit`` wrote for this basis, if any; None marks nothing.
    ax
        Where to draw. The legend stands to its right: a figure made with ``layout="constrained"`` makes room for it.
        Without `ax`, a new figure is made.
    size
        Area of a training cell in square points; by default it follows the number of cells and the size of the map.
    legend
        Whether to explain the colours beside the map. More than 8 types are also numbered on the map.
    title
        The text above the map; by default ``color``.
    palette
        Colours of the types, a list or a dict; for numbers the name of a matplotlib colormap.

    Returns
    -------
    Axes
        Up to three collections labelled "unlabelled", "train" (or "cells" without a split) and "held-out".

    Raises
    ------
    KeyError
        If there is no such basis, column or gene.
    ValueError
        If `basis` is no map, `split` no split, or `palette` does not suit `color`.
    """
    points = points_of(adata, basis)
    look = look_of(adata, color, held_out(adata, basis, split), palette)
    solid = points.shape[1] == 3
    if ax is not None and solid != (ax.name == "3d"):
        need = "projection='3d'" if solid else "2-D axes"
        raise ValueError(f"basis={basis!r} has {points.shape[1]} dimensions: pass an ax made with {need}, or none.")
    own = ax is None
    if ax is None:
        figure = plt.figure(figsize=(4.6, 4.6), dpi=150, layout="compressed")
        ax = figure.add_subplot(projection="3d" if solid else None)
    frame(ax, points, basis)
    ax.set_title((color or "") if title is None else title, fontsize=TITLE, loc="left", pad=4)
    numbered = legend and len(look.types) > MANY
    if legend and (entries := legend_entries(look, numbered)):
        place: Any = ("upper left", (1, 1)) if look.scale is None else ("lower left", (1, 0))
        columns = math.ceil(1.31 * SMALL * len(entries) / side(ax))
        ax.legend(handles=entries, ncols=columns, loc=place[0], bbox_to_anchor=place[1], **LEGEND)
    if legend:
        scale(ax, look, color)
    if own:
        box: Any = ax.get_tightbbox()
        figure.set_figwidth(4.6 + (box.width - box.height) / figure.dpi)
    draw(ax, points, look, size, numbered)
    return ax


def compare(
    adata: AnnData,
    color: str,
    *,
    bases: Sequence[str] | None = None,
    scores: Mapping[str, str] | None = None,
    palette: Palette | None = None,
    width: float = 7.1,
) -> Figure:
    """Draw maps of the same cells side by side, with the same colours, one legend, and held-out cells marked in each.

    The split is the one that ``tt.fit`` wrote for the first of the bases that has one, or for ``X_tt``. A map that was
    computed on all cells has seen the held-out ones; the maps of ``tt.compare`` have not.

    Parameters
    ----------
    adata
        Cells with several maps in ``obsm``. It is not changed.
    color
        A column of ``obs`` or a gene, as in :func:`embedding`.
    bases
        Keys of ``obsm``; by default those of ``X_tt``, ``X_umap`` and ``X_pca`` that are there.
    scores
        A short text per basis, drawn under its title, such as ``{"X_tt": "held-out F1 0.91"}``.
    palette
        Colours of the types, or a colormap, as in :func:`embedding`.
    width
        Width of the figure in inches; 7.1 is a page, 3.5 a column.

    Returns
    -------
    Figure
        One Axes per basis, in order.
    """
    present = obsm_keys(adata)
    if bases is None:
        bases = [basis for basis in ("X_tt", "X_umap", "X_pca") if basis in present]
    if not bases:
        raise ValueError(f"No bases to compare. Pass bases=[...]. Present: {some(present)}.")
    maps = {basis: points_of(adata, basis) for basis in bases}
    scores = scores or {}
    if unknown := [basis for basis in scores if basis not in maps]:
        near = did_you_mean(unknown[0], maps)
        raise ValueError(f"scores has {unknown[0]!r}, which is not drawn.{near} Drawn: {some(maps)}.")
    splits = (held_out(adata, basis, "auto") for basis in (*maps, "X_tt"))
    look = look_of(adata, color, next((held for held in splits if held is not None), None), palette)

    rows = math.ceil(len(maps) / max(1, int(width // 1.7)))
    columns = math.ceil(len(maps) / rows)
    figure = plt.figure(figsize=(width, width), dpi=150, layout="compressed")
    for i, (basis, points) in enumerate(maps.items(), start=1):
        ax = figure.add_subplot(rows, columns, i, projection="3d" if points.shape[1] == 3 else None)
        frame(ax, points, basis)
        note = scores.get(basis)
        ax.set_title(title_of(basis), fontsize=TITLE, pad=14 if note else 4)
        if note:
            ax.annotate(note, (0.5, 1), (0, 4), "axes fraction", "offset points", ha="center", fontsize=SMALL)
    panels = list(figure.axes)
    scale(panels[-1], look, color)
    numbered = len(look.types) > MANY
    foot = shared_legend(figure, legend_entries(look, numbered), width)
    box: Any = panels[0].get_tightbbox()
    figure.set_figheight(rows * (min(width / columns, 3.4) + (box.height - box.width) / figure.dpi) + foot)
    for ax, points in zip(panels, maps.values(), strict=True):
        draw(ax, points, look, None, numbered)
    return figure


def history(model: Any, ax: Axes | None = None) -> Axes:
    """Draw how the loss fell and how the held-out macro-F1 rose, for each training stage.

    Parameters
    ----------
    model
        A :class:`tripletomics.Model`.
    ax
        Where to draw; its place is divided into panels. Without it, a new figure is made.

    Returns
    -------
    Axes
        The empty frame; ``child_axes`` holds the panels: for each stage its loss and below it the held-out macro-F1.
        The pale line is the loss of each step, the dark line its running mean.
    """
    stages = getattr(model, "history", None)
    if not stages:
        raise TypeError(f"history needs a fitted tt.Model, not {type(model).__name__}.")
    if ax is None:
        ax = plt.figure(figsize=(2.5 * len(stages) + 1.0, 3.8), dpi=150).add_axes((0.11, 0.11, 0.87, 0.82))
    ax.set_axis_off()
    wide = 1 / (1.28 * len(stages) - 0.28)
    for i, (name, curves) in enumerate(stages.items()):
        upper, lower = (ax.inset_axes((1.28 * wide * i, y, wide, 0.46)) for y in (0.54, 0.0))
        step, loss, f1 = (np.asarray(curves[key], dtype=float) for key in ("step", "loss", "held_out_f1"))
        mean = pd.Series(loss).rolling(max(1, len(loss) // 40), center=True, min_periods=1).mean()
        upper.plot(step, loss, color=PALETTE[0], alpha=0.25, linewidth=0.6, label="each step")
        upper.plot(step, mean, color=PALETTE[0], linewidth=1.4, label="running mean")
        seen = np.isfinite(f1)
        lower.plot(step[seen], f1[seen], "o-", color=PALETTE[2], linewidth=1.2, markersize=2.5)
        lower.set_ylim(0, 1.05)
        lower.sharex(upper)
        final = f"last: {f1[seen][-1]:.2f}" if seen.any() else "not measured"
        lower.text(0.98, 0.05, final, transform=lower.transAxes, ha="right", fontsize=SMALL, color=PALETTE[2])
        upper.set_title("metric space" if name == "metric" else name, fontsize=TITLE, loc="left")
        upper.tick_params(labelbottom=False)
        lower.set_xlabel("step", fontsize=SMALL)
        if i == 0:
            upper.set_ylabel("loss", fontsize=SMALL)
            upper.legend(loc="upper right", **LEGEND)
            lower.set_ylabel("held-out macro-F1", fontsize=SMALL)
        for panel in (upper, lower):
            panel.spines[["top", "right"]].set_visible(False)
            panel.tick_params(labelsize=SMALL, length=2.5)
    return ax


def tree(model: Any, ax: Axes | None = None) -> Axes:
    """Draw the class tree that ``loss="hierarchical_triplet"`` learned.

    Two branches meet at the mean squared distance between the cells of their two nearest types, in the metric space
    scaled to length 1, where opposite directions are 4 apart.

    Parameters
    ----------
    model
        A :class:`tripletomics.Model` with a ``"tree"`` among its findings.
    ax
        Where to draw. The names stand to its left: a figure made with ``layout="constrained"`` makes room for them.
        Without `ax`, a new figure is made, as tall as the types need.

    Returns
    -------
    Axes
        One line collection, the branches; the tick labels of y are the names of the types, similar ones side by side.

    Raises
    ------
    TypeError
        If `model` is no model.
    ValueError
        If it was trained with a loss that learns no tree.
    """
    findings, classes = getattr(model, "findings", None), getattr(model, "classes", None)
    if findings is None or classes is None:
        raise TypeError(f"tree needs a fitted tt.Model, not {type(model).__name__}.")
    if "tree" not in findings:
        loss = model.settings["loss"]
        raise ValueError(
            f"This model has no class tree: it was trained with loss={loss!r}. Fit with loss='hierarchical_triplet'."
        )
    plan = dendrogram(findings["tree"], labels=classes, count_sort="descending", no_plot=True)
    own = ax is None
    if ax is None:
        figure = plt.figure(figsize=(4.6, 0.6 + 0.13 * len(classes)), dpi=150, layout="constrained")
        ax = figure.add_subplot()
    x, y = np.array(plan["dcoord"]), np.array(plan["icoord"]) / 10 - 0.5  # the i-th leaf of scipy is at 5 + 10 i
    branches = list(np.stack([x, y], axis=2))
    ax.add_collection(LineCollection(branches, colors=EDGE, linewidths=0.8, capstyle="projecting"), autolim=False)
    ax.set(xlim=(0, 1.03 * x.max() or 1), ylim=(len(classes) - 0.5, -0.5))
    ax.set_yticks(range(len(classes)), plan["ivl"])
    ax.tick_params(labelsize=SMALL, length=2.5)
    ax.tick_params(axis="y", length=0)
    ax.spines[["left", "top", "right"]].set_visible(False)
    ax.set_xlabel("squared distance in the metric space", fontsize=SMALL)
    ax.set_title("class tree", fontsize=TITLE, loc="left")
    if own:
        names: Any = ax.yaxis.get_tightbbox()
        figure.set_figwidth(2.8 + names.width / figure.dpi)
    return ax


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure whole or not at all, at 300 dpi and with text as text; the name's ending is the format."""
    fonts: Any = {"pdf.fonttype": 42, "svg.fonttype": "none"}
    with replacing(path) as draft, mpl.rc_context(fonts):
        figure.savefig(draft, dpi=300, format=Path(path).suffix[1:] or "png")

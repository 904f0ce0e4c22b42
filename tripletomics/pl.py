"""Figures: a map with its held-out cells marked, maps side by side, and the training curves.

Nothing here computes an embedding or changes ``adata`` or matplotlib's settings. Held-out cells are drawn on top in
full colour with a dark edge, training cells pale beneath them: only the former show how good a supervised map is.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from scipy import ndimage

from tripletomics.parts import did_you_mean

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Farthest points in OKLab under normal, deuteranope and protanope vision at once; the first ten lie furthest apart.
# fmt: off
PALETTE = (
    "#145cc2", "#e0c200", "#8f000a", "#f599ff", "#c25c85", "#66297a", "#7ab899", "#8f7aeb", "#eb7a14", "#856629",
    "#145c52", "#47e08f", "#6699c2", "#993d8f", "#33ad5c", "#6670b8", "#d6adcc", "#1f8566", "#3d33a3", "#a31f52",
    "#b87000", "#ff7a7a", "#b88feb", "#f5ad66", "#008fa3", "#8f3d1f", "#33adad", "#b85252", "#296699", "#5c4770",
)
# fmt: on
UNLABELLED = ("", "Unknown", "unknown", "unassigned", "NA", "None", "nan")  # as in tt.fit
TITLES = {"tt": "tripletomics", "umap": "UMAP", "pca": "PCA", "tsne": "t-SNE", "lda": "LDA", "pacmap": "PaCMAP"}
LEGENDS = ("auto", "list", "numbers", "names", "off")
INK, GREY, EDGE = "#222222", "#d4d4d4", "#1a1a1a"
SMALL, TEXT, TITLE = 6.5, 7.5, 9.0  # points
FONTS = (7.5, 6.5, 5.5)  # of legends: the largest that fits
GAP = 0.12  # inches between a map and its legend
LEGEND: dict[str, Any] = {
    "frameon": False,
    "borderpad": 0,
    "borderaxespad": 0,
    "handletextpad": 0.2,
    "handlelength": 1.2,
    "columnspacing": 1.2,
    "labelspacing": 0.3,
    "labelcolor": INK,
}


@dataclass(frozen=True)
class _Cells:
    """What is drawn of each cell besides its place."""

    color: str | None
    rgb: np.ndarray  # (n, 3)
    known: np.ndarray  # (n,) bool: False is unlabelled
    held: np.ndarray | None  # (n,) bool: held out; None when no split is shown
    codes: np.ndarray  # (n,) type of each cell, -1 for none
    types: list[tuple[str, tuple[float, float, float]]]  # name and colour of the types that have cells, in order
    scale: ScalarMappable | None  # for numbers


def embedding(
    adata: AnnData,
    color: str | None = None,
    *,
    basis: str = "X_tt",
    split: str | None = "auto",
    ax: Axes | None = None,
    size: float | None = None,
    legend: str = "auto",
    title: str | None = None,
    palette: str | Sequence[str] | Mapping[str, str] | None = None,
    save: str | PathLike[str] | None = None,
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
        Where to draw; map and legend share its place. If it is alone in its figure it takes all of it, and the figure
        grows in height for a legend that finds no room. Without it, a new figure is made.
    size
        Area of a training cell in square points; by default it follows the number of cells and the size of the map.
    legend
        ``"list"`` names the types beside the map, ``"numbers"`` writes numbers on the map that the list explains,
        ``"names"`` writes names on the map, ``"off"`` writes nothing. ``"auto"`` is a list for up to 8 types and
        numbers for more.
    title
        The text above the map; by default ``color``.
    palette
        Colours of the types, a list or a dict; for numbers the name of a matplotlib colormap.
    save
        Also write the figure to this file, at 300 dpi with text kept as text.

    Returns
    -------
    Axes
        Up to three collections labelled "unlabelled", "train" (or "cells" without a split) and "held-out".
    """
    key, points = _points(adata, basis)
    cells = _cells(adata, color, _split(adata, key, split), palette)
    _one_of("legend", legend, LEGENDS)
    style = ("numbers" if len(cells.types) > 8 else "list") if legend == "auto" else legend
    solid = points.shape[1] == 3
    if ax is not None and solid != (ax.name == "3d"):
        need = "projection='3d'" if solid else "2-D axes"
        raise ValueError(f"basis={key!r} has {points.shape[1]} dimensions: pass an ax made with {need}, or none.")
    own = ax is None
    if ax is None:
        figure = plt.figure(figsize=(7.1, 4.76), dpi=150)
        ax = figure.add_axes((0.07, 0.07, 0.86, 0.86), projection="3d" if solid else None)
    _frame(ax, points, key)
    if heading := color if title is None else title:
        ax.set_title(heading, fontsize=TITLE, color=INK, loc="left", pad=4)
    _place(ax, [] if style == "off" else _handles(cells, points, style), cells.scale, own)
    _draw(ax, points, cells, size)
    _write(ax, points, cells, style)
    _save(ax.figure, save)
    return ax


def compare(
    adata: AnnData,
    color: str | None = None,
    *,
    bases: Sequence[str] | None = None,
    split: str | None = "auto",
    scores: Mapping[str, str] | None = None,
    palette: str | Sequence[str] | Mapping[str, str] | None = None,
    width: float = 7.1,
    save: str | PathLike[str] | None = None,
) -> Figure:
    """Draw maps of the same cells side by side, with the same colours, one legend, and held-out cells marked in each.

    Parameters
    ----------
    adata
        Cells with several maps in ``obsm``. It is not changed.
    color
        A column of ``obs`` or a gene, as in :func:`embedding`.
    bases
        Keys of ``obsm``; by default those of ``X_tt``, ``X_umap`` and ``X_pca`` that are there.
    split
        The ``obs`` column that marks held-out cells in every panel; ``"auto"`` takes the one of the first basis that
        has one, or of X_tt. A map that was computed on all cells has seen the held-out ones; the maps of
        ``tt.compare`` have not.
    scores
        A short text per basis, drawn under its title, such as ``{"X_tt": "held-out F1 0.91"}``.
    palette
        Colours of the types, or a colormap, as in :func:`embedding`.
    width
        Width of the figure in inches; 7.1 is a page, 3.5 a column.
    save
        Also write the figure to this file, at 300 dpi with text kept as text.

    Returns
    -------
    Figure
        One Axes per basis, in order.
    """
    if bases is None:
        _require_obsm(adata)
        bases = [name for name in ("X_tt", "X_umap", "X_pca") if name in adata.obsm]
    if not bases:
        raise ValueError(f"No bases to compare. Pass bases=[...]. Present: {_some(_require_obsm(adata))}.")
    maps = dict(_points(adata, basis) for basis in bases)
    unknown = [name for name in scores or {} if name not in maps]
    if unknown:
        raise ValueError(
            f"scores has {unknown[0]!r}, which is not drawn.{did_you_mean(unknown[0], maps)} Drawn: {_some(maps)}."
        )
    held = next((h for key in (*maps, "X_tt") if (h := _split(adata, key, split)) is not None), None)
    cells = _cells(adata, color, held, palette)
    style = "numbers" if len(cells.types) > 8 else "list"
    figure = plt.figure(figsize=(width, width), dpi=150)
    handles = _handles(cells, next(iter(maps.values())), style)
    boxes = _grid(figure, handles, cells.scale, len(maps), width, 0.36 if scores else 0.22)
    for (key, points), box in zip(maps.items(), boxes, strict=True):
        ax = figure.add_axes(box, projection="3d" if points.shape[1] == 3 else None)
        _frame(ax, points, key)
        note = (scores or {}).get(key)
        ax.set_title(TITLES.get(_short(key), _short(key)), fontsize=TITLE, color=INK, pad=14 if note else 4)
        if note:
            ax.annotate(
                note, (0.5, 1), (0, 4), "axes fraction", "offset points", ha="center", fontsize=SMALL, color=INK
            )
        _draw(ax, points, cells, None)
        _write(ax, points, cells, style)
    _save(figure, save)
    return figure


def history(model: Any, ax: Axes | None = None, *, save: str | PathLike[str] | None = None) -> Axes:
    """Draw how the loss fell and how the held-out macro-F1 rose, for each training stage.

    Parameters
    ----------
    model
        A :class:`tripletomics.Model`, or its ``history``.
    ax
        Where to draw; its place is divided into panels. Without it, a new figure is made.
    save
        Also write the figure to this file, at 300 dpi with text kept as text.

    Returns
    -------
    Axes
        The empty frame; ``child_axes`` holds the panels: for each stage its loss and below it the held-out macro-F1.
        The pale line is the loss of each step, the dark line its running mean.
    """
    stages: Any = getattr(model, "history", model)
    if not isinstance(stages, Mapping) or not stages:
        raise TypeError(f"history needs a fitted tt.Model or its history, not {type(model).__name__}.")
    for name, curves in stages.items():
        if lacks := {"step", "loss", "held_out_f1"} - set(curves):
            raise ValueError(f"The history of stage {name!r} lacks {_some(sorted(lacks))}. Present: {_some(curves)}.")
    if ax is None:
        ax = plt.figure(figsize=(2.5 * len(stages) + 1.0, 3.8), dpi=150).add_axes((0.11, 0.11, 0.87, 0.82))
    ax.set_axis_off()
    wide = 1 / (len(stages) + 0.28 * (len(stages) - 1))
    for i, (name, curves) in enumerate(stages.items()):
        upper, lower = (ax.inset_axes((1.28 * wide * i, y, wide, 0.46)) for y in (0.54, 0.0))
        step, loss, f1 = (np.asarray(curves[key], dtype=float) for key in ("step", "loss", "held_out_f1"))
        _loss_panel(upper, step, loss)
        _f1_panel(lower, step, f1, PALETTE[2])
        lower.sharex(upper)
        upper.tick_params(labelbottom=False)
        upper.set_title("metric space" if name == "metric" else name, fontsize=TITLE, color=INK, loc="left")
        if i == 0:
            upper.set_ylabel("loss", fontsize=TEXT)
            lower.set_ylabel("held-out macro-F1", fontsize=TEXT)
        lower.set_xlabel("step", fontsize=TEXT)
        for panel in (upper, lower):
            panel.spines[["top", "right"]].set_visible(False)
            panel.tick_params(labelsize=SMALL, length=2.5)
    _save(ax.figure, save)
    return ax


def _loss_panel(ax: Any, step: np.ndarray, loss: np.ndarray) -> None:
    window = max(1, len(loss) // 40)
    smooth = pd.Series(loss).rolling(window, center=True, min_periods=1).mean().to_numpy()
    if window > 1:
        ax.plot(step, loss, color=PALETTE[0], alpha=0.25, linewidth=0.6, label="each step")
        seen = loss[np.isfinite(loss)]
        if seen.size:  # one early spike must not flatten the rest
            low, high = seen.min(), max(np.quantile(seen, 0.995), np.nanmax(smooth))
            ax.set_ylim(low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1))
    ax.plot(step, smooth, color=PALETTE[0], linewidth=1.4, label="running mean")
    if window > 1:
        ax.legend(fontsize=SMALL, loc="upper right", **LEGEND)


def _f1_panel(ax: Any, step: np.ndarray, f1: np.ndarray, color: str) -> None:
    seen = np.isfinite(f1)
    ax.set_ylim(0, 1.05)
    if not seen.any():
        ax.text(
            0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", va="center", fontsize=TEXT, color="#666666"
        )
        return
    marker = "o" if seen.sum() <= 40 else None
    ax.plot(step[seen], f1[seen], color=color, linewidth=1.2, marker=marker, markersize=2.5, label="held-out macro-F1")
    last = (step[seen][-1], f1[seen][-1])
    below = last[1] > 0.85
    ax.annotate(f"{last[1]:.2f}", last, xytext=(0, -6 if below else 5), textcoords="offset points", ha="right",
                va="top" if below else "bottom", fontsize=TEXT, color=color)  # fmt: skip


# What to draw ---------------------------------------------------------------------------------------------------------


def _points(adata: AnnData, basis: str) -> tuple[str, np.ndarray]:
    """Key and coordinates (n, 2 or 3) of a basis; rows that are not finite become NaN in full."""
    present = _require_obsm(adata)
    key = basis if basis in present or f"X_{basis}" not in present else f"X_{basis}"
    if key not in present:
        run = " tt.fit writes it." if key == "X_tt" else ""
        raise ValueError(
            f"basis={basis!r} is not in adata.obsm.{run or did_you_mean(basis, present)} Present: {_some(present)}."
        )
    points = np.array(adata.obsm[key], dtype=float)
    ordered = any(word in key.lower() for word in ("pca", "lda", "svd"))
    columns = points.shape[1] if points.ndim == 2 else 0
    if columns > 3 and ordered:
        points = points[:, :2]
    elif columns not in (2, 3):
        raise ValueError(
            f"basis={key!r} has shape {points.shape}; a map has 2 or 3 columns. Present: {_some(present)}."
        )
    bad = ~np.isfinite(points).all(axis=1)
    if bad.all():
        raise ValueError(f"basis={key!r} has no row with finite coordinates.")
    if bad.any():
        warnings.warn(
            f"{bad.sum()} of {len(bad)} cells have no finite coordinates in {key!r}; not drawn.", stacklevel=3
        )
        points[bad] = np.nan
    return key, points


def _split(adata: AnnData, key: str, split: str | None) -> np.ndarray | None:
    """Which cells are held out, or None."""
    if split == "auto":
        split = "tt_split" if key == "X_tt" else f"{key}_split"
        if split not in adata.obs:
            return None
    if split is None:
        return None
    if split not in adata.obs:
        near = did_you_mean(split, adata.obs.columns)
        raise ValueError(f"split={split!r} is not a column of adata.obs.{near} Columns: {_some(adata.obs.columns)}.")
    values = adata.obs[split]
    if pd.api.types.is_bool_dtype(values):
        return values.fillna(False).to_numpy(dtype=bool)
    if odd := sorted(set(values.dropna().astype(str)) - {"train", "held-out"}):
        raise ValueError(
            f"split={split!r} holds {_some(odd)}; allowed are 'train' and 'held-out', or True for held out."
        )
    return (values.astype(str) == "held-out").to_numpy()


def _cells(
    adata: AnnData, color: str | None, held: np.ndarray | None, palette: str | Sequence[str] | Mapping[str, str] | None
) -> _Cells:
    n = adata.n_obs
    if color is None:
        rgb = np.tile(to_rgb(PALETTE[0]), (n, 1))
        return _Cells(None, rgb, np.ones(n, bool), held, np.full(n, -1), [], None)
    values = _values(adata, color)
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return _types(color, values, held, palette)
    if palette is not None and not isinstance(palette, str):
        raise ValueError(f"color={color!r} holds numbers: palette is then the name of a colormap, such as 'viridis'.")
    if palette is not None:
        _one_of("palette", palette, tuple(mpl.colormaps))
    numbers = values.to_numpy(dtype=float, na_value=np.nan)
    known = np.isfinite(numbers)
    low, high = np.quantile(numbers[known], (0, 0.995)) if known.any() else (0.0, 1.0)
    if high <= low and known.any():
        high = numbers[known].max()
    scale = ScalarMappable(Normalize(low, high if high > low else low + 1, clip=True), _colormap(palette))
    rgb = scale.to_rgba(np.where(known, numbers, low))[:, :3]
    return _Cells(color, rgb, known, held, np.full(n, -1), [], scale)


def _types(
    color: str, values: pd.Series, held: np.ndarray | None, palette: str | Sequence[str] | Mapping[str, str] | None
) -> _Cells:
    """Colours of a categorical column. A type keeps its colour when other types have no cells."""
    values = values.astype("category")
    names = [str(name) for name in values.cat.categories]
    codes = values.cat.codes.to_numpy(dtype=int)
    wanted = [i for i, name in enumerate(names) if name not in UNLABELLED]
    if isinstance(palette, str):
        raise ValueError(f"color={color!r} holds types: palette is then a list or a dict of colours, not {palette!r}.")
    if isinstance(palette, Mapping):
        lacks = [names[i] for i in wanted if names[i] not in palette]
        if lacks:
            raise ValueError(
                f"palette has no colour for {lacks[0]!r}.{did_you_mean(lacks[0], palette)} Given: {_some(palette)}."
            )
        colors = {i: to_rgb(palette[names[i]]) for i in wanted}
    else:
        choice = PALETTE if palette is None else tuple(palette)
        if palette is not None and len(choice) < len(wanted):
            raise ValueError(f"palette has {len(choice)} colours for {len(wanted)} types. Give one per type.")
        colors = {i: to_rgb(choice[rank % len(choice)]) for rank, i in enumerate(wanted)}
    present = [i for i in wanted if (codes == i).any()]
    table = np.array([to_rgb(GREY)] * (len(names) + 1))
    number = np.full(len(names) + 1, -1)
    for rank, i in enumerate(present):
        table[i], number[i] = colors[i], rank
    codes = number[codes]  # the code -1 reads the last entry
    rgb = table[values.cat.codes.to_numpy(dtype=int)]
    return _Cells(color, rgb, codes >= 0, held, codes, [(names[i], colors[i]) for i in present], None)


def _values(adata: AnnData, color: str) -> pd.Series:
    if color in adata.obs:
        return adata.obs[color]
    hits = int((adata.var_names == color).sum())
    if hits > 1:
        raise ValueError(f"color={color!r} names {hits} genes. Call adata.var_names_make_unique() first.")
    if hits == 1:
        return pd.Series(np.asarray(adata.obs_vector(color)), index=adata.obs_names)
    near = did_you_mean(color, [*adata.obs.columns, *adata.var_names])
    raise ValueError(
        f"color={color!r} is neither a column of adata.obs nor a gene.{near} Columns: {_some(adata.obs.columns)}. "
        f"Genes: {_some(adata.var_names, 3)}."
    )


def _colormap(name: str | None) -> Colormap:
    if name is not None:
        return mpl.colormaps[name]
    return LinearSegmentedColormap.from_list("tt", mpl.colormaps["magma_r"](np.linspace(0.06, 0.95, 256)))


# How to draw ----------------------------------------------------------------------------------------------------------


def _frame(ax: Any, points: np.ndarray, key: str) -> None:
    """Square limits, equal aspect, no ticks, and two short axis stubs."""
    low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
    half = 0.53 * float((high - low).max() or 1.0)
    middle = (low + high) / 2
    word = {"tt": "tt", "pca": "PC"}.get(_short(key), TITLES.get(_short(key), _short(key)))
    for i, axis in enumerate("xyz"[: points.shape[1]]):
        getattr(ax, f"set_{axis}lim")(middle[i] - half, middle[i] + half)
        getattr(ax, f"set_{axis}ticks")([])
        place = (
            {"x": {"loc": "left"}, "y": {"loc": "bottom"}}.get(axis, {}) if points.shape[1] == 2 else {"labelpad": -14}
        )
        getattr(ax, f"set_{axis}label")(f"{word} {i + 1}", fontsize=SMALL, color=INK, **place)
    if points.shape[1] == 3:
        ax.set_box_aspect((1, 1, 1))
        ax.computed_zorder = False
        return
    ax.set_aspect("equal")
    ax.xaxis.labelpad = ax.yaxis.labelpad = 2
    ax.spines[["top", "right"]].set_visible(False)
    for side, i in (("bottom", 0), ("left", 1)):
        ax.spines[side].set_bounds(middle[i] - half, middle[i] - 0.7 * half)
        ax.spines[side].set(linewidth=0.8, color=INK)


def _draw(ax: Any, points: np.ndarray, cells: _Cells, size: float | None) -> None:
    """Unlabelled cells below, then training cells, then held-out cells; in random order within each."""
    finite = np.isfinite(points).all(axis=1)
    held = np.zeros(len(points), bool) if cells.held is None else cells.held
    side = _side(ax)
    small = float(np.clip(0.35 * side**2 / finite.sum(), 0.3, side / 20)) if size is None else size
    large = float(np.clip(0.16 * side**2 / max(1, held.sum()), 1.6 * small, 2.3 * small))
    pale = cells.rgb if cells.scale is not None or cells.held is None else 0.45 * cells.rgb + 0.55
    grey = np.tile(to_rgb(GREY), (len(points), 1))
    layers = (
        ("unlabelled", ~cells.known, grey, small, 0.0),
        ("cells" if cells.held is None else "train", cells.known & ~held, pale, small, 0.0),
        ("held-out", cells.known & held, cells.rgb, large, min(0.5, 0.13 * math.sqrt(large))),
    )
    order = np.random.default_rng(0).permutation(len(points))
    for zorder, (label, mask, rgb, area, edge) in enumerate(layers, start=1):
        rows = order[(mask & finite)[order]]
        if not len(rows):
            continue
        flat = {"depthshade": False} if points.shape[1] == 3 else {}
        ax.scatter(*points[rows].T, s=area, c=rgb[rows], linewidths=edge, edgecolors=EDGE if edge else "none",
                   zorder=zorder, label=label, rasterized=True, **flat)  # fmt: skip


def _handles(cells: _Cells, points: np.ndarray, style: str) -> list[Line2D]:
    """Legend entries: the types, then what pale, edged and grey points are, with the number of cells drawn."""

    def dot(color: Any, label: str, size: float = 5.0, edge: str = "none") -> Line2D:
        return Line2D([], [], linestyle="", marker="o", color=color, label=label, markersize=size, markeredgecolor=edge,
                      markeredgewidth=0.6)  # fmt: skip

    drawn = np.isfinite(points).all(axis=1)
    digits = len(str(len(cells.types)))
    handles = []
    for i, (name, color) in enumerate(cells.types if style != "names" else [], start=1):
        handles.append(dot(color, f"{i:\u2007>{digits}}  {name}" if style == "numbers" else name))
    if cells.held is not None:
        train, held = (int((drawn & cells.known & mask).sum()) for mask in (~cells.held, cells.held))
        tint = "#a9a9a9" if cells.scale is None else "#6f6f6f"
        handles.append(dot(tint, f"training cells ({train:,})", 3.0))
        handles.append(dot("#6f6f6f", f"held-out cells ({held:,})", 5.0, EDGE))
    if grey := int((drawn & ~cells.known).sum()):
        handles.append(dot(GREY, f"unlabelled ({grey:,})", 3.0))
    return handles


def _measure(figure: Any, handles: list[Line2D], columns: int, font: float) -> tuple[float, float]:
    """Width and height in inches of a legend."""
    if not handles:
        return 0.0, 0.0
    trial = figure.legend(handles=handles, ncols=columns, fontsize=font, **LEGEND)
    extent = trial.get_window_extent()
    trial.remove()
    return extent.width / figure.dpi, extent.height / figure.dpi


def _columns(figure: Any, handles: list[Line2D], width: float, font: float) -> int:
    """Give the number of columns that fit into a width, evenly filled."""
    fit = max(1, int(width // (_measure(figure, handles, 1, font)[0] + 0.1)))
    return math.ceil(len(handles) / math.ceil(len(handles) / fit)) if handles else 1


def _fit(figure: Any, handles: list[Line2D], width: float, height: float, bar: float) -> tuple[bool, int, float, float]:
    """Choose beside or below, columns, font size and the side of the map: the largest text that leaves a large map."""
    for font in FONTS:
        columns = max(1, math.ceil(_measure(figure, handles, 1, font)[1] / (height * (0.45 if bar else 1))))
        beside = max(_measure(figure, handles, columns, font)[0], bar)
        flat = _columns(figure, handles, width, font)
        right = min(width - beside - (GAP if beside else 0), height)
        below = min(width - bar, height - _measure(figure, handles, flat, font)[1] - 0.3)
        if max(right, below) >= 0.63 * min(width, height):
            break
    floor = 0.35 * min(width, height)
    if right >= 0.9 * below:
        return True, columns, font, max(right, floor)
    return False, flat, font, max(below, floor)


def _place(ax: Any, handles: list[Line2D], scale: ScalarMappable | None, own: bool) -> None:
    """Put the legend beside or below the map, in the place of ``ax``; a figure of our own is cut to measure."""
    figure: Any = ax.figure
    if figure.get_layout_engine() is not None:
        figure.figure.draw_without_rendering()
    x, y, width, height = ax.get_position().bounds
    alone = figure.axes == [ax] and figure.get_layout_engine() is None
    if alone:
        rim = 0.28 * figure.dpi / np.array([figure.bbox.width, figure.bbox.height])
        x, y, width, height = rim[0], rim[1], 1 - 1.3 * rim[0], 1 - 2 * rim[1]
    wide, high = width * figure.bbox.width / figure.dpi, height * figure.bbox.height / figure.dpi
    bar = 0.55 if scale is not None else 0.0
    right, columns, font, side = _fit(figure, handles, wide, high, bar)
    if own:
        side = high
        beside = max(_measure(figure, handles, columns, font)[0], bar)
        total = 0.28 + side + (GAP + beside if beside else 0) + 0.08
        figure.set_figwidth(total)
        ax.set_position((0.28 / total, y, side / total, height))
    elif alone and side < 0.5 * min(wide, high):
        right, font, side = False, 6.5, wide - bar
        columns = _columns(figure, handles, wide, font)
        total = 0.28 + side + 0.3 + _measure(figure, handles, columns, font)[1] + 0.28
        figure.set_figheight(total)
        ax.set_position((x, 1 - (0.28 + side) / total, width * side / wide, side / total))
    elif figure.get_layout_engine() is None:
        share = (width * side / wide, height * side / high)
        left = 0.0 if right or bar else (width - share[0]) / 2
        down = (height - share[1]) / 2 if right else 0.0
        ax.set_position((x + left, y + height - share[1] - down, *share))
    edge = 1 + GAP / side
    if scale is not None:
        _bar(figure, ax.inset_axes((edge, 0.5, 0.1 / side, 0.5)), scale, "vertical")
    if handles:
        corner: tuple[str, tuple[float, float]] = ("upper left", (edge, 1))
        if not right:
            corner = ("upper center", (0.5, -0.25 / side))
        elif bar:
            corner = ("lower left", (edge, 0))
        ax.legend(handles=handles, ncols=columns, fontsize=font, loc=corner[0], bbox_to_anchor=corner[1], **LEGEND)


def _grid(
    figure: Any, handles: list[Line2D], scale: ScalarMappable | None, panels: int, width: float, top: float
) -> list[tuple[float, float, float, float]]:
    """Size the figure, draw the shared legend at its foot, and return the place of each square panel."""
    rows = math.ceil(panels / max(1, min(4, int(width // 1.6))))
    per_row = math.ceil(panels / rows)
    gap = 0.26
    side = min(3.2, (width - 0.06) / per_row - gap)
    for font in FONTS:
        columns = _columns(figure, handles, width - (1.9 if scale is not None else 0.1), font)
        wide, foot = _measure(figure, handles, columns, font)
        if wide <= width and foot <= 0.6 * side * rows:
            break
    foot = max(foot, 0.45 if scale is not None else 0.0) + 0.1
    height = rows * (top + side + gap) + foot
    figure.set_size_inches(width, height)
    if handles:
        spot = (
            ("lower center", (0.5, 0.05 / height))
            if scale is None
            else ("center right", (1 - 0.1 / width, 0.35 / height))
        )
        figure.legend(handles=handles, ncols=columns, fontsize=font, loc=spot[0], bbox_to_anchor=spot[1], **LEGEND)
    if scale is not None:
        _bar(figure, figure.add_axes((gap / width, 0.3 / height, 1.5 / width, 0.09 / height)), scale, "horizontal")
    left = (width - per_row * (side + gap)) / 2 + gap * 0.8
    corners = [
        (left + (i % per_row) * (side + gap), height - (i // per_row + 1) * (top + side + gap) + gap)
        for i in range(panels)
    ]
    return [(x / width, y / height, side / width, side / height) for x, y in corners]


def _bar(figure: Any, ax: Any, scale: ScalarMappable, orientation: str) -> None:
    bar = figure.colorbar(scale, cax=ax, orientation=orientation)
    bar.outline.set_visible(False)
    ax.tick_params(labelsize=SMALL, length=2)
    ax.locator_params(nbins=4)


def _write(ax: Any, points: np.ndarray, cells: _Cells, style: str) -> None:
    """Write the number or name of each type on its largest blob, moved apart where they would overlap."""
    drawn = np.isfinite(points).all(axis=1)
    groups = [(i, points[drawn & (cells.codes == i)]) for i in range(len(cells.types))]
    groups = [(i, members) for i, members in groups if len(members)]
    if style not in ("numbers", "names") or not groups:
        return
    span = float((np.nanmax(points, axis=0) - np.nanmin(points, axis=0)).max() or 1.0)
    hearts = np.array([_heart(members, span / 40) for _, members in groups])
    words = [cells.types[i][0] if style == "names" else str(i + 1) for i, _ in groups]
    spots = hearts
    if hearts.shape[1] == 2:
        corner = np.array([ax.get_xlim()[0], ax.get_ylim()[0]])
        unit = (ax.get_xlim()[1] - corner[0]) / _side(ax)
        sizes = np.array([(0.7 * SMALL * len(word) + 1, 1.1 * SMALL) for word in words])
        spots = corner + unit * _spread((hearts - corner) / unit, sizes, 1.06 * span / unit)
        for heart, spot in zip(hearts, spots, strict=True):
            if np.linalg.norm(heart - spot) > 1.6 * SMALL * unit:
                ax.plot(*np.array([heart, spot]).T, color=INK, linewidth=0.5, zorder=4)
    for word, spot in zip(words, spots, strict=True):
        look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SMALL, "fontweight": "bold"}
        # The halo is a second text, because matplotlib turns a text with effects into outlines in PDF and SVG.
        halo = [withStroke(linewidth=2, foreground="white")]
        ax.text(*spot, word, color="white", zorder=5, gid="halo", path_effects=halo, **look)
        ax.text(*spot, word, color=INK, zorder=6, gid="label", **look)


def _heart(members: np.ndarray, bin_width: float) -> np.ndarray:
    """Return the cell nearest to the median of the largest connected blob of a type."""
    bins = ((members - members.min(axis=0)) / bin_width).astype(int)
    grid = np.zeros(bins.max(axis=0) + 1, bool)
    grid[tuple(bins.T)] = True
    blobs, _ = ndimage.label(grid, structure=np.ones((3,) * grid.ndim))
    blob = blobs[tuple(bins.T)]
    inside = members[blob == np.bincount(blob).argmax()]
    return inside[((inside - np.median(inside, axis=0)) ** 2).sum(axis=1).argmin()]


def _spread(at: np.ndarray, sizes: np.ndarray, side: float) -> np.ndarray:
    """Push overlapping boxes apart, each pair along the axis on which it overlaps less."""
    at = at.copy()
    need = (sizes[:, None] + sizes[None]) / 2
    side_of = np.where(np.tri(len(at), k=-1, dtype=bool), 1.0, -1.0)  # who goes where when two centres coincide
    for _ in range(300):
        apart = at[:, None] - at[None]
        lack = need - np.abs(apart)
        clash = (lack > 1e-6).all(axis=2) & ~np.eye(len(at), dtype=bool)
        if not clash.any():
            break
        axis = lack.argmin(axis=2)
        for k in (0, 1):
            sign = np.where(apart[..., k] == 0, side_of, np.sign(apart[..., k]))
            at[:, k] += 0.3 * (sign * lack[..., k] * (clash & (axis == k))).sum(axis=1)
        at = np.clip(at, sizes / 2, np.maximum(side - sizes / 2, sizes / 2))
    return at


def _save(figure: Any, path: str | PathLike[str] | None) -> None:
    if path is not None:
        with mpl.rc_context({"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none"}):
            figure.figure.savefig(path, dpi=300, bbox_inches="tight")


def _side(ax: Any) -> float:
    """Side of a square map in points."""
    return 72 * min(ax.bbox.width, ax.bbox.height) / ax.figure.dpi


def _short(key: str) -> str:
    return key.removeprefix("X_")


def _require_obsm(adata: AnnData) -> list[str]:
    if not hasattr(adata, "obsm"):
        raise TypeError(f"adata must be an AnnData, not {type(adata).__name__}.")
    return list(adata.obsm)


def _one_of(name: str, given: str, allowed: Sequence[str]) -> None:
    if given not in allowed:
        raise ValueError(f"{name}={given!r} is unknown.{did_you_mean(given, allowed)} Allowed: {_some(allowed)}.")


def _some(names: Iterable[Any], most: int = 12) -> str:
    words = [str(name) for name in names]
    more = f", and {len(words) - most} more" if len(words) > most else ""
    return (", ".join(words[:most]) or "none") + more

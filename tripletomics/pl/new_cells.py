"""New cells on the map of a model's reference, and their predicted types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import is_color_like, to_rgb
from matplotlib.lines import Line2D

from tripletomics import keys
from tripletomics.arguments import checking_names
from tripletomics.labels import UNASSIGNED, is_missing, verdict
from tripletomics.names import printable
from tripletomics.parts import did_you_mean
from tripletomics.pl.branches import shades
from tripletomics.pl.held_out import no_signal_text, reachable_by
from tripletomics.pl.map_axes import (
    color_scale,
    draw_outside,
    frame_map,
    legend_entries,
    legend_mark,
    map_width,
    no_signal_banner,
    number_types,
    outside,
    page_limits,
)
from tripletomics.pl.palette import GREY, Palette, colours, listed
from tripletomics.pl.showing import check_output, finish
from tripletomics.pl.style import CellStyle, Types, chips, map_of, obsm_keys, style_of
from tripletomics.pl.text import (
    INK,
    LEGEND,
    MARGIN,
    SMALL,
    TITLE,
    balanced,
    inches,
    literal,
    text_width,
    wrap,
    write_lines,
)
from tripletomics.pl.type_names import MAX_NAMES, break_names, write_names
from tripletomics.problem import AN_ARRAY

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE, ROW, MIN_ROW = 0.11, 0.26, 0.125  # inches: a line of text, a row of the bars, and where there are many
LABEL, NAMES_GAP, MIN_BARS = 0.13, 0.22, 0.5  # inches: of an axis label, from map to names, of the narrowest bars
MIN_MAP = 0.45  # of the width of the figure
STACKED = 5.0  # inches: in a narrower figure the bars are below the map
SCALE = 0.9  # inches, height of a scale of numbers with its label
RULE = "Unassigned cells lie farther from all types than nearly all cells of known types (95\u00a0% by default)."
UNLIKELY = RULE[:-1] + ", or no name is likely enough for them."  # with names on several levels
CROSS, BARS, NO_VALUE = "#333333", "#8c8c8c", "#ffffff"  # of unassigned cells, of bars and cells without a colour


@dataclass(frozen=True)
class Query:
    """New cells, their predicted types, and the reference."""

    points: np.ndarray  # (cells, dim)
    codes: np.ndarray  # (cells,) -1 for unassigned
    types: list[str]  # and then the names above them, if there are any
    n_types: int
    colors: list[Any]  # of the types
    reference: np.ndarray  # (landmarks, dim)
    reference_codes: np.ndarray  # (landmarks,)
    record: Mapping[str, Any]
    published: str  # title of the adopted map, whose reference has the colours of its types; else empty
    names: Types | None  # name, broken into lines, and colour of each type on the map; None where they do not fit
    style: CellStyle | None  # of the new cells by another column or gene

    @property
    def numbered(self) -> bool:
        """Return whether types have numbers on the map."""
        return self.names is None

    def name(self, code: int) -> str:
        """Return the name of a type next to the map; a name above types has no number, as it is not on the map."""
        name = self.types[code]
        mark = chips(self.mapped)[code] if self.numbered and code < self.n_types else name
        return name if mark == name else f"{mark}  {name}"

    @property
    def mapped(self) -> Types:
        """Return the name and colour of each type that may be on the map."""
        return dict(enumerate(zip(self.types[: self.n_types], self.colors, strict=False)))

    def rows(self) -> list[tuple[str, int, Any]]:
        """Return name, cells and colour of each type that was found, most cells first; the unassigned ones last."""
        sizes = np.bincount(self.codes[self.codes >= 0], minlength=len(self.types))
        found = [code for code in np.argsort(-sizes, kind="stable") if sizes[code]]
        colors = self.colors if self.style is None else [BARS] * len(self.types)
        rows: list[tuple[str, int, Any]] = [(self.name(code), int(sizes[code]), colors[code]) for code in found]
        left = int((self.codes < 0).sum())
        return rows + [(UNASSIGNED, left, CROSS)] * (left > 0)

    def cell_colors(self) -> np.ndarray:
        """Return the colour of each new cell, (cells, 3)."""
        if self.style is None:
            return np.array([*self.colors, to_rgb(CROSS)])[self.codes]
        return np.where(self.style.known[:, None], self.style.rgb, to_rgb(NO_VALUE))

    def not_found(self) -> str:
        """Return which types were predicted for no cell; an empty text if there is none."""
        names = (self.name(code) for code in range(self.n_types) if code not in self.codes)
        absent = "; ".join(name.replace(" ", "\u00a0") for name in names)
        return f"Not found: {absent}." if absent else ""

    def summary(self) -> str:
        """Return how many cells and genes there are, and how many cells are unassigned; hard spaces hold units."""
        n, matched, left = len(self.codes), int(self.record["matched"]), int((self.codes < 0).sum())
        missing, noun = int(self.record["missing"]), "dimensions" if "use_rep" in self.record else "genes"
        found = f"all {matched:,} {noun} of the model found"
        if missing:
            share = f"{100 * self.record['weight']:.0f}\u00a0%"
            found = f"{matched:,} of {matched + missing:,} {noun} found, with {share} of their influence on the map"
        cells, some_left = (f"{k:,} cell{'s' * (k > 1)}" for k in (n, left))
        rest = f"{some_left} unassigned ({_percent(left, n)})" if left else "no cell unassigned"
        rest = rest.replace(" ", "\u00a0")
        if trained := int(self.record.get("seen", 0)):
            cells += f", {trained:,} of them part of the fit"
        return f"{cells}; {found}; {rest}"


@literal
@checking_names
def mapping(
    adata: AnnData,
    model: Any,
    *,
    color: str | None = None,
    basis: str = "X_tt",
    palette: Palette | None = None,
    size: float | None = None,
    title: str = "New cells on the reference map",
    width: float = 7.1,
    show: bool | None = None,
    save: str | Path | bool | None = None,
    return_fig: bool = False,
) -> Figure:
    """Draw new cells over the greyed map of the reference, and next to it how many were assigned to each type.

    Parameters
    ----------
    adata
        Cells with predictions of :func:`tripletomics.predict`. They are not changed.
    model
        The model that predicted their types.
    color
        Column of ``obs`` or gene to colour new cells by, in place of their predicted types; then the bars are grey.
    basis
        Key of the map in ``obsm``, the ``key_added`` of the prediction.
    palette
        Colours of the model's types, or of `color`, as in :func:`embedding`; by default the same as there, or those of
        an adopted map.
    size
        Area of a new cell in square points; by default it follows their number.
    title
        The text above the map.
    width
        Width in inches, more where names are long; 7.1 is a page, and 3.5 a column (the bars are below the map).
    show, save, return_fig
        As in scanpy: whether to show the figure (and return None), the path of a file to write it to, and whether to
        return the figure. By default a figure is shown in notebooks, and returned elsewhere.

    Returns
    -------
    Figure
        Two Axes. On the map the collections "reference" (grey, with the names of the types next to their cells or
        joined by a line; else their numbers), "new cells" (in the colour of the predicted type, or of `color`) and
        "unassigned" (crosses); a few cells far from all others are arrowheads at its edge, "outside". Next to it, or
        below, is a bar for each type that was found, the unassigned cells last. The text above says how many of the
        model's genes were found. "No signal" is written as in :func:`embedding`.

    Raises
    ------
    KeyError
        If a key that the prediction writes is missing.
    TypeError
        If `adata` is not an AnnData or `model` not a fitted model.
    ValueError
        If the coordinates or the labels are not of this model.

    Examples
    --------
    >>> tt.predict(query, model)
    >>> figure = tt.pl.mapping(query, model)
    """
    check_output(save)
    query = _read(adata, model, basis, None if color else palette, width)
    if color is not None:
        query = replace(query, style=style_of(adata, color, None, palette))
    figure = _draw(query, title, width, basis, size, color)
    reachable = reachable_by(getattr(model, "findings", {}))
    if verdict(getattr(model, "p_value", {}).get("map", 0.0), reachable) == "no signal":
        held, null = (model.scores.get(split, {}).get("map", np.nan) for split in ("held-out", "permuted"))
        no_signal_banner(figure.axes[0], no_signal_text(held, null), map_width(figure.axes[0]))
    return finish(figure, figure, "mapping", show, save, return_fig)


def _draw(query: Query, title: str, width: float, basis: str, size: float | None, color: str | None) -> Figure:
    """Draw the map, the bars next to it or below it, the legend, and the words above and below."""
    rows = query.rows()
    counts = [(f"{n:,}", _percent(n, len(query.codes)).replace("\u00a0", " ")) for _, n, _ in rows]
    names = 0.05 + max(text_width(name, SMALL) for name, _, _ in rows)
    columns = [0.1 + max(text_width(text, SMALL) for text in column) for column in zip(*counts, strict=True)]
    entries, stacked = _entries(query), width < STACKED
    if stacked:
        large, left = width - 2 * MARGIN - LABEL, MARGIN
        bars = max(width - 2 * MARGIN - names - sum(columns), MIN_BARS)
        width = max(width, 2 * MARGIN + names + bars + sum(columns))
    else:
        room = width - 2 * MARGIN - LABEL - NAMES_GAP  # of the map and the bars with their text
        large = float(np.clip(room - names - sum(columns) - 2 * MIN_BARS, MIN_MAP * width, 0.62 * width))
        bars, left = max(room - large - names - sum(columns), MIN_BARS), MARGIN + LABEL + large + NAMES_GAP
        width = left + names + bars + sum(columns) + MARGIN
    above = wrap(query.summary(), width - 2 * MARGIN, SMALL + 1)
    head = 0.3 + 0.13 * len(above)
    top = head + stacked * (large + LABEL + 0.12)  # of the bars
    scale = SCALE * (query.style is not None and query.style.scale is not None)
    spare = large - 0.23 - LINE * len(entries) - scale
    row = MIN_ROW if stacked else float(np.clip(spare / len(rows), MIN_ROW, ROW))
    foot = top + row * len(rows)
    rest = foot + 0.23 + LINE * len(entries) + scale
    absent = wrap(query.not_found(), width - left - MARGIN, SMALL) if query.not_found() else []
    said = [UNLIKELY if query.record.get("unlikely") else RULE] * bool((query.codes < 0).any())
    said += map(str, query.record["notes"])
    notes = [line for note in said for line in wrap(note, width - 2 * MARGIN, SMALL)]
    under = max(head + large + LABEL, rest + LINE * len(absent)) + 0.08

    figure = plt.figure(figsize=(width, under + LINE * len(notes) + 0.02), dpi=150)
    figure.text(*inches(figure, MARGIN, 0.03, 0, 0)[:2], title, fontsize=TITLE, va="top", gid="title")
    write_lines(figure, above, MARGIN, 0.24, 0.13, SMALL + 1)
    write_lines(figure, absent, left, rest, LINE)
    write_lines(figure, notes, MARGIN, under, LINE)
    solid = query.points.shape[1] == 3
    ax: Any = figure.add_axes(inches(figure, MARGIN + LABEL, head, large, large), projection="3d" if solid else None)
    _draw_map(ax, query, basis, size)
    panel = figure.add_axes(inches(figure, left + names, top, bars, row * len(rows)))
    _draw_bars(panel, rows, counts, columns)
    figure.legend(handles=entries, loc="upper left", bbox_to_anchor=inches(figure, left, foot + 0.13, 0, 0)[:2],
                  **(LEGEND | {"borderaxespad": 0.0}))  # fmt: skip
    if query.style is not None and query.style.scale is not None:
        bottom, high = (foot - rest + 0.05) / (foot - top), (scale - 0.15) / (foot - top)
        label = ", ".join(text for text in (color, query.style.unit) if text)
        color_scale(
            panel,
            query.style.scale,
            "\n".join(balanced(label, SCALE, SMALL)),
            ((0.05 - names) / bars, bottom, 0.08 / bars, high),
        )
    return figure


def _read(adata: AnnData, model: Any, basis: str, palette: Palette | None, width: float) -> Query:
    """Return the cells with what the model says about them; raise if cells and model do not belong together."""
    if getattr(model, "types", None) is None:
        raise TypeError(f"mapping needs a fitted tt.Model, not {type(model).__name__}.")
    tree = getattr(model, "tree", None)
    types = [*model.types, *([] if tree is None else tree.names[tree.n_leaves :])]
    reference = model.reference
    if reference is None:
        how, column = "without labels", ""
        if getattr(model, "targets", None):
            how, column = "with an order alone", f"; pass color='tt_{model.targets[0].name}' for predicted values"
        raise ValueError(f"The model was fitted {how}, so it names no cell: tt.pl.embedding draws its map{column}.")
    key = "tt" if basis == "X_tt" else basis
    call = "tt.predict(adata, model" + f", key_added={basis!r}" * (basis != "X_tt") + ")"
    present = obsm_keys(adata)
    for slot, name, keys_of in (("obsm", basis, present), ("obs", f"{key}_label", adata.obs.columns),
                               ("uns", f"{key}_mapping", adata.uns)):  # fmt: skip
        if name not in keys_of:
            raise KeyError(f"{name!r} is not in adata.{slot}. Run {call} first. Present: {listed(keys_of)}.")
    record = adata.uns[f"{key}_mapping"]
    for what, other in (("coordinates", keys.seen_by(adata.uns, basis)), ("labels", record.get("model"))):
        if other is not None and other != getattr(model, "id", other):
            raise ValueError(f"The {what} of adata come from another model. Run {call}.")
    points, landmarks = map_of(adata, basis), np.asarray(reference.map, dtype=float)
    if points.shape[1] != landmarks.shape[1]:
        raise ValueError(
            f"basis={basis!r} has {points.shape[1]} dimensions, but the map of this model has {landmarks.shape[1]}: "
            f"predict the cells with this model. Run {call}."
        )
    labels = adata.obs[f"{key}_label"].astype(object).map(str)
    codes = labels.map({name: code for code, name in enumerate(types)}).fillna(-1).to_numpy(dtype=int)
    if unknown := [name for name in labels[codes < 0].unique() if not is_missing(name)]:  # a missing value is "nan"
        raise ValueError(
            f"obs[{key + '_label'!r}] holds {unknown[0]!r}, which is not a type of this model."
            f"{did_you_mean(unknown[0], types)} Run {call}. Types: {listed(types)}."
        )
    colors = colours(f"{key}_label", model.types, palette, adata, tree)
    if tree is not None:  # names above types have the colours that `embedding` gives them
        found = shades(tree, types, dict(zip(model.types, colors, strict=True)))
        colors = [to_rgb(found[name]) for name in types]
    if palette is None:  # those of the published figure
        kept = {name: color for name, color in getattr(model, "colors", {}).items() if is_color_like(color)}
        colors = [to_rgb(kept.get(name, color)) for name, color in zip(types, colors, strict=True)]
    mapped = np.unique(reference.codes[reference.codes >= 0])
    side = width - 2 * MARGIN - LABEL if width < STACKED else MIN_MAP * width
    names = break_names({code: (types[code], colors[code]) for code in mapped.tolist()}, 72 * side)
    return Query(
        points=points, codes=codes, types=types, n_types=len(model.types), colors=colors, reference=landmarks,
        reference_codes=np.asarray(reference.codes), record=record, names=names,
        published=_published(model), style=None,
    )  # fmt: skip


def _published(model: Any) -> str:
    """Return the key or the file of the map that a model adopted, without its folder; empty where it made its own."""
    name = str(getattr(model, "settings", {}).get("map", "None"))
    return "" if name == "None" else "map" if name == AN_ARRAY else Path(name).stem


def _draw_map(ax: Any, query: Query, basis: str, size: float | None) -> None:
    """Draw the reference in grey, the new cells above it, and the names of the reference's types."""
    solid = query.points.shape[1] == 3
    every = np.concatenate([query.reference, query.points])
    frame_map(ax, every, query.published or basis)
    if solid:
        ax.set_box_aspect(None, zoom=0.9)  # the labels stand outside the cube
    width = map_width(ax)
    small = float(np.clip(0.2 * width**2 / len(query.reference), 0.3, 8))
    large = float(np.clip(0.2 * width**2 / len(query.codes), 3, 22)) if size is None else size
    edge = min(0.5, 0.13 * large**0.5)
    order = np.random.default_rng(0).permutation(len(query.codes))  # no type lies above all others
    pale = 0.45 * np.array(query.colors)[query.reference_codes] + 0.55 if query.published else to_rgb(GREY)
    grey = np.broadcast_to(pale, (len(query.reference), 3))
    own = query.cell_colors()
    beyond = draw_outside(ax, every, np.concatenate([grey, own]))
    inside, found = ~beyond[: len(query.reference)], ~beyond[len(query.reference) :]
    order = order[(np.isfinite(query.points).all(axis=1) & found)[order]]
    named, left = order[query.codes[order] >= 0], order[query.codes[order] < 0]
    shared: Any = {"rasterized": True} | ({"depthshade": False} if solid else {})
    ax.scatter(*query.reference[inside].T, s=small, c=grey[inside], linewidths=0, zorder=1, label="reference", **shared)
    if len(named):
        ax.scatter(*query.points[named].T, s=large, c=own[named], linewidths=edge,
                   edgecolors=INK, zorder=2, label="new cells", **shared)  # fmt: skip
    if len(left):
        ax.scatter(*query.points[left].T, s=1.8 * large, c=own[left], marker="X", linewidths=max(edge, 0.4),
                   edgecolors="white" if query.style is None else INK, zorder=3, label=UNASSIGNED,
                   **shared)  # fmt: skip
    groups = np.concatenate([query.reference_codes, -2 - query.codes])  # those of new cells have no name
    ink = {code: rgb if query.style is None else INK for code, (_, rgb) in query.mapped.items()}  # of names
    top: Any = {"split": np.arange(len(every)) >= len(query.reference), "below": 2}  # new cells
    if query.names is not None:
        write_names(ax, {code: (name, ink[code]) for code, (name, _) in query.names.items()}, every, groups, **top)
        return
    if solid or query.n_types > MAX_NAMES:
        number_types(ax, query.reference, query.reference_codes, query.mapped, 1.6 * SMALL / width)
    else:
        marks = {code: (mark, ink[code]) for code, mark in chips(query.mapped).items()}
        write_names(ax, marks, every, groups, **top)


def _draw_bars(ax: Axes, rows: list[tuple[str, int, Any]], counts: list[tuple[str, str]], columns: list[float]) -> None:
    """Draw how many cells each type has."""
    y, cells = np.arange(len(rows)), np.array([n for _, n, _ in rows])
    ax.barh(y, cells, height=0.62, color=[color for _, _, color in rows])
    ax.set(xlim=(0, cells.max()), ylim=(len(rows) - 0.5, -0.5), xticks=[])
    ax.set_yticks(y, [printable(name) for name, _, _ in rows], fontsize=SMALL)
    ax.tick_params(length=0, pad=2)
    ax.spines[:].set_visible(False)
    for i, texts in enumerate(counts):
        for k, text in enumerate(texts):
            ax.annotate(text, (1, i), (72 * sum(columns[: k + 1]), 0), ax.get_yaxis_transform(), "offset points",
                        ha="right", va="center_baseline", fontsize=SMALL, color=INK, gid=("cells", "share")[k],
                        annotation_clip=False)  # fmt: skip


def _entries(query: Query) -> list[Line2D]:
    """Return the legend of grey points, crosses and arrowheads."""
    what = "published map, pale" if query.published else "reference"
    entries = [] if query.style is None else legend_entries(query.style, numbered=False)
    entries.append(legend_mark(GREY, f"{what} ({len(query.reference):,} cells shown)", 4.0))
    if named := int((query.codes >= 0).sum()):
        entries.append(legend_mark(BARS, f"new cells with a type ({named:,})", 5.0, INK))
    if (query.codes < 0).any():
        entries.append(legend_mark(CROSS, UNASSIGNED, 5.0, "white", "X"))
    every = np.concatenate([query.reference, query.points])
    if beyond := int(outside(every, *page_limits(every)).sum()):
        entries.append(legend_mark(GREY, f"outside the frame ({beyond:,})", 4.0, INK, ">"))
    return entries


def _percent(part: int, whole: int) -> str:
    """Return a share as text; a small share is not written as 0."""
    share = 100 * part / whole
    return "<0.1\u00a0%" if 0 < share < 0.05 else f"{share:.1f}\u00a0%"

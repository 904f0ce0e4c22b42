"""The tree of cell types of a model: given, learned by its loss, or by the similarity of the types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

from tripletomics.arguments import checking_names
from tripletomics.labels.reference import type_distances
from tripletomics.labels.tree import Tree
from tripletomics.names import printable
from tripletomics.pl.branches import preorder, shades
from tripletomics.pl.palette import PALETTE
from tripletomics.pl.showing import check_output, finish
from tripletomics.pl.text import INK, NOTE, SMALL, TITLE, as_text, literal, text_width
from tripletomics.pl.type_names import dark

ROW, STEP = 0.13, 0.16  # inches: height of a name, and how far it is to the right of the one above it
SIZES = "training cells"  # title of the counts
ENOUGH = 5  # held-out cells, of which an F1 says something
COUNT, GAP, SCALE = 0.45, 0.15, 0.9  # inches: the column of counts, from it to the bars, and a bar for an F1 of 1


@literal
@checking_names
def tree(
    model: Any,
    ax: Axes | None = None,
    *,
    show: bool | None = None,
    save: str | Path | bool | None = None,
    return_fig: bool = False,
) -> Axes:
    """Draw the tree of cell types: the one given to :func:`tripletomics.fit`, a learned one, or by their similarity.

    A given tree shows for each name how many training cells have it or a name below it. Next to it is the F1 on
    held-out cells, with their number in brackets: a cell is found if :func:`tripletomics.predict` gives it the name or
    one below it. A dash stands where fewer than five held-out cells have the name. Cells that are known
    coarsely do not count below their names.

    In the tree that ``loss="hierarchical_triplet"`` learned, two branches meet at the mean squared distance between the
    cells of their two nearest types, in the metric space scaled to length 1, where opposite directions are 4 apart.

    For all other models it is a tree by average linkage of the means of the types in principal components. The distance
    of two types is 1 minus the cosine between their means, seen from the mean of all cells. (In the metric space most
    losses push all types about equally far apart.)

    Dots have the colours of the types on the map. The numbers next to them count training cells.

    Parameters
    ----------
    model
        A :class:`tripletomics.Model` with two cell types or more.
    ax
        Where to draw. The names are to its left: a figure made with ``layout="constrained"`` makes room for them.
        Without `ax`, a new figure is made, as tall as the types need.
    show, save, return_fig
        As in scanpy: whether to show the figure (and return None), the path of a file to write it to, and whether to
        return the figure in place of the Axes. By default a figure is shown in notebooks only.

    Returns
    -------
    Axes
        One line collection, the branches. Of a tree with distances, the tick labels of y are the names of the types,
        similar ones next to each other. Of a given tree, the names are texts, each below its parent and to the right.

    Raises
    ------
    TypeError
        If `model` is not a model.
    ValueError
        If it has no tree: it was fitted without labels, or has one type.

    Examples
    --------
    >>> ax = tt.pl.tree(model)
    >>> len(ax.get_yticklabels())
    10
    """
    check_output(save, ax)
    show = show if ax is None else bool(show)  # the caller may draw more into the figure
    findings, classes = getattr(model, "findings", None), getattr(model, "classes", None)
    if findings is None or classes is None:
        raise TypeError(f"tree needs a fitted tt.Model, not {type(model).__name__}.")
    given: Tree | None = getattr(model, "tree", None)
    if given is not None:
        ax = _draw_given(given, findings, ax)
        return finish(ax.figure.figure, ax, "tree", show, save, return_fig)
    if not classes:
        how = "with an order alone" if getattr(model, "targets", None) else "without labels"
        raise ValueError(f"This model has no tree of cell types: it was fitted {how}. Fit with label=.")
    if "tree" in findings:
        joins, names = findings["tree"], classes
        distance = "squared distance between the nearest types\nof two branches, in the metric space"
    else:
        joins, names = _tree_of_centres(model)
        distance = "1 − cosine between the types' mean principal\ncomponents; average linkage"
    plan = dendrogram(joins, labels=names, count_sort="descending", no_plot=True)
    figure = None
    if ax is not None:
        as_text(ax)
    else:
        figure = plt.figure(figsize=(4.6, 0.8 + ROW * len(names)), dpi=150, layout="constrained")
        ax = figure.add_subplot()
    x, y = np.array(plan["dcoord"]), np.array(plan["icoord"]) / 10 - 0.5  # the i-th leaf of scipy is at 5 + 10 i
    branches = list(np.stack([x, y], axis=2))
    ax.add_collection(LineCollection(branches, colors=INK, linewidths=0.8, capstyle="projecting"), autolim=False)
    ax.set(xlim=(0, 1.03 * x.max() or 1), ylim=(len(names) - 0.5, -0.5))
    ax.set_yticks(range(len(names)), [printable(name) for name in plan["ivl"]])
    ax.tick_params(labelsize=SMALL, length=2.5)
    ax.tick_params(axis="y", length=0, pad=5 + _mark_leaves(ax, model, plan["ivl"]))
    ax.spines[["left", "top", "right"]].set_visible(False)
    ax.set_xlabel(distance, fontsize=SMALL)
    ax.set_title("Tree of cell types", fontsize=TITLE, loc="left")
    if figure is not None:
        box: Any = ax.yaxis.get_tightbbox()
        figure.set_figwidth(2.8 + box.width / figure.dpi)
    return finish(ax.figure.figure, ax, "tree", show, save, return_fig)


def _mark_leaves(ax: Axes, model: Any, names: list[str]) -> float:
    """Mark each type with its colour and its training cells, where these are known; return their width in points."""
    types = getattr(model, "types", model.classes)
    colors = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(types)} | getattr(model, "colors", {})
    reference = getattr(model, "reference", None)
    sizes = {} if reference is None else dict(zip(types, reference.sizes.tolist(), strict=True))
    counts = [f"{sizes[name]:,}" if name in sizes else "" for name in names]
    style: dict[str, Any] = {"ha": "right", "fontsize": SMALL, "color": NOTE, "annotation_clip": False}
    for row, (name, words) in enumerate(zip(names, counts, strict=True)):
        ax.plot(0, row, "o", color=colors[name], markersize=4, clip_on=False, zorder=3, gid="type")
        ax.annotate(words, (0, row), (-5, 0), textcoords="offset points", va="center_baseline", gid="cells", **style)
    if sizes:
        ax.annotate(SIZES, (0, 1), (-5, 0), "axes fraction", "offset points", va="bottom", **style)
    return 72 * max(map(text_width, [*counts, "cells" * bool(sizes)], [SMALL] * (len(counts) + 1))) + 3 * bool(sizes)


def _tree_of_centres(model: Any) -> tuple[np.ndarray, list[str]]:
    """Return the average linkage of the means of types, and the names of those that have one."""
    reference, types = model.reference, model.types
    there = [code for code in range(len(types)) if reference.sizes[code] > 0]
    if len(there) < 2:
        raise ValueError(f"This model has {len(there)} cell type, and a tree needs two or more. Fit with more types.")
    apart = squareform(type_distances(reference.centres[there]), checks=False)
    return linkage(apart, "average", optimal_ordering=True), [types[code] for code in there]


def _draw_given(tree: Tree, findings: Any, ax: Axes | None) -> Axes:
    """Draw a given tree as an indented list, with the number of training cells and the F1 of each name."""
    order, depths = preorder(tree, np.flatnonzero(tree.parents < 0)), tree.depths()
    names = [printable(tree.names[node]) for node in order]
    wide = max(STEP * depths[node] + text_width(name, SMALL, "bold") for node, name in zip(order, names, strict=True))
    wide = max(wide, text_width(SIZES, SMALL) - COUNT)  # the title of the counts may stand above the names
    cells, scale = wide + COUNT, wide + COUNT + GAP  # inches: where counts end, and where F1 begins
    if ax is not None:
        as_text(ax)
    else:
        size = scale + SCALE + 0.75, ROW * (len(order) + 1) + 0.5
        place = 0.1 / size[0], 0.1 / size[1], 1 - 0.7 / size[0], 1 - 0.45 / size[1]
        ax = plt.figure(figsize=size, dpi=150).add_axes(place)
    ax.set(xlim=(0, scale + SCALE), ylim=(len(order) - 0.5, -1.5))
    ax.set_axis_off()
    ax.set_title("Tree of cell types", fontsize=TITLE, loc="left", pad=2)
    ax.add_collection(LineCollection(_brackets(tree, order), colors=INK, linewidths=0.6), autolim=False)
    colors = shades(tree, [], {})
    for row, (node, name) in enumerate(zip(order, names, strict=True)):
        weight = "normal" if node < tree.n_leaves else "bold"
        color = dark(colors[tree.names[node]])
        ax.text(STEP * depths[node], row, name, fontsize=SMALL, va="center", weight=weight, color=color, gid="name")
        if "node_cells" in findings:
            words = f"{findings['node_cells'][node]:,}"
            ax.text(cells, row, words, fontsize=SMALL, ha="right", va="center", color=INK, gid="cells")
        held = findings["node_held"][node] if "node_held" in findings else ENOUGH
        f1 = findings["node_f1"][node] if "node_f1" in findings and held >= ENOUGH else np.nan
        end = scale + SCALE * np.nan_to_num(f1)
        ax.add_patch(Rectangle((scale, row - 0.32), end - scale, 0.64, color=colors[tree.names[node]], linewidth=0))
        words = f"{f1:.2f}" if np.isfinite(f1) else "\u2013"
        words += f" ({held:,.0f})" if "node_held" in findings else ""
        ax.text(end + 0.04, row, words, fontsize=SMALL, va="center", color=INK, gid="F1")
    title = "held-out F1" + (" (cells)" if "node_held" in findings else "")
    for x, words, side in ((cells, SIZES, "right"), (scale, title, "left")):
        ax.text(x, -1, words, fontsize=SMALL, ha=side, va="center", color=NOTE)
    return ax


def _brackets(tree: Tree, order: list[int]) -> list[list[tuple[float, float]]]:
    """Return the lines from each name to those below it: down from its first letter, then to the right."""
    rows, depths = {node: row for row, node in enumerate(order)}, tree.depths()
    lines = []
    for node in order:
        x = STEP * (depths[node] + 0.35)
        below = sorted(rows[child] for child in np.flatnonzero(tree.parents == node).tolist())
        lines += [[(x, rows[node] + 0.5), (x, last)] for last in below[-1:]]
        lines += [[(x, row), (x + 0.5 * STEP, row)] for row in below]
    return lines

"""Types on several levels: the tree of a model in ``uns``, shades of colours, and the names of each level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import to_rgb

from tripletomics.labels import UNLABELLED, known
from tripletomics.labels.tree import Tree, read_tree

if TYPE_CHECKING:
    import pandas as pd

FIRST_HUE = 255.0  # degrees in OKLCh, a blue; the others follow at equal steps
SPREAD = 0.3  # share of such a step that the leaves of one hue are spread over
DARKEST, LIGHTEST, CHROMA = 0.42, 0.78, 0.14  # in OKLCh, of the first and the last leaf of one hue
NO_FINER = " (no finer label)"
PALER = 0.6  # share of white in the colour of cells that are known less finely than others of their branch
# From the roots of cone responses to linear sRGB, and from OKLab to these roots (Ottosson 2020)
# fmt: off
TO_RGB = np.array([[4.0767416621, -3.3077115913, 0.2309699292], [-1.2684380046, 2.6097574011, -0.3413193965],
                   [-0.0041960863, -0.7034186147, 1.7076147010]])
TO_ROOTS = np.array([[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728],
                     [1, -0.0894841775, -1.2914855480]])
# fmt: on


@dataclass(frozen=True)
class Branches:
    """The names of types on several levels.

    Attributes
    ----------
    lines
        In the order of a legend, each below its parent: the name, how many stand above it, and its code, -1 where no
        cell is known as this and no finer.
    heads
        Names at the top that have others below them, and those of cells that are known less finely than others of their
        branch, with their colours.
    levels
        Of each level, the coarsest first: its names with their colours by number, and the number for each code, -1 for
        cells that are known less finely.
    """

    lines: list[tuple[str, int, int]]
    heads: list[tuple[str, Any]]
    levels: list[tuple[dict[int, tuple[str, Any]], np.ndarray]]


def tree_in(uns: Mapping[str, Any], names: Sequence[str]) -> tuple[Tree, list[str]] | None:
    """Return the tree of the first model that has half of these names, and the columns that it was read from."""
    for key in sorted(uns, key=lambda key: key != "X_tt"):
        record = uns[key]
        kept = record.get("tree") if isinstance(record, Mapping) else None
        if not isinstance(kept, Mapping) or not {"names", "parents"} <= kept.keys():
            continue
        try:
            known = [str(name) for name in np.atleast_1d(np.asarray(kept["names"], dtype=object))]
            tree = read_tree({"names": known, "parents": np.atleast_1d(kept["parents"]).tolist()})
        except ValueError:  # someone has changed it
            continue
        if 2 * len({*known} & {*names}) >= len(names) > 0:
            return with_names(tree, names), str(record.get("settings", {}).get("label", "")).split(", ")
    return None


def with_names(tree: Tree, names: Sequence[str]) -> Tree:
    """Return a tree in which the names that it lacks, such as that of a new type, stand at the top."""
    above = {name: tree.names[up] if up >= 0 else None for name, up in zip(tree.names, tree.parents, strict=True)}
    return Tree.of(dict.fromkeys(names) | above)


def shades(tree: Tree, names: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a colour for each name of a tree: a hue for each name at the top, and shades of it for the leaves below.

    Parameters
    ----------
    tree
        The tree. Names that it lacks have hues of their own.
    names
        The names of a column. One that has another of them below it, for cells of which no more is known, is paler.
    given
        Colours that some names have already.
    """
    tree = with_names(tree, names)
    tops = first_names(tree)
    below, step = tree.leaves_below(), 360 / len(tops)
    leaves = np.zeros((tree.n_leaves, 3))
    for i, top in enumerate(tops):
        own = [code for code in preorder(tree, [top]) if code < tree.n_leaves]
        at = np.linspace(0, 1, len(own)) if len(own) > 1 else np.array([0.5])
        for code, place in zip(own, at, strict=True):
            shade = rgb_of(DARKEST + place * (LIGHTEST - DARKEST), FIRST_HUE + step * (i + SPREAD * (place - 0.5)))
            leaves[code] = to_rgb(given.get(tree.names[code], shade))
    found = below @ leaves / below.sum(axis=1, keepdims=True)
    drawn = {tree.names.index(name) for name in names}
    for code in {up for one in drawn for up in tree.path(one)[1:]} & drawn:
        found[code] = PALER + (1 - PALER) * found[code]
    return dict(zip(tree.names, found, strict=True)) | dict(given)


def rgb_of(lightness: float, hue: float) -> tuple[float, float, float]:
    """Return an OKLCh colour with as much of a chroma of 0.14 as a screen can show."""
    turn = np.array([np.cos(np.radians(hue)), np.sin(np.radians(hue))])
    for chroma in np.linspace(CHROMA, 0, 29):
        linear = TO_RGB @ (TO_ROOTS @ [lightness, *(chroma * turn)]) ** 3
        if (linear >= 0).all() and (linear <= 1).all():
            break
    linear = linear.clip(0, 1)
    return to_rgb(np.where(linear <= 0.0031308, 12.92 * linear, (1.055 * linear ** (1 / 2.4) - 0.055).clip(0, 1)))


def first_names(tree: Tree) -> list[int]:
    """Return the names at the top; where all lie below one name, those below this one."""
    tops = np.flatnonzero(tree.parents < 0)
    while len(tops) == 1 and tops[0] >= tree.n_leaves:
        tops = np.flatnonzero(tree.parents == tops[0])
    return sorted(tops.tolist(), key=lambda code: tree.names[code])


def top_names(tree: Tree) -> set[str]:
    """Return the names of the first level, and the one above all of them if there is one."""
    return {tree.names[node] for top in first_names(tree) for node in tree.path(top)}


def preorder(tree: Tree, nodes: Iterable[int]) -> list[int]:
    """Return these names in sorted order, each followed by all below it."""
    found = []
    for node in sorted(nodes, key=lambda code: tree.names[code]):
        found += [int(node), *preorder(tree, np.flatnonzero(tree.parents == node))]
    return found


def finest_known(obs: pd.DataFrame, color: str, columns: Sequence[str]) -> pd.Series:
    """Return the names in a column; of the `columns` of a tree, the next coarser one where a name is missing."""
    values = known(obs[color], UNLABELLED)
    if color in columns and all(column in obs for column in columns):
        for column in reversed(columns[: columns.index(color)]):
            values = values.where(values.notna(), known(obs[column], UNLABELLED))
    return values


def branch_cells(
    tree: Tree, columns: Sequence[str], obs: pd.DataFrame, color: str, given: Mapping[str, Any]
) -> tuple[np.ndarray, dict[int, tuple[str, Any]], Branches]:
    """Return codes of cells in the order of a legend, the name and colour of each code, and its branches.

    Parameters
    ----------
    tree, columns
        As `tree_in` returns them.
    obs, color
        The column of names.
    given
        Colours of its names.
    """
    values = finest_known(obs, color, columns)
    names = values.dropna().unique().tolist()
    tree = with_names(tree, names)
    own = {tree.names.index(name) for name in names}
    colors = list(shades(tree, names, given).values())
    leaves = {name: color for name, color in given.items() if name in tree.names[: tree.n_leaves]}
    full = list(shades(tree, [], leaves).values())  # of names on the map: a pale one could not be read
    divided = {up for node in own for up in tree.path(node)[1:]}  # names with others below them
    coarse = own & divided
    order = [node for node in preorder(tree, np.flatnonzero(tree.parents < 0)) if node in own | divided]
    code_of = {node: code for code, node in enumerate(node for node in order if node in own)}
    above = len(tree.path(first_names(tree)[0])) - 1  # names above all others are on no level
    paths = {node: tree.path(node)[::-1][above:] for node in order}
    said = {node: tree.names[node] + (NO_FINER if node in coarse else "") for node in order}
    shown = [node for node in order if paths[node] or node in own]
    lines = [(said[node], max(len(paths[node]) - 1, 0), code_of.get(node, -1)) for node in shown]
    heads = [
        (said[node], colors[node]) for node in shown if node in coarse or (node in divided and len(paths[node]) == 1)
    ]
    levels = []
    for level in range(max(map(len, paths.values()), default=0)):
        there = [len(paths[node]) > level or node not in coarse for node in code_of]
        nodes = [paths[node][: level + 1][-1] if deep else -1 for node, deep in zip(code_of, there, strict=True)]
        levels.append(({node: (tree.names[node], full[node]) for node in nodes if node >= 0}, np.array(nodes)))
    types = {code: (said[node], colors[node]) for node, code in code_of.items()}
    codes = values.map({tree.names[node]: code for node, code in code_of.items()}).fillna(-1)
    return codes.to_numpy(dtype=int), types, Branches(lines, heads, levels)

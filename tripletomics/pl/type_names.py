"""Where names of types stand on a map: on or next to their cells where there is room, else joined by a line."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patheffects import Stroke, withStroke
from scipy import ndimage

from tripletomics.pl.map_axes import map_width, on_page, text_size
from tripletomics.pl.style import CellStyle, Types
from tripletomics.pl.text import balanced, text_width

MAX_NAMES = 40  # types whose names a map may hold
MAX_AREA = 0.2  # share of a map that its names may fill
MAX_WIDTH = 0.3  # share of a map's width that a line of a name may fill; longer names are broken at their spaces
CROWDED = 0.25  # share of names that may have a line, where names of a coarser level could take their places
LINE = 1.2  # times the size of the text is the height of a line
FIELD, MAX_FIELDS = 2.0, 200  # points, side of the squares in which cells and names are counted; most of them in a row
SMOOTH = 2.5  # fields, for the density of a type
REACH = 5  # fields around cells; where these meet, cells are of one piece of their type
TIED = 7.0  # points between a name and its cells from which on a line ties them
SHORTLIST, ROUNDS = 1000, 3  # positions tried with their lines; times that each name may choose
DARK = 0.08  # luminance at most, for a contrast of 8:1 with white, and to stand out from cells of that colour
LUMINANCE = (0.2126, 0.7152, 0.0722)  # of red, green, blue
WHITE, OUTLINE = (1, 1, 1, 0.9), 2.6  # around names and lines; points
# What a name pays: for a box full of cells of other types, or of its own; for each type hidden; for a way across the
# page to its cells; for having a line, one that crosses another name, or runs across the page over other cells; for
# covering another name or its line
OTHERS, OWN, HIDDEN, FAR, TIE, CROSSING, OVER, COLLISION = 8.0, 5.0, 6.0, 12.0, 1.0, 10.0, 20.0, 1000.0
COVERED = 0.04  # what it pays for each field with cells that are drawn on top, whose colour is that of its letters


def break_names(types: Types, width: float) -> Types | None:
    """Return the names of types, broken into lines for a map `width` points wide; None if they do not fit there."""
    size = text_size(width)
    lines = {code: "\n".join(balanced(name, MAX_WIDTH * width / 72, size)) for code, (name, _) in types.items()}
    sizes = np.array([_extent(name, size) for name in lines.values()]).reshape(-1, 2)
    fit = len(types) <= MAX_NAMES and sizes.prod(axis=1).sum() <= MAX_AREA * width**2 and (sizes < 0.8 * width).all()
    return {code: (name, types[code][1]) for code, name in lines.items()} if fit else None


@dataclass(frozen=True)
class Named:
    """The names to write on a map."""

    types: Types  # as `break_names` returns them
    codes: np.ndarray  # (n,) which name each cell belongs to, -1 for none
    coarse: bool  # whether they stand above types, which the legend has to explain


def choose_names(ax: Any, style: CellStyle, points: np.ndarray) -> Named | None:
    """Choose the names of all types or, where there is too little room, of a coarser level; None if no names fit."""
    width = map_width(ax)
    if style.branches is None:
        types = break_names(style.types, width)
        return None if types is None else Named(types, style.codes, coarse=False)
    for level in range(len(style.branches.levels) - 1, -1, -1):
        names, code_of = style.branches.levels[level]
        types, codes = break_names(names, width), np.append(code_of, -1)[style.codes]
        if types and (level == 0 or not crowded(ax, types, points, codes)):
            return Named(types, codes, level < len(style.branches.levels) - 1)
    return None


def crowded(ax: Any, names: Types, points: np.ndarray, codes: np.ndarray) -> bool:
    """Return whether more than a quarter of the names stand so far from their cells that a line has to join them."""
    _, spans = _placed(ax, names, points, codes, amid=False)
    tied = [np.linalg.norm(tip - start) * map_width(ax) > TIED for _, start, tip in spans]
    return bool(np.mean(tied) > CROWDED)


def _extent(name: str, size: float) -> tuple[float, float]:
    """Return width and height of a name in points."""
    lines = name.split("\n")
    return 72 * max(text_width(line, size) for line in lines) + 2, LINE * size * len(lines) + 1


def write_names(
    ax: Any,
    types: Types,
    points: np.ndarray,
    codes: np.ndarray,
    amid: bool = False,
    *,
    split: np.ndarray | None = None,
    below: float = 4,
) -> None:
    """Write the names of types on a map, with lines to their cells where these are not next to them.

    Parameters
    ----------
    ax
        The map, laid out.
    types
        Name, as `break_names` returns it, and colour of types. Letters and lines are as dark as it takes to read them.
    points
        Cells (n, dim). The few outside the limits are taken to be at the edge.
    codes
        Type of each cell (n,). Codes that are not in `types` are of groups without a name, which must stay visible.
    amid
        Whether a name may cover cells of its own, as that of many types does.
    split, below
        1 for each cell (n,) that is drawn on top: held-out ones or, on a reference, new ones. Names avoid these, and
        their lines and outlines are below this zorder.
    """
    width = map_width(ax)
    named, spans = _placed(ax, types, points, codes, amid, split)
    halo = [withStroke(linewidth=1.4, foreground=WHITE)]
    for code, (middle, start, tip) in zip(named, spans, strict=True):
        name, color = types[code]
        ink = dark(color)
        if np.linalg.norm(tip - start) * width > TIED:
            ax.add_artist(Line2D(*np.stack([start, tip], axis=1), transform=ax.transAxes, linewidth=0.6, color=ink,
                                 path_effects=halo, zorder=below - 0.4, gid="tie"))  # fmt: skip
        outline = [Stroke(linewidth=OUTLINE, foreground=WHITE, joinstyle="round")]
        # letters with effects are paths; these stay text
        for effects, gid, zorder in ((outline, "outline", below - 0.3), (None, "type", 5)):
            ax.annotate(name, middle, xycoords="axes fraction", ha="center", va="center", fontsize=text_size(width),
                        color=ink, linespacing=1.1, path_effects=effects, zorder=zorder, gid=gid)  # fmt: skip


def _placed(
    ax: Any, types: Types, points: np.ndarray, codes: np.ndarray, amid: bool, split: np.ndarray | None = None
) -> tuple[list[int], list[tuple[np.ndarray, ...]]]:
    """Return which types have cells on a map, and where their names stand, as `place_boxes` does."""
    width = map_width(ax)
    there = np.isfinite(points).all(axis=1)
    spots, codes = on_page(ax, points[there]).clip(0, 1), codes[there]
    above = spots[:0] if amid or split is None else spots[split[there] == 1]
    named = [code for code in types if code in codes]
    groups = [spots[codes == code] for code in [*named, *sorted(set(codes.tolist()) - set(named))]]
    boxes = np.array([_extent(types[code][0], text_size(width)) for code in named]) / width
    boxes = boxes.clip(0, 0.8)  # a layout may have made the map smaller since the names were chosen
    return named, place_boxes(groups, boxes, min(round(width / FIELD), MAX_FIELDS), amid, above)


def dark(color: Any) -> tuple[float, float, float]:
    """Return a colour so dark that it can be read on white; its hue stays."""
    rgb = np.array(to_rgb(color))
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)  # sRGB to linear
    light = light * min(1.0, DARK / max(float(light @ LUMINANCE), 1e-9))
    return to_rgb(tuple(np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)))


@dataclass(frozen=True)
class NameCost:
    """What each field of the page (f, f) costs as the position of a type's name."""

    half: np.ndarray  # (2,) fields on either side of a name's middle
    cost: np.ndarray  # (f, f) of a name whose middle is there; infinite where it would leave the page
    tip: np.ndarray  # (2, f, f) the nearest field of those that hold the denser half of the type's largest piece
    foreign: np.ndarray  # (f, f) whether cells of other types are there
    area: int  # of these fields

    @classmethod
    def of(cls, count: np.ndarray, foreign: np.ndarray, hidden: np.ndarray, half: np.ndarray, own: float) -> NameCost:
        """Return the costs by the cells that a name would cover, and by how far it is from its own.

        Parameters
        ----------
        count
            Cells of the type in each field, (f, f).
        foreign
            Whether cells of other types are there, (f, f).
        hidden
            How much of a type would be hidden there, summed over types, (f, f).
        half
            Fields on either side of the name's middle, (2,).
        own
            What a box full of cells of the type pays.
        """
        size = tuple(2 * half + 1)
        mean = functools.partial(ndimage.uniform_filter, mode="constant")
        bulk = count * _largest(count > 0, count)
        smooth = ndimage.gaussian_filter(bulk.astype(float), SMOOTH)
        dense = _largest(smooth >= np.median(np.repeat(smooth.ravel(), bulk.ravel().astype(int))), count)
        at = np.indices(count.shape)
        tip = ndimage.distance_transform_edt(~dense, return_distances=False, return_indices=True)
        half = half[:, None, None]
        apart = np.linalg.norm(np.maximum(abs(tip - at) - half, 0), axis=0)
        peak = np.array(np.unravel_index(smooth.argmax(), smooth.shape))[:, None, None]
        cost = (
            OTHERS * mean(foreign.astype(float), tuple(2 * half.ravel() + 3))
            + own * mean((count > 0).astype(float), size)
            + HIDDEN * mean(hidden, size) * np.prod(size)
            + (FAR * apart + np.linalg.norm(at - peak, axis=0)) / len(count)
            + TIE * (apart > 2)
        )
        cost[(np.minimum(at, len(count) - 1 - at) <= half).any(axis=0)] = np.inf
        return cls(half.ravel(), cost, tip, foreign, int(dense.sum()))

    def choose(self, taken: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the fields of the cheapest free position: a name's middle, the start and the tip of its line."""
        cost = (self.cost + COLLISION * ndimage.maximum_filter(taken, tuple(2 * self.half + 1))).ravel()
        best = np.argsort(cost, kind="stable")[:SHORTLIST]
        best = best[np.isfinite(cost[best])]
        middle = np.stack(np.unravel_index(best, taken.shape), axis=1)
        tip = self.tip.reshape(2, -1)[:, best].T
        start = np.clip(tip, middle - self.half, middle + self.half)
        x, y = np.moveaxis(_path(start, tip, len(taken)), -1, 0)
        length = np.linalg.norm(tip - start, axis=1) / len(taken)
        lines = CROSSING * taken[x, y].any(axis=1) + OVER * self.foreign[x, y].mean(axis=1) * length
        choice = (cost[best] + lines).argmin()
        return middle[choice], start[choice], tip[choice]

    def mark(self, middle: np.ndarray, start: np.ndarray, tip: np.ndarray) -> np.ndarray:
        """Return which fields a name and its line take, (f, f)."""
        taken = np.zeros_like(self.foreign)
        (left, low), (right, high) = middle - self.half, middle + self.half + 1
        taken[left:right, low:high] = True
        x, y = np.moveaxis(_path(start, tip, len(taken)), -1, 0)
        taken[x, y] = True
        return taken


def _largest(there: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return the fields (f, f) of the piece that holds most cells; fields near each other are of one piece."""
    pieces, _ = ndimage.label(ndimage.binary_dilation(there, iterations=REACH))
    return there & (pieces == np.bincount(pieces[there], count[there]).argmax())


def _path(start: np.ndarray, tip: np.ndarray, steps: int) -> np.ndarray:
    """Return the fields on the way from starts (..., 2) to tips, (..., steps, 2)."""
    way = np.linspace(0, 1, steps)[:, None]
    return np.rint(start[..., None, :] + way * (tip - start)[..., None, :]).astype(int)


def place_boxes(
    groups: list[np.ndarray], boxes: np.ndarray, fields: int, amid: bool = False, above: np.ndarray | None = None
) -> list[tuple[np.ndarray, ...]]:
    """Return for each box a position near its cells where it covers few cells and no other box.

    Types with little room choose first; then each chooses again, given where the others stand. All is between 0 and 1.

    Parameters
    ----------
    groups
        Where the cells of each type are, (cells, 2), then those of groups without a box.
    boxes
        Width and height of the name of each type, (types, 2).
    fields
        How many squares the page is divided into, across and up.
    amid
        Whether a box may cover cells of its own.
    above
        Where cells are that are drawn on top, (cells, 2).

    Returns
    -------
    Middle of each box, the end of its line at the box and that at its cells.
    """
    every = [*groups, groups[0][:0] if above is None else above]
    counts = np.array([np.histogramdd(spots, fields, range=[(0, 1), (0, 1)])[0] for spots in every])
    there = ndimage.binary_dilation(counts > 0, np.ones((1, 3, 3)))  # a cell is about as wide as a field
    there, covered = there[:-1], there[-1]
    shares = there / np.maximum(there.sum(axis=(1, 2), keepdims=True), 1)
    hidden = [shares.sum(axis=0) - amid * share + COVERED / HIDDEN * covered for share in shares]
    halves = np.ceil((boxes * fields - 1) / 2).astype(int)
    costs = [
        NameCost.of(counts[k], np.delete(there, k, axis=0).any(axis=0), hidden[k], half, (1 - amid) * OWN)
        for k, half in enumerate(halves)
    ]
    taken = np.zeros((len(boxes), fields, fields), dtype=bool)
    found: list[Any] = [None] * len(boxes)
    order = sorted(range(len(boxes)), key=lambda k: costs[k].area)
    for k in order * ROUNDS:
        taken[k] = False
        found[k] = costs[k].choose(np.any(taken, axis=0))
        taken[k] = costs[k].mark(*found[k])
    return [tuple((at + 0.5) / fields for at in each) for each in found]

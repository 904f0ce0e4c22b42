"""Where names of types stand on a map: on or beside their cells where there is room, else near and tied to them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from scipy import ndimage

from tripletomics.pl.draw import SMALL, text_width, wrap

MOST = 40  # types whose names a map may hold
FULL = 0.2  # share of a map that its names may fill
WIDEST = 0.3  # share of a map's width that a line of a name may fill; longer names are broken at their spaces
LINE = 1.2 * SMALL  # points, height of a line
FIELD = 2.0  # points, side of the squares in which cells and names are looked for
TIED = 4.0  # points between a name and its cells from which on a line ties them
SHORTLIST, ROUNDS = 1000, 3  # places tried with their lines; times that each name may choose
DARK = 0.15  # luminance at most, for a contrast of 5:1 with white
HALO = (1, 1, 1, 0.85)
# What a name pays: for a box full of cells of other types, or of its own; for each type hidden; for a way across the
# page to its cells; for having a line, one that crosses another name, or runs across the page over other cells; for
# covering another name or its line
OTHERS, OWN, HIDE, FAR, TIE, CROSS, OVER, HIT = 5.0, 1.0, 6.0, 12.0, 1.0, 10.0, 10.0, 1000.0


def broken(names: list[str], side: float) -> list[str] | None:
    """Break names into lines for a map of `side` points; None if they do not fit there."""
    lines = [wrap(name, WIDEST * side / 72, SMALL) for name in names]
    sizes = _sizes(["\n".join(name) for name in lines])
    fits = len(names) <= MOST and sizes.prod(axis=1).sum() <= FULL * side**2 and (sizes < 0.9 * side).all()
    return ["\n".join(name) for name in lines] if fits else None


def _sizes(names: list[str]) -> np.ndarray:
    """Width and height of names in points, (names, 2)."""
    lines = [name.split("\n") for name in names]
    return np.array([(72 * max(text_width(text, SMALL) for text in name) + 2, LINE * len(name) + 1) for name in lines])


def write(ax: Any, names: list[str], colors: list[Any], spots: np.ndarray, codes: np.ndarray, side: float) -> None:
    """Write the names of types on a map of `side` points, with lines to their cells where these are not next to them.

    Parameters
    ----------
    names, colors
        Of the types. Letters and lines are as dark as it takes to read them.
    spots
        Where cells are on the page, (n, 2), 0 to 1 across the axes.
    codes
        Type of each of these cells; those of ``len(names)`` or more are of no named type, but no less worth seeing.
    """
    halo = [withStroke(linewidth=1.8, foreground=HALO)]
    spans = place(spots, codes, _sizes(names) / side, FIELD / side)
    for name, color, (middle, start, tip) in zip(names, colors, spans, strict=True):
        ink = dark(color)
        if np.linalg.norm(tip - start) * side > TIED:
            ax.add_artist(Line2D(*np.stack([start, tip], axis=1), transform=ax.transAxes, linewidth=0.6, color=ink,
                                 marker="o", markevery=[1], markersize=1.8, markeredgewidth=0, path_effects=halo,
                                 zorder=3.5, gid="tie"))  # fmt: skip
        ax.annotate(name, middle, xycoords="axes fraction", ha="center", va="center", fontsize=SMALL, color=ink,
                    linespacing=1.1, path_effects=halo, zorder=4, gid="type")  # fmt: skip


def dark(color: Any) -> np.ndarray:
    """Darken a colour (3,) until it can be read on white; its hue stays."""
    rgb = np.asarray(color, dtype=float)
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)  # sRGB to linear
    light = light * min(1, DARK / max(light @ (0.2126, 0.7152, 0.0722), 1e-9))
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@dataclass(frozen=True)
class Wish:
    """What each place on the page, as fields (f, f), costs the name of a type."""

    half: np.ndarray  # (2,) fields on either side of a name's middle
    cost: np.ndarray  # (f, f) of a name whose middle is there; infinite where it would leave the page
    tip: np.ndarray  # (2, f, f) the type's nearest dense field
    foreign: np.ndarray  # (f, f) whether cells of other types are there
    area: int  # dense fields

    @classmethod
    def of(cls, count: np.ndarray, foreign: np.ndarray, hidden: np.ndarray, half: np.ndarray) -> Wish:
        """Weigh the cells that a name would cover, and how far it is from its own.

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
        """
        size = tuple(2 * half + 1)
        mean = functools.partial(ndimage.uniform_filter, mode="constant")
        smooth = ndimage.gaussian_filter(count.astype(float), 1.5)
        dense = smooth >= 0.3 * smooth.max()
        at = np.indices(count.shape)
        tip = ndimage.distance_transform_edt(~dense, return_distances=False, return_indices=True)
        half = half[:, None, None]
        apart = np.linalg.norm(np.maximum(abs(tip - at) - half, 0), axis=0)
        peak = np.array(np.unravel_index(smooth.argmax(), smooth.shape))[:, None, None]
        cost = (
            OTHERS * mean(foreign.astype(float), tuple(2 * half.ravel() + 3))
            + OWN * mean((count > 0).astype(float), size)
            + HIDE * mean(hidden, size) * np.prod(size)
            + (FAR * apart + np.linalg.norm(at - peak, axis=0)) / len(count)
            + TIE * (apart > 2)
        )
        cost[(np.minimum(at, len(count) - 1 - at) <= half).any(axis=0)] = np.inf
        return cls(half.ravel(), cost, tip, foreign, int(dense.sum()))

    def choose(self, taken: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the fields of the cheapest place that is free: a name's middle, the start and the tip of its line."""
        cost = (self.cost + HIT * ndimage.maximum_filter(taken, tuple(2 * self.half + 1))).ravel()
        best = np.argsort(cost, kind="stable")[:SHORTLIST]
        best = best[np.isfinite(cost[best])]
        middle = np.stack(np.unravel_index(best, taken.shape), axis=1)
        tip = self.tip.reshape(2, -1)[:, best].T
        start = np.clip(tip, middle - self.half, middle + self.half)
        x, y = np.moveaxis(_path(start, tip, len(taken)), -1, 0)
        length = np.linalg.norm(tip - start, axis=1) / len(taken)
        lines = CROSS * taken[x, y].any(axis=1) + OVER * self.foreign[x, y].mean(axis=1) * length
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


def _path(start: np.ndarray, tip: np.ndarray, steps: int) -> np.ndarray:
    """Return the fields on the way from starts (..., 2) to tips, (..., steps, 2)."""
    way = np.linspace(0, 1, steps)[:, None]
    return np.rint(start[..., None, :] + way * (tip - start)[..., None, :]).astype(int)


def place(
    spots: np.ndarray, codes: np.ndarray, boxes: np.ndarray, field: float
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Find for each box (types, 2) a place near its cells where it covers few cells and no other box.

    Types with little room choose first; then each chooses again, given where the others stand.

    Returns
    -------
    Middle of each box, the end of its line at the box and that at its cells.
    """
    fields = round(1 / field)
    edges = [np.linspace(0, 1, fields + 1)] * 2
    groups = range(max(codes.max() + 1, len(boxes)))
    counts = np.array([np.histogram2d(*spots[codes == code].T, bins=edges)[0] for code in groups])
    there = ndimage.binary_dilation(counts > 0, np.ones((1, 3, 3)))  # a cell is about as wide as a field
    hidden = (there / np.maximum(there.sum(axis=(1, 2), keepdims=True), 1)).sum(axis=0)
    halves = np.ceil((boxes * fields - 1) / 2).astype(int)
    wishes = [
        Wish.of(counts[code], np.delete(there, code, axis=0).any(axis=0), hidden, half)
        for code, half in enumerate(halves)
    ]
    taken = np.zeros((len(boxes), fields, fields), dtype=bool)
    found: list[Any] = [None] * len(boxes)
    order = sorted(range(len(boxes)), key=lambda code: wishes[code].area)
    for code in order * ROUNDS:
        found[code] = wishes[code].choose(np.delete(taken, code, axis=0).any(axis=0))
        taken[code] = wishes[code].mark(*found[code])
    return [tuple((field + 0.5) / fields for field in each) for each in found]

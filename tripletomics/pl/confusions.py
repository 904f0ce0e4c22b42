"""Which types are confused: held-out cells by their true type and by that of their nearest training cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from tripletomics import keys, metrics
from tripletomics.arguments import checking_names
from tripletomics.labels import TOO_FEW, UNLABELLED, encode, verdict
from tripletomics.names import printable
from tripletomics.parts import did_you_mean
from tripletomics.pl.map_axes import color_scale, map_width
from tripletomics.pl.palette import GREY, PALETTE, listed
from tripletomics.pl.score_table import title_of
from tripletomics.pl.showing import check_output, finish
from tripletomics.pl.style import coordinates_of, split_codes
from tripletomics.pl.text import ALARM, INK, NOTE, SMALL, TITLE, as_text, inches, literal, text_width, wrap

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

SQUARE, READABLE = 0.24, 0.15  # inches: the largest square, and the smallest that holds a number
FEW = 5  # held-out cells, of which the percentages of a row say something
TITLE_LINE = 0.14  # inches
SMALLEST, LARGEST = 1.5, 4.6  # inches, side of the matrix


@dataclass(frozen=True)
class Confusion:
    """Held-out cells by true (rows) and predicted type."""

    counts: np.ndarray  # (types, types)
    names: list[str]  # of the rows, with a remark where a type has no cells
    classes: list[str]
    f1: float
    p: float
    said: str

    def ordered(self) -> Confusion:
        """Return it with confused types next to each other; where none is, in the order of the names."""
        shares = np.nan_to_num(self.shares())
        alike = (shares + shares.T) / 2
        np.fill_diagonal(alike, 0)
        if len(self.classes) < 3 or not alike.any():
            return self
        tree = linkage(squareform(1 - alike - np.eye(len(alike))), "average", optimal_ordering=True)
        order = leaves_list(tree)
        order = order if order[0] < order[-1] else order[::-1]
        names, classes = ([words[i] for i in order] for words in (self.names, self.classes))
        return replace(self, counts=self.counts[np.ix_(order, order)], names=names, classes=classes)

    @property
    def small(self) -> np.ndarray:
        """Return which types have held-out cells, but so few that their percentages say little, (types,) bool."""
        sizes = self.counts.sum(axis=1)
        return (sizes > 0) & (sizes < FEW)

    def shares(self) -> np.ndarray:
        """Return rows that sum to 1; NaN for a type without held-out cells."""
        sizes = self.counts.sum(axis=1, keepdims=True)
        return np.where(sizes > 0, self.counts / np.maximum(sizes, 1), np.nan)


@literal
@checking_names
def confusion(
    adata: AnnData,
    label: str,
    *,
    basis: str = "X_tt",
    split: str = "auto",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | bool | None = None,
    return_fig: bool = False,
) -> Axes:
    """Draw held-out cells by true and predicted type: the type of most of their 15 nearest training cells.

    Types that are confused are next to each other. If none are, types keep the order of their names. The words
    "no signal" are written above where the labels of the held-out cells agree with their neighbours no better than
    permuted ones do (p > 0.01).

    Parameters
    ----------
    adata
        Cells with coordinates in ``obsm[basis]``. It is not changed.
    label
        Column of ``obs`` with the types. Unlabelled cells (as in :func:`tripletomics.fit`) are left out.
    basis
        A key of ``obsm`` of any dimension; distances are Euclidean.
    split
        The ``obs`` column that marks held-out cells, as in :func:`embedding`. ``"auto"`` takes the one that was written
        with this basis, else ``"tt_split"``, unless another model wrote it. A split says nothing about a basis that was
        computed from all cells with their labels.
    ax
        Where to draw. Without it, a new figure is made, as large as the types need.
    show, save, return_fig
        As in scanpy: whether to show the figure (and return None), the path of a file to write it to, and whether to
        return the figure in place of the Axes. By default a figure is shown in notebooks only.

    Returns
    -------
    Axes
        One mesh with a row for each true type, which sums to 1, and a column for each predicted type; at the right the
        number of held-out cells, with a star where they are fewer than five. A type without training or without
        held-out cells says so.

    Raises
    ------
    KeyError
        If there is no such basis or column.
    ValueError
        If `split` is not a split, one of its sides has no labelled cell, a labelled cell has no finite coordinates, or
        there is one type only.

    Examples
    --------
    >>> ax = tt.pl.confusion(adata, "cell_type")
    >>> ax.get_ylabel()
    'true type'
    """
    check_output(save, ax)
    show = show if ax is None else bool(show)  # the caller may draw more into the figure
    found = _count(adata, label, basis, split).ordered()
    name = title_of(basis)
    place = f"{name}{' map' * (name == title_of('tt'))}"
    title = f"Held-out cells and the type of their 15 nearest training cells, {place}"
    if ax is None:
        n = len(found.classes)
        square = float(np.clip(SQUARE, SMALLEST / n, LARGEST / n))
        names, foot = (max(text_width(name, SMALL) for name in words) + 0.28 for words in (found.names, found.classes))
        lines = len(wrap(title, square * n + 0.3, TITLE - 1))
        head = 0.1 + TITLE_LINE * lines + 0.1 * len(_remark(found, square * n))
        right = 0.36 if square >= READABLE else 0.95
        figure = plt.figure(figsize=(names + square * n + right, head + square * n + foot), dpi=150)
        ax = figure.add_axes(inches(figure, names, head, square * n, square * n))
    _paint(ax, found, title)
    return finish(ax.figure.figure, ax, f"confusion_{basis.removeprefix('X_')}_{label}", show, save, return_fig)


def _count(adata: AnnData, label: str, basis: str, split: str) -> Confusion:
    """Return the counts of held-out cells by true type and by the type that their neighbours have."""
    z = coordinates_of(adata, basis)
    if not isinstance(label, str):
        raise TypeError(f"label must be the name of a column of adata.obs, not {type(label).__name__}.")
    if label not in adata.obs:
        near = did_you_mean(label, adata.obs.columns)
        raise KeyError(f"label={label!r} is not a column of adata.obs.{near} Columns: {listed(adata.obs.columns)}.")
    sides = split_codes(adata, basis, keys.split_of(adata, basis) if split == "auto" else split)
    if sides is None:
        raise ValueError(
            "adata.obs marks no held-out cells. Pass split=, a column with 'train' and 'held-out' or booleans; tt.fit "
            "writes 'tt_split'."
        )
    codes, classes = encode(adata.obs[label], UNLABELLED)
    if len(classes) < 2:
        raise ValueError(f"label={label!r} holds {len(classes)} type ({listed(classes)}); a confusion needs two.")
    known = (codes >= 0) & (sides >= 0)
    train, held, n = known & (sides == 0), known & (sides == 1), len(classes)
    for name, cells in (("training", train), ("held-out", held)):
        if not cells.any():
            raise ValueError(f"No {name} cell has a label in {label!r}: nothing to compare. Pass another split.")
    bad = known & ~np.isfinite(z).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{bad.sum()} of {known.sum()} labelled cells have no finite coordinates in {basis!r}. Leave them out: "
            f"adata[np.isfinite(adata.obsm[{basis!r}]).all(axis=1)]."
        )
    truth = codes[held]
    predicted = metrics.knn_votes(z[train], codes[train], z[held], n).argmax(axis=1)
    counts = np.bincount(truth * n + predicted, minlength=n * n).reshape(n, n)
    in_held, in_train = (np.bincount(codes[cells], minlength=n) > 0 for cells in (held, train))
    lacks = [" (no held-out cell)" * (not in_held[i]) + " (no training cell)" * (not in_train[i]) for i in range(n)]
    names = [name + lack for name, lack in zip(classes, lacks, strict=True)]
    p = metrics.permutation_p(truth, predicted, seed=0)
    said = verdict(p, metrics.reachable_p(truth, seed=0))
    return Confusion(counts, names, classes, metrics.macro_f1(truth, predicted), p, said)


def _remark(found: Confusion, width: float) -> list[str]:
    """Return the text below the title: how good it is, or that there is no signal."""
    if found.said == "no signal":
        words = f"no signal: held-out F1 {found.f1:.2f}, no better than permuted labels (p\u00a0=\u00a0{found.p:.2g})"
        return wrap(words, width, 1.1 * SMALL)
    few = f", {TOO_FEW}" if found.said == "too few" else ""
    words = f"held-out macro-F1 {found.f1:.2f}{few}; percent of each row, rounded"
    if found.small.any():
        words += f"; *\u00a0fewer than {FEW}\u00a0cells"
    return wrap(words, width + 0.3, SMALL)


def _paint(ax: Axes, found: Confusion, title: str) -> None:
    """Draw the matrix with its numbers and names."""
    n, silent, shares = len(found.classes), found.said == "no signal", found.shares()
    dark = "#5a5a5a" if silent else PALETTE[0]
    colors = LinearSegmentedColormap.from_list("tt", ["white", dark])
    edges = np.arange(n + 1) - 0.5
    mesh = ax.pcolormesh(edges, edges, np.ma.masked_invalid(shares), cmap=colors, norm=Normalize(0, 1),
                         edgecolors="#ececec", linewidth=0.4)  # fmt: skip
    ax.set_facecolor("#ececec")
    as_text(ax)
    ax.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5), aspect="equal")
    ax.set_xticks(range(n), [printable(name) for name in found.classes], rotation=90, fontsize=SMALL)
    ax.set_yticks(range(n), [printable(name) for name in found.names], fontsize=SMALL)
    ax.tick_params(length=0, pad=2)
    ax.spines[:].set(color=GREY, linewidth=0.6)
    ax.set_xlabel("predicted type", fontsize=SMALL, labelpad=2)
    ax.set_ylabel("true type", fontsize=SMALL, labelpad=4)
    for i, size in enumerate(found.counts.sum(axis=1)):
        words = f"{size:,}" + "*" * bool(found.small[i])
        ax.annotate(words, (1, i), (3, 0), ax.get_yaxis_transform(), "offset points", va="center_baseline",
                    fontsize=SMALL, color=INK, gid="cells", annotation_clip=False)  # fmt: skip
    ax.annotate("cells", (1, 1), (3, 2), "axes fraction", "offset points", fontsize=SMALL, color="#8c8c8c")
    width = map_width(ax)
    if width / n >= 72 * READABLE:
        _write_percentages(ax, shares, min(SMALL, 0.42 * width / n))
    else:
        color_scale(ax, ScalarMappable(mesh.norm, colors), "share of the row", (1 + 28 / width, 0.75, 0.02, 0.25))
    lines = _remark(found, width / 72)
    style: dict[str, Any] = {"color": ALARM, "weight": "bold"} if silent else {"color": NOTE}
    ax.annotate("\n".join(lines), (0, 1), (0, 3), "axes fraction", "offset points", fontsize=SMALL, linespacing=1.1,
                va="bottom", gid="remark", **style)  # fmt: skip
    above = "\n".join(wrap(title, width / 72 + 0.3, TITLE - 1))
    ax.set_title(above, fontsize=TITLE - 1, loc="left", pad=5 + 7.2 * len(lines), linespacing=1.1)


def _write_percentages(ax: Axes, shares: np.ndarray, size: float) -> None:
    """Write the percentage into each square that holds a cell."""
    for i, j in zip(*np.nonzero(np.nan_to_num(shares)), strict=True):
        color = "white" if shares[i, j] > 0.5 else INK
        words = f"{100 * shares[i, j]:.0f}" if shares[i, j] >= 0.005 else "<1"
        ax.text(j, i, words, ha="center", va="center_baseline", fontsize=size, color=color,
                gid="percent")  # fmt: skip

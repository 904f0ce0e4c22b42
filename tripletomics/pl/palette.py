"""The colours of types, by their names, and of numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, is_color_like, to_hex, to_rgb

from tripletomics.labels import is_missing
from tripletomics.labels import names as texts
from tripletomics.notices import warn
from tripletomics.parts import did_you_mean
from tripletomics.pl.branches import shades, tree_in

if TYPE_CHECKING:
    from anndata import AnnData

    from tripletomics.labels.tree import Tree

# Farthest points in OKLab under normal, deuteranope and protanope vision at once; the first ten lie furthest apart, and
# of these, colours that follow each other have different hues.
# fmt: off
PALETTE = (
    "#145cc2", "#e0c200", "#8f000a", "#7ab899", "#eb7a14", "#66297a", "#f599ff", "#856629", "#8f7aeb", "#c25c85",
    "#145c52", "#47e08f", "#6699c2", "#993d8f", "#33ad5c", "#6670b8", "#d6adcc", "#1f8566", "#3d33a3", "#a31f52",
    "#b87000", "#ff7a7a", "#b88feb", "#f5ad66", "#008fa3", "#8f3d1f", "#33adad", "#b85252", "#296699", "#5c4770",
)
# fmt: on
GREY = "#d4d4d4"
RAMP = LinearSegmentedColormap.from_list("tt", ["#ece3d4", *mpl.colormaps["magma_r"](np.linspace(0.12, 0.95, 32))])
# all of middle lightness, so that no hour looks like a minimum, and the last is the first
CIRCLE = LinearSegmentedColormap.from_list(
    "tt circle", ["#2f6fd0", "#8a4fc4", "#c9437f", "#d9822b", "#9a9a1f", "#2f9e6b", "#2f6fd0"]
)
MARKERS = "os^DvP*X"  # of types that have the same colour
Palette = str | Sequence[str] | Mapping[str, str]


def check_palette(palette: Palette | None, scales: Iterable[ScalarMappable | None], given: str) -> None:
    """Raise if a palette is given, but everything that is drawn (`given` names it) is numbers on a scale."""
    if palette is not None and all(scale is not None for scale in scales):
        raise ValueError(f"palette={palette!r} is for types, and {given} holds numbers: pass a colormap as cmap=.")


def palettes_of(
    adata: AnnData, columns: Sequence[str | None], palette: Palette | None, groups: Sequence[str] | None
) -> list[Palette | None]:
    """Return the palette of each column.

    A dict that names none of the types of a column is not for this one, if it is for another. Types that are hidden,
    because `groups` does not name them, keep their own colours.
    """
    if not isinstance(palette, Mapping):
        return [palette] * len(columns)
    found: list[Palette | None] = []
    for column in columns:
        values = adata.obs.get(column)
        names = codes_of(values)[1] if isinstance(values, pd.Series) and not is_number(values) else []
        hidden = [] if groups is None else [name for name in names if name not in groups]
        own = dict(zip(names, colours(str(column), names, None, adata), strict=True)) if hidden else {}
        mine = any(name in palette for name in names)
        found.append({name: to_hex(own[name]) for name in hidden} | dict(palette) if mine else None)
    return found if any(found) else [palette for _ in columns]


def is_number(values: Any) -> bool:
    """Return whether a column is drawn as numbers on a scale."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def ends_of(vmin: Any, vmax: Any, maps: int) -> list[tuple[Any, Any]]:
    """Return the lowest and highest value of each map's scale, from one for all maps or a list of one for each."""
    each = []
    for name, end in (("vmin", vmin), ("vmax", vmax)):
        ends = list(end) if isinstance(end, (list, tuple, np.ndarray)) else [end] * maps
        if len(ends) != maps:
            raise ValueError(f"{name} has {len(ends)} values for {maps} colours: pass one value, or one for each.")
        each.append(ends)
    return list(zip(*each, strict=True))


def codes_of(values: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Return the type of each cell (n,), -1 for none, and the names of the types in the order of the column."""
    values = values.astype("category")
    categories = texts(pd.Series(values.cat.categories))
    names = [name for name in dict.fromkeys(categories) if not is_missing(name)]
    code_of = {name: i for i, name in enumerate(names)}
    codes = np.array([*(code_of.get(name, -1) for name in categories), -1])
    return codes[values.cat.codes.to_numpy()], names


def colours(
    color: str, names: Sequence[str], palette: Palette | None, adata: AnnData | None = None, tree: Tree | None = None
) -> list[tuple[float, float, float]]:
    """Return one colour for each type; it stays when other types have no cells.

    By default a name has one colour in all columns of `adata`: that in ``uns["<column>_colors"]``, as scanpy keeps it,
    else its shade in the tree of a model (`tree`, or the one in ``uns``), or else the one at its rank among the sorted
    types of the model. Ordered categories for which the dataset keeps no colours go from light to dark.
    """
    if isinstance(palette, str):
        if palette not in mpl.colormaps:
            raise ValueError(
                f"palette={palette!r} is not known.{did_you_mean(palette, mpl.colormaps)} Pass the name of a "
                "matplotlib colormap, such as 'tab20', or a list or dict of colours."
            )
        return [to_rgb(tone) for tone in mpl.colormaps[palette](np.linspace(0, 1, len(names)))]
    if palette is not None:
        if not np.iterable(palette):
            raise TypeError(
                f"palette={palette!r} holds no colours: pass a list or a dict of them, or the name of a matplotlib "
                "colormap, such as 'tab20'."
            )
        palette = palette if isinstance(palette, Mapping) else list(palette)
        tones = palette.values() if isinstance(palette, Mapping) else palette
        if wrong := [tone for tone in tones if not is_color_like(tone)]:
            raise ValueError(
                f"palette has {wrong[0]!r}, which is not a colour of matplotlib, such as 'red' or '#ff0000'."
            )
    if isinstance(palette, Mapping):
        if lacks := [name for name in names if name not in palette]:
            near = did_you_mean(lacks[0], palette)
            raise ValueError(f"palette has no colour for {lacks[0]!r}.{near} Given: {listed(palette)}.")
        return [to_rgb(palette[name]) for name in names]
    if palette is not None and len(palette) < len(names):
        raise ValueError(f"palette has {len(palette)} colours for {len(names)} types. Give one per type.")
    if palette:
        return [to_rgb(palette[i]) for i in range(len(names))]
    known = _types_of_model(adata, names)
    rank = {name: i for i, name in enumerate(known) if name in names}
    taken = {i % len(PALETTE) for i in rank.values()}
    every = [*range(len(known), len(PALETTE)), *range(min(len(known), len(PALETTE)))]
    free = [i for i in every if i not in taken] or every
    rank |= {name: free[i % len(free)] for i, name in enumerate(sorted(set(names) - set(known)))}
    given = _kept_colours(adata, color, names)
    if not given and adata is not None and color in adata.obs and is_ordered(adata.obs[color]):
        # not from the lightest tone: training cells are paler still
        return [to_rgb(tone) for tone in RAMP(np.linspace(0.15, 1, len(names)))]
    if tree is None and adata is not None:
        tree, _ = tree_in(adata.uns, names) or (None, [])
    if tree is not None:
        given = shades(tree, names, given)
    return [to_rgb(given.get(name, PALETTE[rank[name] % len(PALETTE)])) for name in names]


def _types_of_model(adata: AnnData | None, names: Sequence[str]) -> list[str]:
    """Return the types of the first model that knows some of these names; none if there is no such model."""
    if adata is None:
        return []
    uns = adata.uns
    for key in sorted(uns, key=lambda key: key not in ("X_tt", "tt_mapping")):
        record, types = uns[key], []
        if isinstance(record, Mapping) and "classes" in record:
            types = [str(name) for name in np.atleast_1d(np.asarray(record["classes"], dtype=object))]
        elif key.endswith("_mapping") and (named := f"{key.removesuffix('_mapping')}_label") in adata.obs:
            types = codes_of(adata.obs[named])[1]
        if set(types) & set(names):
            return types
    return []


def _kept_colours(adata: AnnData | None, color: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the colours by name that the dataset keeps for a column, or for another that shares half of the names."""
    if adata is None:
        return {}
    for column in (color, *(name for name in adata.obs if name != color and f"{name}_colors" in adata.uns)):
        if column not in adata.obs or isinstance(adata.obs[column], pd.DataFrame):
            continue
        categories = texts(pd.Series(adata.obs[column].astype("category").cat.categories))
        given = _valid_colours(adata.uns.get(f"{column}_colors"), len(categories))
        if given is None:
            continue
        found = dict(zip(categories, given, strict=False))
        if column == color or 2 * len(found.keys() & set(names)) >= len(names):
            return found
    return {}


def _valid_colours(given: Any, n: int) -> list[str] | None:
    """Return the colours that the dataset keeps for `n` categories; None if they are too few or no colours."""
    given = [] if given is None else [str(tone) for tone in np.atleast_1d(given)]
    return given if len(given) >= n and all(map(is_color_like, given)) else None


def keep_colours(adata: AnnData, color: str, palette: Palette | None) -> None:
    """Write the colours of a categorical column into ``uns``, as scanpy does, if a palette is given or none are there.

    A view is left as it is: writing would copy it.
    """
    key, values = f"{color}_colors", adata.obs[color]
    if adata.is_view or not isinstance(values.dtype, pd.CategoricalDtype):
        return
    names = texts(pd.Series(values.cat.categories))
    if palette is None and _valid_colours(adata.uns.get(key), len(names)) is not None:
        return
    if palette is None and key in adata.uns:
        warn(
            f"uns[{key!r}] is replaced: it does not hold a colour for each of the {len(names)} categories of {color!r}."
        )
        del adata.uns[key]
    known = codes_of(values)[1]
    found = dict(zip(known, colours(color, known, palette, adata), strict=True))
    adata.uns[key] = [to_hex(found.get(name, GREY)) for name in names]


def markers(colours: Mapping[int, Any]) -> dict[int, str]:
    """Return a marker for each type: a disc, and another shape for each further type of the same colour."""
    seen: list[Any] = []
    found = {}
    for code, tone in colours.items():
        rgb = to_hex(tone)
        found[code] = MARKERS[seen.count(rgb) % len(MARKERS)]
        seen.append(rgb)
    return found


def is_ordered(values: Any) -> bool:
    """Return whether a column holds ordered categories."""
    return isinstance(values, pd.Series) and isinstance(values.dtype, pd.CategoricalDtype) and bool(values.cat.ordered)


def colour_scale(
    color: str,
    numbers: np.ndarray,
    cmap: str | Colormap | None,
    period: float | None = None,
    ends: tuple[float | str | None, float | str | None] = (None, None),
) -> ScalarMappable:
    """Return the scale of some numbers.

    Parameters
    ----------
    color, numbers
        The name of the numbers, and these without missing ones.
    cmap
        The colormap, or its name.
    period
        Of numbers around a circle: they go from 0 to the period, which has the colour of 0.
    ends
        The numbers of the first and the last colour, or percentiles such as "p99". By default the smallest number and
        the 0.995 quantile: a few extreme cells must not hide the others.
    """
    colormap: str | Colormap = (RAMP if period is None else CIRCLE) if cmap is None else cmap
    if isinstance(colormap, str):
        if colormap not in mpl.colormaps:
            near = did_you_mean(colormap, mpl.colormaps)
            raise ValueError(f"cmap={cmap!r} is not a matplotlib colormap; color={color!r} holds numbers.{near}")
        colormap = mpl.colormaps[colormap]
    if not isinstance(colormap, Colormap):
        raise TypeError(f"cmap={cmap!r} is neither a matplotlib colormap nor the name of one.")
    own = limits(numbers) if period is None else (0.0, period)
    asked = zip(("vmin", "vmax"), ends, strict=True)
    low, high = (own[i] if end is None else _end(name, end, numbers) for i, (name, end) in enumerate(asked))
    if low > high:
        raise ValueError(
            f"vmin={low:g} is above vmax={high:g} for color={color!r}: exchange them, or give one of them."
        )
    return ScalarMappable(Normalize(low, high, clip=True), colormap)


def _end(name: str, end: float | str, numbers: np.ndarray) -> float:
    """Return an end of a scale, given as a number or a percentile."""
    if isinstance(end, str):
        found = re.fullmatch(r"p(\d+(?:\.\d+)?)", end)
        if found is None or float(found[1]) > 100:
            raise ValueError(f"{name}={end!r} is not a number or a percentile, such as 'p99'.")
        return float(np.percentile(numbers, float(found[1]))) if len(numbers) else 0.0
    if not isinstance(end, Real) or not np.isfinite(end):
        raise ValueError(f"{name}={end!r} is not a finite number or a percentile, such as 'p99'.")
    return float(end)


def limits(numbers: np.ndarray) -> tuple[float, float]:
    """Return the smallest number and the 0.995 quantile, or the largest where both are 0 (few express a gene)."""
    if not len(numbers):
        return 0.0, 1.0
    low, high = np.quantile(numbers, (0, 0.995))
    return float(low), float(high if low < high else numbers.max())


def listed(names: Iterable[Any], most: int = 12) -> str:
    """Return the first names of many, for a message."""
    words = [str(name) for name in names]
    more = f", and {len(words) - most} more" if len(words) > most else ""
    return (", ".join(words[:most]) or "none") + more

"""What is drawn of each cell: its place, its colour, and whether it was held out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, to_rgb

from tripletomics import keys, metrics
from tripletomics.labels import NO_SIGNAL, UNLABELLED
from tripletomics.parts import did_you_mean
from tripletomics.pp import stored_matrix

if TYPE_CHECKING:
    from anndata import AnnData

# Farthest points in OKLab under normal, deuteranope and protanope vision at once; the first ten lie furthest apart.
# fmt: off
PALETTE = (
    "#145cc2", "#e0c200", "#8f000a", "#f599ff", "#c25c85", "#66297a", "#7ab899", "#8f7aeb", "#eb7a14", "#856629",
    "#145c52", "#47e08f", "#6699c2", "#993d8f", "#33ad5c", "#6670b8", "#d6adcc", "#1f8566", "#3d33a3", "#a31f52",
    "#b87000", "#ff7a7a", "#b88feb", "#f5ad66", "#008fa3", "#8f3d1f", "#33adad", "#b85252", "#296699", "#5c4770",
)
# fmt: on
GREY = "#d4d4d4"
Palette = str | Sequence[str] | Mapping[str, str]


@dataclass(frozen=True)
class Look:
    """What is drawn of each cell besides its place."""

    rgb: np.ndarray  # (n, 3)
    known: np.ndarray  # (n,) bool: False is unlabelled
    held: np.ndarray | None  # (n,) bool: held out; None when no split is shown
    codes: np.ndarray  # (n,) type of each cell, -1 for none
    types: dict[int, tuple[str, tuple[float, float, float]]]  # name and colour of each code that has cells
    scale: ScalarMappable | None  # for numbers


def points_of(adata: AnnData, basis: str) -> np.ndarray:
    """Coordinates (n, 2 or 3) of a basis; rows that are not finite become NaN in full."""
    points = coordinates_of(adata, basis)
    if points.ndim == 2 and points.shape[1] > 3 and any(word in basis.lower() for word in ("pca", "lda", "svd")):
        points = points[:, :2]
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise ValueError(f"basis={basis!r} has shape {points.shape}; a map has 2 or 3 columns.")
    bad = ~np.isfinite(points).all(axis=1)
    if bad.all():
        raise ValueError(f"basis={basis!r} has no row with finite coordinates.")
    if bad.any():
        count = f"{bad.sum()} of {len(bad)} cells"
        warnings.warn(f"{count} have no finite coordinates in {basis!r}; not drawn.", stacklevel=3)
        points[bad] = np.nan
    return points


def coordinates_of(adata: AnnData, basis: str) -> np.ndarray:
    """Coordinates (n, any) of a basis as they are."""
    present = obsm_keys(adata)
    if basis not in present:
        hint = " tt.fit writes it." if basis == "X_tt" else did_you_mean(basis, present)
        raise KeyError(f"basis={basis!r} is not in adata.obsm.{hint} Present: {some(present)}.")
    return np.array(adata.obsm[basis], dtype=float)


def distortion_of(adata: AnnData, basis: str, points: np.ndarray) -> np.ndarray:
    """Distortion (n,) of the points (n, dim) of a basis, at most 1 (chance); 0 for cells without a place.

    It is against the principal components of a fit, of its own if `fit` wrote the basis, among the training cells.
    """
    present = obsm_keys(adata)
    own = basis.removesuffix("_metric")
    key = next((key for key in (f"{own}_pca", "X_tt_pca", "X_pca") if key in present), None)
    if key is None:
        raise KeyError(
            "distortion=True compares the map with principal components: obsm['X_tt_pca'], which tt.fit writes, or "
            f"obsm['X_pca'] of sc.pp.pca. Present: {some(present)}."
        )
    r = coordinates_of(adata, key)
    there = np.isfinite(points).all(axis=1) & np.isfinite(r).all(axis=1)
    held = held_out(adata, basis, keys.split_of(adata, key.removesuffix("_pca")))
    held = np.zeros(len(points), dtype=bool) if held is None else held
    dark = metrics.distortion(points[there], r[there], None if held[there].all() else ~held[there])
    if np.isnan(dark).any():
        raise ValueError(
            f"distortion=True needs 17 or more cells to seek neighbours among, and {np.count_nonzero(there & ~held)} "
            f"training cells of {len(points)} cells have places in {basis!r} and {key!r}."
        )
    found = np.zeros(len(points))
    found[there] = np.minimum(dark, 1)
    return found


def held_out(adata: AnnData, basis: str, split: str | None) -> np.ndarray | None:
    """Which cells are held out, or None."""
    if split == "auto":
        split = keys.split_key(basis.removesuffix("_metric"))
        split = split if split in adata.obs and adata.obs[split].notna().any() else None
    if split is None:
        return None
    if split not in adata.obs:
        near = did_you_mean(split, adata.obs.columns)
        raise KeyError(f"split={split!r} is not a column of adata.obs.{near} Columns: {some(adata.obs.columns)}.")
    values = adata.obs[split]
    if pd.api.types.is_bool_dtype(values):
        return values.fillna(False).to_numpy(dtype=bool)
    if odd := sorted(set(values.dropna().astype(str)) - {"train", "held-out"}):
        raise ValueError(f"split={split!r} holds {some(odd)}; allowed are 'train' and 'held-out', or booleans.")
    if values.isna().any():
        warnings.warn(
            f"obs[{split!r}] says nothing of {values.isna().sum():,} of {len(values):,} cells: they are drawn as "
            "training cells. tt.transform(adata, model) says which the model was trained on.",
            stacklevel=3,
        )
    return (values.astype(str) == "held-out").to_numpy()


def no_signal(adata: AnnData, basis: str) -> str | None:
    """Say that a basis has no signal, where ``uns`` says so; else None."""
    key, space = (basis.removesuffix("_metric"), "metric") if basis.endswith("_metric") else (basis, "map")
    record = getattr(adata, "uns", {}).get(key)
    known = record if isinstance(record, Mapping) else {}
    p = _number(known, "p_value", space)
    if not p > NO_SIGNAL:
        return None
    held, null = (_number(known.get("scores"), split, space) for split in ("held-out", "null"))
    return silence(held, null)


def silence(held: float, null: float) -> str:
    """Say in words that there is no signal, with both scores where they are known."""
    if not np.isfinite([held, null]).all():
        return "no signal: held-out cells score no better than permuted labels"
    return f"no signal: held-out F1 {held:.2f}, permuted\u00a0labels\u00a0{null:.2f}"


def _number(record: Any, *keys: str) -> float:
    """Return the number at the end of some keys; NaN if there is none."""
    for key in keys:
        record = record.get(key) if isinstance(record, Mapping) else None
    return float(record) if isinstance(record, (int, float, np.number)) else float("nan")


def look_of(adata: AnnData, color: str | None, held: np.ndarray | None, palette: Palette | None) -> Look:
    """Colour the cells by a column or a gene."""
    none = np.full(adata.n_obs, -1)
    if color is None:
        return Look(np.tile(to_rgb(PALETTE[0]), (adata.n_obs, 1)), none < 0, held, none, {}, None)
    values = values_of(adata, color)
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        numbers = values.to_numpy(dtype=float, na_value=np.nan)
        known = np.isfinite(numbers)
        scale = colour_scale(color, numbers[known], palette)
        return Look(scale.to_rgba(np.where(known, numbers, 0))[:, :3], known, held, none, {}, scale)
    values = values.astype("category")
    wanted = [name for name in values.cat.categories if str(name) not in UNLABELLED]
    codes = values.cat.set_categories(wanted).cat.codes.to_numpy(dtype=int)
    colors = colours(color, [str(name) for name in wanted], palette)
    types = {int(code): (str(wanted[code]), colors[code]) for code in np.unique(codes[codes >= 0])}
    return Look(np.array([*colors, to_rgb(GREY)])[codes], codes >= 0, held, codes, types, None)


def values_of(adata: AnnData, color: str) -> pd.Series:
    """Return an obs column or the values of a gene."""
    if color in adata.obs:
        return adata.obs[color]
    hits = int((adata.var_names == color).sum())
    if hits > 1:
        raise ValueError(f"color={color!r} names {hits} genes. Call adata.var_names_make_unique() first.")
    if hits == 1:
        stored_matrix(adata, None)  # taking a column of a damaged one can end the process
        return pd.Series(np.asarray(adata.obs_vector(color)), index=adata.obs_names)
    near = did_you_mean(color, [*adata.obs.columns, *adata.var_names])
    raise KeyError(
        f"color={color!r} is neither a column of adata.obs nor a gene.{near} Columns: {some(adata.obs.columns)}. "
        f"Genes: {some(adata.var_names, 3)}."
    )


def colours(color: str, names: list[str], palette: Palette | None) -> list[tuple[float, float, float]]:
    """One colour for each type; it stays when other types have no cells."""
    if isinstance(palette, str):
        raise ValueError(f"color={color!r} holds types: palette is then a list or a dict of colours, not {palette!r}.")
    if isinstance(palette, Mapping):
        if lacks := [name for name in names if name not in palette]:
            near = did_you_mean(lacks[0], palette)
            raise ValueError(f"palette has no colour for {lacks[0]!r}.{near} Given: {some(palette)}.")
        return [to_rgb(palette[name]) for name in names]
    if palette is not None and len(palette) < len(names):
        raise ValueError(f"palette has {len(palette)} colours for {len(names)} types. Give one per type.")
    choice = palette or PALETTE
    return [to_rgb(choice[i % len(choice)]) for i in range(len(names))]


def colour_scale(color: str, numbers: np.ndarray, palette: Palette | None) -> ScalarMappable:
    """Scale from the least number to the 0.995 quantile: a few extreme cells must not hide the others."""
    colormap: Colormap = LinearSegmentedColormap.from_list("tt", mpl.colormaps["magma_r"](np.linspace(0.06, 0.95, 256)))
    if palette is not None:
        if not isinstance(palette, str) or palette not in mpl.colormaps:
            near = did_you_mean(palette, mpl.colormaps)
            raise ValueError(f"palette={palette!r} is not a matplotlib colormap; color={color!r} holds numbers.{near}")
        colormap = mpl.colormaps[palette]
    return ScalarMappable(Normalize(*limits(numbers), clip=True), colormap)


def limits(numbers: np.ndarray) -> tuple[float, float]:
    """Least number and 0.995 quantile; the largest number where these are the same: a gene that few cells express."""
    if not len(numbers):
        return 0.0, 1.0
    low, high = np.quantile(numbers, (0, 0.995))
    return float(low), float(high if low < high else numbers.max())


def obsm_keys(adata: AnnData) -> list[str]:
    """Return the keys of obsm, or say that this is no AnnData."""
    if not hasattr(adata, "obsm"):
        raise TypeError(f"adata must be an AnnData, not {type(adata).__name__}.")
    return list(adata.obsm)


def some(names: Iterable[Any], most: int = 12) -> str:
    """List names for a message."""
    words = [str(name) for name in names]
    more = f", and {len(words) - most} more" if len(words) > most else ""
    return (", ".join(words[:most]) or "none") + more

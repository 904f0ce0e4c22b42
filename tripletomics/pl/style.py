"""What is drawn of each cell: its coordinates, its colour, and whether it was held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize, to_rgb
from scipy import sparse

from tripletomics import keys, labels, metrics, scales
from tripletomics.features import DEPTH
from tripletomics.notices import warn
from tripletomics.parts import did_you_mean
from tripletomics.pl.branches import Branches, branch_cells, top_names, tree_in
from tripletomics.pl.palette import (
    GREY,
    PALETTE,
    RAMP,
    Palette,
    codes_of,
    colour_scale,
    colours,
    is_number,
    is_ordered,
    listed,
    markers,
)
from tripletomics.pp import stored_matrix

if TYPE_CHECKING:
    from anndata import AnnData

Types = dict[int, tuple[str, Any]]  # name and colour of each code
LOGGED = "log(1 + counts per 10,000)"
HUGE = 1e300  # no scale has room for numbers beyond it
SHORT = 3  # letters of a name that a chip on a map can hold


@dataclass(frozen=True)
class CellStyle:
    """How each cell is drawn: its colour, type and split."""

    rgb: np.ndarray  # (n, 3)
    known: np.ndarray  # (n,) bool: False is unlabelled
    split: np.ndarray | None  # (n,) 1 held out, 0 training, -1 not known; None when no split is shown
    codes: np.ndarray  # (n,) type of each cell, -1 for none
    types: Types  # those that have cells
    scale: ScalarMappable | None  # for numbers
    remark: str = ""  # on the held-out cells
    missing: str = "unlabelled"  # what the legend calls cells that are not known
    branches: Branches | None = None  # of types on several levels
    unit: str = ""  # of numbers

    @property
    def markers(self) -> dict[int, str]:
        """Return the marker of each type."""
        return markers({code: color for code, (_, color) in self.types.items()})

    @property
    def lines(self) -> list[tuple[str, int, Any]]:
        """Return for each line of a legend the name, how many names stand above it, and its type (-1 for none)."""
        if self.branches is None:
            return [(name, 0, code) for code, (name, _) in self.types.items()]
        return self.branches.lines

    def without_names(self) -> CellStyle:
        """Return the style for the legend of a map on which the types are named: it says what their hues mean."""
        heads = [] if self.branches is None else self.branches.heads
        return replace(self, types=dict(enumerate(heads)), branches=None)


def chips(types: Mapping[int, tuple[str, Any]]) -> dict[int, str]:
    """Return what stands for each type on a map that has no room for names.

    This is the name itself if all are short, such as those of Leiden clusters. Else it is a number or, where a number
    could be taken for part of a name, a letter.
    """
    names = [name for name, _ in types.values()]
    if all(len(name) <= SHORT for name in names):
        return {code: name for code, (name, _) in types.items()}
    if any(name[:1].isdigit() or name[-1:].isdigit() for name in names):
        return {code: _letters(code) for code in types}
    return {code: str(code + 1) for code in types}


def _letters(number: int) -> str:
    """Return a, b, ..., z, aa, ab, ..."""
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


def only(styles: Sequence[CellStyle], groups: Sequence[str]) -> list[CellStyle]:
    """Return styles in which the types that are not in `groups` are grey; columns without any of these are as before.

    Raises
    ------
    ValueError
        If no column has one of the groups.
    """
    if not groups:
        raise ValueError("groups=[] names no type to show: name some, or leave it out.")
    names = {name for style in styles for name, _ in style.types.values()}
    for name in groups:
        if name not in names:
            raise ValueError(
                f"groups has {name!r}, which is no type of these cells.{did_you_mean(name, names)} "
                f"Types: {listed(sorted(names))}."
            )
    found = []
    for style in styles:
        types = {code: entry for code, entry in style.types.items() if entry[0] in groups}
        inside = np.isin(style.codes, [*types])
        codes = np.where(inside, style.codes, -1)
        part = replace(style, known=inside, codes=codes, types=types, missing="other cells", branches=None)
        found.append(part if types else style)
    return found


def basis_key(adata: AnnData, basis: str) -> str:
    """Return the key of obsm that a basis names: itself or, as in scanpy, with "X_" before it."""
    return f"X_{basis}" if basis not in obsm_keys(adata) and f"X_{basis}" in adata.obsm else basis


def map_of(adata: AnnData, basis: str) -> np.ndarray:
    """Return the coordinates (n, 2 or 3) of a basis; rows that are not finite become NaN in full."""
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
        warn(f"{count} have no finite coordinates in {basis!r}; not drawn.")
        points[bad] = np.nan
    return points


def coordinates_of(adata: AnnData, basis: str) -> np.ndarray:
    """Return the coordinates (n, any) of a basis as they are."""
    present = obsm_keys(adata)
    if basis not in present:
        hint = " tt.fit writes it." if basis == "X_tt" else did_you_mean(basis, present)
        raise KeyError(f"basis={basis!r} is not in adata.obsm.{hint} Present: {listed(present)}.")
    kept = adata.obsm[basis]
    return np.array(kept.toarray() if hasattr(kept, "toarray") else kept, dtype=float)


def distortion_style(adata: AnnData, basis: str, points: np.ndarray, split: np.ndarray | None) -> CellStyle:
    """Return the style of cells by the distortion of a map around them."""
    found, no_type = distortion_of(adata, basis, points), np.full(len(points), -1)
    scale = ScalarMappable(Normalize(0, 1), RAMP)
    return CellStyle(scale.to_rgba(found)[:, :3], no_type < 0, split, no_type, {}, scale)


def distortion_of(adata: AnnData, basis: str, points: np.ndarray) -> np.ndarray:
    """Return the distortion (n,) of the points (n, dim) of a basis, at most 1 (chance); 0 for cells that are not drawn.

    The reference is principal components of the training cells: those of the same fit, if `fit` wrote the basis.
    """
    present = obsm_keys(adata)
    own = keys.map_key(basis)
    key = next((key for key in (keys.pca_key(own), keys.pca_key(keys.DEFAULT_KEY), "X_pca") if key in present), None)
    if key is None:
        raise KeyError(
            "distortion=True compares the map with principal components: obsm['X_tt_pca'], which tt.fit writes, or "
            f"obsm['X_pca'] of sc.pp.pca. Present: {listed(present)}."
        )
    r = coordinates_of(adata, key)
    there = np.isfinite(points).all(axis=1) & np.isfinite(r).all(axis=1)
    codes = split_codes(adata, basis, keys.split_of(adata, key.removesuffix("_pca")))
    train = np.ones(len(points), dtype=bool) if codes is None else codes == 0
    dark = metrics.distortion(points[there], r[there], train[there] if train[there].any() else None)
    if np.isnan(dark).any():
        raise ValueError(
            f"distortion=True needs 17 or more cells to seek neighbours among, and {np.count_nonzero(there & train)} "
            f"training cells of {len(points)} cells have coordinates in {basis!r} and {key!r}."
        )
    found = np.zeros(len(points))
    found[there] = np.minimum(dark, 1)
    return found


def split_codes(adata: AnnData, basis: str, split: str | None) -> np.ndarray | None:
    """Return which cells are held out (1) and which are training cells (0), or None; -1 where nothing is said."""
    if split == "auto":
        split = keys.split_key(keys.map_key(basis))
        split = split if split in adata.obs and adata.obs[split].notna().any() else None
    if split is None:
        return None
    if split not in adata.obs:
        near = did_you_mean(split, adata.obs.columns)
        raise KeyError(f"split={split!r} is not a column of adata.obs.{near} Columns: {listed(adata.obs.columns)}.")
    values = adata.obs[split]
    given = set(values.dropna().astype(str))
    if given <= {"train", "held-out"}:  # one name alone cannot hold out cells, but can be drawn
        codes = values.astype(str).map({"train": 0, "held-out": 1}).fillna(-1).to_numpy(dtype=np.int8)
    else:
        try:
            codes = labels.split_of(values)
        except ValueError:
            codes = None
    if codes is None:
        raise ValueError(
            f"split={split!r} holds {listed(sorted(given))}; allowed are 'train' and 'held-out', or booleans."
        )
    if unknown := int((codes < 0).sum()):
        warn(
            f"obs[{split!r}] says nothing about {unknown:,} of {len(codes):,} cells: they are drawn as a group "
            "of their own. tt.transform(adata, model) says which the model was trained on."
        )
    return codes


def style_of(
    adata: AnnData,
    color: str | None,
    split: np.ndarray | None,
    palette: Palette | None,
    layer: str | None = None,
    *,
    use_raw: bool | None = None,
    cmap: str | Colormap | None = None,
    ends: tuple[float | str | None, float | str | None] = (None, None),
) -> CellStyle:
    """Return the style of the cells by a column or a gene."""
    no_type = np.full(adata.n_obs, -1)
    if color is None:
        return CellStyle(np.tile(to_rgb(PALETTE[0]), (adata.n_obs, 1)), no_type < 0, split, no_type, {}, None)
    values, unit = values_of(adata, color, layer, use_raw)
    if is_number(values):
        period = period_of(adata, color)
        numbers = values.to_numpy(dtype=float, na_value=np.nan)
        numbers = numbers if period is None else np.mod(numbers, period)
        known = np.abs(numbers) < HUGE
        scale = colour_scale(color, numbers[known], cmap, period, ends)
        rgb = scale.to_rgba(np.where(known, numbers, 0))[:, :3]
        return CellStyle(rgb, known, split, no_type, {}, scale, missing="no value", unit=unit)
    codes, names = codes_of(values)
    colors = colours(color, names, palette, adata)
    types = {int(code): (names[code], colors[code]) for code in np.unique(codes[codes >= 0])}
    style = CellStyle(np.array([*colors, to_rgb(GREY)])[codes], codes >= 0, split, codes, types, None)
    if labels.UNASSIGNED in (blank := set(labels.names(values[codes < 0]))):
        style = replace(style, missing="unassigned" if len(blank) == 1 else "unassigned or unlabelled")
    if is_ordered(values):
        style = replace(style, missing="no value")
    found = tree_in(adata.uns, names) if color in adata.obs else None
    if found is None or top_names(found[0]).issuperset(names):
        return style
    codes, types, branches = branch_cells(*found, adata.obs, color, dict(zip(names, colors, strict=True)))
    rgb = np.array([*(rgb for _, rgb in types.values()), to_rgb(GREY)])[codes]
    return replace(style, rgb=rgb, known=codes >= 0, codes=codes, types=types, branches=branches)


def period_of(adata: AnnData, color: str) -> float | None:
    """Return the period of a column that a model took as circular, or of its prediction; None for others."""
    for key, record in adata.uns.items():
        said = record.get("circular") if isinstance(record, Mapping) else None
        if isinstance(said, Mapping) and color in adata.obs:
            prefix = "tt" if key == keys.DEFAULT_KEY else key
            for name, period in zip(said["columns"], said["periods"], strict=True):
                if color in (name, f"{prefix}_{name}"):
                    return float(period)
    return None


def values_of(
    adata: AnnData, color: str, layer: str | None = None, use_raw: bool | None = None
) -> tuple[pd.Series, str]:
    """Return an obs column or the values of a gene, and their unit if they were logged here."""
    if not isinstance(color, str):
        raise TypeError(f"color must be the name of a column of adata.obs or of a gene, not {type(color).__name__}.")
    raw: Any = getattr(adata, "raw", None)
    if use_raw and layer is not None:
        raise ValueError(f"use_raw=True and layer={layer!r} name two sources of genes: leave out one of them.")
    if use_raw and raw is None:
        raise ValueError("use_raw=True takes genes from adata.raw, but adata.raw is empty: leave out use_raw=.")
    if layer is not None and layer not in adata.layers:
        near = did_you_mean(layer, adata.layers)
        raise KeyError(f"layer={layer!r} is not a layer of adata.{near} Layers: {listed(adata.layers)}.")
    in_raw = raw is not None and color in raw.var_names
    if color in adata.obs:
        if in_raw or color in adata.var_names:
            raise ValueError(
                f"color={color!r} is a column of adata.obs and a gene: rename the column, for example "
                f"adata.obs = adata.obs.rename(columns={{{color!r}: {color + '_column'!r}}})."
            )
        if isinstance(adata.obs[color], pd.DataFrame):
            raise ValueError(f"color={color!r} names {adata.obs[color].shape[1]} columns of adata.obs: keep one.")
        if np.iscomplexobj(adata.obs[color]):
            raise TypeError(f"color={color!r} holds complex numbers: draw their real parts, or their sizes.")
        return adata.obs[color], ""
    from_raw = use_raw or (use_raw is None and layer is None and in_raw)
    genes = raw.var_names if from_raw else adata.var_names
    hits = int((genes == color).sum())
    if hits > 1:
        raise ValueError(f"color={color!r} names {hits} genes. Call adata.var_names_make_unique() first.")
    if not hits:
        near = did_you_mean(color, [*adata.obs.columns, *genes])
        raise KeyError(
            f"color={color!r} is neither a column of adata.obs nor a gene{' of adata.raw' * from_raw}.{near} "
            f"Columns: {listed(adata.obs.columns)}. Genes: {listed(genes, 3)}."
        )
    if from_raw:
        x = _in_memory(raw.X)
        return _logged(raw, x, color, scales.looks_like_counts(x))
    if layer is None and adata.X is None:
        raise ValueError(f"color={color!r} is a gene, and adata.X is empty: name the matrix with layer=.")
    x = stored_matrix(adata, layer)  # taking a column of a damaged matrix can end the process
    if layer is None:
        x = _in_memory(x)
        return _logged(adata, x, color, _holds_counts(adata, x))
    return pd.Series(np.asarray(adata.obs_vector(color, layer=layer)), index=adata.obs_names), ""


def _in_memory(x: Any) -> Any:
    """Return a matrix that can be summed up; one in a file is read."""
    x = x.to_memory() if hasattr(x, "to_memory") else x
    return x if sparse.issparse(x) else np.asarray(x)


def _holds_counts(adata: AnnData, x: Any) -> bool:
    """Return whether `.X` holds counts, as a model recorded that read it, or else as `fit` would decide."""
    for record in adata.uns.values():
        read: Any = record.get("settings") if isinstance(record, Mapping) and "classes" in record else None
        of_x = isinstance(read, Mapping) and (read.get("layer"), read.get("use_rep", "None")) == ("None", "None")
        if of_x and (said := read["counts"]) in ("True", "False"):
            return bool(said == "True")
    return scales.looks_like_counts(x)


def _logged(of: Any, x: Any, gene: str, counts: bool) -> tuple[pd.Series, str]:
    """Return the values of a gene and their unit; counts are normalised and logged, as in a model."""
    values = np.asarray(of.obs_vector(gene), dtype=float)
    if counts:
        total = np.asarray(x.sum(axis=1), dtype=float).ravel()
        values = np.log1p(values * (DEPTH / np.where(total > 0, total, 1)))
    return pd.Series(values, index=of.obs_names), LOGGED if counts else ""


def obsm_keys(adata: AnnData) -> list[str]:
    """Return the keys of obsm, or raise a TypeError."""
    if not hasattr(adata, "obsm"):
        raise TypeError(f"adata must be an AnnData, not {type(adata).__name__}.")
    return list(adata.obsm)

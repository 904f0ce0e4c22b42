"""The split into training, calibration and held-out cells."""

from __future__ import annotations

from collections.abc import Container
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tripletomics.labels import encode, flags, names, split_of
from tripletomics.notices import warn
from tripletomics.parts import did_you_mean
from tripletomics.pp.checks import column
from tripletomics.problem import Settings, as_text

if TYPE_CHECKING:
    from anndata import AnnData


def split(adata: AnnData, hold_out: float | str | np.ndarray | pd.Series, codes: np.ndarray, seed: int) -> np.ndarray:
    """Choose the cells that the model must not see.

    Parameters
    ----------
    adata
        Holds the column that `hold_out` may name.
    hold_out
        A fraction in [0, 1) drawn within every type; a column whose groups are held out whole (about 10 % of the
        cells); ``"column=group"`` or ``"column=group,group"``; a column that says which cells to hold out, as
        `labels.split_of` reads it; or the split itself, boolean (cells,).
    codes
        Class codes (cells,), -1 for unlabelled.
    seed
        Seed of the draw.

    Returns
    -------
    Boolean (cells,), True for held-out.
    """
    random = np.random.default_rng(seed)
    if isinstance(hold_out, (np.ndarray, pd.Series)):
        held_out = _by_name(adata, hold_out) if isinstance(hold_out, pd.Series) else hold_out
        if held_out.dtype != bool or held_out.shape != codes.shape:
            raise ValueError(
                f"hold_out is {held_out.dtype} of shape {held_out.shape}: pass True or False for each of "
                f"{len(codes):,} cells, or the name of a column of adata.obs."
            )
        hold_out = "the array"
    elif isinstance(hold_out, str):
        held_out = _held_out_groups(adata, hold_out, random)
    elif isinstance(hold_out, bool) or not isinstance(hold_out, Real) or not 0 <= hold_out < 1:
        raise ValueError(f"hold_out={hold_out!r} is neither a fraction in [0, 1) nor a column of adata.obs.")
    else:
        held_out = _held_out_fraction(float(hold_out), codes, random)
    if held_out.all():
        raise ValueError(f"hold_out={hold_out!r} leaves no training cell.")
    return held_out


def _by_name(adata: AnnData, hold_out: pd.Series) -> np.ndarray:
    """Return the values of the cells, matched by name where the index has their names, else in the order given."""
    cells = adata.obs.index  # a dataset on disk is only its columns
    if hold_out.index.is_unique and cells.isin(hold_out.index).all():
        hold_out = hold_out.reindex(cells)
    marks = flags(hold_out)
    return hold_out.to_numpy() if marks is None or marks.isna().any() else marks.to_numpy(dtype=bool)


def split_names(held_out: np.ndarray) -> pd.Categorical[str]:
    """Return "train" or "held-out" for each cell, from a boolean (cells,)."""
    return pd.Categorical.from_codes(held_out.astype(np.int8), pd.Index(["train", "held-out"]))


def _held_out_fraction(fraction: float, codes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw a fraction of every type; of a type of five or more at least one, and two always stay for training."""
    held_out = np.zeros(len(codes), dtype=bool)
    if fraction == 0:
        return held_out
    for code in np.unique(codes):
        cells = np.flatnonzero(codes == code)
        n = max(round(fraction * len(cells)), int(len(cells) >= 5))
        held_out[random.permutation(cells)[: min(n, max(len(cells) - 2, 0))]] = True
    return held_out


def parse_hold_out(hold_out: str, columns: Container[str]) -> tuple[str, str]:
    """Return the column that `hold_out` names and its groups, "" for all; the name of a column may have a "=" in it."""
    name, _, wanted = hold_out.partition("=")
    return (hold_out, "") if hold_out in columns else (name, wanted)


def _held_out_groups(adata: AnnData, hold_out: str, random: np.random.Generator) -> np.ndarray:
    name, wanted = parse_hold_out(hold_out, adata.obs.columns)
    values = column(adata, name, "hold_out")
    if not wanted and (marked := _marked(values, hold_out)) is not None:
        return marked
    groups = names(values)
    sizes = groups.value_counts().sort_index()
    if len(sizes) < 2:
        raise ValueError(f"hold_out={hold_out!r}: the column has one group, so holding it out leaves no training cell.")
    if wanted:
        chosen = [group.strip() for group in wanted.split(",")] if wanted not in sizes.index else [wanted]
        for group in chosen:
            if group not in sizes.index:
                raise ValueError(
                    f"hold_out={hold_out!r}: {group!r} is not a group of {name!r}.{did_you_mean(group, sizes.index)} "
                    f"Groups: {', '.join(sizes.index)}."
                )
        return groups.isin(chosen).to_numpy()
    # whole groups up to a tenth of the cells; where even the smallest is larger, one of the small ones
    tenth = 0.1 * sizes.sum()
    order = [group for group in random.permutation(sizes.index) if sizes[group] <= max(tenth, 1.5 * sizes.min())]
    chosen, total = order[:1], sizes[order[0]]
    for group in order[1:]:
        if total + sizes[group] <= tenth:
            chosen.append(group)
            total += sizes[group]
    return groups.isin(chosen).to_numpy()


def _marked(values: pd.Series, name: str) -> np.ndarray | None:
    """Return the cells that a column of a split holds out, boolean (cells,); None if it holds groups."""
    try:
        marks = split_of(values)
    except ValueError as error:
        groups = [f"{name}={group}" for group in sorted(names(values).dropna().unique())]
        raise ValueError(
            f"hold_out={name!r}: the column {error}. Say which: hold_out={groups[-1]!r}, or another of "
            f"{', '.join(groups[:5])}."
        ) from None
    if marks is None:
        return None
    if unknown := int((marks < 0).sum()):
        silent = f"hold_out={name!r} says nothing about {unknown:,} of {len(marks):,} cells"
        if flags(values) is None:
            raise ValueError(f"{silent}: mark each as 'train' or 'held-out', or leave these cells out.")
        warn(f"{silent}: they become training cells.")
    if not (marks == 1).any():
        raise ValueError(f"hold_out={name!r} marks no cell.")
    return marks == 1


def check_not_types(settings: Settings, batches: np.ndarray | None, codes: np.ndarray, held_out: np.ndarray) -> None:
    """Raise if the batches are the cell types under another name; warn if whole types are held out.

    Parameters
    ----------
    settings
        Name the columns.
    batches, codes
        Batch and type of each cell (cells,), -1 where unknown.
    held_out
        Boolean (cells,).
    """
    label = as_text(settings.label)
    if batches is not None and _same_groups(batches, codes):
        raise ValueError(
            f"batch={settings.batch!r} splits the cells exactly as label={label!r} does, so types and batches cannot "
            "be told apart: name the column of donors or runs, or leave batch out."
        )
    known = held_out & (codes >= 0)
    if isinstance(settings.hold_out, str) and known.any() and not np.isin(codes[known], codes[~held_out]).any():
        warn(
            f"hold_out={settings.hold_out!r} holds out whole types, so no held-out cell is of a type that the model "
            f"knows, and its scores say nothing about label={label!r}. Hold out donors or runs, or a fraction such as "
            "0.1."
        )


def _same_groups(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether two codes of cells, -1 where unknown, are the same groups under other names."""
    pairs = np.unique(np.stack([a, b])[:, (a >= 0) & (b >= 0)], axis=1)
    return pairs.shape[1] > 1 and all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


def batch_codes(adata: AnnData, name: str | None, held_out: np.ndarray) -> np.ndarray | None:
    """Return batch codes (cells,), -1 where it is missing; None without a column.

    Raises
    ------
    ValueError
        If the training cells are of one batch.
    """
    if name is None:
        return None
    codes, levels = encode(column(adata, name, "batch"), ())
    seen = np.unique(codes[~held_out & (codes >= 0)])
    if len(seen) < 2:
        which = f"one batch, {levels[seen[0]]!r}" if len(seen) else "no batch"
        raise ValueError(
            f"batch={name!r}: the training cells are of {which}, so there is nothing to learn across batches. Leave "
            "batch out, or hold out fewer."
        )
    return codes

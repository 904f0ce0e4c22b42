"""Checks of what the user gave, the choice of genes, and the split into training and held-out cells."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from tripletomics import features
from tripletomics.parts import did_you_mean
from tripletomics.sources import Matrix

if TYPE_CHECKING:
    from anndata import AnnData

N_GENES = 2000


def column(adata: AnnData, name: str | None, argument: str) -> pd.Series:
    """Return an obs column, or say which there are."""
    columns = ", ".join(map(str, adata.obs.columns)) or "none"
    if name is None:
        raise ValueError(f"{argument}=None: name the column of adata.obs with the cell types. Columns: {columns}.")
    if name not in adata.obs.columns:
        raise KeyError(
            f"{argument}={name!r} is not a column of adata.obs.{did_you_mean(name, adata.obs.columns)} "
            f"Columns: {columns}."
        )
    return adata.obs[name]


def numbers(adata: AnnData, name: str | None) -> np.ndarray | None:
    """Return the numbers of an obs column, NaN where one is missing."""
    if name is None:
        return None
    values = column(adata, name, "pseudotime")
    if not pd.api.types.is_numeric_dtype(values):
        raise TypeError(f"pseudotime={name!r} holds {values.dtype}, not numbers.")
    return values.to_numpy(dtype=float, na_value=np.nan)


def matrix(adata: AnnData, layer: str | None) -> Matrix:
    """Return `.X` or a layer after checking that its values can be used.

    Raises
    ------
    TypeError
        If `adata` is no AnnData in memory, or the matrix does not hold numbers.
    KeyError
        If there is no such layer.
    ValueError
        If the table is empty, a gene name occurs twice, or a value is NaN or infinite.
    """
    check_anndata(adata)
    if layer is not None and layer not in adata.layers:
        layers = ", ".join(adata.layers) or "none"
        raise KeyError(f"layer={layer!r} is not a layer of adata.{did_you_mean(layer, adata.layers)} Layers: {layers}.")
    x = adata.X if layer is None else adata.layers[layer]
    if x is None:
        raise ValueError("adata.X is empty: name the matrix with layer=.")
    if not adata.n_obs or not adata.n_vars:
        raise ValueError(f"adata has {adata.n_obs} cells and {adata.n_vars} genes: there is nothing to map.")
    repeated = adata.var_names[adata.var_names.duplicated()].unique()
    if len(repeated):
        raise ValueError(
            f"{len(repeated)} gene names occur more than once (first: {_first(repeated)}). "
            "Run adata.var_names_make_unique() first."
        )
    x = x if sp.issparse(x) else np.asarray(x)
    if x.dtype.kind not in "fiub":
        raise TypeError(
            f"The matrix holds {x.dtype}, not numbers: convert it, for example adata.X = adata.X.astype('float32')."
        )
    if not np.isfinite(features.stored(x)).all():
        entries = sp.coo_matrix(x)
        bad = ~np.isfinite(entries.data)
        cells, names = np.unique(entries.row[bad]), adata.var_names[np.unique(entries.col[bad])]
        raise ValueError(
            f"{len(cells)} cells have NaN or infinite values in {len(names)} genes (first: {_first(names)}). "
            "Remove or impute them first."
        )
    return x


def check_anndata(adata: object) -> None:
    """Raise a TypeError unless `adata` is an AnnData in memory."""
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        raise TypeError(f"adata is {type(adata).__name__}, not AnnData: read a file with anndata.read_h5ad(path).")
    if adata.isbacked:
        raise TypeError("adata is backed by a file: pass adata.to_memory().")


def check_settings(
    structure: float,
    dim: int,
    metric_dim: int,
    steps: int | None,
    batch_size: int | None,
    lr: float,
    seed: int,
) -> None:
    """Raise a ValueError that names the first setting out of its range."""
    for name, value, low, high in (
        ("dim", dim, 2, 3),
        ("metric_dim", metric_dim, 2, 512),
        ("steps", 1 if steps is None else steps, 1, math.inf),
        ("batch_size", 4 if batch_size is None else batch_size, 4, math.inf),
        ("seed", seed, 0, 2**32 - 1),
    ):
        check_whole(name, value, low, high)
    if isinstance(structure, bool) or not isinstance(structure, Real) or not 0 <= structure <= 1:
        raise ValueError(f"structure={structure!r} is not a number from 0 (labels) to 1 (data).")
    if isinstance(lr, bool) or not isinstance(lr, Real) or not 0 < lr < math.inf:
        raise ValueError(f"lr={lr!r} is not a number above 0; 0.001 is usual.")


def check_whole(name: str, value: object, low: float, high: float = math.inf) -> None:
    """Raise a ValueError unless a setting is a whole number in a range."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise ValueError(f"{name}={value!r} is not a whole number {_range(low, high)}.")


def check_key(key_added: str) -> None:
    """Raise a ValueError unless a file can hold the key."""
    if not isinstance(key_added, str) or not key_added or "/" in key_added:
        raise ValueError(f"key_added={key_added!r} is not a name without '/', such as 'X_tt'.")
    if key_added == "X":
        raise ValueError(
            "key_added='X' would write over obsm['X_pca'], which is scanpy's: choose another, such as 'X_tt'."
        )


def check_labels(
    codes: np.ndarray, classes: list[str], held_out: np.ndarray, label: str | None, batch_size: int | None
) -> None:
    """Refuse labels that nothing can be learned from, and warn about types that are hard to learn."""
    if not classes:
        raise ValueError(f"label={label!r}: no cell is labelled. Missing values and names in unlabelled= do not count.")
    if len(classes) == 1:
        raise ValueError(f"label={label!r} has one type, {classes[0]!r}: there is nothing to tell apart.")
    train = np.bincount(codes[~held_out & (codes >= 0)], minlength=len(classes))
    named = np.array(classes, dtype=object)
    if (train > 0).sum() < 2:
        raise ValueError(f"label={label!r} has {(train > 0).sum()} type among the training cells: hold out fewer.")
    if train.max() < 2:
        raise ValueError(
            f"label={label!r} has {len(classes)} types of one training cell each: is it a column of names or numbers?"
        )
    if batch_size is not None and batch_size > train.sum():
        raise ValueError(
            f"batch_size={batch_size} is above the number of labelled training cells, {train.sum()}: lower it, or "
            "leave it to follow the data."
        )
    if (train == 1).any():
        warnings.warn(
            f"Types of one training cell: {_first(named[train == 1])}. They are kept apart from the others but have "
            "nothing to come close to.",
            stacklevel=4,
        )
    if (train == 0).any():
        warnings.warn(
            f"Types that only held-out cells have: {_first(named[train == 0])}. The model cannot know them; they count "
            "as wrong in the scores.",
            stacklevel=4,
        )


def check_model(model: object) -> None:
    """Raise a TypeError unless `model` is a Model."""
    from tripletomics.model import Model

    if not isinstance(model, Model):
        raise TypeError(f"model is {type(model).__name__}, not a Model: read a file with tripletomics.load(path).")


def check_scale(x: Matrix, contract: features.Features) -> None:
    """Raise a ValueError if a query is on another scale than the training cells."""
    if contract.counts and features.stored(x).min(initial=0) < 0:
        raise ValueError(
            "The query has negative values, but the model was trained on counts: name the layer with counts."
        )
    if features.looks_like_counts(x) != contract.like_counts:
        kinds = {True: "counts", False: "log-transformed or other continuous values"}
        raise ValueError(
            f"The query holds {kinds[not contract.like_counts]}, but the model was trained on "
            f"{kinds[contract.like_counts]}: name the layer with the right values (layer=), or convert them."
        )


def decide_counts(x: Matrix, counts: bool | str) -> bool:
    """Settle whether values are counts, and refuse negative ones that are said to be."""
    if counts == "auto":
        return features.looks_like_counts(x)
    if counts not in (True, False):
        raise ValueError(f"counts={counts!r} is not known. Allowed: 'auto', True, False.")
    if counts and features.stored(x).min(initial=0) < 0:
        raise ValueError(
            "counts=True, but the matrix has negative values: name the layer with the counts, or counts=False."
        )
    return bool(counts)


def choose_genes(adata: AnnData, x: Matrix, train: np.ndarray, counts: bool) -> features.Choice:
    """Choose the genes of a model on training rows alone.

    Those marked in ``var["highly_variable"]`` if there are any, else all of up to 2,000. Else the encoder sees the
    2,000 genes whose (normalised, logged) values vary most, and the principal components are those of the 2,000 most
    dispersed genes, scanpy's choice. Where values are neither counts nor logged, the former serve for both.
    """
    rows = sp.csr_matrix(x)[train] if sp.issparse(x) else x[train]
    if "highly_variable" in adata.var:
        marked = np.flatnonzero(adata.var["highly_variable"].fillna(False).to_numpy(dtype=bool))
        if len(marked):
            return features.Choice.every(marked, _share(rows, marked, counts))
    if adata.n_vars <= N_GENES:
        return features.Choice.every(np.arange(adata.n_vars))
    logged = features.normalise(rows, features.DEPTH) if counts else rows
    _, variance = features.mean_and_variance(logged)
    varying = np.zeros(adata.n_vars, dtype=bool)
    varying[np.argsort(-variance, kind="stable")[:N_GENES]] = True
    values = features.stored(logged)
    if values.min(initial=0) < 0 or values.max(initial=0) > features.LOGGED:
        return features.Choice.every(np.flatnonzero(varying))
    dispersed = _dispersed(logged)
    columns = np.flatnonzero(varying | dispersed)
    columns = columns[np.argsort(~varying[columns], kind="stable")]
    return features.Choice(columns, int(varying.sum()), dispersed[columns], _share(rows, columns, counts))


def _dispersed(logged: Matrix) -> np.ndarray:
    import scanpy
    from anndata import AnnData

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = scanpy.pp.highly_variable_genes(AnnData(logged), n_top_genes=N_GENES, inplace=False)
    return found["highly_variable"].to_numpy(dtype=bool)


def _share(rows: Matrix, columns: np.ndarray, counts: bool) -> float:
    if not counts:
        return 1.0
    total, part = (np.asarray(part.sum(axis=1), dtype=float).ravel() for part in (rows, rows[:, columns]))
    return float(np.median(part[total > 0] / total[total > 0])) if (part > 0).any() else 1.0


def split(adata: AnnData, hold_out: float | str | np.ndarray, codes: np.ndarray, seed: int) -> np.ndarray:
    """Choose the cells that the model must not see.

    Parameters
    ----------
    adata
        Holds the column that `hold_out` may name.
    hold_out
        A fraction in [0, 1) drawn within every type; a column whose groups are held out whole (about 10 % of the
        cells); ``"column=group"`` or ``"column=group,group"``; a boolean column, or one of "train" and "held-out"; or
        the split itself, boolean (cells,).
    codes
        Class codes (cells,), -1 for unlabelled.
    seed
        For the draw.

    Returns
    -------
    Boolean (cells,), True for held-out.
    """
    random = np.random.default_rng(seed)
    if isinstance(hold_out, np.ndarray):
        held_out = hold_out
    elif isinstance(hold_out, str):
        held_out = _held_out_groups(adata, hold_out, random)
    elif isinstance(hold_out, bool) or not isinstance(hold_out, (int, float)) or not 0 <= hold_out < 1:
        raise ValueError(f"hold_out={hold_out!r} is neither a fraction in [0, 1) nor a column of adata.obs.")
    else:
        held_out = _held_out_fraction(hold_out, codes, random)
    if held_out.all():
        raise ValueError(f"hold_out={hold_out!r} leaves no training cell.")
    return held_out


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


def _held_out_groups(adata: AnnData, hold_out: str, random: np.random.Generator) -> np.ndarray:
    name, equals, wanted = hold_out.partition("=")
    if hold_out in adata.obs.columns or not equals:
        name, wanted = hold_out, ""
    values = column(adata, name, "hold_out")
    if not wanted and pd.api.types.is_bool_dtype(values):
        if not values.any():
            raise ValueError(f"hold_out={hold_out!r} marks no cell.")
        return values.fillna(False).to_numpy(dtype=bool)
    groups = values.astype(object).where(values.notna(), None).map(lambda g: None if g is None else str(g))
    sizes = groups.value_counts().sort_index()
    if not wanted and set(sizes.index) == {"train", "held-out"}:
        return (groups == "held-out").to_numpy()
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


def match_genes(adata: AnnData, genes: list[str], missing: str) -> np.ndarray:
    """Find the model's genes in a query.

    Returns
    -------
    Column numbers in the model's order, -1 for a gene that the query lacks (only with ``missing="zero"``).
    """
    if missing not in ("error", "zero"):
        raise ValueError(f"missing={missing!r} is not known. Allowed: error, zero.")
    columns = adata.var_names.get_indexer(genes)
    lacking = [gene for gene, found in zip(genes, columns, strict=True) if found < 0]
    if len(lacking) == len(genes):
        raise ValueError(f"The query has none of the model's {len(genes)} genes (the model's first: {_first(genes)}).")
    if lacking and missing == "error":
        raise ValueError(
            f"The query lacks {len(lacking)} of the model's {len(genes)} genes (first: {_first(lacking)}). "
            "Pass missing='zero' to fill them, or refit on shared genes."
        )
    return columns


def take(x: Matrix, columns: np.ndarray) -> Matrix:
    """Take columns of a matrix in the given order; column -1 is filled with zeros."""
    found = columns >= 0
    if not sp.issparse(x):
        out = np.zeros((x.shape[0], len(columns)), dtype=x.dtype)
        out[:, found] = x[:, columns[found]]
        return out
    chosen = sp.csr_matrix(x[:, columns[found]])
    if found.all():
        return chosen
    places = np.flatnonzero(found).astype(chosen.indices.dtype)
    return sp.csr_matrix((chosen.data, places[chosen.indices], chosen.indptr), shape=(x.shape[0], len(columns)))


def _range(low: float, high: float) -> str:
    return f"of at least {low}" if high == math.inf else f"from {low} to {high}"


def _first(names: Iterable[str], n: int = 3) -> str:
    return ", ".join(map(str, list(names)[:n]))

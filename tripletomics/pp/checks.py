"""Checks of what the user gave."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from tripletomics import gaps, scales
from tripletomics.labels import UNASSIGNED, is_missing
from tripletomics.labels.tree import Tree
from tripletomics.model import Model
from tripletomics.names import percent
from tripletomics.notices import warn
from tripletomics.parts import did_you_mean
from tripletomics.pp.matrices import check_compressed
from tripletomics.sources import Matrix

if TYPE_CHECKING:
    from anndata import AnnData

MOST_NUMBERS = 12  # different numbers that may be types; clusters that are numbered are text or categories
LEAST = 4  # training cells: fewer views have nothing to compare
LARGEST = float(np.finfo(np.float32).max)  # value that does not overflow


def column(adata: AnnData, name: str | None, argument: str) -> pd.Series:
    """Return an obs column, or raise if there is none of this name."""
    columns = ", ".join(map(str, adata.obs.columns)) or "none"
    if name is None:
        raise ValueError(f"{argument}=None: name the column of adata.obs with the cell types. Columns: {columns}.")
    if not isinstance(name, Hashable) or name not in adata.obs.columns:
        raise KeyError(
            f"{argument}={name!r} is not a column of adata.obs.{did_you_mean(str(name), adata.obs.columns)} "
            f"Columns: {columns}."
        )
    values = adata.obs[name]
    if isinstance(values, pd.DataFrame):
        raise ValueError(
            f"{argument}={name!r}: adata.obs has {values.shape[1]} columns of this name, as after a join. Keep one: "
            "adata.obs = adata.obs.loc[:, ~adata.obs.columns.duplicated()]."
        )
    return values


def types(adata: AnnData, name: str | None, unlabelled: Sequence[str], argument: str = "label") -> pd.Series:
    """Return an obs column of types, or raise if it holds measured values, which are no types.

    Text, categories and booleans are types whatever they hold.
    """
    values = column(adata, name, argument)
    plain = values.dropna().infer_objects() if values.dtype == object else values  # columns of two modalities
    if not pd.api.types.is_numeric_dtype(plain) or pd.api.types.is_bool_dtype(plain) or plain.dtype.kind == "c":
        return values
    known = known_values(plain, unlabelled)
    odd = known[(known != np.floor(known)) | np.isinf(known)]
    if not len(odd) and len(known) <= MOST_NUMBERS:
        return values
    held = f"numbers that are not whole, such as {odd[0]:g}" if len(odd) else f"{len(known):,} different numbers"
    x = f"adata.obs[{name!r}]"
    cure = f"If they have an order, as a day or a size has, fit with order={name!r}. " if argument == "label" else ""
    raise ValueError(
        f"{argument}={name!r} holds {held}, which seem to be values, not types. {cure}If each number is a type, "
        f'write {x} = {x}.astype("category").'
    )


def known_values(values: pd.Series, unlabelled: Sequence[str]) -> np.ndarray:
    """Return the different numbers of a column, without missing ones and those that mean unlabelled."""
    found = pd.unique(values.dropna())
    return np.array([float(value) for value in found if not is_missing(value, unlabelled)])


def numbers(adata: AnnData, name: str | None) -> np.ndarray | None:
    """Return the numbers of an obs column, NaN where one is missing."""
    if name is None:
        return None
    values = column(adata, name, "pseudotime")
    if not pd.api.types.is_numeric_dtype(values):
        raise TypeError(f"pseudotime={name!r} holds {values.dtype}, not numbers.")
    return values.to_numpy(dtype=float, na_value=np.nan)


def matrix(adata: AnnData, layer: str | None, missing: str | None = None) -> Matrix:
    """Return `.X` or a layer after checking that its values can be used.

    Parameters
    ----------
    adata
        The cells.
    layer
        Layer to use in place of `.X`.
    missing
        What to do about NaN, as for `tripletomics.fit` and `transform`: "impute" keeps it, "zero" makes it 0. All else
        refuses it; None is for verbs that have no such argument.

    Raises
    ------
    TypeError
        If `adata` is not an AnnData in memory, or the matrix does not hold numbers.
    KeyError
        If there is no such layer.
    ValueError
        If the dataset is empty, a gene name occurs twice, a value is infinite, above 3e38, or (unless `missing` says
        what to do) NaN, or the arrays of a sparse matrix contradict each other.
    """
    check_anndata(adata)
    if layer is not None and layer not in adata.layers:
        layers = ", ".join(adata.layers) or "none"
        near = did_you_mean(layer, adata.layers)
        if layer == "raw" and adata.raw is not None:
            near = " The values of adata.raw are not a layer: pass adata.raw.to_adata() in place of adata."
        raise KeyError(f"layer={layer!r} is not a layer of adata.{near} Layers: {layers}.")
    x = stored_matrix(adata, layer)
    if x is None:
        raise ValueError("adata.X is empty: name the matrix with layer=.")
    if not adata.n_obs or not adata.n_vars:
        raise ValueError(f"adata has {adata.n_obs} cells and {adata.n_vars} genes: there is nothing to map.")
    repeated = adata.var_names[adata.var_names.duplicated()].unique()
    if len(repeated):
        occur = "name occurs" if len(repeated) == 1 else "names occur"
        raise ValueError(
            f"{len(repeated)} gene {occur} more than once (first: {first(repeated)}). "
            "Run adata.var_names_make_unique() first."
        )
    if np.ma.is_masked(x):
        raise ValueError(f"{np.ma.count_masked(x)} values of the matrix are masked: fill or impute them first.")
    x = x if sp.issparse(x) else np.asarray(x)
    if x.dtype.kind not in "fiub":
        raise TypeError(
            f"The matrix holds {x.dtype}, not numbers: convert it, for example adata.X = adata.X.astype('float32')."
        )
    if gaps.has_gaps(x):
        if missing not in ("zero", "impute"):
            allowed = '. Pass missing="impute" to take them as not measured, or fill them'
            if not missing:
                allowed = ". All values are needed here: fill them, such as with the median of the feature,"
            raise ValueError(f"{_where(adata, x, np.isnan, 'NaN')}{allowed} or leave these cells out.")
        x = gaps.fill(sp.csr_matrix(x) if sp.issparse(x) else x, 0 if missing == "zero" else np.nan)
    values = gaps.stored(x)
    if not np.isfinite(values).all():
        raise ValueError(f"{_where(adata, x, np.isinf, 'infinite values')}. Remove or replace them first.")
    if values.dtype.itemsize > 4 and max(-float(values.min(initial=0)), float(values.max(initial=0))) > LARGEST:
        raise ValueError(
            f"The matrix has values up to {np.abs(values).max():.3g}, and above {LARGEST:.2g} they overflow: divide "
            "all by one number, or remove those that are not measurements."
        )
    return x


def _where(adata: AnnData, x: Matrix, bad: Callable[[np.ndarray], np.ndarray], what: str) -> str:
    """Return which cells and genes have bad values, as text."""
    entries = x.tocoo() if sp.issparse(x) else sp.coo_matrix(bad(x))
    found = bad(entries.data) if sp.issparse(x) else entries.data
    cells, names = np.unique(entries.row[found]), adata.var_names[np.unique(entries.col[found])]
    have, genes = "cell has" if len(cells) == 1 else "cells have", "gene" if len(names) == 1 else "genes"
    return f"{len(cells):,} {have} {what} in {len(names):,} {genes} (first: {first(names)})"


def check_measured(adata: AnnData, x: Matrix) -> None:
    """Raise if nothing was measured of some cells, whose rows `x` of chosen genes has only NaN there."""
    if (nothing := gaps.empty(x, axis=1)).any():
        raise ValueError(
            f"{nothing.sum():,} of {len(nothing):,} cells have no measured value in the {x.shape[1]:,} chosen genes "
            f"(first: {first(adata.obs_names[nothing])}): leave them out."
        )


def stored_matrix(adata: AnnData, layer: str | None) -> Matrix:
    """Return `.X` or a layer after checking its arrays, None if it does not exist; a lazy matrix is read."""
    name = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    if adata.is_view and (whole := adata._adata_ref) is not None:  # taking rows of a damaged matrix can end the process
        check_compressed(whole.X if layer is None else whole.layers[layer], name)
    x = adata.X if layer is None else adata.layers[layer]
    read = getattr(x, "compute", None) or getattr(x, "to_memory", None)  # of dask, of anndata on disk
    return check_compressed(x if read is None else read(), name)


def check_anndata(adata: object) -> None:
    """Raise a TypeError unless `adata` is an AnnData in memory."""
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        way = "read a file with anndata.read_h5ad(path), a store with anndata.read_zarr(path)"
        if hasattr(adata, "shape"):  # an array, a matrix or a DataFrame
            way = (
                "pass anndata.AnnData(x) of cells by genes, with the cell types in a column of its .obs; or use "
                "tripletomics.sklearn.TripletMap"
            )
        if hasattr(adata, "iloc"):
            way = "pass anndata.AnnData(df); fit, Model.map, Model.embed and Model.predict take a DataFrame as it is"
        raise TypeError(f"adata is {type(adata).__name__}, not AnnData: {way}.")
    if adata.isbacked:
        raise TypeError("adata is backed by a file: pass adata.to_memory().")
    if not isinstance(adata.obs, pd.DataFrame):
        raise TypeError("adata is lazy, so its columns are not in memory: pass adata.to_memory().")


def check_labels(codes: np.ndarray, classes: list[str], held_out: np.ndarray, label: str | None) -> None:
    """Raise if nothing can be learned from the labels, and warn about types that are hard to learn."""
    if not classes:
        raise ValueError(f"label={label!r}: no cell is labelled. Missing values and names in unlabelled= do not count.")
    check_type_names(classes, label)
    if odd := [name for name in classes if is_missing(name)]:
        warn(
            f"label={label!r} has a type {odd[0]!r}, which looks like a missing value: name it in unlabelled= as well, "
            "or rename it."
        )
    if len(classes) == 1:
        raise ValueError(f"label={label!r} has one type, {classes[0]!r}: there is nothing to distinguish.")
    train = np.bincount(codes[~held_out & (codes >= 0)], minlength=len(classes))
    named = np.array(classes, dtype=object)
    if (train > 0).sum() < 2:
        raise ValueError(f"label={label!r} has {(train > 0).sum()} type among the training cells: hold out fewer.")
    if train.max() < 2:
        raise ValueError(
            f"label={label!r} has {len(classes)} types of one training cell each: is it a column of names or numbers?"
        )
    if (train == 1).any():
        warn(
            f"Types of one training cell: {first(named[train == 1])}. They are kept apart from the others but have "
            "nothing to come close to."
        )
    warn_of_unknown_types(named[train == 0].tolist())


def check_type_names(classes: Sequence[str], label: str | None) -> None:
    """Raise if a type has the name that `predict` gives to cells like no known type."""
    if UNASSIGNED in classes:
        raise ValueError(
            f"label={label!r} has a type {UNASSIGNED!r}, which is what predict calls cells of no known type: rename "
            "it, or name it in unlabelled=."
        )


def warn_of_unknown_types(names: Sequence[str]) -> None:
    """Warn of types that only held-out cells have, if there are any."""
    if names:
        warn(
            f"Types that only held-out cells have: {first(names)}. The model cannot know them; they count as wrong in "
            "the scores."
        )


def warn_of_single_types(tree: Tree, nodes: np.ndarray) -> None:
    """Warn of names above one type, if some training cells, whose nodes these are, are known only so far."""
    below = tree.leaves_below()
    for node in np.unique(nodes[nodes >= tree.n_leaves]):
        if below[node].sum() == 1:
            name, only = tree.names[node], tree.names[below[node].argmax()]
            warn(
                f"{(nodes == node).sum():,} training cells are known only as {name!r}, and {only!r} is the only type "
                f"below it, so they count as {only!r}. If some are of another type, give it a name, such as "
                f"'other {name}', and some cells."
            )


def check_batch_size(batch_size: int | None, codes: np.ndarray, of_labelled: bool) -> None:
    """Raise if there are fewer training cells, which have these codes, than a minibatch or any view loss needs."""
    n = int((codes >= 0).sum()) if of_labelled else len(codes)
    if not of_labelled and n < LEAST:
        raise ValueError(f"There are {n} training cells, but a loss of views needs {LEAST} or more: hold out fewer.")
    if batch_size is not None and batch_size > n:
        raise ValueError(
            f"batch_size={batch_size} is above the number of {'labelled ' * of_labelled}training cells, {n}: lower it, "
            "or leave it to follow the data."
        )


def refuse_without_labels(adata: AnnData, argument: str, value: str | bool, label: str | None = None) -> None:
    """Raise, because an argument of `fit` makes sense only with labels."""
    columns = ", ".join(map(str, adata.obs.columns)) or "none"
    why, cure = {
        "loss": ("learns from labels", "take a loss that uses only views, such as 'simclr'"),
        "batch": ("brings cells of one type together, by labels", "leave batch out"),
        "self_training": ("gives labels to cells like those that have one", "leave self_training out"),
    }[argument]
    raise ValueError(
        f"{argument}={value!r} {why}, and label={label!r} gives none: name the column of adata.obs with the cell "
        f"types, or {cure}. Columns: {columns}."
    )


def check_self_training(codes: np.ndarray, paired: bool) -> None:
    """Raise if there are two modalities; warn if all training cells, whose codes these are, have a label."""
    if paired:
        raise ValueError(
            "self_training=True works with one modality, and two were given: leave self_training out, or fit one of "
            "the two."
        )
    if (codes >= 0).all():
        warn("self_training=True changes nothing, because all training cells have labels.")


def check_molecules(x: Matrix, counts: bool, augment: str) -> None:
    """Raise if the values to thin are not whole numbers of molecules."""
    values = gaps.stored(x)
    if not counts or not scales.whole(values):
        what = "the counts are not whole numbers" if counts else "the values are not counts"
        raise ValueError(
            f"augment={augment!r} removes single molecules, but {what}: name the layer with the raw counts, or "
            "take 'mask'."
        )


def check_model(model: object) -> None:
    """Raise a TypeError unless `model` is a Model."""
    if not isinstance(model, Model):
        raise TypeError(f"model is {type(model).__name__}, not a Model: read a file with tripletomics.load(path).")


def decide_counts(x: Matrix, counts: bool | str, name: str = "", rows: np.ndarray | None = None) -> bool:
    """Return whether the values of a (named) modality are counts; raise if these are, and some values are negative.

    Some rows decide, boolean (cells,), by default all. For whole numbers of few features, which can be either, a
    warning says what was decided. Missing values do not count.
    """
    if counts not in ("auto", True, False):
        raise ValueError(f"counts={counts!r} is not known. Allowed: 'auto', True, False.")
    found, own = counts, x if rows is None or rows.all() else x[rows]
    if counts is True:
        _check_counts(own)
    if counts == "auto":
        found, values = scales.looks_like_counts(own), gaps.stored(own)
        if x.shape[1] < scales.PANEL and values.any() and scales.whole(values):
            _note_on_panel(own, found, name)
    if found and gaps.stored(x).min(initial=0) < 0:
        if counts == "auto":
            raise ValueError(
                "The training cells are counts, but some of the other cells have negative values: bring all to one "
                "scale, leave these cells out, or pass counts=False."
            )
        raise ValueError(
            "counts=True, but the matrix has negative values: name the layer with the counts, or counts=False."
        )
    return bool(found)


def _check_counts(x: Matrix) -> None:
    """Raise if values that are said to be counts were logged; warn if they only look so."""
    values, kind = gaps.stored(x), scales.see(x)
    if kind.logged:
        raise ValueError(
            f"counts=True, but the matrix holds {kind}, and a fit would take the logarithm again: name the layer with "
            "the counts (layer=), or leave counts out."
        )
    if not kind.kind and values.max(initial=0) <= scales.LOGGED and not scales.whole(values):
        warn(
            f"counts=True, but the largest value is {values.max():.3g} and not all are whole, as after a logarithm: if "
            "these are not counts, name the layer with the counts (layer=), or leave counts out."
        )


def _note_on_panel(x: Matrix, counts: bool, name: str) -> None:
    """Warn how whole numbers of few features were read, unless they are small counts."""
    values = gaps.stored(x)
    if counts and np.median(values[values > 0]) <= scales.SMALL:
        return
    zeros = 1 - np.count_nonzero(values) / (x.shape[0] * x.shape[1])
    held = f"{f'Modality {name!r}: ' if name else ''}{x.shape[1]} features of whole numbers ({percent(zeros)} are 0, "
    held += f"the largest is {values.max():.0f})"
    taken = (
        "counts of molecules: each cell is scaled to one total and logged. If they are channels of a cytometer or "
        "other intensities, pass counts=False; if they are counts, pass counts=True to stop this warning."
        if counts
        else "intensities, and not normalised. If molecules or antibodies were counted, pass counts=True; if not, "
        "pass counts=False to stop this warning."
    )
    warn(f"{held} are taken for {taken}")


def first(names: Iterable[str], n: int = 3) -> str:
    """Return the first few names as text."""
    return ", ".join(map(str, list(names)[:n]))

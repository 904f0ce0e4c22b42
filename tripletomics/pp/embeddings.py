"""An embedding in `obsm` that takes the place of the genes: `use_rep`.

Here it becomes a small dataset of cells by dimensions. All later code treats it like any other dataset. Only `features`
knows what is different for an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from tripletomics.checkpoint import digest
from tripletomics.keys import metric_key, pca_key
from tripletomics.parts import did_you_mean
from tripletomics.pp.checks import LARGEST, check_anndata, first
from tripletomics.pp.matrices import check_compressed
from tripletomics.seen import hash_rows
from tripletomics.sources import Matrix

if TYPE_CHECKING:
    from anndata import AnnData

    from tripletomics.features import Features

FEWEST = 2  # dimensions: a map of one would be a line


def embedding_of(adata: AnnData, use_rep: str, fitted: Features | None = None) -> AnnData:
    """Return a dataset of the dimensions of an embedding.

    Parameters
    ----------
    adata
        The cells.
    use_rep
        Key of `obsm`. The embedding is dense, sparse or a DataFrame, whose columns name the dimensions.
    fitted
        Features of a model that reads it. Columns of a DataFrame are brought into the model's order, by name.

    Raises
    ------
    KeyError
        If there is no such key.
    TypeError
        If `adata` is not an AnnData in memory, or the embedding does not hold numbers.
    ValueError
        If a value is NaN, infinite or above 3e38, there are fewer than two dimensions, two have the same name, or they
        are not those of the model.
    """
    import anndata

    check_anndata(adata)
    check_key(use_rep, list(adata.obsm))
    if adata.is_view and (whole := adata._adata_ref) is not None:  # taking rows of a damaged matrix can end the process
        check_compressed(whole.obsm[use_rep], f"use_rep={use_rep!r}")
    kept: Any = adata.obsm[use_rep]
    read = getattr(kept, "compute", None) or getattr(kept, "to_memory", None)  # of dask, of anndata on disk
    kept = kept if read is None else read()
    columns = [str(name) for name in kept.columns] if isinstance(kept, pd.DataFrame) else None
    x = coordinates(kept, adata.obs_names, use_rep)
    if x.shape[1] < FEWEST:
        raise ValueError(
            f"use_rep={use_rep!r} has {x.shape[1]} dimension{'s' * (x.shape[1] != 1)}, and a map needs two or more."
        )
    if columns is not None and len({*columns}) < len(columns):
        twice = pd.Index(columns)[pd.Index(columns).duplicated()].unique()
        raise ValueError(
            f"use_rep={use_rep!r} has several columns of one name (first: {first(twice)}): make the names unique, or "
            "pass an array."
        )
    if fitted is not None:
        x, columns = _as_model(x, columns, use_rep, fitted), fitted.genes
    var = pd.DataFrame(index=columns or dimensions(use_rep, x.shape[1]))
    return anndata.AnnData(x, pd.DataFrame(index=adata.obs_names), var)


def dimensions(use_rep: str, n: int, names: Sequence[str] | None = None) -> list[str]:
    """Return names of the n dimensions of an embedding: those of a model, or new ones such as "X_scVI_1".

    Raises
    ------
    ValueError
        If the model has another number of dimensions.
    """
    if names is None:
        return [f"{use_rep}_{i + 1}" for i in range(n)]
    if n != len(names):
        raise ValueError(
            f"use_rep={use_rep!r} has {n} dimensions in the query, and the model was fitted on {len(names)}: embed the "
            "query with the model that embedded the training cells."
        )
    return list(names)


def check_key(use_rep: object, keys: Sequence[str], where: str = "adata.obsm") -> None:
    """Raise unless a key is among those of `obsm`."""
    if not isinstance(use_rep, str):
        raise TypeError(f"use_rep={use_rep!r} is not a key of {where}: pass text such as 'X_scVI'.")
    if use_rep not in keys:
        genes = " For the genes in .X, leave use_rep out." if use_rep == "X" else did_you_mean(use_rep, keys)
        raise KeyError(f"use_rep={use_rep!r} is not in {where}.{genes} Present: {', '.join(keys) or 'none'}.")


def check_kept(given: object, key: str, argument: str = "use_rep") -> None:
    """Raise if results under a key of `obsm` would be written over the coordinates that they are made from."""
    if isinstance(given, str) and given in (key, metric_key(key), pca_key(key)):
        raise ValueError(
            f"{argument}={given!r} would be written over, because the map goes to {key!r}: choose another key_added, "
            "such as 'X_mine'."
        )


def coordinates(kept: Any, cells: pd.Index, key: str, argument: str = "use_rep") -> Matrix:
    """Return the coordinates under a key of `obsm`, dense or CSR; raise unless they are finite numbers."""
    if isinstance(kept, pd.DataFrame):
        kept = kept.to_numpy()
    if np.ma.is_masked(kept):
        kept = kept.astype(float).filled(np.nan)
    x: Any = sp.csr_matrix(check_compressed(kept, f"{argument}={key!r}")) if sp.issparse(kept) else np.asarray(kept)
    if x.ndim != 2:
        raise ValueError(f"{argument}={key!r} has shape {x.shape}: pass cells by dimensions.")
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{argument}={key!r} holds {x.dtype}, not numbers: convert it with astype('float32').")
    values = x.data if sp.issparse(x) else x.ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        sound = np.isfinite(values) & (np.abs(values) <= LARGEST) if values.dtype.itemsize > 4 else np.isfinite(values)
    if not sound.all():
        lengths = np.diff(x.indptr) if sp.issparse(x) else x.shape[1]
        bad = np.unique(np.repeat(np.arange(x.shape[0]), lengths)[~sound])
        raise ValueError(
            f"{argument}={key!r} has NaN, infinite or too large values in {len(bad)} of {x.shape[0]} rows (first: "
            f"{first(cells[bad])}). Leave these cells out, or embed them again."
        )
    return x


def _as_model(x: Matrix, columns: list[str] | None, use_rep: str, fitted: Features) -> Matrix:
    """Return the dimensions of a query in the order of the model, by name if both have names."""
    names = dimensions(use_rep, x.shape[1], fitted.genes)
    if columns in (None, names) or names == dimensions(str(fitted.use_rep), len(names)):
        return x
    missing = [name for name in names if name not in columns]
    if missing:
        raise ValueError(
            f"use_rep={use_rep!r} lacks {len(missing)} of the model's {len(names)} dimensions by name (first: "
            f"{first(missing)}; the query's first: {first(columns)}). Name the columns as in the fit, or pass an array "
            "with the dimensions in the same order."
        )
    return x[:, [columns.index(name) for name in names]]


# which cells an embedding was made from, if this is known


def note_training(adata: AnnData, key: str, held_out: np.ndarray) -> None:
    """Record in `uns` that the coordinates under a key of `obsm` were fitted without the held-out cells."""
    adata.uns[key] = {"fitted_on": _names(adata, held_out), "values": _values(adata.obsm[key])}


def is_blind(adata: AnnData, use_rep: str, held_out: np.ndarray) -> bool:
    """Return whether an embedding is known to be made without the held-out cells."""
    record = adata.uns.get(use_rep)
    if not isinstance(record, Mapping) or not {"fitted_on", "values"} <= {*record}:
        return False
    return bool(record["fitted_on"] == _names(adata, held_out) and record["values"] == _values(adata.obsm[use_rep]))


def _names(adata: AnnData, held_out: np.ndarray) -> str:
    """Return a hash of the names of the training cells, in any order."""
    return digest(sorted(adata.obs_names[~held_out].astype(str)))


def _values(x: Any) -> str:
    """Return a hash of the values of all cells, in any order."""
    return digest(np.sort(hash_rows(coordinates(x, pd.RangeIndex(x.shape[0]).astype(str), ""))))

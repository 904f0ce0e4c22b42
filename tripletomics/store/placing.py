"""Rows of a dataset on disk, embedded block by block: one loop for a whole dataset and for a part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from tripletomics import keys, pp
from tripletomics.sources import Matrix
from tripletomics.store import writing
from tripletomics.store.reading import Rows

if TYPE_CHECKING:
    import pandas as pd

    from tripletomics.model import Model

Place = Callable[[Matrix, np.ndarray | None], tuple[np.ndarray, np.ndarray]]
FIRST_ROWS = 1024  # on which the scale is checked before anything is written


def match_rows(rows: Rows, var: pd.DataFrame, model: Model, start: int, options: pp.QueryOptions) -> pp.Query:
    """Match the genes of a dataset to those of a model, and check the scale of the first rows from `start` on.

    Raises
    ------
    ValueError, KeyError, TypeError
        As `pp.take_query`.
    """
    part, weights, stop = model.part(), model.gene_weights(), min(start + FIRST_ROWS, rows.n_obs)
    asked = options.missing, options.alias, weights, options.min_matched
    pp.match_genes(AnnData(var=var), part.genes, *asked)  # its errors are not about rows
    first = AnnData(rows.read(start, stop), var=var)
    with naming_rows(start, stop):
        return pp.take_query(first, part, weights, replace(options, layer=None))


def embed_blocks(
    rows: Rows, var: pd.DataFrame, model: Model, match: pp.Match, key: str, blocks: Sequence[range],
    *, step: Callable[[str], None], present: np.ndarray | None = None, pcs: bool = False, fitted: bool = False,
    missing: str = "error", place: Place | None = None,
) -> Iterator[writing.Block]:  # fmt: skip
    """Yield the coordinates of blocks of rows: metric space, map and, if asked for, principal components.

    Parameters
    ----------
    rows, var
        The matrix, and the genes of its columns.
    model, match
        The model, and where its genes are among these.
    key
        Key of the map in `obsm`.
    blocks
        Some of `blocks_of` the dataset.
    step
        Called with a title at the start of each block.
    present
        Genes that were measured, as for `Model.place`.
    pcs
        Whether principal components are asked for.
    fitted
        Whether the model was fitted to this dataset. The rows may then be on any scale.
    missing
        What to do about NaN, as for `pp.matrix`.
    place
        Called as `Model.place`, and in place of it.

    Raises
    ------
    ValueError, TypeError
        If rows cannot be read or used; it names these.
    """
    for block in blocks:
        start, stop = block.start, block.stop
        step(f"rows {start:,} to {stop - 1:,}")
        x = _read_block(rows, var, start, stop, match, missing)
        if not fitted:
            with naming_rows(start, stop):
                pp.check_scale(x, model.part(), match.columns >= 0)
        z, m = (place or model.place)(x, present)
        found = {keys.metric_key(key): z, key: m} | ({keys.pca_key(key): model.pcs(x, present)} if pcs else {})
        yield writing.Block(start, stop, found, x)


def blocks_of(n_obs: int) -> list[range]:
    """Return the rows of a dataset in blocks, each a chunk of its coordinates."""
    return [range(i, min(i + writing.CHUNK_ROWS, n_obs)) for i in range(0, n_obs, writing.CHUNK_ROWS)]


def _read_block(rows: Rows, var: pd.DataFrame, start: int, stop: int, match: pp.Match, missing: str) -> Matrix:
    """Return a block of rows by the genes of a model, after checking its values."""
    height, parts = rows.at_once(writing.CHUNK_ROWS), []
    for begin in range(start, stop, height):
        end = min(begin + height, stop)
        some = AnnData(rows.read(begin, end), var=var)
        with naming_rows(begin, end):
            parts.append(pp.take(pp.matrix(some, None, missing), match.columns))
    return sp.vstack(parts, format="csr") if sp.issparse(parts[0]) else np.concatenate(parts)


@contextmanager
def naming_rows(start: int, stop: int) -> Iterator[None]:
    """Add to an error the rows that it is about."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise type(error)(f"Rows {start:,} to {stop - 1:,}: {error}") from None

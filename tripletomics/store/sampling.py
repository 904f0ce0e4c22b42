"""Cells of a dataset on disk, read for a fit: all of a small dataset, a sample of a large one.

A fit draws a bounded number of cells however many there are. So a sample of bounded size, with an equal share of each
type, does as well as all cells, and the order of the rows on disk does not matter.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pandas as pd
from anndata import AnnData

from tripletomics import pp
from tripletomics.model.scoring import SCORED
from tripletomics.problem import Settings
from tripletomics.samplers import allocate
from tripletomics.sources import Matrix
from tripletomics.store.layout import reporting

if TYPE_CHECKING:
    from tripletomics.store.frames import Obs
    from tripletomics.store.layout import Group
    from tripletomics.store.reading import Rows

# a matrix that is larger, as it is stored without compression, stays on disk, and a sample of its rows is fitted
WHOLE_BYTES, WHOLE_CELLS = 2 * 10**9, 300_000
SAMPLE_BYTES, SAMPLE_CELLS = 5 * 2**25, 300_000  # of that sample, in memory: the process takes up to 1.5 GB


class Drawn(NamedTuple):
    """Which cells of a large dataset are in memory.

    Attributes
    ----------
    rows
        Their numbers, ascending.
    codes, held_out
        For all cells of the dataset: codes of their types, and which are held out.
    has_loss
        Whether the loss is given with the column of the types.
    """

    rows: np.ndarray
    codes: np.ndarray
    held_out: np.ndarray
    has_loss: bool


def is_large(rows: Rows) -> bool:
    """Return whether a matrix stays on disk; one by genes (CSC), whose rows cannot be read one by one, never does."""
    return not rows.by_genes and (rows.n_obs > WHOLE_CELLS or rows.n_bytes > WHOLE_BYTES)


def read_sample(rows: Rows, obs: Obs, var: pd.DataFrame, settings: Settings) -> tuple[AnnData, Drawn | None]:
    """Read all cells, or a sample of those of a large dataset.

    Parameters
    ----------
    rows, obs, var
        The matrix, the columns of its cells, and its genes.
    settings
        Settings of the fit.

    Returns
    -------
    The cells, and which ones they are; None for all. Columns of `obs` that a fit does not need have no values.

    Raises
    ------
    KeyError, ValueError
        If there is no such column, or something cannot be read.
    """
    hold_out, seed = settings.hold_out, settings.seed
    roles = pp.roles_of(obs.obs, settings)
    named = [*roles.arguments.items(), *[(settings.batch, "batch")] * (settings.batch is not None)]
    columns = _read_columns(obs, rows.n_obs, named, hold_out)
    if not is_large(rows):
        every = np.arange(rows.n_obs)
        return _make_table(rows.read_whole(), obs, columns, every, var, settings), None
    rows.check()
    cells = cast(AnnData, SimpleNamespace(obs=columns, n_obs=rows.n_obs))
    found = pp.read_columns(cells, settings, roles)
    codes, held_out = found.nodes, pp.split(cells, hold_out, found.strata(), seed)
    sparse = rows.is_smaller_as_csr()
    most = int(min(SAMPLE_CELLS, SAMPLE_BYTES // rows.bytes_of_a_row(sparse)))
    drawn = Drawn(draw(codes, held_out, most, seed), codes, held_out, roles.loss is not None)
    return _make_table(rows.gather(drawn.rows, sparse), obs, columns, drawn.rows, var, settings), drawn


def read_published(root: Group, obs: Obs, adata: AnnData, drawn: Drawn | None, settings: Settings) -> np.ndarray | None:
    """Read the map to adopt, and give `adata`, all cells or a sample of them, its coordinates.

    Returns
    -------
    Of a sample, the coordinates of all training cells of the dataset, float32 (cells, dim), NaN for others; else None.

    Raises
    ------
    KeyError, FileNotFoundError, TypeError, ValueError
        As `pp.published_map`.
    """
    import anndata

    given, held = settings.map, cast(Any, root.get("obsm", {}))
    if given is None:
        return None
    if isinstance(given, str) and given in held:
        with reporting(f"obsm[{given!r}] of {str(obs.path)!r} cannot be read"):
            values = anndata.io.read_elem(held[given])
        whole = pp.coordinates(values, pp.name_of(given))
        adata.obsm[given] = whole if drawn is None else whole[drawn.rows]
    else:
        frame = given if isinstance(given, pd.DataFrame) else pp.read_table(given, list(held))
        if drawn is None:
            return None
        whole = pp.match(frame, pd.Index(obs.names(np.arange(len(drawn.held_out)))), pp.name_of(given))
    return None if drawn is None else np.where(drawn.held_out[:, None], np.float32(np.nan), whole)


def draw(codes: np.ndarray, held_out: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Draw the cells of a large dataset that a model is fitted to and scored on.

    Parameters
    ----------
    codes
        Codes (cells,), -1 for unlabelled.
    held_out
        Boolean (cells,). Of these up to 5,000 are drawn, as for the scores: labelled ones, if there are any.
    most
        Cells in all. Each type has an equal share of the labelled training cells. The share of unlabelled ones is that
        in the dataset, but not more than half.
    seed
        Seed of the draw.

    Returns
    -------
    Rows in ascending order.
    """
    random = np.random.default_rng([seed, 6])
    labelled = held_out & (codes >= 0)
    test = random.permutation(np.flatnonzero(labelled if labelled.any() else held_out))
    drawn = [test[: min(SCORED, most // 4)]]
    left = most - len(drawn[0])
    unlabelled = np.flatnonzero(~held_out & (codes < 0))
    sizes = np.bincount(codes[~held_out & (codes >= 0)])
    n = min(round(left * min(len(unlabelled) / (~held_out).sum(), 0.5)), left)
    n = min(max(n, left - int(sizes.sum())), len(unlabelled))
    drawn.append(random.permutation(unlabelled)[:n])
    for code, share in enumerate(allocate(sizes.tolist(), left - n)):
        drawn.append(random.permutation(np.flatnonzero(~held_out & (codes == code)))[:share])
    return np.sort(np.concatenate(drawn))


def _read_columns(obs: Obs, n_obs: int, named: list[tuple[str, str]], hold_out: Any) -> pd.DataFrame:
    """Read the columns of `obs` that are named with an argument of a fit; raise if one is not there."""
    if isinstance(hold_out, str):
        named.append((pp.parse_hold_out(hold_out, obs.obs)[0], "hold_out"))
    for name, argument in named:
        pp.column(cast(AnnData, obs), name, argument)
    return pd.DataFrame({name: obs.read(name) for name, _ in named}, index=pd.RangeIndex(n_obs))


def _make_table(
    x: Matrix, obs: Obs, columns: pd.DataFrame, rows: np.ndarray, var: pd.DataFrame, settings: Settings
) -> AnnData:
    """Make an AnnData of rows; columns that are not needed have no values, and are there for messages to list."""
    empty = pd.Categorical.from_codes(np.full(len(rows), -1, dtype=np.int8), pd.Index([""]))
    others = pd.DataFrame({name: empty for name in obs.obs if name not in columns}, index=rows)
    frame = pd.concat([columns.iloc[rows], others], axis=1).set_axis(pd.Index(obs.names(rows), dtype=object))
    if settings.use_rep is not None:
        return AnnData(obs=frame, obsm={settings.use_rep: x})
    layer = settings.layer
    return AnnData(x, frame, var) if layer is None else AnnData(obs=frame, var=var, layers={layer: x})

"""What `fit` and the verbs for new cells are given: one table, or two of the same cells, matched by name."""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from tripletomics import features, labels, modalities, scales
from tripletomics.features import Features
from tripletomics.modalities import Pair, PairFeatures
from tripletomics.notices import warn
from tripletomics.parts import did_you_mean
from tripletomics.pp.checks import check_anndata, first, matrix
from tripletomics.pp.genes import check_variance, choose_genes
from tripletomics.pp.matching import unversioned
from tripletomics.pp.queries import Query, take_query
from tripletomics.sources import Matrix

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from tripletomics.model import Model

MATCHED = 0.5  # share of the smaller table's cells below which few are in both
NAMES = ("rna", "protein")  # of two tables that come without names
TAKEN = ("self", "x", "present", "k", "reject", "coverage")  # by other arguments of the model's methods


@dataclass(frozen=True)
class Table:
    """The cells of one table, or of two.

    Attributes
    ----------
    obs
        Their columns and names: the table itself, or one without genes that has all cells of both.
    x
        Its matrix, or the two matrices as a `Pair`.
    sides
        The tables by name; one has the name "".
    rows
        For each of them, where its cells are among all.
    whole
        What both came in, if that was a MuData.
    """

    obs: AnnData
    x: Matrix
    sides: dict[str, AnnData]
    rows: Sequence[np.ndarray | slice]
    whole: Any = None

    def matrices(self) -> list[tuple[AnnData, Matrix, np.ndarray]]:
        """List the tables with their matrices of all cells, and which of these they measured."""
        if not isinstance(self.x, Pair):
            return [(self.obs, self.x, np.ones(self.obs.n_obs, dtype=bool))]
        return list(zip(self.sides.values(), self.x.sides, self.x.measured.T, strict=True))

    def targets(self) -> list[tuple[Any, np.ndarray | slice]]:
        """List what results are written to, with the cells of each among all."""
        found: list[tuple[Any, np.ndarray | slice]] = list(zip(self.sides.values(), self.rows, strict=True))
        if self.whole is not None:
            found.append((self.whole, self.obs.obs_names.get_indexer(self.whole.obs_names)))
        return found


def named_sides(adata: Any, names: Sequence[str] = NAMES, least: int = 2) -> tuple[dict[str, AnnData], Any]:
    """Take two tables apart: a tuple, a dict from name to table, or a MuData, which is returned as well.

    Raises
    ------
    TypeError, ValueError
        If these are not two AnnData in memory.
    """
    whole = adata if type(adata).__name__ == "MuData" else None
    if isinstance(adata, (tuple, list)):
        sides: dict[str, Any] = dict(zip(names, adata, strict=False))
        n = len(adata)
    else:
        sides = dict(adata if isinstance(adata, Mapping) else adata.mod)
        n = len(sides)
    if not least <= n <= 2:
        held = f" ({', '.join(map(str, sides))})" if n and not isinstance(adata, (tuple, list)) else ""
        raise ValueError(
            f"Two modalities are needed; you gave {n}{held}: name two, as in {{'rna': mdata['rna'], "
            "'protein': mdata['prot']}, or pass one table."
        )
    for name, side in sides.items():
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name in TAKEN:
            raise ValueError(f"{name!r} cannot be the name of a modality, which is a word such as 'protein'.")
        _of_modality(name, check_anndata, side)
    if whole is not None:
        gone = whole.obs_names[~np.any([whole.obs_names.isin(side.obs_names) for side in sides.values()], axis=0)]
        if len(gone):
            raise ValueError(
                f"Cells of the MuData are in neither modality (first: {first(gone)}): run mdata.update() first."
            )
    return sides, whole


def is_pair(adata: object) -> bool:
    """Tell whether two tables were given."""
    return isinstance(adata, (tuple, list, Mapping)) or type(adata).__name__ == "MuData"


def open_table(
    adata: object, layer: str | None, label: str | None, unlabelled: Sequence[str], others: Sequence[str | None]
) -> Table:
    """Check one table or two, and match the cells of two by name.

    Parameters
    ----------
    adata
        An AnnData, two of them as a tuple or a dict by name, or a MuData of two.
    layer
        Layer to use in place of `.X`; of two tables, in those that have it.
    label, unlabelled
        The column of types, and the names in it that say nothing.
    others
        Columns of which a disagreement between two tables is told as well.

    Raises
    ------
    TypeError, KeyError, ValueError
        As `matrix`; or if two tables have no cell in common, or a name twice.
    """
    if not is_pair(adata):
        x = matrix(adata, layer)
        return Table(adata, x, {"": adata}, [slice(None)])
    sides, whole = named_sides(adata)
    a, b = sides
    if layer is not None and not any(layer in side.layers for side in sides.values()):
        held = "; ".join(f"{name}: {', '.join(side.layers) or 'none'}" for name, side in sides.items())
        raise KeyError(f"layer={layer!r} is in neither of the two tables. Layers: {held}.")
    matrices = [
        _of_modality(name, matrix, side, layer if layer in side.layers else None) for name, side in sides.items()
    ]
    obs, rows = join(sides)
    shared, smaller = np.intersect1d(rows[0], rows[1]).size, min(side.n_obs for side in sides.values())
    if not shared:
        some = " and ".join(f"{first(side.obs_names, 2)} in {name}" for name, side in sides.items())
        raise ValueError(
            f"The two tables have no cell in common: cells are matched by name, and there is {some}. If both have the "
            f"same cells in the same order, say so: {b}.obs_names = {a}.obs_names."
        )
    if shared < MATCHED * smaller:
        shares = " and ".join(f"{shared / side.n_obs:.1%} of {name}" for name, side in sides.items())
        warn(
            f"{shared:,} cells are in both tables by name, {shares}: what the two have in common is learned from these "
            f"cells alone. Compare the names, such as {first(sides[a].obs_names, 1)} and "
            f"{first(sides[b].obs_names, 1)}."
        )
    frames = ({} if whole is None else {"the MuData": whole.obs}) | {name: side.obs for name, side in sides.items()}
    obs.obs = _merge(frames, obs.obs_names, label, unlabelled, others)
    return Table(obs, spread(matrices, rows, obs.n_obs), sides, rows, whole)


def join(sides: Mapping[str, AnnData]) -> tuple[AnnData, list[np.ndarray]]:
    """Match cells by name: a table of all of them without genes, and where each side's cells are in it."""
    import anndata

    for name, side in sides.items():
        repeated = side.obs_names[side.obs_names.duplicated()].unique()
        if len(repeated) and len(sides) > 1:
            raise ValueError(
                f"{name} has cells of one name (first: {first(repeated)}), and two tables are matched by the names of "
                "their cells: make them unique in both."
            )
    names, *others = (side.obs_names for side in sides.values())
    for other in others:
        names = names.append(other[~other.isin(names)])
    obs = anndata.AnnData(obs=pd.DataFrame(index=names))
    if not others:
        return obs, [np.arange(len(names))]
    return obs, [names.get_indexer(side.obs_names) for side in sides.values()]


def spread(matrices: Sequence[Matrix], rows: Sequence[np.ndarray], n: int) -> Pair:
    """Put the rows of two matrices where their cells are among all n; the others are 0."""
    measured = np.zeros((n, 2), dtype=bool)
    sides = []
    for side, (x, where) in enumerate(zip(matrices, rows, strict=True)):
        measured[where, side] = True
        source = np.full(n, -1)
        source[where] = np.arange(len(where))
        sides.append(_rows(x, source))
    return Pair((sides[0], sides[1]), measured)


def choose(
    table: Table, train: np.ndarray, counts: Sequence[bool], seed: int
) -> tuple[Matrix, Callable[[Matrix], Features | PairFeatures]]:
    """Choose the genes of a model on the training cells, for one table or for each of two.

    Returns
    -------
    The matrix of these genes, and what fits a contract to rows of it.
    """
    if isinstance(table.x, Pair) and (table.x.both & train).sum() < 2:
        raise ValueError(
            f"Fewer than two training cells have both {' and '.join(table.sides)}, and nothing says what the two have "
            "in common: hold out fewer."
        )
    chosen, fits = [], []
    for name, (adata, x, measured), is_counts in zip(table.sides, table.matrices(), counts, strict=True):
        choice = replace(choose_genes(adata, x, train & measured, is_counts), scale=scales.see(x))
        chosen.append(features.take(x, choice.columns))
        _of_modality(name, check_variance, chosen[-1], train & measured, is_counts)
        fits.append(_fit(adata.var_names[choice.columns].tolist(), is_counts, seed, choice))
    if not isinstance(table.x, Pair):
        return chosen[0], fits[0]
    return Pair((chosen[0], chosen[1]), table.x.measured), lambda x: modalities.fit(x, list(table.sides), fits)


@dataclass(frozen=True)
class NewCells:
    """New cells as a model takes them.

    Attributes
    ----------
    x, present
        As the methods of the model take them.
    targets
        What results are written to, the cells of each among all, and how its genes were matched: of a MuData both.
    """

    x: Matrix
    present: Any
    targets: list[tuple[Any, np.ndarray | slice, list[Query]]]


def take_new(
    adata: Any, model: Model, layer: str | None, missing: str, alias: str | None, min_matched: float
) -> NewCells:
    """Check new cells of one modality or of two, and bring them to the genes of a model.

    Parameters
    ----------
    adata
        An AnnData; for a model of two modalities also two of them as for `open_table`, or one by name.
    model
        From `fit`.
    layer, missing, alias, min_matched
        As for `take_query`.

    Raises
    ------
    ValueError, KeyError, TypeError
        As `take_query` and `name_query`.
    """
    contract = model.features
    if isinstance(contract, Features):
        if is_pair(adata):
            raise TypeError("The model has one modality, and two tables were given: pass the one that it knows.")
        query = take_query(adata, contract, model.gene_weights(), layer, missing, alias, min_matched)
        return NewCells(query.x, query.present, [(adata, slice(None), [query])])
    sides = name_query(adata, contract, alias)
    queries = {}
    for name, side in sides.items():
        theirs = layer if layer in side.layers or not any(layer in s.layers for s in sides.values()) else None
        named = alias if alias in side.var or not any(alias in s.var for s in sides.values()) else None
        rest = (model.gene_weights(name), theirs, missing, named, min_matched)
        queries[name] = take_query(side, model.part(name), *rest)
    obs, rows = join(sides)
    where = dict(zip(sides, rows, strict=True))
    nothing = np.zeros(0, dtype=int)
    matrices = [
        queries[name].x if name in queries else sp.csr_matrix((0, len(part.genes)), dtype=np.float32)
        for name, part in zip(contract.names, contract.parts, strict=True)
    ]
    x = spread(matrices, [where.get(name, nothing) for name in contract.names], obs.n_obs)
    targets: list[tuple[Any, np.ndarray | slice, list[Query]]] = [
        (side, where[name], [queries[name]]) for name, side in sides.items()
    ]
    if type(adata).__name__ == "MuData":
        targets.append((adata, obs.obs_names.get_indexer(adata.obs_names), list(queries.values())))
    return NewCells(x, {name: query.present for name, query in queries.items()}, targets)


def name_query(adata: object, contract: PairFeatures, alias: str | None) -> dict[str, AnnData]:
    """Say which modality of a model each table of new cells is: one table by its features, two by name or order.

    Raises
    ------
    TypeError, ValueError
        If a table is no AnnData in memory, or it cannot be told which it is.
    """
    if not is_pair(adata):
        check_anndata(adata)
        return {side_of(adata, contract.names, contract.parts, alias): adata}
    sides, _ = named_sides(adata, contract.names, least=1)
    for name in sides:
        if name not in contract.names:
            raise ValueError(
                f"{name!r} is not a modality of the model.{did_you_mean(name, contract.names)} Allowed: "
                f"{', '.join(contract.names)}."
            )
    return sides


def side_of(adata: AnnData, names: Sequence[str], parts: Sequence[Features], alias: str | None) -> str:
    """Tell which modality of a model a table without a name is: with which one it shares more of all features.

    Raises
    ------
    ValueError
        If it has features of neither, or as large a share of both.
    """
    columns = [adata.var_names] + ([adata.var[alias]] if alias in adata.var else [])
    have = {unversioned(str(name)).upper() for column in columns for name in column}
    shares = []
    for part in parts:
        known = {unversioned(gene).upper() for gene in part.genes}
        shares.append(len(known & have) / len(known | have))
    if shares[0] == shares[1]:
        begin = "; ".join(f"{name}: {first(part.genes)}" for name, part in zip(names, parts, strict=True))
        raise ValueError(
            f"The features of the table (first: {first(adata.var_names)}) do not say which of {' and '.join(names)} it "
            f"is. The model's begin with {begin}. Name it: {{{names[0]!r}: adata}}."
        )
    return names[int(np.argmax(shares))]


def _of_modality(name: str, check: Callable[..., Any], *given: Any) -> Any:
    """Call a check; name the modality in its error, if it has a name."""
    try:
        return check(*given)
    except (TypeError, ValueError) as error:
        raise type(error)(f"Modality {name!r}: {error}" if name else str(error)) from None


def _fit(genes: list[str], counts: bool, seed: int, choice: features.Choice) -> Callable[[Matrix], Features]:
    return lambda x: features.fit(x, genes, counts, seed, choice)


def _rows(x: Matrix, source: np.ndarray) -> Matrix:
    """Take rows of a matrix in the given order; row -1 is 0."""
    if sp.issparse(x):
        return sp.vstack([x, sp.csr_matrix((1, x.shape[1]), dtype=x.dtype)], format="csr")[source]
    out = np.zeros((len(source), x.shape[1]), dtype=x.dtype)
    out[source >= 0] = x[source[source >= 0]]
    return out


def _merge(
    frames: Mapping[str, pd.DataFrame],
    names: pd.Index,
    label: str | None,
    unlabelled: Sequence[str],
    others: Sequence[str | None],
) -> pd.DataFrame:
    """Take each column of `obs` from the first table that has a value, and say where those that matter disagree."""
    merged = {}
    frames = {name: _plain(frame) for name, frame in frames.items()}
    for column in dict.fromkeys(column for frame in frames.values() for column in frame.columns):
        where = [name for name, frame in frames.items() if column in frame]
        # as objects: a cell that is missing would make whole numbers fractions, with other names
        series = [frames[name][column].astype(object).reindex(names) for name in where]
        if column == label:
            series = [labels.known(values, unlabelled) for values in series]
        if column == label or column in others:
            _note_on_values(column, dict(zip(where, series, strict=True)))
        values = series[0]
        for other in series[1:]:
            values = values.where(values.notna(), other)
        kinds = [frames[name][column].dtype for name in where]
        if all(map(pd.api.types.is_bool_dtype, kinds)):
            values = values.astype("boolean")
        merged[column] = values
    return pd.DataFrame(merged, index=names)


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Return each column once, and numbers that are whole but for missing ones as whole numbers."""
    frame = frame.loc[:, ~frame.columns.duplicated()].copy()
    for column in frame.select_dtypes("float"):
        known = frame[column].dropna()
        if (known % 1 == 0).all():
            frame[column] = frame[column].astype("Int64")
    return frame


def _note_on_values(column: str, columns: Mapping[str, pd.Series]) -> None:
    """Say how often two tables say different things of a cell, and which is taken."""
    (one, values), *rest = columns.items()
    for other, theirs in rest:
        known = values.notna() & theirs.notna()
        differ = known & (values.astype(str) != theirs.astype(str))
        if differ.any():
            cell = str(differ.idxmax())
            warn(
                f"{column!r}: {differ.sum()} of {known.sum()} cells have another value in {other} than in {one} (first "
                f"{cell}, {theirs[cell]!r} and {values[cell]!r}). That of {one} is taken."
            )
        values = values.where(values.notna(), theirs)

"""What `fit` is given: one dataset, or two of the same cells, which are matched by name."""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import scipy.sparse as sp

from tripletomics import features, labels, scales
from tripletomics.features import Choice, Pair
from tripletomics.names import percent
from tripletomics.notices import warn
from tripletomics.pp.checks import check_anndata, check_measured, decide_counts, first, matrix
from tripletomics.pp.embeddings import embedding_of, is_blind
from tripletomics.pp.genes import check_unscaled, check_variance, choose_genes
from tripletomics.problem import ModalityGenes
from tripletomics.sources import Matrix

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

Checked = TypeVar("Checked")
MATCHED = 0.5  # share of the smaller dataset's cells that should be in both
NAMES = ("rna", "protein")  # of two datasets that come without names
TAKEN = ("self", "x", "present", "k", "reject", "coverage")  # names of other arguments of the model's methods


@dataclass(frozen=True)
class Table:
    """The cells of one dataset, or of two.

    Attributes
    ----------
    obs
        Their columns and names: the dataset itself, or one without genes that has all cells of both.
    x
        Its matrix, or the two matrices as a `Pair`.
    sides
        The datasets by modality, with the features that a model reads; one has the name "".
    given
        The datasets as they were given, to which results are written.
    rows
        For each of them, the rows of its cells among all cells.
    whole
        The MuData that both came in, if any.
    use_rep
        By modality, the key of the embedding that takes the place of the genes.
    """

    obs: AnnData
    x: Matrix
    sides: dict[str, AnnData]
    given: list[AnnData]
    rows: Sequence[np.ndarray | slice]
    whole: Any = None
    use_rep: dict[str, str] = field(default_factory=dict)

    def matrices(self) -> list[tuple[AnnData, Matrix, np.ndarray]]:
        """Return each dataset with its matrix of all cells, and which of these it measured."""
        rows = features.measured(self.x).T
        return list(zip(self.sides.values(), features.matrices(self.x), rows, strict=True))

    def targets(self) -> list[tuple[Any, np.ndarray | slice]]:
        """Return what results are written to, with the rows of each among all cells."""
        found: list[tuple[Any, np.ndarray | slice]] = list(zip(self.given, self.rows, strict=True))
        if self.whole is not None:
            found.append((self.whole, self.obs.obs_names.get_indexer(self.whole.obs_names)))
        return found

    def is_blind(self, held_out: np.ndarray) -> bool | None:
        """Return whether all embeddings are known to be made without the held-out cells; None if there are none."""
        known = [
            is_blind(adata, self.use_rep[name], held_out[rows])
            for name, adata, rows in zip(self.sides, self.given, self.rows, strict=True)
            if name in self.use_rep
        ]
        return all(known) if known else None


def split_modalities(adata: Any, names: Sequence[str] = NAMES, least: int = 2) -> tuple[dict[str, AnnData], Any]:
    """Return two datasets by modality, from a tuple, a dict or a MuData, and the MuData.

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
            "'protein': mdata['prot']}, or pass one dataset."
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
    """Return whether two datasets were given."""
    return isinstance(adata, (tuple, list, Mapping)) or type(adata).__name__ == "MuData"


def columns_of(adata: Any) -> list[object]:
    """Return the names of all columns of `obs`, of one dataset or of two; none of what is no dataset."""
    sides = [adata, *adata.mod.values()] if type(adata).__name__ == "MuData" else [adata]
    if isinstance(adata, (tuple, list, Mapping)):
        sides = [*(adata.values() if isinstance(adata, Mapping) else adata)]
    return [name for side in sides for name in getattr(getattr(side, "obs", None), "columns", ())]


def open_table(
    adata: object,
    layer: str | None,
    types: Sequence[str],
    unlabelled: Sequence[str],
    others: Sequence[str | None],
    *,
    use_rep: str | None = None,
    missing: str | None = None,
) -> Table:
    """Check one dataset or two, and match the cells of two by name.

    Parameters
    ----------
    adata
        An AnnData, two of them as a tuple or a dict by name, or a MuData of two.
    layer
        Layer to use in place of `.X`, in each dataset that has it.
    types, unlabelled
        The columns of types, and the names in them that mean unlabelled.
    others
        More columns in which a disagreement of two datasets gives a warning.
    use_rep
        Key of the embedding to use in place of the genes, in each dataset that has it.
    missing
        What to do about NaN, as for `matrix`.

    Raises
    ------
    TypeError, KeyError, ValueError
        As `matrix` and `embedding_of`; or if two datasets have no cell in common, or a name twice.
    """
    if not is_pair(adata):
        one: Any = adata
        side = one if use_rep is None else embedding_of(one, use_rep)
        if use_rep is not None and missing == "impute":
            raise ValueError(
                f"missing='impute' is about genes, and use_rep={use_rep!r} takes an embedding, which has no missing "
                "values: leave one of the two out."
            )
        reps = {} if use_rep is None else {"": use_rep}
        return Table(one, matrix(side, layer, missing), {"": side}, [one], [slice(None)], use_rep=reps)
    sides, whole = split_modalities(adata)
    given, (a, b) = list(sides.values()), sides
    _check_in_one(sides, "layer", layer, "layers")
    _check_in_one(sides, "use_rep", use_rep, "obsm", whole)
    reps = {name: str(use_rep) for name, side in sides.items() if use_rep in side.obsm}
    frames = ({} if whole is None else {"the MuData": whole.obs}) | {name: side.obs for name, side in sides.items()}
    sides |= {name: _of_modality(name, embedding_of, sides[name], use_rep) for name in reps}
    matrices = [
        _of_modality(name, matrix, side, layer if layer in side.layers else None, missing)
        for name, side in sides.items()
    ]
    obs, rows = join(sides)
    shared, smaller = np.intersect1d(rows[0], rows[1]).size, min(side.n_obs for side in sides.values())
    if not shared:
        some = " and ".join(f"{first(side.obs_names, 2)} in {name}" for name, side in sides.items())
        raise ValueError(
            f"The two datasets have no cell in common: cells are matched by name, and there is {some}. If both have "
            f"the same cells in the same order, say so: {b}.obs_names = {a}.obs_names."
        )
    if shared < MATCHED * smaller:
        shares = " and ".join(f"{percent(shared / side.n_obs, 1)} of {name}" for name, side in sides.items())
        warn(
            f"{shared:,} cells are in both datasets by name, {shares}: what the two have in common is learned only "
            f"from these. Compare the names, such as {first(sides[a].obs_names, 1)} and "
            f"{first(sides[b].obs_names, 1)}."
        )
    obs.obs = _merge(frames, obs.obs_names, types, unlabelled, others)
    return Table(obs, spread(matrices, rows, obs.n_obs), sides, given, rows, whole=whole, use_rep=reps)


def _check_in_one(sides: Mapping[str, AnnData], argument: str, key: str | None, part: str, whole: Any = None) -> None:
    """Raise unless one of two datasets or both have a layer, or a key of `obsm`."""
    if key is not None and not any(key in getattr(side, part) for side in sides.values()):
        held = "; ".join(f"{name}: {', '.join(getattr(side, part)) or 'none'}" for name, side in sides.items())
        own = ""
        if whole is not None and key in getattr(whole, part):
            own = f" It is one of the MuData itself for both: fit anndata.AnnData(obs=mdata.obs, {part}=mdata.{part})."
        raise KeyError(f"{argument}={key!r} is in neither of the two datasets.{own} {part.capitalize()}: {held}.")


def join(sides: Mapping[str, AnnData]) -> tuple[AnnData, list[np.ndarray]]:
    """Match cells by name. Return a dataset of all without genes, and the rows of each modality in it."""
    import anndata

    for name, side in sides.items():
        repeated = side.obs_names[side.obs_names.duplicated()].unique()
        if len(repeated) and len(sides) > 1:
            raise ValueError(
                f"{name} has cells of one name (first: {first(repeated)}), and two datasets are matched by the names "
                "of their cells: make them unique in both."
            )
    names, *others = (side.obs_names for side in sides.values())
    for other in others:
        names = names.append(other[~other.isin(names)])
    obs = anndata.AnnData(obs=pd.DataFrame(index=names))
    if not others:
        return obs, [np.arange(len(names))]
    return obs, [names.get_indexer(side.obs_names) for side in sides.values()]


def spread(matrices: Sequence[Matrix], rows: Sequence[np.ndarray], n: int) -> Pair:
    """Return two matrices as a `Pair` of all n cells, in which rows that were not measured are 0."""
    measured = np.zeros((n, 2), dtype=bool)
    sides = []
    for i, (x, where) in enumerate(zip(matrices, rows, strict=True)):
        measured[where, i] = True
        source = np.full(n, -1)
        source[where] = np.arange(len(where))
        sides.append(_rows(x, source))
    return Pair((sides[0], sides[1]), measured)


def choose(table: Table, train: np.ndarray, counts: bool | str) -> tuple[Matrix, dict[str, ModalityGenes]]:
    """Choose the genes of a model on training cells, in one dataset or in each of two, and decide what are counts.

    Returns
    -------
    The matrix of these genes, and which they are.
    """
    if len(table.sides) > 1 and (features.fully_measured(table.x) & train).sum() < 2:
        raise ValueError(
            f"Fewer than two training cells have both {' and '.join(table.sides)}, and nothing says what the two have "
            "in common: hold out fewer."
        )
    chosen, genes = [], {}
    for name, (adata, x, measured) in zip(table.sides, table.matrices(), strict=True):
        if name in table.use_rep:
            is_counts, choice = False, Choice.of_embedding(table.use_rep[name], x.shape[1])
        else:
            is_counts = decide_counts(x, counts, name, train & measured)
            if not is_counts:
                check_unscaled(adata, x[train & measured], name, refuse=counts == "auto")
            choice = replace(choose_genes(adata, x, train & measured, is_counts), scale=scales.see(x[train & measured]))
        chosen.append(features.take(x, choice.columns))
        _of_modality(name, check_measured, adata, chosen[-1])
        _of_modality(name, check_variance, chosen[-1], train & measured, is_counts, table.use_rep.get(name))
        genes[name] = ModalityGenes(adata.var_names[choice.columns].tolist(), is_counts, choice)
    return chosen[0] if len(chosen) == 1 else Pair((chosen[0], chosen[1]), table.x.measured), genes


def _of_modality(name: str, check: Callable[..., Checked], *given: object) -> Checked:
    """Call a check, and name the modality in its error."""
    try:
        return check(*given)
    except (TypeError, ValueError) as error:
        raise type(error)(f"Modality {name!r}: {error}" if name else str(error)) from None


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
    types: Sequence[str],
    unlabelled: Sequence[str],
    others: Sequence[str | None],
) -> pd.DataFrame:
    """Take each column of `obs` from the first dataset that has a value, and warn where labels disagree."""
    merged = {}
    frames = {name: _plain(frame) for name, frame in frames.items()}
    for column in dict.fromkeys(column for frame in frames.values() for column in frame.columns):
        where = [name for name, frame in frames.items() if column in frame]
        # as objects: a cell that is missing would make whole numbers fractions, with other names
        series = [frames[name][column].astype(object).reindex(names) for name in where]
        if column in types:
            series = [labels.known(values, unlabelled) for values in series]
        if column in types or column in others:
            _note_on_values(column, dict(zip(where, series, strict=True)))
        values = series[0]
        for other in series[1:]:
            values = values.where(values.notna(), other)
        if all(pd.api.types.is_bool_dtype(frames[name][column]) for name in where):
            values = values.astype("boolean")
        dtypes = [frames[name][column].dtype for name in where]
        if all(dtype == dtypes[0] and getattr(dtype, "ordered", False) for dtype in dtypes):
            values = values.astype(dtypes[0])
        merged[column] = values
    return pd.DataFrame(merged, index=names)


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Return each column once, and whole numbers as such even where some are missing."""
    frame = frame.loc[:, ~frame.columns.duplicated()].copy()
    for column in frame.select_dtypes("float"):
        known = frame[column].dropna()
        if (known % 1 == 0).all():
            frame[column] = frame[column].astype("Int64")
    return frame


def _note_on_values(column: str, columns: Mapping[str, pd.Series]) -> None:
    """Warn of the cells in which two datasets have different values, and say which is taken."""
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

"""New cells as a model takes them: by its genes, with values on the scale of the training cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from tripletomics import features, gaps, scales
from tripletomics.features import AnyFeatures, Features, Present
from tripletomics.model import Model
from tripletomics.notices import warn
from tripletomics.parts import did_you_mean
from tripletomics.pp.checks import check_anndata, first, matrix
from tripletomics.pp.embeddings import check_kept, embedding_of
from tripletomics.pp.matching import Match, match_genes, unversioned
from tripletomics.pp.query_scales import check_scale
from tripletomics.pp.tables import is_pair, join, split_modalities, spread
from tripletomics.problem import check_inputs
from tripletomics.sources import Matrix

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class QueryOptions:
    """What a user says about new cells.

    Attributes
    ----------
    layer, use_rep
        Layer to use in place of `.X`, and key of the embedding, if it is not the model's.
    missing, alias, min_matched
        As for `match_genes`.
    """

    layer: str | None = None
    missing: str = "error"
    alias: str | None = None
    min_matched: float = 0.3
    use_rep: str | None = None

    def embedding(self, model: Model, key_added: str = "") -> str | None:
        """Return the key of the embedding that a model reads, None for genes.

        Raises
        ------
        ValueError
            If an option is about genes, or an embedding, that the model does not read, or if the results would be
            written over the embedding.
        """
        parts = model.features.parts
        check_inputs(self.use_rep, self.layer)
        reads = next((part.use_rep for part in parts if part.use_rep is not None), None)
        if reads is None and self.use_rep is not None:
            raise ValueError(
                f"use_rep={self.use_rep!r}, but the model was fitted on genes: leave use_rep out, or fit with use_rep."
            )
        if all(part.use_rep is not None for part in parts):
            genes = {"layer": None, "missing": "error", "alias": None}
            said = [f"{name}={getattr(self, name)!r}" for name, usual in genes.items() if getattr(self, name) != usual]
            if said:
                raise ValueError(
                    f"{said[0]} is about genes, but the model was fitted on the embedding {reads!r} and needs all of "
                    "its dimensions: leave it out."
                )
        use_rep = reads and (self.use_rep or reads)
        check_kept(use_rep, key_added)
        return use_rep

    def features_of(self, adata: AnnData, part: Features) -> AnnData:
        """Return what a model reads of new cells, as a dataset: their genes, or the dimensions of their embedding."""
        if part.use_rep is None:
            return adata
        return embedding_of(adata, self.use_rep or part.use_rep, part)


@dataclass(frozen=True)
class Query:
    """New cells as a model takes them.

    Attributes
    ----------
    x
        Cells by the model's genes; missing genes are 0.
    present
        Boolean (genes,): which genes were measured, as `Model.place` takes it; None for all.
    match
        How the genes were found.
    notes
        Sentences about unusual values. They were given as warnings too.
    """

    x: Matrix
    present: np.ndarray | None
    match: Match
    notes: list[str]


def take_query(
    adata: AnnData,
    genes: Features,
    weights: np.ndarray | None,
    options: QueryOptions,
) -> Query:
    """Return new cells by the genes of a model, after all checks; warn of unusual values.

    Parameters
    ----------
    adata
        New cells, as ``options.features_of`` returns them.
    genes, weights
        The model's ``features`` and ``gene_weights()``.
    options
        Layer or embedding, and how genes are matched.

    Raises
    ------
    ValueError, KeyError, TypeError
        As `matrix`, `match_genes` and `check_scale`.
    """
    x = matrix(adata, options.layer, options.missing)
    given = scales.see(x)  # from all genes of the query
    match = match_genes(adata, genes.genes, options.missing, options.alias, weights, options.min_matched)
    found = match.columns >= 0
    x = features.take(x, match.columns)
    notes = _note_on_case(match) + _note_on_gaps(x) + check_scale(x, genes, found, given)
    for note in notes:
        warn(note)
    return Query(x, found if options.missing == "impute" and match.missing else None, match, notes)


def _measured_genes(adata: AnnData, options: QueryOptions) -> AnnData:
    """Return new cells without the genes that are NaN in all of them, which are missing like those that are not there.

    Only if they may be missing.
    """
    x = adata.X if options.layer is None else adata.layers.get(options.layer)
    if options.missing == "error" or getattr(x, "dtype", np.dtype(object)).kind != "f" or not adata.n_obs:
        return adata
    nothing = gaps.empty(x, axis=0)
    return adata[:, ~nothing] if nothing.any() else adata


def _note_on_case(match: Match) -> list[str]:
    """Return a note if most genes differ in case, as those of mouse (Cd3e) and human (CD3E) do."""
    cased = {gene: name for gene, name in match.renamed.items() if unversioned(gene) != unversioned(name)}
    if len(cased) <= match.matched / 2:
        return []
    gene, name = next(iter(cased.items()))
    return [
        f"{len(cased)} of {match.matched} genes were found only without regard to upper and lower case (first: {name} "
        f"for {gene}): is the query of another species?"
    ]


def _note_on_gaps(x: Matrix) -> list[str]:
    """Return a note if nothing was measured of some cells, which then lie in the middle of the training cells."""
    nothing = gaps.empty(x, axis=1).sum()
    return [f"{nothing:,} of {x.shape[0]:,} cells have no measured value in the model's genes."] if nothing else []


@dataclass(frozen=True)
class NewCells:
    """New cells of one modality or of two, as a model takes them.

    Attributes
    ----------
    x, present
        As the methods of the model take them.
    targets
        Each dataset that results are written to, the rows of its cells among all cells, and how its genes were matched
        (for a MuData, those of both modalities).
    """

    x: Matrix
    present: Present
    targets: list[tuple[Any, np.ndarray | slice, list[Query]]]


def take_new(adata: Any, model: Model, options: QueryOptions, key_added: str = "") -> NewCells:
    """Return new cells of one modality or of two by the genes of a model, after all checks.

    Parameters
    ----------
    adata
        An AnnData; for a model of two modalities also two of them as for `open_table`, or one by name.
    model
        From `fit`.
    options
        Layer or embedding, and how genes are matched. Of two modalities, a layer or a column of other names is used in
        those that have it.
    key_added
        Key of `obsm` that coordinates will be written to.

    Raises
    ------
    ValueError, KeyError, TypeError
        As `take_query` and `name_query`.
    """
    fitted = model.features
    options.embedding(model, key_added)
    tables = name_query(adata, fitted, options)
    queries = {}
    for name, table in tables.items():
        own = options
        if any(options.layer in other.layers for other in tables.values()) and options.layer not in table.layers:
            own = replace(own, layer=None)
        if any(options.alias in other.var for other in tables.values()) and options.alias not in table.var:
            own = replace(own, alias=None)
        part = model.part(name)
        read = _measured_genes(own.features_of(table, part), own)
        queries[name] = take_query(read, part, model.gene_weights(name), own)
    if not fitted.modalities:
        return NewCells(queries[""].x, queries[""].present, [(adata, slice(None), [queries[""]])])
    obs, rows = join(tables)
    where = dict(zip(tables, rows, strict=True))
    nothing = np.zeros(0, dtype=int)
    matrices = [
        queries[name].x if name in queries else sp.csr_matrix((0, len(part.genes)), dtype=np.float32)
        for name, part in zip(fitted.names, fitted.parts, strict=True)
    ]
    x = spread(matrices, [where.get(name, nothing) for name in fitted.names], obs.n_obs)
    found = NewCells(x, {name: query.present for name, query in queries.items()}, [])
    found.targets.extend((table, where[name], [queries[name]]) for name, table in tables.items())
    if type(adata).__name__ == "MuData":
        found.targets.append((adata, obs.obs_names.get_indexer(adata.obs_names), list(queries.values())))
    return found


def name_query(adata: object, fitted: AnyFeatures, options: QueryOptions) -> dict[str, AnnData]:
    """Return new cells by modality: one dataset is recognised by its features, two by name or order.

    Raises
    ------
    TypeError, ValueError
        If a dataset is not an AnnData in memory, or its modality is not clear.
    """
    if not is_pair(adata):
        check_anndata(adata)
        return {modality_of(adata, fitted.names, fitted.parts, options) if fitted.modalities else "": adata}
    if not fitted.modalities:
        raise TypeError("The model has one modality, and two datasets were given: pass the one that it reads.")
    tables, _ = split_modalities(adata, fitted.names, least=1)
    for name in tables:
        if name not in fitted.names:
            raise ValueError(
                f"{name!r} is not a modality of the model.{did_you_mean(name, fitted.names)} Allowed: "
                f"{', '.join(fitted.names)}."
            )
    return tables


def modality_of(adata: AnnData, names: Sequence[str], parts: Sequence[Features], options: QueryOptions) -> str:
    """Return the modality of a dataset without a name: the one of the model with which it shares more features.

    If a modality is read from an embedding, a dataset with this embedding shares all features, and another one none.

    Raises
    ------
    ValueError
        If it shares no features with either, or the same share with both.
    """
    columns = [adata.var_names] + ([adata.var[options.alias]] if options.alias in adata.var else [])
    have = {unversioned(str(name)).upper() for column in columns for name in column}
    shares = []
    for part in parts:
        if part.use_rep is not None:
            shares.append(float((options.use_rep or part.use_rep) in adata.obsm))
            continue
        wanted = {unversioned(gene).upper() for gene in part.genes}
        shares.append(len(wanted & have) / len(wanted | have))
    if shares[0] == shares[1]:
        begin = "; ".join(f"{name}: {first(part.genes)}" for name, part in zip(names, parts, strict=True))
        raise ValueError(
            f"The features of the dataset (first: {first(adata.var_names)}) do not say which of {' and '.join(names)} "
            f"it is. The model's begin with {begin}. Name it: {{{names[0]!r}: adata}}."
        )
    return names[int(np.argmax(shares))]

"""The genes of new cells, matched to a model's by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tripletomics.names import percent
from tripletomics.parts import did_you_mean
from tripletomics.pp.checks import first
from tripletomics.problem import check_share

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_HINT = "If a column of adata.var holds names like the model's, name it by alias="
_VERSIONED = re.compile(r"(ENS[A-Z]*\d+)\.\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Match:
    """The genes of a query that are the model's.

    Attributes
    ----------
    columns
        Column numbers of the query in the model's order, -1 for a missing gene.
    extra
        How many genes of the query the model does not use.
    weight
        Share of the weights that the matched genes hold, 1 if none is missing.
    missing_genes
        The model's genes that the query does not have, heaviest first.
    renamed
        The query's name of each gene that was found only without regard to case and version.
    """

    columns: np.ndarray
    extra: int
    weight: float
    missing_genes: list[str]
    renamed: dict[str, str]

    @property
    def missing(self) -> int:
        """How many of the model's genes the query does not have."""
        return len(self.missing_genes)

    @property
    def matched(self) -> int:
        """How many of the model's genes the query has."""
        return len(self.columns) - self.missing


def match_genes(
    adata: AnnData,
    genes: list[str],
    missing: str,
    alias: str | None = None,
    weights: np.ndarray | None = None,
    min_matched: float = 0.3,
) -> Match:
    """Find the model's genes in a query: by name, by an alias, and last without regard to case and version.

    Parameters
    ----------
    adata
        Holds the query's genes.
    genes
        Names of the model's genes.
    missing
        What to do if genes are missing: "error" refuses, "zero" and "impute" accept.
    alias
        Column of `var` with other names of the query's genes.
    weights
        How much each of the model's genes matters, (genes,); all the same by default.
    min_matched
        Share of the weights, in [0, 1], that the matched genes must hold.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If a setting is not known, genes are missing, or two of the query's genes match one of the model's equally well.

    Notes
    -----
    The version is that of an Ensembl id: ENSG00000141510.16 is ENSG00000141510, while RP11-34P13.7 keeps its dot. A
    gene of the query is taken once; one that could be two of the model's is taken for neither.
    """
    if missing not in ("error", "zero", "impute"):
        raise ValueError(f"missing={missing!r} is not known. Allowed: error, zero, impute.")
    check_share("min_matched", min_matched)
    columns, renamed = _find_genes(adata, genes, alias)
    absent = np.flatnonzero(columns < 0)
    weights = np.ones(len(genes)) if weights is None else weights
    heaviest = absent[np.argsort(-weights[absent], kind="stable")]
    match = Match(
        columns=columns,
        extra=adata.n_vars - len(genes) + len(absent),
        weight=1 - float(weights[absent].sum() / weights.sum()),
        missing_genes=[genes[i] for i in heaviest],
        renamed=renamed,
    )
    _check_enough(match, adata, genes, missing, min_matched)
    return match


def _check_enough(match: Match, adata: AnnData, genes: list[str], missing: str, min_matched: float) -> None:
    if not match.matched:
        raise ValueError(
            f"The query has none of the model's {len(genes)} genes (the model's first: {first(genes)}; the query's "
            f"first: {first(adata.var_names)}). {_HINT}."
        )
    if match.missing and missing == "error":
        absent = first(gene for gene, column in zip(genes, match.columns, strict=True) if column < 0)
        raise ValueError(
            f"The query is missing {match.missing} of the model's {len(genes)} genes (first: {absent}). Pass "
            "missing='zero' to fill them, missing='impute' to treat them as unknown, or refit on shared genes. They "
            f"hold {percent(1 - match.weight, 1)} of the encoder's weight."
        )
    if match.weight < min_matched:
        raise ValueError(
            f"The query's genes hold {percent(match.weight, 1)} of the encoder's weight, less than "
            f"min_matched={min_matched} (the heaviest of the {match.missing} missing genes: "
            f"{first(match.missing_genes)}). {_HINT}; else lower min_matched, or refit on shared genes."
        )


def _find_genes(adata: AnnData, genes: list[str], alias: str | None) -> tuple[np.ndarray, dict[str, str]]:
    """Return a column for each gene, -1 if there is none, and the names found without regard to case and version."""
    spellings: list[list[str | None]] = [adata.var_names.tolist()]
    if alias is not None:
        if alias not in adata.var.columns:
            options = ", ".join(map(str, adata.var.columns)) or "none"
            raise KeyError(
                f"alias={alias!r} is not a column of adata.var.{did_you_mean(alias, adata.var.columns)} "
                f"Columns: {options}."
            )
        values = adata.var[alias]
        spellings.append([str(name) if known else None for name, known in zip(values, values.notna(), strict=True)])
    columns, renamed = np.full(len(genes), -1), {}
    for form in (str, _tolerant):
        for names in spellings:
            found = _candidates(genes, columns, names, form)
            _check_clear(found, genes, adata.var_names)
            for gene, (column,) in found.items():
                columns[gene] = column
                if form is _tolerant:
                    renamed[genes[gene]] = str(names[column])
    return columns, renamed


def _candidates(
    genes: list[str], columns: np.ndarray, names: list[str | None], form: Callable[[str], str]
) -> dict[int, list[int]]:
    """Return which names that are not taken have the form of a gene that has no column yet."""
    by_form: dict[str, list[int]] = {}
    for column in np.setdiff1d(np.arange(len(names)), columns).tolist():
        name = names[column]
        if name is not None:
            by_form.setdefault(form(name), []).append(column)
    forms = {gene: form(genes[gene]) for gene in np.flatnonzero(columns < 0).tolist()}
    wanted = Counter(forms.values())
    return {gene: by_form[key] for gene, key in forms.items() if key in by_form and wanted[key] == 1}


def _check_clear(found: dict[int, list[int]], genes: list[str], names: pd.Index) -> None:
    unclear = [gene for gene, columns in found.items() if len(columns) > 1]
    if unclear:
        rivals = ", ".join(repr(names[column]) for column in found[unclear[0]])
        more = f" (as for {len(unclear) - 1} more)" if len(unclear) > 1 else ""
        raise ValueError(
            f"The query's genes {rivals} match the model's {genes[unclear[0]]!r} equally well{more}: rename the right "
            "one as the model does, or choose it and drop the others."
        )


def _tolerant(name: str) -> str:
    return unversioned(name).casefold()


def unversioned(name: str) -> str:
    """Return an Ensembl id without its version, and any other name as it is."""
    versioned = _VERSIONED.fullmatch(name)
    return versioned[1] if versioned else name

"""Checks of what the user gave, the choice of genes, the split into training and held-out cells, and new cells."""

from tripletomics.features import take
from tripletomics.pp.checks import (
    check_anndata,
    check_batch_size,
    check_key,
    check_labels,
    check_model,
    check_molecules,
    check_self_training,
    column,
    decide_counts,
    matrix,
    numbers,
    refuse_without_labels,
    stored_matrix,
)
from tripletomics.pp.genes import choose_genes
from tripletomics.pp.matching import Match, match_genes
from tripletomics.pp.matrices import check_compressed, contradiction
from tripletomics.pp.prepare import prepare
from tripletomics.pp.queries import Query, check_scale, take_query
from tripletomics.pp.splits import batch_codes, split, split_names
from tripletomics.pp.tables import NewCells, Table, choose, open_table, take_new
from tripletomics.problem import check_whole

__all__ = [
    "Match",
    "NewCells",
    "Query",
    "Table",
    "batch_codes",
    "check_anndata",
    "check_batch_size",
    "check_compressed",
    "check_key",
    "check_labels",
    "check_model",
    "check_molecules",
    "check_scale",
    "check_self_training",
    "check_whole",
    "choose",
    "choose_genes",
    "column",
    "contradiction",
    "decide_counts",
    "match_genes",
    "matrix",
    "numbers",
    "open_table",
    "prepare",
    "refuse_without_labels",
    "split",
    "split_names",
    "stored_matrix",
    "take",
    "take_new",
    "take_query",
]

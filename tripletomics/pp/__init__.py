"""Checks of what the user gave, the choice of genes, the split into training and held-out cells, and new cells."""

from tripletomics.features import take
from tripletomics.keys import check_key
from tripletomics.pp.arrays import adata_of
from tripletomics.pp.checks import (
    check_anndata,
    check_labels,
    check_model,
    column,
    decide_counts,
    matrix,
    numbers,
    stored_matrix,
    types,
)
from tripletomics.pp.embeddings import dimensions, note_training
from tripletomics.pp.frames import read_frame
from tripletomics.pp.genes import choose_genes
from tripletomics.pp.growing import check_start, prepare_growth
from tripletomics.pp.label_columns import read_columns, roles_of
from tripletomics.pp.matching import Match, match_genes
from tripletomics.pp.matrices import check_compressed
from tripletomics.pp.preparing import prepare
from tripletomics.pp.published import coordinates, kept_colours, match, name_of, published_map, read_table
from tripletomics.pp.queries import NewCells, Query, QueryOptions, take_new, take_query
from tripletomics.pp.query_scales import check_scale
from tripletomics.pp.splits import batch_codes, parse_hold_out, split, split_names
from tripletomics.pp.tables import Table, choose, open_table
from tripletomics.problem import check_inputs, check_whole

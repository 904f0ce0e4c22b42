"""Class codes and names, what is predicted from them, and whether it can be believed."""

from tripletomics.labels.columns import (
    NONE,
    UNASSIGNED,
    UNLABELLED,
    check_new_types,
    distinct,
    encode,
    flags,
    is_missing,
    known,
    known_first,
    names,
    permute,
    several,
    split_of,
)
from tripletomics.labels.verdicts import COVERAGE, NO_SIGNAL, REJECT, TOO_FEW, verdict

__all__ = [
    "COVERAGE",
    "NONE",
    "NO_SIGNAL",
    "REJECT",
    "TOO_FEW",
    "UNASSIGNED",
    "UNLABELLED",
    "check_new_types",
    "distinct",
    "encode",
    "flags",
    "is_missing",
    "known",
    "known_first",
    "names",
    "permute",
    "several",
    "split_of",
    "verdict",
]

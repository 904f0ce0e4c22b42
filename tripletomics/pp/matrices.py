"""Checks of a sparse matrix. Compiled code trusts its arrays and writes where they point, so they are checked first."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from tripletomics.sources import Matrix


def check_compressed(x: Matrix, name: str) -> Matrix:
    """Return a CSR or CSC matrix whose arrays agree with each other and with its shape, or raise.

    It is the same matrix, and not copied, unless its index arrays are of a type that scipy does not compute with.
    Column numbers need not ascend within a row, and may occur twice. The check takes 0.1 s for 100 million values.

    Parameters
    ----------
    x
        A matrix; one that is not compressed is returned as it is.
    name
        What the message calls it.

    Raises
    ------
    ValueError
        If its arrays contradict each other.
    """
    if not sp.issparse(x) or x.format not in ("csr", "csc"):
        return x
    why = contradiction(x.data, x.indices, x.indptr, x.shape if x.format == "csr" else x.shape[::-1])
    if why is not None:
        raise ValueError(f"{name} is damaged: {why}. Read it again, or copy the file again from an intact original.")
    if x.data.dtype.isnative and {x.indices.dtype, x.indptr.dtype} <= {np.dtype("int32"), np.dtype("int64")}:
        return x
    return type(x)((x.data, x.indices, x.indptr), shape=x.shape)


def contradiction(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]) -> str | None:
    """Return what is wrong with the arrays of a compressed matrix, None if nothing is.

    Parameters
    ----------
    data, indices, indptr
        Values, their positions along the second axis, and where the lines along the first axis end.
    shape
        Lines along the first axis, and the length of the second.
    """
    for array, dtypes, what in ((data, "fiubcO", "values"), (indices, "iu", "indices"), (indptr, "iu", "indptr")):
        if array.ndim != 1 or array.dtype.kind not in dtypes:
            return f"its {what} are {array.dtype} of shape {array.shape}"
    if len(indptr) != shape[0] + 1:
        return f"indptr has {len(indptr):,} entries for {shape[0]:,} lines"
    if indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any():
        return "indptr does not ascend from 0"
    if not len(data) == len(indices) == indptr[-1]:
        return f"it has {len(data):,} values, {len(indices):,} indices, and {indptr[-1]:,} by its indptr"
    unsigned = indices.view(indices.dtype.str.replace("i", "u"))  # in which what is below 0 is large: one pass
    if len(indices) and unsigned.max() >= shape[1]:
        return f"its indices run from {indices.min():,} to {indices.max():,}, beyond 0 to {shape[1] - 1:,}"
    return None

"""Which cells a model has seen: an 8-byte hash of each one's values, so that no seen cell passes for a new one.

The hash of a row is the sum, modulo 2^64, of a mixed number for each value that is not 0. So the order in which the
values are stored makes no difference, and a row of zeros has the hash 0.

References
----------
The numbers are mixed by the last step of SplitMix64: Steele, Lea & Flood 2014, *Fast splittable pseudorandom number
generators*, OOPSLA; adding up the hashes of the members of a set is from Clarke et al. 2003, *Incremental multiset hash
functions*, ASIACRYPT.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from tripletomics.features import AnyFeatures, fully_measured, matrices, measured, only
from tripletomics.sources import Matrix, Memory

HELD_OUT, TRAINING, CALIBRATION = range(3)  # roles of cells in a fit
NEVER = -1  # in place of a role: not a cell of the fit
PRIORITY = np.array([2, 0, 1])  # of the roles, where cells of several have the same values
BLOCK = 2**16  # values that are mixed at once, which stay in the processor's cache


@dataclass(frozen=True)
class SeenCells:
    """The cells of a fit, by hashes of their values.

    Attributes
    ----------
    hashes
        Ascending and each once, uint64 (cells,): as `hash_rows` gives them. A paired cell also has a hash of each
        modality alone.
    roles
        uint8 (cells,): 0 held-out, 1 training, 2 calibration. Cells with the same values have the role of the one that
        was trained on.
    fitted
        Boolean (cells,): those that the principal components were fitted on.
    """

    hashes: np.ndarray
    roles: np.ndarray
    fitted: np.ndarray

    @classmethod
    def of(
        cls,
        x: Matrix,
        held_out: np.ndarray,
        calibration: np.ndarray,
        fitted: np.ndarray,
        hashes: np.ndarray | None = None,
    ) -> SeenCells:
        """Hash the cells of a fit.

        Parameters
        ----------
        x
            All cells by the model's genes, as they are in AnnData, neither normalised nor scaled.
        held_out, calibration
            Boolean (cells,). All other cells are training cells.
        fitted
            Boolean (cells,), those that the principal components are fitted on.
        hashes
            `hash_rows` of `x`, if they are known.
        """
        roles = np.where(held_out, HELD_OUT, np.where(calibration, CALIBRATION, TRAINING)).astype(np.uint8)
        rows, hashes = np.arange(len(roles)), hash_rows(x) if hashes is None else hashes
        if len(matrices(x)) > 1:  # a cell is also found by one of its modalities alone
            both = np.flatnonzero(fully_measured(x))
            hashes = np.concatenate([hashes, *(hash_rows(only(x[both], i)) for i in (0, 1))])
            rows = np.concatenate([rows, both, both])
        order = np.lexsort((PRIORITY[roles[rows]], hashes))
        found, first = np.unique(hashes[order], return_index=True)
        rows = rows[order[first]]
        return cls(found, roles[rows], fitted[rows])

    def find(self, x: Matrix, hashes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return which cells were in the fit, by their values; cells whose values have changed since are not found.

        `hashes` are `hash_rows` of `x`, if they are known.

        Returns
        -------
        Roles, int8 (cells,), -1 for a cell that was not in the fit; and whether the principal components were fitted on
        it, boolean (cells,).
        """
        hashes = hash_rows(x) if hashes is None else hashes
        if not len(self.hashes):
            return np.full(len(hashes), NEVER, dtype=np.int8), np.zeros(len(hashes), dtype=bool)
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        known = self.hashes[at] == hashes
        roles = np.where(known, self.roles[at].astype(np.int8), np.int8(NEVER))
        return roles, known & self.fitted[at]


def hash_rows(x: Matrix) -> np.ndarray:
    """Return an 8-byte hash of the values of each row, uint64 (cells,).

    Parameters
    ----------
    x
        Cells by genes, dense or sparse. Each value counts as float32; how a matrix is stored makes no difference. Two
        modalities are hashed as the dense matrix that they make, in which the columns of a modality that was not
        measured are 0.
    """
    found, first = np.zeros(x.shape[0], dtype=np.uint64), 0
    for matrix, shown in zip(matrices(x), measured(x).T, strict=True):
        found += np.where(shown, _hash(matrix, first), np.uint64(0))
        first += matrix.shape[1]
    return found + _hash(measured(x), first) if len(matrices(x)) > 1 else found


def _hash(x: Matrix, first: int) -> np.ndarray:
    """Hash rows whose columns have the numbers from `first` on."""
    found = np.zeros(x.shape[0], dtype=np.uint64)
    for start, stop, ends, columns, values in _blocks(x):
        values = np.ascontiguousarray(values, dtype=np.float32)
        if np.isnan(values.min(initial=0)):
            values = np.where(np.isnan(values), np.float32(np.nan), values)  # of the many NaN one
        bits = values.view(np.uint32)
        mixed = columns.astype(np.uint64)
        mixed += np.uint64(first + 1)  # so that nothing is mixed from 0
        mixed <<= np.uint64(32)
        mixed |= bits
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed ^= mixed >> np.uint64(shift)
            mixed *= np.uint64(factor)
        mixed ^= mixed >> np.uint64(31)
        mixed[(bits & np.uint32(0x7FFFFFFF)) == 0] = 0  # stored zeros, including -0
        sums = np.zeros(len(mixed) + 1, dtype=np.uint64)
        np.cumsum(mixed, out=sums[1:])  # modulo 2^64, as are the differences
        found[start:stop] = sums[ends[1:]] - sums[ends[:-1]]
    return found


def _blocks(x: Matrix) -> Iterator[tuple[int, int, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield blocks of rows: from which to before which, where each ends among the values, their columns, the values."""
    if sp.issparse(x):
        x = sp.csr_matrix(x)
        if not x.has_canonical_format:  # a value may be stored as several that add up
            x = x.copy()
            x.sum_duplicates()
        start = 0
        while start < x.shape[0]:
            stop = max(int(np.searchsorted(x.indptr, x.indptr[start] + BLOCK, "right")) - 1, start + 1)
            begin, end = x.indptr[[start, stop]]
            yield start, stop, x.indptr[start : stop + 1] - begin, x.indices[begin:end], x.data[begin:end]
            start = stop
        return
    height = max(BLOCK // max(x.shape[1], 1), 1)
    for start in range(0, x.shape[0], height):
        rows = np.asarray(x[start : start + height])
        at = np.flatnonzero(rows)
        ends = np.concatenate([[0], np.count_nonzero(rows, axis=1).cumsum()])
        yield start, start + len(rows), ends, at % rows.shape[1], rows.ravel()[at]


def network_inputs(
    features: AnyFeatures, x: Matrix, present: Any, roles: tuple[np.ndarray, np.ndarray]
) -> tuple[Memory, np.ndarray]:
    """Return what the networks see of cells: rows for the encoder, and principal components.

    Cells of the fit, as `SeenCells.find` returns them, are seen as they were in the fit.
    """
    role, fitted = roles
    return features.source(x, present, fitted & (role == TRAINING)), features.pcs(x, present, fitted)

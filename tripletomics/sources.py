"""Rows of a matrix, from memory or from a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

SPARSE = 0.15  # share of values that are stored: with 0.05, a sparse product takes a third of a dense one's time
ROOM = 0.5  # share of a device's free memory that a matrix may take
BLOCK = 8192  # rows that are normalised at once on their way to a device
KEPT = 200e6  # bytes of a matrix that is normalised once, and not anew in every step

ALL = slice(None)
Matrix = Any  # a numpy array, a scipy.sparse matrix (scipy has no types), or a `Pair` of them


class Scaling(Protocol):
    """What turns rows of a matrix into what a network sees, as `features.Features` does."""

    @property
    def mean(self) -> np.ndarray:
        """What is subtracted from a normalised row."""

    @property
    def scale(self) -> np.ndarray:
        """What the difference is divided by."""

    def normalise(self, x: Matrix, present: np.ndarray | None = None) -> Matrix:
        """Return float32 rows; sparse stays sparse."""

    def standardise(
        self, rows: np.ndarray, present: np.ndarray | None = None, columns: np.ndarray | slice = ALL
    ) -> np.ndarray:
        """Scale columns of dense normalised rows."""


class Memory:
    """Rows of a matrix in memory.

    Parameters
    ----------
    x
        Cells by features: dense, CSR or a `Pair`. Sparse stays sparse: only the rows that are asked for become dense.
    scaler
        How rows are normalised and scaled; not at all by default.
    present
        Boolean (genes,), the features that were measured, as the scaler takes it.
    among
        Row numbers of `x` that this source has; all by default.
    logged
        Whether the rows of `x` are already normalised, and only scaled when they are taken.
    """

    def __init__(
        self,
        x: Matrix,
        scaler: Scaling | None = None,
        present: np.ndarray | None = None,
        among: np.ndarray | None = None,
        logged: bool = False,
    ) -> None:
        self.x, self.scaler, self.present, self.logged = x, scaler, present, logged
        self.among = np.arange(x.shape[0]) if among is None else among
        self.tables: dict[torch.device, Packed] = {}  # matrices on devices, which all subsets share

    def __len__(self) -> int:
        return len(self.among)

    @property
    def sparse(self) -> bool:
        """Whether few enough values are stored for sums over these alone to be quicker than a dense product."""
        return sp.issparse(self.x) and self.x.nnz < SPARSE * self.x.shape[0] * self.x.shape[1]

    @property
    def width(self) -> int:
        """Columns of a dense row."""
        return int(self.x.shape[1] if self.scaler is None else len(self.scaler.mean))

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of each modality."""
        return getattr(self.x, "widths", (self.width,))

    def subset(self, i: np.ndarray) -> Memory:
        """Return a source of the rows `i` of this one."""
        part = Memory(self.x, self.scaler, self.present, self.among[i], self.logged)
        part.tables = self.tables
        return part

    def prepared(self, taken: int) -> Memory:
        """Return this source for a training that takes `taken` rows.

        If rows are taken more than once, a small matrix is normalised once. It also becomes dense and is scaled if it
        stays small.
        """
        if self.scaler is None or taken <= len(self):
            return self
        if 4 * len(self) * self.width <= KEPT:
            return Memory(self.rows(ALL).numpy())
        if not sp.issparse(self.x) or self.packed_bytes > KEPT:
            return self
        parts = [sp.csr_matrix(self.normalised(slice(i, i + BLOCK))) for i in range(0, len(self), BLOCK)]
        return Memory(sp.vstack(parts, format="csr"), self.scaler, self.present, logged=True)

    def on(self, device: torch.device, *, once: bool = False) -> Memory:
        """Return this source with its rows on a device: the whole matrix is sent there, packed, if there is room.

        Otherwise, and where rows are taken only `once`, each block is sent when it is taken.
        """
        if device.type == "cpu":
            return self
        plain = sp.issparse(self.x) or isinstance(self.x, np.ndarray)  # the sides of a `Pair` stay here
        if device not in self.tables and plain and not once and fits(self.packed_bytes, free_bytes(device)):
            self.tables[device] = pack(self, device)
        return OnDevice(self, device, self.tables.get(device))

    @property
    def packed_bytes(self) -> int:
        """Bytes that the matrix takes at most when it is sent as a whole."""
        if sp.issparse(self.x):
            return int(8 * self.x.nnz + 8 * (self.x.shape[0] + 1))
        return 4 * int(self.x.shape[0]) * self.width

    def normalised(self, i: np.ndarray | slice) -> Matrix:
        """Return the rows `i` before they are scaled and made dense."""
        rows = self.x[self.among[i]]
        return rows if self.scaler is None or self.logged else self.scaler.normalise(rows, self.present)

    def rows(self, i: np.ndarray | slice, columns: Tensor | None = None) -> Tensor:
        """Return the rows `i` as a float32 tensor (rows, features).

        With `columns` (groups, shown), row j shows columns[j % groups] alone: (rows, shown).
        """
        rows = self.normalised(i)
        if columns is None:
            return torch.from_numpy(self._scaled(rows, ALL))
        groups = len(columns)
        found = np.empty((rows.shape[0], columns.shape[1]), dtype=np.float32)
        for group, shown in enumerate(columns.numpy()):
            own = rows[group::groups]
            found[group::groups] = self._scaled(own[:, shown] if sp.issparse(own) else own.take(shown, axis=1), shown)
        return torch.from_numpy(found)

    def _scaled(self, rows: Matrix, columns: np.ndarray | slice) -> np.ndarray:
        rows = dense(rows)
        return rows if self.scaler is None else self.scaler.standardise(rows, self.present, columns)


@dataclass(frozen=True)
class Packed:
    """Normalised rows on a device, float32: a CSR matrix, or a dense one without `columns`.

    Attributes
    ----------
    values, columns, starts
        Data, column numbers and row starts of CSR; or the dense rows.
    lengths
        Stored values of each row, also kept in memory, so that no step has to wait for the device to return their sum.
    width
        Columns of a dense row.
    """

    values: Tensor
    columns: Tensor | None
    starts: Tensor | None
    lengths: np.ndarray
    width: int

    def dense(self, i: np.ndarray) -> Tensor:
        """Return the rows `i` (rows, width), dense."""
        device = self.values.device
        rows = send(i, device)
        if self.columns is None or self.starts is None:
            return self.values[rows]
        total = int(self.lengths[i].sum())
        start = self.starts[rows].long()
        length = self.starts[rows + 1].long() - start
        shift = start - (length.cumsum(0) - length)  # from a value's position in the minibatch to that in the matrix
        row = torch.arange(len(i), device=device).repeat_interleave(length, output_size=total)
        position = torch.arange(total, device=device) + shift[row]
        out = torch.zeros(len(i) * self.width, device=device)
        out.scatter_(0, row * self.width + self.columns[position], self.values[position])
        return out.view(len(i), self.width)


class OnDevice(Memory):
    """Rows that are made dense and scaled on a device.

    Parameters
    ----------
    source
        Where they come from.
    device
        Where they are needed.
    table
        All rows of `source.x` on the device; without it, rows are sent when they are taken, sparse ones packed.
    """

    def __init__(self, source: Memory, device: torch.device, table: Packed | None = None) -> None:
        super().__init__(source.x, source.scaler, source.present, source.among, source.logged)
        self.tables, self.device, self.table = source.tables, device, table
        self.scaling: tuple[Tensor, Tensor] | None = None
        self.known: Tensor | None = None
        if source.scaler is not None:
            self.scaling = send(source.scaler.mean, device), send(source.scaler.scale, device)
            if source.present is not None:
                self.known = send(source.present[: self.width], device)

    def subset(self, i: np.ndarray) -> OnDevice:
        """Return a source of the rows `i` of this one; the packed matrix is shared."""
        return OnDevice(super().subset(i), self.device, self.table)

    def on(self, device: torch.device, *, once: bool = False) -> Memory:
        """Return this source, which is already on a device."""
        return self

    def prepared(self, taken: int) -> Memory:
        """Return this source: a device scales rows quickly."""
        return self

    def rows(self, i: np.ndarray | slice, columns: Tensor | None = None) -> Tensor:
        """Return the rows `i` as `Memory.rows` does, on the device."""
        if self.table is not None:
            rows = self.table.dense(self.among[i])
        else:
            x = self.normalised(i)
            if sp.issparse(x):
                rows = send_csr(x, self.device).dense(np.arange(x.shape[0]))
            else:
                rows = send(dense(x), self.device)
        if self.scaling is not None:
            mean, scale = self.scaling
            rows = (rows - mean) / scale
        rows = rows if self.known is None else torch.where(self.known, rows, 0)
        if columns is None:
            return rows
        turns = torch.arange(len(rows), device=self.device) % len(columns)
        return rows.gather(1, columns.to(self.device)[turns])


def dense(x: Matrix) -> np.ndarray:
    """Return a matrix as a dense one, float32."""
    return np.asarray(x.toarray() if hasattr(x, "toarray") else x, dtype=np.float32)


def pack(source: Memory, device: torch.device) -> Packed:
    """Normalise a whole matrix, block by block, and send it to a device."""
    whole = Memory(source.x, source.scaler, source.present)
    parts = [whole.normalised(slice(i, i + BLOCK)) for i in range(0, max(len(whole), 1), BLOCK)]
    if sp.issparse(source.x):
        return send_csr(sp.vstack([sp.csr_matrix(part) for part in parts], format="csr"), device)
    rows = np.concatenate([dense(part) for part in parts])
    return Packed(send(rows, device), None, None, np.zeros(0, dtype=np.int64), rows.shape[1])


def send_csr(x: Matrix, device: torch.device) -> Packed:
    """Send a sparse matrix to a device, its numbers in 32 bits where they fit."""
    x = sp.csr_matrix(x, dtype=np.float32)
    if not x.has_canonical_format:  # a value that is stored twice would be put there once
        x = x.copy()
        x.sum_duplicates()
    numbers = np.int32 if x.nnz < 2**31 else np.int64
    return Packed(
        send(x.data, device), send(x.indices.astype(np.int32, copy=False), device),
        send(x.indptr.astype(numbers, copy=False), device), np.diff(x.indptr).astype(np.int64), x.shape[1],
    )  # fmt: skip


def send(values: np.ndarray, device: torch.device) -> Tensor:
    """Send an array to a device; to a GPU from pinned memory, so that nothing waits for it."""
    here = torch.from_numpy(np.ascontiguousarray(values))
    if device.type == "cuda":
        return here.pin_memory().to(device, non_blocking=True)
    return here.to(device)


def free_bytes(device: torch.device) -> int:
    """Return the memory that a GPU has free."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return 0


def fits(needed: int, free: int) -> bool:
    """Return whether a matrix of so many bytes may stay on a device with so many free."""
    return needed <= ROOM * free

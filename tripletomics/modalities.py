"""Two kinds of measurement of the same cells, such as RNA and proteins: their table and their gene contract.

A cell may lack one of the two. Each kind keeps a contract of its own (`features.Features`); what they share is the way
in which one foretells the principal components of the other. Encoders see these components and not the genes: what two
kinds of measurement have in common is little beside what thousands of genes allow an encoder to learn by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import Ridge

from tripletomics.features import Features
from tripletomics.sources import Matrix, Memory

STIFF = 1e-3  # ridge of the regression between components, in units of all their variance

Present = Mapping[str, np.ndarray | None]


@dataclass(frozen=True)
class Pair:
    """Two matrices with one row a cell, of which a cell may lack one.

    Attributes
    ----------
    sides
        The two matrices, dense or CSR; rows that were not measured are 0.
    measured
        Boolean (cells, 2).
    """

    sides: tuple[Matrix, Matrix]
    measured: np.ndarray

    def __getitem__(self, rows: np.ndarray | slice) -> Pair:
        return Pair((self.sides[0][rows], self.sides[1][rows]), self.measured[rows])

    @property
    def widths(self) -> tuple[int, int]:
        """Columns of the two."""
        return self.sides[0].shape[1], self.sides[1].shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Cells, and columns of the dense table: those of both, and two that say what was measured."""
        return len(self.measured), sum(self.widths) + 2

    @property
    def both(self) -> np.ndarray:
        """Which cells have both, boolean (cells,)."""
        return np.asarray(self.measured.all(axis=1))

    def toarray(self) -> np.ndarray:
        """Return the dense table, float32."""
        dense = [side.toarray() if hasattr(side, "toarray") else side for side in self.sides]
        return np.concatenate([*dense, self.measured], axis=1, dtype=np.float32)

    def only(self, side: int) -> Pair:
        """Hide the other side."""
        measured = self.measured.copy()
        measured[:, 1 - side] = False
        return Pair(self.sides, measured)


@dataclass(frozen=True)
class PairFeatures:
    """The contracts of two kinds of measurement, with the methods of `Features`.

    Attributes
    ----------
    names
        Of the two, such as "rna" and "protein".
    parts
        Their contracts.
    units
        What each one's principal components are divided by (2,), so that they have a variance of 1 on average: what was
        measured in more ways counts for more.
    to_first, to_second
        Linear regressions of one's components on those of the other, the intercepts in the first row: what is expected
        of a cell of which it was not measured.
    seen
        The contract whose components the encoders see, fitted without the cells that they are calibrated on; None
        where it is this one. The map's are those of all training cells, whoever has a label.

    Notes
    -----
    ``present`` is a dict from name to boolean (genes,), as `Features` takes it.
    """

    names: tuple[str, str]
    parts: tuple[Features, Features]
    units: np.ndarray
    to_first: np.ndarray
    to_second: np.ndarray
    seen: PairFeatures | None = None

    @property
    def genes(self) -> list[str]:
        """Names of the features of both."""
        return self.parts[0].genes + self.parts[1].genes

    @property
    def width(self) -> int:
        """Principal components of both."""
        return sum(part.width for part in self.parts)

    @property
    def widths(self) -> tuple[int, int]:
        """What the encoders see of each: so many principal components."""
        one, other = (self.seen or self).parts
        return one.width, other.width

    def source(self, x: Pair, present: Present | None = None, trained: np.ndarray | None = None) -> Memory:
        """Return what the encoders see of cells by row; `trained`, boolean (cells,), are those of their training."""
        return Memory(self.normalise(x, present, trained))

    def normalise(self, x: Pair, present: Present | None = None, trained: np.ndarray | None = None) -> Pair:
        """Return what the encoders see, float32: the principal components of each."""
        a, b = (self.seen or self)._components(x, present, trained)
        return Pair((a, b), x.measured)

    def project(self, x: Pair, present: Present | None = None, fitted: np.ndarray | None = None) -> np.ndarray:
        """Return the principal components of both, float32; those that were not measured are foretold."""
        a, b = self._components(x, present, fitted)
        for side, (mine, other, weights) in enumerate(((a, b, self.to_first), (b, a, self.to_second))):
            lacking = ~x.measured[:, side]
            mine[lacking] = weights[0] + other[lacking] @ weights[1:]
        return np.concatenate([a, b], axis=1)

    def _components(self, x: Pair, present: Present | None, fitted: np.ndarray | None) -> list[np.ndarray]:
        known = present or {}
        return [
            part.project(side, known.get(name), fitted) / unit
            for name, part, side, unit in zip(self.names, self.parts, x.sides, self.units, strict=True)
        ]


def fit(x: Pair, names: Sequence[str], fits: Sequence[Callable[[Matrix], Features]]) -> PairFeatures:
    """Fit on training rows.

    Parameters
    ----------
    x
        Training cells.
    names
        Of the two kinds of measurement.
    fits
        What fits the contract of each to the rows in which it was measured.
    """
    parts, units, scores = [], [], []
    for side, learn in enumerate(fits):
        parts.append(learn(x.sides[side][x.measured[:, side]]))
        found = parts[-1].project(x.sides[side], fitted=x.measured[:, side])
        units.append(float(np.sqrt(found[x.measured[:, side]].var(axis=0).mean())) or 1.0)
        scores.append(found / units[-1])
    a, b = scores[0][x.both], scores[1][x.both]
    return PairFeatures(
        (names[0], names[1]), (parts[0], parts[1]), np.array(units, dtype=np.float32), _foretell(b, a), _foretell(a, b)
    )


def _foretell(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the regression of some columns on others, the intercepts in the first row; 0 of no cell."""
    if not len(known):
        return np.zeros((known.shape[1] + 1, wanted.shape[1]), dtype=np.float32)
    ridge = Ridge(alpha=STIFF * known.size).fit(known, wanted)
    return np.vstack([ridge.intercept_, np.atleast_2d(ridge.coef_).T]).astype(np.float32)

"""Two modalities of the same cells, such as RNA and proteins: their matrices and their features.

One of the two may be missing in a cell. Each modality keeps features of its own. What the two share is a regression
that predicts the principal components of one from those of the other. Encoders see these components and not the genes:
from thousands of genes, they would memorise cells rather than learn what the two modalities have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import Ridge

from tripletomics.augment import Augmentation, Modalities
from tripletomics.features.single import Features, gene_shares
from tripletomics.sources import Matrix, Memory, dense

RIDGE = 1e-3  # penalty of the regression between components, in units of their total variance

Present = Mapping[str, np.ndarray | None]


@dataclass(frozen=True)
class Pair:
    """The matrices of two modalities, with one row per cell. One of them may be missing in a cell.

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
        """Cells, and columns of the dense matrix: those of both, and two that say what was measured."""
        return len(self.measured), sum(self.widths) + 2

    @property
    def both(self) -> np.ndarray:
        """Which cells have both modalities, boolean (cells,)."""
        return np.asarray(self.measured.all(axis=1))

    def toarray(self) -> np.ndarray:
        """Return the dense matrix, float32."""
        return np.concatenate([*map(dense, self.sides), self.measured], axis=1, dtype=np.float32)

    def only(self, i: int) -> Pair:
        """Hide the other modality."""
        measured = self.measured.copy()
        measured[:, 1 - i] = False
        return Pair(self.sides, measured)


def matrices(x: Matrix) -> tuple[Matrix, ...]:
    """Return the matrix of each modality."""
    return x.sides if isinstance(x, Pair) else (x,)


def measured(x: Matrix) -> np.ndarray:
    """Return which modalities each cell has, boolean (cells, modalities)."""
    return x.measured if isinstance(x, Pair) else np.ones((x.shape[0], 1), dtype=bool)


def fully_measured(x: Matrix) -> np.ndarray:
    """Return which cells have all modalities, boolean (cells,)."""
    return np.asarray(measured(x).all(axis=1))


def only(x: Matrix, i: int) -> Matrix:
    """Return the cells with all modalities but one hidden."""
    return x.only(i) if isinstance(x, Pair) else x


@dataclass(frozen=True)
class PairFeatures:
    """The features of two modalities, with the methods of `Features`.

    Attributes
    ----------
    names
        Names of the two, such as "rna" and "protein".
    parts
        Their features.
    units
        What each one's principal components are divided by (2,), so that they have a variance of 1 on average: the
        modality with more components counts for more.
    to_first, to_second
        Linear regressions of one's components on those of the other, the intercepts in the first row: they
        predict the components of a modality that was not measured.
    seen
        The features whose components the encoders see, fitted without the cells that they are calibrated on; None
        if they are these features. The map sees the components of all training cells.

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
    def modalities(self) -> tuple[str, ...]:
        """Names of the two."""
        return self.names

    @property
    def width(self) -> int:
        """Principal components of both."""
        return sum(part.width for part in self.parts)

    @property
    def unsure(self) -> float:
        """As of `Features`, the larger of the two."""
        return max(part.unsure for part in self.parts)

    @property
    def map_width(self) -> int:
        """Components that the map head sees."""
        return self.width

    @property
    def widths(self) -> tuple[int, int]:
        """Principal components that the encoders see of each."""
        one, other = (self.seen or self).parts
        return one.width, other.width

    def source(self, x: Pair, present: Present | None = None, trained: np.ndarray | None = None) -> Memory:
        """Return what the encoders see of cells, row by row; they were trained on `trained`, boolean (cells,)."""
        return Memory(self.normalise(x, present, trained))

    def augmentation(self, augment: Augmentation, views: int) -> Augmentation:
        """Return an augmentation that also hides modalities: with two views, each shows one of them."""
        return Modalities(augment, self.widths, views)

    def normalise(self, x: Pair, present: Present | None = None, trained: np.ndarray | None = None) -> Pair:
        """Return what the encoders see, float32: the principal components of each."""
        a, b = (self.seen or self)._components(x, present, trained)
        return Pair((a, b), x.measured)

    def pcs(self, x: Pair, present: Present | None = None, fitted: np.ndarray | None = None) -> np.ndarray:
        """Return the principal components of both, float32; those of a missing modality are predicted."""
        a, b = self._components(x, present, fitted)
        for i, (mine, other, weights) in enumerate(((a, b, self.to_first), (b, a, self.to_second))):
            missing = ~x.measured[:, i]
            mine[missing] = weights[0] + other[missing] @ weights[1:]
        return np.concatenate([a, b], axis=1)

    def map_pcs(self, x: Pair, pcs: np.ndarray, present: Present | None = None) -> np.ndarray:
        """Return what the map head sees of cells besides z: their `pcs`."""
        return pcs

    def check_cells(self, x: Matrix, *, named: bool = False) -> Pair:
        """Return a `Pair`, or raise; `named` says that the method also takes an array by its name."""
        if isinstance(x, Pair):
            return x
        a, b = self.names
        way = f"say which x is, as in embed({a}=x) or embed({b}=x)"
        if not named:
            way = f"pass what model.table({a}=x) or model.table({b}=x) returns"
        raise TypeError(f"This model has two modalities: {way}.")

    def check_present(self, present: object) -> None:
        """Raise unless `present` says of each gene of some modalities whether it was measured."""
        if present is None:
            return
        if not isinstance(present, Mapping) or not set(present) <= set(self.names):
            given = ", ".join(map(repr, present)) if isinstance(present, Mapping) else type(present).__name__
            raise TypeError(
                f"present is {given}: pass a dict with True or False for each gene of "
                f"{' or '.join(map(repr, self.names))}."
            )
        for name, part in zip(self.names, self.parts, strict=True):
            part.check_present(present.get(name), name)

    def join(self, arrays: Mapping[str, Matrix]) -> Pair:
        """Return the arrays of one or both modalities of some cells as a `Pair`, after checking them."""
        unknown = [name for name in arrays if name not in self.names]
        if unknown or not arrays:
            what = f"{unknown[0]!r} is not a modality of this model" if unknown else "No modality was given"
            raise TypeError(f"{what}: pass {self.names[0]}=, {self.names[1]}=, or both.")
        parts = dict(zip(self.names, self.parts, strict=True))
        sizes = {name: parts[name].check_cells(x, name=name).shape[0] for name, x in arrays.items()}
        if len(set(sizes.values())) > 1:
            given = " and ".join(f"{n} of {name}" for name, n in sizes.items())
            raise ValueError(f"Row i must be the same cell in both modalities: got {given}.")
        n = next(iter(sizes.values()))
        a, b = (arrays.get(name, sp.csr_matrix((n, len(part.genes)), dtype=np.float32)) for name, part in parts.items())
        return Pair((a, b), np.tile([name in arrays for name in self.names], (n, 1)))

    def gene_weights(self, first: Sequence[np.ndarray], name: str) -> np.ndarray:
        """Return each gene's share of what enters the first layer of its modality, through the components."""
        i = self.names.index(name)
        part, axes = self.parts[i], (self.seen or self).parts[i].axes
        return gene_shares(first[i] @ axes, np.maximum(part.cap - part.center, 0), len(part.genes))

    def records(self, name: str = "features") -> dict[str, object]:
        """Return what a model file holds, by the names of its parts."""
        parts = {f"{name}_{i}": part for i, part in enumerate(self.parts)}
        return {name: self} | parts | (self.seen.records("seen") if self.seen else {})

    def _components(self, x: Pair, present: Present | None, fitted: np.ndarray | None) -> list[np.ndarray]:
        known = present or {}
        return [
            part.pcs(matrix, known.get(name), fitted) / unit
            for name, part, matrix, unit in zip(self.names, self.parts, x.sides, self.units, strict=True)
        ]


def fit_pair(x: Pair, names: Sequence[str], fits: Sequence[Callable[[Matrix], Features]]) -> PairFeatures:
    """Fit on training rows.

    Parameters
    ----------
    x
        Training cells.
    names
        Names of the two modalities.
    fits
        What fits the features of each to the rows in which it was measured.
    """
    parts, units, pcs = [], [], []
    for matrix, rows, learn in zip(x.sides, x.measured.T, fits, strict=True):
        parts.append(learn(matrix[rows]))
        found = parts[-1].pcs(matrix, fitted=rows)
        units.append(float(np.sqrt(found[rows].var(axis=0).mean())) or 1.0)
        pcs.append(found / units[-1])
    a, b = pcs[0][x.both], pcs[1][x.both]
    return PairFeatures(
        names=(names[0], names[1]),
        parts=(parts[0], parts[1]),
        units=np.array(units, dtype=np.float32),
        to_first=_regress(a, on=b),
        to_second=_regress(b, on=a),
    )


def _regress(wanted: np.ndarray, on: np.ndarray) -> np.ndarray:
    """Return the regression of some columns on others, the intercepts in the first row; 0 if there are no cells."""
    if not len(on):
        return np.zeros((on.shape[1] + 1, wanted.shape[1]), dtype=np.float32)
    ridge = Ridge(alpha=RIDGE * on.size).fit(on, wanted)
    return np.vstack([ridge.intercept_, np.atleast_2d(ridge.coef_).T]).astype(np.float32)

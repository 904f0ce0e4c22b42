"""The features of one modality: which genes in which order, and how their values become what a network sees.

They are fitted on training rows and saved with the model, so that `transform` treats new cells the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, NoReturn

import numpy as np
import scipy.sparse as sp
import torch

from tripletomics import gaps, pcs
from tripletomics.augment import Augmentation
from tripletomics.features.rows import by_rows, check_values, float32, median_depth, normalise, norms, spread_of, take
from tripletomics.pcs import CUT, PANEL, cut, mean_and_variance
from tripletomics.scales import Scale, looks_like_counts, see
from tripletomics.sources import ALL, Matrix, Memory

DEPTH = 1e4  # counts of a cell over all its genes, after normalisation
BLOCK = 8192  # cells whose components are computed at once
UNSURE = 2.0  # for an embedding: it may have seen the training cells, and then new cells lie elsewhere


@dataclass(frozen=True)
class Choice:
    """The genes of a dataset that a model takes.

    Attributes
    ----------
    columns
        Numbers of the columns; those that the encoder sees come first.
    n_seen
        How many the encoder sees.
    dispersed
        Boolean (columns,): the genes of the principal components.
    share
        Median share of a training cell's counts that these genes hold.
    scale
        The scale of the values of the whole matrix.
    use_rep
        Key in `obsm`, if the columns are the dimensions of an embedding.
    """

    columns: np.ndarray
    n_seen: int
    dispersed: np.ndarray
    share: float
    scale: Scale | None = None
    use_rep: str | None = None

    @classmethod
    def every(cls, columns: np.ndarray, share: float = 1.0) -> Choice:
        """Return a choice that uses the columns for everything."""
        return cls(columns, len(columns), np.ones(len(columns), dtype=bool), share)

    @classmethod
    def of_embedding(cls, use_rep: str, n: int) -> Choice:
        """Return the choice of all n dimensions of an embedding."""
        return cls(np.arange(n), n, np.ones(n, dtype=bool), 1.0, Scale(), use_rep)


@dataclass(frozen=True)
class Features:
    """Genes, normalisation, scaling and principal components of the training cells.

    Attributes
    ----------
    genes
        Names in the model's order.
    n_seen
        The encoder sees this many of the genes, the first ones.
    counts
        Whether values are counts, which are scaled to a depth and log-transformed.
    like_counts, negative
        Whether the training matrix looked like counts, and had negative values.
    depth, mean, scale
        For the encoder: the median counts of a training cell over `genes` (1 without counts), and what its rows are
        scaled by, float32 (n_seen,): it sees ``(x - mean) / scale``.
    shares
        Share of the training cells' counts that each gene holds, float32 (genes,); equal without counts.
    usual_depth, cap, axes, offset
        For the principal components, which are scanpy's: counts over `genes` of a cell that has 10,000 over all genes
        of the dataset; where larger values are cut, float32 (genes,), 10 standard deviations above the mean; and what
        takes the cut rows to their components, float32 (components, genes) and (components,).
    center, unit, variance, noise
        For components of cells whose genes are partly unknown: mean of the cut rows and what scales them to unit
        variance, float32 (genes,); on that scale the variance along each component, float32 (components,), and the mean
        variance of a gene that they do not explain.
    shrink, residual
        For the components of cells that they were fitted on: the coefficients of `pcs.factors`, float32
        (3, components), and the mean squared distance of such a cell to the space of the components. None in a model
        that was saved by a version without them.
    plain, plain_offset
        For an adopted map: loadings and offset of plain components, without unit variance of the genes, float32
        (components, genes) and (components,). Most published maps are made from components with or without unit
        variance. None otherwise.
    kind, total, step, below
        The scale of the training values, as in `Scale`; a query must be on the same one. None in a model that was saved
        by a version without it.
    use_rep
        Key in `obsm` of the embedding whose dimensions the ``genes`` are; None for genes. Its dimensions share one
        scale, are never cut (``cap`` only says how they vary), and up to 50 of them are only rotated.
    norm, norm_spread
        For an embedding: median length of a training cell, and the median difference from it as a share of it.

    Notes
    -----
    The methods take `present`, boolean (genes,), None for all. The values of other genes are ignored, because they are
    *unknown*, not 0: the encoder sees their training means, as when a mask hides them in training, and counts are
    scaled to the depth that the present genes have in the training cells.
    """

    names: ClassVar[tuple[str, ...]] = ("",)  # of the only modality
    modalities: ClassVar[tuple[str, ...]] = ()
    genes: list[str]
    n_seen: int
    counts: bool
    like_counts: bool
    negative: bool
    depth: float
    mean: np.ndarray
    scale: np.ndarray
    shares: np.ndarray
    usual_depth: float
    cap: np.ndarray
    axes: np.ndarray
    offset: np.ndarray
    center: np.ndarray
    unit: np.ndarray
    variance: np.ndarray
    noise: float
    shrink: np.ndarray | None = None
    residual: float = 0.0
    kind: str | None = None
    total: float = 0.0
    step: float = 0.0
    below: float = 0.0
    use_rep: str | None = None
    norm: float = 0.0
    norm_spread: float = 0.0

    @property
    def unsure(self) -> float:
        """How uncertain the components of new cells are, compared with components that were fitted here."""
        return 1.0 if self.use_rep is None else UNSURE

    @property
    def noun(self) -> str:
        """What the features are called."""
        return "genes" if self.use_rep is None else f"dimensions of {self.use_rep}"

    plain: np.ndarray | None = None
    plain_offset: np.ndarray | None = None

    @property
    def known_scale(self) -> Scale | None:
        """The scale of the training values; None if it was not recorded."""
        return None if self.kind is None else Scale(self.kind, self.total, self.step, self.below)

    @property
    def parts(self) -> tuple[Features, ...]:
        """These features."""
        return (self,)

    @property
    def width(self) -> int:
        """Principal components."""
        return len(self.axes)

    @property
    def map_width(self) -> int:
        """Components that the map head sees."""
        return self.width + (0 if self.plain is None else len(self.plain))

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns that the encoder sees."""
        return (self.n_seen,)

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation of the genes that the encoder sees (n_seen,), at the depth of the components."""
        return np.maximum(self.cap - self.center, 0)[: self.n_seen] / CUT

    def source(self, x: Matrix, present: np.ndarray | None = None, trained: np.ndarray | None = None) -> Memory:
        """Return what the encoder sees of cells, row by row; whether it was `trained` on them makes no difference."""
        return Memory(by_rows(x), self, present)

    def normalise(self, x: Matrix, present: np.ndarray | None = None) -> Matrix:
        """Return float32 rows of the genes that the encoder sees, counts logged; sparse stays sparse."""
        return gaps.fill(self.logged(x, self.depth, present)[:, : self.n_seen], self.mean)

    def standardise(
        self, rows: np.ndarray, present: np.ndarray | None = None, columns: np.ndarray | slice = ALL
    ) -> np.ndarray:
        """Scale dense normalised rows, which have only some `columns` of those that the encoder sees."""
        mean, scale = self.mean[columns], self.scale[columns]
        shift, factor = torch.from_numpy(-mean / scale), torch.from_numpy(1 / scale)
        scaled = torch.addcmul(shift, torch.from_numpy(rows), factor).numpy()  # in one pass
        if present is not None:
            scaled[:, ~present[: self.n_seen][columns]] = 0
        return scaled

    def augmentation(self, augment: Augmentation, views: int) -> Augmentation:
        """Return an augmentation that knows how the rows are scaled."""
        return augment.fit(self.mean, self.scale)

    def pcs(self, x: Matrix, present: np.ndarray | None = None, fitted: np.ndarray | None = None) -> np.ndarray:
        """Return principal components, float32 (cells, components); where genes are missing, their expected values.

        Parameters
        ----------
        x, present
            Cells by `genes`, and which of these were measured.
        fitted
            Boolean (cells,): cells that the components were fitted on. They get the coordinates of new cells.

        References
        ----------
        They follow from the posterior mean of probabilistic principal component analysis with missing values: Tipping
        & Bishop 1999, Probabilistic principal component analysis, J. R. Stat. Soc. B 61(3).
        """
        axes, offset = self.axes.T, self.offset
        if present is not None and not present.all():
            whole = gaps.completion((self.axes * self.unit)[:, present], self.variance, self.noise).T
            axes = np.where(present, self.axes, 0).T @ whole
            offset = self.center @ axes
        found, x = np.empty((x.shape[0], self.width), dtype=np.float32), by_rows(x)
        for i in range(0, len(found), BLOCK):
            rows = self.logged(x[i : i + BLOCK], self.usual_depth, present)
            rows = cut(rows, self.cap) if self.use_rep is None else rows
            block = found[i : i + BLOCK]
            if gaps.has_gaps(rows):
                block[:], rows = self.completed(rows, present)
            else:
                block[:] = rows @ axes - offset
            own = np.zeros(len(block), dtype=bool) if fitted is None else fitted[i : i + BLOCK]
            if own.any() and self.shrink is not None and (present is None or present.all()):
                block[own] *= pcs.factors(self.shrink, block[own], self.variance, self._outside(rows[own], block[own]))
        return found

    def map_pcs(self, x: Matrix, pcs: np.ndarray, present: np.ndarray | None = None) -> np.ndarray:
        """Return `pcs` and, for an adopted map, plain components; missing genes have the values that `pcs` predict."""
        if self.plain is None or self.plain_offset is None:
            return pcs
        lost = np.zeros(len(self.genes), dtype=bool) if present is None else ~present
        found, x = self.expected(pcs, lost) @ self.plain[:, lost].T - self.plain_offset, by_rows(x)
        for i in range(0, len(found), BLOCK):
            rows = self.logged(x[i : i + BLOCK], self.usual_depth, present)
            if gaps.has_gaps(rows):
                rows = gaps.fill(rows, self.expected(pcs[i : i + BLOCK]))
            found[i : i + BLOCK] += rows @ self.plain.T
        return np.concatenate([pcs, found], axis=1, dtype=np.float32)

    def check_cells(self, x: Matrix, *, named: bool = False, name: str = "") -> Matrix:
        """Return cells by these genes, or raise if they are not; a modality is called by its `name`."""
        given, whose = (name, f"{name}'s") if name else ("x", "the model's")
        if hasattr(x, "iloc"):  # a DataFrame, with columns by name
            if lost := [gene for gene in self.genes if gene not in x.columns]:
                raise ValueError(
                    f"{given} is a DataFrame that lacks {len(lost)} of {whose} {len(self.genes)} {self.noun} (first: "
                    f"{', '.join(lost[:3])})."
                )
            x = x[self.genes].to_numpy(dtype=np.float32, na_value=np.nan)
        if not hasattr(x, "shape") or not hasattr(x, "dtype"):
            raise TypeError(
                f"{given} is {type(x).__name__}, not an array: tripletomics.transform and predict take AnnData."
            )
        if x.ndim != 2 or x.shape[1] != len(self.genes):
            where = f"model.part({name!r}).genes" if name else "model.features.genes"
            raise ValueError(
                f"{given} has shape {x.shape}: pass cells by {whose} {len(self.genes)} {self.noun}, in the order of "
                f"{where}."
            )
        check_values(x, self.counts, given)
        return x

    def check_present(self, present: object, name: str = "") -> None:
        """Raise unless `present` says of each gene whether it was measured; None says that all were."""
        what, n_genes = type(present).__name__, len(self.genes)
        if isinstance(present, np.ndarray):
            what = f"{present.dtype} of shape {present.shape}"
        if present is not None and what != f"bool of shape {(n_genes,)}":
            whose = f"{name}'s" if name else "the model's"
            raise ValueError(f"present is {what}: pass True or False for each of {whose} {n_genes} {self.noun}.")

    def join(self, arrays: Mapping[str, Matrix]) -> NoReturn:
        """Raise: arrays are named where there are two modalities."""
        raise TypeError("This model has one modality: pass its array alone, as in embed(x).")

    def gene_weights(self, first: Sequence[np.ndarray], name: str) -> np.ndarray:
        """Return each gene's share (genes,) of what enters the first layer, whose weights are `first`."""
        return gene_shares(first[0], self.deviation / self.scale, len(self.genes))

    def records(self) -> dict[str, object]:
        """Return what a model file holds, by the names of its parts."""
        return {"features": self}

    def _outside(self, rows: Matrix, found: np.ndarray) -> np.ndarray:
        """Return the squared distance of cut rows to the space of the components, in units of its mean: (cells,)."""
        if not self.residual:
            return np.zeros(len(found))
        weights = np.where(self.axes.any(axis=0), 1 / np.square(self.unit, dtype=np.float64), 0)
        squares = rows.multiply(rows) if sp.issparse(rows) else np.square(rows)
        center = self.center.astype(np.float64)
        whole = squares @ weights - 2 * (rows @ (weights * center)) + weights @ np.square(center)
        return np.maximum(whole - np.square(found).sum(axis=1), 0) / self.residual

    def logged(self, x: Matrix, depth: float, present: np.ndarray | None = None) -> Matrix:
        """Return float32 rows of all genes; counts are scaled to the depth and log-transformed."""
        if present is not None and not present.all():
            x = take(by_rows(x), np.where(present, np.arange(len(present)), -1))
            depth *= float(self.shares[present].sum())  # the full depth would inflate the values of the present genes
        shares = self.shares if present is None else np.where(present, self.shares, 0)
        return normalise(x, depth, shares) if self.counts else float32(x)

    def expected(self, pcs: np.ndarray, columns: np.ndarray | slice = ALL) -> np.ndarray:
        """Return the values of some genes that components predict (cells, columns)."""
        return pcs @ (self.axes * np.square(self.unit))[:, columns] + self.center[columns]

    def completed(self, rows: Matrix, present: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the components of cut rows with gaps, and the rows with expected values in these."""
        missing = np.zeros(len(self.genes), dtype=bool) if present is None else ~present
        scaled = rows.multiply(1 / self.unit).tocsr() if sp.issparse(rows) else rows / self.unit
        given = self.center / self.unit, self.axes * self.unit, self.variance, self.noise
        found, scaled = gaps.complete(scaled, missing, *given)
        return found, scaled * self.unit


def fit(x: Matrix, genes: list[str], counts: bool, seed: int, choice: Choice | None = None) -> Features:
    """Fit normalisation, scaling and principal components on training rows.

    Parameters
    ----------
    x
        Training cells by the chosen genes, as they are in AnnData.
    genes
        Their names.
    counts
        Whether to normalise and log-transform.
    seed
        Seed of the solver of the principal components.
    choice
        What each gene is used for; by default all genes for everything.

    References
    ----------
    The principal components are those of the usual pipeline (dispersed genes, unit variance, cut at 10 standard
    deviations): Satija, Farrell, Gennert, Schier & Regev 2015; Wolf, Angerer & Theis 2018.
    """
    choice = Choice.every(np.arange(x.shape[1])) if choice is None else choice
    of_genes = choice.use_rep is None
    like_counts = of_genes and looks_like_counts(x)
    x = float32(x)
    norm, norm_spread = (0.0, 0.0) if of_genes else spread_of(norms(x))
    depth, usual_depth = (median_depth(x), DEPTH * choice.share) if counts else (1.0, 1.0)
    seen = (normalise(x, depth) if counts else x)[:, : choice.n_seen]
    mean, variance = mean_and_variance(seen)
    if of_genes and x.shape[1] < PANEL:
        scale = np.where(variance > 0, np.sqrt(variance), 1)
    else:
        # one scale for all genes: how much a logged gene varies is signal, and a quiet one is mostly noise; and an
        # embedding is made for its distances
        scale = np.full(len(variance), np.sqrt(variance.mean()) or 1)
    return Features(
        genes=genes,
        n_seen=choice.n_seen,
        counts=counts,
        like_counts=like_counts,
        negative=bool(gaps.stored(x).min(initial=0) < 0),
        depth=depth,
        mean=mean.astype(np.float32),
        scale=scale.astype(np.float32),
        shares=_shares(x, counts),
        usual_depth=usual_depth,
        **asdict(choice.scale or see(x)),
        use_rep=choice.use_rep,
        norm=norm,
        norm_spread=norm_spread,
        **pcs.fit(normalise(x, usual_depth) if counts else x, choice.dispersed, seed, scaled=of_genes),
    )


def gene_shares(weights: np.ndarray, deviation: np.ndarray, n_genes: int) -> np.ndarray:
    """Return what weights (hidden, genes) take from genes of a standard deviation; over all genes it adds up to 1."""
    found = np.zeros(n_genes)
    found[: len(deviation)] = np.linalg.norm(weights, axis=0)[: len(deviation)] * deviation
    return found / (found.sum() or 1.0)


def _shares(x: Matrix, counts: bool) -> np.ndarray:
    return (gaps.shares(x) if counts else np.full(x.shape[1], 1 / x.shape[1])).astype(np.float32)

"""The methods of a model that embed cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tripletomics.embedding import coordinates
from tripletomics.features import Pair, Present
from tripletomics.index import Hits
from tripletomics.model.state import State
from tripletomics.seen import network_inputs
from tripletomics.sources import Matrix


class Embedder(State):
    """What a `Model` does without types: coordinates of cells in the metric space and on the map."""

    def embed(self, x: Matrix = None, present: Present = None, **modalities: Matrix) -> np.ndarray:
        """Return the coordinates of cells in the metric space.

        Parameters
        ----------
        x
            Cells by ``features.genes``, dense or sparse, on the scale of the training matrix; a DataFrame with columns
            of these names; or what `table` returns. NaN is a value that was not measured.
        present
            Which of the genes were measured, boolean (genes,); all by default. The values of the others are ignored:
            they are unknown, as genes that a mask hides in training. With two modalities, a dict by name.
        modalities
            In place of `x`, for a model of two modalities: as for `table`.

        Returns
        -------
        float32 (cells, metric_dim).

        Examples
        --------
        >>> x = query[:, model.features.genes].X
        >>> model.embed(x).shape
        (100, 32)
        """
        return self.place(x, present, **modalities)[0]

    def map(self, x: Matrix = None, present: Present = None, **modalities: Matrix) -> np.ndarray:
        """Return the coordinates of cells on the map, float32 (cells, dim). Parameters as for `embed`.

        Examples
        --------
        >>> model.map(query[:, model.features.genes].X).shape
        (100, 2)
        """
        return self.place(x, present, **modalities)[1]

    def pcs(self, x: Matrix, present: Present = None) -> np.ndarray:
        """Return principal components, of cells of the fit as if they were new. Parameters as for `embed`.

        Returns
        -------
        float32 (cells, components).

        Examples
        --------
        >>> model.pcs(query[:, model.features.genes].X).shape
        (100, 50)
        """
        known: Any = present
        return self.features.pcs(x, known, self._roles(x)[1])

    def place(self, x: Matrix = None, present: Present = None, **modalities: Matrix) -> tuple[np.ndarray, np.ndarray]:
        """Return the coordinates in both spaces at once. Parameters as for `embed`.

        Returns
        -------
        ``(z, m)``: the metric space, float32 (cells, metric_dim), and the map, float32 (cells, dim).

        Examples
        --------
        >>> z, m = model.place(query[:, model.features.genes].X)
        >>> z.shape, m.shape
        ((100, 32), (100, 2))
        """
        return self._embed(self._given(x, modalities), present)[:2]

    def search(self, x: Matrix = None, k: int = 10, present: Present = None, **modalities: Matrix) -> Hits:
        """Return the k nearest training cells in the metric space, where each lies by all that was measured of it.

        Parameters
        ----------
        x, present, modalities
            As for `embed`.
        k
            Cells to find for each, the nearest first.

        Returns
        -------
        Hits with ``names``, ``labels`` ("" for unlabelled cells) and ``distances``, each (cells, k).

        Raises
        ------
        ValueError
            If the model has no index, or k is out of range.

        Examples
        --------
        >>> hits = model.search(query[:, model.features.genes].X, k=5)
        >>> hits.names.shape, hits.labels.shape
        ((100, 5), (100, 5))
        """
        if self.catalog is None:
            raise ValueError(
                "This model was read from a file without an index: write it with model.save(path, index=True) after "
                "fit (on the command line: fit --index)."
            )
        return self.catalog.search(self.embed(x, present, **modalities), k, self.types)

    def table(self, **modalities: Matrix) -> Pair:
        """Return the arrays of one or both modalities of some cells together.

        Parameters
        ----------
        modalities
            By name, such as ``rna=``: cells by the modality's genes (``features.parts``), dense or sparse. With both,
            row i is the same cell in each.

        Returns
        -------
        A `Pair` for methods that take ``x``: both matrices, and which of them each cell has.

        Raises
        ------
        TypeError
            If the model has one modality, or not these.
        ValueError
            If the shapes do not fit.

        Examples
        --------
        >>> two.modalities
        ('rna', 'protein')
        >>> cells = two.table(rna=rna.X, protein=protein.X)
        >>> two.embed(cells).shape
        (210, 32)
        """
        return self.features.join(modalities)

    def _given(self, x: Matrix, modalities: Mapping[str, Matrix] | None = None) -> Matrix:
        """Return cells as one matrix or `Pair`, or raise; `modalities` is None where a method takes no names."""
        if not modalities:
            return self.features.check_cells(x, named=modalities is not None)
        if x is not None:
            raise TypeError(f"Pass x or {', '.join(modalities)}, not both.")
        return self.features.join(modalities)

    def _embed(self, x: Matrix, present: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return z, the map, principal components and the roles that cells had in the fit."""
        self.features.check_present(present)
        roles = self._roles(x)
        source, pcs = network_inputs(self.features, x, present, roles)
        known: Any = present
        embedding = coordinates(self.networks, source, self.features.map_pcs(x, pcs, known))
        lost = ~np.all([np.isfinite(space).all(axis=1) for space in embedding.values()], axis=0)
        if lost.any():
            raise ValueError(
                f"{lost.sum():,} of {len(lost):,} cells have coordinates that are NaN or infinite (first: row "
                f"{int(lost.argmax())}). Their values may be too large, or the model may be damaged: check both."
            )
        return embedding["metric"], embedding["map"], pcs, roles[0]

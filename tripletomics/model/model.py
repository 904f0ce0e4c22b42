"""The model: features, networks, reference, settings, classes; arrays in, arrays out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from tripletomics import files
from tripletomics.features import Present
from tripletomics.labels import COVERAGE, REJECT, check_new_types
from tripletomics.labels.nodes import check_node_names
from tripletomics.labels.prediction import Prediction, check_shares, join, list_novel, predict
from tripletomics.labels.values import Estimate
from tripletomics.model import cards, graph, storage, summary
from tripletomics.model.assembly import assemble, disassemble
from tripletomics.model.embedder import Embedder
from tripletomics.seen import HELD_OUT, TRAINING
from tripletomics.sources import Matrix

BLOCK = 20_000  # cells whose evidence is held at once: about 100 bytes for each type of a cell


class Model(Embedder):
    """What `tripletomics.fit` returns: it embeds cells in the metric space and on the map.

    Attributes
    ----------
    features
        The genes and how their values are treated.
    networks
        Encoder and map head.
    classes
        Names of the types, sorted.
    settings
        What `fit` was given, as text.
    scores
        15-NN macro-F1 by group of cells (``"train"``, ``"held-out"``, ``"permuted"``) and space (``"map"``,
        ``"metric"``). Without labels, recall of the 15 nearest cells by principal components.
    p_value
        By space: how often permuted labels of the held-out cells score as well. Empty without labels or such cells.
    history
        For each stage (``"metric"``, ``"map"``): ``step``, ``loss``, ``held_out_f1`` and what the loss traces, such as
        the ``scale`` of "adacos"; arrays of equal length. ``held_out_f1`` is that of samples of up to 1,000 cells,
        which hold rare types whole, and NaN between two checks. The last one is that of `scores`.
    findings
        What the loss learned about the classes, in their order: ``surviving_centers`` (classes,) of "softtriple" and
        "hardtriple", the ``tree`` of "hierarchical_triplet" (a linkage matrix of scipy).
        With self-training also its ``self_training``, log loss (2,) after the first and the second training of labelled
        cells that were left out of both, and ``self_training_cells`` (classes,), how many cells took each type.
        ``moved`` (2,), of a model that grew: how far simulated cells, in place of the old ones, moved on the map, in
        percent of its width: the median and the 90th percentile.
        ``node_cells``, ``node_held`` and ``node_f1`` (names,), for each name of `tree`: training cells and held-out
        cells with it or a name below it, and the F1 of predicting one of these for the latter, NaN where none has it.
        ``tested`` (3,) says what the test of `p_value` could find: the number of labelled held-out cells, the number of
        their types, and the p if four of five were named right. If it is above 0.01, there are too few cells to tell.
        ``unassigned`` (classes,), which share of the held-out cells of each type are unassigned, NaN where there are
        fewer than 5 of them.
    seconds
        Wall time of the ``"fit"`` and of its ``"null"``.
    versions
        Versions of the packages that made it.
    reference
        The labelled training cells that new cells are compared with; None without labels.
    calibration
        How far predictions can be believed; None where the types had too few cells to find out.
    catalog
        All training cells, for `search`; None in a model that was read from a file without them.
    checks
        What `predict` does on held-out cells: ``cells``, ``macro_f1`` of the most probable types, ``macro_f1_named``
        where an unassigned cell counts as wrong, ``ece``, ``coverage`` and ``set_size`` of the label sets at 90 %, and
        share ``unassigned`` at a rejection of 5 %. Empty if no cell was held out. With types on several levels also
        those of `labels.prediction.check_levels`.
    enrolled
        Names of the types that were added by `enroll`; their codes follow those of `classes`.
    alone
        For a model of two modalities: by the name of each, how good predictions from it alone are.
    matches
        For a model of two modalities: how often a held-out cell, embedded by one of them, is among the 1, 10 or 50
        nearest of those embedded by the other (``recall_1``, the mean of both ways), and by chance (``null_1``).
    map_errors
        Of an adopted map: how far held-out cells lie from their true coordinates, a DataFrame as `adoption.error_table`
        returns it, for "tt", the "mean of 15 nearest" training cells, and "permuted coordinates"; empty otherwise.
    colors
        Of an adopted map: colours of types, as the dataset kept them in ``uns["<label>_colors"]``.
    ordered
        How well the values of each ordered column are predicted on held-out cells; `targets` predict them.
    tree
        Names above the types; None if there is one level. `nodes` is the same with enrolled types.
    seen
        Hashes of the cells of the fit (of the sample, if it is a large dataset on disk), and which were held out; None
        in a model of an older file. `enroll` adds nothing: no weight was trained on its cells.

    Notes
    -----
    Methods take an array ``x``. A model of two modalities takes arrays by their names, one or both, such as
    ``embed(rna=x)``; `table` joins them for a method that takes no names.

    Examples
    --------
    >>> model
    <tripletomics.Model: 765 genes, 10 types, loss=softmax>
    >>> sorted(model.scores)
    ['held-out', 'permuted', 'train']
    >>> model.classes[:3]
    ['CD14+ Monocyte', 'CD19+ B', 'CD34+']
    """

    def __repr__(self) -> str:
        """Return a line on what the model knows."""
        parts = zip(self.features.names, self.features.parts, strict=True)
        sizes = " and ".join(f"{len(part.genes)} {name or part.noun}" for name, part in parts)
        return f"<tripletomics.Model: {sizes}, {len(self.types)} types, loss={self.settings['loss']}>"

    def _repr_html_(self) -> str:
        """Return scores, remarks, types and settings for a notebook."""
        return summary.as_page(self)

    def predict(
        self,
        x: Matrix = None,
        present: Present = None,
        *,
        reject: float = REJECT,
        coverage: float = COVERAGE,
        fdr: float | None = None,
        **modalities: Matrix,
    ) -> tuple[Prediction, np.ndarray, np.ndarray]:
        """Return the types of cells, and their coordinates in the metric space and on the map.

        Parameters
        ----------
        x, present, modalities
            As for `embed`.
        reject, coverage, fdr
            As for `tripletomics.predict`.

        Returns
        -------
        ``(found, z, m)``: a :class:`~tripletomics.labels.prediction.Prediction`, whose ``codes`` are those of `types`
        and whose ``nodes`` are those of `names`; the metric space, float32 (cells, metric_dim); and the map, float32
        (cells, dim).

        Raises
        ------
        ValueError
            If a share is not in range, or the model could not be calibrated.

        Examples
        --------
        >>> x = query[:, model.features.genes].X
        >>> found, z, m = model.predict(x)
        >>> found.probabilities.shape, z.shape, m.shape
        ((100, 10), (100, 32), (100, 2))
        >>> names = [model.types[code] for code in found.codes]
        """
        check_shares(reject, coverage, fdr)
        x = self._given(x, modalities)
        reference, shown, tree = self._reference(), self.shown(x), self.nodes
        calibrations = self.calibrations_for(x)
        z, m, pcs, role = self._embed(x, present)
        blocks, order = [], []
        for name, calibration in calibrations.items():
            rows = np.flatnonzero(shown[: len(z)] == name)
            for i in range(0, max(len(rows), 1), BLOCK):
                some = rows[i : i + BLOCK]
                evidence = reference.evidence(z[some], pcs[some], role[some] > HELD_OUT)
                if reference.near_trained is not None and not name:
                    evidence = calibration.as_new(evidence, role[some] == TRAINING, reference.near_trained)
                blocks.append(predict(evidence, calibration, reject, coverage, tree))
            order.append(rows)
        found = join(blocks)
        found = found[np.argsort(np.concatenate(order), kind="stable")]
        if fdr is not None:
            found = list_novel(found, calibrations, shown[: len(z)], pcs, role <= HELD_OUT, fdr)
        return found, z, m

    def predict_values(
        self, x: Matrix = None, present: Present = None, *, coverage: float = COVERAGE, z: np.ndarray | None = None,
        **modalities: Matrix,
    ) -> dict[str, Estimate]:  # fmt: skip
        """Return the values of ordered columns, with intervals; `z` is the metric space, if it is known.

        Returns
        -------
        A dict from the name of a column to its ``center``, ``low`` and ``high``, each (cells,).

        Examples
        --------
        >>> adata.obs["day"] = np.arange(adata.n_obs) % 7.0
        >>> days = tt.fit(adata, order="day")
        >>> estimate = days.predict_values(query[:, days.features.genes].X)["day"]
        >>> estimate.center.shape, estimate.low.shape, estimate.high.shape
        ((100,), (100,), (100,))
        """
        check_shares(REJECT, coverage)
        x = self._given(x, modalities)
        z, (role, fitted) = self._embed(x, present)[0] if z is None else z, self._roles(x)
        pcs = self.features.pcs(x, cast(Any, present), fitted)
        return {one.name: one.predict(z, pcs, role > HELD_OUT, coverage) for one in self.targets}

    def enroll(self, x: Matrix, names: Sequence[str], present: Present = None) -> None:
        """Add types that no training cell has from a handful of cells, without training: `predict` then names them.

        Of types on several levels, they are types of the top level.

        Parameters
        ----------
        x, present
            Cells of the new types, as for `embed`.
        names
            The type of each cell.

        Raises
        ------
        ValueError
            If a name is already known, means unlabelled or looks like a label set of several levels, or there is not
            one per cell. The model stays as it was.

        Examples
        --------
        >>> x = query[:5, model.features.genes].X
        >>> model.enroll(x, ["new type"] * 5)
        >>> "new type" in model.types
        True
        """
        names = check_new_types(names, x.shape[0], self.names)
        check_node_names(names if self.tree is not None else ())
        new = sorted(set(names))
        reference = self._reference()
        z, m, pcs, _ = self._embed(self._given(x), present)
        types = self.types + new
        codes = np.array([types.index(name) for name in names])
        self.reference = reference.enroll(z, m, pcs, codes, len(types))
        self.enrolled = self.enrolled + new

    def same(self, a: Matrix, b: Matrix, present: Present = None) -> np.ndarray:
        """Return how likely the cells of each pair are of one type, as calibrated on pairs of known types.

        In a model of two modalities, these were pairs by one modality if all cells here have that one alone, else by
        both.

        Parameters
        ----------
        a, b
            The first and the second cell of each pair, as for `embed`: (pairs, genes).
        present
            As for `embed`, for both.

        Returns
        -------
        Probabilities (pairs,), for pairs of which half are of one type.

        Examples
        --------
        >>> x = query[:, model.features.genes].X
        >>> model.same(x[:5], x[5:10]).shape
        (5,)
        """
        if a.shape != b.shape:
            raise ValueError(f"a has shape {a.shape} and b {b.shape}: pass one cell in each for every pair.")
        cells = [self._given(x) for x in (a, b)]
        names = {str(name) for x in cells for name in self.shown(x)}
        reference, calibration = self._reference(), self._calibrated(names.pop() if len(names) == 1 else "")
        pairs = (self._embed(x, present) for x in cells)
        return calibration.same(*(reference.evidence(z, pcs) for z, _, pcs, _ in pairs))

    def summary(self) -> str:
        """Return a few lines on how the map does on cells that it never saw.

        Examples
        --------
        >>> print(model.summary())
        15-NN macro-F1      map  metric space
        held-out cells ...
        """
        return summary.summarise(self)

    def record(self) -> dict[str, object]:
        """Return what is kept in `uns`, as in the attributes of the same names.

        Examples
        --------
        >>> list(model.record())[:5]
        ['settings', 'versions', 'history', 'findings', 'seconds']
        """
        return summary.record(self)

    def card(self) -> str:
        """Return what its users must know, as Markdown: data, types, checks, limits, versions, settings, use.

        Examples
        --------
        >>> print(model.card())
        # Model card...
        """
        return cards.describe(self)

    def save(self, path: str | Path, *, index: bool = False, card: bool = False) -> None:
        """Write the model to one safetensors file (``.tt``): weights, genes, landmarks and settings, no cell's values.

        Parameters
        ----------
        path
            Ends in ``.tt``.
        index
            Also write the names, labels and coordinates of all training cells, which `search` needs.
        card
            Also write the model's card next to it: ``pbmc.md`` for ``pbmc.tt``. Of a card that is there, only what you
            wrote about the source stays.

        Raises
        ------
        ValueError, FileNotFoundError, PermissionError
            If the name does not end in ``.tt``, nothing can be written there, or another text is where the card goes.

        Examples
        --------
        >>> model.save("pbmc.tt")
        >>> tt.load("pbmc.tt").id == model.id
        True
        """
        path = files.check_writable(path, storage.SUFFIX)
        place = cards.check_place(path) if card else path
        if index and self.catalog is None:
            raise ValueError("index=True, but this model was read from a file without its index: fit it again.")
        storage.write(path, *disassemble(self, index))
        if card:
            cards.write(place, self, path.name)

    def to_onnx(self, path: str | Path) -> None:
        """Write the model as one ONNX graph, which runs without Python. It needs the extra "onnx".

        It takes ``genes``, float32 (cells, genes) in the order of ``features.genes``, on the scale of the training
        matrix (counts are normalised inside). It returns ``metric``, ``map`` and, where `predict` works,
        ``probabilities`` (cells, classes). The names of genes and classes are in its metadata, as JSON.

        Parameters
        ----------
        path
            Ends in ``.onnx``.

        Raises
        ------
        ImportError
            Without the extra.
        ValueError
            If the model has two modalities or enrolled types, or the path does not end in ``.onnx``.

        Notes
        -----
        Every cell counts as new. One with NaN, or a count below 0, gets NaN. With types on several levels, the classes
        are the finest ones. Further columns are not in it. It needs up to 160 kB a cell: pass some thousand at once.

        Examples
        --------
        >>> model.to_onnx("pbmc.onnx")
        """
        graph.write(files.check_writable(path, graph.SUFFIX), self)


def load(path: str | Path) -> Model:
    """Read a model that `Model.save` wrote, onto the CPU.

    Returns
    -------
    A `Model`, which computes what the saved one did. `search` needs the index that ``save(index=True)`` writes.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TypeError
        If it is not a path.
    ValueError
        If the file is damaged, of another kind, or of a newer version.

    Notes
    -----
    A file carries the SHA-256 of all its bytes, so that every byte that has changed since it was written is found.
    Files of format 6 or 7 carry none: a warning says so.

    Examples
    --------
    >>> model.save("pbmc.tt")
    >>> tt.load("pbmc.tt")
    <tripletomics.Model: 765 genes, 10 types, loss=softmax>
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path={path!r} is not the path of a model file, such as 'pbmc.tt'.")
    return storage.read(Path(path), partial(assemble, Model))

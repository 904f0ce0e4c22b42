"""The model: features, networks, reference, settings, classes; arrays in, arrays out."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

import numpy as np

from tripletomics.features import Features
from tripletomics.index import Catalog, Hits
from tripletomics.labels import COVERAGE, NO_SIGNAL, REJECT, UNLABELLED
from tripletomics.labels.calibration import Calibration
from tripletomics.labels.prediction import Prediction, predict
from tripletomics.labels.reference import VOTERS, Reference
from tripletomics.model.scoring import place
from tripletomics.networks import Networks
from tripletomics.sources import Matrix, Memory

BLOCK = 20_000  # cells whose evidence is held at once: about 100 bytes for each type of a cell


@dataclass
class Model:
    """What `tripletomics.fit` returns: places cells in the metric space and on the map.

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
        15-NN macro-F1 by group of cells (``"train"``, ``"held-out"``, ``"null"``) and space (``"map"``, ``"metric"``).
        Without labels, recall of the 15 nearest cells by principal components.
    p_value
        By space: how often the held-out score is reached when the labels of the held-out cells are permuted. Empty if
        no cell was held out, or without labels.
    history
        For each stage (``"metric"``, ``"map"``): ``step``, ``loss``, ``held_out_f1`` and what the loss traces, such as
        the ``scale`` of "adacos"; arrays of equal length.
    findings
        What the loss learned of the classes, in their order: ``surviving_centers`` (classes,) of "softtriple" and
        "hardtriple", the ``tree`` of "hierarchical_triplet" (a linkage matrix of scipy). Empty for most losses.
    seconds
        Wall time of the ``"fit"`` and of its ``"null"``.
    versions
        Of the packages that made it.
    reference
        The labelled training cells that new cells are compared with; None without labels.
    calibration
        How far predictions can be believed; None where the types had too few cells to find out.
    catalog
        All training cells, for `search`; None in a model that was read from a file without them.
    checks
        What `predict` does on held-out cells: ``cells``, ``macro_f1``, ``ece``, ``coverage`` and ``set_size`` of the
        label sets at 90 %, share ``unassigned`` at a rejection of 5 %. Empty if no cell was held out.
    enrolled
        Names of the types that were added by `enroll`; their codes follow those of `classes`.
    """

    features: Features
    networks: Networks
    classes: list[str]
    settings: dict[str, str]
    scores: dict[str, dict[str, float]]
    p_value: dict[str, float]
    history: dict[str, dict[str, np.ndarray]]
    findings: dict[str, np.ndarray]
    seconds: dict[str, float]
    versions: dict[str, str]
    reference: Reference | None
    calibration: Calibration | None
    catalog: Catalog | None
    checks: dict[str, float] = field(default_factory=dict)
    enrolled: list[str] = field(default_factory=list)

    @property
    def types(self) -> list[str]:
        """All types that the model can name."""
        return self.classes + self.enrolled

    def __repr__(self) -> str:
        """Return a line on what the model knows."""
        sizes = f"{len(self.features.genes)} genes, {len(self.types)} types"
        return f"<tripletomics.Model: {sizes}, loss={self.settings['loss']}>"

    def embed(self, x: Matrix, present: np.ndarray | None = None) -> np.ndarray:
        """Place cells in the metric space.

        Parameters
        ----------
        x
            Cells by ``features.genes``, dense or sparse, on the scale of the training matrix.
        present
            Which of the genes were measured, boolean (genes,); all by default. The values of the others are ignored:
            they are unknown, as genes that a mask hides in training.

        Returns
        -------
        float32 (cells, metric_dim).
        """
        return self.place(x, present)[0]

    def map(self, x: Matrix, present: np.ndarray | None = None) -> np.ndarray:
        """Place cells on the map: float32 (cells, dim). `x` and `present` as for `embed`."""
        return self.place(x, present)[1]

    def place(self, x: Matrix, present: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Place cells in both spaces at once: ``(embed(x), map(x))``. `x` and `present` as for `embed`."""
        return self._place(x, present)[:2]

    def _place(self, x: Matrix, present: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n_genes = len(self.features.genes)
        if not hasattr(x, "shape") or not hasattr(x, "dtype"):
            raise TypeError(f"x is {type(x).__name__}, not an array: tripletomics.transform and predict take AnnData.")
        if x.ndim != 2 or x.shape[1] != n_genes:
            raise ValueError(
                f"x has shape {x.shape}: pass cells by the model's {n_genes} genes, in the order of "
                "model.features.genes."
            )
        if present is not None and (present.dtype != bool or present.shape != (n_genes,)):
            raise ValueError(
                f"present is {present.dtype} of shape {present.shape}: pass True or False for each of the model's "
                f"{n_genes} genes."
            )
        standardise = functools.partial(self.features.standardise, present=present)
        source, scores = Memory(self.features.normalise(x, present), standardise), self.features.project(x, present)
        places = place(self.networks, source, scores)
        return places["metric"], places["map"], scores

    def predict(
        self, x: Matrix, present: np.ndarray | None = None, *, reject: float = REJECT, coverage: float = COVERAGE
    ) -> tuple[Prediction, np.ndarray, np.ndarray]:
        """Name the types of cells, whose codes are places in `types`; also return their places as `place` does.

        Parameters
        ----------
        x, present
            As for `embed`.
        reject, coverage
            As for `tripletomics.predict`.

        Raises
        ------
        ValueError
            If a share is not in range, or the model could not be calibrated.
        """
        reference, calibration = self._known(), self._calibrated(reject, coverage)
        z, m, scores = self._place(x, present)
        blocks = [
            predict(reference.evidence(z[i : i + BLOCK], scores[i : i + BLOCK]), calibration, reject, coverage)
            for i in range(0, max(len(z), 1), BLOCK)
        ]
        return Prediction(*map(np.concatenate, zip(*map(astuple, blocks), strict=True))), z, m

    def _known(self) -> Reference:
        if self.reference is None:
            raise ValueError(
                "The model was fitted without labels, so it knows no type: fit it with label=, for which a few "
                "labelled cells of each type are enough. embed(), map() and search() work without."
            )
        return self.reference

    def _calibrated(self, reject: float = REJECT, coverage: float = COVERAGE) -> Calibration:
        if not 0 <= reject < 1:
            raise ValueError(f"reject={reject!r} is not a share in [0, 1); 0 rejects no cell.")
        if not 0 < coverage < 1:
            raise ValueError(f"coverage={coverage!r} is not a share between 0 and 1, such as 0.9.")
        if self.calibration is None:
            raise ValueError(
                "The model could not be calibrated, as no two cells of a type could be compared: it takes types of two "
                "cells or more, or with batch= types in two batches. Fit it on more cells; search() and embed() work "
                "without."
            )
        return self.calibration

    def search(self, x: Matrix, k: int = 10, present: np.ndarray | None = None) -> Hits:
        """Find the k nearest training cells in the metric space.

        Parameters
        ----------
        x, present
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
        """
        if self.catalog is None:
            raise ValueError(
                "This model was read from a file without an index: write it with model.save(path, index=True) after "
                "fit (on the command line: fit --index)."
            )
        return self.catalog.search(self.embed(x, present), k, self.types)

    def enroll(self, x: Matrix, names: Sequence[str], present: np.ndarray | None = None) -> None:
        """Add types that no training cell has from a handful of cells, without training: `predict` then names them.

        Parameters
        ----------
        x, present
            Cells of the new types, as for `embed`.
        names
            Their types, a name a cell.

        Raises
        ------
        ValueError
            If a name is known already or means unlabelled, or there is not one for each cell. The model is as before.
        """
        names = [names] if isinstance(names, str) else [str(name) for name in names]
        new = sorted(set(names))
        if not names or len(names) != x.shape[0]:
            raise ValueError(f"{len(names)} names for {x.shape[0]} cells: pass one for each, and at least one.")
        for name in new:
            if name in self.types:
                raise ValueError(f"{name!r} is a type of the model already: enroll new types alone, or fit again.")
            if name in UNLABELLED:
                raise ValueError(f"{name!r} means unlabelled: give the new type a name of its own.")
        reference = self._known()
        z, m, scores = self._place(x, present)
        types = self.types + new
        codes = np.array([types.index(name) for name in names])
        self.reference = reference.enroll(z, m, scores, codes, len(types))
        self.enrolled = self.enrolled + new

    def same(self, a: Matrix, b: Matrix, present: np.ndarray | None = None) -> np.ndarray:
        """Say how likely the cells of each pair are of one type; it was calibrated on pairs of known types.

        Parameters
        ----------
        a, b
            The first and the second cell of each pair, as for `embed`: (pairs, genes).
        present
            As for `embed`, of both.

        Returns
        -------
        Probabilities (pairs,), for pairs of which half are of one type.
        """
        if a.shape != b.shape:
            raise ValueError(f"a has shape {a.shape} and b {b.shape}: pass one cell in each for every pair.")
        reference, calibration = self._known(), self._calibrated()
        return calibration.same(*(reference.evidence(*self._place(x, present)[::2]) for x in (a, b)))

    def gene_weights(self) -> np.ndarray:
        """Return how much of what enters the encoder's first layer comes from each gene: (genes,), which adds up to 1.

        It is the norm of the gene's column times the gene's standard deviation in the training cells; a gene that
        serves the principal components alone has weight 0.
        """
        first = self.networks.encoder.trunk.get_parameter("0.weight").detach().cpu().numpy()
        weights = np.zeros(len(self.features.genes))
        n = self.features.n_seen
        weights[:n] = np.linalg.norm(first.astype(float), axis=0) * self.features.deviation / self.features.scale
        return weights / weights.sum()

    def summary(self) -> str:
        """Say in a few lines how the map does on cells that it never saw."""
        rows = (
            ("held-out cells", "held-out", "cells the model never saw"),
            ("permuted labels", "null", "held-out cells when there is nothing to learn"),
            ("training cells", "train", "no evidence: their labels were learned"),
        )
        measure = "15-NN macro-F1"
        if not self.classes:
            measure = "15-NN recall"
            rows = (
                ("held-out cells", "held-out", "their neighbours by principal components, found again"),
                ("permuted places", "null", "held-out cells that lie where others do"),
                ("training cells", "train", "cells the model was trained on"),
            )
        lines = [f"{measure:<16} {'map':>6} {'metric':>7}"]
        for title, key, remark in rows:
            if key in self.scores:
                score = self.scores[key]
                lines.append(f"{title:<16} {score['map']:>6.3f} {score['metric']:>7.3f}   {remark}")
        if self.checks:
            c = self.checks
            lines.append(
                f"{'predict':<16} {'':>6} {c['macro_f1']:>7.3f}   held-out cells; calibration error {c['ece']:.3f}, "
                f"90 % sets hold {c['coverage']:.0%} of the labels, {c['unassigned']:.1%} unassigned"
            )
        few = self.reference is not None and np.median(self.reference.sizes[: len(self.classes)]) < VOTERS
        if few:
            lines.append(
                f"Types have fewer labelled training cells than the {VOTERS} neighbours that vote: the line of predict "
                "says more than macro-F1."
            )
        if self.p_value and min(self.p_value.values()) > NO_SIGNAL:
            lines.append("No signal: the held-out cells score no better than with permuted labels.")
        if "held-out" not in self.scores:
            lines.append("No cell was held out: nothing here says how the map does on new cells.")
        if "surviving_centers" in self.findings:
            centers = zip(self.classes, self.findings["surviving_centers"], strict=True)
            lines.append("Centers that survive: " + ", ".join(f"{name} {n}" for name, n in centers))
        return "\n".join(lines)

    def record(self) -> dict[str, object]:
        """Return what is kept in `uns`, as in the attributes of the same names."""
        return {
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "history": {stage: dict(columns) for stage, columns in self.history.items()},
            "classes": np.array(self.classes, dtype=object),
            "findings": dict(self.findings),
            "seconds": dict(self.seconds),
            "scores": {group: dict(score) for group, score in self.scores.items()},
            "p_value": dict(self.p_value),
            "checks": dict(self.checks),
        }

    def save(self, path: str | Path, *, index: bool = False) -> None:
        """Write the model to one safetensors file (``.tt``): weights, genes, landmarks and settings, no expression.

        Parameters
        ----------
        path
            Ends in ``.tt``.
        index
            Also write the names, labels and places of all training cells, which `search` needs.

        Raises
        ------
        ValueError, FileNotFoundError, PermissionError
            If the name does not end in ``.tt`` or nothing can be written there.
        """
        from tripletomics.model.storage import save

        save(self, path, index)

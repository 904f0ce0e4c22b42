"""What a fitted model consists of, as its file and its summary read it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from tripletomics.features import AnyFeatures, Features, fully_measured, measured
from tripletomics.index import CellIndex
from tripletomics.labels.calibration import Calibration
from tripletomics.labels.nodes import with_types
from tripletomics.labels.reference import Reference
from tripletomics.labels.tree import Tree
from tripletomics.labels.values import ValuePredictor
from tripletomics.networks import Networks
from tripletomics.seen import NEVER, SeenCells
from tripletomics.sources import Matrix


@dataclass(frozen=True)
class UnimodalPredictions:
    """Predictions from one of two modalities alone: as `calibration` and `checks` of `Model`."""

    calibration: Calibration | None
    checks: dict[str, float]


@dataclass
class State:
    """The attributes of a `Model`, which explains them."""

    features: AnyFeatures
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
    catalog: CellIndex | None
    checks: dict[str, float] = field(default_factory=dict)
    enrolled: list[str] = field(default_factory=list)
    alone: dict[str, UnimodalPredictions] = field(default_factory=dict)
    matches: dict[str, float] = field(default_factory=dict)
    seen: SeenCells | None = None
    map_errors: pd.DataFrame = field(default_factory=pd.DataFrame)
    colors: dict[str, str] = field(default_factory=dict)
    tree: Tree | None = None
    targets: list[ValuePredictor] = field(default_factory=list)
    ordered: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The model's name in datasets that it writes to, the same in a file or a copy.

        Its 16 hexadecimal digits follow from the weights and from the cells that the model has seen.

        Examples
        --------
        >>> len(model.id)
        16
        """
        content = hashlib.blake2b(digest_size=8)
        for name, tensor in sorted(self.networks.state_dict().items()):
            content.update(name.encode())
            content.update(tensor.cpu().contiguous().numpy().tobytes())
        if self.seen is not None:
            content.update(self.seen.hashes.tobytes() + self.seen.roles.tobytes())
        return content.hexdigest()

    @property
    def types(self) -> list[str]:
        """All types that the model can name.

        Examples
        --------
        >>> model.types[:3]
        ['CD14+ Monocyte', 'CD19+ B', 'CD34+']
        """
        return self.classes + self.enrolled

    @property
    def nodes(self) -> Tree | None:
        """The tree of all names, in which enrolled types are types of the top level; None if there is one level.

        Examples
        --------
        >>> model.nodes is None  # the types have one level
        True
        """
        return None if self.tree is None else with_types(self.tree, self.enrolled)

    @property
    def names(self) -> list[str]:
        """All names that `predict` can write. These are the types and, with levels, the names above them.

        Examples
        --------
        >>> model.names == model.types  # no names above the types
        True
        """
        return self.types if self.nodes is None else self.nodes.names

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the two modalities; none in a model of one.

        Examples
        --------
        >>> model.modalities, two.modalities
        ((), ('rna', 'protein'))
        """
        return self.features.modalities

    def _reference(self) -> Reference:
        """Return the reference, or raise if there are no types."""
        if self.reference is None:
            raise ValueError(
                "The model was fitted without labels, so it knows no type: fit it with label=, for which a few "
                "labelled cells of each type are enough. embed(), map() and search() work without."
            )
        return self.reference

    def _calibrated(self, name: str = "") -> Calibration:
        """Return the calibration of what was measured, or raise if there is none."""
        calibration = self.alone[name].calibration if name else self.calibration
        if calibration is None:
            whose = f"Predictions from {name} alone" if name else "The model"
            raise ValueError(
                f"{whose} could not be calibrated, because no two cells of a type could be compared: this needs "
                "types of two cells or more or, with batch=, types in two batches. Fit it on more cells; search() and "
                "embed() work without."
            )
        return calibration

    def shown(self, x: Matrix) -> np.ndarray:
        """Return the name of the only modality that a cell has, "" where it has all (cells,); of no cells, one "".

        Examples
        --------
        >>> str(two.shown(two.table(rna=rna.X))[0])
        'rna'
        """
        names = np.where(fully_measured(x), "", np.array(self.features.names)[measured(x).argmax(axis=1)])
        return names if len(names) else np.array([""])

    def calibrations_for(self, x: Matrix) -> dict[str, Calibration]:
        """Return the calibrations that hold for some cells, by what was measured of them ("" for all of it).

        Examples
        --------
        >>> list(two.calibrations_for(two.table(rna=rna.X)))
        ['rna']
        """
        return {str(name): self._calibrated(str(name)) for name in np.unique(self.shown(x))}

    def _roles(self, x: Matrix) -> tuple[np.ndarray, np.ndarray]:
        """Return the roles of cells in the fit: see `SeenCells.find`."""
        if self.seen is None:
            return np.full(x.shape[0], NEVER, dtype=np.int8), np.zeros(x.shape[0], dtype=bool)
        return self.seen.find(x)

    def part(self, modality: str | None = None) -> Features:
        """Return the genes of a model, or of one of its two modalities.

        Returns
        -------
        Features with ``genes``, their names in order, and how their values are treated.

        Examples
        --------
        >>> len(two.part("protein").genes)
        12
        """
        parts = dict(zip(self.features.names, self.features.parts, strict=True))
        if (modality or "") not in parts:
            raise ValueError(f"modality={modality!r} is not one of this model: {', '.join(self.modalities) or 'None'}.")
        return parts[modality or ""]

    def gene_weights(self, modality: str | None = None) -> np.ndarray:
        """Return how much of what enters the encoder's first layer comes from each gene: (genes,), which adds up to 1.

        It is the norm of the gene's column times the gene's standard deviation in the training cells; a gene that
        is used only for the principal components has weight 0. With two modalities the weights are those of the named
        one, whose genes reach that layer through the components.

        Examples
        --------
        >>> weights = model.gene_weights()
        >>> weights.shape, round(float(weights.sum()), 3)
        ((765,), 1.0)
        """
        self.part(modality)
        weights = self.networks.encoder.state_dict().items()
        first = [tensor.cpu().numpy().astype(float) for name, tensor in weights if name.endswith("trunk.0.weight")]
        return self.features.gene_weights(first, modality or "")

"""A model as one ONNX graph, which runs without Python or torch, from genes to metric space, map and probabilities."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tripletomics import files
from tripletomics.baselines.inputs import quiet
from tripletomics.extras import require
from tripletomics.knn import NEIGHBOURS
from tripletomics.labels.calibration import FARTHEST, Calibration
from tripletomics.labels.reference import EVEN_SHARE, KERNEL_NEIGHBOUR, Reference
from tripletomics.notices import warn

if TYPE_CHECKING:
    from tripletomics.model.state import State

SUFFIX = ".onnx"
TRACED = 3  # cells with which the graph is traced; their number is free in the result


def write(path: Path, model: State) -> None:
    """Write the graph of a model, with the names of its genes and types as metadata.

    Raises
    ------
    ImportError
        Without the extra "onnx".
    ValueError
        If the model has two modalities or enrolled types.
    """
    require("model.to_onnx", "onnx", "onnxscript")
    if model.modalities:
        raise ValueError(
            f"This model has two modalities ({', '.join(model.modalities)}), and a graph takes one matrix: fit a model "
            "of one of them."
        )
    if model.enrolled:
        raise ValueError(
            f"This model has enrolled types ({', '.join(model.enrolled)}), which a graph cannot hold: write the "
            "graph of the model as it was before `enroll`."
        )
    if model.settings.get("missing") == "impute":
        warn("This model was fitted with missing values, and a graph takes none: a cell with NaN gets only NaN.")
    graph = Graph(model).eval()
    cells = torch.zeros(TRACED, graph.genes)
    with quiet("torch.onnx"):
        program: Any = torch.onnx.export(
            graph, (cells,), input_names=["genes"], output_names=graph.outputs, external_data=False, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("cells")},),
        )  # fmt: skip
    proto = program.model_proto
    about = {"genes": model.features.parts[0].genes, "model": model.id, "version": model.versions["tripletomics"]}
    about |= {"classes": model.classes} if graph.types is not None else {}
    for name, value in about.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = name, value if isinstance(value, str) else json.dumps(value)
    content = proto.SerializeToString()
    with files.replacing(path, len(content)) as draft:
        draft.write_bytes(content)


class Graph(nn.Module):
    """What a model does with new cells, as one module. It computes the same as `features` and `networks`.

    Parameters
    ----------
    model
        Of one modality, without enrolled types.
    """

    def __init__(self, model: State) -> None:
        super().__init__()
        features = model.features.parts[0]
        self.genes, self.features, self.counts = len(features.genes), features, features.counts
        self.mean, self.scale = torch.from_numpy(features.mean), torch.from_numpy(features.scale)
        self.axes, self.offset = torch.from_numpy(features.axes).T, torch.from_numpy(features.offset)
        self.cap = None if features.use_rep else torch.from_numpy(features.cap)
        self.networks = copy.deepcopy(model.networks).cpu()
        reference, calibration = model.reference, model.calibration
        self.types = None if reference is None or calibration is None else Types(reference, calibration)

    @property
    def outputs(self) -> list[str]:
        """Return the names of what `forward` returns."""
        return ["metric", "map", "probabilities"][: 2 if self.types is None else 3]

    def forward(self, genes: Tensor) -> tuple[Tensor, ...]:
        """Return the metric space, the map and, where types are known, probabilities of cells (cells, genes)."""
        z = self.networks.encoder(
            (self.logged(genes, self.features.depth)[:, : len(self.mean)] - self.mean) / self.scale
        )
        logged = self.logged(genes, self.features.usual_depth)
        pcs = (logged if self.cap is None else torch.minimum(logged, self.cap)) @ self.axes - self.offset
        seen = pcs
        if self.features.plain is not None:
            plain, offset = torch.from_numpy(self.features.plain), torch.from_numpy(self.features.plain_offset)
            seen = torch.cat([pcs, logged @ plain.T - offset], dim=1)
        head = self.networks.map_head
        m = head(head.inputs(seen, z))
        m = m if head.even is None else head.even.move(m)
        return (z, m) if self.types is None else (z, m, self.types(z.double(), pcs.double()).float())

    def logged(self, genes: Tensor, depth: float) -> Tensor:
        """Return logged values, as `Features.logged` does."""
        if not self.counts:
            return genes
        total = genes.double().sum(dim=1, keepdim=True)
        return torch.log1p(genes * (depth / torch.where(total > 0, total, 1)).float())


class Types(nn.Module):
    """The probabilities of types by the four parts of the evidence, float64: as `Reference` and `Calibration` do."""

    def __init__(self, reference: Reference, calibration: Calibration) -> None:
        super().__init__()
        self.calibration, self.spread = calibration, reference.spread
        self.absent = torch.from_numpy(reference.sizes == 0)
        self.k = min(NEIGHBOURS, len(reference.z))
        self.n_present = int((reference.sizes > 0).sum())
        self.votes = torch.from_numpy(np.eye(len(reference.sizes))[reference.codes])
        self.doubt = torch.from_numpy(reference.doubt)
        self.landmarks, self.prototypes, self.whiten, self.means, self.prior = (
            torch.from_numpy(values.astype(np.float64))
            for values in (reference.z, reference.prototypes, reference.whiten, reference.means, reference.prior)
        )

    def forward(self, z: Tensor, pcs: Tensor) -> Tensor:
        """Return probabilities (cells, types) from the metric space and the principal components."""
        d, rows = distances(z, self.landmarks).topk(self.k, dim=1, largest=False)
        d = d / self.spread
        to_means = distances(pcs @ self.whiten, self.means) / self.doubt
        parts = (
            self._log_votes(d, rows),
            -distances(z, self.prototypes) / self.spread / self.doubt,
            -to_means,
            self.prior,
        )
        logits = sum(float(weight) * part for weight, part in zip(self.calibration.weights, parts, strict=True))
        p = torch.where(self.absent, -torch.inf, logits).softmax(dim=1)
        typical = torch.where(self.absent, torch.inf, to_means).amin(dim=1)
        novelty = self._novelty(d[:, :KERNEL_NEIGHBOUR].mean(dim=1), typical)
        return p * torch.sigmoid(FARTHEST * (FARTHEST - novelty))[:, None]

    def _log_votes(self, d: Tensor, rows: Tensor) -> Tensor:
        width = d[:, min(KERNEL_NEIGHBOUR, self.k) - 1].unsqueeze(1)
        weights = torch.exp(-2 * (d / torch.where(width > 0, width, 1)).square())
        votes = (weights.unsqueeze(2) * self.votes[rows]).sum(dim=1)
        part = votes / votes.sum(dim=1, keepdim=True)
        return torch.log((part + EVEN_SHARE / self.n_present) / (1 + EVEN_SHARE))

    def _novelty(self, near: Tensor, typical: Tensor) -> Tensor:
        center, scale, least = *(self.calibration.center, self.calibration.scale), np.finfo(np.float32).tiny
        far = [
            (values.clamp(min=float(least)).log() - float(center[i])) / float(scale[i])
            for i, values in enumerate((near, typical))
        ]
        return (far[0] + self.calibration.trust * far[1] - float(center[2])) / float(scale[2])


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Return Euclidean distances (n, m) of float64 points, computed by one matrix product."""
    squared = a.square().sum(dim=1, keepdim=True) + b.square().sum(dim=1) - 2 * a @ b.T
    return squared.clamp(min=0).sqrt()

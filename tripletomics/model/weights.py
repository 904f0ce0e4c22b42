"""What the weights of a model say: how much comes from each gene, and which model it is."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import numpy as np

from tripletomics.modalities import PairFeatures
from tripletomics.model.model import Model


def gene_weights(model: Model, modality: str | None) -> np.ndarray:
    """Return how much of what enters the encoder's first layer comes from each gene: (genes,), which adds up to 1."""
    part = model.part(modality)
    encoder, side = cast(Any, model.networks.encoder), 0
    if isinstance(model.features, PairFeatures):
        side = model.modalities.index(str(modality))
        encoder = encoder.encoders[side]
    first = encoder.trunk.get_parameter("0.weight").detach().cpu().numpy().astype(float)
    if isinstance(model.features, PairFeatures):
        first = first @ (model.features.seen or model.features).parts[side].axes
        deviation = np.maximum(part.cap - part.center, 0)
    else:
        deviation = part.deviation / part.scale
    weights = np.zeros(len(part.genes))
    weights[: len(deviation)] = np.linalg.norm(first, axis=0)[: len(deviation)] * deviation
    return weights / (weights.sum() or 1.0)


def identify(model: Model) -> str:
    """Return 16 hexadecimal digits that follow from the weights and from the cells that the model has seen."""
    content = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(model.networks.state_dict().items()):
        content.update(name.encode())
        content.update(tensor.cpu().contiguous().numpy().tobytes())
    if model.seen is not None:
        content.update(model.seen.hashes.tobytes() + model.seen.roles.tobytes())
    return content.hexdigest()

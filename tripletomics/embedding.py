"""Rows through the networks: the metric space and the map of many cells, block by block."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tripletomics.networks import Encoder, Networks
from tripletomics.sources import Memory

BLOCK = 4096  # cells that go through a network at once


@torch.no_grad()
def embed_rows(network: Callable[[Tensor], Tensor], source: Memory, device: torch.device) -> Tensor:
    """Send all rows of a source through a network: (cells, width) on `device`."""
    source = source.on(device, once=True)
    features, run = source.scaler, lambda i: network(source.rows(i).to(device))
    if isinstance(network, Encoder) and features is not None and device.type == "cpu" and source.sparse:
        mean, scale = torch.from_numpy(features.mean), torch.from_numpy(features.scale)
        known = torch.ones_like(mean) if source.present is None else torch.from_numpy(source.present[: len(mean)])
        run = lambda i: network.forward_sparse(source.normalised(i), mean, scale, known)  # noqa: E731
    first = run(slice(BLOCK))
    z = first.new_empty(len(source), first.shape[1])  # a list of blocks would take twice the memory at the end
    z[:BLOCK] = first
    for start in range(BLOCK, len(source), BLOCK):
        z[start : start + BLOCK] = run(slice(start, start + BLOCK))
    return z


def coordinates(networks: Networks, source: Memory, pcs: np.ndarray) -> dict[str, np.ndarray]:
    """Return all rows of a source, with their principal components, on the "map" and in the "metric" space."""
    z = embed_rows(networks.encoder, source, networks.map_head.spread.device)
    m = networks.map(z, torch.from_numpy(pcs))
    return {"map": m.cpu().numpy(), "metric": z.cpu().numpy()}

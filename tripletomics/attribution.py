"""Which inputs of a network move its rows in a direction: integrated gradients."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tripletomics.sources import Memory

N_POINTS = 32  # of the Gauss-Legendre rule along the path: completeness holds to about 1e-4
BLOCK_ROWS = 1024  # rows at a time


def integrated_gradients(network: nn.Module, source: Memory, baseline: np.ndarray, direction: np.ndarray) -> np.ndarray:
    r"""Return how much each input moves the rows of a network along a direction, on the way from a baseline to them.

    .. math:: a_g = (x_g - b_g) \int_0^1 \frac{\partial\, u^\top f(b + t (x - b))}{\partial x_g}\, dt

    Parameters
    ----------
    network
        Maps each row x to f(x), independently of the other rows. Its parameters get no gradients.
    source
        The rows x.
    baseline
        b, float (features,).
    direction
        u, float (width of the network,).

    Returns
    -------
    a, the mean over the rows, float64 (features,). Its entries add up to the mean of ``u @ f(x)`` minus ``u @ f(b)``
    (completeness).

    References
    ----------
    Sundararajan, Taly & Yan 2017, *Axiomatic attribution for deep networks*.
    """
    device = next(network.parameters()).device
    start, u = (torch.as_tensor(row, dtype=torch.float32, device=device) for row in (baseline, direction))
    points, weights = np.polynomial.legendre.leggauss(N_POINTS)  # on (-1, 1)
    total = np.zeros(len(baseline))
    for first in range(0, len(source), BLOCK_ROWS):
        way = source.rows(slice(first, first + BLOCK_ROWS)).to(device) - start
        slope = torch.zeros_like(way)
        for point, weight in zip(points, weights, strict=True):
            with torch.enable_grad():
                x = (start + (point + 1) / 2 * way).requires_grad_()
                slope += weight / 2 * torch.autograd.grad((network(x) @ u).sum(), x)[0]
        total += (slope * way).sum(dim=0, dtype=torch.float64).cpu().numpy()
    return total / max(len(source), 1)

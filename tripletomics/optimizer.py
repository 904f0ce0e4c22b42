"""The optimiser: AdamW, with orthogonal steps for the hidden layers of the map head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
ROUNDS, A, B, C = 5, 3.4445, -4.7750, 2.0315  # the polynomial of the source, which brings singular values to .7 to 1.2
SIZE = 0.2  # root mean square of a step at lr=1, as that of AdamW


class Muon(torch.optim.AdamW):
    """AdamW whose parameter groups with ``orthogonal=True`` take steps of which all singular values are about 1.

    All directions of a weight matrix then learn equally fast. torch has it, but in bfloat16, which is slow on a CPU.

    References
    ----------
    Jordan, Jin, Boza, You, Cesista, Newhouse & Bernstein 2024, Muon: an optimizer for hidden layers in neural networks;
    size of the step: Liu et al. 2025, Muon is scalable for LLM training, arXiv 2502.16982.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step."""
        for group in self.param_groups:
            for weight in group["params"] if group.get("orthogonal") else ():
                state = self.state[weight]
                momentum = state.setdefault("momentum", torch.zeros_like(weight)).lerp_(weight.grad, 1 - MOMENTUM)
                turn = orthogonal(weight.grad.lerp(momentum, MOMENTUM))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(turn, alpha=-SIZE * group["lr"] * max(weight.shape) ** 0.5)
                weight.grad = None  # AdamW leaves it
        return super().step(closure)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return a matrix of the same singular vectors with singular values of about 1."""
    x = matrix / (matrix.norm() + 1e-12)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(ROUNDS):
        square = x @ x.T
        x = A * x + (B * square + C * square @ square) @ x
    return x.T if tall else x

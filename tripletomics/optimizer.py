"""The optimizer: AdamW, with orthogonal steps for the hidden layers of the map head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

MOMENTUM = 0.85  # the .95 of the source is slow in a few hundred steps
# the polynomial of the source, which brings singular values to .7 to 1.2; in place of its 5 rounds, 3 are enough here
ROUNDS, A, B, C = 3, 3.4445, -4.7750, 2.0315
SIZE = 0.2  # root mean square of a step at lr=1, as that of AdamW
NARROW = 8  # rows or columns of a layer with too few directions for orthogonal steps
DECAY = 1e-4  # of weight matrices, in units of lr a step


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
                turn = orthogonalise(weight.grad.lerp(momentum, MOMENTUM))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(turn, alpha=-SIZE * group["lr"] * max(weight.shape) ** 0.5)
                weight.grad = None  # AdamW leaves it
        return super().step(closure)


def make_optimizer(fabric: Fabric, network: nn.Module, loss_groups: list[dict[str, Any]], lr: float) -> Muon:
    """Return the optimizer of a network and of the parameters of its loss.

    Parameters
    ----------
    network
        Its weight matrices decay; its biases and the scales of its layer normalisation do not. Where it asks for
        ``orthogonal_steps``, its hidden layers take them.
    loss_groups
        What `Loss.parameter_groups` returns.
    lr
        Learning rate of the network.
    """
    matrices = [p for p in network.parameters() if p.dim() > 1]
    hidden = [p for p in matrices if min(p.shape) > NARROW] if getattr(network, "orthogonal_steps", False) else []
    groups = [
        {"params": hidden, "weight_decay": DECAY, "orthogonal": True},
        {"params": [p for p in matrices if not any(p is q for q in hidden)], "weight_decay": DECAY},
        {"params": [p for p in network.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    # a fused step undoes the scaling of 16-mixed by itself, after which gradients cannot be clipped
    fused = fabric.device.type in ("cpu", "cuda") and getattr(fabric.strategy.precision, "scaler", None) is None
    return Muon([*groups, *loss_groups], lr=lr, fused=fused)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return a matrix of the same singular vectors with singular values of about 1."""
    x = matrix / (matrix.norm() + 1e-12)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(ROUNDS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=B, alpha=C), x, beta=A)
    return x.T if tall else x

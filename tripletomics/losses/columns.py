"""The loss of several columns: that of the cell types, and one for each further column."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tripletomics.losses.base import Loss, Sum


class Columns(Sum):
    """The sum of the loss of the cell types and of those of further columns, which look up the values of their cells.

    Parameters
    ----------
    loss
        The loss of the cell types, or of views; built. An ordered one is left out, because it is among `others`.
    others, weights
        The loss of each further column, built, and its weight.
    values
        Values of the training cells, one (cells,) for each further column: float with NaN, or codes with -1.
    """

    of_cells = True

    def __init__(self, loss: Loss, others: Sequence[Loss], weights: Sequence[float], values: Sequence[Tensor]) -> None:
        own = [] if loss.ordered else [loss]
        super().__init__([*own, *others], [*(1.0 for _ in own), *weights])
        self.values = dict(zip(others, values, strict=True))

    def _value_of(self, member: Loss, z: Tensor, *others: Tensor, **known: Tensor) -> Tensor:
        if member not in self.values:
            return super()._value_of(member, z, *others, **known)
        return member(z, self.values[member][known["cells"][0].cpu()])

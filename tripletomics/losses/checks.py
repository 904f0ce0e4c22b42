"""Losses that cannot do what they are asked for."""

from __future__ import annotations

from tripletomics.losses.base import Loss, spec
from tripletomics.notices import warn


def check(loss: Loss, metric_dim: int) -> None:
    """Raise if a loss moves all cells to one point or needs more dimensions; warn if it has few for its margins.

    Raises
    ------
    ValueError
        If training on this loss alone would collapse, or needs more dimensions.

    Examples
    --------
    >>> tt.losses.check(tt.losses.Center(), metric_dim=32)
    Traceback (most recent call last):
    ValueError: loss='center' alone moves all cells to one point. ...
    """
    if loss.collapses:
        raise ValueError(
            f"loss={spec(loss)!r} alone moves all cells to one point. "
            "Add a loss that keeps the classes apart, such as 'softmax + 0.003*center'."
        )
    if loss.predicts and metric_dim <= 3:
        raise ValueError(
            f"loss={spec(loss)!r} predicts one view from the other, for which metric_dim={metric_dim} has no room: "
            "take metric_dim=32."
        )
    if loss.normalised and metric_dim <= 3:
        shape = "circle" if metric_dim == 2 else "sphere"
        warn(
            f"loss={spec(loss)!r} uses only directions, so metric_dim={metric_dim} puts all cells on a {shape}, where "
            "many types leave no room for a margin. Take metric_dim=32, or a loss of distances such as 'triplet'."
        )

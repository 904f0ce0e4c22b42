"""The losses by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tripletomics.losses.base import Loss

LOSSES: dict[str, type[Loss]] = {}


def names(views: int | None = None, ordered: bool | None = None) -> list[str]:
    """List the names of losses, sorted.

    Parameters
    ----------
    views
        1 or 2: only those that compare so many views of a cell.
    ordered
        True: only those that take values that have an order. False: only the others, which take class codes.

    Examples
    --------
    >>> tt.losses.names(ordered=True)
    ['coral', 'rnc']
    >>> tt.losses.names(views=2)
    ['barlow_twins', 'byol', 'clip', 'infonce', 'moco', 'simclr', 'simsiam', 'vicreg']
    """
    chosen = {name: cls for name, cls in LOSSES.items() if views in (None, cls.views)}
    return sorted(name for name, cls in chosen.items() if ordered in (None, cls.ordered))


def family() -> dict[str, type[Loss]]:
    """Return the classes of all losses by name.

    Examples
    --------
    >>> tt.losses.family()["triplet"]
    <class 'tripletomics.losses.tuples.triplet.Triplet'>
    """
    return dict(LOSSES)

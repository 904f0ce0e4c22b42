"""Warnings that point at the line of the user's code that led to them."""

from __future__ import annotations

import sys
import warnings


class TripletomicsWarning(UserWarning):
    """A warning of this package, as opposed to those of libraries."""


def warn(message: str) -> None:
    """Warn, with the line of the first frame outside this package, however deep inside it the cause was found."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] in ("tripletomics", "contextlib"):
        frame, level = frame.f_back, level + 1  # by module, because the __init__ of a dataclass has no file
    warnings.warn(message, TripletomicsWarning, stacklevel=level)

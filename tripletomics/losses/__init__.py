"""The losses, and what makes them from text."""

from tripletomics.losses.base import (
    Foreign,
    Loss,
    Sum,
    check_alone,
    labelled,
    make,
    names,
    register,
    spec,
    zero,
)
from tripletomics.losses.proxies import Center, ProxyLoss, Softmax
from tripletomics.losses.tuples import Contrastive, Triplet

__all__ = [
    "Center",
    "Contrastive",
    "Foreign",
    "Loss",
    "ProxyLoss",
    "Softmax",
    "Sum",
    "Triplet",
    "check_alone",
    "labelled",
    "make",
    "names",
    "register",
    "spec",
    "zero",
]

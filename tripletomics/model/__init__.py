"""A fitted model: arrays in, arrays out; its file; and its scores."""

from tripletomics.model.model import Model, Side
from tripletomics.model.storage import FORMAT, load

__all__ = ["FORMAT", "Model", "Side", "load"]

"""A fitted model: arrays in, arrays out; its file; and its scores."""

from tripletomics.model.model import Model, load
from tripletomics.model.state import UnimodalPredictions
from tripletomics.model.storage import FORMAT

__all__ = ["FORMAT", "Model", "UnimodalPredictions", "load"]

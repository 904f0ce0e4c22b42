"""Maps of labelled single cells that hold on cells the model never saw.

``import tripletomics as tt; model = tt.fit(adata, label="cell_type")``
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tripletomics import datasets, losses, pl, sklearn
    from tripletomics.experiment.comparison import Comparison
    from tripletomics.model import Model, load
    from tripletomics.tl import compare, evaluate, explain, fit, pca, predict, relate, transform

__all__ = [
    "Comparison",
    "Model",
    "compare",
    "datasets",
    "evaluate",
    "explain",
    "fit",
    "load",
    "losses",
    "pca",
    "pl",
    "predict",
    "relate",
    "sklearn",
    "transform",
]

# Everything is imported on first use: torch and scanpy take seconds, and `--help` needs neither.
_HOMES = dict.fromkeys(("compare", "evaluate", "explain", "fit", "pca", "predict", "relate", "transform"), "tl")
_HOMES |= {"Comparison": "experiment.comparison", "Model": "model", "load": "model"}
_HOMES |= dict.fromkeys(("datasets", "losses", "pl", "sklearn"), "")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tripletomics")
    if name not in _HOMES:
        raise AttributeError(f"module 'tripletomics' has no attribute {name!r}")
    home = _HOMES[name]
    module = importlib.import_module(f"tripletomics.{home or name}")
    globals()[name] = getattr(module, name) if home else module
    return globals()[name]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

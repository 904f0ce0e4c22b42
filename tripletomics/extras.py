"""Packages that the core does without: which extra installs each, and the one message where they are missing."""

from __future__ import annotations

import importlib.util

EXTRAS = {
    "bokeh": "compare", "jinja2": "compare", "openTSNE": "compare", "pacmap": "compare", "scvi": "scanvi",
    "tensorflow": "parametric-umap", "onnx": "onnx", "onnxscript": "onnx",
}  # fmt: skip
REPORT = ("bokeh", "jinja2")  # what a page of a comparison needs


def missing(*modules: str) -> list[str]:
    """Return those of the modules that are not installed."""
    return [module for module in modules if importlib.util.find_spec(module) is None]


def require(what: str, *modules: str) -> None:
    """Raise if a module of an extra is not installed; `what` needs them."""
    if lost := missing(*modules):
        raise ImportError(f"{what} needs {' and '.join(lost)}: {command(lost[0])}.", name=lost[0])


def command(module: str) -> str:
    """Return the command that installs the extra of a module."""
    return f'pip install "tripletomics[{EXTRAS[module]}]"'

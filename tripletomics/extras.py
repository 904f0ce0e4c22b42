"""Packages that only some functions need: which extra installs each, and the message if one is missing."""

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
    """Raise if one of the modules, which `what` needs, is not installed."""
    if lost := missing(*modules):
        raise ImportError(f"{what} needs {' and '.join(lost)}: {command(lost[0])}.", name=lost[0])


def command(module: str) -> str:
    """Return the command that installs the extra of a module."""
    return f'pip install "tripletomics[{EXTRAS[module]}]"'

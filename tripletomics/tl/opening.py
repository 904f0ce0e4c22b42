"""The arguments of a fit that are paths: the dataset, the checkpoint and the model to start from."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tripletomics.tl import growing, paths

if TYPE_CHECKING:
    from tripletomics.model import Model


def needs_opening(given: Mapping[str, Any]) -> bool:
    """Return whether a fit with these arguments reads a file or starts from a model."""
    files = (given["adata"], given["checkpoint"])
    return given["init"] is not None or any(isinstance(file, (str, os.PathLike)) for file in files)


def run_opened(given: Mapping[str, Any], fit: Callable[..., Model]) -> Model:
    """Fit or grow a model with the files among the arguments open, and write the results."""
    from tripletomics.checkpoint import keeping

    ready = dict(given)
    if given["init"] is not None:
        ready["init"] = growing.open_start(given)

    def train(ready: dict[str, Any]) -> Model:
        return fit(**ready) if given["init"] is None else growing.grow(ready)

    with ExitStack() as stack:
        if isinstance(given["checkpoint"], (str, os.PathLike)):
            ready["checkpoint"] = stack.enter_context(keeping(given["checkpoint"]))
        if not isinstance(given["adata"], (str, os.PathLike)):
            return train(ready)
        on_disk = stack.enter_context(paths.open_fit(Path(given["adata"]), ready))
        return on_disk.write(train(ready | on_disk.in_memory))

"""Labels and coordinates of single blocks of a dataset, each in a file of its own, until all blocks are joined.

The files lie in a folder next to the dataset, which itself does not change. A file gets its name when it is whole, so
its name is the record that its block is done.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tripletomics import files
from tripletomics.keys import prefix

RECORD = "made-by.json"
LABEL_SET = "label_set"  # the column of text
FLAGS = "X_pca"  # scanpy's key, which no coordinates of a model have


class Part(NamedTuple):
    """Columns of the cells of a block, flags about them, boolean (cells, flags), and coordinates by their keys."""

    columns: Mapping[str, Any]
    flags: np.ndarray
    coordinates: Mapping[str, np.ndarray]


class Parts:
    """The blocks of a dataset that `predict --shard` has labelled.

    Parameters
    ----------
    path, key
        The dataset, and the key of the map.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, real = path, Path(os.path.realpath(path))
        self.folder = real.with_name(f"{real.name}.{prefix(key)}-parts")

    @property
    def begun(self) -> bool:
        """Return whether there are parts."""
        return self.folder.is_dir()

    def begin(self, made_by: Mapping[str, Any]) -> None:
        """Make the folder, unless another process was first; `check` it then.

        Raises
        ------
        PermissionError
            If the folder of the dataset is read-only.
        """
        if not os.access(self.folder.parent, os.W_OK):
            raise PermissionError(
                f"The folder of {str(self.path)!r} is read-only, and parts are written next to it: move it to another."
            )
        if not self.begun:
            try:
                with files.creating(self.folder) as draft:
                    (draft / RECORD).write_text(json.dumps(made_by))
            except OSError:
                if not self.begun:
                    raise
        self.check(made_by)

    def check(self, made_by: Mapping[str, Any]) -> None:
        """Raise a ValueError unless the parts were made in this way."""
        cure = "or delete the folder to label all cells anew."
        try:
            record = dict(json.loads((self.folder / RECORD).read_text()))
        except (OSError, ValueError, TypeError):
            raise ValueError(f"{str(self.folder)!r} is not a folder of predict --shard: move it away, {cure}") from None
        differ = [word for word, value in made_by.items() if record.get(word) != value]
        if differ:
            words = " and ".join(f"another {'number of ' * (word == 'cells')}{word}" for word in differ)
            raise ValueError(f"The parts in {str(self.folder)!r} were made with {words}: use the same again, {cure}")

    def check_complete(self, blocks: Sequence[range]) -> None:
        """Raise a ValueError unless every block is done."""
        done = sum(map(self.is_done, blocks))
        if done < len(blocks):
            raise ValueError(
                f"{str(self.folder)!r} has {done:,} of {len(blocks):,} blocks of rows: run the other shards first, or "
                "delete the folder to label all cells in one process."
            )

    def is_done(self, block: range) -> bool:
        """Return whether a block was labelled."""
        return self._file(block).exists()

    def write(self, block: range, part: Part) -> None:
        """Write a block, as a whole or not at all."""
        import anndata

        names = pd.RangeIndex(len(block)).astype(str)
        obs = pd.DataFrame(dict(part.columns), index=names)
        with files.replacing(self._file(block)) as draft:
            anndata.AnnData(obs=obs, obsm={**part.coordinates, FLAGS: part.flags}).write_h5ad(draft)

    def read(self, block: range) -> Part:
        """Return a block; raise a ValueError if its file is damaged."""
        import anndata

        path = self._file(block)
        try:
            found = anndata.read_h5ad(path)
            columns = {str(name): _as_made(column) for name, column in found.obs.items()}
            coordinates = {name: np.asarray(values) for name, values in found.obsm.items()}
            flags = coordinates.pop(FLAGS)
            if len(flags) != len(block):
                raise ValueError(f"it has {len(flags):,} rows, not {len(block):,}")
        except Exception as error:  # a damaged file can raise anything
            raise ValueError(
                f"{str(path)!r} is damaged: delete it, and run its shard again. {type(error).__name__}: {error}"
            ) from error
        return Part(columns, flags, coordinates)

    def delete(self) -> None:
        """Delete the folder, after all blocks were joined."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, block: range) -> Path:
        return self.folder / f"{block.start}.h5ad"


def _as_made(column: pd.Series) -> Any:
    """Return a column as it was before it was written: text, which is stored as categories, in `label_set`."""
    if column.name == LABEL_SET:
        return np.asarray(column, dtype=object)
    return column.array if isinstance(column.dtype, pd.CategoricalDtype) else column.to_numpy()

"""Coordinates in a .zarr store, written in place by any number of processes, each block by block.

The chunks of the map are themselves the record of what is done: each is written whole, by one process, after the same
rows of the metric space. So no kill, at any time, leaves a row that counts as done and is not.
"""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tripletomics import files
from tripletomics.keys import metric_key, split_key
from tripletomics.store.frames import read_seen
from tripletomics.store.layout import is_kept
from tripletomics.store.writing import Block, create_coordinates

if TYPE_CHECKING:
    import zarr


def parse(shard: str) -> tuple[int, int]:
    """Return i and N of "i/N"."""
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", shard)
    part, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= part <= parts:
        raise ValueError(f"shard={shard!r} is not i/N with i from 1 to N, such as 1/4.")
    return part, parts


class SharedArrays:
    """The arrays of a map and its metric space in a store, which several processes may fill at the same time.

    Parameters
    ----------
    root, path
        The store, open for writing, and where it is.
    key
        Key of the map in `obsm`.
    made_by
        What determines the coordinates. It is kept in the attributes of the arrays.

    Raises
    ------
    ValueError
        If there are arrays of this name that were made in another way.
    """

    def __init__(self, root: zarr.Group, path: Path, key: str, made_by: dict[str, Any]) -> None:
        self.root, self.path, self.key, self.made_by = root, path, key, made_by
        self.names = metric_key(key), key  # in the order of writing
        self._delete_drafts()
        self.arrays = self._find()

    def is_done(self, number: int) -> bool:
        """Return whether a block is in both arrays; in the map it was written last."""
        return all(array is not None and is_kept(self.path, array, number) for array in reversed(self.arrays))

    def check_origin(self, model: str) -> None:
        """Raise if the record or the split of another model would remain next to the coordinates."""
        names = f"uns/{self.key}", f"obs/{split_key(self.key)}"
        stale = [name for name in names if name in self.root]
        if stale and read_seen(self.root, self.key) != model:
            raise ValueError(
                f"{' and '.join(stale)} of {str(self.path)!r} {'are' if len(stale) > 1 else 'is'} not of this model: "
                "choose another key_added, or read the store, delete these from the AnnData, and write it again."
            )

    def create(self, n_obs: int, widths: dict[str, int], model: str) -> None:
        """Make the arrays, full of NaN, and name the model, unless another process was first."""
        import anndata

        given: dict[str, Any] = {"attributes": {"tripletomics": self.made_by}, "fill_value": math.nan}
        with files.using(self.path):
            for name in self.names:
                self._add("obsm", name, partial(create_coordinates, name=name, shape=(n_obs, widths[name]), **given))
            self._add("uns", self.key, partial(anndata.io.write_elem, k=self.key, elem={"seen": model}))
            self.arrays = self._find()
            self.publish()

    def write(self, block: Block) -> None:
        """Write the coordinates of a block."""
        with files.using(self.path):
            for name, array in zip(self.names, self.arrays, strict=True):
                array[block.start : block.stop] = block.coordinates[name]

    def publish(self) -> None:
        """Add the arrays to the list of all metadata that a store may have, where readers look for them."""
        import zarr

        with files.using(self.path):
            listed = zarr.open_group(self.path, mode="r")
            if listed.metadata.consolidated_metadata is None:
                return
            for part in (f"uns/{self.key}", *(f"obsm/{name}" for name in self.names)):
                there = listed.get(part)
                if there is None or there.attrs.asdict() != self.root[part].attrs.asdict():
                    zarr.consolidate_metadata(self.root.store)
                    return

    def _delete_drafts(self) -> None:
        """Delete the drafts of processes that were killed, and the files that zarr was writing then."""
        files.sweep(self.path)
        with files.using(self.path, alone=True) as held:
            folders = [self.path, self.path / "obsm", self.path / "uns"]
            left = [draft for folder in folders for draft in folder.glob("*.partial")]
            left += [draft for name in self.names for draft in (self.path / "obsm" / name).rglob("*.partial")]
            for draft in left if held else ():  # otherwise they may belong to another machine
                draft.unlink(missing_ok=True)

    def _find(self) -> list[Any]:
        """Return the arrays, None for one that is not there; raise if one was not made in the same way."""
        cure = (
            f"Choose another key_added, or delete obsm/{self.key} and obsm/{metric_key(self.key)} from the store to "
            "embed all cells again."
        )
        arrays: list[Any] = [self.root.get(f"obsm/{name}") for name in self.names]
        for name, array in zip(self.names, arrays, strict=True):
            if array is None:
                continue
            record = array.attrs.get("tripletomics")
            if not isinstance(record, dict):
                raise ValueError(
                    f"obsm[{name!r}] of {str(self.path)!r} is already there, and not from transform --shard. {cure}"
                )
            differ = [word for word, value in self.made_by.items() if record.get(word) != value]
            if differ:
                words = (f"another {'number of ' * (word == 'cells')}{word}" for word in differ)
                raise ValueError(f"obsm[{name!r}] of {str(self.path)!r} was begun with {' and '.join(words)}. {cure}")
        return arrays

    def _add(self, parent: str, name: str, write: Callable[[zarr.Group], object]) -> None:
        """Write an element into a draft and rename it, so that it is there as a whole; unless it is there already."""
        import anndata
        import zarr

        if parent not in self.root:
            anndata.io.write_elem(self.root, parent, {})
        if f"{parent}/{name}" in self.root:
            return
        with files.drafting(self.path) as draft:
            write(zarr.open_group(draft / "new", mode="w", zarr_format=self.root.metadata.zarr_format))
            try:
                os.rename(draft / "new" / name, self.path / parent / name)
            except OSError as error:  # another process was first
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise

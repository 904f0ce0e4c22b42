"""Names under which results are written to a dataset, and which model they are from.

Whatever writes coordinates under a key of `obsm` also writes the id of the model that made them, into
``uns[key]["seen"]``, and which cells that model was trained on, into a column of `obs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

MAX_KEY = 100  # characters; a file or folder may have 255 bytes
DEFAULT_KEY = "X_tt"  # key of the map; its columns of `obs` begin with "tt"
SPACES = {"map": "map", "metric": "metric space"}  # a space, and its name for readers


def metric_key(key: str) -> str:
    """Return the name in `obsm` of the metric space that belongs to the map under this key."""
    return f"{key}_metric"


def pca_key(key: str) -> str:
    """Return the name in `obsm` of the principal components that belong to the map under this key."""
    return f"{key}_pca"


def map_key(basis: str) -> str:
    """Return the key of the map that a basis, such as its metric space, belongs to."""
    return basis.removesuffix("_metric")


def space_of(basis: str) -> str:
    """Return which space a basis is: "metric" or "map"."""
    return "map" if map_key(basis) == basis else "metric"


def space_titles(spaces: Iterable[str]) -> dict[str, str]:
    """Return what tables and figures call spaces: "map" and "metric space"; of a fit in `obsm`, next to its key."""
    known = set(spaces)
    titles = {space: SPACES.get(space, space) for space in known}
    for key in known - set(SPACES):
        if metric_key(key) in known or key == DEFAULT_KEY or space_of(key) == "metric":
            titles[key] = f"{key}, {SPACES[space_of(key)]}"
    return titles


def prefix(key: str) -> str:
    """Return how the names of the `obs` columns begin that belong to the map under this key."""
    return "tt" if key == DEFAULT_KEY else key


def split_key(key: str) -> str:
    """Return the name of the obs column that says which cells were held out from the map under this key."""
    return f"{prefix(key)}_split"


def seen_by(uns: Mapping[str, Any], basis: str) -> str | None:
    """Return the id of the model that wrote a basis or its metric space, as far as `uns` names one."""
    record = uns.get(map_key(basis))
    return str(record["seen"]) if isinstance(record, Mapping) and "seen" in record else None


def split_of(adata: Any, basis: str) -> str | None:
    """Return the obs column that says which cells were held out from a basis, None if there is none.

    That of "X_tt" is used for other bases, too, but not those that are known to be from another model.
    """
    model, other = seen_by(adata.uns, basis), seen_by(adata.uns, DEFAULT_KEY)
    columns = [split_key(map_key(basis))] + [split_key(DEFAULT_KEY)] * (model is None or model == other)
    return next((column for column in columns if column in adata.obs and adata.obs[column].notna().any()), None)


def named_groups(scores: Mapping[str, T]) -> dict[str, T]:
    """Return scores by group of cells; earlier versions wrote "null" for "permuted" into tables and model files."""
    return {"permuted" if group == "null" else group: score for group, score in scores.items()}


def check_key(key_added: str, adata: object = None) -> None:
    """Raise a ValueError unless a file can hold the key, and it is not a modality of a MuData."""
    if not isinstance(key_added, str) or not key_added.isprintable() or "/" in key_added:
        raise ValueError(f"key_added={key_added!r} is not a name without '/' and control characters, such as 'X_tt'.")
    if not 0 < len(key_added.strip(".")) <= MAX_KEY:
        raise ValueError(
            f"key_added={key_added[:20]!r} cannot be the name of an array in a file: take 1 to {MAX_KEY} letters, such "
            "as 'X_tt'."
        )
    if type(adata).__name__ == "MuData" and key_added in adata.mod:  # type: ignore[attr-defined]
        raise ValueError(
            f"key_added={key_added!r} is a modality of the MuData, whose obsm has that name already: choose another, "
            "such as 'X_tt'."
        )
    if key_added == "tt" or key_added.endswith(("_metric", "_pca")):
        other = "X_tt" if key_added == "tt" else key_added.rpartition("_")[0]
        raise ValueError(
            f"key_added={key_added!r} would write over what belongs to the key {other!r}: choose another, such as "
            "'X_mine'."
        )
    if key_added == "X":
        raise ValueError(
            "key_added='X' would write over obsm['X_pca'], which is scanpy's: choose another, such as 'X_tt'."
        )

"""Names under which results stand in a table, and whose they are.

Whatever writes places under a key of `obsm` also writes the id of the model that they are from, into
``uns[key]["seen"]``, and which cells that model was trained on, into a column of `obs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def split_key(key: str) -> str:
    """Return the name of the obs column that says which cells were held out from places under this key."""
    return "tt_split" if key == "X_tt" else f"{key}_split"


def seen_by(uns: Mapping[str, Any], basis: str) -> str | None:
    """Return the id of the model that wrote a basis or its metric space, as far as `uns` names one."""
    record = uns.get(basis.removesuffix("_metric"))
    return str(record["seen"]) if isinstance(record, Mapping) and "seen" in record else None


def split_of(adata: Any, basis: str) -> str | None:
    """Return the obs column that says which cells were held out from a basis, None if there is none.

    That of "X_tt" serves other bases, too, but none that is known to be from another model.
    """
    model, other = seen_by(adata.uns, basis), seen_by(adata.uns, "X_tt")
    columns = [split_key(basis.removesuffix("_metric"))] + ["tt_split"] * (model is None or model == other)
    return next((column for column in columns if column in adata.obs and adata.obs[column].notna().any()), None)


def named_groups(scores: Mapping[str, T]) -> dict[str, T]:
    """Return scores by group of cells; earlier versions wrote "null" for "permuted" into tables and model files."""
    return {"permuted" if group == "null" else group: score for group, score in scores.items()}

"""The settings of a fit as text: of a method such as "tt:loss=arcface", and as `fit` wrote them to `uns`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any

from tripletomics.parts import did_you_mean
from tripletomics.problem import AN_ARRAY, Settings

__all__ = ["AN_ARRAY", "INPUTS", "OWN", "parse_method", "read_inputs", "read_settings"]

OWN = (
    "loss", "structure", "spread", "map", "dim", "metric_dim", "encoder", "augment", "self_training", "steps",
    "batch_size", "lr", "precision",
)  # fmt: skip
INPUTS = ("label", "hold_out", "layer", "counts", "batch")
NEWER = ("use_rep", "order", "missing")  # inputs that older fits did not have


def parse_method(method: str) -> dict[str, Any] | None:
    """Return the settings in "tt:loss=arcface,structure=0.2"; None for a method that is not tripletomics.

    A comma starts a new setting only before a keyword of `fit`; others belong to the loss.
    """
    name, _, given = method.partition(":")
    if name != "tt":
        return None
    pieces: list[list[str]] = []
    for piece in given.split(",") if given else ():
        key, equals, value = piece.partition("=")
        if equals and key.strip() in (*Settings.names(), "checkpoint", "progress"):
            pieces.append([key.strip(), value])
        elif pieces:
            pieces[-1][1] += f",{piece}"
        else:
            raise ValueError(
                f"methods: {method!r} has no setting {key!r}.{did_you_mean(key, OWN)} Write tt:loss=arcface; "
                f"settings: {', '.join(OWN)}."
            )
    settings: dict[str, Any] = {}
    for key, value in pieces:
        if key not in OWN:
            raise ValueError(f"methods: {method!r} may not set {key}, which is the same for all methods.")
        settings[key] = Settings.read(key, value.strip(), f"methods: {method!r}: {key}")
    return {field.name: field.default for field in fields(Settings) if field.name in OWN} | settings


def read_settings(written: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of a fit, from the text that it wrote to `uns`."""
    if written.get("map") == AN_ARRAY:
        raise ValueError(
            "The map was a table of coordinates, which a refit cannot adopt again: put it into adata.obsm and fit with "
            "its key, as in map='X_umap'."
        )
    written = {"spread": "0.0", "map": "None"} | dict(written)  # older maps had no such setting, and were not spread
    return {key: Settings.read(key, str(written[key])) for key in OWN}


def read_inputs(written: Mapping[str, str] | None) -> dict[str, Any]:
    """Return what a fit read, by the names in `INPUTS` and `NEWER`; the defaults if it wrote nothing."""
    found: dict[str, Any] = dict.fromkeys(INPUTS + NEWER)
    found |= {key: str(value) for key, value in (written or {}).items() if key in found and str(value) != "None"}
    with suppress(TypeError, ValueError):
        found["hold_out"] = float(found["hold_out"])
    return found | {"counts": {"True": True, "False": False}.get(found["counts"], "auto")}  # of two modalities, two

"""The assembly of a model from the content of its file: a header of text and numbers, and arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch

from tripletomics.area import EqualArea
from tripletomics.features import Features
from tripletomics.index import Catalog
from tripletomics.keys import named_groups
from tripletomics.labels.calibration import Calibration
from tripletomics.labels.reference import Reference
from tripletomics.modalities import PairFeatures
from tripletomics.model.inspection import (
    check_features,
    check_fields,
    check_header,
    check_model,
    check_weights,
)
from tripletomics.model.model import Model, Side
from tripletomics.networks import Encoder, MapHead, Networks, PairEncoder, make
from tripletomics.seen import SeenCells

Part = TypeVar("Part")
SITES = "map_head.even.sites"


def assemble(known: Any, tensors: dict[str, torch.Tensor]) -> Model:
    """Build a model, after checking the content of its file.

    Parameters
    ----------
    known
        The header.
    tensors
        Arrays by their names, "part.name".

    Raises
    ------
    ValueError, TypeError
        If a part is missing, not known, of a wrong type or shape, or contradicts another part.
    """
    check_header(known)
    known = known | {"scores": named_groups(known["scores"])}
    arrays: dict[str, dict[str, torch.Tensor]] = {}
    for whole, tensor in tensors.items():
        part, _, name = whole.partition(".")
        arrays.setdefault(part, {})[name] = tensor
    weights, index = arrays.pop("networks", {}), arrays.pop("index", {})

    def build(kind: type[Part], part: str) -> Part:
        mine = {name: tensor.numpy() for name, tensor in arrays.pop(part, {}).items()}
        check_fields(kind, part, known[part], mine)
        return kind(**known[part], **mine)

    def calibration(part: str) -> Calibration | None:
        return build(Calibration, part) if part in known else None

    names = _modalities(known)
    features: Features | PairFeatures = build(Features, "features") if not names else _pair(known, arrays, build, names)
    check_features(features)
    catalog = Catalog(**_index(index)) if index else None
    alone = {
        name: Side(calibration(f"calibration_{side}"), known["checks_alone"][side]) for side, name in enumerate(names)
    }
    model = Model(
        features=features,
        networks=_networks(known["settings"], features, weights),
        history={
            stage: {name: np.array(values) for name, values in columns.items()}
            for stage, columns in known["history"].items()
        },
        findings={name: np.array(values) for name, values in known["findings"].items()},
        reference=build(Reference, "reference") if "reference" in known else None,
        calibration=calibration("calibration"),
        alone=alone,
        catalog=catalog,
        seen=build(SeenCells, "cells") if "cells" in known else None,
        **{name: known[name] for name in ("classes", "enrolled", "matches", "settings", "scores", "p_value", "checks",
                                          "seconds", "versions")},
    )  # fmt: skip
    if arrays:
        raise ValueError(f"{next(iter(arrays))!r} is not a part of a model")
    check_model(model)
    return model


def _modalities(known: Any) -> list[str]:
    part = known.get("features")
    names = part.get("names", []) if isinstance(part, dict) else None
    if not isinstance(names, list) or len({*names}) not in (0, 2) or not all(isinstance(name, str) for name in names):
        raise ValueError("features does not say which modalities it has")
    if names and len(known["checks_alone"]) != len(names):
        raise ValueError(f"{len(names)} modalities, but checks of {len(known['checks_alone'])}")
    return names


def _pair(known: Any, arrays: dict[str, Any], build: Any, names: list[str]) -> PairFeatures:
    """Build the features of two modalities, and those whose components the encoders see, if these are others."""

    def read(part: str) -> PairFeatures:
        mine = {name: tensor.numpy() for name, tensor in arrays.pop(part, {}).items()}
        one, other = (build(Features, f"{part}_{side}") for side in (0, 1))
        return PairFeatures(names=(names[0], names[1]), parts=(one, other), **mine)

    return replace(read("features"), seen=read("seen") if "seen" in known else None)


def _networks(
    settings: dict[str, str], features: Features | PairFeatures, weights: dict[str, torch.Tensor]
) -> Networks:
    """Build networks from weights; take memory only after the shapes of the weights are checked."""
    mlp, metric_dim, dim = make(settings["encoder"]), int(settings["metric_dim"]), int(settings["dim"])
    with torch.device("meta"):
        encoder: Encoder | PairEncoder
        if isinstance(features, PairFeatures):
            encoder = PairEncoder(mlp, features.widths, metric_dim)
        else:
            encoder = Encoder(mlp, features.n_seen, metric_dim)
        head = MapHead(features.width, metric_dim, dim)
        if SITES in weights:
            head.even = EqualArea(dim, len(weights[SITES]))
        networks = Networks(encoder, head)
    check_weights(networks.state_dict(), weights)
    networks.load_state_dict(weights, assign=True)
    return networks


def _index(arrays: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    found = {name: tensor.numpy() for name, tensor in arrays.items()}
    if {*found} != {"z", "codes", "names"} or found["names"].dtype != np.uint8:
        raise ValueError("the index lacks some of its arrays")
    found["names"] = np.array(found["names"].tobytes().decode().split("\n"))
    return found

"""Models from the content of their files and back: a header of text and numbers, and arrays."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch

from tripletomics import networks
from tripletomics.area import EqualArea
from tripletomics.features import AnyFeatures, Features, PairFeatures
from tripletomics.index import CellIndex
from tripletomics.keys import named_groups
from tripletomics.labels.calibration import Calibration
from tripletomics.labels.reference import Reference
from tripletomics.labels.tree import read_tree
from tripletomics.labels.values import ValuePredictor
from tripletomics.model import inspection
from tripletomics.model.state import State, UnimodalPredictions
from tripletomics.model.summary import record
from tripletomics.networks import MapHead, Networks
from tripletomics.seen import SeenCells

AnyState = TypeVar("AnyState", bound=State)
Part = TypeVar("Part")
Tensors = dict[str, torch.Tensor]
SITES = "map_head.even.sites"


def disassemble(model: State, index: bool) -> tuple[dict[str, object], Tensors]:
    """Return the header and the arrays of a model, with those of its index if that is asked for."""
    parts: dict[str, Any] = {"reference": model.reference, "calibration": model.calibration, "cells": model.seen}
    parts |= model.features.records()
    parts |= {f"calibration_{i}": side.calibration for i, side in enumerate(model.alone.values())}
    parts |= {f"target_{i}": predictor for i, predictor in enumerate(model.targets)}
    tensors = {f"networks.{name}": tensor for name, tensor in model.networks.state_dict().items()}
    header: dict[str, object] = {name: value for name, value in record(model).items() if name != "seen"}
    for part, content in parts.items():
        if content is None:
            continue
        values = {f.name: getattr(content, f.name) for f in fields(content) if f.name not in ("parts", "seen")}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        tensors |= {f"{part}.{name}": torch.from_numpy(value) for name, value in arrays.items()}
        header[part] = {name: value for name, value in values.items() if name not in arrays}
    if index and model.catalog is not None:
        names = "\n".join(name.replace("\n", " ") for name in model.catalog.names).encode()
        tensors |= {
            "index.z": torch.from_numpy(model.catalog.z),
            "index.codes": torch.from_numpy(model.catalog.codes),
            "index.names": torch.from_numpy(np.frombuffer(names, dtype=np.uint8).copy()),
        }
    checks = [side.checks for side in model.alone.values()]
    return header | {
        "enrolled": model.enrolled,
        "matches": model.matches,
        "checks_alone": checks,
        "colors": model.colors,
    }, tensors


def assemble(kind: type[AnyState], header: Any, tensors: Tensors) -> AnyState:
    """Build a model, after checking the content of its file.

    Parameters
    ----------
    kind
        The class of the model.
    header
        Whatever JSON the file holds.
    tensors
        Arrays by their names, "part.name".

    Raises
    ------
    ValueError, TypeError
        If a part is missing, not known, of a wrong type or shape, or contradicts another part.
    """
    inspection.check_header(header)
    header = header | {"scores": named_groups(header["scores"])}
    arrays: dict[str, Tensors] = {}
    for whole, tensor in tensors.items():
        part, _, name = whole.partition(".")
        arrays.setdefault(part, {})[name] = tensor
    weights, index = arrays.pop("networks", {}), arrays.pop("index", {})

    def arrays_of(part: str) -> dict[str, Any]:
        return {name: tensor.numpy() for name, tensor in arrays.pop(part, {}).items()}

    def build(part_kind: type[Part], part: str) -> Part:
        mine = arrays_of(part)
        inspection.check_fields(part_kind, part, header[part], mine)
        return part_kind(**header[part], **mine)

    def optional(part_kind: type[Part], part: str) -> Part | None:
        return build(part_kind, part) if part in header else None

    def pair(part: str) -> PairFeatures:
        one, other = (build(Features, f"{part}_{i}") for i in (0, 1))
        return PairFeatures(names=(names[0], names[1]), parts=(one, other), **arrays_of(part))

    features: AnyFeatures
    if names := _modalities(header):
        features = replace(pair("features"), seen=pair("seen") if "seen" in header else None)
        inspection.check_pair(features)
    else:
        features = build(Features, "features")
        inspection.check_features(features)
    catalog = CellIndex(**_index(index)) if index else None
    alone = {
        name: UnimodalPredictions(optional(Calibration, f"calibration_{i}"), header["checks_alone"][i])
        for i, name in enumerate(names)
    }
    model = kind(
        features=features,
        networks=_networks(header["settings"], features, weights),
        history={
            stage: {name: np.array(values) for name, values in columns.items()}
            for stage, columns in header["history"].items()
        },
        findings={name: np.array(values) for name, values in header["findings"].items()},
        reference=optional(Reference, "reference"),
        calibration=optional(Calibration, "calibration"),
        alone=alone,
        catalog=catalog,
        seen=optional(SeenCells, "cells"),
        map_errors=pd.DataFrame(header.get("map_errors", {})),
        colors=header.get("colors", {}),
        tree=read_tree(header["tree"]) if "tree" in header else None,
        targets=[build(ValuePredictor, part) for part in inspection.target_parts(header)],
        ordered=header.get("ordered", {}),
        **{name: header[name] for name in inspection.PLAIN},
    )
    if arrays:
        raise ValueError(f"{next(iter(arrays))!r} is not a part of a model")
    inspection.check_model(model)
    return model


def _modalities(header: dict[str, Any]) -> list[str]:
    part = header.get("features")
    names = part.get("names", []) if isinstance(part, dict) else None
    if not isinstance(names, list) or len({*names}) not in (0, 2) or not all(isinstance(name, str) for name in names):
        raise ValueError("features does not say which modalities it has")
    if names and len(header["checks_alone"]) != len(names):
        raise ValueError(f"{len(names)} modalities, but checks of {len(header['checks_alone'])}")
    return names


def _networks(settings: dict[str, str], features: AnyFeatures, weights: Tensors) -> Networks:
    """Build networks from weights; take memory only after the shapes of the weights are checked."""
    mlp, metric_dim, dim = networks.make(settings["encoder"]), int(settings["metric_dim"]), int(settings["dim"])
    with torch.device("meta"):
        head = MapHead(features.map_width, metric_dim, dim)
        if SITES in weights:
            head.even = EqualArea(dim, len(weights[SITES]))
        found = Networks(networks.build(mlp, features.widths, metric_dim), head)
    inspection.check_weights(found.state_dict(), weights)
    found.load_state_dict(weights, assign=True)
    return found


def _index(arrays: Tensors) -> dict[str, np.ndarray]:
    found = {name: tensor.numpy() for name, tensor in arrays.items()}
    if {*found} != {"z", "codes", "names"} or found["names"].dtype != np.uint8:
        raise ValueError("the index lacks some of its arrays")
    found["names"] = np.array(found["names"].tobytes().decode().split("\n"))
    return found

"""The file of a model: one safetensors file of arrays, with all else as JSON in its header; nothing in it is run."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tripletomics import files
from tripletomics.area import EqualArea
from tripletomics.features import Features
from tripletomics.index import Catalog
from tripletomics.labels.calibration import Calibration
from tripletomics.labels.reference import Reference
from tripletomics.modalities import PairFeatures
from tripletomics.model.model import Model, Side
from tripletomics.networks import Encoder, MapHead, Networks, PairEncoder, make
from tripletomics.seen import SeenCells

FORMAT = 7  # of the file; raised when an older program could not read it
OLDEST = 6  # that can be read: it does not say which cells the model has seen
SUFFIX = ".tt"


def save(model: Model, path: str | Path, index: bool) -> None:
    """Write a model, with its index if that is asked for."""
    path = files.check_writable(path, SUFFIX)
    if index and model.catalog is None:
        raise ValueError("index=True, but this model was read from a file without its index: fit it again.")
    parts: dict[str, Any] = {"features": model.features, "reference": model.reference, "calibration": model.calibration}
    parts |= {"cells": model.seen}
    if isinstance(model.features, PairFeatures):
        parts |= {"seen": model.features.seen}
        for side, name in enumerate(model.modalities):
            parts |= {f"features_{side}": model.features.parts[side]}
            parts |= {f"seen_{side}": model.features.seen.parts[side]} if model.features.seen else {}
            parts |= {f"calibration_{side}": model.alone[name].calibration}
    known = {
        name: {f.name: getattr(part, f.name) for f in fields(part) if f.name not in ("parts", "seen")}
        for name, part in parts.items()
        if part
    }
    tensors = {f"networks.{name}": tensor for name, tensor in model.networks.state_dict().items()}
    for part, values in known.items():
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        tensors |= {f"{part}.{name}": torch.from_numpy(value) for name, value in arrays.items()}
        known[part] = {name: value for name, value in values.items() if name not in arrays}
    if index and model.catalog is not None:
        names = "\n".join(name.replace("\n", " ") for name in model.catalog.names).encode()
        tensors |= {
            "index.z": torch.from_numpy(model.catalog.z),
            "index.codes": torch.from_numpy(model.catalog.codes),
            "index.names": torch.from_numpy(np.frombuffer(names, dtype=np.uint8).copy()),
        }
    header = {name: value for name, value in model.record().items() if name != "seen"} | known | {
        "format": FORMAT,
        "classes": model.classes,
        "enrolled": model.enrolled,
        "matches": model.matches,
        "checks_alone": [side.checks for side in model.alone.values()],
        "history": {
            stage: {name: values.tolist() for name, values in columns.items()}
            for stage, columns in model.history.items()
        },
        "findings": {name: values.tolist() for name, values in model.findings.items()},
    }  # fmt: skip
    whole = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with files.replacing(path, sum(tensor.nbytes for tensor in whole.values())) as draft:
        save_file(whole, draft, {"tripletomics": json.dumps(header)})


def load(path: str | Path) -> Model:
    """Read a model that `Model.save` wrote; it is placed on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, of another kind, or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no model file {str(path)!r}.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("tripletomics")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is damaged or not a model file ({error}).") from None
    if text is None:
        raise ValueError(f"{str(path)!r} is a safetensors file of another program, not a tripletomics model.")
    try:
        header = json.loads(text)
        made = int(header["format"])
        model = _assemble(header, tensors) if OLDEST <= made <= FORMAT else None
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from None
    if model is None:
        which, cure = ("a newer", "update this one") if made > FORMAT else ("an older", "fit the model again")
        raise ValueError(f"{str(path)!r} was written by {which} tripletomics, in format {header['format']}: {cure}.")
    return model


def _assemble(known: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Model:
    """Build a model from the header and the tensors of its file."""

    def arrays(part: str) -> dict[str, Any]:
        return {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}

    def build(kind: type, part: str) -> Any:
        return kind(**known[part], **{name: tensor.numpy() for name, tensor in arrays(part).items()})

    def read(part: str) -> Features:
        found = build(Features, part)
        if found.axes.shape[1] != len(found.genes):
            raise ValueError(f"{len(found.genes)} genes, but values for {found.axes.shape[1]}")
        return found

    def read_pair(part: str) -> PairFeatures:
        one, other = (read(f"{part}_{side}") for side in (0, 1))
        values = {name: tensor.numpy() for name, tensor in arrays(part).items()}
        return PairFeatures(names=tuple(known[part]["names"]), parts=(one, other), **values)

    def calibration(part: str) -> Calibration | None:
        return build(Calibration, part) if part in known else None

    settings = known["settings"]
    mlp, metric_dim = make(settings["encoder"]), int(settings["metric_dim"])
    names = known["features"].get("names", ())
    features: Features | PairFeatures
    encoder: Encoder | PairEncoder
    if names:
        features = replace(read_pair("features"), seen=read_pair("seen") if "seen" in known else None)
        encoder = PairEncoder(mlp, features.widths, metric_dim)
    else:
        features = read("features")
        encoder = Encoder(mlp, features.n_seen, metric_dim)
    head = MapHead(features.width, metric_dim, int(settings["dim"]))
    if "networks.map_head.even.sites" in tensors:
        head.even = EqualArea(int(settings["dim"]), len(tensors["networks.map_head.even.sites"]))
    networks = Networks(encoder, head)
    networks.load_state_dict(arrays("networks"))
    index = {name: tensor.numpy() for name, tensor in arrays("index").items()}
    if index:
        index["names"] = np.array(index["names"].tobytes().decode().split("\n"))
    return Model(
        features=features,
        networks=networks,
        history={
            stage: {name: np.array(values) for name, values in columns.items()}
            for stage, columns in known["history"].items()
        },
        findings={name: np.array(values) for name, values in known["findings"].items()},
        reference=build(Reference, "reference") if "reference" in known else None,
        calibration=calibration("calibration"),
        alone={
            name: Side(calibration(f"calibration_{side}"), known["checks_alone"][side])
            for side, name in enumerate(names)
        },
        catalog=Catalog(**index) if index else None,
        seen=build(SeenCells, "cells") if "cells" in known else None,
        **{name: known[name] for name in ("classes", "enrolled", "matches", "settings", "scores", "p_value", "checks",
                                          "seconds", "versions")},
    )  # fmt: skip

"""The file of a model: one safetensors file of arrays, with all else as JSON in its header; nothing in it is run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tripletomics import files
from tripletomics.modalities import PairFeatures
from tripletomics.model.assembly import assemble
from tripletomics.model.model import Model
from tripletomics.notices import warn

FORMAT = 8  # of the file; raised when an older program could not read it
SEALED = 8  # the first that carries a checksum
OLDEST = 6  # that can be read: it does not say which cells the model has seen
SUFFIX = ".tt"
DIGITS = 64  # of a SHA-256
MARK = b'"tripletomics":"{\\"sha256\\": \\"'  # what stands before them in a file; no text of a user comes earlier
HEAD, BLOCK = 2**12, 2**20  # bytes in which the mark is looked for, and that are read at once


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
    header: dict[str, Any] = {"sha256": "0" * DIGITS}  # first, where `seal` finds it
    header |= {name: value for name, value in model.record().items() if name != "seen"} | known | {
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
        seal(draft)


def load(path: str | Path) -> Model:
    """Read a model that `Model.save` wrote; it is placed on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, of another kind, or of a newer version.

    Notes
    -----
    A file carries the SHA-256 of all its bytes, so that every byte that has changed since it was written is found.
    Files of format 6 or 7 carry none: a warning says so.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no model file {str(path)!r}.")
    try:
        with safe_open(path, framework="pt") as file:  # checks the frame: where each tensor lies, and that all is there
            sealed = _check_seal(path)
            text = (file.metadata() or {}).get("tripletomics")
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is damaged or not a model file ({error}).") from None
    if text is None:
        raise ValueError(f"{str(path)!r} is a safetensors file of another program, not a tripletomics model.")
    try:
        header = json.loads(text)
        made = header["format"]
        if type(made) is not int:
            raise ValueError(f"format={made!r} is not a number")
        if made >= SEALED and not sealed:
            raise ValueError("its checksum is not where it belongs")
        model = assemble(header, tensors) if OLDEST <= made <= FORMAT else None
    except Exception as error:  # whatever a damaged header makes of the reader
        what = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{str(path)!r} is damaged: {' '.join(what.split())}") from None
    if model is None:
        which, cure = ("a newer", "update this one") if made > FORMAT else ("an older", "fit the model again")
        raise ValueError(f"{str(path)!r} was written by {which} tripletomics, in format {made}: {cure}.")
    if not sealed:
        warn(
            f"{str(path)!r} was written in format {made}, which carries no checksum: damage to its numbers cannot be "
            "found. model.save writes a file with one."
        )
    return model


def seal(path: Path) -> None:
    """Write the SHA-256 of a model file into it, in place of the zeros that `save` left there."""
    start, digest = _digest(path)
    if not start:
        raise ValueError(f"{str(path)!r} has no room for a checksum: its header does not begin with one.")
    with path.open("r+b") as file:
        file.seek(start)
        file.write(digest)


def _check_seal(path: Path) -> bool:
    """Return whether a file carries a checksum; raise if its bytes do not match it."""
    start, digest = _digest(path)
    if not start:
        return False
    with path.open("rb") as file:
        file.seek(start)
        if file.read(len(digest)) != digest:
            raise ValueError(
                f"{str(path)!r} is damaged: its bytes do not match its checksum (SHA-256). Copy it again from an "
                "intact original."
            )
    return True


def _digest(path: Path) -> tuple[int, bytes]:
    """Return where in a file the digits of its checksum are, 0 for nowhere, and the checksum of all other bytes."""
    with path.open("rb") as file:
        head = file.read(HEAD)
        start = head.find(MARK) + len(MARK)
        if start < len(MARK):
            return 0, b""
        content = hashlib.sha256(head[:start] + bytes(DIGITS) + head[start + DIGITS :])
        while block := file.read(BLOCK):
            content.update(block)
    return start, content.hexdigest().encode()

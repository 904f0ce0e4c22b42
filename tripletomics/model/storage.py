"""The file of a model: one safetensors file of arrays, with all else as JSON in its header; nothing in it is run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tripletomics import files
from tripletomics.notices import warn

Content = TypeVar("Content")
FORMAT = 10  # of the file; raised when an older program could not read it
SEALED = 8  # the first that carries a checksum
OLDEST = 6  # that can be read: it does not say which cells the model has seen
SUFFIX = ".tt"
DIGITS = 64  # of a SHA-256
MARK = b'"tripletomics":"{\\"sha256\\": \\"'  # what stands before them in a file; no text of a user comes earlier
HEAD, BLOCK = 2**12, 2**20  # bytes in which the mark is looked for, and that are read at once


def write(path: Path, header: dict[str, object], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a header and tensors, and the checksum of the whole file."""
    whole = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    seat: dict[str, object] = {"sha256": "0" * DIGITS, "format": FORMAT}  # first, where `seal` finds it
    text = json.dumps(seat | header, default=np.ndarray.tolist)
    with files.replacing(path, sum(tensor.nbytes for tensor in whole.values())) as draft:
        save_file(whole, draft, {"tripletomics": text})
        seal(draft)


def read(path: Path, assemble: Callable[[Any, dict[str, torch.Tensor]], Content]) -> Content:
    """Return what `assemble` makes of the header and the tensors of a file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, of another kind, or of a version that cannot be read, or `assemble` raises.
    """
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
        content = assemble(header, tensors) if OLDEST <= made <= FORMAT else None
    except Exception as error:  # a damaged header can raise anything
        what = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{str(path)!r} is damaged: {' '.join(what.split())}") from None
    if content is None:
        which, cure = ("a newer", "update this one") if made > FORMAT else ("an older", "fit the model again")
        raise ValueError(f"{str(path)!r} was written by {which} tripletomics, in format {made}: {cure}.")
    if not sealed:
        warn(
            f"{str(path)!r} was written in format {made}, which carries no checksum: damage to its numbers cannot be "
            "found. model.save writes a file with one."
        )
    return content


def seal(path: Path) -> None:
    """Write the SHA-256 of a model file into it, in place of the zeros that `write` left there."""
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

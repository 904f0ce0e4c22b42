"""A checkpoint: one file from which a fit that was stopped continues.

All that a fit does follows from its cells, settings and seed. The networks are trained one after the other, always in
the same order. The steps between the trainings are short and are repeated. So the file holds, for each finished
training, the trained network and loss with their history; for the training that is running also the optimizer, the
momentum encoder and the state of every random generator.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from tripletomics import files, processes
from tripletomics.notices import warn

FORMAT = 2  # of the file
EVERY = 60.0  # seconds of a training after which its state is written
UNSET = "0" * 64  # in place of the digest while the digest is computed
PLAIN = (bool, int, float, np.ndarray, np.random.Generator, Tensor)  # what a loss may keep next to its parameters


class Checkpoint:
    """The state of the trainings of a fit.

    Parameters
    ----------
    path
        File to continue from, if it exists, and to write.

    Raises
    ------
    FileNotFoundError, PermissionError, OSError
        If it cannot be written.
    ValueError
        If it is a folder, damaged or no checkpoint, or if several processes train together.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if processes.place().size > 1:
            raise ValueError(
                f"checkpoint={str(path)!r} works in one process only: leave it out where several fit together."
            )
        self.path = files.check_writable(Path(path))
        found = _read(self.path) if self.path.exists() else {"facts": {}, "trainings": []}
        self.facts: dict[str, str] = found["facts"]
        self.trainings: list[dict[str, Any]] = found["trainings"]
        self.next = 0
        self.written = time.monotonic()

    def expect(self, facts: Mapping[str, str]) -> None:
        """Record what determines the trainings; raise a ValueError if the file was started with something else."""
        for name, now in facts.items():
            before = self.facts.setdefault(name, now)
            if before != now and name == "threads":
                warn(
                    f"{str(self.path)!r} was started with {before} threads and continues with {now}: the last digits "
                    "may differ from those of a fit that was not stopped."
                )
            elif before != now:
                differ = f" ({before}, now {now})" if len(before) + len(now) < 100 else ""
                raise ValueError(
                    f"{str(self.path)!r} was started with another {name}{differ}: continue with the one that it was "
                    "started with, or delete the file to start again."
                )

    def begin(self, loop: Loop) -> int:
        """Restore a training to its saved state, and return how many of its steps are done."""
        number, self.next = self.next, self.next + 1
        loop.number = number
        if number == len(self.trainings):
            self.trainings.append({"step": 0})
        state = self.trainings[number]
        if state["step"]:
            try:
                loop.restore(state)
            except (LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:  # of another fit
                raise ValueError(
                    f"{str(self.path)!r} does not belong to this fit: delete it to start again."
                ) from error
        return int(state["step"])

    def note(self, loop: Loop, step: int, last: bool) -> None:
        """Write the state of a training after its last step, or if the last write was a minute ago."""
        if not last and time.monotonic() - self.written < EVERY:
            return
        self.trainings[loop.number] = loop.state(step, last)
        self.write()
        self.written = time.monotonic()

    def write(self) -> None:
        """Write the file; if that fails, warn and continue."""
        tensors: dict[str, Tensor] = {}
        trainings = [_pack(state, str(number), tensors) for number, state in enumerate(self.trainings)]
        header = {"format": FORMAT, "facts": self.facts, "trainings": trainings}
        content = save(tensors, {"tripletomics checkpoint": json.dumps(header), "sha256": UNSET})
        digest = hashlib.sha256(content).hexdigest().encode()
        try:
            with files.replacing(self.path) as draft:
                draft.write_bytes(content.replace(UNSET.encode(), digest, 1))
        except OSError as error:
            warn(f"The checkpoint could not be written, and the fit continues: {error}")

    def remove(self) -> None:
        """Delete the file, once all results are written."""
        Path(os.path.realpath(self.path)).unlink(missing_ok=True)


@contextmanager
def keeping(path: str | os.PathLike[str]) -> Iterator[Checkpoint]:
    """Yield the checkpoint of a fit; delete its file if the block ends without an error."""
    kept = Checkpoint(path)
    try:
        yield kept
    except KeyboardInterrupt:
        if not kept.path.exists():
            raise
        raise KeyboardInterrupt(f"run the same command again to continue from {str(kept.path)!r}") from None
    kept.remove()


@dataclass
class Loop:
    """Everything that changes while a network is trained.

    Attributes
    ----------
    network, momentum_encoder, loss, optimizer, schedule, fabric
        As in `training.train`.
    generator, sampler, watch
        The random generator, what draws the minibatches, and what records the scores.
    seen, due, losses, traces
        Cells shown so far, the number of them at which `Loss.refresh` is due, the loss of each step and its traces.
    """

    network: nn.Module
    momentum_encoder: nn.Module | None
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Any
    fabric: Fabric
    generator: torch.Generator
    sampler: Any
    watch: Any
    seen: int = 0
    due: int = 0
    losses: list[Tensor] = field(default_factory=list)
    traces: list[dict[str, Tensor]] = field(default_factory=list)
    number: int = 0

    def record(self, step: int, n: int, loss: Tensor, trace: dict[str, Tensor]) -> None:
        """Record a step: how many cells it showed, its loss, and what the loss traces; report it to the watcher."""
        self.seen += n
        self.losses.append(loss)
        self.traces.append(trace)
        self.watch(step + 1, loss)

    def stacked_traces(self) -> dict[str, Tensor]:
        """Return what the loss traced, by name: (steps,)."""
        return {name: torch.stack([trace[name] for trace in self.traces]) for name in self.traces[0]}

    def state(self, step: int, last: bool) -> dict[str, Any]:
        """Return the state as arrays and numbers; of a finished training, only its results."""
        found: dict[str, Any] = {
            "step": step,
            "network": self.network.state_dict(),
            "loss": self.loss.state_dict(),
            "attributes": {name: _attributes(part) for name, part in self.loss.named_modules()},
            "losses": torch.stack(self.losses),
            "traces": self.stacked_traces(),
            "scores": self.watch.scores,
            "latest": self.watch.latest,
        }
        if not last:
            found |= {
                "momentum_encoder": {} if self.momentum_encoder is None else self.momentum_encoder.state_dict(),
                "optimizer": {str(i): parts for i, parts in self.optimizer.state_dict()["state"].items()},
                "precision": self.fabric.strategy.precision.state_dict(),
                "generator": self.generator.get_state(),
                "sampler": self.sampler.state(),
                "seen": self.seen,
                "due": self.due,
            }
        return _copy(found)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set everything to a saved state, in place."""
        step, device = state["step"], next(self.network.parameters()).device
        self.network.load_state_dict(state["network"])
        self.loss.load_state_dict(state["loss"])
        for name, part in self.loss.named_modules():
            for attribute, value in state["attributes"][name].items():
                setattr(part, attribute, _generator(value) if isinstance(value, dict) else value)
        self.losses[:] = state["losses"].to(device)
        traces = {name: values.to(device) for name, values in state["traces"].items()}
        self.traces[:] = [{name: values[i] for name, values in traces.items()} for i in range(step)]
        self.watch.scores, self.watch.latest = state["scores"].copy(), state["latest"]
        self.watch.report(self.watch.stage, step, self.watch.steps, float(self.losses[-1]), self.watch.latest)
        if "sampler" not in state:
            return
        if self.momentum_encoder is not None:
            self.momentum_encoder.load_state_dict(state["momentum_encoder"])
        trained = [(group, weight) for group in self.optimizer.param_groups for weight in group["params"]]
        for i, parts in state["optimizer"].items():  # load_state_dict of AdamW does not support orthogonal steps
            group, weight = trained[int(i)]
            self.optimizer.state[weight] = {
                name: value if name == "step" and not group["fused"] else value.to(device)
                for name, value in parts.items()
            }
        self.schedule.last_epoch = step
        for group, lr, share in zip(
            self.optimizer.param_groups, self.schedule.base_lrs, self.schedule.lr_lambdas, strict=True
        ):
            group["lr"] = lr * share(step)
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.generator.set_state(state["generator"])
        self.sampler.restore(state["sampler"])
        self.seen, self.due = state["seen"], state["due"]


def digest(*arrays: Any) -> str:
    """Return a hash of arrays and texts: 16 hexadecimal digits."""
    content = hashlib.blake2b(digest_size=8)
    for array in arrays:
        content.update(np.ascontiguousarray(array).tobytes() if isinstance(array, np.ndarray) else repr(array).encode())
    return content.hexdigest()


def _attributes(part: nn.Module) -> dict[str, Any]:
    """Return what a loss keeps next to its parameters and buffers."""
    found = {name: value for name, value in vars(part).items() if isinstance(value, PLAIN)}
    return {name: value for name, value in found.items() if getattr(value, "dtype", None) != np.dtype(object)}


def _generator(state: dict[str, Any]) -> np.random.Generator:
    made = np.random.default_rng()
    made.bit_generator.state = state
    return made


def _copy(value: Any) -> Any:
    """Return a copy in main memory, which the training does not change; a generator becomes its state."""
    if isinstance(value, Mapping):
        return {name: _copy(part) for name, part in value.items()}
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True).contiguous()
    return value.copy() if isinstance(value, np.ndarray) else value


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return what JSON can hold, and move arrays into `tensors` by name."""
    if isinstance(value, Mapping):
        return {key: _pack(part, f"{name}/{key}", tensors) for key, part in value.items()}
    if isinstance(value, (Tensor, np.ndarray)):
        tensors[name] = value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
        return {"is": "tensor" if isinstance(value, Tensor) else "array", "name": name}
    return value


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `_pack`."""
    if isinstance(value, dict) and value.get("is") in ("tensor", "array"):
        found = tensors[value["name"]]
        return found if value["is"] == "tensor" else found.numpy()
    if isinstance(value, dict):
        return {key: _unpack(part, tensors) for key, part in value.items()}
    return [_unpack(part, tensors) for part in value] if isinstance(value, list) else value


def _read(path: Path) -> dict[str, Any]:
    """Return the header of a file with its arrays in place; raise a ValueError if it is damaged."""
    content = path.read_bytes()
    try:
        length = int.from_bytes(content[:8], "little")
        notes = json.loads(content[8 : 8 + length])["__metadata__"]
        header = json.loads(notes["tripletomics checkpoint"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(
            f"{str(path)!r} is not a checkpoint, or is damaged: name another file or, if a fit wrote this one, "
            "delete it to start again."
        ) from None
    whole = content.replace(notes["sha256"].encode(), UNSET.encode(), 1)
    if hashlib.sha256(whole).hexdigest() != notes["sha256"]:
        raise ValueError(f"{str(path)!r} is damaged: delete it to start again.")
    if header["format"] != FORMAT:
        raise ValueError(f"{str(path)!r} was written by another version of tripletomics: delete it to start again.")
    try:
        return dict(_unpack(header, load(content)))
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}): delete it to start again.") from None

"""The device and the precision of a fit, and the threads of libraries."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment

from tripletomics import processes
from tripletomics.parts import did_you_mean


def start(device: str, precision: str) -> Fabric:
    """Choose the device and the precision, or say which there are."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    allowed = ["auto", *(name for name, there in present.items() if there)]
    if device not in allowed:
        why = "is not on this machine." if device in present else f"is not known.{did_you_mean(device, present)}"
        raise ValueError(f"device={device!r} {why} Allowed here: {', '.join(allowed)}.")
    precisions = ("32-true", "16-mixed", "bf16-mixed")  # weights and kNN graphs are float32 throughout
    if precision not in ("auto", *precisions):
        near = did_you_mean(precision, precisions)
        raise ValueError(f"precision={precision!r} is not known.{near} Allowed: auto, {', '.join(precisions)}.")
    chosen = cast("Literal['32-true']", "32-true" if precision == "auto" else precision)
    here = processes.join()
    alone = LightningEnvironment()  # by itself Fabric would take a job of SLURM without srun for many processes
    if here.size == 1:
        return Fabric(accelerator=device, devices=1, precision=chosen, plugins=[alone])
    kind = device if device != "auto" else "cuda" if present["cuda"] else "cpu"
    if kind == "mps":
        raise ValueError("device='mps' has one GPU, for one process: pass device='cpu' for many.")
    if kind == "cuda":
        check_gpus(here.local, torch.cuda.device_count())
    # processes.py does what a strategy of Fabric would, and the loss's parameters too
    return Fabric(accelerator=kind, devices=[here.local] if kind == "cuda" else 1, precision=chosen, plugins=[alone])


def check_gpus(local: int, gpus: int) -> None:
    """Refuse, in all processes, to have more of them on a machine than it has GPUs."""
    short = [i for i, left in enumerate(processes.said_by_all(gpus - local)) if left < 1]
    if short:
        raise ValueError(
            f"Each process needs a GPU of its own, and there is none for process {', '.join(map(str, short))}: start "
            "as many on a machine as GPUs can be seen there (srun: with --gpus-per-node, not --gpus-per-task), or pass "
            "device='cpu'."
        )


@contextmanager
def keeping_threads() -> Iterator[None]:
    """Restore the thread numbers of torch and numba afterwards: OpenMP gives torch as many as numba starts."""
    before, numba = torch.get_num_threads(), sys.modules.get("numba")
    compiled = numba.get_num_threads() if numba else None
    torch.set_num_threads(before)
    try:
        yield
    finally:
        if numba:
            numba.set_num_threads(compiled)
        torch.set_num_threads(before)

"""The device and the precision of a fit, and the threads of libraries."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import nn

from tripletomics import processes
from tripletomics.parts import did_you_mean


class OneOfMany(TorchElasticEnvironment):
    """What torchrun or srun says about a process. Fabric's own class for SLURM reads the job, not the step of srun."""

    def world_size(self) -> int:
        """Return how many processes there are."""
        return processes.place().size

    def global_rank(self) -> int:
        """Return which of them this is."""
        return processes.place().rank

    def local_rank(self) -> int:
        """Return which of the devices given to Fabric is this process's: it gives one."""
        return 0


class SharedMinibatch(DDPStrategy):
    """Fabric's strategy for many processes, with an error that names the process that ended.

    It leaves modules as they are: torch averages the gradients of a network, but here they add up, and the loss has
    gradients too (`processes.add_up`).
    """

    all_gather = processes.naming_the_missing()(DDPStrategy.all_gather)
    all_reduce = processes.naming_the_missing()(DDPStrategy.all_reduce)
    broadcast = processes.naming_the_missing()(DDPStrategy.broadcast)

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        """Return the module."""
        return module


def start(device: str, precision: str) -> Fabric:
    """Return Fabric with the chosen device and precision; raise if they are not there."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    allowed = ["auto", *(name for name, there in present.items() if there)]
    if device not in allowed:
        near = " Did you mean 'cuda'?" if device == "gpu" else did_you_mean(device, present)
        why = "is not on this machine." if device in present else f"is not known.{near}"
        raise ValueError(f"device={device!r} {why} Allowed here: {', '.join(allowed)}.")
    precisions = ("32-true", "16-mixed", "bf16-mixed")  # weights and kNN graphs are float32 throughout
    if precision not in ("auto", *precisions):
        near = did_you_mean(precision, precisions)
        raise ValueError(f"precision={precision!r} is not known.{near} Allowed: auto, {', '.join(precisions)}.")
    chosen = cast("Literal['32-true']", "32-true" if precision == "auto" else precision)
    here = processes.join()
    if here.size == 1:  # else Fabric would take a SLURM job without srun for many processes
        return Fabric(accelerator=device, devices=1, precision=chosen, plugins=[LightningEnvironment()])
    kind = device if device != "auto" else "cuda" if present["cuda"] else "cpu"
    if kind == "mps":
        raise ValueError("device='mps' has one GPU, for one process: pass device='cpu' for many.")
    if kind == "cuda":
        check_gpus(here.local, torch.cuda.device_count())
    fabric = Fabric(
        accelerator=kind,
        strategy=SharedMinibatch(),
        devices=[here.local] if kind == "cuda" else 1,
        num_nodes=here.size,
        precision=chosen,
        plugins=[OneOfMany()],
    )
    fabric.launch()
    return fabric


def check_gpus(local: int, gpus: int) -> None:
    """Raise, in all processes, if there are more of them on a machine than it has GPUs."""
    short = [i for i, left in enumerate(processes.of_all(gpus - local)) if left < 1]
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

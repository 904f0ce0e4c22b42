"""Many processes that train one network: which one this is, its part of a minibatch, and which one is missing.

All do the same and hold the same weights. Of each minibatch, a process encodes its share. The embeddings are gathered,
so that every process has the loss of the whole minibatch; then the gradients are added up. Alone, a process does none
of this. Fabric gathers, reduces and broadcasts (`devices.start`). The rest is here, because Fabric meets no other
process before a command is read, gathers no unequal shares, does not know that a loss is the same in all processes,
and names no process that ended.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import re
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs only the environment
    from lightning_fabric import Fabric
    from torch import Tensor, nn

TIMEOUT = timedelta(minutes=10)  # that a process waits for the others; one that ended is noticed at once
PATIENCE = 5.0  # seconds to find out which process ended
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")  # of the step: sbatch alone starts one process


class Place(NamedTuple):
    """Which of how many processes this is, and which of those on its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0


def place() -> Place:
    """Return which process this is, from the environment, which torchrun and SLURM's srun set."""
    for names in (TORCHRUN, SRUN):
        if all(name in os.environ for name in names):
            return Place(*(int(os.environ[name]) for name in names))
    return Place()


def by_torchrun() -> bool:
    """Return whether all processes were given the same command, which srun does not promise."""
    return TORCHRUN[0] in os.environ


def join() -> Place:
    """Meet the other processes, if there are any and they have not met before.

    Raises
    ------
    ConnectionError
        If some are not there after ten minutes.
    """
    here = place()
    if here.size == 1 or _joined():
        return here
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no stack of C++ where a process is missing
    import torch
    from torch import distributed

    if not by_torchrun():
        _name_the_first()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # threads of the group that outlive Python's end abort the process
    atexit.register(lambda: distributed.is_initialized() and distributed.destroy_process_group())
    try:
        distributed.init_process_group(backend, store=_store(), rank=here.rank, world_size=here.size, timeout=TIMEOUT)
        _store().set(f"process {here.rank}", f"{os.getpid()} {socket.gethostname()}")
    except RuntimeError as error:
        raise ConnectionError(
            f"Process {here.rank} of {here.size} did not meet the others at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']}: start all of them at once, and see whether one ended early. ({error})"
        ) from error
    return here


def count() -> int:
    """Return how many processes have met."""
    return place().size if _joined() else 1


def rank() -> int:
    """Return which of them this is, from 0; the first one writes and prints."""
    return place().rank if _joined() else 0


def part(n: int) -> slice:
    """Return which of `n` cells are this process's: every process has its share, none where there are too few."""
    return _shares(n)[rank()]


def gather(fabric: Fabric, z: Tensor, views: int, n: int) -> Tensor:
    """Return the embeddings (views * n, dim) of all `n` cells of a minibatch, from those of each process's `part`.

    The gradient goes to a process's own cells alone. As all have the same loss, `add_up` makes it whole.
    """
    if count() == 1:
        return z
    from torch import cat
    from torch.nn.functional import pad

    own = z.reshape(views, len(z) // views, z.shape[1])
    # Fabric gathers equal shapes, and with gradients it would send each process those of all losses, which are one
    found = fabric.all_gather(pad(own.detach(), (0, 0, 0, -(-n // count()) - own.shape[1])))
    parts = [z[:, : share.stop - share.start] for z, share in zip(found, _shares(n), strict=True)]
    parts[rank()] = own
    return cat(parts, dim=1).flatten(0, 1)


def add_up(fabric: Fabric, network: nn.Module, loss: nn.Module) -> None:
    """Make the gradients those of the whole minibatch: of the network the sum of all shares', of the loss the mean.

    Each process already has the whole gradient of the loss; the mean keeps rounding from driving them apart.
    """
    if count() == 1:
        return
    from torch import cat

    own = [p.grad for p in network.parameters() if p.grad is not None]
    common = [p.grad for p in loss.parameters() if p.grad is not None]
    flat = cat([*(g.flatten() for g in own), *(g.flatten() / count() for g in common)])
    fabric.all_reduce(flat, reduce_op="sum")  # in place
    for gradient, whole in zip((*own, *common), flat.split([g.numel() for g in (*own, *common)]), strict=True):
        gradient.copy_(whole.view_as(gradient))


def share_state(fabric: Fabric, *modules: nn.Module) -> None:
    """Give parameters and buffers, saved or not, the first process's values, in place."""
    if count() > 1:
        for tensor in itertools.chain.from_iterable((*module.parameters(), *module.buffers()) for module in modules):
            tensor.data.copy_(fabric.broadcast(tensor.detach().cpu()))


def of_all(value: Any) -> list[Any]:
    """Return each process's value."""
    found = [value] * count()
    if count() > 1:
        from torch import distributed

        with naming_the_missing():
            distributed.all_gather_object(found, value)
    return found


def of_first(values: np.ndarray) -> np.ndarray:
    """Return the values of the first process: those of the others may differ in the last bits."""
    first: np.ndarray = of_all(values)[0]
    return first


def check_same(*given: object) -> None:
    """Raise if processes would train together on different cells or with different settings.

    Raises
    ------
    ValueError
        In every process.
    """
    if count() == 1:
        return
    parts = (one.tobytes() if isinstance(one, np.ndarray) else repr(one).encode() for one in given)
    found = of_all(zlib.crc32(b"|".join(parts)))
    other = next((i for i, digest in enumerate(found) if digest != found[0]), 0)
    if other:
        raise ValueError(
            f"Process {other} of {count()} has other cells or settings than process 0, and all train one network. Give "
            "all the same file and options; to run independent fits, start each with an srun of its own "
            "(--ntasks=1)."
        )


def first_to_say(message: str) -> bool:
    """Return whether no other process has printed this message, so that it is printed once."""
    if not _joined():
        return True
    try:
        store = _store()
        store.set_timeout(timedelta(seconds=PATIENCE))
        first = store.add(f"said {zlib.crc32(message.encode())}", 1) == 1
        store.add("saying", 1)
        # without torchrun the store ends with the first process, and the others may still need it
        if rank() == 0 and "TORCHELASTIC_USE_AGENT_STORE" not in os.environ:
            _until(lambda: store.add("saying", 0) >= count())
        return first
    except RuntimeError:  # the store ended with the first process
        return True


def _joined() -> bool:
    if place().size == 1:
        return False
    from torch import distributed

    return distributed.is_available() and distributed.is_initialized()


def _shares(n: int) -> list[slice]:
    ends = [n * i // count() for i in range(count() + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(ends)]


def _name_the_first() -> None:
    """Set for torch where the first process is, which SLURM does not do."""
    from lightning_fabric.plugins.environments import SLURMEnvironment

    nodes, job = os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1"), os.environ.get("SLURM_JOB_ID", "0")
    os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
    os.environ.setdefault("MASTER_PORT", str(15000 + int(job) % 10000))


@contextmanager
def naming_the_missing() -> Iterator[None]:
    """Raise an error that names the missing process where one cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        here, gone = place(), _missing()
        said = re.sub(r"^\[\S+\] ", "", str(error).splitlines()[0])[:80]  # without the line of gloo's source
        who = f"Process {gone} of {here.size} has ended" if gone else "A process has ended or does not answer"
        raise ConnectionError(
            f"{who}, and process {here.rank} cannot continue alone. Its own last lines say why (none if it was killed, "
            f"for example because memory ran out). Start all again. ({said})"
        ) from error


def _missing() -> str:
    """Return the rank and machine of the process that ended, as seen on that machine; "" if that is unknown."""
    found = ""

    def look() -> bool:
        nonlocal found
        here, notes = socket.gethostname(), [_store().get(f"process {i}").decode() for i in range(count())]
        all_of_them = [(i, *note.split(" ", 1)) for i, note in enumerate(notes)]
        ended = [f"{i} ({host})" for i, pid, host in all_of_them if host == here and not _runs(int(pid))]
        if ended:
            found = _store().compare_set("gone", "", ended[0]).decode()
        elif _store().check(["gone"]):  # another one has found it
            found = _store().get("gone").decode()
        return bool(found)

    try:
        _store().set_timeout(timedelta(seconds=PATIENCE))
        _until(look)
    except RuntimeError:  # it keeps the store, or its machine does
        return "0"
    return found


def _runs(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not done() and time.monotonic() < end:
        time.sleep(0.05)


@functools.cache
def _store() -> Any:
    """Return the store in which processes leave notes for each other."""
    from torch import distributed

    here = place()
    return next(distributed.rendezvous("env://", here.rank, here.size, timeout=TIMEOUT))[0]

"""Many processes that train one network: what is dealt out, gathered and added up, and who is missing.

All do the same and hold the same weights. Of each batch, a process encodes its share; the places are gathered, so that
every process has the loss of the whole batch; the gradients are added up. Alone, a process does none of this.
"""

from __future__ import annotations

import atexit
import itertools
import math
import os
import re
import socket
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs to know nothing but the environment
    from torch import Tensor, nn

TIMEOUT = timedelta(minutes=10)  # that a process waits for the others; one that ended is noticed at once
MESSAGE = 8224  # bytes that tell all about a batch of 1,024 cells
PATIENCE = 5.0  # seconds to find out which process ended
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")  # of the step: sbatch alone starts one process


class Place(NamedTuple):
    """Which of how many processes this is, and which of those on its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0


def place() -> Place:
    """Read from the environment which process this is: torchrun and SLURM's srun tell it."""
    for names in (TORCHRUN, SRUN):
        if all(name in os.environ for name in names):
            return Place(*(int(os.environ[name]) for name in names))
    return Place()


def by_torchrun() -> bool:
    """Tell whether all processes were given the same command, which srun does not promise."""
    return TORCHRUN[0] in os.environ


def join() -> Place:
    """Meet the other processes, if there are any and that was not done before.

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
        distributed.init_process_group(backend, rank=here.rank, world_size=here.size, timeout=TIMEOUT)
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


def gather(z: Tensor, views: int, n: int) -> Tensor:
    """Return the places (views * n, dim) of all `n` cells of a batch, from those of each process's `part`.

    The gradient goes to a process's own cells alone. As all have the same loss, `add_up` makes it whole.
    """
    if count() == 1:
        return z
    import torch
    from torch import distributed

    shares, longest = _shares(n), -(-n // count())
    own = z.reshape(views, len(z) // views, z.shape[1])
    padded = z.new_zeros(views, longest, z.shape[1])
    padded[:, : own.shape[1]] = own.detach()
    found = [torch.empty_like(padded) for _ in shares]
    with _talking():
        distributed.all_gather(found, padded)
    parts = [places[:, : share.stop - share.start] for places, share in zip(found, shares, strict=True)]
    parts[rank()] = own
    return torch.cat(parts, dim=1).flatten(0, 1)


def add_up(network: nn.Module, loss: nn.Module) -> None:
    """Make the gradients those of the whole batch: of the network the sum of all shares', of the loss the mean.

    Of the loss each process has the whole gradient already; the mean keeps rounding from driving them apart.
    """
    if count() == 1:
        return
    import torch
    from torch import distributed

    own = [p.grad for p in network.parameters() if p.grad is not None]
    common = [p.grad for p in loss.parameters() if p.grad is not None]
    flat = torch.cat([*(g.flatten() for g in own), *(g.flatten() / count() for g in common)])
    with _talking():
        distributed.all_reduce(flat)
    for gradient, whole in zip((*own, *common), flat.split([g.numel() for g in (*own, *common)]), strict=True):
        gradient.copy_(whole.view_as(gradient))


def share_state(*modules: nn.Module) -> None:
    """Give parameters and buffers the first process's values, in place."""
    if count() == 1:
        return
    from torch import distributed

    with _talking():
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                values = tensor.detach().contiguous()
                distributed.broadcast(values, 0)
                tensor.data.copy_(values)


def of_first(values: np.ndarray) -> np.ndarray:
    """Return what the first process has: the last bits of the others', and what hangs on them, may differ."""
    if count() == 1:
        return values
    shape = np.array([values.ndim, *values.shape, *[0] * (3 - values.ndim)])
    said = np.concatenate([shape.view(np.uint8), np.ascontiguousarray(values).reshape(-1).view(np.uint8)])
    message = np.resize(said, MESSAGE)  # of one length: how much there is to say, the first one knows alone
    _broadcast(message)
    n_dim, *sizes = message[: shape.nbytes].view(np.int64).tolist()
    sizes = sizes[:n_dim]
    length = shape.nbytes + values.itemsize * math.prod(sizes)
    rest = np.resize(said, max(length, MESSAGE))[MESSAGE:]
    if len(rest):
        _broadcast(rest)
    return np.concatenate([message, rest])[shape.nbytes : length].view(values.dtype).reshape(sizes)


def _broadcast(values: np.ndarray) -> None:
    """Give an array the first process's values, in place."""
    import torch
    from torch import distributed

    with _talking():
        distributed.broadcast(torch.from_numpy(values), 0)


def said_by_all(number: int) -> list[int]:
    """Return each process's number."""
    if count() == 1:
        return [number]
    import torch
    from torch import distributed

    found = [torch.zeros(1, dtype=torch.long) for _ in range(count())]
    with _talking():
        distributed.all_gather(found, torch.tensor([number]))
    return [int(one) for one in found]


def check_same(*given: object) -> None:
    """Refuse to train together on different cells or with different settings.

    Raises
    ------
    ValueError
        In every process.
    """
    if count() == 1:
        return
    parts = (one.tobytes() if isinstance(one, np.ndarray) else repr(one).encode() for one in given)
    found = said_by_all(zlib.crc32(b"|".join(parts)))
    other = next((i for i, digest in enumerate(found) if digest != found[0]), 0)
    if other:
        raise ValueError(
            f"Process {other} of {count()} has other cells or settings than process 0, and all train one network. Give "
            "all the same file and options; for fits that have nothing to do with each other, start each with an srun "
            "of its own (--ntasks=1)."
        )


def first_to_say(message: str) -> bool:
    """Tell whether no other process has said this, so that what all find wrong is printed once."""
    if not _joined():
        return True
    try:
        store = _store()
        store.set_timeout(timedelta(seconds=PATIENCE))
        first = store.add(f"said {zlib.crc32(message.encode())}", 1) == 1
        store.add("saying", 1)
        # without torchrun the store goes with the first process, and the others may want to ask
        if rank() == 0 and "TORCHELASTIC_USE_AGENT_STORE" not in os.environ:
            _until(lambda: store.add("saying", 0) >= count())
        return first
    except RuntimeError:  # the store went with the first process
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
    """Tell torch where the first process is, as SLURM does not."""
    from lightning_fabric.plugins.environments import SLURMEnvironment

    nodes, job = os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1"), os.environ.get("SLURM_JOB_ID", "0")
    os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
    os.environ.setdefault("MASTER_PORT", str(15000 + int(job) % 10000))


@contextmanager
def _talking() -> Iterator[None]:
    """Say which process is missing where one cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        here, gone = place(), _missing()
        said = re.sub(r"^\[\S+\] ", "", str(error).splitlines()[0])[:80]  # without the line of gloo's source
        who = f"Process {gone} of {here.size} has ended" if gone else "A process has ended or does not answer"
        raise ConnectionError(
            f"{who}, and process {here.rank} cannot go on alone. Its own last lines say why (none if it was killed, as "
            f"for want of memory). Start all again. ({said})"
        ) from error


def _missing() -> str:
    """Return the rank and machine of the process that ended, as seen on that machine; "" if nobody finds out."""
    found = ""

    def look() -> bool:
        nonlocal found
        ended = [f"{i} ({host})" for i, pid, host in _processes() if host == socket.gethostname() and not _runs(pid)]
        if ended:
            found = _store().compare_set("gone", "", ended[0]).decode()
        elif _store().check(["gone"]):  # found out by another one
            found = _store().get("gone").decode()
        return bool(found)

    try:
        _store().set_timeout(timedelta(seconds=PATIENCE))
        _until(look)
    except RuntimeError:  # it keeps the store, or its machine does
        return "0"
    return found


def _processes() -> Iterable[tuple[int, int, str]]:
    for i in range(count()):
        pid, host = _store().get(f"process {i}").decode().split(" ", 1)
        yield i, int(pid), host


def _runs(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _until(done: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not done() and time.monotonic() < end:
        time.sleep(0.05)


def _store() -> Any:
    """Return where processes leave each other notes; torch keeps it and has no public name for it."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()

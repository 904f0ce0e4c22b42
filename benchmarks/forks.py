"""Forked children for programs that try what may crash: all is imported once, and each trial costs a fork."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
SECONDS = 60  # of a processor that a child may take
MEMORY = 3 * 2**30  # bytes that a child may add to what it starts with


def with_one_thread() -> None:
    """Start this program again with one thread, unless it has: a fork of torch with more of them may hang."""
    if any(os.environ.get(name) != "1" for name in THREADS):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | dict.fromkeys(THREADS, "1"))


def start(work: Callable[[], Any], answer: Path) -> int:
    """Start a child that writes what `work` returns as JSON, and what it prints beside that as .log; return its id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        log = os.open(answer.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)  # what compiled code says, too
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        answer.write_text(json.dumps(work()))
        status = 0
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def prepare(work: Callable[[], None], folder: Path) -> None:
    """Run something in a child, and import here what it imported, so that no thread starts here."""
    answer = folder / "modules.json"

    def modules() -> list[str]:
        work()
        return [name for name in sys.modules if not name.startswith("__")]

    _, status = os.waitpid(start(modules, answer), 0)
    if status:
        raise SystemExit(f"It could not be prepared:\n{answer.with_suffix('.log').read_text()}")
    os.environ["MPLBACKEND"] = "agg"
    for name in json.loads(answer.read_text()):
        with contextlib.suppress(Exception):
            importlib.import_module(name)

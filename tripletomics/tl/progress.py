"""Progress bars: on stderr of a terminal, or as one output of a notebook cell; nowhere else."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tripletomics import keys, processes

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

    from tripletomics.monitor import Report
    from tripletomics.training import History

AGAIN = " again"  # ends the name of a stage that is trained a second time


TRAINED = {"metric": "encoder", "map": "map"}  # what a stage trains, where its name does not say so


@contextmanager
def training_bar(wanted: bool) -> Iterator[Report]:
    """Show stage, loss, held-out score and time left. A stage without steps is only shown to run.

    During training the score is that of samples, and is marked "about". `report_scores` then gives the final score.
    """
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:>18}"), BarColumn(20), TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[score]}"), TimeRemainingColumn(elapsed_when_finished=True),
    )  # fmt: skip
    with _bar(wanted, *columns) as bar:
        tasks: dict[str, Any] = {}

        def report(stage: str, step: int, steps: int, loss: float, score: float) -> None:
            space, again, _ = stage.partition(AGAIN)
            if stage not in tasks:
                _finish(bar)
                tell(f"training the {TRAINED.get(stage, stage)}, {steps} steps" if steps else stage)
                title = keys.SPACES.get(space, space) + again
                tasks[stage] = bar.add_task(title, total=steps or None, loss="", score="")
            if steps:
                said = "" if math.isnan(score) or space not in keys.SPACES else f"held-out F1 about {score:.2f}"
                if bar.tasks[tasks[stage]].finished:
                    said = said and f"held-out F1 {score:.3f}"
                bar.update(tasks[stage], completed=step, loss=f"loss {loss:.3f}", score=said)

        yield report
        _finish(bar)


def _finish(bar: Progress) -> None:
    """Show that a stage without steps is over."""
    for task in bar.tasks:
        if task.total is None:
            bar.update(task.id, total=1, completed=1)


def begin(report: Report, stage: str) -> None:
    """Report a stage without steps, which ends where the next one begins."""
    report(stage, 0, 0, math.nan, math.nan)


@contextmanager
def stage(name: str, wanted: bool) -> Iterator[None]:
    """Show in a terminal what is running, and for how long."""
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    tell(name)
    columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn())
    with _bar(wanted, *columns, in_notebook=False) as bar:
        task = bar.add_task(name, total=1)
        yield
        bar.update(task, completed=1)


def tell(message: str) -> None:
    """Give a message to scanpy's logger, which shows it at the verbosity "info" or above."""
    scanpy = sys.modules.get("scanpy")  # without scanpy, nobody asked for messages
    if scanpy is not None and processes.rank() == 0:
        scanpy.logging.info(message)


def report_scores(report: Report, history: History, again: bool = False) -> None:
    """Report the held-out scores of a finished fit. `again`: the encoder was trained twice."""
    for space, curves in history.items():
        steps, f1 = len(curves["step"]), float(curves["held_out_f1"][-1])
        report(space + AGAIN * (again and space == "metric"), steps, steps, float(curves["loss"][-1]), f1)


@contextmanager
def steps_bar(steps: int, wanted: bool) -> Iterator[Callable[[str], None]]:
    """Show which step is running, and the time left; call what is yielded at the start of each."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}"),
        TextColumn("{task.description}"),
    )  # fmt: skip
    started = time.monotonic()
    with _bar(wanted, *columns) as bar:
        task = bar.add_task("", total=steps, left="")
        begun = 0

        def step(name: str) -> None:
            nonlocal begun
            tell(f"{name} ({begun + 1} of {steps})")
            left = (time.monotonic() - started) * (steps - begun) / max(begun, 1)  # rich forgets after 30 s
            said = f"{timedelta(seconds=round(left))} left" if begun else ""
            bar.update(task, completed=begun, description=name, left=said)
            begun += 1

        yield step
        bar.update(task, completed=steps, description="", left="")


def _bar(wanted: bool, *columns: ProgressColumn, in_notebook: bool = True) -> Progress:
    """Return a bar, hidden unless it is wanted and can be seen."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    seen = wanted and processes.rank() == 0
    if seen and in_notebook and console.is_jupyter:
        from tripletomics.tl.notebook import NotebookBar

        return NotebookBar(*columns)
    return Progress(*columns, console=console, disable=not (seen and console.is_terminal))

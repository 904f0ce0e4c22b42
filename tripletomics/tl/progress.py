"""Progress bars: in a terminal or notebook, on stderr, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tripletomics import processes

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

    from tripletomics.monitor import Report


@contextmanager
def training_bar(wanted: bool) -> Iterator[Report]:
    """Show stage, loss, held-out score and time left."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:>12}"), BarColumn(), TextColumn("loss {task.fields[loss]:.3f}"),
        TextColumn("held-out F1 {task.fields[score]:.3f}"), TimeRemainingColumn(),
    )  # fmt: skip
    with _bar(wanted, *columns) as bar:
        tasks: dict[str, Any] = {}

        def report(stage: str, step: int, steps: int, loss: float, score: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=steps, loss=loss, score=score)
            bar.update(tasks[stage], completed=step, loss=loss, score=score)

        yield report


@contextmanager
def steps_bar(steps: int, wanted: bool) -> Iterator[Callable[[str], None]]:
    """Show which step is running; call what is yielded at the start of each."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with _bar(wanted, *columns) as bar:
        task = bar.add_task("", total=steps)
        begun = 0

        def step(name: str) -> None:
            nonlocal begun
            bar.update(task, completed=begun, description=name)
            begun += 1

        yield step
        bar.update(task, completed=steps, description="")


def _bar(wanted: bool, *columns: ProgressColumn) -> Progress:
    """Return a bar on stderr, hidden unless it is wanted and can be seen."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    seen = wanted and processes.rank() == 0 and (console.is_terminal or console.is_jupyter)
    return Progress(*columns, console=console, disable=not seen)

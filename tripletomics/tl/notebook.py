"""A progress bar in a notebook without ipywidgets, which the bars of rich need there."""

from __future__ import annotations

import io
import time
from typing import Any

from IPython.display import display
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn

PAUSE = 0.2  # seconds between two updates
WIDTH = 100  # characters


class NotebookBar(Progress):
    """Show progress as the text of one output, which is updated in place and becomes one line at the end."""

    def __init__(self, *columns: ProgressColumn) -> None:
        text = Console(file=io.StringIO(), force_terminal=False, force_jupyter=False, width=WIDTH)
        super().__init__(*columns, console=text, auto_refresh=False)
        self.output: Any = None
        self.updated = 0.0

    def start(self) -> None:
        """Create the output."""
        self.output = display({"text/plain": ""}, raw=True, display_id=True)

    def update(self, *given: Any, **changed: Any) -> None:
        """Update a task, and the output if the last update is long enough ago."""
        super().update(*given, **changed)
        if time.monotonic() - self.updated > PAUSE:
            self.updated = time.monotonic()
            self._show("\n".join(self._lines()))

    def stop(self) -> None:
        """Leave one line without bars."""
        self.columns = tuple(column for column in self.columns if not isinstance(column, BarColumn))
        self._show(" · ".join(" ".join(line.split()) for line in self._lines()))

    def _lines(self) -> list[str]:
        """Return a line for each task."""
        with self.console.capture() as captured:
            self.console.print(self.get_renderable())
        return [line.rstrip() for line in captured.get().splitlines()]

    def _show(self, text: str) -> None:
        self.output.update({"text/plain": text}, raw=True)

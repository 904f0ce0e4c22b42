"""What happens to a finished figure: it is saved, shown or returned, by the arguments and settings of scanpy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase

from tripletomics.files import check_writable
from tripletomics.parts import did_you_mean
from tripletomics.pl.text import save as write

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_output(save: str | Path | bool | None, ax: Any = None) -> None:
    """Raise, before anything is drawn, if `save` cannot be written or if the figure of `ax` is no longer open.

    In a notebook, each cell closes its figures. A later cell may still draw on them, so closed ones are allowed there.
    """
    if save is not None and not isinstance(save, (str, Path, bool)):
        raise TypeError(f"save={save!r} is not the path of a file: pass a path, or True.")
    if ax is not None and not isinstance(ax, Axes):
        raise TypeError(f"ax must be one Axes of matplotlib, not {type(ax).__name__}.")
    if isinstance(save, (str, Path)) and save:
        ending, known = check_writable(save).suffix[1:].lower(), sorted(FigureCanvasBase.get_supported_filetypes())
        if ending and ending not in known:
            raise ValueError(
                f"save={str(save)!r} ends in .{ending}, which is not a format of figures."
                f"{did_you_mean(ending, known)} Formats: {', '.join(known)}."
            )
    figure = None if ax is None else ax.get_figure(root=True)
    closed = figure is not None and figure.canvas.manager is None and getattr(figure, "number", None) is not None
    if ax is not None and (figure is None or (closed and not in_notebook())):
        raise ValueError(
            "ax is of a figure that was closed, or was removed from its figure: pass an open one, or none."
        )


def finish(
    figure: Figure, drawn: Any, name: str, show: bool | None, save: str | Path | bool | None, return_fig: bool = False
) -> Any:
    """Save and show a figure where asked, and return it, or what was drawn, or None if it was shown.

    Parameters
    ----------
    figure
        The figure, complete.
    drawn
        What the caller returns by default: Axes, several, or the figure.
    name
        Name of the file, where ``sc.settings`` choose folder and format. Characters that no file name has become "_".
    show
        Show the figure and return None. By default only in a notebook (which would draw a returned figure again), and
        only if ``sc.settings.autoshow`` is on.
    save
        Path of the file; its ending is the format, png without one. With True (or ``sc.settings.autosave``) the file is
        `name` in ``sc.settings.figdir``.
    return_fig
        Return the figure; in a notebook it is then drawn where it is displayed, and nowhere else.
    """
    from scanpy import settings

    if save is True or (save is None and settings.autosave):
        words = re.sub(r"[^\w+-]+", "_", name)[:80]  # a name has 255 bytes
        save = Path(settings.figdir) / f"{words}.{settings.file_format_figs}"
        save.parent.mkdir(parents=True, exist_ok=True)
    if save:
        write(figure, save)
    if return_fig:
        if in_notebook():
            plt.close(figure)
        return figure
    if settings.autoshow and in_notebook() if show is None else show:
        plt.show()
        return None
    return drawn


def in_notebook() -> bool:
    """Return whether figures are drawn into a notebook at the end of each cell."""
    return "inline" in mpl.get_backend()

"""The training curves of a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tripletomics.arguments import checking_names
from tripletomics.labels import TOO_FEW, verdict
from tripletomics.pl.held_out import reachable_by
from tripletomics.pl.palette import PALETTE
from tripletomics.pl.showing import check_output, finish
from tripletomics.pl.text import ALARM, INK, LEGEND, NOTE, SMALL, TITLE, literal

UNSEEN = "Held-out cells take no part in the training, nor in when it stops."


@literal
@checking_names
def history(
    model: Any,
    ax: Axes | None = None,
    *,
    show: bool | None = None,
    save: str | Path | bool | None = None,
    return_fig: bool = False,
) -> Axes:
    """Draw how the loss fell and how the held-out macro-F1 rose, for each training stage.

    Parameters
    ----------
    model
        A :class:`tripletomics.Model`.
    ax
        Where to draw; its area is divided into panels. Without it, a new figure is made.
    show, save, return_fig
        As in scanpy: whether to show the figure (and return None), the path of a file to write it to, and whether to
        return the figure in place of the Axes. By default a figure is shown in notebooks only.

    Returns
    -------
    Axes
        The empty frame; ``child_axes`` holds the panels: for each stage its loss and below it the held-out macro-F1.
        The pale line is the loss of each step, the dark line its running mean. The numbers are the held-out score of
        the model, as in its summary, and that of a fit on permuted labels, the dashed line. A stage without signal
        (p > 0.01) says so. A model without cell types has no macro-F1, and so only its loss is drawn.

    Examples
    --------
    >>> ax = tt.pl.history(model)
    >>> len(ax.child_axes)
    4
    """
    check_output(save, ax)
    show = show if ax is None else bool(show)  # the caller may draw more into the figure
    stages = getattr(model, "history", None)
    if not stages:
        raise TypeError(f"history needs a fitted tt.Model, not {type(model).__name__}.")
    held, null = (getattr(model, "scores", {}).get(split, {}) for split in ("held-out", "permuted"))
    p_value, reachable = getattr(model, "p_value", {}), reachable_by(getattr(model, "findings", {}))
    if ax is None:
        ax = plt.figure(figsize=(2.5 * len(stages) + 1.0, 4.0), dpi=150).add_axes((0.11, 0.15, 0.87, 0.78))
    ax.set_axis_off()
    wide = 1 / (1.28 * len(stages) - 0.28)
    typed = bool(getattr(model, "classes", True))
    for i, (name, curves) in enumerate(stages.items()):
        places = ((0.54, 0.46), (0.0, 0.46)) if typed else ((0.0, 1.0),)
        panels = [ax.inset_axes((1.28 * wide * i, y, wide, height)) for y, height in places]
        upper, lower = panels[0], panels[-1]
        step, loss, f1 = (np.asarray(curves[key], dtype=float) for key in ("step", "loss", "held_out_f1"))
        mean = pd.Series(loss).rolling(max(1, len(loss) // 40), center=True, min_periods=1).mean()
        upper.plot(step, loss, color=PALETTE[0], alpha=0.25, linewidth=0.6, label="each step")
        upper.plot(step, mean, color=PALETTE[0], linewidth=1.4, label="running mean")
        if typed:
            lower.sharex(upper)
            seen = f1[np.isfinite(f1)]
            scores = held.get(name, seen[-1] if len(seen) else np.nan), null.get(name, np.nan)
            _held_out(lower, step, f1, scores, verdict(p_value.get(name, 0.0), reachable))
            upper.tick_params(labelbottom=False)
        upper.set_title("metric space" if name == "metric" else name, fontsize=TITLE, loc="left")
        lower.set_xlabel("step", fontsize=SMALL)
        upper.set_ylabel(_loss_of(name, getattr(model, "settings", {})), fontsize=SMALL)
        place: Any = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": 2}
        upper.legend(**(LEGEND | {"borderaxespad": 0.4}), **place)
        if i == 0 and typed:
            lower.set_ylabel("held-out macro-F1", fontsize=SMALL)
        for panel in panels:
            panel.spines[["top", "right"]].set_visible(False)
            panel.tick_params(labelsize=SMALL, length=2.5)
    if typed:
        ax.annotate(UNSEEN, (0, 0), (0, -30), "axes fraction", "offset points", fontsize=SMALL, color=NOTE,
                    va="top", annotation_clip=False, gid="note")  # fmt: skip
    return finish(ax.figure.figure, ax, "history", show, save, return_fig)


def _loss_of(stage: str, settings: Mapping[str, str]) -> str:
    """Return the words for the loss of a stage, with its name where the model says it."""
    name = settings.get("loss", "None")
    if stage == "map":
        name = "neighbours" if settings.get("map", "None") == "None" else "distance to the given map"
    return "loss" + f" ({name})" * (name != "None")


def _held_out(ax: Axes, step: np.ndarray, f1: np.ndarray, scores: tuple[float, float], said: str) -> None:
    """Draw the held-out macro-F1 of a stage where it was measured, and the final and the permuted score."""
    seen, (final, null) = np.isfinite(f1), scores
    ax.plot(step[seen], f1[seen], "o-", color=PALETTE[2], linewidth=1.2, markersize=2.5)
    ax.set_ylim(0, 1.05)
    words: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": SMALL}
    if np.isfinite(null) and seen.any():
        ax.axhline(null, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), label="permuted", zorder=1)
        ax.annotate(f"permuted {null:.2f}", (0.98, null), (0, 2), ax.get_yaxis_transform(), color=INK, **words)
    if seen.any() and np.isfinite(final):
        lowest = min(f1[seen][-1], final)
        above = lowest < 0.8  # else below the curve, where there is room
        ax.annotate(f"held-out {final:.2f}", (0.98, lowest), (0, 5 if above else -6), ax.get_yaxis_transform(),
                    va="bottom" if above else "top", color=PALETTE[2], **words)  # fmt: skip
    else:
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", fontsize=SMALL, color=PALETTE[2])
    if said == "too few":
        ax.text(0.02, 0.5, TOO_FEW, transform=ax.transAxes, fontsize=SMALL, color=INK)
    if said == "no signal":
        ax.text(0.5, 0.6, "no signal", transform=ax.transAxes, ha="center", fontsize=TITLE, color=ALARM, weight="bold",
                gid="no signal")  # fmt: skip

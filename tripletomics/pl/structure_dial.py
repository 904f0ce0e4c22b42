"""What a map gains and loses as `structure` goes from the labels to the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tripletomics.arguments import checking_names
from tripletomics.pl import score_table
from tripletomics.pl.palette import PALETTE, listed
from tripletomics.pl.showing import check_output, finish
from tripletomics.pl.text import INK, LEGEND, SMALL, literal, wrap

SHOWN = ("knn_macro_f1", "knn_recall_30", "knn_recall_within_types", "centroid_spearman")
PANEL_WIDTH, PANEL_HEIGHT = 1.75, 1.35  # inches, the width with the labels


@literal
@checking_names
def dial(
    table: pd.DataFrame,
    *,
    metrics: Sequence[str] | None = None,
    show: bool | None = None,
    save: str | Path | bool | None = None,
    return_fig: bool = False,
) -> Figure:
    """Draw the held-out scores of the map along `structure`, from the labels (0) to the data (1).

    Parameters
    ----------
    table
        The ``table`` of a comparison with methods that differ only in `structure`, such as
        ``tt.compare(adata, label, [f"tt:structure={s}" for s in (0, 0.25, 0.5, 0.75, 1)]).table``. Methods that do not
        set it are left out. It is not changed.
    metrics
        Which scores to draw, one panel each; by default one of the labels (macro-F1) and three of the structure
        (neighbours, neighbours within types, distances between types).
    show, save, return_fig
        As in scanpy: whether to show the figure (and return None), the path of a file to write it to, and whether to
        return the figure. By default a figure is shown in notebooks, and returned elsewhere.

    Returns
    -------
    Figure
        One Axes per metric. The band is one sd over seeds to each side; with one seed there is none. The dashed line is
        the permuted score. A setting without signal (p > 0.01 against permuted labels) has an open marker.

    Raises
    ------
    TypeError
        If `table` is not a DataFrame.
    ValueError
        If columns or a metric are missing, or it has fewer than two settings of `structure`.

    Examples
    --------
    >>> result = tt.compare(adata, "cell_type", ["tt:structure=0", "tt:structure=1"], seeds=1)
    >>> figure = tt.pl.dial(result.table)
    """
    check_output(save)
    table = score_table.checked_table(table)
    chosen = score_table.choose_metrics(table, metrics, SHOWN)
    at = _settings(table["method"].unique())
    table = table[(table["space"] == "map") & table["method"].isin(at)]
    table = table.assign(structure=table["method"].map(at)).sort_values("structure", kind="stable")
    silent = {at[method] for method, _ in score_table.silent_spaces(table)}
    size = PANEL_WIDTH * len(chosen) + 0.15, PANEL_HEIGHT + 0.75
    figure, axes = plt.subplots(1, len(chosen), figsize=size, dpi=150, layout="constrained", squeeze=False)
    marks: dict[str, Any] = {}
    for ax, metric in zip(axes[0], chosen, strict=True):
        _draw_curve(ax, table[table["metric"] == metric], silent, score_table.n_seeds(table, chosen))
        worse = ", lower is better" * score_table.lower_is_better(metric)
        title, remark = score_table.title_of_metric(metric)
        words = ", ".join(filter(None, [title, remark]))
        ax.set_title("\n".join(wrap(words + worse, PANEL_WIDTH - 0.35, SMALL + 1)), fontsize=SMALL + 1)
        marks |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=len(marks), **LEGEND)
    return finish(figure, figure, "dial", show, save, return_fig)


def _draw_curve(ax: Axes, rows: pd.DataFrame, silent: set[float], seeds: int) -> None:
    """Draw a score along the dial, its permuted score, and one sd either way where there is more than one seed."""
    held, null = (rows[rows["split"] == split] for split in ("held-out", "permuted"))
    x, value, permuted = (held["structure"].to_numpy(), *(half["value"].to_numpy(dtype=float) for half in (held, null)))
    spread = held["sd"].to_numpy(dtype=float, na_value=np.nan)
    if np.isfinite(spread).any():
        ax.fill_between(x, value - spread, value + spread, color=PALETTE[0], alpha=0.18, linewidth=0, label="± sd")
    mean = f"held-out, mean of {seeds} seeds" if seeds > 1 else "held-out, one seed"
    ax.plot(x, value, "o-", color=PALETTE[0], linewidth=1.2, markersize=3, label=mean)
    quiet = np.isin(x, list(silent))
    if quiet.any():
        ax.plot(x[quiet], value[quiet], "o", color=PALETTE[0], markersize=3, markerfacecolor="white",
                label="no signal")  # fmt: skip
    ax.plot(null["structure"], permuted, "--", color=INK, linewidth=0.8, label="permuted")
    ax.set_ylim(*score_table.limits(np.concatenate([value, value - spread, value + spread, permuted])))
    ax.set(xlim=(-0.04, 1.04), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    ax.set_xlabel("structure: 0 = labels only,\n1 = data only", fontsize=SMALL, labelpad=1)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=SMALL, length=2.5)


def _settings(methods: Iterable[str]) -> dict[str, float]:
    """Return the `structure` of each method that sets it; raise a ValueError if they differ in more, or are too few."""
    found = {method: score_table.structure_of(method) for method in methods}
    at = {method: structure for method, (_, structure) in found.items() if np.isfinite(structure)}
    others = {found[method][0] for method in at}
    if len(at) < 2 or len(set(at.values())) < len(at) or len(others) > 1:
        raise ValueError(
            "table must hold two or more settings of structure, each once and with all else the same: compare "
            f"'tt:structure=0', 'tt:structure=0.5' and 'tt:structure=1'. Methods: {listed(methods)}."
        )
    return at

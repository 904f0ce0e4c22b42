"""The figure of `tripletomics demo`: maps of noise, of blood cells, and of the cells of a new donor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anndata
from matplotlib import pyplot as plt

from tripletomics.labels import UNASSIGNED, UNLABELLED
from tripletomics.pl.map_axes import legend_mark
from tripletomics.pl.maps import embedding
from tripletomics.pl.new_cells import CROSS
from tripletomics.pl.text import INK, LEGEND, SMALL

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

TITLES = 7  # points, of two lines above each map
RANDOM = "#222222", "#96643f", "#a6a6a6", "#00525e", "#0aa5c2"  # of random labels: no colours of types
KEY = "Dark edge: held-out cells, which the map has not seen. Pale: cells that it learned. Grey in b: without a type."
PALE_CROSS = "#8c8c8c"  # next to dark cells of high confidence


def draw_demo(noise: AnnData, blood: AnnData, new: AnnData, label: str, captions: Sequence[str]) -> Figure:
    """Draw six maps: noise by two methods, blood cells by two, and the new cells by type and by confidence.

    Parameters
    ----------
    noise, blood
        Cells with a split and the maps "X_tt" and "X_umap_supervised", or "X_tt" and "X_umap".
    new
        Cells with predictions, on the map of the blood cells.
    label
        The column of types.
    captions
        The texts above the first two maps of the upper and of the lower row.
    """
    figure, axes = plt.subplots(2, 3, figsize=(7.1, 5.5), dpi=200)
    figure.subplots_adjust(0.015, 0.085, 0.945, 0.9, 0.05, 0.33)
    look: dict[str, Any] = {"fontsize": TITLES, "loc": "left", "pad": 3}
    shared: dict[str, Any] = {"legend_loc": "none", "show": False}
    learned = [(noise, "X_umap_supervised"), (noise, "X_tt"), (blood, "X_umap"), (blood, "X_tt")]
    for ax, (adata, basis), words in zip(axes[:, :2].flat, learned, captions, strict=True):
        palette = list(RANDOM[: noise.obs[label].nunique()]) if adata is noise else None
        embedding(adata, label, basis=basis, split="tt_split", palette=palette, ax=ax, **shared)
        ax.set_title(words, **look)
        for text in (text for text in ax.texts if text.get_gid() == "no signal"):  # the cells below it are the evidence
            text.set(position=(0.5, 0.97), va="top", fontsize=SMALL)
    colours = dict(zip(blood.obs[label].cat.categories, blood.uns[f"{label}_colors"], strict=True))
    _draw_new(axes[:, 2], blood, new, colours, shared)
    left = int((new.obs["tt_label"].astype(str) == UNASSIGNED).sum())
    axes[0, 2].set_title(
        f"predicted type of {new.n_obs - left:,} cells\n× unassigned ({left:,}), grey: first donor", **look
    )
    axes[1, 2].set_title(f"confidence of these types\n× unassigned ({left:,}), grey: first donor", **look)
    for ax, words in (
        (axes[0, 0], "a  Noise with random labels"),
        (axes[1, 0], "b  Blood cells"),
        (axes[0, 2], "c  A new donor"),
    ):
        ax.annotate(words, (0, 1), (0, 25), "axes fraction", "offset points", fontsize=9, weight="bold", color=INK)
    for ax in axes.flat:
        ax.set(xlabel="", ylabel="")
    marks = [legend_mark(colour, name) for name, colour in colours.items() if name not in UNLABELLED]
    figure.legend(handles=marks, loc="upper center", bbox_to_anchor=(0.48, 0.07), ncols=len(marks), **LEGEND)
    figure.text(0.48, 0.012, KEY, fontsize=SMALL, ha="center", color=INK)
    return figure


def _draw_new(axes: Any, blood: AnnData, new: AnnData, colours: dict[str, Any], shared: dict[str, Any]) -> None:
    """Draw the new cells over the grey cells of `blood`: those with a type in colour, the others as crosses."""
    left = (new.obs["tt_label"].astype(str) == UNASSIGNED).to_numpy()
    both = anndata.concat([blood, new[~left]], join="outer")  # the cells of `blood` have no prediction: light grey
    both.obs = both.obs.rename(columns={"tt_confidence": "confidence"})
    embedding(both, "tt_label", palette=colours, split=None, ax=axes[0], **shared)
    embedding(both, "confidence", split=None, vmin=0, vmax=1, ax=axes[1], **shared)
    for ax, grey in zip(axes, (CROSS, PALE_CROSS), strict=True):
        ax.scatter(*new.obsm["X_tt"][left].T, s=4, c=grey, marker="x", linewidths=0.4, label=UNASSIGNED, zorder=1.5,
                   rasterized=True)  # fmt: skip

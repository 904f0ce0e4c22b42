"""The figure of `tripletomics demo`: maps of noise, of blood cells, and of the cells of a new donor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anndata
from matplotlib import pyplot as plt

from tripletomics.labels import UNLABELLED
from tripletomics.pl.map_axes import legend_mark
from tripletomics.pl.maps import embedding
from tripletomics.pl.text import INK, LEGEND, SMALL

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

TITLES = 7  # points, of two lines above each map
KEY = "Dark edge: held-out cells, which the map has not seen. Pale: cells that it learned. Grey: cells without a type."


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
        embedding(adata, label, basis=basis, split="tt_split", ax=ax, **shared)
        ax.set_title(words, **look)
    colours = dict(zip(blood.obs[label].cat.categories, blood.uns[f"{label}_colors"], strict=True))
    both = anndata.concat([blood, new], join="outer")  # the cells of `blood` have no prediction: light grey
    embedding(both, "tt_label", palette=colours, split=None, ax=axes[0, 2], **shared)
    axes[0, 2].set_title("predicted type\n(grey: first donor, and unassigned)", **look)
    embedding(both, "tt_confidence", split=None, ax=axes[1, 2], **shared)
    axes[1, 2].set_title("confidence of the type\n(grey: first donor)", **look)
    for ax, words in ((axes[0, 0], "a  Noise"), (axes[1, 0], "b  Blood cells"), (axes[0, 2], "c  A new donor")):
        ax.annotate(words, (0, 1), (0, 25), "axes fraction", "offset points", fontsize=9, weight="bold", color=INK)
    for ax in axes.flat:
        ax.set(xlabel="", ylabel="")
    marks = [legend_mark(colour, name) for name, colour in colours.items() if name not in UNLABELLED]
    figure.legend(handles=marks, loc="upper center", bbox_to_anchor=(0.48, 0.07), ncols=len(marks), **LEGEND)
    figure.text(0.48, 0.012, KEY, fontsize=SMALL, ha="center", color=INK)
    return figure

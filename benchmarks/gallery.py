"""Draw maps of real sets side by side: tt.fit, UMAP and t-SNE, training cells above and held-out cells below.

    TRIPLETOMICS_DATA=folder python benchmarks/gallery.py [dataset ...] [--out folder] [--blind] [--seed N]

One PNG for each set, of a page's width. 30 % of the cells are held out within types, or the first platform where there
are several. UMAP and t-SNE are given the usual components of ``common.py``. The maps of a column have the same limits,
so that new cells can be compared with those that the method was fitted on. All cells are drawn in full colour and at
one size.

With ``--blind`` the methods are called A, B and C, in an order drawn for each set, and a text file beside the PNG says
which is which: who judges the maps is not to know whose they are.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import anndata as ad
import matplotlib as mpl
import numpy as np
from common import PROTEINS, SETS, options, read, splits_of, start, usual
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

import tripletomics as tt
from tripletomics import baselines, labels
from tripletomics.pl.map_axes import draw_cells, frame_map, legend_entries
from tripletomics.pl.style import style_of
from tripletomics.pl.text import LEGEND, SMALL, TITLE, inches

TITLES = {"tt": "tripletomics", "umap": "UMAP", "tsne": "t-SNE"}
WIDTH, SIDE, EDGE, GAP, HEAD = 7.1, 2.23, 0.2, 0.09, 0.42  # inches


def maps_of(adata: ad.AnnData, name: str, seed: int) -> dict[str, np.ndarray]:
    """Fit each method on the training cells and return its coordinates of all cells (n, 2)."""
    tt.fit(adata, label="cell_type", hold_out=splits_of(adata, name)[0], seed=seed, progress=False)
    train = (adata.obs["tt_split"] == "train").to_numpy()
    _, r, _ = usual(adata, train, counts=name not in PROTEINS)
    y, _ = labels.encode(adata.obs["cell_type"], labels.UNLABELLED)
    cells = baselines.Cells(r[train], r[~train], y[train])
    maps = {"tt": np.asarray(adata.obsm["X_tt"])}
    for method in ("umap", "tsne"):
        maps[method] = np.empty((adata.n_obs, 2), dtype=np.float32)
        maps[method][train], maps[method][~train] = baselines.METHODS[method].embed(cells, seed)["map"]
    return maps


def page(adata: ad.AnnData, name: str, maps: dict[str, np.ndarray]) -> Figure:
    """Draw a column for each map, named by its key, and one legend."""
    held = (adata.obs["tt_split"] == "held-out").to_numpy()
    look = style_of(adata, "cell_type", None, None)
    figure = plt.figure(figsize=(WIDTH, WIDTH), dpi=150)
    entries = legend_entries(look, False, *maps.values())
    one = figure.legend(handles=entries, **LEGEND)
    columns = max(1, int((WIDTH - EDGE) / (one.get_window_extent().width / figure.dpi + 0.15)))
    one.remove()
    columns = math.ceil(len(entries) / math.ceil(len(entries) / columns))
    legend = figure.legend(handles=entries, ncols=columns, **LEGEND)
    tall = HEAD + 2 * SIDE + GAP
    figure.set_figheight(tall + legend.get_window_extent().height / figure.dpi + 0.12)
    legend.set_loc("upper center")
    legend.set_bbox_to_anchor(inches(figure, WIDTH / 2, tall, 0, 0)[:2], figure.transFigure)
    figure.text(*inches(figure, EDGE, 0.04, 0, 0)[:2], f"{name}, {adata.n_obs:,} cells", fontsize=TITLE, va="top")
    for column, (title, points) in enumerate(maps.items()):
        for row, (cells, words) in enumerate(((~held, "training cells"), (held, "held-out cells"))):
            left, top = EDGE + column * (SIDE + GAP), HEAD + row * (SIDE + GAP)
            ax = figure.add_axes(inches(figure, left, top, SIDE, SIDE))
            frame_map(ax, points, title)
            ax.set(xlabel="", ylabel="")
            if row == 0:
                ax.set_title(title, fontsize=TITLE - 1, pad=3)
            if column == 0:
                ax.set_ylabel(f"{words} ({cells.sum():,})", fontsize=SMALL + 1, labelpad=3)
            shown = replace(look, rgb=look.rgb[cells], known=look.known[cells], codes=look.codes[cells])
            draw_cells(ax, points[cells], shown, float(np.clip(9000 / adata.n_obs, 0.8, 6)), numbered=False)
    return figure


def main(names: list[str], out: Path, blind: bool, seed: int) -> None:
    if unknown := sorted(set(names) - set(SETS)):
        sys.exit(f"{unknown[0]!r} is not one of the datasets: {', '.join(SETS)}.")
    start()
    mpl.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        adata = read(name)
        maps = maps_of(adata, name, seed)
        titles = TITLES
        if blind:
            order = np.random.default_rng([seed, list(SETS).index(name)]).permutation(list(maps))
            titles = dict(zip(order, "ABC", strict=True))
            key = sorted(f"{letter} = {TITLES[method]}\n" for method, letter in titles.items())
            (out / f"{name}.key.txt").write_text("".join(key))
        figure = page(adata, name, {title: maps[method] for method, title in titles.items()})
        tt.pl.save(figure, out / f"{name}.png")
        plt.close(figure)
        print(out / f"{name}.png", flush=True)


if __name__ == "__main__":
    parser = options(SETS, seeds=None)
    parser.add_argument("--out", type=Path, default=Path("out/gallery"))
    parser.add_argument("--blind", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(given.datasets, given.out, given.blind, given.seed)

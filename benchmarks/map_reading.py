"""Draw two pictures of the guide "read your map"; `hero.py` draws that of noise, `settings_figures.py` that of spread.

    TRIPLETOMICS_DATA=folder python benchmarks/map_reading.py [--out docs/images]

Both are maps of pbmc3k, of which a fifth of each type is held out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata as ad
import matplotlib as mpl
import numpy as np
from common import read, start
from hero import write
from matplotlib import pyplot as plt

import tripletomics as tt
from tripletomics.pl.text import INK

OUT = Path(__file__).parents[1] / "docs" / "images"
NOTES = {  # what an arrow points at, from the top of each side
    "left": {
        "held-out cell: dark edge.\nIt tests the map": "held",
        "near types:\nalike in the data": "near",
        "gap: the labels differ.\nIts width says little": "gap",
        "training cell: pale.\nIts label was given": "train",
    },
    "right": {
        "satellite: far from all\nothers in the data,\nbut not here": "satellite",
        "area: mostly how\nmany cells, not\nhow varied": "area",
        "one cell by itself:\nlook at its genes": "stray",
    },
}


def spots(adata: ad.AnnData) -> dict[str, np.ndarray]:
    """Return the point of the map that each note is about."""
    m, types = np.asarray(adata.obsm["X_tt"]), adata.obs["cell_type"].to_numpy()
    held = (adata.obs["tt_split"] == "held-out").to_numpy()
    middle = {name: np.median(m[types == name], axis=0) for name in set(types)}
    away = np.linalg.norm(m - np.array([middle[name] for name in types]), axis=1)

    def between(a: str, b: str) -> np.ndarray:
        sizes = [np.quantile(away[types == name], 0.95) for name in (b, a)]
        return np.average([middle[a], middle[b]], axis=0, weights=sizes)

    def first(rows: np.ndarray, score: np.ndarray) -> np.ndarray:
        return m[rows][score[rows].argmin()]

    return {
        "held": first(held & (types == "NK"), away),
        "near": between("NK", "CD8 T"),
        "gap": between("B", "Naive CD4 T"),
        "train": first(~held & (types == "B"), m[:, 0]),
        "satellite": middle["Platelet"],
        "area": middle["CD14+ Mono"],
        "stray": first(held & (types == "DC"), -away),
    }


def marks(adata: ad.AnnData, out: Path) -> None:
    """Draw a map with notes on both sides."""
    figure = plt.figure(figsize=(8, 4.3), dpi=150)
    ax = figure.add_axes((0.26, 0.03, 0.505, 0.94))
    tt.pl.embedding(adata, "cell_type", ax=ax, legend_loc="none", title="", frameon=False, show=False)
    found = spots(adata)
    for side, notes in NOTES.items():
        x, align = (-0.1, "right") if side == "left" else (1.04, "left")
        for y, (words, name) in zip(np.linspace(0.88, 0.12, len(notes)), notes.items(), strict=True):
            arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 0.9, "shrinkA": 4, "shrinkB": 1}
            ax.annotate(words, found[name], (x, y), "data", "axes fraction", arrowprops=arrow, fontsize=9, color=INK,
                        ha=align, va="center", annotation_clip=False, zorder=9)  # fmt: skip
    write(figure, out / "marks.png")


def main(out: Path) -> None:
    start()
    mpl.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    adata = read("pbmc3k")
    tt.fit(adata, "cell_type", hold_out=0.2, progress=False)
    marks(adata, out)
    write(tt.pl.embedding(adata, "cell_type", distortion=True, return_fig=True), out / "distortion.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=OUT)
    main(parser.parse_args().out)

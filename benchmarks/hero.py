"""Draw the first picture of the README: maps of noise and of real cells; the noise also for "read your map".

    TRIPLETOMICS_DATA=folder python benchmarks/hero.py [dataset] [--out docs]

30 % of the cells of each type are held out. Every method is fitted on the other cells and then embeds the held-out
ones. The noise is 1,500 rows of 50 normal numbers with five labels drawn at random, and this five times. Under each map
stands the macro-F1 of the held-out cells. For noise it is the mean of the five draws, with their 95 % t-interval: cells
that lie close share their neighbours, so an interval over the cells of one draw is too narrow. For real cells it is
that of `docs/tables/quality.csv`, which `quality.py` writes, the mean over seeds. The maps are of the first draw or
seed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
from common import options, read, start, write_table
from gallery import maps_of
from intervals import half_interval
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import tripletomics as tt
from tripletomics.evaluation import found_in
from tripletomics.pl.demo_figure import RANDOM
from tripletomics.pl.map_axes import draw_cells, frame_map, legend_mark, no_signal_banner, type_entries
from tripletomics.pl.style import CellStyle, style_of
from tripletomics.pl.text import INK, inches

ROOT = Path(__file__).parents[1]
WIDTH, WORDS, SIDE, GAP = 8.0, 1.46, 2.08, 0.14  # inches: the figure, the text left of a row, a map, and between these
TITLES, FOOT = 0.3, 0.3  # inches: the titles above the maps of a row, and the scores below them
ROW = TITLES + SIDE + FOOT
LARGE, MEDIUM = 12, 9.5  # points: at 800 pixels a point is 1.4 pixels
CELLS, VALUES, LABELS, NOISES = 1500, 50, 5, 5
NOISE = """Nothing to find.
Islands of cells that
a map has learned
prove nothing. Look
at cells that it has
not seen. F1: mean
of 5 such noises, by
chance 0.2."""
REAL = """2,638 blood cells.
Each map learned
70 % of them.
Their types come
from clusters of the
same RNA, so all
scores are partly
built in. F1: mean
of {} splits; the
maps: the first."""


@dataclass
class Panel:
    """A map, whose it is, which cells it is to show, their F1 and whether it means anything."""

    title: str
    cells: str
    points: np.ndarray
    style: CellStyle
    score: str
    verdict: str = ""


def noise(seed: int) -> ad.AnnData:
    """Return rows of pure noise, with labels drawn at random."""
    rng = np.random.default_rng(seed)
    adata = ad.AnnData(rng.normal(size=(CELLS, VALUES)).astype(np.float32))
    adata.obs["label"] = np.array(list("abcde"))[rng.integers(0, LABELS, CELLS)]
    return adata


def with_interval(scores: pd.Series) -> str:
    """Return the mean of independent scores with its 95 % t-interval."""
    half = half_interval(scores)
    return f"{scores.mean():.3f} [{scores.mean() - half:.3f}, {scores.mean() + half:.3f}]"


def noise_panels() -> list[Panel]:
    """Write docs/tables/noise.csv; return maps of the first noise, of training and of held-out cells."""
    methods = {"umap_supervised": "supervised UMAP", "tt": "tripletomics"}
    results = [
        tt.compare(noise(seed), "label", list(methods), hold_out=0.3, seeds=1, cache=None, progress=False)
        for seed in range(NOISES)
    ]
    tables = [one.table[(one.table["space"] == "map") & (one.table["type"] == "")] for one in results]
    said = [found_in(table, "method") for table in tables]
    f1 = pd.concat(tables).query("metric == 'knn_macro_f1'").groupby(["method", "split"])["value"]
    adata = results[0].adata
    held = (adata.obs["tt_split"] == "held-out").to_numpy()
    style = style_of(adata, "label", held.astype(int), list(RANDOM))
    training = replace(style, rgb=style.rgb[~held], known=style.known[~held], codes=style.codes[~held], split=None)
    panels, rows = [], []
    for method, title in methods.items():
        points, score = adata.obsm[f"X_{method}"], with_interval(f1.get_group((method, "held-out")))
        train, permuted = (f"{f1.get_group((method, split)).mean():.3f}" for split in ("train", "permuted"))
        panels += [Panel(title, "training cells", points[~held], training, f"{train}, proves nothing")]
        panels += [Panel(title, "held-out cells", points, style, score, said[0][method])]
        words = Counter(one[method] for one in said).most_common()
        verdict = ", ".join(f"{word or 'signal'} ({count} of {NOISES})" for word, count in words)
        rows.append([title, train, score, permuted, verdict])
    columns = ["map", "training F1", "held-out F1", "permuted F1", "verdict (draws)"]
    write_table(pd.DataFrame(rows, columns=columns), "noise")
    return panels


def real_panels(adata: ad.AnnData, name: str) -> list[Panel]:
    """Return maps of a real dataset, with the scores of docs/tables/quality.csv."""
    maps = maps_of(adata, name, 0)
    style = style_of(adata, "cell_type", (adata.obs["tt_split"] == "held-out").to_numpy(dtype=int), None)
    titles = {"umap": ("UMAP", "no labels"), "tsne": ("t-SNE", "no labels"), "tt": ("tripletomics", "")}
    return [Panel(*title, maps[method], style, score_of(name, title[0])) for method, title in titles.items()]


def score_of(name: str, title: str, column: str = "F1") -> str:
    """Return the F1 of a map in docs/tables/quality.csv, or another column."""
    table = pd.read_csv(ROOT / "docs" / "tables" / "quality.csv").set_index(["data", "map"])
    return str(table.loc[(name, title), column])


def draw_row(figure: Figure, top: float, head: str, words: str, panels: list[Panel]) -> None:
    """Draw three maps, and what they show left of them."""
    text = {"va": "top", "color": INK, "linespacing": 1.3}
    figure.text(*inches(figure, 0.04, top + TITLES, 0, 0)[:2], head, fontsize=LARGE, weight="bold", **text)
    below = top + TITLES + 0.24 * (1 + head.count("\n")) + 0.06
    figure.text(*inches(figure, 0.04, below, 0, 0)[:2], words, fontsize=MEDIUM, **text)
    for i, panel in enumerate(panels):
        draw_panel(figure, WORDS + i * (SIDE + GAP), top, panel)


def draw_panel(figure: Figure, left: float, top: float, panel: Panel) -> None:
    """Draw a map with its title and its score."""
    draw_map(figure.add_axes(inches(figure, left, top + TITLES, SIDE, SIDE)), panel)
    middle = inches(figure, left + SIDE / 2, top + TITLES + SIDE + 0.05, 0, 0)[:2]
    figure.text(*middle, f"F1 {panel.score}", fontsize=MEDIUM + 1, ha="center", va="top", color=INK)


def draw_map(ax: Axes, panel: Panel) -> None:
    """Draw a map with its title; ours says if there is no signal."""
    frame_map(ax, panel.points, panel.title)
    ax.set(xlabel="", ylabel="")
    ours, title = panel.title == "tripletomics", ", ".join(filter(None, (panel.title, panel.cells)))
    ax.set_title(title, fontsize=MEDIUM, pad=4, color=INK, weight="bold" if ours else "normal")
    draw_cells(ax, panel.points, panel.style, None, numbered=False)
    if ours and panel.verdict == "no signal":
        banner = no_signal_banner(ax, "no signal: the labels mean nothing", 72 * SIDE)
        banner.set(y=0.98, va="top")  # the cells below it are the evidence


def draw_legend(figure: Figure, top: float, style: CellStyle) -> float:
    """Draw what colours and marks mean, and return the height."""
    marks = [
        legend_mark("#c0c0c0", "training cell", 4.0),
        legend_mark("#6f6f6f", "held-out cell: never seen by the map", 6.0, "#303030"),
    ]
    look = {"frameon": False, "fontsize": MEDIUM, "handletextpad": 0.1, "columnspacing": 1.0, "borderaxespad": 0.0}
    height = 0.0
    for handles, columns in ((type_entries(style, False), 5), (marks, 2)):
        legend = figure.legend(handles=handles, ncols=columns, loc="upper center", **look)
        legend.set_bbox_to_anchor(inches(figure, WIDTH / 2, top + height, 0, 0)[:2], figure.transFigure)
        height += legend.get_window_extent().height / figure.dpi + 0.03
    return height


def write(figure: Figure, path: Path) -> None:
    """Write a figure with 256 colours, which takes a third of the space."""
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(256, kmeans=3).save(path, optimize=True)


def main(name: str, out: Path) -> None:
    start()
    mpl.use("Agg")
    adata = read(name)
    real, false = real_panels(adata, name), noise_panels()
    figure = plt.figure(figsize=(WIDTH, 2 * ROW + 0.7), dpi=200)
    draw_row(figure, 0, "Pure noise,\nrandom labels", NOISE, [*false[:2], false[3]])
    draw_row(figure, ROW, "Real cells", REAL.format(score_of(name, "tripletomics", "seeds")), real)
    draw_legend(figure, 2 * ROW + 0.02, real[0].style)
    write(figure, out / "hero.png")
    square = plt.figure(figsize=(2 * SIDE + 3 * GAP, 2 * ROW), dpi=150)
    for i, panel in enumerate(false):
        draw_panel(square, GAP + i // 2 * (SIDE + GAP), i % 2 * ROW, panel)
    write(square, out / "images" / "noise.png")


if __name__ == "__main__":
    parser = options(["pbmc3k"], seeds=None)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="the folder of hero.png and images/noise.png")
    given = parser.parse_args()
    main(given.datasets[0], given.out)

"""Principal components of training cells and of new ones: scanpy's usual components next to those of tripletomics.

    TRIPLETOMICS_DATA=folder python benchmarks/components.py [dataset ...] [--seeds N] [--figure docs/components.png]

writes docs/tables/components.csv, and draws the figure of docs/components.md. Each dataset is split at random within
types (30 % held out), or by platform where it has any, each platform held out in turn. The usual components are those
of ``common.py``, ours those that `tt.fit` and `tt.pca` write to ``obsm["X_tt_pca"]``. Both are fitted on the training
cells, and no label enters them. Scores, mean over seeds (± sd) and over platforms, the usual components first:

f1      macro-F1 of held-out cells by their 15 nearest training cells
auroc   can held-out cells be told from training cells of their type? .5 = no (tripletomics.metrics.exchangeability)
sd      standard deviation of held-out cells over that of training cells, mean over these components; 1 = alike

The last two are for random splits alone: cells of another platform may well be others.
"""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from common import PROTEINS, SETS, note, options, read, splits_of, start, usual, write_table
from matplotlib import pyplot as plt

from tripletomics import labels, metrics, pp
from tripletomics.problem import Settings

KINDS = ("usual", "X_tt_pca")
GROUPS = {"1-5": slice(0, 5), "6-15": slice(5, 15), "16-50": slice(15, 50)}
SCORES = ["f1", "auroc", *(f"sd {group}" for group in GROUPS)]
DRAWN, DRAWN_TYPE, DRAWN_COMPONENTS = "pbmc3k", "CD14+ Mono", (10, 11)
COLOURS = {"usual": "#0072b2", "X_tt_pca": "#009e73", "training": "#9a9a9a", "held-out": "#c2410c"}


def ours(adata: ad.AnnData, held_out: np.ndarray, seed: int) -> np.ndarray:
    """Return the components of all cells as `tt.fit` makes them."""
    return pp.prepare(adata, Settings(hold_out=held_out, seed=seed))[2].pcs


def one_split(adata: ad.AnnData, name: str, hold_out: float | str, seed: int) -> tuple[dict, dict, np.ndarray]:
    """Return the scores of both kinds of components on one split, the components, and which cells were held out."""
    codes, _ = labels.encode(adata.obs["cell_type"], labels.UNLABELLED)
    held = pp.split(adata, hold_out, codes, seed)
    components = dict(zip(KINDS, (usual(adata, ~held, name not in PROTEINS)[1], ours(adata, held, seed)), strict=True))
    row = {"seed": seed}
    for kind, z in components.items():
        row[f"f1 {kind}"] = metrics.knn_macro_f1(z[~held], codes[~held], z[held], codes[held])
        if SETS[name] is None:
            row[f"auroc {kind}"] = metrics.exchangeability(z, codes, held)["held_out_auroc"]
            ratio = z[held].std(axis=0) / z[~held].std(axis=0)
            row |= {f"sd {group} {kind}": ratio[of].mean() for group, of in GROUPS.items() if len(ratio[of])}
    return row, components, held


def draw(adata: ad.AnnData, components: dict[str, np.ndarray], held: np.ndarray, file: Path) -> None:
    """Draw one type along two components of each kind, and the ratio of standard deviations along all of them."""
    own, which = (adata.obs["cell_type"] == DRAWN_TYPE).to_numpy(), list(DRAWN_COMPONENTS)
    figure, axes = plt.subplots(1, 3, figsize=(6.88, 2.7), layout="constrained", width_ratios=(1, 1, 1.35))
    centred = {kind: z[:, which] - np.median(z[own & held][:, which], axis=0) for kind, z in components.items()}
    limit = 1.05 * np.abs(centred["usual"][own]).max()
    for ax, (kind, z) in zip(axes, centred.items(), strict=False):
        for cells, words in ((own & ~held, "training"), (own & held, "held-out")):
            ax.scatter(*z[cells].T, s=7, color=COLOURS[words], linewidths=0, label=f"{cells.sum()} {words} cells")
        ax.set(title=f"{DRAWN_TYPE}, {kind}", xlabel=f"component {which[0] + 1}", ylabel=f"component {which[1] + 1}")
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], aspect="equal")
    handles, words = axes[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower left", ncols=2, fontsize=8, frameon=False, markerscale=2)
    for kind, z in components.items():
        ratio = z[held].std(axis=0) / z[~held].std(axis=0)
        axes[2].plot(np.arange(1, len(ratio) + 1), ratio, color=COLOURS[kind], label=kind)
    axes[2].axhline(1, color="black", linewidth=0.6)
    axes[2].set(xlabel="component", ylabel="sd of held-out / training cells", ylim=(0, 1.3), title="all types")
    axes[2].legend(loc="lower left", fontsize=8, frameon=False)
    for ax in axes:
        ax.title.set_size(9)
        ax.xaxis.label.set_size(8)
        ax.yaxis.label.set_size(8)
        ax.tick_params(labelsize=8)
    figure.savefig(file, dpi=200)


def words_of(mean: pd.Series, sd: pd.Series) -> dict[str, str]:
    """Return the scores of a dataset as readers see them."""
    words = {}
    for kind in KINDS:
        sign = "" if np.isnan(sd[f"f1 {kind}"]) else f" ± {sd[f'f1 {kind}']:.3f}"
        words[f"f1, {kind} (± sd)"] = f"{mean[f'f1 {kind}']:.3f}{sign}"
    for score in SCORES[1:]:
        values = [mean.get(f"{score} {kind}", np.nan) for kind in KINDS]
        words[score] = "–" if np.isnan(values[0]) else "{:.2f} → {:.2f}".format(*values)
    return words


def main(names: list[str], seeds: int, file: Path | None) -> None:
    start()
    means, rows = [], []
    for name in names:
        adata, found = read(name), []
        for seed in range(seeds):
            for split in splits_of(adata, name):
                row, components, held = one_split(adata, name, split, seed)
                found.append(row)
                if file is not None and name == DRAWN and seed == 0:
                    draw(adata, components, held, file)
        by_seed = pd.DataFrame(found).groupby("seed").mean()
        means.append(by_seed.mean())
        rows.append(note({"dataset": name} | words_of(by_seed.mean(), by_seed.std())))
    mean = pd.DataFrame(means).mean()
    write_table(pd.DataFrame([*rows, {"dataset": "mean"} | words_of(mean, mean * np.nan)]), "components")


if __name__ == "__main__":
    parser = options(SETS)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    main(given.datasets, given.seeds, given.figure)

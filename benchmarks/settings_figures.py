"""Draw what the settings of `tt.fit` do to a map, for the page "Choose settings": one row of maps for each setting.

    python benchmarks/settings_figures.py [row ...]

Needs no other data: 700 blood cells that come with scanpy. 30 % of each type are held out, the same cells on every map;
they are drawn in full colour on pale training cells. In a row one setting changes, and the others are the defaults.
Writes `docs/images/settings-<row>.png`. The row "batch" is simulated from the same cells: half of them are in a second
run, in which each gene is read with a factor of its own.
"""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
from PIL import Image

import tripletomics as tt

FOLDER = Path(__file__).parents[1] / "docs" / "images"
ROWS: dict[str, dict[str, dict[str, object]]] = {  # row: title of a map: settings
    "structure": {"structure=0": {"structure": 0.0}, "structure=0.5 (default)": {}, "structure=1": {"structure": 1.0}},
    "spread": {"spread=0": {"spread": 0.0}, "spread=0.5 (default)": {}, "spread=1": {"spread": 1.0}},
    "loss": {"loss='softmax' (default)": {}} | {f"loss={loss!r}": {"loss": loss} for loss in ("triplet", "arcface")},
    "dim": {
        "map, dim=2 (default)": {},
        "map, dim=3": {"dim": 3},
        "metric space, metric_dim=2, triplet": {"metric_dim": 2, "loss": "triplet"},
    },
    "steps": {"steps=5": {"steps": 5}, "steps=100 (default here)": {}, "steps=600": {"steps": 600}},
    "seed": {"seed=0 (default)": {}, "seed=1": {"seed": 1}, "seed=2": {"seed": 2}},
    "batch": {
        "defaults": {},
        "batch='run'": {"batch": "run"},
        "batch='run', structure=0": {"batch": "run", "structure": 0.0},
    },
}  # fmt: skip
SPREAD = 0.5  # standard deviation of the logarithm of the factors of the simulated run


def blood() -> ad.AnnData:
    """Return the cells, with `obs["part"]`: "test" for 30 % of each type."""
    adata = tt.datasets.pbmc()
    test = adata.obs.groupby("cell_type", observed=True).sample(frac=0.3, random_state=0).index
    adata.obs["part"] = np.where(adata.obs_names.isin(test), "test", "train")
    return adata


def two_runs() -> ad.AnnData:
    """Return the cells, half of which come from a second run."""
    adata, random = blood(), np.random.default_rng(0)
    second = random.random(adata.n_obs) < 0.5
    factors = np.where(second[:, None], random.lognormal(0, SPREAD, adata.n_vars), 1)
    adata.X = np.log1p(np.expm1(adata.X.toarray()) * factors).astype(np.float32)
    adata.obs["run"] = np.where(second, "run 2", "run 1")
    return adata


def draw(row: str, adata: ad.AnnData, fitted: dict[str, str]) -> None:
    """Fit the maps of a row that are not among `fitted` (key by settings), draw the row, and write it."""
    titles = {}
    for title, settings in ROWS[row].items():
        if str(settings) not in fitted:
            key = f"X_{row}{len(titles)}"
            tt.fit(adata, "cell_type", hold_out="part", key_added=key, progress=False, **settings)
            fitted[str(settings)] = key
        titles[fitted[str(settings)] + "_metric" * (settings.get("metric_dim") == 2)] = title
    figure = tt.pl.compare(
        adata, "run" if row == "batch" else "cell_type", bases=list(titles), titles=titles, return_fig=True
    )
    for ax in figure.axes[: len(titles)]:
        ax.set(xlabel="", ylabel="", **{"zlabel": ""} if ax.name == "3d" else {})
    page = io.BytesIO()
    figure.savefig(page, dpi=150)
    FOLDER.mkdir(exist_ok=True)
    small = Image.open(page).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(FOLDER / f"settings-{row}.png", optimize=True)
    print(row, flush=True)


def main(rows: list[str]) -> None:
    """Draw the rows that are named, or all."""
    warnings.simplefilter("ignore")
    adata, fitted = blood(), {}
    for row in rows or ROWS:
        draw(row, *(two_runs(), {}) if row == "batch" else (adata, fitted))


if __name__ == "__main__":
    if set(sys.argv[1:]) <= set(ROWS):
        main(sys.argv[1:])
    else:
        sys.exit(__doc__)
